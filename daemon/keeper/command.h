/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command of `undersock run`: started in its own cgroup, signals passed on, status passed back.
 */
#ifndef UNDERSOCK_KEEPER_COMMAND_H
#define UNDERSOCK_KEEPER_COMMAND_H

#include <signal.h>
#include <sys/types.h>

/*
 * Starts `argv` inside the cgroup directory `dir`, with the signal mask `mask` and default
 * dispositions. Returns its pid; or -errno: it could not be executed (-ENOENT, -EACCES, ...) or not
 * be put there.
 */
pid_t command_start(char *const *argv, const char *dir, const sigset_t *mask);
/* What a shell would say: the exit status, or 128 + the signal. */
int command_exit_code(int wait_status);

#endif
