/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What keeper.c, reload.c, local_proof.c and answer.c share. */
#ifndef UNDERSOCK_KEEPER_KEEPER_STATE_H
#define UNDERSOCK_KEEPER_KEEPER_STATE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/loop.h"
#include "control/server.h"
#include "dns/fake.h"
#include "keeper/captures.h"
#include "keeper/cgroup.h"
#include "keeper/generation.h"
#include "keeper/janitor.h"
#include "keeper/keeper.h"
#include "keeper/stitch.h"
#include "keeper/workers.h"

struct keeper {
    const struct keeper_options *o;
    struct loop *loop;
    struct listeners *listeners;
    struct seats *seats;
    struct fake *fake; /* made once, and for good: addresses that were given out must last */
    struct generation *generation;
    struct captures *captures;
    struct stitch *stitch; /* NULL only at the very start and end */
    struct workers *workers;
    struct control_server *control;
    int cgroups;    /* keeper/cgroup_watch.h */
    bool unwatched; /* so they are looked for every second */
    int signals;
    sigset_t old_mask;
    int64_t started, next_recheck, next_complaint, next_resolve; /* milliseconds */
    bool unresolved; /* some upstream has begun without an address */
    bool unapplied;  /* somebody has to be excluded, and the kernel has refused to */
    struct timer owners;
    int exit_code;
    bool up;
    bool lift;   /* asked to stop by the administrator: on-exit = "closed" does not apply */
    int stopper; /* the socket on which, open until nothing of us is left: another may be started */

    /* A reload that waits for the addresses of upstreams (reload.c). */
    struct {
        unsigned kind;                 /* the loop's, for keeper_on_names() */
        struct upstream_lookup *names; /* NULL: none does */
        struct generation *fresh;
        int client; /* who has asked for it, -1: nobody */
        bool again; /* SIGHUP came meanwhile */
    } reload;

    struct janitor janitor; /* of `run`, and of a daemon that has had a gateway */
    unsigned draining;      /* generations */

    /* of `run` */
    char cgroup[CGROUP_PATH_MAX];
    int cgroup_fd;
    pid_t command;
};

/* ---- keeper.c ---- */

/* The loop ends after this event. */
void keeper_stop(struct keeper *k, int exit_code);
/* CLOCK_MONOTONIC, in ms. */
int64_t keeper_now(void);

/* Captures that cgroups have to be found for again; also after a change of configuration. */
void keeper_follow_cgroups(struct keeper *k);

/* ---- reload.c ---- */

/*
 * Reads the file again and puts it in force. `client`: a control connection that is told what is
 * wrong, or -1. 0, or -errno after which the daemon goes on as it was; -EINPROGRESS: it waits for
 * the addresses of upstreams, and who has asked gets the end of the answer then. While one waits:
 * another is -EALREADY, and of a signal (-1) it is remembered.
 */
int keeper_reload(struct keeper *k, int client);
/* A loop handler: there is something about the names that a reload waits for. */
void keeper_on_names(void *keeper, uint64_t ref, uint32_t events);
/* The daemon ends: a reload that waits comes to nothing. */
void keeper_abandon_reload(struct keeper *k);
/* The table of fake addresses, when the generation gives any. 0, or -errno with `why`. */
int keeper_provide_names(struct keeper *k, struct generation *g, char *why, size_t why_size);
/* Before the generation's workers start, as they hold its pipe. 0, or -errno with `why`. */
int keeper_provide_janitor(struct keeper *k, struct generation *g, char *why, size_t why_size);

/* ---- local_proof.c ---- */

/* A worker (struct workers_calls) found an upstream on this host answering that is not proven. */
void keeper_recheck(void *keeper);
/* Now and then: does the same socket listen for each upstream on this host? */
void keeper_look_again(struct keeper *k);

/* ---- answer.c ---- */

/* The control socket's (control/server.h). */
void keeper_answer(void *keeper, unsigned type, int client);
/* The last record of an answer; -1: to nobody. */
void keeper_send_end(int client, int result);

#endif
