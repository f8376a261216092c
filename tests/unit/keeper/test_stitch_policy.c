/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which captures can be stitched, and whom a failed handshake is blamed on: every reason at every
 * step of chains with and without a password.
 */
#include "keeper/stitch_policy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct config_upstream configs[3];
static struct upstream chain;

/* A chain: each letter a hop: 5, p (SOCKS5 with a password), 4. */
static void make_chain(const char *hops)
{
    memset(&chain, 0, sizeof(chain));
    memset(configs, 0, sizeof(configs));
    for (unsigned i = 0; hops[i]; i++) {
        configs[i].url.scheme = hops[i] == '4' ? SCHEME_SOCKS4 : SCHEME_SOCKS5;
        configs[i].url.has_user = configs[i].url.has_password = hops[i] == 'p';
        snprintf(configs[i].url.host, sizeof(configs[i].url.host), "hop%u", i);
        configs[i].url.port = 1080;
        if (hops[i] == 'p') {
            snprintf(configs[i].url.user, sizeof(configs[i].url.user), "alice");
            snprintf(configs[i].url.password, sizeof(configs[i].url.password), "S3cret");
        }
        chain.hops[chain.n_hops++].config = &configs[i];
    }
}

static enum stitch_blame blame(unsigned no_auth, unsigned reason, unsigned step, unsigned code,
                               unsigned *ret_hop)
{
    struct stitch_event e = {
        .reason = (uint8_t)reason, .step = (uint8_t)step, .code = (uint8_t)code};
    unsigned hop;
    enum stitch_blame b = stitch_judge(&chain, no_auth, &e, ret_hop ? ret_hop : &hop);
    char line[400];

    stitch_describe(&chain, no_auth, &e, line, sizeof(line));
    assert_null(strstr(line, "S3cret"));
    assert_null(strstr(line, "alice"));
    return b;
}

static void test_replies(void **state)
{
    (void)state;
    make_chain("5");
    for (unsigned code = 1; code < 256; code++)
        assert_int_equal(blame(0, STITCH_BY_REPLY, 1, code, NULL),
                         code == 7 ? STITCH_BLAME_UPSTREAM : STITCH_BLAME_NOBODY);
    make_chain("4");
    assert_int_equal(blame(0, STITCH_BY_REPLY, 0, 7, NULL), STITCH_BLAME_NOBODY);
    assert_int_equal(blame(0, STITCH_BY_REPLY, 0, 0x5b, NULL), STITCH_BLAME_NOBODY);
}

static void test_others(void **state)
{
    static const unsigned reasons[] = {STITCH_BY_PROTOCOL, STITCH_BY_RESET,
                                       STITCH_BY_CLOSE,    STITCH_BY_REFUSAL,
                                       STITCH_BY_SILENCE,  STITCH_BY_UNREACHABLE};

    (void)state;
    make_chain("5p4");
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        for (unsigned step = 0; step < 6; step++)
            assert_int_equal(blame(0, reasons[i], step, 0, NULL), STITCH_BLAME_UPSTREAM);
    }
}

/* Two steps of the first hop, three of the second, one of the last: only what that one is asked
 * about the destination may take its time. */
static void test_timeouts(void **state)
{
    (void)state;
    make_chain("5p4");
    for (unsigned step = 0; step < 5; step++)
        assert_int_equal(blame(0, STITCH_BY_TIMEOUT, step, 0, NULL), STITCH_BLAME_UPSTREAM);
    assert_int_equal(blame(0, STITCH_BY_TIMEOUT, 5, 0, NULL), STITCH_BLAME_NOBODY);
    assert_int_equal(blame(2, STITCH_BY_TIMEOUT, 3, 0, NULL), STITCH_BLAME_UPSTREAM);
    assert_int_equal(blame(2, STITCH_BY_TIMEOUT, 4, 0, NULL), STITCH_BLAME_NOBODY);
    make_chain("4");
    assert_int_equal(blame(0, STITCH_BY_TIMEOUT, 0, 0, NULL), STITCH_BLAME_NOBODY);
    assert_int_equal(blame(0, STITCH_BY_SILENCE, 0, 0, NULL), STITCH_BLAME_UPSTREAM);
}

static void test_methods(void **state)
{
    unsigned hop = 9;

    (void)state;
    make_chain("5p4");
    assert_int_equal(blame(0, STITCH_BY_HOP, 2, 0xff, &hop), STITCH_BLAME_METHOD);
    assert_int_equal(hop, 1);
    assert_int_equal(blame(0, STITCH_BY_HOP, 2, 0, &hop), STITCH_BLAME_METHOD);
    assert_int_equal(blame(0, STITCH_BY_HOP, 2, 1, NULL), STITCH_BLAME_UPSTREAM);
    assert_int_equal(blame(2, STITCH_BY_HOP, 2, 0xff, NULL), STITCH_BLAME_UPSTREAM);
    assert_int_equal(blame(0, STITCH_BY_HOP, 0, 0xff, NULL), STITCH_BLAME_UPSTREAM);
    assert_int_equal(blame(0, STITCH_BY_HOP, 3, 0xff, NULL), STITCH_BLAME_UPSTREAM);
}

static void test_lines(void **state)
{
    struct stitch_event e = {.reason = STITCH_BY_REPLY};

    (void)state;
    make_chain("5");
    for (unsigned code = 1; code < 9; code++) {
        e.code = (uint8_t)code;
        assert_int_equal(stitch_worth_a_line(&chain, &e), code < 3 || code > 6);
    }
    make_chain("4");
    e.code = 0x5b;
    assert_false(stitch_worth_a_line(&chain, &e));
    e.code = 0x5c;
    assert_true(stitch_worth_a_line(&chain, &e));
    e.reason = STITCH_BY_RESET;
    assert_true(stitch_worth_a_line(&chain, &e));
}

/* A reply reads as it does when a worker was told it (tests/unit/upstream/test_dial.c). */
static void test_words(void **state)
{
    struct stitch_event e = {.reason = STITCH_BY_REPLY, .step = 4, .code = 1};
    char line[400];

    (void)state;
    make_chain("55");
    assert_string_equal(stitch_describe(&chain, 0, &e, line, sizeof(line)),
                        "hop 2 (hop1:1080): reply 0x01: general SOCKS server failure");
    e = (struct stitch_event){.reason = STITCH_BY_HOP, .step = 1, .code = 5};
    assert_string_equal(stitch_describe(&chain, 0, &e, line, sizeof(line)),
                        "hop 1 (hop0:1080): reply 0x05: connection refused");
    make_chain("4");
    e = (struct stitch_event){.reason = STITCH_BY_REPLY, .code = 0x5c};
    assert_string_equal(stitch_describe(&chain, 0, &e, line, sizeof(line)),
                        "reply 0x5c: request rejected: cannot connect to identd on the client");
}

static void test_choose(void **state)
{
    unsigned members[] = {1, 0};
    struct config_group group = {.members = members, .n_members = 2, .policy = POLICY_FAILOVER};
    struct config_capture k = {.target = TARGET_UPSTREAM, .policy = {.hook = CAPTURE_CGROUP}};
    struct config c = {.captures = &k, .n_captures = 1, .groups = &group, .n_groups = 1};
    const char *why = NULL;

    (void)state;
    assert_int_equal(stitch_choose(&c, 0, &why), 0);
    k.target = TARGET_GROUP;
    c.fast_path = FAST_STITCH;
    assert_int_equal(stitch_choose(&c, 0, &why), 1);
    c.fast_path = FAST_AUTO; /* never makes a connection fail that another member would grant */
    assert_int_equal(stitch_choose(&c, 0, &why), -1);
    c.fast_path = FAST_STITCH;
    for (int p = POLICY_ROUND_ROBIN; p <= POLICY_HASH; p++) {
        group.policy = (enum config_policy)p;
        group.n_members = 2;
        assert_int_equal(stitch_choose(&c, 0, &why), -1);
        assert_non_null(why);
        group.n_members = 1;
        assert_int_equal(stitch_choose(&c, 0, &why), 1);
    }
    c.idle_timeout = 1;
    assert_int_equal(stitch_choose(&c, 0, &why), -1);
    c.idle_timeout = 0;
    k.connect = CONNECT_EARLY;
    assert_int_equal(stitch_choose(&c, 0, &why), -1);
    k.connect = CONNECT_HONEST;
    k.policy.when_down = CAPTURE_DOWN_DIRECT;
    assert_int_equal(stitch_choose(&c, 0, &why), -1);
    k.policy.when_down = CAPTURE_DOWN_REFUSE;
    assert_int_equal(stitch_choose(&c, 0, &why), 1);
    k.policy.hook = CAPTURE_OUTPUT;
    assert_int_equal(stitch_choose(&c, 0, &why), -1);
    k.policy.hook = CAPTURE_CGROUP;
    k.policy.action = CAPTURE_REFUSE;
    assert_int_equal(stitch_choose(&c, 0, &why), -1);
    k.policy.action = CAPTURE_DIRECT;
    assert_int_equal(stitch_choose(&c, 0, &why), -1);
}

/* fast-path = "auto": whether a relay would have a choice that a script has not. */
static void test_may_ask(void **state)
{
    const char *why = NULL;
    unsigned no_auth = 9;
    struct config c = {.upstreams = configs, .n_upstreams = 0};
    struct upstream *none;
    struct addr *a = chain.hops[0].addrs;

    (void)state;
    assert_int_equal(upstream_build(&c, 0, &none), 0); /* what workers say is kept from then on */
    free(none);
    make_chain("5");
    snprintf(chain.name, sizeof(chain.name), "plain");
    addr_parse("192.0.2.1", 1080, &a[0]);
    chain.hops[0].n_addrs = 1;
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), 0);
    assert_int_equal(no_auth, 0);
    /* One of each family: only the one that has answered. */
    addr_parse("2001:db8::1", 1080, &a[1]);
    chain.hops[0].n_addrs = 2;
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
    assert_non_null(why);
    upstream_learn(&chain, &a[1], 0);
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
    assert_int_equal(stitch_may_ask(&chain, &a[1], &no_auth, &why), 0);
    upstream_learn(&chain, &a[0], 0);
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), 0);
    /* Two of one: never that family. */
    addr_parse("192.0.2.2", 1080, &a[2]);
    chain.hops[0].n_addrs = 3;
    upstream_learn(&chain, &a[2], 0);
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EOPNOTSUPP);
    assert_int_equal(stitch_may_ask(&chain, &a[2], &no_auth, &why), -EOPNOTSUPP);
    assert_int_equal(stitch_may_ask(&chain, &a[1], &no_auth, &why), 0);
    /* A password anywhere in the chain: as it was seen to be wanted, or not. */
    make_chain("5p");
    snprintf(chain.name, sizeof(chain.name), "secret");
    addr_parse("192.0.2.1", 1080, &a[0]);
    chain.hops[0].n_addrs = 1;
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
    upstream_learn(&chain, &a[0], 2);
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), 0);
    assert_int_equal(no_auth, 2);
    upstream_learn(&chain, &a[0], 0);
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), 0);
    assert_int_equal(no_auth, 0);
    a[0].port++;
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
    a[0].port--;
    snprintf(chain.name, sizeof(chain.name), "another");
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
    /* However many have answered: they are kept in few places, and nobody is taken for another. */
    for (unsigned port = 1; port < 60000; port++) {
        a[0].port = (uint16_t)port;
        upstream_learn(&chain, &a[0], 0);
    }
    for (unsigned port = 60000; port < 65536; port++) {
        a[0].port = (uint16_t)port;
        assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
    }
    /* Of the first hop, too, and a user without one. */
    make_chain("p5");
    snprintf(chain.name, sizeof(chain.name), "first");
    addr_parse("192.0.2.9", 1080, &chain.hops[0].addrs[0]);
    chain.hops[0].n_addrs = 1;
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
    configs[0].url.has_password = false;
    assert_int_equal(stitch_may_ask(&chain, &a[0], &no_auth, &why), -EAGAIN);
}

static void test_hold_off(void **state)
{
    int64_t before = 0;

    (void)state;
    for (unsigned i = 1; i < 8; i++) {
        assert_true(stitch_hold_off(i) > before);
        before = stitch_hold_off(i);
    }
    assert_int_equal(stitch_hold_off(9), stitch_hold_off(4000000000u));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replies),  cmocka_unit_test(test_others),
        cmocka_unit_test(test_timeouts), cmocka_unit_test(test_methods),
        cmocka_unit_test(test_lines),    cmocka_unit_test(test_words),
        cmocka_unit_test(test_choose),   cmocka_unit_test(test_hold_off),
        cmocka_unit_test(test_may_ask),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
