/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/loop.h */
#include "base/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BATCH 256

struct loop {
    int epoll;
    bool stop;
    int64_t now;
    struct timer_heap timers;
    struct {
        loop_handler_fn fn;
        void *ctx;
    } handlers[LOOP_KINDS];
    loop_batch_fn batch_end;
    void *batch_ctx;
    struct epoll_event events[BATCH];
};

static int64_t read_clock(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int loop_create(uint32_t max_timers, struct loop **ret)
{
    struct loop *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    int r = timer_heap_init(&l->timers, max_timers);

    if (r == 0) {
        l->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (l->epoll < 0)
            r = -errno;
    }
    if (r < 0) {
        timer_heap_free(&l->timers);
        free(l);
        return r;
    }
    l->now = read_clock();
    *ret = l;
    return 0;
}

void loop_destroy(struct loop *l)
{
    if (!l)
        return;
    close(l->epoll);
    timer_heap_free(&l->timers);
    free(l);
}

void loop_set_handler(struct loop *l, unsigned kind, loop_handler_fn fn, void *ctx)
{
    l->handlers[kind].fn = fn;
    l->handlers[kind].ctx = ctx;
}

void loop_set_batch_end(struct loop *l, loop_batch_fn fn, void *ctx)
{
    l->batch_end = fn;
    l->batch_ctx = ctx;
}

static int control(struct loop *l, int op, int fd, uint32_t events, uint64_t ref)
{
    struct epoll_event ev = {.events = events, .data.u64 = ref};

    return epoll_ctl(l->epoll, op, fd, &ev) < 0 ? -errno : 0;
}

int loop_add(struct loop *l, int fd, uint32_t events, uint64_t ref)
{
    return control(l, EPOLL_CTL_ADD, fd, events, ref);
}

int loop_modify(struct loop *l, int fd, uint32_t events, uint64_t ref)
{
    return control(l, EPOLL_CTL_MOD, fd, events, ref);
}

int loop_remove(struct loop *l, int fd)
{
    return control(l, EPOLL_CTL_DEL, fd, 0, 0);
}

int64_t loop_now(const struct loop *l)
{
    return l->now;
}

int loop_timer_set(struct loop *l, struct timer *t, int64_t delay, uint64_t ref)
{
    /* Never in the batch that armed it: a handler that arms its own timer must not keep the loop.
     */
    return timer_set(&l->timers, t, l->now + (delay > 0 ? delay : 1), ref);
}

void loop_timer_cancel(struct loop *l, struct timer *t)
{
    timer_cancel(&l->timers, t);
}

static void dispatch(struct loop *l, uint64_t ref, uint32_t events)
{
    unsigned kind = loop_ref_kind(ref);

    if (kind < LOOP_KINDS && l->handlers[kind].fn)
        l->handlers[kind].fn(l->handlers[kind].ctx, ref, events);
}

/* Milliseconds until the next timer, rounded up so that it has expired when we wake. */
static int wait_time(const struct loop *l)
{
    int64_t next = timer_next(&l->timers);

    if (next == INT64_MAX)
        return -1;
    int64_t left = next - read_clock();

    if (left <= 0)
        return 0;
    left = (left + 999999) / 1000000;
    return left > INT_MAX ? INT_MAX : (int)left;
}

int loop_run(struct loop *l)
{
    bool more = false;

    l->stop = false;
    while (!l->stop) {
        int n = epoll_wait(l->epoll, l->events, BATCH, more ? 0 : wait_time(l));

        if (n < 0 && errno != EINTR)
            return -errno;
        l->now = read_clock();
        for (int i = 0; i < n && !l->stop; i++)
            dispatch(l, l->events[i].data.u64, l->events[i].events);
        for (struct timer *t; !l->stop && (t = timer_expire(&l->timers, l->now));)
            dispatch(l, t->ref, LOOP_TIMEOUT);
        more = l->batch_end ? l->batch_end(l->batch_ctx) : false;
    }
    return 0;
}

void loop_stop(struct loop *l)
{
    l->stop = true;
}
