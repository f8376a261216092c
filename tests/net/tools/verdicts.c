/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * verdicts: a SOCKS4/4a/5 server whose answer depends on the port that is asked for, and who
 * counts.
 *
 *     verdicts serve [-6 KIND] ADDR PORT CONTROL-PORT
 *     verdicts ask ADDR CONTROL-PORT QUESTION...
 *
 * A request for port 20000 + N gets kind N % 25 of the table below; any other port is granted. With
 * -6 every request for an IPv6 destination gets that kind. Nothing is ever connected to: on what it
 * grants, the server plays the destination itself. It answers each line with one of its own, the
 * destination that was asked for and the length of the line it got ("203.0.113.10:20000 2"), so
 * that a client can tell that it was joined to its own upstream connection, and that its bytes
 * arrived once. A FIN is answered with a FIN.
 *
 * The control port takes one question per connection:
 *
 *     open        connections there are           peak       the most there ever were at once
 *     total       connections there have been     requests   requests there have been
 *     waiting     of the open ones: those whose answer is still to come (kinds that wait included)
 *     granted     of the open ones: those that were granted
 *     port:N      requests for that port          seen       all of the above but this, as one line
 *     forget      peak, total, requests and port:N begin again
 *     release N   the connections that wait for it (kind 20) get reply N (0: granted); the number
 * of them
 *
 * One thread, one epoll loop. What has been closed is taken notice of before a new peak is: an
 * upstream connection that makes room for another one does not count beside it.
 */
#include <getopt.h>
#include <inttypes.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "net.h"

#define FIRST_PORT 20000
#define KINDS      25
#define BATCH      1024
#define BUFFER     4096

enum how {
    REPLY,   /* with `code`, after `delay` ms */
    TOLD,    /* waits for "release" */
    SILENT,  /* never answers */
    GARBAGE, /* no SOCKS */
    FIN,     /* instead of a reply */
    RST,
    HALF, /* the first half of a reply, then FIN */
    ALIEN /* a reply of another version */
};

static const struct kind {
    enum how how;
    uint8_t code;
    unsigned delay;
} kinds[KINDS] = {
    [0] = {REPLY, 0, 0},     [1] = {REPLY, 0, 200},   [2] = {REPLY, 0, 2500},
    [3] = {REPLY, 1, 0},     [4] = {REPLY, 2, 0},     [5] = {REPLY, 3, 0},
    [6] = {REPLY, 4, 0},     [7] = {REPLY, 5, 0},     [8] = {REPLY, 6, 0},
    [9] = {REPLY, 7, 0},     [10] = {REPLY, 8, 0},    [11] = {GARBAGE, 0, 0},
    [12] = {FIN, 0, 0},      [13] = {RST, 0, 0},      [14] = {SILENT, 0, 0},
    [15] = {HALF, 0, 0},     [16] = {REPLY, 5, 200},  [17] = {REPLY, 4, 200},
    [18] = {REPLY, 5, 2500}, [19] = {REPLY, 4, 2500}, [20] = {TOLD, 0, 0},
    [21] = {REPLY, 3, 200},  [22] = {REPLY, 2, 200},  [23] = {ALIEN, 0, 0},
    [24] = {REPLY, 9, 0},
};

enum state { GREETING, REQUEST, WAITING, GRANTED, CLOSING };

struct conn {
    struct conn *next, **at; /* in the list of those that wait */
    uint64_t due;            /* 0: when it is told, or never */
    enum state state;
    const struct kind *kind;
    int fd;
    uint8_t version;
    bool in_line, told;
    char host[INET6_ADDRSTRLEN + 2];
    uint16_t port;
    uint32_t line; /* bytes of the line that is being received */
    size_t n;
    uint8_t buf[600];
};

static struct {
    uint64_t open, peak, total, requests, waiting, granted;
    uint32_t by_port[65536];
} seen;

static const struct kind *kind6;
static struct conn *waiting;
static int loop, listener, control, timer;

/* ---- the end of a connection, and those that wait ---- */

static void wait_for(struct conn *c, uint64_t due)
{
    c->due = due;
    c->state = WAITING;
    c->next = waiting;
    c->at = &waiting;
    if (waiting)
        waiting->at = &c->next;
    waiting = c;
    seen.waiting++;
}

static void wait_no_more(struct conn *c)
{
    if (c->state != WAITING)
        return;
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    seen.waiting--;
    c->state = CLOSING;
}

static void end(struct conn *c, bool reset)
{
    wait_no_more(c);
    if (c->state == GRANTED)
        seen.granted--;
    if (reset)
        set_reset(c->fd);
    close(c->fd);
    seen.open--;
    free(c);
}

/* ---- answers; false: the connection is gone ---- */

/* What we say is small and the peer reads it, or it is not what we are here for. */
static bool say(struct conn *c, const void *data, size_t len)
{
    if (send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len)
        return true;
    end(c, true);
    return false;
}

static bool reply(struct conn *c, uint8_t code)
{
    const uint8_t five[10] = {5, code, 0, 1}, four[8] = {0, code ? 0x5b : 0x5a};

    wait_no_more(c);
    if (!(c->version == 5 ? say(c, five, sizeof(five)) : say(c, four, sizeof(four))))
        return false;
    if (code) {
        end(c, false);
        return false;
    }
    c->state = GRANTED;
    seen.granted++;
    return true;
}

static bool answer(struct conn *c)
{
    const struct kind *k = c->kind;

    switch (k->how) {
    case REPLY:
        if (!k->delay)
            return reply(c, k->code);
        wait_for(c, now_ns() + k->delay * UINT64_C(1000000));
        return true;
    case TOLD:
    case SILENT:
        wait_for(c, 0);
        c->told = k->how == TOLD;
        return true;
    case GARBAGE:
        if (say(c, "HTTP/1.1 400 Bad Request\r\n\r\n", 28))
            end(c, false);
        return false;
    case ALIEN:
        if (say(c, (uint8_t[]){9, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 10))
            end(c, false);
        return false;
    case HALF:
        if (say(c, (uint8_t[]){c->version == 5 ? 5 : 0}, 1))
            end(c, false);
        return false;
    default:
        end(c, k->how == RST);
        return false;
    }
}

/* ---- requests ---- */

/* Takes one whole message from the front of the buffer. */
static void take(struct conn *c, size_t n)
{
    c->n -= n;
    memmove(c->buf, c->buf + n, c->n);
}

static bool ask(struct conn *c, size_t len, size_t port, bool six)
{
    c->port = (uint16_t)(c->buf[port] << 8 | c->buf[port + 1]);
    take(c, len);
    seen.requests++;
    seen.by_port[c->port]++;
    c->kind = &kinds[c->port >= FIRST_PORT ? (c->port - FIRST_PORT) % KINDS : 0];
    if (six && kind6)
        c->kind = kind6;
    return answer(c);
}

static bool greeting(struct conn *c, bool *ret_more)
{
    size_t len = 2 + (c->n > 1 ? c->buf[1] : 0u);
    bool open = true;

    *ret_more = c->n >= 2 && c->n >= len;
    if (!*ret_more)
        return true;
    take(c, len);
    open = say(c, (uint8_t[]){5, 0}, 2);
    if (open)
        c->state = REQUEST;
    return open;
}

static bool request5(struct conn *c, bool *ret_more)
{
    const uint8_t *b = c->buf;

    *ret_more = false;
    if (c->n < 5)
        return true;
    size_t address = b[3] == 1 ? 4 : b[3] == 4 ? 16 : 1u + b[4];
    size_t len = 4 + address + 2;
    if (c->n < len)
        return true;
    if (b[3] == 1)
        inet_ntop(AF_INET, b + 4, c->host, sizeof(c->host));
    else if (b[3] == 4) {
        c->host[0] = '[';
        inet_ntop(AF_INET6, b + 4, c->host + 1, sizeof(c->host) - 1);
        strcat(c->host, "]");
    } else
        strcpy(c->host, "name");
    *ret_more = true;
    return ask(c, len, 4 + address, b[3] == 4);
}

static bool request4(struct conn *c, bool *ret_more)
{
    const uint8_t *b = c->buf, *user = c->n > 8 ? memchr(b + 8, 0, c->n - 8) : NULL;

    *ret_more = user != NULL;
    if (!user)
        return true;
    inet_ntop(AF_INET, b + 4, c->host, sizeof(c->host));
    return ask(c, (size_t)(user + 1 - b), 2, false);
}

/* On a granted connection we are the destination. */
static bool serve_lines(struct conn *c)
{
    char text[sizeof(c->host) + 32];

    for (size_t i = 0; i < c->n; i++) {
        c->line++;
        if (c->buf[i] != '\n')
            continue;
        snprintf(text, sizeof(text), "%s:%u %u\n", c->host, c->port, c->line);
        c->line = 0;
        if (!say(c, text, strlen(text)))
            return false;
    }
    c->n = 0;
    return true;
}

/* All that can be understood of what has arrived. */
static bool understand(struct conn *c)
{
    bool open = true, more = c->n > 0;

    while (open && more) {
        if (c->state == GREETING && c->buf[0] == 4) {
            c->version = 4;
            c->state = REQUEST;
        }
        if (c->state == GREETING && c->buf[0] != 5) {
            end(c, true);
            return false;
        }
        if (c->state == GREETING) {
            c->version = 5;
            open = greeting(c, &more);
        } else if (c->state == REQUEST) {
            open = c->version == 5 ? request5(c, &more) : request4(c, &more);
        } else {
            if (c->state == GRANTED)
                open = serve_lines(c);
            more = false;
        }
        if (open && !c->n)
            more = false;
    }
    return open;
}

static void readable(struct conn *c)
{
    for (;;) {
        ssize_t n = recv(c->fd, c->buf + c->n, sizeof(c->buf) - c->n, MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        /* After its FIN a client of ours reads what is left; there is nothing left to say. */
        if (n <= 0) {
            end(c, n < 0);
            return;
        }
        c->n += (size_t)n;
        if (!understand(c))
            return;
        if (c->n == sizeof(c->buf)) {
            end(c, true);
            return;
        }
    }
}

/* ---- the control port ---- */

static uint64_t release(uint8_t code)
{
    uint64_t n = 0;

    for (struct conn *c = waiting, *next; c; c = next) {
        next = c->next;
        if (!c->told)
            continue;
        reply(c, code);
        n++;
    }
    return n;
}

static void controlled(void)
{
    char line[80], out[256];
    int fd = accept4(control, NULL, NULL, SOCK_CLOEXEC);
    struct timeval tv = {.tv_sec = 1};

    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    ssize_t n = recv(fd, line, sizeof(line) - 1, 0);
    line[n > 0 ? n : 0] = '\0';
    uint64_t value = UINT64_MAX;
    if (!strcmp(line, "open"))
        value = seen.open;
    else if (!strcmp(line, "peak"))
        value = seen.peak;
    else if (!strcmp(line, "total"))
        value = seen.total;
    else if (!strcmp(line, "requests"))
        value = seen.requests;
    else if (!strcmp(line, "waiting"))
        value = seen.waiting;
    else if (!strcmp(line, "granted"))
        value = seen.granted;
    else if (!strncmp(line, "port:", 5))
        value = seen.by_port[(uint16_t)atoi(line + 5)];
    else if (!strncmp(line, "release ", 8))
        value = release((uint8_t)atoi(line + 8));
    else if (!strcmp(line, "forget")) {
        seen.peak = seen.open;
        seen.total = seen.requests = value = 0;
        memset(seen.by_port, 0, sizeof(seen.by_port));
    }
    if (value != UINT64_MAX)
        snprintf(out, sizeof(out), "%" PRIu64 "\n", value);
    else
        snprintf(out, sizeof(out),
                 "open=%" PRIu64 " peak=%" PRIu64 " total=%" PRIu64 " requests=%" PRIu64
                 " waiting=%" PRIu64 " granted=%" PRIu64 "\n",
                 seen.open, seen.peak, seen.total, seen.requests, seen.waiting, seen.granted);
    write_all(fd, out, strlen(out));
    close(fd);
}

static int question(int argc, char **argv)
{
    struct target t = parse_target(argv[0], argv[1], false);
    char line[256] = "";
    size_t n = 0;

    for (int i = 2; i < argc; i++)
        n += (size_t)snprintf(line + n, sizeof(line) - n, "%s%s", i > 2 ? " " : "", argv[i]);
    alarm(20);
    int fd = connect_to(&t, false);
    if (fd < 0)
        die(3, "connect: %s", strerror(-fd));
    if (write_all(fd, line, n) < 0)
        die(3, "lost");
    ssize_t got = recv(fd, line, sizeof(line) - 1, MSG_WAITALL);
    if (got <= 0)
        die(3, "no answer");
    line[got] = '\0';
    fputs(line, stdout);
    return 0;
}

/* ---- the loop ---- */

static void watch(int fd, void *what)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = what};

    if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &ev) < 0)
        die(3, "epoll: %s", strerror(errno));
}

/* A reset is sent once, and what a flood drops of it, nobody repeats: then nobody answers here. */
static void set_keepalive(int fd)
{
    const int one = 1, idle_s = 5, interval_s = 1;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
}

static void accepted(void)
{
    for (int i = 0; i < BATCH; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0)
            return;
        struct conn *c = calloc(1, sizeof(*c));
        if (!c)
            die(3, "no memory");
        set_nodelay(fd);
        set_keepalive(fd);
        c->fd = fd;
        seen.open++;
        seen.total++;
        watch(fd, c);
    }
}

/* Without accepting: what the connections there are have to say. */
static bool connections(int timeout_ms, bool *ret_accept, bool *ret_control)
{
    static struct epoll_event events[BATCH];
    int n = epoll_wait(loop, events, BATCH, timeout_ms);

    for (int i = 0; i < n; i++) {
        void *what = events[i].data.ptr;

        if (what == &listener)
            *ret_accept = true;
        else if (what == &control)
            *ret_control = true;
        else if (what != &timer)
            readable(what);
    }
    return n == BATCH;
}

static void overdue(void)
{
    uint64_t now = now_ns();

    for (struct conn *c = waiting, *next; c; c = next) {
        next = c->next;
        if (c->due && c->due <= now)
            reply(c, c->kind->code);
    }
}

__attribute__((noreturn)) static void serve(char **argv)
{
    struct target t = parse_target(argv[0], argv[1], false);
    struct target ct = parse_target(argv[0], argv[2], false);
    /* Delays are as fine as this ticks. */
    struct itimerspec tick = {{0, 10000000}, {0, 10000000}};
    uint64_t ticks;

    raise_nofile();
    loop = epoll_create1(EPOLL_CLOEXEC);
    listener = listen_on(&t, false, false);
    control = listen_on(&ct, false, false);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    timerfd_settime(timer, 0, &tick, NULL);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    watch(listener, &listener);
    watch(control, &control);
    watch(timer, &timer);
    for (;;) {
        bool accept = false, asked = false, again;

        connections(-1, &accept, &asked);
        if (accept)
            accepted();
        /* Nothing is accepted here: an end that came before a beginning is seen before the peak. */
        do
            again = connections(0, &accept, &asked);
        while (again);
        if (seen.open > seen.peak)
            seen.peak = seen.open;
        if (read(timer, &ticks, sizeof(ticks)) == sizeof(ticks))
            overdue();
        if (asked)
            controlled();
    }
}

static void usage(void)
{
    die(2, "usage: verdicts serve [-6 KIND] ADDR PORT CONTROL-PORT\n"
           "       verdicts ask ADDR CONTROL-PORT QUESTION...");
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2)
        usage();
    const char *mode = argv[1];
    argv++;
    argc--;
    for (int c; (c = getopt(argc, argv, "+6:")) != -1;) {
        if (c != '6')
            usage();
        kind6 = &kinds[parse_count(optarg) % KINDS];
    }
    argc -= optind;
    argv += optind;
    if (!strcmp(mode, "serve") && argc == 3)
        serve(argv);
    if (!strcmp(mode, "ask") && argc >= 3)
        return question(argc, argv);
    usage();
}
