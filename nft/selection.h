/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the chains of all tables have in common: what no capture takes, what one capture selects,
 * and what becomes of it.
 */
#ifndef UNDERSOCK_NFT_SELECTION_H
#define UNDERSOCK_NFT_SELECTION_H

#include "capture.h"

#include "nft/form.h"
#include "nft/policy_sets.h"

/* As flags of TCP. */
#define NFT_TCP_SYN             0x02
#define NFT_TCP_RST             0x04
#define NFT_TCP_ACK             0x10
#define NFT_TCP_FIN_SYN_RST_ACK 0x17

#define NFT_NO_CHAIN UINT32_MAX

/*
 * The label (one of 128 bits) that connection tracking keeps with the connections of a gateway's
 * clients that were taken by TPROXY. It outlives their sockets, and tells their packets from those
 * of connections that are forwarded. For UDP it is on what a worker has begun with an answer from a
 * stranger, so that what is sent back is no answer (nft/udp.c).
 */
#define NFT_FLOW_LABEL 85

/* Of a tracked connection that is to be ended (established = "reset"): IPS_FIXED_TIMEOUT, which
 * the kernel has no other use for once a connection is under way; see nft/conntrack.h. */
#define NFT_CT_ENDED (1u << 10)

/*
 * The label of connections whose SYN was held and is sent again (see nft/hold.h): while it is under
 * way, it tells that SYN from others also where somebody overwrites its mark.
 */
#define NFT_INJECTED_LABEL 86

/* Of flows of UDP of this host that came in by lo for a listener (nft/udp.c). */
#define NFT_UDP_LABEL 87

/*
 * What this host sends to itself by lo, for TPROXY, is recognized by its mark before mangle, kept
 * in its priority (tc's), and given to its listener behind the chains of others; nft/hold.c says
 * why.
 */
#define NFT_PRIORITY_RECOGNIZED (-160)
#define NFT_PRIORITY_DELIVERY   200

/* What a capture does with a connection of one family. */
enum nft_treatment { NFT_TREAT_REDIRECT, NFT_TREAT_HOLD, NFT_TREAT_RETURN, NFT_TREAT_REFUSE };

/* The rules of a capture: one for each part and family that it has. */
struct nft_way {
    enum nft_part part;
    enum nft_family family;
};

#define NFT_N_WAYS ((unsigned)NFT_N_PARTS * NFT_N_FAMILIES)

/* A table under construction. */
struct nft_maker {
    const struct capture_set *set;
    struct nft_scope scope;
    struct nft_ruleset *rs;
    struct nft_shared_sets shared;
    struct nft_capture_sets *sets;   /* of each capture */
    unsigned refuse_tcp, refuse_udp; /* chains that reject; NFT_NO_CHAIN: not made yet */
};

/* -EINVAL: see nft_ruleset_build(); -ENOMEM. What was begun is to be ended. */
int nft_maker_begin(struct nft_maker *m, const struct capture_set *set, struct nft_scope scope);
/* Frees the maker's own; gives the form to `ret`, or frees it when `r` is negative. Returns `r`. */
int nft_maker_end(struct nft_maker *m, int r, struct nft_ruleset **ret);

/* Honest captures of nftables hold where the serving seats have listeners in the family, and refuse
 * where they have not. */
enum nft_treatment nft_treatment(const struct capture_set *set, const struct capture_policy *p,
                                 enum nft_family f);

/* The same for UDP: never NFT_TREAT_HOLD. */
enum nft_treatment nft_udp_treatment(const struct capture_set *set, size_t capture,
                                     struct nft_way way);
/* Way `k` (below NFT_N_WAYS) in the order of the rules; false: the capture has no such rule. */
bool nft_way(const struct capture_policy *p, enum nft_transport transport, unsigned k,
             struct nft_way *ret);
/* Whether it concerns packets for an address of this host at a place where such are left alone
 * otherwise: it takes their DNS, or exempts them. */
bool nft_way_is_local(const struct capture_policy *p, struct nft_way way);

/* All append rules to the chain, or an expression to the rule; -ENOMEM. */

int nft_append_return(struct nft_maker *m, unsigned chain, struct nft_rule *rule);
int nft_append_own_mark_return(struct nft_maker *m, unsigned chain);
int nft_append_addr_type_return(struct nft_maker *m, unsigned chain, uint32_t rtn);
/* Begins a chain at prerouting that looks only at what comes in by lo. */
int nft_add_from_lo(struct nft_maker *m, const char *name, int priority, unsigned *ret_chain);
/* Sets of addresses with TCP ports, as in struct nft_shared_sets: of one family, or both. */
void nft_match_pair(struct nft_rule *rule, enum nft_family f, unsigned set);
int nft_append_pairs_return(struct nft_maker *m, unsigned chain,
                            const unsigned sets[NFT_N_FAMILIES]);
/* Packets that do not open a connection. */
void nft_match_not_syn(struct nft_rule *rule);
/* A part of the mark. */
void nft_match_mark(struct nft_rule *rule, uint32_t mark, uint32_t mask);
/* All that a capture asks of a packet. */
int nft_match_selection(struct nft_maker *m, size_t capture, struct nft_way way,
                        enum nft_transport transport, struct nft_rule *rule);
/* UDP of an answer to whoever came to us, or through us; not of one to an answer that we have sent
 * in the name of a stranger. */
int nft_append_udp_reply_return(struct nft_maker *m, unsigned chain);
/* The chain that rejects is made when it is first needed, or here. */
int nft_need_refusing(struct nft_maker *m, enum nft_transport transport);
/* Ends the rule with a rejection. */
int nft_rule_refuse(struct nft_maker *m, struct nft_rule *rule, enum nft_transport transport);
/*
 * Rejects SYNs at output that nat would let out as they are:
 *   - one that connection tracking takes for one of an established connection, as the end of an
 *     earlier one between these addresses and ports was never seen: of a laptop that was moved, or
 *     a peer that has vanished. nat has looked at that one. The kernel forgets the entry ten
 *     seconds after the reset (nf_ct_set_closing());
 *   - one without an entry, which nat does not see at all: nft_match_no_entry().
 */
int nft_append_unseen(struct nft_maker *m, unsigned chain);
/* `notrack` of the administrator's; or "invalid", as is for some seconds a SYN to who had called us
 * from that very port, and was reset. */
void nft_match_no_entry(struct nft_rule *rule);
/*
 * For packets that do not open a connection: those of connections that are marked as ended are
 * answered with a reset if a capture of the hook with reset_established selects them. A packet
 * towards whoever opened the connection passes, so that its answer meets the reset.
 */
int nft_append_ended(struct nft_maker *m, unsigned chain, enum capture_hook hook);
/* Whether there is anything for the above to do. */
bool nft_ends_established(const struct nft_maker *m, enum capture_hook hook);

#endif
