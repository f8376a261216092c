/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/lifecycle.c: from accept to the end, through each way a life can take. */
#include "tests/unit/flow/flow_rig.h"

/* Turns long enough for whatever is under way to arrive. */
static void settle(struct rig *r)
{
    for (unsigned i = 0; i < 30; i++)
        drive_turn(&r->d);
}

static void expect_refused(struct rig *r, int app)
{
    drive_expect_end(&r->d, app, ECONNRESET);
    close(app);
    rig_until_flows(r, 0);
}

static void a_flow_from_accept_to_two_fins(void **state)
{
    struct rig *r = *state;
    struct message_stats s;
    int app, server;

    rig_start(r);
    rig_join(r, &app, &server);
    rig_expect_joined(r, app, server);
    assert_int_equal(rig_flow(r)->state, FLOW_RELAY);
    assert_int_equal(shutdown(app, SHUT_WR), 0);
    drive_expect_end(&r->d, server, 0);
    assert_int_equal(rig_flow(r)->state, FLOW_HALF_CLOSED);
    put(server, BYTES("after the FIN"));
    drive_expect(&r->d, app, BYTES("after the FIN"));
    assert_int_equal(shutdown(server, SHUT_WR), 0);
    drive_expect_end(&r->d, app, 0);
    rig_until_flows(r, 0);
    s = rig_stats(r);
    assert_int_equal(s.accepted, 1);
    assert_int_equal(s.granted, 1);
    assert_int_equal(s.finished, 1);
    assert_int_equal(s.failed + s.reset + s.refused_full + s.refused_loop + s.refused_stray, 0);
    assert_int_equal(s.bytes_up, 20);
    assert_int_equal(s.bytes_down, 33);
    assert_int_equal(s.bytes_copied + s.bytes_spliced, 53);
    assert_int_equal(r->all[0].granted, 1);
    assert_int_equal(r->lookups, 1);
    close(app);
    close(server);
}

static void the_application_speaks_before_it_is_granted(void **state)
{
    struct rig *r = *state;
    int app, server;

    rig_start(r);
    app = rig_app(r);
    put(app, BYTES("GET / HTTP/1.0\r\n\r\n"));
    server = rig_asked(r, 0);
    settle(r);
    assert_int_equal(rig_flow(r)->state, FLOW_HANDSHAKE);
    rig_reply(server, 0);
    drive_expect(&r->d, server, BYTES("GET / HTTP/1.0\r\n\r\n"));
    put(server, BYTES("200"));
    drive_expect(&r->d, app, BYTES("200"));
    close(app);
    close(server);
}

/* All of the request and its FIN have come, and their edges gone, before the upstream has answered.
 */
static void the_application_has_finished_before_it_is_granted(void **state)
{
    struct rig *r = *state;
    int app, server;

    rig_start(r);
    app = rig_app(r);
    put(app, BYTES("request"));
    assert_int_equal(shutdown(app, SHUT_WR), 0);
    server = rig_asked(r, 0);
    settle(r);
    rig_reply(server, 0);
    drive_expect(&r->d, server, BYTES("request"));
    drive_expect_end(&r->d, server, 0);
    assert_int_equal(rig_flow(r)->state, FLOW_HALF_CLOSED);
    put(server, BYTES("answer"));
    assert_int_equal(shutdown(server, SHUT_WR), 0);
    drive_expect(&r->d, app, BYTES("answer"));
    drive_expect_end(&r->d, app, 0);
    rig_until_flows(r, 0);
    assert_int_equal(rig_stats(r).finished, 1);
    close(app);
    close(server);
}

/* The destination's first words, and its FIN, glued to the reply. */
static void the_server_speaks_first(void **state)
{
    struct rig *r = *state;
    int app, server;

    rig_start(r);
    app = rig_app(r);
    server = rig_asked(r, 0);
    put(server, BYTES("\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
                      "220 hello\r\n"));
    assert_int_equal(shutdown(server, SHUT_WR), 0);
    drive_expect(&r->d, app, BYTES("220 hello\r\n"));
    drive_expect_end(&r->d, app, 0);
    put(app, BYTES("QUIT"));
    drive_expect(&r->d, server, BYTES("QUIT"));
    close(app);
    close(server);
}

static void a_refusal_is_a_reset_not_a_fin(void **state)
{
    static const uint8_t codes[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x5b, 0xff};
    struct rig *r = *state;

    rig_start(r);
    for (unsigned i = 0; i < sizeof(codes); i++) {
        int app = rig_app(r), server;

        put(app, BYTES("bytes that nobody reads"));
        server = rig_asked(r, 0);
        rig_reply(server, codes[i]);
        expect_refused(r, app);
        assert_int_equal(rig_stats(r).failed, i + 1);
        close(server);
    }
    assert_int_equal(rig_stats(r).granted, 0);
}

static void the_next_member_is_asked_when_one_is_down(void **state)
{
    struct rig *r = *state;
    int app, server;

    r->capture.target = TARGET_GROUP;
    rig_start(r);
    /* It takes the connection and closes in the middle of the handshake. */
    app = rig_app(r);
    server = drive_accept(&r->d, r->upstream[0]);
    drive_expect(&r->d, server, BYTES("\x05\x01\x00"));
    close(server);
    server = rig_asked(r, 1);
    assert_int_equal(rig_flow(r)->state, FLOW_HANDSHAKE);
    rig_reply(server, 0);
    rig_expect_joined(r, app, server);
    assert_false(r->all[0].healthy);
    assert_int_equal(r->all[0].failed, 1);
    assert_true(r->all[1].healthy);
    assert_int_equal(r->all[1].granted, 1);
    assert_ptr_equal(rig_flow(r)->upstream, &r->all[1]);
    reset(app);
    close(server);
    rig_until_flows(r, 0);

    /* The next flow asks the healthy one at once. */
    app = rig_app(r);
    server = rig_asked(r, 1);
    assert_int_equal(accept4(r->upstream[0], NULL, NULL, 0), -1);
    rig_reply(server, 0);
    rig_expect_joined(r, app, server);
    close(app);
    close(server);
}

/* It refuses the connection at once, so the second is dialled inside the first's failure. */
static void the_next_member_is_dialled_when_one_refuses(void **state)
{
    struct rig *r = *state;
    int app, server;

    r->capture.target = TARGET_GROUP;
    rig_start(r);
    fd_close(&r->upstream[0]);
    app = rig_app(r);
    server = rig_asked(r, 1);
    rig_reply(server, 0);
    rig_expect_joined(r, app, server);
    assert_int_equal(r->all[0].failed, 1);
    close(app);
    close(server);
}

static void when_all_members_are_down_it_is_refused(void **state)
{
    struct rig *r = *state;

    r->capture.target = TARGET_GROUP;
    rig_start(r);
    fd_close(&r->upstream[0]);
    fd_close(&r->upstream[1]);
    for (unsigned i = 1; i <= 3; i++) {
        expect_refused(r, rig_app(r));
        assert_int_equal(rig_stats(r).failed, i);
        assert_int_equal(r->all[0].failed + r->all[1].failed, 2 * i);
    }
}

/* What the destination answers is not asked of another member. */
static void a_refusal_by_the_destination_is_final(void **state)
{
    struct rig *r = *state;
    int app, server;

    r->capture.target = TARGET_GROUP;
    rig_start(r);
    app = rig_app(r);
    server = rig_asked(r, 0);
    rig_reply(server, 0x05);
    expect_refused(r, app);
    assert_int_equal(accept4(r->upstream[1], NULL, NULL, 0), -1);
    assert_true(r->all[0].healthy);
    close(server);
}

/* when-down = "direct": only then, and only when nobody is there: who closes is. */
static void when_down_is_direct_the_destination_is_dialled(void **state)
{
    struct rig *r = *state;
    struct addr at;
    int app, destination = listen_here(&at), server;

    r->capture.policy.when_down = CAPTURE_DOWN_DIRECT;
    r->origin.destination = at;
    rig_start(r);
    for (unsigned i = 0; i < 3; i++) {
        app = rig_app(r);
        close(drive_accept(&r->d, r->upstream[0]));
        expect_refused(r, app);
        assert_int_equal(accept4(destination, NULL, NULL, 0), -1);
    }
    assert_false(r->all[0].healthy);
    fd_close(&r->upstream[0]);
    app = rig_app(r);
    server = drive_accept(&r->d, destination);
    rig_expect_joined(r, app, server);
    assert_string_equal(rig_flow(r)->upstream->name, "direct");
    close(app);
    close(server);
    rig_until_flows(r, 0);
    close(destination);
}

/* An answer that speaks of nothing but the destination tells that an upstream is alive; silence
 * does not. */
static void silence_does_not_make_an_upstream_healthy(void **state)
{
    struct rig *r = *state;
    int app, server;

    r->ups[0].url.scheme = SCHEME_SOCKS4;
    rig_start(r);
    r->all[0].healthy = false;
    app = rig_app(r);
    server = drive_accept(&r->d, r->upstream[0]);
    drive_expect(&r->d, server, BYTES("\x04\x01\x00\x50\xcb\x00\x71\x0a\x00"));
    struct flow *f = rig_flow(r);

    flow_event(r->t, flow_ref(r->t, f, KIND_UPSTREAM), LOOP_TIMEOUT);
    expect_refused(r, app);
    assert_false(r->all[0].healthy);
    close(server);

    app = rig_app(r);
    server = drive_accept(&r->d, r->upstream[0]);
    drive_expect(&r->d, server, BYTES("\x04\x01\x00\x50\xcb\x00\x71\x0a\x00"));
    put(server, BYTES("\x00\x5b\x00\x00\x00\x00\x00\x00"));
    expect_refused(r, app);
    assert_true(r->all[0].healthy);
    close(server);
}

static void the_application_gives_up_while_the_upstream_is_asked(void **state)
{
    struct rig *r = *state;
    int app, server;

    rig_start(r);
    for (unsigned step = 0; step < 2; step++) {
        app = rig_app(r);
        server = step ? rig_asked(r, 0) : drive_accept(&r->d, r->upstream[0]);
        reset(app);
        if (step == 0)
            drive_expect(&r->d, server, BYTES("\x05\x01\x00"));
        drive_expect_end(&r->d, server, ECONNRESET);
        rig_until_flows(r, 0);
        assert_int_equal(rig_stats(r).failed, step + 1);
        close(server);
    }
    assert_true(r->all[0].healthy);
}

static void a_reset_is_passed_on_from_either_side(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    for (unsigned side = 0; side < 2; side++) {
        int end[2];

        rig_join(r, &end[0], &end[1]);
        rig_expect_joined(r, end[0], end[1]);
        put(end[side], BYTES("last words"));
        while (outstanding(end[side]) > 0)
            ;
        reset(end[side]);
        drive_expect(&r->d, end[!side], BYTES("last words"));
        drive_expect_end(&r->d, end[!side], ECONNRESET);
        close(end[!side]);
        rig_until_flows(r, 0);
        assert_int_equal(rig_stats(r).reset, side + 1);
    }
    assert_int_equal(rig_stats(r).finished, 0);
}

/* Fills everything between the dying side and the survivor, which does not read; then the dying
 * side dies. */
static struct flow *die_with_a_backlog(struct rig *r, int *ret_survivor, uint64_t *ret_sent)
{
    static char block[65536];
    int app, server, idle = 0;

    rig_join(r, &app, &server);
    rig_expect_joined(r, app, server);
    for (*ret_sent = 0; idle < 300;) {
        ssize_t n = send(server, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);

        *ret_sent += n > 0 ? (uint64_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        drive_turn(&r->d);
    }
    /* What its own kernel still holds dies with it. */
    *ret_sent -= (uint64_t)outstanding(server);
    struct flow *f = rig_flow(r);

    reset(server);
    settle(r);
    assert_ptr_equal(rig_flow(r), f);
    *ret_survivor = app;
    return f;
}

static void a_survivor_gets_all_that_was_sent_before_the_reset(void **state)
{
    static char block[65536];
    struct rig *r = *state;
    uint64_t sent, got = 0;
    int app;

    rig_start(r);
    die_with_a_backlog(r, &app, &sent);
    for (unsigned i = 0; i < DRIVE_TURNS; i++) {
        ssize_t n = recv(app, block, sizeof(block), MSG_DONTWAIT);

        assert_int_not_equal(n, 0); /* never a clean end */
        if (n < 0 && errno != EAGAIN)
            break;
        if (n > 0)
            got += (uint64_t)n;
        else
            drive_turn(&r->d);
    }
    assert_int_equal(errno, ECONNRESET);
    assert_int_equal(got, sent);
    rig_until_flows(r, 0);
    close(app);
}

/* All is in the survivor's own connection, and it never reads: that is waited for, but not for
 * ever. */
static void a_survivor_that_never_reads_is_not_waited_for_for_ever(void **state)
{
    static char block[65536];
    struct rig *r = *state;
    int app, server, small = 4096;
    unsigned looks = 0;

    rig_start(r);
    rig_join(r, &app, &server);
    rig_expect_joined(r, app, server);
    assert_int_equal(setsockopt(app, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    for (unsigned i = 0; i < 10; i++) { /* more than it takes, less than the relay's send buffer */
        put(server, block, 10000);
        drive_turn(&r->d);
    }
    while (outstanding(server) > 0)
        drive_turn(&r->d);
    settle(r);
    struct flow *f = rig_flow(r);

    assert_int_equal(f->relay.dir[SIDE_UPSTREAM].bytes, 100020);
    assert_true(outstanding(f->fd[SIDE_CLIENT]) > 0);
    reset(server);
    settle(r);
    assert_int_equal(f->state, FLOW_CLOSING);
    assert_false(f->reaping);
    while (!f->reaping) {
        assert_true(looks++ < 1000);
        flow_event(r->t, flow_ref(r->t, f, KIND_CLIENT), LOOP_TIMEOUT);
    }
    assert_true(looks > 10);
    rig_until_flows(r, 0);
    assert_int_equal(rig_stats(r).reset, 1);
    close(app);
}

static void urgent_data_passes_through_both_ways(void **state)
{
    struct rig *r = *state;
    int end[2];

    rig_start(r);
    rig_join(r, &end[0], &end[1]);
    rig_expect_joined(r, end[0], end[1]);
    for (unsigned side = 0; side < 2; side++) {
        put(end[side], BYTES("before"));
        assert_int_equal(send(end[side], "!", 1, MSG_OOB), 1);
        put(end[side], BYTES("after"));
        drive_expect(&r->d, end[!side], BYTES("before!after"));
    }
    close(end[0]);
    close(end[1]);
}

static void an_idle_flow_is_reset_and_a_busy_one_is_not(void **state)
{
    struct rig *r = *state;
    int app, server;

    r->options.idle_timeout = 40 * 1000 * MS;
    rig_start(r);
    rig_join(r, &app, &server);
    rig_expect_joined(r, app, server);
    struct flow *f = rig_flow(r);
    uint64_t ref = flow_ref(r->t, f, KIND_CLIENT);

    assert_int_not_equal(f->timer.slot, 0);
    /* The timer comes, but there was traffic since it was armed: it is armed for the rest. The
     * times are such that none is before the boot of a machine that has just come up. */
    f->active -= 30 * 1000 * MS;
    flow_event(r->t, ref, LOOP_TIMEOUT);
    assert_int_equal(f->state, FLOW_RELAY);
    assert_in_range(f->timer.deadline - loop_now(r->d.loop), 1, 10 * 1000 * MS);
    rig_expect_joined(r, app, server); /* traffic: counted from here again */
    f->active -= 30 * 1000 * MS;
    flow_event(r->t, ref, LOOP_TIMEOUT);
    assert_int_equal(f->state, FLOW_RELAY);

    f->active -= 10 * 1000 * MS;
    flow_event(r->t, ref, LOOP_TIMEOUT);
    drive_expect_end(&r->d, app, ECONNRESET);
    drive_expect_end(&r->d, server, ECONNRESET);
    rig_until_flows(r, 0);
    assert_int_equal(rig_stats(r).reset, 1);
    close(app);
    close(server);
}

static void the_idle_timeout_is_armed(void **state)
{
    struct rig *r = *state;
    int app, server;

    r->options.idle_timeout = 30 * MS;
    rig_start(r);
    rig_join(r, &app, &server);
    drive_expect_end(&r->d, app, ECONNRESET);
    drive_expect_end(&r->d, server, ECONNRESET);
    close(app);
    close(server);
}

static int option(int fd, int level, int name)
{
    int v = -1;
    socklen_t len = sizeof(v);

    assert_int_equal(getsockopt(fd, level, name, &v, &len), 0);
    return v;
}

static void flows_that_live_on_get_keepalive(void **state)
{
    struct rig *r = *state;
    int app, server;

    rig_start(r);
    rig_join(r, &app, &server);
    rig_expect_joined(r, app, server);
    struct flow *f = rig_flow(r);

    assert_int_not_equal(option(f->fd[SIDE_CLIENT], SOL_SOCKET, SO_KEEPALIVE), 0);
    flow_sweep(r->t);
    assert_int_equal(option(f->fd[SIDE_UPSTREAM], SOL_SOCKET, SO_KEEPALIVE), 0); /* too young */
    f->started -= 3600 * 1000 * MS;
    flow_sweep(r->t);
    assert_int_not_equal(option(f->fd[SIDE_UPSTREAM], SOL_SOCKET, SO_KEEPALIVE), 0);
    assert_int_not_equal(r->t->sweep.slot, 0);
    close(app);
    close(server);
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(a_flow_from_accept_to_two_fins),
        ON_A_RIG(the_application_speaks_before_it_is_granted),
        ON_A_RIG(the_application_has_finished_before_it_is_granted),
        ON_A_RIG(the_server_speaks_first),
        ON_A_RIG(a_refusal_is_a_reset_not_a_fin),
        ON_A_RIG(the_next_member_is_asked_when_one_is_down),
        ON_A_RIG(the_next_member_is_dialled_when_one_refuses),
        ON_A_RIG(when_all_members_are_down_it_is_refused),
        ON_A_RIG(a_refusal_by_the_destination_is_final),
        ON_A_RIG(when_down_is_direct_the_destination_is_dialled),
        ON_A_RIG(silence_does_not_make_an_upstream_healthy),
        ON_A_RIG(the_application_gives_up_while_the_upstream_is_asked),
        ON_A_RIG(a_reset_is_passed_on_from_either_side),
        ON_A_RIG(a_survivor_gets_all_that_was_sent_before_the_reset),
        ON_A_RIG(a_survivor_that_never_reads_is_not_waited_for_for_ever),
        ON_A_RIG(urgent_data_passes_through_both_ways),
        ON_A_RIG(an_idle_flow_is_reset_and_a_busy_one_is_not),
        ON_A_RIG(the_idle_timeout_is_armed),
        ON_A_RIG(flows_that_live_on_get_keepalive),
    };

    return cmocka_run_group_tests_name("flow lifecycle", tests, ignore_sigpipe, NULL);
}
