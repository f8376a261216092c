/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of fake addresses: a name is answered with an address of ours, and a connection to that
 * address is a connection to the name. One table for all workers and all generations of them, in
 * memory that they share: an application that asked one worker may connect to another, and the
 * address that it was given before a reload must mean the same afterwards.
 *
 * Addresses. A name has one slot, and with it an IPv4 and an IPv6 address.
 * - 198.18.0.0/15 is for benchmarks of networks (RFC 2544), so nothing real is there and no route
 *   leads there. The table uses 131000 of its addresses; 198.18.0.0 to .63 and the last eight
 *   are never given out.
 * - fdf6:6931:7149::/64 is a ULA prefix (RFC 4193), its 40 bits drawn once by chance and fixed
 * since, so that rules, captures and administrators can name it. ULA also loses against IPv4 in the
 *   order of RFC 6724, so that a fake IPv6 address is taken only where there is no IPv4.
 * - An application may keep an address beyond the daemon that gave it. So that such an address does
 *   not mean another name in the next table, each table begins at a place in 198.18.0.0/15 of its
 *   own choice by chance, and has 32 random bits in its IPv6 addresses: IPv4 addresses of before
 *   are then probably unknown, and IPv6 ones as good as certainly. Unknown means refused.
 *
 * Reuse. A slot is *held* until a moment that only moves forwards: its answer's TTL after it was
 * last given out, and, by fake_hold(), as long as flows renew it. Slots are given to another name
 * only when the table is full, only when they are held no more, and the one that has been free for
 * longest first. When all are held there is no address (-ENOSPC, the caller says SERVFAIL), unless
 * one client has more than a 64th of the table, and more than the one that asks (base/shares.h): it
 * loses the name of longest ago, of a few, that it alone asked for and nobody connected to, or any
 * if there is no such. Nor does it get a slot that another client's name has been in during the
 * last hour, as it may still be kept there. There is no count of users that a crash could leave
 * behind: what nobody renews becomes free.
 *
 * Processes. The keeper makes the table before it forks, and never calls anything but fake_new(),
 * fake_free() and fake_get_stats(): memory that workers write is not to be believed by somebody
 * with more rights, and the lock in it is made of pointers. Workers believe nothing either: sizes,
 * place and keys are in memory of their own, each index that comes out of the table is checked,
 * each chain has a bound. A worker that is killed in the middle of a change leaves the lock to the
 * next one, who mends the table: a slot counts only when its name is complete, and everything else
 * is made again from the slots. Nobody waits for the lock for ever: a process that is stopped while
 * it has it costs the others a moment and -EAGAIN.
 *
 * Times are CLOCK_MONOTONIC nanoseconds, the same for all processes, and kept as whole seconds,
 * rounded up.
 */
#ifndef UNDERSOCK_DNS_FAKE_H
#define UNDERSOCK_DNS_FAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"
#include "dns/dns.h"

#define FAKE_NAMES_MIN 16
#define FAKE_NAMES_MAX 131000
#define FAKE_NAMES_DEFAULT                                                 \
    65536 /* 17 MiB when all are in use; pages count when they are touched \
           */

extern const struct prefix fake_prefix4, fake_prefix6;

struct fake;

/* In the keeper, before fork(). -EINVAL: `names` out of range; -ENOMEM, or another errno of mmap()
 * and getrandom(). */
int fake_new(uint32_t names, struct fake **ret);
/* Takes it out of this process; the others keep it. NULL is all right. */
void fake_free(struct fake *f);

/* Whether an address is in one of the two prefixes, given out or not. No table is needed. */
bool fake_is(const struct addr *a);

/*
 * The slot of a plain name (name.h), a new one if it has none, held until `until` at least, asked
 * for by `client`. The caller answers with a TTL that ends by then. -EINVAL: not a plain name;
 * -ENOSPC: all slots are held, or none is left; -EAGAIN: the lock was not to be had.
 */
int fake_take(struct fake *f, const char *name, size_t len, const struct addr *client, int64_t now,
              int64_t until, uint32_t *ret_slot);
/* The addresses of a slot, port 0. */
void fake_address(const struct fake *f, uint32_t slot, struct addr *ret4, struct addr *ret6);
/*
 * The name behind an address (the port does not matter), NUL-terminated, and its slot, which is
 * held until `until` from now on (0: only asking, as for a PTR). -ENOENT: a fake address that
 * stands for nothing: refuse it; -EINVAL: no fake address at all; -EAGAIN as above.
 */
int fake_find(struct fake *f, const struct addr *a, int64_t until, char ret_name[DNS_PLAIN_MAX + 1],
              uint32_t *ret_slot);
/*
 * A flow still uses the slot: held until `until`, if that is later than now. Takes no lock. Who has
 * flows calls this for each of them before what was last promised is over; a flow that is late may
 * find that the slot is another name's, and holds that one for nothing.
 */
void fake_hold(struct fake *f, uint32_t slot, int64_t until);

struct fake_stats {
    uint64_t known;   /* slots that have a name, now */
    uint64_t reused;  /* names that had to go for another */
    uint64_t refused; /* times that none was free */
    uint64_t mended;  /* times that a process died with the lock */
};
/* Without the lock, so not of one moment. */
void fake_get_stats(const struct fake *f, struct fake_stats *ret);

#endif
