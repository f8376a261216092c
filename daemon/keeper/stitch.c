/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/stitch.h.
 *
 * Health. A failed handshake comes as an event; an upstream that does not even answer SYNs is found
 * in the table, as the programs hear of nothing. Either takes the upstream off stitch at once. It
 * comes back when its time is over, which doubles from failure to failure, and when a worker has
 * been answered since: so an application's connection is never the probe, and without one that is
 * relayed well nothing changes.
 */
#include "keeper/stitch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include <linux/bpf.h>

#include "keeper/stitch_policy.h"
#include "keeper/stitch_proof.h"
#include "keeper/stitch_state.h"
#include "log.h"
#include "upstream/script.h"

enum { INDEX_LINKS, INDEX_EVENTS, INDEX_TIMER };

#define PROOF_REST     INT64_C(10000000000)
#define SWEEP_INTERVAL INT64_C(2000000000)
#define LEARN_INTERVAL INT64_C(500000000)    /* while an upstream is yet to be heard */
#define GOOD_STRETCH   INT64_C(60000000000)  /* without a failure: the next one is a first one */
#define SCRIPT_LINGERS INT64_C(150000000000) /* for SYNs that have not gone out yet */
#define FINISH_STEPS   50                    /* of 20 ms */

/*
 * Whether fast-path = "auto" may stitch: only on a kernel that has proved that it can. What was
 * tried and went wrong is believed for good; what could not be tried, or not in time, may turn out
 * better at the next reload.
 */
static bool may_stitch_unasked(struct stitch *s)
{
    bool again = !s->tried || (!s->disproved && loop_now(s->loop) - s->tried > PROOF_REST);

    if (s->proved || stitch_proof_kept())
        return s->proved = true;
    if (again) {
        int r = stitch_proof_make(s->unproved, sizeof(s->unproved));

        s->tried = loop_now(s->loop);
        s->proved = r == 0;
        s->disproved = r == -EPROTO || r == -EOPNOTSUPP;
        if (r < 0)
            log_info("connections are relayed, not stitched: %s", s->unproved);
    }
    return s->proved;
}

static bool could_be_stitched(const struct generation *g)
{
    const char *why;
    bool some = false;

    for (size_t i = 0; i < g->set.n_policies; i++)
        some |= stitch_choose(g->config, i, &why) >= 0;
    return some && (g->config->fast_path == FAST_STITCH || g->config->fast_path == FAST_AUTO);
}

int stitch_create(struct loop *loop, unsigned kind, struct stitch **ret)
{
    struct stitch *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->kind = kind;
    *ret = s;
    return 0;
}

bool stitch_wanted(struct stitch *s, const struct generation *g)
{
    return could_be_stitched(g) && (g->config->fast_path == FAST_STITCH || may_stitch_unasked(s));
}

/* ---- scripts ---- */

static unsigned line_for(struct stitch *s, const char *name, const struct addr *server)
{
    unsigned fresh = 0, oldest = 0;

    for (unsigned i = 1; i < STITCH_SCRIPTS; i++) {
        const struct stitch_line *l = &s->lines[i];

        if (strcmp(l->name, name) == 0 && addr_equal(&l->server, server))
            return i;
        if (!l->name[0])
            fresh = fresh ? fresh : i;
        else if (!l->current && (!oldest || l->left < s->lines[oldest].left))
            oldest = i;
    }
    unsigned n = fresh ? fresh : oldest;

    if (n == 0)
        return 0;
    s->lines[n] = (struct stitch_line){.server = *server, .reused = n != fresh};
    snprintf(s->lines[n].name, sizeof(s->lines[n].name), "%s", name);
    return n;
}

/* The script of a route for the first address of a family, if there is one. */
static void make_script(struct stitch *s, struct stitch_route *route, const struct upstream *u,
                        bool v4)
{
    unsigned *number = &route->lines[v4 ? 0 : 1];
    struct script_options o = {.no_auth = route->no_auth, .id = ++s->last_id};
    const struct upstream_hop *hop = &u->hops[0];
    struct stitch_script script;

    *number = 0;
    while (o.address < hop->n_addrs && addr_is_v4(&hop->addrs[o.address]) != v4)
        o.address++;
    if (o.address == hop->n_addrs)
        return;
    if (!s->forced) {
        int r = stitch_may_ask(u, &hop->addrs[o.address], &o.no_auth, &route->why);

        route->waits |= r == -EAGAIN;
        if (r < 0)
            return;
        if (route->lines[v4 ? 1 : 0] && o.no_auth != route->no_auth) {
            route->why = "it has been seen to want a password, and not to, by its address";
            return;
        }
        route->no_auth = o.no_auth;
    }
    if (script_build(u, &o, &script, &route->why) < 0)
        return;
    unsigned n = line_for(s, u->name, &hop->addrs[o.address]);

    if (n == 0 || bpf_stitch_set_script(s->bpf, n, &script) < 0) {
        route->why = "there are more upstreams than scripts";
    } else {
        s->lines[n].current = true;
        s->lines[n].id = o.id;
        *number = n;
    }
    explicit_bzero(&script, sizeof(script));
}

static void make_scripts(struct stitch *s, size_t i)
{
    s->routes[i].waits = false;
    s->routes[i].lines[0] = s->routes[i].lines[1] = 0;
    make_script(s, &s->routes[i], &s->generation->upstreams[i], true);
    make_script(s, &s->routes[i], &s->generation->upstreams[i], false);
}

/* What is known of an upstream outlasts a reload, by its name. */
static void make_routes(struct stitch *s, const struct generation *g)
{
    size_t n = g->config->n_upstreams;
    struct stitch_route *routes = calloc(n + 1, sizeof(*routes));

    for (size_t i = 0; routes && i < n; i++) {
        const char *name = g->upstreams[i].name;

        for (size_t k = 0; k < s->n_routes; k++) {
            if (strcmp(s->routes[k].name, name) == 0)
                routes[i] = s->routes[k];
        }
        snprintf(routes[i].name, sizeof(routes[i].name), "%s", name);
        routes[i].why = NULL;
    }
    free(s->routes);
    s->routes = routes;
    s->n_routes = routes ? n : 0;
    for (unsigned i = 1; i < STITCH_SCRIPTS; i++) {
        if (s->lines[i].current)
            s->lines[i].left = loop_now(s->loop);
        s->lines[i].current = false;
    }
}

/* ---- use ---- */

static bool has_line(const struct stitch_route *route)
{
    return route->lines[0] || route->lines[1];
}

static void use(struct stitch *s)
{
    for (size_t i = 0; i < s->n_bound; i++) {
        struct stitch_bound *b = &s->bound[i];
        unsigned v4 = 0, v6 = 0;

        if (!b->bpf)
            continue;
        if (b->route >= 0) {
            const struct stitch_route *route = &s->routes[b->route];
            const struct upstream *u = &s->generation->upstreams[b->route];

            b->why = route->held        ? "its upstream failed: relayed until it answers"
                     : !has_line(route) ? route->why
                     : bpf_stitch_is_uncovered(s->bpf)
                         ? "an interface cannot have its filters (the log names it)"
                     : bpf_capture_is_enclosed(b->bpf)
                         ? "another program looks at the connections of a cgroup around this one"
                     : u->local && !s->proven ? "its upstream is on this host, and not known yet"
                     : !s->engaged            ? "it is being put in force"
                                              : NULL;
            v4 = b->why ? 0 : route->lines[0];
            v6 = b->why ? 0 : route->lines[1];
        }
        int r = bpf_capture_use(b->bpf, v4, v6);

        if (r < 0 && (v4 || v6)) {
            b->why = "it has no guard on its cgroup: see the log";
            bpf_capture_use(b->bpf, 0, 0);
        }
        b->stitched = r == 0 && (v4 || v6);
    }
}

static void pause_all(struct stitch *s)
{
    s->engaged = false;
    use(s);
}

/* ---- opening ---- */

static int watch(struct stitch *s)
{
    int r =
        loop_add(s->loop, bpf_stitch_link_fd(s->bpf), EPOLLIN, loop_ref(s->kind, 0, INDEX_LINKS));

    if (r == 0)
        r = loop_add(s->loop, bpf_stitch_event_fd(s->bpf), EPOLLIN,
                     loop_ref(s->kind, 0, INDEX_EVENTS));
    if (r == 0)
        r = loop_timer_set(s->loop, &s->timer, SWEEP_INTERVAL, loop_ref(s->kind, 0, INDEX_TIMER));
    return r;
}

static void open_it(struct stitch *s, const struct generation *g, const char *no_instance)
{
    const struct bpf_stitch_options o = {.instance = g->set.instance};
    char why[BPF_WHY_MAX] = "";
    int r = -EBUSY;

    if (no_instance)
        snprintf(why, sizeof(why), "%.200s", no_instance);
    else
        r = bpf_stitch_open(&o, &s->bpf, why, sizeof(why));
    if (r == 0) {
        r = bpf_stitch_attach(s->bpf, why, sizeof(why));
        if (r < 0) {
            bpf_stitch_close(s->bpf);
            s->bpf = NULL;
        }
    }
    if (r == 0)
        r = watch(s);
    snprintf(s->why, sizeof(s->why), "%.191s", r < 0 ? why[0] ? why : strerror(-r) : "");
    if (r < 0 && s->forced)
        log_warning("connections cannot be stitched, they are relayed: %s", s->why);
}

void stitch_offer(struct stitch *s, struct generation *g, const char *no_instance)
{
    bool fresh = g != s->generation;

    s->wanted = could_be_stitched(g);
    s->forced = g->config->fast_path == FAST_STITCH;
    if (fresh)
        pause_all(s);
    if (!s->bpf && stitch_wanted(s, g))
        open_it(s, g, no_instance);
    else if (!s->bpf && s->wanted)
        snprintf(s->why, sizeof(s->why), "%.191s", s->unproved);
    if (fresh) {
        make_routes(s, g);
        s->generation = g;
        free(s->bound);
        s->bound = calloc(g->set.n_policies + 1, sizeof(*s->bound));
        s->n_bound = s->bound ? g->set.n_policies : 0;
        s->proven = true;
        for (size_t i = 0; i < g->config->n_upstreams; i++)
            s->proven &= !g->upstreams[i].unproven;
    }
    g->set.stitch = s->bpf;
    g->stitch_names_fd = s->bpf ? bpf_stitch_names_fd(s->bpf) : -1;
    for (size_t i = 0; i < s->n_bound; i++) {
        struct stitch_bound *b = &s->bound[i];
        int route = stitch_choose(g->config, i, &b->why);

        if (!s->wanted || !s->bpf || !s->routes)
            route = -1;
        if (route >= 0 && (fresh || !has_line(&s->routes[route])))
            make_scripts(s, (size_t)route);
        if (route >= 0 && !has_line(&s->routes[route]) && !s->routes[route].waits) {
            b->why = s->routes[route].why ? s->routes[route].why : "it has no address";
            route = -1;
        }
        b->route = route;
        g->policies[i].stitch = route >= 0;
        if (fresh && s->forced && s->bpf && route < 0)
            log_info("capture %s: connections are relayed, not stitched: %s", g->policies[i].name,
                     b->why);
    }
}

void stitch_bind(struct stitch *s, size_t policy, const struct bpf_capture *bpf)
{
    uint64_t instance = bpf_capture_instance(bpf);

    if (policy >= s->n_bound)
        return;
    s->bound[policy].bpf = bpf;
    for (size_t i = 0; i < STITCH_KNOWN; i++) {
        if (s->known[i].instance == instance)
            return;
    }
    s->known[s->next_known].instance = instance;
    snprintf(s->known[s->next_known].name, sizeof(s->known[0].name), "%s",
             s->generation->policies[policy].name);
    s->next_known = (s->next_known + 1) % STITCH_KNOWN;
}

void stitch_engage(struct stitch *s)
{
    /* By now the namespace is ours: what a daemon before us has left is of no use any more. */
    if (!s->bpf && !s->cleared && s->generation && s->generation->marked)
        bpf_stitch_clean(s->generation->set.instance);
    s->cleared = true;
    s->engaged = true;
    use(s);
    if (s->bpf)
        loop_timer_set(s->loop, &s->timer, LEARN_INTERVAL, loop_ref(s->kind, 0, INDEX_TIMER));
}

void stitch_unbind(struct stitch *s, const struct bpf_capture *bpf)
{
    bpf_capture_use(bpf, 0, 0);
    for (size_t i = 0; i < s->n_bound; i++) {
        if (s->bound[i].bpf == bpf)
            s->bound[i].bpf = NULL;
    }
}

void stitch_leave_filters(struct stitch *s)
{
    s->filters_stay = true;
}

void stitch_set_proven(struct stitch *s, bool proven)
{
    s->proven = proven;
    use(s);
}

/* ---- health ---- */

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
    use(s);
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
        make_scripts(s, i);
        use(s);
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
        make_scripts(s, i);
    }
    hold(s, route);
}

static void on_handshake(void *ctx, const struct stitch_event *e)
{
    judge(ctx, e);
}

/* A SYN without an answer for longer than connect-timeout, or a handshake that came to a stop for
 * longer than its own: programs hear of that with the application's next SYN only, and there may be
 * none. */
static void find_silence(void *ctx, const struct stitch_key *key, const struct stitch_flow *flow)
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
    if (age > 0 && age < 3 * SWEEP_INTERVAL &&
        stitch_judge(u, route->no_auth, &e, &hop) == STITCH_BLAME_UPSTREAM)
        judge(s, &e);
}

static void resume(struct stitch *s)
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
        make_scripts(s, i); /* it may have been seen to want another method */
        changed = true;
        log_info("upstream %s: answers: stitched again", route->name);
    }
    if (changed)
        use(s);
}

/* What workers have learnt about how an upstream is to be spoken to. Whether to look again soon. */
static bool learn(struct stitch *s)
{
    bool waits = false, changed = false;

    for (size_t i = 0; i < s->n_routes; i++) {
        struct stitch_route *route = &s->routes[i];

        if (!route->waits)
            continue;
        route->waits = false;
        for (unsigned family = 0; family < 2; family++) {
            if (route->lines[family])
                continue;
            make_script(s, route, &s->generation->upstreams[i], family == 0);
            changed |= route->lines[family] != 0;
        }
        waits |= route->waits && !has_line(route);
    }
    if (changed)
        use(s);
    return waits;
}

static void on_timer(struct stitch *s)
{
    int64_t now = loop_now(s->loop);
    bool waits = learn(s);

    if (now >= s->next_sweep) {
        bpf_stitch_each(s->bpf, find_silence, s);
        bpf_stitch_sweep(s->bpf, now);
        resume(s);
        use(s); /* somebody may have come, or gone, who encloses a capture */
        s->next_sweep = now + SWEEP_INTERVAL;
    }
    for (unsigned i = 1; i < STITCH_SCRIPTS; i++) {
        struct stitch_line *l = &s->lines[i];

        if (l->current || l->id == 0 || now - l->left < SCRIPT_LINGERS)
            continue;
        bpf_stitch_set_script(s->bpf, i, NULL); /* there may be passwords in it */
        l->id = 0;
    }
    loop_timer_set(s->loop, &s->timer, waits ? LEARN_INTERVAL : SWEEP_INTERVAL,
                   loop_ref(s->kind, 0, INDEX_TIMER));
}

void stitch_event(struct stitch *s, uint64_t ref, uint32_t events)
{
    (void)events;
    if (!s->bpf)
        return;
    switch (loop_ref_index(ref)) {
    case INDEX_LINKS: {
        int r = bpf_stitch_follow(s->bpf);

        if (r < 0)
            log_warning("stitch: interfaces cannot be followed: %s", strerror(-r));
        use(s);
        break;
    }
    case INDEX_EVENTS:
        bpf_stitch_poll_events(s->bpf, on_handshake, s);
        break;
    default:
        on_timer(s);
    }
}

/* ---- the end ---- */

struct unfinished {
    const struct stitch *s;
    unsigned n;
};

static void count_unfinished(void *ctx, const struct bpf_stitch_socket *socket)
{
    struct unfinished *u = ctx;

    for (size_t i = 0; i < STITCH_KNOWN; i++)
        u->n += !socket->state.stitched && socket->tcp_state == BPF_TCP_SYN_SENT &&
                u->s->known[i].instance == socket->state.instance;
}

void stitch_finish(struct stitch *s)
{
    if (!s || !s->bpf)
        return;
    pause_all(s);
    for (int i = 0; i < FINISH_STEPS; i++) {
        struct unfinished u = {.s = s};

        if (bpf_stitch_sockets(s->bpf, count_unfinished, &u) < 0 || u.n == 0)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        bpf_stitch_follow(s->bpf);
    }
}

void stitch_destroy(struct stitch *s)
{
    if (!s)
        return;
    if (s->bpf) {
        loop_timer_cancel(s->loop, &s->timer);
        loop_remove(s->loop, bpf_stitch_link_fd(s->bpf));
        loop_remove(s->loop, bpf_stitch_event_fd(s->bpf));
        if (!s->filters_stay)
            bpf_stitch_detach(s->bpf);
        bpf_stitch_close(s->bpf);
    }
    free(s->routes);
    free(s->bound);
    free(s);
}
