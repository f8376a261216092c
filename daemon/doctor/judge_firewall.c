/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Other people's rules. Ours run at the output hook with priority -126 to -110 (nft/udp.c,
 * nft/ruleset.c) and at
 * prerouting before anybody's nat. The first nat chain that decides on a connection decides for
 * good; a packet that any chain drops is gone.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/netfilter.h>

#include "doctor/judge.h"
#include "doctor/judge_names.h"
#include "keeper/datagrams.h"

#define OUR_OUTPUT     (-110)
#define OUR_SELECT     (-126) /* a `run`'s, which is the first */
#define OUR_PREROUTING (-130)

const char *chain_name(const struct fw_chain *c, char *buf, size_t size)
{
    const char *family = c->family == NFPROTO_INET     ? "inet"
                         : c->family == NFPROTO_IPV4   ? "ip"
                         : c->family == NFPROTO_IPV6   ? "ip6"
                         : c->family == NFPROTO_BRIDGE ? "bridge"
                         : c->family == NFPROTO_ARP    ? "arp"
                                                       : "netdev";

    snprintf(buf, size, "%s %s %s", family, c->table, c->name);
    return buf;
}

/* iptables reads a table no more that has an expression it does not know, as `fib` and `socket`
 * are: in one that it has made, a rule is to be its own. */
static bool is_iptables(const struct fw_chain *c)
{
    static const char *const tables[] = {"filter", "mangle", "nat", "raw", "security"};

    if ((c->family != NFPROTO_IPV4 && c->family != NFPROTO_IPV6) ||
        strcmp(c->name, c->hook == NF_INET_LOCAL_IN ? "INPUT" : "OUTPUT") != 0)
        return false;
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        if (strcmp(c->table, tables[i]) == 0)
            return true;
    }
    return false;
}

/* Adds the command that has the chain accept what matches, in the words of nft or iptables. */
static void add_accept(char *mend, size_t size, const struct fw_chain *c, const char *match,
                       const char *xt_match)
{
    const char *and = mend[0] ? " && " : "";
    char name[CHAIN_NAME_SIZE];
    size_t n = strlen(mend);

    if (is_iptables(c))
        snprintf(mend + n, size - n, "%s%s -t %s -I %s %s -j ACCEPT", and,
                 c->family == NFPROTO_IPV6 ? "ip6tables" : "iptables", c->table, c->name, xt_match);
    else
        snprintf(mend + n, size - n, "%snft insert rule %s %s accept", and,
                 chain_name(c, name, sizeof(name)), match);
}

/* Whether it sees packets of the IP layer; bridge, arp and netdev chains have hooks of their own.
 */
static bool is_ip(const struct fw_chain *c)
{
    return c->family == NFPROTO_INET || c->family == NFPROTO_IPV4 || c->family == NFPROTO_IPV6;
}

static void judge_output_nat(const struct fw_chain *c, struct findings *ret)
{
    char name[CHAIN_NAME_SIZE], text[512];

    if (!c->nat || !((c->traits | c->udp_traits) & FW_NAT) || c->priority > OUR_OUTPUT)
        return;
    chain_name(c, name, sizeof(name));
    if (c->priority == OUR_OUTPUT)
        snprintf(
            text, sizeof(text),
            "the nat chain %s redirects with our own priority %d: whichever was made first wins",
            name, c->priority);
    else
        snprintf(
            text, sizeof(text),
            "the nat chain %s redirects connections of this host before ours does (priority %d, "
            "ours is %d): what it takes never reaches us",
            name, c->priority, OUR_OUTPUT);
    finding_add_mend(ret, "foreign-nat", c->priority == OUR_OUTPUT ? FINDING_WARN : FINDING_FAIL,
                     text, "nft -a list chain %s # then: nft delete rule %s handle N", name, name);
}

static void judge_prerouting(const struct fw_chain *c, struct findings *ret)
{
    char name[CHAIN_NAME_SIZE], text[512];

    chain_name(c, name, sizeof(name));
    if ((c->traits | c->udp_traits) & FW_TPROXY) {
        snprintf(
            text, sizeof(text),
            "the chain %s has TPROXY rules of somebody else (priority %d): who comes first takes "
            "the packet",
            name, c->priority);
        finding_add_mend(ret, "foreign-tproxy", FINDING_WARN, text, "nft -a list chain %s", name);
    }
    if (c->nat && ((c->traits | c->udp_traits) & FW_NAT) && c->priority < OUR_PREROUTING) {
        snprintf(text, sizeof(text),
                 "the nat chain %s rewrites destinations before ours sees them (priority %d)", name,
                 c->priority);
        finding_add_mend(ret, "foreign-nat", FINDING_FAIL, text, "nft -a list chain %s", name);
    }
}

/*
 * What of a hook's captures is on which way. A gateway's comes in: SYNs that were held by lo, what
 * follows them and all else by the clients' interface. This host's own goes out, as a rule sees it,
 * by the interface it had before it was redirected: SYNs that were held, and UDP, with our mark;
 * what is connected early with a local address instead of its own.
 */
struct ways {
    bool held, early, udp;
};

static void find_ways(const struct facts *f, enum capture_hook hook, struct ways *ret)
{
    const struct facts_kernel *k = &f->kernel;
    bool can_hold = k->nft.result[NFT_FEATURE_HOLD] == 0 && k->nft.result[NFT_FEATURE_LOG] == 0;

    for (size_t i = 0; f->config && i < f->config->n_captures; i++) {
        struct capture_policy p = f->config->captures[i].policy;
        struct worker_udp udp;

        if (p.hook != hook || p.action != CAPTURE_PROXY)
            continue;
        datagrams_decide(f->config, i, false, &p, &udp);
        ret->udp = ret->udp || datagrams_needs_listener(&p);
        if (hook == CAPTURE_CGROUP) /* its TCP goes to a listener on lo, or to the proxy itself */
            continue;
        if (can_hold && f->config->captures[i].connect != CONNECT_EARLY)
            ret->held = true;
        else
            ret->early = true;
    }
}

/* Those that the chain accepts, by any of `traits`, are not in its way. */
static void leave_out(struct ways *ways, const struct fw_chain *c, unsigned traits)
{
    if (c->traits & traits)
        ways->held = ways->early = false;
    if (c->udp_traits & traits)
        ways->udp = false;
}

/* A packet that TPROXY hands over goes on through the input hook, with its original destination. */
static void judge_input(const struct facts *f, const struct fw_chain *c, struct findings *ret)
{
    const unsigned for_held = FW_ACCEPT_LO | FW_ACCEPT_ESTABLISHED,
                   for_all = FW_ACCEPT_SOCKET | FW_ACCEPT_ALL;
    struct ways ways = {.held = false};
    char name[CHAIN_NAME_SIZE], text[512], mend[512] = "";
    enum finding_level level = FINDING_FAIL;

    if (!c->drops)
        return;
    find_ways(f, CAPTURE_GATEWAY, &ways);
    leave_out(&ways, c, for_all);
    chain_name(c, name, sizeof(name));
    if (ways.held && (c->traits & for_held) != for_held) {
        snprintf(text, sizeof(text),
                 "the chain %s drops by default, also the connections that were held until the "
                 "proxy answered: they come in by lo, and go on as established",
                 name);
    } else if (ways.early || ways.udp) {
        const char *what = ways.early ? "what" : "the UDP that";

        if ((ways.early ? c->traits : c->udp_traits) & FW_ACCEPT_INTERFACE)
            level = FINDING_WARN;
        snprintf(text, sizeof(text), "the chain %s drops by default%s %s TPROXY hands over%s", name,
                 level == FINDING_WARN ? " and accepts by interface: unless the gateway's is among "
                                         "them, it drops"
                                       : ", also",
                 what, level == FINDING_WARN ? "" : " to the listener");
    } else {
        return;
    }
    add_accept(mend, sizeof(mend), c, "socket transparent 1", "-m socket --transparent");
    finding_add_mend(ret, "foreign-input", level, text, "%s", mend);
}

/* What judge_output() says of a chain that drops it. */
static const char *ways_out(const struct facts *f, const struct ways *ways)
{
    return !f->config    ? "the UDP and DNS that `run` redirects"
           : ways->held  ? "the connections that the proxy has granted, and redirected UDP and DNS"
           : ways->early ? "what is redirected"
                         : "the UDP and DNS that are redirected";
}

/* What was redirected goes on through the chains behind ours, with our mark or a local address. */
static void judge_output(const struct facts *f, const struct fw_chain *c, struct findings *ret)
{
    struct ways ways = {.udp = !f->config}; /* what `run` takes */
    bool interface = (c->traits | c->udp_traits) & FW_ACCEPT_INTERFACE;
    char name[CHAIN_NAME_SIZE], text[512], mend[512] = "", marks[64], xt_marks[64];

    if (!c->drops)
        return;
    find_ways(f, CAPTURE_OUTPUT, &ways);
    find_ways(f, CAPTURE_CGROUP, &ways);
    leave_out(&ways, c, FW_ACCEPT_ALL);
    chain_name(c, name, sizeof(name));
    snprintf(marks, sizeof(marks), "meta mark and %#x == %#x", CAPTURE_OWN_MASK, CAPTURE_OWN_MARK);
    snprintf(xt_marks, sizeof(xt_marks), "-m mark --mark %#x/%#x", CAPTURE_OWN_MARK,
             CAPTURE_OWN_MASK);
    ways.held = ways.held && !(c->traits & FW_ACCEPT_MARKS);
    ways.udp = ways.udp && !(c->udp_traits & FW_ACCEPT_MARKS);
    if (ways.held || ways.udp)
        add_accept(mend, sizeof(mend), c, marks, xt_marks);
    ways.early = ways.early && !(c->traits & FW_ACCEPT_LOCAL);
    if (ways.early)
        add_accept(mend, sizeof(mend), c, "fib daddr type local", "-m addrtype --dst-type LOCAL");
    if (mend[0] == '\0')
        return;
    if (c->priority < OUR_SELECT) {
        snprintf(text, sizeof(text),
                 "the chain %s drops by default before ours see anything (priority %d): what is "
                 "to be redirected must be accepted there as programs send it",
                 name, c->priority);
        finding_add_mend(ret, "foreign-output", FINDING_WARN, text, "nft -a list chain %s", name);
        return;
    }
    snprintf(text, sizeof(text), "the chain %s drops by default%s %s", name,
             interface ? " and accepts by interface: unless the traffic's is among them, it drops"
                       : ", also",
             ways_out(f, &ways));
    finding_add_mend(ret, "foreign-output", interface || !f->config ? FINDING_WARN : FINDING_FAIL,
                     text, "%s", mend);
}

static void judge_invalid(const struct facts *f, const struct fw_chain *c, struct findings *ret)
{
    bool output = facts_has_hook(f, CAPTURE_OUTPUT), gateway = facts_has_hook(f, CAPTURE_GATEWAY);
    char name[CHAIN_NAME_SIZE], text[512];

    if (!(c->traits & FW_DROP_INVALID) || !is_ip(c))
        return;
    if (!(c->hook == NF_INET_LOCAL_OUT && output) &&
        !((c->hook == NF_INET_PRE_ROUTING || c->hook == NF_INET_LOCAL_IN) && gateway))
        return;
    chain_name(c, name, sizeof(name));
    snprintf(
        text, sizeof(text),
        "the chain %s drops what conntrack calls invalid: a connection whose entry is gone stalls "
        "instead of being reset",
        name);
    finding_add_mend(ret, "ct-invalid", FINDING_WARN, text, "nft -a list chain %s", name);
}

static void judge_tools(const struct facts_firewall *fw, struct findings *ret)
{
    static const struct {
        unsigned tool;
        const char *id, *text;
    } tools[] = {
        {FW_FIREWALLD, "firewalld",
         "firewalld's rules are here; its reload leaves our table alone, and what of them stands "
         "in the "
         "way has a line of its own"},
        {FW_UFW, "ufw",
         "ufw's rules are here; what of them stands in the way has a line of its own"},
        {FW_DOCKER, "docker",
         "Docker's rules are here; containers are forwarded traffic, which only hook = \"gateway\" "
         "takes"},
        {FW_LIBVIRT, "libvirt",
         "libvirt's rules are here; guests are forwarded traffic, which only hook = \"gateway\" "
         "takes"},
        {FW_KUBERNETES, "kubernetes",
         "Kubernetes' rules are here; what of them stands in the way has a line of its own"},
        {FW_FAIL2BAN, "fail2ban", "fail2ban's rules are here; they concern what comes in alone"},
    };

    for (size_t i = 0; i < sizeof(tools) / sizeof(tools[0]); i++) {
        if (fw->tools & tools[i].tool)
            finding_add(ret, tools[i].id, FINDING_OK, NULL, "%s", tools[i].text);
    }
}

static void judge_legacy(const struct facts_firewall *fw, struct findings *ret)
{
    if (fw->legacy4[0])
        finding_add(
            ret, "iptables-legacy", FINDING_WARN, "iptables-legacy-save",
            "iptables-legacy is in use (tables %s): its rules cannot be read from here; they "
            "come after ours for nat, and may drop what we redirect",
            fw->legacy4);
    if (fw->legacy6[0])
        finding_add(
            ret, "iptables-legacy", FINDING_WARN, "ip6tables-legacy-save",
            "ip6tables-legacy is in use (tables %s): its rules cannot be read from here; they "
            "come after ours for nat, and may drop what we redirect",
            fw->legacy6);
}

void judge_firewall(const struct facts *f, struct findings *ret)
{
    const struct facts_firewall *fw = &f->firewall;
    bool gateway = facts_has_hook(f, CAPTURE_GATEWAY);
    bool output = facts_has_hook(f, CAPTURE_OUTPUT) || !f->config;
    size_t before;

    if (fw->error < 0) {
        bool privilege = fw->error == -EPERM || fw->error == -EACCES;

        if (privilege || f->kernel.nft_error == 0)
            finding_add(ret, "firewall", FINDING_WARN, privilege ? "sudo undersock doctor" : NULL,
                        "the firewall's rules cannot be read: %s", strerror(-fw->error));
        return;
    }
    judge_tools(fw, ret);
    before = ret->n;
    judge_legacy(fw, ret);
    for (size_t i = 0; i < fw->n_chains; i++) {
        const struct fw_chain *c = &fw->chains[i];

        if (is_ip(c) && c->hook == NF_INET_LOCAL_OUT && output)
            judge_output_nat(c, ret);
        if (is_ip(c) && c->hook == NF_INET_LOCAL_OUT)
            judge_output(f, c, ret);
        if (is_ip(c) && c->hook == NF_INET_PRE_ROUTING && gateway)
            judge_prerouting(c, ret);
        if (is_ip(c) && c->hook == NF_INET_LOCAL_IN && gateway)
            judge_input(f, c, ret);
        judge_invalid(f, c, ret);
    }
    if (ret->n == before)
        finding_add(ret, "firewall", FINDING_OK, NULL,
                    "none of the %zu base chains of others stands in the way", fw->n_chains);
}
