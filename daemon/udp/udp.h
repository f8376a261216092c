/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * UDP through SOCKS5 (RFC 1928, section 7), as a worker does it: captured datagrams come in on
 * transparent sockets with their original destination, each client socket has one association with
 * an upstream, and answers leave with the remote's own address as their source.
 *
 * What holds:
 * - A datagram of a capture goes through an upstream, or its sender is told by ICMP port
 *   unreachable. It goes to its destination directly only where when-down = "direct" says so and
 *   every upstream is down; one that is up and has no UDP is not down.
 * - What cannot be passed on is counted by its reason (struct message_udp_stats).
 * - Any remote may answer through an association, not only those that were asked (full cone), but
 *   for private addresses where the capture leaves those alone.
 * - Fixed tables, bounded queues, bounded work for one event. When the table of associations is
 * full the client that holds most makes room for one that holds less (base/shares.h).
 */
#ifndef UNDERSOCK_UDP_UDP_H
#define UNDERSOCK_UDP_UDP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "capture.h"
#include "message.h"
#include "udp/packet.h"
#include "upstream/upstream.h"

/* What becomes of a capture's datagrams. */
enum udp_mode {
    UDP_MODE_ASSOCIATE, /* through an association; refused when it cannot be had */
    UDP_MODE_REJECT,    /* ICMP port unreachable */
};

struct udp_capture {
    const char *name;
    enum udp_mode mode;
    bool private; /* it takes what is for private addresses, so answers come from there, too */
    struct upstream_choice *choice; /* not used for UDP_MODE_REJECT */
};

/*
 * Sends whole IP packets to the clients, `n` of them, without waiting: inject_send(). Returns how
 * many of them were sent, or -errno when none was. What a packet points to is the caller's.
 */
struct udp_inject {
    int (*send)(void *ctx, const struct udp_packet *packets, unsigned n);
    void *ctx;
};

/*
 * Where captured datagrams are received: non-blocking, IP_TRANSPARENT and IP_RECVORIGDSTADDR, or
 * IPV6_TRANSPARENT, IPV6_RECVORIGDSTADDR and IPV6_V6ONLY. The kernel keeps all datagrams of a
 * client socket on one listener (SO_REUSEPORT hashes its address and port).
 */
struct udp_listener {
    int fd;           /* stays the caller's */
    uint32_t capture; /* index */
};

/*
 * Takes a datagram away from the engine: true when it was taken (DNS). `client`: who sent it,
 * `destination`: to whom. An answer goes by udp_answer(), now or later. Asked before anything else,
 * whatever the capture's mode is. Must not destroy or drain the table.
 */
typedef bool (*udp_taker_fn)(void *ctx, uint32_t capture, const struct addr *client,
                             const struct addr *destination, const uint8_t *data, size_t len);

/*
 * The name behind an address that stands for one (fake DNS); NULL: the address is a real one; "":
 * it stands for nothing any more, and is refused. Valid until the next call.
 *
 * A datagram to such an address leaves with the name in its header, whether the upstream is socks5
 * or socks5h, as nobody else could resolve it. "direct" cannot take it: it is refused. How answers
 * find back is in udp/names.h.
 */
typedef const char *(*udp_name_fn)(void *ctx, const struct addr *destination);

/*
 * Who is asked in the place of `destination` (dns-server); NULL: nobody. Valid until the next call.
 * To the client its answers come from `destination`. Not asked where a datagram goes directly.
 */
typedef const struct addr *(*udp_server_fn)(void *ctx, uint32_t capture,
                                            const struct addr *destination);

#define UDP_KINDS 3 /* of the loop */

struct udp_table_options {
    struct loop *loop;                  /* with room for max_associations timers */
    unsigned first_kind;                /* of UDP_KINDS kinds of the loop, all the engine's */
    const struct udp_capture *captures; /* these arrays live as long as the table */
    size_t n_captures;
    const struct udp_listener *listeners;
    size_t n_listeners;
    struct udp_inject inject;
    const struct addr *ours; /* our listeners' and the upstreams' addresses: a datagram to one has
                                come back, and is dropped */
    size_t n_ours;
    uint32_t max_associations;      /* of two descriptors each */
    int64_t idle_timeout;           /* of an association, nanoseconds; 0: 5 minutes */
    unsigned worker;                /* part of each association's id */
    udp_taker_fn taker;             /* may be NULL */
    udp_name_fn name;               /* may be NULL */
    udp_server_fn server;           /* may be NULL */
    void (*on_empty)(void *ctx);    /* draining, and the last association has ended */
    void (*on_unproven)(void *ctx); /* an unproven upstream has come up; may be called often */
    void *ctx;                      /* of these five */
};

struct udp_table;

/* Registers the listeners. Needs no batch end of the loop. 0 or -errno. */
int udp_table_create(const struct udp_table_options *o, struct udp_table **ret);
/* Ends every association. NULL is allowed. */
void udp_table_destroy(struct udp_table *t);
/*
 * Reads no captured datagram any more: the listeners are shared with the worker that comes after,
 * which gives each client an association of its own. Those there are pass answers on until none has
 * come for 10 s, and at most for the idle timeout; then on_empty, at once if there are none.
 */
void udp_table_drain(struct udp_table *t);
/* Associations, those that failed and are remembered for a few seconds included. */
uint32_t udp_table_count(const struct udp_table *t);
void udp_table_stats(const struct udp_table *t, struct message_udp_stats *ret);
/*
 * As flow_table_records(): one record per association, of protocol IPPROTO_UDP. States: "dialing",
 * "relay", "refused". The destination is the one that was sent to last. Its id is never that of a
 * flow.
 */
size_t udp_table_records(const struct udp_table *t, uint32_t *cursor, struct message_flow *ret,
                         size_t max);
/* Sends a datagram from `source` to `client`. 0, or -errno (-EMSGSIZE: no datagram is that long;
 * -EAFNOSUPPORT: not of one family). */
int udp_answer(struct udp_table *t, const struct addr *source, const struct addr *client,
               const uint8_t *data, size_t len);
/* Tells `client` that `destination` cannot be reached there (ICMP port unreachable, RFC 792, RFC
 * 4443) with the beginning of the `len` bytes it sent. 0 or -errno; -EBUSY: too many of these at
 * this moment. */
int udp_refuse(struct udp_table *t, const struct addr *destination, const struct addr *client,
               const uint8_t *data, size_t len);

#endif
