/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/hold.c: what is not granted, how and when the application is told, and SYNs that come again.
 */
#include "tests/unit/flow/hold_talk.h"

static void each_answer_is_told_in_its_way(void **state)
{
    static const struct {
        uint8_t code;
        enum injected_reject v4, v6;
    } cases[] = {
        {1, REJECT_RESET, REJECT_RESET}, {2, REJECT_RESET, REJECT_PROHIBITED},
        {3, REJECT_NET, REJECT_NET},     {4, REJECT_HOST, REJECT_HOST},
        {5, REJECT_RESET, REJECT_RESET}, {6, REJECT_HOST, REJECT_HOST},
        {8, REJECT_RESET, REJECT_RESET}, {0x99, REJECT_RESET, REJECT_RESET},
    };
    struct held_rig *h = *state;
    unsigned n = 0, asked_for = 0;

    rig_start(h->r);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (unsigned k = 0; k < 2 * CAPTURES; k++) {
            bool v4 = k < CAPTURES;

            h->n_apps = 0;
            struct app *a = v4 ? far_app(h, k, "192.0.2.1:1", "203.0.113.10:80")
                               : far_app(h, k - CAPTURES, "[2001:db8::1]:1", "[2001:db8::2]:80");

            a->isn = 0xffffffffu - asked_for; /* else it is the one that was refused before */
            int server = ask_and_answer(h, a, cases[i].code);

            n += expect_refused(h, n, a, v4 ? cases[i].v4 : cases[i].v6);
            assert_int_equal(rig_stats(h->r).failed, ++asked_for);
            drive_expect_end(&h->r->d, server, ECONNRESET);
            close(server);
        }
    }
    assert_int_equal(rig_stats(h->r).granted, 0);
    assert_int_equal(rig_stats(h->r).accepted, asked_for);
    assert_int_equal(rig_stats(h->r).syns_again, 0);
}

/* Nothing has to be waited for then. */
static void a_late_answer_is_told_at_once(void **state)
{
    struct held_rig *h = *state;
    unsigned n = 0;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = far_app(h, capture, "192.0.2.1:1", "203.0.113.10:80");

        take_syn(h, a);
        int server = asked(h, 0, a);

        skip_time(h, 3 * MS);
        answer(h, server, 4);
        expect_told(h, ++n, a, REJECT_HOST);
        if (capture != LAN) {
            expect_silence(h, n, 24900000);
            skip_time(h, 110000);
            expect_told(h, ++n, a, REJECT_HOST);
        }
        expect_silence(h, n, 1000 * MS);
        expect_nothing_left(h);
        close(server);
    }
}

/* The upstream's own failures: it refuses, it closes, it does not speak SOCKS. */
static void without_an_upstream_it_is_refused(void **state)
{
    struct held_rig *h = *state;
    unsigned n = 0;

    rig_start(h->r);
    for (unsigned i = 0; i < 2 * CAPTURES; i++) {
        struct app *a = far_app(h, i % CAPTURES, "192.0.2.1:1", "203.0.113.10:80");

        take_syn(h, a);
        int server = drive_accept(&h->r->d, h->r->upstream[0]);

        if (i < CAPTURES)
            put(server, BYTES("HTTP/1.1 400 Bad Request\r\n\r\n"));
        else
            reset(server);
        rig_until_flows(h->r, 0);
        expect_told(h, ++n, a, REJECT_RESET);
        if (i < CAPTURES)
            close(server);
    }
    fd_close(&h->r->upstream[0]);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = far_app(h, capture, "192.0.2.1:1", "203.0.113.10:80");

        take_syn(h, a);
        rig_until_flows(h->r, 0);
        expect_told(h, ++n, a, REJECT_RESET);
    }
    /* A choice of none. */
    h->r->choice.n = 0;
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = far_app(h, capture, "192.0.2.1:1", "203.0.113.10:80");

        take_syn(h, a);
        expect_told(h, ++n, a, REJECT_RESET);
        expect_nothing_left(h);
    }
    assert_int_equal(rig_stats(h->r).failed, n);
}

/* ---- silence ---- */

static void no_answer_is_answered_with_silence(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = far_app(h, capture, "192.0.2.1:1", "203.0.113.10:80");

        take_syn(h, a);
        int server = asked(h, 0, a);

        skip_time(h, 19900 * MS);
        assert_int_equal(rig_flow(h->r)->state, FLOW_HANDSHAKE);
        skip_time(h, 200 * MS);
        drive_expect_end(&h->r->d, server, ECONNRESET);
        expect_nothing_left(h);
        close(server);
        expect_silence(h, 0, 1000 * MS);

        /* It asks again as long as it likes. */
        take_syn(h, a);
        expect_silence(h, 0, 128000 * MS);
        take_syn(h, a);
        expect_nobody_asked(h);
        assert_int_equal(rig_stats(h->r).syns_again, 2 * capture + 2);
        assert_int_equal(rig_stats(h->r).flows, 0);
    }
    assert_int_equal(rig_stats(h->r).failed, 3);
    assert_int_equal(h->n_sent, 0);
}

/* ---- SYNs that come again ---- */

static void while_the_upstream_is_asked_they_are_nothing_new(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);

        take_syn(h, a);
        int server = asked(h, 0, a);

        for (unsigned i = 1; i <= 3; i++) {
            skip_time(h, 1000 * MS);
            take_syn(h, a);
            assert_int_equal(rig_stats(h->r).syns_again, 3 * capture + i);
        }
        expect_nobody_asked(h);
        assert_int_equal(h->n_sent, capture);
        assert_int_equal(rig_stats(h->r).held, 1);
        answer(h, server, 0);
        assert_int_equal(h->n_sent, capture + 1);
        until_in(h, FLOW_RELAY, 1);
        expect_relayed(h, a, server);
        assert_int_equal(h->n_sent, capture + 1);
    }
}

static void what_was_granted_is_let_through_again_but_not_for_ever(void **state)
{
    static const struct {
        int wait; /* ms */
        bool sent;
    } steps[] = {{50, false}, {49, false}, {2, true}, {1, false}, {98, false}, {2, true}};
    struct held_rig *h = *state;
    unsigned n = 0;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);
        uint32_t mark;

        a->away = true;
        int server = ask_and_answer(h, a, 0);

        n++;
        mark = h->sent[n - 1].mark;
        for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
            skip_time(h, steps[i].wait * MS);
            take_syn(h, a);
            n += steps[i].sent;
            expect_sent(h, n, a, mark);
        }
        /* That is no reason to wait longer. */
        skip_time(h, ((capture == LAN ? 15000 : 3000) - 201) * MS);
        expect_nothing_left(h);
        close(server);
    }
    assert_int_equal(rig_stats(h->r).unaccepted, 3);
}

static void what_was_refused_is_answered_with_a_reset(void **state)
{
    struct held_rig *h = *state;
    unsigned n = 0;

    rig_start(h->r);
    for (unsigned i = 0; i < 2 * CAPTURES; i++) {
        struct app *a = far_app(h, i % CAPTURES, "192.0.2.1:1", "203.0.113.10:80");
        int server = ask_and_answer(h, a, i < CAPTURES ? 5 : 4);

        if (i >= CAPTURES && a->capture != LAN) {
            skip_time(h, 3 * MS);
            expect_told(h, ++n, a, REJECT_HOST);
            take_syn(h, a); /* between the two */
            expect_told(h, ++n, a, REJECT_RESET);
            skip_time(h, 25 * MS);
            expect_told(h, ++n, a, REJECT_HOST);
        } else {
            expect_told(h, ++n, a, i < CAPTURES ? REJECT_RESET : REJECT_HOST);
        }
        expect_nothing_left(h);
        close(server);
        for (unsigned k = 0; k < 4; k++) {
            take_syn(h, a);
            expect_told(h, ++n, a, REJECT_RESET);
            skip_time(h, 32000 * MS);
        }
        expect_nobody_asked(h);
        assert_int_equal(rig_stats(h->r).accepted, 3 * i + 1);

        /* In the end it is forgotten. */
        skip_time(h, 3000 * MS);
        server = ask_and_answer(h, a, 5);
        expect_told(h, ++n, a, REJECT_RESET);
        close(server);
        a->isn++;
        a->destination.port++; /* the next begins anew */
        server = ask_and_answer(h, a, 5);
        expect_told(h, ++n, a, REJECT_RESET);
        close(server);
        assert_int_equal(rig_stats(h->r).accepted, 3 * i + 3);
    }
}

/* The same ends, and another sequence number: the application has given up and tries again. */
static void another_attempt_takes_the_place_of_the_first(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        unsigned n = 3 * capture;
        struct app *a = new_app(h, capture);

        /* While the upstream is asked. */
        take_syn(h, a);
        int server = asked(h, 0, a);

        a->away = true;
        a->isn += 77;
        take_syn(h, a);
        expect_nobody_asked(h);
        answer(h, server, 0);
        expect_sent(h, n + 1, a, h->sent[n].mark);

        /* When it was granted: at once. */
        a->isn += 77;
        take_syn(h, a);
        expect_sent(h, n + 2, a, h->sent[n].mark);
        take_syn(h, a);
        assert_int_equal(h->n_sent, n + 2);
        a->away = false;
        a->isn += 77;
        take_syn(h, a);
        expect_sent(h, n + 3, a, h->sent[n].mark);
        until_in(h, FLOW_RELAY, 1);
        expect_relayed(h, a, server);
        assert_int_equal(rig_stats(h->r).accepted, capture + 1);
        assert_int_equal(rig_stats(h->r).syns_again, 4 * capture + 4);
    }
}

static void another_attempt_is_answered_in_its_own_time(void **state)
{
    struct held_rig *h = *state;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");

    rig_start(h->r);
    take_syn(h, a);
    int server = asked(h, 0, a);

    skip_time(h, 500 * MS);
    a->isn++;
    take_syn(h, a);
    answer(h, server, 4);
    expect_refused(h, 0, a, REJECT_HOST);
    close(server);
}

/* After a refusal, and after silence, it is asked for. */
static void another_attempt_after_a_refusal_is_a_new_one(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);
        int server = ask_and_answer(h, a, 5);

        close(server);
        a->isn++;
        take_syn(h, a);
        server = asked(h, 0, a);
        skip_time(h, 21000 * MS); /* no answer */
        expect_nothing_left(h);
        close(server);
        a->isn++;
        server = ask_and_answer(h, a, 0);
        until_in(h, FLOW_RELAY, 1);
        expect_relayed(h, a, server);
        assert_int_equal(rig_stats(h->r).accepted, 3 * capture + 3);
    }
    assert_int_equal(rig_stats(h->r).syns_again, 0);
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, held_open, held_close)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(each_answer_is_told_in_its_way),
        ON_A_RIG(a_late_answer_is_told_at_once),
        ON_A_RIG(without_an_upstream_it_is_refused),
        ON_A_RIG(no_answer_is_answered_with_silence),
        ON_A_RIG(while_the_upstream_is_asked_they_are_nothing_new),
        ON_A_RIG(what_was_granted_is_let_through_again_but_not_for_ever),
        ON_A_RIG(what_was_refused_is_answered_with_a_reset),
        ON_A_RIG(another_attempt_takes_the_place_of_the_first),
        ON_A_RIG(another_attempt_is_answered_in_its_own_time),
        ON_A_RIG(another_attempt_after_a_refusal_is_a_new_one),
    };

    return cmocka_run_group_tests_name("hold: refused", tests, ignore_sigpipe, NULL);
}
