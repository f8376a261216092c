/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asking a running daemon. Blocking; for the commands. */
#ifndef UNDERSOCK_CONTROL_CLIENT_H
#define UNDERSOCK_CONTROL_CLIENT_H

#include <stddef.h>

#include "message.h"

/*
 * Sends one question to the daemon at `path` and hands each record of the answer to `record` (not
 * the hello's and ends' bookkeeping: hello is handed on, ends are not). Returns the daemon's result
 * (0 or -errno), or -errno with one line in `why` when it could not be asked or did not finish its
 * answer.
 */
int control_ask(const char *path, enum message_type type,
                void (*record)(void *ctx, const union message *m), void *ctx, char *why,
                size_t why_size);

#endif
