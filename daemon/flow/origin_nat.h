/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The origin of a connection that an nftables redirect brought: asked of conntrack through the
 * socket. */
#ifndef UNDERSOCK_FLOW_ORIGIN_NAT_H
#define UNDERSOCK_FLOW_ORIGIN_NAT_H

#include "capture.h"

/*
 * SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (net/netfilter/nf_conntrack_proto.c, getorigdst()).
 * Knows the destination and nothing of the process. `ctx` is not used. -ENOENT when the connection
 * has no translation: it was made directly to our listener.
 */
extern const struct origin_ops origin_nat_ops;

#endif
