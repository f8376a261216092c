/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp/association.c, udp/table.c: how associations are asked for, refused, and end. */
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "udp_rig.h"

static struct udp_association *the_one(struct rig *r)
{
    struct udp_association *a = udp_find(r->t, 0, &r->client_at);

    assert_non_null(a);
    return a;
}

/* The association's timer expires now. */
static void time_is_up(struct rig *r)
{
    struct udp_association *a = the_one(r);

    assert_true(a->timer.slot != 0);
    assert_int_equal(loop_timer_set(r->d.loop, &a->timer, 1, a->timer.ref), 0);
}

/* The second upstream gives it; the first is not asked again. */
static void test_next_upstream(void **state)
{
    struct rig *r = *state;
    struct addr at, to = rig_addr("127.1.0.1", r->port);
    int second = rig_datagrams("127.0.0.1", &at);

    rig_use_both(r);
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("first"));
    int no = rig_asked(r, 0);

    rig_reply(no, SOCKS5_REP_COMMAND, NULL);
    int yes = rig_asked(r, 1);

    rig_reply(yes, 0, &r->relay_at);
    rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), NULL);
    assert_true(r->all[0].udp_refused_until > loop_now(r->d.loop) + 590000 * MS);
    assert_true(r->all[0].healthy); /* TCP goes by that */
    assert_int_equal(r->n_injected, 0);
    rig_send_from(second, &to, BYTES("other"));
    int again = rig_asked(r, 1);

    assert_true(rig_nobody_asks(r, 0));
    /* The time is over. */
    rig_reply(again, SOCKS5_REP_FAILURE, NULL);
    rig_injected(r, 1);
    r->all[0].udp_refused_until = 0;
    udp_end(r->t, the_one(r));
    rig_send(r, "127.1.0.1", BYTES("first"));
    close(rig_asked(r, 0));
    close(no);
    close(yes);
    close(again);
    close(second);
}

/* Nobody gives it: every destination is told once; then rarely; then it is tried again. */
static void test_refused(void **state)
{
    struct rig *r = *state;

    rig_use_both(r);
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    rig_send(r, "127.1.0.1", BYTES("b"));
    rig_send(r, "127.1.0.2", BYTES("c"));
    int server = rig_asked(r, 0);

    rig_reply(server, SOCKS5_REP_NOT_ALLOWED, NULL);
    int other = rig_asked(r, 1);

    assert_int_equal(r->n_injected, 0);
    rig_reply(other, SOCKS5_REP_COMMAND, NULL);
    rig_expect_refusal(r, 2, "127.1.0.2");
    assert_int_equal(r->injected[0].data[0], 'a');
    assert_true(r->injected[0].unreachable);
    assert_int_equal(rig_stats(r).refused, 2);
    assert_int_equal(rig_stats(r).refused_quietly, 1);
    assert_int_equal(rig_stats(r).failed, 1);
    assert_int_equal(rig_stats(r).dropped_waiting, 0);
    for (unsigned i = 0; i < 20; i++)
        rig_send(r, "127.1.0.1", BYTES("d"));
    rig_until(r, refused_quietly, 21);
    assert_int_equal(r->n_injected, 2);
    assert_true(rig_nobody_asks(r, 0));
    /* The gap is over. */
    the_one(r)->next_refusal = 0;
    rig_send(r, "127.1.0.1", BYTES("e"));
    rig_expect_refusal(r, 3, "127.1.0.1");
    time_is_up(r);
    rig_turns(r, 5);
    assert_int_equal(udp_table_count(r->t), 0);
    rig_send(r, "127.1.0.1", BYTES("f"));
    close(rig_asked(r, 0));
    close(server);
    close(other);
}

/* What cannot give one is not asked. */
static void test_not_asked(void **state)
{
    struct rig *r = *state;

    r->ups[0].url.scheme = SCHEME_SOCKS4A;
    r->ups[1].udp = TOGGLE_OFF;
    rig_use_both(r);
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_true(rig_nobody_asks(r, 0));
    assert_true(rig_nobody_asks(r, 1));
}

static void test_chain_is_not_asked(void **state)
{
    struct rig *r = *state;

    r->ups[1].via = 0;
    r->config_capture.target_index = 1;
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_true(rig_nobody_asks(r, 0));
}

/* ssh -D closes the connection at the question. It is not down for that. */
static void test_hangs_up(void **state)
{
    struct rig *r = *state;

    r->config_capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    close(rig_asked(r, 0));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_true(r->all[0].healthy);
    assert_true(r->all[0].udp_refused_until > loop_now(r->d.loop) + 50000 * MS);
    assert_true(r->all[0].udp_refused_until < loop_now(r->d.loop) + 70000 * MS);
    assert_int_equal(rig_stats(r).granted, 0);
}

/* Up, and without UDP: nothing goes past it. */
static void test_no_udp_is_not_down(void **state)
{
    struct rig *r = *state;

    r->config_capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    int server = rig_asked(r, 0);

    rig_reply(server, SOCKS5_REP_COMMAND, NULL);
    rig_expect_refusal(r, 1, "127.1.0.1");
    udp_end(r->t, the_one(r));
    rig_send(r, "127.1.0.1", BYTES("a")); /* it is remembered, and still not down */
    rig_expect_refusal(r, 2, "127.1.0.1");
    assert_int_equal(rig_stats(r).granted, 0);
    close(server);
}

/* Nor is one that closes before it has said anything, though it is not healthy. */
static void test_who_closes_is_not_gone(void **state)
{
    struct rig *r = *state;

    r->config_capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    rig_start(r);
    for (unsigned i = 1; i <= 3; i++) {
        rig_send(r, "127.1.0.1", BYTES("a"));
        close(drive_accept(&r->d, r->upstream[0]));
        rig_expect_refusal(r, i, "127.1.0.1");
        udp_end(r->t, the_one(r));
        assert_false(r->all[0].healthy);
    }
    assert_int_equal(rig_stats(r).granted, 0);
}

/* Nor does one stand in nobody's way because others have been told in the meantime that it has no
 * UDP. */
static void test_told_meanwhile(void **state)
{
    struct rig *r = *state;

    rig_use_both(r);
    r->config_capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    int silent = drive_accept(&r->d, r->upstream[0]);

    r->all[1].udp_refused_until = loop_now(r->d.loop) + 600000 * MS;
    time_is_up(r);
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_true(r->all[0].gone);
    assert_false(r->all[1].gone);
    assert_true(rig_nobody_asks(r, 1));
    assert_int_equal(rig_stats(r).granted, 0);
    close(silent);
}

/* Down, and when-down = "direct": the destination itself, from which anybody answers. A name cannot
 * go that way. */
static void test_direct(void **state)
{
    struct rig *r = *state;
    struct addr us, third_at, there = rig_addr("127.1.0.3", r->port);
    uint8_t buf[100];
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&there, &sa);
    int third = rig_datagrams("127.1.0.2", &third_at), on = 1;
    int far = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    /* Its port is the listener's, as that of all destinations is in this rig. */
    assert_int_equal(setsockopt(far, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    assert_int_equal(setsockopt(r->listener.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    assert_int_equal(bind(far, (struct sockaddr *)&sa, len), 0);
    fd_close(&r->upstream[0]);
    r->config_capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    rig_start(r);
    /* What is sent there does not come to the listener, so the engine is told by hand. */
    struct udp_association *a = udp_alloc(r->t, 0, &r->client_at);
    const struct udp_datagram d = {&there, (const uint8_t *)"hello", 5};

    udp_begin(r->t, a, &d);
    assert_int_equal(rig_await(r, far, buf, sizeof(buf), &us), 5);
    assert_memory_equal(buf, "hello", 5);
    rig_send_from(far, &us, BYTES("hi"));
    rig_expect_answer(r, 1, "127.1.0.3", r->port, BYTES("hi"));
    rig_send_from(third, &us, BYTES("me too"));
    rig_expect_answer(r, 2, "127.1.0.2", third_at.port, BYTES("me too"));
    assert_string_equal(a->upstream->name, "direct");
    /* Of one length, to two destinations. */
    for (unsigned i = 0; i < 4; i++)
        r->t->batch.run[i] =
            (struct udp_datagram){i < 2 ? &there : &third_at, (const uint8_t *)"0123" + i, 1};
    assert_true(udp_up(r->t, a, 4));
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(rig_await(r, i < 2 ? far : third, buf, sizeof(buf), NULL), 1);
        assert_int_equal(buf[0], '0' + i);
    }
    assert_false(r->all[0].healthy);
    rig_send(r, "127.18.0.1", BYTES("named"));
    rig_expect_refusal(r, 3, "127.18.0.1");
    assert_int_equal(udp_table_count(r->t), 1);
    close(far);
    close(third);
}

static void test_down_and_refuse(void **state)
{
    struct rig *r = *state;

    fd_close(&r->upstream[0]);
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_false(r->all[0].healthy);
}

/* It says where to send to, and it is somewhere else. */
static void test_relay_address(void **state)
{
    static const char *const lies[] = {"0.0.0.0", "255.255.255.255", "239.1.1.1"};
    struct rig *r = *state;

    rig_start(r);
    for (unsigned i = 0; i < 5; i++) {
        struct addr bound = rig_addr(lies[i % 3], r->relay_at.port);

        rig_send(r, "127.1.0.1", BYTES("first"));
        int server = rig_asked(r, 0);

        if (i < 3) {
            rig_reply(server, 0, &bound);
        } else {
            /* A name; and one to which no way leads (fe80::1, of no link). */
            uint8_t name[] = "\x05\x00\x00\x03\x05relay..";
            uint8_t link[] = "\x05\x00\x00\x04\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
                             "\x00\x00\x00\x01..";
            uint8_t *port = i == 3 ? name + 10 : link + 20;

            port[0] = (uint8_t)(bound.port >> 8);
            port[1] = (uint8_t)bound.port;
            put(server, i == 3 ? name : link, i == 3 ? 12 : 22);
        }
        rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), NULL);
        assert_true(addr_equal(&the_one(r)->relay_at, &r->relay_at));
        udp_end(r->t, the_one(r));
        close(server);
    }
    /* And nowhere at all. */
    struct addr bound = rig_addr("127.0.0.1", 0);

    rig_send(r, "127.1.0.1", BYTES("first"));
    int server = rig_asked(r, 0);

    rig_reply(server, 0, &bound);
    rig_expect_refusal(r, 1, "127.1.0.1");
    close(server);
}

/* The control connection ends after it has served: the next datagram makes a new association. */
static void test_control_closed(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    for (unsigned i = 0; i < 2; i++) {
        int server = rig_join(r, &us);

        rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
        rig_injected(r, 2 * i + 1);
        put(server, BYTES("nobody reads this"));
        rig_turns(r, 5);
        assert_int_equal(udp_table_count(r->t), 1);
        rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("the last word"));
        if (i == 0)
            close(server);
        else
            reset(server);
        rig_until(r, ended_upstream, i + 1);
        assert_int_equal(udp_table_count(r->t), 0);
        rig_expect_answer(r, 2 * i + 2, "127.1.0.1", r->port, BYTES("the last word"));
    }
    /* The end may be seen before what came before it. */
    int server = rig_join(r, &us);

    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
    udp_control_event(r->t, the_one(r), EPOLLRDHUP);
    assert_int_equal(r->n_injected, 5);
    close(server);
    rig_send(r, "127.1.0.1", BYTES("again"));
    close(rig_asked(r, 0));
}

/* It ends at once, and never brought an answer: no storm of connections. */
static void test_control_closed_at_once(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    close(rig_join(r, &us));
    rig_until(r, ended_upstream, 1);
    for (unsigned i = 0; i < 10; i++)
        rig_send(r, "127.1.0.1", BYTES("again"));
    rig_until(r, refused_quietly, 9);
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_true(rig_nobody_asks(r, 0));
    assert_int_equal(the_one(r)->state, UDP_REFUSED);
    assert_int_equal(the_one(r)->relay, -1);
    assert_int_equal(the_one(r)->control, -1);
}

/* A one-way client, whose association has been there for long. */
static void test_control_closed_one_way(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    the_one(r)->started -= 60000 * MS;
    close(server);
    rig_until(r, ended_upstream, 1);
    assert_int_equal(udp_table_count(r->t), 0);
}

/* Nobody is at the relay any more. */
static void test_relay_gone(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
    rig_injected(r, 1);
    fd_close(&r->relay);
    rig_send(r, "127.1.0.2", BYTES("lost"));
    rig_expect_refusal(r, 2, "127.1.0.2");
    assert_int_equal(rig_stats(r).ended_upstream, 1);
    assert_int_equal(udp_table_count(r->t), 0);
    rig_send(r, "127.1.0.1", BYTES("again"));
    close(rig_asked(r, 0));
    drive_expect_end(&r->d, server, 0); /* in order, not reset */
    close(server);
}

static void test_idle(void **state)
{
    struct rig *r = *state;
    struct addr us;

    r->o.idle_timeout = 60000 * MS;
    rig_start(r);
    int server = rig_join(r, &us);
    struct udp_association *a = the_one(r);

    assert_true(a->timer.deadline > loop_now(r->d.loop) + 50000 * MS);
    assert_true(a->timer.deadline < loop_now(r->d.loop) + 70000 * MS);
    /* Either way counts. */
    a->active = 0;
    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
    rig_injected(r, 1);
    assert_true(a->active > 0);
    time_is_up(r);
    rig_turns(r, 5);
    a->active = 0;
    rig_send(r, "127.1.0.1", BYTES("more"));
    rig_expect_up(r, r->relay, "127.1.0.1", BYTES("more"), NULL);
    assert_true(a->active > 0);
    time_is_up(r);
    rig_turns(r, 5);
    assert_int_equal(udp_table_count(r->t), 1);
    assert_true(a->timer.deadline > loop_now(r->d.loop) + 50000 * MS);
    a->active -= 60000 * MS;
    time_is_up(r);
    rig_until(r, ended_idle, 1);
    assert_int_equal(udp_table_count(r->t), 0);
    drive_expect_end(&r->d, server, 0);
    close(server);
}

/* Full: who has been idle for long makes room, else the newcomer is refused. */
static void test_full(void **state)
{
    struct rig *r = *state;
    struct addr at[RIG_ASSOCIATIONS + 1], to = rig_addr("127.1.0.1", r->port);
    int client[RIG_ASSOCIATIONS + 1], server[RIG_ASSOCIATIONS];

    rig_start(r);
    for (unsigned i = 0; i < RIG_ASSOCIATIONS + 1; i++)
        client[i] = rig_datagrams("127.0.0.1", &at[i]);
    for (unsigned i = 0; i < RIG_ASSOCIATIONS; i++) {
        rig_send_from(client[i], &to, BYTES("first"));
        server[i] = rig_asked(r, 0);
        rig_reply(server[i], 0, &r->relay_at);
        rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), NULL);
    }
    rig_send_from(client[RIG_ASSOCIATIONS], &to, BYTES("me"));
    rig_injected(r, 1);
    assert_true(r->injected[0].unreachable);
    assert_true(addr_equal(&r->injected[0].client, &at[RIG_ASSOCIATIONS]));
    assert_int_equal(rig_stats(r).refused_full, 1);
    assert_int_equal(udp_table_count(r->t), RIG_ASSOCIATIONS);
    /* The first ones have been used again long after, so the third is the least recently used. */
    for (unsigned i = 0; i < RIG_ASSOCIATIONS; i++) {
        struct udp_association *a = udp_find(r->t, 0, &at[i]);

        a->listed -= 20000 * MS;
        a->active -= 20000 * MS;
    }
    for (unsigned i = 0; i < 2; i++) {
        rig_send_from(client[i], &to, BYTES("still here"));
        rig_expect_up(r, r->relay, "127.1.0.1", BYTES("still here"), NULL);
    }
    rig_send_from(client[RIG_ASSOCIATIONS], &to, BYTES("me"));
    close(rig_asked(r, 0));
    assert_int_equal(rig_stats(r).ended_replaced, 1);
    for (unsigned i = 0; i < RIG_ASSOCIATIONS; i++)
        assert_true((udp_find(r->t, 0, &at[i]) == NULL) == (i == 2));
    assert_non_null(udp_find(r->t, 0, &at[RIG_ASSOCIATIONS]));
    for (unsigned i = 0; i < RIG_ASSOCIATIONS + 1; i++)
        close(client[i]);
    for (unsigned i = 0; i < RIG_ASSOCIATIONS; i++)
        close(server[i]);
}

/* Full of one client's: another one has room up to half of it, and what is refused goes first. */
static void test_full_of_one(void **state)
{
    struct rig *r = *state;
    struct addr crowd[RIG_ASSOCIATIONS], other[3], to = rig_addr("127.1.0.1", r->port);
    int client[RIG_ASSOCIATIONS], newcomer[3], server[RIG_ASSOCIATIONS + 2], n = 0;

    rig_start(r);
    for (unsigned i = 0; i < RIG_ASSOCIATIONS; i++) {
        client[i] = rig_datagrams("127.0.0.1", &crowd[i]);
        rig_send_from(client[i], &to, BYTES("first"));
        server[n++] = rig_asked(r, 0);
        /* The last one is refused. */
        rig_reply(server[i], i < 3 ? 0 : SOCKS5_REP_FAILURE, &r->relay_at);
        if (i < 3)
            rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), NULL);
    }
    rig_injected(r, 1);
    for (unsigned i = 0; i < 3; i++) {
        newcomer[i] = rig_datagrams("127.0.0.2", &other[i]);
        rig_send_from(newcomer[i], &to, BYTES("me"));
        if (i == 2)
            break;
        server[n++] = rig_asked(r, 0);
        assert_int_equal(rig_stats(r).ended_replaced, i + 1);
        assert_non_null(udp_find(r->t, 0, &other[i]));
        assert_null(udp_find(r->t, 0, &crowd[3]));
    }
    rig_until(r, refused_full, 1);
    assert_int_equal(rig_stats(r).ended_replaced, 2);
    assert_null(udp_find(r->t, 0, &other[2]));
    rig_send_from(client[3], &to, BYTES("again"));
    rig_until(r, refused_full, 2);
    assert_int_equal(udp_table_count(r->t), RIG_ASSOCIATIONS);
    for (unsigned i = 0; i < RIG_ASSOCIATIONS; i++)
        close(client[i]);
    for (unsigned i = 0; i < 3; i++)
        close(newcomer[i]);
    while (n > 0)
        close(server[--n]);
}

/* The upstream is full of one client's: that one has an end, and it is asked again, once. */
static void test_upstream_full_of_one(void **state)
{
    struct rig *r = *state;
    struct addr crowd[2], other, to = rig_addr("127.1.0.1", r->port);
    int client[2], server[5], newcomer = rig_datagrams("127.0.0.2", &other);

    rig_start(r);
    for (unsigned i = 0; i < 2; i++) {
        client[i] = rig_datagrams("127.0.0.1", &crowd[i]);
        rig_send_from(client[i], &to, BYTES("first"));
        server[i] = rig_asked(r, 0);
        rig_reply(server[i], 0, &r->relay_at);
        rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), NULL);
    }
    rig_send_from(newcomer, &to, BYTES("me"));
    server[2] = rig_asked(r, 0);
    rig_reply(server[2], SOCKS5_REP_FAILURE, NULL);
    server[3] = rig_asked(r, 0);
    assert_int_equal(rig_stats(r).ended_replaced, 1);
    drive_expect_end(&r->d, server[udp_find(r->t, 0, &crowd[0]) ? 1 : 0], 0);
    rig_reply(server[3], 0, &r->relay_at);
    rig_expect_up(r, r->relay, "127.1.0.1", BYTES("me"), NULL);
    /* Both have one now: there is nothing to be had from anybody. */
    unsigned gone = udp_find(r->t, 0, &crowd[0]) ? 1 : 0;

    rig_send_from(client[gone], &to, BYTES("again"));
    server[4] = rig_asked(r, 0);
    rig_reply(server[4], SOCKS5_REP_FAILURE, NULL);
    rig_until(r, failed, 1);
    assert_int_equal(rig_stats(r).ended_replaced, 1);
    for (unsigned i = 0; i < 5; i++)
        close(server[i]);
    close(client[0]);
    close(client[1]);
    close(newcomer);
}

/* Also where what that one holds there is next to nothing of a table that was full once, and others
 * have been idle for longer. */
static void test_small_upstream_full_of_one(void **state)
{
    enum { MANY = 4096 };
    struct rig *r = *state;
    struct addr at[4], to = rig_addr("127.1.0.1", r->port);
    const char *const from[] = {"127.0.0.3", "127.0.0.1", "127.0.0.1", "127.0.0.2"};
    int client[4], server[5];

    r->o.max_associations = MANY;
    rig_start(r);
    for (unsigned i = 0; i < MANY; i++) {
        struct addr crowd = rig_addr("127.0.0.4", (uint16_t)(i + 1));

        assert_non_null(udp_alloc(r->t, 0, &crowd));
    }
    for (unsigned i = 0; i < MANY; i++)
        udp_end(r->t, &r->t->slots[i]);
    for (unsigned i = 0; i < 4; i++) {
        client[i] = rig_datagrams(from[i], &at[i]);
        rig_send_from(client[i], &to, BYTES("first"));
        server[i] = rig_asked(r, 0);
        rig_reply(server[i], i < 3 ? 0 : SOCKS5_REP_FAILURE, &r->relay_at);
        if (i < 3)
            rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), NULL);
    }
    server[4] = rig_asked(r, 0);
    assert_int_equal(rig_stats(r).ended_replaced, 1);
    assert_non_null(udp_find(r->t, 0, &at[0]));
    for (unsigned i = 0; i < 4; i++)
        close(client[i]);
    for (unsigned i = 0; i < 5; i++)
        close(server[i]);
}

/* Refused with many ports: with any other, too, and no upstream is asked for it; but by another
 * capture. */
static void test_refused_with_any_port(void **state)
{
    struct rig *r = *state;
    struct addr at, second_at, to = rig_addr("127.1.0.1", r->port);
    int other = rig_datagrams("127.0.0.2", &at), server[4], on = 1;
    struct udp_capture captures[] = {r->capture, r->capture};
    struct udp_listener listeners[] = {r->listener,
                                       {.fd = rig_datagrams("0.0.0.0", &second_at), .capture = 1}};
    struct addr second_to = rig_addr("127.1.0.1", second_at.port);

    assert_int_equal(setsockopt(listeners[1].fd, SOL_IP, IP_RECVORIGDSTADDR, &on, sizeof(on)), 0);
    r->o.captures = captures;
    r->o.listeners = listeners;
    r->o.n_captures = r->o.n_listeners = 2;

    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("first"));
    server[0] = rig_asked(r, 0);
    rig_reply(server[0], SOCKS5_REP_FAILURE, NULL);
    rig_injected(r, 1);
    struct shares_client one = udp_refused_share(r->t, 0, &r->client_at);

    /* As if there were so many. */
    for (unsigned i = 1; i < UDP_REFUSED_HOST; i++)
        shares_add(&r->t->refused, one);
    int another = rig_datagrams("127.0.0.1", &at);

    rig_send_from(another, &to, BYTES("again"));
    rig_injected(r, 2);
    assert_true(rig_nobody_asks(r, 0));
    rig_send_from(other, &to, BYTES("me"));
    server[1] = rig_asked(r, 0);
    rig_send_from(another, &second_to, BYTES("again"));
    server[2] = rig_asked(r, 0);
    shares_drop(&r->t->refused, one);
    rig_send_from(another, &to, BYTES("again"));
    server[3] = rig_asked(r, 0);
    for (unsigned i = 0; i < 4; i++)
        close(server[i]);
    udp_table_destroy(r->t);
    r->t = NULL;
    close(listeners[1].fd);
    close(another);
    close(other);
}

/* An event of an association that is gone does nothing to the one in its slot. */
static void test_generations(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);
    uint64_t control = udp_ref(r->t, the_one(r), KIND_CONTROL);
    uint64_t relay = udp_ref(r->t, the_one(r), KIND_RELAY), id = udp_id(r->t, the_one(r));

    assert_ptr_equal(udp_by_ref(r->t, control), the_one(r));
    udp_end(r->t, the_one(r));
    assert_null(udp_by_ref(r->t, control));
    close(server);
    server = rig_join(r, &us);
    assert_null(udp_by_ref(r->t, control));
    assert_null(udp_by_ref(r->t, relay));
    assert_true(udp_id(r->t, the_one(r)) != id);
    assert_null(udp_by_ref(r->t, loop_ref(0, 0, 12345)));
    close(server);
}

/* Answers go on; datagrams are somebody else's. */
static void test_drain(void **state)
{
    struct rig *r = *state;
    struct addr us;
    uint8_t buf[100];

    rig_start(r);
    int server = rig_join(r, &us);

    udp_table_drain(r->t);
    rig_send(r, "127.1.0.1", BYTES("for the next worker"));
    rig_turns(r, 5);
    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
    rig_expect_answer(r, 1, "127.1.0.1", r->port, BYTES("answer"));
    assert_int_equal(r->emptied, 0);
    assert_true(the_one(r)->timer.deadline < loop_now(r->d.loop) + 15000 * MS);
    the_one(r)->active -= 10000 * MS;
    time_is_up(r);
    rig_until(r, ended_idle, 1);
    assert_int_equal(r->emptied, 1);
    assert_int_equal(recv(r->listener.fd, buf, sizeof(buf), MSG_DONTWAIT), 19);
    close(server);
}

static void test_drain_ends(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    udp_table_drain(r->t);
    r->t->drain_end = loop_now(r->d.loop) + 100 * MS; /* a remote that never stops */
    for (unsigned i = 0; r->emptied == 0; i++) {
        assert_true(i < 3000);
        rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
        drive_turn(&r->d);
    }
    assert_int_equal(r->emptied, 1);
    close(server);
}

static void test_drain_of_nothing(void **state)
{
    struct rig *r = *state;

    rig_use_both(r);
    rig_start(r);
    fd_close(&r->upstream[0]);
    fd_close(&r->upstream[1]);
    rig_send(r, "127.1.0.1", BYTES("a"));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_int_equal(udp_table_count(r->t), 1);
    udp_table_drain(r->t); /* who was refused is not waited for */
    assert_int_equal(r->emptied, 1);
    assert_int_equal(udp_table_count(r->t), 0);
}

/* An upstream on this host that has just come up is asked when it is proven. */
static void test_unproven(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    r->t->times.proof_wait = 20 * MS;
    r->all[0].local = r->all[0].unproven = true;
    rig_send(r, "127.1.0.1", BYTES("first"));
    int idle = drive_accept(&r->d, r->upstream[0]);

    drive_expect_end(&r->d, idle, ECONNRESET);
    assert_true(r->unproven > 0);
    close(idle);
    r->all[0].unproven = false;
    for (int server = -1; server < 0;) {
        uint8_t c;

        server = drive_accept(&r->d, r->upstream[0]);
        if (drive_byte(&r->d, server, &c) != 1) { /* one that came before the proof */
            fd_close(&server);
            continue;
        }
        drive_expect(&r->d, server, BYTES("\x01\x00"));
        put(server, BYTES("\x05\x00"));
        drive_expect(&r->d, server, ASSOCIATE);
        rig_reply(server, 0, &r->relay_at);
        rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), NULL);
        close(server);
    }
}

static void test_never_proven(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    r->t->times.proof_wait = 1 * MS;
    r->all[0].local = r->all[0].unproven = true;
    rig_send(r, "127.1.0.1", BYTES("first"));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_true(r->unproven >= 25);
}

/* It is granted when this host has no port left for it. Returns an exit code. */
static int granted_without_a_port(struct rig *r)
{
    struct addr at;

    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("a"));
    int server = rig_asked(r, 0);

    if (unshare(CLONE_NEWNET) < 0)
        return 77;
    if (system("ip link set lo up && echo 40000 40000 >/proc/sys/net/ipv4/ip_local_port_range"))
        return 1;
    (void)rig_datagrams("127.0.0.1", &at); /* the only one */
    rig_reply(server, 0, &r->relay_at);
    rig_until(r, failed, 1);
    return at.port == 40000 && rig_stats(r).refused_full == 1 && r->all[0].healthy &&
                   r->all[0].udp_refused_until == 0
               ? 0
               : 1;
}

/* That says nothing of the upstream: others' UDP is not refused for it. */
static void test_no_port(void **state)
{
    int status;

    fflush(stdout);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(granted_without_a_port(*state));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: needs root for a network namespace\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* No descriptor is left: refused, said, counted; nothing is kept open. */
static void test_no_descriptors(void **state)
{
    struct rig *r = *state;
    struct rlimit before, none;

    rig_start(r);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = dup(r->client); /* the lowest that is free */

    assert_true(next >= 0);
    close(next);
    none = (struct rlimit){.rlim_cur = (rlim_t)next, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    rig_send(r, "127.1.0.1", BYTES("a"));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(rig_stats(r).refused_full, 1);
    assert_true(r->all[0].healthy);
    assert_true(rig_nobody_asks(r, 0));
}

static void test_options(void **state)
{
    struct rig *r = *state;
    struct udp_table *t = NULL;

    rig_start(r);
    r->listener.capture = 1;
    assert_int_equal(udp_table_create(&r->o, &t), -EINVAL);
    r->listener.capture = 0;
    r->o.max_associations = 0;
    assert_int_equal(udp_table_create(&r->o, &t), -EINVAL);
    r->o.max_associations = RIG_ASSOCIATIONS;
    assert_null(t);
    udp_table_destroy(NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_next_upstream),
        TEST(test_refused),
        TEST(test_not_asked),
        TEST(test_chain_is_not_asked),
        TEST(test_hangs_up),
        TEST(test_no_udp_is_not_down),
        TEST(test_direct),
        TEST(test_who_closes_is_not_gone),
        TEST(test_told_meanwhile),
        TEST(test_down_and_refuse),
        TEST(test_relay_address),
        TEST(test_control_closed),
        TEST(test_control_closed_at_once),
        TEST(test_control_closed_one_way),
        TEST(test_relay_gone),
        TEST(test_idle),
        TEST(test_full),
        TEST(test_full_of_one),
        TEST(test_upstream_full_of_one),
        TEST(test_small_upstream_full_of_one),
        TEST(test_refused_with_any_port),
        TEST(test_generations),
        TEST(test_drain),
        TEST(test_drain_ends),
        TEST(test_drain_of_nothing),
        TEST(test_unproven),
        TEST(test_never_proven),
        TEST(test_no_port),
        TEST(test_no_descriptors),
        TEST(test_options),
    };

    return cmocka_run_group_tests_name("udp/association", tests, ignore_sigpipe, NULL);
}
