/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_guards.h. The same two programs serve all cgroups of an instance, and the kernel takes
 * a program once for a cgroup: so captures of one cgroup are counted, and the last one takes them
 * off.
 */
#include "bpf/stitch_guards.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <bpf/bpf.h>

#include "base/fd.h"
#include "bpf/object.h"
#include "bpf/stitch_left.h"

#define WHAT "stitching connections"

/* Of the 64 programs of a kind that a cgroup takes, the rest is left to others, and to our own that
 * hold SYNs: guards of who was killed may have piled up. */
#define PROGRAMS_MAX 48

static const struct {
    const char *program;
    enum bpf_attach_type type;
} guards[2] = {
    {"us_st_guard", BPF_CGROUP_INET_EGRESS},
    {"us_st_guard_in", BPF_CGROUP_INET_INGRESS},
};

void stitch_guards_init(struct stitch_guards *g)
{
    *g = (struct stitch_guards){.programs = {-1, -1}, .owners = -1};
}

int stitch_guards_open(struct stitch_guards *g, struct bpf_object *object, int owners,
                       unsigned instance)
{
    g->owners = owners;
    g->instance = instance;
    for (size_t i = 0; i < 2; i++) {
        g->programs[i] = bpf_object_dup_program(object, guards[i].program);
        if (g->programs[i] < 0)
            return g->programs[i];
    }
    return 0;
}

void stitch_guards_close(struct stitch_guards *g)
{
    for (size_t i = 0; i < 2; i++)
        fd_close(&g->programs[i]);
}

/* How many captures of a cgroup have its guards; NULL: there is no room for another cgroup. */
static unsigned *guarded(struct stitch_guards *g, int cgroup_fd)
{
    struct stat st;
    size_t at = STITCH_GUARDED_MAX;

    if (fstat(cgroup_fd, &st) < 0)
        return NULL;
    for (size_t i = 0; i < STITCH_GUARDED_MAX; i++) {
        if (g->cgroups[i].n > 0 && g->cgroups[i].id == st.st_ino)
            return &g->cgroups[i].n;
        if (g->cgroups[i].n == 0 && at == STITCH_GUARDED_MAX)
            at = i;
    }
    if (at == STITCH_GUARDED_MAX)
        return NULL;
    g->cgroups[at].id = st.st_ino;
    return &g->cgroups[at].n;
}

int stitch_guards_put(struct stitch_guards *g, uint64_t instance, int cgroup_fd, char *why,
                      size_t why_size)
{
    struct stitch_owner owner;
    unsigned *n = guarded(g, cgroup_fd);
    int programs = stitch_left_count(cgroup_fd);
    int r = stitch_left_sign(cgroup_fd, g->instance, &owner);

    if (n == NULL) {
        snprintf(why, why_size, WHAT ": more than %d cgroups", STITCH_GUARDED_MAX);
        return -ENOSPC;
    }
    if (*n == 0 && programs >= PROGRAMS_MAX) {
        snprintf(why, why_size,
                 "there are %d programs on the cgroup, perhaps guards of daemons that were killed "
                 "(\"bpftool cgroup tree\"); a start with CAP_SYS_ADMIN takes such off",
                 programs);
        return -E2BIG;
    }
    if (r == 0)
        r = bpf_map_update_elem(g->owners, &instance, &owner, BPF_ANY);
    if (r < 0) {
        snprintf(why, why_size, WHAT ": %s", strerror(-r));
        return r;
    }
    if (++*n > 1)
        return 0;
    for (size_t i = 0; i < 2; i++) {
        if (bpf_prog_attach(g->programs[i], cgroup_fd, guards[i].type, BPF_F_ALLOW_MULTI) < 0) {
            r = -errno;
            snprintf(why, why_size, "%s cannot be attached to the cgroup: %s", guards[i].program,
                     strerror(-r));
            stitch_guards_take(g, instance, cgroup_fd);
            return r;
        }
    }
    return 0;
}

void stitch_guards_take(struct stitch_guards *g, uint64_t instance, int cgroup_fd)
{
    unsigned *n = guarded(g, cgroup_fd);

    if (n != NULL && *n > 0 && --*n == 0) {
        for (size_t i = 0; i < 2; i++)
            bpf_prog_detach2(g->programs[i], cgroup_fd, guards[i].type);
    }
    bpf_map_delete_elem(g->owners, &instance);
}
