/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Joins two connected stream sockets in both directions until both have ended.
 *
 * Knows nothing of flows: the owner (a flow, a session of the embedded server) holds a struct
 * relay, registers both sockets edge-triggered (RELAY_EVENTS), reports what epoll said with
 * relay_event() and runs relay_pump(). It never closes a descriptor.
 *
 * Ends: a FIN becomes shutdown(SHUT_WR) on the other side once every byte before it is there. A
 * reset is reported as RELAY_RESET after what the dying side had sent was passed on as far as the
 * other side takes it; the owner then closes both sockets, which carry SO_LINGER 0 and so reset.
 * A side that takes nothing must not keep the dead one for ever: relay_dying().
 *
 * Memory: bytes that the receiver did not take wait in a pipe (at most the pool's number of pipes)
 * or in a stash (at most the pool's budget); when neither is to be had, they stay in the sender's
 * socket.
 */
#ifndef UNDERSOCK_RELAY_RELAY_H
#define UNDERSOCK_RELAY_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "fastpath.h"

#define RELAY_EVENTS (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET)

/* What is bulk to the in-kernel fast path (relay/sockmap.c): nanoseconds, bytes within them. */
#define RELAY_BURST_TIME  10000000u
#define RELAY_BURST_BYTES (1024u * 1024u)

/* Nanoseconds; see relay_dying(). */
#define RELAY_DYING_TIME INT64_C(5000000000)

/* How the bytes of one direction are moved just now. */
enum relay_engine { RELAY_COPY, RELAY_SPLICE, RELAY_SOCKMAP };

/* What the owner allows (configuration `fast-path`). */
enum relay_choice {
    RELAY_CHOICE_AUTO,
    RELAY_CHOICE_COPY,
    RELAY_CHOICE_SPLICE,
    RELAY_CHOICE_SOCKMAP, /* every direction that can; the others as AUTO */
};

enum relay_status {
    RELAY_IDLE,  /* nothing more to do until the next event */
    RELAY_SOON,  /* waits for the kernel: call relay_pump() again in about a millisecond */
    RELAY_MORE,  /* its turn is over, but it can go on: call relay_pump() again after the others */
    RELAY_DONE,  /* both directions ended with FIN and were passed on: close in order */
    RELAY_RESET, /* one side was reset, or an error: reset both */
};

struct relay_counters {
    uint64_t bytes_copied, bytes_spliced;
    uint64_t to_splice, to_copy; /* engine changes */
    uint64_t to_sockmap;
    uint64_t no_pipe;  /* splice was wanted and no pipe was to be had */
    uint64_t no_stash; /* the stash budget was used up: peeked instead */
};

struct relay_pool;
struct relay_pipe;
struct relay_stash;

/* From side[i] to side[!i]. Every flow has two for as long as it lives: what they hold only now and
 * then is in what they point to. */
struct relay_direction {
    uint64_t bytes;            /* taken by the receiver's socket */
    struct relay_pipe *pipe;   /* borrowed while it holds bytes */
    struct relay_stash *stash; /* owned; bytes read that the receiver did not take */
    uint32_t stream;           /* RELAY_SOCKMAP: its number */
    uint8_t engine;            /* enum relay_engine */
    uint8_t streak;            /* consecutive turns that speak for the other engine */
    uint8_t calm;              /* messages in a row that speak for the sockmap */
    uint8_t joins;             /* times that it went into the sockmap; RELAY_NEVER: it cannot */
    uint8_t phase;             /* RELAY_SOCKMAP: enum relay_phase */
    uint8_t demoted;           /* RELAY_SOCKMAP: times that the kernel gave up */
    bool leaving;              /* RELAY_SOCKMAP: to be taken out when nothing is waiting */
    bool eof;                  /* the sender's FIN was read */
    bool fin_sent;             /* and passed on */
};

struct relay {
    int fd[2];
    bool readable[2], writable[2]; /* what epoll last said, not yet contradicted */
    bool unsure[2];   /* a FIN or urgent data may be behind a short read, its edge over: read on */
    bool dead[2];     /* reset, or an error: nothing can be sent there */
    bool overrun;     /* the kernel holds more than it may: RELAY_RESET */
    bool kernel;      /* may use the in-kernel fast path */
    bool soon;        /* of the pump that is running: RELAY_SOON */
    uint8_t watch[2]; /* what relay_watch() said last: EPOLLIN, EPOLLPRI, EPOLLOUT */
    uint64_t owner;   /* comes back with the sockmap's events */
    struct relay_direction dir[2];
};

/*
 * `max_pipes` pipes at most, `preopened` of them now (before privileges are dropped, a pipe may be
 * larger than the user's limit); `stash_budget` in bytes. 0 or -errno.
 */
int relay_pool_create(unsigned max_pipes, unsigned preopened, size_t stash_budget,
                      enum relay_choice choice, struct relay_pool **ret);
/* `fast` (may be NULL: none) stays the caller's, and outlives the pool. Before the first relay. */
void relay_pool_use(struct relay_pool *p, const struct fastpath *fast);
void relay_pool_destroy(struct relay_pool *p);
const struct relay_counters *relay_pool_counters(const struct relay_pool *p);

/* Starts with nothing known: the first relay_pump() tries everything, also to the end of what came
 * before the owner passed events on. */
void relay_init(struct relay *r, int fd0, int fd1);
/* Allows it the in-kernel fast path, if the pool has one: events of the kernel come with `owner`
 * and a stream (fastpath_ops.events), to be passed on by relay_passed(). */
void relay_allow_kernel(struct relay *r, uint64_t owner);
/* Gives pipes and stash back. The relay may be forgotten afterwards; descriptors stay the owner's.
 */
void relay_finish(struct relay *r, struct relay_pool *p);

/* `side`: 0 or 1; `events`: as epoll reported them. Cheap; does no I/O. */
void relay_event(struct relay *r, unsigned side, uint32_t events);
/* Moves what can be moved, within a turn's budget. */
enum relay_status relay_pump(struct relay *r, struct relay_pool *p);

/* The kernel has begun to pass the bytes of `stream`; relay_pump() is due. */
void relay_passed(struct relay *r, const struct relay_pool *p, uint32_t stream);
/*
 * After each relay_pump() of a relay that is allowed the kernel: the events for which `side` must
 * be registered from now on, or 0 when nothing has changed (RELAY_EVENTS at first).
 */
uint32_t relay_watch(struct relay *r, unsigned side);

/* Bytes from `side` to the other, those that the kernel moves included. */
uint64_t relay_bytes(const struct relay *r, const struct relay_pool *p, unsigned side);
/* When the kernel moved bytes last (CLOCK_MONOTONIC, nanoseconds); 0: never. */
int64_t relay_kernel_active(const struct relay *r, const struct relay_pool *p);

/* One side was reset, and what it had sent before still waits for the other to take it. The owner
 * waits for that RELAY_DYING_TIME at most, and resets both then. */
bool relay_dying(const struct relay *r);
/* Either direction has ended, the other has not. */
bool relay_half_closed(const struct relay *r);
/* The engine to show for the flow: the sockmap if one direction is in it, splice if one uses it. */
enum relay_engine relay_shown_engine(const struct relay *r);
const char *relay_engine_name(enum relay_engine e);

#endif
