/* SPDX-License-Identifier: GPL-2.0-or-later */
/* RFC 1929, both sides. */
#include "socks/socks5_auth.h"

#include <errno.h>

#include "stream.h"

static int decode_auth(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_auth(data, len, ret);
}

static int decode_status(const uint8_t *data, size_t len, void *ret)
{
    (void)ret;
    return socks5_decode_auth_status(data, len);
}

static const struct stream_decoder auth = {decode_auth, NULL, sizeof(struct socks5_auth)};
static const struct stream_decoder status = {decode_status, socks5_decode_auth_status_want, 0};

static void test_credentials_on_the_wire(void **state)
{
    uint8_t buf[SOCKS5_AUTH_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks5_auth a;

    (void)state;
    assert_int_equal(socks5_encode_auth(&w, "alice", "s3cret"), 0);
    assert_int_equal(w.pos, 14);
    assert_memory_equal(buf,
                        "\x01\x05"
                        "alice"
                        "\x06"
                        "s3cret",
                        14);
    stream_check(&auth, buf, w.pos, &a);
    assert_string_equal(a.user, "alice");
    assert_int_equal(a.user_len, 5);
    assert_string_equal(a.password, "s3cret");
    assert_int_equal(a.password_len, 6);
}

static void test_lengths_from_one_to_the_limit(void **state)
{
    uint8_t buf[SOCKS5_AUTH_MAX];
    char user[SOCKS_NAME_MAX + 2], password[SOCKS_NAME_MAX + 2];
    struct socks5_auth a;

    (void)state;
    for (size_t len = 1; len <= SOCKS_NAME_MAX; len++) {
        struct wire_writer w = wire_writer(buf, sizeof(buf));

        memset(user, 'u', len);
        user[len] = '\0';
        memset(password, 'p', SOCKS_NAME_MAX - len);
        password[SOCKS_NAME_MAX - len] = '\0'; /* the last of them is empty */
        assert_int_equal(socks5_encode_auth(&w, user, password), 0);
        assert_int_equal(socks5_decode_auth(buf, w.pos, &a), w.pos);
        assert_string_equal(a.user, user);
        assert_string_equal(a.password, password);
    }
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    memset(password, '\xff', SOCKS_NAME_MAX);
    password[SOCKS_NAME_MAX] = '\0';
    assert_int_equal(socks5_encode_auth(&w, user, password), 0);
    assert_int_equal(w.pos, SOCKS5_AUTH_MAX);
    stream_check(&auth, buf, w.pos, &a);
    assert_int_equal(a.user_len, 255);
    assert_int_equal(a.password_len, 255);
    assert_string_equal(a.user, user);
    assert_string_equal(a.password, password);
}

static void test_credentials_that_cannot_be_said(void **state)
{
    uint8_t buf[SOCKS5_AUTH_MAX];
    char longer[SOCKS_NAME_MAX + 2];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    (void)state;
    memset(longer, 'x', sizeof(longer));
    longer[SOCKS_NAME_MAX + 1] = '\0';
    assert_int_equal(socks5_encode_auth(&w, "", "p"), -EINVAL);
    assert_int_equal(socks5_encode_auth(&w, longer, "p"), -ENAMETOOLONG);
    assert_int_equal(socks5_encode_auth(&w, "u", longer), -ENAMETOOLONG);
    assert_int_equal(w.pos, 0);
    assert_int_equal(socks5_encode_auth(&w, "u", ""), 0);
    assert_int_equal(w.pos, 4);

    /* A buffer too short gets not a byte of the password. */
    memset(buf, POISON, sizeof(buf));
    w = wire_writer(buf, 13);
    assert_int_equal(socks5_encode_auth(&w, "alice", "s3cret"), -ENOBUFS);
    assert_int_equal(w.pos, 0);
    for (size_t i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], POISON);
    w = wire_writer(buf, sizeof(buf));
    w.error = true;
    assert_int_equal(socks5_encode_auth(&w, "u", "p"), -ENOBUFS);
}

static void test_credentials_with_one_field_broken(void **state)
{
    (void)state;
    stream_check_broken(&auth, (const uint8_t *)"\x05\x01u\x01p", 5, 0, -EPROTO);
    stream_check_broken(&auth, (const uint8_t *)"\x01\x00\x01p", 4, 1, -EPROTO);
    stream_check_broken(&auth,
                        (const uint8_t *)"\x01\x03"
                                         "a\0b"
                                         "\x01p",
                        7, 4, -EPROTO);
    stream_check_broken(&auth,
                        (const uint8_t *)"\x01\x01u\x03"
                                         "p\0q",
                        7, 6, -EPROTO);
}

static void test_status(void **state)
{
    uint8_t buf[SOCKS5_AUTH_STATUS_LEN];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    (void)state;
    assert_int_equal(socks5_encode_auth_status(&w, true), 0);
    assert_memory_equal(buf, "\x01\x00", 2);
    stream_check(&status, buf, w.pos, NULL);
    w = wire_writer(buf, sizeof(buf));
    assert_int_equal(socks5_encode_auth_status(&w, false), 0);
    stream_check_broken(&status, buf, w.pos, 1, -EACCES);
    assert_int_equal(socks5_encode_auth_status(&w, true), -ENOBUFS);

    for (unsigned v = 1; v <= 0xff; v++) {
        uint8_t refused[] = {1, (uint8_t)v};

        stream_check_broken(&status, refused, 2, 1, -EACCES);
    }
    stream_check_broken(&status, (const uint8_t *)"\x05\x00", 2, 0, -EPROTO);
    stream_check_broken(&status, (const uint8_t *)"\x00\x00", 2, 0, -EPROTO);
    assert_int_equal(socks5_decode_auth_status_want(NULL, 0), 2);
    assert_int_equal(socks5_decode_auth_status_want(buf, 1), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_credentials_on_the_wire),
        cmocka_unit_test(test_lengths_from_one_to_the_limit),
        cmocka_unit_test(test_credentials_that_cannot_be_said),
        cmocka_unit_test(test_credentials_with_one_field_broken),
        cmocka_unit_test(test_status),
    };

    return cmocka_run_group_tests_name("socks/socks5_auth", tests, NULL, NULL);
}
