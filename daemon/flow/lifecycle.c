/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of a flow: accepted or held, joined, ended. How its upstream is asked: dialling.c.
 *
 * Theory of operation. Both sockets of a flow are in the loop from the beginning of their lives to
 * the end, edge-triggered. While the upstream is being asked, the application's bytes wait in its
 * socket: nothing is read, so nothing can pile up. With the last reply the flow becomes a relay
 * over the same two sockets.
 *
 * Ends. A flow that fails or is reset closes sockets that carry SO_LINGER 0: the kernel resets
 * them, as it would if we died. Only FIN on both sides makes an orderly close. A reset waits, for a
 * few seconds at most, until the surviving side has taken what was sent before the reset, and then
 * until it has been handed that: closing at once would throw away what is still in our send queue.
 *
 * Nothing is freed inside an event: an ended flow goes to the reap list and is released after the
 * batch.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/fd.h"
#include "flow/hold.h"
#include "flow/table.h"
#include "log.h"

#define LINGER_STEP  INT64_C(20000000) /* 20 ms between looks at the survivor's queue */
#define LINGER_STEPS 250               /* 5 s */

/* How long a flow waits for the kernel: longer each time that none of those that wait gets on. */
#define SOON_MIN INT64_C(1000000)
#define SOON_MAX INT64_C(64000000)

#define SWEEP_INTERVAL INT64_C(30000000000)

static uint32_t slot_of(const struct flow_table *t, const struct flow *f)
{
    return (uint32_t)(f - t->flows);
}

static void reap_later(struct flow_table *t, struct flow *f)
{
    if (f->reaping)
        return;
    f->reaping = true;
    if (f->queued)
        return; /* its `next` belongs to the again list for now; that moves it over */
    f->next = t->reap;
    t->reap = slot_of(t, f);
}

static void queue_again(struct flow_table *t, struct flow *f)
{
    if (f->queued || f->reaping)
        return;
    f->queued = true;
    f->next = t->again;
    t->again = slot_of(t, f);
}

/* A flow that comes anew makes the wait short again. */
static void queue_later(struct flow_table *t, struct flow *f)
{
    if (f->queued || f->reaping)
        return;
    if (!t->in_soon)
        t->later_wait = SOON_MIN;
    if ((t->later == FLOW_NONE || !t->in_soon) &&
        loop_timer_set(t->o.loop, &t->soon, t->later_wait, loop_ref(KIND_SOON, 0, 0)) < 0) {
        queue_again(t, f);
        return;
    }
    f->queued = true;
    f->next = t->later;
    t->later = slot_of(t, f);
}

static bool relaying(const struct flow *f)
{
    return f->state == FLOW_RELAY || f->state == FLOW_HALF_CLOSED;
}

/* Are there bytes that this side was sent and has not acknowledged? */
static bool unsent(int fd)
{
    int n = 0;

    return fd >= 0 && ioctl(fd, SIOCOUTQ, &n) == 0 && n > 0;
}

/* The side that outlived a reset; -1 when it was not that. The relay's words outlast
 * relay_finish(). */
static int survivor(const struct flow *f)
{
    if (f->relay.dead[SIDE_CLIENT] == f->relay.dead[SIDE_UPSTREAM])
        return -1;
    return f->relay.dead[SIDE_CLIENT] ? f->fd[SIDE_UPSTREAM] : f->fd[SIDE_CLIENT];
}

static void linger(struct flow_table *t, struct flow *f)
{
    if (f->linger_left == 0 || !unsent(survivor(f)) ||
        loop_timer_set(t->o.loop, &f->timer, LINGER_STEP, flow_ref(t, f, KIND_CLIENT)) < 0) {
        reap_later(t, f);
        return;
    }
    f->linger_left--;
}

void flow_end(struct flow_table *t, struct flow *f, bool orderly)
{
    bool was_relay = relaying(f);

    if (was_relay) {
        t->stats.bytes_up += relay_bytes(&f->relay, t->o.pool, SIDE_CLIENT);
        t->stats.bytes_down += relay_bytes(&f->relay, t->o.pool, SIDE_UPSTREAM);
        relay_finish(&f->relay, t->o.pool);
        if (orderly)
            t->stats.finished++;
        else
            t->stats.reset++;
    } else {
        dial_finish(&f->dialing->dial);
    }
    loop_timer_cancel(t->o.loop, &f->timer);
    flow_set_state(t, f, FLOW_CLOSING);
    f->orderly = orderly;
    f->linger_left = was_relay && !orderly ? LINGER_STEPS : 0;
    if (!f->held || !hold_lingers(t, f))
        linger(t, f);
}

void flow_abort(struct flow_table *t, struct flow *f)
{
    if (f->state != FLOW_CLOSING)
        flow_end(t, f, false);
    reap_later(t, f);
}

void flow_reap(struct flow_table *t, struct flow *f)
{
    reap_later(t, f);
}

static void reap(struct flow_table *t, struct flow *f)
{
    if (f->held)
        hold_release(t, f);
    for (unsigned i = 0; i < 2; i++) {
        if (f->orderly && f->fd[i] >= 0)
            fd_reset_on_close(f->fd[i], false);
        fd_close(&f->fd[i]);
    }
    flow_release(t, f);
}

/* Sockets whose bytes the kernel moves must not wake us. */
static bool watch(struct flow_table *t, struct flow *f)
{
    static const unsigned kinds[] = {KIND_CLIENT, KIND_UPSTREAM};
    int r = 0;

    for (unsigned i = 0; r == 0 && i < 2; i++) {
        uint32_t events = relay_watch(&f->relay, i);

        if (events != 0)
            r = loop_modify(t->o.loop, f->fd[i], events, flow_ref(t, f, kinds[i]));
    }
    return r == 0;
}

static void pump(struct flow_table *t, struct flow *f)
{
    enum relay_status status = relay_pump(&f->relay, t->o.pool);

    if (t->o.fast && (status == RELAY_IDLE || status == RELAY_SOON || status == RELAY_MORE) &&
        !watch(t, f))
        status = RELAY_RESET;
    switch (status) {
    case RELAY_SOON:
        queue_later(t, f);
        break;
    case RELAY_MORE:
        queue_again(t, f);
        break;
    case RELAY_DONE:
        flow_end(t, f, true);
        return;
    case RELAY_RESET:
        flow_end(t, f, false);
        return;
    case RELAY_IDLE:
        break;
    }
    if (f->state == FLOW_RELAY && relay_half_closed(&f->relay))
        flow_set_state(t, f, FLOW_HALF_CLOSED);
    if (relay_dying(&f->relay) && !f->dying) {
        f->dying = true;
        if (loop_timer_set(t->o.loop, &f->timer, RELAY_DYING_TIME, flow_ref(t, f, KIND_CLIENT)) < 0)
            flow_abort(t, f);
    }
}

void flow_begin_relay(struct flow_table *t, struct flow *f)
{
    f->upstream = f->dialing->dial.upstream;
    f->fd[SIDE_UPSTREAM] = dial_take(&f->dialing->dial);
    dial_finish(&f->dialing->dial);
    free(f->dialing);
    f->dialing = NULL;
    loop_timer_cancel(t->o.loop, &f->timer);
    relay_init(&f->relay, f->fd[SIDE_CLIENT], f->fd[SIDE_UPSTREAM]);
    if (t->o.fast)
        relay_allow_kernel(&f->relay, flow_ref(t, f, KIND_CLIENT));
    flow_set_state(t, f, FLOW_RELAY);
    t->stats.granted++;
    f->active = loop_now(t->o.loop);
    if (t->o.idle_timeout > 0)
        loop_timer_set(t->o.loop, &f->timer, t->o.idle_timeout, flow_ref(t, f, KIND_CLIENT));
    pump(t, f);
}

/* The name that the destination stands for, if it does; NULL in `ret_name`: it is a real address.
 * -errno: it stands for nothing. */
static int find_name(struct flow_table *t, const struct addr *destination, char **ret_name,
                     uint32_t *ret_slot)
{
    char name[256], to[ADDR_STRLEN];
    int r =
        t->o.names.find ? t->o.names.find(t->o.names.ctx, destination, name, ret_slot) : -EINVAL;

    *ret_name = NULL;
    if (r == -EINVAL)
        return 0;
    if (r == 0)
        *ret_name = strdup(name);
    if (*ret_name)
        return 0;
    t->stats.refused_name++;
    log_debug("%s was given for a name that is forgotten: refused", addr_format(destination, to));
    return r < 0 ? r : -ENOMEM;
}

/* NULL: the table or the memory is full, which was counted, or the destination stands for nothing.
 */
static struct flow *new_flow(struct flow_table *t, unsigned capture, const struct addr *client,
                             const struct origin *origin)
{
    uint32_t slot = 0;
    char *name;

    if (find_name(t, &origin->destination, &name, &slot) < 0)
        return NULL;
    struct flow_dialing *dialing = calloc(1, sizeof(*dialing));
    struct flow *f = dialing ? flow_alloc(t) : NULL;

    if (!f) {
        int64_t now = loop_now(t->o.loop);

        t->stats.refused_full++;
        if (dialing && now >= t->next_full_log)
            log_warning("the flow table is full (%u): new connections are reset; raise %s",
                        t->o.max_flows, t->o.max_flows_is);
        t->next_full_log = now + INT64_C(10000000000);
        free(dialing);
        free(name);
        return NULL;
    }
    f->dialing = dialing;
    f->name = name;
    f->name_slot = slot;
    f->capture = (uint16_t)capture;
    f->client = *client;
    f->origin = *origin;
    f->started = f->active = loop_now(t->o.loop);
    f->dialing->dial.fd = -1;
    t->stats.accepted++;
    return f;
}

void flow_begin(struct flow_table *t, unsigned capture, int fd, const struct addr *client,
                const struct origin *origin)
{
    struct flow *f = new_flow(t, capture, client, origin);

    if (!f) {
        fd_close(&fd);
        return;
    }
    f->fd[SIDE_CLIENT] = fd;
    if (loop_add(t->o.loop, fd, RELAY_EVENTS, flow_ref(t, f, KIND_CLIENT)) == 0) {
        flow_dial(t, f);
        return;
    }
    t->stats.failed++;
    flow_set_state(t, f, FLOW_DIALING);
    flow_end(t, f, false);
}

struct flow *flow_begin_held(struct flow_table *t, unsigned capture, const struct addr *client,
                             const struct origin *origin)
{
    struct flow *f = new_flow(t, capture, client, origin);

    if (f) {
        f->held = true;
        flow_set_state(t, f, FLOW_HELD);
    }
    return f;
}

void flow_join(struct flow_table *t, struct flow *f, int fd)
{
    hold_release(t, f);
    f->fd[SIDE_CLIENT] = fd;
    if (loop_add(t->o.loop, fd, RELAY_EVENTS, flow_ref(t, f, KIND_CLIENT)) == 0) {
        flow_begin_relay(t, f);
        return;
    }
    t->stats.failed++;
    flow_end(t, f, false);
}

static void idle_check(struct flow_table *t, struct flow *f)
{
    int64_t kernel = relay_kernel_active(&f->relay, t->o.pool);
    int64_t active = kernel > f->active ? kernel : f->active;
    int64_t left = active + t->o.idle_timeout - loop_now(t->o.loop);

    if (left <= 0) {
        log_flow(LOG_LEVEL_DEBUG, flow_id(t, f), "reset: idle for idle-timeout");
        flow_end(t, f, false);
    } else {
        loop_timer_set(t->o.loop, &f->timer, left, flow_ref(t, f, KIND_CLIENT));
    }
}

void flow_event(struct flow_table *t, uint64_t ref, uint32_t events)
{
    struct flow *f = flow_by_ref(t, ref);

    if (!f || f->reaping)
        return;
    bool client = loop_ref_kind(ref) == KIND_CLIENT;

    if (f->state == FLOW_GRANTED || (f->state == FLOW_CLOSING && f->held)) {
        /* What the upstream sends meanwhile is found when the relay begins. */
        if (events & LOOP_TIMEOUT)
            hold_timeout(t, f);
    } else if (f->state == FLOW_CLOSING) {
        if (events & LOOP_TIMEOUT)
            linger(t, f);
    } else if (relaying(f)) {
        if (events & LOOP_TIMEOUT) {
            if (f->dying)
                flow_abort(t, f); /* the survivor has had its time */
            else
                idle_check(t, f);
            return;
        }
        f->active = loop_now(t->o.loop);
        relay_event(&f->relay, client ? SIDE_CLIENT : SIDE_UPSTREAM, events);
        pump(t, f);
    } else if (!client) {
        flow_dial_step(t, f, events);
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        /* The application has reset its connection: nobody waits for the answer. */
        t->stats.failed++;
        flow_end(t, f, false);
    }
}

void flow_passed(struct flow_table *t, uint64_t ref, uint32_t stream)
{
    struct flow *f = flow_by_ref(t, ref);

    if (!f || f->reaping || !relaying(f))
        return;
    f->active = loop_now(t->o.loop);
    relay_passed(&f->relay, t->o.pool, stream);
    pump(t, f);
}

void flow_soon(struct flow_table *t)
{
    uint32_t slot = t->later;

    t->later = FLOW_NONE;
    t->later_wait = t->later_wait * 2 > SOON_MAX ? SOON_MAX : t->later_wait * 2;
    t->in_soon = true;
    while (slot != FLOW_NONE) {
        struct flow *f = &t->flows[slot];

        slot = f->next;
        f->queued = false;
        if (f->reaping) {
            f->next = t->reap;
            t->reap = slot_of(t, f);
        } else if (relaying(f)) {
            pump(t, f);
        }
    }
    t->in_soon = false;
}

void flow_sweep(struct flow_table *t)
{
    int64_t now = loop_now(t->o.loop);

    for (uint32_t i = 0; i < t->n_used; i++) {
        struct flow *f = &t->flows[i];

        if (f->state != FLOW_FREE && f->name)
            t->o.names.hold(t->o.names.ctx, f->name_slot);
        if (!relaying(f) || f->keepalive || now - f->started < SWEEP_INTERVAL)
            continue;
        fd_keepalive(f->fd[SIDE_UPSTREAM]);
        f->keepalive = true;
    }
    loop_timer_set(t->o.loop, &t->sweep, SWEEP_INTERVAL, loop_ref(KIND_SWEEP, 0, 0));
}

bool flow_batch_end(struct flow_table *t)
{
    uint32_t slot = t->again;

    t->again = FLOW_NONE;
    while (slot != FLOW_NONE) {
        struct flow *f = &t->flows[slot];

        slot = f->next;
        f->queued = false;
        if (f->reaping) {
            f->next = t->reap;
            t->reap = slot_of(t, f);
        } else if (relaying(f)) {
            pump(t, f);
        }
    }
    while (t->reap != FLOW_NONE) {
        struct flow *f = &t->flows[t->reap];

        t->reap = f->next;
        reap(t, f);
    }
    if (t->draining && t->stats.flows == 0 && t->o.on_empty)
        t->o.on_empty(t->o.ctx);
    return t->again != FLOW_NONE;
}
