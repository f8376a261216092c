/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay/relay.c: how the ends of one side become the ends of the other. FIN, reset and half-close
 * are three different things and stay different; what was sent before an end arrives before it.
 */
#include "tests/unit/relay/rig.h"

static const enum relay_choice choices[] = {RELAY_CHOICE_AUTO, RELAY_CHOICE_COPY,
                                            RELAY_CHOICE_SPLICE};
#define N_CHOICES (sizeof(choices) / sizeof(choices[0]))

/* Each test runs for each engine and from each side, on a rig of its own. */
static void each_way(void (*test)(struct rig *g, unsigned from), int buffer, size_t stash)
{
    for (size_t i = 0; i < N_CHOICES; i++) {
        for (unsigned from = 0; from < 2; from++) {
            struct relay_pool *pool = make_pool(4, stash, choices[i]);
            struct rig g;

            rig_open(&g, pool, buffer);
            test(&g, from);
            rig_close(&g);
            assert_pool_idle(pool);
            relay_pool_destroy(pool);
        }
    }
}

static bool closed(const struct rig *g)
{
    return g->closed;
}

static bool one_eof(const struct rig *g)
{
    return g->peer[0].eof || g->peer[1].eof;
}

static bool all_received(const struct rig *g)
{
    return g->peer[0].received == g->peer[1].goal && g->peer[1].received == g->peer[0].goal;
}

static bool both_eof(const struct rig *g)
{
    return g->closed && g->peer[0].eof && g->peer[1].eof;
}

static bool over_for_somebody(const struct rig *g)
{
    return g->closed && (one_eof(g) || g->peer[0].error || g->peer[1].error);
}

/* Peer `to` has got all that was sent to it, and then a reset; never a clean end. */
static void expect_reset_after(struct rig *g, unsigned to, uint64_t bytes)
{
    rig_until(g, over_for_somebody);
    assert_int_equal(g->status, RELAY_RESET);
    assert_int_equal(g->peer[to].received, bytes);
    assert_int_equal(g->peer[to].error, ECONNRESET);
    assert_false(g->peer[to].eof);
}

static void half_close(struct rig *g, unsigned from)
{
    g->peer[from].goal = MIB + 1;
    g->peer[from].fin = true;
    rig_until(g, one_eof);
    assert_true(g->peer[!from].eof);
    assert_int_equal(g->peer[!from].received, MIB + 1);
    assert_true(relay_half_closed(&g->r));
    assert_int_equal(g->status, RELAY_IDLE);

    /* The other direction does not notice. */
    g->peer[!from].goal = 3 * MIB + 5;
    rig_until(g, all_received);
    assert_false(g->peer[from].eof);
    assert_true(relay_half_closed(&g->r));
    g->peer[!from].fin = true;
    rig_until(g, both_eof);
    assert_int_equal(g->status, RELAY_DONE);
    assert_int_equal(g->peer[0].error | g->peer[1].error, 0);
}

static void a_half_close_stays_a_half_close(void **state)
{
    (void)state;
    each_way(half_close, 0, MIB);
    each_way(half_close, 16 * 1024, 0);
}

static void nothing_but_ends(struct rig *g, unsigned from)
{
    g->peer[from].fin = true;
    rig_until(g, one_eof);
    assert_true(relay_half_closed(&g->r));
    g->peer[!from].fin = true;
    rig_until(g, both_eof);
    assert_int_equal(g->status, RELAY_DONE);
    assert_false(relay_half_closed(&g->r));
    assert_int_equal(g->r.dir[0].bytes + g->r.dir[1].bytes, 0);
}

static void two_fins_without_a_byte_end_in_order(void **state)
{
    (void)state;
    each_way(nothing_but_ends, 0, MIB);
}

static void end_behind_backlog(struct rig *g, unsigned from)
{
    g->peer[from].goal = 2 * MIB;
    g->peer[from].fin = true;
    g->peer[!from].read_max = 0;
    rig_settle(g);
    assert_false(relay_half_closed(&g->r));
    g->peer[!from].read_max = 30000;
    rig_until(g, one_eof);
    assert_int_equal(g->peer[!from].received, 2 * MIB);
    assert_int_equal(g->peer[!from].error, 0);
}

static void a_fin_waits_behind_the_whole_backlog(void **state)
{
    (void)state;
    each_way(end_behind_backlog, 32 * 1024, MIB);
    each_way(end_behind_backlog, 32 * 1024, 0);
}

/* The edges of what came during a handshake are long over when the relay begins. */
static void forgotten_edges(struct rig *g, unsigned from)
{
    struct epoll_event ev[4];

    g->peer[from].goal = 500;
    g->peer[from].fin = true;
    while (!g->peer[from].fin_sent)
        assert_true(peer_write(g, from));
    await(g, from, POLLIN | POLLRDHUP);
    while (epoll_wait(g->epoll, ev, 4, 0) > 0)
        ;
    relay_init(&g->r, g->r.fd[0], g->r.fd[1]);
    rig_until(g, one_eof);
    assert_true(g->peer[!from].eof);
    assert_int_equal(g->peer[!from].received, 500);
}

static void a_fin_from_before_the_relay_is_passed_on(void **state)
{
    (void)state;
    each_way(forgotten_edges, 0, MIB);
    each_way(forgotten_edges, 0, 0);
}

/* Data and reset are there together when the relay looks for the first time. */
static void reset_at_once(struct rig *g, unsigned from)
{
    g->peer[from].goal = 20000;
    while (g->peer[from].sent < 20000)
        assert_true(peer_write(g, from));
    peer_flush(&g->peer[from]);
    peer_reset(&g->peer[from]);
    await(g, from, POLLERR);
    expect_reset_after(g, !from, 20000);
}

static void what_was_sent_before_a_reset_arrives_before_it(void **state)
{
    (void)state;
    each_way(reset_at_once, 0, MIB);
    each_way(reset_at_once, 0, 0);
}

/* The receiver is asleep and everything between is full when the sender dies. */
static void reset_behind_backlog(struct rig *g, unsigned from)
{
    g->peer[from].goal = 4 * MIB;
    g->peer[!from].read_max = 0;
    rig_settle(g);
    /* What the relay's socket has acknowledged was sent; what it has not goes down with the sender.
     */
    uint64_t got_through = g->peer[from].sent - (uint64_t)queued(g->peer[from].fd);

    peer_reset(&g->peer[from]);
    await(g, from, POLLERR);
    rig_settle(g);
    assert_int_equal(g->status, RELAY_IDLE); /* not over: there is somebody to deliver to */
    assert_false(g->closed);
    g->peer[!from].read_max = 30000;
    expect_reset_after(g, !from, got_through);
}

static void a_reset_waits_behind_the_whole_backlog(void **state)
{
    (void)state;
    each_way(reset_behind_backlog, 32 * 1024, MIB);
    each_way(reset_behind_backlog, 32 * 1024, 0);
}

/* The receiver dies under a flood: its sender must learn, and by a reset. */
static void receiver_dies(struct rig *g, unsigned from)
{
    g->peer[from].goal = 64 * MIB;
    g->peer[from].fin = true;
    while (g->peer[!from].received < MIB)
        if (!rig_turn(g))
            assert_true(rig_wait(g, STALL_MS));
    peer_reset(&g->peer[!from]);
    rig_until(g, over_for_somebody);
    assert_int_equal(g->status, RELAY_RESET);
    assert_true(g->peer[from].error == ECONNRESET || g->peer[from].error == EPIPE);
    assert_false(g->peer[from].eof);
}

static void a_receivers_reset_reaches_its_sender(void **state)
{
    (void)state;
    each_way(receiver_dies, 0, MIB);
}

/* Bytes both ways in flight, one side asleep; then it dies. The other gets what the dead one had
 * sent. */
static void dies_with_bytes_both_ways(struct rig *g, unsigned from)
{
    g->peer[!from].goal = 4 * MIB;
    g->peer[from].read_max = 0;
    rig_settle(g);
    g->peer[!from].goal = g->peer[!from].sent;
    g->peer[!from].read_max = 0;
    g->peer[from].goal = 10000;
    while (g->peer[from].sent < 10000)
        assert_true(peer_write(g, from));
    peer_flush(&g->peer[from]);
    peer_reset(&g->peer[from]);
    await(g, from, POLLERR);
    g->peer[!from].read_max = 3000;
    expect_reset_after(g, !from, 10000);
}

static void a_reset_with_bytes_both_ways(void **state)
{
    (void)state;
    each_way(dies_with_bytes_both_ways, 32 * 1024, MIB);
}

/* A reset after a FIN of the same side: the direction had ended in order, the connection has not.
 */
static void reset_after_fin(struct rig *g, unsigned from)
{
    g->peer[from].goal = 1000;
    g->peer[from].fin = true;
    rig_until(g, one_eof);
    assert_true(relay_half_closed(&g->r));
    g->peer[!from].goal = 64 * MIB; /* it must be noticed by writing */
    peer_reset(&g->peer[from]);
    rig_until(g, closed);
    assert_int_equal(g->status, RELAY_RESET);
}

static void a_reset_after_a_fin_is_a_reset(void **state)
{
    (void)state;
    each_way(reset_after_fin, 0, MIB);
}

/*
 * The relay writes to a side that is dead before it has been told: send() takes the error away, and
 * recv() then says 0 as if a FIN had come.
 */
static void error_taken_by_send(struct rig *g, unsigned from)
{
    uint8_t some_bytes[100] = {0};
    char c;

    g->deaf = true;
    rig_pump(g); /* the first one looks at everything, and finds nothing */
    assert_int_equal(send(g->peer[!from].fd, "last words", 10, 0), 10);
    peer_flush(&g->peer[!from]);
    peer_reset(&g->peer[!from]);
    await(g, !from, POLLERR);
    assert_int_equal(send(g->peer[from].fd, some_bytes, sizeof(some_bytes), 0), 100);
    await(g, from, POLLIN);

    relay_event(&g->r, from, EPOLLIN);
    enum relay_status status = relay_pump(&g->r, g->pool);

    assert_int_equal(status, RELAY_RESET);
    assert_true(g->r.dead[!from]);
    assert_false(g->r.dir[!from].fin_sent);
    assert_int_equal(relay_pump(&g->r, g->pool), RELAY_RESET);
    /* Nothing but its last words has gone to the survivor, least of all a FIN. */
    peer_flush(&(struct peer){.fd = g->r.fd[from]});
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(recv(g->peer[from].fd, &c, 1, 0), 1);
    assert_int_equal(recv(g->peer[from].fd, &c, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    rig_close_relay(g, false);
    assert_int_equal(recv(g->peer[from].fd, &c, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
}

static void an_error_taken_by_send_is_not_a_fin(void **state)
{
    (void)state;
    each_way(error_taken_by_send, 0, MIB);
    each_way(error_taken_by_send, 0, 0);
}

static void both_die(struct rig *g, unsigned from)
{
    (void)from;
    g->peer[0].goal = g->peer[1].goal = 64 * MIB;
    while (g->peer[0].received < MIB || g->peer[1].received < MIB)
        if (!rig_turn(g))
            assert_true(rig_wait(g, STALL_MS));
    peer_reset(&g->peer[0]);
    peer_reset(&g->peer[1]);
    rig_until(g, closed);
    assert_int_equal(g->status, RELAY_RESET);
}

static void both_sides_may_die_at_once(void **state)
{
    (void)state;
    each_way(both_die, 0, MIB);
}

/* Full pipe, full stash, and the owner gives up: all of it goes back. */
static void given_up(struct rig *g, unsigned from)
{
    g->peer[from].goal = g->peer[!from].goal = 8 * MIB;
    g->peer[0].read_max = g->peer[1].read_max = 0;
    rig_settle(g);
    assert_true(g->r.dir[0].pipe || g->r.dir[0].stash);
    relay_finish(&g->r, g->pool);
    assert_pool_idle(g->pool);
    relay_finish(&g->r, g->pool);
    assert_pool_idle(g->pool);

    /* And no pipe has bytes of this flow in it for the next one. */
    struct relay_pipe *pipes[4];
    char c;

    for (unsigned i = 0; i < 4; i++) {
        pipes[i] = relay_pipe_borrow(g->pool);
        assert_non_null(pipes[i]);
        assert_int_equal(read(pipes[i]->fd[0], &c, 1), -1);
        assert_int_equal(errno, EAGAIN);
    }
    for (unsigned i = 0; i < 4; i++)
        relay_pipe_return(g->pool, pipes[i]);
}

static void an_abandoned_relay_gives_everything_back(void **state)
{
    (void)state;
    each_way(given_up, 32 * 1024, MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_half_close_stays_a_half_close),
        cmocka_unit_test(two_fins_without_a_byte_end_in_order),
        cmocka_unit_test(a_fin_waits_behind_the_whole_backlog),
        cmocka_unit_test(a_fin_from_before_the_relay_is_passed_on),
        cmocka_unit_test(what_was_sent_before_a_reset_arrives_before_it),
        cmocka_unit_test(a_reset_waits_behind_the_whole_backlog),
        cmocka_unit_test(a_receivers_reset_reaches_its_sender),
        cmocka_unit_test(a_reset_with_bytes_both_ways),
        cmocka_unit_test(a_reset_after_a_fin_is_a_reset),
        cmocka_unit_test(an_error_taken_by_send_is_not_a_fin),
        cmocka_unit_test(both_sides_may_die_at_once),
        cmocka_unit_test(an_abandoned_relay_gives_everything_back),
    };

    return cmocka_run_group_tests_name("relay ends", tests, ignore_sigpipe, NULL);
}
