/* SPDX-License-Identifier: GPL-2.0-or-later */
/* relay/relay.c and its engines: bytes, back-pressure, memory. The ends are in test_ends.c. */
#include "tests/unit/relay/rig.h"

static const enum relay_choice choices[] = {RELAY_CHOICE_AUTO, RELAY_CHOICE_COPY,
                                            RELAY_CHOICE_SPLICE};
#define N_CHOICES (sizeof(choices) / sizeof(choices[0]))

static bool finished(const struct rig *g)
{
    return g->closed && g->peer[0].eof && g->peer[1].eof;
}

static bool all_received(const struct rig *g)
{
    return g->peer[0].received == g->peer[1].goal && g->peer[1].received == g->peer[0].goal;
}

/* Both ways at once to the last byte and FIN. */
static void exchange(struct rig *g, uint64_t up, uint64_t down)
{
    g->peer[0].goal = up;
    g->peer[1].goal = down;
    g->peer[0].fin = g->peer[1].fin = true;
    rig_until(g, finished);
    assert_true(all_received(g));
    assert_int_equal(g->status, RELAY_DONE);
    assert_int_equal(g->peer[0].error | g->peer[1].error, 0);
    assert_int_equal(g->r.dir[0].bytes, up);
    assert_int_equal(g->r.dir[1].bytes, down);
}

static void every_byte_exact_in_both_directions_at_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CHOICES; i++) {
        struct relay_pool *pool = make_pool(4, MIB, choices[i]);
        const struct relay_counters *c = relay_pool_counters(pool);
        struct rig g;

        rig_open(&g, pool, 0);
        exchange(&g, 12 * MIB + 345, 9 * MIB + 7);
        assert_int_equal(c->bytes_copied + c->bytes_spliced, 21 * MIB + 352);
        if (choices[i] == RELAY_CHOICE_COPY)
            assert_int_equal(c->bytes_spliced + c->to_splice, 0);
        if (choices[i] == RELAY_CHOICE_SPLICE) /* but what came while it looked for a FIN */
            assert_true(c->bytes_copied <= 4 * RELAY_CHUNK);
        if (choices[i] == RELAY_CHOICE_AUTO)
            assert_true(c->to_splice >= 1 && c->bytes_spliced > c->bytes_copied);
        assert_pool_idle(pool);
        rig_close(&g);
        relay_pool_destroy(pool);
    }
}

/* Small kernel buffers make short writes everywhere; small reads and writes make short reads. */
static void exact_with_short_reads_and_writes(void **state)
{
    static const int buffers[] = {2304, 4608, 16 * 1024};

    (void)state;
    for (size_t i = 0; i < N_CHOICES * 3; i++) {
        struct relay_pool *pool = make_pool(4, MIB, choices[i / 3]);
        struct rig g;

        rig_open(&g, pool, buffers[i % 3]);
        g.seed = i;
        g.peer[0].write_max = 5000;
        g.peer[1].write_max = 300;
        g.peer[0].read_max = 700;
        g.peer[1].read_max = 3000;
        exchange(&g, 300 * KIB + 1, 150 * KIB + 3);
        rig_close(&g);
        relay_pool_destroy(pool);
    }
}

/* Bytes may wait in the pipe and in the stash of the same direction when the engine changes. */
static void an_engine_change_in_mid_flow_keeps_the_order(void **state)
{
    struct relay_pool *pool = make_pool(4, MIB, RELAY_CHOICE_AUTO);
    const struct relay_counters *c = relay_pool_counters(pool);
    struct rig g;

    (void)state;
    rig_open(&g, pool, 32 * 1024);
    g.flip = true;
    g.peer[1].read_max = 40000;
    exchange(&g, 6 * MIB + 11, 5 * MIB + 13);
    assert_true(c->bytes_copied > MIB && c->bytes_spliced > MIB);
    assert_pool_idle(pool);
    rig_close(&g);
    relay_pool_destroy(pool);
}

/* `n` messages of 64 bytes each way, each the answer to the one before. */
static void ping_pong(struct rig *g, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned side = 0; side < 2; side++) {
            g->peer[side].goal += 64;
            rig_until(g, all_received);
        }
    }
}

static void small_messages_are_copied_and_bulk_is_spliced_and_back(void **state)
{
    struct relay_pool *pool = make_pool(4, MIB, RELAY_CHOICE_AUTO);
    const struct relay_counters *c = relay_pool_counters(pool);
    struct rig g;

    (void)state;
    rig_open(&g, pool, 0);
    g.peer[0].write_max = g.peer[1].write_max = 64;
    ping_pong(&g, 300);
    assert_int_equal(c->to_splice + c->bytes_spliced, 0);
    assert_int_equal(relay_shown_engine(&g.r), RELAY_COPY);

    g.peer[0].write_max = PIECE_MAX;
    g.peer[0].goal += 8 * MIB;
    rig_until(&g, all_received);
    assert_int_equal(c->to_splice, 1);
    assert_int_equal(relay_shown_engine(&g.r), RELAY_SPLICE);
    assert_int_equal(g.r.dir[1].engine, RELAY_COPY); /* chosen for each direction by itself */

    g.peer[0].write_max = 64;
    ping_pong(&g, RELAY_STREAK_DOWN + 2);
    assert_int_equal(c->to_copy, 1);
    assert_int_equal(relay_shown_engine(&g.r), RELAY_COPY);
    rig_close(&g);
    relay_pool_destroy(pool);
}

/* Everything the kernel and the relay may hold between a sender and a receiver that does not read.
 */
static void a_receiver_that_does_not_read_stops_the_sender(void **state)
{
    enum { BUFFER = 64 * 1024 };
    /* The kernel doubles each of four buffers, and a receiver's may hold twice that in small
     * frames. */
    const uint64_t kernel = 4 * 4 * BUFFER;

    (void)state;
    for (size_t i = 0; i < N_CHOICES; i++) {
        for (unsigned from = 0; from < 2; from++) {
            struct relay_pool *pool = make_pool(4, MIB, choices[i]);
            uint64_t ours = choices[i] == RELAY_CHOICE_COPY ? RELAY_CHUNK : RELAY_PIPE_SIZE;
            struct rig g;

            rig_open(&g, pool, BUFFER);
            g.peer[from].goal = 64 * MIB;
            g.peer[!from].read_max = 0;
            rig_settle(&g);
            uint64_t stuck = g.peer[from].sent;

            assert_in_range(stuck, BUFFER, kernel + ours);
            assert_true(g.stash_peak <= MIB);
            assert_int_equal(g.status, RELAY_IDLE);
            rig_settle(&g);
            assert_int_equal(g.peer[from].sent, stuck);

            /* And the other direction goes on meanwhile. */
            g.peer[!from].goal = 2 * MIB;
            while (g.peer[from].received < 2 * MIB)
                if (!rig_turn(&g))
                    assert_true(rig_wait(&g, STALL_MS));

            /* Everything is still there. */
            g.peer[from].goal = stuck + MIB;
            g.peer[!from].read_max = PIECE_MAX;
            rig_until(&g, all_received);
            assert_pool_idle(pool);
            rig_close(&g);
            relay_pool_destroy(pool);
        }
    }
}

enum { CROWD = 12 };

/* Many receivers that do not read share one budget: it holds, and nobody's bytes suffer. */
static void the_stash_budget_holds_for_all_relays_together(void **state)
{
    const size_t budget = 3 * RELAY_CHUNK + 100;
    struct relay_pool *pool = make_pool(0, budget, RELAY_CHOICE_COPY);
    const struct relay_counters *c = relay_pool_counters(pool);
    struct rig *g = calloc(CROWD, sizeof(*g));

    (void)state;
    assert_non_null(g);
    for (unsigned i = 0; i < CROWD; i++) {
        rig_open(&g[i], pool, 16 * 1024);
        g[i].peer[0].goal = MIB;
        g[i].peer[1].read_max = 0;
        rig_settle(&g[i]);
        assert_true(g[i].stash_peak <= budget);
    }
    assert_true(pool->stash_used > 0);
    assert_true(c->no_stash > 0);
    for (unsigned i = 0; i < CROWD; i++) {
        g[i].peer[1].read_max = PIECE_MAX;
        g[i].peer[0].fin = g[i].peer[1].fin = true;
        rig_until(&g[i], finished);
        assert_true(all_received(&g[i]));
        assert_true(g[i].stash_peak <= budget);
        rig_close(&g[i]);
    }
    assert_pool_idle(pool);
    relay_pool_destroy(pool);
    free(g);
}

static void without_a_stash_bytes_wait_in_the_senders_socket(void **state)
{
    struct relay_pool *pool = make_pool(0, 0, RELAY_CHOICE_COPY);
    const struct relay_counters *c = relay_pool_counters(pool);
    struct rig g;

    (void)state;
    rig_open(&g, pool, 16 * 1024);
    g.peer[1].read_max = 5000;
    exchange(&g, 3 * MIB + 1, 2 * MIB + 2);
    assert_true(c->no_stash > 0);
    assert_int_equal(g.stash_peak, 0);
    rig_close(&g);
    relay_pool_destroy(pool);
}

static void without_pipes_splice_falls_back_to_copy(void **state)
{
    (void)state;
    for (unsigned stash = 0; stash < 2; stash++) {
        struct relay_pool *pool = make_pool(0, stash * MIB, RELAY_CHOICE_SPLICE);
        const struct relay_counters *c = relay_pool_counters(pool);
        struct rig g;

        rig_open(&g, pool, 32 * 1024);
        g.peer[1].read_max = 9000;
        exchange(&g, 3 * MIB + 5, 2 * MIB + 1);
        assert_true(c->no_pipe > 0);
        assert_int_equal(c->bytes_spliced, 0);
        assert_int_equal(c->bytes_copied, 5 * MIB + 6);
        rig_close(&g);
        relay_pool_destroy(pool);
    }
}

/* One pipe for two directions, both full: one has it, the other copies; both are exact. */
static void the_last_pipe_is_fought_over_without_harm(void **state)
{
    struct relay_pool *pool = make_pool(1, MIB, RELAY_CHOICE_SPLICE);
    const struct relay_counters *c = relay_pool_counters(pool);
    struct rig g;

    (void)state;
    rig_open(&g, pool, 16 * 1024);
    g.peer[0].goal = g.peer[1].goal = 2 * MIB;
    g.peer[0].read_max = g.peer[1].read_max = 0;
    rig_settle(&g);
    assert_int_equal((g.r.dir[0].pipe != NULL) + (g.r.dir[1].pipe != NULL), 1);
    assert_int_equal((g.r.dir[0].stash != NULL) + (g.r.dir[1].stash != NULL), 1);
    g.peer[0].read_max = g.peer[1].read_max = 50000;
    g.peer[0].fin = g.peer[1].fin = true;
    rig_until(&g, finished);
    assert_true(all_received(&g));
    assert_true(c->no_pipe > 0 && c->bytes_spliced > 0 && c->bytes_copied > 0);
    assert_pool_idle(pool);
    rig_close(&g);
    relay_pool_destroy(pool);
}

static void an_idle_relay_holds_neither_pipe_nor_stash(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CHOICES; i++) {
        struct relay_pool *pool = make_pool(4, MIB, choices[i]);
        struct rig g;

        rig_open(&g, pool, 0);
        g.peer[0].goal = g.peer[1].goal = 5 * MIB;
        rig_until(&g, all_received);
        assert_pool_idle(pool);
        for (unsigned k = 0; k < 2; k++) {
            assert_null(g.r.dir[k].pipe);
            assert_null(g.r.dir[k].stash);
        }
        assert_int_equal(relay_pump(&g.r, pool), RELAY_IDLE);
        assert_pool_idle(pool);
        rig_close(&g);
        relay_pool_destroy(pool);
    }
}

/*
 * The one that floods gets its turn, says that it could go on, and others come in between. More
 * than a turn can only wait in a socket whose buffers are larger than an ordinary user may make
 * them.
 */
static void a_turn_is_bounded(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CHOICES; i++) {
        struct relay_pool *pool = make_pool(4, MIB, choices[i]);
        int huge = 32 * MIB;
        unsigned turns = 0;
        struct rig g;

        rig_open(&g, pool, 0);
        if (setsockopt(g.r.fd[0], SOL_SOCKET, SO_RCVBUFFORCE, &huge, sizeof(huge)) < 0 ||
            setsockopt(g.peer[0].fd, SOL_SOCKET, SO_SNDBUFFORCE, &huge, sizeof(huge)) < 0 ||
            setsockopt(g.r.fd[1], SOL_SOCKET, SO_SNDBUFFORCE, &huge, sizeof(huge)) < 0) {
            rig_close(&g);
            relay_pool_destroy(pool);
            print_message("skipped: needs root (SO_RCVBUFFORCE)\n");
            skip();
        }
        g.peer[0].goal = 32 * MIB;
        while (g.peer[0].sent < g.peer[0].goal &&
               (peer_write(&g, 0) || poll(&(struct pollfd){g.peer[0].fd, POLLOUT, 0}, 1, 300) > 0))
            ;
        int waiting = 0;

        assert_int_equal(ioctl(g.r.fd[0], SIOCINQ, &waiting), 0);
        assert_true(waiting > (int)RELAY_TURN + (int)RELAY_PIPE_SIZE);
        do {
            uint64_t before = g.r.dir[0].bytes;

            g.status = relay_pump(&g.r, pool);
            assert_true(g.r.dir[0].bytes - before <= RELAY_TURN + RELAY_PIPE_SIZE);
            if (turns++ == 0)
                assert_int_equal(g.status, RELAY_MORE);
        } while (g.status == RELAY_MORE);
        assert_true(turns > 1);
        rig_close(&g);
        relay_pool_destroy(pool);
    }
}

/* A byte of urgent data stays in its place in the stream, and nothing behind it is left lying. */
static void urgent_data_stays_in_the_stream(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CHOICES; i++) {
        struct relay_pool *pool = make_pool(4, MIB, choices[i]);
        struct rig g;
        uint8_t text[3000];

        pattern(0, 0, text, sizeof(text));
        rig_open(&g, pool, 0);
        rig_settle(&g);
        assert_int_equal(send(g.peer[0].fd, text, 1000, 0), 1000);
        assert_int_equal(send(g.peer[0].fd, text + 1000, 1, MSG_OOB), 1);
        assert_int_equal(send(g.peer[0].fd, text + 1001, 1999, 0), 1999);
        peer_flush(&g.peer[0]);
        g.peer[0].sent = g.peer[0].goal = sizeof(text);
        rig_until(&g, all_received);

        /* And bulk after it. */
        g.peer[0].goal += 3 * MIB;
        rig_until(&g, all_received);
        rig_close(&g);
        relay_pool_destroy(pool);
    }
}

static void engines_have_names(void **state)
{
    (void)state;
    assert_string_equal(relay_engine_name(RELAY_COPY), "copy");
    assert_string_equal(relay_engine_name(RELAY_SPLICE), "splice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_exact_in_both_directions_at_once),
        cmocka_unit_test(exact_with_short_reads_and_writes),
        cmocka_unit_test(an_engine_change_in_mid_flow_keeps_the_order),
        cmocka_unit_test(small_messages_are_copied_and_bulk_is_spliced_and_back),
        cmocka_unit_test(a_receiver_that_does_not_read_stops_the_sender),
        cmocka_unit_test(the_stash_budget_holds_for_all_relays_together),
        cmocka_unit_test(without_a_stash_bytes_wait_in_the_senders_socket),
        cmocka_unit_test(without_pipes_splice_falls_back_to_copy),
        cmocka_unit_test(the_last_pipe_is_fought_over_without_harm),
        cmocka_unit_test(an_idle_relay_holds_neither_pipe_nor_stash),
        cmocka_unit_test(a_turn_is_bounded),
        cmocka_unit_test(urgent_data_stays_in_the_stream),
        cmocka_unit_test(engines_have_names),
    };

    return cmocka_run_group_tests_name("relay", tests, ignore_sigpipe, NULL);
}
