/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Honest captures as text. As in test_text.c: what nft 1.0.6 lists, held against the nft that is
 * installed by test_batch.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cases.h"
#include "nft/guard.h"
#include "nft/ruleset.h"
#include "nft/text.h"

#define HASTY_CHAIN                                                         \
    "\tchain hasty {\n"                                                     \
    "\t\ttype filter hook output priority raw; policy accept;\n"            \
    "\t\tmeta l4proto != tcp return\n"                                      \
    "\t\ttcp flags ! rst return\n"                                          \
    "\t\ttcp flags & ack == ack delete @hasty_ports { tcp dport } return\n" \
    "\t\ttcp dport != @hasty_ports return\n"                                \
    "\t\toifname \"lo\" tcp sport 41002 drop\n"                             \
    "\t\toifname \"lo\" tcp sport 41102 drop\n"                             \
    "\t}\n\n"

/* What is sent again, with one seat. */
#define INJECTED_CHAINS                                                                      \
    "\tchain injected {\n"                                                                   \
    "\t\ttype filter hook output priority mangle - 10; policy accept;\n"                     \
    "\t\tmeta mark != 0x55538000/17 return\n"                                                \
    "\t\tmeta mark 0x55538400 meta l4proto tcp meta mark set 0x00000000 reject with tcp "    \
    "reset\n"                                                                                \
    "\t\tmeta mark 0x55538401 meta mark set 0x00000000 reject with icmpx host-unreachable\n" \
    "\t\tmeta mark 0x55538402 meta mark set 0x00000000 reject with icmpx no-route\n"         \
    "\t\tmeta nfproto ipv4 meta mark 0x55538403 meta l4proto tcp meta mark set 0x00000000 "  \
    "reject with tcp reset\n"                                                                \
    "\t\tmeta mark 0x55538403 meta mark set 0x00000000 reject with icmpx admin-prohibited\n" \
    "\t\tmeta mark 0x55538400/24 drop\n"                                                     \
    "\t\tct label set 86\n"                                                                  \
    "\t\tadd @hasty_ports { tcp sport }\n"                                                   \
    "\t}\n"                                                                                  \
    "\n" HASTY_CHAIN "\tchain source {\n"                                                    \
    "\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n"                   \
    "\t\tct label 86 snat ip to ip saddr\n"                                                  \
    "\t\tct label 86 snat ip6 to ip6 saddr\n"                                                \
    "\t}\n"

#define NAT_HEAD                                               \
    "\tchain output {\n"                                       \
    "\t\ttype nat hook output priority -110; policy accept;\n" \
    "\t\tct status dnat return\n"                              \
    "\t\tmeta mark 0x55538000/17 goto granted\n"               \
    "\t\tct label 86 fib saddr type != local drop\n"

#define GRANTED_TAIL                                                   \
    "\t\tmeta mark & 0xffff8100 == 0x55538100 oifname \"lo\" return\n" \
    "\t\tdrop\n"                                                       \
    "\t}\n"                                                            \
    "\n"

#define SELECT_HEAD                                                                              \
    "\tchain select {\n"                                                                         \
    "\t\ttype route hook output priority -120; policy accept;\n"                                 \
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"                                            \
    "\t\tct label 86 socket mark 0x55538000/17 meta mark set socket mark\n"                      \
    "\t\tct label 86 meta mark & 0xffff8100 == 0x55538000 ct status confirmed ct status ! dnat " \
    "drop\n"                                                                                     \
    "\t\tmeta mark & 0xffff8100 == 0x55538100 oifname \"lo\" return\n"                           \
    "\t\tmeta mark 0x55538000/17 ct state invalid,untracked drop\n"                              \
    "\t\tmeta mark 0x55538000/17 return\n"

static const char one_seat_chains[] = NAT_HEAD
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr != @private4 meta l4proto tcp redirect to :12345\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp redirect to :12346\n"
    "\t}\n"
    "\n"
    "\tchain granted {\n"
    "\t\tmeta nfproto ipv4 meta mark 0x55538002 meta l4proto tcp redirect to :41002\n"
    "\t\tmeta nfproto ipv6 meta mark 0x55538002 meta l4proto tcp redirect to :41102\n"
    "\t\tmeta nfproto ipv4 meta mark 0x55538200 meta l4proto tcp redirect to :12345\n"
    "\t\tmeta nfproto ipv6 meta mark 0x55538200 meta l4proto tcp redirect to :12346\n" GRANTED_TAIL
    "\tchain refuse_tcp {\n"
    "\t\tmeta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n" SELECT_HEAD "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr != @private4 meta l4proto tcp goto hold_0\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp goto hold_0\n"
    "\t}\n"
    "\n"
    "\tchain hold_0 {\n"
    "\t\tct state established ct status ! dnat jump refuse_tcp\n"
    "\t\tct state invalid,untracked jump refuse_tcp\n"
    "\t\tct status confirmed ct status ! dnat return\n"
    "\t\tlog prefix \"all\" group 21762 snaplen 256 queue-threshold 1\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n" BOUND_CHAINS "\n" INJECTED_CHAINS "}\n";

/* The gateway's part of "honest gateway, several seats". */
static const char gateway_chains[] =
    "\tchain prerouting {\n"
    "\t\ttype filter hook prerouting priority -130; policy accept;\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tiifname \"lo\" return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack goto established\n"
    "\t\tfib daddr type local return\n"
    "\t\tfib daddr type broadcast return\n"
    "\t\tfib daddr type multicast return\n"
    "\t\tip daddr . tcp dport @upstreams4 return\n"
    "\t\tip6 daddr . tcp dport @upstreams6 return\n"
    "\t\tip daddr @quiet_to4 ip daddr != @private4 meta l4proto tcp return\n"
    "\t\tiifname @web_if ip daddr != @private4 tcp dport @web_tcp fib saddr . iif oif missing "
    "jump asymmetric_1\n"
    "\t\tiifname @web_if ip daddr != @private4 tcp dport @web_tcp goto hold_1\n"
    "\t\tiifname @web_if ip6 daddr != @private6 tcp dport @web_tcp fib saddr . iif oif missing "
    "jump asymmetric_1\n"
    "\t\tiifname @web_if ip6 daddr != @private6 tcp dport @web_tcp goto hold_1\n"
    "\t\tip daddr @bad_to4 ip daddr != @private4 tcp dport @bad_tcp fib saddr . iif oif missing "
    "drop\n"
    "\t\tip daddr @bad_to4 ip daddr != @private4 tcp dport @bad_tcp jump refuse_tcp\n"
    "\t\tip6 daddr @bad_to6 ip6 daddr != @private6 tcp dport @bad_tcp fib saddr . iif oif missing "
    "drop\n"
    "\t\tip6 daddr @bad_to6 ip6 daddr != @private6 tcp dport @bad_tcp jump refuse_tcp\n"
    "\t\tip6 daddr @early_to6 ip6 daddr != @private6 meta l4proto tcp fib saddr . iif oif missing "
    "drop\n"
    "\t\tip6 daddr @early_to6 ip6 daddr != @private6 meta l4proto tcp goto tproxy6_20002\n"
    "\t\tip daddr != @private4 meta l4proto tcp fib saddr . iif oif missing drop\n"
    "\t\tip daddr != @private4 meta l4proto tcp goto hold_4\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp fib saddr . iif oif missing drop\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp goto hold_4\n"
    "\t}\n"
    "\n"
    "\tchain established {\n"
    "\t\tsocket wildcard 1 return\n"
    "\t\tsocket transparent 1 meta mark set 0x55530001 accept\n"
    "\t\tct label 85 meta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n"
    "\tchain forward {\n"
    "\t\ttype filter hook forward priority mangle - 10; policy accept;\n"
    "\t\tmeta mark 0x55530001 drop\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack ct label 85 drop\n"
    "\t}\n"
    "\n"
    "\tchain asymmetric_1 {\n"
    "\t\tfib saddr oifname \"wlan0\" return\n"
    "\t\tfib saddr oifname \"eth0\" return\n"
    "\t\tfib saddr oifname \"br-lan\" return\n"
    "\t\tfib saddr oifname \"eth1.100\" return\n"
    "\t\tfib saddr oifname \"eth0.100\" return\n"
    "\t\tfib saddr oifname \"lan0\" return\n"
    "\t\tfib saddr oifname \"aaaaaaaaaaaaaaa\" return\n"
    "\t\tfib saddr oifname \"br-lan\" return\n"
    "\t\tfib saddr oifname \"veth0\" return\n"
    "\t\tfib saddr oifname \"docker0\" return\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain hold_1 {\n"
    "\t\tjhash tcp sport mod 3 seed 0x5553 0 log prefix \"web\" group 21760 snaplen 256 "
    "queue-threshold 1\n"
    "\t\tjhash tcp sport mod 3 seed 0x5553 1 log prefix \"web\" group 21762 snaplen 256 "
    "queue-threshold 1\n"
    "\t\tjhash tcp sport mod 3 seed 0x5553 2 log prefix \"web\" group 21887 snaplen 256 "
    "queue-threshold 1\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain refuse_tcp {\n"
    "\t\tmeta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n"
    "\tchain tproxy6_20002 {\n"
    "\t\tmeta l4proto tcp ct label set 85 tproxy ip6 to [::1]:20002 meta mark set 0x55530001 "
    "accept\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain hold_4 {\n"
    "\t\tjhash tcp sport mod 3 seed 0x5553 0 log prefix \"rest\" group 21760 snaplen 256 "
    "queue-threshold 1\n"
    "\t\tjhash tcp sport mod 3 seed 0x5553 1 log prefix \"rest\" group 21762 snaplen 256 "
    "queue-threshold 1\n"
    "\t\tjhash tcp sport mod 3 seed 0x5553 2 log prefix \"rest\" group 21887 snaplen 256 "
    "queue-threshold 1\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain loopback {\n"
    "\t\ttype filter hook prerouting priority mangle - 10; policy accept;\n"
    "\t\tiifname != \"lo\" return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark & 0xffff8100 != 0x55538100 ct label 86 fib saddr type != local drop\n"
    "\t\tmeta mark & 0xffff8100 != 0x55538100 return\n"
#define RECOGNIZED(number) \
    "\t\tmeta mark 0x5553" number " meta priority set 5553:" number " accept\n"
    RECOGNIZED("8100") RECOGNIZED("8101") RECOGNIZED("8102") RECOGNIZED("817f") RECOGNIZED("83ff")
        RECOGNIZED("8302") "\t\tdrop\n"
                           "\t}\n"
                           "\n"
                           "\tchain delivery {\n"
                           "\t\ttype filter hook prerouting priority 200; policy accept;\n"
                           "\t\tiifname != \"lo\" return\n"
                           "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
                           "\t\tmeta priority & ffff:8100 != 5553:8100 ct label 86 fib saddr type "
                           "!= local drop\n"
                           "\t\tmeta priority & ffff:8100 != 5553:8100 return\n"
#define TPROXY4(number, port)                                                               \
    "\t\tmeta nfproto ipv4 meta priority 5553:" number " meta l4proto tcp ct label set 85 " \
    "tproxy ip to 127.0.0.1:" port " meta mark set 0x55530001 accept\n"
#define TPROXY6(number, port)                                                               \
    "\t\tmeta nfproto ipv6 meta priority 5553:" number " meta l4proto tcp ct label set 85 " \
    "tproxy ip6 to [::1]:" port " meta mark set 0x55530001 accept\n"
    TPROXY4("8100", "41000") TPROXY6("8100", "41100") TPROXY4("8101", "41001")
        TPROXY6("8101", "41101") TPROXY4("8102", "41002") TPROXY6("8102", "41102")
            TPROXY4("817f", "41127") TPROXY6("817f", "41227") TPROXY4("83ff", "12347")
                TPROXY6("83ff", "12348") TPROXY4("8302", "20001")
                    TPROXY6("8302", "20002") "\t\tdrop\n"
                                             "\t}\n"
                                             "}\n";

static char *text_of(const struct capture_set *set,
                     int (*build)(const struct capture_set *, struct nft_ruleset **))
{
    struct nft_ruleset *rs;

    assert_int_equal(build(set, &rs), 0);
    char *text = build == nft_guard_build ? nft_guard_text(rs) : nft_ruleset_text(rs);

    assert_non_null(text);
    nft_ruleset_free(rs);
    return text;
}

static const struct capture_set *case_named(const char *name)
{
    for (size_t i = 0; i < COUNT(cases); i++)
        if (strcmp(cases[i].name, name) == 0)
            return &cases[i].set;
    fail_msg("no case \"%s\"", name);
    return NULL;
}

/* From the chain of this name on. */
static void expect_from(const char *name, const char *chain, const char *expected)
{
    char *text = text_of(case_named(name), nft_ruleset_build), head[64];

    snprintf(head, sizeof(head), "\tchain %s {\n", chain);
    assert_non_null(strstr(text, head));
    assert_string_equal(strstr(text, head), expected);
    free(text);
}

/* The rules of one chain. */
static void expect_rules(const struct capture_set *set, const char *chain, const char *expected)
{
    char *text = text_of(set, nft_ruleset_build), head[64];

    snprintf(head, sizeof(head), "\tchain %s {\n", chain);
    char *found = strstr(text, head);

    assert_non_null(found);
    found += strlen(head);
    *strstr(found, "\t}\n") = '\0';
    assert_string_equal(found, expected);
    free(text);
}

static bool has(const struct capture_set *set, const char *what)
{
    char *text = text_of(set, nft_ruleset_build);
    bool there = strstr(text, what) != NULL;

    free(text);
    return there;
}

static void test_one_seat(void **state)
{
    (void)state;
    expect_from("honest, one seat", "output", one_seat_chains);
}

static void test_a_gateway_with_several_seats(void **state)
{
    (void)state;
    expect_from("honest gateway, several seats", "prerouting", gateway_chains);
}

static void test_hasty_resets(void **state)
{
    static const char output[] =
        "\t\ttype filter hook output priority raw; policy accept;\n"
        "\t\tmeta l4proto != tcp return\n"
        "\t\ttcp flags ! rst return\n"
        "\t\ttcp flags & ack == ack delete @hasty_ports { tcp dport } return\n"
        "\t\ttcp dport != @hasty_ports return\n"
        "\t\toifname \"lo\" tcp sport 41002 drop\n"
        "\t\toifname \"lo\" tcp sport 41102 drop\n";
    const struct capture_set *gateway = case_named("honest gateway, one seat");
    char both[1024];

    (void)state;
    expect_rules(case_named("honest, one seat"), "hasty", output);
    snprintf(both, sizeof(both), "%s%s", output,
             "\t\tfib saddr type local return\n"
             "\t\tct state invalid drop\n"
             "\t\tct label 85 drop\n");
    expect_rules(gateway, "hasty", both);
    assert_true(has(gateway, "\tset hasty_ports {\n"
                             "\t\ttype inet_service\n"
                             "\t\tsize 65535\n"
                             "\t\tflags dynamic,timeout\n"
                             "\t\ttimeout 100ms\n"
                             "\t}\n"));
    /* Those that finish may meet it as well; a port of both families needs one rule. */
    assert_true(has(case_named("early, with an old seat"), "tcp sport 41003 drop\n"));
    static const struct capture_seat same[] = {{2, true, 41002, 41002}};
    const struct capture_set set = {POLICIES(honest_all), OWN, SEATS(same)};

    expect_rules(&set, "hasty",
                 "\t\ttype filter hook output priority raw; policy accept;\n"
                 "\t\tmeta l4proto != tcp return\n"
                 "\t\ttcp flags ! rst return\n"
                 "\t\ttcp flags & ack == ack delete @hasty_ports { tcp dport } return\n"
                 "\t\ttcp dport != @hasty_ports return\n"
                 "\t\toifname \"lo\" tcp sport 41002 drop\n");
}

static void test_the_first_match_wins(void **state)
{
    (void)state;
    expect_rules(case_named("honest, several seats"), "select",
                 "\t\ttype route hook output priority -120; policy accept;\n"
                 "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
                 "\t\tct label 86 socket mark 0x55538000/17 meta mark set socket mark\n"
                 "\t\tct label 86 meta mark & 0xffff8100 == 0x55538000 ct status confirmed ct "
                 "status ! dnat drop\n"
                 "\t\tmeta mark & 0xffff8100 == 0x55538100 oifname \"lo\" return\n"
                 "\t\tmeta mark 0x55538000/17 ct state invalid,untracked drop\n"
                 "\t\tmeta mark 0x55538000/17 return\n"
                 "\t\tmeta mark 0x55530000/16 return\n"
                 "\t\tip daddr . tcp dport @upstreams4 return\n"
                 "\t\tip6 daddr . tcp dport @upstreams6 return\n"
                 "\t\tip daddr . tcp dport @listeners4 return\n"
                 "\t\tip6 daddr . tcp dport @listeners6 return\n"
                 "\t\tip daddr @quiet_to4 ip daddr != @private4 meta l4proto tcp return\n"
                 "\t\tip daddr != @private4 tcp dport @web_tcp goto hold_1\n"
                 "\t\tip6 daddr != @private6 tcp dport @web_tcp goto hold_1\n"
                 "\t\tip daddr != @private4 meta skuid @early_uid meta l4proto tcp goto "
                 "redirected\n"
                 "\t\tip6 daddr != @private6 meta skuid @early_uid meta l4proto tcp goto "
                 "redirected\n"
                 "\t\tip daddr != @private4 meta skuid @deaf_early_uid meta l4proto tcp goto "
                 "hold_3\n"
                 "\t\tip6 daddr != @private6 meta skuid @deaf_early_uid meta l4proto tcp goto "
                 "hold_3\n"
                 "\t\tip daddr != @private4 meta skuid @rest_uid meta l4proto tcp jump "
                 "refuse_tcp\n"
                 "\t\tip6 daddr != @private6 meta skuid @rest_uid meta l4proto tcp jump "
                 "refuse_tcp\n");
}

static void test_seats_that_serve_share_and_all_accept(void **state)
{
    const struct capture_set *set = case_named("honest, several seats");

    (void)state;
    expect_rules(set, "hold_1",
                 "\t\tct state established ct status ! dnat jump refuse_tcp\n"
                 "\t\tct state invalid,untracked jump refuse_tcp\n"
                 "\t\tct status confirmed ct status ! dnat return\n"
                 "\t\tjhash tcp sport mod 3 seed 0x5553 0 log prefix \"web\" group 21760 snaplen "
                 "256 queue-threshold 1\n"
                 "\t\tjhash tcp sport mod 3 seed 0x5553 1 log prefix \"web\" group 21762 snaplen "
                 "256 queue-threshold 1\n"
                 "\t\tjhash tcp sport mod 3 seed 0x5553 2 log prefix \"web\" group 21887 snaplen "
                 "256 queue-threshold 1\n"
                 "\t\tdrop\n");
    assert_true(has(set, "ipv4 meta mark 0x55538001 meta l4proto tcp redirect to :41001\n"));
    assert_true(has(set, "ipv6 meta mark 0x5553807f meta l4proto tcp redirect to :41227\n"));
    /* One without a listener of its own has none for early connections. */
    assert_true(has(set, "0x55538207 meta l4proto tcp redirect to :20001\n"));
    assert_false(has(set, "0x55538203"));
    /* Where the hold fails. */
    assert_true(has(set, "@web_tcp redirect to :12345\n"));
    assert_true(has(set, "@deaf_early_uid meta l4proto tcp drop\n"));
}

static void test_a_listener_that_no_mark_can_name(void **state)
{
    static const struct capture_policy policies[] = {{PROXY("host"), .honest = true, .early = 256},
                                                     {GATE("gw"), .honest = true, .early = 257}};
    static const struct capture_set set = {POLICIES(policies), OWN, TPROXY, SEATS(some_seats)};

    (void)state;
    assert_true(has(&set, "meta mark 0x55538002 ") && has(&set, "meta priority 5553:8102 "));
    assert_false(has(&set, "0x555382") || has(&set, "0x555383") || has(&set, "5553:83"));
}

static void test_without_a_seat_it_is_refused(void **state)
{
    static const char *const both[] = {"honest, nobody serves", "honest, no seats"};
    const struct capture_set *half = case_named("honest, no IPv6 seat");
    const struct capture_set *gateway = case_named("honest gateway, nobody serves");

    (void)state;
    for (size_t i = 0; i < COUNT(both); i++) {
        const struct capture_set *set = case_named(both[i]);

        assert_true(has(set, "ip daddr != @private4 meta l4proto tcp jump refuse_tcp\n"));
        assert_true(has(set, "ip6 daddr != @private6 meta l4proto tcp jump refuse_tcp\n"));
        assert_false(has(set, "hold_") || has(set, "log "));
    }
    assert_true(has(half, "ip daddr != @private4 meta l4proto tcp goto hold_0\n"));
    assert_true(has(half, "ip6 daddr != @private6 meta l4proto tcp jump refuse_tcp\n"));
    assert_true(has(gateway, "@web_tcp jump refuse_tcp\n"));
    assert_false(has(gateway, "hold_"));
    assert_true(has(gateway, "0x55538103"));
}

/* A seat that finishes what it holds is served by all chains that it needs. */
static void test_an_old_seat_is_answered(void **state)
{
    const struct capture_set *set = case_named("early, with an old seat");

    (void)state;
    assert_true(has(set, "meta mark 0x55538003 meta l4proto tcp redirect to :41003\n"));
    assert_true(has(set, "chain injected {") && has(set, "chain source {"));
    assert_false(has(set, "hold_") || has(set, "chain loopback {"));
}

static void test_the_early_have_nothing_of_it(void **state)
{
    static const char *const absent[] = {"chain injected", "chain source", "chain granted",
                                         "chain loopback", "ct label 86",  "chain hold",
                                         "chain delivery", "hasty"};
    static const struct capture_seat cgroup_only[] = {{0, true, 0, 0}};
    static const struct capture_set sets[] = {
        {POLICIES(everything), OWN},
        {POLICIES(refuse_last), OWN, SEATS(cgroup_only)},
        {POLICIES(host_and_gate), OWN, TPROXY},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(sets); i++)
        for (size_t j = 0; j < COUNT(absent); j++)
            assert_false(has(&sets[i], absent[j]));
}

static void test_every_listener_is_exempt(void **state)
{
    static const char *const there[] = {
        "127.0.0.1 . 41001", "::1 . 41227",       "127.0.0.1 . 42000", "::1 . 42102",
        "127.0.0.1 . 42127", "127.0.0.1 . 20001", "127.0.0.1 . 12345"};
    const struct capture_set *set = case_named("honest, several seats");

    (void)state;
    for (size_t i = 0; i < COUNT(there); i++)
        assert_true(has(set, there[i]));
    assert_false(has(set, " . 0,") || has(set, " . 0 "));
}

static void test_the_guard_knows_what_is_sent_again(void **state)
{
    static const struct capture_set honest = {POLICIES(honest_both), OWN, SEATS(some_seats)};
    static const struct capture_set before = {POLICIES(closed), OWN};
    char *text = text_of(&honest, nft_guard_build), *without = text_of(&before, nft_guard_build);

    (void)state;
    assert_non_null(strstr(text, "priority filter + 10; policy accept;\n"
                                 "\t\tmeta mark 0x55538000/17 fib daddr type != local oifname != "
                                 "\"lo\" jump refuse_tcp\n"
                                 "\t\tmeta mark 0x55530000/16 return\n"));
    assert_non_null(strstr(text, "tcp dport @host_tcp jump refuse_tcp\n"));
    assert_non_null(strstr(text, "iifname @gw_if ip daddr != @private4 meta l4proto tcp jump"));
    assert_null(strstr(without, "0x55538000"));
    free(text);
    free(without);
}

static void test_impossible_seats_are_refused(void **state)
{
    static const struct capture_seat wrong[] = {{CAPTURE_SEATS, true, 1, 2}};
    static const struct capture_set set = {POLICIES(honest_all), SEATS(wrong)};
    struct nft_ruleset *untouched = (struct nft_ruleset *)&state, *rs = untouched;

    assert_int_equal(nft_ruleset_build(&set, &rs), -EINVAL);
    assert_int_equal(nft_guard_build(&set, &rs), -EINVAL);
    assert_ptr_equal(rs, untouched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_seat),
        cmocka_unit_test(test_a_gateway_with_several_seats),
        cmocka_unit_test(test_hasty_resets),
        cmocka_unit_test(test_the_first_match_wins),
        cmocka_unit_test(test_seats_that_serve_share_and_all_accept),
        cmocka_unit_test(test_a_listener_that_no_mark_can_name),
        cmocka_unit_test(test_without_a_seat_it_is_refused),
        cmocka_unit_test(test_an_old_seat_is_answered),
        cmocka_unit_test(test_the_early_have_nothing_of_it),
        cmocka_unit_test(test_every_listener_is_exempt),
        cmocka_unit_test(test_the_guard_knows_what_is_sent_again),
        cmocka_unit_test(test_impossible_seats_are_refused),
    };

    return cmocka_run_group_tests_name("nft/hold_text", tests, NULL, NULL);
}
