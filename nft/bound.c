/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form: sockets that are bound to an interface (SO_BINDTODEVICE).
 *
 * Theory of operation. A packet that nat redirects is routed again, and with such a socket the
 * route stays at its interface: what the application says would go out there, to the address of a
 * loopback, and nobody answers. Which way it goes is not known until postrouting, where a packet
 * can be dropped and not rejected. So
 *
 *   bound_out    filter, postrouting, priority -160: drops what is for a listener of ours and
 *                leaves by an interface, and notes its port in
 *   bound_ports  a set whose elements stay for 3 seconds: a SYN comes again after one
 *   bound        filter, output, priority -90, behind nat: rejects what comes from such a port
 *                to a listener. The port leaves the set then, for whoever takes it next.
 *
 * So connect() is refused after a second, or, where the upstream has been asked first and the SYN
 * was ours, the connection is reset at its second packet.
 */
#include "nft/bound.h"

#include <linux/netfilter.h>

#include "nft/selection.h"

#define PRIORITY_BOUND (-90)

#define STAY  3000u /* ms */
#define PORTS 65535u

static int append(struct nft_maker *m, unsigned chain, struct nft_rule *rule, int r)
{
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], rule);
    rule->n_exprs = 0;
    return r;
}

static int begin(struct nft_maker *m, const char *name, unsigned hook, int priority, unsigned *ret)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = nft_form_add_chain(m->rs, name, NFT_CHAIN_FILTER, hook, priority, ret);

    nft_rule_match_name(&rule, NFT_FIELD_META_OIFNAME, NFT_OP_EQ, "lo");
    return r < 0 ? r : nft_append_return(m, *ret, &rule);
}

int nft_add_bound(struct nft_maker *m)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned ports, out, again;
    int r =
        nft_form_add_dynamic_set(m->rs, "bound_ports", NFT_TYPE_INET_SERVICE, STAY, PORTS, &ports);

    if (r == 0)
        r = begin(m, "bound_out", NF_INET_POST_ROUTING, NFT_PRIORITY_RECOGNIZED, &out);
    if (r == 0)
        r = begin(m, "bound", NF_INET_LOCAL_OUT, PRIORITY_BOUND, &again);
    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        if (m->shared.listeners[f] == NFT_NO_SET)
            continue;
        nft_match_pair(&rule, f, m->shared.listeners[f]);
        nft_rule_add_to_set(&rule, NFT_FIELD_TCP_SPORT, ports);
        r = append(m, out, &rule, r);
        nft_match_pair(&rule, f, m->shared.listeners[f]);
        nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
        r = append(m, out, &rule, r);
        nft_match_pair(&rule, f, m->shared.listeners[f]);
        nft_rule_match_set(&rule, NFT_FIELD_TCP_SPORT, NFT_OP_EQ, ports);
        nft_rule_delete_from_set(&rule, NFT_FIELD_TCP_SPORT, ports);
        if (r == 0)
            r = nft_rule_refuse(m, &rule, NFT_TCP);
        r = append(m, again, &rule, r);
    }
    return r;
}
