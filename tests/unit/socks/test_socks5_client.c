/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The client's half of RFC 1928. */
#include "socks/socks5_client.h"

#include <errno.h>

#include "socks/socks5_server.h"
#include "stream.h"

static const uint8_t both_methods[] = {SOCKS5_METHOD_NONE, SOCKS5_METHOD_PASSWORD};

static int decode_method(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_method(data, len, both_methods, sizeof(both_methods), ret);
}

static int decode_reply(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_reply(data, len, ret);
}

static const struct stream_decoder method = {decode_method, socks5_decode_method_want, 1};
static const struct stream_decoder reply = {decode_reply, socks5_decode_reply_want,
                                            sizeof(struct socks5_reply)};

static void test_greeting(void **state)
{
    uint8_t buf[SOCKS5_GREETING_MAX], all[256];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    (void)state;
    assert_int_equal(socks5_encode_greeting(&w, both_methods, 2), 0);
    assert_int_equal(w.pos, 4);
    assert_memory_equal(buf, "\x05\x02\x00\x02", 4);

    for (unsigned i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks5_encode_greeting(&w, all, 0), -EINVAL);
    assert_int_equal(socks5_encode_greeting(&w, all, 256), -EINVAL);
    assert_int_equal(socks5_encode_greeting(&w, all + 1, 255), -EINVAL); /* 0xff among them */
    assert_int_equal(w.pos, 0);
    assert_int_equal(socks5_encode_greeting(&w, all, 255), 0);
    assert_int_equal(w.pos, SOCKS5_GREETING_MAX);
}

static void test_method(void **state)
{
    uint8_t chosen;

    (void)state;
    stream_check(&method, (const uint8_t *)"\x05\x00", 2, &chosen);
    assert_int_equal(chosen, SOCKS5_METHOD_NONE);
    stream_check(&method, (const uint8_t *)"\x05\x02", 2, &chosen);
    assert_int_equal(chosen, SOCKS5_METHOD_PASSWORD);
}

static void test_method_that_is_wrong(void **state)
{
    uint8_t chosen = POISON;

    (void)state;
    stream_check_broken(&method, (const uint8_t *)"\x04\x00", 2, 0, -EPROTO);
    stream_check_broken(&method, (const uint8_t *)"HTTP/1.1 400", 12, 0, -EPROTO);
    stream_check_broken(&method, (const uint8_t *)"\x05\x01", 2, 1, -EPROTO); /* not offered */
    stream_check_broken(&method, (const uint8_t *)"\x05\x80", 2, 1, -EPROTO);
    stream_check_broken(&method, (const uint8_t *)"\x05\xff", 2, 1, -EACCES);
    /* The password method chosen although only "none" was offered. */
    assert_int_equal(socks5_decode_method((const uint8_t *)"\x05\x02", 2, both_methods, 1, &chosen),
                     -EPROTO);
    assert_int_equal(chosen, POISON);
}

static void encode(uint8_t command, const struct socks_dest *d, const char *expected, size_t len)
{
    uint8_t buf[SOCKS5_REQUEST_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    assert_int_equal(socks5_encode_request(&w, command, d), 0);
    assert_int_equal(w.pos, len);
    assert_memory_equal(buf, expected, len);

    /* One byte too few: nothing is claimed. */
    w = wire_writer(buf, len - 1);
    assert_int_equal(socks5_encode_request(&w, command, d), -ENOBUFS);
    assert_int_equal(w.pos, 0);
    assert_false(w.error);
}

static void test_request(void **state)
{
    struct socks_dest d;
    struct addr a;

    (void)state;
    assert_int_equal(addr_parse("192.0.2.7:8080", 0, &a), 0);
    socks_dest_set_addr(&d, &a);
    encode(SOCKS_CMD_CONNECT, &d, "\x05\x01\x00\x01\xc0\x00\x02\x07\x1f\x90", 10);
    encode(SOCKS_CMD_BIND, &d, "\x05\x02\x00\x01\xc0\x00\x02\x07\x1f\x90", 10);
    assert_int_equal(addr_parse("[2001:db8::5]:443", 0, &a), 0);
    socks_dest_set_addr(&d, &a);
    encode(
        SOCKS_CMD_UDP_ASSOCIATE, &d,
        "\x05\x03\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x01\xbb",
        22);
    assert_int_equal(socks_dest_set_name(&d, "example.net", 80), 0);
    encode(SOCKS_CMD_CONNECT, &d,
           "\x05\x01\x00\x03\x0b"
           "example.net\x00\x50",
           18);
}

static void test_request_that_cannot_be_said(void **state)
{
    uint8_t buf[SOCKS5_REQUEST_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks_dest d, broken;

    (void)state;
    assert_int_equal(socks_dest_set_name(&d, "example.net", 80), 0);
    assert_int_equal(socks5_encode_request(&w, 0, &d), -EINVAL);
    assert_int_equal(socks5_encode_request(&w, 4, &d), -EINVAL);
    broken = d;
    broken.name_len = 0;
    assert_int_equal(socks5_encode_request(&w, SOCKS_CMD_CONNECT, &broken), -EINVAL);
    broken = d;
    broken.name[3] = '\0';
    assert_int_equal(socks5_encode_request(&w, SOCKS_CMD_CONNECT, &broken), -EINVAL);
    broken = d;
    broken.type = 9;
    assert_int_equal(socks5_encode_request(&w, SOCKS_CMD_CONNECT, &broken), -EINVAL);
    assert_int_equal(w.pos, 0);
    /* A writer that had failed before stays failed. */
    w.error = true;
    assert_int_equal(socks5_encode_request(&w, SOCKS_CMD_CONNECT, &d), -ENOBUFS);
    assert_true(w.error);
}

static void test_messages_may_share_a_buffer(void **state)
{
    uint8_t buf[64];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks5_greeting greeting;
    struct socks5_request request;
    struct socks_dest d;

    (void)state;
    assert_int_equal(socks_dest_set_name(&d, "pipelined.example", 22), 0);
    assert_int_equal(socks5_encode_greeting(&w, both_methods, 1), 0);
    assert_int_equal(socks5_encode_request(&w, SOCKS_CMD_CONNECT, &d), 0);

    int n = socks5_decode_greeting(buf, w.pos, &greeting);

    assert_int_equal(n, 3);
    assert_int_equal(socks5_decode_request(buf + n, w.pos - 3, &request), w.pos - 3);
    assert_string_equal(request.dest.name, "pipelined.example");
}

static void test_reply_with_each_address_type(void **state)
{
    struct socks5_reply r;
    char text[SOCKS_DEST_STRLEN];

    (void)state;
    stream_check(&reply, (const uint8_t *)"\x05\x00\x00\x01\x0a\x01\x02\x03\x04\x38", 10, &r);
    assert_int_equal(r.rep, 0);
    assert_int_equal(r.bound.type, SOCKS_DEST_ADDR);
    assert_string_equal(socks_dest_format(&r.bound, text), "10.1.2.3:1080");

    stream_check(&reply,
                 (const uint8_t *)"\x05\x00\x00\x04\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
                                  "\x00\x00\x00\x01\x00\x01",
                 22, &r);
    assert_string_equal(socks_dest_format(&r.bound, text), "[fe80::1]:1");

    stream_check(&reply, (const uint8_t *)"\x05\x00\x00\x03\x04host\x01\x00", 11, &r);
    assert_int_equal(r.bound.type, SOCKS_DEST_NAME);
    assert_int_equal(r.bound.name_len, 4);
    assert_string_equal(r.bound.name, "host");
    assert_int_equal(r.bound.addr.port, 256);

    /* v4-mapped: the IPv4 address */
    stream_check(&reply,
                 (const uint8_t *)"\x05\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"
                                  "\xc0\x00\x02\x01\x00\x50",
                 22, &r);
    assert_true(addr_is_v4(&r.bound.addr));
    assert_string_equal(socks_dest_format(&r.bound, text), "192.0.2.1:80");
}

static void test_reply_with_names_of_extreme_length(void **state)
{
    uint8_t bytes[SOCKS5_REPLY_MAX] = {5, 0, 0, SOCKS5_ATYP_NAME, 255};
    struct socks5_reply r;

    (void)state;
    stream_check(&reply, (const uint8_t *)"\x05\x00\x00\x03\x00\x12\x34", 7, &r);
    assert_int_equal(r.bound.type, SOCKS_DEST_NAME);
    assert_int_equal(r.bound.name_len, 0);
    assert_string_equal(r.bound.name, "");
    assert_int_equal(r.bound.addr.port, 0x1234);

    memset(bytes + 5, 'z', 255);
    bytes[261] = 9;
    stream_check(&reply, bytes, sizeof(bytes), &r);
    assert_int_equal(r.bound.name_len, 255);
    assert_int_equal(strlen(r.bound.name), 255);
    assert_int_equal(r.bound.addr.port, 9);
}

static void test_every_reply_code_is_passed_on(void **state)
{
    struct socks5_reply r;

    (void)state;
    for (unsigned rep = 0; rep <= 0xff; rep++) {
        uint8_t bytes[10] = {5, (uint8_t)rep, 0, 1};

        assert_int_equal(socks5_decode_reply(bytes, sizeof(bytes), &r), 10);
        assert_int_equal(r.rep, rep);
    }
}

static void test_reply_with_one_field_broken(void **state)
{
    static const uint8_t right[] = {5, 0, 0, 1, 10, 1, 2, 3, 4, 0x38};
    uint8_t bytes[sizeof(right)];
    struct socks5_reply r;

    (void)state;
    for (unsigned v = 0; v <= 0xff; v++) { /* VER */
        memcpy(bytes, right, sizeof(right));
        bytes[0] = (uint8_t)v;
        if (v != 5)
            stream_check_broken(&reply, bytes, sizeof(bytes), 0, -EPROTO);
    }
    for (unsigned v = 0; v <= 0xff; v++) { /* ATYP */
        memcpy(bytes, right, sizeof(right));
        bytes[3] = (uint8_t)v;
        if (v != 1 && v != 3 && v != 4)
            stream_check_broken(&reply, bytes, sizeof(bytes), 3, -EPROTO);
    }
    memcpy(bytes, right, sizeof(right)); /* RSV is nobody's business */
    bytes[2] = 0xff;
    stream_check(&reply, bytes, sizeof(bytes), &r);
    assert_int_equal(r.bound.addr.port, 0x438);
    /* A NUL inside the name, seen when the name is complete. */
    stream_check_broken(&reply, (const uint8_t *)"\x05\x00\x00\x03\x04h\0st\x01\x00", 11, 8,
                        -EPROTO);
}

static void test_hints_for_a_reply(void **state)
{
    static const uint8_t v4[] = {5, 0, 0, 1, 5}, v6[] = {5, 0, 0, 4, 5}, name[] = {5, 0, 0, 3, 5};

    (void)state;
    for (size_t n = 0; n <= 3; n++)
        assert_int_equal(socks5_decode_reply_want(v4, n), 7 - n);
    assert_int_equal(socks5_decode_reply_want(v4, 4), 6);
    assert_int_equal(socks5_decode_reply_want(v4, 5), 5);
    assert_int_equal(socks5_decode_reply_want(v6, 4), 18);
    assert_int_equal(socks5_decode_reply_want(v6, 5), 17);
    assert_int_equal(socks5_decode_reply_want(name, 4), 3);
    assert_int_equal(socks5_decode_reply_want(name, 5), 7);
    assert_int_equal(socks5_decode_method_want(NULL, 0), 2);
    assert_int_equal(socks5_decode_method_want(v4, 1), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greeting),
        cmocka_unit_test(test_method),
        cmocka_unit_test(test_method_that_is_wrong),
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_request_that_cannot_be_said),
        cmocka_unit_test(test_messages_may_share_a_buffer),
        cmocka_unit_test(test_reply_with_each_address_type),
        cmocka_unit_test(test_reply_with_names_of_extreme_length),
        cmocka_unit_test(test_every_reply_code_is_passed_on),
        cmocka_unit_test(test_reply_with_one_field_broken),
        cmocka_unit_test(test_hints_for_a_reply),
    };

    return cmocka_run_group_tests_name("socks/socks5_client", tests, NULL, NULL);
}
