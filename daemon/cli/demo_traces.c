/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli/demo_traces.h. A network namespace without a name lives as long as a process is in it (or has
 * it open, which only the demo does), so looking at every process finds both.
 */
#include "cli/demo_traces.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/demo_far.h"
#include "keeper/cgroup.h"

#define WALK_FDS 16

void demo_traces_run(struct demo_traces *t, pid_t pid)
{
    if (t->n_runs < DEMO_TRACES_RUNS)
        t->runs[t->n_runs++] = pid;
}

static void add_namespace(struct demo_traces *t, dev_t device, ino_t inode)
{
    if (t->n_namespaces == DEMO_TRACES_NAMESPACES)
        return;
    t->namespaces[t->n_namespaces].device = device;
    t->namespaces[t->n_namespaces].inode = inode;
    t->n_namespaces++;
}

void demo_traces_namespace_here(struct demo_traces *t)
{
    struct stat st;

    if (stat("/proc/self/ns/net", &st) == 0)
        add_namespace(t, st.st_dev, st.st_ino);
}

void demo_traces_far(struct demo_traces *t, const struct demo_far *f)
{
    add_namespace(t, f->netns_device, f->netns_inode);
    snprintf(t->directory, sizeof(t->directory), "%s", f->directory);
}

static bool is_ours(const struct demo_traces *t, const struct stat *st)
{
    for (size_t i = 0; i < t->n_namespaces; i++) {
        if (t->namespaces[i].device == st->st_dev && t->namespaces[i].inode == st->st_ino)
            return true;
    }
    return false;
}

/* The first process that is in one of the namespaces; 0: none. */
static long process_left(const struct demo_traces *t)
{
    DIR *proc = opendir("/proc");
    struct dirent *e;
    long found = 0;

    while (proc && found == 0 && (e = readdir(proc))) {
        long pid = strtol(e->d_name, NULL, 10);
        char path[64];
        struct stat st;

        if (pid <= 0)
            continue;
        snprintf(path, sizeof(path), "/proc/%ld/ns/net", pid);
        if (stat(path, &st) == 0 && is_ours(t, &st))
            found = pid;
    }
    if (proc)
        closedir(proc);
    return found;
}

/* nftw() hands no context on. */
static const struct demo_traces *sought;

static int is_cgroup_of_a_run(const char *path, const struct stat *st, int type, struct FTW *at)
{
    char name[64];

    (void)st;
    for (size_t i = 0; type == FTW_D && i < sought->n_runs; i++) {
        snprintf(name, sizeof(name), "undersock-run-%ld", (long)sought->runs[i]);
        if (strcmp(path + at->base, name) == 0)
            return 1;
    }
    return 0;
}

static bool cgroup_left(const struct demo_traces *t)
{
    char root[256];

    sought = t;
    return t->n_runs > 0 && cgroup_root(root, sizeof(root)) == 0 &&
           nftw(root, is_cgroup_of_a_run, WALK_FDS, FTW_PHYS) == 1;
}

bool demo_traces_left(const struct demo_traces *t, char *ret, size_t size)
{
    struct stat st;
    long pid = process_left(t);

    if (pid > 0)
        snprintf(ret, size, "process %ld is still in a namespace of the demo", pid);
    else if (cgroup_left(t))
        snprintf(ret, size, "a cgroup undersock-run-* of the demo is still there");
    else if (t->directory[0] && lstat(t->directory, &st) == 0)
        snprintf(ret, size, "the directory %s is still there", t->directory);
    else
        return false;
    return true;
}
