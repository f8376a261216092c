/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/generation.h */
#include "keeper/generation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "keeper/local_upstream.h"
#include "log.h"

#define WORKERS_MAX 64

static bool needs_listener(const struct capture_policy *p)
{
    return p->action == CAPTURE_PROXY;
}

static uint16_t planned_port(size_t capture)
{
    return (uint16_t)(LISTENERS_PORT + capture);
}

/* The first hops' addresses, each once. */
static size_t collect_addresses(const struct generation *g, struct addr *to)
{
    size_t n = 0;

    for (size_t i = 0; i < g->config->n_upstreams; i++) {
        const struct upstream_hop *hop = &g->upstreams[i].hops[0];

        for (unsigned k = 0; k < hop->n_addrs; k++) {
            size_t at = 0;

            while (at < n && !addr_equal(&to[at], &hop->addrs[k]))
                at++;
            if (at == n)
                to[n++] = hop->addrs[k];
        }
    }
    return n;
}

static int describe_captures(struct generation *g)
{
    const struct config *c = g->config;

    g->policies = calloc(c->n_captures + 1, sizeof(*g->policies));
    g->upstream_addrs = calloc(c->n_upstreams * UPSTREAM_ADDRS + 1, sizeof(*g->upstream_addrs));
    if (!g->policies || !g->upstream_addrs)
        return -ENOMEM;
    for (size_t i = 0; i < c->n_captures; i++) {
        g->policies[i] = c->captures[i].policy;
        g->policies[i].fail_closed = c->captures[i].on_exit == ON_EXIT_CLOSED;
        g->policies[i].reset_established = c->captures[i].established == ESTABLISHED_RESET;
    }
    g->set = (struct capture_set){
        .policies = g->policies,
        .n_policies = c->n_captures,
        .upstreams = g->upstream_addrs,
        .n_upstreams = collect_addresses(g, g->upstream_addrs),
        .own_mark = g->marked ? CAPTURE_OWN_MARK : 0,
        .own_mask = g->marked ? CAPTURE_OWN_MASK : 0,
        .tproxy_mark = TPROXY_MARK,
    };
    return 0;
}

/* Whether some capture could take what an upstream on this host sends. */
static bool could_loop(const struct generation *g)
{
    for (size_t i = 0; i < g->set.n_policies; i++) {
        const struct capture_policy *p = &g->policies[i];

        if (p->action == CAPTURE_PROXY && p->hook != CAPTURE_GATEWAY && !p->has_mark)
            return true;
    }
    return false;
}

/* Marks the upstreams that belong on this host and are not there yet. Returns their number. */
static size_t find_unproven(struct generation *g)
{
    size_t n = 0;

    for (size_t i = 0; i < g->config->n_upstreams; i++) {
        const struct upstream_hop *hop = &g->upstreams[i].hops[0];
        bool absent = false, local = false;

        for (unsigned k = 0; k < hop->n_addrs; k++) {
            struct owner o;

            if (owner_address_is_local(&hop->addrs[k]) != 1)
                continue;
            local = true;
            absent |= owner_find(&hop->addrs[k], &o) == -ENOENT;
        }
        g->upstreams[i].local = local && could_loop(g);
        g->upstreams[i].unproven = absent && could_loop(g);
        n += g->upstreams[i].unproven ? 1 : 0;
    }
    return n;
}

/* Adds users to a policy's not-uid. */
static int extend_not_uids(struct generation *g, size_t policy, const uint32_t *uids, size_t n)
{
    struct capture_policy *p = &g->policies[policy];
    uint32_t *list = calloc(p->n_not_uids + n, sizeof(*list));

    if (!list)
        return -ENOMEM;
    if (p->n_not_uids > 0)
        memcpy(list, p->not_uids, p->n_not_uids * sizeof(*list));
    memcpy(list + p->n_not_uids, uids, n * sizeof(*list));
    free(g->not_uids[policy]);
    g->not_uids[policy] = list;
    p->not_uids = list;
    p->n_not_uids += n;
    return 0;
}

/* An upstream on this host must not have its own connections captured: excluded, or not started. */
static int part_local_upstreams(struct generation *g, bool *ret_changed, char *why, size_t why_size)
{
    if (!g->not_uids)
        g->not_uids = calloc(g->set.n_policies + 1, sizeof(*g->not_uids));
    if (!g->not_uids)
        return -ENOMEM;
    for (size_t i = 0; i < g->set.n_policies; i++) {
        struct local_upstream found;
        int r = local_upstream_check(&g->set, i, &found, why, why_size);

        if (r < 0) {
            log_warning("%s", why);
        } else if (found.verdict == LOCAL_UPSTREAM_REFUSE) {
            return -ELOOP;
        } else if (found.verdict == LOCAL_UPSTREAM_EXCLUDE) {
            log_info("%s", why);
            r = extend_not_uids(g, i, found.uids, found.n_uids);
            if (r < 0)
                return r;
            *ret_changed = true;
        }
    }
    return 0;
}

/* Everything but listeners. */
static int prepare(struct config *config, bool marked, struct generation **ret, char *why,
                   size_t why_size)
{
    struct generation *g = calloc(1, sizeof(*g));
    bool changed = false;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    snprintf(why, why_size, "out of memory");
    if (!g) {
        config_free(config);
        return -ENOMEM;
    }
    g->config = config;
    g->marked = marked;
    g->hold = -1;
    g->n_workers = config->workers > 0 ? config->workers : cpus > 0 ? (unsigned)cpus : 1;
    if (g->n_workers > WORKERS_MAX)
        g->n_workers = WORKERS_MAX;
    int r = upstream_build(config, marked ? CAPTURE_OWN_MARK : 0, &g->upstreams);

    if (r == 0)
        r = upstream_resolve(g->upstreams, config->n_upstreams, why, why_size);
    if (r == 0)
        r = describe_captures(g);
    if (r == 0 && marked)
        r = part_local_upstreams(g, &changed, why, why_size);
    if (r == 0 && marked) {
        find_unproven(g);
        generation_owners_changed(g);
    }
    if (r < 0) {
        generation_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

bool generation_owners_changed(struct generation *g)
{
    bool changed = false;

    for (size_t i = 0; i < g->config->n_upstreams; i++) {
        struct upstream *u = &g->upstreams[i];
        uint32_t sum = 0, inode;

        for (unsigned k = 0; u->local && k < u->hops[0].n_addrs; k++) {
            if (owner_inode(&u->hops[0].addrs[k], &inode) == 0)
                sum += inode;
        }
        changed |= sum != u->owner;
        u->owner = sum;
    }
    return changed;
}

int generation_recheck(struct generation *g, bool *ret_changed, char *why, size_t why_size)
{
    int r = part_local_upstreams(g, ret_changed, why, why_size);

    if (r < 0)
        return r;
    return find_unproven(g) > 0 ? -EAGAIN : 0;
}

int generation_plan(struct config *config, struct generation **ret, char *why, size_t why_size)
{
    struct generation *g;
    int r = prepare(config, true, &g, why, why_size);

    if (r < 0)
        return r;
    for (size_t i = 0; i < config->n_captures; i++) {
        if (needs_listener(&g->policies[i]))
            g->policies[i].port_v4 = g->policies[i].port_v6 = planned_port(i);
    }
    *ret = g;
    return 0;
}

/* Row r of each capture goes to worker r % n_workers: rows of a larger past are still served. */
static int deal_out(struct generation *g, struct listeners *pool)
{
    size_t n = 0;

    for (size_t i = 0; i < g->set.n_policies; i++) {
        for (struct listener *l = NULL; (l = listeners_next(pool, &g->policies[i], l));)
            n++;
    }
    g->listeners = calloc(n + 1, sizeof(*g->listeners));
    g->first = calloc(g->n_workers + 1, sizeof(*g->first));
    if (!g->listeners || !g->first)
        return -ENOMEM;
    n = 0;
    for (unsigned w = 0; w < g->n_workers; w++) {
        g->first[w] = n;
        for (size_t i = 0; i < g->set.n_policies; i++) {
            for (struct listener *l = NULL; (l = listeners_next(pool, &g->policies[i], l));) {
                if (l->row % g->n_workers != w)
                    continue;
                g->listeners[n++] = (struct worker_listener){
                    .fd = l->fd,
                    .at = l->at,
                    .capture = &g->config->captures[i],
                    .origin = l->hook == CAPTURE_CGROUP    ? WORKER_ORIGIN_BPF
                              : l->hook == CAPTURE_GATEWAY ? WORKER_ORIGIN_LOCAL
                                                           : WORKER_ORIGIN_NAT,
                    .origin_map = -1,
                };
            }
        }
    }
    g->first[g->n_workers] = g->n_listeners = n;
    return 0;
}

int generation_create(struct config *config, bool marked, struct listeners *pool,
                      struct generation **ret, char *why, size_t why_size)
{
    struct generation *g;
    int r = prepare(config, marked, &g, why, why_size);

    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < g->set.n_policies; i++) {
        if (needs_listener(&g->policies[i]))
            r = listeners_provide(pool, &g->policies[i], g->n_workers, marked ? planned_port(i) : 0,
                                  why, why_size);
    }
    if (r == 0)
        r = deal_out(g, pool);
    if (r < 0) {
        generation_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

void generation_free(struct generation *g)
{
    if (!g)
        return;
    for (size_t i = 0; g->not_uids && i < g->set.n_policies; i++)
        free(g->not_uids[i]);
    free(g->not_uids);
    free(g->first);
    free(g->listeners);
    free(g->policies);
    free(g->upstream_addrs);
    free(g->upstreams);
    config_free(g->config);
    free(g);
}
