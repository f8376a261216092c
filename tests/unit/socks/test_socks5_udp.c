/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The UDP header of RFC 1928 section 7. */
#include "socks/socks5_udp.h"

#include <errno.h>
#include <stdbool.h>

#include "stream.h"

/* From a block of its exact size, into a poisoned header. */
static int decode(const uint8_t *bytes, size_t len, struct socks5_udp_header *ret)
{
    uint8_t *copy = malloc(len + !len);

    assert_non_null(copy);
    if (len > 0)
        memcpy(copy, bytes, len);
    memset(ret, POISON, sizeof(*ret));
    int r = socks5_decode_udp(copy, len, ret);

    free(copy);
    return r;
}

static bool untouched(const struct socks5_udp_header *h)
{
    const uint8_t *p = (const uint8_t *)h;

    for (size_t i = 0; i < sizeof(*h); i++)
        if (p[i] != POISON)
            return false;
    return true;
}

/* A datagram that is right, with and without payload; every header cut short is an error. */
static void check(const uint8_t *bytes, size_t len, const char *dest, uint8_t frag)
{
    struct socks5_udp_header h;
    char text[SOCKS_DEST_STRLEN];
    uint8_t loaded[2048];

    for (size_t n = 0; n < len; n++) {
        assert_int_equal(decode(bytes, n, &h), -EPROTO);
        assert_true(untouched(&h));
    }
    assert_int_equal(decode(bytes, len, &h), len);
    memcpy(loaded, bytes, len);
    memset(loaded + len, 0, sizeof(loaded) - len);
    assert_int_equal(decode(loaded, sizeof(loaded), &h), len);
    assert_int_equal(h.frag, frag);
    assert_string_equal(socks_dest_format(&h.dest, text), dest);

    /* And what was read is written again the same. */
    uint8_t again[SOCKS5_UDP_HEADER_MAX];
    struct wire_writer w = wire_writer(again, sizeof(again));

    assert_int_equal(socks5_encode_udp(&w, h.frag, &h.dest), 0);
    assert_int_equal(w.pos, len);
    assert_memory_equal(again, bytes, len);
    w = wire_writer(again, len - 1);
    assert_int_equal(socks5_encode_udp(&w, h.frag, &h.dest), -ENOBUFS);
    assert_int_equal(w.pos, 0);
}

static void test_each_address_type(void **state)
{
    (void)state;
    check((const uint8_t *)"\0\0\0\x01\xc0\x00\x02\x07\x00\x35", 10, "192.0.2.7:53", 0);
    check((const uint8_t *)"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x05\x01\xbb", 22,
          "[2001:db8::5]:443", 0);
    check((const uint8_t *)"\0\0\0\x03\x0b"
                           "example.net\x00\x50",
          18, "example.net:80", 0);
}

static void test_fragments_are_surfaced(void **state)
{
    (void)state;
    check((const uint8_t *)"\0\0\x01\x01\xc0\x00\x02\x07\x00\x35", 10, "192.0.2.7:53", 1);
    check((const uint8_t *)"\0\0\x82\x01\xc0\x00\x02\x07\x00\x35", 10, "192.0.2.7:53",
          2 | SOCKS5_UDP_FRAG_LAST);
}

static void test_longest_name(void **state)
{
    uint8_t bytes[SOCKS5_UDP_HEADER_MAX] = {0, 0, 0, SOCKS5_ATYP_NAME, 255};
    char dest[SOCKS_DEST_STRLEN] = "";

    (void)state;
    memset(bytes + 5, 'n', 255);
    bytes[261] = 7;
    memset(dest, 'n', 255);
    strcat(dest, ":7");
    check(bytes, sizeof(bytes), dest, 0);
}

static void test_one_field_broken(void **state)
{
    uint8_t bytes[] = {0, 0, 0, 1, 192, 0, 2, 7, 0, 53};
    struct socks5_udp_header h;

    (void)state;
    for (unsigned v = 0; v <= 0xff; v++) {
        bytes[3] = (uint8_t)v;
        if (v != 1 && v != 3 && v != 4) {
            assert_int_equal(decode(bytes, sizeof(bytes), &h), -EAFNOSUPPORT);
            assert_true(untouched(&h));
        }
    }
    bytes[3] = 1;
    bytes[0] = bytes[1] = 0xff; /* RSV is nobody's business */
    assert_int_equal(decode(bytes, sizeof(bytes), &h), 10);
    assert_int_equal(decode((const uint8_t *)"\0\0\0\x03\x00\x00\x35", 7, &h), -EPROTO);
    assert_int_equal(decode((const uint8_t *)"\0\0\0\x03\x03"
                                             "a\0b"
                                             "\x00\x35",
                            10, &h),
                     -EPROTO);
    assert_int_equal(decode((const uint8_t *)"\0\0\0\x03\x09"
                                             "a.b"
                                             "\x00\x35",
                            10, &h),
                     -EPROTO);
    assert_true(untouched(&h));
}

static void test_header_that_cannot_be_said(void **state)
{
    uint8_t buf[SOCKS5_UDP_HEADER_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks_dest d;

    (void)state;
    assert_int_equal(socks_dest_set_name(&d, "name", 1), 0);
    d.name[1] = '\0';
    assert_int_equal(socks5_encode_udp(&w, 0, &d), -EINVAL);
    d.name_len = 0;
    assert_int_equal(socks5_encode_udp(&w, 0, &d), -EINVAL);
    assert_int_equal(w.pos, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_address_type),
        cmocka_unit_test(test_fragments_are_surfaced),
        cmocka_unit_test(test_longest_name),
        cmocka_unit_test(test_one_field_broken),
        cmocka_unit_test(test_header_that_cannot_be_said),
    };

    return cmocka_run_group_tests_name("socks/socks5_udp", tests, NULL, NULL);
}
