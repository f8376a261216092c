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
 * 200 ms, when the connection has long been there. So the first such reset of a connection is
 * dropped, and those right behind it, as the moment may be a long one where the CPU is a virtual
 * one, and the application sends more than one packet:
 *
 *   hasty          filter, output, priority -300: before connection tracking, which would close the
 *                  connection. A bare RST, without ACK, is what the kernel answers data with that
 *                  belongs nowhere; whoever ends a connection sends RST and ACK.
 *   hasty_once     drops it for 100 ms from the first one to the same port of a client, and lets
 *                  pass what comes in the minute after that
 *   hasty_now, hasty_before   these ports
 *
 * So nothing can hang that is gone indeed, such as a handshake that had expired: its reset comes
 * 200 ms later than it would have. A reload begins with empty sets, and then one connection may
 * lose more of them.
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

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/rtnetlink.h>

#include "nft/selection.h"

#define PRIORITY_HASTY (-300)

/* In ms: less than what TCP waits before it sends again, and more than its patience. */
#define NOW    100u
#define BEFORE 60000u
#define PORTS  65535u /* all that there are */

static int append(struct nft_maker *m, unsigned chain, struct nft_rule *rule, int r)
{
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], rule);
    rule->n_exprs = 0;
    return r;
}

static int add_ports(struct nft_maker *m, const char *name, uint32_t timeout, unsigned *ret)
{
    return nft_form_add_dynamic_set(m->rs, name, NFT_TYPE_INET_SERVICE, timeout, PORTS, ret);
}

static int add_once(struct nft_maker *m, unsigned *ret)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned now, before, chain;
    int r = add_ports(m, "hasty_now", NOW, &now);

    if (r == 0)
        r = add_ports(m, "hasty_before", BEFORE, &before);
    if (r == 0)
        r = nft_form_add_chain(m->rs, "hasty_once", NFT_CHAIN_REGULAR, 0, 0, &chain);
    if (r < 0)
        return r;
    nft_rule_match_set(&rule, NFT_FIELD_TCP_DPORT, NFT_OP_EQ, now);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    nft_rule_match_set(&rule, NFT_FIELD_TCP_DPORT, NFT_OP_EQ, before);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    nft_rule_add_to_set(&rule, NFT_FIELD_TCP_DPORT, before);
    nft_rule_add_to_set(&rule, NFT_FIELD_TCP_DPORT, now);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    r = append(m, chain, &rule, r);
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    *ret = chain;
    return r;
}

/* Resets from one port of our loopback. */
static int append_port(struct nft_maker *m, unsigned chain, uint16_t port, unsigned once)
{
    struct nft_rule rule = {.n_exprs = 0};

    if (port == 0)
        return 0;
    nft_rule_match_name(&rule, NFT_FIELD_META_OIFNAME, NFT_OP_EQ, "lo");
    nft_rule_match(&rule, NFT_FIELD_TCP_SPORT, NFT_OP_EQ, port);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, once);
    return append(m, chain, &rule, 0);
}

static int append_gateway(struct nft_maker *m, unsigned chain, unsigned once)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r;

    nft_rule_match(&rule, NFT_FIELD_FIB_SADDR_TYPE, NFT_OP_EQ, RTN_LOCAL);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, 0);
    nft_rule_match_any(&rule, NFT_FIELD_CT_STATE, NF_CT_STATE_INVALID_BIT);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, once);
    r = append(m, chain, &rule, r);
    nft_rule_match_any(&rule, NFT_FIELD_CT_LABEL, NFT_FLOW_LABEL);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, once);
    return append(m, chain, &rule, r);
}

int nft_add_hasty(struct nft_maker *m, bool gateway)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain, once = 0;
    int r = nft_form_add_chain(m->rs, "hasty", NFT_CHAIN_FILTER, NF_INET_LOCAL_OUT, PRIORITY_HASTY,
                               &chain);

    if (r == 0)
        r = add_once(m, &once);
    if (r < 0)
        return r;
    nft_match_not_bare_reset(&rule);
    nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
    r = append(m, chain, &rule, r);
    for (size_t i = 0; r == 0 && i < m->set->n_seats; i++) {
        const struct capture_seat *s = &m->set->seats[i];

        r = append_port(m, chain, s->port_v4, once);
        if (r == 0 && s->port_v6 != s->port_v4)
            r = append_port(m, chain, s->port_v6, once);
    }
    if (r == 0 && gateway)
        r = append_gateway(m, chain, once);
    if (r == 0)
        nft_chain_keep(&m->rs->chains[chain]);
    return r;
}
