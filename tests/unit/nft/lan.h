/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A gateway between two namespaces, made inside the test's own: the test itself is the gateway.
 *
 *   client ── lan0 ┐                    ┌ wan0 ── server
 *   other ─── lan1 ┴─ the test's own ───┘
 *
 *   client 198.18.1.2, 3fff:1::2   other 198.18.2.2, 3fff:2::2   (of the gateway: .1 and ::1)
 *   server 198.18.9.2, 3fff:9::2, and the destinations 203.0.113.5, 203.0.113.6,
 * 2001:db8::5, 10.9.9.9
 *
 * Each is a child process that does what it is told over a socket, so that a test can act in all of
 * them in its own order. The server counts the TCP packets that reach it, by nftables.
 */
#ifndef UNDERSOCK_TEST_NFT_LAN_H
#define UNDERSOCK_TEST_NFT_LAN_H

#include "netns.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "cases.h"

/* Only a bound for what should be there at once: a test fails when it passes. */
#define PATIENCE_MS 10000

/* ---- sockets ---- */

static inline int listen_at(const char *where, bool transparent)
{
    struct addr at = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&at, &ss);
    int one = 1, fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0);
    if (ss.ss_family == AF_INET6)
        CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) == 0);
    if (transparent)
        CHECK(setsockopt(fd, ss.ss_family == AF_INET6 ? SOL_IPV6 : SOL_IP,
                         ss.ss_family == AF_INET6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, &one,
                         sizeof(one)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&ss, len) == 0);
    CHECK(listen(fd, 64) == 0);
    return fd;
}

/* The next connection, or -1 when none comes in `ms`. */
static inline int accept_in(int listener, int ms)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};

    if (poll(&p, 1, ms) != 1)
        return -1;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    CHECK(fd >= 0);
    return fd;
}

static inline bool local_is(int fd, const char *where)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    struct addr a, expected = parse_addr(where);

    CHECK(getsockname(fd, (struct sockaddr *)&ss, &len) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&ss, len, &a) == 0);
    return addr_equal(&a, &expected);
}

static inline bool peer_is(int fd, const char *ip)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    struct addr a, expected = parse_addr(ip);

    CHECK(getpeername(fd, (struct sockaddr *)&ss, &len) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&ss, len, &a) == 0);
    return addr_same_ip(&a, &expected);
}

/* A connection, or -errno; -ETIMEDOUT after `ms`. */
static inline int connect_in(const char *where, const char *from, uint32_t mark, int ms)
{
    struct addr to = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&to, &ss);
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    socklen_t error_len = sizeof(error);

    CHECK(fd >= 0);
    if (mark != 0)
        CHECK(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0);
    if (from) {
        struct addr a = parse_addr(from);
        struct sockaddr_storage local;
        socklen_t local_len = addr_to_sockaddr(&a, &local);

        CHECK(bind(fd, (struct sockaddr *)&local, local_len) == 0);
    }
    if (connect(fd, (struct sockaddr *)&ss, len) < 0) {
        error = errno;
        if (error == EINPROGRESS) {
            if (poll(&p, 1, ms) != 1)
                error = ETIMEDOUT;
            else
                CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len) == 0);
        }
    }
    if (error != 0) {
        close(fd);
        return -error;
    }
    CHECK(fcntl(fd, F_SETFL, 0) == 0);
    return fd;
}

/* A UDP socket with that peer. */
static inline int udp_from(const char *where, const char *from, uint32_t mark)
{
    struct addr to = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&to, &ss);
    int fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0);
    if (mark != 0)
        CHECK(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0);
    if (from) {
        struct addr a = parse_addr(from);
        struct sockaddr_storage local;
        socklen_t local_len = addr_to_sockaddr(&a, &local);

        CHECK(bind(fd, (struct sockaddr *)&local, local_len) == 0);
    }
    CHECK(connect(fd, (struct sockaddr *)&ss, len) == 0);
    return fd;
}

static inline int udp_to(const char *where, uint32_t mark)
{
    return udp_from(where, NULL, mark);
}

/* ---- the others ---- */

enum peer_command {
    PEER_CONNECT, /* to `where`, keeps the connection; answers 0 or -errno */
    PEER_SEND,    /* a byte; answers 0 or -errno */
    PEER_RECV,    /* waits for a byte or the end: 1, 0, or -errno; -ETIMEDOUT */
    PEER_CLOSE,
    PEER_LISTEN, /* at `where`, keeps the listener */
    PEER_ACCEPT, /* keeps the connection; 0, or -ETIMEDOUT */
    PEER_UDP,    /* a UDP socket that is connected to `where`; else as PEER_CONNECT */
    PEER_COUNT,  /* packets that came in, of those the test counts */
};

struct peer_request {
    enum peer_command command;
    unsigned slot; /* of the connection or listener that is kept */
    int ms;
    char where[64], from[64];
};

struct peer {
    pid_t pid;
    int fd;
};

#define PEER_SLOTS 16

static inline int recv_in(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char byte;

    if (poll(&p, 1, ms) != 1)
        return -ETIMEDOUT;
    ssize_t n = recv(fd, &byte, 1, 0);

    return n < 0 ? -errno : (int)n;
}

static inline int peer_answer(const struct peer_request *q, int listeners[], int connections[])
{
    int *c = &connections[q->slot], *l = &listeners[q->slot], r = 0;
    char *text;

    switch (q->command) {
    case PEER_CONNECT:
        r = connect_in(q->where, q->from[0] ? q->from : NULL, 0, q->ms);
        break;
    case PEER_UDP:
        r = udp_from(q->where, q->from[0] ? q->from : NULL, 0);
        break;
    case PEER_SEND:
        return send(*c, "x", 1, MSG_NOSIGNAL) < 0 ? -errno : 0;
    case PEER_RECV:
        return recv_in(*c, q->ms);
    case PEER_CLOSE:
        close(*c);
        return 0;
    case PEER_LISTEN:
        *l = listen_at(q->where, false);
        return 0;
    case PEER_ACCEPT:
        r = accept_in(*l, q->ms);
        if (r < 0)
            r = -ETIMEDOUT;
        break;
    case PEER_COUNT:
        text = output_of(
            "nft list counter inet count seen | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p'");
        CHECK(text);
        r = atoi(text);
        free(text);
        return r;
    }
    if (r < 0)
        return r;
    *c = r;
    return 0;
}

/* A child in a namespace of its own that waits for requests. */
static inline struct peer start_peer(void)
{
    int pair[2], ready;

    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    fflush(NULL);
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        int listeners[PEER_SLOTS], connections[PEER_SLOTS];
        struct peer_request q;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        CHECK(unshare(CLONE_NEWNET) == 0);
        CHECK(send(pair[1], "", 1, 0) == 1);
        while (recv(pair[1], &q, sizeof(q), 0) == sizeof(q)) {
            int r = peer_answer(&q, listeners, connections);

            CHECK(send(pair[1], &r, sizeof(r), 0) == sizeof(r));
        }
        _exit(0);
    }
    close(pair[1]);
    CHECK(recv(pair[0], &ready, sizeof(ready), 0) == 1);
    return (struct peer){pid, pair[0]};
}

static inline int ask_from(const struct peer *p, enum peer_command command, unsigned slot,
                           const char *where, const char *from, int ms)
{
    struct peer_request q = {.command = command, .slot = slot, .ms = ms};
    int r;

    snprintf(q.where, sizeof(q.where), "%s", where ? where : "");
    snprintf(q.from, sizeof(q.from), "%s", from ? from : "");
    CHECK(send(p->fd, &q, sizeof(q), MSG_NOSIGNAL) == sizeof(q));
    CHECK(recv(p->fd, &r, sizeof(r), 0) == sizeof(r));
    return r;
}

static inline int ask(const struct peer *p, enum peer_command command, unsigned slot,
                      const char *where)
{
    return ask_from(p, command, slot, where, NULL, PATIENCE_MS);
}

/* For two peers at once: the answer comes by tell() and then answer_of(). */
static inline void tell(const struct peer *p, enum peer_command command, unsigned slot,
                        const char *where)
{
    struct peer_request q = {.command = command, .slot = slot, .ms = PATIENCE_MS};

    snprintf(q.where, sizeof(q.where), "%s", where ? where : "");
    CHECK(send(p->fd, &q, sizeof(q), MSG_NOSIGNAL) == sizeof(q));
}

static inline int answer_of(const struct peer *p)
{
    int r;

    CHECK(recv(p->fd, &r, sizeof(r), 0) == sizeof(r));
    return r;
}

struct lan {
    struct peer client, other, server;
};

static inline void in_peer(const struct peer *p, const char *script)
{
    char line[4096];

    snprintf(line, sizeof(line), "nsenter --net=/proc/%d/ns/net sh -ec '%s'", p->pid, script);
    CHECK(system(line) == 0);
}

static inline void plug(const struct peer *p, const char *device, unsigned number)
{
    char line[1024];

    snprintf(line, sizeof(line),
             "set -e; ip link add %s type veth peer name eth0 netns %d; ip link set %s up\n"
             "ip addr add 198.18.%u.1/24 dev %s; ip addr add 3fff:%u::1/64 dev %s "
             "nodad\n" ADDRESSES_SETTLE,
             device, p->pid, device, number, device, number, device);
    CHECK(system(line) == 0);
    snprintf(line, sizeof(line),
             "ip link set lo up; ip link set eth0 up; ip addr add 198.18.%u.2/24 dev eth0; "
             "ip addr add 3fff:%u::2/64 dev eth0 nodad; ip route add default via 198.18.%u.1; "
             "ip route add default via 3fff:%u::1; " ADDRESSES_SETTLE,
             number, number, number, number);
    in_peer(p, line);
}

static inline struct lan make_lan(void)
{
    if (!has_command("ip") || !has_command("nft") || !has_command("nsenter"))
        skip_because("ip, nft or nsenter is not installed");
    if (system("ip link add probe0 type veth peer name probe1 2>/dev/null && ip link del probe0") !=
        0)
        skip_because("no veth devices here");

    struct lan lan = {start_peer(), start_peer(), start_peer()};

    CHECK(system("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 "
                 "net.ipv6.conf.all.forwarding=1") == 0);
    plug(&lan.client, "lan0", 1);
    plug(&lan.other, "lan1", 2);
    plug(&lan.server, "wan0", 9);
    in_peer(&lan.server,
            "ip addr add 203.0.113.5/32 dev lo; ip addr add 203.0.113.6/32 dev lo; "
            "ip addr add 10.9.9.9/32 dev lo; ip addr add 2001:db8::5/128 dev lo "
            "nodad; " ADDRESSES_SETTLE "; "
            "nft \"table inet count { counter seen {}; chain in { type filter hook prerouting "
            "priority -400; iifname eth0 meta l4proto tcp counter name seen; }; }\"");
    CHECK(system("set -e; ip route add 203.0.113.0/24 via 198.18.9.2; ip route add 10.9.9.9/32 "
                 "via 198.18.9.2; ip route add 2001:db8::/32 via 3fff:9::2") == 0);
    return lan;
}

/* Every TCP packet that came to the server so far. */
static inline int packets_at_server(const struct lan *lan)
{
    return ask(&lan->server, PEER_COUNT, 0, NULL);
}

#endif
