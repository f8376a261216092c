/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of udp/: the engine on a loop turned by hand; a listener on 0.0.0.0, so that
 * whatever a client sends to 127.x.y.z on its port has an original destination; fake upstreams and
 * relays that do what the test has them do; and an injection that only keeps what it was given.
 */
#ifndef UNDERSOCK_TESTS_UDP_RIG_H
#define UNDERSOCK_TESTS_UDP_RIG_H

#include "log.h"
#include "tests/unit/upstream/drive.h"
#include "udp/table.h"

#define RIG_UPSTREAMS    2
#define RIG_ASSOCIATIONS 4
#define RIG_KIND         10
#define RIG_INJECTED     512

#define ASSOCIATE BYTES("\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")

struct rig_packet {
    struct addr from, client;
    bool unreachable;   /* ICMP, about what `client` sent to `from` */
    unsigned len;       /* of the UDP payload, or of the one quoted */
    uint8_t data[2048]; /* its beginning */
};

struct rig {
    struct drive d;
    struct udp_table *t;
    struct udp_table_options o;
    struct udp_capture capture;
    struct udp_listener listener;
    struct addr ours[2];
    uint16_t port; /* the listener's */

    struct config config;
    struct config_upstream ups[RIG_UPSTREAMS];
    unsigned members[RIG_UPSTREAMS];
    struct config_group group;
    struct config_capture config_capture;
    struct upstream *all;
    struct upstream_choice choice;
    int upstream[RIG_UPSTREAMS];
    struct addr upstream_at[RIG_UPSTREAMS];

    int client; /* a socket of an application */
    struct addr client_at;
    int relay; /* of a fake upstream */
    struct addr relay_at;

    struct rig_packet injected[RIG_INJECTED];
    unsigned n_injected;
    int inject_result; /* < 0: it fails */
    unsigned taken, emptied, unproven;
    bool take;
    unsigned fds;
};

static inline struct addr rig_addr(const char *ip, uint16_t port)
{
    struct addr a;

    assert_int_equal(addr_parse(ip, port, &a), 0);
    return a;
}

static inline uint16_t rig_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

/* IPv4 only; checksums are test_packet's business. */
static inline int rig_inject(void *ctx, const struct udp_packet *packets, unsigned n)
{
    struct rig *r = ctx;

    if (r->inject_result < 0)
        return r->inject_result;
    for (unsigned i = 0; i < n; i++) {
        const struct udp_packet *p = &packets[i];
        struct rig_packet *k = &r->injected[r->n_injected++];

        assert_true(r->n_injected <= RIG_INJECTED);
        *k = (struct rig_packet){.unreachable = p->head[9] == IPPROTO_ICMP};
        const uint8_t *udp = p->head + (k->unreachable ? 48 : 20);

        addr_set_v4(&k->from, p->head + 12, rig_u16(udp + (k->unreachable ? 2 : 0)));
        addr_set_v4(&k->client, p->head + 16, rig_u16(udp + (k->unreachable ? 0 : 2)));
        assert_true(addr_same_ip(&p->client, &k->client));
        k->len = rig_u16(udp + 4) - 8u;
        if (p->payload_len > 0)
            memcpy(k->data, p->payload,
                   p->payload_len < sizeof(k->data) ? p->payload_len : sizeof(k->data));
    }
    return (int)n;
}

static inline bool rig_taker(void *ctx, uint32_t capture, const struct addr *client,
                             const struct addr *destination, const uint8_t *data, size_t len)
{
    struct rig *r = ctx;

    (void)capture;
    (void)client;
    (void)destination;
    (void)data;
    (void)len;
    r->taken += r->take;
    return r->take;
}

/* 127.18.0.0/16 stands for names, 127.18.0.255 for none. */
static inline const char *rig_name(void *ctx, const struct addr *a)
{
    static char text[40];

    (void)ctx;
    if (a->ip[13] != 18)
        return NULL;
    if (a->ip[15] == 255)
        return "";
    snprintf(text, sizeof(text), "host%u.example", a->ip[15]);
    return text;
}

static inline void rig_emptied(void *ctx)
{
    ((struct rig *)ctx)->emptied++;
}

static inline void rig_unproven(void *ctx)
{
    ((struct rig *)ctx)->unproven++;
}

static inline int rig_datagrams(const char *ip, struct addr *ret_at)
{
    struct addr at = rig_addr(ip, 0);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&at, &sa);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), size = 4 << 20;

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    len = sizeof(sa);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, ret_at), 0);
    return fd;
}

/* Everything but the table; the test may change the options before rig_start(). */
static inline int rig_open(void **state)
{
    static struct rig r;
    struct addr at;
    int on = 1;

    log_set_level(LOG_LEVEL_ERROR);
    memset(&r, 0, sizeof(r));
    r.fds = open_fds();
    drive_open(&r.d, RIG_ASSOCIATIONS + 8);
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++) {
        struct config_upstream *u = &r.ups[i];

        r.upstream[i] = listen_here(&r.upstream_at[i]);
        *u = (struct config_upstream){
            .via = -1,
            .udp = TOGGLE_AUTO,
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
    r.config_capture = (struct config_capture){.target = TARGET_UPSTREAM};
    r.listener.fd = rig_datagrams("0.0.0.0", &at);
    assert_int_equal(setsockopt(r.listener.fd, SOL_IP, IP_RECVORIGDSTADDR, &on, sizeof(on)), 0);
    r.port = at.port;
    r.client = rig_datagrams("127.0.0.1", &r.client_at);
    r.relay = rig_datagrams("127.0.0.1", &r.relay_at);
    r.capture = (struct udp_capture){.name = "test", .private = true, .choice = &r.choice};
    r.ours[0] = rig_addr("127.0.0.1", r.port);
    r.ours[1] = r.upstream_at[0];
    r.o = (struct udp_table_options){.loop = r.d.loop,
                                     .first_kind = RIG_KIND,
                                     .captures = &r.capture,
                                     .n_captures = 1,
                                     .listeners = &r.listener,
                                     .n_listeners = 1,
                                     .inject = {.send = rig_inject, .ctx = &r},
                                     .ours = r.ours,
                                     .n_ours = 2,
                                     .max_associations = RIG_ASSOCIATIONS,
                                     .worker = 5,
                                     .taker = rig_taker,
                                     .name = rig_name,
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
    assert_int_equal(udp_table_create(&r->o, &r->t), 0);
    r->t->shares.seed = r->t->refused.seed = 1; /* no client shares a place with another */
    r->t->times.refusal_gap = 3600000 * MS;     /* a slow machine must not make a difference */
}

static inline void rig_use_both(struct rig *r)
{
    r->config_capture = (struct config_capture){.target = TARGET_GROUP};
}

static inline struct message_udp_stats rig_stats(const struct rig *r)
{
    struct message_udp_stats s;

    udp_table_stats(r->t, &s);
    return s;
}

/* Whatever the test left in the table, nothing is left open and no timer behind. */
static inline int rig_close(void **state)
{
    struct rig *r = *state;

    if (r->t) {
        assert_true(r->t->n <= r->o.max_associations);
        udp_table_destroy(r->t);
    }
    drive_turn(&r->d);
    free(r->all);
    fd_close(&r->listener.fd);
    fd_close(&r->client);
    fd_close(&r->relay);
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++)
        fd_close(&r->upstream[i]);
    drive_close(&r->d);
    assert_int_equal(open_fds(), r->fds);
    return 0;
}

static inline void rig_turns(struct rig *r, unsigned n)
{
    while (n-- > 0)
        drive_turn(&r->d);
}

/* Turns until the counter is that high. */
#define rig_until(r, field, value)                                                   \
    do {                                                                             \
        for (unsigned i_ = 0; rig_stats(r).field < (value); i_++) {                  \
            if (i_ == 3000)                                                          \
                fail_msg(#field " is %llu", (unsigned long long)rig_stats(r).field); \
            drive_turn(&(r)->d);                                                     \
        }                                                                            \
        assert_int_equal(rig_stats(r).field, value);                                 \
    } while (0)

static inline void rig_send_from(int fd, const struct addr *to, const void *data, size_t len)
{
    struct sockaddr_storage sa;
    socklen_t sa_len = addr_to_sockaddr(to, &sa);

    if (sendto(fd, data, len, 0, (struct sockaddr *)&sa, sa_len) != (ssize_t)len)
        fail_msg("sendto: %s", strerror(errno));
}

/* The application sends to this address, on the listener's port. */
static inline void rig_send(struct rig *r, const char *ip, const void *data, size_t len)
{
    struct addr to = rig_addr(ip, r->port);

    rig_send_from(r->client, &to, data, len);
}

static inline unsigned rig_await(struct rig *r, int fd, uint8_t *buf, size_t size,
                                 struct addr *ret_from)
{
    for (unsigned i = 0; i < 3000; i++) {
        struct sockaddr_storage sa;
        socklen_t sa_len = sizeof(sa);
        ssize_t n = recvfrom(fd, buf, size, 0, (struct sockaddr *)&sa, &sa_len);

        if (n >= 0) {
            if (ret_from)
                assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, sa_len, ret_from), 0);
            return (unsigned)n;
        }
        assert_int_equal(errno, EAGAIN);
        drive_turn(&r->d);
    }
    fail_msg("no datagram comes");
    return 0;
}

/* A relay gets this payload for 127.x.y.z; says where our socket is. */
static inline void rig_expect_up(struct rig *r, int relay, const char *ip, const void *data,
                                 size_t len, struct addr *ret_from)
{
    static uint8_t buf[65536];
    struct addr to = rig_addr(ip, r->port);
    unsigned n = rig_await(r, relay, buf, sizeof(buf), ret_from);

    assert_int_equal(n, len + 10);
    assert_memory_equal(buf, "\x00\x00\x00\x01", 4);
    assert_memory_equal(buf + 4, to.ip + 12, 4);
    assert_int_equal(rig_u16(buf + 8), to.port);
    assert_memory_equal(buf + 10, data, len);
}

/* An answer by way of the relay, from `ip`:`port`. */
static inline void rig_answer(int relay, const struct addr *to, const char *ip, uint16_t port,
                              const void *data, size_t len)
{
    uint8_t buf[2048] = {0, 0, 0, 1};
    struct addr from = rig_addr(ip, port);

    memcpy(buf + 4, from.ip + 12, 4);
    buf[8] = (uint8_t)(port >> 8);
    buf[9] = (uint8_t)port;
    memcpy(buf + 10, data, len);
    rig_send_from(relay, to, buf, len + 10);
}

static inline struct rig_packet *rig_injected(struct rig *r, unsigned n)
{
    for (unsigned i = 0; r->n_injected < n; i++) {
        if (i == 3000)
            fail_msg("%u packets were injected, not %u", r->n_injected, n);
        drive_turn(&r->d);
    }
    assert_int_equal(r->n_injected, n);
    return &r->injected[n - 1];
}

static inline void rig_expect_answer(struct rig *r, unsigned n, const char *ip, uint16_t port,
                                     const void *data, size_t len)
{
    struct addr from = rig_addr(ip, port);
    const struct rig_packet *p = rig_injected(r, n);
    char a[ADDR_STRLEN];

    assert_false(p->unreachable);
    if (!addr_equal(&p->from, &from))
        fail_msg("from %s, not %s:%u", addr_format(&p->from, a), ip, port);
    assert_true(addr_equal(&p->client, &r->client_at));
    assert_int_equal(p->len, len);
    assert_memory_equal(p->data, data, len);
}

/* Packet number `n` of all says that nobody is at this address. */
static inline void rig_expect_refusal(struct rig *r, unsigned n, const char *ip)
{
    struct addr from = rig_addr(ip, r->port);
    const struct rig_packet *p = rig_injected(r, n);

    assert_true(p->unreachable);
    assert_true(addr_equal(&p->from, &from));
    assert_true(addr_equal(&p->client, &r->client_at));
}

/* The fake upstream takes the connection and is asked for an association. */
static inline int rig_asked(struct rig *r, unsigned upstream)
{
    int fd = drive_accept(&r->d, r->upstream[upstream]);

    drive_expect(&r->d, fd, BYTES("\x05\x01\x00"));
    put(fd, BYTES("\x05\x00"));
    drive_expect(&r->d, fd, ASSOCIATE);
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

static inline void rig_reply(int server, uint8_t code, const struct addr *bound)
{
    uint8_t reply[10] = {5, code, 0, 1};

    if (bound) {
        memcpy(reply + 4, bound->ip + 12, 4);
        reply[8] = (uint8_t)(bound->port >> 8);
        reply[9] = (uint8_t)bound->port;
    }
    put(server, reply, sizeof(reply));
}

/* An association from end to end, made by one datagram "first" to 127.1.0.1. */
static inline int rig_join(struct rig *r, struct addr *ret_ours)
{
    rig_send(r, "127.1.0.1", BYTES("first"));
    int server = rig_asked(r, 0);

    rig_reply(server, 0, &r->relay_at);
    rig_expect_up(r, r->relay, "127.1.0.1", BYTES("first"), ret_ours);
    return server;
}

#endif
