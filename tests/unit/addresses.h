/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel installs the route to an IPv6 address of this host some time after `ip addr add` has
 * returned, also with "nodad" (addrconf_dad_work() of net/ipv6/addrconf.c). Until then it is
 * unreachable, or reached by the default route.
 */
#ifndef UNDERSOCK_TEST_ADDRESSES_H
#define UNDERSOCK_TEST_ADDRESSES_H

/* For a shell: waits for all that are not link-local, ten seconds each at most. */
#define ADDRESSES_SETTLE                                                                         \
    "ip -6 -o addr show scope global | while IFS=\" /\" read -r x x x a x; do i=0; until "       \
    "ip -6 route get $a 2>/dev/null | grep -q ^local || [ $((i += 1)) -gt 500 ]; do sleep .02; " \
    "done; done"

#endif
