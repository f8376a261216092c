/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Notices that cgroups are made and removed: a service's own one is another one after each restart
 * of that service. By inotify, so that whoever is put into it has hardly begun to run; whoever
 * cannot have that looks now and then.
 */
#ifndef UNDERSOCK_KEEPER_CGROUP_WATCH_H
#define UNDERSOCK_KEEPER_CGROUP_WATCH_H

#include <stdbool.h>

/* A descriptor that is readable when something has been made or removed; or -errno. */
int cgroup_watch_open(void);
/* Each directory above `path` (below the root of cgroup2, beginning with '/') that is there. Again
 * after each event, as what is made may be one of them. Those that are there already stay. False:
 * the kernel gives no more watches (fs.inotify.max_user_watches), or `fd` is negative. */
bool cgroup_watch_add(int fd, const char *path);
/* Forgets the events; never blocks. */
void cgroup_watch_drain(int fd);

#endif
