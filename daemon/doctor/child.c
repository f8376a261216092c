/* SPDX-License-Identifier: GPL-2.0-or-later */
/* doctor/child.h */
#include "doctor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

#define NOBODY     65534
#define RECORD_MAX 4096 /* what a pipe takes at once */

static _Noreturn void run(void (*work)(void *ctx, void *record), void *ctx, size_t size,
                          unsigned flags, unsigned seconds, int out)
{
    char record[RECORD_MAX] __attribute__((aligned(16)));

    memset(record, 0, sizeof(record));
    signal(SIGALRM, SIG_DFL);
    alarm(seconds);
    /* Without a namespace of its own the trial is as good in ours: it cleans up. */
    if ((flags & CHILD_NETNS) && unshare(CLONE_NEWNET) < 0)
        errno = 0;
    if ((flags & CHILD_UNPRIVILEGED) && geteuid() == 0 &&
        (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
         setresuid(NOBODY, NOBODY, NOBODY) < 0))
        _exit(1);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* here, as a change of ids clears it */
    if (flags & CHILD_UNPRIVILEGED) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    work(ctx, record);
    _exit(write(out, record, size) == (ssize_t)size ? 0 : 1);
}

int child_start(void (*work)(void *ctx, void *record), void *ctx, size_t size, unsigned flags,
                unsigned seconds, struct child *ret)
{
    int pipe_fd[2];

    if (size > RECORD_MAX)
        return -EINVAL;
    if (pipe2(pipe_fd, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = fork();

    if (pid == 0) {
        fd_close(&pipe_fd[0]);
        run(work, ctx, size, flags, seconds, pipe_fd[1]);
    }
    int r = pid < 0 ? -errno : 0;

    fd_close(&pipe_fd[1]);
    if (r < 0)
        fd_close(&pipe_fd[0]);
    else
        *ret = (struct child){.pid = pid, .fd = pipe_fd[0]};
    return r;
}

int child_finish(struct child *c, void *ret, size_t size)
{
    char record[RECORD_MAX];
    ssize_t n;

    if (c->pid <= 0)
        return -EIO;
    do
        n = read(c->fd, record, size);
    while (n < 0 && errno == EINTR);
    fd_close(&c->fd);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    c->pid = 0;
    if (n != (ssize_t)size)
        return -EIO;
    memcpy(ret, record, size);
    return 0;
}
