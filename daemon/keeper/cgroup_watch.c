/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/cgroup_watch.h. The kernel gives a directory that is watched already the same watch, and
 * takes the watch of one that is removed away by itself. */
#include "keeper/cgroup_watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "keeper/cgroup.h"

#define EVENTS (IN_CREATE | IN_DELETE | IN_ONLYDIR)

int cgroup_watch_open(void)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

bool cgroup_watch_add(int fd, const char *path)
{
    char root[CGROUP_PATH_MAX / 2], full[CGROUP_PATH_MAX];

    if (fd < 0 || cgroup_root(root, sizeof(root)) < 0)
        return false;
    size_t len = strlen(root);

    snprintf(full, sizeof(full), "%s%.1024s", root, path);
    /* From above, so that what is made meanwhile is seen from there. */
    for (char *p = full + len; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (inotify_add_watch(fd, full, EVENTS) < 0)
            return errno == ENOENT;
        *p = '/';
    }
    return true;
}

void cgroup_watch_drain(int fd)
{
    char events[4096];

    while (read(fd, events, sizeof(events)) > 0)
        ;
}
