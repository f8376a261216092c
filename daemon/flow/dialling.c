/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A flow and its upstream: which are asked, in which order, and what becomes of the flow with their
 * answer. One that is at fault is followed by the next; what an upstream says of the destination is
 * final.
 */
#include <errno.h>

#include "flow/hold.h"
#include "flow/table.h"
#include "log.h"

#define UNPROVEN_WAIT  INT64_C(200000000)
#define UNPROVEN_WAITS 25 /* 5 s */

static bool has_next(const struct flow_table *t, const struct flow *f)
{
    unsigned next = f->dialing->at + 1u;

    return next < f->dialing->n && (f->dialing->order[next] != FLOW_DIRECT ||
                                    upstream_all_gone(t->o.captures[f->capture].choice));
}

static void dial_failed(struct flow_table *t, struct flow *f)
{
    struct dial *d = &f->dialing->dial;
    char why[200], to[ADDR_STRLEN];
    bool at_fault = dial_upstream_at_fault(d);

    dial_describe(d, why, sizeof(why));
    log_flow(LOG_LEVEL_DEBUG, flow_id(t, f), "%s through %s: %s",
             addr_format(&f->origin.destination, to), d->upstream->name, why);
    if (at_fault || dial_was_answered(d))
        upstream_report(d->upstream, at_fault ? why : NULL, dial_upstream_gone(d),
                        loop_now(t->o.loop));
    if (!at_fault && dial_worth_a_line(d))
        upstream_complain(d->upstream, why, loop_now(t->o.loop));
    loop_timer_cancel(t->o.loop, &f->timer);
    if (at_fault && has_next(t, f)) {
        f->dialing->at++;
        if (f->state == FLOW_HANDSHAKE)
            flow_set_state(t, f, FLOW_DIALING);
        return; /* the caller dials the next one */
    }
    if (d->fault == DIAL_RESOURCE)
        t->stats.refused_full++;
    else
        t->stats.failed++;
    if (f->held)
        hold_failed(t, f, dial_errno(d));
    flow_end(t, f, false);
}

static struct dial_env dial_env(struct flow_table *t, struct flow *f)
{
    return (struct dial_env){
        .loop = t->o.loop, .timer = &f->timer, .ref = flow_ref(t, f, KIND_UPSTREAM)};
}

/* Dials candidate after candidate until one is pending or none is left. */
static void dial_on(struct flow_table *t, struct flow *f)
{
    struct upstream_choice *choice = t->o.captures[f->capture].choice;

    while (f->state == FLOW_DIALING) {
        uint8_t k = f->dialing->order[f->dialing->at];
        struct upstream *u = k == FLOW_DIRECT ? choice->direct : choice->candidates[k];
        const struct addr *to = k == FLOW_DIRECT ? &f->origin.destination : &f->dialing->asked;
        struct dial_env env = dial_env(t, f);

        f->upstream = u;
        if (dial_start(&f->dialing->dial, u, to, f->name, &env) == DIAL_PENDING)
            return;
        dial_failed(t, f);
    }
}

/*
 * An upstream on this host that was not there when the rules were made has come up: whose it is
 * must be known before it is asked for anything, or its own connections could come back to us for
 * ever. The keeper is told, and the flow waits.
 */
static void wait_for_proof(struct flow_table *t, struct flow *f)
{
    struct dial *d = &f->dialing->dial;

    dial_finish(d);
    if (t->o.on_unproven)
        t->o.on_unproven(t->o.ctx);
    if (f->dialing->waits == UNPROVEN_WAITS ||
        loop_timer_set(t->o.loop, &f->timer, UNPROVEN_WAIT, flow_ref(t, f, KIND_UPSTREAM)) < 0) {
        upstream_complain(d->upstream, "it is on this host and would be captured itself",
                          loop_now(t->o.loop));
        t->stats.failed++;
        if (f->held)
            hold_failed(t, f, ECONNREFUSED);
        flow_end(t, f, false);
        return;
    }
    f->dialing->waits++;
    f->dialing->waiting = true;
}

void flow_dial_step(struct flow_table *t, struct flow *f, uint32_t events)
{
    struct dial *d = &f->dialing->dial;
    struct dial_env env = dial_env(t, f);

    if (f->dialing->waiting) {
        if (events & LOOP_TIMEOUT) {
            f->dialing->waiting = false;
            dial_on(t, f);
        }
        return;
    }
    enum dial_result result = dial_event(d, events, &env);

    if (result == DIAL_UNPROVEN) {
        wait_for_proof(t, f);
        return;
    }
    if (d->connected && f->state == FLOW_DIALING)
        flow_set_state(t, f, FLOW_HANDSHAKE);
    if (result == DIAL_GRANTED) {
        d->upstream->granted++;
        upstream_report(d->upstream, NULL, false, loop_now(t->o.loop));
        if (f->held)
            hold_granted(t, f);
        else
            flow_begin_relay(t, f);
    } else if (result == DIAL_FAILED) {
        dial_failed(t, f);
        dial_on(t, f);
    }
}

static void choose_upstreams(struct flow_table *t, struct flow *f, struct upstream_choice *choice)
{
    unsigned n = 0;

    /* Who stands for a name is nowhere to be found directly. */
    if (f->name || !upstream_go_direct(choice, loop_now(t->o.loop)))
        n = upstream_order(choice, &f->origin.destination, f->dialing->order);
    upstream_look_again(choice, f->dialing->order, n, loop_now(t->o.loop));
    if (choice->direct_when_down && !f->name)
        f->dialing->order[n++] = FLOW_DIRECT;
    f->dialing->n = (uint8_t)n;
}

static struct addr asked(const struct flow_table *t, const struct flow *f)
{
    const struct flow_names *n = &t->o.names;
    const struct addr *to = &f->origin.destination;
    const struct addr *server = n->server ? n->server(n->ctx, f->capture, to) : NULL;

    return server ? *server : *to;
}

void flow_dial(struct flow_table *t, struct flow *f)
{
    f->dialing->asked = asked(t, f);
    choose_upstreams(t, f, t->o.captures[f->capture].choice);
    flow_set_state(t, f, FLOW_DIALING);
    if (f->dialing->n == 0) {
        t->stats.failed++;
        if (f->held)
            hold_failed(t, f, ECONNREFUSED);
        flow_end(t, f, false);
        return;
    }
    dial_on(t, f);
}
