/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/hold.c: too many, loops, what the kernel refuses, and a flood. */
#include "tests/unit/flow/hold_talk.h"

/* ---- bounds ---- */

static void more_than_may_be_held_are_connected_early(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT), *b = new_app(h, LAN), *x;
    int server[3];

    h->r->options.max_held = 2;
    rig_start(h->r);
    take_syn(h, a);
    server[0] = asked(h, 0, a);
    b->away = true;
    server[1] = ask_and_answer(h, b, 0); /* granted ones count */
    assert_int_equal(h->n_sent, 1);

    x = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");
    take_syn(h, x);
    expect_sent(h, 2, x, capture_injected_mark(INJECTED_EARLY_NAT, 3));
    x = far_app(h, LAN, "192.0.2.1:1", "203.0.113.10:80");
    take_syn(h, x);
    expect_sent(h, 3, x, capture_injected_mark(INJECTED_EARLY_TPROXY, 5));
    x = far_app(h, SLICE, "127.0.0.1:1", "127.0.0.1:2");
    take_syn(h, x);
    expect_told(h, 4, x, REJECT_RESET);
    /* A listener that no mark can name; the number's low byte is another's. */
    h->captures[LAN].early = CAPTURE_EARLY_MAX + 1;
    x = far_app(h, LAN, "192.0.2.1:2", "203.0.113.10:80");
    take_syn(h, x);
    expect_told(h, 5, x, REJECT_RESET);
    expect_nobody_asked(h);
    assert_int_equal(rig_stats(h->r).early_full, 4);
    assert_int_equal(rig_stats(h->r).held, 2);
    assert_int_equal(rig_stats(h->r).flows, 2);
    assert_int_equal(rig_stats(h->r).failed + rig_stats(h->r).refused_full, 0);

    /* Those that are held are so still. */
    take_syn(h, a);
    assert_int_equal(rig_stats(h->r).early_full, 4);
    assert_int_equal(rig_stats(h->r).syns_again, 1);

    /* Who is connected counts no more; it was not the flows that were too many. */
    answer(h, server[0], 0);
    assert_int_equal(rig_stats(h->r).held, 1);
    take_syn(h, x);
    server[2] = asked(h, 0, x);
    assert_int_equal(rig_stats(h->r).held, 2);
    assert_int_equal(rig_stats(h->r).early_full, 4);
    answer(h, server[2], 5);
    assert_int_equal(rig_stats(h->r).held, 1);
    for (unsigned i = 0; i < 3; i++)
        close(server[i]);
}

/* What only lingers to say it once more is held no longer. */
static void who_was_refused_is_not_held(void **state)
{
    struct held_rig *h = *state;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80"),
               *b = far_app(h, OUT, "192.0.2.1:2", "203.0.113.10:80");
    int server[2];

    h->r->options.max_held = 1;
    rig_start(h->r);
    server[0] = ask_and_answer(h, a, 4);
    assert_int_equal(rig_flow(h->r)->state, FLOW_CLOSING);
    assert_int_equal(rig_stats(h->r).held, 0);
    take_syn(h, b);
    server[1] = asked(h, 0, b);
    assert_int_equal(rig_stats(h->r).early_full, 0);
    close(server[0]);
    close(server[1]);
}

static void a_full_table_refuses(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT), *x;

    h->r->options.max_flows = 1;
    rig_start(h->r);
    take_syn(h, a);
    int server = asked(h, 0, a);

    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        x = far_app(h, capture, "192.0.2.1:1", "203.0.113.10:80");
        take_syn(h, x);
        expect_told(h, capture + 1, x, REJECT_RESET);
        assert_int_equal(rig_stats(h->r).refused_full, capture + 1);
    }
    expect_nobody_asked(h);
    assert_int_equal(rig_stats(h->r).held, 1);
    assert_int_equal(rig_stats(h->r).accepted, 1);
    answer(h, server, 0);
    expect_relayed(h, a, server);
    rig_until_flows(h->r, 0);

    /* That was no verdict: there is room now. */
    server = ask_and_answer(h, x, 5);
    expect_told(h, 5, x, REJECT_RESET);
    close(server);
}

static void what_comes_back_to_us_is_refused(void **state)
{
    struct held_rig *h = *state;
    struct addr ours[LISTENERS + RIG_UPSTREAMS];
    size_t n_ours = 0;
    unsigned n = 0;

    rig_start(h->r);
    for (unsigned i = 0; i < h->r->options.n_listeners; i++)
        ours[n_ours++] = h->listeners[i].at;
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++)
        ours[n_ours++] = h->r->upstream_at[i];
    for (unsigned i = 0; i < n_ours; i++) {
        for (unsigned capture = 0; capture < CAPTURES; capture++) {
            bool v4 = addr_is_v4(&ours[i]);

            h->n_apps = 0;
            struct app *a = far_app(h, capture, v4 ? "127.0.0.1:9" : "[::1]:9",
                                    v4 ? "127.0.0.1:10" : "[::1]:10");

            if (capture == SLICE)
                h->r->origin.destination = ours[i];
            else
                a->destination = ours[i];
            take_syn(h, a);
            expect_told(h, ++n, a, REJECT_RESET);
            assert_int_equal(rig_stats(h->r).refused_loop, n);
        }
    }
    expect_nobody_asked(h);
    assert_int_equal(rig_stats(h->r).accepted + rig_stats(h->r).flows, 0);

    /* A cgroup's SYN is for our listener, and that is no loop. */
    assert_int_equal(addr_parse("203.0.113.10:80", 0, &h->r->origin.destination), 0);
    struct app *a = new_app(h, SLICE);
    int server = ask_and_answer(h, a, 0);

    expect_relayed(h, a, server);
}

static void without_a_descriptor_it_is_refused(void **state)
{
    struct held_rig *h = *state;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");
    struct rlimit old, tight;

    rig_start(h->r);
    int lowest = dup(STDIN_FILENO);

    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = (struct rlimit){(rlim_t)lowest, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    put_syn(h, a);
    settle(h);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    expect_told(h, 1, a, REJECT_RESET);
    expect_nothing_left(h);
    assert_int_equal(rig_stats(h->r).refused_full, 1);
    assert_int_equal(rig_stats(h->r).failed, 0);
    assert_true(h->r->all[0].healthy);
}

/* ---- what the kernel says ---- */

static void lost_syns_are_counted_and_the_rest_is_read(void **state)
{
    struct held_rig *h = *state;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");

    rig_start(h->r);
    for (unsigned i = 1; i <= 3; i++) {
        h->sources[LOG].error = -ENOBUFS;
        take_syn(h, a);
        assert_int_equal(rig_stats(h->r).syns_lost, i);
    }
    h->sources[LOG].error = -EIO; /* whatever that may be */
    take_syn(h, a);
    assert_int_equal(rig_stats(h->r).syns_lost, 3);
    assert_int_equal(rig_stats(h->r).syns, 4);
    assert_int_equal(rig_stats(h->r).accepted, 1);
}

/* A granted SYN that a firewall drops: the next attempt may have more luck. */
static void what_cannot_be_sent_is_tried_with_the_next(void **state)
{
    static const int errors[] = {-EPERM, -ENOBUFS, -EINVAL};
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);

        h->send_result = errors[capture];
        int server = ask_and_answer(h, a, 0);

        assert_int_equal(rig_flow(h->r)->state, FLOW_GRANTED);
        h->send_result = 0;
        skip_time(h, 1000 * MS);
        take_syn(h, a);
        expect_relayed(h, a, server);
        assert_int_equal(h->n_sent, 2 * capture + 2);
    }
    h->send_result = -EPERM; /* a rule rejects it, as it should */
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = far_app(h, capture, "192.0.2.1:1", "203.0.113.10:80");
        unsigned before = h->n_sent;
        int server = ask_and_answer(h, a, 4);

        expect_refused(h, before, a, REJECT_HOST);
        close(server);
    }
}

/* ---- a flood ---- */

/* SYNs that differ in one respect only, so that many of them meet in one chain or one slot of what
 * is remembered; the sequence number tells nothing. */
static void vary(struct app *a, unsigned respect, unsigned n)
{
    uint16_t number = (uint16_t)(n + 1);

    assert_int_equal(addr_parse("192.0.2.1:1", 0, &a->client), 0);
    assert_int_equal(addr_parse("198.51.100.1:80", 0, &a->destination), 0);
    if (respect == 0)
        a->client.port = number;
    else if (respect == 1)
        a->destination.port = number;
    else
        memcpy(&(respect == 2 ? &a->client : &a->destination)->ip[14], &number, 2);
}

/* In rounds of which each ends in another way: the upstream resets, the destination is unreachable,
 * nobody is there when it was granted, no answer. */
static void ten_thousand_leave_nothing_behind(void **state)
{
    enum { ALL = 10000, ROUND = 50, HELD = 16 };
    struct held_rig *h = *state;
    struct message_stats s;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");
    unsigned begun = 0;

    h->r->options.max_held = HELD;
    rig_start(h->r);
    for (unsigned i = 0; i < ALL; i += ROUND) {
        unsigned how = i / ROUND % 4, respect = i / ROUND / 4 % 4;
        int server[HELD];

        for (unsigned k = 0; k < ROUND; k++) {
            a->capture = k % CAPTURES;
            vary(a, respect, i + k);
            put_syn(h, a);
        }
        while (rig_stats(h->r).syns < i + ROUND)
            drive_turn(&h->r->d);
        assert_int_equal(rig_stats(h->r).syns_again, 0);
        assert_int_equal(rig_stats(h->r).held, HELD);
        begun += HELD;
        for (unsigned k = 0; k < HELD; k++) {
            server[k] = drive_accept(&h->r->d, h->r->upstream[0]);
            if (how == 0)
                continue;
            put(server[k], BYTES("\x05\x00"));
            if (how == 1)
                put(server[k], BYTES("\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"));
            else if (how == 2)
                put(server[k], BYTES("\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"));
        }
        if (how == 2)
            until_in(h, FLOW_GRANTED, HELD);
        for (unsigned k = 0; how == 0 && k < HELD; k++)
            reset(server[k]);
        settle(h);
        skip_time(h, 25000 * MS);
        skip_time(h, 1000 * MS);
        expect_nothing_left(h);
        for (unsigned k = 0; how != 0 && k < HELD; k++)
            close(server[k]);
    }
    s = rig_stats(h->r);
    assert_int_equal(s.syns, ALL);
    assert_int_equal(s.accepted, begun);
    assert_int_equal(s.early_full, ALL - begun);
    assert_int_equal(s.failed + s.unaccepted, begun);
    assert_int_equal(s.unaccepted, begun / 4);
    assert_int_equal(s.syns_bad + s.syns_lost + s.refused_full + s.granted, 0);
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, held_open, held_close)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(more_than_may_be_held_are_connected_early),
        ON_A_RIG(who_was_refused_is_not_held),
        ON_A_RIG(a_full_table_refuses),
        ON_A_RIG(what_comes_back_to_us_is_refused),
        ON_A_RIG(without_a_descriptor_it_is_refused),
        ON_A_RIG(lost_syns_are_counted_and_the_rest_is_read),
        ON_A_RIG(what_cannot_be_sent_is_tried_with_the_next),
        ON_A_RIG(ten_thousand_leave_nothing_behind),
    };

    return cmocka_run_group_tests_name("hold: bounds", tests, ignore_sigpipe, NULL);
}
