/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the demo and its commands make, noted while it runs and looked for after it. */
#ifndef UNDERSOCK_CLI_DEMO_TRACES_H
#define UNDERSOCK_CLI_DEMO_TRACES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define DEMO_TRACES_RUNS       8
#define DEMO_TRACES_NAMESPACES 2

struct demo_traces {
    pid_t runs[DEMO_TRACES_RUNS]; /* each has a cgroup named after it */
    size_t n_runs;
    struct {
        dev_t device;
        ino_t inode;
    } namespaces[DEMO_TRACES_NAMESPACES];
    size_t n_namespaces;
    char directory[88];
};

struct demo_far;

void demo_traces_run(struct demo_traces *t, pid_t pid);
/* The network namespace of this process. */
void demo_traces_namespace_here(struct demo_traces *t);
void demo_traces_far(struct demo_traces *t, const struct demo_far *f);
/* Whether anything of it is still there; then `ret` says what. */
bool demo_traces_left(const struct demo_traces *t, char *ret, size_t size);

#endif
