/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event loop: epoll and the timer heap. An event carries a reference (kind, generation, index),
 * never a pointer: the handler of that kind looks the object up and drops events of a generation
 * that is gone. One clock read per batch. Single-threaded.
 */
#ifndef UNDERSOCK_BASE_LOOP_H
#define UNDERSOCK_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/timer.h"

/* A bit epoll does not use: the handler is called because its timer expired. */
#define LOOP_TIMEOUT (1u << 27)

#define LOOP_KINDS 32

/* kind: 0..LOOP_KINDS-1, generation: 24 bits, index: 32 bits */
static inline uint64_t loop_ref(unsigned kind, uint32_t generation, uint32_t index)
{
    return (uint64_t)kind << 56 | (uint64_t)(generation & 0xffffff) << 32 | index;
}

static inline unsigned loop_ref_kind(uint64_t ref)
{
    return (unsigned)(ref >> 56);
}

static inline uint32_t loop_ref_generation(uint64_t ref)
{
    return (uint32_t)(ref >> 32) & 0xffffff;
}

static inline uint32_t loop_ref_index(uint64_t ref)
{
    return (uint32_t)ref;
}

struct loop;

/* `events`: EPOLL* bits, or LOOP_TIMEOUT. The handler may add, change and delete any registration.
 */
typedef void (*loop_handler_fn)(void *ctx, uint64_t ref, uint32_t events);
/* Called after each batch of events and timers; true when there is more to do at once. */
typedef bool (*loop_batch_fn)(void *ctx);

/* At most `max_timers` timers can be armed. 0 or -errno. */
int loop_create(uint32_t max_timers, struct loop **ret);
void loop_destroy(struct loop *l);

/* One handler per kind; a kind in use keeps its first handler until it is set again. */
void loop_set_handler(struct loop *l, unsigned kind, loop_handler_fn fn, void *ctx);
void loop_set_batch_end(struct loop *l, loop_batch_fn fn, void *ctx);

/* epoll_ctl(): 0 or -errno. A closed descriptor leaves the loop by itself, unless another one (a
 * duplicate, or in another process) keeps the socket open: such ones must be removed. */
int loop_add(struct loop *l, int fd, uint32_t events, uint64_t ref);
int loop_modify(struct loop *l, int fd, uint32_t events, uint64_t ref);
int loop_remove(struct loop *l, int fd);

/* The time of the current batch, CLOCK_MONOTONIC in nanoseconds. */
int64_t loop_now(const struct loop *l);
/* Arms `t` to fire `delay` nanoseconds after the current batch's time, and not in this batch. 0 or
 * -ENOSPC. */
int loop_timer_set(struct loop *l, struct timer *t, int64_t delay, uint64_t ref);
void loop_timer_cancel(struct loop *l, struct timer *t);

/* Runs until loop_stop(). 0, or -errno when epoll_wait() itself fails. */
int loop_run(struct loop *l);
void loop_stop(struct loop *l);

#endif
