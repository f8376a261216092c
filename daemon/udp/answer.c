/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engine itself says to a client: a datagram from anybody (DNS), and that nobody is there.
 * ICMP is limited as the kernel limits its own: per worker here, per association by its owner.
 */
#include <errno.h>

#include "udp/table.h"

#define ICMP_WINDOW     INT64_C(100000000)
#define ICMP_PER_WINDOW 100

int udp_answer(struct udp_table *t, const struct addr *source, const struct addr *client,
               const uint8_t *data, size_t len)
{
    struct udp_packet p;
    int r = packet_datagram(&p, source, client, data, len);

    if (r == 0)
        r = t->o.inject.send(t->o.inject.ctx, &p, 1);
    return r < 0 ? r : 0;
}

int udp_refuse(struct udp_table *t, const struct addr *destination, const struct addr *client,
               const uint8_t *data, size_t len)
{
    struct udp_packet p;
    int64_t now = loop_now(t->o.loop);

    if (now - t->icmp_window >= ICMP_WINDOW) {
        t->icmp_window = now;
        t->icmp_sent = 0;
    }
    if (t->icmp_sent == ICMP_PER_WINDOW)
        return -EBUSY;
    int r = packet_unreachable(&p, destination, client, data, len);

    if (r == 0)
        r = t->o.inject.send(t->o.inject.ctx, &p, 1);
    if (r >= 0)
        t->icmp_sent++;
    return r < 0 ? r : 0;
}

void udp_refuse_one(struct udp_table *t, struct udp_association *a, const struct udp_datagram *d)
{
    int64_t now = loop_now(t->o.loop);

    if ((a && now < a->next_refusal) ||
        udp_refuse(t, d->destination, &a->client, d->data, d->len) < 0) {
        t->stats.refused_quietly++;
        return;
    }
    a->next_refusal = now + t->times.refusal_gap;
    t->stats.refused++;
}
