/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket: one question per connection (message.h). Open to root and to the group
 * "undersock", where there is one.
 */
#ifndef UNDERSOCK_CONTROL_SERVER_H
#define UNDERSOCK_CONTROL_SERVER_H

#include <stddef.h>

#include "base/loop.h"
#include "message.h"

struct control_server;

/* Answers one question. `client` is closed afterwards by the server; who needs it longer duplicates
 * it. */
typedef void (*control_answer_fn)(void *ctx, unsigned type, int client);

/*
 * Listens at `path` (its directory is made when missing; a socket that nobody answers on is
 * replaced). Takes loop kinds `kind` and `kind` + 1. 0 or -errno with `why`; -EADDRINUSE: another
 * daemon answers there; -EEXIST: something else than a socket is there.
 */
int control_server_create(struct loop *loop, unsigned kind, const char *path,
                          control_answer_fn answer, void *ctx, struct control_server **ret,
                          char *why, size_t why_size);
/* Closes everything and removes the socket. NULL is allowed. */
void control_server_destroy(struct control_server *s);

#endif
