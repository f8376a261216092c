/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The worker processes: started, started again when they die, told to finish. */
#ifndef UNDERSOCK_KEEPER_WORKERS_H
#define UNDERSOCK_KEEPER_WORKERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/loop.h"
#include "keeper/generation.h"

struct workers;

struct workers_calls {
    /* A draining generation has lost its last worker; it is the callee's to free. */
    void (*idle)(void *ctx, struct generation *g);
    /* An upstream that was not there has come up (MESSAGE_RECHECK). */
    void (*recheck)(void *ctx);
};

/* `kind`: the loop kind of the workers' channels. */
int workers_create(struct loop *loop, unsigned kind, const struct workers_calls *calls, void *ctx,
                   struct workers **ret);
/* The first generation is ready: from here on a worker that cannot start is tried again. */
void workers_settle(struct workers *w);
/* Tells the workers of `g` that no upstream on this host is proven any more, or which are. */
void workers_unprove(struct workers *w, const struct generation *g);
void workers_prove(struct workers *w, const struct generation *g);
/* Tells them who resolves for this host now. */
void workers_tell_resolvers(struct workers *w, const struct generation *g);
/* Tells them a name that is asked for directly. */
void workers_tell_name(struct workers *w, const struct generation *g, const char *name);
/* Whether n more can be started beside those there are, draining ones included. */
bool workers_room(const struct workers *w, unsigned n);
/* Starts all workers of `g`. 0 or -errno. They count as ready when each has said so. */
int workers_start(struct workers *w, struct generation *g);
/* All workers of the newest generation have said that they are ready. */
bool workers_ready(const struct workers *w);
/* A process of ours has ended: true when it was a worker. It is started again, unless it was told
 * to drain or had never become ready (`ret_failed`). */
bool workers_exited(struct workers *w, pid_t pid, int status, bool *ret_failed);
/* The old generation accepts no more and ends with its last flow. */
void workers_drain(struct workers *w, const struct generation *g);
/* How many must answer a question: all but those who drain, and may end before they have read it.
 */
unsigned workers_due(const struct workers *w);
/* Passes the client's socket with a question to each worker. Returns how many of those who must
 * answer have got it. */
unsigned workers_ask(struct workers *w, unsigned message_type, int client);
/* Events of the loop kind given at the start, timers included. */
void workers_event(struct workers *w, uint64_t ref, uint32_t events);
/* Kills them all and waits; every flow is reset. Frees. NULL is allowed. */
void workers_destroy(struct workers *w);

#endif
