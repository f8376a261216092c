/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/stitch.h: opening, use and end. */
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

enum { INDEX_LINKS, INDEX_EVENTS, INDEX_TIMER };

#define PROOF_REST     INT64_C(10000000000)
#define LEARN_INTERVAL INT64_C(500000000)    /* while an upstream is yet to be heard */
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

/* ---- use ---- */

/* A route's line for a family, unless it is not known who listens there, or IPsec is between. */
static unsigned usable_line(const struct stitch *s, const struct stitch_route *route,
                            const struct upstream *u, bool v4)
{
    unsigned n = route->lines[v4 ? 0 : 1];

    return u->unproven & 1u << stitch_address(u, v4) || s->lines[n].wrapped ? 0 : n;
}

static bool is_wrapped(const struct stitch *s, const struct stitch_route *route)
{
    return s->lines[route->lines[0]].wrapped || s->lines[route->lines[1]].wrapped;
}

void stitch_use(struct stitch *s)
{
    for (size_t i = 0; i < s->n_bound; i++) {
        struct stitch_bound *b = &s->bound[i];
        unsigned v4 = 0, v6 = 0;

        if (!b->bpf)
            continue;
        if (b->route >= 0) {
            const struct stitch_route *route = &s->routes[b->route];
            const struct upstream *u = &s->generation->upstreams[b->route];

            v4 = usable_line(s, route, u, true);
            v6 = usable_line(s, route, u, false);
            b->why = route->held               ? "its upstream failed: relayed until it answers"
                     : !stitch_has_line(route) ? route->why
                     : bpf_stitch_is_uncovered(s->bpf)
                         ? "an interface cannot have its filters (the log names it)"
                     : s->bypassed ? "packets do not come to its filters (the log says where)"
                     : bpf_capture_is_enclosed(b->bpf)
                         ? "another program looks at the connections of a cgroup around this one"
                     : !v4 && !v6 && is_wrapped(s, route)
                         ? "IPsec (\"ip xfrm policy\") wraps what goes to its upstream"
                     : !v4 && !v6  ? "its upstream is on this host, and not known yet"
                     : !s->engaged ? "it is being put in force"
                                   : NULL;
            if (b->why)
                v4 = v6 = 0;
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
    stitch_use(s);
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
        r = loop_timer_set(s->loop, &s->timer, STITCH_SWEEP_INTERVAL,
                           loop_ref(s->kind, 0, INDEX_TIMER));
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
    if (fresh) {
        s->bypassed = false;
        pause_all(s);
    }
    if (!s->bpf && stitch_wanted(s, g))
        open_it(s, g, no_instance);
    else if (!s->bpf && s->wanted)
        snprintf(s->why, sizeof(s->why), "%.191s", s->unproved);
    if (fresh) {
        stitch_make_routes(s, g);
        s->generation = g;
        free(s->bound);
        s->bound = calloc(g->set.n_policies + 1, sizeof(*s->bound));
        s->n_bound = s->bound ? g->set.n_policies : 0;
    }
    g->set.stitch = s->bpf;
    g->stitch_names_fd = s->bpf ? bpf_stitch_names_fd(s->bpf) : -1;
    for (size_t i = 0; i < s->n_bound; i++) {
        struct stitch_bound *b = &s->bound[i];
        int route = stitch_choose(g->config, i, &b->why);

        if (!s->wanted || !s->bpf || !s->routes)
            route = -1;
        if (route >= 0 && (fresh || !stitch_has_line(&s->routes[route])))
            stitch_make_scripts(s, (size_t)route);
        if (route >= 0 && !stitch_has_line(&s->routes[route]) && !s->routes[route].waits) {
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

void stitch_engage(struct stitch *s, bool ours)
{
    /* What a daemon before us has left is of no use any more. */
    if (!s->bpf && !s->cleared && ours && s->generation && s->generation->marked)
        bpf_stitch_clean(s->generation->set.instance);
    s->cleared = true;
    s->engaged = true;
    stitch_use(s);
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

static void on_timer(struct stitch *s)
{
    int64_t now = loop_now(s->loop);
    bool waits = stitch_learn(s);

    if (now >= s->next_sweep) {
        bpf_stitch_each(s->bpf, stitch_find_silence, s);
        bpf_stitch_sweep(s->bpf, now);
        stitch_resume(s);
        stitch_find_wrapped(s);
        stitch_use(s); /* somebody may have come, or gone, who encloses a capture */
        s->next_sweep = now + STITCH_SWEEP_INTERVAL;
    }
    for (unsigned i = 1; i < STITCH_SCRIPTS; i++) {
        struct stitch_line *l = &s->lines[i];

        if (l->current || l->id == 0 || now - l->left < SCRIPT_LINGERS)
            continue;
        bpf_stitch_set_script(s->bpf, i, NULL); /* there may be passwords in it */
        l->id = 0;
    }
    loop_timer_set(s->loop, &s->timer, waits ? LEARN_INTERVAL : STITCH_SWEEP_INTERVAL,
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
        stitch_use(s);
        break;
    }
    case INDEX_EVENTS:
        bpf_stitch_poll_events(s->bpf, stitch_on_handshake, s);
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
