/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper: the one privileged process. It never reads a byte from the network: it opens
 * listeners, puts captures into the kernel, starts workers and starts them again, answers the
 * control socket, and takes everything out again.
 */
#ifndef UNDERSOCK_KEEPER_KEEPER_H
#define UNDERSOCK_KEEPER_KEEPER_H

#include "config/config.h"

struct keeper_options {
    struct config *config; /* the keeper's from here on */
    const char *file;      /* the configuration file, for reload; NULL: none */
    char *const *command;  /* `run`: ends with NULL; NULL: the daemon */
    bool control;          /* listen on the control socket */
};

/* Returns the exit code: the command's status, or 0/1/3 as the manual says. */
int keeper_run(const struct keeper_options *o);

#endif
