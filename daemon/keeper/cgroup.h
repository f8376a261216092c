/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cgroup2 directories: finding, opening, and the transient one of `undersock run`. */
#ifndef UNDERSOCK_KEEPER_CGROUP_H
#define UNDERSOCK_KEEPER_CGROUP_H

#include <stdbool.h>
#include <stddef.h>

#define CGROUP_PATH_MAX 4096

/* The mount point of the cgroup2 hierarchy (it may sit beside a v1 hierarchy). -ENOENT: none. */
int cgroup_root(char *ret, size_t size);
/* Opens the directory of `path`, below the root, beginning with '/'. A descriptor or -errno; `why`
 * is one sentence with the remedy. */
int cgroup_open(const char *path, char *why, size_t why_size);
/*
 * Makes a new cgroup below this process's own one; its whole path goes to `ret`. Removes what
 * earlier runs that were killed together with their janitor left behind, if it is empty. A
 * descriptor or -errno.
 */
int cgroup_create(char *ret, size_t size, char *why, size_t why_size);
/* Moves the calling process into it. 0 or -errno. */
int cgroup_enter(const char *dir);
/* Whether any process lives in it or below. */
bool cgroup_populated(const char *dir);
/* Sends `sig` to each process in it (not below). */
void cgroup_signal(const char *dir, int sig);
/* Kills everything in it and below, waits for the end, removes them all. Idempotent. */
void cgroup_destroy(const char *dir);

#endif
