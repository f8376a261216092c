/* SPDX-License-Identifier: GPL-2.0-or-later */
/* include/addr.h: texts in and out, families, prefixes. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

#include "addr.h"

static struct addr at(const char *text)
{
    struct addr a;

    if (addr_parse(text, 0, &a) < 0)
        fail_msg("not an address: %s", text);
    return a;
}

static struct prefix network(const char *text)
{
    struct prefix p;

    if (prefix_parse(text, &p) < 0)
        fail_msg("not a prefix: %s", text);
    return p;
}

static void good_addresses_are_read_and_printed(void **state)
{
    static const struct {
        const char *text;
        uint16_t default_port;
        const char *whole, *ip;
        bool v4;
    } cases[] = {
        {"192.0.2.1", 0, "192.0.2.1:0", "192.0.2.1", true},
        {"192.0.2.1", 1080, "192.0.2.1:1080", "192.0.2.1", true},
        {"192.0.2.1:80", 1080, "192.0.2.1:80", "192.0.2.1", true},
        {"192.0.2.1:0", 1080, "192.0.2.1:0", "192.0.2.1", true},
        {"192.0.2.1:65535", 0, "192.0.2.1:65535", "192.0.2.1", true},
        {"192.0.2.1:00080", 0, "192.0.2.1:80", "192.0.2.1", true},
        {"0.0.0.0:1", 0, "0.0.0.0:1", "0.0.0.0", true},
        {"255.255.255.255", 7, "255.255.255.255:7", "255.255.255.255", true},
        {"::", 5, "[::]:5", "::", false},
        {"::1", 80, "[::1]:80", "::1", false},
        {"[::1]", 80, "[::1]:80", "::1", false},
        {"[::1]:443", 80, "[::1]:443", "::1", false},
        {"2001:DB8:0:0:0:0:0:1", 0, "[2001:db8::1]:0", "2001:db8::1", false},
        {"[2001:db8:1:2:3:4:5:6]:65535", 0, "[2001:db8:1:2:3:4:5:6]:65535", "2001:db8:1:2:3:4:5:6",
         false},
        /* Mapped is IPv4, whatever it was written as. */
        {"::ffff:192.0.2.1", 9, "192.0.2.1:9", "192.0.2.1", true},
        {"[::ffff:c000:201]:9", 0, "192.0.2.1:9", "192.0.2.1", true},
        {"::192.0.2.1", 9, "[::192.0.2.1]:9", "::192.0.2.1", false},
    };
    char buf[ADDR_STRLEN];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct addr a, again;

        assert_int_equal(addr_parse(cases[i].text, cases[i].default_port, &a), 0);
        assert_ptr_equal(addr_format(&a, buf), buf);
        assert_string_equal(buf, cases[i].whole);
        assert_string_equal(addr_format_ip(&a, buf), cases[i].ip);
        assert_int_equal(addr_is_v4(&a), cases[i].v4);
        assert_int_equal(a.unused, 0);
        /* What is printed is read back as the same. */
        assert_int_equal(addr_parse(cases[i].whole, 1, &again), 0);
        assert_memory_equal(&a, &again, sizeof(a));
    }
}

static void bad_addresses_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        ":",
        ":80",
        "[",
        "[]",
        "[]:80",
        "[::1",
        "[::1]80",
        "[::1]:",
        "[::1]:x",
        "[::1]:65536",
        "[::1]]:80",
        "::1]:80",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:100000",
        "192.0.2.1:-1",
        "192.0.2.1:+1",
        "192.0.2.1: 1",
        "192.0.2.1:1 ",
        "192.0.2.1:0x50",
        "192.0.2.1:8 0",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.1.5",
        "192.0.2.-1",
        " 192.0.2.1",
        "192.0.2.1 ",
        "192.0.2.1/32",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "::1::",
        ":::",
        "::g",
        "12345::",
        "localhost",
        "example.net:80",
        "::1%",
        "::1%no-such-interface0",
        "192.0.2.1%lo",
        "::ffff:192.0.2.1%lo",
        "[192.0.2.1%lo]:80",
        "%lo",
        "[%lo]:80",
        "\xff",
        "::1%lo%lo",
        "[fe80::1]%lo",
        "fe80::1%lo:80",
        "[fe80::1%lo:1]:80",
    };
    char longest[400];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct addr a, before;

        memset(&a, 0xa5, sizeof(a));
        before = a;
        if (addr_parse(bad[i], 80, &a) != -EINVAL)
            fail_msg("taken for an address: \"%s\"", bad[i]);
        assert_memory_equal(&a, &before, sizeof(a));
    }
    for (size_t n = 40; n < sizeof(longest); n++) {
        struct addr a;

        memset(longest, ':', n);
        longest[n] = '\0';
        assert_int_equal(addr_parse(longest, 0, &a), -EINVAL);
        memset(longest, '1', n);
        assert_int_equal(addr_parse(longest, 0, &a), -EINVAL);
        longest[0] = '[';
        longest[n - 1] = ']';
        assert_int_equal(addr_parse(longest, 0, &a), -EINVAL);
    }
}

static void a_scope_is_an_interface(void **state)
{
    unsigned lo = if_nametoindex("lo");
    char buf[ADDR_STRLEN], want[64];
    struct addr a, b;

    (void)state;
    if (lo == 0) {
        print_message("skipped: there is no interface lo\n");
        skip();
    }
    assert_int_equal(addr_parse("[fe80::1%lo]:80", 0, &a), 0);
    assert_int_equal(a.scope, lo);
    assert_int_equal(addr_parse("fe80::1%lo", 80, &b), 0);
    assert_true(addr_equal(&a, &b));
    b.scope = lo + 1;
    assert_false(addr_equal(&a, &b));
    assert_true(addr_same_ip(&a, &b));
    snprintf(want, sizeof(want), "[fe80::1%%%u]:80", lo);
    assert_string_equal(addr_format(&a, buf), want);

    /* The longest there can be still fits. */
    memset(&a, 0xff, sizeof(a));
    a.unused = 0;
    assert_string_equal(addr_format(&a, buf),
                        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535");
}

static void equality_is_ip_scope_and_port(void **state)
{
    struct addr a = at("192.0.2.1:80"), b = at("192.0.2.1:81"), c = at("192.0.2.2:80"),
                d = at("[::192.0.2.1]:80");

    (void)state;
    assert_true(addr_equal(&a, &a));
    assert_false(addr_equal(&a, &b));
    assert_true(addr_same_ip(&a, &b));
    assert_false(addr_equal(&a, &c));
    assert_false(addr_same_ip(&a, &c));
    assert_false(addr_same_ip(&a, &d));
}

static void special_addresses_are_recognised(void **state)
{
    static const struct {
        const char *text;
        bool any, loopback;
    } cases[] = {
        {"0.0.0.0", true, false},
        {"::", true, false},
        {"0.0.0.1", false, false},
        {"::1", false, true},
        {"::2", false, false},
        {"127.0.0.1", false, true},
        {"127.255.255.255", false, true},
        {"126.255.255.255", false, false},
        {"128.0.0.0", false, false},
        {"::ffff:127.0.0.1", false, true},
        {"::127.0.0.1", false, false},
        {"8000::1", false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct addr a = at(cases[i].text);

        assert_int_equal(addr_is_any(&a), cases[i].any);
        assert_int_equal(addr_is_loopback(&a), cases[i].loopback);
    }
}

static void sockaddr_and_back(void **state)
{
    static const char *const texts[] = {"192.0.2.1:80", "0.0.0.0:0", "[2001:db8::1]:65535",
                                        "[::]:1"};
    struct sockaddr_storage sa;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct addr a = at(texts[i]), b;

        memset(&sa, 0xa5, sizeof(sa));
        socklen_t len = addr_to_sockaddr(&a, &sa);

        assert_int_equal(sa.ss_family, addr_is_v4(&a) ? AF_INET : AF_INET6);
        assert_int_equal(len,
                         addr_is_v4(&a) ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
        memset(&b, 0xa5, sizeof(b));
        assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, &b), 0);
        assert_memory_equal(&a, &b, sizeof(a));
        assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len - 1, &b), -EINVAL);
        assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, 1, &b), -EINVAL);
        assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, 0, &b), -EINVAL);
        assert_memory_equal(&a, &b, sizeof(a));
    }

    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    struct addr a, v4 = at("192.0.2.1:80");

    assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.1", &mapped.sin6_addr), 1);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&mapped, sizeof(mapped), &a), 0);
    assert_true(addr_equal(&a, &v4));

    mapped.sin6_scope_id = 7;
    assert_int_equal(inet_pton(AF_INET6, "fe80::1", &mapped.sin6_addr), 1);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&mapped, sizeof(mapped), &a), 0);
    assert_int_equal(a.scope, 7);
    addr_to_sockaddr(&a, &sa);
    assert_int_equal(((struct sockaddr_in6 *)&sa)->sin6_scope_id, 7);

    struct sockaddr_un local = {.sun_family = AF_UNIX};

    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&local, sizeof(local), &a),
                     -EAFNOSUPPORT);
}

static void prefixes_are_read_and_printed(void **state)
{
    static const char *const cases[][2] = {
        {"10.0.0.0/8", "10.0.0.0/8"},
        {"10.1.2.3/8", "10.0.0.0/8"}, /* host bits go */
        {"10.1.2.3/31", "10.1.2.2/31"},
        {"10.1.2.3/32", "10.1.2.3/32"},
        {"10.1.2.3", "10.1.2.3/32"},
        {"255.255.255.255/9", "255.128.0.0/9"},
        {"1.2.3.4/0", "0.0.0.0/0"},
        {"::/0", "::/0"},
        {"ffff::/1", "8000::/1"},
        {"2001:db8::1", "2001:db8::1/128"},
        {"2001:db8:ffff::1/33", "2001:db8:8000::/33"},
        {"2001:db8::ffff/127", "2001:db8::fffe/127"},
        {"::ffff:10.1.2.3/8", "10.0.0.0/8"},
    };
    char buf[PREFIX_STRLEN];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct prefix p = network(cases[i][0]), again;

        assert_ptr_equal(prefix_format(&p, buf), buf);
        assert_string_equal(buf, cases[i][1]);
        again = network(buf);
        assert_memory_equal(&p, &again, sizeof(p));
    }
    struct prefix widest = network("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");

    assert_string_equal(prefix_format(&widest, buf), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128");
}

static void bad_prefixes_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "/",
        "/8",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "10.0.0.0/ 8",
        "10.0.0.0/8 ",
        "10.0.0.0/0x8",
        "10.0.0.0/255.0.0.0",
        "::/129",
        "::/999999",
        "10.0.0/8",
        "[::]/0",
        "[::1]",
        "10.0.0.0:80/8",
        "10.0.0.0:80",
        "name/8",
        "::ffff:10.0.0.0/104",
        "111111111111111111111111111111111111111111111111111111111111111111111111111111111/8",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct prefix p, before;

        memset(&p, 0xa5, sizeof(p));
        before = p;
        if (prefix_parse(bad[i], &p) != -EINVAL)
            fail_msg("taken for a prefix: \"%s\"", bad[i]);
        assert_memory_equal(&p, &before, sizeof(p));
    }
}

static void a_prefix_contains_its_own_family_only(void **state)
{
    static const struct {
        const char *prefix, *addr;
        bool in;
    } cases[] = {
        {"10.0.0.0/8", "10.255.255.255", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.0.0.0/8", "9.255.255.255", false},
        {"192.0.2.128/25", "192.0.2.127", false},
        {"192.0.2.128/25", "192.0.2.128", true},
        {"192.0.2.1/32", "192.0.2.1", true},
        {"192.0.2.1/32", "192.0.2.0", false},
        {"0.0.0.0/0", "255.255.255.255", true},
        {"0.0.0.0/0", "::", false},
        {"::/0", "ffff::", true},
        {"::/0", "192.0.2.1", false},
        {"2001:db8::/32", "2001:db8:ffff::", true},
        {"2001:db8::/32", "2001:db9::", false},
        {"::1/128", "::1", true},
        {"::1/128", "::", false},
        {"::/127", "::1", true},
        {"fe80::/10", "febf::1", true},
        {"fe80::/10", "fec0::1", false},
        {"100.64.0.0/10", "100.127.0.1", true},
        {"100.64.0.0/10", "100.128.0.1", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct prefix p = network(cases[i].prefix);
        struct addr a = at(cases[i].addr);

        if (prefix_contains(&p, &a) != cases[i].in)
            fail_msg("%s in %s: %d", cases[i].addr, cases[i].prefix, !cases[i].in);
    }
    assert_true(prefix_is_v4(&(struct prefix){.ip = {[10] = 0xff, [11] = 0xff}, .len = 96}));
    assert_false(prefix_is_v4(&(struct prefix){.ip = {[10] = 0xff, [11] = 0xff}, .len = 95}));
}

/* Every bit of every length, against a comparison bit by bit. */
static void every_length_holds_for_every_bit(void **state)
{
    (void)state;
    for (unsigned v4 = 0; v4 < 2; v4++) {
        unsigned bits = v4 ? 32 : 128, base = 128 - bits;

        for (unsigned len = 0; len <= bits; len++) {
            char text[PREFIX_STRLEN];
            struct addr a = at(v4 ? "203.0.113.170" : "2001:db8:aaaa:5555:aaaa:5555:aaaa:5555");

            snprintf(text, sizeof(text), "%s/%u",
                     v4 ? "203.0.113.170" : "2001:db8:aaaa:5555:aaaa:5555:aaaa:5555", len);
            struct prefix p = network(text);

            assert_int_equal(p.len, base + len);
            assert_true(prefix_contains(&p, &a));
            for (unsigned bit = base; bit < 128; bit++) {
                struct addr b = a;

                b.ip[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
                assert_int_equal(prefix_contains(&p, &b), bit >= base + len);
                if (bit >= base + len)
                    assert_int_equal(p.ip[bit / 8] & 0x80 >> bit % 8, 0);
            }
        }
    }
}

static void the_private_prefixes_are_sorted_disjoint_and_right(void **state)
{
    static const char *const in[] = {
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.53",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "224.0.0.251",
        "239.255.255.250",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "ff02::fb",
    };
    static const char *const out[] = {
        "1.1.1.1",     "9.9.9.9",         "11.0.0.0",     "100.63.255.255", "100.128.0.0",
        "126.0.0.1",   "128.0.0.1",       "169.253.0.1",  "172.15.0.1",     "172.32.0.1",
        "192.167.0.1", "192.169.0.1",     "198.51.100.7", "203.0.113.10",   "223.255.255.255",
        "240.0.0.1",   "255.255.255.254", "::2",          "2001:db8::1",    "2606:4700::1",
        "fbff::1",     "fe00::1",         "fec0::1",      "64:ff9b::1",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(in) / sizeof(in[0]) + sizeof(out) / sizeof(out[0]); i++) {
        bool want = i < sizeof(in) / sizeof(in[0]), found = false;
        struct addr a = at(want ? in[i] : out[i - sizeof(in) / sizeof(in[0])]);

        for (size_t k = 0; k < addr_n_private_prefixes; k++)
            found |= prefix_contains(&addr_private_prefixes[k], &a);
        assert_int_equal(found, want);
    }
    for (size_t i = 0; i + 1 < addr_n_private_prefixes; i++) {
        const struct prefix *p = &addr_private_prefixes[i], *q = p + 1;
        struct addr a = {.port = 0};

        memcpy(a.ip, q->ip, sizeof(a.ip));
        assert_false(prefix_contains(p, &a));
        assert_true(prefix_is_v4(p) >= prefix_is_v4(q));
        if (prefix_is_v4(p) == prefix_is_v4(q))
            assert_true(memcmp(p->ip, q->ip, sizeof(p->ip)) < 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_addresses_are_read_and_printed),
        cmocka_unit_test(bad_addresses_are_refused),
        cmocka_unit_test(a_scope_is_an_interface),
        cmocka_unit_test(equality_is_ip_scope_and_port),
        cmocka_unit_test(special_addresses_are_recognised),
        cmocka_unit_test(sockaddr_and_back),
        cmocka_unit_test(prefixes_are_read_and_printed),
        cmocka_unit_test(bad_prefixes_are_refused),
        cmocka_unit_test(a_prefix_contains_its_own_family_only),
        cmocka_unit_test(every_length_holds_for_every_bit),
        cmocka_unit_test(the_private_prefixes_are_sorted_disjoint_and_right),
    };

    return cmocka_run_group_tests_name("addr", tests, NULL, NULL);
}
