/* SPDX-License-Identifier: GPL-2.0-or-later */
/* upstream/dial.c against servers that say what the test has them say, over real sockets. */
#include "tests/unit/upstream/dial_rig.h"

static void granted_without_authentication(void **state)
{
    struct rig *r = *state;

    begin_and_accept(r, 1);
    expect_handshake(r);
    put(r->server, SUCCEEDED);
    expect_granted(r, "");
}

static void granted_with_user_and_password(void **state)
{
    struct rig *r = *state;
    struct config_url *u = &r->hops[0].url;

    u->has_user = u->has_password = true;
    strcpy(u->user, "alice");
    strcpy(u->password, "s3cret");
    begin_and_accept(r, 1);
    drive_expect(&r->d, r->server, BYTES("\x05\x02\x00\x02"));
    put(r->server, BYTES("\x05\x02"));
    drive_expect(&r->d, r->server,
                 BYTES("\x01\x05"
                       "alice\x06"
                       "s3cret"));
    put(r->server, BYTES("\x01\x00"));
    drive_expect(&r->d, r->server, REQUEST);
    put(r->server, SUCCEEDED);
    expect_granted(r, "");
}

static void a_wrong_password_is_said_without_the_password(void **state)
{
    struct rig *r = *state;
    struct config_url *u = &r->hops[0].url;
    char why[256];

    u->has_user = u->has_password = true;
    strcpy(u->user, "alice");
    strcpy(u->password, "s3cret");
    begin_and_accept(r, 1);
    put(r->server, BYTES("\x05\x02"));
    drive_expect(&r->d, r->server,
                 BYTES("\x05\x02\x00\x02\x01\x05"
                       "alice\x06"
                       "s3cret"));
    put(r->server, BYTES("\x01\x01"));
    expect_failed(r, DIAL_HANDSHAKE, ECONNREFUSED, true);
    assert_int_equal(r->dial.handshake.fault, HANDSHAKE_AUTH);
    expect_described(r, "user name or password");
    dial_describe(&r->dial, why, sizeof(why));
    assert_null(strstr(why, "s3cret"));
    assert_null(strstr(why, "alice"));
}

/* Replies of all kinds, whole and a byte at a time, with the destination's first words behind them.
 */
static void application_bytes_behind_the_reply_stay_unread(void **state)
{
    static const struct {
        const char *reply;
        size_t len;
    } replies[] = {
        {SUCCEEDED},
        {BYTES("\x05\x00\x00\x03\x0bproxy.local\x00\x50")}, /* BND.ADDR is a name */
        {BYTES("\x05\x00\x00\x03\x00\x00\x00")},
        {BYTES("\x05\x00\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50")},
    };
    struct rig *r = *state;

    for (size_t i = 0; i < 2 * sizeof(replies) / sizeof(replies[0]); i++) {
        size_t len = replies[i / 2].len;
        char bytes[64];

        memcpy(bytes, replies[i / 2].reply, len);
        memcpy(bytes + len, "220 hello\r\n", 11);
        begin_and_accept(r, 1);
        expect_handshake(r);
        if (i % 2) {
            for (size_t k = 0; k + 1 < len; k++) {
                drive_put(&r->d, r->server, bytes + k, 1);
                assert_int_equal(r->result, DIAL_PENDING);
            }
            put(r->server, bytes + len - 1, 12);
        } else {
            put(r->server, bytes, len + 11);
        }
        expect_granted(r, "220 hello\r\n");
    }
}

/* All that the server will ever say at once, before it was asked. */
static void a_hasty_server_is_read_message_by_message(void **state)
{
    struct rig *r = *state;

    begin_and_accept(r, 1);
    put(r->server, BYTES("\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
                         "data"));
    drive_expect(&r->d, r->server, GREETING);
    drive_expect(&r->d, r->server, REQUEST);
    expect_granted(r, "data");
}

static void each_reply_code_reaches_the_application(void **state)
{
    static const struct {
        uint8_t code;
        int app_errno;
        bool at_fault;
        const char *text;
    } cases[] = {
        {0x01, ECONNREFUSED, false, "reply 0x01"}, {0x02, EACCES, false, "reply 0x02"},
        {0x03, ENETUNREACH, false, "reply 0x03"},  {0x04, EHOSTUNREACH, false, "reply 0x04"},
        {0x05, ECONNREFUSED, false, "refused"},    {0x06, EHOSTUNREACH, false, "TTL"},
        {0x07, ECONNREFUSED, true, "reply 0x07"},  {0x08, ECONNREFUSED, false, "reply 0x08"},
        {0x5b, ECONNREFUSED, false, "reply 0x5b"}, {0xff, ECONNREFUSED, false, "reply 0xff"},
    };
    struct rig *r = *state;
    char reply[10] = {5, 0, 0, 1}, why[256];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        reply[1] = (char)cases[i].code;
        begin_and_accept(r, 1);
        expect_handshake(r);
        put(r->server, reply, sizeof(reply));
        expect_failed(r, DIAL_HANDSHAKE, cases[i].app_errno, cases[i].at_fault);
        assert_true(dial_was_answered(&r->dial));
        expect_described(r, cases[i].text);
        /* An unassigned code of SOCKS5 is not given the name that SOCKS4 has for its number. */
        dial_describe(&r->dial, why, sizeof(why));
        assert_null(strstr(why, "rejected"));
        drive_expect_end(&r->d, r->server, ECONNRESET);
    }
}

static void socks4_from_the_first_byte_to_the_last(void **state)
{
    struct rig *r = *state;

    r->hops[0].url.scheme = SCHEME_SOCKS4;
    strcpy(r->hops[0].url.user, "bob");
    begin_and_accept(r, 1);
    drive_expect(&r->d, r->server,
                 BYTES("\x04\x01\x00\x50\xcb\x00\x71\x0a"
                       "bob\x00"));
    put(r->server, BYTES("\x00\x5a\x00\x00\x00\x00\x00\x00hello"));
    expect_granted(r, "hello");

    for (uint8_t code = 0x5b; code <= 0x5d; code++) {
        char reply[8] = {0, (char)code};

        begin_and_accept(r, 1);
        put(r->server, reply, sizeof(reply));
        expect_failed(r, DIAL_HANDSHAKE, ECONNREFUSED, false);
        expect_described(r, code == 0x5b ? "rejected" : "ident");
    }
}

static void socks4_says_clearly_that_it_has_no_ipv6(void **state)
{
    struct rig *r = *state;

    r->hops[0].url.scheme = SCHEME_SOCKS4;
    assert_int_equal(addr_parse("[2001:db8::1]:80", 0, &r->destination), 0);
    begin_and_accept(r, 1);
    expect_failed(r, DIAL_HANDSHAKE, ECONNREFUSED, false);
    assert_false(dial_was_answered(&r->dial));
    expect_described(r, "SOCKS4 cannot reach IPv6");
    drive_expect_end(&r->d, r->server, ECONNRESET); /* and not a byte before it */
}

/* A name goes to those who resolve names, to the others the address. */
/* The address only stands for the name: there is nothing else to ask for, whatever the scheme. */
static void a_name_is_what_is_asked_for(void **state)
{
    static const struct {
        enum config_scheme scheme;
        const char *bytes;
        size_t len;
    } cases[] = {
        {SCHEME_SOCKS5H, BYTES("\x05\x01\x00\x03\x0b"
                               "example.net\x00\x50")},
        {SCHEME_SOCKS5, BYTES("\x05\x01\x00\x03\x0b"
                              "example.net\x00\x50")},
        {SCHEME_SOCKS4A, BYTES("\x04\x01\x00\x50\x00\x00\x00\x01\x00"
                               "example.net\x00")},
        {SCHEME_SOCKS4, BYTES("\x04\x01\x00\x50\x00\x00\x00\x01\x00"
                              "example.net\x00")},
    };
    struct rig *r = *state;

    r->name = "example.net";
    for (size_t i = 0; i < 4; i++) {
        r->hops[0].url.scheme = cases[i].scheme;
        begin_and_accept(r, 1);
        if (i < 2) {
            drive_expect(&r->d, r->server, GREETING);
            put(r->server, METHOD);
        }
        drive_expect(&r->d, r->server, cases[i].bytes, cases[i].len);
        dial_finish(&r->dial);
        loop_timer_cancel(r->d.loop, &r->timer);
    }
    r->hops[0].url.scheme = SCHEME_SOCKS5;
}

static void answers_that_are_not_socks_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        int fault;
        const char *text;
    } cases[] = {
        {BYTES("\x05\xff"), HANDSHAKE_METHOD, "none of our authentication methods"},
        {BYTES("\x04\x00"), HANDSHAKE_PROTOCOL, "not SOCKS"},
        {BYTES("\x05\x02"), HANDSHAKE_PROTOCOL, "not SOCKS"},
        {BYTES("HTTP/1.1 400 Bad Request\r\n\r\n"), HANDSHAKE_PROTOCOL, "not SOCKS"},
        {BYTES("\x00\x00\x00\x00"), HANDSHAKE_PROTOCOL, "not SOCKS"},
        {BYTES("\x05\x00\x01"), HANDSHAKE_PROTOCOL, "not SOCKS"},
        {BYTES("\x05\x00\x05\x00\x00\x09"), HANDSHAKE_PROTOCOL, "not SOCKS"},
        {BYTES("\x05\x00\x05\x00\x00\x03\x02\x00z"), HANDSHAKE_PROTOCOL, "not SOCKS"},
    };
    struct rig *r = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin_and_accept(r, 1);
        put(r->server, cases[i].bytes, cases[i].len);
        expect_failed(r, DIAL_HANDSHAKE, ECONNREFUSED, true);
        assert_int_equal(r->dial.handshake.fault, cases[i].fault);
        assert_false(dial_was_answered(&r->dial));
        expect_described(r, cases[i].text);
    }
}

/* The whole conversation cut off behind each of its bytes, in order and by a reset. */
static void a_server_that_closes_at_any_byte_is_down(void **state)
{
    static const char said[] = "\x05\x00\x05\x00\x00\x03\x03xyz\x00\x50";
    struct rig *r = *state;

    for (size_t cut = 0; cut < sizeof(said) - 1; cut++) {
        for (unsigned how = 0; how < 2; how++) {
            begin_and_accept(r, 1);
            drive_expect(&r->d, r->server, GREETING);
            if (cut > 0)
                drive_put(&r->d, r->server, said, cut);
            assert_int_equal(r->result, DIAL_PENDING);
            if (how) {
                reset(r->server);
            } else {
                assert_int_equal(shutdown(r->server, SHUT_WR), 0);
                wait_for(r, DIAL_FAILED);
                close(r->server);
            }
            r->server = -1;
            expect_failed(r, DIAL_CLOSED, ECONNREFUSED, true);
            expect_described(r, "closed the connection");
            assert_false(dial_upstream_gone(&r->dial));
        }
    }
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(granted_without_authentication),
        ON_A_RIG(granted_with_user_and_password),
        ON_A_RIG(a_wrong_password_is_said_without_the_password),
        ON_A_RIG(application_bytes_behind_the_reply_stay_unread),
        ON_A_RIG(a_hasty_server_is_read_message_by_message),
        ON_A_RIG(each_reply_code_reaches_the_application),
        ON_A_RIG(socks4_from_the_first_byte_to_the_last),
        ON_A_RIG(socks4_says_clearly_that_it_has_no_ipv6),
        ON_A_RIG(a_name_is_what_is_asked_for),
        ON_A_RIG(answers_that_are_not_socks_are_refused),
        ON_A_RIG(a_server_that_closes_at_any_byte_is_down),
    };

    return cmocka_run_group_tests_name("dial", tests, ignore_sigpipe, NULL);
}
