/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/table.c: states, slots, generations, records, and the end of the table itself. */
#include <sys/wait.h>

#include "tests/unit/flow/flow_rig.h"

/* What the table in flow.h says, in another form: each step there is, and no other. */
static const struct {
    enum flow_state from, to;
} steps[] = {
    {FLOW_FREE, FLOW_HELD},           {FLOW_FREE, FLOW_DIALING},
    {FLOW_HELD, FLOW_DIALING},        {FLOW_HELD, FLOW_CLOSING},
    {FLOW_DIALING, FLOW_HANDSHAKE},   {FLOW_DIALING, FLOW_CLOSING},
    {FLOW_HANDSHAKE, FLOW_DIALING},   {FLOW_HANDSHAKE, FLOW_GRANTED},
    {FLOW_HANDSHAKE, FLOW_RELAY},     {FLOW_HANDSHAKE, FLOW_CLOSING},
    {FLOW_GRANTED, FLOW_RELAY},       {FLOW_GRANTED, FLOW_CLOSING},
    {FLOW_RELAY, FLOW_HALF_CLOSED},   {FLOW_RELAY, FLOW_CLOSING},
    {FLOW_HALF_CLOSED, FLOW_CLOSING}, {FLOW_CLOSING, FLOW_FREE},
};

static bool listed(unsigned from, unsigned to)
{
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (steps[i].from == from && steps[i].to == to)
            return true;
    }
    return false;
}

static void only_the_steps_of_the_table_are_allowed(void **state)
{
    (void)state;
    for (unsigned from = 0; from < FLOW_STATES + 2; from++) {
        for (unsigned to = 0; to < FLOW_STATES + 2; to++) {
            if (flow_may_become(from, to) != listed(from, to))
                fail_msg("from %s to %s", flow_state_name(from), flow_state_name(to));
        }
    }
}

static void states_have_different_names(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FLOW_STATES; i++) {
        assert_true(strlen(flow_state_name(i)) < sizeof(((struct message_flow *)0)->state));
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(flow_state_name(i), flow_state_name(k));
    }
    assert_string_equal(flow_state_name(FLOW_STATES), "?");
}

/* The setter stops the process: every other step, from a child each. */
static void an_impossible_step_stops_the_process(void **state)
{
    struct rig *r = *state;
    unsigned tried = 0;

    rig_start(r);
    for (unsigned from = 0; from < FLOW_STATES; from++) {
        unsigned to = (from * 5 + 3) % FLOW_STATES; /* one for each, at random enough */
        int status;

        while (listed(from, to))
            to = (to + 1) % FLOW_STATES;
        fflush(stdout);
        fflush(stderr);
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
            struct rlimit no_core = {0, 0};
            struct flow *f = flow_alloc(r->t);

            setrlimit(RLIMIT_CORE, &no_core);
            signal(SIGABRT, SIG_DFL);
            close(STDERR_FILENO);
            f->state = (uint8_t)from;
            flow_set_state(r->t, f, to);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGABRT);
        tried++;
    }
    assert_int_equal(tried, FLOW_STATES);
}

static void a_slot_that_is_used_again_has_another_generation(void **state)
{
    struct rig *r = *state;
    uint64_t id, ref;

    rig_start(r);
    struct flow *f = flow_alloc(r->t), *g;

    assert_non_null(f);
    flow_set_state(r->t, f, FLOW_DIALING);
    id = flow_id(r->t, f);
    ref = flow_ref(r->t, f, KIND_CLIENT);
    assert_int_equal(id >> 56, 5); /* the worker's number */
    assert_ptr_equal(flow_by_ref(r->t, ref), f);
    f->upstream = (void *)1;
    f->queued = true;
    flow_set_state(r->t, f, FLOW_CLOSING);
    flow_release(r->t, f);
    assert_null(flow_by_ref(r->t, ref));

    g = flow_alloc(r->t);
    assert_ptr_equal(g, f);
    flow_set_state(r->t, g, FLOW_DIALING);
    assert_null(flow_by_ref(r->t, ref));
    assert_true(flow_id(r->t, g) != id);
    assert_true(flow_ref(r->t, g, KIND_CLIENT) != ref);
    /* Nothing of the one before is left in it. */
    assert_null(g->upstream);
    assert_false(g->queued);
    assert_int_equal(g->fd[0], -1);
    assert_int_equal(g->fd[1], -1);

    /* The generation has 24 bits, and goes round. */
    g->generation = 0xffffff;
    flow_set_state(r->t, g, FLOW_CLOSING);
    flow_release(r->t, g);
    f = flow_alloc(r->t);
    assert_ptr_equal(f, g);
    assert_int_equal(f->generation, 0);
    flow_set_state(r->t, f, FLOW_DIALING);
    flow_set_state(r->t, f, FLOW_CLOSING);
    flow_release(r->t, f);
    assert_int_equal(rig_stats(r).flows, 0);
}

static void references_from_outside_the_table_lead_nowhere(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    assert_null(flow_by_ref(r->t, loop_ref(KIND_CLIENT, 0, 0)));
    assert_null(flow_by_ref(r->t, loop_ref(KIND_CLIENT, 1, RIG_FLOWS)));
    assert_null(flow_by_ref(r->t, UINT64_MAX));
    flow_event(r->t, loop_ref(KIND_CLIENT, 3, 1), EPOLLIN | EPOLLERR); /* ignored */
}

static void every_slot_is_used_and_none_beyond(void **state)
{
    struct rig *r = *state;
    struct flow *f[RIG_FLOWS];

    rig_start(r);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < RIG_FLOWS; i++) {
            f[i] = flow_alloc(r->t);
            assert_non_null(f[i]);
            assert_in_range(f[i] - r->t->flows, 0, RIG_FLOWS - 1);
            assert_int_equal(f[i]->state, FLOW_FREE);
            flow_set_state(r->t, f[i], FLOW_DIALING);
        }
        assert_null(flow_alloc(r->t));
        assert_int_equal(rig_stats(r).flows, RIG_FLOWS);
        for (unsigned i = 0; i < RIG_FLOWS; i++) {
            flow_set_state(r->t, f[i], FLOW_CLOSING);
            flow_release(r->t, f[i]);
        }
        assert_int_equal(rig_stats(r).flows, 0);
    }
}

static void a_full_table_refuses_counts_and_recovers(void **state)
{
    struct rig *r = *state;
    int app[3], server[3];

    r->options.max_flows = 2;
    rig_start(r);
    rig_join(r, &app[0], &server[0]);
    rig_join(r, &app[1], &server[1]);
    for (unsigned i = 1; i <= 5; i++) {
        app[2] = rig_app(r);
        drive_expect_end(&r->d, app[2], ECONNRESET);
        close(app[2]);
        assert_int_equal(rig_stats(r).refused_full, i);
    }
    assert_int_equal(rig_stats(r).flows, 2);
    assert_int_equal(rig_stats(r).accepted, 2);
    rig_expect_joined(r, app[0], server[0]);

    reset(app[0]);
    rig_until_flows(r, 1);
    rig_join(r, &app[2], &server[2]);
    rig_expect_joined(r, app[2], server[2]);
    rig_expect_joined(r, app[1], server[1]);
    for (unsigned i = 1; i < 3; i++)
        close(app[i]);
    for (unsigned i = 0; i < 3; i++)
        close(server[i]);
}

static void records_say_what_is_known(void **state)
{
    struct rig *r = *state;
    struct message_flow m[4];
    uint32_t cursor = 0;
    int app, server;

    rig_start(r);
    assert_int_equal(flow_table_records(r->t, &cursor, m, 4), 0);
    r->origin.known = ORIGIN_PID | ORIGIN_COMM;
    r->origin.pid = 4711;
    strcpy(r->origin.comm, "curl");

    app = rig_app(r);
    server = rig_asked(r, 0);
    cursor = 0;
    assert_int_equal(flow_table_records(r->t, &cursor, m, 4), 1);
    assert_string_equal(m[0].state, "handshake");
    assert_string_equal(m[0].engine, "");
    assert_int_equal(m[0].bytes_up + m[0].bytes_down, 0);

    rig_reply(server, 0);
    rig_expect_joined(r, app, server);
    put(server, BYTES("more"));
    drive_expect(&r->d, app, BYTES("more"));
    cursor = 0;
    assert_int_equal(flow_table_records(r->t, &cursor, m, 4), 1);
    assert_int_equal(m[0].header.type, MESSAGE_FLOW);
    assert_int_equal(m[0].header.version, MESSAGE_VERSION);
    assert_int_equal(m[0].header.length, sizeof(m[0]));
    assert_int_equal(m[0].id, flow_id(r->t, rig_flow(r)));
    assert_string_equal(m[0].capture, "test");
    assert_string_equal(m[0].upstream, "up0");
    assert_string_equal(m[0].state, "relay");
    assert_string_equal(m[0].engine, "copy");
    assert_string_equal(m[0].name, "");
    assert_true(addr_equal(&m[0].origin.destination, &r->origin.destination));
    assert_true(addr_is_loopback(&m[0].client));
    assert_int_equal(m[0].origin.known, ORIGIN_PID | ORIGIN_COMM);
    assert_int_equal(m[0].origin.pid, 4711);
    assert_string_equal(m[0].origin.comm, "curl");
    assert_int_equal(m[0].bytes_up, 20);
    assert_int_equal(m[0].bytes_down, 24);
    assert_true(m[0].age_ms < 1000 * DRIVE_TURNS);

    assert_int_equal(shutdown(app, SHUT_WR), 0);
    drive_expect_end(&r->d, server, 0);
    cursor = 0;
    assert_int_equal(flow_table_records(r->t, &cursor, m, 4), 1);
    assert_string_equal(m[0].state, "half-closed");
    close(app);
    close(server);
}

/* With holes in the table, in pieces of each size: everyone once, nobody twice. */
static void records_come_in_pieces(void **state)
{
    struct rig *r = *state;
    struct message_flow m[RIG_FLOWS];
    struct flow *f[12];

    rig_start(r);
    for (unsigned i = 0; i < 12; i++) {
        f[i] = flow_alloc(r->t);
        flow_set_state(r->t, f[i], FLOW_DIALING);
    }
    for (unsigned i = 0; i < 12; i += 3) {
        flow_set_state(r->t, f[i], FLOW_CLOSING);
        flow_release(r->t, f[i]);
    }
    for (size_t piece = 1; piece < 12; piece++) {
        uint32_t cursor = 0;
        uint64_t seen[16];
        size_t n = 0, got;

        while ((got = flow_table_records(r->t, &cursor, m, piece)) > 0) {
            assert_true(got <= piece);
            for (size_t i = 0; i < got; i++) {
                for (size_t k = 0; k < n; k++)
                    assert_true(seen[k] != m[i].id);
                assert_true(n < 16);
                seen[n++] = m[i].id;
            }
        }
        assert_int_equal(n, 8);
    }
    for (unsigned i = 0; i < 12; i++) {
        if (i % 3 == 0)
            continue;
        flow_set_state(r->t, f[i], FLOW_CLOSING);
        flow_release(r->t, f[i]);
    }
}

/* In every state at once, one of them with a survivor that does not read. */
static void destroying_the_table_resets_everyone(void **state)
{
    struct rig *r = *state;
    int app[5], server[5];
    char block[65536] = {0};

    rig_start(r);
    for (unsigned i = 0; i < 3; i++)
        rig_join(r, &app[i], &server[i]);
    rig_expect_joined(r, app[0], server[0]);
    assert_int_equal(shutdown(app[1], SHUT_WR), 0); /* half-closed */
    drive_expect_end(&r->d, server[1], 0);
    /* Its server floods and dies; what was sent is still to be delivered. */
    while (send(server[2], block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        drive_turn(&r->d);
    reset(server[2]);
    for (unsigned i = 0; i < 20; i++)
        drive_turn(&r->d);
    app[3] = rig_app(r); /* in the middle of the handshake */
    server[3] = rig_asked(r, 0);
    app[4] = rig_app(r); /* dialling */
    rig_until_flows(r, 5);
    server[4] = drive_accept(&r->d, r->upstream[0]);
    drive_expect(&r->d, server[4], BYTES("\x05\x01\x00"));

    flow_table_destroy(r->t);
    r->t = NULL;
    for (unsigned i = 0; i < 5; i++) {
        while (recv(app[i], block, sizeof(block), 0) > 0)
            ;
        assert_int_equal(errno, ECONNRESET);
        close(app[i]);
        if (i == 2)
            continue;
        if (i == 1) { /* it has had its FIN, and recv() says so for ever */
            struct pollfd p = {.fd = server[i]};

            assert_int_equal(poll(&p, 1, 20000), 1);
            assert_true(p.revents & POLLERR);
        } else {
            drive_expect_end(&r->d, server[i], ECONNRESET);
        }
        close(server[i]);
    }
}

static void too_many_listeners_are_refused(void **state)
{
    struct rig *r = *state;

    r->options.n_listeners = UINT16_MAX + 1;
    assert_int_equal(flow_table_create(&r->options, &r->t), -E2BIG);
    r->t = NULL;
    r->options.n_listeners = 1;
    int fd = r->listener.fd;

    r->listener.fd = 9999; /* the loop cannot take it: the table does not come to be */
    assert_int_equal(flow_table_create(&r->options, &r->t), -EBADF);
    r->listener.fd = fd;
    assert_null(r->t);
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_steps_of_the_table_are_allowed),
        cmocka_unit_test(states_have_different_names),
        ON_A_RIG(an_impossible_step_stops_the_process),
        ON_A_RIG(a_slot_that_is_used_again_has_another_generation),
        ON_A_RIG(references_from_outside_the_table_lead_nowhere),
        ON_A_RIG(every_slot_is_used_and_none_beyond),
        ON_A_RIG(a_full_table_refuses_counts_and_recovers),
        ON_A_RIG(records_say_what_is_known),
        ON_A_RIG(records_come_in_pieces),
        ON_A_RIG(destroying_the_table_resets_everyone),
        ON_A_RIG(too_many_listeners_are_refused),
    };

    return cmocka_run_group_tests_name("flow table", tests, ignore_sigpipe, NULL);
}
