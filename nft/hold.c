/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form: SYNs that are held, and sent again.
 *
 * Theory of operation. Where an honest capture selects a SYN, the rule goes to
 *
 *   hold_N      of capture N: logs it to the seat that the hash of its source port names, so that a
 *               retransmission meets the same worker, and drops it
 *
 * The worker sends it again from a raw socket, when it knows the verdict, with a mark that says it.
 * Such a SYN passes the output hook of this host, and is new to connection tracking, as the held
 * one was dropped before it was confirmed.
 *
 *   injected    filter, output, priority -160: before mangle (-150), where others may overwrite the
 *               mark. Every packet of the host meets its first rule. What is to be rejected is
 *               rejected here, by the kernel, which attaches the answer to the connection: made by
 *               hand, a firewall with `ct state invalid drop` would drop it. The mark is cleared
 *               first: with net.ipv4.fwmark_reflect the answer would inherit it, and the policy
 *               route. The rest gets a label, and its port is noted for nft/hasty.c.
 *   select      (nft/ruleset.c) does not hold what has the mark. A mark that was overwritten is
 *               mended from that of the socket, if that has it; the chain is of type route, as the
 *               packet of a gateway needs the route of its mark again.
 *   output      (nft/ruleset.c) nat: goes to `granted`, which gives it to the listener of the seat,
 *               or, if the worker wants no part of it, to the early listener of the capture. A mark
 *               for which there is no rule is dropped, as otherwise the SYN went out to its
 *               destination; so is what is the gateway's, unless it goes out by lo.
 *   source      nat, postrouting, before the 100 of others: keeps the source address, by which the
 *               worker knows the connection when it comes in. All these packets go out by lo, and
 *               `masquerade` without an interface, or with all but one (Docker's), would take them.
 *   loopback    filter, prerouting, priority -160: a gateway's, with its client's address, comes in
 *               by lo, as the policy route of nft/routes.h says. Recognized before mangle, as marks
 *               are often restored there (CONNMARK --restore-mark), it gets a priority (tc's, which
 *               hardly anybody sets at prerouting) that says what the mark said.
 *   delivery    filter, prerouting, priority 200: tproxy gives what has such a priority to the
 *               listener of the seat. Behind the chains of others, because tproxy attaches the
 *               listener to the packet: newer kernels (6.18 does) then look up the route back even
 *               of what comes in by lo, and a reverse path check of theirs (`fib saddr . mark .
 *               iif oif missing drop`, which is firewalld's IPv6_rpfilter) would drop it. The
 *               packet keeps the route that it had on its way out, needs no mark any more, and
 *               does not meet the kernel's rp_filter.
 *
 * nat looks at a connection once. A SYN that connection tracking has let out already, before these
 * rules were there, can no longer be redirected: at output it is not held, and goes on as such
 * connections do; and `select` drops it if it is sent again all the same. That is a connection
 * which nobody has answered yet. One that was answered is refused, as is one that connection
 * tracking knows nothing of: nft_append_unseen(). Should that begin while a SYN is held, `select`
 * drops it.
 *
 * If the mark was overwritten and could not be mended, a SYN with an address of this host goes
 * through the ordinary rules of nat, and is connected early. One with a foreign address, of a
 * gateway's client, is dropped: it must not leave this host, nor meet a server of this host that
 * listens on the wildcard address. So is one that came to `loopback` as it should, and to
 * `delivery` without the priority.
 *
 * `injected`, `granted`, `source`, `loopback`, `delivery` and what leads to them stay where a
 * reload leaves no capture of the hook (nft_chain_keep()), for the SYNs that were held before and
 * are answered after it. So their rules use no sets but the one of nft/hasty.c, and only each
 * other. Its chain stays, too.
 */
#include "nft/hold.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/rtnetlink.h>

#include "nft/hasty.h"
#include "nft/log.h"
#include "nft/selection.h"

#define PRIORITY_INJECTED (-160)
#define PRIORITY_SOURCE   90

#define SEED 0x5553u /* any will do, as long as the text is always the same */

/* The kinds by TPROXY are those whose number is odd. */
#define KIND_TPROXY_MASK (CAPTURE_INJECTED_MASK | 0x100u)
_Static_assert((INJECTED_ACCEPT_TPROXY & 1) && (INJECTED_EARLY_TPROXY & 1) &&
                   !(INJECTED_ACCEPT_NAT & 1) && !(INJECTED_EARLY_NAT & 1) &&
                   !(INJECTED_REJECT & 1),
               "KIND_TPROXY_MASK");
_Static_assert(NFT_PREFIX_SIZE > CAPTURE_NAME_MAX, "a capture's name is a prefix");

static const uint32_t nfproto[] = {[NFT_V4] = NFPROTO_IPV4, [NFT_V6] = NFPROTO_IPV6};

bool nft_has_seats(const struct capture_set *set)
{
    for (size_t i = 0; i < set->n_seats; i++)
        if (set->seats[i].port_v4 != 0 || set->seats[i].port_v6 != 0)
            return true;
    return false;
}

static unsigned n_serving(const struct capture_set *set)
{
    unsigned n = 0;

    for (size_t i = 0; i < set->n_seats; i++)
        n += set->seats[i].serving;
    return n;
}

bool nft_seats_serve(const struct capture_set *set, enum nft_family f)
{
    for (size_t i = 0; i < set->n_seats; i++)
        if (set->seats[i].serving && nft_seat_port(&set->seats[i], f) == 0)
            return false;
    return n_serving(set) > 0;
}

/* Appends the rule to the chain and empties it, unless an earlier one failed with `r`. */
static int append(struct nft_maker *m, unsigned chain, struct nft_rule *rule, int r)
{
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], rule);
    rule->n_exprs = 0;
    return r;
}

/* ---- held ---- */

/* Of a connection that others have begun before: see the top. */
static void match_older(struct nft_rule *rule)
{
    nft_rule_match_any(rule, NFT_FIELD_CT_STATUS, IPS_CONFIRMED);
    nft_rule_match_masked(rule, NFT_FIELD_CT_STATUS, NFT_OP_EQ, 0, IPS_DST_NAT);
}

static int add_hold(struct nft_maker *m, size_t capture, const char *name, unsigned *ret)
{
    const struct capture_set *set = m->set;
    unsigned n = n_serving(set), k = 0, chain;
    int r = nft_form_add_chain(m->rs, name, NFT_CHAIN_REGULAR, 0, 0, &chain);
    struct nft_rule rule = {.n_exprs = 0};

    if (set->policies[capture].hook == CAPTURE_OUTPUT) {
        if (r == 0)
            r = nft_append_unseen(m, chain);
        match_older(&rule);
        nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
        r = append(m, chain, &rule, r);
    }
    for (size_t i = 0; r == 0 && i < set->n_seats; i++) {
        if (!set->seats[i].serving)
            continue;
        if (n > 1) {
            struct nft_expr *hash = nft_rule_add(&rule, NFT_EXPR_SPORT_HASH);

            hash->modulus = n;
            hash->seed = SEED;
            hash->remainder = k++;
        }
        struct nft_expr *log = nft_rule_add(&rule, NFT_EXPR_LOG);

        log->group = (uint16_t)(CAPTURE_LOG_GROUP + set->seats[i].number);
        log->snaplen = NFT_LOG_SNAPLEN;
        snprintf(log->prefix, sizeof(log->prefix), "%s", set->policies[capture].name);
        r = append(m, chain, &rule, r);
    }
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    *ret = chain;
    return r;
}

int nft_rule_hold(struct nft_maker *m, size_t capture, struct nft_rule *rule)
{
    char name[NFT_ID_SIZE];
    unsigned chain;
    int r = 0;

    snprintf(name, sizeof(name), "hold_%zu", capture);
    if (!nft_form_find_chain(m->rs, name, &chain))
        r = add_hold(m, capture, name, &chain);
    if (r == 0)
        nft_rule_verdict(rule, NFT_VERDICT_GOTO, chain);
    return r;
}

/* ---- sent again ---- */

static void match_injected(struct nft_rule *rule, enum injected_kind kind, unsigned number)
{
    nft_match_mark(rule, capture_injected_mark(kind, number), UINT32_MAX);
}

/* By the mark, or the priority. */
static void match_tproxy_kind(struct nft_rule *rule, enum nft_field field, enum nft_op op)
{
    nft_rule_match_masked(rule, field, op, capture_injected_mark(INJECTED_ACCEPT_TPROXY, 0),
                          KIND_TPROXY_MASK);
}

/* The kinds by nat, among what has the label. */
static void match_nat_kind(struct nft_rule *rule)
{
    nft_match_mark(rule, capture_injected_mark(INJECTED_ACCEPT_NAT, 0), KIND_TPROXY_MASK);
}

static void match_tcp(struct nft_rule *rule)
{
    nft_rule_match(rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_TCP);
}

static void match_label(struct nft_rule *rule)
{
    nft_rule_match_any(rule, NFT_FIELD_CT_LABEL, NFT_INJECTED_LABEL);
}

static void match_foreign_source(struct nft_rule *rule)
{
    nft_rule_match(rule, NFT_FIELD_FIB_SADDR_TYPE, NFT_OP_NEQ, RTN_LOCAL);
}

static int append_rejects(struct nft_maker *m, unsigned chain)
{
    static const struct {
        enum injected_reject reject;
        bool v4_only, reset;
        uint32_t icmpx;
    } rejects[] = {
        {REJECT_RESET, false, true, 0},
        {REJECT_HOST, false, false, NFT_REJECT_ICMPX_HOST_UNREACH},
        {REJECT_NET, false, false, NFT_REJECT_ICMPX_NO_ROUTE},
        {REJECT_PROHIBITED, true, true, 0},
        {REJECT_PROHIBITED, false, false, NFT_REJECT_ICMPX_ADMIN_PROHIBITED},
    };
    struct nft_rule rule = {.n_exprs = 0};
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(rejects) / sizeof(rejects[0]); i++) {
        if (rejects[i].v4_only)
            nft_rule_match(&rule, NFT_FIELD_META_NFPROTO, NFT_OP_EQ, NFPROTO_IPV4);
        match_injected(&rule, INJECTED_REJECT, rejects[i].reject);
        if (rejects[i].reset)
            match_tcp(&rule);
        nft_rule_add(&rule, NFT_EXPR_SET_MARK)->number = 0;
        nft_rule_add(&rule, rejects[i].reset ? NFT_EXPR_TCP_RESET : NFT_EXPR_REJECT)->number =
            rejects[i].icmpx;
        r = append(m, chain, &rule, r);
    }
    nft_match_mark(&rule, capture_injected_mark(INJECTED_REJECT, 0), CAPTURE_KIND_MASK);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return append(m, chain, &rule, r);
}

static int add_first(struct nft_maker *m, unsigned ports)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "injected", NFT_CHAIN_FILTER, NF_INET_LOCAL_OUT,
                               PRIORITY_INJECTED, &chain);

    nft_rule_match_masked(&rule, NFT_FIELD_META_MARK, NFT_OP_NEQ, CAPTURE_INJECTED,
                          CAPTURE_INJECTED_MASK);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    if (r == 0)
        r = append_rejects(m, chain);
    nft_rule_add(&rule, NFT_EXPR_SET_LABEL)->number = NFT_INJECTED_LABEL;
    r = append(m, chain, &rule, r);
    nft_rule_add_to_set(&rule, NFT_FIELD_TCP_SPORT, ports);
    r = append(m, chain, &rule, r);
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    return r;
}

int nft_add_injected(struct nft_maker *m, bool gateway)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain, ports;
    int r = nft_add_hasty_ports(m, &ports);

    if (r == 0)
        r = add_first(m, ports);
    if (r == 0)
        r = nft_add_hasty(m, ports, gateway);

    if (r == 0)
        r = nft_form_add_chain(m->rs, "source", NFT_CHAIN_NAT, NF_INET_POST_ROUTING,
                               PRIORITY_SOURCE, &chain);
    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        match_label(&rule);
        nft_rule_add(&rule, NFT_EXPR_KEEP_SOURCE)->v6 = f == NFT_V6;
        r = append(m, chain, &rule, r);
    }
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    return r;
}

/* A gateway's, on its way to tproxy, returns. */
static int append_tproxy_by_lo(struct nft_maker *m, unsigned chain, int r)
{
    struct nft_rule rule = {.n_exprs = 0};

    match_tproxy_kind(&rule, NFT_FIELD_META_MARK, NFT_OP_EQ);
    nft_rule_match_name(&rule, NFT_FIELD_META_OIFNAME, NFT_OP_EQ, "lo");
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    return append(m, chain, &rule, r);
}

int nft_append_injected_select(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    match_label(&rule);
    nft_rule_match_masked(&rule, NFT_FIELD_SOCKET_MARK, NFT_OP_EQ, CAPTURE_INJECTED,
                          CAPTURE_INJECTED_MASK);
    nft_rule_add(&rule, NFT_EXPR_SOCKET_MARK);
    int r = append(m, chain, &rule, 0);

    match_label(&rule);
    match_nat_kind(&rule);
    match_older(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    /* nat would not see it, which drops it otherwise: nft_append_injected_nat(). */
    r = append_tproxy_by_lo(m, chain, r);
    nft_match_mark(&rule, CAPTURE_INJECTED, CAPTURE_INJECTED_MASK);
    nft_match_no_entry(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    /* By the mark: the label stays with the connection, and who opens it anew from the same port
     * may find the old entry, if our side had reset it. */
    nft_match_mark(&rule, CAPTURE_INJECTED, CAPTURE_INJECTED_MASK);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    return append(m, chain, &rule, r);
}

/* ---- to the listeners ---- */

/* Where a mark leads to: a listener per family; 0: none. */
struct delivery {
    uint32_t mark;
    uint16_t port[NFT_N_FAMILIES];
};

typedef int (*delivery_fn)(struct nft_maker *m, unsigned chain, const struct delivery *d);

/* By nat. */
static int append_redirect(struct nft_maker *m, unsigned chain, const struct delivery *d)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = 0;

    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        if (d->port[f] == 0)
            continue;
        nft_rule_match(&rule, NFT_FIELD_META_NFPROTO, NFT_OP_EQ, nfproto[f]);
        nft_match_mark(&rule, d->mark, UINT32_MAX);
        match_tcp(&rule);
        nft_rule_add(&rule, NFT_EXPR_REDIRECT)->port = d->port[f];
        r = append(m, chain, &rule, r);
    }
    return r;
}

/* The mark becomes the priority. */
static int append_recognized(struct nft_maker *m, unsigned chain, const struct delivery *d)
{
    struct nft_rule rule = {.n_exprs = 0};

    nft_match_mark(&rule, d->mark, UINT32_MAX);
    nft_rule_add(&rule, NFT_EXPR_SET_PRIORITY)->number = d->mark;
    nft_rule_verdict(&rule, NFT_VERDICT_ACCEPT, 0);
    return append(m, chain, &rule, 0);
}

/* By tproxy, where the priority is that mark. */
static int append_tproxy(struct nft_maker *m, unsigned chain, const struct delivery *d)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = 0;

    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        if (d->port[f] == 0)
            continue;
        nft_rule_match(&rule, NFT_FIELD_META_NFPROTO, NFT_OP_EQ, nfproto[f]);
        nft_rule_match(&rule, NFT_FIELD_META_PRIORITY, NFT_OP_EQ, d->mark);
        match_tcp(&rule);
        nft_rule_add(&rule, NFT_EXPR_SET_LABEL)->number = NFT_FLOW_LABEL;
        struct nft_expr *e = nft_rule_add(&rule, NFT_EXPR_TPROXY);

        e->v6 = f == NFT_V6;
        e->port = d->port[f];
        nft_rule_add(&rule, NFT_EXPR_SET_MARK)->number = m->set->tproxy_mark;
        nft_rule_verdict(&rule, NFT_VERDICT_ACCEPT, 0);
        r = append(m, chain, &rule, r);
    }
    return r;
}

/* For each seat, also one that serves no more, and for each capture of the hook that has a listener
 * of its own. */
static int append_deliveries(struct nft_maker *m, unsigned chain, enum capture_hook hook,
                             delivery_fn fn)
{
    const struct capture_set *set = m->set;
    bool tproxy = hook == CAPTURE_GATEWAY;
    int r = 0;

    for (size_t i = 0; r == 0 && i < set->n_seats; i++) {
        const struct capture_seat *s = &set->seats[i];
        struct delivery d = {
            capture_injected_mark(tproxy ? INJECTED_ACCEPT_TPROXY : INJECTED_ACCEPT_NAT, s->number),
            {s->port_v4, s->port_v6}};

        if (s->port_v4 != 0 || s->port_v6 != 0)
            r = fn(m, chain, &d);
    }
    for (size_t i = 0; r == 0 && i < set->n_policies; i++) {
        const struct capture_policy *p = &set->policies[i];
        struct delivery d = {
            capture_injected_mark(tproxy ? INJECTED_EARLY_TPROXY : INJECTED_EARLY_NAT, p->early),
            {p->port_v4, p->port_v6}};

        if (p->hook == hook && p->action == CAPTURE_PROXY && p->early <= CAPTURE_EARLY_MAX &&
            (p->port_v4 != 0 || p->port_v6 != 0))
            r = fn(m, chain, &d);
    }
    return r;
}

int nft_append_injected_nat(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned granted;
    int r = nft_form_add_chain(m->rs, "granted", NFT_CHAIN_REGULAR, 0, 0, &granted);

    if (r == 0)
        r = append_deliveries(m, granted, CAPTURE_OUTPUT, append_redirect);
    r = append_tproxy_by_lo(m, granted, r);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, granted, &rule, r);
    if (r < 0)
        return r;
    nft_chain_keep(&m->rs->chains[granted]);
    nft_match_mark(&rule, CAPTURE_INJECTED, CAPTURE_INJECTED_MASK);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, granted);
    r = append(m, chain, &rule, r);
    match_label(&rule);
    match_foreign_source(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return append(m, chain, &rule, r);
}

/* A chain at prerouting that looks at the SYNs from lo only. */
static int add_inbound(struct nft_maker *m, const char *name, int priority, unsigned *ret)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = nft_add_from_lo(m, name, priority, ret);

    nft_match_not_syn(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    return append(m, *ret, &rule, r);
}

/* A gateway's that is not known as such by `field` any more is dropped; what others have sent
 * returns. */
static int append_strangers(struct nft_maker *m, unsigned chain, enum nft_field field)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = 0;

    match_tproxy_kind(&rule, field, NFT_OP_NEQ);
    match_label(&rule);
    match_foreign_source(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    match_tproxy_kind(&rule, field, NFT_OP_NEQ);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    return append(m, chain, &rule, r);
}

/* Both chains: what `field` says is one of ours goes to the rules of `fn`, or nowhere. */
static int add_from_lo(struct nft_maker *m, enum nft_field field, const char *name, int priority,
                       delivery_fn fn)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = add_inbound(m, name, priority, &chain);

    if (r == 0)
        r = append_strangers(m, chain, field);
    if (r == 0)
        r = append_deliveries(m, chain, CAPTURE_GATEWAY, fn);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    return r;
}

int nft_add_loopback(struct nft_maker *m)
{
    int r =
        add_from_lo(m, NFT_FIELD_META_MARK, "loopback", NFT_PRIORITY_RECOGNIZED, append_recognized);

    if (r == 0)
        r = add_from_lo(m, NFT_FIELD_META_PRIORITY, "delivery", NFT_PRIORITY_DELIVERY,
                        append_tproxy);
    return r;
}

int nft_append_injected_guard(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    /* What nat has redirected still has the interface that it would have left by. */
    nft_match_mark(&rule, CAPTURE_INJECTED, CAPTURE_INJECTED_MASK);
    nft_rule_match(&rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_NEQ, RTN_LOCAL);
    nft_rule_match_name(&rule, NFT_FIELD_META_OIFNAME, NFT_OP_NEQ, "lo");
    int r = nft_rule_refuse(m, &rule, NFT_TCP);

    return append(m, chain, &rule, r);
}
