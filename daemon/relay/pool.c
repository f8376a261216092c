/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What relays share: empty pipes, the budget for stashes, the scratch buffer, the counters. A pipe
 * is lent only while bytes are in it, so an idle flow holds its two sockets and nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "relay/engine.h"

static struct relay_pipe *pipe_open(void)
{
    struct relay_pipe *pipe = malloc(sizeof(*pipe));

    if (!pipe)
        return NULL;
    if (pipe2(pipe->fd, O_NONBLOCK | O_CLOEXEC) < 0) {
        free(pipe);
        return NULL;
    }
    /* Larger than the user may have (pipe-user-pages-soft): stays at what the kernel gave. */
    (void)fcntl(pipe->fd[1], F_SETPIPE_SZ, RELAY_PIPE_SIZE);
    return pipe;
}

static void pipe_close(struct relay_pipe *pipe)
{
    close(pipe->fd[0]);
    close(pipe->fd[1]);
    free(pipe);
}

int relay_pool_create(unsigned max_pipes, unsigned preopened, size_t stash_budget,
                      enum relay_choice choice, struct relay_pool **ret)
{
    struct relay_pool *p = calloc(1, sizeof(*p));

    if (!p)
        return -ENOMEM;
    p->choice = choice;
    p->max_pipes = max_pipes;
    p->stash_budget = stash_budget;
    for (unsigned i = 0; i < preopened && i < max_pipes; i++) {
        struct relay_pipe *pipe = pipe_open();

        if (!pipe)
            break;
        p->n_pipes++;
        relay_pipe_return(p, pipe);
    }
    *ret = p;
    return 0;
}

void relay_pool_use(struct relay_pool *p, const struct fastpath *fast)
{
    p->fast = fast && fast->ops ? fast : NULL;
}

void relay_pool_destroy(struct relay_pool *p)
{
    if (!p)
        return;
    while (p->free) {
        struct relay_pipe *pipe = p->free;

        p->free = pipe->next;
        pipe_close(pipe);
    }
    free(p);
}

const struct relay_counters *relay_pool_counters(const struct relay_pool *p)
{
    return &p->counters;
}

struct relay_pipe *relay_pipe_borrow(struct relay_pool *p)
{
    struct relay_pipe *pipe = p->free;

    if (pipe) {
        p->free = pipe->next;
        return pipe;
    }
    if (p->n_pipes >= p->max_pipes)
        return NULL;
    pipe = pipe_open();
    if (pipe)
        p->n_pipes++;
    return pipe;
}

void relay_pipe_return(struct relay_pool *p, struct relay_pipe *pipe)
{
    pipe->next = p->free;
    p->free = pipe;
}

void relay_pipe_drop(struct relay_pool *p, struct relay_pipe *pipe)
{
    pipe_close(pipe);
    p->n_pipes--;
}
