/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of flow/hold.c, on top of flow_rig.h: the kernel's part in it. There are three
 * captures, one of each hook; two sources of held SYNs, which the test fills; a raw socket that
 * keeps what is sent by it and, when that is a SYN let through, connects the application to the
 * listener that the SYN's mark or destination says; and the listeners of a seat.
 *
 * The clock stands still and moves when the test says so. It is the whole program's: the function
 * below takes the place of the C library's.
 */
#ifndef UNDERSOCK_TESTS_FLOW_HOLD_RIG_H
#define UNDERSOCK_TESTS_FLOW_HOLD_RIG_H

#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/wire.h"
#include "flow/hold.h"
#include "flow/syn.h"
#include "tests/unit/flow/flow_rig.h"

#define SEAT     7
#define OWN_MARK CAPTURE_OWN_MARK
#define DEVICE   11 /* index of the interface that SYNs are for */
#define SENT     128
#define APPS     32

enum { OUT, LAN, SLICE, CAPTURES }; /* local, gateway, cgroup */
enum { NORMAL, SEAT_V4, SEAT_SLICE, SEAT_V6, LISTENERS };
enum { LOG, RING, SOURCES };

/* An application that connects: its end, and what its SYN says. */
struct app {
    int fd; /* bound to the client's port */
    struct addr client, destination;
    uint32_t isn;
    unsigned capture;
    bool away; /* does not see its SYN let through */
};

struct waiting {
    uint8_t packet[SYN_MAX];
    size_t len;
    const char *capture;
    bool has_origin, has_uid;
    struct origin origin;
    uint32_t uid;
};

struct source {
    int fd;
    struct waiting *queue;
    unsigned n, at, reads;
    int error; /* of the next read */
};

struct sent {
    uint8_t packet[SYN_ANSWER_MAX];
    size_t len;
    uint32_t mark, interface;
};

struct held_rig {
    struct rig *r;
    struct flow_capture captures[CAPTURES];
    struct flow_listener listeners[LISTENERS];
    struct flow_hold holds[SOURCES];
    struct source sources[SOURCES];
    struct app apps[APPS];
    unsigned n_apps;
    struct sent sent[SENT]; /* the last ones */
    unsigned n_sent;
    int send_result;
    unsigned lookups, unproven;
    unsigned fds;
};

/* ---- the clock ---- */

static int64_t clock_now = INT64_C(1000000000000);

int clock_gettime(clockid_t id, struct timespec *ret)
{
    if (id != CLOCK_MONOTONIC)
        return (int)syscall(SYS_clock_gettime, id, ret);
    clock_now++; /* so that a timer set for the next moment expires */
    *ret = (struct timespec){clock_now / 1000000000, clock_now % 1000000000};
    return 0;
}

static inline void skip_time(struct held_rig *h, int64_t ns)
{
    clock_now += ns;
    drive_turn(&h->r->d); /* which ends at its own timer: that of a moment ago */
    drive_turn(&h->r->d);
}

/* ---- SYNs ---- */

static inline size_t make_syn(const struct app *a, uint8_t ret[SYN_MAX])
{
    struct wire_writer w = wire_writer(ret, SYN_MAX);
    bool v4 = addr_is_v4(&a->client);

    if (v4) {
        wire_put_bytes(&w, "\x45\x00\x00\x28\x12\x34\x40\x00\x40\x06\x00\x00", 12);
        wire_put_bytes(&w, a->client.ip + 12, 4);
        wire_put_bytes(&w, a->destination.ip + 12, 4);
    } else {
        wire_put_bytes(&w, "\x60\x00\x00\x00\x00\x14\x06\x40", 8);
        wire_put_bytes(&w, a->client.ip, 16);
        wire_put_bytes(&w, a->destination.ip, 16);
    }
    wire_put_u16(&w, a->client.port);
    wire_put_u16(&w, a->destination.port);
    wire_put_u16(&w, (uint16_t)(a->isn >> 16));
    wire_put_u16(&w, (uint16_t)a->isn);
    wire_put_bytes(&w, "\x00\x00\x00\x00\x50\x02\xfa\xf0\x00\x00\x00\x00", 12);
    return w.pos;
}

/* Nothing of what is passed outlives the call, as with the real ones. */
static inline int source_read(void *ctx, held_syn_fn fn, void *fn_ctx, unsigned max)
{
    struct source *s = ctx;
    unsigned n = 0;
    int error = s->error;

    s->reads++;
    s->error = 0;
    if (error < 0)
        return error;
    for (; n < max && s->at < s->n; n++) {
        struct waiting *w = &s->queue[s->at++];
        uint8_t *packet = malloc(w->len + !w->len);
        struct held_syn *syn = malloc(sizeof(*syn));

        assert_non_null(packet);
        assert_non_null(syn);
        memcpy(packet, w->packet, w->len);
        *syn = (struct held_syn){.packet = packet,
                                 .len = w->len,
                                 .capture = w->capture,
                                 .origin = w->has_origin ? &w->origin : NULL,
                                 .uid = w->uid,
                                 .has_uid = w->has_uid,
                                 .interface = DEVICE};
        fn(fn_ctx, syn);
        memset(packet, 0xa5, w->len);
        memset(syn, 0xa5, sizeof(*syn));
        free(packet);
        free(syn);
    }
    if (s->at == s->n) {
        uint64_t count;

        s->at = s->n = 0;
        (void)!read(s->fd, &count, sizeof(count));
    }
    return (int)n;
}

/* The caller may change what is returned until the loop turns. */
static inline struct waiting *put_raw(struct held_rig *h, unsigned source, const void *packet,
                                      size_t len)
{
    struct source *s = &h->sources[source];
    uint64_t one = 1;

    s->queue = realloc(s->queue, (s->n + 1) * sizeof(*s->queue));
    assert_non_null(s->queue);
    struct waiting *w = &s->queue[s->n++];

    *w = (struct waiting){.len = len};
    memcpy(w->packet, packet, len);
    assert_int_equal(write(s->fd, &one, sizeof(one)), sizeof(one));
    return w;
}

/* The application's SYN, by the way that its capture has. */
static inline struct waiting *put_syn(struct held_rig *h, const struct app *a)
{
    uint8_t packet[SYN_MAX];
    size_t len = make_syn(a, packet);
    struct waiting *w = put_raw(h, a->capture == SLICE ? RING : LOG, packet, len);

    if (a->capture == SLICE) {
        w->has_origin = true;
        w->origin = h->r->origin;
    } else {
        w->capture = h->captures[a->capture].name;
    }
    return w;
}

static inline void take_syn(struct held_rig *h, const struct app *a)
{
    uint64_t before = rig_stats(h->r).syns;

    put_syn(h, a);
    for (unsigned i = 0; rig_stats(h->r).syns == before; i++) {
        assert_true(i < DRIVE_TURNS);
        drive_turn(&h->r->d);
    }
}

/* ---- applications ---- */

static inline int bound_socket(const char *at, struct addr *ret)
{
    struct sockaddr_storage sa;
    struct addr a;

    assert_int_equal(addr_parse(at, 0, &a), 0);
    socklen_t len = addr_to_sockaddr(&a, &sa);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(fd_tcp_options(fd), 0);
    assert_int_equal(fd_reset_on_close(fd, false), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    len = sizeof(sa);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, ret), 0);
    return fd;
}

/* On its way to 203.0.113.10:80; of SLICE, by way of our listener. */
static inline struct app *new_app(struct held_rig *h, unsigned capture)
{
    assert_true(h->n_apps < APPS);
    struct app *a = &h->apps[h->n_apps++];

    *a = (struct app){.capture = capture, .isn = 0xfffffff0u + h->n_apps};
    a->fd = bound_socket("127.0.0.1:0", &a->client);
    a->destination = capture == SLICE ? h->listeners[SEAT_SLICE].at : h->r->origin.destination;
    return a;
}

/* One without a socket, which nobody will connect. */
static inline struct app *far_app(struct held_rig *h, unsigned capture, const char *client,
                                  const char *destination)
{
    assert_true(h->n_apps < APPS);
    struct app *a = &h->apps[h->n_apps++];

    *a = (struct app){.fd = -1, .capture = capture, .isn = 1000 * h->n_apps};
    assert_int_equal(addr_parse(client, 0, &a->client), 0);
    assert_int_equal(addr_parse(destination, 0, &a->destination), 0);
    return a;
}

static inline void close_app(struct app *a)
{
    fd_close(&a->fd);
}

/* Where a connection that a seat has accepted was going: the rig knows whose it is. */
static inline int seat_lookup(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                              struct origin *ret)
{
    struct held_rig *h = ctx;

    assert_true(fd >= 0);
    assert_true(addr_equal(local, &h->listeners[SEAT_V4].at) ||
                addr_equal(local, &h->listeners[SEAT_V6].at));
    h->lookups++;
    for (unsigned i = 0; i < h->n_apps; i++) {
        struct sockaddr_storage sa;
        socklen_t len = sizeof(sa);
        struct addr name;

        if (h->apps[i].fd < 0)
            continue;
        assert_int_equal(getsockname(h->apps[i].fd, (struct sockaddr *)&sa, &len), 0);
        assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, &name), 0);
        if (addr_equal(&name, peer)) {
            *ret = (struct origin){.destination = h->apps[i].destination};
            return 0;
        }
    }
    return -ENOENT;
}

static inline void connect_app(const struct app *a, const struct addr *to)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(to, &sa);

    if (connect(a->fd, (struct sockaddr *)&sa, len) < 0)
        fail_msg("connect: %s", strerror(errno));
}

/* ---- what is sent ---- */

static inline int raw_send(void *ctx, const uint8_t *packet, size_t len, uint32_t mark,
                           uint32_t interface)
{
    struct held_rig *h = ctx;
    struct sent *k = &h->sent[h->n_sent++ % SENT];
    struct syn s;

    assert_in_range(len, 40, SYN_ANSWER_MAX);
    *k = (struct sent){.len = len, .mark = mark, .interface = interface};
    memcpy(k->packet, packet, len);
    if (h->send_result < 0)
        return h->send_result;
    bool nft = mark == capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT) ||
               mark == capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT);

    if ((!nft && mark != OWN_MARK) || syn_parse(packet, len, &s) < 0)
        return 0;
    for (unsigned i = 0; i < h->n_apps; i++) {
        const struct app *a = &h->apps[i];

        if (a->away || a->fd < 0 || !addr_equal(&a->client, &s.client) ||
            !addr_equal(&a->destination, &s.destination))
            continue;
        connect_app(a, !nft                     ? &a->destination
                       : addr_is_v4(&a->client) ? &h->listeners[SEAT_V4].at
                                                : &h->listeners[SEAT_V6].at);
        break;
    }
    return 0;
}

/* ---- the rig ---- */

static inline void said_unproven(void *ctx)
{
    ((struct held_rig *)((struct rig *)ctx)->extra)->unproven++;
}

static inline int seat_open(struct flow_listener *ret, const char *at, uint32_t capture,
                            struct held_rig *h)
{
    static const struct origin_ops ops = {.lookup = seat_lookup};
    struct addr a;

    *ret =
        (struct flow_listener){.capture = capture, .seat = true, .origin = {.ops = &ops, .ctx = h}};
    assert_int_equal(addr_parse(at, 0, &a), 0);
    ret->fd = fd_listen(&a, 0, &ret->at);
    return ret->fd;
}

/* Everything but the table, as rig_open(). */
static inline int held_open(void **state)
{
    static const struct hold_ops ops = {.read = source_read};
    static struct held_rig h;
    void *rig;

    h = (struct held_rig){.fds = open_fds()};
    rig_open(&rig);
    struct rig *r = h.r = rig;

    r->extra = &h;
    r->d.stopped = true;
    h.captures[OUT] = (struct flow_capture){
        .name = "out", .hook = CAPTURE_OUTPUT, .early = 3, .choice = &r->choice};
    h.captures[LAN] = (struct flow_capture){
        .name = "lan", .hook = CAPTURE_GATEWAY, .early = 5, .choice = &r->choice};
    h.captures[SLICE] = (struct flow_capture){
        .name = "slice", .hook = CAPTURE_CGROUP, .early = 6, .choice = &r->choice};
    h.listeners[NORMAL] = r->listener;
    assert_true(seat_open(&h.listeners[SEAT_V4], "127.0.0.1:0", FLOW_ANY_CAPTURE, &h) >= 0);
    assert_true(seat_open(&h.listeners[SEAT_SLICE], "127.0.0.1:0", SLICE, &h) >= 0);
    bool v6 = seat_open(&h.listeners[SEAT_V6], "[::1]:0", FLOW_ANY_CAPTURE, &h) >= 0;

    for (unsigned i = 0; i < SOURCES; i++) {
        h.sources[i].fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        assert_true(h.sources[i].fd >= 0);
        h.holds[i] =
            (struct flow_hold){.source = {.ops = &ops, .ctx = &h.sources[i], .fd = h.sources[i].fd},
                               .capture = i == RING ? SLICE : FLOW_ANY_CAPTURE};
    }
    r->options.captures = h.captures;
    r->options.n_captures = CAPTURES;
    r->options.listeners = h.listeners;
    r->options.n_listeners = v6 ? LISTENERS : LISTENERS - 1;
    r->options.holds = h.holds;
    r->options.n_holds = SOURCES;
    r->options.inject = (struct flow_inject){.send = raw_send, .ctx = &h};
    r->options.own_mark = OWN_MARK;
    r->options.seat = SEAT;
    r->options.max_held = 16;
    r->options.on_unproven = said_unproven;
    *state = &h;
    return 0;
}

static inline int held_close(void **state)
{
    struct held_rig *h = *state;
    void *rig = h->r;

    flow_table_destroy(h->r->t);
    h->r->t = NULL;
    for (unsigned i = 0; i < h->n_apps; i++)
        fd_close(&h->apps[i].fd);
    for (unsigned i = SEAT_V4; i < LISTENERS; i++)
        fd_close(&h->listeners[i].fd);
    for (unsigned i = 0; i < SOURCES; i++) {
        close(h->sources[i].fd);
        free(h->sources[i].queue);
    }
    rig_close(&rig);
    assert_int_equal(open_fds(), h->fds);
    return 0;
}

#endif
