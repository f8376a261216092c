/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A worker: one process, one thread, one loop, its own flow table. Started by fork() from the
 * keeper; gets its listeners, the BPF maps and its end of the channel by inheritance, and gives up
 * everything else.
 */
#ifndef UNDERSOCK_WORKER_WORKER_H
#define UNDERSOCK_WORKER_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/config.h"
#include "upstream/upstream.h"

struct fake;
struct real;

/* How a listener's connections are traced back. */
enum worker_origin {
    WORKER_ORIGIN_NAT,
    WORKER_ORIGIN_LOCAL,
    WORKER_ORIGIN_BPF,
    WORKER_ORIGIN_SEAT, /* their SYN was held */
    WORKER_UDP,         /* none: it is a UDP listener */
};

/* What a worker does about a capture's datagrams. */
struct worker_udp {
    bool associate;         /* through the upstream; else refused */
    bool dns;               /* queries are answered or forwarded as TCP */
    bool fake;              /* with dns: names get addresses that stand for them */
    bool no_v6;             /* with fake: not of IPv6, which is not captured */
    struct addr dns_server; /* port 0: where the application sent it */
};

struct worker_listener {
    int fd;
    struct addr at;
    const struct config_capture *capture; /* NULL: of any whose hook is nftables' */
    enum worker_origin origin;
    int origin_map; /* WORKER_ORIGIN_BPF: the map's descriptor */
};

/* Where held SYNs are read. */
struct worker_hold {
    int fd;
    unsigned seat;
    const struct config_capture *capture; /* a ring buffer of this one; NULL: nfnetlink_log */
};

struct worker_options {
    unsigned number; /* 0..; a draining worker may have the same one */
    unsigned ident;  /* 0..255: of no other worker alive; part of the ids of its flows */
    int channel;     /* SEQPACKET to the keeper; its end of file ends the worker */
    const struct config *config;
    const struct capture_policy *policies; /* of its captures, with their listeners */
    struct upstream *upstreams;            /* resolved; as many as the configuration has */
    const struct worker_listener *listeners;
    size_t n_listeners;
    unsigned seat; /* where held SYNs and their connections come in */
    const struct worker_hold *holds;
    size_t n_holds;
    const struct worker_udp *udp; /* of each capture of the configuration; NULL: no UDP is taken */
    struct fake *fake;            /* the table of all workers; NULL: none */
    const struct real *real;      /* with fake */
    char *const *direct_names;    /* asked for past the upstreams; ends with NULL; with udp */
    const struct addr *resolvers; /* of this host; the first is asked instead of one on loopback */
    size_t n_resolvers;
    uint32_t max_associations; /* this worker's share, as the next two */
    uint32_t max_flows;
    uint32_t max_held;
    uint32_t own_mark; /* of our own packets, 0: none */
    /* What the first proof of the sockmap came to, enum message_sockmap; OFF: there was none yet.
     */
    uint32_t sockmap;
    const char *sockmap_why;
    bool needs_mark;     /* SO_MARK is used: keep CAP_NET_RAW */
    int stitch_names_fd; /* the map of names for stitch (bpf_stitch_set_name()); -1: none */
    int hold;            /* kept open until the last flow's sockets are closed; -1: none */
    int watched;         /* likewise */
    uid_t uid;           /* becomes this user; 0: stays (not root anyway) */
    gid_t gid;
};

/* Runs in the forked child; does not return. */
_Noreturn void worker_main(const struct worker_options *o);

#endif
