/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A place to try the cgroup capture in: a network namespace of the test's own with addresses on lo
 * and a veth pair, a cgroup, listeners that play the daemon and the outside world, and clients that
 * are processes in the cgroup. A watcher process removes the cgroups when the test is gone, however
 * it went.
 */
#ifndef UNDERSOCK_TESTS_BPF_FIXTURE_H
#define UNDERSOCK_TESTS_BPF_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/tcp.h>
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
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../addresses.h"
#include "addr.h"
#include "base/fd.h"
#include "bpf/cgroup.h"
#include "bpf/probe.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

#define UNUSED __attribute__((unused))

/* Addresses on lo of the test's namespace: the outside world, as far as a capture can tell. */
#define WORLD_V4   "203.0.113.1"
#define WORLD_V6   "2001:db8::1"
#define PRIVATE_V4 "10.9.9.9"

struct fixture {
    char cgroup2[200]; /* mount point */
    char outer[256], inner[300];
    int outer_fd, inner_fd;
    int watch;  /* the watcher goes to work when this closes */
    int v4, v6; /* our listeners */
    int world;  /* everything that was not captured, both families */
    uint16_t port_v4, port_v6, world_port;
    uint64_t netns;
    char skip[400]; /* why nothing can be tried here; "" when it can */
};

static struct fixture fixture = {.outer_fd = -1, .inner_fd = -1, .watch = -1};

static UNUSED int sh(const char *command)
{
    int r = system(command);

    if (r != 0)
        print_error("failed: %s\n", command);
    return r == 0 ? 0 : -1;
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return -errno;
    n = write(fd, text, strlen(text));
    close(fd);
    return n < 0 ? -errno : 0;
}

/* Kills what is left in the cgroup and removes it. */
static void remove_cgroup(const char *path)
{
    char procs[400];

    for (int i = 0; i < 500 && rmdir(path) < 0 && errno == EBUSY; i++) {
        FILE *f;
        int pid;

        snprintf(procs, sizeof(procs), "%s/cgroup.procs", path);
        f = fopen(procs, "re");
        while (f != NULL && fscanf(f, "%d", &pid) == 1)
            kill(pid, SIGKILL);
        if (f != NULL)
            fclose(f);
        usleep(10000);
    }
}

static int find_cgroup2(char *ret, size_t size)
{
    FILE *f = fopen("/proc/mounts", "re");
    char path[200], type[50];
    int r = -1;

    if (f == NULL)
        return -1;
    while (r < 0 && fscanf(f, "%*s %199s %49s %*[^\n]", path, type) == 2) {
        if (strcmp(type, "cgroup2") == 0) {
            snprintf(ret, size, "%s", path);
            r = 0;
        }
    }
    fclose(f);
    return r;
}

static int make_cgroup(const char *path, int *ret)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return -errno;
    *ret = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret < 0 ? -errno : 0;
}

static int start_watcher(struct fixture *f)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    pid = fork();
    if (pid == 0) {
        char byte;

        close(ends[1]);
        setsid();
        while (read(ends[0], &byte, 1) > 0)
            ;
        remove_cgroup(f->inner);
        remove_cgroup(f->outer);
        _exit(0);
    }
    close(ends[0]);
    f->watch = ends[1];
    return pid < 0 ? -1 : 0;
}

static int listen_at(const char *text, uint16_t *ret_port)
{
    struct addr at, bound;
    int fd;

    if (addr_parse(text, 0, &at) < 0)
        return -1;
    fd = fd_listen(&at, false, &bound);
    if (fd >= 0)
        *ret_port = bound.port;
    return fd;
}

static int listen_world(uint16_t *ret_port)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    socklen_t len = sizeof(any);
    int off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0 ||
        bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 || listen(fd, 64) < 0 ||
        getsockname(fd, (struct sockaddr *)&any, &len) < 0)
        return -1;
    *ret_port = ntohs(any.sin6_port);
    return fd;
}

static UNUSED int fixture_setup(void **state)
{
    struct fixture *f = &fixture;
    uint32_t features;
    int r;

    *state = f;
    if (geteuid() != 0) {
        snprintf(f->skip, sizeof(f->skip), "needs root");
        return 0;
    }
    r = bpf_probe(&features);
    if (r < 0) {
        snprintf(f->skip, sizeof(f->skip), "no BPF here: %s", strerror(-r));
        return 0;
    }
    for (size_t i = 0; i < BPF_N_FEATURES; i++) {
        if (bpf_feature_infos[i].required && !(features & 1u << i)) {
            snprintf(f->skip, sizeof(f->skip), "this kernel lacks %s", bpf_feature_infos[i].name);
            return 0;
        }
    }
    if (find_cgroup2(f->cgroup2, sizeof(f->cgroup2)) < 0) {
        snprintf(f->skip, sizeof(f->skip), "no cgroup2 mounted");
        return 0;
    }
    /* From here on a failure is a failure. */
    snprintf(f->outer, sizeof(f->outer), "%.199s/undersock-test-%d", f->cgroup2, (int)getpid());
    snprintf(f->inner, sizeof(f->inner), "%.255s/inner", f->outer);
    if (start_watcher(f) < 0 || make_cgroup(f->outer, &f->outer_fd) < 0 ||
        make_cgroup(f->inner, &f->inner_fd) < 0)
        return -1;
    if (unshare(CLONE_NEWNET) < 0 ||
        sh("ip link set lo up && ip addr add " WORLD_V4 "/32 dev lo && ip addr add " PRIVATE_V4
           "/32 dev lo && ip addr add " WORLD_V6 "/128 dev lo nodad && "
           "ip link add us0 type veth peer name us1 && ip link set us0 up && ip link set us1 up && "
           "ip addr add 192.0.2.1/24 dev us0 && ip addr add 2001:db8:2::1/64 dev us0 nodad") < 0 ||
        sh(ADDRESSES_SETTLE) < 0)
        return -1;
    /* As on a host that filters strictly; and let a client put data into its SYN without a cookie.
     */
    write_file("/proc/sys/net/ipv4/conf/all/rp_filter", "1");
    write_file("/proc/sys/net/ipv4/tcp_fastopen", "5");
    f->v4 = listen_at("127.0.0.1:0", &f->port_v4);
    f->v6 = listen_at("[::1]:0", &f->port_v6);
    f->world = listen_world(&f->world_port);
    if (f->v4 < 0 || f->v6 < 0 || f->world < 0 || bpf_netns_cookie(f->v4, &f->netns) < 0)
        return -1;
    return 0;
}

static UNUSED int fixture_teardown(void **state)
{
    struct fixture *f = *state;

    if (f->skip[0] != '\0')
        return 0;
    close(f->outer_fd);
    close(f->inner_fd);
    remove_cgroup(f->inner);
    remove_cgroup(f->outer);
    close(f->watch);
    wait(NULL);
    return 0;
}

#define SKIP_UNLESS_POSSIBLE(f)                        \
    do {                                               \
        if ((f)->skip[0] != '\0') {                    \
            print_message("skipped: %s\n", (f)->skip); \
            skip();                                    \
        }                                              \
    } while (0)

/* What a client does, and what came of it. */
struct client {
    int family;       /* 0: the destination's own; AF_INET6 with an IPv4 destination: v4-mapped */
    int protocol;     /* 0: TCP */
    int type;         /* 0: SOCK_STREAM */
    const char *to;   /* "address:port"; port 0 is the world's */
    const char *then; /* where the same socket goes when the first connect() has failed */
    const char *bind;
    const char *device;
    const char *netns; /* not NULL: in a namespace of its own, after this shell command */
    uint32_t mark;
    uid_t uid;
    bool nonblock, v6only, fastopen_connect, fastopen_send, outer;
    bool long_data; /* fastopen_send: more than a packet's head */
    bool serve;     /* also plays the world in its own namespace */
    bool datagram;  /* SOCK_DGRAM: sends one instead of connecting; `then` follows in any case */
    bool
        pause; /* client_run() returns after the first connect(), client_resume() does the second */
};

struct result {
    pid_t pid;
    int error;      /* of connect(), or of making the connection; 0: connected */
    int then_error; /* of the second connect() */
    int peer_error;
    bool ready;
    struct addr peer, inherited_peer, local;
    int hold;              /* closing it lets the client go */
    struct result *shared; /* as the client writes it */
};

static socklen_t client_sockaddr(const struct client *c, const struct addr *a,
                                 struct sockaddr_storage *ret)
{
    if (c->family == AF_INET6 && addr_is_v4(a)) {
        struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)ret;

        memset(ret, 0, sizeof(*ret));
        sin6->sin6_family = AF_INET6;
        sin6->sin6_port = htons(a->port);
        memcpy(&sin6->sin6_addr, a->ip, 16);
        return sizeof(*sin6);
    }
    return addr_to_sockaddr(a, ret);
}

/* connect() to the end: for a non-blocking socket the outcome, not EINPROGRESS. */
static int client_connect(const struct client *c, int fd, const char *text)
{
    struct sockaddr_storage ss;
    struct addr to;
    socklen_t len;
    int error = 0;

    if (addr_parse(text, fixture.world_port, &to) < 0)
        return EDOM;
    if (to.port == 0)
        to.port = fixture.world_port;
    len = client_sockaddr(c, &to, &ss);
    if (c->fastopen_send) {
        static const char data[1200] = "hello";

        return sendto(fd, data, c->long_data ? sizeof(data) : 5, MSG_FASTOPEN,
                      (struct sockaddr *)&ss, len) < 0
                   ? errno
                   : 0;
    }
    if (c->datagram)
        return sendto(fd, "hello", 5, 0, (struct sockaddr *)&ss, len) < 0 ? errno : 0;
    if (connect(fd, (struct sockaddr *)&ss, len) < 0) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};

        if (errno != EINPROGRESS)
            return errno;
        len = sizeof(error);
        if (poll(&p, 1, 10000) != 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
            return ETIME;
    }
    if (error == 0 && c->fastopen_connect && write(fd, "hello", 5) != 5)
        return errno;
    return error;
}

static int client_peer(int fd, struct addr *ret)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0)
        return errno;
    return -addr_from_sockaddr((struct sockaddr *)&ss, len, ret);
}

static int client_prepare(const struct client *c, int *ret)
{
    struct addr a;
    struct sockaddr_storage ss;
    int on = 1, family = c->family;
    int fd;

    if (addr_parse(c->to, 0, &a) < 0)
        return EDOM;
    if (family == 0)
        family = addr_is_v4(&a) ? AF_INET : AF_INET6;
    fd =
        socket(family,
               (c->type ? c->type : SOCK_STREAM) | SOCK_CLOEXEC | (c->nonblock ? SOCK_NONBLOCK : 0),
               c->protocol);
    if (fd < 0)
        return errno;
    *ret = fd;
    if (c->v6only && setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
        return errno;
    if (c->mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &c->mark, sizeof(c->mark)) < 0)
        return errno;
    if (c->device &&
        setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, c->device, (socklen_t)strlen(c->device)) < 0)
        return errno;
    if (c->fastopen_connect &&
        setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on)) < 0)
        return errno;
    if (c->bind != NULL) {
        if (addr_parse(c->bind, 0, &a) < 0)
            return EDOM;
        if (bind(fd, (struct sockaddr *)&ss, client_sockaddr(c, &a, &ss)) < 0)
            return errno;
    }
    if (c->uid != 0 && (setgroups(0, NULL) < 0 || setresuid(c->uid, c->uid, c->uid) < 0))
        return errno;
    return 0;
}

static void client_main(const struct client *c, struct result *out, int hold)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    char path[400], byte;
    int fd = -1;

    prctl(PR_SET_NAME, "us-client");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof(path), "%s/cgroup.procs", c->outer ? fixture.outer : fixture.inner);
    if (c->netns != NULL) {
        if (unshare(CLONE_NEWNET) < 0 || sh(c->netns) < 0 || sh(ADDRESSES_SETTLE) < 0)
            out->error = EDOM;
        if (out->error == 0 && c->serve && listen_world(&fixture.world_port) < 0)
            out->error = EDOM;
    }
    if (out->error == 0)
        out->error = -write_file(path, "0");
    if (out->error == 0)
        out->error = client_prepare(c, &fd);
    if (out->error == 0)
        out->error = client_connect(c, fd, c->to);
    if (c->pause && (write(hold, "", 1) != 1 || read(hold, &byte, 1) != 1))
        _exit(1);
    if ((out->error != 0 || c->datagram) && c->then != NULL)
        out->then_error = client_connect(c, fd, c->then);
    out->peer_error = client_peer(fd, &out->peer);
    if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        addr_from_sockaddr((struct sockaddr *)&ss, len, &out->local);
    /* What a process that inherited the socket is told. */
    if (out->peer_error == 0) {
        pid_t pid = fork();

        if (pid == 0) {
            client_peer(dup(fd), &out->inherited_peer);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    out->ready = true;
    if (write(hold, "", 1) != 1 || read(hold, &byte, 1) < 0)
        _exit(1);
    _exit(0);
}

/* Returns at once; client_wait() must follow. */
static UNUSED void client_start(const struct client *c, struct result *ret)
{
    struct result *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int ends[2];
    pid_t pid;

    assert_ptr_not_equal(shared, MAP_FAILED);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        close(fixture.watch);
        client_main(c, shared, ends[1]);
    }
    close(ends[1]);
    *ret = (struct result){.pid = pid, .hold = ends[0], .shared = shared};
}

static UNUSED bool client_is_waiting(const struct result *result)
{
    struct pollfd p = {.fd = result->hold, .events = POLLIN};

    return poll(&p, 1, 0) == 0;
}

static UNUSED void client_wait(const struct client *c, struct result *result)
{
    struct result before = *result;
    char byte;

    if (read(before.hold, &byte, 1) != 1)
        print_error("the client died\n");
    *result = *before.shared;
    result->pid = before.pid;
    result->hold = before.hold;
    result->shared = before.shared;
    assert_true(result->ready || c->pause);
}

/* Returns when the client has connected or failed; it keeps its socket until client_done(). */
static UNUSED void client_run(const struct client *c, struct result *ret)
{
    client_start(c, ret);
    client_wait(c, ret);
}

/* The second connect() of a client with `pause`. */
static UNUSED void client_resume(struct result *result)
{
    struct result before = *result;
    char byte;

    assert_int_equal(write(before.hold, "", 1), 1);
    assert_int_equal(read(before.hold, &byte, 1), 1);
    *result = *before.shared;
    result->pid = before.pid;
    result->hold = before.hold;
    result->shared = before.shared;
    assert_true(result->ready);
}

static UNUSED void client_done(struct result *result)
{
    shutdown(result->hold, SHUT_RDWR); /* younger clients have copies of it */
    close(result->hold);
    waitpid(result->pid, NULL, 0);
    munmap(result->shared, sizeof(*result->shared));
}

/* Accepts the connection that must be waiting, with both its ends. */
static UNUSED int accept_one(int listener, struct addr *ret_peer, struct addr *ret_local)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    int fd;

    if (poll(&p, 1, 10000) != 1)
        return -ETIME;
    fd = accept4(listener, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC);
    if (fd < 0)
        return -errno;
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&ss, len, ret_peer), 0);
    len = sizeof(ss);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&ss, len, ret_local), 0);
    return fd;
}

static UNUSED void assert_nobody_waits(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    assert_int_equal(fd, -1);
    assert_int_equal(errno, EAGAIN);
}

static UNUSED void assert_addr(const struct addr *a, const char *text)
{
    char buf[ADDR_STRLEN];

    assert_string_equal(addr_format(a, buf), text);
}

static UNUSED struct bpf_capture *attach(const struct capture_set *set, size_t index, int cgroup_fd)
{
    struct bpf_capture *capture = NULL;
    char why[BPF_WHY_MAX] = "";

    if (bpf_cgroup_attach(set, index, cgroup_fd, &capture, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    assert_non_null(capture);
    return capture;
}

static UNUSED int origin_of(const struct bpf_capture *capture, int fd, const struct addr *peer,
                            const struct addr *local, struct origin *ret)
{
    struct origin_source source;
    int r;

    assert_int_equal(bpf_origin_open(bpf_capture_origin_fd(capture), fixture.netns, &source), 0);
    r = source.ops->lookup(source.ctx, fd, peer, local, ret);
    bpf_origin_close(&source);
    return r;
}

/* The client connected, our `listener` got it, and everything about it is known. */
static UNUSED void assert_captured(const struct bpf_capture *capture, int listener,
                                   const struct client *c, const struct result *result,
                                   const char *destination)
{
    struct addr peer, local;
    struct origin origin;
    struct stat st;
    int fd;

    assert_int_equal(c->then != NULL ? result->then_error : result->error, 0);
    fd = accept_one(listener, &peer, &local);
    assert_true(fd >= 0);
    assert_int_equal(origin_of(capture, fd, &peer, &local, &origin), 0);
    assert_addr(&origin.destination, destination);
    assert_string_equal(origin.comm, "us-client");
    assert_int_equal(origin.known, ORIGIN_PID | ORIGIN_UID | ORIGIN_CGROUP | ORIGIN_COMM);
    assert_int_equal(origin.pid, result->pid);
    assert_int_equal(origin.uid, c->uid);
    assert_int_equal(fstat(c->outer ? fixture.outer_fd : fixture.inner_fd, &st), 0);
    assert_int_equal(origin.cgroup_id, st.st_ino);
    /* Once only. */
    assert_int_equal(origin_of(capture, fd, &peer, &local, &origin), -ENOENT);
    close(fd);

    assert_int_equal(result->peer_error, 0);
    assert_addr(&result->peer, destination);
    assert_addr(&result->inherited_peer, destination);
    assert_nobody_waits(fixture.world);
}

/* The client connected, and to where it asked. */
static UNUSED void assert_direct(const struct client *c, const struct result *result)
{
    struct addr peer, local, asked;
    int fd;

    assert_int_equal(c->then != NULL ? result->then_error : result->error, 0);
    fd = accept_one(fixture.world, &peer, &local);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(addr_parse(c->then != NULL ? c->then : c->to, fixture.world_port, &asked), 0);
    asked.port = fixture.world_port;
    assert_true(addr_equal(&local, &asked));
    assert_true(addr_equal(&result->peer, &asked));
    assert_nobody_waits(fixture.v4);
    assert_nobody_waits(fixture.v6);
}

static UNUSED void assert_refused(const struct client *c, const struct result *result, int error)
{
    assert_int_equal(c->then != NULL ? result->then_error : result->error, error);
    assert_nobody_waits(fixture.v4);
    assert_nobody_waits(fixture.v6);
    assert_nobody_waits(fixture.world);
}

static UNUSED struct capture_policy plain_policy(void)
{
    return (struct capture_policy){
        .name = "test",
        .hook = CAPTURE_CGROUP,
        .action = CAPTURE_PROXY,
        .port_v4 = fixture.port_v4,
        .port_v6 = fixture.port_v6,
    };
}

/* Runs one client and expects one end of it. */
static UNUSED void expect_captured(const struct bpf_capture *capture, int listener, struct client c,
                                   const char *destination)
{
    struct result result;

    client_run(&c, &result);
    assert_captured(capture, listener, &c, &result, destination);
    client_done(&result);
}

static UNUSED void expect_direct(struct client c)
{
    struct result result;

    client_run(&c, &result);
    assert_direct(&c, &result);
    client_done(&result);
}

static UNUSED void expect_refused(struct client c, int error)
{
    struct result result;

    client_run(&c, &result);
    assert_refused(&c, &result, error);
    client_done(&result);
}

/* What a capture reports: the number of events, and the last one. */
struct seen {
    int n;
    struct bpf_capture_event last;
};

static inline void on_event(void *ctx, const struct bpf_capture_event *event)
{
    struct seen *seen = ctx;

    seen->n++;
    seen->last = *event;
}

#endif
