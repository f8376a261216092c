/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is installed in the kernel for a generation: BPF programs on cgroups, the nftables table. */
#ifndef UNDERSOCK_KEEPER_CAPTURES_H
#define UNDERSOCK_KEEPER_CAPTURES_H

#include <stddef.h>

#include "base/loop.h"
#include "keeper/generation.h"

struct captures;
struct stitch;

/* `event_kind`: the loop kind for what the programs report; the reference's index is the capture's
 * place among those attached. `stitch` stays the caller's, and outlives us. 0 or -ENOMEM. */
int captures_create(struct loop *loop, unsigned event_kind, struct stitch *stitch,
                    struct captures **ret);
/*
 * Whether captures_apply() would fail because of a cgroup that is not there and never was: -errno
 * with one line in `why`. Before a reload touches anything, as the commonest mistake must not be
 * found when listeners have been added, or the captures before it have changed: what connects then
 * goes to workers that never come to be.
 */
int captures_look(struct captures *c, const struct config *config, char *why, size_t why_size);
/*
 * Puts the captures of `g` in force and fills the origin maps into its listeners. What the
 * generation before had attached to the same cgroup is replaced in place, without a gap; the
 * nftables table is switched at one moment. A cgroup that is not there any more is awaited
 * (captures_follow()); one that never was is an error. `transient`: the cgroup of captures that
 * name none, or -1. 0, or -errno with one line in `why`: -EPERM and -EOPNOTSUPP name a missing
 * privilege or kernel feature. After a failure call captures_apply() with the generation before, or
 * captures_remove().
 */
int captures_apply(struct captures *c, struct generation *g, int transient, char *why,
                   size_t why_size);
/*
 * Looks whether the cgroups are where they were: one that has been removed and made anew is another
 * one, and is captured as soon as somebody asks this. `g`: the generation in force. True: one
 * cannot be captured, or the rules cannot name it, and it should be tried again soon.
 */
bool captures_follow(struct captures *c, struct generation *g);
/* False: of a capture whose cgroup is not there. */
bool captures_installed(const struct captures *c, const struct capture_policy *p);
/* Now and then: puts back what others have taken away that is not ours alone, routes and the guard.
 */
void captures_mend(struct captures *c, const struct generation *g);
/* Logs what the programs of one attached capture report. */
void captures_event(struct captures *c, unsigned index);
/* Descriptors that keep the cgroup programs attached and the table alive, for the janitor. Returns
 * their number. */
size_t captures_link_fds(const struct captures *c, int *ret, size_t max);
/* What becomes of what on-exit = "closed" leaves to refuse the traffic. */
enum captures_lift {
    CAPTURES_LEAVE,
    CAPTURES_LIFT,
    CAPTURES_LIFT_NEW /* unless there was one at captures_create() */
};

/* Takes everything out of the kernel and frees. NULL is allowed. */
void captures_remove(struct captures *c, enum captures_lift lift);

#endif
