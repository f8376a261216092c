/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp/names.c and udp/waiting.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "udp/names.h"
#include "udp/waiting.h"

#define NAME_A "198.18.0.1:443"
#define NAME_B "198.18.0.2:443"
#define NAME_C "198.18.0.3:3478"

static struct addr at(const char *text)
{
    struct addr a;

    assert_int_equal(addr_parse(text, 0, &a), 0);
    return a;
}

static void asked(struct udp_names *m, const char *text, bool is_name)
{
    struct addr a = at(text);

    udp_names_asked(m, &a, is_name);
}

static void expect(struct udp_names *m, const char *from, const char *want)
{
    struct addr a = at(from), w = at(want);
    char got[ADDR_STRLEN];
    const struct addr *source = udp_names_source(m, &a);

    if (!addr_equal(source, &w))
        fail_msg("an answer from %s is from %s, not %s", from, addr_format(source, got), want);
}

static void test_one_name(void **state)
{
    struct udp_names m = {0};

    (void)state;
    expect(&m, "203.0.113.1:443", "203.0.113.1:443");
    asked(&m, NAME_A, true);
    expect(&m, "203.0.113.1:443", NAME_A);
    expect(&m, "203.0.113.1:443", NAME_A);
    expect(&m, "203.0.113.1:444", "203.0.113.1:444"); /* nobody asked this port */
    expect(&m, "203.0.113.9:443", NAME_A);            /* it has several addresses */
    expect(&m, "203.0.113.1:443", NAME_A);
}

static void test_real_ones_stay(void **state)
{
    struct udp_names m = {0};

    (void)state;
    asked(&m, "203.0.113.1:443", false);
    asked(&m, NAME_A, true);
    expect(&m, "203.0.113.1:443", "203.0.113.1:443");
    expect(&m, "203.0.113.2:443", NAME_A);
    /* Asked for by itself later, although it has answered for the name. */
    asked(&m, "203.0.113.2:443", false);
    expect(&m, "203.0.113.2:443", "203.0.113.2:443");
}

/* One after the other: each answer teaches. */
static void test_two_names_in_turn(void **state)
{
    struct udp_names m = {0};

    (void)state;
    asked(&m, NAME_A, true);
    expect(&m, "203.0.113.1:443", NAME_A);
    asked(&m, NAME_B, true);
    expect(&m, "203.0.113.2:443", NAME_B);
    for (unsigned i = 0; i < 3; i++) {
        asked(&m, i % 2 ? NAME_A : NAME_B, true);
        expect(&m, "203.0.113.1:443", NAME_A);
        expect(&m, "203.0.113.2:443", NAME_B);
    }
    /* A third address: of the one used last. */
    asked(&m, NAME_A, true);
    expect(&m, "203.0.113.3:443", NAME_A);
    asked(&m, NAME_B, true);
    expect(&m, "203.0.113.3:443", NAME_B);
}

/* Both before the first answer: the last one, and nothing is learnt from it. */
static void test_two_names_at_once(void **state)
{
    struct udp_names m = {0};

    (void)state;
    asked(&m, NAME_A, true);
    asked(&m, NAME_B, true);
    expect(&m, "203.0.113.1:443", NAME_B);
    asked(&m, NAME_A, true);
    expect(&m, "203.0.113.1:443", NAME_A);
    asked(&m, NAME_B, true);
    expect(&m, "203.0.113.2:443", NAME_B);
}

static void test_ports_part_them(void **state)
{
    struct udp_names m = {0};

    (void)state;
    asked(&m, NAME_A, true);
    asked(&m, NAME_C, true);
    expect(&m, "203.0.113.1:443", NAME_A);
    expect(&m, "203.0.113.1:3478", NAME_C);
    expect(&m, "203.0.113.1:443", NAME_A);
}

/* Real destinations in any number do not push a name out, but names do one another. */
/* dns-server, at whatever port: its answers are from whom the client asked last. */
static void test_another_is_asked(void **state)
{
    struct udp_names m = {0};
    struct addr stub = at("127.0.0.53:53"), far = at("198.51.100.1:53");
    struct addr server = at("[2001:db8::53]:5353");

    (void)state;
    udp_names_redirected(&m, &stub, &server);
    expect(&m, "[2001:db8::53]:5353", "127.0.0.53:53");
    udp_names_redirected(&m, &far, &server);
    expect(&m, "[2001:db8::53]:5353", "198.51.100.1:53");
    udp_names_redirected(&m, &stub, &server);
    expect(&m, "[2001:db8::53]:5353", "127.0.0.53:53");
    asked(&m, "203.0.113.1:443", false);
    expect(&m, "203.0.113.1:443", "203.0.113.1:443");
    expect(&m, "203.0.113.2:5353", "203.0.113.2:5353");
    asked(&m, "[2001:db8::53]:5353", false);
    expect(&m, "[2001:db8::53]:5353", "[2001:db8::53]:5353");
}

static void test_bounds(void **state)
{
    struct udp_names m = {0};
    char text[ADDR_STRLEN];

    (void)state;
    asked(&m, NAME_A, true);
    for (unsigned i = 1; i < 200; i++) {
        snprintf(text, sizeof(text), "203.0.113.%u:6881", i);
        asked(&m, text, false);
        assert_true(m.n <= UDP_NAMES);
    }
    expect(&m, "192.0.2.1:443", NAME_A);
    for (unsigned i = 1; i < UDP_NAMES + 3; i++) {
        snprintf(text, sizeof(text), "198.18.1.%u:%u", i, 1000 + i);
        asked(&m, text, true);
        assert_true(m.n <= UDP_NAMES);
    }
    expect(&m, "192.0.2.1:443", "192.0.2.1:443");
    expect(&m, "192.0.2.1:1012", "198.18.1.12:1012");
    expect(&m, "192.0.2.1:1002", "192.0.2.1:1002");
    expect(&m, "192.0.2.1:1003", "198.18.1.3:1003");
}

static const char *lookup(void *ctx, const struct addr *a)
{
    struct addr name_a = at(NAME_A);

    (void)ctx;
    return addr_equal(a, &name_a) ? "example.net" : NULL;
}

static void test_named_answer(void **state)
{
    struct udp_names m = {0};
    struct addr a = at(NAME_A);

    (void)state;
    assert_null(udp_names_by_name(&m, "example.net", 443, lookup, NULL));
    asked(&m, NAME_B, true);
    asked(&m, NAME_A, true);
    assert_true(addr_equal(udp_names_by_name(&m, "Example.NET", 443, lookup, NULL), &a));
    assert_null(udp_names_by_name(&m, "example.net", 444, lookup, NULL));
    assert_null(udp_names_by_name(&m, "example.org", 443, lookup, NULL));
}

static void test_waiting_order_and_bounds(void **state)
{
    static uint8_t data[65535];
    struct udp_waiting q = {0}, other = {0};
    struct addr to = at(NAME_A);
    size_t total = 0;

    (void)state;
    for (unsigned i = 0; i < UDP_WAITING_DATAGRAMS; i++) {
        data[0] = (uint8_t)i;
        assert_true(udp_waiting_add(&q, &total, &to, data, 10));
    }
    assert_false(udp_waiting_add(&q, &total, &to, data, 10));
    assert_true(udp_waiting_add(&other, &total, &to, data, 10));
    for (unsigned i = 0; i < UDP_WAITING_DATAGRAMS; i++) {
        struct udp_waiter *w = udp_waiting_take(&q, &total);

        assert_int_equal(w->data[0], i);
        assert_int_equal(w->len, 10);
        assert_true(addr_equal(&w->destination, &to));
        free(w);
    }
    assert_null(udp_waiting_take(&q, &total));
    assert_int_equal(udp_waiting_clear(&other, &total), 1);
    assert_int_equal(total, 0);
    /* By bytes; but one of any length. */
    assert_true(udp_waiting_add(&q, &total, &to, data, 65535));
    assert_false(udp_waiting_add(&q, &total, &to, data, 1));
    udp_waiting_clear(&q, &total);
    assert_true(udp_waiting_add(&q, &total, &to, data, UDP_WAITING_BYTES / 2));
    assert_true(udp_waiting_add(&q, &total, &to, data, UDP_WAITING_BYTES / 2));
    assert_false(udp_waiting_add(&q, &total, &to, data, 1));
    assert_int_equal(udp_waiting_clear(&q, &total), 2);
    /* All together. */
    total = UDP_WAITING_TOTAL - 1000;
    assert_false(udp_waiting_add(&q, &total, &to, data, 1000));
    assert_true(udp_waiting_add(&q, &total, &to, data, 100));
    udp_waiting_clear(&q, &total);
    assert_int_equal(total, UDP_WAITING_TOTAL - 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_name),
        cmocka_unit_test(test_real_ones_stay),
        cmocka_unit_test(test_two_names_in_turn),
        cmocka_unit_test(test_two_names_at_once),
        cmocka_unit_test(test_ports_part_them),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_named_answer),
        cmocka_unit_test(test_another_is_asked),
        cmocka_unit_test(test_waiting_order_and_bounds),
    };

    return cmocka_run_group_tests_name("udp/names", tests, NULL, NULL);
}
