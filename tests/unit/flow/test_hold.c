/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/hold.c: from the held SYN to the connection, and whose connection it is. */
#include "tests/unit/flow/hold_talk.h"

static void it_is_connected_when_the_upstream_says_yes(void **state)
{
    struct held_rig *h = *state;
    struct message_stats s;

    rig_start(h->r);
    for (unsigned capture = 0; capture < CAPTURES; capture++) {
        struct app *a = new_app(h, capture);

        take_syn(h, a);
        int server = asked(h, 0, a);

        settle(h);
        assert_int_equal(h->n_sent, capture);
        assert_int_equal(rig_flow(h->r)->state, FLOW_HANDSHAKE);
        assert_int_equal(rig_stats(h->r).held, 1);
        put(server, BYTES("\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
                          "220 hello\r\n"));
        until_in(h, FLOW_HANDSHAKE, 0);
        /* Over loopback the connection is there with the SYN, and taken with it. */
        assert_int_equal(rig_flow(h->r)->state, capture == LAN ? FLOW_GRANTED : FLOW_RELAY);
        until_in(h, FLOW_RELAY, 1);
        expect_sent(h, capture + 1, a, accept_mark(capture));
        assert_int_equal(rig_stats(h->r).held, 0);
        drive_expect(&h->r->d, a->fd, BYTES("220 hello\r\n"));
        expect_relayed(h, a, server);
        expect_nothing_left(h);
    }
    s = rig_stats(h->r);
    assert_int_equal(s.syns, 3);
    assert_int_equal(s.accepted, 3);
    assert_int_equal(s.granted, 3);
    assert_int_equal(s.finished, 3);
    assert_int_equal(s.syns_again + s.syns_bad + s.syns_lost + s.early_full + s.unaccepted, 0);
    assert_int_equal(s.failed + s.reset + s.refused_full + s.refused_loop + s.refused_stray, 0);
    assert_int_equal(h->r->all[0].granted, 3);
    assert_int_equal(h->lookups, 2); /* the cgroup's listener is not asked where it was going */
}

static void likewise_with_ipv6(void **state)
{
    struct held_rig *h = *state;

    if (h->r->options.n_listeners <= SEAT_V6) {
        print_message("no ::1 here\n");
        skip();
    }
    rig_start(h->r);
    for (unsigned capture = OUT; capture <= LAN; capture++) {
        struct app *a = new_app(h, capture);

        close(a->fd);
        a->fd = bound_socket("[::1]:0", &a->client);
        assert_int_equal(addr_parse("[2001:db8::10]:443", 0, &a->destination), 0);
        int server = ask_and_answer(h, a, 0);

        assert_int_equal(flows_in(h, FLOW_RELAY), capture == OUT);
        expect_sent(h, capture + 1, a, accept_mark(capture));
        expect_relayed(h, a, server);
    }
    expect_nothing_left(h);
    assert_int_equal(h->lookups, 2);
}

/* Several are held, and are answered in another order. */
static void many_are_held_and_each_finds_its_own(void **state)
{
    enum { MANY = 12 };
    struct held_rig *h = *state;
    struct app *a[MANY];
    int server[MANY];

    rig_start(h->r);
    for (unsigned i = 0; i < MANY; i++) {
        a[i] = new_app(h, i % CAPTURES);
        if (i % CAPTURES != SLICE)
            a[i]->destination.port = (uint16_t)(1000 + i % 4);
        take_syn(h, a[i]);
        server[i] = asked(h, 0, a[i]);
    }
    assert_int_equal(rig_stats(h->r).held, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        unsigned k = i * 5 % MANY;
        char word[8];

        snprintf(word, sizeof(word), "%u", k);
        answer(h, server[k], 0);
        until_in(h, FLOW_RELAY, i + 1);
        put(server[k], word, strlen(word));
        drive_expect(&h->r->d, a[k]->fd, word, strlen(word));
        assert_int_equal(rig_stats(h->r).held, MANY - 1 - i);
    }
    for (unsigned i = 0; i < MANY; i++)
        expect_relayed(h, a[i], server[i]);
    expect_nothing_left(h);
}

/* ---- what a SYN tells ---- */

/* The source says this of the SYN's capture. */
static void take_named(struct held_rig *h, const struct app *a, const char *name)
{
    struct waiting *w = put_syn(h, a);

    w->capture = name;
    settle(h);
}

static void the_capture_is_that_of_the_source_or_the_name(void **state)
{
    static const char *const nobody[] = {"gone", "", "ou", "outer", NULL};
    struct held_rig *h = *state;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");

    rig_start(h->r);
    take_named(h, a, "lan");
    assert_int_equal(rig_flow(h->r)->capture, LAN);
    flow_abort(h->r->t, rig_flow(h->r));
    expect_nothing_left(h);
    take_named(h, a, "out");
    assert_int_equal(rig_flow(h->r)->capture, OUT);
    flow_abort(h->r->t, rig_flow(h->r));
    expect_nothing_left(h);
    /* The ring buffer has one capture's only. */
    a->capture = SLICE;
    take_named(h, a, "out");
    assert_int_equal(rig_flow(h->r)->capture, SLICE);
    flow_abort(h->r->t, rig_flow(h->r));
    expect_nothing_left(h);
    a->capture = OUT;
    for (unsigned i = 0; i < 5; i++) {
        take_named(h, a, nobody[i]);
        assert_int_equal(rig_stats(h->r).syns_bad, i + 1);
    }
    assert_int_equal(rig_stats(h->r).flows, 0);
    assert_int_equal(rig_stats(h->r).accepted, 3);
    assert_int_equal(h->n_sent, 0);
}

static void put_named(struct held_rig *h, const uint8_t *packet, size_t len)
{
    struct waiting *w = put_raw(h, LOG, packet, len);

    w->capture = "out";
}

static void what_is_no_syn_is_counted_and_that_is_all(void **state)
{
    struct held_rig *h = *state;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");
    uint8_t packet[SYN_MAX];
    size_t len = make_syn(a, packet);
    unsigned bad = 0;

    rig_start(h->r);
    for (size_t cut = 0; cut < len; cut++, bad++)
        put_named(h, packet, cut);
    packet[33] |= 0x10; /* ACK */
    put_named(h, packet, len);
    packet[33] = 0x04; /* RST */
    put_raw(h, RING, packet, len);
    bad += 2;
    settle(h);
    assert_int_equal(rig_stats(h->r).syns_bad, bad);
    assert_int_equal(rig_stats(h->r).syns, bad);
    assert_int_equal(rig_stats(h->r).flows + h->n_sent, 0);
}

static void the_flow_knows_what_the_source_knew(void **state)
{
    struct held_rig *h = *state;
    struct message_flow m;
    uint32_t cursor = 0;
    struct app *a = far_app(h, OUT, "192.0.2.1:1", "203.0.113.10:80");
    struct waiting *w;

    h->r->origin.known = ORIGIN_PID | ORIGIN_COMM;
    h->r->origin.pid = 4711;
    strcpy(h->r->origin.comm, "curl");
    rig_start(h->r);
    w = put_syn(h, a);
    w->has_uid = true;
    w->uid = 1000;
    settle(h);
    assert_int_equal(flow_table_records(h->r->t, &cursor, &m, 1), 1);
    assert_string_equal(m.capture, "out");
    assert_string_equal(m.upstream, "up0");
    assert_true(addr_equal(&m.client, &a->client));
    assert_true(addr_equal(&m.origin.destination, &a->destination));
    assert_int_equal(m.origin.known, ORIGIN_UID);
    assert_int_equal(m.origin.uid, 1000);
    flow_abort(h->r->t, rig_flow(h->r));
    expect_nothing_left(h);

    /* The packet says nothing but our own listener. */
    a = far_app(h, SLICE, "127.0.0.1:1", "127.0.0.1:2");
    w = put_syn(h, a);
    w->has_uid = true; /* the origin has what there is */
    settle(h);
    cursor = 0;
    assert_int_equal(flow_table_records(h->r->t, &cursor, &m, 1), 1);
    assert_true(addr_equal(&m.client, &a->client));
    assert_true(addr_equal(&m.origin.destination, &h->r->origin.destination));
    assert_int_equal(m.origin.known, ORIGIN_PID | ORIGIN_COMM);
    assert_string_equal(m.origin.comm, "curl");
    flow_abort(h->r->t, rig_flow(h->r));
    expect_nothing_left(h);

    /* A packet has no scope; its interface tells, where there must be one. */
    a = far_app(h, LAN, "[fe80::1]:1", "[fe80::2]:2");
    take_syn(h, a);
    assert_int_equal(rig_flow(h->r)->origin.destination.scope, DEVICE);
    assert_int_equal(rig_flow(h->r)->origin.known, 0);
    flow_abort(h->r->t, rig_flow(h->r));
    expect_nothing_left(h);
    take_syn(h, far_app(h, LAN, "[2001:db8::1]:1", "[2001:db8::2]:2"));
    assert_int_equal(rig_flow(h->r)->origin.destination.scope, 0);
}

/* ---- who is accepted ---- */

static void expect_stray(struct held_rig *h, int fd, unsigned n)
{
    drive_expect_end(&h->r->d, fd, ECONNRESET);
    assert_int_equal(rig_stats(h->r).refused_stray, n);
    close(fd);
}

static void what_no_syn_was_held_for_is_reset(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT), *b = new_app(h, SLICE);

    rig_start(h->r);
    /* Nobody redirected it; nobody held it; the same at a cgroup's listener. */
    expect_stray(h, connect_here(&h->listeners[SEAT_V4].at), 1);
    expect_stray(h, connect_here(&h->listeners[SEAT_SLICE].at), 2);
    connect_app(a, &h->listeners[SEAT_V4].at);
    drive_expect_end(&h->r->d, a->fd, ECONNRESET);
    assert_int_equal(rig_stats(h->r).refused_stray, 3);
    close_app(a);

    /* Not yet granted; and the flow does not mind. */
    for (unsigned i = 0; i < 2; i++) {
        a = i ? b : new_app(h, OUT);
        take_syn(h, a);
        int server = asked(h, 0, a);

        connect_app(a, &h->listeners[i ? SEAT_SLICE : SEAT_V4].at);
        drive_expect_end(&h->r->d, a->fd, ECONNRESET);
        assert_int_equal(rig_stats(h->r).refused_stray, 4 + i);
        close_app(a);
        assert_int_equal(rig_flow(h->r)->state, FLOW_HANDSHAKE);
        answer(h, server, 0);
        assert_int_equal(rig_flow(h->r)->state, FLOW_GRANTED);
        close(server);
        skip_time(h, 4000 * MS);
        expect_nothing_left(h);
    }

    /* Granted, and another one comes: of another destination, at a cgroup's listener, directly. */
    a = new_app(h, OUT);
    b = new_app(h, OUT);
    b->destination.port++;
    int server = grant_unseen(h, a);

    connect_app(b, &h->listeners[SEAT_V4].at);
    drive_expect_end(&h->r->d, b->fd, ECONNRESET);
    assert_int_equal(rig_stats(h->r).refused_stray, 6);
    b = new_app(h, OUT);
    b->destination.ip[15]++;
    connect_app(b, &h->listeners[SEAT_V4].at);
    drive_expect_end(&h->r->d, b->fd, ECONNRESET);
    assert_int_equal(rig_stats(h->r).refused_stray, 7);
    expect_stray(h, connect_here(&h->listeners[SEAT_SLICE].at), 8);
    expect_stray(h, connect_here(&h->listeners[SEAT_V4].at), 9);
    assert_int_equal(rig_flow(h->r)->state, FLOW_GRANTED);
    let_see(h, a);
    expect_relayed(h, a, server);
}

/* Two that wait for one and the same port of a cgroup's listener are still two. */
static void a_cgroups_connection_is_known_by_its_port_alone(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, SLICE), *b = new_app(h, SLICE);

    rig_start(h->r);
    int server = grant_unseen(h, a);

    connect_app(b, &b->destination);
    drive_expect_end(&h->r->d, b->fd, ECONNRESET);
    assert_int_equal(rig_stats(h->r).refused_stray, 1);
    let_see(h, a);
    expect_relayed(h, a, server);
}

/* The kernel has changed the port on the way. */
static void a_translated_port_finds_a_flow_of_the_same_ends(void **state)
{
    struct held_rig *h = *state;

    rig_start(h->r);
    for (unsigned capture = OUT; capture <= LAN; capture++) {
        struct app *a = new_app(h, capture), *b = new_app(h, capture);
        struct addr other;
        int server[2];

        close(a->fd);
        a->fd = bound_socket("127.0.0.1:0", &other);
        assert_int_not_equal(other.port, a->client.port);
        server[0] = ask_and_answer(h, a, 0);
        expect_relayed(h, a, server[0]);

        /* It need not have been the owner of that SYN: if it asks again, it is asked for. */
        close(ask_and_answer(h, a, 5));
        rig_until_flows(h->r, 0);

        /* And with others around. */
        a = new_app(h, capture);
        close(a->fd);
        a->fd = bound_socket("127.0.0.1:0", &other);
        take_syn(h, b);
        server[1] = asked(h, 0, b); /* the same ends, and not granted */
        server[0] = ask_and_answer(h, a, 0);
        expect_relayed(h, a, server[0]);
        assert_int_equal(rig_flow(h->r)->state, FLOW_HANDSHAKE);
        answer(h, server[1], 0);
        expect_relayed(h, b, server[1]);
        expect_nothing_left(h);
    }
    assert_int_equal(rig_stats(h->r).refused_stray, 0);
}

/* To a port from which another application's SYN is held. */
static void a_translated_port_may_be_that_of_one_who_still_waits(void **state)
{
    struct held_rig *h = *state;
    struct app *a = new_app(h, OUT), *b = new_app(h, OUT);
    int server[2];

    rig_start(h->r);
    take_syn(h, b);
    server[1] = asked(h, 0, b);
    close(a->fd);
    a->fd = b->fd;
    b->fd = -1;
    server[0] = ask_and_answer(h, a, 0);
    expect_relayed(h, a, server[0]);
    assert_int_equal(rig_stats(h->r).refused_stray, 0);
    close(server[1]);
}

/* Not one of another host. */
static void a_translated_connection_is_of_the_same_client(void **state)
{
    struct held_rig *h = *state;
    struct app *a = far_app(h, LAN, "192.0.2.7:7", "203.0.113.10:80"), *b = new_app(h, LAN);

    rig_start(h->r);
    int server = grant_unseen(h, a);

    connect_app(b, &h->listeners[SEAT_V4].at);
    drive_expect_end(&h->r->d, b->fd, ECONNRESET);
    assert_int_equal(rig_flow(h->r)->state, FLOW_GRANTED);
    close(server);
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, held_open, held_close)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(it_is_connected_when_the_upstream_says_yes),
        ON_A_RIG(likewise_with_ipv6),
        ON_A_RIG(many_are_held_and_each_finds_its_own),
        ON_A_RIG(the_capture_is_that_of_the_source_or_the_name),
        ON_A_RIG(what_is_no_syn_is_counted_and_that_is_all),
        ON_A_RIG(the_flow_knows_what_the_source_knew),
        ON_A_RIG(what_no_syn_was_held_for_is_reset),
        ON_A_RIG(a_cgroups_connection_is_known_by_its_port_alone),
        ON_A_RIG(a_translated_port_finds_a_flow_of_the_same_ends),
        ON_A_RIG(a_translated_port_may_be_that_of_one_who_still_waits),
        ON_A_RIG(a_translated_connection_is_of_the_same_client),
    };

    return cmocka_run_group_tests_name("hold", tests, ignore_sigpipe, NULL);
}
