/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/stitch_state.h: whether upstreams answer, and whether our filters are asked.
 *
 * A failed handshake comes as an event; an upstream that does not even answer SYNs is found in the
 * table, as the programs hear of nothing. Either takes the upstream off stitch at once. It comes
 * back when its time is over, which doubles from failure to failure, and when a worker has been
 * answered since: so an application's connection is never the probe, and without one that is
 * relayed well nothing changes.
 *
 * Filters that are not asked, because somebody's program comes first and lets packets pass, are put
 * before it. IPsec shows them a packet when it is wrapped already: servers behind its policies are
 * left to the relay. Where neither helps everything is relayed until the next reload. The
 * connections that have met it would wait in vain: they are ended.
 */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "bpf_abi.h"
#include "keeper/stitch_policy.h"
#include "keeper/stitch_state.h"
#include "log.h"

#define GOOD_STRETCH INT64_C(60000000000) /* without a failure: the next one is a first one */
#define ECHO_TIME    INT64_C(1000000000)  /* for reports of what went out before */

static struct stitch_route *route_of(const struct stitch *s, uint32_t id)
{
    for (size_t i = 0; i < s->n_routes; i++) {
        for (size_t k = 0; k < 2; k++) {
            unsigned n = s->routes[i].lines[k];

            if (n && s->lines[n].current && s->lines[n].id == id)
                return &s->routes[i];
        }
    }
    return NULL;
}

static void hold(struct stitch *s, struct stitch_route *route)
{
    int64_t now = loop_now(s->loop);

    if (now - route->resumed_at > GOOD_STRETCH)
        route->failures = 0;
    route->held = true;
    route->failed_at = now;
    route->retry_at = now + stitch_hold_off(++route->failures);
    stitch_use(s);
}

static void judge(struct stitch *s, const struct stitch_event *e)
{
    struct stitch_route *route = route_of(s, e->id);
    unsigned hop;
    char line[400];

    if (!route || route->held)
        return;
    size_t i = (size_t)(route - s->routes);
    struct upstream *u = &s->generation->upstreams[i];
    enum stitch_blame blame = stitch_judge(u, route->no_auth, e, &hop);

    if (blame == STITCH_BLAME_METHOD && s->forced) {
        log_info("upstream %s: it wants no password: stitched without", u->name);
        route->no_auth |= 1u << hop;
        stitch_make_scripts(s, i);
        stitch_use(s);
        return;
    }
    stitch_describe(u, route->no_auth, e, line, sizeof(line));
    if (blame != STITCH_BLAME_NOBODY) {
        size_t n = strlen(line);

        snprintf(line + n, sizeof(line) - n, "; relayed, not stitched, until it answers");
    }
    if (stitch_worth_a_line(u, e))
        upstream_complain(u, line, loop_now(s->loop));
    if (blame == STITCH_BLAME_NOBODY)
        return;
    if (route->no_auth) {
        route->no_auth = 0; /* it may have been taken to want a password since */
        stitch_make_scripts(s, i);
    }
    hold(s, route);
}

static void end_unfinished(const struct stitch *s)
{
    int sockets = bpf_stitch_map_fd(s->bpf, ABI_MAP_SOCKETS);

    for (size_t i = 0; i < s->n_bound; i++) {
        if (s->bound[i].bpf)
            bpf_stitch_end(sockets, bpf_capture_instance(s->bound[i].bpf));
    }
}

/* Puts ours first; or says that it cannot be mended. */
static bool go_first(const struct stitch *s, unsigned interface, const char *name)
{
    if (bpf_stitch_go_first(s->bpf, (int)interface) == 0) {
        log_warning("stitch: on %s somebody's program lets packets past our filters; ours are "
                    "asked before it now",
                    name);
        return true;
    }
    log_warning("stitch: on %s somebody's program is before our filters, and lets packets past "
                "them (\"bpftool net\", \"tc filter show dev %s ingress\" and \"egress\"): "
                "connections are relayed, until the next reload",
                name, name);
    return false;
}

/* A policy that is younger than the last look, or that the look does not understand. */
static bool wrapped_by_policy(struct stitch *s, unsigned number, const char *name)
{
    stitch_find_wrapped(s);
    if (number < STITCH_SCRIPTS && s->lines[number].wrapped)
        return true;
    log_warning("stitch: what leaves by %s is wrapped (IPsec) before it comes to our filters: "
                "connections are relayed, until the next reload",
                name);
    return false;
}

static void on_bypass(struct stitch *s, const struct stitch_event *e)
{
    int64_t now = loop_now(s->loop);
    char name[IF_NAMESIZE] = "";

    if (s->bypassed || (s->mended_at && now - s->mended_at < ECHO_TIME))
        return;
    if (!if_indextoname(e->interface, name))
        snprintf(name, sizeof(name), "?");
    s->bypassed = e->code == STITCH_WRAPPED ? !wrapped_by_policy(s, e->number, name)
                                            : !go_first(s, e->interface, name);
    s->mended_at = now;
    stitch_use(s);
    end_unfinished(s);
}

void stitch_on_handshake(void *ctx, const struct stitch_event *e)
{
    if (e->reason == STITCH_BY_BYPASS)
        on_bypass(ctx, e);
    else
        judge(ctx, e);
}

void stitch_find_silence(void *ctx, const struct stitch_key *key, const struct stitch_flow *flow)
{
    struct stitch *s = ctx;
    bool waits = flow->state == STITCH_SYN || flow->state == STITCH_STEP;
    const struct stitch_route *route = waits ? route_of(s, flow->id) : NULL;
    const struct stitch_event e = {.id = flow->id,
                                   .reason = flow->state == STITCH_SYN ? STITCH_BY_SILENCE
                                                                       : STITCH_BY_TIMEOUT,
                                   .step = flow->step};
    unsigned hop;

    (void)key;
    if (!route || route->held || (int64_t)flow->began < route->resumed_at)
        return;
    const struct upstream *u = &s->generation->upstreams[route - s->routes];
    int64_t age = loop_now(s->loop) - (int64_t)flow->deadline;

    /* What is older is of somebody who has given up, and has been seen. */
    if (age > 0 && age < 3 * STITCH_SWEEP_INTERVAL &&
        stitch_judge(u, route->no_auth, &e, &hop) == STITCH_BLAME_UPSTREAM)
        judge(s, &e);
}

void stitch_resume(struct stitch *s)
{
    int64_t now = loop_now(s->loop);
    bool changed = false;

    for (size_t i = 0; i < s->n_routes; i++) {
        struct stitch_route *route = &s->routes[i];

        if (!route->held || now < route->retry_at ||
            upstream_answered_at(&s->generation->upstreams[i]) <= route->failed_at)
            continue;
        route->held = false;
        route->resumed_at = now;
        stitch_make_scripts(s, i); /* it may have been seen to want another method */
        changed = true;
        log_info("upstream %s: answers: stitched again", route->name);
    }
    if (changed)
        stitch_use(s);
}
