/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/listener.c: what is accepted, what is refused and counted, and that nothing spins. */
#include "tests/unit/flow/flow_rig.h"

static unsigned batches;

static bool counted_batch(void *ctx)
{
    batches++;
    return flow_batch_end(ctx);
}

/* How often the loop wakes in about `ms` milliseconds. */
static unsigned wakeups(struct rig *r, unsigned ms)
{
    loop_set_batch_end(r->d.loop, counted_batch, r->t);
    batches = 0;
    for (unsigned i = 0; i < ms; i++)
        drive_turn(&r->d);
    return batches;
}

static void what_nobody_redirected_is_reset(void **state)
{
    static const int errors[] = {-ENOENT, -EPERM, -ENOPROTOOPT};
    struct rig *r = *state;

    rig_start(r);
    for (unsigned i = 0; i < 3; i++) {
        r->lookup_result = errors[i];
        int app = rig_app(r);

        drive_expect_end(&r->d, app, ECONNRESET);
        close(app);
        assert_int_equal(rig_stats(r).refused_stray, i + 1);
    }
    assert_int_equal(rig_stats(r).accepted, 0);
    assert_int_equal(rig_stats(r).flows, 0);

    /* The next that was redirected is served. */
    int app, server;

    r->lookup_result = 0;
    rig_join(r, &app, &server);
    rig_expect_joined(r, app, server);
    close(app);
    close(server);
}

static void what_comes_back_to_us_is_reset(void **state)
{
    struct rig *r = *state;
    struct addr loops[3];

    rig_start(r);
    loops[0] = r->listener.at;
    loops[1] = r->upstream_at[0];
    loops[2] = r->upstream_at[1];
    for (unsigned i = 0; i < 3; i++) {
        r->origin.destination = loops[i];
        int app = rig_app(r);

        drive_expect_end(&r->d, app, ECONNRESET);
        close(app);
        assert_int_equal(rig_stats(r).refused_loop, i + 1);
        assert_int_equal(accept4(r->upstream[0], NULL, NULL, 0), -1); /* nobody was asked */
    }
    assert_int_equal(rig_stats(r).accepted, 0);

    /* Another port of the same host is a destination like any other. */
    r->origin.destination = r->upstream_at[0];
    r->origin.destination.port = (uint16_t)(r->upstream_at[0].port == 1 ? 2 : 1);
    int app = rig_app(r), server = drive_accept(&r->d, r->upstream[0]);

    assert_int_equal(rig_stats(r).accepted, 1);
    assert_int_equal(rig_stats(r).refused_loop, 3);
    close(app);
    close(server);
}

static void many_at_once_are_all_served(void **state)
{
    enum { MANY = RIG_FLOWS };
    struct rig *r = *state;
    int app[MANY], server[MANY];

    rig_start(r);
    for (unsigned i = 0; i < MANY; i++)
        app[i] = rig_app(r); /* all in the backlog before the loop runs */
    rig_until_flows(r, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        server[i] = rig_asked(r, 0);
        rig_reply(server[i], 0);
        put(server[i], &(uint8_t){(uint8_t)i}, 1);
    }
    for (unsigned i = 0; i < MANY; i++) {
        uint8_t c;

        assert_int_equal(drive_byte(&r->d, app[i], &c), 1);
    }
    assert_int_equal(rig_stats(r).granted, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        reset(app[i]);
        close(server[i]);
    }
    rig_until_flows(r, 0);
    assert_int_equal(rig_stats(r).reset, MANY);
}

/* The lowest descriptor that is free. */
static rlim_t lowest_free(void)
{
    int fd = dup(STDIN_FILENO);

    assert_true(fd >= 0);
    close(fd);
    return (rlim_t)fd;
}

static struct rlimit limit_descriptors(rlim_t n)
{
    struct rlimit old, tight;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = (struct rlimit){n, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    return old;
}

/* None left for accept(): the reserve is given up for each, which is reset at once. */
static void without_descriptors_connections_are_reset_and_counted(void **state)
{
    struct rig *r = *state;
    int app[20], server;

    rig_start(r);
    assert_true(r->t->reserve >= 0);
    for (unsigned i = 0; i < 20; i++)
        app[i] = rig_app(r);
    struct rlimit old = limit_descriptors(lowest_free());

    for (unsigned i = 0; i < 20; i++)
        drive_expect_end(&r->d, app[i], ECONNRESET);
    unsigned idle = wakeups(r, 50);

    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(rig_stats(r).refused_full, 20);
    assert_int_equal(rig_stats(r).accepted, 0);
    assert_true(r->t->reserve >= 0);
    assert_true(idle <= 150); /* the turns' own timers, and hardly anything else */
    for (unsigned i = 0; i < 20; i++)
        close(app[i]);

    rig_join(r, &app[0], &server);
    rig_expect_joined(r, app[0], server);
    close(app[0]);
    close(server);
}

/* Not even the reserve helps: the listeners rest, and are looked at again. */
static void when_even_the_reserve_is_gone_nothing_spins(void **state)
{
    struct rig *r = *state;
    int app = rig_app(r), server;

    rig_start(r);
    struct rlimit old = limit_descriptors(3); /* below the reserve's own number */
    unsigned busy = wakeups(r, 300);
    bool paused = r->t->paused;

    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_true(busy <=
                1000); /* 300 turns' timers and a few looks; spinning is tens of thousands */
    assert_true(paused);
    assert_int_equal(rig_stats(r).flows, 0);

    /* It has waited in the backlog, and is served now. */
    server = rig_asked(r, 0);
    rig_reply(server, 0);
    rig_expect_joined(r, app, server);
    assert_false(r->t->paused);
    assert_true(r->t->reserve >= 0);
    close(app);
    close(server);
}

/* There was one for accept() and none for the upstream: that is "full" too, and not the upstream's
 * fault. */
static void without_a_descriptor_for_the_upstream_it_is_full(void **state)
{
    struct rig *r = *state;
    int app;

    rig_start(r);
    app = rig_app(r);
    struct rlimit old = limit_descriptors(lowest_free() + 1);

    drive_expect_end(&r->d, app, ECONNRESET);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    close(app);
    rig_until_flows(r, 0);
    assert_int_equal(rig_stats(r).refused_full, 1);
    assert_int_equal(rig_stats(r).failed, 0);
    assert_true(r->all[0].healthy);
}

static void a_drain_accepts_no_more_and_ends_with_the_last_flow(void **state)
{
    struct rig *r = *state;
    int app[3], server[2];

    rig_start(r);
    rig_join(r, &app[0], &server[0]);
    rig_join(r, &app[1], &server[1]);
    rig_expect_joined(r, app[0], server[0]);
    assert_false(flow_table_draining(r->t));
    flow_table_drain(r->t);
    assert_true(flow_table_draining(r->t));
    app[2] = rig_app(r); /* stays in the backlog: it belongs to whoever listens next */
    for (unsigned i = 0; i < 30; i++)
        drive_turn(&r->d);
    assert_int_equal(rig_stats(r).flows, 2);
    assert_int_equal(r->emptied, 0);

    for (unsigned i = 0; i < 2; i++) {
        rig_expect_joined(r, app[i], server[i]);
        assert_int_equal(r->emptied, 0);
        assert_int_equal(shutdown(app[i], SHUT_WR), 0);
        assert_int_equal(shutdown(server[i], SHUT_WR), 0);
        rig_until_flows(r, 1 - i);
    }
    assert_true(r->emptied > 0);
    assert_int_equal(rig_stats(r).finished, 2);
    int fd = accept4(r->listener.fd, NULL, NULL, SOCK_CLOEXEC);

    assert_true(fd >= 0);
    close(fd);
    for (unsigned i = 0; i < 3; i++)
        close(app[i]);
    close(server[0]);
    close(server[1]);
}

static void a_drain_of_an_empty_table_ends_at_once(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    flow_table_drain(r->t);
    assert_int_equal(r->emptied, 1);
}

/* While it rests for want of descriptors, too. */
static void a_drain_ends_the_rest(void **state)
{
    struct rig *r = *state;
    int app = rig_app(r);

    rig_start(r);
    struct rlimit old = limit_descriptors(3);

    (void)wakeups(r, 20);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_true(r->t->paused);
    flow_table_drain(r->t);
    for (unsigned i = 0; i < 200; i++) /* beyond the rest */
        drive_turn(&r->d);
    assert_int_equal(rig_stats(r).flows + rig_stats(r).accepted, 0);
    close(app);
}

/* A capture whose upstream was never resolved, or that has none: refused, never let through. */
static void without_a_candidate_the_connection_is_reset(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    r->choice.n = 0;
    int app = rig_app(r);

    drive_expect_end(&r->d, app, ECONNRESET);
    close(app);
    rig_until_flows(r, 0);
    assert_int_equal(rig_stats(r).failed, 1);
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(what_nobody_redirected_is_reset),
        ON_A_RIG(what_comes_back_to_us_is_reset),
        ON_A_RIG(many_at_once_are_all_served),
        ON_A_RIG(without_descriptors_connections_are_reset_and_counted),
        ON_A_RIG(when_even_the_reserve_is_gone_nothing_spins),
        ON_A_RIG(without_a_descriptor_for_the_upstream_it_is_full),
        ON_A_RIG(a_drain_accepts_no_more_and_ends_with_the_last_flow),
        ON_A_RIG(a_drain_of_an_empty_table_ends_at_once),
        ON_A_RIG(a_drain_ends_the_rest),
        ON_A_RIG(without_a_candidate_the_connection_is_reset),
    };

    return cmocka_run_group_tests_name("flow listener", tests, ignore_sigpipe, NULL);
}
