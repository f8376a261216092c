/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections of sockets that are bound to an interface: redirected, they would leave by it. Where
 * it comes in is in nft/ruleset.c.
 */
#ifndef UNDERSOCK_NFT_BOUND_H
#define UNDERSOCK_NFT_BOUND_H

struct nft_maker;

/* The chains that drop and reset what of ours leaves by another interface than lo. -ENOMEM. */
int nft_add_bound(struct nft_maker *m);

#endif
