/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/shares.h: who holds how much, and who makes room for whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/shares.h"

static uint32_t counts[SHARES_PLACES];
static struct shares s;

static struct shares_client client(const char *text)
{
    struct addr a;

    assert_int_equal(addr_parse(text, 53, &a), 0);
    return shares_client(&s, &a);
}

static void give(const char *text, unsigned n)
{
    while (n-- > 0)
        shares_add(&s, client(text));
}

static bool yields(const char *from, const char *to)
{
    return shares_yields(&s, client(from), client(to));
}

static int setup(void **state)
{
    (void)state;
    memset(counts, 0, sizeof(counts));
    /* Under this seed none of the addresses below share a place. */
    s = (struct shares){.counts = counts, .total = 20, .seed = 1};
    return 0;
}

static void ports_are_one_client_and_addresses_are_not(void **state)
{
    struct addr a, b;

    (void)state;
    assert_int_equal(addr_parse("192.0.2.1", 1, &a), 0);
    assert_int_equal(addr_parse("192.0.2.1", 2, &b), 0);
    assert_int_equal(shares_client(&s, &a).host, shares_client(&s, &b).host);
    assert_int_not_equal(client("192.0.2.1").host, client("192.0.2.2").host);
    assert_int_not_equal(client("192.0.2.1").net, client("192.0.2.2").net);
    assert_int_not_equal(client("fd00::1").host, client("fd00::2").host);
    assert_int_equal(client("fd00::1").net, client("fd00::2").net);
    assert_int_not_equal(client("fd00::1").net, client("fd00:0:0:1::1").net);
}

static void what_is_added_is_dropped(void **state)
{
    (void)state;
    give("fd00::1", 2);
    give("fd00::2", 1);
    assert_int_equal(shares_of_host(&s, client("fd00::1")), 2);
    assert_int_equal(shares_of_net(&s, client("fd00::1")), 3);
    shares_drop(&s, client("fd00::1"));
    assert_int_equal(shares_of_host(&s, client("fd00::1")), 1);
    assert_int_equal(shares_of_net(&s, client("fd00::2")), 2);
}

static void who_holds_more_makes_room_until_both_hold_as_much(void **state)
{
    (void)state;
    give("192.0.2.1", 5);
    give("192.0.2.2", 3);
    assert_true(shares_compare(&s, client("192.0.2.1"), client("192.0.2.2")) > 0);
    assert_true(yields("192.0.2.1", "192.0.2.2"));
    assert_false(yields("192.0.2.2", "192.0.2.1"));
    assert_false(yields("192.0.2.1", "192.0.2.1"));
    give("192.0.2.2", 1);
    assert_false(yields("192.0.2.1", "192.0.2.2"));
}

/* Hosts of a /64 are clients of their own, and together one where they hold more than half. */
static void many_addresses_of_a_network_hold_half_at_most(void **state)
{
    static const char *const hosts[] = {"fd00::1", "fd00::2", "fd00::3", "fd00::4", "fd00::5"};

    (void)state;
    for (unsigned i = 0; i < 5; i++)
        give(hosts[i], 2);
    give("192.0.2.1", 3);
    assert_false(yields("fd00::1", "192.0.2.1"));
    assert_false(yields("192.0.2.1", "fd00::6")); /* it would have more than half */
    give("fd00::1", 5);
    assert_true(shares_compare(&s, client("fd00::2"), client("192.0.2.1")) > 0);
    assert_true(yields("fd00::2", "192.0.2.1"));
    assert_true(yields("fd00::1", "fd00::6"));
    assert_false(yields("fd00::2", "fd00::1"));
}

/* Of an odd number of entries one has one more, and keeps it. */
static void nobody_takes_it_back(void **state)
{
    (void)state;
    s.total = 5;
    give("192.0.2.1", 3);
    give("192.0.2.2", 2);
    assert_false(yields("192.0.2.1", "192.0.2.2"));
    assert_false(yields("192.0.2.2", "192.0.2.1"));
}

#define TEST(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ports_are_one_client_and_addresses_are_not),
        TEST(what_is_added_is_dropped),
        TEST(who_holds_more_makes_room_until_both_hold_as_much),
        TEST(many_addresses_of_a_network_hold_half_at_most),
        TEST(nobody_takes_it_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
