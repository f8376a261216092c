/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/hold.c: what may happen while a SYN is held, and until its owner is connected. */
#include "tests/unit/flow/hold_talk.h"

/* ---- between the upstream's yes and the application ---- */

static void an_application_that_has_gone_is_not_waited_for_long(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        int64_t wait = (capture == LAN ? 15000 : 3000) * MS;
        struct app *a = new_app(h, capture);
        int server = grant_unseen(h, a);

        expect_sent(h, 2 * capture + 1, a, accept_mark(capture));
        skip_time(h, wait - 2 * MS);
        assert_int_equal(rig_flow(h->r)->state, FLOW_GRANTED);
        assert_int_equal(rig_stats(h->r).held, 1);
        skip_time(h, 3 * MS);
        drive_expect_end(&h->r->d, server, ECONNRESET);
        expect_nothing_left(h);
        assert_int_equal(rig_stats(h->r).unaccepted, capture + 1);
        close(server);

        /* Who asks after that is asked for again. */
        a->away = false;
        server = ask_and_answer(h, a, 0);
        expect_relayed(h, a, server);
        expect_sent(h, 2 * capture + 2, a, accept_mark(capture));
    }
    assert_int_equal(rig_stats(h->r).failed, 0);
    assert_int_equal(rig_stats(h->r).granted, 3);
}

/* In one and the same batch. */
static void an_application_that_comes_too_late_is_reset(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT);

    rig_start(h->r);
    int server = grant_unseen(h, a);

    connect_app(a, &h->listeners[SEAT_V4].at);
    hold_timeout(h->r->t, rig_flow(h->r));
    assert_int_equal(rig_flow(h->r)->state, FLOW_CLOSING);
    assert_true(listener_accept(h->r->t, SEAT_V4));
    drive_expect_end(&h->r->d, a->fd, ECONNRESET);
    assert_int_equal(rig_stats(h->r).refused_stray, 1);
    expect_nothing_left(h);
    close(server);
}

/* What it said before is the application's. */
static void an_upstream_that_closes_meanwhile_is_heard_to_its_end(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);
        int server = grant_unseen(h, a);

        put(server, BYTES("bye"));
        assert_int_equal(shutdown(server, SHUT_WR), 0);
        settle(h);
        assert_int_equal(rig_flow(h->r)->state, FLOW_GRANTED);
        let_see(h, a);
        drive_expect(&h->r->d, a->fd, BYTES("bye"));
        drive_expect_end(&h->r->d, a->fd, 0);
        put(a->fd, BYTES("and you"));
        drive_expect(&h->r->d, server, BYTES("and you"));
        assert_int_equal(shutdown(a->fd, SHUT_WR), 0);
        drive_expect_end(&h->r->d, server, 0);
        expect_nothing_left(h);
        close(server);
    }
    assert_int_equal(rig_stats(h->r).finished, 3);
}

static void an_upstream_that_resets_meanwhile_resets_the_application(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);
        int server = grant_unseen(h, a);

        reset(server);
        settle(h);
        assert_int_equal(rig_flow(h->r)->state, FLOW_GRANTED);
        let_see(h, a);
        drive_expect_end(&h->r->d, a->fd, ECONNRESET);
        expect_nothing_left(h);
        assert_int_equal(rig_stats(h->r).reset, capture + 1);
    }
}

/* A copy of the SYN that was read only when its owner was connected. */
static void who_is_connected_is_not_asked_for_again(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);
        int server = ask_and_answer(h, a, 0);

        until_in(h, FLOW_RELAY, 1);
        take_syn(h, a);
        expect_nobody_asked(h);
        assert_int_equal(rig_stats(h->r).syns_again, capture + 1);
        assert_int_equal(h->n_sent, capture + 1);
        expect_relayed(h, a, server);
    }
}

/* ---- which upstream ---- */

static void the_next_member_is_asked_while_it_is_held(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT);

    h->r->capture.target = TARGET_GROUP;
    rig_start(h->r);
    take_syn(h, a);
    int server = drive_accept(&h->r->d, h->r->upstream[0]);

    drive_expect(&h->r->d, server, BYTES("\x05\x01\x00"));
    close(server);
    server = asked(h, 1, a);
    assert_int_equal(h->n_sent, 0);
    assert_int_equal(rig_stats(h->r).held, 1);
    assert_false(h->r->all[0].healthy);
    answer(h, server, 0);
    expect_sent(h, 1, a, accept_mark(OUT));
    expect_relayed(h, a, server);
}

static void when_down_is_direct_the_destination_is_dialled(void **state)
{
    struct held_rig *h = *state;
    struct addr at;
    int destination = listen_here(&at), server;

    h->r->capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    rig_start(h->r);
    fd_close(&h->r->upstream[0]);
    struct app *a = new_app(h, OUT);

    a->destination = at;
    take_syn(h, a);
    server = drive_accept(&h->r->d, destination);
    until_in(h, FLOW_RELAY, 1);
    expect_relayed(h, a, server);
    expect_sent(h, 1, a, accept_mark(OUT));

    /* And what it says is what the application hears. */
    close(destination);
    a = new_app(h, OUT);
    a->destination = at;
    take_syn(h, a);
    rig_until_flows(h->r, 0);
    expect_told(h, 2, a, REJECT_RESET);
}

static void an_upstream_that_is_unproven_is_waited_for(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT);

    rig_start(h->r);
    h->r->all[0].unproven = true;
    take_syn(h, a);
    for (unsigned i = 1; i <= 3; i++) {
        int server = drive_accept(&h->r->d, h->r->upstream[0]);

        drive_expect_end(&h->r->d, server, ECONNRESET); /* and not a byte before it */
        assert_int_equal(h->unproven, i);
        close(server);
        take_syn(h, a);
        assert_int_equal(rig_stats(h->r).syns_again, i);
        if (i == 3)
            h->r->all[0].unproven = false;
        skip_time(h, 199 * MS);
        expect_nobody_asked(h);
        skip_time(h, 2 * MS);
    }
    int server = asked(h, 0, a);

    assert_int_equal(h->n_sent, 0);
    answer(h, server, 0);
    expect_sent(h, 1, a, accept_mark(OUT));
    expect_relayed(h, a, server);
}

static void an_upstream_that_is_never_proven_refuses(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    h->r->all[0].unproven = true;
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);

        take_syn(h, a);
        for (unsigned i = 0; i < 26; i++) {
            assert_int_equal(h->n_sent, capture);
            close(drive_accept(&h->r->d, h->r->upstream[0]));
            settle(h);
            skip_time(h, 201 * MS);
        }
        rig_until_flows(h->r, 0);
        expect_told(h, capture + 1, a, REJECT_RESET);
        expect_nothing_left(h);
    }
}

/* ---- the end of the worker ---- */

static void a_drain_finishes_what_is_held_and_takes_no_more(void **state)
{
    struct held_rig *h = *state;
    struct app *a[4], *late;
    int server[4];

    rig_start(h->r);
    for (unsigned i = 0; i < 4; i++)
        a[i] = new_app(h, i % 3);
    late = new_app(h, OUT);
    take_syn(h, a[0]);
    server[0] = asked(h, 0, a[0]);
    take_syn(h, a[1]);
    server[1] = asked(h, 0, a[1]);
    a[1]->away = true;
    rig_reply(server[1], 0);
    until_in(h, FLOW_GRANTED, 1);

    /* These wait to be read, more than are read at once. */
    for (unsigned i = 0; i < 100; i++)
        put_syn(h, a[0]);
    put_syn(h, a[2]);
    put_syn(h, a[3]);
    h->sources[LOG].error = -ENOBUFS;
    flow_table_drain(h->r->t);
    assert_int_equal(rig_stats(h->r).syns, 104);
    assert_int_equal(rig_stats(h->r).syns_again, 100);
    assert_int_equal(rig_stats(h->r).syns_lost, 1);
    assert_int_equal(rig_stats(h->r).flows, 4);
    server[2] = asked(h, 0, a[3]); /* of the first source */
    server[3] = asked(h, 0, a[2]);

    /* And these come after. */
    unsigned reads = h->sources[LOG].reads + h->sources[RING].reads;

    put_syn(h, late);
    put_syn(h, a[2]);
    settle(h);
    assert_int_equal(h->sources[LOG].reads + h->sources[RING].reads, reads);
    assert_int_equal(rig_stats(h->r).syns, 104);

    connect_app(a[1], &h->listeners[SEAT_V4].at);
    expect_relayed(h, a[1], server[1]);
    int ordinary = connect_here(&h->r->listener.at);

    for (unsigned i = 0; i < 4; i++) {
        struct app *x = i < 1 ? a[0] : i == 2 ? a[3] : a[2];

        if (i == 1)
            continue;
        assert_int_equal(h->r->emptied, 0);
        answer(h, server[i], 0);
        expect_relayed(h, x, server[i]);
    }
    rig_until_flows(h->r, 0);
    assert_true(h->r->emptied > 0);
    assert_int_equal(rig_stats(h->r).accepted, 4);
    assert_int_equal(rig_stats(h->r).finished, 4);
    close(ordinary);
}

/* The last one's application never comes. */
static void a_drain_waits_for_no_application_for_ever(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT);

    rig_start(h->r);
    int server = grant_unseen(h, a);

    flow_table_drain(h->r->t);
    skip_time(h, 2990 * MS);
    assert_int_equal(h->r->emptied, 0);
    skip_time(h, 20 * MS);
    assert_true(h->r->emptied > 0);
    close(server);
}

/* In each state that a held flow has. */
static void the_end_of_the_table_is_silent(void **state)
{
    struct held_rig *h = *state;
    struct app *a[4];
    int server[4];

    rig_start(h->r);
    for (unsigned i = 0; i < 4; i++)
        a[i] = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");
    for (unsigned i = 0; i < 4; i++)
        a[i]->client.port = (uint16_t)(i + 1);
    server[0] = ask_and_answer(h, a[0], 4); /* has been told once */
    skip_time(h, 3 * MS);
    assert_int_equal(rig_flow(h->r)->state, FLOW_CLOSING);
    take_syn(h, a[1]);
    server[1] = asked(h, 0, a[1]);
    answer(h, server[1], 0);
    assert_int_equal(flows_in(h, FLOW_GRANTED), 1);
    take_syn(h, a[2]);
    server[2] = asked(h, 0, a[2]);
    assert_int_equal(flows_in(h, FLOW_HANDSHAKE), 1);
    h->r->all[0].unproven = true;
    take_syn(h, a[3]);
    server[3] = drive_accept(&h->r->d, h->r->upstream[0]);
    assert_int_equal(flows_in(h, FLOW_DIALING), 1);
    put_syn(h, a[0]); /* unread */
    unsigned n = h->n_sent;

    flow_table_destroy(h->r->t);
    h->r->t = NULL;
    assert_int_equal(h->n_sent, n);
    for (unsigned i = 0; i < 4; i++)
        close(server[i]);
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, held_open, held_close)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(an_application_that_has_gone_is_not_waited_for_long),
        ON_A_RIG(an_application_that_comes_too_late_is_reset),
        ON_A_RIG(an_upstream_that_closes_meanwhile_is_heard_to_its_end),
        ON_A_RIG(an_upstream_that_resets_meanwhile_resets_the_application),
        ON_A_RIG(who_is_connected_is_not_asked_for_again),
        ON_A_RIG(the_next_member_is_asked_while_it_is_held),
        ON_A_RIG(when_down_is_direct_the_destination_is_dialled),
        ON_A_RIG(an_upstream_that_is_unproven_is_waited_for),
        ON_A_RIG(an_upstream_that_is_never_proven_refuses),
        ON_A_RIG(a_drain_finishes_what_is_held_and_takes_no_more),
        ON_A_RIG(a_drain_waits_for_no_application_for_ever),
        ON_A_RIG(the_end_of_the_table_is_silent),
    };

    return cmocka_run_group_tests_name("hold: life", tests, ignore_sigpipe, NULL);
}
