/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/generation.h */
#include "keeper/generation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "dns/fake.h"
#include "dns/real.h"
#include "keeper/datagrams.h"
#include "keeper/honest.h"
#include "keeper/local_upstream.h"
#include "log.h"

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
    g->udp = calloc(c->n_captures + 1, sizeof(*g->udp));
    if (!g->policies || !g->upstream_addrs || !g->udp)
        return -ENOMEM;
    for (size_t i = 0; i < c->n_captures; i++) {
        g->policies[i] = c->captures[i].policy;
        g->policies[i].fail_closed = c->captures[i].on_exit == ON_EXIT_CLOSED;
        g->policies[i].reset_established = c->captures[i].established == ESTABLISHED_RESET;
        datagrams_decide(c, i, !g->marked, &g->policies[i], &g->udp[i]);
        g->takes_udp |= datagrams_needs_listener(&g->policies[i]);
    }
    g->set = (struct capture_set){
        .policies = g->policies,
        .n_policies = c->n_captures,
        .upstreams = g->upstream_addrs,
        .n_upstreams = collect_addresses(g, g->upstream_addrs),
        .own_mark = g->marked ? CAPTURE_OWN_MARK : 0,
        .own_mask = g->marked ? CAPTURE_OWN_MASK : 0,
        .tproxy_mark = CAPTURE_TPROXY_MARK,
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

/* Notes which of an upstream's addresses are on this host. Those where nobody listens. */
static uint8_t find_absent(struct generation *g, size_t i)
{
    struct upstream *u = &g->upstreams[i];
    uint8_t absent = 0;

    u->local = 0;
    for (unsigned k = 0; could_loop(g) && k < u->hops[0].n_addrs; k++) {
        struct owner o;

        if (owner_address_is_local(&u->hops[0].addrs[k]) != 1)
            continue;
        u->local |= 1u << k;
        if (owner_find(&u->hops[0].addrs[k], &o) == -ENOENT)
            absent |= 1u << k;
    }
    return absent;
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

/* Upstreams on this host, of those in `set`, must not have their own connections captured: they are
 * excluded, or -ELOOP. */
static int part_local_upstreams(struct generation *g, const struct capture_set *set,
                                bool *ret_changed, char *why, size_t why_size)
{
    if (!g->not_uids)
        g->not_uids = calloc(g->set.n_policies + 1, sizeof(*g->not_uids));
    if (!g->not_uids)
        return -ENOMEM;
    for (size_t i = 0; i < g->set.n_policies; i++) {
        struct local_upstream found;
        int r = local_upstream_check(set, i, &found, why, why_size);

        if (r < 0) {
            log_warning("%s", why);
        } else if (found.verdict == LOCAL_UPSTREAM_REFUSE) {
            return -ELOOP;
        } else if (found.verdict == LOCAL_UPSTREAM_EXCLUDE) {
            log_write(found.person ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, "%s", why);
            r = extend_not_uids(g, i, found.uids, found.n_uids);
            if (r < 0)
                return r;
            *ret_changed = true;
        }
    }
    return 0;
}

/* Some resolver answers with what stands for a name: ours, to a query that has come to it by a way
 * of its own (a cache, another daemon's capture). Nobody can be reached there. */
static int refuse_fake_addresses(const struct generation *g, char *why, size_t why_size)
{
    for (size_t i = 0; i < g->config->n_upstreams; i++) {
        const struct upstream *u = &g->upstreams[i];

        for (unsigned k = 0; k < u->n_hops; k++) {
            const struct upstream_hop *hop = &u->hops[k];
            char at[ADDR_STRLEN];

            if (hop->n_addrs == 0 || !upstream_resolves(u, k) || !fake_is(&hop->addrs[0]))
                continue;
            snprintf(why, why_size,
                     "upstream %s: \"%s\" resolves to %s, which stands for a name (dns = \"fake\") "
                     "and is nobody's address: mend the resolver, or give the address itself",
                     hop->config->name, hop->config->url.host, addr_format(&hop->addrs[0], at));
            return -EHOSTUNREACH;
        }
    }
    return 0;
}

int generation_begin(struct config *config, bool marked, struct generation **ret)
{
    struct generation *g = calloc(1, sizeof(*g));
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    if (!g) {
        config_free(config);
        return -ENOMEM;
    }
    g->config = config;
    g->marked = marked;
    g->hold = -1;
    g->watched = -1;
    g->stitch_names_fd = -1;
    g->n_workers = config->workers > 0 ? config->workers : cpus > 0 ? (unsigned)cpus : 1;
    if (g->n_workers > WORKERS_MAX)
        g->n_workers = WORKERS_MAX;
    int r = upstream_build(config, marked ? CAPTURE_OWN_MARK : 0, &g->upstreams);

    if (r < 0) {
        generation_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

/* What follows from the upstreams' addresses: everything but listeners. */
static int prepare(struct generation *g, char *why, size_t why_size)
{
    bool changed = false;

    snprintf(why, why_size, "out of memory");
    int r = refuse_fake_addresses(g, why, why_size);

    if (r == 0)
        r = describe_captures(g);
    if (r == 0)
        honest_set(g);
    /* In this order: who comes, or is replaced, in between is looked at again. */
    for (size_t i = 0; r == 0 && g->marked && i < g->config->n_upstreams; i++)
        g->upstreams[i].unproven = find_absent(g, i);
    if (r == 0 && g->marked) {
        generation_owners_changed(g);
        r = part_local_upstreams(g, &g->set, &changed, why, why_size);
    }
    return r;
}

bool generation_owners_changed(struct generation *g)
{
    bool changed = false;

    for (size_t i = 0; i < g->config->n_upstreams; i++) {
        struct upstream *u = &g->upstreams[i];
        uint32_t sum = 0, inode;

        for (unsigned k = 0; k < u->hops[0].n_addrs; k++) {
            if (u->local & 1u << k && owner_inode(&u->hops[0].addrs[k], &inode) == 0)
                sum += inode;
        }
        changed |= sum != u->owner;
        u->owner = sum;
    }
    return changed;
}

int generation_recheck(struct generation *g, bool *ret_changed, char *why, size_t why_size)
{
    struct capture_set one = g->set;
    char other[512] = "";
    int ret = 0;

    for (size_t i = 0; i < g->config->n_upstreams; i++) {
        struct upstream *u = &g->upstreams[i];
        uint8_t absent = find_absent(g, i);

        for (unsigned k = 0; k < u->hops[0].n_addrs; k++) {
            if (!(u->local & ~absent & 1u << k))
                continue;
            one.upstreams = &u->hops[0].addrs[k];
            one.n_upstreams = 1;
            int r = part_local_upstreams(g, &one, ret_changed, ret == 0 ? why : other,
                                         ret == 0 ? why_size : sizeof(other));

            if (r == 0)
                u->unproven &= ~(1u << k);
            else
                u->unproven |= 1u << k;
            ret = ret == 0 ? r : ret;
        }
        u->unproven = (u->unproven | absent) & u->local;
    }
    return ret;
}

void generation_unprove(struct generation *g)
{
    for (size_t i = 0; i < g->config->n_upstreams; i++)
        g->upstreams[i].unproven = g->upstreams[i].local;
}

int generation_plan(struct config *config, struct generation **ret, char *why, size_t why_size)
{
    struct generation *g;
    unsigned early = 0;
    int r = generation_begin(config, true, &g);

    if (r < 0) {
        snprintf(why, why_size, "out of memory");
        return r;
    }
    r = upstream_resolve(g->upstreams, config->n_upstreams, why, why_size);
    if (r == 0)
        r = prepare(g, why, why_size);
    for (size_t i = 0; r == 0 && i < config->n_captures; i++) {
        if (needs_listener(&g->policies[i])) {
            g->policies[i].port_v4 = g->policies[i].port_v6 = planned_port(i);
            g->policies[i].early = early++; /* as listeners_provide() numbers the first ones */
        }
        if (datagrams_needs_listener(&g->policies[i]))
            g->policies[i].udp_port_v4 = g->policies[i].udp_port_v6 = planned_port(i);
    }
    if (r == 0)
        r = honest_seats(g, NULL, why, why_size);
    if (r < 0) {
        generation_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

static void add_listener(struct generation *g, int fd, const struct addr *at,
                         const struct config_capture *capture, enum worker_origin origin)
{
    if (fd >= 0)
        g->listeners[g->n_listeners++] = (struct worker_listener){
            .fd = fd, .at = *at, .capture = capture, .origin = origin, .origin_map = -1};
}

static void add_seat(struct generation *g, const struct seat_listener *l,
                     const struct config_capture *capture)
{
    add_listener(g, l->fd, &l->at, capture, WORKER_ORIGIN_SEAT);
}

static enum worker_origin origin_of(enum capture_hook hook)
{
    return hook == CAPTURE_CGROUP    ? WORKER_ORIGIN_BPF
           : hook == CAPTURE_GATEWAY ? WORKER_ORIGIN_LOCAL
                                     : WORKER_ORIGIN_NAT;
}

/* Row r of each capture goes to worker r % n_workers: rows of a larger past are still served. */
static void deal_to(struct generation *g, struct listeners *pool, unsigned w)
{
    if (g->seats) {
        const struct seat *seat = seats_get(g->seats, g->first_seat + w);

        add_seat(g, &seat->v4, NULL);
        add_seat(g, &seat->v6, NULL);
    }
    for (size_t i = 0; i < g->set.n_policies; i++) {
        const struct config_capture *c = &g->config->captures[i];

        for (struct listener *l = NULL; (l = listeners_next(pool, &g->policies[i], l));) {
            if (l->row % g->n_workers == w)
                add_listener(g, l->fd, &l->at, c, l->udp ? WORKER_UDP : origin_of(l->hook));
        }
        if (g->seats) {
            add_seat(g, honest_cgroup_seat(g, i, w, true), c);
            add_seat(g, honest_cgroup_seat(g, i, w, false), c);
        }
    }
}

static int deal_out(struct generation *g, struct listeners *pool)
{
    size_t n = (size_t)g->n_workers * 2 * (1 + g->set.n_policies);

    for (size_t i = 0; i < g->set.n_policies; i++) {
        for (struct listener *l = NULL; (l = listeners_next(pool, &g->policies[i], l));)
            n++;
    }
    g->listeners = calloc(n + 1, sizeof(*g->listeners));
    g->first = calloc(g->n_workers + 1, sizeof(*g->first));
    if (!g->listeners || !g->first)
        return -ENOMEM;
    for (unsigned w = 0; w < g->n_workers; w++) {
        g->first[w] = g->n_listeners;
        deal_to(g, pool, w);
    }
    g->first[g->n_workers] = g->n_listeners;
    return honest_holds(g);
}

int generation_complete(struct generation *g, struct listeners *pool, struct seats *seats,
                        char *why, size_t why_size)
{
    int r = prepare(g, why, why_size);

    if (r < 0)
        return r;
    honest_find(g);
    honest_set(g);
    for (size_t i = 0; r == 0 && i < g->set.n_policies; i++) {
        uint16_t port = g->marked ? planned_port(i) : 0;

        if (needs_listener(&g->policies[i]))
            r = listeners_provide(pool, &g->policies[i], g->n_workers, port, why, why_size);
        if (r == 0 && datagrams_needs_listener(&g->policies[i]))
            r = listeners_provide_udp(pool, &g->policies[i], g->n_workers, port, why, why_size);
    }
    if (r == 0 && g->takes_udp) {
        g->n_resolvers = datagrams_list_resolvers(g->resolvers);
        r = datagrams_list_real(g->config, &g->real);
        if (r == 0)
            r = datagrams_list_direct(g->config, g->upstreams, &g->direct_names);
    }
    if (r == 0)
        r = honest_seats(g, seats, why, why_size);
    if (r == 0)
        r = deal_out(g, pool);
    return r;
}

void generation_free(struct generation *g)
{
    if (!g)
        return;
    for (size_t i = 0; g->not_uids && i < g->set.n_policies; i++)
        free(g->not_uids[i]);
    free(g->not_uids);
    for (size_t i = 0; g->cgroup_seats && i < g->set.n_policies * g->n_workers * 2; i++)
        fd_close(&g->cgroup_seats[i].fd);
    if (g->seats)
        seats_release(g->seats, g->first_seat, g->n_workers);
    real_free(g->real);
    datagrams_free_names(g->direct_names);
    free(g->udp);
    free(g->cgroup_seats);
    free(g->seat_ports);
    free(g->holds);
    free(g->first);
    free(g->listeners);
    free(g->policies);
    free(g->upstream_addrs);
    free(g->upstreams);
    config_free(g->config);
    free(g);
}
