/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Timers: a binary heap of deadlines. The timer itself lives in its owner (which must not move or
 * be freed while it is armed); the heap holds pointers and never allocates after timer_heap_init().
 */
#ifndef UNDERSOCK_BASE_TIMER_H
#define UNDERSOCK_BASE_TIMER_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory is a disarmed timer. */
struct timer {
    int64_t deadline; /* monotonic nanoseconds */
    uint64_t ref;     /* handed to the handler */
    uint32_t slot;    /* position in the heap + 1; 0: not armed */
};

struct timer_heap {
    struct timer **items;
    uint32_t n, size;
};

/* Room for `size` armed timers. 0 or -ENOMEM. */
int timer_heap_init(struct timer_heap *h, uint32_t size);
void timer_heap_free(struct timer_heap *h);
/* Arms or re-arms. -ENOSPC when the heap is full and the timer was not armed. */
int timer_set(struct timer_heap *h, struct timer *t, int64_t deadline, uint64_t ref);
void timer_cancel(struct timer_heap *h, struct timer *t);
/* The earliest deadline, or INT64_MAX. */
int64_t timer_next(const struct timer_heap *h);
/* Takes the earliest timer out of the heap when its deadline is <= now; NULL otherwise. */
struct timer *timer_expire(struct timer_heap *h, int64_t now);

#endif
