/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp/inject.h. The kernel routes by the destination alone and takes any source. It checks a packet
 * against the MTU of the device and, behind that, of the route, and says EMSGSIZE: only then is the
 * MTU asked for, on a socket connected to the client, and the packet is cut up here.
 *
 * Our own conntrack puts the fragments together and cuts them up again, so that a firewall sees
 * whole datagrams. That is as it should be.
 */
#include "udp/inject.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/fd.h"

#define BATCH         32
#define SEND_QUEUE    (1 << 20) /* bytes; the kernel's limit may be lower */
#define FRAGMENTS     2000      /* of one packet; 1365 would do at the least MTU there is */
#define MTU_UNKNOWN_4 576
#define MTU_UNKNOWN_6 1280

enum { V4, V6 };

struct inject {
    int fd[2];
    uint32_t mark;
    uint32_t id; /* of the last fragmented packet */
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH][2];
    struct sockaddr_storage to[BATCH];
    struct packet_fragment fragments[BATCH];
};

static int open_raw(int family, uint32_t mark)
{
    int fd = socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW);
    int one = 1, queue = SEND_QUEUE, nothing = 0, r = 0;

    if (fd < 0)
        return -errno;
    if (mark != 0 && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
        r = -errno;
    /* IPPROTO_RAW has it from the start; IPv6's newer option says the same. */
    if (r == 0 && family == AF_INET &&
        setsockopt(fd, IPPROTO_IP, IP_HDRINCL, &one, sizeof(one)) < 0)
        r = -errno;
    if (r == 0 && family == AF_INET6 &&
        setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &one, sizeof(one)) < 0)
        r = -errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &queue, sizeof(queue));
    /* Nobody reads what protocol 255 may bring. */
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &nothing, sizeof(nothing));
    if (r < 0)
        fd_close(&fd);
    return r < 0 ? r : fd;
}

int inject_open(uint32_t mark, struct inject **ret)
{
    struct inject *i = calloc(1, sizeof(*i));

    if (!i)
        return -ENOMEM;
    i->mark = mark;
    i->fd[V4] = open_raw(AF_INET, mark);
    i->fd[V6] = open_raw(AF_INET6, mark);
    int r = i->fd[V4] < 0 ? i->fd[V4] : i->fd[V6];

    if (r == -EAFNOSUPPORT && i->fd[V4] >= 0)
        r = 0;
    if (getrandom(&i->id, sizeof(i->id), 0) != sizeof(i->id))
        i->id = 1;
    if (r < 0) {
        inject_close(i);
        return r;
    }
    *ret = i;
    return 0;
}

void inject_close(struct inject *i)
{
    if (!i)
        return;
    fd_close(&i->fd[V4]);
    fd_close(&i->fd[V6]);
    free(i);
}

static unsigned family_of(const struct addr *client)
{
    return addr_is_v4(client) ? V4 : V6;
}

static void set_message(struct inject *i, unsigned at, const struct addr *client, const void *head,
                        size_t head_len, const uint8_t *payload, size_t payload_len)
{
    struct addr to = *client;

    to.port = 0; /* a raw socket would take it for a protocol */
    i->iov[at][0] = (struct iovec){.iov_base = (void *)head, .iov_len = head_len};
    i->iov[at][1] = (struct iovec){.iov_base = (void *)payload, .iov_len = payload_len};
    i->messages[at].msg_hdr = (struct msghdr){.msg_name = &i->to[at],
                                              .msg_namelen = addr_to_sockaddr(&to, &i->to[at]),
                                              .msg_iov = i->iov[at],
                                              .msg_iovlen = 2};
}

/* What a packet to this client may be long, at the first link. */
static uint32_t mtu_towards(const struct inject *i, const struct addr *client)
{
    bool v4 = addr_is_v4(client);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(client, &sa), size = sizeof(int);
    int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), mtu = 0;

    if (fd >= 0 &&
        (i->mark == 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &i->mark, sizeof(i->mark)) == 0) &&
        connect(fd, (struct sockaddr *)&sa, len) == 0)
        getsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU : IPV6_MTU, &mtu, &size);
    fd_close(&fd);
    if (mtu >= PACKET_MIN_MTU)
        return (uint32_t)mtu;
    return v4 ? MTU_UNKNOWN_4 : MTU_UNKNOWN_6;
}

static uint32_t next_id(struct inject *i)
{
    i->id++;
    if ((i->id & 0xffff) == 0)
        i->id++;
    return i->id;
}

/* All `n` messages or -errno: a datagram without one of its fragments is none. */
static int send_all(int fd, struct mmsghdr *messages, unsigned n)
{
    for (unsigned done = 0; done < n;) {
        int r = sendmmsg(fd, messages + done, n - done, MSG_DONTWAIT);

        if (r < 0 && errno != EINTR)
            return -errno;
        if (r > 0)
            done += (unsigned)r;
    }
    return 0;
}

static int send_cut(struct inject *i, int fd, const struct udp_packet *p)
{
    struct packet_cut cut = {.packet = p, .id = next_id(i), .mtu = mtu_towards(i, &p->client)};
    unsigned total = 0;
    int r;

    do {
        unsigned n = 0;

        for (r = 1; n < BATCH && total < FRAGMENTS; n++, total++) {
            struct packet_fragment *f = &i->fragments[n];

            r = packet_next_fragment(&cut, f);
            if (r <= 0)
                break;
            set_message(i, n, &p->client, f->head, f->head_len, f->payload, f->payload_len);
        }
        if (r < 0)
            return r;
        int sent = send_all(fd, i->messages, n);

        if (sent < 0)
            return sent;
    } while (r > 0 && total < FRAGMENTS);
    return r > 0 ? -EMSGSIZE : 0;
}

/* Of one family and at most BATCH. Returns how many were sent; `ret_error`: what the first of the
 * others met. */
static unsigned send_batch(struct inject *i, int fd, const struct udp_packet *packets, unsigned n,
                           int *ret_error)
{
    unsigned sent = 0;

    for (unsigned at = 0; at < n;) {
        for (unsigned k = at; k < n; k++)
            set_message(i, k, &packets[k].client, packets[k].head, packets[k].head_len,
                        packets[k].payload, packets[k].payload_len);
        int r = 0;

        /* Until it is cut up, nobody else uses the messages. */
        while (at < n && (r = sendmmsg(fd, i->messages + at, n - at, MSG_DONTWAIT)) > 0) {
            at += (unsigned)r;
            sent += (unsigned)r;
        }
        if (at == n || (r < 0 && errno == EINTR))
            continue;
        int error = r < 0 ? -errno : -EIO;

        if (error == -EMSGSIZE)
            error = send_cut(i, fd, &packets[at]);
        if (error == 0)
            sent++;
        else if (*ret_error == 0)
            *ret_error = error;
        at++;
        if (error == -EAGAIN || error == -ENOBUFS)
            break; /* so would be the rest */
    }
    return sent;
}

int inject_send(void *inject, const struct udp_packet *packets, unsigned n)
{
    struct inject *i = inject;
    unsigned sent = 0;
    int error = 0;

    for (unsigned at = 0; at < n;) {
        unsigned family = family_of(&packets[at].client), len = 1;

        while (at + len < n && len < BATCH && family_of(&packets[at + len].client) == family)
            len++;
        if (i->fd[family] >= 0)
            sent += send_batch(i, i->fd[family], packets + at, len, &error);
        else if (error == 0)
            error = -EAFNOSUPPORT;
        at += len;
    }
    return sent > 0 || n == 0 ? (int)sent : error;
}
