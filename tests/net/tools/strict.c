/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * strict: a SOCKS5 server that takes nothing but the octets that are due, one message at a time,
 * and clients of its own whose bytes are all different.
 *
 *     strict serve [-g FILE] ADDR PORT
 *     strict talk [-C | -S] [-n CONNECTIONS] [-c PARALLEL] [-t SECONDS] ADDR PORT
 *
 * The server expects 05 01 00, answers, expects a request to connect to an address, grants it, and
 * plays the destination: it answers one line with "DESTINATION LINE". Whatever else it is sent, or
 * sent before it has answered what came before, is printed as "RAW". Each message that is right is
 * a line, too: "greeting", "request", "line". With -g it answers no greeting while FILE.greeting
 * exists, and no request while FILE.request does.
 *
 * Who ends a connection is the client's to say: after a line that begins with 's' the server closes
 * first, after one that begins with 'c' the client does.
 *
 * talk: one connection after the other in each of PARALLEL threads (1), CONNECTIONS in all (1). -C:
 * it closes them all first, -S: the server does; else by turns. Waits for a free port when there is
 * none. How they ended is summed up, a line "NUMBER RESULT" for each: OK, the error of connect(),
 * "WRONG" (another's bytes, or other bytes), "lost=" and what happened to it after connect() had
 * said yes. Exit status 0 when all were OK.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "net.h"

#define LINE_MAX_ 128

static const char *gate;

/* ---- the server ---- */

struct served {
    int fd;
    const char *stage;
    char peer[80];
};

static void raw(const struct served *s, const uint8_t *data, size_t len)
{
    char text[3 * 40 + 1] = "";

    for (size_t i = 0; i < len && i < 40; i++)
        snprintf(text + 3 * i, 4, " %02x", data[i]);
    printf("RAW %s peer=%s:%s\n", s->stage, s->peer, text);
}

/* Whether something is there that was not asked for yet. */
static bool hasty(const struct served *s)
{
    uint8_t early[40];
    ssize_t n = recv(s->fd, early, sizeof(early), MSG_PEEK | MSG_DONTWAIT);

    if (n > 0)
        raw(s, early, (size_t)n);
    return n > 0;
}

/* Waits while the gate is shut. False: something came meanwhile, or the peer has gone. */
static bool wait_at(const struct served *s, const char *name)
{
    char path[256];
    struct stat st;

    snprintf(path, sizeof(path), "%s.%s", gate ? gate : "", name);
    while (gate && stat(path, &st) == 0) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN};

        if (poll(&p, 1, 10) > 0)
            break;
    }
    return !hasty(s);
}

/* Exactly these octets, one by one so that none behind them is taken. */
static bool expect(const struct served *s, const uint8_t *want, size_t len)
{
    uint8_t got[64];

    for (size_t i = 0; i < len; i++) {
        int rc = read_all(s->fd, got + i, 1);

        if (rc < 0) {
            printf("left %s peer=%s %s\n", s->stage, s->peer, strerrorname_np(-rc));
            return false;
        }
        if (got[i] != want[i]) {
            raw(s, got, i + 1);
            return false;
        }
    }
    return true;
}

static bool read_destination(const struct served *s, char *ret, size_t size)
{
    uint8_t b[18];
    struct sockaddr_storage sa = {0};
    struct sockaddr_in *in = (void *)&sa;
    struct sockaddr_in6 *in6 = (void *)&sa;

    if (!expect(s, (uint8_t[]){5, 1, 0}, 3) || read_all(s->fd, b, 1) < 0)
        return false;
    if (b[0] == 1 && read_all(s->fd, b, 6) == 0) {
        in->sin_family = AF_INET;
        memcpy(&in->sin_addr, b, 4);
        memcpy(&in->sin_port, b + 4, 2);
    } else if (b[0] == 4 && read_all(s->fd, b, 18) == 0) {
        in6->sin6_family = AF_INET6;
        memcpy(&in6->sin6_addr, b, 16);
        memcpy(&in6->sin6_port, b + 16, 2);
    } else {
        raw(s, b, 1);
        return false;
    }
    format_sockaddr(&sa, ret, size);
    return true;
}

static void play_destination(const struct served *s, const char *destination)
{
    char line[LINE_MAX_ + 1], answer[2 * LINE_MAX_];
    size_t n = 0;
    int rc = 0;

    while (rc == 0 && n < LINE_MAX_ && (n == 0 || line[n - 1] != '\n'))
        rc = read_all(s->fd, line + n++, 1);
    line[n] = '\0';
    if (rc < 0 || n == LINE_MAX_)
        return;
    printf("line %s", line);
    snprintf(answer, sizeof(answer), "%s %s", destination, line);
    if (line[0] == 's') {
        write_all(s->fd, answer, strlen(answer));
        shutdown(s->fd, SHUT_WR);
        read_all(s->fd, line, 1);
    } else {
        write_all(s->fd, answer, strlen(answer));
        read_all(s->fd, line, 1);
    }
}

static void *serve_one(void *arg)
{
    struct served s = {.fd = (int)(intptr_t)arg, .stage = "greeting"};
    char destination[80];

    set_nodelay(s.fd);
    format_peer(s.fd, s.peer, sizeof(s.peer));
    if (expect(&s, (uint8_t[]){5, 1, 0}, 3)) {
        printf("greeting peer=%s\n", s.peer);
        if (wait_at(&s, "greeting") && write_all(s.fd, (uint8_t[]){5, 0}, 2) == 0) {
            s.stage = "request";
            if (read_destination(&s, destination, sizeof(destination))) {
                printf("request %s peer=%s\n", destination, s.peer);
                if (wait_at(&s, "request") &&
                    write_all(s.fd, (uint8_t[]){5, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 10) == 0)
                    play_destination(&s, destination);
            }
        }
    }
    close(s.fd);
    return NULL;
}

__attribute__((noreturn)) static void serve(char **argv)
{
    struct target t = parse_target(argv[0], argv[1], false);
    int listener = listen_on(&t, false, false);
    pthread_attr_t attributes;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 128 << 10);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;

        if (fd >= 0 && pthread_create(&thread, &attributes, serve_one, (void *)(intptr_t)fd))
            close(fd);
    }
}

/* ---- the clients ---- */

static struct target target;
static char target_text[80];
static char closer; /* 'c', 's', 0: by turns */
static unsigned timeout_s = 30;
static uint64_t count = 1;
static atomic_ulong begun;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char result[32];
    unsigned long n;
} sums[64];

static void result(const char *how, const char *what)
{
    char text[32];
    size_t i = 0;

    snprintf(text, sizeof(text), "%s%s", how, what);
    pthread_mutex_lock(&lock);
    while (i < 63 && sums[i].n && strcmp(sums[i].result, text) != 0)
        i++;
    snprintf(sums[i].result, sizeof(sums[i].result), "%s", text);
    sums[i].n++;
    pthread_mutex_unlock(&lock);
}

static int open_one(void)
{
    struct timeval tv = {.tv_sec = (time_t)timeout_s};
    int fd = socket(target.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    if (connect(fd, (const struct sockaddr *)&target.sa, target.len) == 0)
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

static void talk_one(unsigned long number)
{
    char line[LINE_MAX_], want[2 * LINE_MAX_], got[2 * LINE_MAX_];
    size_t n = 0;
    ssize_t more = 1;
    int fd = open_one();

    while (fd == -EADDRNOTAVAIL) { /* all ports wait for the end of TIME_WAIT */
        sleep_us(5000);
        fd = open_one();
    }
    if (fd < 0) {
        result("", fd == -EINPROGRESS ? "timeout" : strerrorname_np(-fd));
        return;
    }
    snprintf(line, sizeof(line), "%c SECRET %d %lu %" PRIu64 "\n",
             closer       ? closer
             : number & 1 ? 'c'
                          : 's',
             (int)getpid(), number, now_ns());
    snprintf(want, sizeof(want), "%s %s", target_text, line);
    int rc = write_all(fd, line, strlen(line));
    while (rc == 0 && more > 0 && n < sizeof(got)) {
        more = recv(fd, got + n, sizeof(got) - n, 0);
        if (more < 0)
            rc = -errno;
        n += more > 0 ? (size_t)more : 0;
        if (line[0] == 'c' && n == strlen(want))
            shutdown(fd, SHUT_WR);
    }
    if (n > strlen(want) || memcmp(got, want, n) != 0)
        result("", "WRONG");
    else if (rc < 0)
        result("lost=", strerrorname_np(-rc));
    else
        result("", n == strlen(want) ? "OK" : "lost=FIN");
    close(fd);
}

static void *talk_some(void *arg)
{
    unsigned long number;

    (void)arg;
    while ((number = atomic_fetch_add(&begun, 1)) < count)
        talk_one(number);
    return NULL;
}

static int talk(char **argv, unsigned parallel)
{
    pthread_t *threads = calloc(parallel, sizeof(*threads));
    bool good = true;

    target = parse_target(argv[0], argv[1], false);
    format_sockaddr(&target.sa, target_text, sizeof(target_text));
    for (unsigned i = 0; threads && i < parallel; i++) {
        if (pthread_create(&threads[i], NULL, talk_some, NULL))
            die(3, "no thread");
    }
    for (unsigned i = 0; threads && i < parallel; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    for (size_t i = 0; i < 64 && sums[i].n; i++) {
        printf("%lu %s\n", sums[i].n, sums[i].result);
        good &= strcmp(sums[i].result, "OK") == 0;
    }
    return good && sums[0].n == count ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    unsigned parallel = 1;
    int c;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    raise_nofile();
    optind = 2;
    while ((c = getopt(argc, argv, "g:CSn:c:t:")) != -1) {
        if (c == 'g')
            gate = optarg;
        else if (c == 'C' || c == 'S')
            closer = c == 'C' ? 'c' : 's';
        else if (c == 'n')
            count = parse_count(optarg);
        else if (c == 'c')
            parallel = (unsigned)parse_count(optarg);
        else if (c == 't')
            timeout_s = (unsigned)parse_count(optarg);
        else
            return 2;
    }
    if (argc - optind == 2 && strcmp(mode, "serve") == 0)
        serve(argv + optind);
    if (argc - optind == 2 && strcmp(mode, "talk") == 0 && parallel && parallel <= 4096)
        return talk(argv + optind, parallel);
    die(2, "usage: strict serve|talk ADDR PORT");
}
