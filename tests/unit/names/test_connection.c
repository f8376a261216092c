/* SPDX-License-Identifier: GPL-2.0-or-later */
/* names/connection.c: dialling, losing, keeping, and what becomes of the queries meanwhile. */
#include "tests/unit/names/names_rig.h"

static struct rig *started(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    return r;
}

static struct rig *with_both(void **state)
{
    struct rig *r = *state;

    r->config_capture = (struct config_capture){.target = TARGET_GROUP};
    rig_start(r);
    return r;
}

/* The next question through a connection, answered. */
static void ask_and_answer(struct rig *r, int fd, uint16_t id)
{
    unsigned n = r->n_answers + 1;

    rig_ask(r, TCP, id, "a.example", DNS_TYPE_A);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, (uint8_t)id);
    assert_int_equal(rig_last(rig_expect(r, n, id, DNS_NOERROR, 1)), id);
}

/* ---- A connection's life ---- */

static void kept_for_a_while_and_closed_in_order(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    rig_skip(r, 4 * SECOND);
    rig_answer(r, fd, &q, 1);
    rig_answers(r, 1);
    rig_skip(r, 9 * SECOND);
    ask_and_answer(r, fd, 2); /* ten seconds from now on */
    rig_skip(r, 10 * SECOND - 1 * MS);
    assert_int_equal(r->n->connections[0].state + r->n->connections[1].state, NAMES_OPEN);
    rig_skip(r, 1 * MS);
    drive_expect_end(&r->d, fd, 0);
    close(fd);
    rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A);
    fd = rig_join(r);
    q = rig_next(r, fd);
    rig_answer(r, fd, &q, 3);
    rig_expect(r, 3, 3, DNS_NOERROR, 1);
    rig_count(r, connections, 2);
    rig_count(r, broken, 0);
    close(fd);
}

static void a_server_that_closes_when_idle(void **state)
{
    struct rig *r = started(state);

    for (uint16_t i = 1; i < 6; i++) {
        rig_ask(r, TCP, i, "a.example", DNS_TYPE_A);
        int fd = rig_join(r);
        struct rig_query q = rig_next(r, fd);

        rig_answer(r, fd, &q, 1);
        rig_expect(r, i, i, DNS_NOERROR, 1);
        close(fd);
        rig_turns(r, 5);
    }
    rig_count(r, broken, 0);
    rig_count(r, connections, 5);
}

/* Closed in the same moment as it is asked: not the query's fault. */
static void a_lost_connection_costs_no_query(void **state)
{
    struct rig *r = started(state);
    struct rig_query q;

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);

    q = rig_next(r, fd);
    rig_answer(r, fd, &q, 1);
    rig_answers(r, 1);
    close(fd);
    for (uint16_t i = 2; i < 5; i++)
        rig_ask(r, TCP, i, "a.example", DNS_TYPE_A);
    fd = rig_join(r);
    for (uint16_t i = 2; i < 5; i++) {
        q = rig_next(r, fd);
        rig_answer(r, fd, &q, (uint8_t)i);
        assert_int_equal(rig_last(rig_expect(r, i, i, DNS_NOERROR, 1)), i); /* in their order */
    }
    rig_count(r, again, 3);
    close(fd);
}

static void lost_twice_is_lost(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    for (unsigned i = 0; i < 2; i++) {
        int fd = rig_join(r);
        struct rig_query q = rig_next(r, fd);

        assert_int_equal(r->n_answers, 0);
        rig_compose(r, q.q.id, &q.q, 1, 1);
        put(fd, (uint8_t[]){0, (uint8_t)r->m.w.pos}, 2);
        drive_put(&r->d, fd, r->m.data, r->m.w.pos - 1); /* all but the last byte */
        if (i)
            reset(fd);
        else
            close(fd);
    }
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    rig_count(r, broken, 2);
    rig_count(r, again, 1);
    /* It hangs up whatever it is asked: not again in this second. */
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    rig_expect(r, 2, 2, DNS_SERVFAIL, 0);
    rig_skip(r, SECOND);
    rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);

    close(fd);
    rig_expect(r, 3, 3, DNS_SERVFAIL, 0); /* nor a second time in the next one */
    rig_skip(r, SECOND);
    rig_ask(r, TCP, 4, "a.example", DNS_TYPE_A);
    fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 4);
    rig_expect(r, 4, 4, DNS_NOERROR, 1);
    close(fd);
    rig_turns(r, 3);
    rig_ask(r, TCP, 5, "a.example", DNS_TYPE_A); /* all is forgiven */
    close(rig_join(r));
}

static void nonsense_ends_a_connection(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } t[] = {
        {BYTES("\x00\x03xyz")},                                  /* shorter than a header */
        {BYTES("\x00\x00")},                                     /* nothing at all */
        {BYTES("\x00\x0c\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0")}, /* a query */
        {BYTES("HTTP/1.1 400 Bad Request\r\n\r\n")},             /* 18516 bytes that never come */
    };
    struct rig *r = started(state);

    for (unsigned i = 0; i < 4; i++) {
        rig_ask(r, TCP, (uint16_t)i, "a.example", DNS_TYPE_A);
        int fd = rig_join(r);

        rig_next(r, fd);
        put(fd, t[i].bytes, t[i].len);
        if (i == 3) {
            rig_turns(r, 5);
            rig_count(r, broken, 3);
            rig_skip(r, 5 * SECOND);
            rig_expect(r, 4, 3, DNS_SERVFAIL, 0);
            rig_skip(r, 10 * SECOND); /* it did not end for that, but is idle */
            drive_expect_end(&r->d, fd, 0);
            close(fd);
            break;
        }
        drive_expect_end(&r->d, fd, ECONNRESET);
        close(fd);
        fd = rig_join(r);
        struct rig_query q = rig_next(r, fd);

        rig_answer(r, fd, &q, 1);
        rig_expect(r, i + 1, (uint16_t)i, DNS_NOERROR, 1);
        close(fd);
        rig_turns(r, 5);
    }
    rig_count(r, broken, 3);
}

/* The first query finds it out for those that came after. */
static void a_server_that_has_gone_silent(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 1);
    rig_answers(r, 1);
    rig_skip(r, SECOND);
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    rig_skip(r, 3 * SECOND);
    rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A);
    rig_skip(r, 2 * SECOND);
    rig_expect(r, 2, 2, DNS_SERVFAIL, 0);
    int other = rig_join(r);

    q = rig_next(r, other);
    rig_answer(r, other, &q, 3);
    assert_int_equal(rig_last(rig_expect(r, 3, 3, DNS_NOERROR, 1)), 3);
    rig_count(r, broken, 1);
    close(fd);
    close(other);
}

static void much_to_do_takes_two_connections(void **state)
{
    struct rig *r = *state;
    uint16_t id = 0;

    r->o.max_queries = 4096;
    rig_start(r);
    rig_ask(r, TCP, id++, "a.example", DNS_TYPE_A);
    int fd[2] = {rig_join(r), -1};

    rig_next(r, fd[0]);
    while (id < 32)
        rig_ask(r, TCP, id++, "a.example", DNS_TYPE_A);
    assert_true(rig_nobody_asks(r, 0));
    while (id < 40) /* the 33rd begins it, and none waits for it */
        rig_ask(r, TCP, id++, "a.example", DNS_TYPE_A);
    for (unsigned i = 1; i < 40; i++)
        rig_next(r, fd[0]);
    fd[1] = rig_join(r);
    rig_turns(r, 5);
    while (id < 120)
        rig_ask(r, TCP, id++, "a.example", DNS_TYPE_A);
    assert_int_equal(r->n->connections[0].n, 60);
    assert_int_equal(r->n->connections[1].n, 60);
    assert_true(rig_nobody_asks(r, 0)); /* two, and no more */
    rig_count(r, connections, 2);
    /* One of them ends: the other one takes over. */
    for (unsigned i = 0; i < 60; i++)
        rig_next(r, fd[1]);
    close(fd[0]);
    struct rig_query q = rig_next(r, fd[1]);

    rig_answer(r, fd[1], &q, 1);
    rig_answers(r, 1);
    assert_int_equal(r->n->stats.failed, 0);
    rig_count(r, waiting, 119);
    close(fd[1]);
}

/* A server that does not read: what it is not sent yet can still be given up. */
static void a_server_that_does_not_read(void **state)
{
    struct rig *r = *state;
    int small = 2304;

    r->o.max_queries = 4096;
    assert_int_equal(setsockopt(r->upstream[0], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    rig_start(r);
    rig_ask(r, TCP, 0, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);

    rig_next(r, fd);
    struct names_connection *c = &r->n->connections[0];

    if (c->state != NAMES_OPEN)
        c++;
    assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    for (uint16_t i = 1; i < 30; i++) { /* 30 kB */
        put_header(&r->m, i, 0, 1, 0, 0, 1);
        put_question(&r->m, "a.example", DNS_TYPE_A);
        put_opt(&r->m, 1232, 0, 470);
        rig_send(r, TCP);
        rig_turns(r, 2);
    }
    assert_true(c->blocked);
    assert_int_not_equal(c->unsent.head, NAMES_NONE);
    rig_skip(r, 4 * SECOND); /* so that some are younger */
    for (uint16_t i = 100; i < 103; i++)
        rig_ask(r, TCP, i, "late.example", DNS_TYPE_A);
    put(fd, "", 1); /* it is alive: the beginning of something */
    rig_skip(r, 1 * SECOND);
    rig_answers(r, 30);
    rig_count(r, timeouts, 30);
    assert_int_equal(c->n, 3);
    assert_true(c->owed > 1 && c->owed < 30);
    unsigned sent = c->owed; /* one of them was read above */
    /* Now it reads: what had left is whole, then come those that still wait. */
    struct rig_query q;
    unsigned seen = 0;

    do {
        q = rig_next(r, fd);
        seen++;
        assert_true(seen <= 33);
    } while (strcmp(q.q.name, "late.example") != 0);
    assert_int_equal(seen, sent);
    rig_next(r, fd);
    rig_next(r, fd);
    assert_false(c->blocked);
    close(fd);
}

/* ---- Upstreams ---- */

static void upstreams_in_turn(void **state)
{
    struct rig *r = with_both(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    reset(drive_accept(&r->d, r->upstream[0]));
    int fd = rig_asked(r, 1, "192.0.2.53:53");

    rig_reply(fd, 0);
    rig_next(r, fd);
    assert_false(r->all[0].healthy);
    assert_true(r->all[1].healthy);
    assert_int_equal(r->all[0].failed, 1);
    close(fd);
}

static void known_to_be_down(void **state)
{
    struct rig *r = with_both(state);

    fd_close(&r->upstream[1]);
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    reset(drive_accept(&r->d, r->upstream[0]));
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    assert_false(r->all[0].healthy || r->all[1].healthy);
    rig_skip(r, SECOND);                         /* so that it is not for the server's sake */
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A); /* one looks whether they are back */
    int fd = drive_accept(&r->d, r->upstream[0]);

    assert_int_equal(r->n_answers, 1);
    rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A); /* and nobody waits with it */
    rig_expect(r, 2, 3, DNS_SERVFAIL, 0);
    r->server = rig_addr("198.51.100.1");
    rig_ask(r, TCP, 4, "a.example", DNS_TYPE_A); /* for another server neither */
    rig_expect(r, 3, 4, DNS_SERVFAIL, 0);
    r->server = rig_addr("192.0.2.53");
    reset(fd);
    rig_expect(r, 4, 2, DNS_SERVFAIL, 0);
    rig_skip(r, SECOND + 900 * MS);
    rig_ask(r, TCP, 5, "a.example", DNS_TYPE_A);
    rig_expect(r, 5, 5, DNS_SERVFAIL, 0);
    assert_true(rig_nobody_asks(r, 0));
    rig_skip(r, 200 * MS);
    rig_ask(r, TCP, 6, "a.example", DNS_TYPE_A);
    fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 6);
    rig_expect(r, 6, 6, DNS_NOERROR, 1);
    assert_true(r->all[0].healthy);
    rig_count(r, failed, 5);
    rig_count(r, no_connection, 2);
    close(fd);
}

/* Somebody else has found out that it is back. */
static void another_ones_news(void **state)
{
    struct rig *r = started(state);

    r->all[0].healthy = false;
    r->n->next_probe[TCP] = INT64_MAX;
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    r->all[0].healthy = true;
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    close(rig_join(r));
}

/* The server's next query is answered: the client's n-th answer, to the question of that number. */
static void serve(struct rig *r, int fd, unsigned n)
{
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 1);
    rig_expect(r, n, (uint16_t)n, DNS_NOERROR, 1);
}

/* The answer is about the server: no other upstream, and not again in this second. */
static void the_upstream_cannot_reach_the_server(void **state)
{
    struct rig *r = with_both(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = rig_asked(r, 0, "192.0.2.53:53");

    rig_ask(r, TCP, 2, "b.example", DNS_TYPE_A);
    rig_reply(fd, 5);
    rig_answers(r, 2);
    rig_count(r, failed, 2);
    close(fd);
    assert_true(r->all[0].healthy);
    assert_non_null(strstr(r->all[0].last_error, "DNS server 192.0.2.53:53 cannot be asked"));
    r->all[0].last_error[0] = '\0';
    assert_true(rig_nobody_asks(r, 1));
    rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A);
    rig_expect(r, 3, 3, DNS_SERVFAIL, 0);
    assert_true(rig_nobody_asks(r, 0));
    r->server = rig_addr("198.51.100.1"); /* which says nothing of others */
    rig_ask(r, TCP, 4, "a.example", DNS_TYPE_A);
    fd = rig_asked(r, 0, "198.51.100.1:53");
    rig_reply(fd, 4);
    rig_expect(r, 4, 4, DNS_SERVFAIL, 0);
    close(fd);
    r->server = rig_addr("192.0.2.53");
    rig_skip(r, SECOND);
    rig_ask(r, TCP, 5, "a.example", DNS_TYPE_A);
    fd = rig_asked(r, 0, "192.0.2.53:53");
    rig_reply(fd, 5);
    rig_expect(r, 5, 5, DNS_SERVFAIL, 0);
    close(fd);
    /* Of each it is said once, */
    assert_non_null(strstr(r->all[0].last_error, "DNS server 198.51.100.1:53 cannot be asked"));
    rig_skip(r, SECOND);
    rig_ask(r, TCP, 6, "a.example", DNS_TYPE_A);
    fd = rig_asked(r, 0, "192.0.2.53:53");
    rig_reply(fd, 0);
    serve(r, fd, 6);
    close(fd);
    rig_turns(r, 5);
    rig_ask(r, TCP, 7, "a.example", DNS_TYPE_A);
    fd = rig_asked(r, 0, "192.0.2.53:53");
    rig_reply(fd, 5);
    rig_expect(r, 7, 7, DNS_SERVFAIL, 0);
    close(fd);
    /* and again when it had answered. */
    assert_non_null(strstr(r->all[0].last_error, "DNS server 192.0.2.53:53 cannot be asked"));
}

/* Queries do not wait for as long as dialling may take. */
static void an_upstream_that_says_nothing(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = drive_accept(&r->d, r->upstream[0]);

    drive_expect(&r->d, fd, BYTES("\x05\x01\x00"));
    rig_skip(r, 5 * SECOND);
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    assert_true(rig_nobody_asks(r, 0));
    put(fd, BYTES("\x05\x00")); /* late, but there */
    drive_expect(&r->d, fd, BYTES("\x05\x01\x00\x01\xc0\x00\x02\x35\x00\x35"));
    rig_reply(fd, 0);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 2);
    rig_expect(r, 2, 2, DNS_NOERROR, 1); /* what had expired was not sent at all */
    rig_count(r, answered, 1);
    close(fd);
}

/* The handshake's own time is over: the other upstream. */
static void the_time_to_dial_is_over(void **state)
{
    struct rig *r = with_both(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = drive_accept(&r->d, r->upstream[0]);

    drive_expect(&r->d, fd, BYTES("\x05\x01\x00"));
    rig_skip(r, 17 * SECOND);
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    rig_skip(r, 3 * SECOND);
    close(fd);
    fd = rig_asked(r, 1, "192.0.2.53:53");
    rig_reply(fd, 0);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 2);
    rig_expect(r, 2, 2, DNS_NOERROR, 1);
    close(fd);
}

static void an_unproven_upstream_is_asked_for_nothing(void **state)
{
    struct rig *r = started(state);

    r->all[0].unproven = true;
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = drive_accept(&r->d, r->upstream[0]);

    drive_expect_end(&r->d, fd, ECONNRESET); /* not a byte */
    close(fd);
    assert_int_equal(r->unproven, 1);
    r->all[0].unproven = false;
    rig_skip(r, 200 * MS);
    fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 1);
    rig_expect(r, 1, 1, DNS_NOERROR, 1);
    close(fd);
}

static void never_proven(void **state)
{
    struct rig *r = started(state);

    r->all[0].unproven = true;
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    for (unsigned i = 0; i <= 25; i++) {
        int fd = drive_accept(&r->d, r->upstream[0]);

        drive_expect_end(&r->d, fd, ECONNRESET);
        close(fd);
        if (i < 25)
            rig_skip(r, 200 * MS);
    }
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    assert_int_equal(r->unproven, 26);
    rig_skip(r, SECOND);
    assert_true(rig_nobody_asks(r, 0));
}

/* ---- when-down = "direct" ---- */

static struct rig *directly(void **state, int *ret_listener)
{
    struct rig *r = *state;
    struct addr at;

    *ret_listener = listen_here(&at);
    r->captures[TCP].server = at;
    r->config_capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    rig_start(r);
    return r;
}

static void directly_when_all_are_gone(void **state)
{
    int listener;
    struct rig *r = directly(state, &listener);

    /* Who closes is there. */
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    reset(drive_accept(&r->d, r->upstream[0]));
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    assert_false(r->all[0].healthy);
    assert_int_equal(accept4(listener, NULL, NULL, SOCK_CLOEXEC), -1);
    rig_skip(r, SECOND);

    r->all[0].gone = true;
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    int fd = drive_accept(&r->d, listener);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 2);
    rig_expect(r, 2, 2, DNS_NOERROR, 1);
    assert_true(rig_nobody_asks(r, 0));
    /* And past them no longer than that. */
    r->all[0].gone = false;
    rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A);
    char to[ADDR_STRLEN];
    int proxied = rig_asked(r, 0, addr_format(&r->captures[TCP].server, to));

    rig_reply(proxied, 0);
    q = rig_next(r, proxied);
    rig_answer(r, proxied, &q, 3);
    rig_expect(r, 3, 3, DNS_NOERROR, 1);
    close(fd);
    close(proxied);
    rig_turns(r, 5);
    /* After one that is found to be gone it is the last candidate. */
    fd_close(&r->upstream[0]);
    rig_ask(r, TCP, 4, "a.example", DNS_TYPE_A);
    fd = drive_accept(&r->d, listener);
    q = rig_next(r, fd);
    rig_answer(r, fd, &q, 4);
    rig_expect(r, 4, 4, DNS_NOERROR, 1);
    close(fd);
    close(listener);
}

/* Two connections go past the upstreams when one of these is back: their places are not kept for
 * them, or nobody could be asked until they are closed. */
static void back_while_two_go_directly(void **state)
{
    int listener, fd[2];
    struct rig *r = *state;
    char to[ADDR_STRLEN];

    r->o.max_queries = 4096;
    r = directly(state, &listener);
    r->all[0].gone = true;
    rig_ask(r, TCP, 0, "a.example", DNS_TYPE_A);
    fd[0] = drive_accept(&r->d, listener);
    rig_turns(r, 5);
    for (uint16_t id = 1; id < 40; id++)
        rig_ask(r, TCP, id, "a.example", DNS_TYPE_A);
    fd[1] = drive_accept(&r->d, listener);
    rig_turns(r, 5);
    for (unsigned i = 0; i < 40; i++) {
        struct rig_query q = rig_next(r, fd[0]);

        rig_answer(r, fd[0], &q, 1);
    }
    rig_answers(r, 40);
    rig_count(r, connections, 2);
    r->all[0].gone = false;
    rig_ask(r, TCP, 40, "a.example", DNS_TYPE_A);
    int proxied = rig_asked(r, 0, addr_format(&r->captures[TCP].server, to));

    rig_reply(proxied, 0);
    struct rig_query q = rig_next(r, proxied);

    rig_answer(r, proxied, &q, 2);
    rig_expect(r, 41, 40, DNS_NOERROR, 1);
    close(fd[0]);
    close(fd[1]);
    close(proxied);
    close(listener);
}

/* ---- names of the upstreams ---- */

static void an_upstreams_own_name_is_asked_for_directly(void **state)
{
    static char own_name[] = "proxy.example";
    static char *const own[] = {own_name, NULL};
    struct rig *r = *state;
    struct addr at;
    int listener = listen_here(&at), fd = -1;
    char to[ADDR_STRLEN];

    r->o.direct_names = own;
    r->server = rig_addr("127.0.0.53"); /* where it was sent, not where all others go */
    r->o.fallback = at;
    r->o.direct_servers = &at;
    r->o.n_direct_servers = 1;
    for (unsigned i = 0; i < CAPTURES; i++)
        r->captures[i].server = rig_addr("192.0.2.99");
    rig_start(r);
    for (unsigned i = 0; i < CAPTURES; i++) {
        fd_close(&fd);
        rig_ask(r, i, (uint16_t)(1 + i), "Proxy.Example", DNS_TYPE_A);
        fd = drive_accept(&r->d, listener);
        serve(r, fd, 1 + i);
    }
    assert_true(rig_nobody_asks(r, 0));
    /* On the same connection, although the upstreams are well. */
    rig_ask(r, TCP, 3, "proxy.example", DNS_TYPE_AAAA);
    serve(r, fd, 3);
    /* That name, and none like it. */
    rig_ask(r, TCP, 4, "a.proxy.example", DNS_TYPE_A);
    int proxied = rig_asked(r, 0, "192.0.2.99:53");

    rig_reply(proxied, 0);
    serve(r, proxied, 4);
    close(proxied);
    /* Nobody else, whoever that name is asked for of. */
    r->server = rig_addr("192.0.2.53");
    rig_turns(r, 5);
    rig_ask(r, TCP, 5, "proxy.example", DNS_TYPE_A);
    proxied = rig_asked(r, 0, "192.0.2.99:53");
    rig_reply(proxied, 0);
    serve(r, proxied, 5);
    close(proxied);
    r->server = rig_addr("127.0.0.53");
    /* Nobody answers there: through the upstream, the same server. */
    close(listener);
    fd_close(&fd);
    rig_turns(r, 5);
    rig_ask(r, TCP, 6, "proxy.example", DNS_TYPE_A);
    proxied = rig_asked(r, 0, addr_format(&at, to));
    rig_reply(proxied, 0);
    serve(r, proxied, 6);
    close(proxied);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        T(kept_for_a_while_and_closed_in_order),
        T(a_server_that_closes_when_idle),
        T(a_lost_connection_costs_no_query),
        T(lost_twice_is_lost),
        T(nonsense_ends_a_connection),
        T(a_server_that_has_gone_silent),
        T(much_to_do_takes_two_connections),
        T(a_server_that_does_not_read),
        T(upstreams_in_turn),
        T(known_to_be_down),
        T(another_ones_news),
        T(the_upstream_cannot_reach_the_server),
        T(an_upstream_that_says_nothing),
        T(the_time_to_dial_is_over),
        T(an_unproven_upstream_is_asked_for_nothing),
        T(never_proven),
        T(directly_when_all_are_gone),
        T(back_while_two_go_directly),
        T(an_upstreams_own_name_is_asked_for_directly),
    };

    return cmocka_run_group_tests_name("names/connection", tests, ignore_sigpipe, NULL);
}
