/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether each upstream can be had: resolved, connected to, and persuaded to let us in. A chain is
 * walked hop by hop; of the last one only greeting and authentication are asked, never a
 * destination, so nothing but the hops themselves is connected to. SOCKS4 has no greeting: there a
 * connection has to do.
 *
 * Then who of them lives on this host, and whether the captures would take what it sends.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "doctor/child.h"
#include "doctor/gather.h"
#include "doctor/talk.h"
#include "keeper/cgroup.h"
#include "upstream/dial.h"

#define PATIENCE_MS   5000 /* for each step, if the configuration does not say less */
#define CHILD_SECONDS 60

struct reach_record {
    struct addr addrs[UPSTREAM_ADDRS]; /* of the first hop */
    unsigned n_addrs;
    struct addr at;
    int stage;
    unsigned hop;
    bool greeted;
    char why[256];
};

static int64_t deadline_of(int64_t timeout_ns)
{
    int64_t ms = timeout_ns / 1000000;

    return talk_now() + (ms > 0 && ms < PATIENCE_MS ? ms : PATIENCE_MS);
}

/* One of the hop's addresses; as a worker does, in their order. */
static int connect_hop(const struct upstream_hop *hop, struct reach_record *r)
{
    int fd = -EHOSTUNREACH;

    for (unsigned i = 0; i < hop->n_addrs && fd < 0; i++) {
        r->at = hop->addrs[i];
        fd = talk_connect(&hop->addrs[i], deadline_of(hop->config->connect_timeout));
    }
    return fd;
}

/* What hop `k` is asked for; of the last hop it is encoded and never sent. */
static void set_target(const struct upstream *u, unsigned k, struct socks_dest *ret)
{
    struct addr nobody;

    if (k + 1 == u->n_hops) {
        addr_parse("192.0.2.1:9", 0, &nobody);
        socks_dest_set_addr(ret, &nobody);
    } else if (u->hops[k + 1].n_addrs > 0) {
        socks_dest_set_addr(ret, &u->hops[k + 1].addrs[0]);
    } else {
        socks_dest_set_name(ret, u->hops[k + 1].config->url.host, u->hops[k + 1].config->url.port);
    }
}

static enum dial_fault fault_of(int error)
{
    return error == -ETIMEDOUT                       ? DIAL_HANDSHAKE_TIMEOUT
           : error == -EPIPE || error == -ECONNRESET ? DIAL_CLOSED
                                                     : DIAL_RESOURCE;
}

/* The handshake with hop `d->hop`, to where the last hop would be asked for a destination. True: it
 * went well; else the fault is in `d`. */
static bool walk_hop(struct dial *d, int fd, bool *ret_greeted)
{
    const struct config_upstream *c = d->upstream->hops[d->hop].config;
    bool last = d->hop + 1u == d->upstream->n_hops;
    int64_t deadline = deadline_of(c->handshake_timeout);
    uint8_t out[HANDSHAKE_OUT_MAX], in[HANDSHAKE_IN_MAX];
    struct wire_writer w = wire_writer(out, sizeof(out));
    struct socks_dest target;
    size_t len = 0;

    if (last && c->url.scheme == SCHEME_HTTP)
        return true;
    set_target(d->upstream, d->hop, &target);
    int r = handshake_start(&d->handshake, &c->url, &target, &w);
    bool faulty = r < 0;

    while (r >= 0 && r != 2 && !(last && handshake_awaits_reply(&d->handshake))) {
        size_t want;

        if (w.pos > 0)
            r = talk_send(fd, &w, deadline);
        w = wire_writer(out, sizeof(out));
        want = handshake_want(&d->handshake, in, len);
        if (r >= 0 && want > sizeof(in) - len)
            r = -EMSGSIZE;
        if (r >= 0)
            r = talk_receive(fd, in + len, want, deadline);
        if (r < 0)
            break;
        len += want;
        r = handshake_input(&d->handshake, &target, in, len, &w);
        faulty = r < 0;
        if (r > 0) {
            len = 0;
            *ret_greeted = true;
        }
    }
    explicit_bzero(out, sizeof(out)); /* it may have held a password */
    d->fault = (uint8_t)(r >= 0 ? DIAL_OK : faulty ? DIAL_HANDSHAKE : fault_of(r));
    d->os_error = r < 0 ? -r : 0;
    return r >= 0;
}

/* In the child. */
static void reach(void *ctx, void *record)
{
    struct upstream *u = ctx;
    struct reach_record *r = record;
    struct dial d = {.upstream = u, .fd = -1};

    r->stage = REACH_RESOLVE;
    if (upstream_resolve(u, 1, r->why, sizeof(r->why)) < 0)
        return;
    r->n_addrs = u->hops[0].n_addrs;
    memcpy(r->addrs, u->hops[0].addrs, sizeof(r->addrs));
    r->stage = REACH_CONNECT;
    d.fd = connect_hop(&u->hops[0], r);
    if (d.fd < 0) {
        d.os_error = -d.fd;
        d.fault = d.fd == -ETIMEDOUT ? DIAL_CONNECT_TIMEOUT : DIAL_CONNECT;
        dial_describe(&d, r->why, sizeof(r->why));
        return;
    }
    r->stage = REACH_HANDSHAKE;
    bool good = true;

    for (; good && d.hop < u->n_hops; d.hop = (uint8_t)(d.hop + good)) {
        r->greeted = false;
        good = walk_hop(&d, d.fd, &r->greeted);
    }
    r->hop = d.hop;
    if (good)
        r->stage = REACH_DONE;
    else
        dial_describe(&d, r->why, sizeof(r->why));
    fd_close(&d.fd);
}

static void keep(const struct reach_record *r, int error, struct upstream *u,
                 struct facts_upstream *ret)
{
    if (error < 0) {
        ret->stage = REACH_CONNECT;
        snprintf(ret->why, sizeof(ret->why), "no result within %d s", CHILD_SECONDS);
        return;
    }
    ret->at = r->at;
    ret->stage = (enum reach_stage)r->stage;
    ret->hop = r->hop;
    ret->greeted = r->greeted;
    snprintf(ret->why, sizeof(ret->why), "%.255s", r->why);
    u->hops[0].n_addrs = r->n_addrs <= UPSTREAM_ADDRS ? r->n_addrs : UPSTREAM_ADDRS;
    memcpy(u->hops[0].addrs, r->addrs, sizeof(r->addrs));
}

static int reach_all(struct facts *f, struct upstream *all)
{
    size_t n = f->config->n_upstreams;
    struct child *children = calloc(n + 1, sizeof(*children));
    struct reach_record record;

    if (!children)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        child_start(reach, &all[i], sizeof(record), CHILD_UNPRIVILEGED, CHILD_SECONDS,
                    &children[i]);
    for (size_t i = 0; i < n; i++) {
        int r = child_finish(&children[i], &record, sizeof(record));

        f->upstreams[i].config = &f->config->upstreams[i];
        keep(&record, r, &all[i], &f->upstreams[i]);
    }
    free(children);
    return 0;
}

static void check_capture(const struct capture_set *set, size_t i, struct facts_capture *ret)
{
    const char *cgroup = set->policies[i].cgroup;
    char why[512];

    if (cgroup) {
        int fd = cgroup_open(cgroup, why, sizeof(why));

        ret->cgroup = fd < 0 ? fd : 0;
        fd_close(&fd);
    }
    ret->local_error =
        local_upstream_check(set, i, &ret->local, ret->local_why, sizeof(ret->local_why));
}

static int check_captures(struct facts *f, const struct upstream *all)
{
    const struct config *c = f->config;
    struct capture_policy *policies = calloc(c->n_captures + 1, sizeof(*policies));
    struct addr *addrs = calloc(c->n_upstreams * UPSTREAM_ADDRS + 1, sizeof(*addrs));
    struct capture_set set = {
        .policies = policies, .n_policies = c->n_captures, .upstreams = addrs};

    if (!policies || !addrs) {
        free(policies);
        free(addrs);
        return -ENOMEM;
    }
    for (size_t i = 0; i < c->n_captures; i++)
        policies[i] = c->captures[i].policy;
    for (size_t i = 0; i < c->n_upstreams; i++) {
        for (unsigned k = 0; k < all[i].hops[0].n_addrs; k++)
            addrs[set.n_upstreams++] = all[i].hops[0].addrs[k];
    }
    for (size_t i = 0; i < c->n_captures; i++)
        check_capture(&set, i, &f->captures[i]);
    free(policies);
    free(addrs);
    return 0;
}

int gather_reach(struct facts *f)
{
    struct upstream *all = NULL;

    f->upstreams = calloc(f->config->n_upstreams + 1, sizeof(*f->upstreams));
    f->captures = calloc(f->config->n_captures + 1, sizeof(*f->captures));
    int r = f->upstreams && f->captures ? upstream_build(f->config, 0, &all) : -ENOMEM;

    if (r == 0)
        r = reach_all(f, all);
    if (r == 0)
        r = check_captures(f, all);
    free(all);
    return r;
}
