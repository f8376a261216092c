/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside flow/ only: the flow itself and the table that owns it. */
#ifndef UNDERSOCK_FLOW_TABLE_H
#define UNDERSOCK_FLOW_TABLE_H

#include "flow/flow.h"
#include "upstream/dial.h"

enum {
    KIND_LISTENER = 1,
    KIND_CLIENT,
    KIND_UPSTREAM,
    KIND_SWEEP,
    KIND_SOON,
    KIND_KERNEL,
    KIND_HOLD
};
enum { SIDE_CLIENT, SIDE_UPSTREAM };

#define FLOW_NONE   UINT32_MAX
#define FLOW_DIRECT UINT8_MAX /* in flow_dialing.order: the destination itself */

struct hold;
struct holds;

/* While the upstream is being asked. */
struct flow_dialing {
    struct dial dial;
    struct addr asked; /* what upstreams are asked for */
    struct hold *hold; /* with flow.held */
    uint8_t
        order[UPSTREAM_CANDIDATES + 1]; /* candidates, the preferred one first; or FLOW_DIRECT */
    uint8_t n, at;
    uint8_t waits; /* for an unproven upstream */
    bool waiting;  /* no socket: dialled again when the timer expires */
};

/* Idle ones are many: no holes, and what only the beginning needs is elsewhere. */
struct flow {
    uint32_t generation;
    uint32_t next; /* in the free, the again or the reap list */
    uint16_t capture;
    uint8_t state;       /* enum flow_state */
    bool held;           /* began as a held SYN, and the application is not connected yet */
    bool queued;         /* in the again or the later list */
    bool reaping;        /* in the reap list */
    uint8_t linger_left; /* CLOSING: looks at the survivor's queue that remain */
    bool orderly;        /* ended with FIN both ways */
    bool keepalive;      /* set on the upstream's socket */
    bool dying;          /* relay_dying(): the timer is for its end */
    int fd[2];           /* SIDE_CLIENT, SIDE_UPSTREAM; -1: none */
    struct addr client;
    uint32_t name_slot;
    struct origin origin;
    const struct upstream *upstream;
    char *name; /* owned: of a destination that stands for one; NULL: none */
    int64_t started, active;
    struct timer timer;
    struct flow_dialing *dialing; /* owned; NULL from RELAY on */
    struct relay relay;           /* RELAY, HALF_CLOSED */
};

struct flow_table {
    struct flow_table_options o;
    struct flow *flows;
    uint32_t n_used; /* slots ever used: those beyond are untouched memory */
    uint32_t free, again, reap;
    uint32_t later;     /* pumped again in a millisecond or a few */
    int64_t later_wait; /* how long that is: doubled each time, and short again for a new one */
    bool in_soon;       /* flow_soon() is at work */
    struct timer soon;  /* see `later` */
    int reserve;        /* a descriptor to give up for an accept() when none is left */
    bool draining, paused;
    bool said_loop, said_stray, said_dropped;
    int64_t next_full_log;
    struct timer resume; /* listeners are looked at again */
    struct timer sweep;  /* see flow_sweep() */
    struct holds *holds; /* hold.c's; NULL: no SYN is ever held */
    struct message_stats stats;
};

uint64_t flow_id(const struct flow_table *t, const struct flow *f);
uint64_t flow_ref(const struct flow_table *t, const struct flow *f, unsigned kind);
/* The flow of a reference, or NULL when it is gone. */
struct flow *flow_by_ref(struct flow_table *t, uint64_t ref);

/* A zeroed flow in state FREE with no descriptors, or NULL: full. */
struct flow *flow_alloc(struct flow_table *t);
/* The one setter: checks that the step is allowed. */
void flow_set_state(struct flow_table *t, struct flow *f, enum flow_state to);
/* Puts the slot back; descriptors must be closed. */
void flow_release(struct flow_table *t, struct flow *f);

/* Listener side (listener.c). */
void listener_event(struct flow_table *t, uint32_t index);
/* Accepts one connection if there is one. */
bool listener_accept(struct flow_table *t, uint32_t index);
int listeners_register(struct flow_table *t);
/* All, or those that take new flows only: a draining worker still finishes what it holds. */
void listeners_unregister(struct flow_table *t, bool seats_too);

/* Whether a destination is one of ours: who asks for it has come back. */
bool listeners_came_back(const struct flow_table *t, const struct addr *destination);
/* Says so, once. */
void listeners_say_loop(struct flow_table *t, unsigned capture, const struct addr *client,
                        const struct addr *destination);

/* Life (lifecycle.c). `fd` becomes the flow's. */
void flow_begin(struct flow_table *t, unsigned capture, int fd, const struct addr *client,
                const struct origin *origin);
/* The same for a held SYN: a flow in state HELD that nobody is asked for yet. NULL: the table is
 * full (counted and said). */
struct flow *flow_begin_held(struct flow_table *t, unsigned capture, const struct addr *client,
                             const struct origin *origin);
/* The application of a GRANTED flow is connected by `fd`, which becomes the flow's. */
void flow_join(struct flow_table *t, struct flow *f, int fd);
/* The upstream has said yes, and both sockets are there. */
void flow_begin_relay(struct flow_table *t, struct flow *f);
/* A flow in CLOSING that waited for something is done. */
void flow_reap(struct flow_table *t, struct flow *f);
void flow_event(struct flow_table *t, uint64_t ref, uint32_t events);
/* Runs the again list and reaps; true when there is more to do at once. */
bool flow_batch_end(struct flow_table *t);
/* Now and then: flows that have lived for a while get keepalive on their upstream's socket (the
 * client's has it from the listener). Arms itself again. */
void flow_sweep(struct flow_table *t);
/* The flows that wait for the kernel are tried again. */
void flow_soon(struct flow_table *t);
/* The kernel has begun to pass a flow's bytes. */
void flow_passed(struct flow_table *t, uint64_t ref, uint32_t stream);
/* Ends it: resets both sides, or closes in order. Reaped after the batch. */
void flow_end(struct flow_table *t, struct flow *f, bool orderly);
/* Ends it with this batch, whatever a survivor has not been handed yet. */
void flow_abort(struct flow_table *t, struct flow *f);

/* Its upstream (dialling.c). Chooses the upstreams and dials the first. */
void flow_dial(struct flow_table *t, struct flow *f);
/* An event of its socket or its timer while it is DIALING or in HANDSHAKE. */
void flow_dial_step(struct flow_table *t, struct flow *f, uint32_t events);

#endif
