/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fixed table: slots, generations, states, counters, records. Memory of slots that were never
 * used is never touched, so a large max-flows costs address space and nothing else.
 */
#include "flow/table.h"
#include "flow/hold.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/ident.h"
#include "log.h"

#define BIT(s) (1u << (s))

/* From each state: the states that may follow. */
static const unsigned follows[FLOW_STATES] = {
    [FLOW_FREE] = BIT(FLOW_HELD) | BIT(FLOW_DIALING),
    [FLOW_HELD] = BIT(FLOW_DIALING) | BIT(FLOW_CLOSING),
    [FLOW_DIALING] = BIT(FLOW_HANDSHAKE) | BIT(FLOW_CLOSING),
    /* Back to DIALING: another member of the group is tried. */
    [FLOW_HANDSHAKE] = BIT(FLOW_DIALING) | BIT(FLOW_GRANTED) | BIT(FLOW_RELAY) | BIT(FLOW_CLOSING),
    [FLOW_GRANTED] = BIT(FLOW_RELAY) | BIT(FLOW_CLOSING),
    [FLOW_RELAY] = BIT(FLOW_HALF_CLOSED) | BIT(FLOW_CLOSING),
    [FLOW_HALF_CLOSED] = BIT(FLOW_CLOSING),
    [FLOW_CLOSING] = BIT(FLOW_FREE),
};

static const char *const state_names[FLOW_STATES] = {
    "free", "held", "dialing", "handshake", "granted", "relay", "half-closed", "closing",
};

const char *flow_state_name(enum flow_state s)
{
    return s < FLOW_STATES ? state_names[s] : "?";
}

bool flow_may_become(enum flow_state from, enum flow_state to)
{
    return from < FLOW_STATES && to < FLOW_STATES && (follows[from] & BIT(to));
}

static uint32_t slot_of(const struct flow_table *t, const struct flow *f)
{
    return (uint32_t)(f - t->flows);
}

uint64_t flow_id(const struct flow_table *t, const struct flow *f)
{
    return ident_make(t->o.worker, f->generation, slot_of(t, f));
}

uint64_t flow_ref(const struct flow_table *t, const struct flow *f, unsigned kind)
{
    return loop_ref(kind, f->generation, slot_of(t, f));
}

struct flow *flow_by_ref(struct flow_table *t, uint64_t ref)
{
    uint32_t slot = loop_ref_index(ref);

    if (slot >= t->n_used)
        return NULL;
    struct flow *f = &t->flows[slot];

    if (f->state == FLOW_FREE || f->generation != loop_ref_generation(ref))
        return NULL;
    return f;
}

struct flow *flow_alloc(struct flow_table *t)
{
    struct flow *f;

    if (t->free != FLOW_NONE) {
        f = &t->flows[t->free];
        t->free = f->next;
    } else if (t->n_used < t->o.max_flows) {
        f = &t->flows[t->n_used++];
    } else {
        return NULL;
    }
    uint32_t generation = (f->generation + 1) & 0xffffff;

    memset(f, 0, sizeof(*f));
    f->generation = generation;
    f->next = FLOW_NONE;
    f->fd[SIDE_CLIENT] = f->fd[SIDE_UPSTREAM] = -1;
    t->stats.flows++;
    return f;
}

void flow_set_state(struct flow_table *t, struct flow *f, enum flow_state to)
{
    if (!flow_may_become(f->state, to)) {
        log_flow(LOG_LEVEL_ERROR, flow_id(t, f), "impossible step from %s to %s",
                 flow_state_name(f->state), flow_state_name(to));
        abort();
    }
    f->state = (uint8_t)to;
}

void flow_release(struct flow_table *t, struct flow *f)
{
    loop_timer_cancel(t->o.loop, &f->timer);
    free(f->name);
    free(f->dialing);
    f->name = NULL;
    f->dialing = NULL;
    flow_set_state(t, f, FLOW_FREE);
    f->next = t->free;
    t->free = slot_of(t, f);
    t->stats.flows--;
}

static void on_event(void *ctx, uint64_t ref, uint32_t events)
{
    flow_event(ctx, ref, events);
}

static void on_listener(void *ctx, uint64_t ref, uint32_t events)
{
    struct flow_table *t = ctx;

    if (events & LOOP_TIMEOUT) {
        t->paused = false;
        listeners_register(t);
    } else {
        listener_event(t, loop_ref_index(ref));
    }
}

static void on_sweep(void *ctx, uint64_t ref, uint32_t events)
{
    (void)ref;
    (void)events;
    flow_sweep(ctx);
}

static void on_soon(void *ctx, uint64_t ref, uint32_t events)
{
    (void)ref;
    (void)events;
    flow_soon(ctx);
}

static void on_passed(void *ctx, uint64_t owner, uint32_t stream)
{
    flow_passed(ctx, owner, stream);
}

static void on_kernel(void *ctx, uint64_t ref, uint32_t events)
{
    struct flow_table *t = ctx;

    (void)ref;
    (void)events;
    t->o.fast->ops->events(t->o.fast->ctx, on_passed, t);
}

static bool on_batch_end(void *ctx)
{
    return flow_batch_end(ctx);
}

int flow_table_create(const struct flow_table_options *o, struct flow_table **ret)
{
    struct flow_table *t;

    if (o->n_listeners > UINT16_MAX || o->n_captures > UINT16_MAX)
        return -E2BIG;
    t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->o = *o;
    t->free = t->again = t->later = t->reap = FLOW_NONE;
    t->reserve = -1;
    t->flows = mmap(NULL, (size_t)o->max_flows * sizeof(struct flow), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t->flows == MAP_FAILED) {
        free(t);
        return -ENOMEM;
    }
    loop_set_handler(o->loop, KIND_LISTENER, on_listener, t);
    loop_set_handler(o->loop, KIND_CLIENT, on_event, t);
    loop_set_handler(o->loop, KIND_UPSTREAM, on_event, t);
    loop_set_handler(o->loop, KIND_SWEEP, on_sweep, t);
    loop_set_handler(o->loop, KIND_SOON, on_soon, t);
    loop_set_handler(o->loop, KIND_KERNEL, on_kernel, t);
    loop_set_batch_end(o->loop, on_batch_end, t);
    flow_sweep(t);
    int r = listeners_register(t);

    if (r == 0 && o->n_holds > 0)
        r = holds_create(t);
    if (r == 0 && o->fast)
        r = loop_add(o->loop, o->fast->event_fd, EPOLLIN, loop_ref(KIND_KERNEL, 0, 0));

    if (r < 0) {
        flow_table_destroy(t);
        return r;
    }
    *ret = t;
    return 0;
}

void flow_table_destroy(struct flow_table *t)
{
    if (!t)
        return;
    listeners_unregister(t, true);
    loop_timer_cancel(t->o.loop, &t->resume);
    loop_timer_cancel(t->o.loop, &t->sweep);
    for (uint32_t i = 0; i < t->n_used; i++) {
        struct flow *f = &t->flows[i];

        if (f->state != FLOW_FREE)
            flow_abort(t, f);
    }
    t->draining = false;
    flow_soon(t);
    loop_timer_cancel(t->o.loop, &t->soon);
    if (t->o.fast)
        loop_remove(t->o.loop, t->o.fast->event_fd);
    flow_batch_end(t);
    holds_destroy(t);
    fd_close(&t->reserve);
    munmap(t->flows, (size_t)t->o.max_flows * sizeof(struct flow));
    loop_set_handler(t->o.loop, KIND_LISTENER, NULL, NULL);
    loop_set_handler(t->o.loop, KIND_CLIENT, NULL, NULL);
    loop_set_handler(t->o.loop, KIND_UPSTREAM, NULL, NULL);
    loop_set_handler(t->o.loop, KIND_SWEEP, NULL, NULL);
    loop_set_handler(t->o.loop, KIND_SOON, NULL, NULL);
    loop_set_handler(t->o.loop, KIND_KERNEL, NULL, NULL);
    loop_set_batch_end(t->o.loop, NULL, NULL);
    free(t);
}

void flow_table_drain(struct flow_table *t)
{
    if (!t->draining)
        holds_drain(t);
    t->draining = true;
    listeners_unregister(t, false);
    if (t->stats.flows == 0 && t->o.on_empty)
        t->o.on_empty(t->o.ctx);
}

bool flow_table_draining(const struct flow_table *t)
{
    return t->draining;
}

void flow_table_stats(const struct flow_table *t, struct message_stats *ret)
{
    const struct relay_counters *c = relay_pool_counters(t->o.pool);

    *ret = t->stats;
    ret->bytes_copied = c->bytes_copied;
    ret->bytes_spliced = c->bytes_spliced;
    ret->to_splice = c->to_splice;
    ret->to_copy = c->to_copy;
    ret->no_pipe = c->no_pipe;
    ret->no_stash = c->no_stash;
    if (t->o.fast) {
        struct fastpath_counters k;

        t->o.fast->ops->counters(t->o.fast->ctx, &k);
        ret->bytes_redirected = k.redirected;
        ret->bytes_passed = k.passed;
        ret->sockmap_joined = k.joined;
        ret->sockmap_left = k.left;
        ret->sockmap_demoted = k.demoted;
        ret->sockmap_full = k.full;
        ret->sockmap_refused = k.refused;
        ret->sockmap_overrun = k.overrun;
        ret->sockmap_lost = k.lost;
    }
}

static void fill_record(const struct flow_table *t, const struct flow *f, struct message_flow *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->header = (struct message_header)MESSAGE_HEADER(MESSAGE_FLOW, sizeof(*ret));
    ret->id = flow_id(t, f);
    ret->protocol = IPPROTO_TCP;
    ret->client = f->client;
    ret->origin = f->origin;
    ret->age_ms = (uint64_t)(loop_now(t->o.loop) - f->started) / 1000000;
    snprintf(ret->capture, sizeof(ret->capture), "%s", t->o.captures[f->capture].name);
    snprintf(ret->upstream, sizeof(ret->upstream), "%s", f->upstream ? f->upstream->name : "");
    snprintf(ret->name, sizeof(ret->name), "%s", f->name ? f->name : "");
    snprintf(ret->state, sizeof(ret->state), "%s", flow_state_name(f->state));
    if (f->state == FLOW_RELAY || f->state == FLOW_HALF_CLOSED) {
        ret->bytes_up = relay_bytes(&f->relay, t->o.pool, SIDE_CLIENT);
        ret->bytes_down = relay_bytes(&f->relay, t->o.pool, SIDE_UPSTREAM);
        snprintf(ret->engine, sizeof(ret->engine), "%s",
                 relay_engine_name(relay_shown_engine(&f->relay)));
    }
}

size_t flow_table_records(const struct flow_table *t, uint32_t *cursor, struct message_flow *ret,
                          size_t max)
{
    size_t n = 0;

    for (; *cursor < t->n_used && n < max; (*cursor)++) {
        if (t->flows[*cursor].state != FLOW_FREE)
            fill_record(t, &t->flows[*cursor], &ret[n++]);
    }
    return n;
}
