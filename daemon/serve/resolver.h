/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names to addresses as the system does it, without blocking: the hosts file first, then the
 * servers and the search list of resolv.conf, by c-ares inside the loop. A bounded number of
 * lookups is in flight.
 */
#ifndef UNDERSOCK_SERVE_RESOLVER_H
#define UNDERSOCK_SERVE_RESOLVER_H

#include <stddef.h>
#include <stdint.h>

#include "addr.h"

/* Of each family at most half of them, so that a long list of one does not hide the other. */
#define RESOLVER_ADDRESSES 8

struct loop;
struct resolver;

/*
 * `ref` as given to resolver_lookup(). `status` 0: `n` >= 1 addresses in the order to try them,
 * with the port; valid during the call only. Else -EHOSTUNREACH: there is no such name, or it has
 * no address; -ETIMEDOUT, -ENOMEM, or -EIO: the name servers did not answer, or not usefully.
 */
typedef void (*resolver_done_fn)(void *ctx, uint64_t ref, int status, const struct addr *addresses,
                                 size_t n);

/*
 * Takes the kinds `fd_kind` and `tick_kind` of the loop, and one timer. At most `max_lookups` at a
 * time. `mark`: SO_MARK of its sockets where we may set it; 0: none. 0 or -errno.
 */
int resolver_create(struct loop *l, unsigned fd_kind, unsigned tick_kind, unsigned max_lookups,
                    uint32_t mark, resolver_done_fn done, void *ctx, struct resolver **ret);
/* Lookups in flight are forgotten: `done` is not called. */
void resolver_destroy(struct resolver *r);

/*
 * `name` is any NUL-terminated text from the network. `done` is called once, maybe before this
 * returns. -EBUSY: too many in flight, -EINVAL: not a name that could be asked for; then it is not
 * called. A lookup cannot be taken back: whoever is gone meanwhile tells by `ref`.
 */
int resolver_lookup(struct resolver *r, const char *name, uint16_t port, uint64_t ref);

#endif
