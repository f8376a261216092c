/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The chains of a gateway, which takes connections that this host forwards. */
#ifndef UNDERSOCK_NFT_GATEWAY_H
#define UNDERSOCK_NFT_GATEWAY_H

#include <stddef.h>

struct nft_maker;
struct nft_rule;

/* How many captures the chains must hold so that each which does something is among them. */
size_t nft_gateway_captures(const struct nft_maker *m);
/* The chains with the first `n` captures. -ENOMEM. */
int nft_gateway_add(struct nft_maker *m, size_t n);
/*
 * At prerouting, before what a capture has selected is taken or refused: drops of it what would be
 * answered by an interface that is not the capture's, as its source is forged. -ENOMEM.
 */
int nft_append_forged(struct nft_maker *m, unsigned chain, size_t capture,
                      const struct nft_rule *selected);

#endif
