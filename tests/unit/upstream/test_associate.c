/* SPDX-License-Identifier: GPL-2.0-or-later */
/* upstream/dial.c, asking for UDP: what is asked, where the relay is, and whose fault a no is. */
#include "dial_rig.h"

#define ASSOCIATE BYTES("\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")

static void associate(struct rig *r)
{
    if (!r->all)
        build(r);
    r->result = dial_associate(&r->dial, &r->all[0], &r->env);
    assert_int_equal(r->result, DIAL_PENDING);
    fd_close(&r->server);
    r->server = drive_accept(&r->d, r->listener);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, ASSOCIATE);
}

static void test_granted(void **state)
{
    struct rig *r = *state;
    struct addr relay;
    bool named = false;

    associate(r);
    /* What follows the reply stays in the socket. */
    put(r->server, BYTES("\x05\x00\x00\x01\x0a\x01\x02\x03\x12\x34more"));
    wait_for(r, DIAL_GRANTED);
    assert_int_equal(dial_relay(&r->dial, &relay, &named), 0);
    assert_true(named);
    struct addr want;

    assert_int_equal(addr_parse("10.1.2.3:4660", 0, &want), 0);
    assert_true(addr_equal(&relay, &want));
    int fd = dial_take(&r->dial);
    char buf[8];

    assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 4);
    close(fd);
}

/* A peer, what it names, and where the relay is. */
static void test_relay(void **state)
{
    static const struct {
        const char *peer, *bound, *relay;
        bool named;
    } cases[] = {
        {"192.0.2.1", "192.0.2.9", "192.0.2.9", true},
        {"192.0.2.1", "0.0.0.0", "192.0.2.1", false},
        {"192.0.2.1", "::", "192.0.2.1", false},
        {"192.0.2.1", "127.0.0.1", "192.0.2.1", false},
        {"192.0.2.1", "::1", "192.0.2.1", false},
        {"192.0.2.1", "10.0.0.5", "192.0.2.1", false}, /* behind a NAT of its own */
        {"192.0.2.1", "fd00::5", "192.0.2.1", false},
        {"192.0.2.1", "239.1.1.1", "192.0.2.1", false},
        {"192.0.2.1", "ff02::1", "192.0.2.1", false},
        {"192.0.2.1", "2001:db8::9", "2001:db8::9", true},
        {"10.0.0.1", "10.0.0.5", "10.0.0.5", true},
        {"10.0.0.1", "192.0.2.9", "192.0.2.9", true},
        {"10.0.0.1", "127.0.0.1", "10.0.0.1", false},
        {"10.0.0.1", "224.0.0.1", "10.0.0.1", false},
        {"127.0.0.1", "127.0.0.1", "127.0.0.1", true},
        {"127.0.0.1", "10.0.0.5", "10.0.0.5", true},
        {"2001:db8::1", "0.0.0.0", "2001:db8::1", false},
        {"2001:db8::1", "2001:db8::2", "2001:db8::2", true},
    };
    struct rig *r = *state;

    build(r);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct addr relay = {.port = 1}, want;
        bool named = !cases[i].named;

        r->dial = (struct dial){.upstream = &r->all[0], .fd = -1, .associate = true};
        assert_int_equal(addr_parse(cases[i].peer, 1080, &r->all[0].hops[0].addrs[0]), 0);
        assert_int_equal(addr_parse(cases[i].bound, 5000, &r->dial.handshake.bound), 0);
        assert_int_equal(addr_parse(cases[i].relay, 5000, &want), 0);
        assert_int_equal(dial_relay(&r->dial, &relay, &named), 0);
        if (!addr_equal(&relay, &want) || named != cases[i].named)
            fail_msg("%s named %s", cases[i].peer, cases[i].bound);
        assert_int_equal(dial_relay(&r->dial, &relay, NULL), 0);
        r->dial.handshake.bound.port = 0;
        assert_int_equal(dial_relay(&r->dial, &relay, &named), -EPROTO);
    }
}

static void test_name_as_relay(void **state)
{
    struct rig *r = *state;
    struct addr relay, want = r->at;
    bool named = true;

    associate(r);
    put(r->server, BYTES("\x05\x00\x00\x03\x05relay\x12\x34"));
    wait_for(r, DIAL_GRANTED);
    assert_int_equal(dial_relay(&r->dial, &relay, &named), 0);
    want.port = 0x1234;
    assert_true(addr_equal(&relay, &want));
    assert_false(named);
}

static void expect_denied(struct rig *r, bool denied)
{
    wait_for(r, DIAL_FAILED);
    assert_int_equal(dial_udp_denied(&r->dial), denied);
}

/* A no to the question, in any of its forms, is a denial. */
static void test_denied(void **state)
{
    struct rig *r = *state;

    for (uint8_t rep = 1; rep < 10; rep++) {
        uint8_t reply[10] = {5, rep, 0, 1};

        associate(r);
        put(r->server, reply, sizeof(reply));
        expect_denied(r, true);
        assert_true(dial_was_answered(&r->dial));
        assert_int_equal(r->dial.handshake.rep, rep);
    }
    associate(r);
    put(r->server, BYTES("HTTP/1.1 400"));
    expect_denied(r, true);
    assert_false(dial_was_answered(&r->dial));
    associate(r);
    fd_close(&r->server);
    expect_denied(r, true);
    associate(r);
    assert_int_equal(loop_timer_set(r->d.loop, &r->timer, 1, r->env.ref), 0);
    expect_denied(r, true);
}

/* What fails before the question is the upstream's fault. */
static void test_not_denied(void **state)
{
    struct rig *r = *state;

    build(r);
    r->result = dial_associate(&r->dial, &r->all[0], &r->env);
    r->server = drive_accept(&r->d, r->listener);
    drive_expect(&r->d, r->server, GREETING);
    fd_close(&r->server);
    expect_denied(r, false);
    assert_true(dial_upstream_at_fault(&r->dial));

    r->all[0].hops[0].addrs[0] = refusing();
    r->result = dial_associate(&r->dial, &r->all[0], &r->env);
    expect_denied(r, false);
    assert_true(dial_upstream_at_fault(&r->dial));
}

/* The question is of the family that the upstream is reached by. */
static void test_ipv6(void **state)
{
    struct rig *r = *state;
    struct addr at;

    build(r);
    assert_int_equal(addr_parse("::1", 0, &at), 0);
    int listener = fd_listen(&at, 0, &at);

    if (listener < 0) {
        print_message("skipped: no IPv6\n");
        skip();
    }
    r->all[0].hops[0].addrs[0] = at;
    r->result = dial_associate(&r->dial, &r->all[0], &r->env);
    r->server = drive_accept(&r->d, listener);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server,
                 BYTES("\x05\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
                       "\x00\x00\x00\x00"));
    close(listener);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_rig, close_rig)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_granted), TEST(test_relay),      TEST(test_name_as_relay),
        TEST(test_denied),  TEST(test_not_denied), TEST(test_ipv6),
    };

    return cmocka_run_group_tests_name("upstream/associate", tests, ignore_sigpipe, NULL);
}
