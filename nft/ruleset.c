/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form: this host's own TCP. nft/gateway.c has that which it forwards, nft/udp.c all UDP.
 *
 * Theory of operation. Two base chains at the output hook see each packet of this host:
 *
 *   select  priority -120        rejects and holds (nft/hold.h), and rejects what nat would not
 *                                look at (nft_append_unseen())
 *   output  nat, priority -110   redirects to 127.0.0.1 or ::1, before the -100 of others
 *
 * Both walk the captures in order, and the first rule that matches ends the walk: nat can neither
 * reject nor hold, and others cannot redirect, so each chain does what it can and returns for the
 * rest.
 *
 * What the first rejects or holds does not reach the second, but for a few cases: while rules are
 * replaced, a packet may pass the first with the old rules and the second with the new ones; and
 * somebody may have taken a SYN that was held, and is sent again, for one of his own (nft/hold.c).
 * So that it does not get away, the second drops what the first would reject, and the
 * retransmission is rejected properly; and it redirects what the first would hold, to a listener
 * that accepts at once.
 *
 * The second is there even if no capture redirects, and comes before the first in the table: the
 * kernel translates the packets of a connection that was redirected earlier only as long as
 * somebody has a nat chain at all, and a chain that stays keeps its place in nft's listing when
 * others come and go. A nat chain without a rule that needs connection tracking is not enough,
 * as tracking stops a moment after the last one is gone; that is what the first rule is for.
 *
 * What has been redirected and does not go to lo all the same is left to nft/bound.c.
 *
 * With seats, SYNs that were held come by a second time, with a verdict. The rules about them come
 * first, and are there with the chains even where only the gateway has captures. So is the chain of
 * nft/hasty.c, for what may befall such connections.
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
 *
 * Where a capture resets established connections, the first chain looks at the packets that are no
 * SYN, too: nft/conntrack.h tells which connections they belong to.
 */
#include "nft/ruleset.h"

#include <errno.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>

#include "nft/bound.h"
#include "nft/gateway.h"
#include "nft/hold.h"
#include "nft/selection.h"
#include "nft/udp.h"

#define PRIORITY_SELECT (-120)
#define PRIORITY_OUTPUT (-110)

#define REDIRECTED "redirected"

static int append_not_syn_return(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    nft_match_not_syn(&rule);
    return nft_append_return(m, chain, &rule);
}

/* What no capture takes, but for packets that are no SYN; see the top of the file. */
static int append_exemptions(struct nft_maker *m, unsigned chain)
{
    int r = nft_append_own_mark_return(m, chain);

    if (r == 0)
        r = nft_append_pairs_return(m, chain, m->shared.upstreams);
    if (r == 0)
        r = nft_append_pairs_return(m, chain, m->shared.listeners);
    return r;
}

/* What the chain `output` makes of a selected connection. */
static int finish_nat(const struct capture_policy *p, enum nft_family f, enum nft_treatment t,
                      struct nft_rule *rule)
{
    uint16_t port = nft_listener_port(p, f);

    if (t == NFT_TREAT_RETURN)
        nft_rule_verdict(rule, NFT_VERDICT_RETURN, 0);
    else if (t == NFT_TREAT_REFUSE || port == 0)
        nft_rule_verdict(rule, NFT_VERDICT_DROP, 0);
    else
        nft_rule_add(rule, NFT_EXPR_REDIRECT)->port = port;
    return 0;
}

/* To the chain for what nat can redirect, unless it does not look at it. */
static int leave_to_nat(struct nft_maker *m, struct nft_rule *rule)
{
    unsigned chain;
    int r = 0;

    if (!nft_form_find_chain(m->rs, REDIRECTED, &chain)) {
        r = nft_form_add_chain(m->rs, REDIRECTED, NFT_CHAIN_REGULAR, 0, 0, &chain);
        if (r == 0)
            r = nft_append_unseen(m, chain);
    }
    nft_rule_verdict(rule, NFT_VERDICT_GOTO, chain);
    return r;
}

/* What the chain `select` makes of it. */
static int finish_select(struct nft_maker *m, size_t i, enum nft_treatment t, struct nft_rule *rule)
{
    if (t == NFT_TREAT_HOLD)
        return nft_rule_hold(m, i, rule);
    if (t == NFT_TREAT_REFUSE)
        return nft_rule_refuse(m, rule, NFT_TCP);
    if (t == NFT_TREAT_REDIRECT)
        return leave_to_nat(m, rule);
    nft_rule_verdict(rule, NFT_VERDICT_RETURN, 0);
    return 0;
}

/* The capture's rules in one of the two chains; `nat` says which. */
static int append_capture(struct nft_maker *m, unsigned chain, bool nat, size_t i)
{
    const struct capture_policy *p = &m->set->policies[i];
    int r = 0;

    for (unsigned k = 0; r == 0 && k < NFT_N_WAYS; k++) {
        struct nft_rule rule = {.n_exprs = 0};
        struct nft_way way;

        if (!nft_way(p, NFT_TCP, k, &way))
            continue;
        enum nft_treatment t = nft_treatment(m->set, p, way.family);

        r = nft_match_selection(m, i, way, NFT_TCP, &rule);
        if (r == 0)
            r = nat ? finish_nat(p, way.family, t, &rule) : finish_select(m, i, t, &rule);
        if (r == 0)
            r = nft_chain_append(&m->rs->chains[chain], &rule);
    }
    return r;
}

static bool is_output(const struct nft_maker *m, size_t i)
{
    return m->set->policies[i].hook == CAPTURE_OUTPUT &&
           nft_selects_tcp(&m->set->policies[i], &m->scope);
}

/* How many captures a chain must hold so that each with treatment `t` is among them. */
static size_t captures_up_to(const struct nft_maker *m, enum nft_treatment t)
{
    const struct capture_set *set = m->set;
    struct nft_way way;
    size_t n = 0;

    for (size_t i = 0; i < set->n_policies; i++)
        for (unsigned k = 0; k < NFT_N_WAYS; k++)
            if (is_output(m, i) && nft_way(&set->policies[i], NFT_TCP, k, &way) &&
                nft_treatment(set, &set->policies[i], way.family) == t)
                n = i + 1;
    return n;
}

/* The first `n` captures; nothing where there are none. */
static int append_captures(struct nft_maker *m, unsigned chain, bool nat, size_t n)
{
    int r = n > 0 ? append_exemptions(m, chain) : 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        if (is_output(m, i))
            r = append_capture(m, chain, nat, i);
    return r;
}

/*
 * Packets that are no SYN go to a chain of their own, for the connections that are to end. A SYN
 * with the addresses and ports of such a one is not new to nat, and would go out as it is: it waits
 * until the old entry is gone.
 */
static int append_midstream(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned midstream;
    int r = nft_form_add_chain(m->rs, "midstream", NFT_CHAIN_REGULAR, 0, 0, &midstream);

    if (r == 0)
        r = nft_append_ended(m, midstream, CAPTURE_OUTPUT);
    nft_match_not_syn(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, midstream);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    rule.n_exprs = 0;
    nft_rule_match_masked(&rule, NFT_FIELD_CT_STATUS, NFT_OP_EQ, NFT_CT_ENDED, NFT_CT_ENDED);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return r < 0 ? r : nft_chain_append(&m->rs->chains[chain], &rule);
}

/*
 * What the connections of earlier rules need of the chain: see the top. The rule itself does
 * nothing, as packets that are translated already do not come here.
 */
static int append_translation(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    nft_rule_match_any(&rule, NFT_FIELD_CT_STATUS, IPS_DST_NAT);
    return nft_append_return(m, chain, &rule);
}

/* With the first `n` captures. */
static int add_output(struct nft_maker *m, size_t n)
{
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "output", NFT_CHAIN_NAT, NF_INET_LOCAL_OUT, PRIORITY_OUTPUT,
                               &chain);

    if (r == 0)
        r = append_translation(m, chain);
    if (r == 0 && nft_has_seats(m->set))
        r = nft_append_injected_nat(m, chain);
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    if (r == 0 && n > 0)
        r = append_not_syn_return(m, chain);
    return r < 0 ? r : append_captures(m, chain, true, n);
}

/* Likewise; `ends`: connections that are to end, too. */
static int add_select(struct nft_maker *m, size_t n, bool ends)
{
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "select", NFT_CHAIN_ROUTE, NF_INET_LOCAL_OUT, PRIORITY_SELECT,
                               &chain);

    if (r == 0 && ends)
        r = append_midstream(m, chain);
    if (r == 0 && (n > 0 || nft_has_seats(m->set)))
        r = append_not_syn_return(m, chain);
    if (r == 0 && nft_has_seats(m->set))
        r = nft_append_injected_select(m, chain);
    return r < 0 ? r : append_captures(m, chain, false, n);
}

static size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int make(struct nft_maker *m)
{
    size_t n = max(captures_up_to(m, NFT_TREAT_REFUSE), captures_up_to(m, NFT_TREAT_HOLD));
    size_t n_gateway = nft_gateway_captures(m);
    struct nft_udp_counts udp = nft_udp_captures(m);
    bool redirects, ends, seats = nft_has_seats(m->set);
    int r = 0;

    redirects = captures_up_to(m, NFT_TREAT_REDIRECT) + captures_up_to(m, NFT_TREAT_HOLD) > 0;
    n = max(n, captures_up_to(m, NFT_TREAT_REDIRECT));
    if (n == 0)
        m->scope.hooks &= ~(1u << CAPTURE_OUTPUT);
    if (n_gateway == 0)
        m->scope.hooks &= ~(1u << CAPTURE_GATEWAY);
    if (udp.local == 0)
        m->scope.udp_hooks &= ~NFT_LOCAL_HOOKS;
    if (udp.gateway == 0)
        m->scope.udp_hooks &= ~NFT_GATEWAY_HOOKS;
    if (m->scope.hooks == 0 && m->scope.udp_hooks == 0)
        return 0;
    ends = nft_ends_established(m, CAPTURE_OUTPUT);
    r = nft_add_shared_sets(m->rs, m->set, &m->scope, &m->shared);
    for (size_t i = 0; r == 0 && i < m->set->n_policies; i++) {
        const struct capture_policy *p = &m->set->policies[i];

        if (nft_selects(p, &m->scope))
            r = nft_add_capture_sets(m->rs, p, &m->scope, &m->sets[i]);
    }
    if (r == 0 && (n > 0 || seats))
        r = add_output(m, n);
    if (r == 0 && (n > 0 || ends))
        r = nft_need_refusing(m, NFT_TCP);
    if (r == 0 && (n > 0 || ends || seats))
        r = add_select(m, n, ends);
    if (r == 0 && redirects)
        r = nft_add_bound(m);
    if (r == 0 && seats)
        r = nft_add_injected(m, n_gateway > 0);
    if (r == 0 && n_gateway > 0)
        r = nft_gateway_add(m, n_gateway);
    if (r == 0 && m->scope.udp_hooks != 0)
        r = nft_udp_add(m, udp);
    return r;
}

int nft_ruleset_build(const struct capture_set *set, struct nft_ruleset **ret)
{
    struct nft_scope scope = {.hooks = 1u << CAPTURE_OUTPUT | 1u << CAPTURE_GATEWAY,
                              .udp_hooks = NFT_LOCAL_HOOKS | NFT_GATEWAY_HOOKS};
    struct nft_maker m;
    int r = nft_maker_begin(&m, set, scope);

    if (r == 0)
        r = make(&m);
    return nft_maker_end(&m, r, ret);
}
