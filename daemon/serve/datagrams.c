/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What moves through a UDP association, a batch at a time, in both directions. The sockets are
 * watched level-triggered and each event reads one batch, so that no association keeps the others
 * waiting.
 *
 * There is one batch for all: nothing stays in it between two events. A datagram is read into its
 * place behind some headroom, and sent from there: up, without the header in front of it; down,
 * with a header that is written into the headroom.
 *
 * A socket with an error pending (an ICMP message about something sent before) reports it instead
 * of doing what it was asked to; that takes the error away, and says nothing of this datagram. So
 * reading goes on with the next event, and sending is tried once more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/wire.h"
#include "serve/udp.h"
#include "socks/socks5_udp.h"

/* RSV FRAG ATYP, an IPv6 address, a port. */
#define HEADROOM 22

/* Datagrams to be sent from one socket. */
struct outbox {
    unsigned n;
    struct mmsghdr messages[UDP_BATCH];
    struct iovec parts[UDP_BATCH];
    struct sockaddr_storage to[UDP_BATCH];
};

struct udp_batch {
    struct mmsghdr messages[UDP_BATCH];
    struct iovec parts[UDP_BATCH];
    struct sockaddr_storage from[UDP_BATCH];
    struct outbox out[UDP_FAMILIES];
    uint8_t space[UDP_BATCH][HEADROOM + UDP_PAYLOAD_MAX];
};

int udp_batch_create(struct udp_batch **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

void udp_batch_destroy(struct udp_batch *b)
{
    free(b);
}

/* How many were read; 0: none, or an error that is over now. */
static unsigned receive(struct udp_batch *b, int fd)
{
    int n;

    for (unsigned i = 0; i < UDP_BATCH; i++) {
        b->parts[i] = (struct iovec){b->space[i] + HEADROOM, UDP_PAYLOAD_MAX};
        b->messages[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
                                                 .msg_namelen = sizeof(b->from[i]),
                                                 .msg_iov = &b->parts[i],
                                                 .msg_iovlen = 1};
    }
    do
        n = recvmmsg(fd, b->messages, UDP_BATCH, MSG_DONTWAIT, NULL);
    while (n < 0 && errno == EINTR);
    return n > 0 ? (unsigned)n : 0;
}

/* Datagram `i` of the batch. False: it is not whole, or from nobody. */
static bool received(const struct udp_batch *b, unsigned i, struct addr *ret_from, size_t *ret_len)
{
    const struct msghdr *m = &b->messages[i].msg_hdr;

    *ret_len = b->messages[i].msg_len;
    return !(m->msg_flags & MSG_TRUNC) &&
           addr_from_sockaddr(m->msg_name, m->msg_namelen, ret_from) == 0;
}

/* `to` NULL: where the socket is connected. */
static void put(struct outbox *o, void *data, size_t len, const struct addr *to)
{
    unsigned i = o->n++;

    o->parts[i] = (struct iovec){data, len};
    o->messages[i].msg_hdr = (struct msghdr){.msg_iov = &o->parts[i], .msg_iovlen = 1};
    if (to) {
        o->messages[i].msg_hdr.msg_name = &o->to[i];
        o->messages[i].msg_hdr.msg_namelen = addr_to_sockaddr(to, &o->to[i]);
    }
}

/* Sends and empties it. How many the kernel took; the others are counted. */
static unsigned flush(struct serve *sv, struct outbox *o, int fd)
{
    unsigned at = 0, sent = 0;
    bool again = false;

    while (at < o->n) {
        int n = sendmmsg(fd, o->messages + at, o->n - at, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            at += (unsigned)n;
            sent += (unsigned)n;
            again = false;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            break; /* the buffer is full: so it is for the rest */
        } else if (errno != EINTR && again) {
            *(errno == EMSGSIZE ? &sv->counters.udp_oversized : &sv->counters.udp_unsent) += 1;
            at++;
            again = false;
        } else if (errno != EINTR) {
            again = true;
        }
    }
    sv->counters.udp_unsent += o->n - at;
    o->n = 0;
    return sent;
}

/* Sends what is in the outbox of a family. */
static void flush_outside(struct serve *sv, struct association *a, enum udp_family family)
{
    struct outbox *o = &sv->udp->batch->out[family];

    if (o->n == 0)
        return;
    int fd = udp_outer(sv, a, family);

    if (fd < 0) {
        sv->counters.udp_unsent += o->n;
        o->n = 0;
        return;
    }
    unsigned sent = flush(sv, o, fd);

    if (sent > 0)
        a->last = loop_now(sv->loop);
    a->up += sent;
    sv->counters.udp_up += sent;
}

void udp_send_outside(struct serve *sv, struct association *a, const struct addr *to,
                      const void *payload, size_t len)
{
    struct sockaddr_storage sa;
    socklen_t sa_len = addr_to_sockaddr(to, &sa);
    int fd = udp_outer(sv, a, udp_family_of(to));

    for (unsigned i = 0; fd >= 0 && i < 2; i++) {
        if (sendto(fd, payload, len, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&sa, sa_len) <
            0)
            continue;
        a->last = loop_now(sv->loop);
        a->up++;
        sv->counters.udp_up++;
        return;
    }
    sv->counters.udp_unsent++;
}

/* One datagram from the client, into the outbox where it goes to. */
static void take_up(struct serve *sv, struct association *a, const struct addr *from, uint8_t *data,
                    size_t len)
{
    struct serve_counters *c = &sv->counters;
    struct socks5_udp_header h;
    struct addr to;

    if (!udp_is_client(a, from)) {
        c->udp_stranger++;
        return;
    }
    int used = socks5_decode_udp(data, len, &h);

    if (used < 0) {
        c->udp_malformed++;
        return;
    }
    if (h.frag != 0) {
        c->udp_fragment++;
        return;
    }
    if (!a->connected && udp_learn_client(a, from) < 0) {
        c->udp_unsent++;
        return;
    }
    to = h.dest.addr;
    data += used;
    len -= (size_t)used;
    bool is_name =
        h.dest.type == SOCKS_DEST_NAME && !session_literal(h.dest.name, h.dest.addr.port, &to);

    if (to.port == 0 || (!is_name && !udp_may_send_to(&to))) {
        c->udp_forbidden++;
        return;
    }
    if (is_name && udp_name_lookup(sv, a, h.dest.name, to.port, data, len, &to) == 0)
        return;
    put(&sv->udp->batch->out[udp_family_of(&to)], data, len, &to);
}

void udp_from_client(struct serve *sv, struct association *a)
{
    struct udp_batch *b = sv->udp->batch;
    unsigned n = receive(b, a->inner);
    struct addr from;
    size_t len;

    for (unsigned i = 0; i < n; i++) {
        if (received(b, i, &from, &len))
            take_up(sv, a, &from, b->space[i] + HEADROOM, len);
        else
            sv->counters.udp_malformed++;
    }
    flush_outside(sv, a, UDP_V4);
    flush_outside(sv, a, UDP_V6);
}

void udp_from_outside(struct serve *sv, struct association *a, enum udp_family family)
{
    struct udp_batch *b = sv->udp->batch;
    struct outbox *o = &b->out[UDP_V4]; /* either: only one socket is sent from here */
    unsigned n = receive(b, a->outer[family]);
    struct socks_dest dest;
    struct addr from;
    size_t len;

    for (unsigned i = 0; i < n; i++) {
        uint8_t header[HEADROOM];
        struct wire_writer w = wire_writer(header, sizeof(header));

        if (!received(b, i, &from, &len)) {
            sv->counters.udp_oversized++;
            continue;
        }
        socks_dest_set_addr(&dest, &from);
        if (socks5_encode_udp(&w, 0, &dest) < 0) /* it always fits */
            continue;
        uint8_t *start = b->space[i] + HEADROOM - w.pos;

        memcpy(start, header, w.pos);
        put(o, start, w.pos + len, NULL);
    }
    if (o->n == 0)
        return;
    unsigned sent = flush(sv, o, a->inner);

    if (sent > 0)
        a->last = loop_now(sv->loop);
    a->down += sent;
    sv->counters.udp_down += sent;
}
