/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/janitor.h */
#include "keeper/janitor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "bpf/stitch.h"
#include "keeper/cgroup.h"
#include "nft/routes.h"

_Noreturn static void janitor(const char *dir, unsigned instance, int wait_on, const int *links,
                              size_t n_links)
{
    /* The copy of the writing end must go too, or the end of the keeper would not be seen. */
    int *keep = calloc(n_links + 1, sizeof(int));
    sigset_t all;
    char word;
    ssize_t n;

    if (!keep)
        _exit(1);
    if (n_links > 0)
        memcpy(keep, links, n_links * sizeof(int));
    keep[n_links] = wait_on;
    fd_close_others(keep, n_links + 1);
    setsid();
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NAME, "undersock-clean");
    if (chdir("/") < 0)
        _exit(1);
    /* The standard streams may be a pipe that somebody reads to its end. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int fd = 0; null >= 0 && fd < 3; fd++)
        dup2(null, fd);
    do
        n = read(wait_on, &word, 1);
    while (n < 0 && errno == EINTR);
    if (n <= 0) {
        cgroup_destroy(dir);
        if (instance != 0) {
            bpf_stitch_clean(instance);
            routes_remove(instance);
        }
    }
    _exit(0);
}

int janitor_start(const char *dir, unsigned instance, const int *links, size_t n_links,
                  struct janitor *ret)
{
    int pipe_fd[2];

    if (pipe2(pipe_fd, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = fork();

    if (pid == 0)
        janitor(dir, instance, pipe_fd[0], links, n_links);
    int r = pid < 0 ? -errno : 0;

    fd_close(&pipe_fd[0]);
    if (r < 0)
        fd_close(&pipe_fd[1]);
    else
        *ret = (struct janitor){.pid = pid, .hold = pipe_fd[1]};
    return r;
}

void janitor_dismiss(struct janitor *j)
{
    if (j->hold < 0)
        return;
    (void)!write(j->hold, "q", 1); /* fails when it is gone: then there is nothing to dismiss */
    fd_close(&j->hold);
    while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}
