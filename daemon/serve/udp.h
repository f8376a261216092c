/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside serve/ only: UDP ASSOCIATE (RFC 1928 section 7). An association belongs to a session in
 * the state ASSOCIATED and ends with it.
 *
 *   client ──[header, payload]──▶ inner ─▶ outer[family] ──[payload]──▶ any destination
 *          ◀─[header, payload]──       ◀─              ◀─[payload]──── whoever answers
 *
 * `inner` is bound to the address at which the control connection came in, so that the client can
 * reach it. Whose datagrams it takes: the address of the control connection, with the port that the
 * request named or that the first right datagram came from; from then on it is connected, and the
 * kernel drops what others send. The outer sockets are opened when something is sent to their
 * family. They take what anybody sends to them (full cone), and the header tells the client who.
 *
 * Nothing is kept but datagrams to a name that is being looked up. What cannot be passed on at once
 * is dropped and counted, as a router would.
 */
#ifndef UNDERSOCK_SERVE_UDP_H
#define UNDERSOCK_SERVE_UDP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "serve/session.h"
#include "socks/socks.h"

#define UDP_BATCH       32    /* datagrams read by one system call */
#define UDP_PAYLOAD_MAX 65535 /* no datagram is longer */

/* Of one association: names that are remembered, datagrams and bytes that wait for them. */
#define UDP_NAMES         8
#define UDP_WAITING_MAX   32
#define UDP_WAITING_BYTES (128u * 1024)

enum udp_name_state {
    UDP_NAME_FREE,
    UDP_NAME_PENDING, /* a lookup is in flight, datagrams wait */
    UDP_NAME_KNOWN,   /* `at`, until `until` */
    UDP_NAME_FAILED,  /* datagrams are dropped until `until` */
};

struct udp_waiting;

struct udp_name {
    uint8_t state;              /* enum udp_name_state */
    struct udp_waiting *first;  /* PENDING */
    struct udp_waiting *latest; /* PENDING, when `first` is set */
    int64_t used, until;        /* monotonic ns */
    struct addr at;             /* the port is 0 */
    char name[SOCKS_NAME_MAX + 1];
};

enum udp_family { UDP_V4, UDP_V6, UDP_FAMILIES };

struct association {
    uint32_t generation;
    uint32_t next; /* in the free list */
    int inner;     /* -1: none, so for the others */
    int outer[UDP_FAMILIES];
    struct addr client; /* its port is 0 until it is known */
    bool connected;     /* `inner`, to `client` */
    int64_t last;       /* when a datagram was last passed on, monotonic ns */
    uint64_t up, down;  /* datagrams passed on */
    unsigned waiting;   /* datagrams, and their bytes */
    size_t waiting_bytes;
    struct udp_name names[UDP_NAMES];
};

struct udp_batch;

/* The server's part of it. */
struct udp {
    struct association *associations;
    uint32_t n, used, free;        /* those beyond `used` were never touched */
    unsigned lookups, max_lookups; /* in flight; also those whose association is gone */
    size_t waiting_bytes;          /* of all associations */
    struct udp_batch *batch;
};

/* associate.c */

/* Room for `n` associations, which use at most `max_lookups` of the resolver. 0 or -errno. */
int udp_create(uint32_t n, unsigned max_lookups, struct udp **ret);
/* No association may be left. */
void udp_destroy(struct udp *u);
/* The outward socket of a family, opened when it is not yet there. The descriptor or -errno. */
int udp_outer(struct serve *sv, struct association *a, enum udp_family family);
static inline enum udp_family udp_family_of(const struct addr *a)
{
    return addr_is_v4(a) ? UDP_V4 : UDP_V6;
}
/* What CONNECT cannot reach, UDP does not either: multicast, the broadcast. The port is not looked
 * at. */
bool udp_may_send_to(const struct addr *to);
/* `from` is the client, or could be while its port is not known. */
bool udp_is_client(const struct association *a, const struct addr *from);
/* From now on `from` is the client's address and port. 0 or -errno. */
int udp_learn_client(struct association *a, const struct addr *from);

/* datagrams.c */

int udp_batch_create(struct udp_batch **ret);
void udp_batch_destroy(struct udp_batch *b);
/* Reads one batch from the inner, or an outer socket, and passes it on. */
void udp_from_client(struct serve *sv, struct association *a);
void udp_from_outside(struct serve *sv, struct association *a, enum udp_family family);
/* Sends one payload, or drops and counts it. */
void udp_send_outside(struct serve *sv, struct association *a, const struct addr *to,
                      const void *payload, size_t len);

/* names.c */

/*
 * The address of a name, with `port`. 1: in `ret`. 0: not known; the payload was copied and is sent
 * when it is, or it was dropped and counted.
 */
int udp_name_lookup(struct serve *sv, struct association *a, const char *name, uint16_t port,
                    const void *payload, size_t len, struct addr *ret);
/* The answer to a lookup of the kind SERVE_KIND_UDP_NAME. */
void udp_name_resolved(struct serve *sv, uint64_t ref, int status, const struct addr *addresses,
                       size_t n);
/* Frees what waits. */
void udp_names_clear(struct serve *sv, struct association *a);

#endif
