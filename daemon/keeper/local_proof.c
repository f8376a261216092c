/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/keeper_state.h: whose the upstreams on this host are. */
#include <stdio.h>
#include <string.h>

#include "keeper/keeper_state.h"
#include "log.h"

#define RECHECK_INTERVAL   150   /* ms */
#define COMPLAINT_INTERVAL 10000 /* ms */

/* Somebody else listens for an upstream on this host: nothing is asked of any until it is known
 * who. */
static void unprove(struct keeper *k)
{
    generation_unprove(k->generation);
    workers_unprove(k->workers, k->generation);
    stitch_use(k->stitch);
}

/*
 * A worker found an upstream on this host answering that was not there before. Flows to it wait
 * until its own connections are excluded, or fail when they cannot be.
 */
void keeper_recheck(void *keeper)
{
    struct keeper *k = keeper;
    struct generation *g = k->generation;
    char why[512] = "";

    if (keeper_now() < k->next_recheck)
        return;
    k->next_recheck = keeper_now() + RECHECK_INTERVAL;
    /* Who listens now is looked at below: the next second need not find him new. */
    if (generation_owners_changed(g))
        unprove(k);
    bool changed = k->unapplied;
    int r = generation_recheck(g, &changed, why, sizeof(why));
    int applied = changed ? captures_apply(k->captures, g, -1, why, sizeof(why)) : 0;

    k->unapplied = applied < 0;
    if (applied < 0) {
        unprove(k);
        r = applied;
    } else {
        workers_prove(k->workers, g);
        stitch_use(k->stitch);
    }
    if (r < 0 && keeper_now() >= k->next_complaint) {
        log_error("%s", why[0] ? why : strerror(-r));
        k->next_complaint = keeper_now() + COMPLAINT_INTERVAL;
    }
}

void keeper_look_again(struct keeper *k)
{
    if (!generation_owners_changed(k->generation))
        return;
    unprove(k);
    k->next_recheck = k->next_complaint = 0; /* this is news */
    keeper_recheck(k);
}
