/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One word about each upstream out of the many that come. Each worker has one, and so have those
 * that drain, whose configuration may be another: their connections count, but what they know of it
 * is as old as they are.
 */
#ifndef UNDERSOCK_CLI_UPSTREAM_LIST_H
#define UNDERSOCK_CLI_UPSTREAM_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "message.h"

struct upstream_list {
    struct message_upstream *at; /* one for each name */
    size_t n;
};

/* False: no memory for another one, which is left out. */
bool upstream_list_add(struct upstream_list *list, const struct message_upstream *m);
void upstream_list_free(struct upstream_list *list);

#endif
