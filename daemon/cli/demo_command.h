/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running the commands that the demo shows: printed as the user would type them, their output shown
 * and kept to be checked. Signals that ask the demo to end are taken while it waits, and end its
 * commands.
 */
#ifndef UNDERSOCK_CLI_DEMO_COMMAND_H
#define UNDERSOCK_CLI_DEMO_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define DEMO_TEXT_MAX 8192

struct demo_shell;

struct demo_command {
    pid_t pid;  /* 0: not started, or ended */
    int output; /* -1: at its end */
    bool show;
    int status; /* as waitpid() fills it */
    size_t length;
    char text[DEMO_TEXT_MAX]; /* what it wrote, to both streams; NUL-terminated, cut when there is
                                 more */
};

/* Blocks SIGCHLD and the signals that ask for an end, until it is destroyed. 0 or -errno. */
int demo_shell_create(struct demo_shell **ret);
void demo_shell_destroy(struct demo_shell *s);
/* Which signal asked for an end, or 0. */
int demo_shell_signal(const struct demo_shell *s);
/* "$ command arguments", quoted where a shell needs it. */
void demo_shell_print(const char *const *argv);
/* At most so many milliseconds, less when something happens. 0, or -EINTR: we are asked to end. */
int demo_shell_pause(struct demo_shell *s, int milliseconds);

/*
 * argv[0] "undersock" is this program itself, whatever it is called; others are looked for in PATH.
 * Ends with us, however that happens. 0 or -errno; a command that cannot be run exits with 127.
 */
int demo_command_start(struct demo_shell *s, const char *const *argv, bool show,
                       struct demo_command *ret);
/* Until it has ended. 0, -EINTR: asked to end; -ETIMEDOUT; both with the command still there. */
int demo_command_wait(struct demo_shell *s, struct demo_command *c, int seconds);
/* Ends it if it runs: SIGTERM, and after a while SIGKILL. Idempotent. */
void demo_command_end(struct demo_shell *s, struct demo_command *c);
/* Its exit status, 128 + N for signal N; as a shell says it. */
int demo_command_status(const struct demo_command *c);

#endif
