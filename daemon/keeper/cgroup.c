/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/cgroup.h */
#include "keeper/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

#define PREFIX     "undersock-run-"
#define WAIT_STEPS 500 /* of 10 ms, until killed processes are gone */
#define MAX_DEPTH  64

int cgroup_root(char *ret, size_t size)
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    struct mntent entry;
    char buf[CGROUP_PATH_MAX];
    int r = -ENOENT;

    if (!f)
        return -errno;
    while (r < 0 && getmntent_r(f, &entry, buf, sizeof(buf))) {
        if (strcmp(entry.mnt_type, "cgroup2") == 0 && strlen(entry.mnt_dir) < size) {
            snprintf(ret, size, "%s", entry.mnt_dir);
            r = 0;
        }
    }
    endmntent(f);
    return r;
}

static int root_or_why(char *root, size_t size, char *why, size_t why_size)
{
    int r = cgroup_root(root, size);

    if (r < 0)
        snprintf(
            why, why_size,
            "no cgroup2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup");
    return r == -ENOENT ? -EOPNOTSUPP : r;
}

int cgroup_open(const char *path, char *why, size_t why_size)
{
    char root[CGROUP_PATH_MAX / 2], full[CGROUP_PATH_MAX];
    int r = root_or_why(root, sizeof(root), why, why_size);

    if (r < 0)
        return r;
    snprintf(full, sizeof(full), "%s%.1024s", root, path);
    r = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r < 0) {
        r = -errno;
        snprintf(why, why_size,
                 "cgroup \"%.200s\": %s; make it (mkdir %.300s) or name one that exists", path,
                 strerror(-r), full);
    }
    return r;
}

/* The path of our own cgroup in the v2 hierarchy: the line "0::/path" of /proc/self/cgroup. */
static int own_path(char *ret, size_t size)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[CGROUP_PATH_MAX];
    int r = -ENOENT;

    if (!f)
        return -errno;
    while (r < 0 && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::/", 4) == 0 && strlen(line + 3) < size) {
            memcpy(ret, line + 3, strlen(line + 3) + 1);
            r = 0;
        }
    }
    fclose(f);
    return r;
}

/* Empty leftovers of runs whose process is gone; rmdir() refuses those in use. */
static void sweep(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        size_t n = strlen(PREFIX);

        if (strncmp(e->d_name, PREFIX, n) != 0)
            continue;
        long pid = strtol(e->d_name + n, NULL, 10);

        if (pid > 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH)
            unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    if (d)
        closedir(d);
}

int cgroup_create(char *ret, size_t size, char *why, size_t why_size)
{
    char root[CGROUP_PATH_MAX / 4], own[CGROUP_PATH_MAX / 4], parent[CGROUP_PATH_MAX / 2 + 2];
    struct stat st;
    int r = root_or_why(root, sizeof(root), why, why_size);

    if (r < 0)
        return r;
    if (own_path(own, sizeof(own)) < 0 || strcmp(own, "/") == 0)
        own[0] = '\0';
    snprintf(parent, sizeof(parent), "%s%s", root, own);
    if (stat(parent, &st) < 0)
        snprintf(parent, sizeof(parent), "%s", root); /* the path is of another cgroup namespace */
    sweep(parent);
    snprintf(ret, size, "%s/" PREFIX "%ld", parent, (long)getpid());
    if (mkdir(ret, 0755) < 0 && errno != EEXIST) {
        r = -errno;
        snprintf(why, why_size, "cannot make the cgroup %.500s: %s", ret, strerror(-r));
        return r;
    }
    r = open(ret, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r < 0) {
        r = -errno;
        snprintf(why, why_size, "cannot open the cgroup %.500s: %s", ret, strerror(-r));
        rmdir(ret);
    }
    return r;
}

static int write_file(const char *dir, const char *name, const char *text)
{
    char path[CGROUP_PATH_MAX];

    snprintf(path, sizeof(path), "%.3900s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;

    fd_close(&fd);
    return r;
}

int cgroup_enter(const char *dir)
{
    return write_file(dir, "cgroup.procs", "0");
}

bool cgroup_populated(const char *dir)
{
    char path[CGROUP_PATH_MAX], text[256];

    snprintf(path, sizeof(path), "%.3900s/cgroup.events", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text) - 1);

    fd_close(&fd);
    text[n > 0 ? n : 0] = '\0';
    return strstr(text, "populated 1") != NULL;
}

void cgroup_signal(const char *dir, int sig)
{
    char path[CGROUP_PATH_MAX];
    long pid;

    snprintf(path, sizeof(path), "%.3900s/cgroup.procs", dir);
    FILE *f = fopen(path, "re");

    while (f && fscanf(f, "%ld", &pid) == 1) {
        if (pid > 0) /* 0: it is in another pid namespace; kill() would take it for our own group */
            kill((pid_t)pid, sig);
    }
    if (f)
        fclose(f);
}

/* The cgroups that the command made inside its own, all empty by now. */
static void remove_children(int fd, unsigned depth)
{
    DIR *d = fdopendir(fd);
    struct dirent *e;

    if (!d) {
        fd_close(&fd);
        return;
    }
    while ((e = readdir(d))) {
        if (e->d_type != DT_DIR || strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        int child = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (child >= 0 && depth > 0)
            remove_children(child, depth - 1);
        else
            fd_close(&child);
        unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    closedir(d);
}

void cgroup_destroy(const char *dir)
{
    for (int i = 0; i < WAIT_STEPS; i++) {
        if (cgroup_populated(dir)) {
            if (write_file(dir, "cgroup.kill", "1") < 0) /* before Linux 5.14 */
                cgroup_signal(dir, SIGKILL);
        } else if (rmdir(dir) == 0 || errno == ENOENT) {
            return;
        } else {
            remove_children(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), MAX_DEPTH);
        }
        poll(NULL, 0, 10);
    }
}
