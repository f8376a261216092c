/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The janitor: a small process that outlives a keeper killed with SIGKILL.
 *
 * Of `undersock run`: it holds the links of the BPF programs and the owner of the nftables table,
 * so what the command sends is refused (the listeners are gone) rather than going direct, ends
 * everything in the command's cgroup, and removes that, the policy routes and the filters of
 * stitch.
 *
 * Of a daemon with a gateway: it forgets the TIME-WAIT sockets that would keep clients from going
 * direct, or from being refused (keeper/timewait.h), when nobody is left to do so and when it is
 * told.
 */
#ifndef UNDERSOCK_KEEPER_JANITOR_H
#define UNDERSOCK_KEEPER_JANITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct janitor {
    pid_t pid;
    int hold; /* the janitor goes to work when this, in all processes, closes without
                 janitor_dismiss(); -1: there is none */
};

struct janitor_work {
    const char *dir;   /* the command's cgroup; NULL: there is no command */
    unsigned instance; /* its routes and filters (capture_set); 0: none */
    const int *links;  /* descriptors to hold */
    size_t n_links;
    bool timewait;
};

/* 0 or -errno. */
int janitor_start(const struct janitor_work *work, struct janitor *ret);
/* With `timewait`: it does that now, beside the keeper. */
void janitor_sweep(struct janitor *j);
/* The keeper cleans up itself: the janitor ends, with `timewait` after it has done that once more,
 * and is waited for. */
void janitor_dismiss(struct janitor *j);

#endif
