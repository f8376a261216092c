/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For the tests of keeper/ that need a cgroup: whether one can be had, and processes to put into
 * it. */
#ifndef UNDERSOCK_TESTS_KEEPER_CGROUP_RIG_H
#define UNDERSOCK_TESTS_KEEPER_CGROUP_RIG_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "keeper/cgroup.h"

#define PATIENCE_MS 20000

/* Why no cgroup can be made here; NULL: one can. */
static inline const char *no_cgroup(void)
{
    char root[CGROUP_PATH_MAX];

    if (geteuid() != 0)
        return "needs root";
    if (cgroup_root(root, sizeof(root)) < 0)
        return "no cgroup2 hierarchy is mounted";
    if (access(root, W_OK) < 0)
        return "the cgroup2 hierarchy is read-only";
    return NULL;
}

#define NEEDS_CGROUP()                              \
    do {                                            \
        const char *reason = no_cgroup();           \
                                                    \
        if (reason) {                               \
            print_message("skipped: %s\n", reason); \
            skip();                                 \
        }                                           \
    } while (0)

static inline unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static inline bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* A child inside `dir` that sleeps; with `stubborn` it ignores SIGTERM. It is there when this
 * returns. */
static inline pid_t sleeper(const char *dir, bool stubborn)
{
    int ready[2];
    char c;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    fflush(stdout);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (stubborn)
            signal(SIGTERM, SIG_IGN);
        if (cgroup_enter(dir) < 0)
            _exit(1);
        (void)!write(ready[1], "r", 1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    return pid;
}

/* The signal that has ended it. */
static inline int killed_by(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

#endif
