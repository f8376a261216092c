/* SPDX-License-Identifier: GPL-2.0-or-later */
/* worker/query.c: answers are whole, a slow client delays only itself, and nothing spins for it. */
#include <fcntl.h>

#include "tests/unit/flow/flow_rig.h"
#include "worker/query.h"

#define KIND_QUERY 9

static struct queries q;
static unsigned batches;

static void on_query(void *ctx, uint64_t ref, uint32_t events)
{
    (void)ctx;
    (void)events;
    queries_continue(&q, loop_ref_index(ref));
}

static bool count_batch(void *ctx)
{
    batches++;
    return flow_batch_end(ctx);
}

static int set_up(void **state)
{
    rig_open(state);
    struct rig *r = *state;

    rig_start(r);
    q = (struct queries){.loop = r->d.loop,
                         .kind = KIND_QUERY,
                         .flows = r->t,
                         .upstreams = r->all,
                         .n_upstreams = RIG_UPSTREAMS,
                         .worker = 3,
                         .max_flows = RIG_FLOWS};
    loop_set_handler(r->d.loop, KIND_QUERY, on_query, NULL);
    loop_set_batch_end(r->d.loop, count_batch, r->t);
    return 0;
}

static int tear_down(void **state)
{
    for (unsigned i = 0; i < QUERIES_MAX; i++)
        assert_int_equal(q.items[i].type, 0);
    return rig_close(state);
}

/* A client's socket, and the end that the worker is given. */
static void ask(int *ret_client, int *ret_worker)
{
    int pair[2], small = 1;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
                     0);
    assert_int_equal(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    *ret_client = pair[0];
    *ret_worker = pair[1];
}

/* The next record; its type, or 0 at the end of the answer, which must be there at once or with a
 * turn. */
static unsigned next(struct rig *r, int client, union message *ret)
{
    for (unsigned i = 0; i < DRIVE_TURNS; i++) {
        ssize_t n = fd_recv_message(client, ret, sizeof(*ret), NULL, NULL);

        if (n == -EAGAIN) {
            drive_turn(&r->d);
            continue;
        }
        if (n == 0)
            return 0;
        assert_true(n >= (ssize_t)sizeof(ret->header));
        assert_int_equal(ret->header.length, n);
        assert_int_equal(ret->header.version, MESSAGE_VERSION);
        return ret->header.type;
    }
    fail_msg("no answer");
    return 0;
}

static void fake_flows(struct rig *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        flow_set_state(r->t, flow_alloc(r->t), FLOW_DIALING);
}

static void end_flows(struct rig *r)
{
    for (uint32_t i = 0; i < r->t->n_used; i++) {
        struct flow *f = &r->t->flows[i];

        if (f->state == FLOW_DIALING) {
            flow_set_state(r->t, f, FLOW_CLOSING);
            flow_release(r->t, f);
        }
    }
}

static void status_is_the_worker_and_its_upstreams(void **state)
{
    struct rig *r = *state;
    union message m;
    int client, fd;

    strcpy(r->ups[1].url.user, "alice");
    strcpy(r->ups[1].url.password, "s3cret");
    r->ups[1].url.has_user = r->ups[1].url.has_password = true;
    r->all[1].healthy = false;
    r->all[1].failed = 7;
    r->all[0].granted = 9;
    strcpy(r->all[1].last_error, "cannot connect");
    fake_flows(r, 3);
    ask(&client, &fd);
    assert_true(queries_add(&q, MESSAGE_STATUS, fd));
    assert_int_equal(next(r, client, &m), MESSAGE_STATUS_REPLY);
    assert_int_equal(m.header.length, sizeof(m.status));
    assert_int_equal(m.status.worker, 3);
    assert_int_equal(m.status.pid, getpid());
    assert_int_equal(m.status.max_flows, RIG_FLOWS);
    assert_int_equal(m.status.draining, 0);
    assert_int_equal(m.status.stats.flows, 3);
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++) {
        char url[64];

        assert_int_equal(next(r, client, &m), MESSAGE_UPSTREAM);
        assert_int_equal(m.header.length, sizeof(m.upstream));
        assert_string_equal(m.upstream.name, r->ups[i].name);
        snprintf(url, sizeof(url), "socks5://127.0.0.1:%u", r->upstream_at[i].port);
        assert_string_equal(m.upstream.url, url); /* and no credentials */
        assert_int_equal(m.upstream.draining, 0);
        assert_int_equal(m.upstream.healthy, i == 0);
        assert_int_equal(m.upstream.failed, i ? 7 : 0);
        assert_int_equal(m.upstream.granted, i ? 0 : 9);
        assert_string_equal(m.upstream.last_error, i ? "cannot connect" : "");
    }
    assert_int_equal(next(r, client, &m), MESSAGE_END);
    assert_int_equal(m.end.result, 0);
    assert_int_equal(next(r, client, &m), 0);
    close(client);
    end_flows(r);
}

static void flows_are_listed_each_once(void **state)
{
    struct rig *r = *state;
    union message m;
    uint64_t seen[RIG_FLOWS];
    int client, fd;

    fake_flows(r, RIG_FLOWS);
    ask(&client, &fd);
    assert_true(queries_add(&q, MESSAGE_FLOWS, fd));
    for (unsigned i = 0; i < RIG_FLOWS; i++) {
        assert_int_equal(next(r, client, &m), MESSAGE_FLOW);
        assert_int_equal(m.header.length, sizeof(m.flow));
        seen[i] = m.flow.id;
        for (unsigned k = 0; k < i; k++)
            assert_true(seen[k] != seen[i]);
    }
    assert_int_equal(next(r, client, &m), MESSAGE_END);
    assert_int_equal(next(r, client, &m), 0);
    close(client);
    end_flows(r);
}

static void no_flows_is_an_answer(void **state)
{
    struct rig *r = *state;
    union message m;
    int client, fd;

    ask(&client, &fd);
    assert_true(queries_add(&q, MESSAGE_FLOWS, fd));
    assert_int_equal(next(r, client, &m), MESSAGE_END);
    assert_int_equal(next(r, client, &m), 0);
    close(client);
}

static void unknown_questions_are_left_to_the_caller(void **state)
{
    static const uint16_t types[] = {0,  MESSAGE_RELOAD, MESSAGE_STOP, MESSAGE_DRAIN, MESSAGE_END,
                                     999};
    int client, fd;

    (void)state;
    ask(&client, &fd);
    for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        assert_false(queries_add(&q, types[i], fd));
    assert_true(fcntl(fd, F_GETFD) >= 0);
    close(fd);
    close(client);
}

/* Nobody reads: the slots are taken, a further question is turned down, and the loop sleeps. */
static void clients_that_do_not_read_cost_a_slot_and_no_more(void **state)
{
    struct rig *r = *state;
    int client[QUERIES_MAX + 1], fd[QUERIES_MAX + 1];
    union message m;

    fake_flows(r, RIG_FLOWS);
    for (unsigned i = 0; i <= QUERIES_MAX; i++) {
        ask(&client[i], &fd[i]);
        assert_int_equal(queries_add(&q, MESSAGE_FLOWS, fd[i]), i < QUERIES_MAX);
    }
    close(fd[QUERIES_MAX]);
    batches = 0;
    for (unsigned i = 0; i < 100; i++)
        drive_turn(&r->d);
    assert_true(batches <= 250); /* the turns' own timers */

    /* One gives up, one reads on: both slots are free again. */
    close(client[0]);
    unsigned n = 0;

    while (next(r, client[1], &m) == MESSAGE_FLOW)
        n++;
    assert_int_equal(n, RIG_FLOWS);
    assert_int_equal(m.header.type, MESSAGE_END);
    for (unsigned i = 0; i < 5; i++)
        drive_turn(&r->d);
    assert_int_equal(q.items[0].type, 0);
    assert_int_equal(q.items[1].type, 0);
    for (unsigned i = 1; i <= QUERIES_MAX; i++)
        close(client[i]);
    for (unsigned i = 0; i < 5; i++)
        drive_turn(&r->d);
    end_flows(r);
}

/* The keeper and the other workers have the same socket: it stays open, and must not stay in our
 * loop. */
static void a_finished_answer_leaves_the_loop_while_others_go_on(void **state)
{
    struct rig *r = *state;
    int client, fd, others;
    union message m;

    fake_flows(r, RIG_FLOWS);
    ask(&client, &fd);
    others = dup(fd);
    assert_true(queries_add(&q, MESSAGE_FLOWS, fd));
    assert_true(q.items[0].watched); /* it did not fit at once */
    while (next(r, client, &m) != MESSAGE_END)
        ;
    assert_int_equal(q.items[0].type, 0);
    batches = 0;
    for (unsigned i = 0; i < 100; i++)
        drive_turn(&r->d);
    assert_true(batches <= 250);
    close(others);
    close(client);
    end_flows(r);
}

/* Flows come and go between two records: those that stay are listed, and nobody twice. */
static void a_table_that_changes_meanwhile(void **state)
{
    struct rig *r = *state;
    union message m;
    int client, fd;
    unsigned n = 0;
    uint64_t last = 0;

    fake_flows(r, RIG_FLOWS);
    ask(&client, &fd);
    assert_true(queries_add(&q, MESSAGE_FLOWS, fd));
    while (next(r, client, &m) == MESSAGE_FLOW) {
        uint32_t slot = (uint32_t)m.flow.id;

        assert_true(n == 0 || slot > last);
        last = slot;
        n++;
        if (n % 4 == 0) { /* this one ends, and its slot is taken by a new one */
            flow_set_state(r->t, &r->t->flows[slot], FLOW_CLOSING);
            flow_release(r->t, &r->t->flows[slot]);
            fake_flows(r, 1);
        }
    }
    assert_int_equal(n, RIG_FLOWS);
    close(client);
    end_flows(r);
}

int main(void)
{
#define ASKED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ASKED(status_is_the_worker_and_its_upstreams),
        ASKED(flows_are_listed_each_once),
        ASKED(no_flows_is_an_answer),
        ASKED(unknown_questions_are_left_to_the_caller),
        ASKED(clients_that_do_not_read_cost_a_slot_and_no_more),
        ASKED(a_finished_answer_leaves_the_loop_while_others_go_on),
        ASKED(a_table_that_changes_meanwhile),
    };

    return cmocka_run_group_tests_name("query", tests, ignore_sigpipe, NULL);
}
