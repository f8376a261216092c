/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For the tests of upstream/dial.c: a dial, and the server it talks to, in the test's own hands. */
#ifndef UNDERSOCK_TESTS_UPSTREAM_DIAL_RIG_H
#define UNDERSOCK_TESTS_UPSTREAM_DIAL_RIG_H

#include <netinet/tcp.h>

#include "tests/unit/upstream/drive.h"
#include "upstream/dial.h"

#define GREETING  BYTES("\x05\x01\x00")
#define METHOD    BYTES("\x05\x00")
#define REQUEST   BYTES("\x05\x01\x00\x01\xcb\x00\x71\x0a\x00\x50") /* 203.0.113.10:80 */
#define SUCCEEDED BYTES("\x05\x00\x00\x01\x0a\x00\x00\x01\x12\x34")

struct rig {
    struct drive d;
    struct config config;
    struct config_upstream hops[3];
    struct upstream *all;
    struct addr at, destination;
    int listener, server; /* the fake upstream, and its connection */
    const char *name;
    struct dial dial;
    struct timer timer;
    struct dial_env env;
    enum dial_result result;
    unsigned fds;
};

static inline void on_upstream(void *ctx, uint64_t ref, uint32_t events)
{
    struct rig *r = ctx;

    assert_int_equal(ref, r->env.ref);
    assert_int_equal(r->result, DIAL_PENDING); /* no event after the end */
    r->result = dial_event(&r->dial, events, &r->env);
    if (r->result != DIAL_PENDING)
        loop_timer_cancel(r->d.loop, &r->timer);
}

static inline int open_rig(void **state)
{
    static struct rig r;

    r = (struct rig){.fds = open_fds(), .server = -1, .dial.fd = -1};
    drive_open(&r.d, 4);
    loop_set_handler(r.d.loop, 1, on_upstream, &r);
    r.listener = listen_here(&r.at);
    assert_int_equal(addr_parse("203.0.113.10:80", 0, &r.destination), 0);
    r.env = (struct dial_env){.loop = r.d.loop, .timer = &r.timer, .ref = loop_ref(1, 7, 3)};
    for (unsigned i = 0; i < 3; i++) {
        struct config_upstream *u = &r.hops[i];

        u->url = (struct config_url){.scheme = SCHEME_SOCKS5, .port = r.at.port};
        snprintf(u->name, sizeof(u->name), "hop%u", i);
        snprintf(u->url.host, sizeof(u->url.host), i ? "198.51.100.%u" : "127.0.0.1", i);
        if (i > 0)
            u->url.port = 1080;
        u->via = (int)i - 1;
        u->connect_timeout = 3000 * MS;
        u->handshake_timeout = 5000 * MS;
    }
    r.config = (struct config){.upstreams = r.hops, .n_upstreams = 3};
    *state = &r;
    return 0;
}

/* Nothing is left open, whatever became of the dial. */
static inline int close_rig(void **state)
{
    struct rig *r = *state;

    loop_timer_cancel(r->d.loop, &r->timer);
    dial_finish(&r->dial);
    dial_finish(&r->dial);
    assert_null(r->dial.buffer);
    free(r->all);
    close(r->listener);
    fd_close(&r->server);
    drive_close(&r->d);
    assert_int_equal(open_fds(), r->fds);
    return 0;
}

/* Through a chain of `n_hops`. */
static inline void build(struct rig *r)
{
    char why[256] = "";

    free(r->all);
    assert_int_equal(upstream_build(&r->config, 0, &r->all), 0);
    if (upstream_resolve(r->all, r->config.n_upstreams, why, sizeof(why)) < 0)
        fail_msg("%s", why);
}

static inline void begin(struct rig *r, unsigned n_hops)
{
    if (!r->all)
        build(r);
    r->result = dial_start(&r->dial, &r->all[n_hops - 1], &r->destination, r->name, &r->env);
}

static inline void begin_and_accept(struct rig *r, unsigned n_hops)
{
    begin(r, n_hops);
    assert_int_equal(r->result, DIAL_PENDING);
    fd_close(&r->server);
    r->server = drive_accept(&r->d, r->listener);
    int on = 1; /* its messages go out as they are written */

    assert_int_equal(setsockopt(r->server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
}

static inline void wait_for(struct rig *r, enum dial_result result)
{
    for (unsigned i = 0; r->result == DIAL_PENDING; i++) {
        assert_true(i < DRIVE_TURNS);
        drive_turn(&r->d);
    }
    if (r->result != result) {
        char why[256] = "";

        fail_msg("result %d: %s", r->result,
                 r->result == DIAL_FAILED ? dial_describe(&r->dial, why, sizeof(why)) : "");
    }
}

static inline void expect_failed(struct rig *r, enum dial_fault fault, int app_errno, bool at_fault)
{
    wait_for(r, DIAL_FAILED);
    assert_int_equal(r->dial.fault, fault);
    assert_int_equal(dial_errno(&r->dial), app_errno);
    assert_int_equal(dial_upstream_at_fault(&r->dial), at_fault);
    assert_int_equal(r->dial.fd, -1);
    assert_null(r->dial.buffer);
}

static inline void expect_described(struct rig *r, const char *part)
{
    char why[256];

    if (!strstr(dial_describe(&r->dial, why, sizeof(why)), part))
        fail_msg("\"%s\" is not in: %s", part, why);
    for (size_t size = 1; size < sizeof(why); size += 7) { /* and it never writes beyond */
        char *exact = malloc(size);

        assert_non_null(exact);
        dial_describe(&r->dial, exact, size);
        assert_true(strlen(exact) < size);
        free(exact);
    }
}

/* The socket is handed over with nothing of the stream gone, and works. */
static inline void expect_granted(struct rig *r, const char *unread)
{
    size_t n = strlen(unread);
    char got[64];

    wait_for(r, DIAL_GRANTED);
    assert_null(r->dial.buffer);
    int fd = dial_take(&r->dial);

    assert_int_equal(r->dial.fd, -1);
    if (n > 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        assert_int_equal(poll(&p, 1, 20000), 1);
        assert_int_equal(recv(fd, got, sizeof(got), MSG_DONTWAIT), n);
        assert_memory_equal(got, unread, n);
    }
    assert_int_equal(recv(fd, got, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    put(fd, BYTES("up"));
    drive_expect(&r->d, r->server, BYTES("up"));
    assert_int_equal(loop_remove(r->d.loop, fd), 0); /* it had stayed in the loop */
    close(fd);
}

static inline void expect_handshake(struct rig *r)
{
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, REQUEST);
}

#endif
