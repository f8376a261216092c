/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * connects: what connect() says, of many connections at once.
 *
 *     connects [options] ADDR PORT[-PORT]...
 *
 * Each connection is one line of output, "PORT RESULT MILLISECONDS", when it is decided; the time
 * is that of connect():
 *
 *     OK             connected, and the other end said that it is ADDR and PORT (see verdicts)
 *     WRONG          connected, and the other end is another one, or got other bytes
 *     mute           connected, and nothing came back within the time
 *     timeout        not connected within the time (-t); the connection was given up
 *     ECONNREFUSED … what connect() returned or SO_ERROR said
 *     lost=RST …     connected, and then lost: RST, FIN or an errno
 *
 * ECONNRESET of a connect() that does not block means connected and reset before we looked: no
 * answer to a SYN makes it.
 *
 *     -b           connect() blocks, one thread for each connection
 *     -c PARALLEL  at once (default: all)
 *     -n COUNT     so many, over the ports in turn (default: each port once)
 *     -t SECONDS   after which a connection is given up (default 60), -g MS likewise
 *     -r RETRIES   TCP_SYNCNT
 *     -M           ADDR is IPv4, the sockets are IPv6
 *     -P           MPTCP; -T BYTES  TCP Fast Open: the first line goes with the SYN, so long (not
 *                  with -b)
 *     -k           keeps the connections: "open N" when all are decided, then waits for SIGUSR1,
 * asks again on those that are OK, and prints a second line for each, "PORT again=RESULT" -q the
 * lines are summed up: "COUNT PORT RESULT"
 *
 * The exit status is 0 when it came to its end.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/epoll.h>

#include "net.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define BATCH      512
#define LINE_MAX_  1400 /* fits into a SYN */
#define PORTS_MAX  65536
#define RESULT_MAX 24

struct conn {
    int fd; /* -1: none (any more) */
    bool connecting, asked, kept;
    uint16_t port;
    uint32_t n; /* bytes of the answer */
    uint64_t begun, ms;
    char answer[96];
};

static struct {
    bool block, mapped, mptcp, keep, sum;
    unsigned parallel, fastopen;
    int retries;
    uint64_t count, timeout_ns;
    const char *addr;
} opt = {.timeout_ns = UINT64_C(60000000000)};

static uint16_t ports[PORTS_MAX];
static size_t n_ports;
static struct conn *conns;
static uint64_t begun, decided, kept;
static int loop;
static char line[LINE_MAX_ + 1];
static size_t line_len;
static volatile sig_atomic_t go_on;

/* ---- results ---- */

/* With -q: each different (port, result) and how often. */
static struct sum {
    uint16_t port;
    char result[RESULT_MAX];
    uint64_t n;
} * sums;
static size_t n_sums;

static void print(uint16_t port, const char *result, uint64_t ms)
{
    if (!opt.sum) {
        printf("%u %s %" PRIu64 "\n", port, result, ms);
        return;
    }
    for (size_t i = 0; i < n_sums; i++) {
        if (sums[i].port == port && !strcmp(sums[i].result, result)) {
            sums[i].n++;
            return;
        }
    }
    struct sum *more = realloc(sums, (n_sums + 1) * sizeof(*sums));
    if (!more)
        die(3, "no memory");
    sums = more;
    sums[n_sums] = (struct sum){.port = port, .n = 1};
    snprintf(sums[n_sums++].result, RESULT_MAX, "%s", result);
}

static const char *lost(int error)
{
    static __thread char text[RESULT_MAX];

    if (error == 0)
        return "lost=FIN";
    if (error == ECONNRESET || error == EPIPE)
        return "lost=RST";
    snprintf(text, sizeof(text), "lost=%s", strerrorname_np(error));
    return text;
}

static const char *judge(const struct conn *c)
{
    char want[128];

    snprintf(want, sizeof(want), strchr(opt.addr, ':') ? "[%s]:%u %zu\n" : "%s:%u %zu\n", opt.addr,
             c->port, line_len);
    return c->n == strlen(want) && !memcmp(want, c->answer, c->n) ? "OK" : "WRONG";
}

static uint64_t ms_since(uint64_t ns)
{
    return (now_ns() - ns) / 1000000;
}

/* ---- a socket, on its way ---- */

static struct target target_of(uint16_t port)
{
    char text[8];

    snprintf(text, sizeof(text), "%u", port);
    return parse_target(opt.addr, text, opt.mapped);
}

static int new_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | (opt.block ? 0 : SOCK_NONBLOCK),
                    opt.mptcp ? IPPROTO_MPTCP : 0);

    if (fd < 0)
        die(3, "socket: %s", strerror(errno));
    if (opt.retries)
        setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &opt.retries, sizeof(opt.retries));
    return fd;
}

/* Starts it; 0, -EINPROGRESS, or another negative errno. */
static int start(int fd, const struct target *t)
{
    if (opt.fastopen) {
        ssize_t n = sendto(fd, line, line_len, MSG_FASTOPEN | MSG_NOSIGNAL,
                           (const struct sockaddr *)&t->sa, t->len);

        return n < 0 ? -errno : 0;
    }
    return connect(fd, (const struct sockaddr *)&t->sa, t->len) < 0 ? -errno : 0;
}

/* ---- blocking: a thread each ---- */

static pthread_mutex_t printing = PTHREAD_MUTEX_INITIALIZER;

static void *block_one(void *arg)
{
    struct conn *c = arg;
    struct target t = target_of(c->port);
    int fd = new_socket(t.sa.ss_family);
    struct timeval tv = {.tv_sec = (time_t)(opt.timeout_ns / 1000000000)};
    uint64_t from = now_ns();
    const char *result;

    int rc = start(fd, &t);
    uint64_t ms = ms_since(from);
    if (rc == 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
        if (!opt.fastopen)
            rc = write_all(fd, line, line_len);
        while (rc == 0 && (c->n == 0 || c->answer[c->n - 1] != '\n') && c->n < sizeof(c->answer))
            rc = read_all(fd, c->answer + c->n++, 1);
        result = rc == 0 ? judge(c) : rc == -EAGAIN ? "mute" : lost(rc == -ENODATA ? 0 : -rc);
    } else {
        result = strerrorname_np(-rc);
    }
    pthread_mutex_lock(&printing);
    print(c->port, result, ms);
    pthread_mutex_unlock(&printing);
    close(fd);
    return NULL;
}

static void block_all(void)
{
    pthread_t *threads = calloc(opt.count, sizeof(*threads));

    if (!threads)
        die(3, "no memory");
    for (uint64_t i = 0; i < opt.count; i++) {
        conns[i].port = ports[i % n_ports];
        if (pthread_create(&threads[i], NULL, block_one, &conns[i]))
            die(3, "no thread");
    }
    for (uint64_t i = 0; i < opt.count; i++)
        pthread_join(threads[i], NULL);
}

/* ---- not blocking ---- */

/* A connection has its result: OK ones may be kept. */
static void decide(struct conn *c, const char *result)
{
    print(c->port, result, c->connecting ? ms_since(c->begun) : c->ms);
    decided++;
    if (opt.keep && !strcmp(result, "OK")) {
        c->kept = true;
        kept++;
        return;
    }
    close(c->fd);
    c->fd = -1;
}

static void ask(struct conn *c)
{
    c->n = 0;
    int rc = write_all(c->fd, line, line_len);
    if (rc < 0)
        decide(c, lost(-rc));
}

static void begin(struct conn *c, uint16_t port)
{
    struct target t = target_of(port);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};

    c->port = port;
    c->n = 0;
    c->connecting = true;
    c->fd = new_socket(t.sa.ss_family);
    c->begun = now_ns();
    begun++;
    int rc = start(c->fd, &t);
    c->asked = rc == 0 && opt.fastopen; /* else the SYN goes without: no cookie yet */
    if (rc && rc != -EINPROGRESS)
        decide(c, strerrorname_np(-rc));
    else if (epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &ev) < 0)
        die(3, "epoll: %s", strerror(errno));
}

/* An ICMP error to an IPv4 socket is EPOLLERR for a moment before it is an error of the socket. */
static void connected(struct conn *c, bool writable)
{
    int error = 0;
    socklen_t len = sizeof(error);

    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (!error && !writable)
        return;
    c->ms = ms_since(c->begun);
    c->connecting = false;
    if (error)
        decide(c, error == ECONNRESET ? lost(error) : strerrorname_np(error));
    else if (!c->asked)
        ask(c);
}

/* What has arrived of the answer. */
static void answered(struct conn *c)
{
    while (c->n < sizeof(c->answer)) {
        ssize_t n = recv(c->fd, c->answer + c->n, sizeof(c->answer) - c->n, 0);

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            decide(c, lost(n < 0 ? errno : 0));
            return;
        }
        c->n += (uint32_t)n;
        if (c->answer[c->n - 1] == '\n')
            break;
    }
    decide(c, judge(c));
}

static void happened(struct conn *c, uint32_t events)
{
    if (c->fd < 0 || c->kept)
        return;
    if (c->connecting && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        connected(c, events & EPOLLOUT);
    if (c->fd >= 0 && !c->connecting && !c->kept && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        answered(c);
}

static void give_up(struct conn *c, uint64_t now)
{
    if (c->fd >= 0 && !c->kept && now - c->begun > opt.timeout_ns)
        decide(c, c->connecting ? "timeout" : "mute");
}

static void all(void)
{
    struct epoll_event events[BATCH];
    uint64_t looked = 0;

    loop = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < opt.parallel; i++)
        begin(&conns[i], ports[begun % n_ports]);
    while (decided < opt.count) {
        int n = epoll_wait(loop, events, BATCH, 20);
        uint64_t now = now_ns();

        for (int i = 0; i < n; i++)
            happened(events[i].data.ptr, events[i].events);
        if (now - looked > 20000000) {
            looked = now;
            for (unsigned i = 0; i < opt.parallel; i++)
                give_up(&conns[i], now);
        }
        for (unsigned i = 0; i < opt.parallel && begun < opt.count; i++)
            if (conns[i].fd < 0 && begun - decided < opt.parallel)
                begin(&conns[i], ports[begun % n_ports]);
    }
}

/* ---- -k ---- */

static void on_signal(int number)
{
    (void)number;
    go_on = 1;
}

static void again(void)
{
    sigset_t none, usr1;
    struct timeval tv = {.tv_sec = 20};

    printf("open %" PRIu64 "\n", kept);
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    while (!go_on)
        sigsuspend(&none);
    for (uint64_t i = 0; i < opt.parallel; i++) {
        struct conn *c = &conns[i];

        if (!c->kept)
            continue;
        fcntl(c->fd, F_SETFL, 0);
        setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
        c->n = 0;
        int rc = write_all(c->fd, line, line_len);
        while (rc == 0 && (c->n == 0 || c->answer[c->n - 1] != '\n') && c->n < sizeof(c->answer))
            rc = read_all(c->fd, c->answer + c->n++, 1);
        printf("%u again=%s\n", c->port,
               rc == 0         ? judge(c)
               : rc == -EAGAIN ? "mute"
                               : lost(rc == -ENODATA ? 0 : -rc));
    }
}

static void add_ports(const char *text)
{
    char *end;
    unsigned long a = strtoul(text, &end, 10), b = *end == '-' ? strtoul(end + 1, &end, 10) : a;

    if (*end || a < 1 || b > 65535 || a > b)
        die(2, "not PORT or PORT-PORT: %s", text);
    for (; a <= b && n_ports < PORTS_MAX; a++)
        ports[n_ports++] = (uint16_t)a;
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_signal};
    sigset_t usr1;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGUSR1, &sa, NULL);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    raise_nofile();
    for (int c; (c = getopt(argc, argv, "bc:n:t:g:r:MPT:kq")) != -1;) {
        switch (c) {
        case 'b':
            opt.block = true;
            break;
        case 'c':
            opt.parallel = (unsigned)parse_count(optarg);
            break;
        case 'n':
            opt.count = parse_count(optarg);
            break;
        case 't':
            opt.timeout_ns = parse_count(optarg) * 1000000000;
            break;
        case 'g':
            opt.timeout_ns = parse_count(optarg) * 1000000;
            break;
        case 'r':
            opt.retries = (int)parse_count(optarg);
            break;
        case 'M':
            opt.mapped = true;
            break;
        case 'P':
            opt.mptcp = true;
            break;
        case 'T':
            opt.fastopen = (unsigned)parse_count(optarg);
            break;
        case 'k':
            opt.keep = true;
            break;
        case 'q':
            opt.sum = true;
            break;
        default:
            die(2, "usage: connects [-bMPkq] [-c PARALLEL] [-n COUNT] [-t SECONDS | -g MS] "
                   "[-r RETRIES] [-T BYTES] ADDR PORT[-PORT]...");
        }
    }
    if (argc - optind < 2)
        die(2, "connects: ADDR PORT...");
    opt.addr = argv[optind];
    for (int i = optind + 1; i < argc; i++)
        add_ports(argv[i]);
    if (!opt.count)
        opt.count = n_ports;
    if (!opt.parallel || opt.parallel > opt.count || opt.keep)
        opt.parallel = (unsigned)opt.count;
    line_len = opt.fastopen >= 2 && opt.fastopen <= LINE_MAX_ ? opt.fastopen : 2;
    memset(line, '?', line_len);
    line[line_len - 1] = '\n';
    conns = calloc(opt.block ? opt.count : opt.parallel, sizeof(*conns));
    if (!conns)
        die(3, "no memory");
    for (unsigned i = 0; !opt.block && i < opt.parallel; i++)
        conns[i].fd = -1;
    if (opt.block)
        block_all();
    else
        all();
    for (size_t i = 0; i < n_sums; i++)
        printf("%" PRIu64 " %u %s\n", sums[i].n, sums[i].port, sums[i].result);
    if (opt.keep)
        again();
    return 0;
}
