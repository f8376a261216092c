/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pattern: bytes whose value depends on their offset, sent and checked to the last one.
 *
 *     pattern serve [-B] [-V] ADDR PORT
 *     pattern send|recv|both [options] ADDR PORT BYTES
 *
 * The client's header says how many bytes go each way; both directions run at once. The client
 * half-closes after its last byte and keeps receiving; the server checks that the FIN comes exactly
 * there, and after its own bytes adds a trailer that says what it received. So one exit status
 * covers both directions. A lost, doubled, moved or altered byte fails at its offset.
 *
 * Each connection has its own seed: bytes of another flow do not pass either.
 */
#include <endian.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>

#include "net.h"

#define CHUNK  (256u << 10)
#define MAGIC  0x4e52455454415055u
#define BANNER "PATTERN READY\r\n"

enum { FLAG_NO_HALF_CLOSE = 1 };

struct header {
    uint64_t magic, seed, up, down, flags;
};

/* bad is the offset of the first wrong byte, or UINT64_MAX. */
struct trailer {
    uint64_t magic, received, bad, fin_seen;
};

struct options {
    bool banner, mapped, v6only, no_half_close, stop;
    uint32_t write_max, read_max, pause_us;
    unsigned timeout, rcvbuf;
    uint64_t seed;
    const char *socks;
};

struct stream {
    int fd;
    uint64_t seed, bytes, done, bad;
    uint32_t piece_max, pause_us;
    bool fin_seen, want_fin;
    int error;
};

static struct options opt;

static uint64_t word_at(uint64_t seed, uint64_t index)
{
    uint64_t x = (index + seed) * 0x9e3779b97f4a7c15u;
    return htole64(x ^ (x >> 29));
}

/* buf receives the bytes [offset, offset + len). */
static void fill(uint8_t *buf, uint64_t seed, uint64_t offset, size_t len)
{
    while (len) {
        size_t skip = offset & 7;
        if (skip || len < 8) {
            uint64_t w = word_at(seed, offset >> 3);
            size_t n = 8 - skip < len ? 8 - skip : len;
            memcpy(buf, (uint8_t *)&w + skip, n);
            buf += n;
            offset += n;
            len -= n;
            continue;
        }
        size_t words = len >> 3;
        uint64_t index = offset >> 3;
        for (size_t i = 0; i < words; i++) {
            uint64_t w = word_at(seed, index + i);
            memcpy(buf + i * 8, &w, 8);
        }
        buf += words * 8;
        offset += words * 8;
        len -= words * 8;
    }
}

/* The offset of the first byte that differs, or UINT64_MAX. */
static uint64_t verify(const uint8_t *buf, uint64_t seed, uint64_t offset, size_t len)
{
    while (len) {
        size_t skip = offset & 7;
        size_t words = skip ? 0 : len >> 3;
        uint64_t index = offset >> 3, diff = 0, w, got;
        size_t n = words * 8;

        for (size_t i = 0; i < words; i++) {
            memcpy(&got, buf + i * 8, 8);
            diff |= got ^ word_at(seed, index + i);
        }
        if (!words || diff) {
            n = n ? n : (8 - skip < len ? 8 - skip : len);
            for (size_t i = 0; i < n; i++) {
                w = word_at(seed, (offset + i) >> 3);
                if (buf[i] != ((uint8_t *)&w)[(offset + i) & 7])
                    return offset + i;
            }
        }
        buf += n;
        offset += n;
        len -= n;
    }
    return UINT64_MAX;
}

static uint32_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 32);
}

static size_t piece(uint32_t max, uint64_t *state)
{
    return max ? 1 + next_random(state) % max : CHUNK;
}

static void *send_stream(void *arg)
{
    struct stream *s = arg;
    uint64_t state = s->seed | 1;
    uint8_t *buf = malloc(CHUNK);

    if (!buf) {
        s->error = ENOMEM;
        return NULL;
    }
    while (s->done < s->bytes) {
        size_t n = piece(s->piece_max, &state);
        if (n > CHUNK)
            n = CHUNK;
        if (n > s->bytes - s->done)
            n = s->bytes - s->done;
        fill(buf, s->seed, s->done, n);
        int rc = write_all(s->fd, buf, n);
        if (rc < 0) {
            s->error = -rc;
            break;
        }
        s->done += n;
        if (s->pause_us)
            sleep_us(s->pause_us);
    }
    free(buf);
    return NULL;
}

static void *recv_stream(void *arg)
{
    struct stream *s = arg;
    uint64_t state = ~s->seed | 1;
    uint8_t *buf = malloc(CHUNK);

    if (!buf) {
        s->error = ENOMEM;
        return NULL;
    }
    s->bad = UINT64_MAX;
    while (s->done < s->bytes || s->want_fin) {
        size_t n = piece(s->piece_max, &state);
        if (n > CHUNK)
            n = CHUNK;
        if (!s->want_fin && n > s->bytes - s->done)
            n = s->bytes - s->done;
        ssize_t got = recv(s->fd, buf, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            s->error = errno;
            break;
        }
        if (got == 0) {
            s->fin_seen = true;
            break;
        }
        uint64_t bad = verify(buf, s->seed, s->done, (size_t)got);
        if (bad != UINT64_MAX && s->bad == UINT64_MAX)
            s->bad = bad;
        /* More than was promised: wrong from the first byte that should not be there. */
        if (s->done + (uint64_t)got > s->bytes && s->bad == UINT64_MAX)
            s->bad = s->bytes;
        /* The whole process, until it gets SIGCONT. */
        if (opt.stop && s->done == 0)
            raise(SIGSTOP);
        s->done += (uint64_t)got;
        if (s->pause_us)
            sleep_us(s->pause_us);
    }
    free(buf);
    return NULL;
}

static const char *bad_text(uint64_t bad, char *buf, size_t size)
{
    if (bad == UINT64_MAX)
        snprintf(buf, size, "none");
    else
        snprintf(buf, size, "%" PRIu64, bad);
    return buf;
}

static const char *error_text(int error)
{
    return error ? strerrorname_np(error) : "none";
}

static void *serve_one(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct header h;
    pthread_t sender;
    char peer[80], bad[24];

    set_nodelay(fd);
    format_peer(fd, peer, sizeof(peer));
    if (opt.banner && write_all(fd, BANNER, strlen(BANNER)) < 0)
        goto out;
    int rc = read_all(fd, &h, sizeof(h));
    if (rc < 0 || le64toh(h.magic) != MAGIC) {
        /* A probe that connects and leaves is no failure worth a line. */
        if (rc != -ENODATA)
            printf("serve peer=%s error=%s\n", peer, rc < 0 ? strerrorname_np(-rc) : "header");
        goto out;
    }
    struct stream up = {.fd = fd,
                        .seed = le64toh(h.seed),
                        .bytes = le64toh(h.up),
                        .piece_max = opt.read_max,
                        .pause_us = opt.pause_us,
                        .want_fin = !(le64toh(h.flags) & FLAG_NO_HALF_CLOSE)};
    struct stream down = {
        .fd = fd, .seed = ~le64toh(h.seed), .bytes = le64toh(h.down), .piece_max = opt.write_max};
    if (pthread_create(&sender, NULL, send_stream, &down))
        goto out;
    recv_stream(&up);
    pthread_join(sender, NULL);
    struct trailer t = {.magic = htole64(MAGIC),
                        .received = htole64(up.done),
                        .bad = htole64(up.bad),
                        .fin_seen = htole64(up.fin_seen)};
    if (!down.error && !up.error)
        rc = write_all(fd, &t, sizeof(t));
    shutdown(fd, SHUT_WR);
    printf("serve peer=%s received=%" PRIu64 " bad=%s fin=%d recv_error=%s sent=%" PRIu64
           " send_error=%s\n",
           peer, up.done, bad_text(up.bad, bad, sizeof(bad)), up.fin_seen, error_text(up.error),
           down.done, error_text(down.error));
out:
    close(fd);
    return NULL;
}

__attribute__((noreturn)) static void serve(char **argv)
{
    struct target t = parse_target(argv[0], argv[1], false);
    int fd = listen_on(&t, opt.v6only, false);
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 128u << 10);
    for (;;) {
        pthread_t thread;
        int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (conn < 0) {
            if (errno == EMFILE || errno == ENFILE)
                sleep_us(1000);
            continue;
        }
        if (pthread_create(&thread, &attr, serve_one, (void *)(intptr_t)conn))
            close(conn);
    }
}

static void set_keepalive(int fd)
{
    int one = 1;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &one, sizeof(one));
}

/* 0 when every byte of both directions was right. */
static int client(const char *mode, char **argv)
{
    uint64_t bytes = parse_count(argv[2]);
    uint64_t up_bytes = strcmp(mode, "recv") ? bytes : 0;
    uint64_t down_bytes = strcmp(mode, "send") ? bytes : 0;
    struct target t = parse_target(argv[0], argv[1], opt.mapped);
    struct target first = opt.socks ? parse_hostport(opt.socks) : t;
    char peer[80], bad[24], peer_bad[24];
    uint64_t start = now_ns();
    int fd = connect_to(&first, opt.v6only);
    int rc = 0;

    if (fd >= 0 && opt.socks)
        rc = socks5_connect(fd, &t, NULL, NULL);
    if (fd < 0 || rc) {
        printf("%s connect=%s\n", mode,
               rc > 0 ? "refused-by-socks" : strerrorname_np(fd < 0 ? -fd : -rc));
        return 3;
    }
    if (opt.stop)
        set_keepalive(fd);
    if (opt.rcvbuf)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &opt.rcvbuf, sizeof(opt.rcvbuf));
    set_nodelay(fd);
    format_peer(fd, peer, sizeof(peer));
    if (opt.banner) {
        char banner[sizeof(BANNER)] = {0};
        rc = read_all(fd, banner, strlen(BANNER));
        if (rc < 0 || strcmp(banner, BANNER) != 0) {
            printf("%s peer=%s banner=%s\n", mode, peer, rc < 0 ? strerrorname_np(-rc) : "wrong");
            return 1;
        }
    }
    struct header h = {.magic = htole64(MAGIC),
                       .seed = htole64(opt.seed),
                       .up = htole64(up_bytes),
                       .down = htole64(down_bytes),
                       .flags = htole64(opt.no_half_close ? FLAG_NO_HALF_CLOSE : 0)};
    struct stream up = {.fd = fd, .seed = opt.seed, .bytes = up_bytes, .piece_max = opt.write_max};
    struct stream down = {.fd = fd,
                          .seed = ~opt.seed,
                          .bytes = down_bytes,
                          .piece_max = opt.read_max,
                          .pause_us = opt.pause_us};
    struct trailer trailer = {0};
    bool extra = false;
    int trailer_error = 0;
    pthread_t receiver;

    rc = write_all(fd, &h, sizeof(h));
    if (rc < 0) {
        printf("%s peer=%s header=%s\n", mode, peer, strerrorname_np(-rc));
        return 1;
    }
    if (pthread_create(&receiver, NULL, recv_stream, &down))
        die(1, "pthread_create failed");
    send_stream(&up);
    if (!up.error && !opt.no_half_close)
        shutdown(fd, SHUT_WR);
    pthread_join(receiver, NULL);
    if (!down.error && !down.fin_seen) {
        trailer_error = -read_all(fd, &trailer, sizeof(trailer));
        if (!trailer_error) {
            char c;
            ssize_t n = recv(fd, &c, 1, 0);
            extra = n > 0;
            if (n < 0)
                trailer_error = errno;
        }
    }
    double secs = (double)(now_ns() - start) / 1e9;
    uint64_t got = le64toh(trailer.received), peer_wrong = le64toh(trailer.bad);
    bool good = !up.error && !down.error && !trailer_error && !extra && up.done == up_bytes &&
                down.done == down_bytes && down.bad == UINT64_MAX &&
                le64toh(trailer.magic) == MAGIC && got == up_bytes && peer_wrong == UINT64_MAX &&
                (opt.no_half_close || le64toh(trailer.fin_seen));
    printf("%s %s peer=%s sent=%" PRIu64 " send_error=%s peer_received=%" PRIu64
           " peer_bad=%s peer_fin=%d received=%" PRIu64 " bad=%s recv_error=%s trailer=%s"
           " seconds=%.3f mib_per_second=%.0f\n",
           mode, good ? "good" : "BAD", peer, up.done, error_text(up.error), got,
           trailer.magic ? bad_text(peer_wrong, peer_bad, sizeof(peer_bad)) : "unknown",
           (int)le64toh(trailer.fin_seen), down.done, bad_text(down.bad, bad, sizeof(bad)),
           error_text(down.error),
           extra ? "extra-bytes" : (down.fin_seen ? "ENODATA" : error_text(trailer_error)), secs,
           (double)(up.done + down.done) / 1048576.0 / (secs > 0 ? secs : 1));
    close(fd);
    return good ? 0 : 1;
}

static void usage(void)
{
    die(2, "usage: pattern serve [-BV] [-w MAX] [-r MAX] [-p USEC] ADDR PORT\n"
           "       pattern send|recv|both [options] ADDR PORT BYTES[KMGT]\n"
           "  -B  the server speaks first: a banner on accept\n"
           "  -M  IPv4 through an AF_INET6 socket (::ffff:a.b.c.d)   -V  IPV6_V6ONLY\n"
           "  -N  no half-close after sending      -w/-r MAX  random writes/reads of 1..MAX bytes\n"
           "  -p USEC  pause after each read (a slow reader)   -R BYTES  SO_RCVBUF\n"
           "  -S  stop (SIGSTOP) after the first read: a reader that has ceased to read;\n"
           "      it uses keepalive, a probe each second\n"
           "  -s SEED  -t SECONDS  give up         -x HOST:PORT  speak SOCKS5 to this server");
}

int main(int argc, char **argv)
{
    int c;

    opt.seed = now_ns() * 0x2545f4914f6cdd1du ^ (uint64_t)getpid();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2)
        usage();
    const char *mode = argv[1];
    argv++;
    argc--;
    while ((c = getopt(argc, argv, "BMVNSw:r:p:R:s:t:x:")) != -1) {
        switch (c) {
        case 'B':
            opt.banner = true;
            break;
        case 'M':
            opt.mapped = true;
            break;
        case 'V':
            opt.v6only = true;
            break;
        case 'N':
            opt.no_half_close = true;
            break;
        case 'S':
            opt.stop = true;
            break;
        case 'w':
            opt.write_max = (uint32_t)parse_count(optarg);
            break;
        case 'r':
            opt.read_max = (uint32_t)parse_count(optarg);
            break;
        case 'p':
            opt.pause_us = (uint32_t)parse_count(optarg);
            break;
        case 'R':
            opt.rcvbuf = (unsigned)parse_count(optarg);
            break;
        case 's':
            opt.seed = parse_count(optarg);
            break;
        case 't':
            opt.timeout = (unsigned)parse_count(optarg);
            break;
        case 'x':
            opt.socks = optarg;
            break;
        default:
            usage();
        }
    }
    argc -= optind;
    argv += optind;
    signal(SIGPIPE, SIG_IGN);
    /* A hang is a failure: SIGALRM ends the client with its default action. */
    if (opt.timeout)
        alarm(opt.timeout);
    if (!strcmp(mode, "serve") && argc == 2)
        serve(argv);
    if ((!strcmp(mode, "send") || !strcmp(mode, "recv") || !strcmp(mode, "both")) && argc == 3)
        return client(mode, argv);
    usage();
}
