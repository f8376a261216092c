/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What keeper/stitch.c keeps, for stitch_report.c to tell of. */
#ifndef UNDERSOCK_KEEPER_STITCH_STATE_H
#define UNDERSOCK_KEEPER_STITCH_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/stitch.h"
#include "config/config.h"
#include "keeper/stitch.h"

#define STITCH_KNOWN 256 /* instances whose connections can be told apart */

/*
 * A script's number. It is always of the same upstream and server, until none is left for a new
 * pair: sockets carry the number for life, and `flows` says by it whose they are.
 */
struct stitch_line {
    char name[CONFIG_NAME_MAX + 1]; /* of the upstream; "": never used */
    struct addr server;
    bool reused;  /* older sockets with this number are of somebody else */
    bool current; /* of the generation offered last */
    uint32_t id;  /* of the script in force, in the events */
    int64_t left; /* not current: since when; its script is taken out after a while; 0: was */
};

/* An upstream of the generation. */
struct stitch_route {
    char name[CONFIG_NAME_MAX + 1];
    unsigned lines[2]; /* numbers for IPv4 and IPv6; 0: none */
    const char *why;   /* it has none; constant */
    bool waits;        /* for a worker to learn how it is to be spoken to */
    unsigned no_auth;  /* script_options.no_auth */
    bool held;         /* relayed for now */
    unsigned failures; /* in succession */
    int64_t failed_at, retry_at, resumed_at;
};

struct stitch_bound {
    const struct bpf_capture *bpf; /* NULL: not in force */
    int route;                     /* -1: relayed */
    const char *why;               /* then, constant */
    bool stitched;                 /* by what bpf_capture_use() was told last */
};

struct stitch {
    struct loop *loop;
    unsigned kind;
    struct bpf_stitch *bpf; /* NULL: not open */
    struct timer timer;
    int64_t next_sweep;
    const struct generation *generation; /* offered last */
    bool wanted; /* some capture of it could be stitched, and fast-path does not say no */
    bool forced, engaged, filters_stay;
    bool cleared;           /* of a daemon before us, if we have nothing to put in its place */
    bool proven;            /* who the upstreams on this host are */
    bool proved, disproved; /* that the kernel can */
    int64_t tried;          /* when that was tried last; 0: never */
    char unproved[192];     /* why it is not */
    char why[192];          /* not open although it is wanted */
    uint32_t last_id;
    struct stitch_line lines[STITCH_SCRIPTS]; /* [0]: unused */
    struct stitch_route *routes;              /* n_routes, one for each upstream */
    size_t n_routes;
    struct stitch_bound *bound; /* n_bound, one for each policy */
    size_t n_bound;
    struct {
        uint64_t instance;
        char name[CAPTURE_NAME_MAX + 1];
    } known[STITCH_KNOWN]; /* captures of now and before */
    unsigned next_known;
};

#endif
