/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The splice engine: pages move from socket to pipe to socket and are never copied to user space.
 * Each step begins with an empty pipe, so that EAGAIN on the way in means an empty socket, or
 * urgent data at its head. The pipe is borrowed from the pool and goes back as soon as it is empty.
 */
#include <errno.h>
#include <fcntl.h>

#include "relay/engine.h"

static bool again(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

enum relay_step relay_splice_flush(struct relay *r, struct relay_pool *p, unsigned from)
{
    struct relay_direction *d = &r->dir[from];

    while (d->pipe->len > 0) {
        ssize_t n = splice(d->pipe->fd[0], NULL, r->fd[!from], NULL, d->pipe->len,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

        if (n < 0 && again()) {
            r->writable[!from] = false;
            return STEP_BLOCKED;
        }
        if (n <= 0)
            return STEP_DEAF;
        d->pipe->len -= (uint32_t)n;
        d->bytes += (uint64_t)n;
        p->counters.bytes_spliced += (uint64_t)n;
    }
    relay_pipe_return(p, d->pipe);
    d->pipe = NULL;
    return STEP_MOVED;
}

enum relay_step relay_splice_step(struct relay *r, struct relay_pool *p, unsigned from,
                                  size_t *ret_n)
{
    struct relay_direction *d = &r->dir[from];

    d->pipe = relay_pipe_borrow(p);
    if (!d->pipe) {
        p->counters.no_pipe++;
        return relay_copy_step(r, p, from, ret_n);
    }
    ssize_t n = splice(r->fd[from], NULL, d->pipe->fd[1], NULL, RELAY_PIPE_SIZE,
                       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

    if (n > 0) {
        d->pipe->len = (uint32_t)n;
        *ret_n = (size_t)n;
        return relay_splice_flush(r, p, from) == STEP_DEAF ? STEP_DEAF : STEP_MOVED;
    }
    int saved = errno;

    relay_pipe_return(p, d->pipe);
    d->pipe = NULL;
    errno = saved;
    if (n < 0 && !again())
        return STEP_BROKEN;
    /* splice() does not pass urgent data: it says EAGAIN there, or 0 when a FIN is behind it. */
    if (n == 0 || r->unsure[from])
        return relay_copy_step(r, p, from, ret_n);
    r->readable[from] = false;
    return STEP_BLOCKED;
}
