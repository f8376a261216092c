/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Foreign rules as nft loads them, read back as traits; in a network namespace of its own. */
#include "doctor/gather.h"

#include <linux/netfilter.h>

#include "../nft/netns.h"

static struct facts_firewall fw;

static void load(const char *ruleset)
{
    FILE *nft;

    if (!has_command("nft"))
        skip_because("nft is not installed");
    nft = popen("nft -f -", "we");
    CHECK(nft && fputs(ruleset, nft) >= 0 && pclose(nft) == 0);
    gather_firewall(&fw);
    CHECK(fw.error == 0);
}

static const struct fw_chain *chain(const char *name)
{
    for (size_t i = 0; i < fw.n_chains; i++) {
        if (strcmp(fw.chains[i].name, name) == 0)
            return &fw.chains[i];
    }
    fprintf(stderr, "no chain %s\n", name);
    _exit(1);
}

/* What it does with TCP. */
static bool traits_are(const char *name, unsigned traits)
{
    unsigned got = chain(name)->traits;

    if (got != traits)
        fprintf(stderr, "%s: %#x, not %#x\n", name, got, traits);
    return got == traits;
}

static bool both_are(const char *name, unsigned tcp, unsigned udp)
{
    unsigned got = chain(name)->udp_traits;

    if (got != udp)
        fprintf(stderr, "%s, UDP: %#x, not %#x\n", name, got, udp);
    return traits_are(name, tcp) && got == udp;
}

static void base_chains_body(void)
{
    load("table ip nat {\n"
         " chain OUT { type nat hook output priority -150; tcp dport 1 redirect to :9\n }\n"
         " chain PRE { type nat hook prerouting priority -100; tcp dport 1 dnat to 192.0.2.1\n }\n"
         " chain POST { type nat hook postrouting priority 100; masquerade\n }\n"
         "}\n"
         "table inet filter {\n"
         " chain in { type filter hook input priority 0; policy drop; }\n"
         " chain aside { tcp dport 1 drop\n }\n"
         "}\n");
    CHECK(fw.n_chains == 4);
    CHECK(chain("OUT")->family == NFPROTO_IPV4 && chain("OUT")->hook == NF_INET_LOCAL_OUT);
    CHECK(chain("OUT")->priority == -150 && chain("OUT")->nat && !chain("OUT")->drops);
    CHECK(strcmp(chain("OUT")->table, "nat") == 0);
    CHECK(traits_are("OUT", FW_NAT) && traits_are("PRE", FW_NAT) && traits_are("POST", 0));
    CHECK(chain("in")->family == NFPROTO_INET && chain("in")->drops && !chain("in")->nat);
    CHECK(traits_are("in", 0));
    CHECK(fw.tools == 0);
    gather_firewall_free(&fw);
}

static void accepts_body(void)
{
    load("table inet t {\n"
         " chain by_mark { type filter hook input priority 1; meta mark 0x51 accept\n }\n"
         " chain by_socket { type filter hook input priority 2;\n"
         "  meta l4proto tcp socket transparent 1 accept\n }\n"
         " chain lo_name { type filter hook input priority 3; iifname \"lo\" accept\n }\n"
         " chain lo_index { type filter hook input priority 4; iif lo counter accept\n }\n"
         " chain other { type filter hook input priority 5; iifname \"br-lan\" accept\n }\n"
         " chain lo_some { type filter hook input priority 6;\n"
         "  iifname \"lo\" ip saddr 127.0.0.1 accept\n }\n"
         " chain port { type filter hook input priority 7; tcp dport 22 accept\n }\n"
         " chain state { type filter hook input priority 8; ct state established accept\n }\n"
         " chain every { type filter hook input priority 9; accept\n }\n"
         " chain not_lo { type filter hook input priority 10; iifname != \"lo\" drop\n }\n"
         "}\n");
    CHECK(traits_are("by_mark", FW_ACCEPT_SOCKET) && traits_are("by_socket", FW_ACCEPT_SOCKET));
    CHECK(traits_are("lo_name", FW_ACCEPT_LO) && traits_are("lo_index", FW_ACCEPT_LO));
    CHECK(traits_are("other", FW_ACCEPT_INTERFACE));
    CHECK(traits_are("lo_some", 0) && traits_are("port", 0));
    CHECK(traits_are("state", FW_ACCEPT_ESTABLISHED));
    CHECK(traits_are("every", FW_ACCEPT_ALL) && traits_are("not_lo", FW_DROP));
    gather_firewall_free(&fw);
}

/* Marks that leave out none of ours, and what else lets out what was redirected. */
static void outputs_body(void)
{
    load(
        "table inet t {\n"
        " chain ours { type filter hook output priority 1;\n"
        "  ct state new meta mark & 0xffff0000 == 0x55530000 accept\n }\n"
        " chain wider { type filter hook output priority 2; meta mark & 0xf0000 == 0x30000 "
        "accept\n }\n"
        " chain half { type filter hook output priority 3;\n"
        "  meta mark & 0xffff8000 == 0x55538000 accept\n }\n"
        " chain unlike { type filter hook output priority 4;\n"
        "  meta mark & 0xffff0000 != 0x55530000 accept\n }\n"
        " chain single { type filter hook output priority 5; meta mark 0x55530000 accept\n }\n"
        " chain between { type filter hook output priority 6; meta mark 0x55530000-0x5553ffff "
        "accept\n }\n"
        " chain by_lo { type filter hook output priority 7; oifname \"lo\" accept\n }\n"
        " chain by_other { type filter hook output priority 8; oif != lo accept\n }\n"
        " chain to_here { type filter hook output priority 9; fib daddr type local accept\n }\n"
        " chain from_here { type filter hook output priority 10; fib saddr type local accept\n }\n"
        " chain to_port { type filter hook output priority 11;\n"
        "  fib daddr type local tcp dport 22 accept\n }\n"
        " chain pings { type filter hook output priority 12; meta l4proto ipv6-icmp accept\n }\n"
        " chain stream { type filter hook output priority 13; meta l4proto tcp accept\n }\n"
        " chain marked { type filter hook output priority 14; meta mark != 0 accept\n }\n"
        " chain no_vpn { type filter hook output priority 15; meta mark != 0xca6c accept\n }\n"
        " chain not_one { type filter hook output priority 16; meta mark != 0x55530000 accept\n }\n"
        "}\n");
    CHECK(traits_are("ours", FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS));
    CHECK(traits_are("wider", FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS));
    CHECK(traits_are("between", FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS));
    CHECK(traits_are("half", FW_ACCEPT_SOCKET) && traits_are("unlike", FW_ACCEPT_SOCKET));
    CHECK(traits_are("single", FW_ACCEPT_SOCKET) && traits_are("not_one", FW_ACCEPT_SOCKET));
    CHECK(traits_are("marked", FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS));
    CHECK(traits_are("no_vpn", FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS));
    CHECK(traits_are("pings", 0) && traits_are("stream", FW_ACCEPT_ALL));
    CHECK(traits_are("by_lo", FW_ACCEPT_LO) && traits_are("by_other", FW_ACCEPT_INTERFACE));
    CHECK(traits_are("to_here", FW_ACCEPT_LOCAL) && traits_are("from_here", 0) &&
          traits_are("to_port", 0));
    gather_firewall_free(&fw);
}

/* A rule may be for one protocol, or for none that matters. */
static void protocols_body(void)
{
    load("table inet t {\n"
         " chain marks { meta mark & 0xffff0000 == 0x55530000 accept\n }\n"
         " chain streams { type filter hook output priority 1; meta l4proto tcp accept\n }\n"
         " chain dgrams { type filter hook output priority 2; meta l4proto udp accept\n }\n"
         " chain not_udp { type filter hook output priority 3; meta l4proto != udp accept\n }\n"
         " chain pings { type filter hook output priority 4;\n"
         "  meta l4proto { icmp, ipv6-icmp } accept\n }\n"
         " chain two { type filter hook output priority 5; meta l4proto { tcp, udp } accept\n }\n"
         " chain no_ping { type filter hook output priority 6;\n"
         "  meta l4proto != { icmp, ipv6-icmp } accept\n }\n"
         " chain no_tcp { type filter hook output priority 7; meta l4proto != { tcp, 1 } accept\n "
         "}\n"
         " chain some { type filter hook output priority 8; meta l4proto 6-17 accept\n }\n"
         " chain somes { type filter hook output priority 9;\n"
         "  meta l4proto { 6-16, 18-200 } accept\n }\n"
         " chain port { type filter hook output priority 10; udp dport 53 accept\n }\n"
         " chain below { type filter hook output priority 11; meta l4proto tcp jump marks\n }\n"
         " chain below_all { type filter hook output priority 12; jump marks\n }\n"
         " chain names { type nat hook output priority -150; udp dport 53 redirect to :5353\n }\n"
         " chain icmps { type filter hook output priority 13; meta l4proto icmp drop\n }\n"
         "}\n");
    CHECK(both_are("streams", FW_ACCEPT_ALL, 0) && both_are("dgrams", 0, FW_ACCEPT_ALL));
    CHECK(both_are("not_udp", FW_ACCEPT_ALL, 0) && both_are("pings", 0, 0));
    CHECK(both_are("two", FW_ACCEPT_ALL, FW_ACCEPT_ALL));
    CHECK(both_are("no_ping", FW_ACCEPT_ALL, FW_ACCEPT_ALL));
    CHECK(both_are("no_tcp", 0, FW_ACCEPT_ALL));
    CHECK(both_are("some", 0, 0) && both_are("somes", 0, 0) && both_are("port", 0, 0));
    CHECK(both_are("below", FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS, 0));
    CHECK(both_are("below_all", FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS,
                   FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS));
    CHECK(both_are("names", 0, FW_NAT) && both_are("icmps", 0, 0));
    gather_firewall_free(&fw);
}

static void drops_body(void)
{
    load(
        "table inet t {\n"
        " chain invalid { type filter hook output priority 1; ct state invalid drop\n }\n"
        " chain invalid_new { type filter hook output priority 2; ct state invalid,new reject\n }\n"
        " chain new { type filter hook output priority 3; ct state new drop\n }\n"
        " chain accepted { type filter hook output priority 4; ct state invalid accept\n }\n"
        " chain tp { type filter hook prerouting priority -150;\n"
        "  meta l4proto tcp tproxy to :9\n }\n"
        "}\n");
    CHECK(traits_are("invalid", FW_DROP | FW_DROP_INVALID));
    CHECK(traits_are("invalid_new", FW_DROP | FW_DROP_INVALID));
    CHECK(traits_are("new", FW_DROP) && traits_are("accepted", 0) && traits_are("tp", FW_TPROXY));
    gather_firewall_free(&fw);
}

/* What is jumped to counts, over several steps, also when two ways lead there. */
static void jumps_body(void)
{
    load("table ip t {\n"
         " chain third { tcp dport 1 redirect to :9\n }\n"
         " chain second { goto third\n }\n"
         " chain first { tcp dport 1 jump second\n  tcp dport 2 jump second\n }\n"
         " chain base { type nat hook output priority -150; meta l4proto tcp jump first\n }\n"
         " chain base2 { type nat hook output priority -149; tcp dport 7 jump second\n }\n"
         " chain free { type nat hook output priority -148; }\n"
         "}\n"
         "table ip other { chain third { drop\n }\n}\n");
    CHECK(fw.n_chains == 3);
    CHECK(traits_are("base", FW_NAT) && traits_are("base2", FW_NAT) && traits_are("free", 0));
    gather_firewall_free(&fw);
}

static void tools_body(void)
{
    load("table inet firewalld { chain filter_INPUT { }\n }\n"
         "table ip filter { chain ufw-before-input { }\n chain DOCKER-USER { }\n }\n"
         "table inet f2b-table { chain x { }\n }\n");
    CHECK(fw.tools == (FW_FIREWALLD | FW_UFW | FW_DOCKER | FW_FAIL2BAN));
    gather_firewall_free(&fw);
}

/* Ours are nobody else's. */
static void ours_body(void)
{
    load("table inet undersock { chain output { type nat hook output priority -150;\n"
         " tcp dport 1 redirect to :9\n }\n }\n"
         "table inet undersock-probe-7 { chain trial { type filter hook output priority 0;\n }\n "
         "}\n");
    CHECK(fw.n_chains == 0);
    gather_firewall_free(&fw);
}

static void many_rules_body(void)
{
    size_t size = 1 << 20, len;
    char *text = malloc(size);

    CHECK(text);
    len = (size_t)snprintf(text, size,
                           "table ip t {\n chain c { type nat hook output priority -150;\n");
    for (int i = 0; i < 5000; i++)
        len += (size_t)snprintf(text + len, size - len, "  tcp dport %d accept\n", i + 1);
    snprintf(text + len, size - len, "  tcp dport 1 redirect to :9\n }\n}\n");
    load(text);
    CHECK(traits_are("c", FW_NAT));
    gather_firewall_free(&fw);
    free(text);
}

#define IN_NETNS(name)             \
    static void name(void **state) \
    {                              \
        (void)state;               \
        in_netns(name##_body);     \
    }

IN_NETNS(base_chains)
IN_NETNS(accepts)
IN_NETNS(outputs)
IN_NETNS(protocols)
IN_NETNS(drops)
IN_NETNS(jumps)
IN_NETNS(tools)
IN_NETNS(ours)
IN_NETNS(many_rules)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base_chains), cmocka_unit_test(accepts), cmocka_unit_test(outputs),
        cmocka_unit_test(protocols),   cmocka_unit_test(drops),   cmocka_unit_test(jumps),
        cmocka_unit_test(tools),       cmocka_unit_test(ours),    cmocka_unit_test(many_rules),
    };

    return cmocka_run_group_tests_name("firewall", tests, NULL, NULL);
}
