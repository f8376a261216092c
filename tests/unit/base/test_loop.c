/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/loop.h: who is called with what, in which order, and that nothing is lost on the way. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"

#define MS INT64_C(1000000)

enum { KIND = 3, OTHER = 31 };

struct seen {
    struct loop *loop;
    uint64_t refs[64];
    uint32_t events[64];
    int64_t now[64];
    unsigned n, stop_at; /* stops after so many calls; 0: never */
    unsigned batches;
    int drain; /* a descriptor to read from at each event, -1: none */
    struct timer timer;
};

static void note(void *ctx, uint64_t ref, uint32_t events)
{
    struct seen *s = ctx;
    char c;

    assert_true(s->n < 64);
    s->refs[s->n] = ref;
    s->events[s->n] = events;
    s->now[s->n] = loop_now(s->loop);
    s->n++;
    if (s->drain >= 0 && !(events & LOOP_TIMEOUT))
        (void)!read(s->drain, &c, 1);
    if (s->n == s->stop_at)
        loop_stop(s->loop);
}

static int open_loop(void **state)
{
    static struct seen s;

    s = (struct seen){.drain = -1};
    if (loop_create(16, &s.loop) < 0)
        return -1;
    loop_set_handler(s.loop, KIND, note, &s);
    *state = &s;
    return 0;
}

static int close_loop(void **state)
{
    struct seen *s = *state;

    loop_destroy(s->loop);
    return 0;
}

static void a_reference_is_kind_generation_and_index(void **state)
{
    static const struct {
        unsigned kind;
        uint32_t generation, index;
    } cases[] = {
        {0, 0, 0}, {31, 0xffffff, UINT32_MAX}, {1, 0x800000, 0x80000000}, {255, 1, 0}, {0, 0, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t ref = loop_ref(cases[i].kind, cases[i].generation, cases[i].index);

        assert_int_equal(loop_ref_kind(ref), cases[i].kind);
        assert_int_equal(loop_ref_generation(ref), cases[i].generation);
        assert_int_equal(loop_ref_index(ref), cases[i].index);
    }
    /* A generation that has outgrown its 24 bits does not touch the kind. */
    assert_int_equal(loop_ref_kind(loop_ref(2, 0x1000000, 0)), 2);
    assert_int_equal(loop_ref_generation(loop_ref(2, 0x1000007, 0)), 7);
}

static void events_carry_their_reference(void **state)
{
    struct seen *s = *state;
    uint64_t ref = loop_ref(KIND, 77, 5);
    int fd[2];

    assert_int_equal(pipe(fd), 0);
    assert_int_equal(loop_add(s->loop, fd[0], EPOLLIN, ref), 0);
    assert_int_equal(loop_add(s->loop, fd[0], EPOLLIN, ref), -EEXIST);
    assert_int_equal(write(fd[1], "x", 1), 1);
    s->stop_at = 1;
    s->drain = fd[0];
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(s->n, 1);
    assert_int_equal(s->refs[0], ref);
    assert_int_equal(s->events[0], EPOLLIN);

    ref = loop_ref(KIND, 78, 5);
    assert_int_equal(loop_modify(s->loop, fd[0], EPOLLIN, ref), 0);
    close(fd[1]);
    s->stop_at = 2;
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(s->refs[1], ref);
    assert_int_equal(s->events[1], EPOLLHUP);
    assert_int_equal(loop_remove(s->loop, fd[0]), 0);
    assert_int_equal(loop_remove(s->loop, fd[0]), -ENOENT);
    assert_int_equal(loop_modify(s->loop, fd[0], EPOLLIN, ref), -ENOENT);
    close(fd[0]);
    assert_int_equal(loop_add(s->loop, fd[0], EPOLLIN, ref), -EBADF);
}

/* A kind nobody handles is dropped, and does not stop the others. */
static void an_event_without_a_handler_is_dropped(void **state)
{
    struct seen *s = *state;
    struct timer t = {0}, unknown = {0};

    assert_int_equal(loop_timer_set(s->loop, &unknown, 0, loop_ref(OTHER, 0, 0)), 0);
    assert_int_equal(loop_timer_set(s->loop, &t, MS, loop_ref(KIND, 0, 1)), 0);
    s->stop_at = 1;
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(loop_ref_index(s->refs[0]), 1);
    assert_int_equal(unknown.slot, 0);
    assert_int_equal(loop_timer_set(s->loop, &t, 0, UINT64_MAX), 0); /* a kind that cannot be */
    assert_int_equal(loop_timer_set(s->loop, &unknown, MS, loop_ref(KIND, 0, 2)), 0);
    s->stop_at = 2;
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(loop_ref_index(s->refs[1]), 2);
}

static void timers_fire_in_order_and_not_early(void **state)
{
    static const int64_t delays[] = {9 * MS, 3 * MS, 20 * MS, 3 * MS + 1, 14 * MS};
    static const unsigned order[] = {1, 3, 0, 4, 2};
    struct seen *s = *state;
    struct timer t[5] = {{0}};
    int64_t start = loop_now(s->loop);

    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(loop_timer_set(s->loop, &t[i], delays[i], loop_ref(KIND, 0, i)), 0);
    s->stop_at = 5;
    assert_int_equal(loop_run(s->loop), 0);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(loop_ref_index(s->refs[i]), order[i]);
        assert_int_equal(s->events[i], LOOP_TIMEOUT);
        assert_true(s->now[i] >= start + delays[order[i]]);
    }
}

static void a_cancelled_timer_is_silent_and_a_rearmed_one_fires_once(void **state)
{
    struct seen *s = *state;
    struct timer a = {0}, b = {0}, c = {0};

    assert_int_equal(loop_timer_set(s->loop, &a, 0, loop_ref(KIND, 0, 0)), 0);
    assert_int_equal(loop_timer_set(s->loop, &b, 0, loop_ref(KIND, 0, 1)), 0);
    assert_int_equal(loop_timer_set(s->loop, &b, 2 * MS, loop_ref(KIND, 0, 2)), 0);
    assert_int_equal(loop_timer_set(s->loop, &c, 5 * MS, loop_ref(KIND, 0, 3)), 0);
    loop_timer_cancel(s->loop, &a);
    s->stop_at = 2;
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(loop_ref_index(s->refs[0]), 2);
    assert_int_equal(loop_ref_index(s->refs[1]), 3);
}

static void timers_beyond_the_limit_are_refused(void **state)
{
    struct seen *s = *state;
    struct timer t[17] = {{0}};

    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(loop_timer_set(s->loop, &t[i], MS, 0), 0);
    assert_int_equal(loop_timer_set(s->loop, &t[16], MS, 0), -ENOSPC);
    for (unsigned i = 0; i < 16; i++)
        loop_timer_cancel(s->loop, &t[i]);
}

static bool stop_after_100(void *ctx)
{
    struct seen *s = ctx;

    if (++s->batches == 100)
        loop_stop(s->loop);
    return false;
}

static void rearm(void *ctx, uint64_t ref, uint32_t events)
{
    struct seen *s = ctx;

    (void)events;
    s->n++;
    assert_int_equal(loop_timer_set(s->loop, &s->timer, 0, ref), 0);
}

/* A timer that arms itself without delay fires once a batch: the rest of the loop gets its turn. */
static void a_timer_does_not_fire_twice_in_a_batch(void **state)
{
    struct seen *s = *state;

    loop_set_handler(s->loop, KIND, rearm, s);
    loop_set_batch_end(s->loop, stop_after_100, s);
    assert_int_equal(loop_timer_set(s->loop, &s->timer, 0, loop_ref(KIND, 0, 0)), 0);
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(s->batches, 100);
    assert_in_range(s->n, 50, 100);
}

static bool count_down(void *ctx)
{
    struct seen *s = ctx;

    if (++s->batches == 1000)
        loop_stop(s->loop);
    return true;
}

/* The end of a batch that has more to do does not wait for an event: there is none here. */
static void more_to_do_does_not_wait(void **state)
{
    struct seen *s = *state;
    struct timer t = {0};

    assert_int_equal(loop_timer_set(s->loop, &t, 1, loop_ref(OTHER, 0, 0)), 0);
    loop_set_batch_end(s->loop, count_down, s);
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(s->batches, 1000);
}

static bool note_batch(void *ctx)
{
    struct seen *s = ctx;

    /* After all of the batch: both events and the timer. */
    if (s->n > 0)
        assert_int_equal(s->n, 3);
    s->batches++;
    return false;
}

static void the_end_of_a_batch_comes_after_events_and_timers(void **state)
{
    struct seen *s = *state;
    struct timer t = {0};
    int fd[2];

    assert_int_equal(pipe(fd), 0);
    assert_int_equal(write(fd[1], "xy", 2), 2);
    assert_int_equal(loop_add(s->loop, fd[0], EPOLLIN | EPOLLET, loop_ref(KIND, 0, 0)), 0);
    assert_int_equal(loop_add(s->loop, fd[1], EPOLLOUT | EPOLLET, loop_ref(KIND, 0, 1)), 0);
    assert_int_equal(loop_timer_set(s->loop, &t, 0, loop_ref(KIND, 0, 2)), 0);
    loop_set_batch_end(s->loop, note_batch, s);
    s->stop_at = 3;
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(s->n, 3);
    assert_int_equal(s->batches, 1);
    assert_int_equal(s->events[2], LOOP_TIMEOUT);
    /* One clock read per batch. */
    assert_int_equal(s->now[0], s->now[2]);
    close(fd[0]);
    close(fd[1]);
}

/* A handler may take any other object's registration away; what it has closed is not reported
 * again. */
static int pair[2][2];

static void close_the_other(void *ctx, uint64_t ref, uint32_t events)
{
    struct seen *s = ctx;
    unsigned i = loop_ref_index(ref);
    char c;

    (void)events;
    s->n++;
    s->refs[i]++;
    assert_int_equal(read(pair[i][0], &c, 1), 1);
    if (s->n == 1) {
        loop_remove(s->loop, pair[!i][0]);
        assert_int_equal(loop_timer_set(s->loop, &s->timer, 10 * MS, loop_ref(KIND, 0, 0)), 0);
        loop_set_handler(s->loop, OTHER, note, s);
        s->stop_at = 0;
    }
}

static void stop_now(void *ctx, uint64_t ref, uint32_t events)
{
    struct seen *s = ctx;

    (void)ref;
    (void)events;
    loop_stop(s->loop);
}

static void a_removed_descriptor_is_silent(void **state)
{
    struct seen *s = *state;
    struct timer t = {0};

    loop_set_handler(s->loop, OTHER, close_the_other, s);
    loop_set_handler(s->loop, KIND, stop_now, s);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pipe(pair[i]), 0);
        assert_int_equal(loop_add(s->loop, pair[i][0], EPOLLIN, loop_ref(OTHER, 0, i)), 0);
    }
    assert_int_equal(write(pair[1][1], "x", 1), 1);
    assert_int_equal(loop_timer_set(s->loop, &t, 50 * MS, loop_ref(KIND, 0, 0)), 0);
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(s->n, 1);
    assert_int_equal(write(pair[0][1], "x", 1), 1); /* no longer watched */
    assert_int_equal(loop_timer_set(s->loop, &s->timer, 10 * MS, loop_ref(KIND, 0, 0)), 0);
    assert_int_equal(loop_run(s->loop), 0);
    assert_int_equal(s->n, 1);
    loop_timer_cancel(s->loop, &t);
    loop_timer_cancel(s->loop, &s->timer);
    for (unsigned i = 0; i < 4; i++)
        close(pair[i / 2][i % 2]);
}

int main(void)
{
#define ON_A_LOOP(test) cmocka_unit_test_setup_teardown(test, open_loop, close_loop)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reference_is_kind_generation_and_index),
        ON_A_LOOP(events_carry_their_reference),
        ON_A_LOOP(an_event_without_a_handler_is_dropped),
        ON_A_LOOP(timers_fire_in_order_and_not_early),
        ON_A_LOOP(a_cancelled_timer_is_silent_and_a_rearmed_one_fires_once),
        ON_A_LOOP(timers_beyond_the_limit_are_refused),
        ON_A_LOOP(a_timer_does_not_fire_twice_in_a_batch),
        ON_A_LOOP(more_to_do_does_not_wait),
        ON_A_LOOP(the_end_of_a_batch_comes_after_events_and_timers),
        ON_A_LOOP(a_removed_descriptor_is_silent),
    };

    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
