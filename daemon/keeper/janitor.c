/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/janitor.h */
#include "keeper/janitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "bpf/stitch.h"
#include "keeper/cgroup.h"
#include "keeper/timewait.h"
#include "nft/routes.h"

#define WORD_SWEEP 's'
#define WORD_QUIT  'q'

static void clean_up(const struct janitor_work *w)
{
    if (w->dir)
        cgroup_destroy(w->dir);
    if (w->instance != 0) {
        bpf_stitch_clean(w->instance);
        routes_remove(w->instance);
    }
    if (w->timewait)
        (void)timewait_remove();
}

_Noreturn static void janitor(const struct janitor_work *w, int wait_on)
{
    /* The copy of the writing end must go too, or the end of the keeper would not be seen. */
    int *keep = calloc(w->n_links + 1, sizeof(int));
    char words[256];
    ssize_t n;

    if (!keep)
        _exit(1);
    if (w->n_links > 0)
        memcpy(keep, w->links, w->n_links * sizeof(int));
    keep[w->n_links] = wait_on;
    fd_close_others(keep, w->n_links + 1);
    setsid();
    prctl(PR_SET_NAME, "undersock-clean");
    if (chdir("/") < 0)
        _exit(1);
    /* The standard streams may be a pipe that somebody reads to its end. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int fd = 0; null >= 0 && fd < 3; fd++)
        dup2(null, fd);
    while ((n = read(wait_on, words, sizeof(words))) > 0 || (n < 0 && errno == EINTR)) {
        /* Once, however often it was told; where it cannot be, nothing can: see its header. */
        if (n > 0 && w->timewait)
            (void)timewait_remove();
        if (n > 0 && memchr(words, WORD_QUIT, (size_t)n))
            _exit(0);
    }
    clean_up(w);
    _exit(0);
}

int janitor_start(const struct janitor_work *work, struct janitor *ret)
{
    int pipe_fd[2];
    sigset_t all, before;

    if (pipe2(pipe_fd, O_CLOEXEC) < 0)
        return -errno;
    /* From its first moment: what is meant for the keeper is often sent to all of its group. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();

    if (pid == 0)
        janitor(work, pipe_fd[0]);
    int r = pid < 0 ? -errno : 0;

    sigprocmask(SIG_SETMASK, &before, NULL);
    fd_close(&pipe_fd[0]);
    if (r < 0)
        fd_close(&pipe_fd[1]);
    else
        *ret = (struct janitor){.pid = pid, .hold = pipe_fd[1]};
    return r;
}

/* Fails when it is gone: then there is nobody to tell. */
static void tell(const struct janitor *j, char word)
{
    (void)!write(j->hold, &word, 1);
}

void janitor_sweep(struct janitor *j)
{
    struct pollfd room = {.fd = j->hold, .events = POLLOUT};

    /* When thousands of them wait to be read, one more is not needed. */
    if (j->hold >= 0 && poll(&room, 1, 0) == 1)
        tell(j, WORD_SWEEP);
}

void janitor_dismiss(struct janitor *j)
{
    if (j->hold < 0)
        return;
    tell(j, WORD_QUIT);
    fd_close(&j->hold);
    while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}
