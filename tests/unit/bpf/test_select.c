/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/policy.c and connect.bpf.c: what a policy selects is captured, what it does not select goes
 * direct. */
#include "fixture.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

static struct prefix prefix(const char *text)
{
    struct prefix p;

    if (prefix_parse(text, &p) < 0)
        fail_msg("%s", text);
    return p;
}

static struct addr world(const char *ip)
{
    struct addr a;

    if (addr_parse(ip, 0, &a) < 0)
        fail_msg("%s", ip);
    a.port = fixture.world_port;
    return a;
}

/* Both families to the world, under one policy. */
static void expect_both_direct(const struct capture_set *set)
{
    struct bpf_capture *capture = attach(set, 0, fixture.inner_fd);

    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_direct((struct client){.to = "[" WORLD_V6 "]:0"});
    expect_direct((struct client){.to = WORLD_V4 ":0", .family = AF_INET6});
    bpf_capture_detach(capture);
}

static const char *world_text(const char *ip, char buf[ADDR_STRLEN])
{
    struct addr a = world(ip);

    return addr_format(&a, buf);
}

static void expect_both_captured(const struct capture_set *set)
{
    struct bpf_capture *capture = attach(set, 0, fixture.inner_fd);
    char buf[ADDR_STRLEN];

    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0"},
                    world_text(WORLD_V4, buf));
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0", .family = AF_INET6},
                    world_text(WORLD_V4, buf));
    expect_captured(capture, fixture.v6, (struct client){.to = "[" WORLD_V6 "]:0"},
                    world_text(WORLD_V6, buf));
    bpf_capture_detach(capture);
}

static void test_default_exclusions(void **state)
{
    struct bpf_capture *capture;
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    char buf[ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = PRIVATE_V4 ":0"});
    expect_direct((struct client){.to = PRIVATE_V4 ":0", .family = AF_INET6});
    expect_direct((struct client){.to = "127.0.0.1:0"});
    expect_direct((struct client){.to = "[::1]:0"});
    bpf_capture_detach(capture);

    policy.private = true;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_captured(capture, fixture.v4, (struct client){.to = PRIVATE_V4 ":0"},
                    world_text(PRIVATE_V4, buf));
    expect_captured(capture, fixture.v4, (struct client){.to = "127.0.0.1:0"},
                    world_text("127.0.0.1", buf));
    expect_captured(capture, fixture.v6, (struct client){.to = "[::1]:0"}, world_text("::1", buf));
    bpf_capture_detach(capture);
}

/* With `private` the listener is a destination like any other, but for itself. */
static void test_own_listener(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture_counters counters;
    struct bpf_capture *capture;
    struct result result;
    char to[3][ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.private = true;
    capture = attach(&set, 0, fixture.inner_fd);
    snprintf(to[0], sizeof(to[0]), "127.0.0.1:%d", fixture.port_v4);
    snprintf(to[1], sizeof(to[1]), "[::1]:%d", fixture.port_v6);
    snprintf(to[2], sizeof(to[2]), "0.0.0.0:%d", fixture.port_v4);
    for (size_t i = 0; i < N(to); i++) {
        struct client c = {.to = to[i]};

        client_run(&c, &result);
        assert_int_equal(result.error, 0);
        client_done(&result);
    }
    assert_int_equal(bpf_capture_read_counters(capture, &counters), 0);
    assert_int_equal(counters.proxied, 0);
    bpf_capture_detach(capture);
    for (int i = 0; i < 2; i++)
        close(accept4(fixture.v4, NULL, NULL, SOCK_CLOEXEC));
    close(accept4(fixture.v6, NULL, NULL, SOCK_CLOEXEC));
}

static void test_tcp_ports(void **state)
{
    struct port_range ranges[] = {{80, 80}, {0, 0}};
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.tcp_ports = ranges;
    policy.n_tcp_ports = N(ranges);
    ranges[1] = (struct port_range){fixture.world_port, fixture.world_port};
    expect_both_captured(&set);
    ranges[1] = (struct port_range){(uint16_t)(fixture.world_port - 1), 65535};
    expect_both_captured(&set);
    ranges[1] = (struct port_range){(uint16_t)(fixture.world_port + 1), 65535};
    expect_both_direct(&set);
    ranges[1] = (struct port_range){1, (uint16_t)(fixture.world_port - 1)};
    expect_both_direct(&set);
}

static void test_udp_ports_alone_select_no_tcp(void **state)
{
    const struct port_range all = {1, 65535};
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.udp_ports = &all;
    policy.n_udp_ports = 1;
    expect_both_direct(&set);
    policy.tcp_ports = &all;
    policy.n_tcp_ports = 1;
    expect_both_captured(&set);
}

static void test_to_and_not_to(void **state)
{
    struct prefix to[] = {prefix("203.0.113.0/24"), prefix("2001:db8::/32")};
    struct prefix elsewhere[] = {prefix("203.0.114.0/24"), prefix("2001:db9::/32")};
    struct prefix hosts[] = {prefix(WORLD_V4), prefix(WORLD_V6)};
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.to = to;
    policy.n_to = N(to);
    expect_both_captured(&set);
    policy.not_to = elsewhere;
    policy.n_not_to = N(elsewhere);
    expect_both_captured(&set);
    policy.not_to = hosts;
    policy.n_not_to = N(hosts);
    expect_both_direct(&set);
    policy.n_not_to = 0;
    policy.to = elsewhere;
    expect_both_direct(&set);
    /* IPv4 is ::ffff:0:0/96 in the trie; ::/0 must not be taken for it, nor the other way round. */
    struct prefix all_v4 = prefix("0.0.0.0/0");
    struct bpf_capture *capture;
    char buf[ADDR_STRLEN];

    policy.to = &all_v4;
    policy.n_to = 1;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0"},
                    world_text(WORLD_V4, buf));
    expect_direct((struct client){.to = "[" WORLD_V6 "]:0"});
    bpf_capture_detach(capture);
}

static void test_20000_prefixes(void **state)
{
    enum { MANY = 20000 };
    struct prefix *many;
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;
    char buf[ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    many = calloc(MANY, sizeof(*many));
    assert_non_null(many);
    for (int i = 0; i < MANY; i++) {
        char text[PREFIX_STRLEN];

        if (i % 2)
            snprintf(text, sizeof(text), "2001:db8:%x::/48", i + 1);
        else
            snprintf(text, sizeof(text), "100.%d.%d.0/24", 128 + i / 256, i % 256);
        many[i] = prefix(text);
    }
    policy.to = many;
    policy.n_to = MANY;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_direct((struct client){.to = "[" WORLD_V6 "]:0"});
    expect_captured(capture, fixture.v4, (struct client){.to = "100.128.0.9:80"}, "100.128.0.9:80");
    expect_captured(capture, fixture.v4, (struct client){.to = "100.206.30.1:80"},
                    "100.206.30.1:80"); /* the last one of IPv4: 19998 */
    expect_captured(capture, fixture.v6, (struct client){.to = "[2001:db8:4e20::1]:80"},
                    "[2001:db8:4e20::1]:80"); /* the last one of IPv6: 20000 */
    bpf_capture_detach(capture);

    policy.n_to = 0;
    policy.not_to = many;
    policy.n_not_to = MANY;
    many[MANY / 2] = prefix(WORLD_V4);
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_direct((struct client){.to = PRIVATE_V4 ":0"});
    expect_captured(capture, fixture.v6, (struct client){.to = "[" WORLD_V6 "]:0"},
                    world_text(WORLD_V6, buf));
    bpf_capture_detach(capture);
    free(many);
}

static void test_uids(void **state)
{
    const uint32_t uids[] = {65534, 1001}, root = 0;
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;
    char buf[ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.uids = uids;
    policy.n_uids = N(uids);
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_direct((struct client){.to = WORLD_V4 ":0", .uid = 1002});
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0", .uid = 1001},
                    world_text(WORLD_V4, buf));
    bpf_capture_detach(capture);

    policy.n_uids = 0;
    policy.not_uids = uids;
    policy.n_not_uids = N(uids);
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0", .uid = 1001});
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0", .uid = 1002},
                    world_text(WORLD_V4, buf));
    bpf_capture_detach(capture);

    /* Both: selected, less the excepted. */
    policy.uids = uids;
    policy.n_uids = N(uids);
    policy.not_uids = &uids[1];
    policy.n_not_uids = 1;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0", .uid = 1001});
    expect_direct((struct client){.to = WORLD_V4 ":0", .uid = 1002});
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0", .uid = 65534},
                    world_text(WORLD_V4, buf));
    bpf_capture_detach(capture);

    /* uid 0 is a user as any other. */
    policy.uids = &root;
    policy.n_uids = 1;
    policy.n_not_uids = 0;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0", .uid = 1001});
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0"},
                    world_text(WORLD_V4, buf));
    bpf_capture_detach(capture);
}

static void test_mark(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;
    char buf[ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.has_mark = true;
    policy.mark = 0x51;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0"});
    expect_direct((struct client){.to = WORLD_V4 ":0", .mark = 0x52});
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0", .mark = 0x51},
                    world_text(WORLD_V4, buf));
    bpf_capture_detach(capture);
    /* Mark 0 is a mark. */
    policy.mark = 0;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0", .mark = 0x51});
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0"},
                    world_text(WORLD_V4, buf));
    bpf_capture_detach(capture);
}

static void test_own_mark(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {
        .policies = &policy, .n_policies = 1, .own_mark = 0x500, .own_mask = 0xf00};
    struct bpf_capture *capture;
    char buf[ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    capture = attach(&set, 0, fixture.inner_fd);
    expect_direct((struct client){.to = WORLD_V4 ":0", .mark = 0x500});
    expect_direct((struct client){.to = "[" WORLD_V6 "]:0", .mark = 0x1537});
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0", .mark = 0x700},
                    world_text(WORLD_V4, buf));
    expect_captured(capture, fixture.v4, (struct client){.to = WORLD_V4 ":0"},
                    world_text(WORLD_V4, buf));
    bpf_capture_detach(capture);
}

static void test_upstreams(void **state)
{
    struct addr upstreams[2];
    struct capture_policy policy = plain_policy();
    struct capture_set set = {
        .policies = &policy, .n_policies = 1, .upstreams = upstreams, .n_upstreams = 2};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    upstreams[0] = world(WORLD_V4);
    upstreams[1] = world(WORLD_V6);
    expect_both_direct(&set);
    /* Another port of the same host is not the upstream. */
    upstreams[0].port++;
    upstreams[1].port++;
    expect_both_captured(&set);
}

static void test_direct_action(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.action = CAPTURE_DIRECT;
    expect_both_direct(&set);
}

static void test_refuse_action(void **state)
{
    static const struct client clients[] = {
        {.to = WORLD_V4 ":0"},
        {.to = "[" WORLD_V6 "]:0"},
        {.to = WORLD_V4 ":0", .family = AF_INET6},
        {.to = WORLD_V4 ":0", .nonblock = true},
        {.to = WORLD_V4 ":0", .fastopen_send = true},
        {.to = WORLD_V4 ":0", .fastopen_connect = true},
    };
    struct prefix to[] = {prefix(WORLD_V4), prefix(WORLD_V6)};
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.action = CAPTURE_REFUSE;
    policy.to = to;
    policy.n_to = N(to);
    policy.private = true;
    capture = attach(&set, 0, fixture.inner_fd);
    for (size_t i = 0; i < N(clients); i++)
        expect_refused(clients[i], ECONNREFUSED);
    expect_direct((struct client){.to = PRIVATE_V4 ":0"});
    /* The same socket may then go where nobody minds, and tells its peer truly. */
    expect_direct((struct client){.to = WORLD_V4 ":0", .then = PRIVATE_V4 ":0"});
    bpf_capture_detach(capture);
}

static void test_no_listener_for_the_family(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.port_v6 = 0;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80"},
                    "198.51.100.7:80");
    expect_refused((struct client){.to = "[" WORLD_V6 "]:0"}, ECONNREFUSED);
    expect_refused((struct client){.to = "[" WORLD_V6 "]:0", .protocol = IPPROTO_MPTCP},
                   ECONNREFUSED);
    bpf_capture_detach(capture);
}

/* A port that nobody listens on: what a dead worker's captures look like. */
static uint16_t dead_port(void)
{
    uint16_t port = 0;
    int fd = listen_at("127.0.0.1:0", &port);

    assert_true(fd >= 0);
    close(fd);
    return port;
}

static void test_reconnect_leaves_nothing_stale(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.port_v4 = dead_port();
    capture = attach(&set, 0, fixture.inner_fd);
    expect_refused((struct client){.to = "198.51.100.7:80"}, ECONNREFUSED);
    /* Captured and failed, then excluded: the second peer is the true one. */
    expect_direct((struct client){.to = "198.51.100.7:80", .then = PRIVATE_V4 ":0"});
    /* Its interface was taken away for the first connect(): it must not leave by another one. */
    expect_refused(
        (struct client){.to = "198.51.100.7:80", .device = "us0", .then = PRIVATE_V4 ":0"},
        ECONNREFUSED);
    bpf_capture_detach(capture);

    /* Captured twice, in two families on one socket: the origin is the second one's. */
    policy.port_v6 = dead_port();
    policy.port_v4 = fixture.port_v4;
    capture = attach(&set, 0, fixture.inner_fd);
    expect_captured(
        capture, fixture.v4,
        (struct client){.to = "[2001:db8:7::9]:81", .family = AF_INET6, .then = "198.51.100.7:80"},
        "198.51.100.7:80");
    bpf_capture_detach(capture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_exclusions),
        cmocka_unit_test(test_own_listener),
        cmocka_unit_test(test_tcp_ports),
        cmocka_unit_test(test_udp_ports_alone_select_no_tcp),
        cmocka_unit_test(test_to_and_not_to),
        cmocka_unit_test(test_20000_prefixes),
        cmocka_unit_test(test_uids),
        cmocka_unit_test(test_mark),
        cmocka_unit_test(test_own_mark),
        cmocka_unit_test(test_upstreams),
        cmocka_unit_test(test_direct_action),
        cmocka_unit_test(test_refuse_action),
        cmocka_unit_test(test_no_listener_for_the_family),
        cmocka_unit_test(test_reconnect_leaves_nothing_stale),
    };

    return cmocka_run_group_tests_name("bpf select", tests, fixture_setup, fixture_teardown);
}
