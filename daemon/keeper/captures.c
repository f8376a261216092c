/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/captures.h */
#include "keeper/captures.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bpf/cgroup.h"
#include "keeper/attached.h"
#include "keeper/stitch.h"
#include "log.h"
#include "nft/batch.h"
#include "nft/conntrack.h"
#include "nft/guard.h"
#include "nft/routes.h"
#include "nft/ruleset.h"

#define ANOTHER_DAEMON                                                                        \
    "another undersock daemon has this network namespace; captures of one configuration are " \
    "stitched together"
#define TAKE_STEPS 50
#define TAKE_STEP  20000000 /* ns */

struct captures {
    struct attached_list *attached;
    struct stitch *stitch;
    struct nft_owner *nft;
    unsigned instance; /* capture_set.instance */
    bool routed;
    bool applied;  /* something, once */
    bool ruled;    /* the table has had rules */
    bool guarded;  /* on-exit = "closed", of somebody */
    bool found;    /* such a guard, when we came */
    bool others;   /* another daemon has this network namespace */
    bool outdated; /* the rules: they name a cgroup that is another one now */
};

int captures_create(struct loop *loop, unsigned event_kind, struct stitch *stitch,
                    struct captures **ret)
{
    struct captures *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    int r = attached_create(loop, event_kind, stitch, &c->attached);

    if (r < 0) {
        free(c);
        return r;
    }
    c->stitch = stitch;
    c->found = nft_guard_stands();
    *ret = c;
    return 0;
}

/* Something of a cgroup capture that is nftables' business. */
static bool needs_rules(const struct generation *g)
{
    for (size_t i = 0; i < g->set.n_policies; i++) {
        if (g->policies[i].udp != CAPTURE_UDP_LEAVE || g->policies[i].dns)
            return true;
    }
    return false;
}

static bool needs_routes(const struct generation *g)
{
    for (size_t i = 0; i < g->set.n_policies; i++) {
        const struct capture_policy *p = &g->policies[i];

        if (p->action == CAPTURE_PROXY &&
            (p->hook == CAPTURE_GATEWAY || p->dns || p->udp == CAPTURE_UDP_TAKE))
            return true;
    }
    return false;
}

static int apply_rules(struct captures *c, struct generation *g, char *why, size_t why_size)
{
    struct nft_ruleset *rs = NULL;
    int r = nft_ruleset_build(&g->set, &rs);

    if (r < 0) {
        snprintf(why, why_size, "cannot build the nftables rules: %s", strerror(-r));
        return r;
    }
    if (!c->nft && !nft_ruleset_empty(rs))
        r = nft_owner_open(&c->nft, why, why_size);
    if (r == 0 && c->nft)
        r = nft_owner_replace(c->nft, rs, why, why_size);
    c->ruled |= !nft_ruleset_empty(rs);
    nft_ruleset_free(rs);
    g->hold = c->nft ? nft_owner_fd(c->nft) : -1;
    return r;
}

/* Rules or a guard, of which a network namespace has one each. */
static bool makes_rules(const struct generation *g)
{
    struct nft_ruleset *rs = NULL, *guard = NULL;
    bool some = nft_ruleset_build(&g->set, &rs) < 0 || !nft_ruleset_empty(rs) ||
                nft_guard_build(&g->set, &guard) < 0 || !nft_ruleset_empty(guard);

    nft_ruleset_free(rs);
    nft_ruleset_free(guard);
    return some;
}

/*
 * A daemon takes the table before it has anything to put into it: two daemons whose captures need
 * no rules get along, but filters for stitch there are for one. The first time it is asked in any
 * case, as what was left behind is cleared away only by who is alone. Whoever was killed just now
 * may not have gone yet.
 */
static int take_namespace(struct captures *c, const struct generation *g, char *why,
                          size_t why_size)
{
    int tries = c->applied ? 1 : TAKE_STEPS, r = -EBUSY;

    if (c->nft || (c->applied && !makes_rules(g) && !stitch_wanted(c->stitch, g)))
        return 0;
    while (r == -EBUSY && tries-- > 0) {
        r = nft_owner_take(&c->nft, why, why_size);
        if (r == -EBUSY)
            nanosleep(&(struct timespec){.tv_nsec = TAKE_STEP}, NULL);
    }
    c->others = r == -EBUSY || r == -EEXIST;
    return c->others ? r : 0;
}

/* Who has put nothing into it leaves it to others. Later, workers have copies of its descriptor. */
static void give_back(struct captures *c, struct generation *g)
{
    if (c->applied || c->ruled || c->guarded || g->set.stitch || !g->marked)
        return;
    nft_owner_close(c->nft);
    c->nft = NULL;
    g->hold = -1;
}

/* A `run` has a table, marks and routes of its own, for its UDP, and filters of its own for stitch:
 * what wants nothing else does without. */
static int claim(struct captures *c, struct generation *g, char *why, size_t why_size)
{
    bool needed = needs_rules(g);
    char cause[400] = "";
    int r = 0;

    g->set.instance = c->instance;
    if (g->marked) {
        r = take_namespace(c, g, cause, sizeof(cause));
        if (r < 0 && makes_rules(g)) {
            snprintf(why, why_size, "%s", cause);
            return r;
        }
        stitch_offer(c->stitch, g, r == 0 ? NULL : r == -EBUSY ? ANOTHER_DAEMON : cause);
        return 0;
    }
    if (c->instance == 0 && (needed || stitch_wanted(c->stitch, g))) {
        r = nft_owner_claim(&c->nft, &c->instance, cause, sizeof(cause));
        if (r < 0 && needed)
            snprintf(why, why_size,
                     "UDP and DNS cannot be redirected: %s; \"-o udp=bypass -o dns=bypass\" lets "
                     "them go direct",
                     cause);
    }
    g->set.instance = c->instance;
    if (r == 0 || !needed)
        stitch_offer(c->stitch, g, r < 0 ? cause : NULL);
    return needed ? r : 0;
}

/*
 * The policy routes come before the rules that set the mark; what no gateway needs any more goes
 * after them, at the end. The table says whose this namespace is: with -EBUSY the routes, too, are
 * another daemon's, and stay.
 */
static int apply_nft(struct captures *c, struct generation *g, char *why, size_t why_size)
{
    bool routed = needs_routes(g);
    int r = 0;

    if (routed)
        r = routes_install(c->instance, NULL, why, why_size);
    if (r == 0)
        r = apply_rules(c, g, why, why_size);
    if (r == 0)
        c->routed |= routed;
    else if (routed && !c->routed && r != -EBUSY)
        routes_remove(c->instance);
    return r;
}

/* on-exit = "closed": behind the captures, so that nothing is refused which they would have taken.
 */
static int apply_guard(struct captures *c, const struct generation *g, char *why, size_t why_size)
{
    struct nft_ruleset *rs = NULL;

    if (!g->marked)
        return 0; /* `run` ends with its command */
    int r = nft_guard_build(&g->set, &rs);

    /* A start lifts what a dead daemon has left, if nobody else is here; later, what is there and
     * not ours is another one's. */
    if (r == 0 && nft_ruleset_empty(rs) && !c->guarded && (c->applied || c->others)) {
        nft_ruleset_free(rs);
        return 0;
    }
    if (r == 0)
        r = nft_guard_install(rs, why, why_size);
    else
        snprintf(why, why_size, "cannot build the rules for on-exit = \"closed\": %s",
                 strerror(-r));
    /* A kernel without nftables needs none lifted either. */
    if (r == -EOPNOTSUPP && nft_ruleset_empty(rs))
        r = 0;
    if (r == 0)
        c->guarded = !nft_ruleset_empty(rs);
    nft_ruleset_free(rs);
    return r;
}

/* established = "reset": after the rules, which answer what conntrack has forgotten. */
static int reset_established(const struct generation *g, char *why, size_t why_size)
{
    bool wanted = false;
    unsigned n = 0;

    for (size_t i = 0; i < g->set.n_policies; i++)
        wanted |= g->policies[i].reset_established;
    int r = wanted ? conntrack_flush_selected(&g->set, why, why_size, &n) : 0;

    if (r == 0 && n > 0)
        log_info("%u connections older than the rules are reset", n);
    return r;
}

int captures_look(struct captures *c, const struct config *config, char *why, size_t why_size)
{
    char cause[512] = "";
    int r = 0;

    attached_begin(c->attached);
    for (size_t i = 0; r == 0 && i < config->n_captures; i++) {
        const struct capture_policy *p = &config->captures[i].policy;

        if (p->hook == CAPTURE_CGROUP)
            r = attached_look(c->attached, p, cause, sizeof(cause));
        if (r < 0)
            snprintf(why, why_size, "capture %s: %s", p->name, cause[0] ? cause : strerror(-r));
    }
    return r;
}

int captures_apply(struct captures *c, struct generation *g, int transient, char *why,
                   size_t why_size)
{
    char cause[BPF_WHY_MAX + 256] = "";
    int r = claim(c, g, why, why_size);

    attached_begin(c->attached);
    for (size_t i = 0; r == 0 && i < g->set.n_policies; i++) {
        const struct capture_policy *p = &g->policies[i];

        if (p->hook == CAPTURE_CGROUP)
            r = attached_apply(c->attached, g, i, transient, cause, sizeof(cause));
        if (r < 0)
            snprintf(why, why_size, "capture %s: %s", p->name, cause[0] ? cause : strerror(-r));
    }
    if (r == 0)
        r = apply_nft(c, g, why, why_size);
    if (r == 0)
        r = apply_guard(c, g, why, why_size);
    if (r == 0)
        r = reset_established(g, why, why_size);
    if (r == 0) {
        c->outdated = false;
        attached_end(c->attached, g);
        stitch_engage(c->stitch, !c->others);
        give_back(c, g);
    }
    c->applied = true;
    return r;
}

bool captures_installed(const struct captures *c, const struct capture_policy *p)
{
    return attached_installed(c->attached, p);
}

bool captures_follow(struct captures *c, struct generation *g)
{
    char why[512] = "";
    bool failed, known = c->outdated;

    c->outdated |= attached_follow(c->attached, g, &failed);
    if (c->outdated)
        c->outdated =
            apply_nft(c, g, why, sizeof(why)) < 0 || apply_guard(c, g, why, sizeof(why)) < 0;
    if (c->outdated && !known)
        log_error(
            "the rules for a cgroup that is another one now: %s; it is tried again each second",
            why);
    return failed || c->outdated;
}

void captures_mend(struct captures *c, const struct generation *g)
{
    char why[512] = "";
    bool added = false;

    if (needs_routes(g) && routes_install(c->instance, &added, why, sizeof(why)) == 0 && added)
        log_warning(
            "somebody has removed our policy routes (\"ip rule\", table %u): they are put "
            "back. systemd-networkd does that when it starts, unless its networkd.conf says "
            "ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no",
            ROUTES_TABLE + c->instance);
    if (c->guarded && !nft_guard_stands() && apply_guard(c, g, why, sizeof(why)) == 0)
        log_warning("somebody has removed the table " NFT_GUARD_TABLE
                    " of on-exit = \"closed\" (\"nft flush ruleset\"?): it is put back");
}

void captures_event(struct captures *c, unsigned index)
{
    attached_event(c->attached, index);
}

size_t captures_link_fds(const struct captures *c, int *ret, size_t max)
{
    size_t n = attached_fds(c->attached, ret, max);

    if (c->nft && n < max)
        ret[n++] = nft_owner_fd(c->nft);
    return n;
}

void captures_remove(struct captures *c, enum captures_lift lift)
{
    char why[256];

    if (!c)
        return;
    if (lift == CAPTURES_LIFT_NEW && c->found)
        lift = CAPTURES_LEAVE;
    if (lift != CAPTURES_LEAVE && c->guarded && nft_guard_remove(why, sizeof(why)) < 0)
        log_error("%s", why);
    nft_owner_close(c->nft);
    if (c->routed)
        routes_remove(c->instance);
    attached_destroy(c->attached);
    free(c);
}
