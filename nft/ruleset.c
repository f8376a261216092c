/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form.
 *
 * Theory of operation. Two base chains at the output hook see each packet of this host:
 *
 *   refuse  filter, priority -120   rejects; only there when some capture refuses
 *   output  nat, priority -110      redirects to 127.0.0.1 or ::1, before the -100 of others
 *
 * Both walk the captures in order, and the first rule that matches ends the walk: nat cannot reject
 * and filter cannot redirect, so each chain holds what it can do and returns for the rest.
 *
 * What the first rejects does not reach the second, but for one case: while rules are replaced, a
 * packet may pass the first with the old rules and the second with the new ones. So that it does
 * not get away, the second drops what the first would reject, and the retransmission is rejected
 * properly.
 *
 * The second is there even if no capture redirects, and comes before the first in the table: the
 * kernel translates the packets of a connection that was redirected earlier only as long as
 * somebody has a nat chain at all, and a chain that stays keeps its place in nft's listing when
 * others come and go.
 *
 * Both begin with what no capture takes:
 *   - anything but a SYN. Connection tracking adopts a connection that is older than itself in
 *     mid-stream and calls its next packet new; without this rule, the start of the daemon on a
 *     host without other nat would redirect the administrator's own ssh session;
 *   - the daemon's own sockets, by their mark;
 *   - the upstreams and our own listeners, each address with its port: the loop that the mark would
 *     miss, for example an upstream on this host that is redirected itself.
 *
 * A capture is one rule per family, as addresses of different families are different fields. A
 * family of which the capture selects nothing has no rule: `to` of IPv4 prefixes alone selects no
 * IPv6.
 */
#include "nft/ruleset.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include <linux/netfilter.h>

#include "nft/form.h"
#include "nft/policy_sets.h"

#define PRIORITY_REFUSE (-120)
#define PRIORITY_OUTPUT (-110)

#define TCP_FIN_SYN_RST_ACK 0x17
#define TCP_SYN             0x02

static const uint32_t family_nfproto[] = {[NFT_V4] = NFPROTO_IPV4, [NFT_V6] = NFPROTO_IPV6};
static const enum nft_field family_daddr[] = {
    [NFT_V4] = NFT_FIELD_IP_DADDR, [NFT_V6] = NFT_FIELD_IP6_DADDR};

/* What a capture does with a connection of one family. */
enum treatment { REDIRECT, RETURN, REFUSE };

struct maker {
    const struct capture_set *set;
    struct nft_ruleset *rs;
    struct nft_shared_sets shared;
    unsigned refuse_tcp; /* the chain that rejects */
};

static enum treatment treatment(const struct capture_policy *p, enum nft_family f)
{
    switch (p->action) {
    case CAPTURE_DIRECT:
        return RETURN;
    case CAPTURE_PROXY:
        return nft_listener_port(p, f) != 0 ? REDIRECT : REFUSE;
    case CAPTURE_REFUSE:
        break;
    }
    return REFUSE;
}

/* A rule of one match that ends the walk. */
static int append_return(struct maker *m, unsigned chain, struct nft_rule *rule)
{
    nft_rule_verdict(rule, NFT_VERDICT_RETURN, 0);
    return nft_chain_append(&m->rs->chains[chain], rule);
}

/* What no capture takes; see the top of the file. */
static int append_exemptions(struct maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    nft_rule_match_masked(&rule, NFT_FIELD_TCP_FLAGS, NFT_OP_NEQ, TCP_SYN, TCP_FIN_SYN_RST_ACK);
    int r = append_return(m, chain, &rule);

    if (r == 0 && m->set->own_mask != 0) {
        rule.n_exprs = 0;
        nft_rule_match_masked(&rule, NFT_FIELD_META_MARK, NFT_OP_EQ, m->set->own_mark,
                              m->set->own_mask);
        r = append_return(m, chain, &rule);
    }
    for (unsigned i = 0; r == 0 && i < 2 * NFT_N_FAMILIES; i++) {
        enum nft_family f = i % NFT_N_FAMILIES;
        unsigned set = i < NFT_N_FAMILIES ? m->shared.upstreams[f] : m->shared.listeners[f];

        if (set == NFT_NO_SET)
            continue;
        rule.n_exprs = 0;
        nft_rule_match_pair(&rule, family_daddr[f], NFT_FIELD_TCP_DPORT, set);
        r = append_return(m, chain, &rule);
    }
    return r;
}

static void match_if(struct nft_rule *rule, enum nft_field field, enum nft_op op, unsigned set)
{
    if (set != NFT_NO_SET)
        nft_rule_match_set(rule, field, op, set);
}

/* All that the capture asks of a TCP connection of family `f`. */
static void match_selection(const struct maker *m, const struct capture_policy *p,
                            const struct nft_capture_sets *s, enum nft_family f,
                            struct nft_rule *rule)
{
    unsigned private = p->private ? NFT_NO_SET : m->shared.private[f];

    match_if(rule, family_daddr[f], NFT_OP_EQ, s->to[f]);
    match_if(rule, family_daddr[f], NFT_OP_NEQ, s->not_to[f]);
    match_if(rule, family_daddr[f], NFT_OP_NEQ, private);
    /* nft takes the family for granted once an address is named, and drops this from its listing.
     */
    if (rule->n_exprs == 0)
        nft_rule_match(rule, NFT_FIELD_META_NFPROTO, NFT_OP_EQ, family_nfproto[f]);
    if (p->has_mark)
        nft_rule_match(rule, NFT_FIELD_META_MARK, NFT_OP_EQ, p->mark);
    match_if(rule, NFT_FIELD_META_SKUID, NFT_OP_EQ, s->uid);
    match_if(rule, NFT_FIELD_META_SKUID, NFT_OP_NEQ, s->not_uid);
    if (s->tcp != NFT_NO_SET)
        nft_rule_match_set(rule, NFT_FIELD_TCP_DPORT, NFT_OP_EQ, s->tcp);
    else
        nft_rule_match(rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_TCP);
}

/* The capture's rules in one of the two chains; `nat` says which. */
static int append_capture(struct maker *m, unsigned chain, bool nat, const struct capture_policy *p,
                          const struct nft_capture_sets *s)
{
    int r = 0;

    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        enum treatment t = treatment(p, f);
        struct nft_rule rule = {.n_exprs = 0};

        if (!nft_selects_family(p, f))
            continue;
        match_selection(m, p, s, f, &rule);
        if (nat && t == REDIRECT)
            nft_rule_add(&rule, NFT_EXPR_REDIRECT)->port = nft_listener_port(p, f);
        else if (t == REFUSE && nat)
            nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
        else if (t == REFUSE)
            nft_rule_verdict(&rule, NFT_VERDICT_JUMP, m->refuse_tcp);
        else
            nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    }
    return r;
}

/* How many captures a chain must hold so that each with treatment `t` is among them. */
static size_t captures_up_to(const struct capture_set *set, enum treatment t)
{
    size_t n = 0;

    for (size_t i = 0; i < set->n_policies; i++)
        for (enum nft_family f = NFT_V4; f < NFT_N_FAMILIES; f++)
            if (nft_selects_tcp(&set->policies[i]) && nft_selects_family(&set->policies[i], f) &&
                treatment(&set->policies[i], f) == t)
                n = i + 1;
    return n;
}

/* A base chain with the first `n` captures. */
static int add_base_chain(struct maker *m, bool nat, size_t n, const struct nft_capture_sets *sets)
{
    unsigned chain;
    int r =
        nft_form_add_chain(m->rs, nat ? "output" : "refuse", nat ? NFT_CHAIN_NAT : NFT_CHAIN_FILTER,
                           NF_INET_LOCAL_OUT, nat ? PRIORITY_OUTPUT : PRIORITY_REFUSE, &chain);

    if (r == 0)
        r = append_exemptions(m, chain);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (nft_selects_tcp(&m->set->policies[i]))
            r = append_capture(m, chain, nat, &m->set->policies[i], &sets[i]);
    return r;
}

static int add_refuse_tcp(struct maker *m)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = nft_form_add_chain(m->rs, "refuse_tcp", NFT_CHAIN_REGULAR, 0, 0, &m->refuse_tcp);

    if (r < 0)
        return r;
    nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_TCP);
    nft_rule_add(&rule, NFT_EXPR_TCP_RESET);
    return nft_chain_append(&m->rs->chains[m->refuse_tcp], &rule);
}

static int make(struct maker *m, size_t refusing, size_t redirecting, struct nft_capture_sets *sets)
{
    size_t n = refusing > redirecting ? refusing : redirecting;
    int r = nft_add_shared_sets(m->rs, m->set, &m->shared);

    for (size_t i = 0; r == 0 && i < n; i++)
        if (nft_selects_tcp(&m->set->policies[i]))
            r = nft_add_capture_sets(m->rs, &m->set->policies[i], &sets[i]);
    if (r == 0)
        r = add_base_chain(m, true, n, sets);
    if (r == 0 && refusing > 0)
        r = add_refuse_tcp(m);
    if (r == 0 && refusing > 0)
        r = add_base_chain(m, false, refusing, sets);
    return r;
}

static bool valid(const struct capture_set *set)
{
    if (set->own_mark & ~set->own_mask)
        return false;
    for (size_t i = 0; i < set->n_policies; i++) {
        const struct capture_policy *p = &set->policies[i];

        for (size_t j = 0; j < p->n_tcp_ports; j++)
            if (p->tcp_ports[j].first > p->tcp_ports[j].last)
                return false;
        for (size_t j = 0; j < p->n_to; j++)
            if (p->to[j].len > 128)
                return false;
        for (size_t j = 0; j < p->n_not_to; j++)
            if (p->not_to[j].len > 128)
                return false;
    }
    return true;
}

int nft_ruleset_build(const struct capture_set *set, struct nft_ruleset **ret)
{
    struct maker m = {.set = set};

    if (!valid(set))
        return -EINVAL;
    m.rs = nft_form_new();
    if (!m.rs)
        return -ENOMEM;

    size_t refusing = captures_up_to(set, REFUSE), redirecting = captures_up_to(set, REDIRECT);
    int r = 0;

    if (refusing + redirecting > 0) {
        struct nft_capture_sets *sets = calloc(set->n_policies, sizeof(*sets));

        r = sets ? make(&m, refusing, redirecting, sets) : -ENOMEM;
        free(sets);
    }
    if (r < 0)
        nft_ruleset_free(m.rs);
    else
        *ret = m.rs;
    return r;
}
