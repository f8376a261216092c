/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * load: traffic of the shapes a redirector meets, and one JSON line of figures for each run.
 *
 *     load server [-S] [-j THREADS] ADDR PORT
 *     load hold   [-n CONNECTIONS] [-c DIALING-AT-ONCE]          ADDR PORT
 *     load conn   [-n CONNECTIONS | -T SECONDS] [-c PARALLEL]    ADDR PORT
 *     load messages [-n CONNECTIONS] [-c DIALING-AT-ONCE] [-w TRIPS] [-T SECONDS]
 *                                                                  ADDR PORT
 *     load rr     [-s BYTES] [-n ROUND-TRIPS | -T SECONDS]       ADDR PORT
 *     load up     [-c STREAMS] [-T SECONDS | -B BYTES]           ADDR PORT
 *     load down   [-c STREAMS] [-T SECONDS | -B BYTES]           ADDR PORT
 *
 * The first byte of a connection tells the server what it is for:
 *
 *     'e'             echo what follows
 *     's'             swallow until FIN, then answer with the count, 8 bytes little-endian
 *     'c' + 8 bytes   send that many bytes (0: until the peer goes), then FIN
 *     'q'             answer with 'r' and wait for the peer's FIN
 *
 * With -S the server speaks SOCKS5 first (no authentication) and grants every request by serving it
 * itself: the far end of a benchmark in which neither a proxy nor a second hop is the limit. UDP
 * associations are granted to `datagrams server -S` on the same port.
 * With -x HOST:PORT the client speaks SOCKS5 itself: what an application that needs no redirector
 * gets. Clients exit with 0 when nothing failed.
 *
 * The server, hold, messages and conn are one epoll loop each (the server one per thread, by
 * SO_REUSEPORT); rr and the streams block, as most applications do. A pointer in the epoll data is
 * safe here: one event per descriptor and batch, and a connection is freed only while its own event
 * is handled.
 */
#include <endian.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sys/epoll.h>

#include "net.h"

#define BUFFER (256u << 10)
#define BATCH  256

struct options {
    uint64_t count, bytes;
    unsigned parallel, threads, size, timeout, warm_up;
    double seconds;
    bool socks_server, mapped, truncate;
    const char *user, *password;
    bool socks;
    struct target proxy, target;
};

static struct options opt = {.threads = 1, .size = 64, .timeout = 60};

/* --- the server ------------------------------------------------------------------------------ */

enum server_state {
    SERVE_GREETING,
    SERVE_REQUEST,
    SERVE_FIRST,
    SERVE_ECHO,
    SERVE_SWALLOW,
    SERVE_SEND,
    SERVE_END
};

struct served {
    int fd;
    enum server_state state;
    uint64_t total;   /* swallowed, or left to send */
    uint16_t pending; /* bytes in head: of the handshake, or an echo that did not fit */
    uint8_t head[300];
};

/* An echo larger than head waits in the kernel: no more is read than can be written or kept. */

static void watch(int ep, struct served *c, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
}

/* The length of the SOCKS5 message at the start of head, 0 when it is not all there, -1 wrong. */
static int message_length(const struct served *c)
{
    const uint8_t *b = c->head;
    int have = c->pending, need;

    if (have && b[0] != 5)
        return -1;
    if (c->state == SERVE_GREETING) {
        need = have < 2 ? 2 : 2 + b[1];
    } else {
        need = have < 5 ? 5 : b[3] == 1 ? 10 : b[3] == 4 ? 22 : b[3] == 3 ? 7 + b[4] : -1;
    }
    return need < 0 ? -1 : have >= need && have >= 2 ? need : 0;
}

/* An association is granted to our own port, for UDP: `datagrams server -S` is there, or nobody. */
static void fill_grant(const struct served *c, uint8_t ret[10])
{
    struct sockaddr_in in = {0};
    socklen_t len = sizeof(in);

    memcpy(ret, (uint8_t[10]){5, 0, 0, 1}, 10);
    if (c->head[1] != 3 || getsockname(c->fd, (struct sockaddr *)&in, &len) < 0 ||
        in.sin_family != AF_INET)
        return;
    memcpy(ret + 4, &in.sin_addr, 4);
    memcpy(ret + 8, &in.sin_port, 2);
}

/* False: the connection is over. */
static bool serve_socks(struct served *c)
{
    for (;;) {
        int n = message_length(c);
        if (n < 0)
            return false;
        if (n == 0 || c->state >= SERVE_FIRST)
            return true;
        uint8_t granted[10] = {5, 0};
        bool greeting = c->state == SERVE_GREETING;
        if (!greeting)
            fill_grant(c, granted);
        if (greeting ? send(c->fd, granted, 2, MSG_NOSIGNAL) != 2
                     : send(c->fd, granted, 10, MSG_NOSIGNAL) != 10)
            return false;
        c->state = greeting ? SERVE_REQUEST : SERVE_FIRST;
        c->pending = (uint16_t)(c->pending - n);
        memmove(c->head, c->head + n, c->pending);
        if (c->state == SERVE_FIRST)
            return true;
    }
}

/* Decides by the first byte; what follows it stays in head. */
static bool serve_first(int ep, struct served *c)
{
    if (!c->pending)
        return true;
    switch (c->head[0]) {
    case 'e':
        c->state = SERVE_ECHO;
        c->pending--;
        memmove(c->head, c->head + 1, c->pending);
        if (c->pending && write_all(c->fd, c->head, c->pending) < 0)
            return false;
        c->pending = 0;
        return true;
    case 's':
        c->state = SERVE_SWALLOW;
        c->total = c->pending - 1u;
        return true;
    case 'c':
        if (c->pending < 9)
            return true;
        memcpy(&c->total, c->head + 1, 8);
        c->total = le64toh(c->total);
        if (!c->total)
            c->total = UINT64_MAX;
        c->state = SERVE_SEND;
        watch(ep, c, EPOLLOUT | EPOLLRDHUP);
        return true;
    case 'q':
        c->state = SERVE_END;
        return send(c->fd, "r", 1, MSG_NOSIGNAL) == 1;
    default:
        return false;
    }
}

/* False: the connection is over. */
static bool serve_event(int ep, struct served *c, uint32_t events, uint8_t *buf)
{
    ssize_t n;

    if (c->state == SERVE_SEND) {
        if (events & (EPOLLERR | EPOLLHUP))
            return false;
        size_t want = c->total < BUFFER ? (size_t)c->total : BUFFER;
        n = send(c->fd, buf, want, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return errno == EAGAIN;
        if (c->total != UINT64_MAX)
            c->total -= (uint64_t)n;
        if (c->total)
            return true;
        shutdown(c->fd, SHUT_WR);
        c->state = SERVE_END;
        watch(ep, c, EPOLLIN);
        return true;
    }
    if (c->state <= SERVE_FIRST) {
        n = recv(c->fd, c->head + c->pending, sizeof(c->head) - c->pending, MSG_DONTWAIT);
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        c->pending = (uint16_t)(c->pending + n);
        if (c->state < SERVE_FIRST && !serve_socks(c))
            return false;
        return c->state != SERVE_FIRST || serve_first(ep, c);
    }
    if (c->state == SERVE_SWALLOW) {
        n = recv(c->fd, buf, BUFFER, MSG_DONTWAIT | (opt.truncate ? MSG_TRUNC : 0));
        if (n > 0)
            c->total += (uint64_t)n;
        if (n == 0) {
            uint64_t total = htole64(c->total);
            send(c->fd, &total, 8, MSG_NOSIGNAL);
        }
        return n > 0 || (n < 0 && errno == EAGAIN);
    }
    n = recv(c->fd, buf, BUFFER, MSG_DONTWAIT);
    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    if (c->state != SERVE_ECHO)
        return true;
    /* The echo's client reads before it sends more than fits into a socket buffer; a blocking
     * write can therefore not stand still for long. */
    return write_all(c->fd, buf, (size_t)n) == 0;
}

__attribute__((noreturn)) static void *serve_loop(void *arg)
{
    int listener = (int)(intptr_t)arg, ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN}, events[BATCH];
    uint8_t *buf = calloc(1, BUFFER);

    if (ep < 0 || !buf || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0)
        die(1, "server: %s", strerror(errno));
    for (;;) {
        int n = epoll_wait(ep, events, BATCH, -1);
        for (int i = 0; i < n; i++) {
            struct served *c = events[i].data.ptr;
            if (c) {
                if (!serve_event(ep, c, events[i].events, buf)) {
                    close(c->fd);
                    free(c);
                }
                continue;
            }
            for (int k = 0; k < BATCH; k++) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0) {
                    if (errno == EMFILE || errno == ENFILE)
                        sleep_us(1000);
                    break;
                }
                c = calloc(1, sizeof(*c));
                if (!c) {
                    close(fd);
                    continue;
                }
                c->fd = fd;
                c->state = opt.socks_server ? SERVE_GREETING : SERVE_FIRST;
                set_nodelay(fd);
                ev = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0) {
                    close(fd);
                    free(c);
                }
            }
        }
    }
}

__attribute__((noreturn)) static void run_server(void)
{
    for (unsigned i = 0; i < opt.threads; i++) {
        int fd = listen_on(&opt.target, false, true);
        pthread_t thread;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        if (i + 1 == opt.threads)
            serve_loop((void *)(intptr_t)fd);
        if (pthread_create(&thread, NULL, serve_loop, (void *)(intptr_t)fd))
            die(1, "pthread_create failed");
    }
    die(2, "no threads");
}

/* --- figures --------------------------------------------------------------------------------- */

struct samples {
    uint32_t *us; /* tenths of a microsecond */
    size_t n, cap;
};

static void add_sample(struct samples *s, uint64_t ns)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 4096;
        uint32_t *us = realloc(s->us, cap * sizeof(*us));
        if (!us)
            return;
        s->us = us;
        s->cap = cap;
    }
    s->us[s->n++] = ns / 100 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 100);
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* In microseconds; the samples are sorted afterwards. */
static double percentile(struct samples *s, double p)
{
    if (!s->n)
        return 0;
    qsort(s->us, s->n, sizeof(*s->us), compare);
    return s->us[(size_t)(p * (double)(s->n - 1))] / 10.0;
}

/* How connections failed, by errno; SOCKS reply codes are counted at 200 + code. */
static uint64_t errors[512];

static uint64_t error_total(void)
{
    uint64_t n = 0;
    for (size_t i = 0; i < 512; i++)
        n += errors[i];
    return n;
}

static void print_errors(void)
{
    const char *comma = "";
    printf("\"errors\": {");
    for (size_t i = 0; i < 512; i++) {
        if (!errors[i])
            continue;
        if (i >= 200 && i < 456)
            printf("%s\"SOCKS_%zu\": %" PRIu64, comma, i - 200, errors[i]);
        else
            printf("%s\"%s\": %" PRIu64, comma, i ? strerrorname_np((int)i) : "FIN", errors[i]);
        comma = ", ";
    }
    printf("}");
}

/* --- hold and conn: one loop, many connections ----------------------------------------------- */

enum client_state { DIAL, GREETED, REQUESTED, ASKED, HELD };

struct client {
    int fd;
    enum client_state state;
    uint16_t got;
    unsigned left; /* messages, the one under way included */
    uint64_t started;
    uint8_t buf[80];
};

struct pool {
    int ep;
    bool hold;
    uint64_t started, answered, dialing;
    struct samples connect, whole;
};

static void client_end(struct pool *p, struct client *c, int error)
{
    if (error >= 0)
        errors[error < 512 ? error : EIO]++;
    if (c->state != HELD)
        p->dialing--;
    close(c->fd);
    c->fd = -1;
}

static bool client_start(struct pool *p, struct client *c)
{
    const struct target *t = opt.socks ? &opt.proxy : &opt.target;

    p->started++;
    p->dialing++;
    *c = (struct client){.state = DIAL, .started = now_ns()};
    c->fd = socket(t->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        errors[errno]++;
        p->dialing--;
        return false;
    }
    set_nodelay(c->fd);
    struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = c};
    if ((connect(c->fd, (const struct sockaddr *)&t->sa, t->len) < 0 && errno != EINPROGRESS) ||
        epoll_ctl(p->ep, EPOLL_CTL_ADD, c->fd, &ev) < 0) {
        client_end(p, c, errno);
        return false;
    }
    return true;
}

/* A message this small always fits into an empty socket buffer. */
static int client_send(struct client *c, const void *data, size_t len)
{
    ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
    c->got = 0;
    return n == (ssize_t)len ? 0 : n < 0 ? errno : EMSGSIZE;
}

static int client_ask(struct pool *p, struct client *c, bool again)
{
    uint8_t message[65] = {'e'};
    if (!again)
        add_sample(&p->connect, now_ns() - c->started);
    c->state = ASKED;
    if (!p->hold)
        return client_send(c, "q", 1);
    memcpy(message + 1, &c->started, 8);
    return client_send(c, message + again, 65u - again);
}

static int client_request(struct client *c)
{
    uint8_t b[22] = {5, 1, 0};
    c->state = REQUESTED;
    if (opt.target.sa.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)&opt.target.sa;
        b[3] = 1;
        memcpy(b + 4, &in->sin_addr, 4);
        memcpy(b + 8, &in->sin_port, 2);
        return client_send(c, b, 10);
    }
    const struct sockaddr_in6 *in6 = (const void *)&opt.target.sa;
    b[3] = 4;
    memcpy(b + 4, &in6->sin6_addr, 16);
    memcpy(b + 20, &in6->sin6_port, 2);
    return client_send(c, b, 22);
}

/* How many bytes the state waits for. */
static size_t client_wants(const struct pool *p, const struct client *c)
{
    if (c->state == GREETED)
        return 2;
    if (c->state == REQUESTED)
        return c->got < 4 ? 4 : c->buf[3] == 4 ? 22 : 10;
    return p->hold ? 64 : 1;
}

/* -1: nothing to report; otherwise the connection ends with this errno (0: unexpected FIN). */
static int client_event(struct pool *p, struct client *c, bool *answered)
{
    int rc;

    if (c->state == DIAL) {
        int err = 0;
        socklen_t len = sizeof(err);
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
        if (err)
            return err;
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(p->ep, EPOLL_CTL_MOD, c->fd, &ev);
        if (!opt.socks) {
            rc = client_ask(p, c, false);
        } else {
            c->state = GREETED;
            rc = client_send(c, (uint8_t[]){5, 1, 0}, 3);
        }
        return rc ? rc : -1;
    }
    for (;;) {
        size_t want = client_wants(p, c);
        if (c->got < want) {
            ssize_t n = recv(c->fd, c->buf + c->got, want - c->got, 0);
            if (n < 0)
                return errno == EAGAIN ? -1 : errno;
            if (n == 0)
                return 0;
            c->got = (uint16_t)(c->got + n);
            continue;
        }
        if (c->state == GREETED) {
            rc = c->buf[0] == 5 && c->buf[1] == 0 ? client_request(c) : EPROTO;
        } else if (c->state == REQUESTED) {
            rc = c->buf[1] ? 200 + c->buf[1] : client_ask(p, c, false);
        } else {
            if (p->hold && memcmp(c->buf, &c->started, 8) != 0)
                return EBADMSG;
            *answered = true;
            return -1;
        }
        return rc ? rc : -1;
    }
}

static void pool_open(struct pool *p, bool hold)
{
    *p = (struct pool){.ep = epoll_create1(EPOLL_CLOEXEC), .hold = hold};
    if (p->ep < 0)
        die(1, "epoll_create1: %s", strerror(errno));
}

static void pool_close(struct pool *p, struct client *clients)
{
    free(p->connect.us);
    free(p->whole.us);
    free(clients);
    close(p->ep);
}

static int run_conn(void)
{
    struct epoll_event events[BATCH];
    struct pool p;
    unsigned parallel = opt.parallel ? opt.parallel : 1;
    struct client *clients = calloc(parallel, sizeof(*clients));
    uint64_t start = now_ns(), last = start;
    uint64_t until = opt.seconds > 0 ? start + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
    uint64_t count = opt.count ? opt.count : opt.seconds > 0 ? UINT64_MAX : 1000;

    pool_open(&p, false);
    for (unsigned i = 0; clients && i < parallel && p.started < count; i++)
        client_start(&p, &clients[i]);
    while (p.dialing) {
        int n = epoll_wait(p.ep, events, BATCH, (int)opt.timeout * 1000);
        if (n == 0) {
            errors[ETIMEDOUT] += p.dialing;
            break;
        }
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            bool answered = false;
            int error = client_event(&p, c, &answered);
            if (error < 0 && !answered)
                continue;
            last = now_ns();
            if (answered) {
                add_sample(&p.whole, last - c->started);
                p.answered++;
            }
            client_end(&p, c, answered ? -1 : error);
            /* The next one; a failure to start counts, and the one after it is tried. */
            while (last < until && p.started < count && !client_start(&p, c))
                ;
        }
    }
    double secs = (double)(last - start) / 1e9;
    printf("{\"test\": \"conn\", \"parallel\": %u, \"started\": %" PRIu64 ", \"done\": %" PRIu64
           ", \"seconds\": %.3f, \"per_second\": %.1f, \"connect_p50_us\": %.1f, "
           "\"connect_p99_us\": %.1f, \"whole_p50_us\": %.1f, \"whole_p99_us\": %.1f, ",
           parallel, p.started, p.answered, secs, secs > 0 ? (double)p.answered / secs : 0,
           percentile(&p.connect, .5), percentile(&p.connect, .99), percentile(&p.whole, .5),
           percentile(&p.whole, .99));
    print_errors();
    printf("}\n");
    pool_close(&p, clients);
    return error_total() ? 1 : 0;
}

/* Runs the loop until no connection is under way. */
static void hold_settle(struct pool *p, struct client *clients, uint64_t *next)
{
    struct epoll_event events[BATCH];
    unsigned parallel = opt.parallel ? opt.parallel : 100;

    for (;;) {
        while (next && p->dialing < parallel && *next < opt.count)
            client_start(p, &clients[(*next)++]);
        if (!p->dialing)
            return;
        int n = epoll_wait(p->ep, events, BATCH, (int)opt.timeout * 1000);
        if (n == 0) {
            errors[ETIMEDOUT] += p->dialing;
            return;
        }
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            bool answered = false;
            if (c->state == HELD) {
                client_end(p, c, EPIPE);
                continue;
            }
            int error = client_event(p, c, &answered);
            if (answered) {
                add_sample(&p->whole, now_ns() - c->started);
                p->dialing--;
                c->state = HELD;
            } else if (error >= 0) {
                client_end(p, c, error);
            }
        }
    }
}

/* Returns how many are open and have answered. */
static uint64_t hold_report(const char *phase, struct pool *p, const struct client *clients,
                            uint64_t since)
{
    double secs = (double)(now_ns() - since) / 1e9;
    uint64_t open = 0;
    for (uint64_t i = 0; i < opt.count; i++)
        open += clients[i].fd >= 0 && clients[i].state == HELD;
    printf("{\"test\": \"hold\", \"phase\": \"%s\", \"want\": %" PRIu64 ", \"open\": %" PRIu64
           ", \"seconds\": %.3f, \"connect_p50_us\": %.1f, \"connect_p99_us\": %.1f, ",
           phase, opt.count, open, secs, percentile(&p->connect, .5), percentile(&p->connect, .99));
    print_errors();
    printf("}\n");
    return open;
}

static volatile sig_atomic_t told_to_finish;

static void on_signal(int sig)
{
    (void)sig;
    told_to_finish = 1;
}

/* Opens all, prints a line, waits (-T seconds, or for the end of standard input, or SIGUSR1), then
 * asks every connection once more: those that are open and answer are counted in a second line. */
static int run_hold(void)
{
    struct client *clients;
    struct pool p;
    uint64_t next = 0, start = now_ns();
    struct sigaction sa = {.sa_handler = on_signal};

    if (!opt.count)
        opt.count = 1000;
    sigaction(SIGUSR1, &sa, NULL);
    clients = calloc(opt.count, sizeof(*clients));
    if (!clients)
        die(1, "out of memory");
    pool_open(&p, true);
    hold_settle(&p, clients, &next);
    hold_report("open", &p, clients, start);
    if (opt.seconds > 0) {
        sleep_us((uint64_t)(opt.seconds * 1e6));
    } else {
        char c;
        while (!told_to_finish && read(0, &c, 1) > 0)
            ;
    }
    start = now_ns();
    for (uint64_t i = 0; i < opt.count; i++) {
        struct client *c = &clients[i];
        if (c->fd < 0 || c->state != HELD)
            continue;
        p.dialing++;
        int rc = client_ask(&p, c, true);
        if (rc)
            client_end(&p, c, rc);
        /* Not all at once: the answers are small, but ten thousand of them are a burst. */
        if (p.dialing >= 256)
            hold_settle(&p, clients, NULL);
    }
    hold_settle(&p, clients, NULL);
    uint64_t open = hold_report("end", &p, clients, start);
    pool_close(&p, clients);
    return error_total() || open != opt.count ? 1 : 0;
}

/* Sends the next message of an open connection. */
static void message_next(struct pool *p, struct client *c)
{
    c->started = now_ns();
    int rc = client_ask(p, c, true);
    if (rc)
        client_end(p, c, rc);
}

/* On every open connection one message is under way, and the next is sent when its echo is there:
 * `each` of them, or until that time. Returns how many came back; *ret_last is when the last did.
 */
static uint64_t exchange(struct pool *p, struct client *clients, unsigned each, uint64_t until,
                         uint64_t *ret_last)
{
    struct epoll_event events[BATCH];
    uint64_t done = 0, last = now_ns();

    for (uint64_t i = 0; i < opt.count; i++) {
        if (clients[i].fd >= 0 && clients[i].state == HELD) {
            clients[i].left = each;
            p->dialing++;
            message_next(p, &clients[i]);
        }
    }
    while (p->dialing) {
        int n = epoll_wait(p->ep, events, BATCH, (int)opt.timeout * 1000);
        if (n == 0) {
            errors[ETIMEDOUT] += p->dialing;
            break;
        }
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            bool answered = false;
            if (c->state == HELD) { /* it has had its last echo: this is an end */
                client_end(p, c, EPIPE);
                continue;
            }
            int error = client_event(p, c, &answered);
            if (answered) {
                last = now_ns();
                add_sample(&p->whole, last - c->started);
                done++;
                if (--c->left && last < until) {
                    message_next(p, c);
                } else {
                    p->dialing--;
                    c->state = HELD;
                }
            } else if (error >= 0) {
                client_end(p, c, error);
            }
        }
    }
    *ret_last = last;
    return done;
}

/* Opens all connections, exchanges -w messages on each, prints a line, and begins when standard
 * input has a byte or ends, so that who started it can read clocks around what counts alone. It is
 * over when the second line is there; the connections stay open until standard input ends. */
static int run_messages(void)
{
    struct client *clients;
    struct pool p;
    uint64_t next = 0, start = now_ns(), last;
    double seconds = opt.seconds > 0 ? opt.seconds : 5;
    char c;

    if (!opt.count)
        opt.count = 1000;
    clients = calloc(opt.count, sizeof(*clients));
    if (!clients)
        die(1, "out of memory");
    pool_open(&p, true);
    hold_settle(&p, clients, &next);
    if (opt.warm_up)
        exchange(&p, clients, opt.warm_up, UINT64_MAX, &last);
    uint64_t open = hold_report("open", &p, clients, start);
    p.whole.n = 0;
    if (read(0, &c, 1) < 0)
        die(1, "standard input: %s", strerror(errno));
    start = now_ns();
    uint64_t done = exchange(&p, clients, UINT_MAX, start + (uint64_t)(seconds * 1e9), &last);
    double secs = (double)(last - start) / 1e9;
    printf("{\"test\": \"messages\", \"connections\": %" PRIu64 ", \"done\": %" PRIu64
           ", \"seconds\": %.3f, \"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, ",
           open, done, secs, secs > 0 ? (double)done / secs : 0, percentile(&p.whole, .5),
           percentile(&p.whole, .99));
    print_errors();
    printf("}\n");
    while (read(0, &c, 1) > 0)
        ;
    pool_close(&p, clients);
    return error_total() || open != opt.count ? 1 : 0;
}

/* --- rr and the streams: blocking, as applications are ---------------------------------------- */

/* A connected socket, the SOCKS handshake behind it; the reason is counted when there is none. */
static int dial(void)
{
    int fd = connect_to(opt.socks ? &opt.proxy : &opt.target, false), rc = 0;
    if (fd >= 0 && opt.socks)
        rc = socks5_connect(fd, &opt.target, opt.user, opt.password);
    if (fd >= 0 && !rc) {
        set_nodelay(fd);
        return fd;
    }
    errors[fd < 0 ? -fd : rc < 0 ? -rc : 200 + rc]++;
    if (fd >= 0)
        close(fd);
    return -1;
}

static int run_rr(void)
{
    struct samples s = {0};
    uint8_t *message = calloc(1, opt.size), *answer = calloc(1, opt.size);
    int fd = dial(), rc = 0;
    uint64_t start = now_ns(), before = start, trips = 0;
    uint64_t until = opt.seconds > 0 ? start + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
    uint64_t count = opt.count ? opt.count : opt.seconds > 0 ? UINT64_MAX : 10000;

    if (fd >= 0 && message && answer) {
        rc = write_all(fd, "e", 1);
        while (rc == 0 && trips < count && before < until) {
            memcpy(message, &trips, opt.size < 8 ? opt.size : 8);
            rc = write_all(fd, message, opt.size);
            if (rc == 0)
                rc = read_all(fd, answer, opt.size);
            if (rc == 0 && memcmp(message, answer, opt.size) != 0)
                rc = -EBADMSG;
            uint64_t after = now_ns();
            add_sample(&s, after - before);
            before = after;
            trips++;
        }
        if (rc < 0)
            errors[-rc]++;
        close(fd);
    }
    double secs = (double)(before - start) / 1e9;
    printf("{\"test\": \"rr\", \"size\": %u, \"done\": %" PRIu64 ", \"seconds\": %.3f, "
           "\"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, ",
           opt.size, trips, secs, secs > 0 ? (double)trips / secs : 0, percentile(&s, .5),
           percentile(&s, .99));
    print_errors();
    printf("}\n");
    free(s.us);
    free(message);
    free(answer);
    return error_total() ? 1 : 0;
}

struct bulk {
    pthread_t thread;
    bool up;
    uint64_t bytes, limit, until;
    int error; /* -1: none */
};

static void bulk_up(struct bulk *b, int fd, uint8_t *buf)
{
    uint64_t counted;
    int rc = write_all(fd, "s", 1);
    while (rc == 0 && b->bytes < b->limit && now_ns() < b->until) {
        size_t n = b->limit - b->bytes < BUFFER ? (size_t)(b->limit - b->bytes) : BUFFER;
        rc = write_all(fd, buf, n);
        if (rc == 0)
            b->bytes += n;
    }
    shutdown(fd, SHUT_WR);
    /* The time ends when the far end has counted everything, not when we have sent it. */
    if (rc == 0)
        rc = read_all(fd, &counted, 8);
    if (rc == 0 && le64toh(counted) != b->bytes)
        rc = -EBADMSG;
    b->error = rc < 0 ? -rc : -1;
}

static void bulk_down(struct bulk *b, int fd, uint8_t *buf)
{
    uint8_t ask[9] = {'c'};
    uint64_t limit = b->limit == UINT64_MAX ? 0 : htole64(b->limit);
    memcpy(ask + 1, &limit, 8);
    int rc = write_all(fd, ask, 9);
    if (rc < 0)
        b->error = -rc;
    while (rc == 0 && now_ns() < b->until) {
        ssize_t n = recv(fd, buf, BUFFER, opt.truncate ? MSG_TRUNC : 0);
        if (n > 0) {
            b->bytes += (uint64_t)n;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        /* A FIN before the last byte is a failure, also when only the time was to end it. */
        if (n < 0)
            b->error = errno;
        else if (b->bytes != b->limit)
            b->error = 0;
        break;
    }
}

static void *bulk_run(void *arg)
{
    struct bulk *b = arg;
    uint8_t *buf = calloc(1, BUFFER);
    int fd = buf ? dial() : -1;

    b->error = -1;
    if (fd >= 0) {
        if (b->up)
            bulk_up(b, fd, buf);
        else
            bulk_down(b, fd, buf);
        close(fd);
    }
    free(buf);
    return NULL;
}

static int run_bulk(bool up)
{
    unsigned streams = opt.parallel ? opt.parallel : 1;
    struct bulk *b = calloc(streams, sizeof(*b));
    uint64_t bytes = 0, start = now_ns();
    double seconds = opt.seconds > 0 || opt.bytes ? opt.seconds : 5;

    for (unsigned i = 0; b && i < streams; i++) {
        b[i] = (struct bulk){.up = up,
                             .limit = opt.bytes ? opt.bytes / streams : UINT64_MAX,
                             .until = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : UINT64_MAX};
        if (pthread_create(&b[i].thread, NULL, bulk_run, &b[i]))
            die(1, "pthread_create failed");
    }
    for (unsigned i = 0; b && i < streams; i++) {
        pthread_join(b[i].thread, NULL);
        bytes += b[i].bytes;
        if (b[i].error >= 0)
            errors[b[i].error < 512 ? b[i].error : EIO]++;
    }
    double secs = (double)(now_ns() - start) / 1e9;
    free(b);
    printf("{\"test\": \"%s\", \"streams\": %u, \"bytes\": %" PRIu64 ", \"seconds\": %.3f, "
           "\"gbit_per_second\": %.3f, ",
           up ? "up" : "down", streams, bytes, secs, (double)bytes * 8 / 1e9 / secs);
    print_errors();
    printf("}\n");
    return error_total() ? 1 : 0;
}

/* --------------------------------------------------------------------------------------------- */

static void usage(void)
{
    die(2,
        "usage: load server|hold|conn|messages|rr|up|down [options] ADDR PORT\n"
        "  -n COUNT  connections or round trips     -c N  at once: dialing, parallel or streams\n"
        "  -T SECONDS  for that long                -B BYTES[KMGT]  that much in all\n"
        "  -s BYTES  of a round trip                -t SECONDS  give up waiting (default 60)\n"
        "  -w COUNT  on each connection, before messages count\n"
        "  -x HOST:PORT  speak SOCKS5 to this       -U USER:PASSWORD  with (rr, up, down)\n"
        "  -M  IPv4 through an AF_INET6 socket      -z  discard without copying (MSG_TRUNC)\n"
        "  server: -S speak SOCKS5 first, serve every request itself   -j THREADS");
}

int main(int argc, char **argv)
{
    char *user = NULL;
    int c;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2)
        usage();
    const char *mode = argv[1];
    argv++;
    argc--;
    while ((c = getopt(argc, argv, "n:c:T:B:s:t:x:U:j:w:SMz")) != -1) {
        switch (c) {
        case 'n':
            opt.count = parse_count(optarg);
            break;
        case 'c':
            opt.parallel = (unsigned)parse_count(optarg);
            break;
        case 'T':
            opt.seconds = strtod(optarg, NULL);
            break;
        case 'B':
            opt.bytes = parse_count(optarg);
            break;
        case 's':
            opt.size = (unsigned)parse_count(optarg);
            break;
        case 't':
            opt.timeout = (unsigned)parse_count(optarg);
            break;
        case 'x':
            opt.proxy = parse_hostport(optarg);
            opt.socks = true;
            break;
        case 'U':
            user = optarg;
            break;
        case 'j':
            opt.threads = (unsigned)parse_count(optarg);
            break;
        case 'w':
            opt.warm_up = (unsigned)parse_count(optarg);
            break;
        case 'S':
            opt.socks_server = true;
            break;
        case 'M':
            opt.mapped = true;
            break;
        case 'z':
            opt.truncate = true;
            break;
        default:
            usage();
        }
    }
    if (argc - optind != 2 || !opt.size)
        usage();
    if (user) {
        opt.user = user;
        char *colon = strchr(user, ':');
        if (colon) {
            *colon = '\0';
            opt.password = colon + 1;
        }
    }
    raise_nofile();
    opt.target = parse_target(argv[optind], argv[optind + 1], opt.mapped);
    if (!strcmp(mode, "server"))
        run_server();
    if (!strcmp(mode, "hold"))
        return run_hold();
    if (!strcmp(mode, "conn"))
        return run_conn();
    if (!strcmp(mode, "messages"))
        return run_messages();
    if (!strcmp(mode, "rr"))
        return run_rr();
    if (!strcmp(mode, "up") || !strcmp(mode, "down"))
        return run_bulk(!strcmp(mode, "up"));
    usage();
}
