/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The seats of honest connect (capture.h): each worker has one of its own, also beside the workers
 * of an earlier generation that still finish their flows. The descriptors belong to the keeper, so
 * that a worker which is started again goes on reading where the dead one stopped.
 */
#ifndef UNDERSOCK_KEEPER_SEATS_H
#define UNDERSOCK_KEEPER_SEATS_H

#include <stdbool.h>
#include <stddef.h>

#include "addr.h"
#include "capture.h"

/* Behind the ports of the captures' early listeners (keeper/listeners.h). */
#define SEATS_PORT        61144u
#define SEATS_CGROUP_PORT (SEATS_PORT + CAPTURE_SEATS)

struct seat_listener {
    int fd; /* -1: none */
    struct addr at;
};

struct seat {
    bool taken;
    int log;                     /* held SYNs of the nft captures; -1: none */
    struct seat_listener v4, v6; /* where those are connected */
};

struct seats;

int seats_create(struct seats **ret);
/* Closes all. NULL is allowed. */
void seats_destroy(struct seats *s);
/*
 * Takes `n` neighbours that are free. `nft`: with log sockets and listeners, `daemon`: on the
 * planned ports where they are free. Returns the first one's number, or -errno with `why`.
 */
int seats_take(struct seats *s, unsigned n, bool nft, bool daemon, char *why, size_t why_size);
void seats_release(struct seats *s, unsigned first, unsigned n);
const struct seat *seats_get(const struct seats *s, unsigned number);
/* All that are taken; the `n` from `first` on serve. `ret` has room for CAPTURE_SEATS. */
size_t seats_list(const struct seats *s, unsigned first, unsigned n, struct capture_seat *ret);
/* What seats_list() would say after the first seats_take(). */
size_t seats_plan(unsigned n, bool nft, struct capture_seat *ret);

/* A listener on loopback, on `port` or, when that is taken, on any; `ret->fd` -1 when the host
 * lacks the family. 0 or -errno. */
int seats_listen(bool v4, unsigned port, bool transparent, struct seat_listener *ret);

#endif
