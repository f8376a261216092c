/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * end: how a stream ends, seen from both sides.
 *
 *     end serve ADDR PORT
 *     end MODE [options] ADDR PORT [BYTES]
 *
 * The client's first line tells the server which end to play. Both print one line with what they
 * saw: how many bytes and then FIN, RST (ECONNRESET), another error, or nothing until the timeout.
 * Modes, in the client's words:
 *
 *     client-fin       BYTES up, FIN; the server answers BYTES only after it has seen the FIN
 *     server-fin       BYTES down, FIN; the client sends BYTES only after it has seen the FIN
 *     client-rst       BYTES up, acknowledged by one byte, then RST
 *     server-rst       BYTES down, acknowledged by one byte, then RST
 *     client-fin-server-rst   BYTES up, FIN; the server answers BYTES, then RST
 *     server-fin-client-rst   BYTES down, FIN; the client sends BYTES, then RST
 *     server-unread    the server closes with BYTES unread: the kernel makes that a RST
 *     client-exit      BYTES up, then the client only exits: an ordinary close is a FIN
 *     server-close     the server closes at once, both ways: FIN to the client
 *
 * The client exits with 0 when it saw what the mode promises; the server's line carries saw=
 * likewise, under the client's -i ID.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>

#include "net.h"

struct seen {
    uint64_t bytes;
    int error; /* 0: FIN; EAGAIN: nothing until the timeout; otherwise errno */
};

static unsigned timeout_s = 10;
static __thread unsigned delay_ms; /* the server has one per connection */

static void set_timeout(int fd)
{
    struct timeval tv = {.tv_sec = timeout_s};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static const char *seen_text(const struct seen *s)
{
    if (s->error == 0)
        return "FIN";
    if (s->error == EAGAIN)
        return "timeout";
    return s->error == ECONNRESET ? "RST" : strerrorname_np(s->error);
}

/* Reads until the stream ends. */
static struct seen drain(int fd)
{
    static __thread uint8_t buf[65536];
    struct seen s = {0};
    for (;;) {
        ssize_t n = recv(fd, buf, sizeof(buf), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            s.error = errno;
        if (n <= 0)
            return s;
        s.bytes += (uint64_t)n;
    }
}

static int send_bytes(int fd, uint64_t bytes)
{
    static const uint8_t buf[65536];
    while (bytes) {
        size_t n = bytes < sizeof(buf) ? bytes : sizeof(buf);
        int rc = write_all(fd, buf, n);
        if (rc < 0)
            return rc;
        bytes -= n;
    }
    return 0;
}

static int recv_bytes(int fd, uint64_t bytes)
{
    uint8_t buf[65536];
    while (bytes) {
        size_t n = bytes < sizeof(buf) ? bytes : sizeof(buf);
        int rc = read_all(fd, buf, n);
        if (rc < 0)
            return rc;
        bytes -= n;
    }
    return 0;
}

/* The side that resets waits for the acknowledging byte: a RST may overtake unread bytes. */
static struct seen reset_after(int fd, uint64_t bytes)
{
    uint8_t ack;
    int rc = send_bytes(fd, bytes);
    if (rc == 0)
        rc = read_all(fd, &ack, 1);
    sleep_us(delay_ms * 1000ul);
    set_reset(fd);
    return (struct seen){.bytes = rc == 0, .error = rc < 0 ? -rc : 0};
}

/* The other side of it. */
static struct seen acknowledge_and_drain(int fd, uint64_t bytes)
{
    int rc = recv_bytes(fd, bytes);
    if (rc == 0)
        rc = write_all(fd, "A", 1);
    if (rc < 0)
        return (struct seen){.error = rc == -ENODATA ? 0 : -rc};
    struct seen s = drain(fd);
    s.bytes += bytes;
    return s;
}

static struct seen fin_then_drain(int fd, uint64_t bytes)
{
    int rc = send_bytes(fd, bytes);
    if (rc < 0)
        return (struct seen){.error = -rc};
    shutdown(fd, SHUT_WR);
    return drain(fd);
}

/* FIN first, then the peer resets: the bytes in between are read one count, acknowledged never. */
static struct seen drain_then_send(int fd, uint64_t bytes, bool reset)
{
    struct seen s = drain(fd);
    if (s.error)
        return s;
    sleep_us(delay_ms * 1000ul);
    int rc = send_bytes(fd, bytes);
    if (rc < 0)
        s.error = -rc;
    if (reset) {
        /* Long enough for the bytes to be on their way; the RST is what the mode is about. */
        sleep_us(300000);
        set_reset(fd);
    }
    return s;
}

static void *serve_one(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char line[160], mode[40], id[40], peer[80];
    uint64_t bytes;
    unsigned delay;
    size_t n = 0;
    struct seen s = {0};

    set_timeout(fd);
    set_nodelay(fd);
    format_peer(fd, peer, sizeof(peer));
    while (n < sizeof(line) - 1) {
        if (read_all(fd, line + n, 1) < 0)
            goto out;
        if (line[n++] == '\n')
            break;
    }
    line[n] = '\0';
    if (sscanf(line, "%39s %" SCNu64 " %39s %u", mode, &bytes, id, &delay) != 4) {
        printf("serve peer=%s header=wrong\n", peer);
        goto out;
    }
    delay_ms = delay;
    if (!strcmp(mode, "client-fin"))
        s = drain_then_send(fd, bytes, false);
    else if (!strcmp(mode, "server-fin"))
        s = fin_then_drain(fd, bytes);
    else if (!strcmp(mode, "client-rst"))
        s = acknowledge_and_drain(fd, bytes);
    else if (!strcmp(mode, "server-rst"))
        s = reset_after(fd, bytes);
    else if (!strcmp(mode, "client-fin-server-rst"))
        s = drain_then_send(fd, bytes, true);
    else if (!strcmp(mode, "server-fin-client-rst"))
        s = fin_then_drain(fd, bytes);
    else if (!strcmp(mode, "client-exit"))
        s = drain(fd);
    else if (!strcmp(mode, "server-unread")) {
        int rc = write_all(fd, "A", 1);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        poll(&p, 1, (int)timeout_s * 1000);
        s.error = rc < 0 ? -rc : 0;
    }
    printf("serve id=%s mode=%s got=%" PRIu64 " saw=%s peer=%s\n", id, mode, s.bytes, seen_text(&s),
           peer);
out:
    close(fd);
    return NULL;
}

__attribute__((noreturn)) static void serve(char **argv)
{
    struct target t = parse_target(argv[0], argv[1], false);
    int fd = listen_on(&t, false, false);
    for (;;) {
        pthread_t thread;
        int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (conn < 0)
            continue;
        if (pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)conn))
            close(conn);
        else
            pthread_detach(thread);
    }
}

static const char *const modes[] = {"client-fin",
                                    "server-fin",
                                    "client-rst",
                                    "server-rst",
                                    "client-fin-server-rst",
                                    "server-fin-client-rst",
                                    "server-unread",
                                    "client-exit",
                                    "server-close",
                                    NULL};

static void usage(void)
{
    fprintf(stderr, "usage: end serve ADDR PORT\n"
                    "       end MODE [-M] [-i ID] [-d DELAY-MS] [-t SECONDS] [-x SOCKS] ADDR PORT "
                    "[BYTES]\nmodes:");
    for (int i = 0; modes[i]; i++)
        fprintf(stderr, " %s", modes[i]);
    die(2, "%s", "");
}

int main(int argc, char **argv)
{
    const char *id = "-", *socks = NULL;
    bool mapped = false, known = false;
    char line[160], peer[80];
    int c, rc = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2)
        usage();
    const char *mode = argv[1];
    argv++;
    argc--;
    while ((c = getopt(argc, argv, "Mi:d:t:x:")) != -1) {
        switch (c) {
        case 'M':
            mapped = true;
            break;
        case 'i':
            id = optarg;
            break;
        case 'd':
            delay_ms = (unsigned)parse_count(optarg);
            break;
        case 't':
            timeout_s = (unsigned)parse_count(optarg);
            break;
        case 'x':
            socks = optarg;
            break;
        default:
            usage();
        }
    }
    argc -= optind;
    argv += optind;
    if (argc < 2)
        usage();
    if (!strcmp(mode, "serve"))
        serve(argv);
    for (int i = 0; modes[i]; i++)
        known |= !strcmp(mode, modes[i]);
    if (!known)
        usage();

    uint64_t bytes = argc > 2 ? parse_count(argv[2]) : 100000;
    struct target t = parse_target(argv[0], argv[1], mapped);
    struct target first = socks ? parse_hostport(socks) : t;
    int fd = connect_to(&first, false);
    if (fd >= 0 && socks)
        rc = socks5_connect(fd, &t, NULL, NULL);
    if (fd < 0 || rc) {
        printf("%s connect=%s\n", mode, fd < 0 ? strerrorname_np(-fd) : "socks");
        return 3;
    }
    set_timeout(fd);
    set_nodelay(fd);
    format_peer(fd, peer, sizeof(peer));
    snprintf(line, sizeof(line), "%s %" PRIu64 " %s %u\n", mode, bytes, id, delay_ms);
    rc = write_all(fd, line, strlen(line));

    struct seen s = {0};
    uint64_t want = 0;
    int want_error = 0;
    if (!strcmp(mode, "client-fin")) {
        s = fin_then_drain(fd, bytes);
        want = bytes;
    } else if (!strcmp(mode, "server-fin")) {
        s = drain_then_send(fd, bytes, false);
        want = bytes;
    } else if (!strcmp(mode, "client-rst")) {
        s = reset_after(fd, bytes);
        want = 1;
    } else if (!strcmp(mode, "server-rst")) {
        s = acknowledge_and_drain(fd, bytes);
        want = bytes;
        want_error = ECONNRESET;
    } else if (!strcmp(mode, "client-fin-server-rst")) {
        s = fin_then_drain(fd, bytes);
        want = bytes;
        want_error = ECONNRESET;
    } else if (!strcmp(mode, "server-fin-client-rst")) {
        s = drain_then_send(fd, bytes, true);
        want = bytes;
    } else if (!strcmp(mode, "server-unread")) {
        uint8_t ack;
        rc = read_all(fd, &ack, 1);
        if (rc == 0)
            rc = send_bytes(fd, bytes);
        s = drain(fd);
        want_error = ECONNRESET;
        /* The RST may already have met the sending side. */
        if (rc == -EPIPE || rc == -ECONNRESET)
            s.error = ECONNRESET;
    } else if (!strcmp(mode, "client-exit")) {
        rc = send_bytes(fd, bytes);
        s.error = rc < 0 ? -rc : 0;
    } else {
        s = drain(fd);
    }
    bool good = s.bytes == want && s.error == want_error;
    printf("%s %s id=%s got=%" PRIu64 " saw=%s want=%" PRIu64 ",%s peer=%s\n", mode,
           good ? "good" : "BAD", id, s.bytes, seen_text(&s), want, want_error ? "RST" : "FIN",
           peer);
    close(fd);
    return good ? 0 : 1;
}
