/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Honest connect, as far as nftables have to do with it: the chains that hold SYNs, and those that
 * let them go on when a worker sends them again with its verdict (the marks of capture.h). Where
 * they come in is in nft/ruleset.c (output) and nft/gateway.c. All return -ENOMEM, or 0.
 */
#ifndef UNDERSOCK_NFT_HOLD_H
#define UNDERSOCK_NFT_HOLD_H

#include <stdbool.h>
#include <stddef.h>

#include "capture.h"

#include "nft/policy_sets.h"

struct nft_maker;
struct nft_rule;

/* Whether any seat has a listener for what nftables hold; also one that no longer serves. */
bool nft_has_seats(const struct capture_set *set);
/* Whether there are serving seats, and all of them have a listener in the family. */
bool nft_seats_serve(const struct capture_set *set, enum nft_family f);

/* Ends the rule: the SYN is logged to its seat, with the capture's name, and dropped. */
int nft_rule_hold(struct nft_maker *m, size_t capture, struct nft_rule *rule);

/* The chains for what is sent again that both hooks need; `gateway`: there are captures of it. */
int nft_add_injected(struct nft_maker *m, bool gateway);
/* Likewise the one that the gateway needs. */
int nft_add_loopback(struct nft_maker *m);
/* The rules for it in the chain that selects, and in the one that redirects. */
int nft_append_injected_select(struct nft_maker *m, unsigned chain);
int nft_append_injected_nat(struct nft_maker *m, unsigned chain);
/* For the guard: what goes on to where it was going, in spite of all that, is refused. */
int nft_append_injected_guard(struct nft_maker *m, unsigned chain);

#endif
