/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The janitor of `undersock run`: a small process that outlives a keeper killed with SIGKILL. It
 * holds the links of the BPF programs and the owner of the nftables table, so what the command
 * sends is refused (the listeners are gone) rather than going direct, ends everything in the
 * command's cgroup, and removes that, the policy routes and the filters of stitch.
 */
#ifndef UNDERSOCK_KEEPER_JANITOR_H
#define UNDERSOCK_KEEPER_JANITOR_H

#include <stddef.h>
#include <sys/types.h>

struct janitor {
    pid_t pid;
    int hold; /* the janitor goes to work when this closes without janitor_dismiss(); -1: none */
};

/* Starts it for the cgroup directory `dir` and the routes and filters of `instance` (capture_set;
 * 0: none). `links`: descriptors to hold. 0 or -errno. */
int janitor_start(const char *dir, unsigned instance, const int *links, size_t n_links,
                  struct janitor *ret);
/* The keeper cleans up itself: the janitor ends at once, and is waited for. */
void janitor_dismiss(struct janitor *j);

#endif
