/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form: UDP.
 *
 * Theory of operation. UDP is given to a listener by TPROXY whatever the hook, as that leaves both
 * addresses as they are: the application's socket keeps its peer, connected or not, and takes
 * answers and ICMP errors for the peer's. TPROXY works on what comes in; what this host sends
 * itself makes a loop first.
 *
 *   select_udp       route, output, priority -125: selects, by all captures of hook output and
 *                    cgroup in their order. What is taken gets the mark of its policy, by which it
 *                    is routed again, to lo (nft/routes.h), and the same number as its priority
 *                    (tc's), for udp_astray. Also `udp = "reject"` is taken, and
 *                    answered by the worker, as a reject here would make send() fail with EPERM.
 *                    What is refused because of `upstream = "refuse"` is refused here.
 *   udp_destination  nat, output, and udp_source, nat, postrouting, before those of others: what is
 *                    taken keeps its addresses, also where a rule of somebody's translates DNS, or
 *                    all that leaves.
 *   udp_astray       filter, postrouting, priority -160, before mangle: a socket that is bound to
 *                    an interface, or an address that is, cannot be routed to lo; and where a chain
 *                    of somebody's behind ours sets another mark at output, the packet is routed
 *                    once more, by that. It must not leave by an interface. It is known by the mark
 *                    or the priority, as hardly anybody overwrites both.
 *   udp_loopback     filter, prerouting, priority -160, before marks are restored in mangle: what
 *                    is from lo and has the mark gets it as its priority, and a label.
 *   udp_delivery     filter, prerouting, priority 200, behind the chains of others: by the
 *                    priority, to the listener of the policy. nft/hold.c does the same and says
 *                    why. The packet has its route already, so that nothing is asked of the mark.
 *   udp_gateway      filter, prerouting, priority -130: forwarded UDP, as nft/gateway.c does with
 *                    TCP, and each packet's source is looked up. A reverse path check of others
 *                    finds where it came from (nft/routes.h).
 *
 * Between the two others may overwrite the mark, but not the priority. What has lost that is
 * dropped if it still has the mark. If it has neither, it is dropped if its flow has the label and
 * its destination is no address of this host: such a packet comes in by lo for no other reason,
 * and a server that listens on the wildcard address would get it. To an address of this host it
 * passes, as a flow looks the same that is no longer selected.
 *
 * A `run` that is inside what a daemon captures comes first, by a priority that is one lower; the
 * daemon then sees an own mark.
 *
 * There is no SYN, so each packet is selected, and a flow changes sides with the rules. What must
 * not be taken is the answer to somebody: a server of this host, or behind it, talks to its
 * clients. So answers, as connection tracking sees them, are left alone. Now a worker lets
 * strangers answer the application, too (it asked one peer and another one calls): then connection
 * tracking sees the stranger begin, and would take the application's packet for the answer.
 * Therefore what a worker begins in the name of a stranger, recognized by a source that is no
 * address of this host, gets NFT_FLOW_LABEL. Flows that were there before connection tracking was
 * at work may be seen the wrong way round until they pause.
 *
 * Link-local IPv6 addresses are bound to their interface; what is selected of them is rejected.
 *
 * No part of it is needed for what was taken earlier, so nothing is kept where a reload has no
 * captures of UDP.
 */
#include "nft/udp.h"

#include <netinet/in.h>
#include <stdio.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/rtnetlink.h>

#include "nft/gateway.h"
#include "nft/selection.h"

#define PRIORITY_UDP         (-125)
#define PRIORITY_DESTINATION (-110)
#define PRIORITY_SOURCE      90
#define PRIORITY_GATEWAY     (-130)

static const uint32_t nfproto[] = {[NFT_V4] = NFPROTO_IPV4, [NFT_V6] = NFPROTO_IPV6};

/* ---- what all of them ask ---- */

static bool is_of(const struct nft_maker *m, size_t i, unsigned hooks)
{
    const struct nft_scope scope = {.udp_hooks = m->scope.udp_hooks & hooks};

    return nft_selects_udp(&m->set->policies[i], &scope);
}

static size_t count(const struct nft_maker *m, unsigned hooks)
{
    struct nft_way way;
    size_t n = 0;

    for (size_t i = 0; i < m->set->n_policies; i++)
        for (unsigned k = 0; k < NFT_N_WAYS; k++)
            if (is_of(m, i, hooks) && nft_way(&m->set->policies[i], NFT_UDP, k, &way) &&
                nft_udp_treatment(m->set, i, way) != NFT_TREAT_RETURN)
                n = i + 1;
    return n;
}

struct nft_udp_counts nft_udp_captures(const struct nft_maker *m)
{
    return (struct nft_udp_counts){count(m, NFT_LOCAL_HOOKS), count(m, NFT_GATEWAY_HOOKS)};
}

static int append(struct nft_maker *m, unsigned chain, struct nft_rule *rule, int r)
{
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], rule);
    rule->n_exprs = 0;
    return r;
}

static void match_udp(struct nft_rule *rule, enum nft_op op)
{
    nft_rule_match(rule, NFT_FIELD_META_L4PROTO, op, IPPROTO_UDP);
}

/* What this instance has taken from this host, by the mark or the priority. */
static void match_taken(const struct nft_maker *m, struct nft_rule *rule, enum nft_field field,
                        enum nft_op op)
{
    nft_rule_match_masked(rule, field, op, capture_udp_mark(m->set->instance, 0),
                          CAPTURE_KIND_MASK);
}

static int append_others_return(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    match_udp(&rule, NFT_OP_NEQ);
    return nft_append_return(m, chain, &rule);
}

/* Nobody's in particular. */
static int append_groups_return(struct nft_maker *m, unsigned chain)
{
    int r = nft_append_addr_type_return(m, chain, RTN_BROADCAST);

    return r < 0 ? r : nft_append_addr_type_return(m, chain, RTN_MULTICAST);
}

static int finish(struct nft_maker *m, unsigned chain, struct nft_rule *rule, enum nft_treatment t,
                  int (*take)(struct nft_maker *, size_t, struct nft_way, struct nft_rule *),
                  size_t i, struct nft_way way)
{
    int r = 0;

    if (t == NFT_TREAT_REDIRECT)
        r = take(m, i, way, rule);
    else if (t == NFT_TREAT_REFUSE)
        r = nft_rule_refuse(m, rule, NFT_UDP);
    else
        nft_rule_verdict(rule, NFT_VERDICT_RETURN, 0);
    return append(m, chain, rule, r);
}

/* ---- this host's own ---- */

static int take_local(struct nft_maker *m, size_t i, struct nft_way way, struct nft_rule *rule)
{
    uint32_t mark = capture_udp_mark(m->set->instance, (unsigned)i);

    (void)way;
    nft_rule_add(rule, NFT_EXPR_SET_MARK)->number = mark;
    nft_rule_add(rule, NFT_EXPR_SET_PRIORITY)->number = mark;
    nft_rule_verdict(rule, NFT_VERDICT_ACCEPT, 0);
    return 0;
}

static bool reaches_link_local(const struct capture_policy *p, struct nft_way way)
{
    return way.family == NFT_V6 &&
           (way.part == NFT_PART_DNS || (way.part == NFT_PART_REST && p->private));
}

static int append_local(struct nft_maker *m, unsigned chain, size_t i)
{
    const struct capture_policy *p = &m->set->policies[i];
    struct nft_rule rule = {.n_exprs = 0};
    struct nft_way way;
    int r = 0;

    for (unsigned k = 0; r == 0 && k < NFT_N_WAYS; k++) {
        if (!nft_way(p, NFT_UDP, k, &way))
            continue;
        enum nft_treatment t = nft_udp_treatment(m->set, i, way);

        if (t == NFT_TREAT_REDIRECT && reaches_link_local(p, way)) {
            nft_rule_match_set(&rule, NFT_FIELD_IP6_DADDR, NFT_OP_EQ, m->shared.link_local);
            r = nft_match_selection(m, i, way, NFT_UDP, &rule);
            if (r == 0)
                r = nft_rule_refuse(m, &rule, NFT_UDP);
            r = append(m, chain, &rule, r);
        }
        if (r == 0)
            r = nft_match_selection(m, i, way, NFT_UDP, &rule);
        if (r == 0)
            r = finish(m, chain, &rule, t, take_local, i, way);
    }
    return r;
}

/* A stranger's answer: see the top. */
static int append_label(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    if (m->set->own_mask != 0)
        nft_match_mark(&rule, m->set->own_mark, m->set->own_mask);
    nft_rule_match(&rule, NFT_FIELD_CT_DIRECTION, NFT_OP_EQ, IP_CT_DIR_ORIGINAL);
    nft_rule_match(&rule, NFT_FIELD_FIB_SADDR_TYPE, NFT_OP_NEQ, RTN_LOCAL);
    /* Without an own mark it is not told from a gateway's, so it stops here. */
    nft_rule_add(&rule, NFT_EXPR_SET_LABEL)->number = NFT_FLOW_LABEL;
    if (m->set->own_mask == 0)
        nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    int r = append(m, chain, &rule, 0);

    return r < 0 ? r : nft_append_own_mark_return(m, chain);
}

/* With the first `n` captures; `label` is needed also where only a gateway takes something. */
static int add_output(struct nft_maker *m, size_t n, bool label)
{
    int priority = m->set->instance > 0 ? PRIORITY_UDP - 1 : PRIORITY_UDP;
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "select_udp", NFT_CHAIN_ROUTE, NF_INET_LOCAL_OUT, priority,
                               &chain);

    if (r == 0)
        r = append_others_return(m, chain);
    if (r == 0)
        r = label ? append_label(m, chain) : nft_append_own_mark_return(m, chain);
    if (r == 0 && n > 0)
        r = nft_append_udp_reply_return(m, chain);
    if (r == 0 && n > 0)
        r = append_groups_return(m, chain);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (is_of(m, i, NFT_LOCAL_HOOKS))
            r = append_local(m, chain, i);
    return r;
}

/* Also a stranger's answer keeps its source. */
static int append_keep(struct nft_maker *m, unsigned chain, enum nft_expr_kind kind)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = 0;

    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        match_taken(m, &rule, NFT_FIELD_META_MARK, NFT_OP_EQ);
        nft_rule_add(&rule, kind)->v6 = f == NFT_V6;
        r = append(m, chain, &rule, r);
    }
    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        nft_rule_match_any(&rule, NFT_FIELD_CT_LABEL, NFT_FLOW_LABEL);
        match_udp(&rule, NFT_OP_EQ);
        nft_rule_add(&rule, kind)->v6 = f == NFT_V6;
        r = append(m, chain, &rule, r);
    }
    return r;
}

static int add_nat(struct nft_maker *m)
{
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "udp_destination", NFT_CHAIN_NAT, NF_INET_LOCAL_OUT,
                               PRIORITY_DESTINATION, &chain);

    if (r == 0)
        r = append_keep(m, chain, NFT_EXPR_KEEP_DESTINATION);
    if (r == 0)
        r = nft_form_add_chain(m->rs, "udp_source", NFT_CHAIN_NAT, NF_INET_POST_ROUTING,
                               PRIORITY_SOURCE, &chain);
    return r < 0 ? r : append_keep(m, chain, NFT_EXPR_KEEP_SOURCE);
}

static int add_astray(struct nft_maker *m)
{
    static const enum nft_field fields[] = {NFT_FIELD_META_MARK, NFT_FIELD_META_PRIORITY};
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "udp_astray", NFT_CHAIN_FILTER, NF_INET_POST_ROUTING,
                               NFT_PRIORITY_RECOGNIZED, &chain);

    for (size_t i = 0; r == 0 && i < sizeof(fields) / sizeof(fields[0]); i++) {
        match_taken(m, &rule, fields[i], NFT_OP_EQ);
        nft_rule_match_name(&rule, NFT_FIELD_META_OIFNAME, NFT_OP_NEQ, "lo");
        nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
        r = append(m, chain, &rule, r);
    }
    return r;
}

static bool takes(const struct nft_maker *m, size_t i, unsigned hooks, enum nft_family f)
{
    struct nft_way way;

    for (unsigned k = 0; k < NFT_N_WAYS; k++)
        if (is_of(m, i, hooks) && nft_way(&m->set->policies[i], NFT_UDP, k, &way) &&
            way.family == f && nft_udp_treatment(m->set, i, way) == NFT_TREAT_REDIRECT)
            return true;
    return false;
}

static int append_recognized(struct nft_maker *m, unsigned chain, size_t i)
{
    uint32_t mark = capture_udp_mark(m->set->instance, (unsigned)i);
    struct nft_rule rule = {.n_exprs = 0};

    nft_match_mark(&rule, mark, UINT32_MAX);
    nft_rule_add(&rule, NFT_EXPR_SET_LABEL)->number = NFT_UDP_LABEL;
    nft_rule_add(&rule, NFT_EXPR_SET_PRIORITY)->number = mark;
    nft_rule_verdict(&rule, NFT_VERDICT_ACCEPT, 0);
    return append(m, chain, &rule, 0);
}

static int add_loopback(struct nft_maker *m, size_t n)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_add_from_lo(m, "udp_loopback", NFT_PRIORITY_RECOGNIZED, &chain);

    match_taken(m, &rule, NFT_FIELD_META_MARK, NFT_OP_NEQ);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (takes(m, i, NFT_LOCAL_HOOKS, NFT_V4) || takes(m, i, NFT_LOCAL_HOOKS, NFT_V6))
            r = append_recognized(m, chain, i);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return append(m, chain, &rule, r);
}

/* What somebody has given another priority is dropped, if it can be told; see the top. */
static int append_strangers(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    match_taken(m, &rule, NFT_FIELD_META_PRIORITY, NFT_OP_NEQ);
    match_taken(m, &rule, NFT_FIELD_META_MARK, NFT_OP_EQ);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    int r = append(m, chain, &rule, 0);

    /* The label does not say whose it is. */
    nft_rule_match_masked(&rule, NFT_FIELD_META_PRIORITY, NFT_OP_NEQ, CAPTURE_UDP,
                          CAPTURE_UDP_MASK);
    nft_rule_match_any(&rule, NFT_FIELD_CT_LABEL, NFT_UDP_LABEL);
    nft_rule_match(&rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_NEQ, RTN_LOCAL);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    match_taken(m, &rule, NFT_FIELD_META_PRIORITY, NFT_OP_NEQ);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    return append(m, chain, &rule, r);
}

static int append_delivery(struct nft_maker *m, unsigned chain, size_t i, enum nft_family f)
{
    struct nft_rule rule = {.n_exprs = 0};

    nft_rule_match(&rule, NFT_FIELD_META_NFPROTO, NFT_OP_EQ, nfproto[f]);
    nft_rule_match(&rule, NFT_FIELD_META_PRIORITY, NFT_OP_EQ,
                   capture_udp_mark(m->set->instance, (unsigned)i));
    match_udp(&rule, NFT_OP_EQ);
    struct nft_expr *e = nft_rule_add(&rule, NFT_EXPR_TPROXY);

    e->v6 = f == NFT_V6;
    e->port = nft_udp_port(&m->set->policies[i], f);
    nft_rule_verdict(&rule, NFT_VERDICT_ACCEPT, 0);
    return append(m, chain, &rule, 0);
}

static int add_delivery(struct nft_maker *m, size_t n)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_add_from_lo(m, "udp_delivery", NFT_PRIORITY_DELIVERY, &chain);

    if (r == 0)
        r = append_strangers(m, chain);
    for (size_t i = 0; r == 0 && i < n; i++)
        for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++)
            if (takes(m, i, NFT_LOCAL_HOOKS, f))
                r = append_delivery(m, chain, i, f);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return append(m, chain, &rule, r);
}

/* ---- a gateway's ---- */

/* The chain that gives a packet to the listener of this port, which is one capture's, or to nobody.
 */
static int take_forwarded(struct nft_maker *m, size_t i, struct nft_way way, struct nft_rule *rule)
{
    uint16_t port = nft_udp_port(&m->set->policies[i], way.family);
    struct nft_rule give = {.n_exprs = 0};
    char name[NFT_ID_SIZE];
    unsigned chain;
    int r = 0;

    snprintf(name, sizeof(name), "udp%c_%u", way.family == NFT_V4 ? '4' : '6', port);
    if (!nft_form_find_chain(m->rs, name, &chain)) {
        r = nft_form_add_chain(m->rs, name, NFT_CHAIN_REGULAR, 0, 0, &chain);
        if (r == 0)
            r = nft_append_forged(m, chain, i, &give);
        match_udp(&give, NFT_OP_EQ);
        struct nft_expr *e = nft_rule_add(&give, NFT_EXPR_TPROXY);

        e->v6 = way.family == NFT_V6;
        e->port = port;
        nft_rule_add(&give, NFT_EXPR_SET_MARK)->number = m->set->tproxy_mark;
        nft_rule_verdict(&give, NFT_VERDICT_ACCEPT, 0);
        r = append(m, chain, &give, r);
        nft_rule_verdict(&give, NFT_VERDICT_DROP, 0);
        r = append(m, chain, &give, r);
    }
    nft_rule_verdict(rule, NFT_VERDICT_GOTO, chain);
    return r;
}

/* `local`: as far as they concern this host's addresses. */
static int append_forwarded(struct nft_maker *m, unsigned chain, size_t n, bool local)
{
    struct nft_rule rule = {.n_exprs = 0};
    struct nft_way way;
    int r = 0;

    for (size_t i = 0; i < n; i++)
        for (unsigned k = 0; r == 0 && k < NFT_N_WAYS; k++) {
            if (!is_of(m, i, NFT_GATEWAY_HOOKS) ||
                !nft_way(&m->set->policies[i], NFT_UDP, k, &way) ||
                (local && !nft_way_is_local(&m->set->policies[i], way)))
                continue;
            enum nft_treatment t = nft_udp_treatment(m->set, i, way);

            r = nft_match_selection(m, i, way, NFT_UDP, &rule);
            if (r == 0 && t == NFT_TREAT_REFUSE)
                r = nft_append_forged(m, chain, i, &rule);
            if (r == 0)
                r = finish(m, chain, &rule, t, take_forwarded, i, way);
        }
    return r;
}

static bool takes_local_dns(const struct nft_maker *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (is_of(m, i, NFT_GATEWAY_HOOKS) && m->set->policies[i].dns_local &&
            nft_has_part(&m->set->policies[i], NFT_UDP, NFT_V4, NFT_PART_DNS))
            return true;
    return false;
}

/* What is for this host itself is left alone, but for DNS where a capture asks for it. */
static int append_own_addresses(struct nft_maker *m, unsigned chain, size_t n)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned local;

    if (!takes_local_dns(m, n))
        return nft_append_addr_type_return(m, chain, RTN_LOCAL);
    int r = nft_form_add_chain(m->rs, "udp_local_dns", NFT_CHAIN_REGULAR, 0, 0, &local);

    nft_rule_match(&rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_EQ, RTN_LOCAL);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, local);
    r = append(m, chain, &rule, r);
    nft_rule_match(&rule, NFT_FIELD_UDP_DPORT, NFT_OP_NEQ, 53);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, local, &rule, r);
    return r < 0 ? r : append_forwarded(m, local, n, true);
}

static int add_gateway(struct nft_maker *m, size_t n)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "udp_gateway", NFT_CHAIN_FILTER, NF_INET_PRE_ROUTING,
                               PRIORITY_GATEWAY, &chain);

    if (r == 0)
        r = append_others_return(m, chain);
    if (r == 0)
        r = nft_append_own_mark_return(m, chain);
    nft_rule_match_name(&rule, NFT_FIELD_META_IIFNAME, NFT_OP_EQ, "lo");
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    if (r == 0)
        r = nft_append_udp_reply_return(m, chain);
    if (r == 0)
        r = append_own_addresses(m, chain, n);
    if (r == 0)
        r = append_groups_return(m, chain);
    return r < 0 ? r : append_forwarded(m, chain, n, false);
}

static bool takes_any(const struct nft_maker *m, unsigned hooks)
{
    for (size_t i = 0; i < m->set->n_policies; i++)
        if (takes(m, i, hooks, NFT_V4) || takes(m, i, hooks, NFT_V6))
            return true;
    return false;
}

int nft_udp_add(struct nft_maker *m, struct nft_udp_counts n)
{
    bool local = takes_any(m, NFT_LOCAL_HOOKS), any = local || takes_any(m, NFT_GATEWAY_HOOKS);
    int r = n.local > 0 || any ? add_output(m, n.local, any) : 0;

    if (r == 0 && local)
        r = add_astray(m);
    if (r == 0 && local)
        r = add_loopback(m, n.local);
    if (r == 0 && local)
        r = add_delivery(m, n.local);
    if (r == 0 && any)
        r = add_nat(m);
    return r == 0 && n.gateway > 0 ? add_gateway(m, n.gateway) : r;
}
