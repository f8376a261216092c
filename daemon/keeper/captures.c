/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/captures.h */
#include "keeper/captures.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fd.h"
#include "bpf/cgroup.h"
#include "keeper/cgroup.h"
#include "keeper/stitch.h"
#include "log.h"
#include "nft/batch.h"
#include "nft/conntrack.h"
#include "nft/guard.h"
#include "nft/routes.h"
#include "nft/ruleset.h"

#define CAPTURES_MAX 64
#define ANOTHER_DAEMON                                                                        \
    "another undersock daemon has this network namespace; captures of one configuration are " \
    "stitched together"
#define TAKE_STEPS 50
#define TAKE_STEP  20000000 /* ns */

/* One attached cgroup capture. */
struct attached {
    struct bpf_capture *bpf; /* NULL: free */
    char name[CAPTURE_NAME_MAX + 1];
    char *path; /* of the cgroup; NULL: it has been made for us */
    dev_t dev;
    ino_t ino;       /* 0: it is gone, and awaited */
    bool failed;     /* it could not be put there */
    bool wanted;     /* by the generation that is being applied */
    uint64_t made;   /* when: a count */
    uint64_t put_on; /* the cgroup, likewise: the kernel asks in this order */
};

struct captures {
    struct loop *loop;
    unsigned event_kind;
    struct stitch *stitch;
    struct nft_owner *nft;
    unsigned instance; /* capture_set.instance */
    bool routed;
    bool applied;                      /* something, once */
    bool ruled;                        /* the table has had rules */
    bool guarded;                      /* on-exit = "closed", of somebody */
    bool others;                       /* another daemon has this network namespace */
    uint64_t clock;                    /* attached.made, attached.put_on */
    const struct generation *in_force; /* whose workers have descriptors of what is attached */
    struct attached attached[CAPTURES_MAX];
};

int captures_create(struct loop *loop, unsigned event_kind, struct stitch *stitch,
                    struct captures **ret)
{
    struct captures *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->loop = loop;
    c->event_kind = event_kind;
    c->stitch = stitch;
    *ret = c;
    return 0;
}

static bool same_path(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* After a reload that failed there may be two: workers know the older one. */
static struct attached *find(struct captures *c, const struct capture_policy *p)
{
    struct attached *found = NULL;

    for (size_t i = 0; i < CAPTURES_MAX; i++) {
        struct attached *a = &c->attached[i];

        if (a->bpf && !a->wanted && strcmp(a->name, p->name) == 0 &&
            same_path(a->path, p->cgroup) && (!found || a->made < found->made))
            found = a;
    }
    return found;
}

/* Whether the kernel asks it after those of its cgroup that come before it in the configuration. */
static bool is_in_order(const struct captures *c, const struct attached *a)
{
    for (size_t i = 0; i < CAPTURES_MAX; i++) {
        const struct attached *b = &c->attached[i];

        if (b->bpf && b->wanted && a->ino != 0 && b->ino == a->ino && b->dev == a->dev &&
            b->put_on > a->put_on)
            return false;
    }
    return true;
}

static struct attached *vacant(struct captures *c)
{
    for (size_t i = 0; i < CAPTURES_MAX; i++) {
        if (!c->attached[i].bpf)
            return &c->attached[i];
    }
    return NULL;
}

static int attach_new(struct captures *c, struct generation *g, size_t index, int cgroup,
                      const struct stat *st, struct attached **ret, char *why, size_t why_size)
{
    struct attached *a = vacant(c);

    if (!a) {
        snprintf(why, why_size, "more than %u cgroup captures", CAPTURES_MAX);
        return -ENOSPC;
    }
    int r = bpf_cgroup_attach(&g->set, index, cgroup, &a->bpf, why, why_size);

    if (r < 0) {
        a->bpf = NULL;
        return r;
    }
    snprintf(a->name, sizeof(a->name), "%s", g->policies[index].name);
    a->path = g->policies[index].cgroup ? strdup(g->policies[index].cgroup) : NULL;
    a->dev = st->st_dev;
    a->ino = st->st_ino;
    a->made = a->put_on = ++c->clock;
    int fd = bpf_capture_event_fd(a->bpf);

    if (fd >= 0)
        loop_add(c->loop, fd, EPOLLIN, loop_ref(c->event_kind, 0, (uint32_t)(a - c->attached)));
    *ret = a;
    return 0;
}

/* Opens it and says which one it is: 0 or -errno, -ENOENT when it is not there. */
static int look_up(const char *path, int *ret, struct stat *ret_st, char *why, size_t why_size)
{
    *ret = cgroup_open(path, why, why_size);
    if (*ret < 0)
        return *ret;
    return fstat(*ret, ret_st) < 0 ? -errno : 0;
}

/* Puts it on the cgroup that is there now, if that is another one. True: the rules, too, have to
 * name another one. */
static bool follow(struct captures *c, struct attached *a)
{
    struct stat st = {0};
    char why[512] = "";
    int fd, r = look_up(a->path, &fd, &st, why, sizeof(why));
    bool other = (r == 0 || r == -ENOENT) && (st.st_ino != a->ino || st.st_dev != a->dev);
    bool had_failed = a->failed;

    if (other || (r == 0 && a->failed)) {
        r = bpf_capture_move(a->bpf, fd, why, sizeof(why));
        if (r == -ENOENT || r == -ENODEV) /* gone meanwhile: the next event is about that */
            st = (struct stat){0};
        a->dev = st.st_dev;
        a->ino = st.st_ino;
        a->put_on = ++c->clock;
        a->failed = r < 0 && a->ino != 0;
        if (a->failed && (other || !had_failed))
            log_error("capture %s: the cgroup \"%s\" is another one now, and cannot be captured: "
                      "%s; it is tried again each second",
                      a->name, a->path, why);
        else if (a->ino == 0)
            log_warning("capture %s: the cgroup \"%s\" is gone; it is captured when it is back",
                        a->name, a->path);
        else if (!a->failed)
            log_info("capture %s: the cgroup \"%s\" is back, and captured", a->name, a->path);
    }
    fd_close(&fd);
    return other && st.st_ino != 0;
}

static void bind_workers(struct generation *g, size_t index, const struct bpf_capture *bpf)
{
    const struct config_capture *capture = &g->config->captures[index];

    for (size_t i = 0; i < g->n_listeners; i++) {
        if (g->listeners[i].capture == capture)
            g->listeners[i].origin_map = bpf_capture_origin_fd(bpf);
    }
    for (size_t i = 0; i < g->n_holds * g->n_workers; i++) {
        if (g->holds[i].capture == capture)
            g->holds[i].fd = bpf_capture_ring_fd(bpf, g->holds[i].seat);
    }
}

/*
 * What is attached stays the same one, wherever its cgroup is now, as workers know it. Only new
 * workers can be given another one; that is how what has moved down in the configuration comes
 * behind what is asked before it.
 */
static int apply_cgroup(struct captures *c, struct generation *g, size_t index, int transient,
                        char *why, size_t why_size)
{
    const struct capture_policy *p = &g->policies[index];
    struct attached *a = find(c, p);
    struct stat st = {0};
    int own = -1, r = 0;

    if (a && a->path)
        follow(c, a);
    if (a && g != c->in_force && !is_in_order(c, a))
        a = NULL;
    if (a) {
        r = bpf_cgroup_replace(a->bpf, &g->set, index, why, why_size);
    } else {
        if (p->cgroup)
            r = look_up(p->cgroup, &own, &st, why, why_size);
        else
            r = fstat(transient, &st) < 0 ? -errno : 0;
        if (r == 0)
            r = attach_new(c, g, index, p->cgroup ? own : transient, &st, &a, why, why_size);
        fd_close(&own);
    }
    if (r == 0) {
        a->wanted = true;
        stitch_bind(c->stitch, index, a->bpf);
        bind_workers(g, index, a->bpf);
    }
    return r;
}

static void detach(struct captures *c, struct attached *a)
{
    int fd = bpf_capture_event_fd(a->bpf);

    if (fd >= 0)
        loop_remove(c->loop, fd);
    stitch_unbind(c->stitch, a->bpf);
    if (!bpf_capture_detach(a->bpf))
        stitch_leave_filters(c->stitch);
    free(a->path);
    *a = (struct attached){.bpf = NULL};
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

int captures_apply(struct captures *c, struct generation *g, int transient, char *why,
                   size_t why_size)
{
    char cause[BPF_WHY_MAX + 256] = "";
    int r = claim(c, g, why, why_size);

    for (size_t i = 0; i < CAPTURES_MAX; i++)
        c->attached[i].wanted = false;
    for (size_t i = 0; r == 0 && i < g->set.n_policies; i++) {
        const struct capture_policy *p = &g->policies[i];

        if (p->hook == CAPTURE_CGROUP)
            r = apply_cgroup(c, g, i, transient, cause, sizeof(cause));
        if (r < 0)
            snprintf(why, why_size, "capture %s: %s", p->name, cause[0] ? cause : strerror(-r));
    }
    if (r == 0)
        r = apply_nft(c, g, why, why_size);
    if (r == 0)
        r = apply_guard(c, g, why, why_size);
    if (r == 0)
        r = reset_established(g, why, why_size);
    for (size_t i = 0; r == 0 && i < CAPTURES_MAX; i++) {
        if (c->attached[i].bpf && !c->attached[i].wanted)
            detach(c, &c->attached[i]);
    }
    if (r == 0) {
        c->in_force = g;
        stitch_engage(c->stitch, !c->others);
        give_back(c, g);
    }
    c->applied = true;
    return r;
}

/* The capture of a policy in force. */
static struct attached *attached_of(struct captures *c, const struct capture_policy *p)
{
    for (size_t i = 0; i < CAPTURES_MAX; i++) {
        if (c->attached[i].bpf && strcmp(c->attached[i].name, p->name) == 0)
            return &c->attached[i];
    }
    return NULL;
}

bool captures_installed(struct captures *c, const struct capture_policy *p)
{
    const struct attached *a = attached_of(c, p);

    return !a || (a->ino != 0 && !a->failed);
}

bool captures_follow(struct captures *c, struct generation *g)
{
    char why[512] = "";
    bool other = false, failed = false;

    /* In the order in which they were attached: the first of a cgroup decides. */
    for (size_t i = 0; i < g->set.n_policies; i++) {
        struct attached *a = attached_of(c, &g->policies[i]);

        if (!a || !a->path)
            continue;
        other |= follow(c, a);
        failed |= a->failed;
    }
    if (other && (apply_nft(c, g, why, sizeof(why)) < 0 || apply_guard(c, g, why, sizeof(why)) < 0))
        log_error("the rules for a cgroup that is another one now: %s", why);
    return failed;
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

static void report(void *ctx, const struct bpf_capture_event *e)
{
    const struct attached *a = ctx;

    log_warning(
        "capture %s: %.16s (pid %u) is in another network namespace, where our listener cannot "
        "be reached: its connections %s (said once per namespace)",
        a->name, e->comm, e->pid,
        e->refused ? "are refused; run undersock in that namespace, or set when-down = \"direct\""
                   : "go direct");
}

void captures_event(struct captures *c, unsigned index)
{
    if (index < CAPTURES_MAX && c->attached[index].bpf)
        bpf_capture_poll_events(c->attached[index].bpf, report, &c->attached[index]);
}

size_t captures_link_fds(const struct captures *c, int *ret, size_t max)
{
    size_t n = 0;

    for (size_t i = 0; i < CAPTURES_MAX; i++) {
        int fds[BPF_CAPTURE_MAX_FDS];
        int got =
            c->attached[i].bpf ? bpf_capture_fds(c->attached[i].bpf, fds, BPF_CAPTURE_MAX_FDS) : 0;

        for (int k = 0; k < got && n < max; k++)
            ret[n++] = fds[k];
    }
    if (c->nft && n < max)
        ret[n++] = nft_owner_fd(c->nft);
    return n;
}

void captures_remove(struct captures *c, bool lift)
{
    char why[256];

    if (!c)
        return;
    if (lift && c->guarded && nft_guard_remove(why, sizeof(why)) < 0)
        log_error("%s", why);
    nft_owner_close(c->nft);
    if (c->routed)
        routes_remove(c->instance);
    for (size_t i = 0; i < CAPTURES_MAX; i++) {
        if (c->attached[i].bpf)
            detach(c, &c->attached[i]);
    }
    free(c);
}
