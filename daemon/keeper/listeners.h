/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The listening sockets, held by the keeper across worker crashes and reloads: a connection that
 * comes while nobody accepts waits in the backlog. A listener belongs to a capture (by name and
 * hook) and a row; rows of one capture and family share a port (SO_REUSEPORT), so each worker has
 * its own queue.
 */
#ifndef UNDERSOCK_KEEPER_LISTENERS_H
#define UNDERSOCK_KEEPER_LISTENERS_H

#include <stdbool.h>
#include <stddef.h>

#include "capture.h"

/*
 * Where a daemon listens for its capture number i unless the port is taken: LISTENERS_PORT + i,
 * above the kernel's default range for outgoing connections. Known beforehand, so that `undersock
 * rules` prints what will be installed.
 */
#define LISTENERS_PORT 61080

struct listener {
    int fd;
    struct addr at;
    bool v4;
    unsigned row;
    unsigned number; /* the same for all of a capture and kind, and of no other capture */
    struct listener *next;
    char name[CAPTURE_NAME_MAX + 1];
    enum capture_hook hook;
    bool udp; /* of datagrams; its ports are others */
    bool wanted;
};

struct listeners;

int listeners_create(struct listeners **ret);
/* Closes all. NULL is allowed. */
void listeners_destroy(struct listeners *l);
/*
 * At least `rows` rows for the capture in each family that this host has; those there are are kept.
 * `port`: where to try first, 0: anywhere. The ports go to the policy (0 for a family without), and
 * their number as `early`, which is the lowest that no capture in the pool has. 0 or -errno with
 * `why`. Marks them wanted.
 */
int listeners_provide(struct listeners *l, struct capture_policy *policy, unsigned rows,
                      uint16_t port, char *why, size_t why_size);
/* The same for the UDP listeners, with udp_port_v4 and udp_port_v6 of the policy. */
int listeners_provide_udp(struct listeners *l, struct capture_policy *policy, unsigned rows,
                          uint16_t port, char *why, size_t why_size);
/* The listeners of a capture, of both kinds, one after the other: start with NULL; NULL at the end.
 */
struct listener *listeners_next(struct listeners *l, const struct capture_policy *policy,
                                struct listener *after);
/* Forgets all marks; listeners_prune() closes what was not marked since. */
void listeners_unmark(struct listeners *l);
/* Marks the one with this descriptor. */
void listeners_want(struct listeners *l, int fd);
void listeners_prune(struct listeners *l);

#endif
