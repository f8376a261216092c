/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The order and merging of a set's elements, and the bounds of a rule. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cases.h"
#include "nft/form.h"
#include "nft/ruleset.h"
#include "nft/text.h"

struct range {
    uint16_t first, last;
};

static void be16(uint8_t ret[2], uint16_t v)
{
    ret[0] = (uint8_t)(v >> 8);
    ret[1] = (uint8_t)v;
}

/* Adds the ranges to a set of ports, finishes it, and expects others. */
static void expect_merged(const struct range *in, size_t n_in, const struct range *out,
                          size_t n_out)
{
    static const enum nft_type port = NFT_TYPE_INET_SERVICE;
    struct nft_ruleset *rs = nft_form_new();
    unsigned set;

    assert_non_null(rs);
    assert_int_equal(nft_form_add_set(rs, "s", &port, 1, true, &set), 0);
    for (size_t i = 0; i < n_in; i++) {
        uint8_t first[2], last[2];

        be16(first, in[i].first);
        be16(last, in[i].last);
        assert_int_equal(nft_set_add(&rs->sets[set], first, last), 0);
    }
    nft_set_finish(&rs->sets[set]);
    assert_int_equal(rs->sets[set].n_elems, n_out);
    for (size_t i = 0; i < n_out; i++) {
        uint8_t first[2], last[2];

        be16(first, out[i].first);
        be16(last, out[i].last);
        assert_memory_equal(rs->sets[set].elems[i].first, first, 2);
        assert_memory_equal(rs->sets[set].elems[i].last, last, 2);
    }
    nft_ruleset_free(rs);
}

#define EXPECT_MERGED(in, out) expect_merged(in, COUNT(in), out, COUNT(out))

static void test_intervals_apart_are_sorted(void **state)
{
    const struct range in[] = {{443, 443}, {8000, 8999}, {80, 80}};
    const struct range out[] = {{80, 80}, {443, 443}, {8000, 8999}};

    (void)state;
    EXPECT_MERGED(in, out);
}

static void test_intervals_that_touch_become_one(void **state)
{
    const struct range in[] = {{82, 90}, {80, 80}, {81, 81}, {92, 92}};
    const struct range out[] = {{80, 90}, {92, 92}};

    (void)state;
    EXPECT_MERGED(in, out);
}

static void test_intervals_that_overlap_become_one(void **state)
{
    const struct range in[] = {{100, 200}, {150, 300}, {120, 130}, {300, 300}};
    const struct range out[] = {{100, 300}};

    (void)state;
    EXPECT_MERGED(in, out);
}

static void test_a_carry_joins_neighbours(void **state)
{
    const struct range in[] = {{256, 300}, {200, 255}};
    const struct range out[] = {{200, 300}};

    (void)state;
    EXPECT_MERGED(in, out);
}

static void test_the_whole_range_swallows_all(void **state)
{
    const struct range in[] = {{65535, 65535}, {0, 65535}, {0, 0}, {7, 9}};
    const struct range out[] = {{0, 65535}};

    (void)state;
    EXPECT_MERGED(in, out);
}

static void test_single_values_lose_only_duplicates(void **state)
{
    static const enum nft_type uid = NFT_TYPE_UID;
    static const uint8_t keys[][4] = {{0, 0, 3, 232}, {0, 0, 0, 1}, {0, 0, 3, 232}, {0, 0, 0, 2}};
    struct nft_ruleset *rs = nft_form_new();
    unsigned set;

    (void)state;
    assert_int_equal(nft_form_add_set(rs, "u", &uid, 1, false, &set), 0);
    for (size_t i = 0; i < COUNT(keys); i++)
        assert_int_equal(nft_set_add(&rs->sets[set], keys[i], NULL), 0);
    nft_set_finish(&rs->sets[set]);
    assert_int_equal(rs->sets[set].n_elems, 3);
    assert_memory_equal(rs->sets[set].elems[0].first, keys[1], 4);
    assert_memory_equal(rs->sets[set].elems[1].first, keys[3], 4);
    assert_memory_equal(rs->sets[set].elems[2].first, keys[0], 4);
    nft_ruleset_free(rs);
}

static void test_an_empty_set_stays_empty(void **state)
{
    (void)state;
    expect_merged(NULL, 0, NULL, 0);
}

static void test_a_rule_that_is_too_long_is_refused(void **state)
{
    struct nft_ruleset *rs = nft_form_new();
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;

    (void)state;
    assert_int_equal(nft_form_add_chain(rs, "c", NFT_CHAIN_REGULAR, 0, 0, &chain), 0);
    for (unsigned i = 0; i < NFT_RULE_MAX; i++)
        nft_rule_match(&rule, NFT_FIELD_META_MARK, NFT_OP_EQ, i);
    assert_int_equal(nft_chain_append(&rs->chains[chain], &rule), 0);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    assert_int_equal(nft_chain_append(&rs->chains[chain], &rule), -E2BIG);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    assert_int_equal(nft_chain_append(&rs->chains[chain], &rule), -E2BIG);
    assert_int_equal(rs->chains[chain].n_rules, 1);
    nft_ruleset_free(rs);
}

static void test_a_name_that_is_too_long_is_refused(void **state)
{
    static const enum nft_type uid = NFT_TYPE_UID;
    char name[NFT_ID_SIZE + 1];
    struct nft_ruleset *rs = nft_form_new();
    unsigned index;

    (void)state;
    memset(name, 'x', sizeof(name));
    name[NFT_ID_SIZE] = '\0';
    assert_int_equal(nft_form_add_set(rs, name, &uid, 1, false, &index), -ENAMETOOLONG);
    assert_int_equal(nft_form_add_chain(rs, name, NFT_CHAIN_REGULAR, 0, 0, &index), -ENAMETOOLONG);
    name[NFT_ID_SIZE - 1] = '\0';
    assert_int_equal(nft_form_add_set(rs, name, &uid, 1, false, &index), 0);
    nft_ruleset_free(rs);
}

/* What stays of one form in another finds its dynamic set there, or brings it. */
static void test_lasting_rules_keep_their_sets(void **state)
{
    static const enum nft_type uid = NFT_TYPE_UID;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct nft_ruleset *old = nft_form_new(), *rs = nft_form_new(), *outline;
        struct nft_rule rule = {.n_exprs = 0};
        unsigned set, chain;

        assert_int_equal(nft_form_add_set(old, "other", &uid, 1, false, &set), 0);
        assert_int_equal(nft_form_add_dynamic_set(old, "d", NFT_TYPE_INET_SERVICE, 61001, 7, &set),
                         0);
        assert_int_equal(set, 1);
        assert_int_equal(nft_form_add_chain(old, "c", NFT_CHAIN_REGULAR, 0, 0, &chain), 0);
        nft_rule_match_set(&rule, NFT_FIELD_TCP_DPORT, NFT_OP_EQ, set);
        nft_rule_add_to_set(&rule, NFT_FIELD_TCP_DPORT, set);
        assert_int_equal(nft_chain_append(&old->chains[chain], &rule), 0);
        nft_chain_keep(&old->chains[chain]);
        outline = nft_form_outline(old);
        assert_non_null(outline);
        nft_ruleset_free(old);

        if (i == 1) {
            assert_int_equal(nft_form_add_set(rs, "a", &uid, 1, false, &set), 0);
            assert_int_equal(nft_form_add_set(rs, "b", &uid, 1, false, &set), 0);
            assert_int_equal(
                nft_form_add_dynamic_set(rs, "d", NFT_TYPE_INET_SERVICE, 61001, 7, &set), 0);
        }
        assert_int_equal(nft_form_inherit(rs, outline), 0);
        nft_ruleset_free(outline);
        assert_int_equal(rs->n_sets, i == 1 ? 3 : 1);
        assert_int_equal(rs->n_chains, 1);
        for (unsigned k = 0; k < 2; k++)
            assert_int_equal(rs->chains[0].rules[0].exprs[k].match.set, rs->n_sets - 1);
        char *text = nft_ruleset_text(rs);

        assert_non_null(strstr(text, "\tset d {\n\t\ttype inet_service\n\t\tsize 7\n"
                                     "\t\tflags dynamic,timeout\n\t\ttimeout 1m1s1ms\n\t}\n"));
        assert_non_null(strstr(text, "\t\ttcp dport @d add @d { tcp dport }\n"));
        free(text);
        nft_ruleset_free(rs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intervals_apart_are_sorted),
        cmocka_unit_test(test_intervals_that_touch_become_one),
        cmocka_unit_test(test_intervals_that_overlap_become_one),
        cmocka_unit_test(test_a_carry_joins_neighbours),
        cmocka_unit_test(test_the_whole_range_swallows_all),
        cmocka_unit_test(test_single_values_lose_only_duplicates),
        cmocka_unit_test(test_an_empty_set_stays_empty),
        cmocka_unit_test(test_a_rule_that_is_too_long_is_refused),
        cmocka_unit_test(test_a_name_that_is_too_long_is_refused),
        cmocka_unit_test(test_lasting_rules_keep_their_sets),
    };

    return cmocka_run_group_tests_name("nft/form", tests, NULL, NULL);
}
