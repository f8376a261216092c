/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Captured datagrams: received in batches, each with its original destination, and handed to its
 * client's association. Those that follow each other for one association go up together.
 */
#include <netinet/in.h>
#include <string.h>

#include "log.h"
#include "udp/table.h"

/* An association and the datagrams for it, in the batch's run. */
struct run {
    struct udp_association *a;
    unsigned n;
};

static void flush(struct udp_table *t, struct run *run)
{
    if (run->n > 0)
        udp_up(t, run->a, run->n);
    *run = (struct run){.a = NULL};
}

static bool original_destination(struct msghdr *m, struct addr *ret)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if ((c->cmsg_level == SOL_IP && c->cmsg_type == IP_ORIGDSTADDR) ||
            (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR)) {
            struct sockaddr_storage sa;
            size_t len = c->cmsg_len - CMSG_LEN(0);

            if (len > sizeof(sa))
                return false;
            memset(&sa, 0, sizeof(sa));
            memcpy(&sa, CMSG_DATA(c), len);
            return addr_from_sockaddr((struct sockaddr *)&sa, (socklen_t)len, ret) == 0;
        }
    }
    return false;
}

static void stray(struct udp_table *t, uint32_t capture)
{
    t->stats.dropped_stray++;
    if (!t->said_stray)
        log_warning("capture %s: a datagram that nobody redirected was dropped; our listener is "
                    "not for direct use (said once)",
                    t->o.captures[capture].name);
    t->said_stray = true;
}

static bool came_back(const struct udp_table *t, const struct addr *destination)
{
    for (size_t i = 0; i < t->o.n_ours; i++) {
        if (addr_equal(&t->o.ours[i], destination))
            return true;
    }
    return false;
}

/* The relay of one of our associations, where we send what has been sent to us? */
static bool is_relay(const struct udp_table *t, const struct addr *destination)
{
    for (uint32_t i = 0; i < t->n_used; i++) {
        const struct udp_association *a = &t->slots[i];

        if (a->state == UDP_RELAY && addr_equal(&a->relay_at, destination))
            return true;
    }
    return false;
}

/* Looking through the table takes long, so it is done only for a host that upstreams are on. */
static bool would_come_back(const struct udp_table *t, const struct addr *destination)
{
    for (size_t i = 0; i < t->o.n_ours; i++) {
        if (addr_same_ip(&t->o.ours[i], destination))
            return is_relay(t, destination);
    }
    return false;
}

static void loop_found(struct udp_table *t, uint32_t capture, const struct addr *client,
                       const struct addr *destination)
{
    char a[ADDR_STRLEN], b[ADDR_STRLEN];

    t->stats.dropped_loop++;
    if (!t->said_loop)
        log_warning("capture %s: a loop: %s sends to %s, which is our own listener or upstream; "
                    "the datagram was dropped. Exclude it with not-uid or not-to (said once)",
                    t->o.captures[capture].name, addr_format(client, a),
                    addr_format(destination, b));
    t->said_loop = true;
}

static void refuse(struct udp_table *t, const struct addr *client, const struct udp_datagram *d)
{
    if (udp_refuse(t, d->destination, client, d->data, d->len) < 0)
        t->stats.refused_quietly++;
    else
        t->stats.refused++;
}

/* No upstream is asked for the sake of a name that nobody knows any more. */
static bool stands_for_nothing(const struct udp_table *t, const struct addr *destination)
{
    const char *name = t->o.name ? t->o.name(t->o.ctx, destination) : NULL;

    return name && !*name;
}

static void new_client(struct udp_table *t, uint32_t capture, const struct addr *client,
                       const struct udp_datagram *d)
{
    if (stands_for_nothing(t, d->destination) || udp_is_refused(t, capture, client)) {
        refuse(t, client, d);
        return;
    }
    struct udp_association *a = udp_alloc(t, capture, client);

    if (!a) {
        udp_say_full(t, "the table of associations is full");
        refuse(t, client, d);
    } else if (would_come_back(t, d->destination)) {
        loop_found(t, capture, client, d->destination);
        udp_end(t, a);
    } else {
        udp_begin(t, a, d);
    }
}

static void for_client(struct udp_table *t, uint32_t capture, const struct addr *client,
                       const struct udp_datagram *d, struct run *run)
{
    if (run->a && addr_equal(&run->a->client, client)) {
        t->batch.run[run->n++] = *d;
        return;
    }
    flush(t, run);
    struct udp_association *a = udp_find(t, capture, client);

    if (!a) {
        new_client(t, capture, client, d);
    } else if (a->state == UDP_RELAY) {
        t->batch.run[0] = *d;
        *run = (struct run){.a = a, .n = 1};
    } else if (a->state == UDP_REFUSED) {
        udp_refuse_one(t, a, d);
    } else if (!udp_waiting_add(&a->waiting, &t->waiting_total, d->destination, d->data, d->len)) {
        t->stats.dropped_waiting++;
    }
}

/* Number `i` of the batch. */
static void take(struct udp_table *t, uint32_t capture, unsigned i, struct run *run)
{
    struct udp_batch *b = &t->batch;
    struct msghdr *m = &b->in[i].msg_hdr;
    struct addr client;
    const struct udp_datagram d = {&b->destination[i], b->in_iov[i].iov_base, b->in[i].msg_len};

    if ((m->msg_flags & MSG_TRUNC) ||
        addr_from_sockaddr(m->msg_name, m->msg_namelen, &client) < 0 ||
        !original_destination(m, &b->destination[i]) || d.destination->port == 0 ||
        addr_is_v4(&client) != addr_is_v4(d.destination)) {
        stray(t, capture);
    } else if (came_back(t, d.destination)) {
        loop_found(t, capture, &client, d.destination);
    } else if (t->o.taker && t->o.taker(t->o.ctx, capture, &client, d.destination, d.data, d.len)) {
        t->stats.taken++;
    } else if (t->o.captures[capture].mode == UDP_MODE_REJECT) {
        refuse(t, &client, &d);
    } else {
        for_client(t, capture, &client, &d, run);
    }
}

void udp_listener_event(struct udp_table *t, uint32_t index)
{
    struct run run = {.a = NULL};

    if (index >= t->o.n_listeners || t->draining)
        return;
    const struct udp_listener *l = &t->o.listeners[index];

    for (unsigned round = 0; round < UDP_ROUNDS; round++) {
        int n = udp_receive(t, l->fd, false);

        for (int i = 0; i < n; i++)
            take(t, l->capture, (unsigned)i, &run);
        flush(t, &run);
        if (n < UDP_BATCH)
            return;
    }
}
