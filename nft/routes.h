/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What TPROXY needs besides its rule: marked packets are routed to this host itself. Policy rules
 * (fwmark → table) and one route (local default dev lo in that table) per family, with a table, a
 * priority and a protocol number of our own. The marks are
 *
 *   CAPTURE_UDP, with the instance    UDP of this host: by lo, to our listener
 *   CAPTURE_TPROXY_MARK               packets of a gateway's clients
 *   the kinds INJECTED_..._TPROXY     SYNs of those that were held and are sent again: by lo
 *   INJECTED_REJECT, REJECT_RESET     so that they can be sent also where this host has no route to
 *                                     the destination. Those that are rejected by ICMP take the
 *                                     ordinary route: on the local one, Linux would send an ICMP
 *                                     error from the destination's address, and for IPv4 refuses to
 *
 * Before the first a rule "iif lo fwmark lookup main":
 * a reverse path check by nftables that includes the mark (`fib saddr . mark . iif`, firewalld's
 * default for IPv6; src_valid_mark for IPv4) asks as if from lo, and must find where the client is,
 * not our local route. Left over after a crash they harm nothing, as
 * nothing sets the mark; the next start adopts them.
 */
#ifndef UNDERSOCK_NFT_ROUTES_H
#define UNDERSOCK_NFT_ROUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of the daemon; those of instance N (capture.h) are N more, and what is not about UDP is the
 * daemon's alone. */
#define ROUTES_TABLE    21843u /* 0x5553 */
#define ROUTES_PRIORITY 5553u  /* after "local" (0), before "main" (32766) */
#define ROUTES_PROTOCOL 85     /* `ip rule` and `ip route` show it as "proto 85" */

/*
 * Installs all of it for IPv4 and, where the host has it, IPv6, in the calling thread's network
 * namespace; what is there already is adopted. 0; -EPERM: no CAP_NET_ADMIN; -EOPNOTSUPP: no policy
 * routing in this kernel; -errno; with one line in `why`. `ret_added` (may be NULL): something was
 * not there.
 */
int routes_install(unsigned instance, bool *ret_added, char *why, size_t why_size);
/* Removes it, as far as it is there; other instances' stay. */
void routes_remove(unsigned instance);

#endif
