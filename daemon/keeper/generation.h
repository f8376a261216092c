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
#include "keeper/datagrams.h"
#include "keeper/listeners.h"
#include "keeper/seats.h"
#include "upstream/upstream.h"
#include "worker/worker.h"

#define WORKERS_MAX 64 /* of a generation */

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
    int watched;         /* likewise: the janitor sees that all of them are gone */

    int stitch_names_fd; /* for the workers, from captures_apply(); -1: none */

    struct worker_listener *listeners; /* of all workers, in one array */
    size_t n_listeners;
    size_t *first; /* worker i has those from first[i] to first[i + 1] */

    struct worker_udp *udp;                     /* of each capture */
    bool takes_udp;                             /* some capture has UDP listeners */
    struct addr resolvers[DATAGRAMS_RESOLVERS]; /* of this host */
    size_t n_resolvers;
    struct fake *fake; /* the keeper's, of all generations; NULL: no names */
    struct real *real;
    char **direct_names; /* asked for past the upstreams; ends with NULL */

    /* Honest connect: worker i has seat first_seat + i. */
    struct seats *seats; /* NULL: no capture is honest */
    unsigned first_seat;
    struct capture_seat seat_list[CAPTURE_SEATS];
    struct capture_seat_ports *seat_ports; /* CAPTURE_SEATS for each policy */
    struct seat_listener *cgroup_seats;    /* of each policy and worker, IPv4 and IPv6 */
    struct worker_hold *holds;             /* likewise in one array, n_holds for each worker; the
                                              ring buffers come from captures_apply() */
    size_t n_holds;
    char no_nft_hold[192], no_bpf_hold[192]; /* why SYNs cannot be held here, "": they can */
};

/*
 * The policies and upstreams of `config`, with the ports that a daemon would listen on, and no
 * listener: for `undersock rules`. Takes over `config` (also on failure), as the next one does. 0
 * or -errno with one line in `why`.
 */
int generation_plan(struct config *config, struct generation **ret, char *why, size_t why_size);
/* A generation in two parts, between which the caller resolves the upstreams. `marked`: a daemon,
 * whose own sockets captures could see. 0 or -ENOMEM. */
int generation_begin(struct config *config, bool marked, struct generation **ret);
/* Provides the listeners and seats; a daemon's ports are those of generation_plan() where they are
 * free. 0, or -errno with `why`, after which it can only be freed. */
int generation_complete(struct generation *g, struct listeners *pool, struct seats *seats,
                        char *why, size_t why_size);
/*
 * Looks again for the owners of upstreams on this host: one that has come up since may have to be
 * excluded. Those that are there are proven then (upstream.unproven), if `ret_changed` became true
 * once captures_apply() has made it so. 0; or -ELOOP or -errno, with `why`, of the first that
 * cannot be; the others are proven all the same.
 */
int generation_recheck(struct generation *g, bool *ret_changed, char *why, size_t why_size);
/* Whether the sockets that listen for upstreams on this host are others than when this was last
 * asked (or the generation made). Cheap. */
bool generation_owners_changed(struct generation *g);
/* None of the upstreams on this host is proven any more. */
void generation_unprove(struct generation *g);
/* The listeners stay. NULL is allowed. */
void generation_free(struct generation *g);

#endif
