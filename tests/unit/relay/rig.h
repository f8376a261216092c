/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of relay/: a relay between two TCP connections over loopback, all four ends in this
 * process, none of them blocking:
 *
 *     peer[0] <--TCP--> r.fd[0]  relay  r.fd[1] <--TCP--> peer[1]
 *
 * The relay's owner is played as a flow plays it: both of its sockets are edge-triggered in an
 * epoll of its own, and after a reset the sockets are closed once the survivor has what was sent to
 * it. Each byte a peer sends is a function of its direction and offset, and each one received is
 * compared. A wait has a limit far above what it can take: it is there to make a stall a failure.
 */
#ifndef UNDERSOCK_TESTS_RELAY_RIG_H
#define UNDERSOCK_TESTS_RELAY_RIG_H

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "addr.h"
#include "base/fd.h"
#include "relay/engine.h"

#define KIB       1024u
#define MIB       (1024u * 1024u)
#define STALL_MS  20000
#define PIECE_MAX (192 * KIB)

struct peer {
    int fd;
    uint64_t goal; /* sends so many bytes, then FIN if `fin` */
    uint64_t sent, received;
    size_t read_max;  /* at most so many bytes a turn; 0: does not read */
    size_t write_max; /* at most so many bytes a send() */
    bool fin, fin_sent;
    bool eof;  /* read the other side's FIN */
    int error; /* or this */
};

struct rig {
    struct peer peer[2];
    struct relay r;
    struct relay_pool *pool;
    enum relay_status status; /* of the last pump */
    int epoll;
    bool closed; /* the owner has closed the relay's sockets */
    bool deaf;   /* events are not passed on: set by tests that pass their own */
    bool flip;   /* another engine at random before each pump */
    size_t stash_peak;
    uint64_t seed;
};

static inline uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* 1..max */
static inline size_t some(struct rig *g, size_t max)
{
    g->seed = mix(g->seed);
    return 1 + g->seed % max;
}

/* The bytes from `offset` on of what peer `from` sends. */
static inline void pattern(unsigned from, uint64_t offset, uint8_t *to, size_t n)
{
    uint64_t word = 0;

    for (size_t i = 0; i < n; i++, offset++) {
        if (i == 0 || offset % 8 == 0)
            word = mix(offset / 8 + ((uint64_t)(from + 1) << 56));
        to[i] = (uint8_t)(word >> (8 * (offset % 8)));
    }
}

/* A connection over loopback. `buffer` > 0: the size of all four of its kernel buffers. */
static inline void connect_pair(int buffer, int *ret_peer, int *ret_ours)
{
    struct addr at, bound;
    struct sockaddr_storage sa;

    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    int listener = fd_listen(&at, 0, &bound);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(listener >= 0 && fd >= 0);
    for (unsigned i = 0; buffer > 0 && i < 2; i++) {
        int at_fd = i ? fd : listener;

        assert_int_equal(setsockopt(at_fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)), 0);
        assert_int_equal(setsockopt(at_fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)), 0);
    }
    socklen_t len = addr_to_sockaddr(&bound, &sa);

    assert_int_equal(fd_tcp_options(fd), 0);
    assert_int_equal(fd_reset_on_close(fd, false), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
    *ret_ours = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(*ret_ours >= 0);
    close(listener);
    *ret_peer = fd;
}

static inline void rig_watch(struct rig *g)
{
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    assert_true(g->epoll >= 0);
    for (unsigned i = 0; i < 2; i++) {
        struct epoll_event ev = {.events = RELAY_EVENTS, .data.u32 = i};

        assert_int_equal(epoll_ctl(g->epoll, EPOLL_CTL_ADD, g->r.fd[i], &ev), 0);
    }
}

/* Two fresh connections and a relay between them over `pool`. */
static inline void rig_open(struct rig *g, struct relay_pool *pool, int buffer)
{
    int ours[2];

    memset(g, 0, sizeof(*g));
    g->pool = pool;
    g->seed = 42;
    g->status = RELAY_IDLE;
    for (unsigned i = 0; i < 2; i++) {
        connect_pair(buffer, &g->peer[i].fd, &ours[i]);
        g->peer[i].read_max = g->peer[i].write_max = PIECE_MAX;
    }
    relay_init(&g->r, ours[0], ours[1]);
    if (pool->fast)
        relay_allow_kernel(&g->r, 1);
    rig_watch(g);
}

static inline int queued(int fd)
{
    int n = 0;

    assert_int_equal(ioctl(fd, SIOCOUTQ, &n), 0);
    return n;
}

static inline void rig_close_relay(struct rig *g, bool orderly)
{
    relay_finish(&g->r, g->pool);
    for (unsigned i = 0; i < 2; i++) {
        fd_reset_on_close(g->r.fd[i], !orderly);
        close(g->r.fd[i]);
    }
    g->closed = true;
}

static inline void rig_close(struct rig *g)
{
    if (!g->closed)
        rig_close_relay(g, false);
    for (unsigned i = 0; i < 2; i++)
        fd_close(&g->peer[i].fd);
    fd_close(&g->epoll);
}

/* The end of the relay, as its owner makes it. */
static inline bool rig_end(struct rig *g)
{
    if (g->status == RELAY_DONE) {
        rig_close_relay(g, true);
        return true;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (!g->r.dead[i] && queued(g->r.fd[i]) > 0)
            return false;
    }
    rig_close_relay(g, false);
    return true;
}

static inline void rig_passed(void *ctx, uint64_t owner, uint32_t stream)
{
    struct rig *g = ctx;

    /* The sockmap may be shared with a relay that was closed a moment ago. */
    if (owner == 1 && !g->closed)
        relay_passed(&g->r, g->pool, stream);
}

/* What the owner does with the in-kernel fast path, before and after a pump. */
static inline void rig_kernel_events(struct rig *g)
{
    const struct fastpath *fast = g->pool->fast;

    if (fast && !g->deaf)
        fast->ops->events(fast->ctx, rig_passed, g);
}

static inline void rig_rewatch(struct rig *g)
{
    for (unsigned i = 0; g->pool->fast && i < 2; i++) {
        struct epoll_event ev = {.events = relay_watch(&g->r, i), .data.u32 = i};

        if (ev.events)
            assert_int_equal(epoll_ctl(g->epoll, EPOLL_CTL_MOD, g->r.fd[i], &ev), 0);
    }
}

/* Events to the relay, and a pump. True when there was something to do. */
static inline bool rig_pump(struct rig *g)
{
    struct epoll_event ev[4];
    int n = g->deaf ? 0 : epoll_wait(g->epoll, ev, 4, 0);

    if (g->closed)
        return false;
    if (g->status == RELAY_DONE || g->status == RELAY_RESET)
        return rig_end(g);
    for (int i = 0; i < n; i++)
        relay_event(&g->r, ev[i].data.u32, ev[i].events);
    rig_kernel_events(g);
    for (unsigned i = 0; g->flip && i < 2; i++)
        g->r.dir[i].engine = some(g, 2) == 1 ? RELAY_COPY : RELAY_SPLICE;
    g->status = relay_pump(&g->r, g->pool);
    rig_rewatch(g);
    if (g->pool->stash_used > g->stash_peak)
        g->stash_peak = g->pool->stash_used;
    return n > 0 || g->status != RELAY_IDLE;
}

static inline bool peer_write(struct rig *g, unsigned i)
{
    static uint8_t buf[PIECE_MAX];
    struct peer *p = &g->peer[i];

    if (p->fd < 0 || p->error != 0)
        return false;
    if (p->sent == p->goal) {
        if (!p->fin || p->fin_sent)
            return false;
        assert_int_equal(shutdown(p->fd, SHUT_WR), 0);
        return p->fin_sent = true;
    }
    size_t n = some(g, p->write_max);

    if (n > p->goal - p->sent)
        n = (size_t)(p->goal - p->sent);
    pattern(i, p->sent, buf, n);
    ssize_t done = send(p->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (done < 0) {
        if (errno != EAGAIN)
            p->error = errno;
        return false;
    }
    p->sent += (uint64_t)done;
    return true;
}

static inline bool peer_read(struct rig *g, unsigned i)
{
    static uint8_t got[PIECE_MAX], want[PIECE_MAX];
    struct peer *p = &g->peer[i];

    if (p->fd < 0 || p->error != 0 || p->eof || p->read_max == 0)
        return false;
    ssize_t n = recv(p->fd, got, some(g, p->read_max), MSG_DONTWAIT);

    if (n < 0) {
        if (errno == EAGAIN)
            return false;
        p->error = errno;
    } else if (n == 0) {
        p->eof = true;
    } else {
        pattern(!i, p->received, want, (size_t)n);
        if (memcmp(got, want, (size_t)n) != 0)
            fail_msg("wrong bytes at %llu..%llu from peer %u", (unsigned long long)p->received,
                     (unsigned long long)p->received + (unsigned long long)n, !i);
        p->received += (uint64_t)n;
    }
    return true;
}

/* One turn of everybody. */
static inline bool rig_turn(struct rig *g)
{
    bool progress = rig_pump(g);

    for (unsigned i = 0; i < 2; i++) {
        progress |= peer_write(g, i);
        progress |= peer_read(g, i);
    }
    return progress;
}

/* Nobody could do anything: until somebody can. False: nothing happened for `ms`. */
static inline bool rig_wait(struct rig *g, int ms)
{
    struct pollfd p[4] = {{.fd = g->closed || g->deaf ? -1 : g->epoll, .events = POLLIN}};
    bool ending = g->status == RELAY_RESET && !g->closed;

    for (unsigned i = 0; i < 2; i++) {
        const struct peer *e = &g->peer[i];
        bool over = e->error != 0;

        p[i + 1].fd = e->fd;
        if (!over && e->read_max > 0 && !e->eof)
            p[i + 1].events |= POLLIN;
        if (!over && e->sent < e->goal)
            p[i + 1].events |= POLLOUT;
        if (p[i + 1].events == 0)
            p[i + 1].fd = -1;
    }
    p[3] = (struct pollfd){.fd = g->pool->fast && !g->deaf ? g->pool->fast->event_fd : -1,
                           .events = POLLIN};
    /* What is still under way to a survivor has no event of its own. */
    return poll(p, 4, ending ? 5 : ms) > 0 || ending;
}

typedef bool (*rig_condition)(const struct rig *g);

static inline void rig_until(struct rig *g, rig_condition done)
{
    for (;;) {
        bool progress = rig_turn(g);

        if (done(g))
            return;
        if (!progress && !rig_wait(g, STALL_MS))
            fail_msg("stalled: sent %llu and %llu, received %llu and %llu, status %d",
                     (unsigned long long)g->peer[0].sent, (unsigned long long)g->peer[1].sent,
                     (unsigned long long)g->peer[0].received,
                     (unsigned long long)g->peer[1].received, g->status);
    }
}

/*
 * Until nobody moves any more: for what must come to a stop. Loopback delivers in microseconds;
 * each quiet spell is longer than a delayed acknowledgement (40 ms) and a probe of a closed window.
 */
static inline void rig_settle(struct rig *g)
{
    do {
        while (rig_turn(g))
            ;
    } while (rig_wait(g, 300));
}

/* Acknowledged by the relay's socket: a reset from here on overtakes nothing. */
static inline void peer_flush(struct peer *p)
{
    for (unsigned i = 0; queued(p->fd) > 0; i++) {
        assert_true(i < STALL_MS);
        usleep(1000);
    }
}

static inline void peer_reset(struct peer *p)
{
    assert_int_equal(fd_reset_on_close(p->fd, true), 0);
    fd_close(&p->fd);
}

/* Until the relay's socket on `side` has had what its peer did: a reset, a FIN, bytes. */
static inline void await(const struct rig *g, unsigned side, short events)
{
    struct pollfd p = {.fd = g->r.fd[side], .events = events};

    for (unsigned i = 0; i < STALL_MS; i++) {
        assert_true(poll(&p, 1, STALL_MS) > 0);
        if ((p.revents & events) == events)
            return;
        usleep(1000);
    }
    fail_msg("the event 0x%x never came", (unsigned)events);
}

static inline struct relay_pool *make_pool(unsigned pipes, size_t stash, enum relay_choice choice)
{
    struct relay_pool *p = NULL;

    assert_int_equal(relay_pool_create(pipes, 0, stash, choice, &p), 0);
    return p;
}

/* Nothing is lent and nothing is kept. */
static inline void assert_pool_idle(const struct relay_pool *p)
{
    unsigned n = 0;

    for (const struct relay_pipe *i = p->free; i; i = i->next)
        n++;
    assert_int_equal(n, p->n_pipes);
    assert_int_equal(p->stash_used, 0);
}

static inline int ignore_sigpipe(void **state)
{
    (void)state;
    return signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0;
}

#endif
