/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/cgroup.c: several captures at once, changing the policy, dying, and who may look an origin
 * up.
 */
#include <dirent.h>

#include <bpf/bpf.h>

#include "bpf/object.h"
#include "bpf_abi.h"
#include "fixture.h"

/* A second daemon: its own listener. */
static int other_v4(uint16_t *ret_port)
{
    int fd = listen_at("127.0.0.1:0", ret_port);

    assert_true(fd >= 0);
    return fd;
}

/* The map that holds what is known of sockets, among our descriptors: its id. */
static uint32_t storage_id(void)
{
    for (int fd = 0; fd < 256; fd++) {
        struct bpf_map_info info = {0};
        uint32_t len = sizeof(info);

        if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.type == BPF_MAP_TYPE_SK_STORAGE &&
            strcmp(info.name, ABI_MAP_SOCKETS) == 0)
            return info.id;
    }
    return 0;
}

/* Instances that start at the same moment find each other. */
static void test_all_share_what_is_known_of_sockets(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (int round = 0; round < 5; round++) {
        pid_t pids[4];
        uint32_t ids[4];
        int go[2], told[2];
        char byte;

        assert_int_equal(pipe2(go, O_CLOEXEC) | pipe2(told, O_CLOEXEC), 0);
        for (size_t i = 0; i < 4; i++) {
            pids[i] = fork();
            if (pids[i] == 0) {
                struct bpf_capture *capture;
                char why[BPF_WHY_MAX];
                uint32_t id = 0;

                prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(fixture.watch);
                close(go[1]);
                if (read(go[0], &byte, 1) == 0 &&
                    bpf_cgroup_attach(&set, 0, fixture.inner_fd, &capture, why, sizeof(why)) == 0)
                    id = storage_id();
                if (write(told[1], &id, sizeof(id)) != sizeof(id))
                    _exit(1);
                for (;;)
                    pause();
            }
        }
        close(go[1]);
        close(told[1]);
        for (size_t i = 0; i < 4; i++)
            assert_int_equal(read(told[0], &ids[i], sizeof(ids[i])), sizeof(ids[i]));
        for (size_t i = 0; i < 4; i++) {
            kill(pids[i], SIGKILL);
            waitpid(pids[i], NULL, 0);
        }
        close(go[0]);
        close(told[0]);
        for (size_t i = 0; i < 4; i++) {
            assert_int_not_equal(ids[i], 0);
            assert_int_equal(ids[i], ids[0]);
        }
    }
}

/* The inner cgroup's capture decides; the outer one sees the same connect() and keeps its hands
 * off, even though it captures loopback too. */
static void test_nested(void **state)
{
    struct capture_policy policies[2] = {plain_policy(), plain_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 2};
    struct bpf_capture *inner, *outer;
    struct bpf_capture_counters counters;
    int listener;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    listener = other_v4(&policies[1].port_v4);
    policies[1].private = true;
    for (int order = 0; order < 2; order++) {
        if (order == 0)
            inner = attach(&set, 0, fixture.inner_fd);
        outer = attach(&set, 1, fixture.outer_fd);
        if (order == 1)
            inner = attach(&set, 0, fixture.inner_fd);
        expect_captured(inner, fixture.v4, (struct client){.to = "198.51.100.7:80"},
                        "198.51.100.7:80");
        expect_captured(inner, fixture.v6, (struct client){.to = "[2001:db8:7::9]:80"},
                        "[2001:db8:7::9]:80");
        assert_nobody_waits(listener);
        assert_int_equal(bpf_capture_read_counters(outer, &counters), 0);
        assert_int_equal(counters.proxied, 0);
        /* What the inner one does not select is the outer one's, and so are the outer's processes.
         */
        expect_captured(outer, listener, (struct client){.to = PRIVATE_V4 ":80"}, PRIVATE_V4 ":80");
        expect_captured(outer, listener, (struct client){.to = "198.51.100.7:80", .outer = true},
                        "198.51.100.7:80");
        bpf_capture_detach(inner);
        expect_captured(outer, listener, (struct client){.to = "198.51.100.7:80"},
                        "198.51.100.7:80");
        bpf_capture_detach(outer);
    }
    close(listener);
}

static void test_nested_direct_and_refuse(void **state)
{
    struct capture_policy policies[2] = {plain_policy(), plain_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 2};
    struct bpf_capture *inner, *outer;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    outer = attach(&set, 1, fixture.outer_fd);
    policies[0].action = CAPTURE_DIRECT;
    inner = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_direct((struct client){.to = "[" WORLD_V6 "]:0"});
    bpf_capture_detach(inner);
    policies[0].action = CAPTURE_REFUSE;
    inner = attach(&set, 0, fixture.inner_fd);
    expect_refused((struct client){.to = WORLD_V4 ":0"}, ECONNREFUSED);
    expect_refused((struct client){.to = "[" WORLD_V6 "]:0"}, ECONNREFUSED);
    bpf_capture_detach(inner);
    bpf_capture_detach(outer);
}

/* Within one cgroup the first that selects decides, as in the file. */
static void test_first_match_wins(void **state)
{
    struct capture_policy policies[2] = {plain_policy(), plain_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 2};
    struct bpf_capture *first, *second;
    struct prefix world;
    int listener;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(prefix_parse(WORLD_V4, &world), 0);
    listener = other_v4(&policies[1].port_v4);
    policies[0].to = &world;
    policies[0].n_to = 1;
    policies[0].action = CAPTURE_DIRECT;
    first = attach(&set, 0, fixture.inner_fd);
    second = attach(&set, 1, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_captured(second, listener, (struct client){.to = "198.51.100.7:80"}, "198.51.100.7:80");
    bpf_capture_detach(first);
    expect_captured(second, listener, (struct client){.to = WORLD_V4 ":1"}, WORLD_V4 ":1");
    bpf_capture_detach(second);
    close(listener);
}

/* Reload, one way: the new instance is attached before the old one goes. */
static void test_new_before_old(void **state)
{
    struct capture_policy policies[2] = {plain_policy(), plain_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 2};
    struct bpf_capture *old, *new;
    struct result result;
    struct client c = {.to = "198.51.100.7:80"};
    int listener;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    listener = other_v4(&policies[1].port_v4);
    policies[0].private = policies[1].private = true;
    old = attach(&set, 0, fixture.inner_fd);
    new = attach(&set, 1, fixture.inner_fd);
    client_run(&c, &result);
    assert_captured(old, fixture.v4, &c, &result, c.to);
    assert_nobody_waits(listener);
    bpf_capture_detach(old);
    client_done(&result);
    expect_captured(new, listener, c, c.to);
    bpf_capture_detach(new);
    close(listener);
}

/* Reload, the other way: one capture, another policy; nothing that was inherited changes. */
static void test_replace(void **state)
{
    struct capture_policy policies[2] = {plain_policy(), plain_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 2};
    char why[BPF_WHY_MAX] = "";
    struct bpf_capture *capture;
    struct result before;
    struct client c = {.to = WORLD_V4 ":80"};
    int links[2][BPF_CAPTURE_MAX_FDS], n, fds[2];
    struct prefix world;
    int listener;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(prefix_parse(WORLD_V4, &world), 0);
    listener = other_v4(&policies[1].port_v4);
    policies[1].not_to = &world;
    policies[1].n_not_to = 1;
    capture = attach(&set, 0, fixture.inner_fd);
    n = bpf_capture_fds(capture, links[0], BPF_CAPTURE_MAX_FDS);
    assert_int_equal(n, 7);
    fds[0] = bpf_capture_origin_fd(capture);
    fds[1] = bpf_capture_event_fd(capture);

    /* In the backlog while the policy changes. */
    client_run(&c, &before);
    assert_int_equal(bpf_cgroup_replace(capture, &set, 1, why, sizeof(why)), 0);
    assert_int_equal(bpf_capture_fds(capture, links[1], BPF_CAPTURE_MAX_FDS), n);
    assert_memory_equal(links[0], links[1], (size_t)n * sizeof(int));
    assert_int_equal(bpf_capture_origin_fd(capture), fds[0]);
    assert_int_equal(bpf_capture_event_fd(capture), fds[1]);
    assert_captured(capture, fixture.v4, &c, &before, c.to);
    client_done(&before);

    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_captured(capture, listener, (struct client){.to = "198.51.100.7:80"}, "198.51.100.7:80");
    for (int i = 0; i < 20; i++)
        assert_int_equal(bpf_cgroup_replace(capture, &set, i % 2, why, sizeof(why)), 0);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    bpf_capture_detach(capture);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    close(listener);
}

/* What was decided for a socket's last connect() does not bind the next one under another policy:
 * neither by the same instance, nor, once a SYN has gone out, by another one. */
static void test_decisions_do_not_outlive_a_connect(void **state)
{
    struct capture_policy policies[3] = {plain_policy(), plain_policy(), plain_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 3};
    struct client c = {.to = WORLD_V4 ":1", .then = WORLD_V4 ":1", .pause = true};
    struct bpf_capture *inner, *outer;
    struct result result;
    struct prefix world;
    char why[BPF_WHY_MAX];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policies[1].action = CAPTURE_REFUSE;
    inner = attach(&set, 1, fixture.inner_fd);
    client_run(&c, &result);
    assert_int_equal(result.error, ECONNREFUSED);
    assert_int_equal(bpf_cgroup_replace(inner, &set, 0, why, sizeof(why)), 0);
    client_resume(&result);
    assert_captured(inner, fixture.v4, &c, &result, c.to);
    client_done(&result);

    assert_int_equal(prefix_parse(WORLD_V4, &world), 0);
    policies[1].not_to = &world;
    policies[1].n_not_to = 1;
    policies[2].action = CAPTURE_DIRECT;
    assert_int_equal(bpf_cgroup_replace(inner, &set, 1, why, sizeof(why)), 0);
    outer = attach(&set, 2, fixture.outer_fd);
    client_run(&c, &result);
    assert_int_equal(result.error, ECONNREFUSED); /* by the world: nobody is at port 1 */
    assert_int_equal(bpf_cgroup_replace(inner, &set, 0, why, sizeof(why)), 0);
    client_resume(&result);
    assert_captured(inner, fixture.v4, &c, &result, c.to);
    client_done(&result);
    bpf_capture_detach(outer);
    bpf_capture_detach(inner);
}

/* Somebody else's program on the same hook, attached as others attach theirs, stays and runs. */
static void test_beside_other_programs(void **state)
{
    const struct bpf_insn allow[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
        {.code = BPF_JMP | BPF_EXIT},
    };
    struct bpf_insn deny[2];
    LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET4_CONNECT);
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;
    int programs[2];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    memcpy(deny, allow, sizeof(allow));
    deny[0].imm = 0;
    programs[0] = bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "allow", "GPL", allow, 2, &options);
    programs[1] = bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "deny", "GPL", deny, 2, &options);
    assert_true(programs[0] >= 0 && programs[1] >= 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(bpf_prog_attach(programs[i], fixture.inner_fd, BPF_CGROUP_INET4_CONNECT,
                                         BPF_F_ALLOW_MULTI),
                         0);
        capture = attach(&set, 0, fixture.inner_fd);
        if (i == 0)
            expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80"},
                            "198.51.100.7:80");
        else
            expect_refused((struct client){.to = "198.51.100.7:80"}, EPERM);
        bpf_capture_detach(capture);
        assert_int_equal(bpf_prog_detach2(programs[i], fixture.inner_fd, BPF_CGROUP_INET4_CONNECT),
                         0);
    }
    /* One that allows no others beside it: said so. */
    char why[BPF_WHY_MAX] = "";

    assert_int_equal(bpf_prog_attach(programs[0], fixture.inner_fd, BPF_CGROUP_INET4_CONNECT, 0),
                     0);
    assert_int_equal(bpf_cgroup_attach(&set, 0, fixture.inner_fd, &capture, why, sizeof(why)),
                     -EPERM);
    assert_non_null(strstr(why, "another program"));
    assert_int_equal(bpf_prog_detach2(programs[0], fixture.inner_fd, BPF_CGROUP_INET4_CONNECT), 0);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    close(programs[0]);
    close(programs[1]);
}

/* A process that attaches, tells, and waits to be killed. It may hand its links to `janitor`. */
static pid_t start_keeper(int janitor)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    int ready[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        struct bpf_capture *capture;
        char why[BPF_WHY_MAX];
        int links[BPF_CAPTURE_MAX_FDS], n;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fixture.watch);
        if (bpf_cgroup_attach(&set, 0, fixture.inner_fd, &capture, why, sizeof(why)) < 0)
            _exit(1);
        n = bpf_capture_fds(capture, links, BPF_CAPTURE_MAX_FDS);
        if (janitor >= 0 && fd_send_message(janitor, "links", 5, links, (size_t)n) < 0)
            _exit(1);
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void drop_waiting(int listener)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        close(fd);
}

static void expect_sent_to_listener(void)
{
    struct client c = {.to = WORLD_V4 ":80"};
    struct result result;

    client_run(&c, &result);
    assert_int_equal(result.error, 0);
    assert_addr(&result.peer, WORLD_V4 ":80");
    client_done(&result);
    drop_waiting(fixture.v4);
}

static void test_sigkill_detaches(void **state)
{
    pid_t pid;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    pid = start_keeper(-1);
    expect_sent_to_listener();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_direct((struct client){.to = "[" WORLD_V6 "]:0"});
}

static void test_janitor_keeps_links(void **state)
{
    int ends[2], links[BPF_CAPTURE_MAX_FDS];
    size_t n = BPF_CAPTURE_MAX_FDS;
    char buf[8];
    pid_t pid;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    pid = start_keeper(ends[1]);
    assert_int_equal(fd_recv_message(ends[0], buf, sizeof(buf), links, &n), 5);
    assert_int_equal(n, 7);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    expect_sent_to_listener();
    for (size_t i = 0; i < n; i++)
        close(links[i]);
    close(ends[0]);
    close(ends[1]);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
}

/* detach() ends the capture although a copy of the links lives on; release() does not. */
static void test_detach_and_release(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;
    int links[BPF_CAPTURE_MAX_FDS], copies[BPF_CAPTURE_MAX_FDS], n;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (int way = 0; way < 2; way++) {
        capture = attach(&set, 0, fixture.inner_fd);
        n = bpf_capture_fds(capture, links, BPF_CAPTURE_MAX_FDS);
        for (int i = 0; i < n; i++)
            copies[i] = fcntl(links[i], F_DUPFD_CLOEXEC, 3);
        if (way == 0) {
            bpf_capture_detach(capture);
            expect_direct((struct client){.to = WORLD_V4 ":0"});
        } else {
            bpf_capture_release(capture);
            expect_sent_to_listener();
        }
        for (int i = 0; i < n; i++)
            close(copies[i]);
        expect_direct((struct client){.to = WORLD_V4 ":0"});
    }
}

static int count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(d);
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static void test_no_descriptor_is_left(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    char why[BPF_WHY_MAX];
    struct bpf_capture *capture;
    int before, tmp;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    bpf_capture_detach(attach(&set, 0, fixture.inner_fd));
    before = count_fds();
    capture = attach(&set, 0, fixture.inner_fd);
    assert_int_equal(bpf_cgroup_replace(capture, &set, 0, why, sizeof(why)), 0);
    bpf_capture_detach(capture);
    tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(bpf_cgroup_attach(&set, 0, tmp, &capture, why, sizeof(why)) < 0);
    close(tmp);
    assert_int_equal(count_fds(), before);
    assert_int_equal(bpf_object_find_map(ABI_MAP_SOCKETS, BPF_MAP_TYPE_SK_STORAGE, 4,
                                         sizeof(struct abi_socket) + 8),
                     -ENOENT);
}

/* Drops every privilege in a child and runs `fn` there; its return value, 0..255. */
static int as_nobody(int (*fn)(void *), void *arg)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        close(fixture.watch);
        if (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 ||
            setresuid(65534, 65534, 65534) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
            _exit(99);
        _exit(fn(arg));
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

struct question {
    const struct bpf_capture *capture;
    int fd;
    struct addr peer, local;
};

static int look_up(void *arg)
{
    const struct question *q = arg;
    struct addr expected;
    struct origin origin;
    FILE *f = fopen("/proc/self/status", "re");
    unsigned long long caps = 1;
    char line[200];

    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        sscanf(line, "CapEff: %llx", &caps);
    if (caps != 0)
        return 98;
    if (origin_of(q->capture, q->fd, &q->peer, &q->local, &origin) != 0)
        return 1;
    if (addr_parse("198.51.100.7:80", 0, &expected) < 0 ||
        !addr_equal(&origin.destination, &expected) || origin.known != 0xf)
        return 2;
    return origin_of(q->capture, q->fd, &q->peer, &q->local, &origin) == -ENOENT ? 0 : 3;
}

static void test_lookup_without_privileges(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct client c = {.to = "198.51.100.7:80"};
    struct question q;
    struct result result;
    struct bpf_capture *capture;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    capture = attach(&set, 0, fixture.inner_fd);
    client_run(&c, &result);
    q.capture = capture;
    q.fd = accept_one(fixture.v4, &q.peer, &q.local);
    assert_true(q.fd >= 0);
    assert_int_equal(as_nobody(look_up, &q), 0);
    close(q.fd);
    client_done(&result);
    bpf_capture_detach(capture);
}

static int try_attach(void *arg)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture = NULL;
    char why[BPF_WHY_MAX] = "";
    int r = bpf_cgroup_attach(&set, 0, fixture.inner_fd, &capture, why, sizeof(why));

    (void)arg;
    if (r != -EPERM || capture != NULL)
        return 1;
    return strstr(why, "CAP_") != NULL ? 0 : 2;
}

static void test_attach_without_privileges(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(as_nobody(try_attach, NULL), 0);
}

static void test_what_is_no_cgroup(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture = NULL;
    char why[BPF_WHY_MAX] = "";
    int fd;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(bpf_cgroup_attach(&set, 0, fd, &capture, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "cgroup2"));
    close(fd);
    assert_int_equal(bpf_cgroup_attach(&set, 0, -1, &capture, why, sizeof(why)), -EBADF);
    assert_null(capture);
    fd = open("/sys/fs/cgroup/cpu", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && access("/sys/fs/cgroup/cpu/cgroup.type", F_OK) < 0) {
        assert_int_equal(bpf_cgroup_attach(&set, 0, fd, &capture, why, sizeof(why)), -EINVAL);
        assert_non_null(strstr(why, "version 1"));
    }
    if (fd >= 0)
        close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_share_what_is_known_of_sockets),
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_nested_direct_and_refuse),
        cmocka_unit_test(test_first_match_wins),
        cmocka_unit_test(test_new_before_old),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_decisions_do_not_outlive_a_connect),
        cmocka_unit_test(test_beside_other_programs),
        cmocka_unit_test(test_sigkill_detaches),
        cmocka_unit_test(test_janitor_keeps_links),
        cmocka_unit_test(test_detach_and_release),
        cmocka_unit_test(test_no_descriptor_is_left),
        cmocka_unit_test(test_lookup_without_privileges),
        cmocka_unit_test(test_attach_without_privileges),
        cmocka_unit_test(test_what_is_no_cgroup),
    };

    return cmocka_run_group_tests_name("bpf life", tests, fixture_setup, fixture_teardown);
}
