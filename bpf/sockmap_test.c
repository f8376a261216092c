/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The proof that this kernel does what the in-kernel fast path relies on (bpf/sockmap.h), on two
 * connections over loopback:
 *
 *     app[0] <--TCP--> own[0]  joined  own[1] <--TCP--> app[1]
 *
 * What has to hold, and did not in some kernel or other: what is queued already when the sockets
 * are joined is not stuck; redirected bytes arrive, in order; a receiver that does not read stops
 * the sender; what was passed meanwhile, and what comes after it, loses nothing; a FIN arrives
 * behind all of it, also on a connection that our own FIN has half closed; a stream that leaves is
 * an ordinary one again while its opposite stays; a reset arrives.
 *
 * Waits have a limit that is there to end, not to measure.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "addr.h"
#include "base/fd.h"
#include "bpf/sockmap.h"

#define LIMIT_MS 3000
#define BUFFER   (32 * 1024)       /* asked for each socket: the kernel doubles it */
#define TOO_MUCH (8 * 1024 * 1024) /* what a stopped sender can never have got rid of */
#define PIECE    (16 * 1024)

/* The bytes from app[i] to app[!i]. */
struct way {
    uint32_t stream;
    bool serving; /* user space moves the bytes */
    bool reads;   /* app[!i] reads */
    bool eof;     /* own[i] has seen the FIN */
    bool fin;     /* app[!i] has seen it */
    uint64_t goal, sent, received;
};

struct pair {
    const struct fastpath *f;
    int app[2], own[2];
    struct way way[2];
    int error; /* 0; -EBADMSG: wrong bytes; or -errno */
    int64_t deadline;
};

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint8_t pattern(uint64_t offset)
{
    return (uint8_t)((offset * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static int new_socket(uint32_t mark)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = BUFFER;

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (mark)
        setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
    return fd;
}

static int connect_pair(uint32_t mark, int *ret_app, int *ret_own)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int listener = new_socket(mark), app = new_socket(mark), own = -1, r = 0;
    struct pollfd p = {.fd = listener, .events = POLLIN};

    if (listener < 0 || app < 0)
        r = -EMFILE;
    else if (bind(listener, (struct sockaddr *)&at, len) < 0 || listen(listener, 1) < 0 ||
             getsockname(listener, (struct sockaddr *)&at, &len) < 0 ||
             (connect(app, (struct sockaddr *)&at, len) < 0 && errno != EINPROGRESS))
        r = -errno;
    else if (poll(&p, 1, LIMIT_MS) != 1)
        r = -ENETUNREACH;
    else
        own = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (r == 0 && own < 0)
        r = -errno;
    fd_close(&listener);
    if (r < 0) {
        fd_close(&app);
        return r;
    }
    fd_tcp_options(app);
    fd_tcp_options(own);
    *ret_app = app;
    *ret_own = own;
    return 0;
}

static void close_pair(struct pair *p)
{
    for (unsigned i = 0; i < 2; i++) {
        if (p->way[i].stream != FASTPATH_NONE)
            p->f->ops->drop(p->f->ctx, p->way[i].stream);
    }
    for (unsigned i = 0; i < 2; i++) {
        fd_close(&p->own[i]);
        fd_close(&p->app[i]);
    }
}

static int open_pair(struct pair *p, const struct fastpath *f, uint32_t mark)
{
    int r;

    *p = (struct pair){
        .f = f,
        .app = {-1, -1},
        .own = {-1, -1},
        .way = {{.stream = FASTPATH_NONE, .reads = true}, {.stream = FASTPATH_NONE, .reads = true}},
        .deadline = now_ms() + LIMIT_MS};
    r = connect_pair(mark, &p->app[0], &p->own[0]);
    return r < 0 ? r : connect_pair(mark, &p->app[1], &p->own[1]);
}

static void write_some(struct pair *p, unsigned i)
{
    struct way *w = &p->way[i];
    uint8_t data[PIECE];
    size_t n = 0;

    /* Sizes that go through all the small ones. */
    while (n < 1 + w->sent % 5000 && w->sent + n < w->goal) {
        data[n] = pattern(w->sent + n);
        n++;
    }
    ssize_t done = n ? send(p->app[i], data, n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

    if (done > 0)
        w->sent += (uint64_t)done;
    else if (done < 0 && errno != EAGAIN)
        p->error = -errno;
}

static void read_some(struct pair *p, unsigned i)
{
    struct way *w = &p->way[i];
    uint8_t data[PIECE];
    ssize_t n = w->reads && !w->fin ? recv(p->app[!i], data, sizeof(data), MSG_DONTWAIT) : -2;

    if (n == 0)
        w->fin = true;
    if (n == -1 && errno != EAGAIN)
        p->error = -errno;
    for (ssize_t k = 0; k < n; k++) {
        if (data[k] != pattern(w->received++))
            p->error = -EBADMSG;
    }
}

/* User space's part: as the relay does it, but that nothing is read that cannot be sent. */
static void serve(struct pair *p, unsigned i)
{
    const struct fastpath_ops *ops = p->f->ops;
    struct way *w = &p->way[i];
    bool joined = w->stream != FASTPATH_NONE;
    uint8_t data[PIECE];
    ssize_t n, sent;

    if (!w->serving || w->eof || (joined && !ops->settled(p->f->ctx, w->stream)))
        return;
    n = recv(p->own[i], data, sizeof(data), MSG_PEEK | MSG_DONTWAIT);
    if (n > 0) {
        sent = send(p->own[!i], data, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0)
            return;
        if (recv(p->own[i], data, (size_t)sent, MSG_DONTWAIT) != sent)
            p->error = -EIO;
        if (joined)
            ops->taken(p->f->ctx, w->stream, (size_t)sent);
    } else if (joined &&
               (ops->waiting(p->f->ctx, w->stream) > 0 || !ops->settled(p->f->ctx, w->stream))) {
        return;
    } else if (n == 0) {
        w->eof = true;
        shutdown(p->own[!i], SHUT_WR);
    } else if (joined && ops->resume(p->f->ctx, w->stream)) {
        w->serving = false;
    }
}

static void begin_to_serve(struct pair *p, unsigned i)
{
    if (!p->way[i].serving && p->way[i].stream != FASTPATH_NONE)
        p->f->ops->hold(p->f->ctx, p->way[i].stream);
    p->way[i].serving = true;
}

static void on_event(void *ctx, uint64_t owner, uint32_t stream)
{
    struct pair *p = ctx;

    (void)owner;
    for (unsigned i = 0; i < 2; i++) {
        if (p->way[i].stream == stream)
            begin_to_serve(p, i);
    }
}

static void turn(struct pair *p)
{
    /* A FIN is the one thing that a redirecting stream is watched for. */
    for (unsigned i = 0; i < 2; i++) {
        struct pollfd q = {.fd = p->own[i], .events = POLLRDHUP};

        if (poll(&q, 1, 0) > 0)
            begin_to_serve(p, i);
    }
    p->f->ops->events(p->f->ctx, on_event, p);
    for (unsigned i = 0; i < 2; i++) {
        write_some(p, i);
        serve(p, i);
        read_some(p, i);
    }
}

/* Turns until both ways have received so much; 0 or -errno. */
static int until_received(struct pair *p, uint64_t there, uint64_t back)
{
    while (p->error == 0 && (p->way[0].received < there || p->way[1].received < back)) {
        if (now_ms() > p->deadline)
            return -ETIMEDOUT;
        turn(p);
    }
    return p->error;
}

/* Bytes are left to user space, as they must be once the receiver is full. */
static bool fell_back(const struct pair *p, unsigned i)
{
    return p->way[i].serving && p->f->ops->waiting(p->f->ctx, p->way[i].stream) > 0;
}

/* Turns until the sender of way `i` can send no more, for a while; on a busy machine a while may
 * pass before the kernel has gone as far, so that must have happened, too. */
static int until_stopped(struct pair *p, unsigned i)
{
    int64_t moved = now_ms();
    uint64_t last = 0;

    while (p->error == 0 && (now_ms() - moved < 6 || !fell_back(p, i))) {
        if (p->way[i].sent > TOO_MUCH)
            return -ENOBUFS;
        if (now_ms() > p->deadline)
            return -ETIMEDOUT;
        turn(p);
        if (p->way[i].sent != last)
            moved = now_ms();
        last = p->way[i].sent;
    }
    return p->error;
}

static int until_fin(struct pair *p, unsigned i)
{
    while (p->error == 0 && !p->way[i].fin) {
        if (now_ms() > p->deadline)
            return -ETIMEDOUT;
        turn(p);
    }
    return p->error ? p->error : p->way[i].received == p->way[i].sent ? 0 : -ENODATA;
}

static int join_both(struct pair *p)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < 2; i++)
        r = p->f->ops->join(p->f->ctx, p->own[i], p->own[!i], 0, &p->way[i].stream);
    return r;
}

/* --- The cases ---------------------------------------------------------------------------------
 */

static int case_kick(struct pair *p)
{
    struct pollfd q = {.fd = p->own[0], .events = POLLIN};
    int r;

    p->way[0].goal = 3000;
    while (p->error == 0 && p->way[0].sent < 3000)
        write_some(p, 0);
    if (poll(&q, 1, LIMIT_MS) != 1)
        return -ETIMEDOUT;
    if (p->f->ops->join(p->f->ctx, p->own[0], p->own[1], 0, &p->way[0].stream) != -EAGAIN)
        return -EPROTO;
    r = bpf_sockmap_join_queued(p->f, p->own[0], p->own[1], &p->way[0].stream);
    return r < 0 ? r : until_received(p, 3000, 0);
}

static int case_redirect(struct pair *p)
{
    int64_t active;
    int r = join_both(p);

    p->way[0].goal = p->way[1].goal = 40000;
    if (r == 0)
        r = until_received(p, 40000, 40000);
    for (unsigned i = 0; r == 0 && i < 2; i++) {
        uint32_t stream = p->way[i].stream;

        if (p->f->ops->progress(p->f->ctx, stream, &active) == 0)
            r = -EPROTO; /* it never redirects */
        else if (!p->f->ops->settled(p->f->ctx, stream) && p->way[i].serving)
            r = -EPROTO; /* the balance is wrong */
    }
    return r;
}

static int case_pass(struct pair *p)
{
    int64_t active;
    uint64_t before;
    int r = join_both(p);

    p->way[0].goal = UINT64_MAX;
    p->way[0].reads = false;
    if (r == 0)
        r = until_stopped(p, 0);
    if (r < 0)
        return r;
    if (!p->way[0].serving)
        return -EPROTO;
    before = p->f->ops->progress(p->f->ctx, p->way[0].stream, &active);
    p->way[0].goal = p->way[0].sent;
    p->way[0].reads = true;
    r = until_received(p, p->way[0].goal, 0);
    while (r == 0 && p->way[0].serving) {
        if (now_ms() > p->deadline)
            return -ETIMEDOUT;
        turn(p);
    }
    /* And the kernel goes on. */
    p->way[0].goal += 3000;
    if (r == 0)
        r = until_received(p, p->way[0].goal, 0);
    if (r == 0 && p->f->ops->progress(p->f->ctx, p->way[0].stream, &active) == before)
        r = -EPROTO;
    return r;
}

/* One FIN, then the other behind bytes that were passed: our own FIN has gone out there. */
static int case_fin(struct pair *p)
{
    int r = join_both(p);

    p->way[0].goal = 5000;
    if (r == 0)
        r = until_received(p, 5000, 0);
    if (r == 0)
        shutdown(p->app[0], SHUT_WR);
    if (r == 0)
        r = until_fin(p, 0);
    p->way[1].goal = UINT64_MAX;
    p->way[1].reads = false;
    if (r == 0)
        r = until_stopped(p, 1);
    if (r == 0 && p->f->ops->waiting(p->f->ctx, p->way[1].stream) == 0)
        r = -EPROTO;
    p->way[1].goal = p->way[1].sent;
    if (r == 0)
        shutdown(p->app[1], SHUT_WR);
    p->way[1].reads = true;
    return r < 0 ? r : until_fin(p, 1);
}

static int case_leave(struct pair *p)
{
    int r = join_both(p);

    p->way[0].goal = p->way[1].goal = 5000;
    if (r == 0)
        r = until_received(p, 5000, 5000);
    if (r < 0)
        return r;
    p->f->ops->hold(p->f->ctx, p->way[0].stream);
    do {
        r = p->f->ops->leave(p->f->ctx, p->way[0].stream);
    } while (r == -EAGAIN && now_ms() < p->deadline);
    if (r < 0)
        return r;
    p->way[0].stream = FASTPATH_NONE;
    p->way[0].serving = true;
    p->way[0].goal = p->way[1].goal = 10000;
    return until_received(p, 10000, 10000);
}

static int case_reset(struct pair *p)
{
    struct pollfd q = {.fd = p->own[1], .events = 0};
    char byte;
    int r = join_both(p);

    p->way[0].goal = 1000;
    if (r == 0)
        r = until_received(p, 1000, 0);
    if (r < 0)
        return r;
    fd_close(&p->app[1]); /* resets, as do all sockets with fd_tcp_options() */
    if (poll(&q, 1, LIMIT_MS) != 1 || !(q.revents & POLLERR))
        return -ETIMEDOUT;
    for (unsigned i = 0; i < 2; i++) {
        p->f->ops->drop(p->f->ctx, p->way[i].stream);
        p->way[i].stream = FASTPATH_NONE;
        fd_close(&p->own[i]);
    }
    q.fd = p->app[0];
    if (poll(&q, 1, LIMIT_MS) != 1)
        return -ETIMEDOUT;
    return recv(p->app[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET ? 0 : -EPROTO;
}

int bpf_sockmap_test(const struct fastpath *f, uint32_t own_mark, char *why, size_t why_size)
{
    static const struct {
        int (*run)(struct pair *p);
        const char *name;
    } cases[] = {
        {case_kick, "bytes that were there before"},
        {case_redirect, "redirecting"},
        {case_pass, "a receiver that does not read"},
        {case_fin, "a FIN behind bytes that were passed"},
        {case_leave, "taking a socket out"},
        {case_reset, "a reset"},
    };
    struct pair p;
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(cases) / sizeof(cases[0]); i++) {
        r = open_pair(&p, f, own_mark);
        bool opened = r == 0;

        if (r < 0)
            snprintf(why, why_size, "no connection over loopback to prove the sockmap on: %s",
                     strerror(-r));
        else
            r = cases[i].run(&p);
        if (r < 0 && opened) {
            snprintf(why, why_size, "this kernel's sockmap failed its proof: %s: %s", cases[i].name,
                     strerror(-r));
            r = -EPROTO;
        }
        close_pair(&p);
    }
    return r;
}
