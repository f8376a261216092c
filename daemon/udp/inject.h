/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends IP packets with any source address to clients: two raw sockets, one for each family, for
 * all remotes there may be. So no socket per remote is bound anywhere, and none can be in use.
 */
#ifndef UNDERSOCK_UDP_INJECT_H
#define UNDERSOCK_UDP_INJECT_H

#include <stdint.h>

#include "udp/packet.h"

struct inject;

/*
 * `mark`: SO_MARK of the packets, 0: none. Takes CAP_NET_RAW, now only. A host without IPv6 has no
 * socket for it, and its packets are refused. 0 or -errno.
 */
int inject_open(uint32_t mark, struct inject **ret);
/* NULL is allowed. */
void inject_close(struct inject *i);
/*
 * Sends without waiting; struct udp_inject's operation. A packet that does not fit the path's first
 * link goes out in fragments. One that cannot be sent is passed over. Returns how many were sent,
 * or -errno of the first when none was.
 */
int inject_send(void *inject, const struct udp_packet *packets, unsigned n);

#endif
