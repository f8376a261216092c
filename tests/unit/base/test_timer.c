/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/timer.h against a model that is too simple to be wrong: an array of deadlines. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/timer.h"

enum { TIMERS = 61, ROOM = 47, STEPS = 200000 };

static uint64_t seed;

static uint32_t pick(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

/* The heap's own order, and that each timer knows its place. */
static void check_heap(const struct timer_heap *h)
{
    for (uint32_t i = 0; i < h->n; i++) {
        assert_int_equal(h->items[i]->slot, i + 1);
        if (i > 0)
            assert_true(h->items[(i - 1) / 2]->deadline <= h->items[i]->deadline);
    }
}

struct model {
    bool armed[TIMERS];
    int64_t deadline[TIMERS];
    uint64_t ref[TIMERS];
    unsigned n;
};

static int64_t model_next(const struct model *m)
{
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < TIMERS; i++)
        if (m->armed[i] && m->deadline[i] < next)
            next = m->deadline[i];
    return next;
}

static void any_sequence_of_operations_agrees_with_the_model(void **state)
{
    struct timer_heap h;
    struct timer t[TIMERS] = {{0}};
    struct model m = {.n = 0};

    (void)state;
    seed = 1;
    assert_int_equal(timer_heap_init(&h, ROOM), 0);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned i = pick(TIMERS);
        /* Few distinct deadlines: equal ones are the interesting ones. Sometimes the extremes. */
        int64_t when = pick(50) == 0   ? INT64_MAX - pick(2)
                       : pick(50) == 0 ? -(int64_t)pick(9)
                                       : pick(40);

        switch (pick(4)) {
        case 0:
        case 1: {
            int r = timer_set(&h, &t[i], when, step);

            if (!m.armed[i] && m.n == ROOM) {
                assert_int_equal(r, -ENOSPC);
                assert_int_equal(t[i].slot, 0);
                break;
            }
            assert_int_equal(r, 0);
            m.n += !m.armed[i];
            m.armed[i] = true;
            m.deadline[i] = when;
            m.ref[i] = step;
            break;
        }
        case 2:
            timer_cancel(&h, &t[i]);
            m.n -= m.armed[i];
            m.armed[i] = false;
            break;
        default: {
            struct timer *fired = timer_expire(&h, when);
            int64_t next = model_next(&m);

            if (m.n == 0 || next > when) {
                assert_null(fired);
                break;
            }
            assert_non_null(fired);
            i = (unsigned)(fired - t);
            assert_true(m.armed[i]);
            assert_int_equal(m.deadline[i], next);
            assert_int_equal(fired->ref, m.ref[i]);
            assert_int_equal(fired->slot, 0);
            m.armed[i] = false;
            m.n--;
        }
        }
        assert_int_equal(h.n, m.n);
        assert_int_equal(timer_next(&h), model_next(&m));
        if (step % 64 == 0)
            check_heap(&h);
    }
    check_heap(&h);
    for (unsigned i = 0; i < TIMERS; i++)
        assert_int_equal(t[i].slot != 0, m.armed[i]);
    timer_heap_free(&h);
}

static void timers_expire_in_order_and_not_early(void **state)
{
    struct timer_heap h;
    struct timer t[TIMERS] = {{0}};
    int64_t last = INT64_MIN;
    unsigned fired = 0;

    (void)state;
    seed = 7;
    assert_int_equal(timer_heap_init(&h, TIMERS), 0);
    for (unsigned i = 0; i < TIMERS; i++)
        assert_int_equal(timer_set(&h, &t[i], pick(1000), i), 0);
    assert_null(timer_expire(&h, timer_next(&h) - 1));
    for (struct timer *e; (e = timer_expire(&h, 1000)); fired++) {
        assert_true(e->deadline >= last);
        last = e->deadline;
    }
    assert_int_equal(fired, TIMERS);
    assert_int_equal(timer_next(&h), INT64_MAX);
    timer_heap_free(&h);
}

static void a_full_heap_refuses_and_still_rearms(void **state)
{
    struct timer_heap h;
    struct timer t[3] = {{0}};

    (void)state;
    assert_int_equal(timer_heap_init(&h, 2), 0);
    assert_int_equal(timer_set(&h, &t[0], 10, 0), 0);
    assert_int_equal(timer_set(&h, &t[1], 20, 1), 0);
    assert_int_equal(timer_set(&h, &t[2], 5, 2), -ENOSPC);
    assert_int_equal(timer_next(&h), 10);
    assert_int_equal(timer_set(&h, &t[1], 1, 1), 0);
    assert_int_equal(timer_next(&h), 1);
    timer_cancel(&h, &t[2]); /* not armed: nothing happens */
    assert_int_equal(h.n, 2);
    timer_cancel(&h, &t[0]);
    timer_cancel(&h, &t[0]);
    assert_int_equal(timer_set(&h, &t[2], 5, 2), 0);
    assert_ptr_equal(timer_expire(&h, 100), &t[1]);
    assert_ptr_equal(timer_expire(&h, 100), &t[2]);
    assert_null(timer_expire(&h, INT64_MAX));
    timer_heap_free(&h);
    assert_int_equal(h.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_sequence_of_operations_agrees_with_the_model),
        cmocka_unit_test(timers_expire_in_order_and_not_early),
        cmocka_unit_test(a_full_heap_refuses_and_still_rearms),
    };

    return cmocka_run_group_tests_name("timer", tests, NULL, NULL);
}
