/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/command.h */
#include "keeper/command.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "keeper/cgroup.h"

_Noreturn static void child(char *const *argv, const char *dir, const sigset_t *mask, int report)
{
    int error = cgroup_enter(dir);

    if (error == 0) {
        signal(SIGPIPE, SIG_DFL);
        sigprocmask(SIG_SETMASK, mask, NULL);
        execvp(argv[0], argv);
        error = -errno;
    }
    if (write(report, &error, sizeof(error)) < 0)
        _exit(126);
    _exit(127);
}

pid_t command_start(char *const *argv, const char *dir, const sigset_t *mask)
{
    int report[2], error = 0;

    if (pipe2(report, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = fork();

    if (pid == 0)
        child(argv, dir, mask, report[1]);
    if (pid < 0)
        error = -errno;
    fd_close(&report[1]);
    /* execvp() closes the pipe without a word; a failure sends its errno. */
    if (pid > 0 && read(report[0], &error, sizeof(error)) != sizeof(error))
        error = 0;
    fd_close(&report[0]);
    if (error != 0) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        return error;
    }
    return pid;
}

int command_exit_code(int wait_status)
{
    return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}
