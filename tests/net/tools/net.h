/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every test tool needs: addresses from text, listeners, connections, whole reads and writes.
 *
 * Each tool is one program built from one file, so this is a header of small inline functions.
 * The tools share no code with the daemon: a mistake in it must not be able to hide itself.
 */
#ifndef TESTS_NET_TOOLS_NET_H
#define TESTS_NET_TOOLS_NET_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct target {
    struct sockaddr_storage sa;
    socklen_t len;
};

__attribute__((format(printf, 2, 3), noreturn, unused)) static void die(int status, const char *fmt,
                                                                        ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(status);
}

__attribute__((unused)) static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

__attribute__((unused)) static void sleep_us(uint64_t us)
{
    struct timespec ts = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
        ;
}

/* A count with an optional K, M, G or T suffix (powers of 1024). Exits with 2 when it is none. */
__attribute__((unused)) static uint64_t parse_count(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    unsigned shift = 0;
    switch (*end) {
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    case 'T':
        shift = 40;
        break;
    default:
        break;
    }
    if (shift)
        end++;
    if (errno || end == text || *end)
        die(2, "not a count: %s", text);
    return (uint64_t)v << shift;
}

/* A numeric address and port. With mapped, an IPv4 address becomes ::ffff:a.b.c.d. */
__attribute__((unused)) static struct target parse_target(const char *addr, const char *port,
                                                          bool mapped)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *ai;
    struct target t = {0};
    char text[INET6_ADDRSTRLEN + 8];

    if (mapped && !strchr(addr, ':')) {
        snprintf(text, sizeof(text), "::ffff:%s", addr);
        addr = text;
    }
    int rc = getaddrinfo(addr, port, &hints, &ai);
    if (rc)
        die(2, "%s port %s: %s", addr, port, gai_strerror(rc));
    memcpy(&t.sa, ai->ai_addr, ai->ai_addrlen);
    t.len = ai->ai_addrlen;
    freeaddrinfo(ai);
    return t;
}

/* "a.b.c.d:port" or "[v6]:port". */
__attribute__((unused)) static struct target parse_hostport(const char *text)
{
    char host[128];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(host))
        die(2, "not HOST:PORT: %s", text);
    size_t n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    memcpy(host, text, n);
    host[n] = '\0';
    return parse_target(host, colon + 1, false);
}

__attribute__((unused)) static const char *format_sockaddr(const struct sockaddr_storage *sa,
                                                           char *buf, size_t size)
{
    char host[INET6_ADDRSTRLEN];
    if (sa->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)sa;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(buf, size, "%s:%u", host, ntohs(in->sin_port));
    } else if (sa->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(buf, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        snprintf(buf, size, "?");
    }
    return buf;
}

__attribute__((unused)) static const char *format_peer(int fd, char *buf, size_t size)
{
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    if (getpeername(fd, (struct sockaddr *)&sa, &len) < 0) {
        snprintf(buf, size, "none(%s)", strerrorname_np(errno));
        return buf;
    }
    return format_sockaddr(&sa, buf, size);
}

__attribute__((unused)) static void set_nodelay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* The next close() sends a RST. */
__attribute__((unused)) static void set_reset(int fd)
{
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
}

__attribute__((unused)) static int listen_on(const struct target *t, bool v6only, bool reuseport)
{
    int one = 1, v6 = v6only;
    int fd = socket(t->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die(3, "socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (reuseport)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
    if (t->sa.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6, sizeof(v6));
    if (bind(fd, (const struct sockaddr *)&t->sa, t->len) < 0)
        die(3, "bind: %s", strerror(errno));
    if (listen(fd, 65535) < 0)
        die(3, "listen: %s", strerror(errno));
    return fd;
}

/* A blocking connect; a descriptor or a negative errno. */
__attribute__((unused)) static int connect_to(const struct target *t, bool v6only)
{
    int fd = socket(t->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (t->sa.ss_family == AF_INET6 && v6only) {
        int one = 1;
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    }
    if (connect(fd, (const struct sockaddr *)&t->sa, t->len) < 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

/* Everything, or a negative errno. */
__attribute__((unused)) static int write_all(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;
    while (len) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* len bytes → 0; a FIN before them → -ENODATA; otherwise a negative errno. */
__attribute__((unused)) static int read_all(int fd, void *data, size_t len)
{
    uint8_t *p = data;
    while (len) {
        ssize_t n = recv(fd, p, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* A blocking SOCKS5 CONNECT on a connected socket, user and password may be NULL.
 * 0, a positive reply code, or a negative errno (-EPROTO: not SOCKS5, -EACCES: not let in). */
__attribute__((unused)) static int socks5_connect(int fd, const struct target *t, const char *user,
                                                  const char *password)
{
    uint8_t b[600];
    const uint8_t method = user ? 2 : 0;
    int rc = write_all(fd, (uint8_t[]){5, 1, method}, 3);
    if (rc == 0)
        rc = read_all(fd, b, 2);
    if (rc < 0)
        return rc;
    if (b[0] != 5)
        return -EPROTO;
    if (b[1] != method)
        return -EACCES;
    if (user) {
        size_t ulen = strlen(user), plen = password ? strlen(password) : 0;
        if (ulen > 255 || plen > 255)
            return -EINVAL;
        b[0] = 1;
        b[1] = (uint8_t)ulen;
        memcpy(b + 2, user, ulen);
        b[2 + ulen] = (uint8_t)plen;
        if (plen)
            memcpy(b + 3 + ulen, password, plen);
        rc = write_all(fd, b, 3 + ulen + plen);
        if (rc == 0)
            rc = read_all(fd, b, 2);
        if (rc < 0)
            return rc;
        if (b[1] != 0)
            return -EACCES;
    }
    size_t n = 0;
    memcpy(b, (uint8_t[]){5, 1, 0}, 3);
    if (t->sa.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)&t->sa;
        b[3] = 1;
        memcpy(b + 4, &in->sin_addr, 4);
        memcpy(b + 8, &in->sin_port, 2);
        n = 10;
    } else {
        const struct sockaddr_in6 *in6 = (const void *)&t->sa;
        b[3] = 4;
        memcpy(b + 4, &in6->sin6_addr, 16);
        memcpy(b + 20, &in6->sin6_port, 2);
        n = 22;
    }
    rc = write_all(fd, b, n);
    if (rc == 0)
        rc = read_all(fd, b, 5);
    if (rc < 0)
        return rc;
    if (b[0] != 5)
        return -EPROTO;
    if (b[1] != 0)
        return b[1];
    size_t rest = b[3] == 1 ? 5 : b[3] == 4 ? 17 : b[3] == 3 ? (size_t)b[4] + 2 : 0;
    return rest ? read_all(fd, b, rest) : -EPROTO;
}

/* As many descriptors as we may have. */
__attribute__((unused)) static void raise_nofile(void)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
        return;
    struct rlimit more = {.rlim_cur = 1000000, .rlim_max = 1000000};
    if (setrlimit(RLIMIT_NOFILE, &more) < 0) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
}

#endif
