/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/honest.h */
#include "keeper/honest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/probe.h"
#include "log.h"
#include "nft/probe.h"

static bool wants_honest(const struct config_capture *c)
{
    return c->policy.action == CAPTURE_PROXY && c->connect != CONNECT_EARLY;
}

const char *honest_why_early(const struct generation *g, size_t capture)
{
    const struct config_capture *c = &g->config->captures[capture];
    const char *why = c->policy.hook == CAPTURE_CGROUP ? g->no_bpf_hold : g->no_nft_hold;

    return wants_honest(c) && why[0] ? why : NULL;
}

/* Whether some capture that wants to be honest has a hook of eBPF's, or of nftables'. */
static bool some_honest(const struct generation *g, bool bpf)
{
    for (size_t i = 0; i < g->config->n_captures; i++) {
        const struct config_capture *c = &g->config->captures[i];

        if (wants_honest(c) && (c->policy.hook == CAPTURE_CGROUP) == bpf && !honest_why_early(g, i))
            return true;
    }
    return false;
}

/* What this kernel cannot do is found by trial, and said once for each capture. */
void honest_find(struct generation *g)
{
    if (some_honest(g, false) && nft_probe_hold(g->no_nft_hold, sizeof(g->no_nft_hold)) == 0)
        g->no_nft_hold[0] = '\0';
    if (some_honest(g, true) && bpf_can_hold(g->no_bpf_hold, sizeof(g->no_bpf_hold)))
        g->no_bpf_hold[0] = '\0';
    for (size_t i = 0; i < g->config->n_captures; i++) {
        if (honest_why_early(g, i))
            log_warning("capture %s: connections are accepted before the upstream has answered, "
                        "and reset when it says no: %s",
                        g->policies[i].name, honest_why_early(g, i));
    }
}

void honest_set(struct generation *g)
{
    for (size_t i = 0; i < g->set.n_policies; i++)
        g->policies[i].honest = wants_honest(&g->config->captures[i]) && !honest_why_early(g, i);
}

static unsigned planned_seat_port(size_t capture, unsigned worker)
{
    return SEATS_CGROUP_PORT + (unsigned)capture * WORKERS_MAX + worker;
}

struct seat_listener *honest_cgroup_seat(const struct generation *g, size_t policy, unsigned worker,
                                         bool v4)
{
    return &g->cgroup_seats[(policy * g->n_workers + worker) * 2 + (v4 ? 0 : 1)];
}

static int open_cgroup_seats(struct generation *g, size_t policy)
{
    int r = 0;

    for (unsigned w = 0; r == 0 && w < g->n_workers; w++) {
        unsigned port = g->marked ? planned_seat_port(policy, w) : 0;

        r = seats_listen(true, port, false, honest_cgroup_seat(g, policy, w, true));
        if (r == 0)
            r = seats_listen(false, port, false, honest_cgroup_seat(g, policy, w, false));
    }
    return r;
}

/* The ports, for the rules and the programs; of the seats of other generations none. */
static void tell_seat_ports(struct generation *g, size_t policy, bool planned)
{
    struct capture_seat_ports *ports = &g->seat_ports[policy * CAPTURE_SEATS];

    for (size_t i = 0; i < g->set.n_seats; i++) {
        unsigned w = g->seat_list[i].number - g->first_seat;

        if (!g->seat_list[i].serving)
            continue;
        const struct seat_listener *v4 = honest_cgroup_seat(g, policy, w, true);
        const struct seat_listener *v6 = honest_cgroup_seat(g, policy, w, false);

        ports[i].v4 = v4->fd >= 0 ? v4->at.port : 0;
        ports[i].v6 = v6->fd >= 0 ? v6->at.port : 0;
        if (planned)
            ports[i].v4 = ports[i].v6 = (uint16_t)planned_seat_port(policy, w);
    }
    g->policies[policy].seat_ports = ports;
}

int honest_seats(struct generation *g, struct seats *seats, char *why, size_t why_size)
{
    size_t n = g->set.n_policies * g->n_workers * 2;
    bool nft = some_honest(g, false), bpf = some_honest(g, true);

    if (!nft && !bpf)
        return 0;
    snprintf(why, why_size, "out of memory");
    g->seat_ports = calloc(g->set.n_policies * CAPTURE_SEATS, sizeof(*g->seat_ports));
    g->cgroup_seats = calloc(n, sizeof(*g->cgroup_seats));
    if (!g->seat_ports || !g->cgroup_seats)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        g->cgroup_seats[i].fd = -1;
    g->set.seats = g->seat_list;
    if (!seats) {
        g->set.n_seats = seats_plan(g->n_workers, nft, g->seat_list);
    } else {
        int r = seats_take(seats, g->n_workers, nft, g->marked, why, why_size);

        if (r < 0)
            return r;
        g->seats = seats;
        g->first_seat = (unsigned)r;
        g->set.n_seats = seats_list(seats, g->first_seat, g->n_workers, g->seat_list);
    }
    for (size_t i = 0; i < g->set.n_policies; i++) {
        if (!g->policies[i].honest || g->policies[i].hook != CAPTURE_CGROUP)
            continue;
        int r = seats ? open_cgroup_seats(g, i) : 0;

        if (r < 0) {
            snprintf(why, why_size, "capture %s: cannot listen on 127.0.0.1: %s; is lo up?",
                     g->policies[i].name, strerror(-r));
            return r;
        }
        tell_seat_ports(g, i, !seats);
    }
    return 0;
}

int honest_holds(struct generation *g)
{
    bool nft = some_honest(g, false);
    struct worker_hold *h;

    if (!g->seats)
        return 0;
    g->n_holds = nft ? 1 : 0;
    for (size_t i = 0; i < g->set.n_policies; i++)
        g->n_holds += g->policies[i].honest && g->policies[i].hook == CAPTURE_CGROUP;
    h = g->holds = calloc(g->n_holds * g->n_workers + 1, sizeof(*g->holds));
    if (!h)
        return -ENOMEM;
    for (unsigned w = 0; w < g->n_workers; w++) {
        unsigned seat = g->first_seat + w;

        if (nft)
            *h++ = (struct worker_hold){.fd = seats_get(g->seats, seat)->log, .seat = seat};
        for (size_t i = 0; i < g->set.n_policies; i++) {
            if (g->policies[i].honest && g->policies[i].hook == CAPTURE_CGROUP)
                *h++ = (struct worker_hold){
                    .fd = -1, .seat = seat, .capture = &g->config->captures[i]};
        }
    }
    return 0;
}
