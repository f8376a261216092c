/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy to form: resets that come too early.
 *
 * Theory of operation. When the last ACK of a handshake arrives, the kernel takes the small socket
 * of the handshake out of its table and then puts the connection's own in (inet_ehash_insert()).
 * Another CPU that looks, without a lock, between the two finds nothing but the listener; and a
 * listener answers data with a reset. It happens when a SYN is sent by somebody else than its
 * owner: the whole handshake runs on the worker's CPU, while the application, woken by the SYN-ACK,
 * sends its first bytes on another one. One of some ten thousand connections of a busy host with
 * several CPUs met it: it was reset at its first byte, and the worker had a connection of which the
 * other side knew nothing.
 *
 * Nothing would be wrong without the reset, as the application's kernel sends the bytes again after
 * 200 ms, when the connection has long been there. So such resets are dropped for a moment from the
 * time at which a SYN was sent again:
 *
 *   injected       (nft/hold.c) notes the client's port of each such SYN in
 *   hasty_ports    a set whose elements stay for 100 ms
 *   hasty          filter, output, priority -300: before connection tracking, which would close the
 *                  connection. Drops bare resets to these ports. A RST without ACK is what the
 *                  kernel answers a packet with that belongs nowhere; whoever ends a connection
 *                  sends RST and ACK.
 *
 * What is gone indeed, such as a handshake that had expired, is reset 200 ms later than it would
 * have been. But who has received a reset that is not exactly in sequence, as its window was nearly
 * full, asks with a bare ACK, once (RFC 5961, 3.2), and the bare reset that answers is the only one
 * that it believes. So a RST with ACK, by which the worker ends a connection, or its death does,
 * ends the moment, too: the port leaves the set. With a full set, or right after a reload, nothing
 * is dropped.
 *
 * Ours are those from a seat's listener. At output it has its own address here, as the address of
 * the destination is put there later, by nat; it goes out by lo. A gateway's has the destination's
 * address, a foreign one, and no socket to tell it by, as nobody listens there. With such a source
 * this host sends
 *   - what TCP makes of a packet that the policy route has brought in: not yet tracked. Ours, or
 *     that of another proxy by TPROXY, to which the same may happen;
 *   - what `reject` makes: it belongs to a connection by then. Ours, when it was the search of
 *     nft/gateway.c for the socket that met the moment, has the label.
 */
#include "nft/hasty.h"

#include <netinet/in.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/rtnetlink.h>

#include "nft/selection.h"

#define PRIORITY_HASTY (-300)

/* In ms: less than what TCP waits before it sends again. */
#define MOMENT 100u
#define PORTS  65535u /* all that there are */

static int append(struct nft_maker *m, unsigned chain, struct nft_rule *rule, int r)
{
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], rule);
    rule->n_exprs = 0;
    return r;
}

/* Resets from one port of our loopback. */
static int append_port(struct nft_maker *m, unsigned chain, uint16_t port)
{
    struct nft_rule rule = {.n_exprs = 0};

    if (port == 0)
        return 0;
    nft_rule_match_name(&rule, NFT_FIELD_META_OIFNAME, NFT_OP_EQ, "lo");
    nft_rule_match(&rule, NFT_FIELD_TCP_SPORT, NFT_OP_EQ, port);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return append(m, chain, &rule, 0);
}

static int append_gateway(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r;

    nft_rule_match(&rule, NFT_FIELD_FIB_SADDR_TYPE, NFT_OP_EQ, RTN_LOCAL);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, 0);
    nft_rule_match_any(&rule, NFT_FIELD_CT_STATE, NF_CT_STATE_INVALID_BIT);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    nft_rule_match_any(&rule, NFT_FIELD_CT_LABEL, NFT_FLOW_LABEL);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return append(m, chain, &rule, r);
}

int nft_add_hasty_ports(struct nft_maker *m, unsigned *ret)
{
    return nft_form_add_dynamic_set(m->rs, "hasty_ports", NFT_TYPE_INET_SERVICE, MOMENT, PORTS,
                                    ret);
}

int nft_add_hasty(struct nft_maker *m, unsigned ports, bool gateway)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "hasty", NFT_CHAIN_FILTER, NF_INET_LOCAL_OUT, PRIORITY_HASTY,
                               &chain);

    if (r < 0)
        return r;
    nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_NEQ, IPPROTO_TCP);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    nft_rule_match_masked(&rule, NFT_FIELD_TCP_FLAGS, NFT_OP_EQ, 0, NFT_TCP_RST);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    nft_rule_match_masked(&rule, NFT_FIELD_TCP_FLAGS, NFT_OP_EQ, NFT_TCP_ACK, NFT_TCP_ACK);
    nft_rule_delete_from_set(&rule, NFT_FIELD_TCP_DPORT, ports);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    nft_rule_match_set(&rule, NFT_FIELD_TCP_DPORT, NFT_OP_NEQ, ports);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    for (size_t i = 0; r == 0 && i < m->set->n_seats; i++) {
        const struct capture_seat *s = &m->set->seats[i];

        r = append_port(m, chain, s->port_v4);
        if (r == 0 && s->port_v6 != s->port_v4)
            r = append_port(m, chain, s->port_v6);
    }
    if (r == 0 && gateway)
        r = append_gateway(m, chain);
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    return r;
}
