/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of names/: the engine on a loop turned by hand, two fake SOCKS upstreams, DNS
 * servers behind them that say what the test has them say, and answers that are only kept.
 *
 * The clock stands still and moves when the test says so. It is the whole program's: the function
 * below takes the place of the C library's.
 */
#ifndef UNDERSOCK_TESTS_NAMES_RIG_H
#define UNDERSOCK_TESTS_NAMES_RIG_H

#include <sys/syscall.h>
#include <time.h>

#include "dns/name.h"
#include "log.h"
#include "names/engine.h"
#define message dns_text /* include/message.h has a union of that name */
#include "tests/unit/dns/message.h"
#undef message
#include "tests/unit/upstream/drive.h"

#define RIG_UPSTREAMS 2
#define RIG_KIND      20
#define RIG_ANSWERS   4200
#define RIG_NAMES     16 /* places in the table of fake addresses */
#define SECOND        (1000 * MS)

enum { FAKE, TCP, CAPTURES };

struct rig_answer {
    struct addr source, client;
    size_t len;
    uint8_t data[4096];
};

struct rig {
    struct drive d;
    struct names *n;
    struct names_options o;
    struct names_capture captures[CAPTURES];
    struct fake *fake;
    struct real *real;

    struct config config;
    struct config_upstream ups[RIG_UPSTREAMS];
    unsigned members[RIG_UPSTREAMS];
    struct config_group group;
    struct config_capture config_capture;
    struct upstream *all;
    struct upstream_choice choice;
    int upstream[RIG_UPSTREAMS];
    struct addr upstream_at[RIG_UPSTREAMS];

    struct addr client, server; /* of a query, unless the test says otherwise */
    struct rig_answer *answers;
    unsigned n_answers, emptied, unproven;
    int send_result;
    struct dns_text m; /* the last query, or answer to be */
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

static inline void rig_turns(struct rig *r, unsigned n)
{
    while (n-- > 0)
        drive_turn(&r->d);
}

static inline void rig_skip(struct rig *r, int64_t ns)
{
    clock_now += ns;
    rig_turns(r, 2); /* the first one ends at its own timer: that of a moment ago */
}

/* ---- the rig ---- */

static inline struct addr rig_addr(const char *text)
{
    struct addr a;

    assert_int_equal(addr_parse(text, 53, &a), 0);
    return a;
}

static inline int rig_sent(void *ctx, const struct addr *source, const struct addr *client,
                           const uint8_t *data, size_t len)
{
    struct rig *r = ctx;
    struct rig_answer *a = &r->answers[r->n_answers];

    if (r->send_result < 0)
        return r->send_result;
    assert_true(r->n_answers < RIG_ANSWERS);
    assert_true(len <= sizeof(a->data));
    *a = (struct rig_answer){.source = *source, .client = *client, .len = len};
    memcpy(a->data, data, len);
    r->n_answers++;
    return 0;
}

static inline void rig_emptied(void *ctx)
{
    ((struct rig *)ctx)->emptied++;
}

static inline void rig_unproven(void *ctx)
{
    ((struct rig *)ctx)->unproven++;
}

/* Everything but the engine; the test may change the options before rig_start(). */
static inline int rig_open(void **state)
{
    static const char *const real[] = {"corp.example"};
    static struct rig r;
    size_t bad;

    log_set_level(LOG_LEVEL_ERROR);
    memset(&r, 0, sizeof(r));
    r.answers = calloc(RIG_ANSWERS, sizeof(r.answers[0]));
    assert_non_null(r.answers);
    r.fds = open_fds();
    drive_open(&r.d, NAMES_TIMERS);
    r.d.stopped = true;
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++) {
        struct config_upstream *u = &r.ups[i];

        r.upstream[i] = listen_here(&r.upstream_at[i]);
        assert_int_equal(listen(r.upstream[i], 200), 0);
        *u = (struct config_upstream){
            .via = -1,
            .connect_timeout = 10 * SECOND,
            .handshake_timeout = 20 * SECOND,
            .url = {.scheme = SCHEME_SOCKS5H, .host = "127.0.0.1", .port = r.upstream_at[i].port}};
        snprintf(u->name, sizeof(u->name), "up%u", i);
        r.members[i] = i;
    }
    r.group =
        (struct config_group){.name = "both", .members = r.members, .n_members = RIG_UPSTREAMS};
    r.config = (struct config){
        .upstreams = r.ups, .n_upstreams = RIG_UPSTREAMS, .groups = &r.group, .n_groups = 1};
    r.config_capture = (struct config_capture){.target = TARGET_UPSTREAM};
    r.captures[FAKE] =
        (struct names_capture){.name = "fake", .mode = NAMES_FAKE, .choice = &r.choice};
    r.captures[TCP] = (struct names_capture){.name = "tcp", .mode = NAMES_TCP, .choice = &r.choice};
    r.client = rig_addr("192.0.2.7:4000");
    r.server = rig_addr("192.0.2.53");
    assert_int_equal(fake_new(RIG_NAMES, &r.fake), 0);
    assert_int_equal(real_new(real, 1, &r.real, &bad), 0);
    r.o = (struct names_options){.loop = r.d.loop,
                                 .first_kind = RIG_KIND,
                                 .captures = r.captures,
                                 .n_captures = CAPTURES,
                                 .fake = r.fake,
                                 .real = r.real,
                                 .answer = {.send = rig_sent, .ctx = &r},
                                 .max_queries = 256,
                                 .on_empty = rig_emptied,
                                 .on_unproven = rig_unproven,
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
    upstream_choose_from(&r->config, &r->config_capture, r->all, &r->choice);
    assert_int_equal(names_create(&r->o, &r->n), 0);
    r->n->clients.seed = r->n->places.seed = 1; /* no client shares a place with another */
    rig_turns(r, 1);
}

static inline struct message_names_stats rig_stats(const struct rig *r)
{
    struct message_names_stats s;

    names_stats(r->n, &s);
    return s;
}

#define rig_count(r, field, value) assert_int_equal(rig_stats(r).field, value)

/* Each query became exactly one thing; whatever the test left behind, nothing stays open. */
static inline int rig_close(void **state)
{
    struct rig *r = *state;

    if (r->n) {
        struct message_names_stats s = rig_stats(r);
        uint64_t on_connections = 0;

        for (unsigned i = 0; i < 2 * NAMES_SERVERS; i++)
            on_connections += r->n->connections[i].n;
        assert_int_equal(s.waiting, on_connections);
        assert_int_equal(s.queries, s.answered_fake + s.answered + s.timeouts + s.failed +
                                        s.refused + s.malformed + s.repeated + s.waiting);
        names_destroy(r->n);
    }
    rig_turns(r, 1);
    free(r->all);
    free(r->answers);
    fake_free(r->fake);
    real_free(r->real);
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++)
        fd_close(&r->upstream[i]);
    drive_close(&r->d);
    assert_int_equal(open_fds(), r->fds);
    return 0;
}

/* ---- clients ---- */

/* Sends the message in r->m, in a block of its own. */
static inline void rig_send(struct rig *r, uint32_t capture)
{
    uint8_t *copy = exact(r->m.data, r->m.w.pos);

    names_query(r->n, capture, &r->client, &r->server, copy, r->m.w.pos);
    free(copy);
}

static inline void rig_ask(struct rig *r, uint32_t capture, uint16_t id, const char *name,
                           uint16_t type)
{
    put_query(&r->m, id, name, type);
    rig_send(r, capture);
}

/* With EDNS: `size` is what the client takes. */
static inline void rig_ask_edns(struct rig *r, uint32_t capture, uint16_t id, const char *name,
                                uint16_t type, uint16_t size)
{
    put_header(&r->m, id, DNS_FLAG_RD, 1, 0, 0, 1);
    put_question(&r->m, name, type);
    put_opt(&r->m, size, 0, 0);
    rig_send(r, capture);
}

/* There are that many answers by now, and no more; the last one. */
static inline const struct rig_answer *rig_answers(struct rig *r, unsigned n)
{
    for (unsigned i = 0; r->n_answers < n; i++) {
        if (i == 3000)
            fail_msg("%u answers, not %u", r->n_answers, n);
        drive_turn(&r->d);
    }
    assert_int_equal(r->n_answers, n);
    return &r->answers[n - 1];
}

static inline unsigned rig_u16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

/* The n-th answer, to r->client from r->server, has this id, rcode and number of records. */
static inline const struct rig_answer *rig_expect(struct rig *r, unsigned n, uint16_t id,
                                                  enum dns_rcode rcode, unsigned records)
{
    const struct rig_answer *a = rig_answers(r, n);

    assert_true(a->len >= DNS_HEADER_LEN);
    assert_true(addr_equal(&a->source, &r->server));
    assert_true(addr_equal(&a->client, &r->client));
    assert_int_equal(rig_u16(a->data), id);
    assert_true(rig_u16(a->data + 2) & DNS_FLAG_QR);
    assert_int_equal(DNS_FLAGS_RCODE(rig_u16(a->data + 2)), rcode);
    assert_int_equal(rig_u16(a->data + 6), records);
    return a;
}

static inline bool rig_truncated(const struct rig_answer *a)
{
    return rig_u16(a->data + 2) & DNS_FLAG_TC;
}

/* Nothing comes of what has been sent so far. */
static inline void rig_quiet(struct rig *r)
{
    unsigned n = r->n_answers;

    rig_turns(r, 5);
    assert_int_equal(r->n_answers, n);
}

/* ---- servers ---- */

/* The fake upstream takes a connection and is asked for this server: "192.0.2.53:53". */
static inline int rig_asked(struct rig *r, unsigned upstream, const char *server)
{
    int fd = drive_accept(&r->d, r->upstream[upstream]);
    struct addr a = rig_addr(server);

    drive_expect(&r->d, fd, BYTES("\x05\x01\x00"));
    put(fd, BYTES("\x05\x00"));
    drive_expect(&r->d, fd, BYTES("\x05\x01\x00\x01"));
    drive_expect(&r->d, fd, a.ip + 12, 4);
    drive_expect(&r->d, fd, (uint8_t[]){(uint8_t)(a.port >> 8), (uint8_t)a.port}, 2);
    return fd;
}

static inline void rig_reply(int fd, uint8_t code)
{
    uint8_t reply[10] = {5, code, 0, 1};

    put(fd, reply, sizeof(reply));
}

static inline int rig_join(struct rig *r)
{
    int fd = rig_asked(r, 0, "192.0.2.53:53");

    rig_reply(fd, 0);
    return fd;
}

static inline bool rig_nobody_asks(struct rig *r, unsigned upstream)
{
    rig_turns(r, 5);
    int fd = accept4(r->upstream[upstream], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        close(fd);
    return fd < 0;
}

/* A query as a server reads it. */
struct rig_query {
    struct dns_query q;
    uint8_t data[DNS_MATCH_QUERY_MAX];
    size_t len;
};

static inline void rig_read(struct rig *r, int fd, uint8_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int got = drive_byte(&r->d, fd, to + i);

        if (got != 1)
            fail_msg("%s instead of a query", got < 0 ? strerror(-got) : "the end");
    }
}

static inline struct rig_query rig_next(struct rig *r, int fd)
{
    struct rig_query q;
    uint8_t len[2];

    rig_read(r, fd, len, 2);
    q.len = rig_u16(len);
    assert_true(q.len <= sizeof(q.data));
    rig_read(r, fd, q.data, q.len);
    assert_int_equal(dns_query_parse(q.data, q.len, &q.q), 0);
    return q;
}

/* Into r->m: an answer under this id with that many A records, which the last byte tells apart, and
 * an OPT if there was one. */
static inline void rig_compose(struct rig *r, uint16_t id, const struct dns_query *q,
                               unsigned records, uint8_t last)
{
    put_header(&r->m, id, DNS_FLAG_QR | DNS_FLAG_RD | DNS_FLAG_RA, 1, records, 0, q->edns);
    wire_put_bytes(&r->m.w, q->wire, q->wire_len);
    wire_put_u16(&r->m.w, q->type);
    wire_put_u16(&r->m.w, q->class);
    for (unsigned i = 0; i < records; i++) {
        wire_put_u16(&r->m.w, 0xc00c);
        put_fields(&r->m, DNS_TYPE_A, DNS_CLASS_IN, 300, 4);
        wire_put_bytes(&r->m.w, (uint8_t[]){203, 0, 113, last}, 4);
    }
    if (q->edns)
        put_opt(&r->m, 1232, 0, 0);
}

/* The message in r->m as a frame, in pieces of `piece` bytes (0: in one). */
static inline void rig_put(struct rig *r, int fd, size_t piece)
{
    static uint8_t frame[DNS_FRAME_MAX];
    struct wire_writer w = wire_writer(frame, sizeof(frame));

    assert_int_equal(dns_frame_encode(&w, r->m.data, r->m.w.pos), 0);
    for (size_t at = 0; at < w.pos; at += piece) {
        if (piece == 0)
            piece = w.pos;
        drive_put(&r->d, fd, frame + at, piece < w.pos - at ? piece : w.pos - at);
    }
}

static inline void rig_answer(struct rig *r, int fd, const struct rig_query *q, uint8_t last)
{
    rig_compose(r, q->q.id, &q->q, 1, last);
    rig_put(r, fd, 0);
}

/* The last byte of the only address of an answer. */
static inline uint8_t rig_last(const struct rig_answer *a)
{
    return a->data[a->len - 1];
}

#endif
