/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The server's half of RFC 1928. */
#include "socks/socks5_server.h"

#include <errno.h>

#include "socks/socks5_client.h"
#include "stream.h"

static int decode_greeting(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_greeting(data, len, ret);
}

static int decode_request(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_request(data, len, ret);
}

static const struct stream_decoder greeting = {decode_greeting, NULL,
                                               sizeof(struct socks5_greeting)};
static const struct stream_decoder request = {decode_request, NULL, sizeof(struct socks5_request)};

static void test_greeting(void **state)
{
    uint8_t bytes[SOCKS5_GREETING_MAX] = {5, 255};
    struct socks5_greeting g;

    (void)state;
    stream_check(&greeting, (const uint8_t *)"\x05\x02\x00\x02", 4, &g);
    assert_int_equal(g.n_methods, 2);
    assert_true(socks5_greeting_offers(&g, SOCKS5_METHOD_NONE));
    assert_true(socks5_greeting_offers(&g, SOCKS5_METHOD_PASSWORD));
    assert_false(socks5_greeting_offers(&g, SOCKS5_METHOD_GSSAPI));

    /* The zeros behind the methods are not an offer of "none". */
    stream_check(&greeting, (const uint8_t *)"\x05\x01\x02", 3, &g);
    assert_false(socks5_greeting_offers(&g, SOCKS5_METHOD_NONE));
    stream_check(&greeting, (const uint8_t *)"\x05\x00", 2, &g);
    assert_int_equal(g.n_methods, 0);
    assert_false(socks5_greeting_offers(&g, SOCKS5_METHOD_NONE));

    for (unsigned i = 0; i < 255; i++)
        bytes[i + 2] = (uint8_t)i;
    stream_check(&greeting, bytes, sizeof(bytes), &g);
    assert_true(socks5_greeting_offers(&g, 254));
    assert_false(socks5_greeting_offers(&g, 255));

    stream_check_broken(&greeting, (const uint8_t *)"\x04\x02\x00\x02", 4, 0, -EPROTO);
    stream_check_broken(&greeting, (const uint8_t *)"GET / HTTP/1.1", 14, 0, -EPROTO);
    stream_check_broken(&greeting, (const uint8_t *)"\x16\x03\x01", 3, 0, -EPROTO);
}

static void test_request(void **state)
{
    struct socks5_request r;
    char text[SOCKS_DEST_STRLEN];

    (void)state;
    stream_check(&request, (const uint8_t *)"\x05\x01\x00\x01\xc0\x00\x02\x07\x1f\x90", 10, &r);
    assert_int_equal(r.command, SOCKS_CMD_CONNECT);
    assert_string_equal(socks_dest_format(&r.dest, text), "192.0.2.7:8080");
    stream_check(&request,
                 (const uint8_t *)"\x05\x02\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00"
                                  "\x00\x00\x00\x05\x01\xbb",
                 22, &r);
    assert_int_equal(r.command, SOCKS_CMD_BIND);
    assert_string_equal(socks_dest_format(&r.dest, text), "[2001:db8::5]:443");
    stream_check(&request,
                 (const uint8_t *)"\x05\x03\x00\x03\x0b"
                                  "example.net\x00\x50",
                 18, &r);
    assert_int_equal(r.command, SOCKS_CMD_UDP_ASSOCIATE);
    assert_string_equal(socks_dest_format(&r.dest, text), "example.net:80");

    /* Not ours to refuse here: a command nobody knows, port 0, a reserved byte that is set. */
    stream_check(&request, (const uint8_t *)"\x05\xf0\x77\x01\xc0\x00\x02\x07\x00\x00", 10, &r);
    assert_int_equal(r.command, 0xf0);
    assert_int_equal(r.dest.addr.port, 0);
}

static void test_request_with_names_of_extreme_length(void **state)
{
    uint8_t bytes[SOCKS5_REQUEST_MAX] = {5, 1, 0, SOCKS5_ATYP_NAME, 255};
    struct socks5_request r;

    (void)state;
    memset(bytes + 5, 'n', 255);
    bytes[261] = 80;
    stream_check(&request, bytes, sizeof(bytes), &r);
    assert_int_equal(r.dest.name_len, 255);
    assert_int_equal(strlen(r.dest.name), 255);
    stream_check(&request, (const uint8_t *)"\x05\x01\x00\x03\x01x\x00\x50", 8, &r);
    assert_string_equal(r.dest.name, "x");
    /* Empty: known at LEN. */
    stream_check_broken(&request, (const uint8_t *)"\x05\x01\x00\x03\x00\x00\x50", 7, 4, -EPROTO);
}

static void test_request_with_one_field_broken(void **state)
{
    static const uint8_t right[] = {5, 1, 0, 1, 10, 1, 2, 3, 4, 0x38};
    uint8_t bytes[sizeof(right)];

    (void)state;
    for (unsigned v = 0; v <= 0xff; v++) {
        memcpy(bytes, right, sizeof(right));
        bytes[0] = (uint8_t)v;
        if (v != 5)
            stream_check_broken(&request, bytes, sizeof(bytes), 0, -EPROTO);
    }
    for (unsigned v = 0; v <= 0xff; v++) {
        memcpy(bytes, right, sizeof(right));
        bytes[3] = (uint8_t)v;
        if (v != 1 && v != 3 && v != 4)
            stream_check_broken(&request, bytes, sizeof(bytes), 3, -EAFNOSUPPORT);
    }
    for (size_t at = 0; at < 4; at++) { /* a NUL anywhere in the name */
        uint8_t named[] = {5, 1, 0, 3, 4, 'h', 'o', 's', 't', 0, 80};

        named[5 + at] = 0;
        stream_check_broken(&request, named, sizeof(named), 8, -EPROTO);
    }
}

static void test_method_and_reply_reach_our_client(void **state)
{
    static const char *const bound[] = {"192.0.2.1:1", "[2001:db8::2]:65535", "0.0.0.0:0"};
    uint8_t buf[SOCKS5_REPLY_MAX], offered = SOCKS5_METHOD_PASSWORD, chosen;
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks5_reply reply;
    struct socks_dest d;
    struct addr a;

    (void)state;
    assert_int_equal(socks5_encode_method(&w, SOCKS5_METHOD_PASSWORD), 0);
    assert_int_equal(socks5_decode_method(buf, w.pos, &offered, 1, &chosen), 2);
    assert_int_equal(chosen, SOCKS5_METHOD_PASSWORD);
    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks5_encode_method(&w, SOCKS5_METHOD_UNACCEPTABLE), 0);
    assert_int_equal(socks5_decode_method(buf, w.pos, &offered, 1, &chosen), -EACCES);
    w = wire_writer(buf, 1);
    assert_int_equal(socks5_encode_method(&w, 0), -ENOBUFS);

    for (size_t i = 0; i < sizeof(bound) / sizeof(bound[0]); i++) {
        assert_int_equal(addr_parse(bound[i], 0, &a), 0);
        socks_dest_set_addr(&d, &a);
        w = wire_writer(buf, sizeof(buf));
        assert_int_equal(socks5_encode_reply(&w, (uint8_t)i, &d), 0);
        assert_int_equal(socks5_decode_reply(buf, w.pos, &reply), w.pos);
        assert_int_equal(reply.rep, i);
        assert_true(addr_equal(&reply.bound.addr, &a));
    }
    assert_int_equal(socks_dest_set_name(&d, "bound.example", 99), 0);
    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks5_encode_reply(&w, SOCKS5_REP_SUCCEEDED, &d), 0);
    assert_int_equal(socks5_decode_reply(buf, w.pos, &reply), w.pos);
    assert_string_equal(reply.bound.name, "bound.example");
    assert_int_equal(reply.bound.addr.port, 99);

    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks5_encode_reply(&w, SOCKS5_REP_REFUSED, NULL), 0);
    assert_int_equal(w.pos, 10);
    assert_memory_equal(buf, "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", 10);
    d.name_len = 0;
    assert_int_equal(socks5_encode_reply(&w, 0, &d), -EINVAL);
    w = wire_writer(buf, 9);
    assert_int_equal(socks5_encode_reply(&w, 0, NULL), -ENOBUFS);
    assert_int_equal(w.pos, 0);
}

static void test_requests_of_our_client_reach_us(void **state)
{
    static const char *const to[] = {"192.0.2.1:1", "[2001:db8::2]:65535", "[::]:0"};
    uint8_t buf[SOCKS5_REQUEST_MAX];
    struct socks5_request r;
    struct socks_dest d;
    struct addr a;

    (void)state;
    for (uint8_t command = SOCKS_CMD_CONNECT; command <= SOCKS_CMD_UDP_ASSOCIATE; command++) {
        for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++) {
            struct wire_writer w = wire_writer(buf, sizeof(buf));

            assert_int_equal(addr_parse(to[i], 0, &a), 0);
            socks_dest_set_addr(&d, &a);
            assert_int_equal(socks5_encode_request(&w, command, &d), 0);
            stream_check(&request, buf, w.pos, &r);
            assert_int_equal(r.command, command);
            assert_int_equal(r.dest.type, SOCKS_DEST_ADDR);
            assert_true(addr_equal(&r.dest.addr, &a));
        }
    }
    for (size_t len = 1; len <= SOCKS_NAME_MAX; len++) {
        char name[SOCKS_NAME_MAX + 1] = "";
        struct wire_writer w = wire_writer(buf, sizeof(buf));

        memset(name, 'a' + (int)(len % 26), len);
        assert_int_equal(socks_dest_set_name(&d, name, (uint16_t)len), 0);
        assert_int_equal(socks5_encode_request(&w, SOCKS_CMD_CONNECT, &d), 0);
        assert_int_equal(socks5_decode_request(buf, w.pos, &r), w.pos);
        assert_string_equal(r.dest.name, name);
        assert_int_equal(r.dest.name_len, len);
        assert_int_equal(r.dest.addr.port, len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greeting),
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_request_with_names_of_extreme_length),
        cmocka_unit_test(test_request_with_one_field_broken),
        cmocka_unit_test(test_method_and_reply_reach_our_client),
        cmocka_unit_test(test_requests_of_our_client_reach_us),
    };

    return cmocka_run_group_tests_name("socks/socks5_server", tests, NULL, NULL);
}
