/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a generation needs for honest connect: which captures can have it here, seats and their
 * ports for workers, and where each reads its SYNs.
 */
#ifndef UNDERSOCK_KEEPER_HONEST_H
#define UNDERSOCK_KEEPER_HONEST_H

#include <stdbool.h>
#include <stddef.h>

#include "keeper/generation.h"

/* Tries what the kernel can, where some capture wants it, and warns of those that go without. */
void honest_find(struct generation *g);
/* Why a capture that could be honest is not: NULL when it is, or is meant to be early. */
const char *honest_why_early(const struct generation *g, size_t capture);
/* Marks the captures that have it. */
void honest_set(struct generation *g);
/* Takes seats for the workers, and opens what captures by cgroup listen on; `seats` NULL: as
 * planned, nothing is opened. 0, or -errno with one line in `why`. */
int honest_seats(struct generation *g, struct seats *seats, char *why, size_t why_size);
/* Where the workers read: each from its seat's log, and a ring buffer of each cgroup capture. 0 or
 * -ENOMEM. */
int honest_holds(struct generation *g);
/* The listener of a worker for one cgroup capture; fd -1: none. */
struct seat_listener *honest_cgroup_seat(const struct generation *g, size_t policy, unsigned worker,
                                         bool v4);

#endif
