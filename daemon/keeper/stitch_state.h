/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What stitch.c, stitch_scripts.c, stitch_health.c and stitch_report.c of the keeper share. */
#ifndef UNDERSOCK_KEEPER_STITCH_STATE_H
#define UNDERSOCK_KEEPER_STITCH_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/stitch.h"
#include "config/config.h"
#include "keeper/stitch.h"

#define STITCH_KNOWN          256 /* instances whose connections can be told apart */
#define STITCH_SWEEP_INTERVAL INT64_C(2000000000)

/*
 * A script's number. It is always of the same upstream and server, until none is left for a new
 * pair: sockets carry the number for life, and `flows` says by it whose they are.
 */
struct stitch_line {
    char name[CONFIG_NAME_MAX + 1]; /* of the upstream; "": never used */
    struct addr server;
    bool wrapped; /* IPsec takes what goes to the server (keeper/ipsec.h) */
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
    bool bypassed;          /* our filters are not asked: nothing is stitched */
    int64_t mended_at;      /* when that was mended last; 0: never */
    bool cleared;           /* of a daemon before us, if we have nothing to put in its place */
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

/* ---- stitch_scripts.c ---- */

/* Routes for a generation's upstreams; what is known of an upstream outlasts a reload, by its name.
 * All the scripts are to be made again. */
void stitch_make_routes(struct stitch *s, const struct generation *g);
/* The address of the first hop that a route's line for a family is for. n_addrs: there is none. */
unsigned stitch_address(const struct upstream *u, bool v4);
/* The scripts of route `i`. */
void stitch_make_scripts(struct stitch *s, size_t i);
static inline bool stitch_has_line(const struct stitch_route *route)
{
    return route->lines[0] || route->lines[1];
}
/* Asks to which servers IPsec wraps what goes there. */
void stitch_find_wrapped(struct stitch *s);
/* What workers have learnt about how an upstream is to be spoken to. Whether to look again soon. */
bool stitch_learn(struct stitch *s);

/* ---- stitch_health.c; `ctx` is the stitch ---- */

void stitch_on_handshake(void *ctx, const struct stitch_event *e);
/*
 * A SYN without an answer for longer than connect-timeout, or a handshake that came to a stop for
 * longer than its own: programs hear of that with the application's next SYN only, and there may be
 * none. To be asked of each record every STITCH_SWEEP_INTERVAL.
 */
void stitch_find_silence(void *ctx, const struct stitch_key *key, const struct stitch_flow *flow);
/* Upstreams that answer again are stitched again. */
void stitch_resume(struct stitch *s);

#endif
