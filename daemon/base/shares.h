/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of a table each client holds, so that one of them cannot keep all others out.
 *
 * A client is an address without its port. IPv6 hosts choose as many addresses of their /64 as they
 * like, but a whole LAN shares one, too: so the addresses are told apart, and the /64 counts as one
 * client only where it holds more than half of the table.
 *
 * Counts are found by a hash under a secret seed. Who shares a place with another shares the count.
 */
#ifndef UNDERSOCK_BASE_SHARES_H
#define UNDERSOCK_BASE_SHARES_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"

#define SHARES_PLACES 16384

struct shares {
    uint32_t *counts; /* SHARES_PLACES of them, at first 0; the caller's */
    uint32_t total;   /* entries of the table */
    uint64_t seed;
};

/* The places of a client's counts. Valid as long as the seed. */
struct shares_client {
    uint32_t host, net;
};

struct shares_client shares_client(const struct shares *s, const struct addr *client);
/* The client has one entry more, or one less. */
void shares_add(struct shares *s, struct shares_client c);
void shares_drop(struct shares *s, struct shares_client c);
uint32_t shares_of_host(const struct shares *s, struct shares_client c);
uint32_t shares_of_net(const struct shares *s, struct shares_client c);
/* Who holds more: < 0, 0 or > 0, as `a` holds less than `b`, as much, or more. */
int shares_compare(const struct shares *s, struct shares_client a, struct shares_client b);
/* Must `from` make room for `to` in a full table? Only where `from` may not take it back then. */
bool shares_yields(const struct shares *s, struct shares_client from, struct shares_client to);

#endif
