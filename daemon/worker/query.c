/* SPDX-License-Identifier: GPL-2.0-or-later */
/* worker/query.h */
#include "worker/query.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "message.h"

/* Records sent before the loop gets its turn again. */
#define BURST 64

/* The keeper and other workers have the same socket: it does not leave the loop by being closed. */
static void end(struct queries *all, struct query *q)
{
    if (q->watched)
        loop_remove(all->loop, q->fd);
    fd_close(&q->fd);
    q->type = 0;
}

static int send_record(struct query *q, const void *record, size_t size)
{
    return fd_send_message(q->fd, record, size, NULL, 0);
}

static int send_status(struct queries *all, struct query *q)
{
    struct message_status_reply m = {
        .header = MESSAGE_HEADER(MESSAGE_STATUS_REPLY, sizeof(m)),
        .worker = all->worker,
        .pid = (uint32_t)getpid(),
        .max_flows = all->max_flows,
        .draining = flow_table_draining(all->flows),
        .sockmap = all->sockmap,
    };

    if (all->sockmap_why)
        snprintf(m.sockmap_why, sizeof(m.sockmap_why), "%s", all->sockmap_why);
    flow_table_stats(all->flows, &m.stats);
    datagrams_stats(all->datagrams, &m.udp, &m.names);
    return send_record(q, &m, sizeof(m));
}

static int send_upstream(struct queries *all, struct query *q, const struct upstream *u)
{
    struct message_upstream m = {
        .header = MESSAGE_HEADER(MESSAGE_UPSTREAM, sizeof(m)),
        .draining = flow_table_draining(all->flows),
        .healthy = u->healthy || upstream_answered_at(u) > u->failed_at,
        .granted = u->granted,
        .failed = u->failed,
    };

    memcpy(m.name, u->name, sizeof(m.name));
    config_url_format(&u->hops[u->n_hops - 1].config->url, m.url, sizeof(m.url));
    snprintf(m.last_error, sizeof(m.last_error), "%s", u->last_error);
    return send_record(q, &m, sizeof(m));
}

static int send_end(struct query *q)
{
    struct message_end m = {.header = MESSAGE_HEADER(MESSAGE_END, sizeof(m))};

    return send_record(q, &m, sizeof(m));
}

/* One record: 1 when there are more, 0 when the answer is complete, -errno. */
static int step(struct queries *all, struct query *q)
{
    int r;

    if (q->type == MESSAGE_FLOWS) {
        struct message_flow m;
        uint32_t at = q->cursor;

        if (!q->flows_done && flow_table_records(all->flows, &at, &m, 1) == 0) {
            q->flows_done = true;
            at = 0;
        }
        if (q->flows_done && datagrams_records(all->datagrams, &at, &m, 1) == 0)
            return send_end(q);
        r = send_record(q, &m, sizeof(m));
        if (r == 0)
            q->cursor = at;
    } else {
        if (q->cursor > all->n_upstreams)
            return send_end(q);
        r = q->cursor == 0 ? send_status(all, q)
                           : send_upstream(all, q, &all->upstreams[q->cursor - 1]);
        if (r == 0)
            q->cursor++;
    }
    return r < 0 ? r : 1;
}

void queries_continue(struct queries *all, uint32_t index)
{
    if (index >= QUERIES_MAX || all->items[index].type == 0)
        return;
    struct query *q = &all->items[index];
    uint64_t ref = loop_ref(all->kind, 0, index);
    int r = 1;

    for (unsigned i = 0; i < BURST && r > 0; i++)
        r = step(all, q);
    if (r == 0 || (r < 0 && r != -EAGAIN)) {
        end(all, q);
        return;
    }
    /* Level-triggered: called again as soon as the client has room. */
    if (!q->watched && loop_add(all->loop, q->fd, EPOLLOUT, ref) < 0)
        end(all, q);
    else
        q->watched = true;
}

bool queries_add(struct queries *all, uint16_t type, int fd)
{
    if (type != MESSAGE_FLOWS && type != MESSAGE_STATUS)
        return false;
    for (uint32_t i = 0; i < QUERIES_MAX; i++) {
        if (all->items[i].type != 0)
            continue;
        all->items[i] = (struct query){.fd = fd, .type = type};
        queries_continue(all, i);
        return true;
    }
    return false;
}
