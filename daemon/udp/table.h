/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside udp/ only: the association and the table that owns it.
 *
 * An association may end inside any call that is given it and says so. Its slot is free at once, so
 * that the next client can have it; an event that was fetched before carries the old generation and
 * is dropped. Nobody keeps a pointer across such a call.
 *
 * All sockets but the control connection while it is dialled are in the loop level-triggered: what
 * an event's budget leaves is looked at again after the others had their turn, without a list of
 * our own.
 */
#ifndef UNDERSOCK_UDP_TABLE_H
#define UNDERSOCK_UDP_TABLE_H

#include <sys/socket.h>

#include "base/shares.h"
#include "socks/socks.h"
#include "udp/names.h"
#include "udp/udp.h"
#include "udp/waiting.h"
#include "upstream/dial.h"

enum { KIND_LISTENER, KIND_CONTROL, KIND_RELAY }; /* from first_kind on */

#define UDP_NONE   UINT32_MAX
#define UDP_DIRECT UINT8_MAX /* in `order`: the destination itself */

/* Associations in state REFUSED with which a client, or a /64, is refused whatever its port is, by
 * the same capture. */
#define UDP_REFUSED_HOST 64
#define UDP_REFUSED_NET  1024

#define UDP_BATCH        32    /* datagrams received and sent at once */
#define UDP_ROUNDS       2     /* batches for one event */
#define UDP_DATAGRAM_MAX 65535 /* more than any */

/* What each state allows. */
enum udp_state {
    UDP_FREE,
    UDP_DIALING, /* an upstream is being asked; datagrams wait, within bounds */
    UDP_RELAY,   /* datagrams go both ways */
    UDP_REFUSED, /* no upstream gave one: no descriptors; datagrams are refused until it is over */
};

struct udp_association {
    uint32_t generation;
    uint32_t next;         /* in the bucket, or among the free */
    uint32_t newer, older; /* by last use, to the second */
    uint32_t capture;
    uint8_t state;    /* enum udp_state */
    bool up_but_no;   /* an upstream that is there gave none: never directly, then */
    bool waits_proof; /* for an unproven upstream; no socket */
    bool one_by_one;  /* UDP_SEGMENT does not do here */
    bool made_room;   /* another one has ended, so that the upstream has room for it */
    uint8_t proof_waits;
    uint8_t n_order, at;
    uint8_t order[UPSTREAM_CANDIDATES + 1];
    int control, relay;              /* -1: none */
    struct addr client, destination; /* the latter: of the last datagram */
    struct shares_client share;      /* of `client` */
    struct addr relay_at;            /* where the relay is; not of "direct" */
    struct upstream *upstream;
    int64_t started, active, listed;
    int64_t next_refusal; /* no ICMP before */
    uint64_t bytes_up, bytes_down, datagrams_down;
    struct timer timer; /* DIALING: of the dial; RELAY: idle; REFUSED: its end */
    struct udp_waiting waiting;
    struct udp_names *names; /* NULL: nothing stands for a name here */
    struct dial dial;
};

/* One datagram on its way up. */
struct udp_datagram {
    const struct addr *destination;
    const uint8_t *data;
    size_t len;
};

union udp_cmsg {
    struct cmsghdr align;
    uint8_t space[64];
};

/* Room for a batch in each direction. One event uses it at a time. */
struct udp_batch {
    uint8_t *space; /* mapped; UDP_BATCH buffers, touched as they are needed */
    struct iovec in_iov[UDP_BATCH];
    struct mmsghdr in[UDP_BATCH], plain[UDP_BATCH]; /* with and without the next two */
    struct sockaddr_storage from[UDP_BATCH];
    union udp_cmsg cmsg[UDP_BATCH];
    struct addr destination[UDP_BATCH];
    struct udp_datagram run[UDP_BATCH]; /* what goes up together */
    struct iovec out_iov[UDP_BATCH][2]; /* of what can be sent of it: header, payload */
    uint8_t out_at[UDP_BATCH];          /* its place in the run */
    uint8_t out_head[UDP_BATCH];        /* its place in the next two */
    uint8_t header[UDP_BATCH][SOCKS5_UDP_HEADER_MAX];
    struct sockaddr_storage to[UDP_BATCH];
    struct mmsghdr out[UDP_BATCH]; /* each is one of those, or several by UDP_SEGMENT */
    uint8_t out_n[UDP_BATCH];
    union udp_cmsg out_cmsg[UDP_BATCH];
    struct udp_packet packets[UDP_BATCH];
};

/* Times that a test may shorten; nanoseconds. */
struct udp_times {
    int64_t refused;      /* an association that could not be had is remembered */
    int64_t refusal_gap;  /* between two ICMP to one client, for one association */
    int64_t replace_idle; /* the table is full: who has been idle for so long may be replaced, even
                             by a client that holds as much */
    int64_t drain_idle;
    int64_t proof_wait;
};

struct udp_table {
    struct udp_table_options o;
    struct udp_times times;
    struct udp_association *slots;
    uint32_t *buckets;
    uint32_t bucket_mask;
    struct shares shares, refused; /* of all, and of those in state REFUSED */
    uint64_t seed, lot;
    uint32_t n_used, n; /* slots ever used: those beyond are untouched memory; in use now */
    uint32_t free, newest, oldest;
    size_t waiting_total;
    bool draining, said_loop, said_stray;
    int64_t drain_end, next_full_log;
    int64_t icmp_window; /* when it began */
    unsigned icmp_sent;  /* in it */
    struct message_udp_stats stats;
    struct udp_batch batch;
};

uint64_t udp_id(const struct udp_table *t, const struct udp_association *a);
uint64_t udp_ref(const struct udp_table *t, const struct udp_association *a, unsigned kind);
struct udp_association *udp_by_ref(struct udp_table *t, uint64_t ref);
struct udp_association *udp_find(struct udp_table *t, uint32_t capture, const struct addr *client);
/* In the table, in state DIALING, without descriptors; may end another. NULL: full, and no other
 * client holds more. */
struct udp_association *udp_alloc(struct udp_table *t, uint32_t capture, const struct addr *client);
/* The upstream has no room for this client: ends another's association there, of a client that
 * holds more. False: there is none. */
bool udp_make_room_at(struct udp_table *t, const struct udp_association *a,
                      const struct upstream *u);
/* Takes it out of the table; descriptors must be closed. May call on_empty. */
void udp_release(struct udp_table *t, struct udp_association *a);
/* A datagram came by: it is the one used last. */
void udp_touch(struct udp_table *t, struct udp_association *a);
/* Its places in `refused`: others by another capture, whose upstreams may be better to it. */
struct shares_client udp_refused_share(const struct udp_table *t, uint32_t capture,
                                       const struct addr *client);
/* Has it, with other ports, been refused so often that it is not worth asking for it? */
bool udp_is_refused(const struct udp_table *t, uint32_t capture, const struct addr *client);
/* Says that something is used up, every ten seconds at most, and counts a datagram. */
void udp_say_full(struct udp_table *t, const char *what);
/* Receives up to UDP_BATCH datagrams. As recvmmsg(), but -errno. */
int udp_receive(struct udp_table *t, int fd, bool plain);

/* Captured datagrams (listener.c). */
void udp_listener_event(struct udp_table *t, uint32_t index);

/* Life (association.c). */
/* Makes one for a client that has none, for its first datagram, which waits or is refused. The
 * association may be in any state after, or have ended. */
void udp_begin(struct udp_table *t, struct udp_association *a, const struct udp_datagram *first);
void udp_control_event(struct udp_table *t, struct udp_association *a, uint32_t events);
/* The relay said that nobody is there (`error`), to what was sent last. Ends the association. */
void udp_relay_gone(struct udp_table *t, struct udp_association *a, int error);
/* Closes, forgets. */
void udp_end(struct udp_table *t, struct udp_association *a);
/* Refuses a datagram of the association's client, within the limits; counts. */
void udp_refuse_one(struct udp_table *t, struct udp_association *a, const struct udp_datagram *d);
/* After udp_table_drain(): RELAY associations look at the clock anew. */
void udp_idle_check(struct udp_table *t, struct udp_association *a);

/* The datagrams themselves (relay.c). */
/* Sends the first `n` of the batch's run through an association in state RELAY. False: it has
 * ended. */
bool udp_up(struct udp_table *t, struct udp_association *a, unsigned n);
/* Its socket has something. The association may have ended after. */
void udp_relay_event(struct udp_table *t, struct udp_association *a);

#endif
