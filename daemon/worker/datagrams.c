/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker/datagrams.h. A captured datagram goes to the UDP engine; queries to port 53 are taken from
 * it by the DNS engine, which answers through it. The flows ask the DNS engine for the names behind
 * addresses.
 */
#include "worker/datagrams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/stitch.h"
#include "log.h"
#include "names/names.h"
#include "udp/inject.h"
#include "udp/udp.h"

#define DNS_PORT 53
#define OWN_FDS  4 /* the raw sockets that answers leave by, and spare ones */

struct datagrams {
    const struct worker_options *o;
    struct udp_table *udp;
    struct names *names; /* NULL: no capture has DNS */
    struct inject *inject;
    struct udp_capture *captures;
    struct udp_listener *listeners;
    size_t n_listeners;
    struct names_capture *names_captures;
    bool udp_empty, names_empty;
    void (*on_empty)(void *ctx);
    void (*on_unproven)(void *ctx);
    void *ctx;
    char name[256]; /* of the last question of the UDP engine */
    struct addr resolvers[MESSAGE_RESOLVERS_MAX];
};

static bool take(void *ctx, uint32_t capture, const struct addr *client,
                 const struct addr *destination, const uint8_t *data, size_t len)
{
    struct datagrams *d = ctx;

    if (!d->names || destination->port != DNS_PORT ||
        (!d->o->udp[capture].dns && !names_is_for_direct(d->names, data, len)))
        return false;
    names_query(d->names, capture, client, destination, data, len);
    return true;
}

static int send_answer(void *ctx, const struct addr *source, const struct addr *client,
                       const uint8_t *data, size_t len)
{
    struct datagrams *d = ctx;

    return udp_answer(d->udp, source, client, data, len);
}

/* A fake address that stands for nothing is refused by the engine: it must not go to an upstream as
 * if it were a real one. */
static const char *name_of(void *ctx, const struct addr *destination)
{
    struct datagrams *d = ctx;
    uint32_t slot;
    int r = -EINVAL;

    if (d->names)
        r = names_name_of(d->names, destination, NAMES_HOLD, d->name, &slot);
    if (r == -EINVAL)
        return NULL;
    return r < 0 ? "" : d->name;
}

/* Who is asked in the place of whom the application asks: dns-server, and for a stub on this host,
 * which the upstream cannot ask, the resolver behind it. */
static const struct addr *server_of(void *ctx, uint32_t capture, const struct addr *destination)
{
    struct datagrams *d = ctx;
    const struct worker_udp *u = &d->o->udp[capture];

    if (destination->port != DNS_PORT || !d->o->policies[capture].dns)
        return NULL;
    if (u->dns_server.port != 0)
        return &u->dns_server;
    return addr_is_loopback(destination) && d->resolvers[0].port != 0 ? &d->resolvers[0] : NULL;
}

/*
 * So that the kernel can ask the upstream for the name by itself. Without an entry a connection is
 * relayed; but an older name's must not stay. The map is inherited: an update needs no privilege.
 */
static int tell_name(void *ctx, const struct addr *a4, const struct addr *a6, const char *name,
                     size_t len)
{
    const struct datagrams *d = ctx;
    int r4 = bpf_stitch_set_name(d->o->stitch_names_fd, a4, name, len);
    int r6 = bpf_stitch_set_name(d->o->stitch_names_fd, a6, name, len);

    if (r4 < 0 || r6 < 0)
        log_debug("a name is not stitched: %s", strerror(r4 < 0 ? -r4 : -r6));
    return r4 == -ESTALE || r6 == -ESTALE ? -ESTALE : 0;
}

static void udp_is_empty(void *ctx)
{
    struct datagrams *d = ctx;

    d->udp_empty = true;
    d->on_empty(d->ctx);
}

static void names_are_empty(void *ctx)
{
    struct datagrams *d = ctx;

    d->names_empty = true;
    d->on_empty(d->ctx);
}

static void unproven(void *ctx)
{
    struct datagrams *d = ctx;

    d->on_unproven(d->ctx);
}

static int list_captures(struct datagrams *d, struct upstream_choice *choices)
{
    const struct config *c = d->o->config;

    d->captures = calloc(c->n_captures + 1, sizeof(*d->captures));
    d->names_captures = calloc(c->n_captures + 1, sizeof(*d->names_captures));
    d->listeners = calloc(d->o->n_listeners + 1, sizeof(*d->listeners));
    if (!d->captures || !d->names_captures || !d->listeners)
        return -ENOMEM;
    for (size_t i = 0; i < c->n_captures; i++) {
        const struct worker_udp *u = &d->o->udp[i];

        d->captures[i] =
            (struct udp_capture){.name = c->captures[i].policy.name,
                                 .mode = u->associate ? UDP_MODE_ASSOCIATE : UDP_MODE_REJECT,
                                 .private = c->captures[i].policy.private,
                                 .choice = &choices[i]};
        d->names_captures[i] =
            (struct names_capture){.name = c->captures[i].policy.name,
                                   .mode = u->fake ? NAMES_FAKE : NAMES_TCP,
                                   .many_hosts = c->captures[i].policy.hook == CAPTURE_GATEWAY,
                                   .choice = &choices[i],
                                   .server = u->dns_server,
                                   .no_v6 = u->no_v6};
    }
    for (size_t i = 0; i < d->o->n_listeners; i++) {
        const struct worker_listener *l = &d->o->listeners[i];

        if (l->origin == WORKER_UDP)
            d->listeners[d->n_listeners++] =
                (struct udp_listener){.fd = l->fd, .capture = (uint32_t)(l->capture - c->captures)};
    }
    return 0;
}

/* Whether queries of a capture come to the engine of names: all, or, where they are sent through an
 * association, those for the upstreams' own. A reload may bring the first of these. */
static bool has_names(const struct worker_options *o, size_t capture)
{
    return o->policies[capture].dns;
}

static int open_names(struct datagrams *d, struct loop *loop, unsigned first_kind)
{
    struct names_options n = {.loop = loop,
                              .first_kind = first_kind,
                              .captures = d->names_captures,
                              .n_captures = d->o->config->n_captures,
                              .fake = d->o->fake,
                              .real = d->o->real,
                              .direct_names = d->o->direct_names,
                              .answer = {.send = send_answer, .ctx = d},
                              .on_empty = names_are_empty,
                              .on_unproven = unproven,
                              .on_name = d->o->stitch_names_fd > 0 ? tell_name : NULL,
                              .ctx = d};

    bool some = false;
    int r = 0;

    for (size_t i = 0; i < d->o->config->n_captures; i++)
        some |= has_names(d->o, i);
    if (some)
        r = names_create(&n, &d->names);
    if (r == 0)
        datagrams_use_resolvers(d, d->o->resolvers, d->o->n_resolvers);
    return r;
}

int datagrams_open(const struct worker_options *o, struct loop *loop, unsigned first_kind,
                   struct upstream_choice *choices, const struct addr *ours, size_t n_ours,
                   void (*on_empty)(void *ctx), void (*on_unproven)(void *ctx), void *ctx,
                   struct datagrams **ret)
{
    struct datagrams *d;

    *ret = NULL;
    if (!o->udp)
        return 0;
    d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->o = o;
    d->on_empty = on_empty;
    d->on_unproven = on_unproven;
    d->ctx = ctx;
    int r = list_captures(d, choices);

    if (r == 0)
        r = inject_open(o->own_mark, &d->inject);
    if (r == 0)
        r = open_names(d, loop, first_kind + UDP_KINDS);
    struct udp_table_options u = {
        .loop = loop,
        .first_kind = first_kind,
        .captures = d->captures,
        .n_captures = o->config->n_captures,
        .listeners = d->listeners,
        .n_listeners = d->n_listeners,
        .inject = {.send = inject_send, .ctx = d->inject},
        .ours = ours,
        .n_ours = n_ours,
        .max_associations = o->max_associations,
        .idle_timeout = o->config->idle_timeout,
        .worker = o->ident,
        .taker = take,
        .name = name_of,
        .server = server_of,
        .on_empty = udp_is_empty,
        .on_unproven = unproven,
        .ctx = d,
    };
    if (r == 0)
        r = udp_table_create(&u, &d->udp);
    /* Nothing is undone: a worker that cannot start ends. */
    if (r == 0)
        *ret = d;
    return r;
}

static int find_name(void *ctx, const struct addr *address, char ret_name[256], uint32_t *ret_slot)
{
    struct datagrams *d = ctx;

    return names_name_of(d->names, address, NAMES_HOLD, ret_name, ret_slot);
}

static void hold_name(void *ctx, uint32_t slot)
{
    struct datagrams *d = ctx;

    names_hold(d->names, slot, NAMES_HOLD);
}

struct flow_names datagrams_names(struct datagrams *d)
{
    struct flow_names names = {.ctx = d};

    if (d)
        names.server = server_of;
    if (d && d->names && d->o->fake) {
        names.find = find_name;
        names.hold = hold_name;
    }
    return names;
}

void datagrams_use_resolvers(struct datagrams *d, const struct addr *list, size_t n)
{
    if (!d || n > MESSAGE_RESOLVERS_MAX)
        return;
    memset(d->resolvers, 0, sizeof(d->resolvers));
    memcpy(d->resolvers, list, n * sizeof(*list));
    if (d->names)
        names_use_resolvers(d->names, d->resolvers, n);
}

void datagrams_add_name(struct datagrams *d, const char *name)
{
    int r = d && d->names ? names_add_direct(d->names, name) : 0;

    if (r < 0)
        log_warning("the upstream's name %s is not asked for directly: %s", name, strerror(-r));
}

void datagrams_drain(struct datagrams *d)
{
    if (!d)
        return;
    udp_table_drain(d->udp);
    if (d->names)
        names_drain(d->names);
}

bool datagrams_empty(const struct datagrams *d)
{
    return !d || (d->udp_empty && (d->names_empty || !d->names));
}

void datagrams_stats(const struct datagrams *d, struct message_udp_stats *ret_udp,
                     struct message_names_stats *ret_names)
{
    memset(ret_udp, 0, sizeof(*ret_udp));
    memset(ret_names, 0, sizeof(*ret_names));
    if (d)
        udp_table_stats(d->udp, ret_udp);
    if (d && d->names)
        names_stats(d->names, ret_names);
}

size_t datagrams_records(const struct datagrams *d, uint32_t *cursor, struct message_flow *ret,
                         size_t max)
{
    return d ? udp_table_records(d->udp, cursor, ret, max) : 0;
}

uint64_t datagrams_fds(const struct worker_options *o, uint64_t limit)
{
    uint64_t associations = 0, names = 0;

    if (!o->udp)
        return 0;
    for (size_t i = 0; i < o->config->n_captures; i++) {
        if (o->udp[i].associate)
            associations = 2 * (uint64_t)o->max_associations;
        if (has_names(o, i))
            names = NAMES_FDS;
    }
    /* Few hosts ask as many servers as there is room for; what the flows leave goes to these. */
    return associations + (names < limit / 16 ? names : limit / 16) + OWN_FDS;
}

uint32_t datagrams_timers(const struct worker_options *o)
{
    return o->udp ? o->max_associations + NAMES_TIMERS + 4 : 0;
}
