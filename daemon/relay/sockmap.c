/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sockmap engine: which directions the kernel moves by itself, and user space's part of it. See
 * include/fastpath.h for what the kernel does and what it asks of us.
 *
 * Theory of operation. A direction that is joined is *quiet*: its sockets are watched for their end
 * only, no message wakes us. When the kernel passes bytes, or a FIN or an error comes, somebody
 * looks: the kernel is held, what it had taken over is awaited (RELAY_SOON), and then bytes are
 * copied as ever, never spliced: a socket in the sockmap keeps them where splice() does not look.
 * When nothing is left to read, the direction is quiet again, or is taken out for good.
 *
 * What is chosen with `fast-path = "auto"`, and why. Round trips of one flow through two veth pairs
 * on two shared processors, five interleaved rounds; mean in us, and CPU of the whole machine in
 * us:
 *
 *                      copy        splice       sockmap
 *       64 bytes     70  107     100  119      63   87
 *     4096 bytes    104  166     106  155      75  130
 *    32768 bytes    163  310     126  248      92  183
 *   262144 bytes    344  675     342  667     405  808
 *
 * and bulk, one stream up, 8 up, Gbit/s: copy 9, 14; splice 20, 22; sockmap 12, 16. So messages up
 * to 32 KiB (MESSAGE_MAX) belong in the sockmap and bulk does not. Speed alone is no sign of bulk:
 * request and response of 32 KiB move 300 MB a second, and never is anything on its way when the
 * next comes. What comes on top of something under way counts, 1 MiB of it in 10 ms is bulk
 * (RELAY_BURST_*). A join takes 12 us, leaving 10 us, and a message gains about 10 us of CPU, so
 * JOIN_AFTER need not be many; it is more than the few that a short connection has, which would pay
 * and never gain.
 *
 * What holds 64 bytes back: 35 us a round trip (p50), 15 to 17 without a redirector, the same
 * processors. A round trip is 4.1 TCP segments instead of 2, 4.9 context switches instead of 2.5,
 * and 2 runs of a kernel worker, which each direction wakes to send (sk_psock_backlog, 16 % of all
 * CPU time). The verdict is not it: 0.4 us a message, less than 1 %. A second connection and two
 * wake-ups are what this mechanism is made of; no setting of ours takes them away.
 */
#include <errno.h>

#include "relay/engine.h"

/* A read of at most so many bytes that emptied the socket is a message. */
#define MESSAGE_MAX (32 * 1024)
/* So many in a row: it is worth joining. Twice as many each time that it was left. */
#define JOIN_AFTER     16
#define JOIN_AFTER_MAX 128
/* Demotions after which a direction is left to user space. */
#define DEMOTED_MAX 8

void relay_sockmap_saw(struct relay_direction *d, size_t n)
{
    if (n > MESSAGE_MAX)
        d->calm = 0;
    else if (d->calm < UINT8_MAX)
        d->calm++;
}

static bool time_to_join(const struct relay_direction *d, const struct relay_pool *p)
{
    unsigned after = JOIN_AFTER;

    if (d->joins == RELAY_NEVER)
        return false;
    if (p->choice == RELAY_CHOICE_SOCKMAP)
        return true;
    for (unsigned i = 0; i < d->joins && after < JOIN_AFTER_MAX; i++)
        after *= 2;
    return p->choice == RELAY_CHOICE_AUTO && d->engine == RELAY_COPY && d->calm >= after;
}

bool relay_sockmap_join(struct relay *r, struct relay_pool *p, unsigned from)
{
    struct relay_direction *d = &r->dir[from], *back = &r->dir[!from];

    if (!p->fast || !r->kernel || d->engine == RELAY_SOCKMAP || !time_to_join(d, p))
        return false;
    if (r->readable[from] || r->dead[0] || r->dead[1] || relay_pending(d) || d->eof || back->eof)
        return false;
    int error = p->fast->ops->join(p->fast->ctx, r->fd[from], r->fd[!from], r->owner, &d->stream);

    if (error == 0) {
        d->engine = RELAY_SOCKMAP;
        d->phase = PHASE_QUIET;
        d->leaving = false;
        d->demoted = 0;
        d->joins = d->joins < RELAY_NEVER - 1 ? (uint8_t)(d->joins + 1) : d->joins;
        p->counters.to_sockmap++;
    } else if (error == -EAGAIN) {
        r->readable[from] = true;
        return true;
    } else if (error == -ENOSPC) {
        d->calm = 0; /* later, perhaps */
    } else {
        d->joins = RELAY_NEVER;
    }
    return false;
}

void relay_sockmap_sent(const struct relay_direction *d, struct relay_pool *p, size_t n)
{
    if (n > 0)
        p->fast->ops->taken(p->fast->ctx, d->stream, n);
}

void relay_sockmap_look(struct relay *r, unsigned from)
{
    struct relay_direction *d = &r->dir[from];

    if (!relay_quiet(d))
        return;
    d->phase = PHASE_LOOK;
    r->readable[from] = r->unsure[from] = r->writable[!from] = true;
}

static void add_redirected(struct relay_direction *d, struct relay_pool *p)
{
    int64_t active;

    d->bytes += p->fast->ops->progress(p->fast->ctx, d->stream, &active);
}

/* True when what is passed may be read. */
static bool take_over(struct relay_direction *d, struct relay_pool *p)
{
    const struct fastpath_ops *ops = p->fast->ops;

    if (d->phase == PHASE_LOOK) {
        ops->hold(p->fast->ctx, d->stream);
        d->phase = PHASE_HELD;
        if (p->choice == RELAY_CHOICE_AUTO &&
            (d->demoted >= DEMOTED_MAX || ops->bulk(p->fast->ctx, d->stream)))
            d->leaving = true;
    }
    if (d->phase == PHASE_HELD && ops->settled(p->fast->ctx, d->stream))
        d->phase = PHASE_SETTLED;
    return d->phase == PHASE_SETTLED;
}

/* Out of the sockmap, if nothing comes in between. */
static enum relay_step leave(struct relay *r, struct relay_pool *p, unsigned from)
{
    struct relay_direction *d = &r->dir[from];
    const struct fastpath_ops *ops = p->fast->ops;
    bool bulk = d->streak >= RELAY_STREAK_UP || ops->bulk(p->fast->ctx, d->stream);
    int64_t active;
    uint64_t redirected = ops->progress(p->fast->ctx, d->stream, &active);
    int error = ops->leave(p->fast->ctx, d->stream);

    r->readable[from] = r->unsure[from] = true;
    if (error == -EAGAIN) {
        r->soon = true;
        return STEP_BLOCKED;
    }
    if (error < 0 && error != -EIO) {
        d->leaving = false; /* it stays, then */
        return STEP_MOVED;
    }
    d->bytes += redirected;
    d->engine = bulk ? RELAY_SPLICE : RELAY_COPY;
    d->streak = d->calm = 0;
    if (bulk)
        p->counters.to_splice++;
    else
        p->counters.to_copy++;
    return error < 0 ? STEP_BROKEN : STEP_MOVED;
}

enum relay_step relay_sockmap_step(struct relay *r, struct relay_pool *p, unsigned from,
                                   size_t *ret_n)
{
    struct relay_direction *d = &r->dir[from];
    const struct fastpath_ops *ops = p->fast->ops;
    enum relay_step step = STEP_BLOCKED;

    *ret_n = 0;
    if (!take_over(d, p)) {
        r->soon = true;
        return STEP_BLOCKED;
    }
    if (r->readable[from])
        step = relay_copy_step(r, p, from, ret_n);
    if (step == STEP_MOVED) {
        d->streak = *ret_n == RELAY_CHUNK ? (uint8_t)(d->streak + 1) : 0;
        if (d->streak >= RELAY_STREAK_UP && p->choice == RELAY_CHOICE_AUTO)
            d->leaving = true;
        return STEP_MOVED;
    }
    if (step == STEP_BROKEN || step == STEP_DEAF || r->dead[from])
        return step;
    /* Nothing to read. Bytes may yet be on their way from the kernel's queues. */
    if (ops->waiting(p->fast->ctx, d->stream) > 0) {
        r->readable[from] = r->soon = true;
        return STEP_BLOCKED;
    }
    if (step == STEP_EOF)
        return STEP_EOF;
    if (d->leaving)
        return leave(r, p, from);
    if (!ops->resume(p->fast->ctx, d->stream)) {
        r->readable[from] = true;
        return STEP_MOVED;
    }
    d->phase = PHASE_QUIET;
    return STEP_BLOCKED;
}

void relay_sockmap_finish(struct relay *r, struct relay_pool *p, unsigned from)
{
    struct relay_direction *d = &r->dir[from];

    if (d->engine != RELAY_SOCKMAP)
        return;
    add_redirected(d, p);
    p->fast->ops->drop(p->fast->ctx, d->stream);
    d->engine = RELAY_COPY;
}

void relay_allow_kernel(struct relay *r, uint64_t owner)
{
    r->kernel = true;
    r->owner = owner;
}

void relay_passed(struct relay *r, const struct relay_pool *p, uint32_t stream)
{
    for (unsigned i = 0; i < 2; i++) {
        struct relay_direction *d = &r->dir[i];

        if (d->engine == RELAY_SOCKMAP && d->stream == stream &&
            p->fast->ops->overrun(p->fast->ctx, stream))
            r->overrun = true;
        if (!relay_quiet(d) || d->stream != stream)
            continue;
        relay_sockmap_look(r, i);
        if (d->demoted < UINT8_MAX)
            d->demoted++;
    }
}

uint32_t relay_watch(struct relay *r, unsigned side)
{
    uint32_t events = EPOLLRDHUP | EPOLLET;

    if (!relay_quiet(&r->dir[side]))
        events |= EPOLLIN | EPOLLPRI;
    if (!relay_quiet(&r->dir[!side]))
        events |= EPOLLOUT;
    if ((events & RELAY_WATCHED) == r->watch[side])
        return 0;
    r->watch[side] = (uint8_t)(events & RELAY_WATCHED);
    return events;
}

uint64_t relay_bytes(const struct relay *r, const struct relay_pool *p, unsigned side)
{
    const struct relay_direction *d = &r->dir[side];
    int64_t active;

    return d->bytes + (d->engine == RELAY_SOCKMAP
                           ? p->fast->ops->progress(p->fast->ctx, d->stream, &active)
                           : 0);
}

int64_t relay_kernel_active(const struct relay *r, const struct relay_pool *p)
{
    int64_t latest = 0, active;

    for (unsigned i = 0; i < 2; i++) {
        if (r->dir[i].engine != RELAY_SOCKMAP)
            continue;
        p->fast->ops->progress(p->fast->ctx, r->dir[i].stream, &active);
        if (active > latest)
            latest = active;
    }
    return latest;
}
