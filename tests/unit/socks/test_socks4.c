/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SOCKS4 and 4a, both sides. */
#include "socks/socks4.h"

#include <errno.h>

#include "stream.h"

static int decode_request(const uint8_t *data, size_t len, void *ret)
{
    return socks4_decode_request(data, len, ret);
}

static int decode_reply(const uint8_t *data, size_t len, void *ret)
{
    return socks4_decode_reply(data, len, ret);
}

static const struct stream_decoder request = {decode_request, NULL, sizeof(struct socks4_request)};
static const struct stream_decoder reply = {decode_reply, socks4_decode_reply_want,
                                            sizeof(struct socks4_reply)};

static struct socks_dest to_addr(const char *text)
{
    struct socks_dest d;
    struct addr a;

    assert_int_equal(addr_parse(text, 0, &a), 0);
    socks_dest_set_addr(&d, &a);
    return d;
}

static void test_request_with_an_address(void **state)
{
    uint8_t buf[SOCKS4_REQUEST_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks_dest d = to_addr("192.0.2.7:8080");
    struct socks4_request r;
    char text[SOCKS_DEST_STRLEN];

    (void)state;
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &d, "alice"), 0);
    assert_int_equal(w.pos, 14);
    assert_memory_equal(buf,
                        "\x04\x01\x1f\x90\xc0\x00\x02\x07"
                        "alice\0",
                        14);
    stream_check(&request, buf, w.pos, &r);
    assert_int_equal(r.command, SOCKS_CMD_CONNECT);
    assert_string_equal(socks_dest_format(&r.dest, text), "192.0.2.7:8080");
    assert_string_equal(r.user, "alice");
    assert_int_equal(r.user_len, 5);

    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_BIND, &d, ""), 0);
    assert_int_equal(w.pos, 9);
    stream_check(&request, buf, w.pos, &r);
    assert_int_equal(r.command, SOCKS_CMD_BIND);
    assert_int_equal(r.user_len, 0);
    w = wire_writer(buf, 8);
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_BIND, &d, ""), -ENOBUFS);
    assert_int_equal(w.pos, 0);

    /* 0.0.0.0 is an address, not a mark: 4a is 0.0.0.x with x != 0. */
    d = to_addr("0.0.0.0:1");
    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_BIND, &d, "u"), 0);
    stream_check(&request, buf, w.pos, &r);
    assert_int_equal(r.dest.type, SOCKS_DEST_ADDR);
}

static void test_request_with_a_name(void **state)
{
    uint8_t buf[SOCKS4_REQUEST_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks_dest d;
    struct socks4_request r;

    (void)state;
    assert_int_equal(socks_dest_set_name(&d, "example.net", 80), 0);
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &d, "u"), 0);
    assert_int_equal(w.pos, 22);
    assert_memory_equal(buf, "\x04\x01\x00\x50\x00\x00\x00\x01u\0example.net\0", 22);
    stream_check(&request, buf, w.pos, &r);
    assert_int_equal(r.dest.type, SOCKS_DEST_NAME);
    assert_string_equal(r.dest.name, "example.net");
    assert_int_equal(r.dest.name_len, 11);
    assert_int_equal(r.dest.addr.port, 80);
    assert_string_equal(r.user, "u");

    for (unsigned x = 1; x <= 0xff; x++) { /* any x != 0 will do */
        buf[7] = (uint8_t)x;
        assert_int_equal(socks4_decode_request(buf, w.pos, &r), 22);
        assert_int_equal(r.dest.type, SOCKS_DEST_NAME);
    }
    buf[6] = 1; /* 0.0.1.x is an address, and the name is not part of the message */
    assert_int_equal(socks4_decode_request(buf, w.pos, &r), 10);
    assert_int_equal(r.dest.type, SOCKS_DEST_ADDR);
}

static void test_user_and_name_at_the_limit(void **state)
{
    uint8_t buf[SOCKS4_REQUEST_MAX + 1];
    char user[SOCKS_NAME_MAX + 2], name[SOCKS_NAME_MAX + 1];
    struct wire_writer w = wire_writer(buf, SOCKS4_REQUEST_MAX);
    struct socks_dest d;
    struct socks4_request r;

    (void)state;
    memset(user, 'u', sizeof(user));
    user[SOCKS_NAME_MAX] = '\0';
    memset(name, 'n', sizeof(name));
    name[SOCKS_NAME_MAX] = '\0';
    assert_int_equal(socks_dest_set_name(&d, name, 80), 0);
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &d, user), 0);
    assert_int_equal(w.pos, SOCKS4_REQUEST_MAX);
    stream_check(&request, buf, w.pos, &r);
    assert_int_equal(r.user_len, 255);
    assert_string_equal(r.user, user);
    assert_int_equal(r.dest.name_len, 255);
    assert_string_equal(r.dest.name, name);

    /* One byte more of the name: known at its 256th byte. */
    buf[SOCKS4_REQUEST_MAX - 1] = 'n';
    buf[SOCKS4_REQUEST_MAX] = 0;
    stream_check_broken(&request, buf, sizeof(buf), SOCKS4_REQUEST_MAX - 1, -EPROTO);
    /* And of the user id: known at its 256th, whatever follows. */
    buf[8 + 255] = 'u';
    stream_check_broken(&request, buf, sizeof(buf), 8 + 255, -EPROTO);

    user[SOCKS_NAME_MAX] = 'u';
    user[SOCKS_NAME_MAX + 1] = '\0';
    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &d, user), -ENAMETOOLONG);
    assert_int_equal(w.pos, 0);
}

static void test_request_that_cannot_be_said(void **state)
{
    uint8_t buf[SOCKS4_REQUEST_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks_dest v4 = to_addr("192.0.2.1:1"), v6 = to_addr("[2001:db8::1]:1"),
                      like_4a = to_addr("0.0.0.9:1"), name;

    (void)state;
    assert_int_equal(socks_dest_set_name(&name, "name", 1), 0);
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_UDP_ASSOCIATE, &v4, ""), -EINVAL);
    assert_int_equal(socks4_encode_request(&w, 0, &v4, ""), -EINVAL);
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &v6, ""), -EAFNOSUPPORT);
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &like_4a, ""), -EINVAL);
    name.name[2] = '\0';
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &name, ""), -EINVAL);
    name.name_len = 0;
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &name, ""), -EINVAL);
    name.type = 9;
    assert_int_equal(socks4_encode_request(&w, SOCKS_CMD_CONNECT, &name, ""), -EINVAL);
    assert_int_equal(w.pos, 0);
}

static void test_request_with_one_field_broken(void **state)
{
    uint8_t bytes[] = "\x04\x01\x00\x50\xc0\x00\x02\x07u";
    struct socks4_request r;

    (void)state;
    for (unsigned v = 0; v <= 0xff; v++) {
        bytes[0] = (uint8_t)v;
        if (v != 4)
            stream_check_broken(&request, bytes, sizeof(bytes), 0, -EPROTO);
    }
    bytes[0] = 4;
    bytes[1] = 0x77; /* an unknown command is the server's to refuse, with 0x5b */
    stream_check(&request, bytes, sizeof(bytes), &r);
    assert_int_equal(r.command, 0x77);
    /* 4a with an empty name */
    stream_check_broken(&request, (const uint8_t *)"\x04\x01\x00\x50\x00\x00\x00\x01u\0\0", 11, 10,
                        -EPROTO);
}

static void test_reply(void **state)
{
    uint8_t buf[SOCKS4_REPLY_LEN];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks_dest v4 = to_addr("192.0.2.7:8080"), v6 = to_addr("[2001:db8::1]:8080");
    struct socks4_reply r;
    char text[ADDR_STRLEN];

    (void)state;
    assert_int_equal(socks4_encode_reply(&w, SOCKS4_REP_GRANTED, &v4.addr), 0);
    assert_memory_equal(buf, "\x00\x5a\x1f\x90\xc0\x00\x02\x07", 8);
    stream_check(&reply, buf, w.pos, &r);
    assert_int_equal(r.rep, SOCKS4_REP_GRANTED);
    assert_string_equal(addr_format(&r.bound, text), "192.0.2.7:8080");
    assert_int_equal(socks4_encode_reply(&w, SOCKS4_REP_GRANTED, NULL), -ENOBUFS);
    assert_int_equal(w.pos, 8);

    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks4_encode_reply(&w, SOCKS4_REP_GRANTED, &v6.addr), 0);
    assert_memory_equal(buf, "\x00\x5a\x1f\x90\x00\x00\x00\x00", 8);
    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks4_encode_reply(&w, SOCKS4_REP_REJECTED, NULL), 0);
    assert_memory_equal(buf, "\x00\x5b\x00\x00\x00\x00\x00\x00", 8);

    for (unsigned v = 0; v <= 0xff; v++) { /* every code is passed on */
        buf[1] = (uint8_t)v;
        assert_int_equal(socks4_decode_reply(buf, sizeof(buf), &r), 8);
        assert_int_equal(r.rep, v);
    }
    for (size_t n = 0; n < 8; n++)
        assert_int_equal(socks4_decode_reply_want(buf, n), 8 - n);
    for (unsigned v = 1; v <= 0xff; v++) { /* VN; 4 and 5 included */
        buf[0] = (uint8_t)v;
        stream_check_broken(&reply, buf, sizeof(buf), 0, -EPROTO);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_with_an_address),
        cmocka_unit_test(test_request_with_a_name),
        cmocka_unit_test(test_user_and_name_at_the_limit),
        cmocka_unit_test(test_request_that_cannot_be_said),
        cmocka_unit_test(test_request_with_one_field_broken),
        cmocka_unit_test(test_reply),
    };

    return cmocka_run_group_tests_name("socks/socks4", tests, NULL, NULL);
}
