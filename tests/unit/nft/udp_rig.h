/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a worker does with UDP, as little of it as the tests of the rules need: listeners that say
 * who sent what where, and answers on a raw socket in the name of anybody.
 */
#ifndef UNDERSOCK_TEST_NFT_UDP_RIG_H
#define UNDERSOCK_TEST_NFT_UDP_RIG_H

#include "hold_rig.h"

#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef IPV6_RECVORIGDSTADDR
#define IPV6_RECVORIGDSTADDR 74
#endif

/* For no packet to come: long enough that one on its way is there. */
#define QUIET_MS 100

struct datagram {
    struct addr from, to;
    char data[64];
};

/* A transparent listener of a policy. */
static inline int listen_udp(const char *where)
{
    struct addr at = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&at, &ss);
    bool v6 = ss.ss_family == AF_INET6;
    int level = v6 ? SOL_IPV6 : SOL_IP, one = 1;
    int fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0);
    CHECK(setsockopt(fd, level, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, &one, sizeof(one)) == 0);
    CHECK(setsockopt(fd, level, v6 ? IPV6_RECVORIGDSTADDR : IP_RECVORIGDSTADDR, &one,
                     sizeof(one)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&ss, len) == 0);
    return fd;
}

static inline bool next_datagram(int fd, struct datagram *ret, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct sockaddr_storage from;
    _Alignas(struct cmsghdr) char control[256];
    struct iovec iov = {ret->data, sizeof(ret->data) - 1};
    struct msghdr msg = {.msg_name = &from,
                         .msg_namelen = sizeof(from),
                         .msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    bool found = false;

    if (poll(&p, 1, ms) != 1)
        return false;
    ssize_t n = recvmsg(fd, &msg, 0);

    CHECK(n >= 0);
    ret->data[n] = '\0';
    CHECK(addr_from_sockaddr((struct sockaddr *)&from, msg.msg_namelen, &ret->from) == 0);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if ((c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVORIGDSTADDR) ||
            (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVORIGDSTADDR))
            found = addr_from_sockaddr((struct sockaddr *)CMSG_DATA(c),
                                       (socklen_t)(c->cmsg_len - CMSG_LEN(0)), &ret->to) == 0;
    CHECK(found);
    return true;
}

/* Puts an IP header with a pseudo checksum before the datagram; returns the length. */
static inline size_t make_packet(const struct addr *from, const struct addr *to, const char *data,
                                 uint8_t packet[512])
{
    bool v4 = addr_is_v4(from);
    size_t header = v4 ? 20 : 40, len = 8 + strlen(data);
    uint8_t *udp = packet + header;
    uint32_t sum = IPPROTO_UDP + (uint32_t)len;

    memset(packet, 0, 512);
    if (v4) {
        packet[0] = 0x45;
        packet[8] = 64;
        packet[9] = IPPROTO_UDP;
        memcpy(packet + 12, from->ip + 12, 4);
        memcpy(packet + 16, to->ip + 12, 4);
        sum = add_words(packet + 12, 8, sum);
    } else {
        packet[0] = 0x60;
        packet[5] = (uint8_t)len;
        packet[6] = IPPROTO_UDP;
        packet[7] = 64;
        memcpy(packet + 8, from->ip, 16);
        memcpy(packet + 24, to->ip, 16);
        sum = add_words(packet + 8, 32, sum);
    }
    udp[0] = (uint8_t)(from->port >> 8);
    udp[1] = (uint8_t)from->port;
    udp[2] = (uint8_t)(to->port >> 8);
    udp[3] = (uint8_t)to->port;
    udp[5] = (uint8_t)len;
    memcpy(udp + 8, data, strlen(data));
    sum = add_words(udp, len, sum);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    udp[6] = (uint8_t)(~sum >> 8);
    udp[7] = (uint8_t)~sum;
    return header + len;
}

/* Sends `to` a datagram in the name of `from`. */
static inline void answer_as(const struct addr *from, const struct addr *to, const char *data,
                             uint32_t mark)
{
    uint8_t packet[512];
    size_t len = make_packet(from, to, data, packet);
    bool v4 = addr_is_v4(from);
    struct addr bare = *to;
    struct sockaddr_storage ss;
    int one = 1, fd = socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

    bare.port = 0;
    socklen_t ss_len = addr_to_sockaddr(&bare, &ss);

    CHECK(fd >= 0);
    if (!v4)
        CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &one, sizeof(one)) == 0);
    if (mark != 0)
        CHECK(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0);
    CHECK(sendto(fd, packet, len, 0, (struct sockaddr *)&ss, ss_len) == (ssize_t)len);
    close(fd);
}

/* An application's socket receives `data` from `where`. */
static inline bool receives(int fd, const char *where, const char *data)
{
    struct addr a, expected = parse_addr(where);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    char buf[64];

    if (poll(&p, 1, PATIENCE_MS) != 1)
        return false;
    ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&ss, &len);

    CHECK(n >= 0 && addr_from_sockaddr((struct sockaddr *)&ss, len, &a) == 0);
    return (size_t)n == strlen(data) && memcmp(buf, data, (size_t)n) == 0 &&
           addr_equal(&a, &expected);
}

/* 0 or -errno. `family`: that of the socket. */
static inline int send_to(int fd, sa_family_t family, const char *where)
{
    struct addr to = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&to, &ss);

    if (family == AF_INET6 && ss.ss_family == AF_INET) {
        struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(to.port)};

        memcpy(&mapped.sin6_addr, to.ip, 16);
        return sendto(fd, "ask", 3, 0, (struct sockaddr *)&mapped, sizeof(mapped)) < 0 ? -errno : 0;
    }
    return sendto(fd, "ask", 3, 0, (struct sockaddr *)&ss, len) < 0 ? -errno : 0;
}

static inline int udp_socket(sa_family_t family)
{
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0);
    return fd;
}

/* Counts the UDP that leaves by wan0. */
static inline void watch_leaks(void)
{
    CHECK(
        system("nft 'table inet leaks { counter seen {}; chain out { type filter hook postrouting "
               "priority 300; oifname wan0 meta l4proto udp counter name seen; }; }'") == 0);
}

static inline int leaks(void)
{
    char *text =
        output_of("nft list counter inet leaks seen | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p'");
    int n;

    CHECK(text);
    n = atoi(text);
    free(text);
    return n;
}

#endif
