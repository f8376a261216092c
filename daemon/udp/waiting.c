/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp/waiting.h */
#include "udp/waiting.h"

#include <stdlib.h>
#include <string.h>

bool udp_waiting_add(struct udp_waiting *q, size_t *total, const struct addr *destination,
                     const uint8_t *data, size_t len)
{
    size_t size = sizeof(struct udp_waiter) + len;

    if (q->n == UDP_WAITING_DATAGRAMS || (q->n > 0 && q->bytes + len > UDP_WAITING_BYTES) ||
        *total + size > UDP_WAITING_TOTAL)
        return false;
    struct udp_waiter *w = malloc(size);

    if (!w)
        return false;
    *w = (struct udp_waiter){.destination = *destination, .len = (uint32_t)len};
    memcpy(w->data, data, len);
    if (!q->first)
        q->end = &q->first;
    *q->end = w;
    q->end = &w->next;
    q->n++;
    q->bytes += (uint32_t)len;
    *total += size;
    return true;
}

struct udp_waiter *udp_waiting_take(struct udp_waiting *q, size_t *total)
{
    struct udp_waiter *w = q->first;

    if (!w)
        return NULL;
    q->first = w->next;
    q->n--;
    q->bytes -= w->len;
    *total -= sizeof(*w) + w->len;
    return w;
}

unsigned udp_waiting_clear(struct udp_waiting *q, size_t *total)
{
    unsigned n = q->n;

    for (struct udp_waiter *w; (w = udp_waiting_take(q, total));)
        free(w);
    return n;
}
