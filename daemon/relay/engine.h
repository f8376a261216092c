/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside relay/ only: the pool and what an engine is to the pump. */
#ifndef UNDERSOCK_RELAY_ENGINE_H
#define UNDERSOCK_RELAY_ENGINE_H

#include "relay/relay.h"

/*
 * A read of this size that comes back full says that the sender has more. Two in a row move the
 * direction to splice; a few turns that move less than half of it move it back.
 */
#define RELAY_CHUNK       (64 * 1024)
#define RELAY_PIPE_SIZE   (1024 * 1024)
#define RELAY_TURN        (4 * 1024 * 1024)
#define RELAY_STREAK_UP   2
#define RELAY_STREAK_DOWN 16

struct relay_pipe {
    int fd[2];
    uint32_t len; /* bytes in it */
    struct relay_pipe *next;
};

struct relay_stash {
    uint32_t pos, len; /* of `bytes`, from `pos` on is yet to be sent */
    uint8_t bytes[];
};

struct relay_pool {
    enum relay_choice choice;
    const struct fastpath *fast; /* NULL: none */
    struct relay_pipe *free;     /* empty ones */
    unsigned n_pipes, max_pipes;
    size_t stash_used, stash_budget;
    struct relay_counters counters;
    uint8_t scratch[RELAY_CHUNK];
};

/* What a step of one direction came to. */
enum relay_step {
    STEP_MOVED,   /* bytes went from one socket towards the other */
    STEP_BLOCKED, /* the sender is empty or the receiver is full */
    STEP_EOF,     /* the sender's FIN */
    STEP_BROKEN,  /* the sender was reset, or failed; no byte will come any more */
    STEP_DEAF,    /* the receiver was reset, or failed; no byte can go there any more */
};

/* An empty pipe, or NULL. relay_pipe_return() takes it back empty; relay_pipe_drop() with bytes in
 * it. */
struct relay_pipe *relay_pipe_borrow(struct relay_pool *p);
void relay_pipe_return(struct relay_pool *p, struct relay_pipe *pipe);
void relay_pipe_drop(struct relay_pool *p, struct relay_pipe *pipe);

/* One read and the write of it, from side `from`; `ret_n`: bytes taken from the sender. */
enum relay_step relay_copy_step(struct relay *r, struct relay_pool *p, unsigned from,
                                size_t *ret_n);
/* Sends what the receiver did not take before. STEP_MOVED: the stash is empty, and gone. */
enum relay_step relay_copy_flush(struct relay *r, struct relay_pool *p, unsigned from);
/* Frees the stash, if there is one, with what is in it. */
void relay_stash_drop(struct relay_direction *d, struct relay_pool *p);
enum relay_step relay_splice_step(struct relay *r, struct relay_pool *p, unsigned from,
                                  size_t *ret_n);
enum relay_step relay_splice_flush(struct relay *r, struct relay_pool *p, unsigned from);

/*
 * The sockmap engine (relay/sockmap.c). How far user space is in taking over from the kernel:
 */
enum relay_phase {
    PHASE_QUIET,   /* the kernel moves the bytes, nobody here looks */
    PHASE_LOOK,    /* somebody must look: an end, an error, or the kernel passes bytes */
    PHASE_HELD,    /* the kernel redirects no more; what it had taken over may be on its way */
    PHASE_SETTLED, /* that has arrived: what is passed may be read and sent */
};

#define RELAY_NEVER UINT8_MAX

/* The events of a socket that its being quiet changes. */
#define RELAY_WATCHED (EPOLLIN | EPOLLPRI | EPOLLOUT)

/* What a step of copying read: does this direction move messages? */
void relay_sockmap_saw(struct relay_direction *d, size_t n);
/*
 * A direction with nothing left to read: goes into the sockmap if the time has come. True: it did
 * not, as bytes have come meanwhile, and `readable` says so.
 */
bool relay_sockmap_join(struct relay *r, struct relay_pool *p, unsigned from);
/* As the other steps, for a direction that is not quiet, with nothing pending; also when nothing is
 * readable. Sets PHASE_QUIET, or another engine, when the time has come. */
enum relay_step relay_sockmap_step(struct relay *r, struct relay_pool *p, unsigned from,
                                   size_t *ret_n);
/* `n` bytes that were read have gone to the receiver. */
void relay_sockmap_sent(const struct relay_direction *d, struct relay_pool *p, size_t n);
/* Somebody must look at direction `from`. */
void relay_sockmap_look(struct relay *r, unsigned from);
/* The relay is over. */
void relay_sockmap_finish(struct relay *r, struct relay_pool *p, unsigned from);

static inline bool relay_quiet(const struct relay_direction *d)
{
    return d->engine == RELAY_SOCKMAP && d->phase == PHASE_QUIET;
}

/* Bytes were taken from the sender that the receiver has not taken yet. */
static inline bool relay_pending(const struct relay_direction *d)
{
    return d->stash || d->pipe;
}

#endif
