/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An upstream on this host (ssh -D, tor, a SOCKS server) whose own connections a capture would
 * take: they would come back to it for ever. Asked for each capture before anything is installed.
 */
#ifndef UNDERSOCK_KEEPER_LOCAL_UPSTREAM_H
#define UNDERSOCK_KEEPER_LOCAL_UPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "capture.h"
#include "keeper/owner.h"

#define LOCAL_UPSTREAM_UIDS 16

enum local_upstream_verdict {
    LOCAL_UPSTREAM_NONE,    /* no upstream is here, or the capture does not take what it sends */
    LOCAL_UPSTREAM_EXCLUDE, /* add `uids` to the capture's not-uid */
    LOCAL_UPSTREAM_REFUSE,  /* do not start: nothing but the administrator can part the two */
};

struct local_upstream {
    enum local_upstream_verdict verdict;
    uint32_t uids[LOCAL_UPSTREAM_UIDS];
    size_t n_uids;
    bool person;    /* whoever is excluded last is no service: most likely not meant */
    struct addr at; /* the upstream that the verdict is about */
};

/*
 * Looks at all of `set->upstreams`, as one capture's upstream may lie behind another capture. `why`
 * gets one line with the remedy for LOCAL_UPSTREAM_REFUSE and one for the log for
 * LOCAL_UPSTREAM_EXCLUDE, and is untouched for LOCAL_UPSTREAM_NONE. 0, or -errno when nothing could
 * be found out (`why` says so).
 *
 * A capture by `mark` is fine: what carries the mark is the administrator's choice.
 * So is `undersock serve` as root, which marks what it sends.
 */
int local_upstream_check(const struct capture_set *set, size_t policy, struct local_upstream *ret,
                         char *why, size_t why_size);

/* The decision alone, for one owner; pure. Adds to ret->uids what has to be excluded. */
enum local_upstream_verdict local_upstream_decide(const struct capture_policy *p,
                                                  const struct owner *o,
                                                  struct local_upstream *ret);

#endif
