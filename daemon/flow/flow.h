/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The flows of one worker: a fixed table, the listeners that feed it, and the life of each flow
 * from its accept to its end. Sees captures only through origin_ops, and upstreams through
 * upstream/.
 */
#ifndef UNDERSOCK_FLOW_FLOW_H
#define UNDERSOCK_FLOW_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "capture.h"
#include "message.h"
#include "relay/relay.h"
#include "upstream/upstream.h"

/*
 * What each state allows:
 * - HELD: the SYN is kept back; the application has no connection yet, the upstream is dialled.
 * - DIALING: connecting to the upstream; the application's bytes wait in its socket.
 * - HANDSHAKE: the upstream is being asked; likewise.
 * - GRANTED: the upstream said yes, the application's connection is about to be accepted.
 * - RELAY: bytes go both ways.
 * - HALF_CLOSED: one side's FIN was passed on; the other direction goes on.
 * - CLOSING: nothing moves any more; reaped after the batch, or once the survivor of a reset has
 *   taken what was sent to it before.
 */
enum flow_state {
    FLOW_FREE,
    FLOW_HELD,
    FLOW_DIALING,
    FLOW_HANDSHAKE,
    FLOW_GRANTED,
    FLOW_RELAY,
    FLOW_HALF_CLOSED,
    FLOW_CLOSING,
    FLOW_STATES,
};

const char *flow_state_name(enum flow_state s);
/* Whether a flow may go from one state to the other. */
bool flow_may_become(enum flow_state from, enum flow_state to);

/* A capture as flows see it. */
struct flow_capture {
    const char *name;
    enum capture_hook hook;
    unsigned early;                 /* capture_policy.early */
    struct upstream_choice *choice; /* where its destinations are asked for */
};

#define FLOW_ANY_CAPTURE UINT32_MAX

/* One listening socket and what an accepted connection on it means. */
struct flow_listener {
    int fd;                      /* the table does not close it */
    struct addr at;              /* its own address */
    uint32_t capture;            /* index; FLOW_ANY_CAPTURE: of whichever the SYN was held for */
    bool seat;                   /* takes connections whose SYN was held (flow/hold.h), no others */
    struct origin_source origin; /* where the destination is learnt */
};

/* Where held SYNs come from. */
struct flow_hold {
    struct hold_source source;
    uint32_t capture; /* index; FLOW_ANY_CAPTURE: the source names it */
};

/*
 * Names behind addresses that stand for them (fake DNS). find(): 0 with the name (at most 253
 * bytes) and a slot; -EINVAL: a real address; anything else: an address that stands for nothing,
 * which is refused. hold(): a flow still uses the slot; called for each at least every minute.
 * server(): who is asked in the destination's place (dns-server), to be copied at once; NULL: it
 * itself.
 */
struct flow_names {
    int (*find)(void *ctx, const struct addr *address, char ret_name[256], uint32_t *ret_slot);
    void (*hold)(void *ctx, uint32_t slot);
    const struct addr *(*server)(void *ctx, uint32_t capture, const struct addr *destination);
    void *ctx;
};

/* Sends a whole IP packet: injector_send() of flow/inject.h. */
struct flow_inject {
    int (*send)(void *ctx, const uint8_t *packet, size_t len, uint32_t mark, uint32_t interface);
    void *ctx;
};

struct flow_table_options {
    struct loop *loop;
    struct relay_pool *pool;
    const struct fastpath *fast; /* what the pool uses too; NULL: none */
    /* All alive as long as the table. */
    const struct flow_capture *captures;
    size_t n_captures;
    const struct flow_listener *listeners;
    size_t n_listeners;
    const struct flow_hold *holds;
    size_t n_holds;
    struct flow_inject inject;    /* with holds */
    uint32_t own_mark;            /* with holds: of what we send; 0: none */
    unsigned seat;                /* with holds: this worker's, see capture.h */
    uint32_t max_held;            /* with holds: SYNs held at once; more are connected early */
    struct flow_names names;      /* find, server NULL: there are none */
    const struct addr *upstreams; /* never a destination: a flow to one of them has come back */
    size_t n_upstreams;
    uint32_t max_flows;
    const char *max_flows_is;       /* what limits them, and is to be raised for more */
    unsigned worker;                /* 0..255, of no other worker alive: part of each flow's id */
    int64_t idle_timeout;           /* nanoseconds, 0: none */
    void (*on_empty)(void *ctx);    /* draining, and the last flow has ended */
    void (*on_unproven)(void *ctx); /* an unproven upstream has come up; may be called often */
    void *ctx;
};

struct flow_table;

/* Registers the listeners with the loop. Takes loop kinds 1..7 and its batch end. 0 or -errno. */
int flow_table_create(const struct flow_table_options *o, struct flow_table **ret);
/* Resets every flow. */
void flow_table_destroy(struct flow_table *t);
/* Accepts no more; calls on_empty when (or as soon as) no flow is left. */
void flow_table_drain(struct flow_table *t);
bool flow_table_draining(const struct flow_table *t);
/* The counters, those of the relay pool included. */
void flow_table_stats(const struct flow_table *t, struct message_stats *ret);

/*
 * The records of the flows in slots from *cursor on, at most `max` of them; moves the cursor.
 * Returns how many were filled; 0: that was all.
 */
size_t flow_table_records(const struct flow_table *t, uint32_t *cursor, struct message_flow *ret,
                          size_t max);

#endif
