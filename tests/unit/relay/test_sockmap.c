/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay/sockmap.c over the real sockmap: no byte is lost, doubled or out of order, however the
 * peers write, read, stall and end; and which direction goes into the sockmap, and out of it.
 */
#include <pthread.h>

#include "rig.h"

#include "bpf/sockmap.h"

static struct fastpath forced, adaptive;
static char why[200];

#define SKIP_UNLESS_POSSIBLE()                   \
    do {                                         \
        if (!forced.ops) {                       \
            print_message("skipped: %s\n", why); \
            skip();                              \
        }                                        \
    } while (0)

/* Less than in real life is bulk, so that the adaptive one goes in and out often. */
static int open_maps(void **state)
{
    struct sockmap_options o = {.streams = 4096};

    if (ignore_sigpipe(state) < 0)
        return -1;
    if (bpf_sockmap_open(&o, 0, &forced, why, sizeof(why)) < 0)
        return 0;
    o.burst_time = 10000000;
    o.burst_bytes = 256 * KIB;
    return bpf_sockmap_open(&o, 0, &adaptive, why, sizeof(why));
}

static int close_maps(void **state)
{
    (void)state;
    bpf_sockmap_close(&forced);
    bpf_sockmap_close(&adaptive);
    return 0;
}

static struct relay_pool *sockmap_pool(size_t stash, enum relay_choice choice)
{
    struct relay_pool *p = make_pool(4, stash, choice);

    relay_pool_use(p, choice == RELAY_CHOICE_SOCKMAP ? &forced : &adaptive);
    return p;
}

static struct fastpath_counters counters(const struct relay_pool *p)
{
    struct fastpath_counters c;

    p->fast->ops->counters(p->fast->ctx, &c);
    return c;
}

static bool all_there(const struct rig *g)
{
    return g->peer[1].received == g->peer[0].goal && g->peer[0].received == g->peer[1].goal;
}

static bool all_there_or_reset(const struct rig *g)
{
    return all_there(g) || g->status == RELAY_RESET;
}

static bool both_ended(const struct rig *g)
{
    return g->closed && g->peer[0].eof && g->peer[1].eof;
}

/* Every byte came, and the relay's own count agrees. */
static void assert_whole(const struct rig *g)
{
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(g->peer[i].error, 0);
        assert_int_equal(g->peer[i].sent, g->peer[i].goal);
        assert_int_equal(g->peer[!i].received, g->peer[i].sent);
        assert_int_equal(g->r.dir[i].bytes, g->peer[i].sent);
    }
}

static void finish(struct rig *g)
{
    struct relay_pool *pool = g->pool;

    g->peer[0].fin = g->peer[1].fin = true;
    rig_until(g, both_ended);
    assert_whole(g);
    rig_close(g);
    assert_pool_idle(pool);
}

/* Both write all the time, in random sizes, before the relay has begun too. */
static void test_full_duplex(void **state)
{
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_SOCKMAP);
    struct fastpath_counters before = counters(p), after;

    for (unsigned k = 0; k < 4; k++) {
        rig_open(&g, p, k & 1 ? 16 * KIB : 0);
        g.seed = k;
        for (unsigned i = 0; i < 2; i++) {
            g.peer[i].goal = k & 2 ? 2 * MIB : 16 * MIB;
            g.peer[i].write_max = k & 2 ? 3000 : PIECE_MAX;
            peer_write(&g, i);
            peer_write(&g, i);
        }
        rig_until(&g, all_there);
        finish(&g);
    }
    after = counters(p);
    assert_int_equal(after.joined - before.joined, 8);
    assert_int_equal(after.lost, 0);
    assert_true(after.redirected - before.redirected > MIB);
    assert_int_equal(after.left, before.left);
    relay_pool_destroy(p);
}

/* A quiet relay: no message wakes its owner. */
static void test_quiet(void **state)
{
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_SOCKMAP);
    rig_open(&g, p, 0);
    rig_settle(&g);
    assert_true(relay_quiet(&g.r.dir[0]) && relay_quiet(&g.r.dir[1]));
    assert_int_equal(relay_shown_engine(&g.r), RELAY_SOCKMAP);
    g.deaf = true; /* nobody looks at the relay any more */
    for (unsigned k = 0; k < 200; k++) {
        struct epoll_event ev;

        g.peer[0].goal += 100;
        g.peer[1].goal += 1000;
        while (!all_there(&g)) {
            struct pollfd q[2] = {{.fd = g.peer[0].fd, .events = POLLIN},
                                  {.fd = g.peer[1].fd, .events = POLLIN}};

            peer_write(&g, 0);
            peer_write(&g, 1);
            assert_true(poll(q, 2, STALL_MS) > 0);
            peer_read(&g, 0);
            peer_read(&g, 1);
        }
        assert_int_equal(epoll_wait(g.epoll, &ev, 1, 0), 0);
    }
    assert_int_equal(relay_bytes(&g.r, p, 0), 20000);
    assert_int_equal(relay_bytes(&g.r, p, 1), 200000);
    assert_true(relay_kernel_active(&g.r, p) > 0);
    g.deaf = false;
    finish(&g);
    relay_pool_destroy(p);
}

/* Receivers that stop reading, now one, now the other, now both, with and without a stash. */
static void test_stalls(void **state)
{
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    struct fastpath_counters before, after;

    forced.ops->counters(forced.ctx, &before);
    for (unsigned k = 0; k < 4; k++) {
        p = sockmap_pool(k & 1 ? 0 : MIB, RELAY_CHOICE_SOCKMAP);
        rig_open(&g, p, k & 2 ? 16 * KIB : 0);
        g.seed = 77 + k;
        g.peer[0].write_max = 5000;
        rig_settle(&g); /* in the sockmap before the first byte */
        g.peer[0].goal = g.peer[1].goal = 8 * MIB;
        while (!all_there(&g)) {
            size_t sleeps = some(&g, 300);

            for (unsigned i = 0; i < 2; i++)
                g.peer[i].read_max = some(&g, 3) == 1 ? 0 : some(&g, PIECE_MAX);
            for (size_t n = 0; n < sleeps; n++) {
                if (!rig_turn(&g))
                    rig_wait(&g, 1);
            }
        }
        g.peer[0].read_max = g.peer[1].read_max = PIECE_MAX;
        finish(&g);
        relay_pool_destroy(p);
    }
    forced.ops->counters(forced.ctx, &after);
    assert_true(after.passed > before.passed && after.demoted > before.demoted);
    assert_int_equal(after.lost, 0);
}

static bool sender_done(const struct rig *g)
{
    return g->peer[0].fin_sent;
}

static bool first_ended(const struct rig *g)
{
    return g->peer[1].eof;
}

/* A FIN behind 32 MiB that a slow reader takes; then the same from the other side, whose connection
 * our FIN has half closed. */
static void test_half_close(void **state)
{
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_SOCKMAP);
    rig_open(&g, p, 0);
    rig_settle(&g);
    for (unsigned i = 0; i < 2; i++) {
        struct peer *from = &g.peer[i];

        from->goal = 32 * MIB;
        from->fin = true;
        g.peer[!i].read_max = 0;
        rig_settle(&g);
        assert_true(from->sent < 32 * MIB && !from->fin_sent);
        g.peer[!i].read_max = 20000;
        if (i == 0) {
            rig_until(&g, sender_done);
            assert_false(g.peer[1].eof);
            rig_until(&g, first_ended);
            assert_int_equal(g.peer[1].received, 32 * MIB);
            assert_true(relay_half_closed(&g.r));
        }
    }
    rig_until(&g, both_ended);
    assert_whole(&g);
    rig_close(&g);
    relay_pool_destroy(p);
}

static bool first_reset(const struct rig *g)
{
    return g->peer[0].error == ECONNRESET;
}

static bool to_be_reset(const struct rig *g)
{
    return g->status == RELAY_RESET;
}

static bool second_has_sent(const struct rig *g)
{
    return g->peer[0].received == g->peer[1].goal;
}

static bool second_reset(const struct rig *g)
{
    return g->peer[1].error == ECONNRESET;
}

/* Either side is reset: quiet, or with bytes that the other does not take. */
static void test_reset(void **state)
{
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_SOCKMAP);
    for (unsigned k = 0; k < 4; k++) {
        unsigned dies = k & 1;

        rig_open(&g, p, 0);
        rig_settle(&g);
        if (k & 2) {
            /* The survivor pushes; the one that dies has stopped reading. */
            g.peer[!dies].goal = 64 * MIB;
            g.peer[dies].read_max = 0;
        } else {
            g.peer[dies].goal = 100000;
        }
        rig_settle(&g);
        if (!(k & 2))
            assert_int_equal(g.peer[!dies].received, 100000);
        peer_reset(&g.peer[dies]);
        g.peer[!dies].goal = g.peer[!dies].sent;
        rig_until(&g, dies ? first_reset : second_reset);
        rig_close(&g);
        assert_pool_idle(p);
    }
    relay_pool_destroy(p);
}

/* What a side sent before it was reset arrives, as far as it was acknowledged. */
static void test_reset_after_bytes(void **state)
{
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_SOCKMAP);
    for (unsigned k = 0; k < 20; k++) {
        rig_open(&g, p, 0);
        rig_settle(&g);
        g.peer[1].read_max = k & 1 ? 0 : PIECE_MAX;
        g.peer[0].goal = 1 + 3000 * k;
        while (g.peer[0].sent < g.peer[0].goal)
            peer_write(&g, 0);
        peer_flush(&g.peer[0]);
        peer_reset(&g.peer[0]);
        g.peer[1].read_max = PIECE_MAX;
        rig_until(&g, second_reset);
        assert_int_equal(g.peer[1].received, g.peer[0].goal);
        rig_close(&g);
    }
    relay_pool_destroy(p);
}

/* A byte out of band goes with the others, at its place. */
static void test_urgent(void **state)
{
    struct relay_pool *p;
    struct rig g;
    uint8_t byte;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_SOCKMAP);
    rig_open(&g, p, 0);
    rig_settle(&g);
    for (unsigned k = 0; k < 100; k++) {
        g.peer[0].goal += 1000;
        while (g.peer[0].sent < g.peer[0].goal)
            peer_write(&g, 0);
        pattern(0, g.peer[0].sent, &byte, 1);
        assert_int_equal(send(g.peer[0].fd, &byte, 1, MSG_OOB | MSG_NOSIGNAL), 1);
        g.peer[0].sent++;
        g.peer[0].goal++;
        if (k % 3 == 0)
            rig_until(&g, all_there);
    }
    rig_until(&g, all_there);
    finish(&g);
    relay_pool_destroy(p);
}

/* One message each way. */
static void round_trip(struct rig *g, size_t size)
{
    g->peer[0].goal += size;
    rig_until(g, all_there);
    g->peer[1].goal += size;
    rig_until(g, all_there);
}

/* Few messages: copied. More: the kernel. Bulk: spliced. Messages again: the kernel again, but it
 * takes more of them. */
static void test_choice(void **state)
{
    struct relay_pool *p;
    struct rig g;
    unsigned n, m;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_AUTO);
    rig_open(&g, p, 0);
    for (n = 0; !relay_quiet(&g.r.dir[0]) || !relay_quiet(&g.r.dir[1]); n++) {
        assert_true(n < 200);
        round_trip(&g, 100);
        for (unsigned i = 0; i < 20; i++)
            rig_turn(&g);
    }
    assert_true(n > 4);
    g.peer[0].goal += 64 * MIB;
    rig_until(&g, all_there);
    assert_int_equal(g.r.dir[0].engine, RELAY_SPLICE);
    assert_int_equal(g.r.dir[1].engine, RELAY_SOCKMAP);
    assert_true(counters(p).left > 0);
    for (m = 0; g.r.dir[0].engine != RELAY_SOCKMAP; m++) {
        assert_true(m < 1000);
        round_trip(&g, 100);
    }
    assert_true(m > n);
    finish(&g);
    assert_int_equal(counters(p).lost, 0);
    relay_pool_destroy(p);
}

/* Large messages, or a choice that says so: not the kernel. */
static void test_not_chosen(void **state)
{
    static const enum relay_choice choices[] = {RELAY_CHOICE_COPY, RELAY_CHOICE_SPLICE};
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_AUTO);
    rig_open(&g, p, 0);
    for (unsigned k = 0; k < 100; k++)
        round_trip(&g, 60000);
    assert_int_not_equal(relay_shown_engine(&g.r), RELAY_SOCKMAP);
    finish(&g);
    relay_pool_destroy(p);
    for (unsigned i = 0; i < 2; i++) {
        p = sockmap_pool(MIB, choices[i]);
        rig_open(&g, p, 0);
        for (unsigned k = 0; k < 100; k++)
            round_trip(&g, 30);
        assert_int_not_equal(relay_shown_engine(&g.r), RELAY_SOCKMAP);
        finish(&g);
        relay_pool_destroy(p);
    }
}

/* Peer 0's bytes from `at` to `end`, in its own time. */
struct writer {
    int fd;
    uint64_t at, end;
    struct rig dice; /* only for some() */
};

static void *write_on(void *ctx)
{
    static uint8_t buf[8 * KIB];
    struct writer *w = ctx;

    while (w->at < w->end) {
        size_t n = 1400 + some(&w->dice, 6000);

        if (n > w->end - w->at)
            n = (size_t)(w->end - w->at);
        pattern(0, w->at, buf, n);
        ssize_t done = send(w->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (done < 0 && errno != EAGAIN)
            break;
        w->at += done > 0 ? (uint64_t)done : 0;
        if (done < 0 || some(&w->dice, 8) == 1)
            usleep(100);
    }
    return NULL;
}

/* Another processor sends: bytes come at any moment of joining and leaving. */
static void test_another_writes(void **state)
{
    struct sockmap_options o = {.streams = 32, .burst_time = 10000000, .burst_bytes = 12 * KIB};
    struct relay_pool *p = make_pool(4, MIB, RELAY_CHOICE_AUTO);
    struct fastpath nervous;
    struct writer w = {.fd = -1};
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    if (bpf_sockmap_open(&o, 0, &nervous, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    relay_pool_use(p, &nervous);
    rig_open(&g, p, 0);
    g.seed = w.dice.seed = 31;
    for (unsigned burst = 0; burst < 150; burst++) {
        pthread_t thread;

        g.r.dir[0].joins = g.r.dir[1].joins = 0; /* as eager as at first */
        for (unsigned n = 0; n < 20; n++)
            round_trip(&g, some(&g, 150));
        w.fd = g.peer[0].fd;
        w.at = g.peer[0].sent;
        w.end = g.peer[0].sent = g.peer[0].goal = w.at + MIB;
        assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
        rig_until(&g, all_there_or_reset);
        if (g.status == RELAY_RESET) /* the thread must not outlive what it writes to */
            shutdown(w.fd, SHUT_RDWR);
        pthread_join(thread, NULL);
        assert_int_not_equal(g.status, RELAY_RESET);
    }
    print_message("joined %llu, left %llu\n", (unsigned long long)counters(p).joined,
                  (unsigned long long)counters(p).left);
    assert_true(counters(p).left > 0);
    assert_int_equal(counters(p).lost, 0);
    finish(&g);
    relay_pool_destroy(p);
    bpf_sockmap_close(&nervous);
}

/* Everything at random: phases of messages, of bulk, of stalls, on a relay that goes in and out. */
static void test_at_random(void **state)
{
    struct relay_pool *p;
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    p = sockmap_pool(MIB, RELAY_CHOICE_AUTO);
    for (unsigned k = 0; k < 6; k++) {
        rig_open(&g, p, k % 3 == 2 ? 16 * KIB : 0);
        g.seed = 4711 + k;
        for (unsigned phase = 0; phase < 8; phase++) {
            unsigned who = (unsigned)some(&g, 2) - 1;

            switch (some(&g, 3)) {
            case 1:
                for (unsigned n = 0; n < 40 + 20 * phase; n++)
                    round_trip(&g, some(&g, 600));
                break;
            case 2:
                g.peer[who].goal += some(&g, 4 * MIB);
                g.peer[who].write_max = some(&g, PIECE_MAX);
                if (some(&g, 2) == 1)
                    g.peer[!who].goal += some(&g, 4 * MIB);
                rig_until(&g, all_there);
                break;
            default:
                g.peer[who].goal += some(&g, 8 * MIB);
                g.peer[!who].read_max = 0;
                for (unsigned n = 0; n < 3000; n++)
                    rig_turn(&g);
                g.peer[!who].read_max = some(&g, PIECE_MAX);
                rig_until(&g, all_there);
            }
        }
        finish(&g);
    }
    print_message("joined %llu, left %llu, demoted %llu\n", (unsigned long long)counters(p).joined,
                  (unsigned long long)counters(p).left, (unsigned long long)counters(p).demoted);
    assert_int_equal(counters(p).lost, 0);
    relay_pool_destroy(p);
}

/* No record is left: it stays with copying, and says so. */
static void test_full(void **state)
{
    struct sockmap_options o = {.streams = 20};
    struct fastpath small;
    struct relay_pool *p = make_pool(4, MIB, RELAY_CHOICE_SOCKMAP);
    struct rig g[12];

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    assert_int_equal(bpf_sockmap_open(&o, 0, &small, why, sizeof(why)), 0);
    relay_pool_use(p, &small);
    for (unsigned i = 0; i < 12; i++) {
        rig_open(&g[i], p, 0);
        g[i].peer[0].goal = 1000;
        rig_until(&g[i], all_there);
    }
    assert_true(counters(p).full > 0);
    for (unsigned i = 0; i < 12; i++) {
        g[i].peer[0].goal = g[i].peer[1].goal = 100000;
        rig_until(&g[i], all_there);
        finish(&g[i]);
    }
    relay_pool_destroy(p);
    bpf_sockmap_close(&small);
}

/* More is waiting than may be: the flow is reset, and counted. */
static void test_overrun(void **state)
{
    struct sockmap_options o = {.streams = 32, .waiting_max = 400000};
    struct fastpath small;
    struct relay_pool *p = make_pool(4, MIB, RELAY_CHOICE_SOCKMAP);
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    if (bpf_sockmap_open(&o, 0, &small, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    relay_pool_use(p, &small);
    rig_open(&g, p, 0);
    rig_settle(&g);
    g.peer[0].goal = 64 * MIB;
    g.peer[1].read_max = 0;
    rig_until(&g, to_be_reset);
    assert_int_equal(counters(p).overrun, 1);
    rig_close(&g);
    relay_pool_destroy(p);
    bpf_sockmap_close(&small);
}

/* Before that the sender is stopped, as if the receive buffer were full; and then nothing is lost,
 * although the buffer has room for more and packets were let go. */
static void test_brake(void **state)
{
    /* What comes while we have the socket's lock meets the brake before it is counted: as much as
     * its buffers hold. */
    struct sockmap_options o = {.streams = 32, .brake = 200000, .waiting_max = 800000};
    struct fastpath small;
    struct relay_pool *p = make_pool(4, MIB, RELAY_CHOICE_SOCKMAP);
    struct rig g;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    if (bpf_sockmap_open(&o, 0, &small, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    relay_pool_use(p, &small);
    rig_open(&g, p, 0);
    rig_settle(&g);
    g.peer[0].goal = 16 * MIB;
    g.peer[1].read_max = 0;
    while (g.status != RELAY_RESET && (rig_turn(&g) || rig_wait(&g, 100)))
        ;
    assert_int_equal(counters(p).overrun, 0);
    assert_true(counters(p).demoted > 0);
    assert_true(g.peer[0].sent < g.peer[0].goal);
    /* The other way goes on: its ACKs are not let go. */
    g.peer[1].goal = 3 * MIB;
    rig_until(&g, second_has_sent);
    g.peer[1].read_max = PIECE_MAX;
    rig_until(&g, all_there);
    assert_int_equal(counters(p).overrun, 0);
    finish(&g);
    relay_pool_destroy(p);
    bpf_sockmap_close(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_duplex), cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_stalls),      cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_reset),       cmocka_unit_test(test_reset_after_bytes),
        cmocka_unit_test(test_urgent),      cmocka_unit_test(test_choice),
        cmocka_unit_test(test_not_chosen),  cmocka_unit_test(test_at_random),
        cmocka_unit_test(test_full),        cmocka_unit_test(test_overrun),
        cmocka_unit_test(test_brake),       cmocka_unit_test(test_another_writes),
    };

    return cmocka_run_group_tests_name("relay sockmap", tests, open_maps, close_maps);
}
