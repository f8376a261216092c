/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * UDP of the cgroup in a network namespace where no nftables rules of ours are: what a capture
 * selects is refused there or left alone, as TCP is, and everything else passes.
 */
#include "fixture.h"

/* A namespace that has the world's addresses, and private ones, of its own. */
#define NAMESPACE                                                                            \
    "ip link set lo up && ip addr add " WORLD_V4 "/32 dev lo && ip addr add "                \
    "203.0.113.2/32 dev lo && ip addr add " PRIVATE_V4 "/32 dev lo && ip addr add " WORLD_V6 \
    "/128 dev lo nodad && "                                                                  \
    "ip addr add fd00::9/128 dev lo nodad && ip route add 224.0.0.0/4 dev lo && "            \
    "ip route add default dev lo && "                                                        \
    "ip -6 route add default dev lo"

static struct capture_policy udp_policy(void)
{
    struct capture_policy policy = plain_policy();

    policy.udp = CAPTURE_UDP_TAKE;
    return policy;
}

/* What the first datagram of a socket comes to, in a namespace of its own. */
static int try(struct client c)
{
    struct result result;

    c.type = SOCK_DGRAM;
    c.netns = NAMESPACE;
    client_run(&c, &result);
    client_done(&result);
    return result.error;
}

static int send_to(const char *to)
{
    return try((struct client){.to = to, .datagram = true});
}

static void test_refused(void **state)
{
    static const struct client clients[] = {
        {.to = WORLD_V4 ":9000", .datagram = true},
        {.to = "[" WORLD_V6 "]:9000", .datagram = true},
        {.to = WORLD_V4 ":9000", .family = AF_INET6, .datagram = true},
        {.to = WORLD_V4 ":9000"},
        {.to = "[" WORLD_V6 "]:9000"},
        {.to = WORLD_V4 ":9000", .family = AF_INET6},
        {.to = WORLD_V4 ":53", .datagram = true},
    };
    struct capture_policy policy = udp_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture_counters counters;
    struct bpf_capture *capture;
    struct seen seen = {0};
    int n = 0;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (int i = 0; i < 2; i++) {
        policy.udp = i == 0 ? CAPTURE_UDP_TAKE : CAPTURE_UDP_REJECT;
        capture = attach(&set, 0, fixture.inner_fd);
        n = 0;
        for (size_t k = 0; k < sizeof(clients) / sizeof(clients[0]); k++) {
            assert_int_equal(try(clients[k]), ECONNREFUSED);
            assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 1);
            assert_true(seen.last.refused);
            assert_string_equal(seen.last.comm, "us-client");
            n++;
        }
        assert_int_equal(bpf_capture_read_counters(capture, &counters), 0);
        assert_int_equal(counters.foreign, n);
        assert_int_equal(counters.refused, n);
        bpf_capture_detach(capture);
    }
    assert_int_equal(send_to(WORLD_V4 ":9000"), 0);
}

/* Each again on the same socket, so that it is no matter of the first datagram. One event. */
static void test_refused_again(void **state)
{
    struct capture_policy policy = udp_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct client c = {.to = WORLD_V4 ":9000",
                       .then = WORLD_V4 ":9000",
                       .type = SOCK_DGRAM,
                       .netns = NAMESPACE,
                       .datagram = true};
    struct bpf_capture *capture;
    struct seen seen = {0};
    struct result result;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    capture = attach(&set, 0, fixture.inner_fd);
    client_run(&c, &result);
    assert_int_equal(result.error, ECONNREFUSED);
    assert_int_equal(result.then_error, ECONNREFUSED);
    client_done(&result);
    assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 1);
    bpf_capture_detach(capture);
}

static void test_direct(void **state)
{
    struct capture_policy policy = udp_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;
    struct seen seen = {0};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.when_down = CAPTURE_DOWN_DIRECT;
    capture = attach(&set, 0, fixture.inner_fd);
    assert_int_equal(send_to(WORLD_V4 ":9000"), 0);
    assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 1);
    assert_false(seen.last.refused);
    assert_int_equal(try((struct client){.to = "[" WORLD_V6 "]:9000"}), 0);
    bpf_capture_detach(capture);
    /* What upstream = "refuse" refuses needs no daemon. */
    policy.action = CAPTURE_REFUSE;
    capture = attach(&set, 0, fixture.inner_fd);
    assert_int_equal(send_to(WORLD_V4 ":9000"), ECONNREFUSED);
    bpf_capture_detach(capture);
}

/* At home nftables see to it; only their own rules refuse anything. */
static void test_at_home(void **state)
{
    struct capture_policy policy = udp_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct client c = {.to = WORLD_V4 ":9000", .type = SOCK_DGRAM, .datagram = true};
    struct bpf_capture *capture;
    struct seen seen = {0};
    struct result result;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    capture = attach(&set, 0, fixture.inner_fd);
    client_run(&c, &result);
    client_done(&result);
    assert_int_equal(result.error, 0);
    assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 0);
    bpf_capture_detach(capture);
}

struct choice {
    const char *title;
    struct capture_policy policy; /* besides the plain one */
    const char *to;
    uint32_t mark;
    uid_t uid;
    bool refused;
};

static const struct port_range web[] = {{443, 443}, {8000, 8999}}, dns_port[] = {{53, 53}};
static const struct prefix one_v4[] = {
    {{[10] = 0xff, [11] = 0xff, [12] = 203, [14] = 113, [15] = 1}, 128}};
static const uint32_t nobody[] = {65534};

#define TAKE .udp = CAPTURE_UDP_TAKE
static const struct choice choices[] = {
    {"private", {TAKE}, PRIVATE_V4 ":9", .refused = false},
    {"private, IPv6", {TAKE}, "[fd00::9]:9", .refused = false},
    {"private = true", {TAKE, .private = true}, PRIVATE_V4 ":9", .refused = true},
    {"private = true, IPv6", {TAKE, .private = true}, "[fd00::9]:9", .refused = true},
    {"loopback", {TAKE, .private = true, .dns = true}, "127.0.0.53:53", .refused = false},
    {"loopback, IPv6", {TAKE, .private = true, .dns = true}, "[::1]:53", .refused = false},
    {"unspecified", {TAKE, .private = true}, "0.0.0.0:9", .refused = false},
    {"multicast", {TAKE, .private = true}, "224.0.0.251:5353", .refused = false},
    {"to", {TAKE, .to = one_v4, .n_to = 1}, WORLD_V4 ":9", .refused = true},
    {"to: not another", {TAKE, .to = one_v4, .n_to = 1}, "203.0.113.2:9", .refused = false},
    {"to: no IPv6", {TAKE, .to = one_v4, .n_to = 1}, "[" WORLD_V6 "]:9", .refused = false},
    {"not-to", {TAKE, .not_to = one_v4, .n_not_to = 1}, WORLD_V4 ":9", .refused = false},
    {"not-to: another", {TAKE, .not_to = one_v4, .n_not_to = 1}, "203.0.113.2:9", .refused = true},
    {"udp-ports", {TAKE, .udp_ports = web, .n_udp_ports = 2}, WORLD_V4 ":8500", .refused = true},
    {"udp-ports: not", {TAKE, .udp_ports = web, .n_udp_ports = 2}, WORLD_V4 ":9", .refused = false},
    {"tcp-ports only",
     {TAKE, .tcp_ports = web, .n_tcp_ports = 2},
     WORLD_V4 ":443",
     .refused = false},
    {"both kinds",
     {TAKE, .tcp_ports = dns_port, .n_tcp_ports = 1, .udp_ports = web, .n_udp_ports = 2},
     WORLD_V4 ":53",
     .refused = false},
    {"uid", {TAKE, .uids = nobody, .n_uids = 1}, WORLD_V4 ":9", .uid = 65534, .refused = true},
    {"uid: not another", {TAKE, .uids = nobody, .n_uids = 1}, WORLD_V4 ":9", .refused = false},
    {"not-uid",
     {TAKE, .not_uids = nobody, .n_not_uids = 1},
     WORLD_V4 ":9",
     .uid = 65534,
     .refused = false},
    {"mark", {TAKE, .has_mark = true, .mark = 7}, WORLD_V4 ":9", .mark = 7, .refused = true},
    {"mark: not without", {TAKE, .has_mark = true, .mark = 7}, WORLD_V4 ":9", .refused = false},
    {"our own", {TAKE}, WORLD_V4 ":9", .mark = CAPTURE_OWN_MARK, .refused = false},
    {"udp = bypass", {.udp = CAPTURE_UDP_LEAVE}, WORLD_V4 ":9", .refused = false},
    {"dns = bypass, too", {.udp = CAPTURE_UDP_LEAVE}, WORLD_V4 ":53", .refused = false},
    {"udp = bypass, not dns", {.dns = true}, PRIVATE_V4 ":53", .refused = true},
    {"udp = bypass, not dns: others", {.dns = true}, WORLD_V4 ":9", .refused = false},
    {"dns whatever ports say",
     {.dns = true, .tcp_ports = web, .n_tcp_ports = 2},
     WORLD_V4 ":53",
     .refused = true},
    {"dns = bypass, not udp", {TAKE, .dns_direct = true}, WORLD_V4 ":53", .refused = false},
    {"dns = bypass, not udp: others", {TAKE, .dns_direct = true}, WORLD_V4 ":9", .refused = true},
    {"fake", {.fake = true}, "198.18.0.1:9", .refused = true},
    {"fake, IPv6", {.fake = true}, "[fdf6:6931:7149::1]:9", .refused = true},
    {"direct", {TAKE, .action = CAPTURE_DIRECT, .dns = true}, WORLD_V4 ":53", .refused = false},
    {"refuse",
     {.udp = CAPTURE_UDP_REJECT, .action = CAPTURE_REFUSE},
     WORLD_V4 ":9",
     .refused = true},
    {"refuse, udp = bypass", {.action = CAPTURE_REFUSE}, WORLD_V4 ":9", .refused = false},
};

static void test_selection(void **state)
{
    struct capture_policy policy;
    struct capture_set set = {.policies = &policy,
                              .n_policies = 1,
                              .own_mark = CAPTURE_OWN_MARK,
                              .own_mask = CAPTURE_OWN_MASK};
    int wrong = 0;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < sizeof(choices) / sizeof(choices[0]); i++) {
        const struct choice *c = &choices[i];
        struct bpf_capture *capture;
        int error;

        policy = c->policy;
        policy.port_v4 = fixture.port_v4;
        policy.port_v6 = fixture.port_v6;
        capture = attach(&set, 0, fixture.inner_fd);
        error = try((struct client){.to = c->to, .mark = c->mark, .uid = c->uid, .datagram = true});
        bpf_capture_detach(capture);
        if (error != (c->refused ? ECONNREFUSED : 0)) {
            print_error("%s: %s\n", c->title, strerror(error));
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

/* The first match wins, also when the policies change under a socket. */
static void test_first_match_wins(void **state)
{
    struct capture_policy policies[2] = {udp_policy(), udp_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 2};
    struct client c = {.to = WORLD_V4 ":9000",
                       .then = WORLD_V4 ":9000",
                       .type = SOCK_DGRAM,
                       .netns = NAMESPACE,
                       .datagram = true,
                       .pause = true};
    struct bpf_capture *captures[2];
    struct result result;
    char why[BPF_WHY_MAX];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (int direct = 0; direct < 2; direct++) {
        policies[direct].action = CAPTURE_DIRECT;
        policies[!direct].action = CAPTURE_PROXY;
        for (int i = 0; i < 2; i++)
            captures[i] = attach(&set, (size_t)i, fixture.inner_fd);
        assert_int_equal(send_to(WORLD_V4 ":9000"), direct == 0 ? 0 : ECONNREFUSED);
        assert_int_equal(try((struct client){.to = "[" WORLD_V6 "]:9000"}),
                         direct == 0 ? 0 : ECONNREFUSED);

        /* Left alone by one of them; then the other one is the only one to select it. */
        policies[!direct].not_to = one_v4;
        policies[!direct].n_not_to = 1;
        assert_int_equal(
            bpf_cgroup_replace(captures[!direct], &set, (size_t)!direct, why, sizeof(why)), 0);
        client_run(&c, &result);
        assert_int_equal(result.error, 0);
        policies[!direct].n_not_to = 0;
        policies[direct].not_to = one_v4;
        policies[direct].n_not_to = 1;
        for (int i = 0; i < 2; i++)
            assert_int_equal(bpf_cgroup_replace(captures[i], &set, (size_t)i, why, sizeof(why)), 0);
        client_resume(&result);
        assert_int_equal(result.then_error, ECONNREFUSED);
        client_done(&result);
        policies[direct].n_not_to = 0;
        for (int i = 0; i < 2; i++)
            bpf_capture_detach(captures[i]);
    }
}

/* Attaches as if we were in a network namespace that nobody is in. */
static struct bpf_capture *attach_elsewhere(const struct capture_set *set, size_t i, int cgroup)
{
    int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    struct bpf_capture *capture;

    assert_true(here >= 0);
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    capture = attach(set, i, cgroup);
    assert_int_equal(setns(here, CLONE_NEWNET), 0);
    close(here);
    return capture;
}

/* Who has captures of his own where the socket is decides, as far as these select. */
static void test_capture_inside(void **state)
{
    struct capture_policy policies[2] = {udp_policy(), udp_policy()};
    struct capture_set set = {.policies = policies, .n_policies = 2};
    struct client c = {.to = WORLD_V4 ":9000",
                       .then = WORLD_V4 ":9000",
                       .type = SOCK_DGRAM,
                       .datagram = true,
                       .pause = true};
    struct bpf_capture *inside, *around;
    struct result result;
    char why[BPF_WHY_MAX];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    around = attach_elsewhere(&set, 0, fixture.outer_fd);
    inside = attach(&set, 1, fixture.inner_fd);
    client_run(&c, &result);
    assert_int_equal(result.error, 0);
    policies[1].not_to = one_v4;
    policies[1].n_not_to = 1;
    assert_int_equal(bpf_cgroup_replace(inside, &set, 1, why, sizeof(why)), 0);
    client_resume(&result);
    assert_int_equal(result.then_error, ECONNREFUSED);
    client_done(&result);
    bpf_capture_detach(inside);
    bpf_capture_detach(around);
}

/* Each datagram of a socket is decided anew: who left the first one alone is gone, or does not
 * select the second one, and somebody else does. */
static void test_decisions_do_not_outlive_a_datagram(void **state)
{
    enum { GONE, REPLACED, INSIDE, N_WAYS };

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (int way = 0; way < N_WAYS; way++) {
        struct capture_policy policies[2] = {udp_policy(), udp_policy()};
        struct capture_set set = {.policies = policies, .n_policies = 2};
        struct client c = {.to = WORLD_V4 ":9000",
                           .then = WORLD_V4 ":9000",
                           .type = SOCK_DGRAM,
                           .netns = way == INSIDE ? NULL : NAMESPACE,
                           .datagram = true,
                           .pause = true};
        struct bpf_capture *first, *second = NULL;
        char why[BPF_WHY_MAX];
        struct result result;

        policies[0].action = way == INSIDE ? CAPTURE_PROXY : CAPTURE_DIRECT;
        first = attach(&set, 0, fixture.inner_fd);
        if (way == GONE)
            second = attach(&set, 1, fixture.inner_fd);
        client_run(&c, &result);
        assert_int_equal(result.error, 0);
        policies[0].not_to = one_v4;
        policies[0].n_not_to = 1;
        if (way == GONE)
            bpf_capture_detach(first);
        else
            assert_int_equal(bpf_cgroup_replace(first, &set, 0, why, sizeof(why)), 0);
        if (way == REPLACED)
            second = attach(&set, 1, fixture.inner_fd);
        else if (way == INSIDE)
            second = attach_elsewhere(&set, 1, fixture.outer_fd);
        client_resume(&result);
        assert_int_equal(result.then_error, ECONNREFUSED);
        client_done(&result);
        bpf_capture_detach(second);
        if (way != GONE)
            bpf_capture_detach(first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_again),
        cmocka_unit_test(test_direct),
        cmocka_unit_test(test_at_home),
        cmocka_unit_test(test_selection),
        cmocka_unit_test(test_first_match_wins),
        cmocka_unit_test(test_capture_inside),
        cmocka_unit_test(test_decisions_do_not_outlive_a_datagram),
    };

    return cmocka_run_group_tests_name("bpf datagrams", tests, fixture_setup, fixture_teardown);
}
