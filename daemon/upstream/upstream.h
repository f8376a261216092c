/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Upstreams as a worker uses them: a chain of hops, the addresses to dial, and what is known of
 * their health. Built by the keeper from the configuration and resolved before any rule is
 * installed; each worker has its own copy by fork and changes only the health in it.
 */
#ifndef UNDERSOCK_UPSTREAM_UPSTREAM_H
#define UNDERSOCK_UPSTREAM_UPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "config/config.h"

#define UPSTREAM_ADDRS      8
#define UPSTREAM_CANDIDATES 16
#define UPSTREAM_REASONS    8 /* complaints that differ, in ten seconds */

struct upstream_lookup;

struct upstream_hop {
    const struct config_upstream *config; /* URL, credentials, timeouts */
    struct addr addrs[UPSTREAM_ADDRS];    /* resolved; in the resolver's order */
    unsigned n_addrs;
};

struct upstream {
    char name[CONFIG_NAME_MAX + 1];
    struct upstream_hop hops[CONFIG_CHAIN_MAX]; /* the first one is dialled */
    unsigned n_hops;
    uint32_t mark;  /* SO_MARK of our sockets, 0: none */
    uint32_t owner; /* local: a sum over the sockets that listen for it */
    /* Of the first hop; bit i: addrs[i]. */
    uint8_t local;    /* on this host: after it has been away, somebody else may listen there */
    uint8_t unproven; /* on this host and has not been there: whether its own connections would be
                       * captured is not known, so nothing is asked of it yet */

    int64_t retry_at;  /* while it is not healthy: one flow asks it again after this time */
    int64_t failed_at; /* the last attempt that did */
    bool healthy;      /* the last attempt got an answer from it */
    bool gone;         /* the last attempt found nobody there, which is more than not healthy */
    uint64_t granted, failed;
    char last_error[128];
    bool said_down;            /* the log's last word about it is a complaint */
    int64_t udp_refused_until; /* it has no UDP ASSOCIATE; not asked for one before this time */
    int64_t said_until;        /* what was complained of is not repeated before this time */
    uint32_t said[UPSTREAM_REASONS]; /* a hash of each of those complaints */
    unsigned n_said, suppressed;
};

/* What a capture may use, in order of preference. */
struct upstream_choice {
    struct upstream *candidates[UPSTREAM_CANDIDATES];
    unsigned n;
    enum config_policy policy;
    unsigned next;         /* round-robin */
    bool direct_when_down; /* when-down = "direct": all candidates are gone, so the destination is
                              dialled */
    int64_t next_try;      /* all were gone: until then nobody asks them again */
    struct upstream *direct;
};

/*
 * One struct upstream per upstream of `c`, in its order, and one named "direct" behind them;
 * unresolved. `c` must outlive them. 0 or -ENOMEM.
 */
int upstream_build(const struct config *c, uint32_t mark, struct upstream **ret);
/* The candidates of a capture whose target is an upstream or a group. `all`: as upstream_build()
 * made it. */
void upstream_choose_from(const struct config *c, const struct config_capture *capture,
                          struct upstream *all, struct upstream_choice *ret);
/* An upstream without hops: the destination itself is dialled. */
bool upstream_is_direct(const struct upstream *u);
/*
 * Whether nobody was there at the last attempt, of each candidate: only then may a flow go past
 * them. An upstream that takes connections and ends them is not gone: it is enough that one client
 * has used up what it has, and that one must not decide that all go direct.
 */
bool upstream_all_gone(const struct upstream_choice *choice);
/* While that is so and when-down = "direct": is this flow to go past them? One flow every two
 * seconds is not, and so finds out when they answer again. */
bool upstream_go_direct(struct upstream_choice *choice, int64_t now);
/*
 * The order in which the candidates are tried for a destination: fills `ret` with indices and
 * returns their number. Healthy ones come before those that are down; within that by the group's
 * policy.
 */
unsigned upstream_order(struct upstream_choice *choice, const struct addr *destination,
                        uint8_t ret[UPSTREAM_CANDIDATES]);

/*
 * Resolves every hop's host, in a child process without privileges: this process never parses DNS.
 * Literal addresses need no child. 0; or -errno with one line in `why` that names the upstream.
 */
int upstream_resolve(struct upstream *all, size_t n, char *why, size_t why_size);

/*
 * The same for who must not wait. >0: there are no names, and nothing to go on with; 0: the child
 * is at work; -errno with `why`, as above. `all` must stay where it is until the end.
 */
int upstream_lookup_start(struct upstream *all, size_t n, struct upstream_lookup **ret, char *why,
                          size_t why_size);
/* Readable when it goes on; who has it in a loop takes it out before the end. */
int upstream_lookup_fd(const struct upstream_lookup *l);
/* >0: every hop has its addresses; 0: more is to come; -errno with `why`. Does not wait. */
int upstream_lookup_continue(struct upstream_lookup *l, char *why, size_t why_size);
/* At any time, and after the end, too: the child is gone then. Frees. NULL is allowed. */
void upstream_lookup_end(struct upstream_lookup *l);

/* Whether upstream_resolve() asks the system's resolver for this hop's host. */
bool upstream_resolves(const struct upstream *u, unsigned hop);

/*
 * While a candidate that would come first is down, one flow every ten seconds asks it first all the
 * same, and so finds out when it answers again: moves it to the front of `order` (of `n`). Only for
 * the policy failover.
 */
void upstream_look_again(struct upstream_choice *choice, uint8_t *order, unsigned n, int64_t now);

/* What an attempt came to. `error` NULL: it answered; `gone`: nobody was there to. Logs changes,
 * and each complaint once in ten seconds. */
void upstream_report(struct upstream *u, const char *error, bool gone, int64_t now);
/* When any process that was forked after the first upstream_build() last reported that an upstream
 * of this name answered, CLOCK_MONOTONIC; 0: never. Workers write it: believe no more than that. */
int64_t upstream_answered_at(const struct upstream *u);
/*
 * That an upstream has granted a connection, asked at this address of its first hop; bit i of
 * `no_auth`: hop i has a user in the configuration, and was content without. Kept for all processes
 * that were forked after the first upstream_build(), and not by name alone: another address has its
 * own. Workers write it, as above.
 */
void upstream_learn(const struct upstream *u, const struct addr *address, unsigned no_auth);
/* Whether that is known; `ret_no_auth`, of the last time. */
bool upstream_learnt(const struct upstream *u, const struct addr *address, unsigned *ret_no_auth);
/* The same line for an attempt that failed although the upstream answered: says nothing of its
 * health. */
void upstream_complain(struct upstream *u, const char *error, int64_t now);
/* That it has no UDP: once for all processes that were forked after the first upstream_build(), and
 * again only after `interval` nanoseconds. */
void upstream_complain_of_udp(struct upstream *u, const char *error, int64_t interval, int64_t now);

#endif
