/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names, destinations, errno mapping, and which SOCKS a client speaks. */
#include "socks/socks.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_every_assigned_reply_has_its_own_name(void **state)
{
    (void)state;
    for (unsigned i = 0; i <= SOCKS5_REP_ATYP; i++) {
        assert_string_not_equal(socks5_reply_name((uint8_t)i), socks5_reply_name(0xff));
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(socks5_reply_name((uint8_t)i), socks5_reply_name((uint8_t)j));
    }
    for (unsigned i = SOCKS5_REP_ATYP + 1; i <= 0xff; i++)
        assert_string_equal(socks5_reply_name((uint8_t)i), "unassigned reply code");
    assert_string_equal(socks5_reply_name(SOCKS5_REP_REFUSED), "connection refused");
    assert_string_equal(socks5_reply_name(SOCKS5_REP_TTL_EXPIRED), "TTL expired");

    for (unsigned i = SOCKS4_REP_GRANTED; i <= SOCKS4_REP_IDENT_MISMATCH; i++)
        for (unsigned j = SOCKS4_REP_GRANTED; j < i; j++)
            assert_string_not_equal(socks4_reply_name((uint8_t)i), socks4_reply_name((uint8_t)j));
    assert_string_equal(socks4_reply_name(0x5b), "request rejected or failed");
    assert_string_equal(socks4_reply_name(0x59), "unassigned reply code");
    assert_string_equal(socks4_reply_name(0x5e), "unassigned reply code");
}

static void test_commands_and_methods_have_names(void **state)
{
    (void)state;
    assert_string_equal(socks_command_name(1), "CONNECT");
    assert_string_equal(socks_command_name(2), "BIND");
    assert_string_equal(socks_command_name(3), "UDP ASSOCIATE");
    assert_string_equal(socks_command_name(0), "unknown command");
    assert_string_equal(socks5_method_name(0), "no authentication");
    assert_string_equal(socks5_method_name(1), "GSSAPI");
    assert_string_equal(socks5_method_name(2), "username/password");
    assert_string_equal(socks5_method_name(0xff), "no acceptable methods");
    assert_string_equal(socks5_method_name(0x80), "private method");
    assert_string_equal(socks5_method_name(0x03), "IANA-assigned method");
}

static void test_replies_become_what_the_application_sees(void **state)
{
    static const int expected[] = {0,
                                   -ECONNREFUSED,
                                   -EACCES,
                                   -ENETUNREACH,
                                   -EHOSTUNREACH,
                                   -ECONNREFUSED,
                                   -EHOSTUNREACH,
                                   -ECONNREFUSED,
                                   -ECONNREFUSED};

    (void)state;
    for (unsigned i = 0; i <= 0xff; i++)
        assert_int_equal(socks5_reply_errno((uint8_t)i), i <= 8 ? expected[i] : -ECONNREFUSED);
    for (unsigned i = 0; i <= 0xff; i++)
        assert_int_equal(socks4_reply_errno((uint8_t)i), i == 0x5a ? 0 : -ECONNREFUSED);
}

static void test_errnos_become_replies(void **state)
{
    static const struct {
        int err;
        uint8_t rep;
    } table[] = {
        {0, 0x00},
        {EIO, 0x01},
        {EMFILE, 0x01},
        {EACCES, 0x02},
        {EPERM, 0x02},
        {ENETUNREACH, 0x03},
        {ENETDOWN, 0x03},
        {EHOSTUNREACH, 0x04},
        {EHOSTDOWN, 0x04},
        {ECONNREFUSED, 0x05},
        {ETIMEDOUT, 0x06},
        {EOPNOTSUPP, 0x07},
        {EAFNOSUPPORT, 0x08},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        assert_int_equal(socks5_reply_from_errno(table[i].err), table[i].rep);
        assert_int_equal(socks5_reply_from_errno(-table[i].err), table[i].rep);
        assert_int_equal(socks4_reply_from_errno(-table[i].err), table[i].err ? 0x5b : 0x5a);
    }
    /* What has an errno of its own survives a server of ours and a client of ours. */
    static const int there_and_back[] = {0, -ECONNREFUSED, -ENETUNREACH, -EHOSTUNREACH, -EACCES};

    for (size_t i = 0; i < sizeof(there_and_back) / sizeof(there_and_back[0]); i++)
        assert_int_equal(socks5_reply_errno(socks5_reply_from_errno(there_and_back[i])),
                         there_and_back[i]);
}

static void test_version_is_told_by_the_first_byte(void **state)
{
    (void)state;
    assert_int_equal(socks_server_version(NULL, 0), 0);
    for (unsigned i = 0; i <= 0xff; i++) {
        uint8_t b[2] = {(uint8_t)i, 5};

        assert_int_equal(socks_server_version(b, 1), i == 4 || i == 5 ? (int)i : -EPROTO);
        assert_int_equal(socks_server_version(b, 2), i == 4 || i == 5 ? (int)i : -EPROTO);
    }
}

static void test_destination_from_a_name(void **state)
{
    struct socks_dest d, before;
    char name[SOCKS_NAME_MAX + 2];

    (void)state;
    memset(&d, 0xa5, sizeof(d));
    before = d;
    assert_int_equal(socks_dest_set_name(&d, "", 80), -EINVAL);
    memset(name, 'n', sizeof(name));
    name[SOCKS_NAME_MAX + 1] = '\0';
    assert_int_equal(socks_dest_set_name(&d, name, 80), -ENAMETOOLONG);
    assert_memory_equal(&d, &before, sizeof(d));

    name[SOCKS_NAME_MAX] = '\0';
    assert_int_equal(socks_dest_set_name(&d, name, 65535), 0);
    assert_int_equal(d.type, SOCKS_DEST_NAME);
    assert_int_equal(d.name_len, SOCKS_NAME_MAX);
    assert_string_equal(d.name, name);
    assert_int_equal(d.addr.port, 65535);

    char text[SOCKS_DEST_STRLEN];

    assert_string_equal(socks_dest_format(&d, text) + SOCKS_NAME_MAX, ":65535");
}

static void test_destination_is_printed_safely(void **state)
{
    struct socks_dest d;
    struct addr a;
    char text[SOCKS_DEST_STRLEN];

    (void)state;
    assert_int_equal(addr_parse("192.0.2.1:80", 0, &a), 0);
    socks_dest_set_addr(&d, &a);
    assert_int_equal(d.type, SOCKS_DEST_ADDR);
    assert_int_equal(d.name_len, 0);
    assert_string_equal(socks_dest_format(&d, text), "192.0.2.1:80");
    assert_int_equal(addr_parse("[2001:db8::1]:443", 0, &a), 0);
    socks_dest_set_addr(&d, &a);
    assert_string_equal(socks_dest_format(&d, text), "[2001:db8::1]:443");
    assert_int_equal(socks_dest_set_name(&d, "a\nb \x1b[\xff.net", 7), 0);
    assert_string_equal(socks_dest_format(&d, text), "a?b??[?.net:7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_assigned_reply_has_its_own_name),
        cmocka_unit_test(test_commands_and_methods_have_names),
        cmocka_unit_test(test_replies_become_what_the_application_sees),
        cmocka_unit_test(test_errnos_become_replies),
        cmocka_unit_test(test_version_is_told_by_the_first_byte),
        cmocka_unit_test(test_destination_from_a_name),
        cmocka_unit_test(test_destination_is_printed_safely),
    };

    return cmocka_run_group_tests_name("socks/socks", tests, NULL, NULL);
}
