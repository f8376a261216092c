/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of flow/: a flow table on a loop turned by hand, one listener, two fake upstreams
 * that say what the test has them say, and a fake capture that says where a connection was going.
 */
#ifndef UNDERSOCK_TESTS_FLOW_RIG_H
#define UNDERSOCK_TESTS_FLOW_RIG_H

#include <sys/resource.h>

#include "flow/table.h"
#include "log.h"
#include "tests/unit/upstream/drive.h"

#define RIG_UPSTREAMS 2
#define RIG_FLOWS     64

struct rig {
    struct drive d;
    struct relay_pool *pool;
    struct flow_table *t;
    struct flow_table_options options;
    struct flow_listener listener;
    struct flow_capture flow_capture;

    struct config config;
    struct config_upstream ups[RIG_UPSTREAMS];
    unsigned members[RIG_UPSTREAMS];
    struct config_group group;
    struct config_capture capture;
    struct upstream *all;
    struct upstream_choice choice;
    int upstream[RIG_UPSTREAMS]; /* where the fake ones listen */
    struct addr upstream_at[RIG_UPSTREAMS];

    int lookup_result;
    struct origin origin;
    unsigned lookups, emptied;
    unsigned fds;
    void *extra; /* of a rig that stands on this one */
};

static inline int rig_lookup(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                             struct origin *ret)
{
    struct rig *r = ctx;

    assert_true(fd >= 0);
    assert_true(addr_is_loopback(peer) && peer->port != 0);
    assert_true(addr_equal(local, &r->listener.at));
    r->lookups++;
    if (r->lookup_result == 0)
        *ret = r->origin;
    return r->lookup_result;
}

static inline void rig_emptied(void *ctx)
{
    ((struct rig *)ctx)->emptied++;
}

/* Everything but the table; the test may change the options before rig_start(). */
static inline int rig_open(void **state)
{
    static const struct origin_ops ops = {.lookup = rig_lookup};
    static struct rig r;

    log_set_level(LOG_LEVEL_ERROR);
    r = (struct rig){.fds = open_fds()};
    drive_open(&r.d, RIG_FLOWS + 8);
    assert_int_equal(relay_pool_create(8, 0, 1 << 20, RELAY_CHOICE_AUTO, &r.pool), 0);
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++) {
        struct config_upstream *u = &r.ups[i];

        r.upstream[i] = listen_here(&r.upstream_at[i]);
        *u = (struct config_upstream){
            .via = -1,
            .connect_timeout = 10000 * MS,
            .handshake_timeout = 20000 * MS,
            .url = {.scheme = SCHEME_SOCKS5, .host = "127.0.0.1", .port = r.upstream_at[i].port}};
        snprintf(u->name, sizeof(u->name), "up%u", i);
        r.members[i] = i;
    }
    r.group =
        (struct config_group){.name = "both", .members = r.members, .n_members = RIG_UPSTREAMS};
    r.config = (struct config){
        .upstreams = r.ups, .n_upstreams = RIG_UPSTREAMS, .groups = &r.group, .n_groups = 1};
    r.capture = (struct config_capture){.target = TARGET_UPSTREAM};
    assert_int_equal(addr_parse("203.0.113.10:80", 0, &r.origin.destination), 0);
    r.listener = (struct flow_listener){.origin = {.ops = &ops, .ctx = &r}};
    r.flow_capture = (struct flow_capture){
        .name = "test", .hook = CAPTURE_OUTPUT, .early = 3, .choice = &r.choice};
    struct addr at;

    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    r.listener.fd = fd_listen(&at, 0, &r.listener.at);
    assert_true(r.listener.fd >= 0);
    r.options = (struct flow_table_options){.loop = r.d.loop,
                                            .pool = r.pool,
                                            .captures = &r.flow_capture,
                                            .n_captures = 1,
                                            .listeners = &r.listener,
                                            .n_listeners = 1,
                                            .upstreams = r.upstream_at,
                                            .n_upstreams = RIG_UPSTREAMS,
                                            .max_flows = RIG_FLOWS,
                                            .max_flows_is = "max-flows",
                                            .worker = 5,
                                            .on_empty = rig_emptied,
                                            .ctx = &r};
    *state = &r;
    return 0;
}

static inline void rig_start(struct rig *r)
{
    char why[256] = "";

    assert_int_equal(upstream_build(&r->config, 0, &r->all), 0);
    if (upstream_resolve(r->all, RIG_UPSTREAMS, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    upstream_choose_from(&r->config, &r->capture, r->all, &r->choice);
    assert_int_equal(flow_table_create(&r->options, &r->t), 0);
}

/* Whatever the test left in the table, nothing is left open and no timer behind. */
static inline int rig_close(void **state)
{
    struct rig *r = *state;

    flow_table_destroy(r->t);
    drive_turn(&r->d); /* a timer of a flow that is gone would be touched here */
    free(r->all);
    close(r->listener.fd);
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++)
        fd_close(&r->upstream[i]);
    drive_close(&r->d);
    relay_pool_destroy(r->pool);
    assert_int_equal(open_fds(), r->fds);
    return 0;
}

static inline struct message_stats rig_stats(const struct rig *r)
{
    struct message_stats s;

    flow_table_stats(r->t, &s);
    return s;
}

/* Turns until the table has `n` flows. */
static inline void rig_until_flows(struct rig *r, uint64_t n)
{
    for (unsigned i = 0; rig_stats(r).flows != n; i++) {
        if (i == DRIVE_TURNS)
            fail_msg("%llu flows, not %llu", (unsigned long long)rig_stats(r).flows,
                     (unsigned long long)n);
        drive_turn(&r->d);
    }
}

/* The only flow there is. */
static inline struct flow *rig_flow(struct rig *r)
{
    struct flow *found = NULL;

    for (uint32_t i = 0; i < r->t->n_used; i++) {
        if (r->t->flows[i].state == FLOW_FREE)
            continue;
        assert_null(found);
        found = &r->t->flows[i];
    }
    assert_non_null(found);
    return found;
}

static inline int rig_app(struct rig *r)
{
    return connect_here(&r->listener.at);
}

/* The fake upstream takes the connection and is asked for 203.0.113.10:80. */
static inline int rig_asked(struct rig *r, unsigned upstream)
{
    int fd = drive_accept(&r->d, r->upstream[upstream]);

    drive_expect(&r->d, fd, BYTES("\x05\x01\x00"));
    put(fd, BYTES("\x05\x00"));
    drive_expect(&r->d, fd, BYTES("\x05\x01\x00\x01\xcb\x00\x71\x0a\x00\x50"));
    return fd;
}

static inline void rig_reply(int server, uint8_t code)
{
    uint8_t reply[10] = {5, code, 0, 1};

    put(server, reply, sizeof(reply));
}

/* A flow from end to end. */
static inline void rig_join(struct rig *r, int *ret_app, int *ret_server)
{
    *ret_app = rig_app(r);
    *ret_server = rig_asked(r, 0);
    rig_reply(*ret_server, 0);
}

/* Both directions carry bytes. */
static inline void rig_expect_joined(struct rig *r, int app, int server)
{
    put(app, BYTES("from the application"));
    drive_expect(&r->d, server, BYTES("from the application"));
    put(server, BYTES("from the destination"));
    drive_expect(&r->d, app, BYTES("from the destination"));
}

#endif
