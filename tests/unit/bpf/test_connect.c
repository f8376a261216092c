/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/connect.bpf.c: every kind of socket that connects is captured whole, and sees the peer it
 * asked for. */
#include "fixture.h"

static struct bpf_capture *capture;

static int setup(void **state)
{
    int r = fixture_setup(state);

    if (r == 0 && fixture.skip[0] == '\0') {
        struct capture_policy policy = plain_policy();
        struct capture_set set = {.policies = &policy, .n_policies = 1};

        capture = attach(&set, 0, fixture.inner_fd);
    }
    return r;
}

static int teardown(void **state)
{
    bpf_capture_detach(capture);
    return fixture_teardown(state);
}

static void test_ipv4(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80"},
                    "198.51.100.7:80");
}

static void test_ipv6(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v6, (struct client){.to = "[2001:db8:7::9]:443"},
                    "[2001:db8:7::9]:443");
}

static void test_v4_mapped(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v4,
                    (struct client){.to = "198.51.100.7:65535", .family = AF_INET6},
                    "198.51.100.7:65535");
}

static void test_other_users(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80", .uid = 65534},
                    "198.51.100.7:80");
}

static void test_non_blocking(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80", .nonblock = true},
                    "198.51.100.7:80");
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .nonblock = true},
                    "[2001:db8:7::9]:80");
}

/* A source address that is not loopback reaches a loopback listener, with rp_filter on. */
static void test_bound_before_connect(void **state)
{
    static const struct client clients[] = {
        {.to = "198.51.100.7:80", .bind = PRIVATE_V4 ":0"},
        {.to = "198.51.100.7:80", .bind = "192.0.2.1:0"},
        {.to = "198.51.100.7:80", .bind = "192.0.2.1:45671"},
        {.to = "198.51.100.7:80", .bind = "0.0.0.0:45672"},
    };

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++)
        expect_captured(capture, fixture.v4, clients[i], "198.51.100.7:80");
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .bind = "[" WORLD_V6 "]:0"},
                    "[2001:db8:7::9]:80");
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .bind = "[2001:db8:2::1]:0"},
                    "[2001:db8:7::9]:80");
}

static void test_bound_to_device(void **state)
{
    struct bpf_capture_counters counters;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80", .device = "us0"},
                    "198.51.100.7:80");
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .device = "us0"},
                    "[2001:db8:7::9]:80");
    /* Only CAP_NET_RAW may take a socket from its interface, and the hook has the client's
     * privileges: what cannot reach our listener is refused, not left to time out or to leave by
     * that interface. */
    expect_refused((struct client){.to = "198.51.100.7:80", .device = "us0", .uid = 65534},
                   ECONNREFUSED);
    assert_int_equal(bpf_capture_read_counters(capture, &counters), 0);
    assert_int_equal(counters.failed, 1);
}

static void test_v6only(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .v6only = true},
                    "[2001:db8:7::9]:80");
    /* What the kernel refuses by itself it still refuses, the same way. */
    expect_refused((struct client){.to = "198.51.100.7:80", .family = AF_INET6, .v6only = true},
                   ENETUNREACH);
}

static void test_mptcp(void **state)
{
    int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    if (fd < 0) {
        print_message("skipped: no MPTCP in this kernel\n");
        skip();
    }
    close(fd);
    expect_captured(capture, fixture.v4,
                    (struct client){.to = "198.51.100.7:80", .protocol = IPPROTO_MPTCP},
                    "198.51.100.7:80");
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .protocol = IPPROTO_MPTCP},
                    "[2001:db8:7::9]:80");
    expect_captured(
        capture, fixture.v4,
        (struct client){.to = "198.51.100.7:80", .protocol = IPPROTO_MPTCP, .nonblock = true},
        "198.51.100.7:80");
    expect_captured(
        capture, fixture.v4,
        (struct client){.to = "198.51.100.7:80", .protocol = IPPROTO_MPTCP, .family = AF_INET6},
        "198.51.100.7:80");
}

/* Data in the SYN: by an option, where connect() sends nothing, and by sendto(), without connect().
 */
static void test_fast_open(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_captured(capture, fixture.v4,
                    (struct client){.to = "198.51.100.7:80", .fastopen_connect = true},
                    "198.51.100.7:80");
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .fastopen_connect = true},
                    "[2001:db8:7::9]:80");
    expect_captured(capture, fixture.v4,
                    (struct client){.to = "198.51.100.7:80", .fastopen_send = true},
                    "198.51.100.7:80");
    expect_captured(capture, fixture.v6,
                    (struct client){.to = "[2001:db8:7::9]:80", .fastopen_send = true},
                    "[2001:db8:7::9]:80");
    expect_captured(
        capture, fixture.v4,
        (struct client){.to = "198.51.100.7:80", .fastopen_send = true, .family = AF_INET6},
        "198.51.100.7:80");
}

static void test_many_at_once(void **state)
{
    enum { N = 40 };
    struct result results[N];
    struct client clients[N];
    char texts[N][ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (int i = 0; i < N; i++) {
        snprintf(texts[i], sizeof(texts[i]), "198.51.100.%d:%d", i, 1000 + i);
        clients[i] = (struct client){.to = texts[i]};
        client_run(&clients[i], &results[i]);
    }
    for (int i = 0; i < N; i++)
        assert_captured(capture, fixture.v4, &clients[i], &results[i], texts[i]);
    for (int i = 0; i < N; i++)
        client_done(&results[i]);
}

static void test_udp_is_untouched(void **state)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    struct result result;
    char to[ADDR_STRLEN], buf[8];
    socklen_t len = sizeof(any);
    int server;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server, (struct sockaddr *)&any, sizeof(any)), 0);
    assert_int_equal(getsockname(server, (struct sockaddr *)&any, &len), 0);
    snprintf(to, sizeof(to), WORLD_V4 ":%d", ntohs(any.sin_port));
    struct client c = {.to = to, .type = SOCK_DGRAM};

    client_run(&c, &result);
    assert_int_equal(result.error, 0);
    assert_addr(&result.peer, to);
    client_done(&result);
    struct bpf_capture_counters before, after;

    assert_int_equal(bpf_capture_read_counters(capture, &before), 0);
    c = (struct client){.to = to, .type = SOCK_DGRAM, .fastopen_send = false, .family = AF_INET6};
    client_run(&c, &result);
    assert_int_equal(result.error, 0);
    assert_addr(&result.peer, to);
    client_done(&result);
    assert_int_equal(bpf_capture_read_counters(capture, &after), 0);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_int_equal(recv(server, buf, sizeof(buf), MSG_DONTWAIT), -1);
    close(server);
}

static void test_nobody_else_is_touched(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    /* Outside the cgroup, in its parent. */
    expect_direct((struct client){.to = WORLD_V4 ":0", .outer = true});
    expect_direct((struct client){.to = "[" WORLD_V6 "]:0", .outer = true});
}

/* A direct connection to our listener has no origin: the worker must not invent one. */
static void test_direct_to_the_listener(void **state)
{
    struct addr peer, local;
    struct origin origin;
    struct result result;
    char to[ADDR_STRLEN];
    int fd;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    snprintf(to, sizeof(to), "127.0.0.1:%d", fixture.port_v4);
    struct client c = {.to = to};

    client_run(&c, &result);
    assert_int_equal(result.error, 0);
    assert_addr(&result.peer, to);
    fd = accept_one(fixture.v4, &peer, &local);
    assert_true(fd >= 0);
    assert_int_equal(origin_of(capture, fd, &peer, &local, &origin), -ENOENT);
    close(fd);
    client_done(&result);
}

static void test_counters(void **state)
{
    struct bpf_capture_counters before, after;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(bpf_capture_read_counters(capture, &before), 0);
    expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80"},
                    "198.51.100.7:80");
    assert_int_equal(bpf_capture_read_counters(capture, &after), 0);
    assert_int_equal(after.proxied, before.proxied + 1);
    assert_int_equal(after.lost, 0);
    assert_int_equal(after.failed, before.failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ipv4),
        cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_v4_mapped),
        cmocka_unit_test(test_other_users),
        cmocka_unit_test(test_non_blocking),
        cmocka_unit_test(test_bound_before_connect),
        cmocka_unit_test(test_bound_to_device),
        cmocka_unit_test(test_v6only),
        cmocka_unit_test(test_mptcp),
        cmocka_unit_test(test_fast_open),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_udp_is_untouched),
        cmocka_unit_test(test_nobody_else_is_touched),
        cmocka_unit_test(test_direct_to_the_listener),
        cmocka_unit_test(test_counters),
    };

    return cmocka_run_group_tests_name("bpf connect", tests, setup, teardown);
}
