/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Datagrams up and down. Up: the header of RFC 1928 stands in front of the payload by an iovec, so
 * nothing is copied, and what goes through one association leaves with one sendmmsg(). Down: a
 * batch is received, looked at, and handed to the injection at once.
 *
 * What comes from the relay is hostile until it is proven otherwise, which for a datagram it never
 * is: one that is not right is dropped and counted, and changes nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "socks/socks5_udp.h"
#include "udp/table.h"

static const char *name_of(struct udp_table *t, struct udp_association *a,
                           const struct addr *destination)
{
    if (!t->o.name)
        return NULL;
    const char *name = t->o.name(t->o.ctx, destination);

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

    if (upstream_is_direct(a->upstream))
        return name ? -EHOSTUNREACH : 0;
    if (name && !a->names)
        return -ENOMEM; /* the answer would not find back */
    if (name && socks_dest_set_name(&dest, name, to->port) < 0)
        return -EINVAL;
    if (!name)
        socks_dest_set_addr(&dest, to);
    int r = socks5_encode_udp(&w, 0, &dest);

    return r < 0 ? r : (int)w.pos;
}

/* Fills in the messages for `n` datagrams of the run; returns how many there are. */
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
        b->out[k].msg_hdr = (struct msghdr){.msg_name = direct ? &b->to[head] : NULL,
                                            .msg_namelen = direct ? sizeof(b->to[head]) : 0,
                                            .msg_iov = b->out_iov[k],
                                            .msg_iovlen = 2};
        b->out_at[k++] = (uint8_t)i;
    }
    return k;
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

bool udp_up(struct udp_table *t, struct udp_association *a, unsigned n)
{
    struct udp_batch *b = &t->batch;
    bool direct = upstream_is_direct(a->upstream);

    a->destination = *b->run[n - 1].destination;
    udp_touch(t, a);
    n = prepare(t, a, n);
    for (unsigned done = 0; done < n;) {
        int r = sendmmsg(a->relay, b->out + done, n - done, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (r > 0) {
            count_up(t, a, done, done + (unsigned)r);
            done += (unsigned)r;
            continue;
        }
        switch (r < 0 ? errno : EIO) {
        case EINTR:
            break;
        case EAGAIN:
        case ENOBUFS:
        case ENOMEM: /* so would be the rest */
            t->stats.dropped_up += n - done;
            return true;
        case EMSGSIZE: /* too long with its header */
            t->stats.dropped_up++;
            done++;
            break;
        default:
            if (direct) { /* it is about this destination */
                udp_refuse_one(t, a, &b->run[b->out_at[done++]]);
                break;
            }
            t->stats.dropped_up += n - done;
            udp_relay_gone(t, a, errno);
            return false;
        }
    }
    return true;
}

/* Can the client be sent anything from there? What a network delivers from nobody, or from
 * everybody, is not let out by us either. */
static bool proper_source(const struct udp_association *a, const struct addr *from)
{
    bool v4 = addr_is_v4(from);

    if (v4 != addr_is_v4(&a->client) || from->port == 0 || addr_equal(from, &a->client))
        return false;
    if (v4 ? from->ip[12] == 0 || from->ip[12] >= 224 : from->ip[0] == 0xff || addr_is_any(from))
        return false;
    return !addr_is_loopback(from) || addr_is_loopback(&a->client);
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
    return source && proper_source(a, source) ? source : NULL;
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
