/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/timer.h */
#include "base/timer.h"

#include <errno.h>
#include <stdlib.h>

int timer_heap_init(struct timer_heap *h, uint32_t size)
{
    h->items = calloc(size, sizeof(struct timer *));
    h->n = 0;
    h->size = h->items ? size : 0;
    return h->items ? 0 : -ENOMEM;
}

void timer_heap_free(struct timer_heap *h)
{
    free(h->items);
    *h = (struct timer_heap){0};
}

static void place(struct timer_heap *h, uint32_t at, struct timer *t)
{
    h->items[at] = t;
    t->slot = at + 1;
}

static void sift_up(struct timer_heap *h, uint32_t at, struct timer *t)
{
    while (at > 0 && h->items[(at - 1) / 2]->deadline > t->deadline) {
        place(h, at, h->items[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    place(h, at, t);
}

static void sift_down(struct timer_heap *h, uint32_t at, struct timer *t)
{
    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= h->n)
            break;
        if (child + 1 < h->n && h->items[child + 1]->deadline < h->items[child]->deadline)
            child++;
        if (h->items[child]->deadline >= t->deadline)
            break;
        place(h, at, h->items[child]);
        at = child;
    }
    place(h, at, t);
}

int timer_set(struct timer_heap *h, struct timer *t, int64_t deadline, uint64_t ref)
{
    t->ref = ref;
    if (t->slot != 0) {
        int64_t before = t->deadline;

        t->deadline = deadline;
        if (deadline < before)
            sift_up(h, t->slot - 1, t);
        else
            sift_down(h, t->slot - 1, t);
        return 0;
    }
    if (h->n == h->size)
        return -ENOSPC;
    t->deadline = deadline;
    sift_up(h, h->n++, t);
    return 0;
}

void timer_cancel(struct timer_heap *h, struct timer *t)
{
    if (t->slot == 0)
        return;
    uint32_t at = t->slot - 1;
    struct timer *last = h->items[--h->n];

    t->slot = 0;
    if (last == t)
        return;
    if (at > 0 && h->items[(at - 1) / 2]->deadline > last->deadline)
        sift_up(h, at, last);
    else
        sift_down(h, at, last);
}

int64_t timer_next(const struct timer_heap *h)
{
    return h->n > 0 ? h->items[0]->deadline : INT64_MAX;
}

struct timer *timer_expire(struct timer_heap *h, int64_t now)
{
    if (h->n == 0 || h->items[0]->deadline > now)
        return NULL;
    struct timer *t = h->items[0];

    timer_cancel(h, t);
    return t;
}
