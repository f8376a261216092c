/* SPDX-License-Identifier: GPL-2.0-or-later */
/* upstream/handshake.c: the machine alone, message by message and byte by byte. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "upstream/handshake.h"

#define BYTES(text) (text), sizeof(text) - 1

static struct handshake h;
static uint8_t out[HANDSHAKE_OUT_MAX];
static struct wire_writer w;
static struct socks_dest target;

static void aim(const char *text)
{
    struct addr a;

    if (addr_parse(text, 0, &a) == 0)
        socks_dest_set_addr(&target, &a);
    else
        assert_int_equal(socks_dest_set_name(&target, text, 443), 0);
}

static struct config_url url_of(enum config_scheme scheme, const char *user, const char *password)
{
    struct config_url u = {
        .scheme = scheme, .has_user = user != NULL, .has_password = password != NULL};

    snprintf(u.user, sizeof(u.user), "%s", user ? user : "");
    snprintf(u.password, sizeof(u.password), "%s", password ? password : "");
    return u;
}

static int start(const struct config_url *u)
{
    w = wire_writer(out, sizeof(out));
    return handshake_start(&h, u, &target, &w);
}

static void expect_out(const void *bytes, size_t len)
{
    assert_int_equal(w.pos, len);
    assert_memory_equal(out, bytes, len);
}

/*
 * Gives the machine a message the way a socket does: it is asked how much it wants, gets at most
 * that, never from beyond the message, and `pace` bytes at a time. Returns what it said at the end.
 */
static int feed_slowly(const void *message, size_t len, size_t pace)
{
    const uint8_t *bytes = message;
    uint8_t *in = malloc(HANDSHAKE_IN_MAX);
    size_t have = 0;
    int r = 0;

    assert_non_null(in);
    while (r == 0) {
        size_t want = handshake_want(&h, in, have);

        /* As soon as a byte is wrong it may say so; asking for more must stay within the message.
         */
        assert_in_range(want, 1, len - have);
        want = want < pace ? want : pace;
        memcpy(in + have, bytes + have, want);
        have += want;
        /* A copy of just that size: a byte read too many is seen by the sanitizer. */
        uint8_t *exact = malloc(have);

        assert_non_null(exact);
        memcpy(exact, in, have);
        w = wire_writer(out, sizeof(out));
        r = handshake_input(&h, &target, exact, have, &w);
        free(exact);
        if (r == 0)
            assert_int_equal(w.pos, 0);
    }
    if (r > 0)
        assert_int_equal(have, len);
    free(in);
    return r;
}

static int feed(const void *message, size_t len)
{
    return feed_slowly(message, len, 1000);
}

static void without_a_user_only_none_is_offered(void **state)
{
    struct config_url u = url_of(SCHEME_SOCKS5, NULL, NULL);

    (void)state;
    for (size_t pace = 1; pace < 4; pace++) {
        aim("203.0.113.10:80");
        assert_int_equal(start(&u), 0);
        expect_out(BYTES("\x05\x01\x00"));
        assert_false(handshake_awaits_reply(&h));
        assert_int_equal(feed_slowly(BYTES("\x05\x00"), pace), 1);
        expect_out(BYTES("\x05\x01\x00\x01\xcb\x00\x71\x0a\x00\x50"));
        assert_true(handshake_awaits_reply(&h));
        assert_int_equal(feed_slowly(BYTES("\x05\x00\x00\x01\x0a\x00\x00\x01\x12\x34"), pace), 2);
        assert_int_equal(h.fault, HANDSHAKE_OK);
    }
}

static void a_user_is_offered_and_asked_for(void **state)
{
    struct config_url u = url_of(SCHEME_SOCKS5H, "alice", "s3cret");

    (void)state;
    for (size_t pace = 1; pace < 4; pace++) {
        aim("example.net");
        assert_int_equal(start(&u), 0);
        expect_out(BYTES("\x05\x02\x00\x02"));
        assert_int_equal(feed_slowly(BYTES("\x05\x02"), pace), 1);
        expect_out(BYTES("\x01\x05"
                         "alice\x06"
                         "s3cret"));
        assert_false(handshake_awaits_reply(&h));
        assert_int_equal(feed_slowly(BYTES("\x01\x00"), pace), 1);
        expect_out(BYTES("\x05\x01\x00\x03\x0b"
                         "example.net\x01\xbb"));
        assert_int_equal(feed_slowly(BYTES("\x05\x00\x00\x03\x04name\x12\x34"), pace), 2);
    }
    /* Offered, and the server is content without. */
    assert_int_equal(start(&u), 0);
    assert_int_equal(feed(BYTES("\x05\x00")), 1);
    assert_true(handshake_awaits_reply(&h));
    /* A user without a password. */
    u = url_of(SCHEME_SOCKS5, "alice", NULL);
    assert_int_equal(start(&u), 0);
    assert_int_equal(feed(BYTES("\x05\x02")), 1);
    expect_out(BYTES("\x01\x05"
                     "alice\x00"));
}

static void every_reply_address_is_read_to_its_end(void **state)
{
    struct config_url u = url_of(SCHEME_SOCKS5, NULL, NULL);
    char name[7 + 255] = "\x05\x00\x00\x03\xff";

    (void)state;
    memset(name + 5, 'n', 255);
    const struct {
        const char *bytes;
        size_t len;
    } replies[] = {
        {BYTES("\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")},
        {BYTES("\x05\x00\x7f\x01\x01\x02\x03\x04\xff\xff")}, /* RSV that is not 0 */
        {BYTES("\x05\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
               "\x00\x50")},
        {BYTES("\x05\x00\x00\x03\x00\x00\x50")}, /* an empty name */
        {BYTES("\x05\x00\x00\x03\x01x\x00\x50")},
        {name, sizeof(name)},
    };
    for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
        for (size_t pace = 1; pace < 300; pace += pace < 8 ? 1 : 97) {
            aim("203.0.113.10:80");
            assert_int_equal(start(&u), 0);
            assert_int_equal(feed(BYTES("\x05\x00")), 1);
            assert_int_equal(feed_slowly(replies[i].bytes, replies[i].len, pace), 2);
        }
    }
}

static void ipv6_and_names_go_into_a_request(void **state)
{
    struct config_url u = url_of(SCHEME_SOCKS5, NULL, NULL);

    (void)state;
    aim("[2001:db8::7]:8080");
    assert_int_equal(start(&u), 0);
    assert_int_equal(feed(BYTES("\x05\x00")), 1);
    expect_out(BYTES("\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x1f\x90"));
}

static void the_longest_messages_fit(void **state)
{
    char text[256];
    struct config_url u;

    (void)state;
    memset(text, 'x', 255);
    text[255] = '\0';
    u = url_of(SCHEME_SOCKS5H, text, text);
    aim(text);
    assert_int_equal(start(&u), 0);
    assert_int_equal(feed(BYTES("\x05\x02")), 1);
    assert_int_equal(w.pos, 3 + 255 + 255);
    assert_int_equal(feed(BYTES("\x01\x00")), 1);
    assert_int_equal(w.pos, 4 + 1 + 255 + 2);
    u = url_of(SCHEME_SOCKS4A, text, NULL);
    assert_int_equal(start(&u), 0);
    assert_int_equal(w.pos, 8 + 256 + 256);
}

static void socks4_asks_at_once(void **state)
{
    struct config_url u = url_of(SCHEME_SOCKS4, "bob", NULL);

    (void)state;
    for (size_t pace = 1; pace < 9; pace++) {
        aim("203.0.113.10:80");
        assert_int_equal(start(&u), 0);
        expect_out(BYTES("\x04\x01\x00\x50\xcb\x00\x71\x0a"
                         "bob\x00"));
        assert_true(handshake_awaits_reply(&h));
        assert_int_equal(feed_slowly(BYTES("\x00\x5a\x00\x00\x00\x00\x00\x00"), pace), 2);
    }
    u = url_of(SCHEME_SOCKS4A, NULL, NULL);
    aim("example.net");
    assert_int_equal(start(&u), 0);
    expect_out(BYTES("\x04\x01\x01\xbb\x00\x00\x00\x01\x00"
                     "example.net\x00"));
    assert_int_equal(feed(BYTES("\x00\x5a\xff\xff\xff\xff\xff\xff")), 2);
}

static void what_cannot_be_asked_fails_before_a_byte_is_sent(void **state)
{
    struct config_url u = url_of(SCHEME_SOCKS4, NULL, NULL);

    (void)state;
    aim("[2001:db8::7]:80");
    assert_int_equal(start(&u), -ECONNREFUSED);
    assert_int_equal(h.fault, HANDSHAKE_FAMILY);
    assert_int_equal(w.pos, 0);
    u = url_of(SCHEME_HTTP, NULL, NULL);
    assert_int_equal(start(&u), -ECONNREFUSED);
    assert_int_equal(h.fault, HANDSHAKE_REQUEST);
    assert_int_equal(w.pos, 0);
    aim("0.0.0.7:80"); /* 4a's sign for "a name follows" */
    u = url_of(SCHEME_SOCKS4, NULL, NULL);
    assert_int_equal(start(&u), -ECONNREFUSED);
    assert_int_equal(h.fault, HANDSHAKE_REQUEST);
}

static void wrong_answers_have_their_fault(void **state)
{
    static const struct {
        const char *user;
        const char *method, *status, *reply; /* NULL: not reached; two bytes, two, ten */
        int fault;
    } cases[] = {
        {NULL, "\x04\x00", NULL, NULL, HANDSHAKE_PROTOCOL},
        {NULL, "\x00\x5a", NULL, NULL, HANDSHAKE_PROTOCOL}, /* a SOCKS4 server */
        {NULL, "HT", NULL, NULL, HANDSHAKE_PROTOCOL},
        {NULL, "\x05\xff", NULL, NULL, HANDSHAKE_METHOD},
        {"bob", "\x05\xff", NULL, NULL, HANDSHAKE_METHOD},
        {NULL, "\x05\x02", NULL, NULL, HANDSHAKE_PROTOCOL}, /* not offered */
        {"bob", "\x05\x01", NULL, NULL, HANDSHAKE_PROTOCOL},
        {"bob", "\x05\x80", NULL, NULL, HANDSHAKE_PROTOCOL},
        {"bob", "\x05\x02", "\x01\x01", NULL, HANDSHAKE_AUTH},
        {"bob", "\x05\x02", "\x01\xff", NULL, HANDSHAKE_AUTH},
        {"bob", "\x05\x02", "\x05\x00", NULL, HANDSHAKE_PROTOCOL},
        {"bob", "\x05\x02", "\x01\x00", "\x04\x00\x00\x01xxxxxx", HANDSHAKE_PROTOCOL},
        {NULL, "\x05\x00", NULL, "HTTP/1.1 4", HANDSHAKE_PROTOCOL},
        {NULL, "\x05\x00", NULL, "\x05\x00\x00\x02xxxxxx", HANDSHAKE_PROTOCOL},
        {NULL, "\x05\x00", NULL, "\x05\x00\x00\x00xxxxxx", HANDSHAKE_PROTOCOL},
        {NULL, "\x05\x00", NULL, "\x05\x00\x00\x03\x03\x00\x00\x00\x00\x00", HANDSHAKE_PROTOCOL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config_url u = url_of(SCHEME_SOCKS5, cases[i].user, cases[i].user);
        int r;

        aim("203.0.113.10:80");
        assert_int_equal(start(&u), 0);
        r = feed(cases[i].method, 2);
        if (cases[i].status) {
            assert_int_equal(r, 1);
            r = feed(cases[i].status, 2);
        }
        if (cases[i].reply) {
            assert_int_equal(r, 1);
            r = feed(cases[i].reply, 10);
        }
        assert_int_equal(r, -ECONNREFUSED);
        assert_int_equal(h.fault, cases[i].fault);
    }
}

/* The table of what the application sees. Every code there is, assigned or not. */
static void every_reply_code_has_its_errno(void **state)
{
    struct config_url u = url_of(SCHEME_SOCKS5, NULL, NULL);
    char reply[] = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
         reply4[] = "\x00\x00\x00\x00\x00\x00\x00\x00";

    (void)state;
    aim("203.0.113.10:80");
    for (int code = 1; code < 256; code++) {
        int want = code == 2                ? EACCES
                   : code == 3              ? ENETUNREACH
                   : code == 4 || code == 6 ? EHOSTUNREACH
                                            : ECONNREFUSED;

        reply[1] = (char)code;
        assert_int_equal(start(&u), 0);
        assert_int_equal(feed(BYTES("\x05\x00")), 1);
        assert_int_equal(feed(reply, 10), -want);
        assert_int_equal(h.fault, HANDSHAKE_REPLY);
        assert_int_equal(h.rep, code);
    }
    u = url_of(SCHEME_SOCKS4, NULL, NULL);
    for (int code = 0; code < 256; code++) {
        reply4[1] = (char)code;
        assert_int_equal(start(&u), 0);
        assert_int_equal(feed(reply4, 8), code == 0x5a ? 2 : -ECONNREFUSED);
        assert_int_equal(h.fault, code == 0x5a ? HANDSHAKE_OK : HANDSHAKE_REPLY);
        assert_int_equal(h.rep, code);
    }
    /* VN of a reply is 0. */
    reply4[0] = 4;
    reply4[1] = 0x5a;
    assert_int_equal(start(&u), 0);
    assert_int_equal(feed(reply4, 8), -ECONNREFUSED);
    assert_int_equal(h.fault, HANDSHAKE_PROTOCOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_user_only_none_is_offered),
        cmocka_unit_test(a_user_is_offered_and_asked_for),
        cmocka_unit_test(every_reply_address_is_read_to_its_end),
        cmocka_unit_test(ipv6_and_names_go_into_a_request),
        cmocka_unit_test(the_longest_messages_fit),
        cmocka_unit_test(socks4_asks_at_once),
        cmocka_unit_test(what_cannot_be_asked_fails_before_a_byte_is_sent),
        cmocka_unit_test(wrong_answers_have_their_fault),
        cmocka_unit_test(every_reply_code_has_its_errno),
    };

    return cmocka_run_group_tests_name("handshake", tests, NULL, NULL);
}
