/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * established = "reset": connections that are older than the rules, and that the captures would
 * have taken, are ended instead of going on directly.
 *
 * Two halves: here they are found and marked in connection tracking; the rules (nft/ruleset.h) know
 * the mark and answer the next packet that the opener of a TCP connection sends with a reset. So
 * install the rules first, then call this. A connection on which nobody sends anything stays open
 * until somebody does.
 *
 * Connections that the kernel does not track cannot be found. It begins to track when the first
 * rule asks for it, so on a host where ours are the first, the older connections are unknown for as
 * long as they are silent, and go on.
 */
#ifndef UNDERSOCK_NFT_CONNTRACK_H
#define UNDERSOCK_NFT_CONNTRACK_H

#include <stddef.h>

#include "capture.h"

/*
 * Ends what a capture of `set` with reset_established and without CAPTURE_DIRECT selects, first
 * match in the order of the file, by destination, port, and origin: from an address of this host
 * for CAPTURE_OUTPUT, from elsewhere for CAPTURE_GATEWAY. A user, an interface, and a packet's mark
 * are not in an entry: there the rules, which see them, decide which of the connections are reset.
 * Left alone: what was taken by us (by translation or by TPROXY), what goes to an upstream,
 * connections to this host. Captures by cgroup have no rules here and end nothing.
 *
 * UDP (taken or rejected) is forgotten, so that its next packet meets the rules as new.
 *
 * `ret_n` (may be NULL): how many entries were marked or deleted. 0, also when nothing is tracked;
 * -EPERM: no CAP_NET_ADMIN; -EOPNOTSUPP: no ctnetlink in this kernel; -ENOMEM; otherwise -errno,
 * with one line in `why` (of `size` bytes; may be NULL when size is 0).
 */
int conntrack_flush_selected(const struct capture_set *set, char *why, size_t size,
                             unsigned *ret_n);

#endif
