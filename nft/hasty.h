/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The chain that stops the kernel's hasty resets (nft/hasty.c has the theory). */
#ifndef UNDERSOCK_NFT_HASTY_H
#define UNDERSOCK_NFT_HASTY_H

#include <stdbool.h>

struct nft_maker;

/* The set for the ports of clients whose SYNs are sent again. -ENOMEM, or 0. */
int nft_add_hasty_ports(struct nft_maker *m, unsigned *ret);
/* For all seats with a listener; `gateway`: also for what TPROXY gives them. -ENOMEM, or 0. */
int nft_add_hasty(struct nft_maker *m, unsigned ports, bool gateway);

#endif
