/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Origins that the kernel knows of the accepted socket itself: they name the destination and
 * nothing of the process. `ctx` is not used. All give -ENOENT for a connection that was made
 * directly to our listener.
 */
#ifndef UNDERSOCK_FLOW_ORIGIN_SOCKET_H
#define UNDERSOCK_FLOW_ORIGIN_SOCKET_H

#include "capture.h"

/* An nftables redirect, asked of conntrack: SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
 * (net/netfilter/nf_conntrack_proto.c, getorigdst()). */
extern const struct origin_ops origin_nat_ops;
/* TPROXY: the destination is the socket's own name (Documentation/networking/tproxy.rst). */
extern const struct origin_ops origin_local_ops;
/* Either: a listener that has connections of both kinds, as those whose SYN was held are. */
extern const struct origin_ops origin_either_ops;

#endif
