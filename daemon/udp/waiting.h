/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Datagrams that wait for their association to be made. Inside udp/ only. */
#ifndef UNDERSOCK_UDP_WAITING_H
#define UNDERSOCK_UDP_WAITING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"

/* Of one association, and of all together. One datagram may wait whatever its length is. */
#define UDP_WAITING_DATAGRAMS 16
#define UDP_WAITING_BYTES     (32u * 1024)
#define UDP_WAITING_TOTAL     (8u * 1024 * 1024)

struct udp_waiter {
    struct udp_waiter *next;
    struct addr destination;
    uint32_t len;
    uint8_t data[];
};

struct udp_waiting {
    struct udp_waiter *first, **end; /* zeroed: empty */
    uint32_t n, bytes;
};

/* Keeps a copy; false: no room or memory. `total`: of all the queues, in bytes of memory. */
bool udp_waiting_add(struct udp_waiting *q, size_t *total, const struct addr *destination,
                     const uint8_t *data, size_t len);
/* The one that has waited longest, for the caller to free(); NULL: none. */
struct udp_waiter *udp_waiting_take(struct udp_waiting *q, size_t *total);
/* Frees all; returns how many there were. */
unsigned udp_waiting_clear(struct udp_waiting *q, size_t *total);

#endif
