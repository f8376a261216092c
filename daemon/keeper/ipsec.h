/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether IPsec wraps what this host sends to an address, by a policy without an interface of its
 * own (`ip xfrm policy`): then filters on interfaces see it wrapped only.
 */
#ifndef UNDERSOCK_KEEPER_IPSEC_H
#define UNDERSOCK_KEEPER_IPSEC_H

#include <stdbool.h>
#include <stddef.h>

#include "addr.h"

/*
 * Sets `wrapped` of those of the `n` addresses that an outgoing policy with a transformation
 * selects, of TCP or of everything, from whatever source. Policies of an xfrm or VTI interface are
 * not counted: packets come to such an interface as they are. 0, also where the kernel has no
 * IPsec; or -errno: what could be read is set.
 */
int ipsec_find_wrapped(const struct addr *addrs, bool *wrapped, size_t n);

#endif
