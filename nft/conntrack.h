/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * established = "reset": connections that are older than the rules, and that the captures would
 * have taken, are ended instead of going on directly.
 *
 * Two halves. Connection tracking forgets the connection (here); its next packet is then the start
 * of something new that is no SYN, and a rule answers it with a reset (ruleset.c). Neither does it
 * alone: the kernel takes up a connection in mid-stream that it does not know, and a rule cannot
 * tell a known connection's age.
 *
 * So: install the rules first, then call this.
 */
#ifndef UNDERSOCK_NFT_CONNTRACK_H
#define UNDERSOCK_NFT_CONNTRACK_H

#include <stddef.h>

#include "capture.h"

/*
 * Deletes the entries of connection tracking, TCP and UDP, that a capture of `set` with
 * reset_established and CAPTURE_PROXY or CAPTURE_REFUSE selects, first match in the order of the
 * file, by destination, port, and origin: from an address of this host for CAPTURE_OUTPUT, from
 * elsewhere for CAPTURE_GATEWAY. A user, a process, an interface, and a packet's mark are not in an
 * entry; a capture that selects by them deletes what the rest of it selects, and the rules, which
 * know them, decide which of these connections are reset: the others are taken up again.
 * Left alone: what was translated to one of our listeners, what goes to an upstream, connections to
 * this host itself.
 *
 * `ret_n` (may be NULL): how many were deleted. 0, also when nothing is tracked here; -EPERM: no
 * CAP_NET_ADMIN; -EOPNOTSUPP: no ctnetlink in this kernel; -ENOMEM; otherwise -errno, with one line
 * in `why`.
 */
int conntrack_flush_selected(const struct capture_set *set, char *why, size_t size,
                             unsigned *ret_n);

#endif
