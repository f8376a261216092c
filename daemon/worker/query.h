/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Questions about a worker. The keeper passes on the asking client's own socket, so answers go from
 * the worker to the client and the keeper buffers nothing; a client that reads slowly delays only
 * itself.
 */
#ifndef UNDERSOCK_WORKER_QUERY_H
#define UNDERSOCK_WORKER_QUERY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "flow/flow.h"
#include "upstream/upstream.h"
#include "worker/datagrams.h"

#define QUERIES_MAX 8

struct query {
    int fd;
    uint16_t type; /* 0: free */
    uint32_t cursor;
    bool watched;
    bool flows_done; /* MESSAGE_FLOWS: the cursor is of the datagrams by now */
};

struct queries {
    struct loop *loop;
    unsigned kind; /* loop kind of the clients' sockets */
    struct flow_table *flows;
    struct datagrams *datagrams; /* NULL: none */
    const struct upstream *upstreams;
    size_t n_upstreams;
    unsigned worker;
    uint32_t max_flows;
    uint32_t sockmap;        /* enum message_sockmap */
    const char *sockmap_why; /* if it failed */
    struct query items[QUERIES_MAX];
};

/* Takes over `fd` and begins to answer; false (the descriptor stays the caller's) when there are
 * too many or the question is unknown. */
bool queries_add(struct queries *q, uint16_t type, int fd);
void queries_continue(struct queries *q, uint32_t index);

#endif
