/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Datagrams up and down. Up: the header of RFC 1928 stands in front of the payload by an iovec, so
 * nothing is copied, and what goes through one association leaves with one sendmmsg(). Those of one
 * length to one destination go down the kernel's stack as one packet, which it cuts up at the end
 * (UDP_SEGMENT): for what sends fast that is most of the cost. Down: a
 * batch is received, looked at, and handed to the injection at once.
 *
 * What comes from the relay is hostile until it is proven otherwise, which for a datagram it never
 * is: one that is not right is dropped and counted, and changes nothing.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

#include "socks/socks5_udp.h"
#include "udp/table.h"

#define SEGMENT_MAX 1400 /* with its header */

/* Whom the datagram goes to: who is asked instead, which is remembered for the answer, or `to`.
 * NULL: no memory. */
static const struct addr *server_of(struct udp_table *t, struct udp_association *a,
                                    const struct addr *to)
{
    const struct addr *server = t->o.server ? t->o.server(t->o.ctx, a->capture, to) : NULL;

    if (!server || addr_equal(server, to))
        return to;
    if (!a->names)
        a->names = calloc(1, sizeof(*a->names));
    if (!a->names)
        return NULL;
    udp_names_redirected(a->names, to, server);
    return server;
}

static const char *name_of(struct udp_table *t, struct udp_association *a,
                           const struct addr *destination)
{
    if (!t->o.name)
        return NULL;
    const char *name = t->o.name(t->o.ctx, destination);

    if (name && !*name)
        return name;
    /* Without names there is nothing to remember. */
    if (name && !a->names)
        a->names = calloc(1, sizeof(*a->names));
    if (a->names)
        udp_names_asked(a->names, destination, name != NULL);
    return name;
}

/* The header for one destination, in place `k`. Its length, or < 0: it cannot be sent there. */
static int put_header(struct udp_table *t, struct udp_association *a, const struct addr *to,
                      unsigned k)
{
    const char *name = name_of(t, a, to);
    struct wire_writer w = wire_writer(t->batch.header[k], sizeof(t->batch.header[k]));
    struct socks_dest dest;

    if (name && (!*name || upstream_is_direct(a->upstream)))
        return -EHOSTUNREACH;
    if (upstream_is_direct(a->upstream))
        return 0;
    if (name && !a->names)
        return -ENOMEM; /* the answer would not find back */
    if (name && socks_dest_set_name(&dest, name, to->port) < 0)
        return -EINVAL;
    if (!name) {
        to = server_of(t, a, to);
        if (!to)
            return -ENOMEM;
        socks_dest_set_addr(&dest, to);
    }
    int r = socks5_encode_udp(&w, 0, &dest);

    return r < 0 ? r : (int)w.pos;
}

/* Headers for `n` datagrams of the run; returns how many can be sent. */
static unsigned prepare(struct udp_table *t, struct udp_association *a, unsigned n)
{
    struct udp_batch *b = &t->batch;
    bool direct = upstream_is_direct(a->upstream);
    unsigned k = 0, head = 0;
    int head_len = -1;

    for (unsigned i = 0; i < n; i++) {
        const struct udp_datagram *d = &b->run[i];

        /* Most often it is where the one before went. */
        if (i == 0 || !addr_equal(d->destination, b->run[i - 1].destination)) {
            head = k;
            head_len = put_header(t, a, d->destination, head);
            if (head_len >= 0 && direct)
                addr_to_sockaddr(d->destination, &b->to[head]);
        }
        if (head_len < 0) {
            udp_refuse_one(t, a, d);
            continue;
        }
        b->out_iov[k][0] = (struct iovec){.iov_base = b->header[head], .iov_len = (size_t)head_len};
        b->out_iov[k][1] = (struct iovec){.iov_base = (void *)d->data, .iov_len = d->len};
        b->out_head[k] = (uint8_t)head;
        b->out_at[k++] = (uint8_t)i;
    }
    return k;
}

static size_t size_of(const struct udp_batch *b, unsigned k)
{
    return b->out_iov[k][0].iov_len + b->out_iov[k][1].iov_len;
}

/* How many from the `from`th on go out as segments of one message: all of one length, but for the
 * last, which may be shorter; and each of them short enough for any path. */
static unsigned segments(const struct udp_batch *b, bool direct, unsigned from, unsigned n)
{
    size_t size = size_of(b, from);
    unsigned k = from + 1;

    /* The relay reads from each header where it goes; directly, one message has one address. */
    for (unsigned i = k; direct && i < n; i++) {
        if (b->out_head[i] != b->out_head[from])
            n = i;
    }
    if (size == 0 || size > SEGMENT_MAX)
        return 1;
    while (k < n && size_of(b, k) == size)
        k++;
    if (k < n && size_of(b, k) < size && size_of(b, k) > 0)
        k++;
    return k - from;
}

/* The messages for the datagrams from the `from`th on, from the `at`th message on; returns the
 * number of messages. */
static unsigned arrange(struct udp_batch *b, bool direct, bool one_by_one, unsigned from,
                        unsigned n, unsigned at)
{
    for (unsigned k = from; k < n; at++) {
        unsigned count = one_by_one ? 1 : segments(b, direct, k, n);
        struct msghdr *m = &b->out[at].msg_hdr;

        *m = (struct msghdr){.msg_name = direct ? &b->to[b->out_head[k]] : NULL,
                             .msg_namelen = direct ? sizeof(b->to[0]) : 0,
                             .msg_iov = b->out_iov[k],
                             .msg_iovlen = 2 * count};
        if (count > 1) {
            uint16_t size = (uint16_t)size_of(b, k);

            m->msg_control = b->out_cmsg[at].space;
            m->msg_controllen = CMSG_SPACE(sizeof(size));
            struct cmsghdr *c = CMSG_FIRSTHDR(m);

            c->cmsg_level = SOL_UDP;
            c->cmsg_type = UDP_SEGMENT;
            c->cmsg_len = CMSG_LEN(sizeof(size));
            memcpy(CMSG_DATA(c), &size, sizeof(size));
        }
        b->out_n[at] = (uint8_t)count;
        k += count;
    }
    return at;
}

static void count_up(struct udp_table *t, struct udp_association *a, unsigned from, unsigned to)
{
    for (; from < to; from++) {
        size_t len = t->batch.run[t->batch.out_at[from]].len;

        t->stats.datagrams_up++;
        t->stats.bytes_up += len;
        a->bytes_up += len;
    }
}

/* What is to become of the message that could not be sent, and of those behind it. */
enum verdict { AGAIN, DROP_IT, REFUSE_IT, SPLIT_IT, DROP_ALL, GONE };

static enum verdict judge(int error, bool direct, unsigned n)
{
    switch (error) {
    case EINTR:
        return AGAIN;
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
        return DROP_ALL; /* so would be the rest */
    case ECONNREFUSED:
        return direct ? AGAIN : GONE; /* an earlier one's */
    default:
        if (n > 1)
            return SPLIT_IT; /* the kernel, the device or the path wants them one by one */
        if (error == EMSGSIZE)
            return DROP_IT; /* too long with its header */
        return direct ? REFUSE_IT : GONE;
    }
}

bool udp_up(struct udp_table *t, struct udp_association *a, unsigned n)
{
    struct udp_batch *b = &t->batch;
    bool direct = upstream_is_direct(a->upstream);

    a->destination = *b->run[n - 1].destination;
    udp_touch(t, a);
    n = prepare(t, a, n);
    unsigned messages = arrange(b, direct, a->one_by_one, 0, n, 0);

    /* `done` datagrams in `at` messages are behind us. */
    for (unsigned done = 0, at = 0; at < messages;) {
        int r = sendmmsg(a->relay, b->out + at, messages - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        int error = r > 0 ? 0 : errno;

        for (; r > 0; r--) {
            count_up(t, a, done, done + b->out_n[at]);
            done += b->out_n[at++];
        }
        if (error == 0)
            continue;
        switch (judge(error, direct, b->out_n[at])) {
        case AGAIN:
            break;
        case REFUSE_IT:
            udp_refuse_one(t, a, &b->run[b->out_at[done]]);
            done++;
            at++;
            break;
        case DROP_IT:
            t->stats.dropped_up++;
            done++;
            at++;
            break;
        case SPLIT_IT:
            a->one_by_one = true;
            messages = arrange(b, direct, true, done, n, at);
            break;
        case DROP_ALL:
            t->stats.dropped_up += n - done;
            return true;
        case GONE:
            t->stats.dropped_up += n - done;
            udp_relay_gone(t, a, error);
            return false;
        }
    }
    return true;
}

/* Can the client be sent anything from there? What a network delivers from nobody, or from
 * everybody, is not let out by us either; nor does an upstream speak for hosts of a network that it
 * is not asked for. */
static bool proper_source(const struct udp_table *t, const struct udp_association *a,
                          const struct addr *from, bool literal)
{
    bool v4 = addr_is_v4(from);

    if (from->port == 0 || addr_equal(from, &a->client))
        return false;
    if (v4 ? from->ip[12] == 0 || from->ip[12] >= 224 : from->ip[0] == 0xff || addr_is_any(from))
        return false;
    if (addr_is_loopback(from) && !addr_is_loopback(&a->client))
        return false;
    return !literal || t->o.captures[a->capture].private || !addr_is_private(from) ||
           addr_same_ip(from, &a->destination);
}

/* Where an answer is from, as the client knows it; NULL: from nowhere. */
static const struct addr *source_of(struct udp_table *t, struct udp_association *a,
                                    const struct socks_dest *from)
{
    const struct addr *source = &from->addr;

    if (from->type == SOCKS_DEST_NAME)
        source = a->names
                     ? udp_names_by_name(a->names, from->name, from->addr.port, t->o.name, t->o.ctx)
                     : NULL;
    else if (a->names)
        source = udp_names_source(a->names, source);
    /* What stands for a name is private in part, and has been asked. */
    return source && proper_source(t, a, source, source == &from->addr) ? source : NULL;
}

/* One received datagram, number `i` of the batch, becomes a packet. */
static bool take_down(struct udp_table *t, struct udp_association *a, unsigned i, size_t len,
                      struct udp_packet *ret)
{
    struct udp_batch *b = &t->batch;
    const uint8_t *data = b->in_iov[i].iov_base;
    struct socks5_udp_header h = {.frag = 0};

    if (upstream_is_direct(a->upstream)) {
        if (addr_from_sockaddr((struct sockaddr *)&b->from[i], b->in[i].msg_hdr.msg_namelen,
                               &h.dest.addr) < 0)
            h.dest.addr.port = 0;
    } else {
        int r = socks5_decode_udp(data, len, &h);

        if (r < 0 || h.frag != 0) {
            t->stats.dropped_header += r < 0;
            t->stats.dropped_fragment += r >= 0;
            return false;
        }
        data += r;
        len -= (size_t)r;
    }
    const struct addr *source = source_of(t, a, &h.dest);

    /* One of the other family cannot be built. */
    if (!source || packet_datagram(ret, source, &a->client, data, len) < 0) {
        t->stats.dropped_source++;
        return false;
    }
    return true;
}

static void inject(struct udp_table *t, struct udp_association *a, unsigned n)
{
    struct udp_batch *b = &t->batch;
    int r = t->o.inject.send(t->o.inject.ctx, b->packets, n);
    unsigned sent = r < 0 ? 0 : (unsigned)r;

    t->stats.datagrams_down += sent;
    t->stats.dropped_down += n - sent;
    a->datagrams_down += sent;
    for (unsigned i = 0; i < sent; i++) {
        t->stats.bytes_down += b->packets[i].payload_len;
        a->bytes_down += b->packets[i].payload_len;
    }
}

void udp_relay_event(struct udp_table *t, struct udp_association *a)
{
    struct udp_batch *b = &t->batch;
    bool direct = upstream_is_direct(a->upstream);
    struct mmsghdr *m = direct ? b->in : b->plain;

    for (unsigned round = 0; round < UDP_ROUNDS; round++) {
        unsigned k = 0;
        int n = udp_receive(t, a->relay, !direct);

        if (n == -EAGAIN || n == -EINTR || n == 0)
            return;
        if (n < 0) {
            if (!direct)
                udp_relay_gone(t, a, -n);
            return;
        }
        for (int i = 0; i < n; i++) {
            if (take_down(t, a, (unsigned)i, m[i].msg_len, &b->packets[k]))
                k++;
        }
        if (k > 0) {
            udp_touch(t, a);
            inject(t, a, k);
        }
        if (n < UDP_BATCH)
            return;
    }
}
