/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which captures a proxy on this host must be kept out of: the decision, and once with real
 * listeners. */
#include "keeper/local_upstream.h"

#include <fcntl.h>
#include <sys/socket.h>

#include "../nft/netns.h"
#include "base/fd.h"

static const uint32_t tor = 107, alice = 1000, root = 0;

static struct owner owned_by(uint32_t uid, uint32_t fsuid, const char *cgroup)
{
    struct owner o = {.uid = uid, .n_processes = 1};

    o.processes[0] = (struct owner_process){.pid = 812, .uid = uid, .fsuid = fsuid};
    snprintf(o.processes[0].cgroup, sizeof(o.processes[0].cgroup), "%s", cgroup);
    return o;
}

static struct capture_policy output(void)
{
    return (struct capture_policy){.name = "host", .hook = CAPTURE_OUTPUT};
}

static enum local_upstream_verdict decide(const struct capture_policy *p, const struct owner *o,
                                          struct local_upstream *ret)
{
    memset(ret, 0, sizeof(*ret));
    return local_upstream_decide(p, o, ret);
}

static void test_own_user_is_excluded(void **state)
{
    struct owner o = owned_by(tor, tor, "/system.slice/tor.service");
    struct capture_policy p = output();
    struct local_upstream l;

    (void)state;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_EXCLUDE);
    assert_int_equal(l.n_uids, 1);
    assert_int_equal(l.uids[0], tor);

    p.not_uids = &tor;
    p.n_not_uids = 1;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_NONE);
    assert_int_equal(l.n_uids, 0);
}

static void test_root_is_refused(void **state)
{
    struct owner o = owned_by(root, root, "/");
    struct capture_policy p = output();
    struct local_upstream l;

    (void)state;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_REFUSE);
    p.not_uids = &root;
    p.n_not_uids = 1;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_NONE);
}

static void test_uid_selection(void **state)
{
    struct owner o = owned_by(tor, tor, "/");
    struct capture_policy p = output();
    struct local_upstream l;

    (void)state;
    p.uids = &alice;
    p.n_uids = 1;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_NONE);
    /* ssh -D of the very user whose traffic is wanted. */
    o = owned_by(alice, alice, "/");
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_REFUSE);
}

/* A server that keeps root as its real uid: nftables sees the one, BPF the other. */
static void test_two_uids(void **state)
{
    struct owner o = owned_by(root, tor, "/");
    struct capture_policy p = output();
    struct local_upstream l;

    (void)state;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_EXCLUDE);
    assert_int_equal(l.uids[0], tor);
    p.hook = CAPTURE_CGROUP;
    p.cgroup = "/";
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_REFUSE);
}

static void test_cgroups(void **state)
{
    struct capture_policy p = {.name = "app", .hook = CAPTURE_CGROUP, .cgroup = "/proxied.slice"};
    struct local_upstream l;
    static const struct {
        const char *cgroup;
        enum local_upstream_verdict verdict;
    } cases[] = {
        {"/system.slice/danted.service", LOCAL_UPSTREAM_NONE},
        {"/", LOCAL_UPSTREAM_NONE},
        {"/proxied.slice2", LOCAL_UPSTREAM_NONE},
        {"/proxied.slice", LOCAL_UPSTREAM_REFUSE},
        {"/proxied.slice/danted", LOCAL_UPSTREAM_REFUSE},
        {"", LOCAL_UPSTREAM_REFUSE}, /* not known */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct owner o = owned_by(root, root, cases[i].cgroup);

        assert_int_equal(decide(&p, &o, &l), cases[i].verdict);
    }
    struct owner o = owned_by(root, root, "/system.slice");

    p.cgroup = "/";
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_REFUSE);
    p.cgroup = NULL; /* the cgroup that `run` makes */
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_NONE);
}

static void test_several_processes(void **state)
{
    struct owner o = owned_by(tor, tor, "/");
    struct capture_policy p = output();
    struct local_upstream l;

    (void)state;
    o.processes[1] = o.processes[2] = o.processes[0];
    o.processes[1].fsuid = 109;
    o.n_processes = 3;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_EXCLUDE);
    assert_int_equal(l.n_uids, 2);
    o.processes[2].fsuid = root; /* one of them dials as root */
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_REFUSE);
}

static void test_unseen_process(void **state)
{
    struct owner o = {.uid = tor};
    struct capture_policy p = output();
    struct local_upstream l;

    (void)state;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_EXCLUDE);
    o.uid = root;
    assert_int_equal(decide(&p, &o, &l), LOCAL_UPSTREAM_REFUSE);
}

/* Hands the listener to another program that runs as root; returns it. */
static pid_t give_to_another(int *fd)
{
    pid_t child = fork();

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(fcntl(*fd, F_SETFD, 0) == 0);
        execlp("sleep", "sleep", "1000", (char *)NULL);
        _exit(127);
    }
    CHECK(child > 0);
    fd_close(fd);
    return child;
}

/* Until the program is in place of the child that becomes it. */
static void await_program(const struct addr *at, pid_t pid)
{
    struct owner o = {.n_processes = 0};

    while (owner_find(at, &o) < 0 || o.n_processes != 1 || o.processes[0].pid != pid ||
           strcmp(o.processes[0].comm, "sleep") != 0)
        usleep(1000);
}

static void check_body(void)
{
    struct capture_policy policies[] = {
        {.name = "host", .hook = CAPTURE_OUTPUT},
        {.name = "lan", .hook = CAPTURE_GATEWAY},
        {.name = "marked", .hook = CAPTURE_OUTPUT, .has_mark = true, .mark = 0x51},
        {.name = "off", .hook = CAPTURE_OUTPUT, .action = CAPTURE_DIRECT},
    };
    struct addr upstreams[2];
    struct capture_set set = {
        .policies = policies, .n_policies = 4, .upstreams = upstreams, .n_upstreams = 2};
    struct local_upstream l;
    char why[512] = "";

    CHECK(system("ip link set lo up") == 0);
    CHECK(addr_parse("198.51.100.7:1080", 0, &upstreams[0]) == 0);
    CHECK(addr_parse("127.0.0.1:0", 0, &upstreams[1]) == 0);
    int fd = fd_listen(&upstreams[1], false, &upstreams[1]);

    CHECK(fd >= 0);
    /* Our own program as root: `undersock serve`, which marks what it sends. */
    CHECK(local_upstream_check(&set, 0, &l, why, sizeof(why)) == 0);
    CHECK(l.verdict == LOCAL_UPSTREAM_NONE);

    pid_t child = give_to_another(&fd);

    await_program(&upstreams[1], child);
    CHECK(local_upstream_check(&set, 0, &l, why, sizeof(why)) == 0);
    CHECK(l.verdict == LOCAL_UPSTREAM_REFUSE && addr_equal(&l.at, &upstreams[1]));
    CHECK(strstr(why, "capture host") && strstr(why, "127.0.0.1:") && strstr(why, "sleep"));
    CHECK(strstr(why, "not-uid = { \"root\" }"));
    for (size_t i = 1; i < 4; i++) {
        CHECK(local_upstream_check(&set, i, &l, why, sizeof(why)) == 0);
        CHECK(l.verdict == LOCAL_UPSTREAM_NONE);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK(local_upstream_check(&set, 0, &l, why, sizeof(why)) == 0);
    CHECK(l.verdict == LOCAL_UPSTREAM_NONE);

    /* The same by a child with a user of its own. */
    int ready[2];
    char byte = 0;

    CHECK(pipe(ready) == 0);
    child = fork();
    if (child == 0) {
        CHECK(setresgid(tor, tor, tor) == 0 && setresuid(tor, tor, tor) == 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of ids clears it */
        CHECK(fd_listen(&upstreams[1], false, NULL) >= 0);
        CHECK(write(ready[1], &byte, 1) == 1);
        pause();
        _exit(0);
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    CHECK(local_upstream_check(&set, 0, &l, why, sizeof(why)) == 0);
    CHECK(l.verdict == LOCAL_UPSTREAM_EXCLUDE && l.n_uids == 1 && l.uids[0] == tor);
    CHECK(strstr(why, "not-uid"));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void test_check(void **state)
{
    (void)state;
    in_netns(check_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_user_is_excluded),
        cmocka_unit_test(test_root_is_refused),
        cmocka_unit_test(test_uid_selection),
        cmocka_unit_test(test_two_uids),
        cmocka_unit_test(test_cgroups),
        cmocka_unit_test(test_several_processes),
        cmocka_unit_test(test_unseen_process),
        cmocka_unit_test(test_check),
    };

    return cmocka_run_group_tests_name("local_upstream", tests, NULL, NULL);
}
