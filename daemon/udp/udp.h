/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * UDP through SOCKS5 (RFC 1928, section 7), as a worker does it: captured datagrams come in on
 * transparent sockets with their original destination, each client socket has one association with
 * an upstream, and answers leave with the remote's own address as their source.
 */
#ifndef UNDERSOCK_UDP_UDP_H
#define UNDERSOCK_UDP_UDP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "capture.h"
#include "message.h"
#include "upstream/upstream.h"

/* What becomes of a capture's datagrams. */
enum udp_mode {
    UDP_MODE_ASSOCIATE, /* through an association; refused when it cannot be had */
    UDP_MODE_REJECT,    /* ICMP port unreachable */
};

struct udp_capture {
    const char *name;
    enum udp_mode mode;
    struct upstream_choice *choice;
};

/*
 * Sends whole IP packets to the clients, `n` of them: an IPPROTO_RAW socket's work. Returns how
 * many were sent, or -errno when not even the first was.
 */
struct udp_inject {
    int (*send)(void *ctx, const struct udp_packet *packets, unsigned n);
    void *ctx;
};

/* Where captured datagrams are received: IP_TRANSPARENT, IP_RECVORIGDSTADDR or its IPv6 like. */
struct udp_listener {
    int fd; /* stays the caller's */
    uint32_t capture;
};

/*
 * Takes a datagram away from the engine: true when it was taken (DNS). `client`: who sent it,
 * `destination`: to whom. An answer goes by udp_answer().
 */
typedef bool (*udp_taker_fn)(void *ctx, uint32_t capture, const struct addr *client,
                             const struct addr *destination, const uint8_t *data, size_t len);

/* The name behind an address that stands for one (fake DNS), or NULL. Valid until the next call. */
typedef const char *(*udp_name_fn)(void *ctx, const struct addr *destination);

struct udp_table_options {
    struct loop *loop;
    unsigned first_kind; /* of 4 kinds of the loop, all the engine's */
    const struct udp_capture *captures; /* these arrays live as long as the table */
    size_t n_captures;
    const struct udp_listener *listeners;
    size_t n_listeners;
    struct udp_inject inject;
    const struct addr *ours; /* upstreams' addresses: a datagram to one has come back, and is dropped */
    size_t n_ours;
    uint32_t max_associations;
    int64_t idle_timeout; /* of an association, nanoseconds */
    unsigned worker;      /* part of each association's id */
    udp_taker_fn taker;   /* may be NULL */
    udp_name_fn name;     /* may be NULL */
    void *ctx;            /* of those two and the next */
    void (*on_empty)(void *ctx); /* draining, and the last association has ended */
};

struct udp_table;

/* Registers the listeners. 0 or -errno. */
int udp_table_create(const struct udp_table_options *o, struct udp_table **ret);
/* Ends every association. NULL is allowed. */
void udp_table_destroy(struct udp_table *t);
/* Takes no more new clients; associations there are go on until they are idle for 10 s. */
void udp_table_drain(struct udp_table *t);
uint32_t udp_table_count(const struct udp_table *t);
void udp_table_stats(const struct udp_table *t, struct message_udp_stats *ret);
/* As flow_table_records(): one record per association, of protocol UDP. */
size_t udp_table_records(const struct udp_table *t, uint32_t *cursor, struct message_flow *ret,
                         size_t max);
/* Sends a datagram from `source` to `client`. */
int udp_answer(struct udp_table *t, const struct addr *source, const struct addr *client,
               const uint8_t *data, size_t len);
/* Tells `client` that `destination` cannot be reached there (ICMP port unreachable, RFC 792, RFC
 * 4443) with `len` bytes of what it sent. */
int udp_refuse(struct udp_table *t, const struct addr *destination, const struct addr *client,
               const uint8_t *data, size_t len);

#endif
