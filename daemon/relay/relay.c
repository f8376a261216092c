/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pump: which direction may move, with which engine, and how the ends of one side become the
 * ends of the other.
 *
 * Theory of operation. Both sockets are registered edge-triggered once and for all; `readable` and
 * `writable` remember the edges until a call contradicts them, so a message costs recv() and send()
 * and no epoll_ctl(). A direction first delivers what is pending (stash, pipe), then the FIN if it
 * has come, then reads only when the receiver can take something: that is the back-pressure.
 *
 * An error on a side makes it `dead`: nothing is sent there any more. What it had sent before is
 * still read and delivered (the kernel keeps it), then the relay reports RELAY_RESET. An error
 * consumed by send() makes a later recv() return 0; `dead` keeps that from being taken for a FIN.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/engine.h"

void relay_init(struct relay *r, int fd0, int fd1)
{
    memset(r, 0, sizeof(*r));
    r->fd[0] = fd0;
    r->fd[1] = fd1;
    for (unsigned i = 0; i < 2; i++)
        r->readable[i] = r->writable[i] = r->unsure[i] = true;
    r->watch[0] = r->watch[1] = RELAY_EVENTS & RELAY_WATCHED;
}

void relay_finish(struct relay *r, struct relay_pool *p)
{
    for (unsigned i = 0; i < 2; i++) {
        struct relay_direction *d = &r->dir[i];

        relay_sockmap_finish(r, p, i);
        if (d->pipe)
            relay_pipe_drop(p, d->pipe);
        d->pipe = NULL;
        relay_stash_drop(d, p);
    }
}

/* What the dead side had sent is looked for at once, to its end. */
static void mark_dead(struct relay *r, unsigned side)
{
    r->dead[side] = true;
    r->readable[side] = r->unsure[side] = true;
    relay_sockmap_look(r, side);
}

void relay_event(struct relay *r, unsigned side, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        r->readable[side] = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        r->writable[side] = true;
    if (events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        r->unsure[side] = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        relay_sockmap_look(r, side);
    if ((events & EPOLLERR) && !r->dead[side]) {
        int error = 0;
        socklen_t len = sizeof(error);

        if (getsockopt(r->fd[side], SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0)
            mark_dead(r, side);
    }
}

/* Which engine this direction should use from now on, after a turn that took `n` bytes. */
static void choose(struct relay_direction *d, struct relay_pool *p, size_t turn_bytes,
                   bool full_read)
{
    if (p->choice != RELAY_CHOICE_AUTO && p->choice != RELAY_CHOICE_SOCKMAP)
        return;
    if (d->engine == RELAY_COPY) {
        d->streak = full_read ? (uint8_t)(d->streak + 1) : 0;
        if (d->streak < RELAY_STREAK_UP)
            return;
        d->engine = RELAY_SPLICE;
        p->counters.to_splice++;
    } else {
        d->streak = turn_bytes < RELAY_CHUNK / 2 ? (uint8_t)(d->streak + 1) : 0;
        if (d->streak < RELAY_STREAK_DOWN)
            return;
        d->engine = RELAY_COPY;
        p->counters.to_copy++;
    }
    d->streak = 0;
}

/* The FIN of `from` goes to the other side. */
static void send_fin(struct relay *r, unsigned from)
{
    if (shutdown(r->fd[!from], SHUT_WR) < 0)
        mark_dead(r, !from);
    r->dir[from].fin_sent = true;
}

/* Flushes what is pending; true when nothing is. */
static bool deliver(struct relay *r, struct relay_pool *p, unsigned from)
{
    struct relay_direction *d = &r->dir[from];
    enum relay_step step = STEP_MOVED;

    if (!r->writable[!from])
        return false;
    if (d->stash)
        step = relay_copy_flush(r, p, from);
    if (step == STEP_MOVED && d->pipe)
        step = relay_splice_flush(r, p, from);
    if (step == STEP_DEAF)
        mark_dead(r, !from);
    return step == STEP_MOVED;
}

static enum relay_step step_of(struct relay *r, struct relay_pool *p, unsigned from, size_t *ret_n)
{
    switch (r->dir[from].engine) {
    case RELAY_SPLICE:
        return relay_splice_step(r, p, from, ret_n);
    case RELAY_SOCKMAP:
        return relay_sockmap_step(r, p, from, ret_n);
    default:
        return relay_copy_step(r, p, from, ret_n);
    }
}

/*
 * One turn of one direction. True: it could go on and only its turn is over. `ret_over`: nothing
 * will ever come from this side any more, and all that came was delivered (or cannot be).
 */
static bool pump_direction(struct relay *r, struct relay_pool *p, unsigned from, bool *ret_over)
{
    struct relay_direction *d = &r->dir[from];
    size_t moved = 0, n = 0;
    bool more = false, read_any = false;

    if (p->choice == RELAY_CHOICE_SPLICE)
        d->engine = RELAY_SPLICE;
    *ret_over = d->fin_sent;
    while (!d->fin_sent && !r->dead[!from]) {
        if (relay_quiet(d) || (relay_pending(d) && !deliver(r, p, from)))
            break;
        if (d->eof) {
            if (r->dead[from])
                *ret_over = true;
            else
                send_fin(r, from);
            *ret_over |= d->fin_sent;
            break;
        }
        if (!r->writable[!from] || (!r->readable[from] && d->engine != RELAY_SOCKMAP))
            break;
        if (moved >= RELAY_TURN) {
            more = true;
            break;
        }
        enum relay_step step = step_of(r, p, from, &n);

        if (step == STEP_MOVED) {
            moved += n;
            read_any = true;
            if (d->engine == RELAY_COPY) {
                relay_sockmap_saw(d, n);
                choose(d, p, moved, n == RELAY_CHUNK);
            }
        } else if (step == STEP_EOF) {
            d->eof = true;
        } else if (step == STEP_BROKEN) {
            d->eof = true;
            mark_dead(r, from);
        } else if (step == STEP_DEAF) {
            mark_dead(r, !from);
        } else {
            break;
        }
    }
    if (read_any && d->engine == RELAY_SPLICE)
        choose(d, p, moved, false);
    /* Nobody is left to deliver to: the rest of this direction is over by itself. */
    if (r->dead[!from])
        *ret_over = true;
    return more | relay_sockmap_join(r, p, from);
}

enum relay_status relay_pump(struct relay *r, struct relay_pool *p)
{
    bool over[2], more = false;

    r->soon = false;
    if (r->overrun)
        return RELAY_RESET;
    for (unsigned i = 0; i < 2; i++)
        more |= pump_direction(r, p, i, &over[i]);
    for (unsigned i = 0; i < 2; i++) {
        if (!r->dead[i])
            continue;
        /* What the dead side had sent goes out first; direction i may have stopped before it died.
         */
        if (!over[i])
            more |= pump_direction(r, p, i, &over[i]);
        if (over[i])
            return RELAY_RESET;
    }
    if (r->dir[0].fin_sent && r->dir[1].fin_sent)
        return RELAY_DONE;
    return more ? RELAY_MORE : r->soon ? RELAY_SOON : RELAY_IDLE;
}

bool relay_dying(const struct relay *r)
{
    return r->dead[0] || r->dead[1];
}

bool relay_half_closed(const struct relay *r)
{
    return r->dir[0].fin_sent != r->dir[1].fin_sent;
}

enum relay_engine relay_shown_engine(const struct relay *r)
{
    return r->dir[0].engine > r->dir[1].engine ? r->dir[0].engine : r->dir[1].engine;
}

const char *relay_engine_name(enum relay_engine e)
{
    static const char *const names[] = {"copy", "splice", "sockmap"};

    return names[e];
}
