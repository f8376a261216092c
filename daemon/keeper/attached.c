/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/attached.h */
#include "keeper/attached.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "bpf/cgroup.h"
#include "keeper/cgroup.h"
#include "keeper/stitch.h"
#include "log.h"

#define ATTACHED_MAX 64

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

struct attached_list {
    struct loop *loop;
    unsigned event_kind;
    struct stitch *stitch;
    uint64_t clock;                    /* attached.made, attached.put_on */
    const struct generation *in_force; /* whose workers have descriptors of what is attached */
    struct attached places[ATTACHED_MAX];
};

int attached_create(struct loop *loop, unsigned event_kind, struct stitch *stitch,
                    struct attached_list **ret)
{
    struct attached_list *c = calloc(1, sizeof(*c));

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
static struct attached *find(struct attached_list *c, const struct capture_policy *p)
{
    struct attached *found = NULL;

    for (size_t i = 0; i < ATTACHED_MAX; i++) {
        struct attached *a = &c->places[i];

        if (a->bpf && !a->wanted && strcmp(a->name, p->name) == 0 &&
            same_path(a->path, p->cgroup) && (!found || a->made < found->made))
            found = a;
    }
    return found;
}

/* Whether the kernel asks it after those of its cgroup that come before it in the configuration. */
static bool is_in_order(const struct attached_list *c, const struct attached *a)
{
    for (size_t i = 0; i < ATTACHED_MAX; i++) {
        const struct attached *b = &c->places[i];

        if (b->bpf && b->wanted && a->ino != 0 && b->ino == a->ino && b->dev == a->dev &&
            b->put_on > a->put_on)
            return false;
    }
    return true;
}

static struct attached *vacant(struct attached_list *c)
{
    for (size_t i = 0; i < ATTACHED_MAX; i++) {
        if (!c->places[i].bpf)
            return &c->places[i];
    }
    return NULL;
}

static int attach_new(struct attached_list *c, struct generation *g, size_t index, int cgroup,
                      const struct stat *st, struct attached **ret, char *why, size_t why_size)
{
    struct attached *a = vacant(c);

    if (!a) {
        snprintf(why, why_size, "more than %u cgroup captures", ATTACHED_MAX);
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
        loop_add(c->loop, fd, EPOLLIN, loop_ref(c->event_kind, 0, (uint32_t)(a - c->places)));
    *ret = a;
    return 0;
}

/* What look_up() returns for a cgroup that is not there, or no cgroups at all. */
static bool is_missing(int error)
{
    return error == -ENOENT || error == -ENODEV || error == -EOPNOTSUPP;
}

/* Opens it and says which one it is: 0 or -errno. */
static int look_up(const char *path, int *ret, struct stat *ret_st, char *why, size_t why_size)
{
    *ret = cgroup_open(path, why, why_size);
    if (*ret < 0)
        return *ret;
    return fstat(*ret, ret_st) < 0 ? -errno : 0;
}

/* Puts it on the cgroup that `fd` is; -1: it is gone. 0, or -errno with `why`: it is on none. */
static int put_on(struct attached_list *c, struct attached *a, int fd, struct stat st, char *why,
                  size_t why_size)
{
    int r = bpf_capture_move(a->bpf, fd, why, why_size);

    if (r == -ENOENT || r == -ENODEV) { /* gone meanwhile: the next event is about that */
        st = (struct stat){0};
        r = 0;
    }
    a->dev = st.st_dev;
    a->ino = st.st_ino;
    a->put_on = ++c->clock;
    a->failed = r < 0;
    return r;
}

/* Puts it on the cgroup that is there now, if that is another one. True: the rules, too, have to
 * name another one. */
static bool follow(struct attached_list *c, struct attached *a)
{
    struct stat st = {0};
    char why[512] = "";
    int fd, r = look_up(a->path, &fd, &st, why, sizeof(why));
    bool other = (r == 0 || is_missing(r)) && (st.st_ino != a->ino || st.st_dev != a->dev);
    bool had_failed = a->failed;

    if (other || (r == 0 && a->failed)) {
        r = put_on(c, a, fd, st, why, sizeof(why));
        if (r < 0 && (other || !had_failed))
            log_error("capture %s: the cgroup \"%s\" is another one now, and cannot be captured: "
                      "%s; it is tried again each second",
                      a->name, a->path, why);
        else if (r == 0 && a->ino == 0)
            log_warning("capture %s: the cgroup \"%s\" is gone; it is captured when it is back",
                        a->name, a->path);
        else if (r == 0)
            log_info("capture %s: the cgroup \"%s\" is back, and captured", a->name, a->path);
    }
    fd_close(&fd);
    return other && a->ino != 0;
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

int attached_look(struct attached_list *c, const struct capture_policy *p, char *why,
                  size_t why_size)
{
    struct stat st;
    int fd = -1, r = 0;

    if (p->cgroup && !find(c, p))
        r = look_up(p->cgroup, &fd, &st, why, why_size);
    fd_close(&fd);
    return r < 0 ? r : 0;
}

/* Another one, on the cgroup that is there now. */
static int attach_there(struct attached_list *c, struct generation *g, size_t index, int transient,
                        struct attached **ret, char *why, size_t why_size)
{
    const char *path = g->policies[index].cgroup;
    struct stat st = {0};
    int own = -1, r;

    if (path)
        r = look_up(path, &own, &st, why, why_size);
    else
        r = fstat(transient, &st) < 0 ? -errno : 0;
    if (r == 0)
        r = attach_new(c, g, index, path ? own : transient, &st, ret, why, why_size);
    fd_close(&own);
    return r;
}

/*
 * What is attached stays the same one, wherever its cgroup is now, as workers know it. Only new
 * workers can be given another one; that is how what has moved down in the configuration comes
 * behind what is asked before it. The cgroup may go at any moment in this.
 */
int attached_apply(struct attached_list *c, struct generation *g, size_t index, int transient,
                   char *why, size_t why_size)
{
    struct attached *known = find(c, &g->policies[index]), *a = known;
    bool keeps = known;
    int r = 0;

    if (known && known->path)
        follow(c, known);
    if (known && g != c->in_force)
        keeps = is_in_order(c, known);
    if (!keeps)
        r = attach_there(c, g, index, transient, &a, why, why_size);
    if (known && is_missing(r)) {
        follow(c, known); /* wherever it is put next, it comes last */
        keeps = true;
        r = 0;
    }
    if (r == 0 && keeps)
        r = bpf_cgroup_replace(a->bpf, &g->set, index, why, why_size);
    if (r == 0) {
        a->wanted = true;
        stitch_bind(c->stitch, index, a->bpf);
        bind_workers(g, index, a->bpf);
    }
    return r;
}

static void detach(struct attached_list *c, struct attached *a)
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

void attached_begin(struct attached_list *c)
{
    for (size_t i = 0; i < ATTACHED_MAX; i++)
        c->places[i].wanted = false;
}

void attached_end(struct attached_list *c, const struct generation *g)
{
    for (size_t i = 0; i < ATTACHED_MAX; i++) {
        if (c->places[i].bpf && !c->places[i].wanted)
            detach(c, &c->places[i]);
    }
    c->in_force = g;
}

/* The capture of a policy in force. */
static struct attached *attached_of(struct attached_list *c, const struct capture_policy *p)
{
    for (size_t i = 0; i < ATTACHED_MAX; i++) {
        if (c->places[i].bpf && strcmp(c->places[i].name, p->name) == 0)
            return &c->places[i];
    }
    return NULL;
}

bool attached_installed(struct attached_list *c, const struct capture_policy *p)
{
    const struct attached *a = attached_of(c, p);

    return !a || (a->ino != 0 && !a->failed);
}

/* Whether the kernel asks `a` before `earlier`, which comes before it in the configuration. */
static bool is_asked_before(const struct attached *a, const struct attached *earlier)
{
    return a->ino != 0 && a->ino == earlier->ino && a->dev == earlier->dev &&
           a->put_on < earlier->put_on;
}

/* A cgroup that was made anew once more between two of its captures has them in another order. */
static void restore_order(struct attached_list *c, const struct generation *g)
{
    for (size_t i = 1; i < g->set.n_policies; i++) {
        struct attached *a = attached_of(c, &g->policies[i]);
        bool late = false;

        for (size_t k = 0; a && a->path && k < i; k++) {
            struct attached *earlier = attached_of(c, &g->policies[k]);

            late |= earlier && is_asked_before(a, earlier);
        }
        struct stat st;
        char why[512];
        int fd = -1;

        if (late && look_up(a->path, &fd, &st, why, sizeof(why)) == 0 && st.st_ino == a->ino &&
            st.st_dev == a->dev)
            put_on(c, a, fd, st, why, sizeof(why));
        fd_close(&fd);
    }
}

bool attached_follow(struct attached_list *c, const struct generation *g, bool *ret_failed)
{
    bool other = false;

    /* In the order of the configuration: the first of a cgroup decides. */
    for (size_t i = 0; i < g->set.n_policies; i++) {
        struct attached *a = attached_of(c, &g->policies[i]);

        other |= a && a->path && follow(c, a);
    }
    restore_order(c, g);
    *ret_failed = false;
    for (size_t i = 0; i < ATTACHED_MAX; i++)
        *ret_failed |= c->places[i].bpf && c->places[i].failed;
    return other;
}

static void report(void *ctx, const struct bpf_capture_event *e)
{
    const struct attached *a = ctx;

    log_warning(
        "capture %s: %.16s (pid %u) is in another network namespace, where our listener cannot "
        "be reached: its connections and UDP %s (said once per namespace)",
        a->name, e->comm, e->pid,
        e->refused ? "are refused; run undersock in that namespace, or set when-down = \"direct\""
                   : "go direct");
}

void attached_event(struct attached_list *c, unsigned index)
{
    if (index < ATTACHED_MAX && c->places[index].bpf)
        bpf_capture_poll_events(c->places[index].bpf, report, &c->places[index]);
}

size_t attached_fds(const struct attached_list *c, int *ret, size_t max)
{
    size_t n = 0;

    for (size_t i = 0; i < ATTACHED_MAX; i++) {
        int fds[BPF_CAPTURE_MAX_FDS];
        int got =
            c->places[i].bpf ? bpf_capture_fds(c->places[i].bpf, fds, BPF_CAPTURE_MAX_FDS) : 0;

        for (int k = 0; k < got && n < max; k++)
            ret[n++] = fds[k];
    }
    return n;
}

void attached_destroy(struct attached_list *c)
{
    if (!c)
        return;
    attached_begin(c);
    attached_end(c, NULL);
    free(c);
}
