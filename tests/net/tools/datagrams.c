/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * datagrams: UDP of the shapes a redirector meets, and one JSON line of figures for each run.
 *
 *     datagrams server [-S] ADDR PORT
 *     datagrams flood  [-c SENDERS] [-s BYTES] [-R PER-SECOND] [-T SECONDS]  ADDR PORT
 *     datagrams echo   [-c SENDERS] [-s BYTES] [-T SECONDS]                  ADDR PORT
 *
 * flood sends at a fixed rate, of all senders (sockets) together, whether or not it arrives, and
 * then asks the server what did: of the datagrams of this run, how many, and when the first and the
 * last of them came. So what is reported is what was delivered by the server's clock, and no queue
 * on the way counts as delivered. echo has one datagram under way on each socket.
 *
 * With -S the server is the relay of a SOCKS5 server (`load server -S` on the same port grants the
 * association): each datagram has the SOCKS5 header, and what is answered keeps it, so that the
 * server answers in the name of whoever was asked. With -x HOST:PORT the client speaks SOCKS5
 * itself, with an association for each socket.
 *
 * Each datagram begins with a struct head: what the server is to do with it, and the run it is of.
 */
#include <getopt.h>
#include <inttypes.h>
#include <sys/random.h>

#include "net.h"

#define BATCH      64
#define SENDERS    256
#define DATAGRAM   2048
#define RUNS       64
#define SOCKS_HEAD 10 /* of an IPv4 destination */
#define MAGIC      0x75736b64u
#define LOST_MS    200 /* an echo that has not come back by then never will */
#define QUEUE      (8 << 20)

enum { SILENT, ECHO, REPORT };

struct head {
    uint32_t magic, op;
    uint64_t run, number;              /* of the client's choice */
    uint64_t count, first_ns, last_ns; /* in the answer to REPORT */
};

static struct {
    unsigned senders, size;
    double seconds, rate;
    bool socks_server, socks;
    struct target proxy, target;
} opt = {.senders = 8, .size = 64, .seconds = 1, .rate = 10000};

struct batch {
    struct mmsghdr m[BATCH];
    struct iovec v[BATCH];
    struct sockaddr_storage from[BATCH];
    uint8_t data[BATCH][DATAGRAM];
};

static struct batch batch;

static void queues(int fd)
{
    int size = QUEUE;

    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
}

static int receive(int fd, struct batch *b, int flags)
{
    for (int i = 0; i < BATCH; i++) {
        b->v[i] = (struct iovec){b->data[i], DATAGRAM};
        b->m[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
                                          .msg_namelen = sizeof(b->from[i]),
                                          .msg_iov = &b->v[i],
                                          .msg_iovlen = 1};
    }
    return recvmmsg(fd, b->m, BATCH, flags, NULL);
}

/* --- the server ------------------------------------------------------------------------------ */

/* What came of a run; the place of the oldest run is given to a new one. */
static struct head *find_run(uint64_t run)
{
    static struct head runs[RUNS];
    static unsigned next;

    for (unsigned i = 0; i < RUNS; i++)
        if (runs[i].run == run)
            return &runs[i];
    struct head *r = &runs[next++ % RUNS];

    *r = (struct head){.run = run};
    return r;
}

/* True: the datagram goes back as it is now. */
static bool take(uint8_t *data, size_t len, uint64_t now)
{
    size_t skip = opt.socks_server ? SOCKS_HEAD : 0;
    struct head h;

    if (len < skip + sizeof(h) || (skip && (data[2] != 0 || data[3] != 1)))
        return false;
    memcpy(&h, data + skip, sizeof(h));
    if (h.magic != MAGIC)
        return false;
    if (h.op == ECHO)
        return true;
    struct head *r = find_run(h.run);

    if (h.op == REPORT) {
        h.count = r->count;
        h.first_ns = r->first_ns;
        h.last_ns = r->last_ns;
        memcpy(data + skip, &h, sizeof(h));
        return true;
    }
    if (r->count++ == 0)
        r->first_ns = now;
    r->last_ns = now;
    return false;
}

static int run_server(void)
{
    int fd = socket(opt.target.sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&opt.target.sa, opt.target.len) < 0)
        die(3, "bind: %s", strerror(errno));
    queues(fd);
    for (;;) {
        int n = receive(fd, &batch, MSG_WAITFORONE), back = 0;
        uint64_t now = now_ns();

        for (int i = 0; i < n; i++) {
            if (!take(batch.data[i], batch.m[i].msg_len, now))
                continue;
            batch.v[i].iov_len = batch.m[i].msg_len;
            batch.m[back++].msg_hdr = batch.m[i].msg_hdr;
        }
        for (int sent = 0; sent < back;) {
            int r = sendmmsg(fd, batch.m + sent, (unsigned)(back - sent), 0);

            sent += r > 0 ? r : 1; /* that one cannot be sent */
        }
    }
}

/* --- the senders ----------------------------------------------------------------------------- */

struct sender {
    int fd, control; /* the second one only with -x */
    uint64_t sent_ns, number;
};

static struct sender senders[SENDERS];
static uint64_t run_id, failed; /* failed: system calls */
static int last_error;

static void note(int error)
{
    if (error == EAGAIN)
        return;
    failed++;
    last_error = error;
}

/* The relay's address, of a new association. */
static struct target associate(int *ret_control)
{
    static const uint8_t request[] = {5, 3, 0, 1, 0, 0, 0, 0, 0, 0};
    int fd = connect_to(&opt.proxy, false);
    struct target relay = opt.proxy;
    uint8_t b[10];

    if (fd < 0 || write_all(fd, "\x05\x01\x00", 3) < 0 || read_all(fd, b, 2) < 0 || b[1] != 0 ||
        write_all(fd, request, sizeof(request)) < 0 || read_all(fd, b, 10) < 0 || b[1] != 0 ||
        b[3] != 1)
        die(3, "no association");
    struct sockaddr_in *in = (void *)&relay.sa;

    if (memcmp(b + 4, "\0\0\0\0", 4) != 0)
        memcpy(&in->sin_addr, b + 4, 4);
    memcpy(&in->sin_port, b + 8, 2);
    *ret_control = fd;
    return relay;
}

/* A datagram into the first place or another of the batch. */
static size_t fill(unsigned i, uint32_t op, uint64_t number)
{
    const struct sockaddr_in *in = (const void *)&opt.target.sa;
    const struct head h = {.magic = MAGIC, .op = op, .run = run_id, .number = number};
    size_t skip = opt.socks ? SOCKS_HEAD : 0;
    uint8_t *p = batch.data[i];

    if (skip) {
        memcpy(p, "\0\0\0\1", 4);
        memcpy(p + 4, &in->sin_addr, 4);
        memcpy(p + 8, &in->sin_port, 2);
    }
    memcpy(p + skip, &h, sizeof(h));
    return skip + opt.size;
}

/* Takes what has come; true when it is the answer to this. */
static bool answered(int fd, uint32_t op, uint64_t number, struct head *ret)
{
    size_t skip = opt.socks ? SOCKS_HEAD : 0;
    uint8_t data[DATAGRAM];
    ssize_t n;

    while ((n = recv(fd, data, sizeof(data), MSG_DONTWAIT)) != -1 || errno != EAGAIN) {
        if (n < 0)
            note(errno);
        if (n < (ssize_t)(skip + sizeof(*ret)))
            continue;
        memcpy(ret, data + skip, sizeof(*ret));
        if (ret->magic == MAGIC && ret->op == op && ret->run == run_id && ret->number == number)
            return true;
    }
    return false;
}

/* Asks until there is an answer; false: there is none, for as long as anybody should wait. */
static bool ask(struct sender *s, uint32_t op, struct head *ret)
{
    for (unsigned i = 0; i < 25; i++) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        size_t len = fill(0, op, ++s->number);

        if (send(s->fd, batch.data[0], len, 0) < 0)
            note(errno);
        for (uint64_t until = now_ns() + LOST_MS * UINT64_C(1000000); now_ns() < until;)
            if (poll(&p, 1, LOST_MS) > 0 && answered(s->fd, op, s->number, ret))
                return true;
    }
    return false;
}

/* The sockets, each with its way to the server open before anything is counted. */
static void open_senders(void)
{
    struct head h;

    if (getrandom(&run_id, sizeof(run_id), 0) != sizeof(run_id))
        die(3, "getrandom: %s", strerror(errno));
    for (unsigned i = 0; i < opt.senders; i++) {
        struct sender *s = &senders[i];
        struct target to = opt.socks ? associate(&s->control) : opt.target;

        s->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&to.sa, to.len) < 0)
            die(3, "socket: %s", strerror(errno));
        queues(s->fd);
        if (!ask(s, ECHO, &h)) {
            printf("{\"done\": 0, \"errors\": {\"nothing comes back: %s\": 1}}\n",
                   last_error ? strerrorname_np(last_error) : "no answer");
            exit(1);
        }
    }
    failed = 0;
}

static void print_errors(uint64_t lost)
{
    printf("\"errors\": {");
    if (failed)
        printf("\"%s\": %" PRIu64, strerrorname_np(last_error), failed);
    if (lost)
        printf("%s\"lost\": %" PRIu64, failed ? ", " : "", lost);
    printf("}}\n");
}

/* --- flood ----------------------------------------------------------------------------------- */

/* `n` datagrams on one socket; how many were sent. */
static unsigned burst(struct sender *s, unsigned n)
{
    int r = sendmmsg(s->fd, batch.m, n, 0);

    if (r < 0)
        note(errno);
    return r > 0 ? (unsigned)r : 0;
}

/* What the server has of this run, when nothing more of it comes. */
static bool settle(struct head *ret)
{
    struct head before = {.count = UINT64_MAX};

    for (unsigned i = 0; i < 50; i++) {
        if (!ask(&senders[0], REPORT, ret))
            return false;
        if (ret->count == before.count)
            return true;
        before = *ret;
        sleep_us(30000);
    }
    return false;
}

static int run_flood(void)
{
    uint64_t sent = 0;
    struct head h;

    open_senders();
    for (unsigned i = 0; i < BATCH; i++) {
        batch.v[i] = (struct iovec){batch.data[i], fill(i, SILENT, 0)};
        batch.m[i].msg_hdr = (struct msghdr){.msg_iov = &batch.v[i], .msg_iovlen = 1};
    }
    uint64_t began = now_ns(), end = began + (uint64_t)(opt.seconds * 1e9), now;

    for (unsigned i = 0; (now = now_ns()) < end; i++) {
        double due = opt.rate * (double)(now - began) / 1e9 - (double)sent;

        if (due < 1) {
            sleep_us(200);
            continue;
        }
        /* Small bursts, so that at a moderate rate all senders have a share in each moment. */
        sent += burst(&senders[i % opt.senders], due < 16 ? (unsigned)due : 16);
    }
    double took = (double)(now - began) / 1e9;

    if (!settle(&h)) {
        printf("{\"done\": 0, \"errors\": {\"no report: %s\": 1}}\n",
               last_error ? strerrorname_np(last_error) : "no answer");
        return 1;
    }
    double span = (double)(h.last_ns - h.first_ns) / 1e9;

    if (span < took) /* what was lost at the ends was time, too */
        span = took;
    printf("{\"done\": %" PRIu64 ", \"sent\": %" PRIu64 ", \"sent_per_second\": %.1f, "
           "\"per_second\": %.1f, \"lost_percent\": %.4f, ",
           h.count, sent, (double)sent / took, (double)h.count / span,
           sent ? 100.0 * (double)(sent - (h.count < sent ? h.count : sent)) / (double)sent : 0);
    print_errors(0);
    return failed > 0;
}

/* --- echo ------------------------------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void send_echo(struct sender *s)
{
    size_t len = fill(0, ECHO, ++s->number);

    s->sent_ns = now_ns();
    if (send(s->fd, batch.data[0], len, 0) < 0)
        note(errno);
}

static int run_echo(void)
{
    static struct pollfd p[SENDERS];
    size_t room = 1u << 22, done = 0;
    uint64_t *took = malloc(room * sizeof(*took)), lost = 0;
    struct head h;

    if (!took)
        die(3, "malloc");
    open_senders();
    uint64_t began = now_ns(), end = began + (uint64_t)(opt.seconds * 1e9), now;

    for (unsigned i = 0; i < opt.senders; i++) {
        p[i] = (struct pollfd){.fd = senders[i].fd, .events = POLLIN};
        send_echo(&senders[i]);
    }
    while ((now = now_ns()) < end && done < room) {
        poll(p, opt.senders, LOST_MS / 4);
        for (unsigned i = 0; i < opt.senders && done < room; i++) {
            struct sender *s = &senders[i];

            if (p[i].revents && answered(s->fd, ECHO, s->number, &h)) {
                took[done++] = now_ns() - s->sent_ns;
                send_echo(s);
            } else if (now_ns() - s->sent_ns > LOST_MS * UINT64_C(1000000)) {
                lost++;
                send_echo(s);
            }
        }
    }
    double seconds = (double)(now_ns() - began) / 1e9;

    qsort(took, done, sizeof(*took), compare);
    printf("{\"done\": %zu, \"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, ", done,
           (double)done / seconds, done ? (double)took[done / 2] / 1e3 : 0,
           done ? (double)took[done - 1 - done / 100] / 1e3 : 0);
    print_errors(lost);
    free(took);
    return failed + lost > 0;
}

int main(int argc, char **argv)
{
    int c;

    if (argc < 2)
        die(2, "usage: datagrams server|flood|echo [OPTIONS] ADDR PORT");
    const char *what = argv[1];

    optind = 2;
    while ((c = getopt(argc, argv, "Sc:s:R:T:x:")) != -1) {
        switch (c) {
        case 'S':
            opt.socks_server = true;
            break;
        case 'c':
            opt.senders = (unsigned)parse_count(optarg);
            break;
        case 's':
            opt.size = (unsigned)parse_count(optarg);
            break;
        case 'R':
            opt.rate = (double)parse_count(optarg);
            break;
        case 'T':
            opt.seconds = strtod(optarg, NULL);
            break;
        case 'x':
            opt.socks = true;
            opt.proxy = parse_hostport(optarg);
            break;
        default:
            return 2;
        }
    }
    if (argc - optind != 2 || opt.senders < 1 || opt.senders > SENDERS ||
        opt.size < sizeof(struct head) || opt.size > DATAGRAM - SOCKS_HEAD)
        die(2, "datagrams: ADDR PORT, 1 to %d senders, %zu bytes at least", SENDERS,
            sizeof(struct head));
    opt.target = parse_target(argv[optind], argv[optind + 1], false);
    if (strcmp(what, "server") == 0)
        return run_server();
    if (strcmp(what, "flood") == 0)
        return run_flood();
    if (strcmp(what, "echo") == 0)
        return run_echo();
    die(2, "datagrams: no %s", what);
}
