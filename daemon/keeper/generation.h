/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One configuration at work: its upstreams, what its captures are told, and which worker accepts
 * where. A reload makes a new generation beside the old one, over the same listeners.
 */
#ifndef UNDERSOCK_KEEPER_GENERATION_H
#define UNDERSOCK_KEEPER_GENERATION_H

#include <stdbool.h>
#include <stddef.h>

#include "capture.h"
#include "config/config.h"
#include "keeper/listeners.h"
#include "upstream/upstream.h"
#include "worker/worker.h"

/* Packets that TPROXY hands to a listener; nft/routes.h routes them to this host. */
#define TPROXY_MARK (CAPTURE_OWN_MARK | 1u)

struct generation {
    struct config *config; /* owned */
    struct upstream *upstreams;
    unsigned n_workers;
    unsigned n_live; /* workers alive */
    bool marked;     /* its sockets carry OWN_MARK */

    struct capture_policy *policies; /* the configuration's, with the listeners' ports */
    struct addr *upstream_addrs;
    struct capture_set set;
    uint32_t **not_uids; /* lists that were extended, owned; one for each policy or NULL */
    int hold;            /* a descriptor that workers keep open as long as they live; -1: none */

    struct worker_listener *listeners; /* of all workers, in one array */
    size_t n_listeners;
    size_t *first; /* worker i has those from first[i] to first[i + 1] */
};

/*
 * The policies and upstreams of `config`, with the ports that a daemon would listen on, and no
 * listener: for `undersock rules`. Takes over `config` (also on failure), as the next one does. 0
 * or -errno with one line in `why`.
 */
int generation_plan(struct config *config, struct generation **ret, char *why, size_t why_size);
/* Resolves the upstreams and provides the listeners. `marked`: a daemon, whose own sockets captures
 * could see; its ports are those of generation_plan() where they are free. */
int generation_create(struct config *config, bool marked, struct listeners *pool,
                      struct generation **ret, char *why, size_t why_size);
/*
 * Looks again for the owners of upstreams on this host: one that has come up since may have to be
 * excluded. 0: all is known, and when `ret_changed` became true captures_apply() makes it so;
 * -EAGAIN: some are still not there; -ELOOP or -errno with `why`.
 */
int generation_recheck(struct generation *g, bool *ret_changed, char *why, size_t why_size);
/* Whether the sockets that listen for upstreams on this host are others than when this was last
 * asked (or the generation made). Cheap. */
bool generation_owners_changed(struct generation *g);
/* The listeners stay. NULL is allowed. */
void generation_free(struct generation *g);

#endif
