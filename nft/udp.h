/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The chains that take or reject UDP, of every hook. */
#ifndef UNDERSOCK_NFT_UDP_H
#define UNDERSOCK_NFT_UDP_H

#include <stddef.h>

#include "capture.h"

struct nft_maker;

#define NFT_LOCAL_HOOKS   (1u << CAPTURE_OUTPUT | 1u << CAPTURE_CGROUP)
#define NFT_GATEWAY_HOOKS (1u << CAPTURE_GATEWAY)

/* How many captures must be looked at so that each which does something is among them. */
struct nft_udp_counts {
    size_t local;   /* of NFT_LOCAL_HOOKS; 0: none does */
    size_t gateway; /* of NFT_GATEWAY_HOOKS */
};

struct nft_udp_counts nft_udp_captures(const struct nft_maker *m);
/* The chains. -ENOMEM. */
int nft_udp_add(struct nft_maker *m, struct nft_udp_counts n);

#endif
