/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker/sandbox.c: what is left to a worker. Each test gives its own child's privileges away and
 * reports by the exit status: 0, or the number of the first thing that is not as it should be.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <bpf/bpf.h>

#include "bpf/cgroup.h"
#include "bpf/stitch.h"
#include "worker/sandbox.h"

#define NOBODY 65534

/* The line of the first expectation that does not hold is the exit status, and is never 0. */
#define EXPECT(condition)    \
    do {                     \
        if (!(condition))    \
            return __LINE__; \
    } while (0)

/* Runs `body` in a child and returns the line that it complains of. */
static int in_child(int (*body)(void))
{
    int report[2], line = -1, status;

    assert_int_equal(pipe(report), 0);
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        line = body();
        (void)!write(report[1], &line, sizeof(line));
        _exit(0);
    }
    close(report[1]);
    if (read(report[0], &line, sizeof(line)) != sizeof(line))
        line = -1;
    close(report[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return line;
}

/* The capability sets of this process. */
static uint64_t capabilities(bool permitted)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};

    if (syscall(SYS_capget, &header, data) < 0)
        return UINT64_MAX;
    return permitted ? data[0].permitted | (uint64_t)data[1].permitted << 32
                     : data[0].effective | (uint64_t)data[1].effective << 32;
}

static int check_dropped(bool net_raw)
{
    uint64_t want = net_raw ? UINT64_C(1) << CAP_NET_RAW : 0;
    uid_t r, e, s;
    struct rlimit core;
    int signal = 0;

    EXPECT(getresuid(&r, &e, &s) == 0 && r == NOBODY && e == NOBODY && s == NOBODY);
    EXPECT(getresgid(&r, &e, &s) == 0 && r == NOBODY && e == NOBODY && s == NOBODY);
    EXPECT(getgroups(0, NULL) == 0);
    EXPECT(capabilities(true) == want);
    EXPECT(capabilities(false) == want);
    EXPECT(setuid(0) < 0 && errno == EPERM);
    EXPECT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    EXPECT(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    EXPECT(prctl(PR_GET_PDEATHSIG, &signal, 0, 0, 0) == 0 && signal == SIGKILL);
    EXPECT(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 && core.rlim_max == 0);
    return 0;
}

static int drop_all(void)
{
    char why[200] = "";

    EXPECT(setgroups(2, (gid_t[]){0, 4}) == 0);
    EXPECT(sandbox_drop(NOBODY, NOBODY, false, why, sizeof(why)) == 0);
    return check_dropped(false);
}

static int keep_net_raw(void)
{
    uint32_t mark = 0x5553;
    char why[200] = "";
    int fd;

    EXPECT(sandbox_drop(NOBODY, NOBODY, true, why, sizeof(why)) == 0);
    int line = check_dropped(true);

    if (line != 0)
        return line;
    /* What it is kept for. */
    EXPECT((fd = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    EXPECT(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0);
    return 0;
}

static bool not_root(void)
{
    if (geteuid() == 0)
        return false;
    print_message("skipped: needs root\n");
    return true;
}

static void a_worker_has_no_privilege_left(void **state)
{
    (void)state;
    if (not_root())
        skip();
    assert_int_equal(in_child(drop_all), 0);
}

static void a_worker_that_marks_keeps_net_raw_alone(void **state)
{
    (void)state;
    if (not_root())
        skip();
    assert_int_equal(in_child(keep_net_raw), 0);
}

/* An ordinary user's worker is sealed in the same way, and stays who it is. */
static int drop_unprivileged(void)
{
    char why[200] = "";

    if (geteuid() == 0)
        EXPECT(setgroups(0, NULL) == 0 && setgid(1234) == 0 && setuid(1234) == 0);
    uid_t before = getuid();

    EXPECT(sandbox_drop(NOBODY, NOBODY, true, why, sizeof(why)) < 0 || capabilities(true) == 0);
    EXPECT(sandbox_drop(NOBODY, NOBODY, false, why, sizeof(why)) == 0);
    EXPECT(getuid() == before && geteuid() == before);
    EXPECT(capabilities(true) == 0);
    EXPECT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    return 0;
}

static void without_root_there_is_less_to_give_up(void **state)
{
    (void)state;
    assert_int_equal(in_child(drop_unprivileged), 0);
}

/* What a relay does, from accept to close, with the filter on. */
static int sealed_can_relay(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    char why[200] = "", c = 'x';
    int listener, client, server, pipes[2], epoll, on = 1, queued;
    struct epoll_event ev = {.events = EPOLLIN};

    EXPECT((listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    EXPECT(bind(listener, (struct sockaddr *)&at, len) == 0 && listen(listener, 5) == 0);
    EXPECT((epoll = epoll_create1(0)) >= 0);
    EXPECT(sandbox_drop(NOBODY, NOBODY, false, why, sizeof(why)) == 0);
    EXPECT(sandbox_seal(why, sizeof(why)) == 0);

    EXPECT(getsockname(listener, (struct sockaddr *)&at, &len) == 0);
    EXPECT((client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    EXPECT(setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) == 0);
    EXPECT(connect(client, (struct sockaddr *)&at, len) == 0);
    EXPECT((server = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
    EXPECT(epoll_ctl(epoll, EPOLL_CTL_ADD, server, &ev) == 0);
    EXPECT(send(client, "hello", 5, MSG_NOSIGNAL) == 5);
    EXPECT(ioctl(client, SIOCOUTQ, &queued) == 0);
    EXPECT(epoll_wait(epoll, &ev, 1, 10000) == 1);
    EXPECT(recv(server, &c, 1, 0) == 1 && c == 'h');
    EXPECT(pipe2(pipes, O_NONBLOCK | O_CLOEXEC) == 0);
    EXPECT(fcntl(pipes[1], F_SETPIPE_SZ, 65536) >= 4096);
    EXPECT(splice(server, NULL, pipes[1], NULL, 100, SPLICE_F_NONBLOCK) == 4);
    EXPECT(splice(pipes[0], NULL, server, NULL, 4, SPLICE_F_NONBLOCK) == 4);
    EXPECT(recv(client, why, 4, MSG_WAITALL) == 4 && memcmp(why, "ello", 4) == 0);
    EXPECT(shutdown(server, SHUT_WR) == 0);
    EXPECT(getsockopt(server, SOL_SOCKET, SO_ERROR, &on, &(socklen_t){sizeof(on)}) == 0);
    EXPECT((on = dup(listener)) >= 0 && close(on) == 0 && close(server) == 0);
    EXPECT(socket(AF_INET6, SOCK_STREAM, 0) >= 0 || errno == EAFNOSUPPORT);

    /* Memory in all the ways that an allocator has. */
    for (size_t size = 16; size < 64u << 20; size *= 4) {
        char *block = malloc(size);

        EXPECT(block);
        memset(block, 1, size);
        char *larger = realloc(block, size * 2);

        EXPECT(larger);
        free(larger);
    }
    /* And the log. */
    EXPECT(fprintf(stderr, "%s", "") >= 0);
    return 0;
}

/* The map of names is inherited; what of it is made while there is the privilege for it. */
static struct bpf_stitch *stitch;

static bool has_name(int map, const struct addr *a, const char *name)
{
    struct stitch_name value;

    return bpf_map_lookup_elem(map, a->ip, &value) == 0 && value.len == strlen(name) &&
           memcmp(value.name, name, value.len) == 0;
}

static int sealed_can_set_names(void)
{
    int map = bpf_stitch_names_fd(stitch);
    union bpf_attr attr = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    struct addr a4, a6;
    char why[200] = "";

    EXPECT(addr_parse("198.18.0.99", 0, &a4) == 0);
    EXPECT(addr_parse("fdf6:6931:7149::99", 0, &a6) == 0);
    EXPECT(sandbox_drop(NOBODY, NOBODY, false, why, sizeof(why)) == 0);
    EXPECT(sandbox_seal(why, sizeof(why)) == 0);
    EXPECT(bpf_stitch_set_name(map, &a4, "a.example", 9) == 0);
    EXPECT(bpf_stitch_set_name(map, &a6, "a.example", 9) == 0);
    EXPECT(has_name(map, &a4, "a.example") && has_name(map, &a6, "a.example"));
    EXPECT(bpf_stitch_set_name(map, &a4, "other.example", 13) == 0);
    EXPECT(has_name(map, &a4, "other.example"));
    EXPECT(bpf_stitch_set_name(map, &a4, "", 0) == -EINVAL);
    EXPECT(bpf_stitch_set_name(STDIN_FILENO, &a4, "a.example", 9) == -ESTALE);
    /* And nothing more of BPF. */
    EXPECT(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)) < 0 && errno == EPERM);
    return 0;
}

static int sealed_can_nothing_else(void)
{
    char why[200] = "", command[] = "/bin/true", *const argv[] = {command, NULL};
    int pair[2], queued = 0;

    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t parent = getppid();

    EXPECT(sandbox_drop(NOBODY, NOBODY, false, why, sizeof(why)) == 0);
    EXPECT(sandbox_seal(why, sizeof(why)) == 0);
#define DENIED(call) EXPECT((call) < 0 && errno == EPERM)
    DENIED(open("/dev/null", O_RDONLY));
    DENIED(openat(AT_FDCWD, "/etc/passwd", O_RDONLY));
    DENIED(execve(argv[0], argv, argv + 1));
    DENIED(syscall(SYS_execveat, AT_FDCWD, argv[0], argv, argv + 1, 0));
    DENIED(syscall(SYS_fork));
    DENIED(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    DENIED(syscall(SYS_clone3, NULL, 0));
    DENIED(kill(parent, 0));
    DENIED(kill(getpid(), 0));
    DENIED(syscall(SYS_tgkill, parent, parent, 0));
    EXPECT(syscall(SYS_tgkill, getpid(), getpid(), 0) == 0); /* what abort() needs */
    DENIED(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
    DENIED(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
    DENIED(socket(AF_NETLINK, SOCK_RAW, 0));
    DENIED(socket(AF_PACKET, SOCK_RAW, 0));
    DENIED(bind(pair[0], (struct sockaddr *)why, 2));
    DENIED(listen(pair[0], 1));
    DENIED(ioctl(pair[0], FIONBIO, &queued));
    DENIED(ioctl(pair[0], TIOCSTI, why));
    DENIED(unlink("/tmp/none"));
    DENIED(mkdir("/tmp/none", 0700));
    DENIED(chdir("/"));
    DENIED(setuid(0));
    DENIED(unshare(0));
    DENIED(syscall(SYS_io_uring_setup, 1, NULL));
    DENIED(syscall(SYS_bpf, 0 /* BPF_MAP_CREATE */, why, sizeof(why)));
    DENIED(syscall(SYS_bpf, 5 /* BPF_PROG_LOAD */, why, sizeof(why)));
    EXPECT(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
               MAP_FAILED &&
           errno == EPERM);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    EXPECT(page != MAP_FAILED);
    DENIED(mprotect(page, 4096, PROT_READ | PROT_EXEC));
    return 0;
}

static bool cannot_seal(void)
{
#if defined(__SANITIZE_ADDRESS__)
    print_message("skipped: a sanitized build does not seal itself\n");
    return true;
#else
    return false;
#endif
}

static void a_sealed_worker_can_relay(void **state)
{
    (void)state;
    if (cannot_seal())
        skip();
    assert_int_equal(in_child(sealed_can_relay), 0);
}

static void a_sealed_worker_can_set_names(void **state)
{
    const struct bpf_stitch_options o = {.flows = 16, .names = 16};
    char why[BPF_WHY_MAX] = "";
    int line;

    (void)state;
    if (not_root() || cannot_seal())
        skip();
    if (bpf_stitch_open(&o, &stitch, why, sizeof(why)) < 0) {
        print_message("skipped: %s\n", why);
        skip();
    }
    line = in_child(sealed_can_set_names);
    bpf_stitch_close(stitch);
    assert_int_equal(line, 0);
}

static void a_sealed_worker_can_nothing_else(void **state)
{
    (void)state;
    if (cannot_seal())
        skip();
    assert_int_equal(in_child(sealed_can_nothing_else), 0);
}

/* A worker outlives its keeper by nothing: it cannot hold connections that nobody answers for. */
static void a_worker_dies_with_its_keeper(void **state)
{
    int alive[2], status;
    char c;

    (void)state;
    assert_int_equal(pipe(alive), 0);
    fflush(stdout);
    pid_t keeper = fork();

    assert_true(keeper >= 0);
    if (keeper == 0) {
        if (fork() == 0) {
            char why[200];

            close(alive[0]);
            if (sandbox_drop(NOBODY, NOBODY, false, why, sizeof(why)) < 0)
                _exit(1);
            (void)!write(alive[1], "r", 1);
            for (;;)
                pause();
        }
        for (;;)
            pause();
    }
    close(alive[1]);
    assert_int_equal(read(alive[0], &c, 1), 1);
    kill(keeper, SIGKILL);
    assert_int_equal(waitpid(keeper, &status, 0), keeper);
    struct pollfd p = {.fd = alive[0]};

    assert_int_equal(poll(&p, 1, 20000), 1); /* the last writer is gone */
    assert_true(p.revents & POLLHUP);
    close(alive[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_has_no_privilege_left),
        cmocka_unit_test(a_worker_that_marks_keeps_net_raw_alone),
        cmocka_unit_test(without_root_there_is_less_to_give_up),
        cmocka_unit_test(a_sealed_worker_can_relay),
        cmocka_unit_test(a_sealed_worker_can_set_names),
        cmocka_unit_test(a_sealed_worker_can_nothing_else),
        cmocka_unit_test(a_worker_dies_with_its_keeper),
    };

    return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
