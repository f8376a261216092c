/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/stitch_state.h: how upstreams are spoken to. A script is made when a generation is
 * offered, and again when something has been learnt of its upstream.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keeper/ipsec.h"
#include "keeper/stitch_policy.h"
#include "keeper/stitch_state.h"
#include "log.h"
#include "upstream/script.h"

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

unsigned stitch_address(const struct upstream *u, bool v4)
{
    const struct upstream_hop *hop = &u->hops[0];
    unsigned i = 0;

    while (i < hop->n_addrs && addr_is_v4(&hop->addrs[i]) != v4)
        i++;
    return i;
}

/* The script of a route for the first address of a family, if there is one. */
static void make_script(struct stitch *s, struct stitch_route *route, const struct upstream *u,
                        bool v4)
{
    unsigned *number = &route->lines[v4 ? 0 : 1];
    struct script_options o = {
        .address = stitch_address(u, v4), .no_auth = route->no_auth, .id = ++s->last_id};
    const struct upstream_hop *hop = &u->hops[0];
    struct stitch_script script;

    *number = 0;
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
        if (!s->lines[n].current)
            ipsec_find_wrapped(&s->lines[n].server, &s->lines[n].wrapped, 1);
        s->lines[n].current = true;
        s->lines[n].id = o.id;
        *number = n;
    }
    explicit_bzero(&script, sizeof(script));
}

void stitch_make_scripts(struct stitch *s, size_t i)
{
    s->routes[i].waits = false;
    s->routes[i].lines[0] = s->routes[i].lines[1] = 0;
    make_script(s, &s->routes[i], &s->generation->upstreams[i], true);
    make_script(s, &s->routes[i], &s->generation->upstreams[i], false);
}

void stitch_make_routes(struct stitch *s, const struct generation *g)
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

bool stitch_learn(struct stitch *s)
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
        waits |= route->waits && !stitch_has_line(route);
    }
    if (changed)
        stitch_use(s);
    return waits;
}

void stitch_find_wrapped(struct stitch *s)
{
    struct stitch_line *lines[STITCH_SCRIPTS];
    struct addr servers[STITCH_SCRIPTS];
    bool wrapped[STITCH_SCRIPTS];
    size_t n = 0;

    for (unsigned i = 1; i < STITCH_SCRIPTS; i++) {
        if (!s->lines[i].current)
            continue;
        lines[n] = &s->lines[i];
        servers[n++] = s->lines[i].server;
    }
    int r = ipsec_find_wrapped(servers, wrapped, n);

    if (r < 0)
        log_debug("stitch: IPsec's policies cannot be read: %s", strerror(-r));
    for (size_t i = 0; i < n; i++) {
        if (wrapped[i] != lines[i]->wrapped)
            log_info("upstream %s: IPsec %s", lines[i]->name,
                     wrapped[i] ? "wraps what goes to it: relayed, not stitched"
                                : "does not wrap what goes to it any more: stitched again");
        lines[i]->wrapped = wrapped[i];
    }
}
