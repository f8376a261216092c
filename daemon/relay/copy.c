/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The copy engine: recv() into the pool's scratch buffer, send() from it: two system calls a
 * message, the least for small ones. What the receiver does not take is kept in a stash of exactly
 * that size; when the pool's budget leaves no room for a whole chunk, the bytes are only peeked at,
 * sent, and then removed from the sender's socket by as much as was taken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/engine.h"

static bool again(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* Sends; -1: the receiver is gone. Clears `writable` when it takes less than all. */
static ssize_t send_some(struct relay *r, unsigned to, const uint8_t *data, size_t len)
{
    ssize_t n = send(r->fd[to], data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0) {
        if (!again())
            return -1;
        n = 0;
    }
    if ((size_t)n < len)
        r->writable[to] = false;
    return n;
}

enum relay_step relay_copy_flush(struct relay *r, struct relay_pool *p, unsigned from)
{
    struct relay_direction *d = &r->dir[from];
    struct relay_stash *s = d->stash;
    ssize_t n = send_some(r, !from, s->bytes + s->pos, s->len - s->pos);

    if (n < 0)
        return STEP_DEAF;
    s->pos += (uint32_t)n;
    d->bytes += (uint64_t)n;
    p->counters.bytes_copied += (uint64_t)n;
    if (d->engine == RELAY_SOCKMAP)
        relay_sockmap_sent(d, p, (size_t)n);
    if (s->pos < s->len)
        return STEP_BLOCKED;
    relay_stash_drop(d, p);
    return STEP_MOVED;
}

/* Keeps what was read and not sent. The budget was checked before the read. */
static bool stash(struct relay_direction *d, struct relay_pool *p, const uint8_t *data, size_t len)
{
    d->stash = malloc(sizeof(*d->stash) + len);
    if (!d->stash)
        return false;
    *d->stash = (struct relay_stash){.len = (uint32_t)len};
    memcpy(d->stash->bytes, data, len);
    p->stash_used += len;
    return true;
}

void relay_stash_drop(struct relay_direction *d, struct relay_pool *p)
{
    if (d->stash)
        p->stash_used -= d->stash->len;
    free(d->stash);
    d->stash = NULL;
}

enum relay_step relay_copy_step(struct relay *r, struct relay_pool *p, unsigned from, size_t *ret_n)
{
    struct relay_direction *d = &r->dir[from];
    bool peek = p->stash_used + RELAY_CHUNK > p->stash_budget;
    ssize_t n = recv(r->fd[from], p->scratch, RELAY_CHUNK, MSG_DONTWAIT | (peek ? MSG_PEEK : 0));

    if (n < 0) {
        if (!again())
            return STEP_BROKEN;
        r->readable[from] = r->unsure[from] = false;
        return STEP_BLOCKED;
    }
    if (n == 0)
        return STEP_EOF;
    /* A short read emptied the socket; what comes later makes a new edge. With a FIN behind it the
     * edge may be over, and a read stops short at urgent data: then read on until there is nothing.
     */
    if (n < RELAY_CHUNK && !r->unsure[from])
        r->readable[from] = false;

    ssize_t sent = send_some(r, !from, p->scratch, (size_t)n);

    if (sent < 0)
        return STEP_DEAF;
    d->bytes += (uint64_t)sent;
    p->counters.bytes_copied += (uint64_t)sent;
    *ret_n = (size_t)n;
    if (peek) {
        p->counters.no_stash++;
        if (sent < n)
            r->readable[from] = true;
        /* A socket in the sockmap knows no MSG_TRUNC. */
        bool trunc = d->engine != RELAY_SOCKMAP;

        if (sent > 0 && recv(r->fd[from], trunc ? NULL : p->scratch, (size_t)sent,
                             MSG_DONTWAIT | (trunc ? MSG_TRUNC : 0)) != sent)
            return STEP_BROKEN;
    } else if (sent < n && !stash(d, p, p->scratch + sent, (size_t)(n - sent))) {
        return STEP_BROKEN;
    }
    if (d->engine == RELAY_SOCKMAP)
        relay_sockmap_sent(d, p, (size_t)sent);
    return STEP_MOVED;
}
