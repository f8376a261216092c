/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form: forwarded TCP connections.
 *
 * Theory of operation. One base chain at the prerouting hook, a little behind mangle: after
 * connection tracking (-200), before the nat of others (-100), and before the routing that its mark
 * decides.
 *
 *   prerouting     what is not ours to look at; then SYNs by capture
 *   established    all other packets
 *   tproxyN_PORT   to one listener, or nowhere
 *   hold_N         held, for a capture N that is honest (nft/hold.c)
 *   forward        filter, forward, priority -160: before mangle, where others may overwrite the
 *                  mark
 *
 * A SYN that a capture selects is given to the listener and marked, and the policy route of
 * nft/routes.h brings it in. `tproxy` without a listener does nothing, and the packet would be
 * forwarded: the next rule drops it.
 *
 * Whoever is behind the gateway can write any source, and what is taken is answered: by the uplink
 * and past the proxy, or to a service of this host. So what is selected is dropped first, unless
 * its source is reached by the interface that it came in by, or by another one of the capture's. An
 * address of this host is reached by none. All but what is asymmetric meets the first question
 * only.
 *
 * What was held is sent again by this host and comes in by lo, with the mark that says so: the
 * chain `loopback` has given it to its listener before this one looks, and left our own mark on it.
 *
 * Other packets belong to a transparent socket of ours, and are marked for the same route before
 * any selection, so that no reload cuts a connection; or to a connection that is forwarded, whether
 * older than the daemon or not selected; or to a connection of ours whose socket is gone, as a
 * worker died. The last two look alike. To the kernel both are tracked connections to a foreign
 * address, and what the client goes on sending (to it, the connection is open until a reset
 * reaches it) would be forwarded to the very destination that it must not reach directly. So the
 * SYN labels its connection as ours, in connection tracking, where the label outlives the socket:
 * NFT_FLOW_LABEL, one bit of the 128, since the mark of connections belongs to the administrator. A
 * packet with the label and without a socket is answered with a reset.
 *
 * The policy route may be gone, as systemd-networkd removes what it does not know, until the keeper
 * looks again; and a chain of others behind ours may set another mark. Such a packet is then
 * forwarded, unless tproxy or early demultiplexing has given it its socket, so `forward` drops what
 * has the mark, or the label.
 *
 * The socket is looked up with the listeners, and somebody else's transparent listener on the
 * wildcard address matches any packet to its port: that is none of ours. (`socket wildcard` stops
 * the rule, as if it did not match, for the small sockets of a handshake or a time-wait, so
 * it cannot be asked the other way round.) SYNs are not looked up: one that meets a time-wait
 * socket opens a new connection, which `tproxy` knows how to do and the mark alone does not.
 *
 * A bridge is an input interface like others, as long as br_netfilter keeps out of it: with
 * net.bridge.bridge-nf-call-iptables (or -ip6tables) on, packets meet this chain while they are
 * still bridged, and lose the socket that tproxy found on the way up. Connections then time out.
 *
 * These rules stay where a reload leaves no gateway capture (nft_chain_keep()), for the sake of
 * the connections that there are.
 */
#include "nft/gateway.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>

#include <linux/netfilter.h>
#include <linux/rtnetlink.h>

#include "nft/hold.h"
#include "nft/selection.h"

#define PRIORITY_GATEWAY (-130)

static bool is_gateway(const struct nft_maker *m, size_t i)
{
    return m->set->policies[i].hook == CAPTURE_GATEWAY &&
           nft_selects_tcp(&m->set->policies[i], &m->scope);
}

size_t nft_gateway_captures(const struct nft_maker *m)
{
    struct nft_way way;
    size_t n = 0;

    for (size_t i = 0; i < m->set->n_policies; i++)
        for (unsigned k = 0; k < NFT_N_WAYS; k++)
            if (is_gateway(m, i) && nft_way(&m->set->policies[i], NFT_TCP, k, &way) &&
                nft_treatment(m->set, &m->set->policies[i], way.family) != NFT_TREAT_RETURN)
                n = i + 1;
    return n;
}

/* What is routed back by another interface than that by which it came. */
static int find_or_add_asymmetric(struct nft_maker *m, size_t capture, unsigned *ret)
{
    const struct capture_policy *p = &m->set->policies[capture];
    struct nft_rule rule = {.n_exprs = 0};
    char name[NFT_ID_SIZE];
    unsigned chain;

    snprintf(name, sizeof(name), "asymmetric_%zu", capture);
    if (nft_form_find_chain(m->rs, name, ret))
        return 0;
    int r = nft_form_add_chain(m->rs, name, NFT_CHAIN_REGULAR, 0, 0, &chain);

    for (size_t i = 0; r == 0 && i < p->n_interfaces; i++) {
        rule.n_exprs = 0;
        nft_rule_match_name(&rule, NFT_FIELD_FIB_SADDR_OIFNAME, NFT_OP_EQ, p->interfaces[i]);
        r = nft_append_return(m, chain, &rule);
    }
    rule.n_exprs = 0;
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    *ret = chain;
    return r;
}

int nft_append_forged(struct nft_maker *m, unsigned chain, size_t capture,
                      const struct nft_rule *selected)
{
    struct nft_rule rule = *selected;
    unsigned asymmetric;
    int r = 0;

    nft_rule_match(&rule, NFT_FIELD_FIB_SADDR_IIF, NFT_OP_EQ, 0);
    if (m->set->policies[capture].n_interfaces > 1) {
        r = find_or_add_asymmetric(m, capture, &asymmetric);
        nft_rule_verdict(&rule, NFT_VERDICT_JUMP, asymmetric);
    } else {
        nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    }
    return r < 0 ? r : nft_chain_append(&m->rs->chains[chain], &rule);
}

/* What becomes of packets that are no SYN. */
static int add_established(struct nft_maker *m, unsigned *ret)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "established", NFT_CHAIN_REGULAR, 0, 0, &chain);

    if (r < 0)
        return r;
    nft_rule_match(&rule, NFT_FIELD_SOCKET_WILDCARD, NFT_OP_EQ, 1);
    r = nft_append_return(m, chain, &rule);

    rule.n_exprs = 0;
    nft_rule_match(&rule, NFT_FIELD_SOCKET_TRANSPARENT, NFT_OP_EQ, 1);
    nft_rule_add(&rule, NFT_EXPR_SET_MARK)->number = m->set->tproxy_mark;
    nft_rule_verdict(&rule, NFT_VERDICT_ACCEPT, 0);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);

    rule.n_exprs = 0;
    nft_rule_match_any(&rule, NFT_FIELD_CT_LABEL, NFT_FLOW_LABEL);
    nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_TCP);
    nft_rule_add(&rule, NFT_EXPR_TCP_RESET);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    nft_chain_keep(&m->rs->chains[chain]);
    if (r == 0 && nft_ends_established(m, CAPTURE_GATEWAY))
        r = nft_append_ended(m, chain, CAPTURE_GATEWAY);
    *ret = chain;
    return r;
}

/* The chain that gives a connection to the listener of this port. */
static int find_or_add_tproxy(struct nft_maker *m, enum nft_family f, uint16_t port, unsigned *ret)
{
    struct nft_rule rule = {.n_exprs = 0};
    char name[NFT_ID_SIZE];
    unsigned chain;

    snprintf(name, sizeof(name), "tproxy%c_%u", f == NFT_V4 ? '4' : '6', port);
    if (nft_form_find_chain(m->rs, name, ret))
        return 0;
    int r = nft_form_add_chain(m->rs, name, NFT_CHAIN_REGULAR, 0, 0, &chain);

    if (r < 0)
        return r;
    nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_TCP);
    nft_rule_add(&rule, NFT_EXPR_SET_LABEL)->number = NFT_FLOW_LABEL;
    struct nft_expr *tproxy = nft_rule_add(&rule, NFT_EXPR_TPROXY);

    tproxy->v6 = f == NFT_V6;
    tproxy->port = port;
    nft_rule_add(&rule, NFT_EXPR_SET_MARK)->number = m->set->tproxy_mark;
    nft_rule_verdict(&rule, NFT_VERDICT_ACCEPT, 0);
    r = nft_chain_append(&m->rs->chains[chain], &rule);
    rule.n_exprs = 0;
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    *ret = chain;
    return r;
}

/* A held SYN is sent again by lo, where a link-local address is none of any interface. DNS to such
 * an address of this host is accepted at once, and its upstream asked then. */
static int append_link_local(struct nft_maker *m, unsigned chain, size_t i, struct nft_way way)
{
    uint16_t port = nft_listener_port(&m->set->policies[i], way.family);
    struct nft_rule rule = {.n_exprs = 0};
    unsigned tproxy;
    int r;

    if (way.family != NFT_V6 || m->shared.link_local == NFT_NO_SET || port == 0)
        return 0;
    nft_rule_match_set(&rule, NFT_FIELD_IP6_DADDR, NFT_OP_EQ, m->shared.link_local);
    r = nft_match_selection(m, i, way, NFT_TCP, &rule);
    if (r == 0)
        r = find_or_add_tproxy(m, way.family, port, &tproxy);
    if (r < 0)
        return r;
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, tproxy);
    return nft_chain_append(&m->rs->chains[chain], &rule);
}

/* `local`: as far as it concerns this host's addresses. */
static int append_capture(struct nft_maker *m, unsigned chain, size_t i, bool local)
{
    const struct capture_policy *p = &m->set->policies[i];
    int r = 0;

    for (unsigned k = 0; r == 0 && k < NFT_N_WAYS; k++) {
        struct nft_rule rule = {.n_exprs = 0};
        struct nft_way way;
        unsigned tproxy;

        if (!nft_way(p, NFT_TCP, k, &way) || (local && !nft_way_is_local(p, way)))
            continue;
        enum nft_family f = way.family;
        enum nft_treatment t = nft_treatment(m->set, p, f);

        r = nft_match_selection(m, i, way, NFT_TCP, &rule);
        if (r == 0 && t != NFT_TREAT_RETURN)
            r = nft_append_forged(m, chain, i, &rule);
        if (r < 0)
            break;
        switch (t) {
        case NFT_TREAT_REDIRECT:
            r = find_or_add_tproxy(m, f, nft_listener_port(p, f), &tproxy);
            if (r == 0)
                nft_rule_verdict(&rule, NFT_VERDICT_GOTO, tproxy);
            break;
        case NFT_TREAT_HOLD:
            if (local)
                r = append_link_local(m, chain, i, way);
            if (r == 0)
                r = nft_rule_hold(m, i, &rule);
            break;
        case NFT_TREAT_REFUSE:
            r = nft_rule_refuse(m, &rule, NFT_TCP);
            break;
        case NFT_TREAT_RETURN:
            nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
            break;
        }
        if (r == 0)
            r = nft_chain_append(&m->rs->chains[chain], &rule);
    }
    return r;
}

static bool takes_local_dns(const struct nft_maker *m)
{
    for (size_t i = 0; i < m->set->n_policies; i++) {
        const struct capture_policy *p = &m->set->policies[i];

        if (is_gateway(m, i) && nft_has_part(p, NFT_TCP, NFT_V4, NFT_PART_DNS) && p->dns_local)
            return true;
    }
    return false;
}

/* What is for this host itself is left alone, but for DNS where a capture asks for it. */
static int append_local(struct nft_maker *m, unsigned chain, size_t n)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned local;

    if (!takes_local_dns(m))
        return nft_append_addr_type_return(m, chain, RTN_LOCAL);
    int r = nft_form_add_chain(m->rs, "local_dns", NFT_CHAIN_REGULAR, 0, 0, &local);

    nft_rule_match(&rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_EQ, RTN_LOCAL);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, local);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    rule.n_exprs = 0;
    nft_rule_match(&rule, NFT_FIELD_TCP_DPORT, NFT_OP_NEQ, 53);
    if (r == 0)
        r = nft_append_return(m, local, &rule);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (is_gateway(m, i))
            r = append_capture(m, local, i, true);
    return r;
}

/* What has the mark is for this host, and so is what is of a connection with the label. */
static int add_forward(struct nft_maker *m)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "forward", NFT_CHAIN_FILTER, NF_INET_FORWARD,
                               NFT_PRIORITY_RECOGNIZED, &chain);

    nft_match_mark(&rule, m->set->tproxy_mark, UINT32_MAX);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    rule.n_exprs = 0;
    nft_match_not_syn(&rule);
    nft_rule_match_any(&rule, NFT_FIELD_CT_LABEL, NFT_FLOW_LABEL);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    return r;
}

int nft_gateway_add(struct nft_maker *m, size_t n)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain, established = 0;
    int r = nft_form_add_chain(m->rs, "prerouting", NFT_CHAIN_FILTER, NF_INET_PRE_ROUTING,
                               PRIORITY_GATEWAY, &chain);

    if (r == 0)
        r = nft_append_own_mark_return(m, chain);
    nft_rule_match_name(&rule, NFT_FIELD_META_IIFNAME, NFT_OP_EQ, "lo");
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    if (r == 0)
        r = add_established(m, &established);
    if (r == 0)
        r = add_forward(m);
    if (r < 0)
        return r;
    rule.n_exprs = 0;
    nft_match_not_syn(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, established);
    r = nft_chain_append(&m->rs->chains[chain], &rule);
    nft_chain_keep(&m->rs->chains[chain]);
    /* A look at the routes, so only for SYNs: it would cost every packet of every flow. */
    if (r == 0)
        r = append_local(m, chain, n);
    if (r == 0)
        r = nft_append_addr_type_return(m, chain, RTN_BROADCAST);
    if (r == 0)
        r = nft_append_addr_type_return(m, chain, RTN_MULTICAST);
    if (r == 0)
        r = nft_append_pairs_return(m, chain, m->shared.upstreams);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (is_gateway(m, i))
            r = append_capture(m, chain, i, false);
    return r == 0 && nft_has_seats(m->set) ? nft_add_loopback(m) : r;
}
