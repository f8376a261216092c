/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * badsocks: a SOCKS4/4a/5 server that misbehaves in exactly one way.
 *
 *     badsocks MODE ADDR PORT [ARG...]
 *
 * The greeting, RFC 1929 and the request are parsed correctly up to the point where the mode
 * departs from the protocol; modes that end in a granted request relay for real. Each request is
 * one line on standard output (version, command, destination, user), so a test can see what was
 * asked for: an address or a name, and by whom.
 *
 *   good                 no misbehaviour
 *   reset                RST right after accept
 *   close                FIN right after accept
 *   hang                 accept, read nothing, say nothing
 *   mute                 read everything, say nothing
 *   hang-greeting        read the greeting, then say nothing
 *   hang-request         answer the greeting, read the request, then say nothing
 *   hold MS              grant, but only after MS milliseconds
 *   drop N               FIN after N bytes of our own answers
 *   drop-reset N         RST after N bytes of our own answers
 *   garbage              4096 bytes of noise instead of an answer, then FIN
 *   endless              noise without end
 *   endless-reply        a good method choice, then 0x05 without end
 *   http                 an HTTP error page
 *   version              method choice with version 4
 *   reply-version        reply with version 4
 *   reserved             reply with RSV 0xff, otherwise granted
 *   atyp                 reply with an address type that does not exist
 *   method               chooses GSSAPI (1), which nobody offered
 *   password             chooses username/password whether offered or not; accepts anybody
 *   no-method            0xff, no acceptable method
 *   auth USER PASSWORD   a correct username/password server
 *   auth-fail            username/password, always refused
 *   auth-version         username/password status with version 5
 *   slow MS              every byte of every answer alone, MS milliseconds apart
 *   code                 reply code = port - 9100 for ports 9101..9355 (SOCKS4: 0x5a + that);
 * others are relayed code-hold MS         the same after MS milliseconds name BND.ADDR is a
 * 255-byte name bound6               BND.ADDR is an IPv6 address glued                the
 * destination's first bytes go out in one segment with the reply glued-reset TEXT     reply and
 * TEXT in one segment, then RST granted-close        granted, then FIN granted-reset granted, then
 * RST
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "net.h"

struct request {
    uint8_t version, command;
    struct target dest;
    bool named;
    char host[256], user[256], password[256];
    uint16_t port;
};

/* One connection; left counts the bytes we may still send before the mode drops it. */
struct conn {
    int fd;
    uint64_t left;
};

static const char *const modes[] = {
    "good",          "reset",         "close",        "hang",          "mute",      "hang-greeting",
    "hang-request",  "hold",          "drop",         "drop-reset",    "garbage",   "endless",
    "endless-reply", "http",          "version",      "reply-version", "reserved",  "atyp",
    "method",        "password",      "no-method",    "auth",          "auth-fail", "auth-version",
    "slow",          "code",          "code-hold",    "name",          "bound6",    "glued",
    "glued-reset",   "granted-close", "granted-reset"};

static const char *mode;
static char **args;
static int arg_count;
static uint64_t number; /* the mode's numeric argument */

static bool is(const char *name)
{
    return !strcmp(mode, name);
}

/* Our own bytes, as the mode wants them sent. Nonzero: the connection is to end. */
static int say(struct conn *c, const void *data, size_t len)
{
    const uint8_t *p = data;
    bool drops = len >= c->left;
    int rc = 0;

    if (drops)
        len = (size_t)c->left;
    if (is("slow")) {
        for (size_t i = 0; i < len && !rc; i++) {
            rc = write_all(c->fd, p + i, 1);
            sleep_us(number * 1000);
        }
    } else if (len) {
        rc = write_all(c->fd, p, len);
    }
    c->left -= len;
    if (drops && is("drop-reset"))
        set_reset(c->fd);
    return drops ? -ECONNABORTED : rc;
}

/* Reads and ignores until the peer goes away. */
static void swallow(int fd)
{
    uint8_t buf[4096];
    while (recv(fd, buf, sizeof(buf), 0) > 0)
        ;
}

static void noise(int fd, uint64_t bytes)
{
    uint64_t x = 0x9e3779b97f4a7c15u ^ now_ns();
    uint8_t buf[4096];
    while (bytes) {
        for (size_t i = 0; i < sizeof(buf); i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            buf[i] = (uint8_t)x;
        }
        /* Never by chance the start of a right answer. */
        buf[0] |= 0x80;
        size_t n = bytes < sizeof(buf) ? bytes : sizeof(buf);
        if (write_all(fd, buf, n) < 0)
            return;
        bytes -= n;
    }
}

static int read_string(int fd, char *buf, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        int rc = read_all(fd, buf + i, 1);
        if (rc < 0)
            return rc;
        if (!buf[i])
            return 0;
    }
    return -EMSGSIZE;
}

static int resolve(struct request *r)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai;
    char port[8];
    snprintf(port, sizeof(port), "%u", r->port);
    if (getaddrinfo(r->host, port, &hints, &ai))
        return -EHOSTUNREACH;
    memcpy(&r->dest.sa, ai->ai_addr, ai->ai_addrlen);
    r->dest.len = ai->ai_addrlen;
    freeaddrinfo(ai);
    return 0;
}

static int read_request4(struct conn *c, struct request *r)
{
    uint8_t b[7];
    int rc = read_all(c->fd, b, 7);
    if (rc == 0)
        rc = read_string(c->fd, r->user, sizeof(r->user));
    if (rc < 0)
        return rc;
    r->command = b[0];
    r->port = (uint16_t)(b[1] << 8 | b[2]);
    snprintf(r->host, sizeof(r->host), "%u.%u.%u.%u", b[3], b[4], b[5], b[6]);
    if (!b[3] && !b[4] && !b[5] && b[6]) {
        r->named = true;
        rc = read_string(c->fd, r->host, sizeof(r->host));
    }
    return rc;
}

static int read_password(struct conn *c, struct request *r)
{
    uint8_t len, version;
    int rc = read_all(c->fd, &version, 1);
    if (rc == 0)
        rc = read_all(c->fd, &len, 1);
    if (rc == 0)
        rc = read_all(c->fd, r->user, len);
    if (rc == 0)
        rc = read_all(c->fd, &len, 1);
    if (rc == 0)
        rc = read_all(c->fd, r->password, len);
    if (rc < 0)
        return rc;
    bool good = !is("auth-fail") &&
                (!is("auth") || (!strcmp(r->user, args[0]) && !strcmp(r->password, args[1])));
    printf("auth user=%s %s\n", r->user, good ? "accepted" : "refused");
    rc = say(c, (uint8_t[]){is("auth-version") ? 5 : 1, good ? 0 : 1}, 2);
    return good ? rc : -EACCES;
}

static int read_request5(struct conn *c, struct request *r)
{
    uint8_t n, b[4], methods[255], address[16], port[2], method = 0;
    int rc = read_all(c->fd, &n, 1);
    if (rc == 0)
        rc = read_all(c->fd, methods, n);
    if (rc < 0)
        return rc;
    if (is("hang-greeting")) {
        swallow(c->fd);
        return -ECANCELED;
    }
    if (is("auth") || is("auth-fail") || is("auth-version") || is("password"))
        method = 2;
    if (is("method"))
        method = 1;
    if (method == 2 && !is("password") && !memchr(methods, 2, n))
        method = 0xff;
    if (is("no-method") || (method == 0 && !memchr(methods, 0, n)))
        method = 0xff;
    rc = say(c, (uint8_t[]){is("version") ? 4 : 5, method}, 2);
    if (rc < 0)
        return rc;
    if (method == 0xff || is("version") || is("method")) {
        swallow(c->fd);
        return -EPROTO;
    }
    if (is("endless-reply")) {
        memset(methods, 5, sizeof(methods));
        while (say(c, methods, sizeof(methods)) == 0)
            ;
        return -ECANCELED;
    }
    if (method == 2)
        rc = read_password(c, r);
    if (rc == 0)
        rc = read_all(c->fd, b, 4);
    if (rc < 0)
        return rc;
    r->command = b[1];
    if (b[0] != 5)
        return -EPROTO;
    switch (b[3]) {
    case 1:
        rc = read_all(c->fd, address, 4);
        inet_ntop(AF_INET, address, r->host, sizeof(r->host));
        break;
    case 4:
        rc = read_all(c->fd, address, 16);
        inet_ntop(AF_INET6, address, r->host, sizeof(r->host));
        break;
    case 3:
        r->named = true;
        rc = read_all(c->fd, &n, 1);
        if (rc == 0)
            rc = read_all(c->fd, r->host, n);
        break;
    default:
        return -EPROTO;
    }
    if (rc == 0)
        rc = read_all(c->fd, port, 2);
    r->port = (uint16_t)(port[0] << 8 | port[1]);
    return rc;
}

/* The reply with this code and, behind it in the same segment, extra bytes. */
static int reply(struct conn *c, const struct request *r, uint8_t code, const void *extra,
                 size_t extra_len)
{
    uint8_t b[4 + 256 + 2 + 4096] = {0};
    size_t n = 0;

    if (r->version == 4) {
        b[0] = is("reply-version") ? 4 : 0;
        b[1] = (uint8_t)(0x5a + code);
        n = 8;
    } else {
        b[0] = is("reply-version") ? 4 : 5;
        b[1] = code;
        b[2] = is("reserved") ? 0xff : 0;
        if (is("name")) {
            b[3] = 3;
            b[4] = 255;
            memset(b + 5, 'n', 255);
            n = 5 + 255 + 2;
        } else if (is("bound6")) {
            b[3] = 4;
            memset(b + 4, 0xfd, 16);
            n = 22;
        } else {
            b[3] = is("atyp") ? 9 : 1;
            n = 10;
        }
    }
    if (extra_len)
        memcpy(b + n, extra, extra_len);
    return say(c, b, n + extra_len);
}

/* One direction; fin_sent says of each socket whether our FIN went out on it. */
struct pump {
    int from, to;
    atomic_bool *from_fin, *to_fin;
};

/* The other direction's thread may have consumed the error: recv() then says 0 after a RST. A
 * socket that is closed although we never sent a FIN on it was reset. */
static bool was_reset(const struct pump *p)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    return !atomic_load(p->from_fin) &&
           getsockopt(p->from, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           info.tcpi_state == TCP_CLOSE;
}

/* RST here is RST there: the shutdowns wake the other direction, both closes reset. */
static void pump_reset(const struct pump *p)
{
    set_reset(p->from);
    set_reset(p->to);
    shutdown(p->from, SHUT_RD);
    shutdown(p->to, SHUT_RD);
}

static void *pump(void *arg)
{
    struct pump *p = arg;
    uint8_t *buf = malloc(65536);
    for (;;) {
        ssize_t n = buf ? recv(p->from, buf, 65536, 0) : -1;
        if (n < 0 && buf && errno == EINTR)
            continue;
        if (n < 0 || (n == 0 && was_reset(p))) {
            pump_reset(p);
            break;
        }
        if (n == 0) {
            struct linger l = {0};
            socklen_t len = sizeof(l);
            /* Woken by pump_reset() of the other direction: no FIN before the RST. */
            getsockopt(p->from, SOL_SOCKET, SO_LINGER, &l, &len);
            if (!l.l_onoff) {
                atomic_store(p->to_fin, true);
                shutdown(p->to, SHUT_WR);
            }
            break;
        }
        if (write_all(p->to, buf, (size_t)n) < 0) {
            pump_reset(p);
            break;
        }
    }
    free(buf);
    return NULL;
}

static void relay(int a, int b)
{
    atomic_bool a_fin = false, b_fin = false;
    struct pump up = {a, b, &a_fin, &b_fin}, down = {b, a, &b_fin, &a_fin};
    pthread_t thread;
    set_nodelay(a);
    set_nodelay(b);
    if (pthread_create(&thread, NULL, pump, &up))
        return;
    pump(&down);
    pthread_join(thread, NULL);
}

static uint8_t code_of(int error)
{
    switch (error) {
    case ENETUNREACH:
        return 3;
    case EHOSTUNREACH:
    case ETIMEDOUT:
        return 4;
    case ECONNREFUSED:
        return 5;
    default:
        return 1;
    }
}

static void grant(struct conn *c, struct request *r)
{
    uint8_t first[4096];
    ssize_t n = 0;

    int out = resolve(r) < 0 ? -EHOSTUNREACH : connect_to(&r->dest, false);
    if (out < 0) {
        reply(c, r, code_of(-out), NULL, 0);
        return;
    }
    if (is("glued")) {
        /* A destination that speaks first has this long; the mode needs such a one. */
        struct pollfd p = {.fd = out, .events = POLLIN};
        if (poll(&p, 1, 2000) > 0)
            n = recv(out, first, sizeof(first), 0);
    }
    if (reply(c, r, 0, first, n > 0 ? (size_t)n : 0) == 0)
        relay(c->fd, out);
    close(out);
}

static void answer(struct conn *c, struct request *r)
{
    printf("request version=%u command=%u %s=%s port=%u user=%s\n", r->version, r->command,
           r->named ? "name" : "address", r->host, r->port, r->user);
    if (is("hang-request")) {
        swallow(c->fd);
        return;
    }
    if (is("hold") || is("code-hold"))
        sleep_us(number * 1000);
    if ((is("code") || is("code-hold")) && r->port > 9100 && r->port <= 9355) {
        reply(c, r, (uint8_t)(r->port - 9100), NULL, 0);
        return;
    }
    if (is("granted-close") || is("granted-reset")) {
        reply(c, r, 0, NULL, 0);
        if (is("granted-reset"))
            set_reset(c->fd);
        return;
    }
    if (is("glued-reset")) {
        reply(c, r, 0, args[0], strlen(args[0]));
        sleep_us(100000);
        set_reset(c->fd);
        return;
    }
    if (r->command != 1) {
        reply(c, r, r->version == 4 ? 1 : 7, NULL, 0);
        return;
    }
    grant(c, r);
}

static void *serve_one(void *arg)
{
    struct conn c = {.fd = (int)(intptr_t)arg, .left = UINT64_MAX};
    struct request r = {0};
    int rc = 0;

    set_nodelay(c.fd);
    if (is("drop") || is("drop-reset"))
        c.left = number;
    if (is("reset")) {
        set_reset(c.fd);
    } else if (is("hang")) {
        /* Not even the FIN is read; the socket lives as long as this process. */
        return NULL;
    } else if (is("mute")) {
        swallow(c.fd);
    } else if (is("garbage") || is("endless")) {
        noise(c.fd, is("garbage") ? 4096 : UINT64_MAX);
    } else if (is("http")) {
        static const char page[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        write_all(c.fd, page, sizeof(page) - 1);
    } else if (!c.left) {
        if (is("drop-reset"))
            set_reset(c.fd);
    } else if (!is("close")) {
        rc = read_all(c.fd, &r.version, 1);
        if (rc == 0)
            rc = r.version == 4   ? read_request4(&c, &r)
                 : r.version == 5 ? read_request5(&c, &r)
                                  : -EPROTO;
        if (rc == 0)
            answer(&c, &r);
    }
    close(c.fd);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_attr_t attr;

    if (argc < 4)
        die(2, "usage: badsocks MODE ADDR PORT [ARG...]   (the modes are in the source's head)");
    mode = argv[1];
    args = argv + 4;
    arg_count = argc - 4;
    bool known = false;
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        known |= is(modes[i]);
    if (!known)
        die(2, "badsocks: no mode %s", mode);
    bool wants_number =
        is("slow") || is("hold") || is("code-hold") || is("drop") || is("drop-reset");
    if (wants_number && arg_count == 1)
        number = parse_count(args[0]);
    else if ((wants_number && arg_count != 1) || (is("auth") && arg_count != 2) ||
             (is("glued-reset") && arg_count != 1))
        die(2, "badsocks %s: wrong number of arguments", mode);
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    raise_nofile();
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 128u << 10);
    struct target t = parse_target(argv[2], argv[3], false);
    int fd = listen_on(&t, false, false);
    for (;;) {
        pthread_t thread;
        int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (conn < 0) {
            sleep_us(1000);
            continue;
        }
        if (pthread_create(&thread, &attr, serve_one, (void *)(intptr_t)conn))
            close(conn);
    }
}
