/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A worker's UDP and DNS: the two engines, and what they and the flows have of each other. */
#ifndef UNDERSOCK_WORKER_DATAGRAMS_H
#define UNDERSOCK_WORKER_DATAGRAMS_H

#include "base/loop.h"
#include "flow/flow.h"
#include "message.h"
#include "worker/worker.h"

struct datagrams;

#define DATAGRAMS_KINDS 5 /* of the loop */

/*
 * Before the privileges go: raw sockets are made. `ours`: our listeners and the upstreams.
 * `choices`: of each capture. `on_empty`: draining, and nothing is left. 0, with NULL where no UDP
 * is taken, or -errno.
 */
int datagrams_open(const struct worker_options *o, struct loop *loop, unsigned first_kind,
                   struct upstream_choice *choices, const struct addr *ours, size_t n_ours,
                   void (*on_empty)(void *ctx), void (*on_unproven)(void *ctx), void *ctx,
                   struct datagrams **ret);
/* What flows ask about names; empty without such names. All of these allow NULL. */
struct flow_names datagrams_names(struct datagrams *d);
/* Who resolves for this host: asked for the upstreams' names, and the first one instead of a stub
 * on loopback. At most MESSAGE_RESOLVERS_MAX; copied. */
void datagrams_use_resolvers(struct datagrams *d, const struct addr *list, size_t n);
/* An upstream's name, plain: asked for directly from now on. */
void datagrams_add_name(struct datagrams *d, const char *name);
void datagrams_drain(struct datagrams *d);
/* Nothing is left of it after a drain. */
bool datagrams_empty(const struct datagrams *d);
void datagrams_stats(const struct datagrams *d, struct message_udp_stats *ret_udp,
                     struct message_names_stats *ret_names);
/* As flow_table_records(). */
size_t datagrams_records(const struct datagrams *d, uint32_t *cursor, struct message_flow *ret,
                         size_t max);
/* Descriptors, where `limit` may be open, and timers that it may need beside those of flows. */
uint64_t datagrams_fds(const struct worker_options *o, uint64_t limit);
uint32_t datagrams_timers(const struct worker_options *o);

#endif
