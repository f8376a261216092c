/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form to text, without a kernel. The texts written out here are what nft 1.0.6 lists;
 * test_batch.c holds every case against the nft that is installed.
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

static const char everything_text[] =
    "table inet undersock {\n"
    "\tflags owner\n"
    "\n"
    "\tset upstreams4 {\n"
    "\t\ttype ipv4_addr . inet_service\n"
    "\t\telements = { 1.1.1.1 . 257,\n"
    "\t\t\t     1.1.1.2 . 2,\n"
    "\t\t\t     192.0.2.1 . 1080,\n"
    "\t\t\t     9.2.3.4 . 1080,\n"
    "\t\t\t     198.51.100.9 . 1081 }\n"
    "\t}\n"
    "\n"
    "\tset upstreams6 {\n"
    "\t\ttype ipv6_addr . inet_service\n"
    "\t\telements = { 2001:db8::1 . 1079,\n"
    "\t\t\t     ::1 . 1080,\n"
    "\t\t\t     2001:db8::1 . 1080 }\n"
    "\t}\n"
    "\n"
    "\tset listeners4 {\n"
    "\t\ttype ipv4_addr . inet_service\n"
    "\t\telements = { 127.0.0.1 . 12345 }\n"
    "\t}\n"
    "\n"
    "\tset listeners6 {\n"
    "\t\ttype ipv6_addr . inet_service\n"
    "\t\telements = { ::1 . 12346 }\n"
    "\t}\n"
    "\n"
    "\tset private4 {\n"
    "\t\ttype ipv4_addr\n"
    "\t\tflags interval\n"
    "\t\telements = { 0.0.0.0/8, 10.0.0.0/8,\n"
    "\t\t\t     100.64.0.0/10, 127.0.0.0/8,\n"
    "\t\t\t     169.254.0.0/16, 172.16.0.0/12,\n"
    "\t\t\t     192.168.0.0/16, 224.0.0.0/4,\n"
    "\t\t\t     255.255.255.255 }\n"
    "\t}\n"
    "\n"
    "\tset private6 {\n"
    "\t\ttype ipv6_addr\n"
    "\t\tflags interval\n"
    "\t\telements = { ::/127,\n"
    "\t\t\t     fc00::/7,\n"
    "\t\t\t     fe80::/10,\n"
    "\t\t\t     ff00::/8 }\n"
    "\t}\n"
    "\n" BOUND_SET "\tchain output {\n"
    "\t\ttype nat hook output priority -110; policy accept;\n"
    "\t\tct status dnat return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @upstreams4 return\n"
    "\t\tip6 daddr . tcp dport @upstreams6 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr != @private4 meta l4proto tcp redirect to :12345\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp redirect to :12346\n"
    "\t}\n"
    "\n"
    "\tchain refuse_tcp {\n"
    "\t\tmeta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n"
    "\tchain select {\n"
    "\t\ttype route hook output priority -120; policy accept;\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @upstreams4 return\n"
    "\t\tip6 daddr . tcp dport @upstreams6 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr != @private4 meta l4proto tcp goto redirected\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp goto redirected\n"
    "\t}\n"
    "\n"
    "\tchain redirected {\n"
    "\t\tct state established ct status ! dnat jump refuse_tcp\n"
    "\t\tct state invalid,untracked jump refuse_tcp\n"
    "\t}\n"
    "\n" BOUND_CHAINS "}\n";

static const char to4_text[] =
    "table inet undersock {\n"
    "\tflags owner\n"
    "\n"
    "\tset listeners4 {\n"
    "\t\ttype ipv4_addr . inet_service\n"
    "\t\telements = { 127.0.0.1 . 12345 }\n"
    "\t}\n"
    "\n"
    "\tset listeners6 {\n"
    "\t\ttype ipv6_addr . inet_service\n"
    "\t\telements = { ::1 . 12346 }\n"
    "\t}\n"
    "\n"
    "\tset private4 {\n"
    "\t\ttype ipv4_addr\n"
    "\t\tflags interval\n"
    "\t\telements = { 0.0.0.0/8, 10.0.0.0/8,\n"
    "\t\t\t     100.64.0.0/10, 127.0.0.0/8,\n"
    "\t\t\t     169.254.0.0/16, 172.16.0.0/12,\n"
    "\t\t\t     192.168.0.0/16, 224.0.0.0/4,\n"
    "\t\t\t     255.255.255.255 }\n"
    "\t}\n"
    "\n"
    "\tset v4_to4 {\n"
    "\t\ttype ipv4_addr\n"
    "\t\tflags interval\n"
    "\t\telements = { 203.0.113.0/24 }\n"
    "\t}\n"
    "\n" BOUND_SET "\tchain output {\n"
    "\t\ttype nat hook output priority -110; policy accept;\n"
    "\t\tct status dnat return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr @v4_to4 ip daddr != @private4 meta l4proto tcp redirect to :12345\n"
    "\t}\n"
    "\n"
    "\tchain refuse_tcp {\n"
    "\t\tmeta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n"
    "\tchain select {\n"
    "\t\ttype route hook output priority -120; policy accept;\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr @v4_to4 ip daddr != @private4 meta l4proto tcp goto redirected\n"
    "\t}\n"
    "\n"
    "\tchain redirected {\n"
    "\t\tct state established ct status ! dnat jump refuse_tcp\n"
    "\t\tct state invalid,untracked jump refuse_tcp\n"
    "\t}\n"
    "\n" BOUND_CHAINS "}\n";

static const char refuse_last_text[] =
    "table inet undersock {\n"
    "\tflags owner\n"
    "\n"
    "\tset listeners4 {\n"
    "\t\ttype ipv4_addr . inet_service\n"
    "\t\telements = { 127.0.0.1 . 12345 }\n"
    "\t}\n"
    "\n"
    "\tset listeners6 {\n"
    "\t\ttype ipv6_addr . inet_service\n"
    "\t\telements = { ::1 . 12346 }\n"
    "\t}\n"
    "\n"
    "\tset private4 {\n"
    "\t\ttype ipv4_addr\n"
    "\t\tflags interval\n"
    "\t\telements = { 0.0.0.0/8, 10.0.0.0/8,\n"
    "\t\t\t     100.64.0.0/10, 127.0.0.0/8,\n"
    "\t\t\t     169.254.0.0/16, 172.16.0.0/12,\n"
    "\t\t\t     192.168.0.0/16, 224.0.0.0/4,\n"
    "\t\t\t     255.255.255.255 }\n"
    "\t}\n"
    "\n"
    "\tset private6 {\n"
    "\t\ttype ipv6_addr\n"
    "\t\tflags interval\n"
    "\t\telements = { ::/127,\n"
    "\t\t\t     fc00::/7,\n"
    "\t\t\t     fe80::/10,\n"
    "\t\t\t     ff00::/8 }\n"
    "\t}\n"
    "\n"
    "\tset direct_to4 {\n"
    "\t\ttype ipv4_addr\n"
    "\t\tflags interval\n"
    "\t\telements = { 10.0.0.0/8 }\n"
    "\t}\n"
    "\n"
    "\tset web_tcp {\n"
    "\t\ttype inet_service\n"
    "\t\tflags interval\n"
    "\t\telements = { 80, 443, 8000-8999 }\n"
    "\t}\n"
    "\n" BOUND_SET "\tchain output {\n"
    "\t\ttype nat hook output priority -110; policy accept;\n"
    "\t\tct status dnat return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr @direct_to4 meta l4proto tcp return\n"
    "\t\tip daddr != @private4 tcp dport @web_tcp redirect to :12345\n"
    "\t\tip6 daddr != @private6 tcp dport @web_tcp redirect to :12346\n"
    "\t\tmeta nfproto ipv4 meta l4proto tcp drop\n"
    "\t\tmeta nfproto ipv6 meta l4proto tcp drop\n"
    "\t}\n"
    "\n"
    "\tchain refuse_tcp {\n"
    "\t\tmeta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n"
    "\tchain select {\n"
    "\t\ttype route hook output priority -120; policy accept;\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tip daddr . tcp dport @listeners4 return\n"
    "\t\tip6 daddr . tcp dport @listeners6 return\n"
    "\t\tip daddr @direct_to4 meta l4proto tcp return\n"
    "\t\tip daddr != @private4 tcp dport @web_tcp goto redirected\n"
    "\t\tip6 daddr != @private6 tcp dport @web_tcp goto redirected\n"
    "\t\tmeta nfproto ipv4 meta l4proto tcp jump refuse_tcp\n"
    "\t\tmeta nfproto ipv6 meta l4proto tcp jump refuse_tcp\n"
    "\t}\n"
    "\n"
    "\tchain redirected {\n"
    "\t\tct state established ct status ! dnat jump refuse_tcp\n"
    "\t\tct state invalid,untracked jump refuse_tcp\n"
    "\t}\n"
    "\n" BOUND_CHAINS "}\n";

/* The chains of "gateway, several"; its sets are as above. */
static const char several_chains[] =
    "\tchain prerouting {\n"
    "\t\ttype filter hook prerouting priority -130; policy accept;\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tiifname \"lo\" return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack goto established\n"
    "\t\tfib daddr type local return\n"
    "\t\tfib daddr type broadcast return\n"
    "\t\tfib daddr type multicast return\n"
    "\t\tip daddr @quiet_to4 ip daddr != @private4 meta l4proto tcp return\n"
    "\t\tip daddr @bad_to4 ip daddr != @private4 tcp dport @bad_tcp fib saddr . iif oif missing "
    "drop\n"
    "\t\tip daddr @bad_to4 ip daddr != @private4 tcp dport @bad_tcp jump refuse_tcp\n"
    "\t\tip6 daddr @bad_to6 ip6 daddr != @private6 tcp dport @bad_tcp fib saddr . iif oif missing "
    "drop\n"
    "\t\tip6 daddr @bad_to6 ip6 daddr != @private6 tcp dport @bad_tcp jump refuse_tcp\n"
    "\t\tiifname @web_if ip daddr != @private4 tcp dport @web_tcp fib saddr . iif oif missing "
    "drop\n"
    "\t\tiifname @web_if ip daddr != @private4 tcp dport @web_tcp goto tproxy4_12347\n"
    "\t\tiifname @web_if ip6 daddr != @private6 tcp dport @web_tcp fib saddr . iif oif missing "
    "drop\n"
    "\t\tiifname @web_if ip6 daddr != @private6 tcp dport @web_tcp goto tproxy6_12348\n"
    "\t\tip daddr != @private4 meta l4proto tcp fib saddr . iif oif missing drop\n"
    "\t\tip daddr != @private4 meta l4proto tcp goto tproxy4_20001\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp fib saddr . iif oif missing drop\n"
    "\t\tip6 daddr != @private6 meta l4proto tcp jump refuse_tcp\n"
    "\t\tmeta nfproto ipv4 meta l4proto tcp fib saddr . iif oif missing drop\n"
    "\t\tmeta nfproto ipv4 meta l4proto tcp goto tproxy4_12347\n"
    "\t\tmeta nfproto ipv6 meta l4proto tcp fib saddr . iif oif missing drop\n"
    "\t\tmeta nfproto ipv6 meta l4proto tcp goto tproxy6_12348\n"
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
    "\tchain refuse_tcp {\n"
    "\t\tmeta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n"
    "\tchain tproxy4_12347 {\n"
    "\t\tmeta l4proto tcp ct label set 85 tproxy ip to 127.0.0.1:12347 meta mark set 0x55530001 "
    "accept\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain tproxy6_12348 {\n"
    "\t\tmeta l4proto tcp ct label set 85 tproxy ip6 to [::1]:12348 meta mark set 0x55530001 "
    "accept\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain tproxy4_20001 {\n"
    "\t\tmeta l4proto tcp ct label set 85 tproxy ip to 127.0.0.1:20001 meta mark set 0x55530001 "
    "accept\n"
    "\t\tdrop\n"
    "\t}\n"
    "}\n";

/* The UDP half of "UDP, of a run". */
static const char run_chains[] =
    "\tchain select_udp {\n"
    "\t\ttype route hook output priority -126; policy accept;\n"
    "\t\tmeta l4proto != udp return\n"
    "\t\tmeta mark 0x55530000/16 ct direction original fib saddr type != local ct label set 85\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tct direction reply ct label ! 85 return\n"
    "\t\tfib daddr type broadcast return\n"
    "\t\tfib daddr type multicast return\n"
    "\t\tip daddr != @private4 udp dport @quic_udp meta mark set 0x55537f00 meta priority set "
    "5553:7f00 accept\n"
    "\t\tip6 daddr != @private6 udp dport @quic_udp meta mark set 0x55537f00 meta priority set "
    "5553:7f00 accept\n"
    "\t}\n"
    "\n"
    "\tchain udp_astray {\n"
    "\t\ttype filter hook postrouting priority mangle - 10; policy accept;\n"
    "\t\tmeta mark 0x55537f00/24 oifname != \"lo\" drop\n"
    "\t\tmeta priority & ffff:ff00 == 5553:7f00 oifname != \"lo\" drop\n"
    "\t}\n"
    "\n"
    "\tchain udp_loopback {\n"
    "\t\ttype filter hook prerouting priority mangle - 10; policy accept;\n"
    "\t\tiifname != \"lo\" return\n"
    "\t\tmeta mark != 0x55537f00/24 return\n"
    "\t\tmeta mark 0x55537f00 ct label set 87 meta priority set 5553:7f00 accept\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain udp_delivery {\n"
    "\t\ttype filter hook prerouting priority 200; policy accept;\n"
    "\t\tiifname != \"lo\" return\n"
    "\t\tmeta priority & ffff:ff00 != 5553:7f00 meta mark 0x55537f00/24 drop\n"
    "\t\tmeta priority & ffff:c000 != 5553:4000 ct label 87 fib daddr type != local drop\n"
    "\t\tmeta priority & ffff:ff00 != 5553:7f00 return\n"
    "\t\tmeta nfproto ipv4 meta priority 5553:7f00 meta l4proto udp tproxy ip to 127.0.0.1:14001 "
    "accept\n"
    "\t\tmeta nfproto ipv6 meta priority 5553:7f00 meta l4proto udp tproxy ip6 to [::1]:14002 "
    "accept\n"
    "\t\tdrop\n"
    "\t}\n"
    "\n"
    "\tchain udp_destination {\n"
    "\t\ttype nat hook output priority -110; policy accept;\n"
    "\t\tmeta mark 0x55537f00/24 dnat ip to ip daddr\n"
    "\t\tmeta mark 0x55537f00/24 dnat ip6 to ip6 daddr\n"
    "\t\tct label 85 meta l4proto udp dnat ip to ip daddr\n"
    "\t\tct label 85 meta l4proto udp dnat ip6 to ip6 daddr\n"
    "\t}\n"
    "\n"
    "\tchain udp_source {\n"
    "\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n"
    "\t\tmeta mark 0x55537f00/24 snat ip to ip saddr\n"
    "\t\tmeta mark 0x55537f00/24 snat ip6 to ip6 saddr\n"
    "\t\tct label 85 meta l4proto udp snat ip to ip saddr\n"
    "\t\tct label 85 meta l4proto udp snat ip6 to ip6 saddr\n"
    "\t}\n"
    "}\n";

static const char guard_head[] = "table inet undersock-guard {\n\tset ";

/* The chains of "guard, gateway and host". */
static const char guard_chains[] =
    "\tchain translate {\n"
    "\t\ttype nat hook output priority -110; policy accept;\n"
    "\t}\n"
    "\n"
    "\tchain output {\n"
    "\t\ttype filter hook output priority filter + 10; policy accept;\n"
    "\t\tmeta mark 0x55530000/16 return\n"
    "\t\tfib daddr type local return\n"
    "\t\tmeta l4proto != tcp ct state established return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tip daddr . tcp dport @upstreams4 return\n"
    "\t\tip6 daddr . tcp dport @upstreams6 return\n"
    "\t\tip daddr != @private4 meta mark 0x00000051 meta l4proto tcp jump refuse_tcp\n"
    "\t\tip6 daddr != @private6 meta mark 0x00000051 meta l4proto tcp jump refuse_tcp\n"
    "\t}\n"
    "\n"
    "\tchain refuse_tcp {\n"
    "\t\tmeta l4proto tcp reject with tcp reset\n"
    "\t}\n"
    "\n"
    "\tchain forward {\n"
    "\t\ttype filter hook forward priority filter + 10; policy accept;\n"
    "\t\tct status dnat return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack ct label 85 jump refuse_tcp\n"
    "\t\tmeta l4proto udp goto forward_udp\n"
    "\t\tmeta l4proto != tcp ct state established return\n"
    "\t\ttcp flags != syn / fin,syn,rst,ack return\n"
    "\t\tip daddr . tcp dport @upstreams4 return\n"
    "\t\tip6 daddr . tcp dport @upstreams6 return\n"
    "\t\tiifname @gw_if ip daddr @gw_to4 ip daddr != @private4 meta l4proto tcp fib saddr . "
    "iif oif missing drop\n"
    "\t\tiifname @gw_if ip daddr @gw_to4 ip daddr != @private4 meta l4proto tcp jump "
    "refuse_tcp\n"
    "\t\tiifname @gw_if ip6 daddr @gw_to6 ip6 daddr != @private6 meta l4proto tcp fib saddr . "
    "iif oif missing drop\n"
    "\t\tiifname @gw_if ip6 daddr @gw_to6 ip6 daddr != @private6 meta l4proto tcp jump "
    "refuse_tcp\n"
    "\t}\n"
    "\n"
    "\tchain forward_udp {\n"
    "\t\tct direction reply ct label ! 85 return\n"
    "\t\tfib daddr type broadcast return\n"
    "\t\tfib daddr type multicast return\n"
    "\t\tiifname @gw_if ip daddr @gw_to4 ip daddr != @private4 meta l4proto udp fib saddr . "
    "iif oif missing drop\n"
    "\t\tiifname @gw_if ip daddr @gw_to4 ip daddr != @private4 meta l4proto udp jump "
    "refuse_udp\n"
    "\t\tiifname @gw_if ip6 daddr @gw_to6 ip6 daddr != @private6 meta l4proto udp fib saddr . "
    "iif oif missing drop\n"
    "\t\tiifname @gw_if ip6 daddr @gw_to6 ip6 daddr != @private6 meta l4proto udp jump "
    "refuse_udp\n"
    "\t}\n"
    "\n"
    "\tchain refuse_udp {\n"
    "\t\treject with icmpx admin-prohibited\n"
    "\t}\n"
    "}\n";

static char *text_of(const struct capture_set *set)
{
    struct nft_ruleset *rs;

    assert_int_equal(nft_ruleset_build(set, &rs), 0);
    char *text = nft_ruleset_text(rs);

    assert_non_null(text);
    assert_int_equal(nft_ruleset_empty(rs), text[0] == '\0');
    nft_ruleset_free(rs);
    return text;
}

static void expect_text(const char *name, const char *expected)
{
    for (size_t i = 0; i < COUNT(cases); i++)
        if (strcmp(cases[i].name, name) == 0) {
            char *text = text_of(&cases[i].set);

            assert_string_equal(text, expected);
            free(text);
            return;
        }
    fail_msg("no case \"%s\"", name);
}

/* The lines of the case's text that begin (after tabs) with `start` are exactly `expected`. */
static void expect_lines(const struct capture_set *set, const char *start, const char *expected)
{
    char *text = text_of(set), *rest = text, *line, found[4096] = "";

    while ((line = strsep(&rest, "\n"))) {
        line += strspn(line, "\t");
        if (strncmp(line, start, strlen(start)) == 0) {
            strncat(found, line, sizeof(found) - strlen(found) - 1);
            strncat(found, "\n", sizeof(found) - strlen(found) - 1);
        }
    }
    free(text);
    assert_string_equal(found, expected);
}

static void test_a_capture_of_everything(void **state)
{
    (void)state;
    expect_text("everything", everything_text);
}

static void test_prefixes_of_ipv4_alone_select_no_ipv6(void **state)
{
    (void)state;
    expect_text("to, IPv4 alone", to4_text);
}

static void test_a_refusing_capture_has_a_filter_chain(void **state)
{
    (void)state;
    expect_text("refuse last", refuse_last_text);
}

static void test_a_gateway_has_a_chain_for_each_listener(void **state)
{
    const struct capture_set set = {POLICIES(gate_several), OWN, TPROXY};
    char *text = text_of(&set);

    (void)state;
    assert_string_equal(strstr(text, "\tchain "), several_chains);
    /* Nothing of this host's own connections. */
    assert_null(strstr(text, "listeners"));
    free(text);
}

/* Marks, ports, and the priority that comes before the daemon's. */
static void test_a_run_has_marks_of_its_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (strcmp(cases[i].name, "UDP, of a run") != 0)
            continue;
        char *text = text_of(&cases[i].set), *chains = strstr(text, "\tchain select_udp {");

        assert_non_null(chains);
        assert_string_equal(chains, run_chains);
        free(text);
        return;
    }
    fail_msg("no such case");
}

/* Other UDP marks, and none that held SYNs have. */
static void test_marks_do_not_overlap(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CAPTURE_INSTANCES; i++)
        for (unsigned n = 0; n < CAPTURE_UDP_POLICIES; n += 255) {
            uint32_t mark = capture_udp_mark(i, n);

            assert_int_equal(mark & CAPTURE_OWN_MASK, CAPTURE_OWN_MARK);
            assert_int_equal(mark & CAPTURE_KIND_MASK, capture_udp_mark(i, 0));
            assert_int_equal(mark & 0xff, n);
            assert_int_not_equal(mark & CAPTURE_INJECTED_MASK, CAPTURE_INJECTED);
            assert_true(mark != CAPTURE_TPROXY_MARK && mark != CAPTURE_OWN_MARK);
            assert_true(i == 0 || capture_udp_mark(i - 1, 0) != capture_udp_mark(i, 0));
        }
}

static void test_the_guard_refuses_what_is_taken(void **state)
{
    const struct capture_set set = {POLICIES(closed_both), OWN, UPSTREAMS, TPROXY};
    struct nft_ruleset *rs;

    (void)state;
    assert_int_equal(nft_guard_build(&set, &rs), 0);
    char *text = nft_guard_text(rs);

    assert_non_null(text);
    assert_int_equal(strncmp(text, guard_head, strlen(guard_head)), 0);
    assert_string_equal(strstr(text, "\tchain "), guard_chains);
    free(text);
    nft_ruleset_free(rs);
}

static void test_interfaces_are_of_the_gateway_alone(void **state)
{
    const struct capture_set set = {POLICIES(gate_lan)}, two = {POLICIES(host_and_gate)};

    (void)state;
    expect_lines(&set, "elements = { \"", "elements = { \"lan0\" }\n");
    /* This host's own connections have no input interface. */
    expect_lines(&two, "ip daddr !=",
                 "ip daddr != @private4 tcp dport @host_tcp redirect to :12345\n"
                 "ip daddr != @private4 meta l4proto tcp drop\n"
                 "ip daddr != @private4 tcp dport @host_tcp goto redirected\n"
                 "ip daddr != @private4 meta l4proto tcp jump refuse_tcp\n");
}

static void test_all_selectors_are_in_one_rule(void **state)
{
    const struct capture_set set = {POLICIES(by_all)};

    (void)state;
    expect_lines(&set, "ip daddr @strict",
                 "ip daddr @strict_to4 ip daddr != @strict_not4 ip daddr != @private4 meta mark "
                 "0xfedcba98 meta skuid @strict_uid meta skuid != @strict_notuid tcp dport "
                 "@strict_tcp redirect to :12345\n"
                 "ip daddr @strict_to4 ip daddr != @strict_not4 ip daddr != @private4 meta mark "
                 "0xfedcba98 meta skuid @strict_uid meta skuid != @strict_notuid tcp dport "
                 "@strict_tcp goto redirected\n");
    expect_lines(&set, "ip6 daddr @strict",
                 "ip6 daddr @strict_to6 ip6 daddr != @strict_not6 ip6 daddr != @private6 meta mark "
                 "0xfedcba98 meta skuid @strict_uid meta skuid != @strict_notuid tcp dport "
                 "@strict_tcp redirect to :12346\n"
                 "ip6 daddr @strict_to6 ip6 daddr != @strict_not6 ip6 daddr != @private6 meta mark "
                 "0xfedcba98 meta skuid @strict_uid meta skuid != @strict_notuid tcp dport "
                 "@strict_tcp goto redirected\n");
}

static void test_a_private_capture_without_selectors_names_its_family(void **state)
{
    const struct capture_set set = {POLICIES(private_too)};

    (void)state;
    expect_lines(&set, "meta nfproto",
                 "meta nfproto ipv4 meta l4proto tcp redirect to :12345\n"
                 "meta nfproto ipv6 meta l4proto tcp redirect to :12346\n"
                 "meta nfproto ipv4 meta l4proto tcp goto redirected\n"
                 "meta nfproto ipv6 meta l4proto tcp goto redirected\n");
    expect_lines(&set, "set private", "");
}

static void test_a_family_without_listener_is_refused(void **state)
{
    const struct capture_set half = {POLICIES(no_v6_listener)}, none = {POLICIES(no_listener)};

    (void)state;
    expect_lines(&half, "meta nfproto",
                 "meta nfproto ipv4 meta l4proto tcp redirect to :12345\n"
                 "meta nfproto ipv6 meta l4proto tcp drop\n"
                 "meta nfproto ipv4 meta l4proto tcp goto redirected\n"
                 "meta nfproto ipv6 meta l4proto tcp jump refuse_tcp\n");
    expect_lines(&none, "ip daddr !=",
                 "ip daddr != @private4 meta l4proto tcp drop\n"
                 "ip daddr != @private4 meta l4proto tcp jump refuse_tcp\n");
    expect_lines(&none, "ip6 daddr !=",
                 "ip6 daddr != @private6 meta l4proto tcp drop\n"
                 "ip6 daddr != @private6 meta l4proto tcp jump refuse_tcp\n");
    expect_lines(&none, "chain", "chain output {\nchain refuse_tcp {\nchain select {\n");
}

static void test_a_direct_capture_ends_the_walk(void **state)
{
    const struct capture_set set = {POLICIES(direct_first)};

    (void)state;
    expect_lines(&set, "ip daddr ",
                 "ip daddr . tcp dport @listeners4 return\n"
                 "ip daddr @ssh_to4 ip daddr != @private4 meta l4proto tcp return\n"
                 "ip daddr != @private4 meta l4proto tcp redirect to :12345\n"
                 "ip daddr . tcp dport @listeners4 return\n"
                 "ip daddr @ssh_to4 ip daddr != @private4 meta l4proto tcp return\n"
                 "ip daddr != @private4 meta l4proto tcp goto redirected\n"
                 "ip daddr . tcp dport @listeners4 add @bound_ports { tcp sport }\n"
                 "ip daddr . tcp dport @listeners4 drop\n"
                 "ip daddr . tcp dport @listeners4 tcp sport @bound_ports delete @bound_ports { "
                 "tcp sport } jump refuse_tcp\n");
}

static void test_names_become_distinct_identifiers(void **state)
{
    const struct capture_set set = {POLICIES(names)};

    (void)state;
    expect_lines(&set, "set ",
                 "set listeners4 {\nset listeners6 {\nset private4 {\nset private6 {\n"
                 "set c_8080_tcp {\nset a_b_tcp {\nset a_b_2_to4 {\nset a_b_2_to6 {\n"
                 "set a_b_2_tcp {\nset a_b_3_tcp {\nset a_b_2_2_tcp {\nset c___tcp {\n"
                 "set return_uid {\nset return_tcp {\nset upstreams_to4 {\nset upstreams_to6 {\n"
                 "set Abcdefghijklmnopqrstuvwxyz_0123_notuid {\nset bound_ports {\n");
}

static void test_the_listeners_of_every_hook_are_exempt(void **state)
{
    static const char *const expected[] = {"127.0.0.1 . 20001", "127.0.0.1 . 20003",
                                           "127.0.0.1 . 20004", "127.0.0.1 . 12345",
                                           "::1 . 20002",       "::1 . 12346"};
    const struct capture_set set = {POLICIES(mixed_hooks)};

    (void)state;
    char *text = text_of(&set);

    for (size_t i = 0; i < COUNT(expected); i++)
        assert_non_null(strstr(text, expected[i]));
    free(text);
}

/* Of mixed_hooks only the last has TCP to redirect: udp-ports alone select no TCP. */
static void test_udp_ports_alone_select_no_tcp(void **state)
{
    const struct capture_set set = {POLICIES(mixed_hooks)};

    (void)state;
    expect_lines(&set, "ip daddr !=",
                 "ip daddr != @private4 tcp dport @host_tcp redirect to :12345\n"
                 "ip daddr != @private4 tcp dport @host_tcp goto redirected\n");
}

static void test_the_own_mark_is_masked(void **state)
{
    struct capture_set set = {POLICIES(private_too), .own_mark = 0x5500, .own_mask = 0xff00};

    (void)state;
    expect_lines(&set, "meta mark",
                 "meta mark & 0x0000ff00 == 0x00005500 return\n"
                 "meta mark & 0x0000ff00 == 0x00005500 return\n");
    set.own_mask = 0xffffffff;
    expect_lines(&set, "meta mark",
                 "meta mark 0x00005500 return\n"
                 "meta mark 0x00005500 return\n");
    set.own_mask = set.own_mark = 0;
    expect_lines(&set, "meta mark", "");
}

static void test_nothing_to_capture_is_an_empty_text(void **state)
{
    const struct capture_set none = {.n_policies = 0};
    char *text = text_of(&none);

    (void)state;
    assert_string_equal(text, "");
    free(text);
    text = text_of(&set_nothing_to_do);
    assert_string_equal(text, "");
    free(text);
}

static void test_impossible_values_are_refused(void **state)
{
    static const struct port_range backwards[] = {{443, 80}};
    static const struct prefix too_long[] = {{.len = 129}};
    const struct capture_policy ports = {PROXY("x"), TCP(backwards)};
    const struct capture_policy to = {PROXY("x"), TO(too_long)};
    const struct capture_policy not_to = {PROXY("x"), NOT_TO(too_long)};
    const struct capture_set sets[] = {
        {POLICIES(everything), .own_mark = 0x55, .own_mask = 0x0f},
        {POLICIES(everything), .own_mark = 0x55},
        {.policies = &ports, .n_policies = 1},
        {.policies = &to, .n_policies = 1},
        {.policies = &not_to, .n_policies = 1},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(sets); i++) {
        struct nft_ruleset *untouched = (struct nft_ruleset *)&sets, *rs = untouched;

        assert_int_equal(nft_ruleset_build(&sets[i], &rs), -EINVAL);
        assert_ptr_equal(rs, untouched);
    }
}

/* Every case is well formed, whatever it says: balanced braces, no tab before a newline. */
static void test_every_case_has_a_text(void **state)
{
    static const char head[] = "table inet undersock {\n\tflags owner\n";

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *text = text_of(&cases[i].set);
        int depth = 0;

        assert_int_equal(strncmp(text, head, strlen(head)), 0);
        for (const char *p = text; *p; p++) {
            depth += (*p == '{') - (*p == '}');
            assert_true(depth >= 0);
            assert_false(*p == '\n' && p > text && (p[-1] == '\t' || p[-1] == ' '));
        }
        assert_int_equal(depth, 0);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_capture_of_everything),
        cmocka_unit_test(test_prefixes_of_ipv4_alone_select_no_ipv6),
        cmocka_unit_test(test_a_refusing_capture_has_a_filter_chain),
        cmocka_unit_test(test_a_gateway_has_a_chain_for_each_listener),
        cmocka_unit_test(test_a_run_has_marks_of_its_own),
        cmocka_unit_test(test_marks_do_not_overlap),
        cmocka_unit_test(test_the_guard_refuses_what_is_taken),
        cmocka_unit_test(test_interfaces_are_of_the_gateway_alone),
        cmocka_unit_test(test_all_selectors_are_in_one_rule),
        cmocka_unit_test(test_a_private_capture_without_selectors_names_its_family),
        cmocka_unit_test(test_a_family_without_listener_is_refused),
        cmocka_unit_test(test_a_direct_capture_ends_the_walk),
        cmocka_unit_test(test_names_become_distinct_identifiers),
        cmocka_unit_test(test_the_listeners_of_every_hook_are_exempt),
        cmocka_unit_test(test_udp_ports_alone_select_no_tcp),
        cmocka_unit_test(test_the_own_mark_is_masked),
        cmocka_unit_test(test_nothing_to_capture_is_an_empty_text),
        cmocka_unit_test(test_impossible_values_are_refused),
        cmocka_unit_test(test_every_case_has_a_text),
    };

    return cmocka_run_group_tests_name("nft/text", tests, NULL, NULL);
}
