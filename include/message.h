/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The messages between workers, keeper and the commands that ask (SEQPACKET sockets): fixed-width
 * records, one per packet, length-checked before use. Numbers are in host order: both ends are the
 * same binary on the same machine, and `version` says so.
 */
#ifndef UNDERSOCK_MESSAGE_H
#define UNDERSOCK_MESSAGE_H

#include <stdint.h>

#include "capture.h"
#include "stitch_abi.h"

#define MESSAGE_VERSION 1u

enum message_type {
    MESSAGE_STATUS =
        1,          /* request; answered by one MESSAGE_STATUS_REPLY per worker, then MESSAGE_END */
    MESSAGE_FLOWS,  /* request; answered by MESSAGE_FLOW per flow, then MESSAGE_END */
    MESSAGE_RELOAD, /* request; answered by MESSAGE_TEXT (errors) and MESSAGE_END */
    MESSAGE_STOP,   /* request; answered by MESSAGE_END, then the daemon stops */
    MESSAGE_DRAIN,  /* keeper to worker: accept no more, end when the last flow has ended */
    MESSAGE_RECHECK,  /* worker to keeper: an unproven upstream has come up */
    MESSAGE_PROVEN,   /* keeper to worker: addresses of one are proven now */
    MESSAGE_UNPROVEN, /* keeper to worker: somebody else listens for one on this host: none is */
    MESSAGE_STATUS_REPLY,
    MESSAGE_FLOW,
    MESSAGE_CAPTURE,  /* status: one per capture */
    MESSAGE_UPSTREAM, /* status: one per upstream and worker */
    MESSAGE_TEXT,     /* a line for the user */
    MESSAGE_END,      /* `result`: 0 or -errno */
    MESSAGE_HELLO,   /* first answer of all: how many must answer, each until its MESSAGE_END; those
                        who drain may beside them. The end of file is the end of all. */
    MESSAGE_STITCH,  /* status: whether connections are stitched, and how many were */
    MESSAGE_SOCKMAP, /* worker to keeper, before it is ready: what the proof came to */
    MESSAGE_RESOLVERS, /* keeper to worker: those of this host, as they are now */
    MESSAGE_NAME, /* keeper to worker: an upstream's, which is asked for directly from now on */
};

struct message_header {
    uint16_t type; /* enum message_type */
    uint16_t version;
    uint32_t length; /* of the whole packet, header included */
};

/* Counters of one worker since it started. All monotonic but `flows`. */
struct message_stats {
    uint64_t flows;                /* alive now */
    uint64_t accepted;             /* flows begun */
    uint64_t granted;              /* upstream said yes */
    uint64_t failed;               /* upstream said no, or was not to be had */
    uint64_t finished;             /* ended with FIN both ways */
    uint64_t reset;                /* ended by a reset, idle timeout or error */
    uint64_t refused_full;         /* table, memory or descriptors full */
    uint64_t refused_loop;         /* came back to us */
    uint64_t refused_name;         /* to a fake address that stands for nothing */
    uint64_t refused_stray;        /* nobody redirected it: a direct connection to our listener */
    uint64_t bytes_up, bytes_down; /* of ended flows */
    uint64_t held;                 /* SYNs held now */
    uint64_t syns, syns_again;     /* SYNs read, and those of them seen before */
    uint64_t syns_lost;            /* times that the kernel had no room for more of them */
    uint64_t syns_bad;             /* unfit, or of a capture that is no more */
    uint64_t early_full;           /* max-held was reached: connected early, or refused */
    uint64_t unaccepted;           /* granted when the application had gone */
    uint64_t bytes_copied, bytes_spliced;
    uint64_t to_splice, to_copy, no_pipe, no_stash;
    uint64_t bytes_redirected, bytes_passed; /* in the sockmap: by the kernel; left to be copied */
    uint64_t sockmap_joined, sockmap_left, sockmap_demoted; /* directions of flows */
    uint64_t sockmap_full, sockmap_refused, sockmap_overrun, sockmap_lost;
};

/* Whether a worker has the in-kernel fast path. */
enum message_sockmap { MESSAGE_SOCKMAP_OFF, MESSAGE_SOCKMAP_ON, MESSAGE_SOCKMAP_FAILED };
/* Counters of one worker's UDP since it started. All monotonic but `associations`. Of datagrams,
 * unless it says otherwise. */
struct message_udp_stats {
    uint64_t associations;    /* in the table now */
    uint64_t begun;           /* associations */
    uint64_t granted, failed; /* associations: an upstream said yes; none could be had */
    uint64_t ended_idle;      /* associations, by the idle timeout */
    uint64_t ended_upstream;  /* associations, by the upstream or its relay */
    uint64_t ended_replaced;  /* associations, idle ones that made room when the table was full */
    uint64_t datagrams_up, datagrams_down; /* passed on */
    uint64_t bytes_up, bytes_down;         /* their payload */
    uint64_t taken;                        /* taken away before (DNS) */
    uint64_t refused;                      /* answered with ICMP port unreachable */
    uint64_t refused_quietly;              /* likewise, had the rate of ICMP allowed it */
    uint64_t refused_full;     /* of those two: for want of a slot, memory or descriptors */
    uint64_t dropped_loop;     /* came back to us */
    uint64_t dropped_stray;    /* nobody redirected them, or they are no datagrams for us */
    uint64_t dropped_waiting;  /* no room to wait in for the upstream's answer */
    uint64_t dropped_up;       /* the socket to the relay did not take them (full, too long) */
    uint64_t dropped_header;   /* from the relay: the header is wrong */
    uint64_t dropped_fragment; /* from the relay: FRAG is not 0 */
    uint64_t dropped_source;   /* from the relay: from an address that this client cannot be sent
                                  anything from */
    uint64_t dropped_down;     /* could not be sent to the client */
};

/* Counters of one worker's DNS since it started. All monotonic but `waiting`. `queries` is the sum
 * of the next seven and `waiting`. */
struct message_names_stats {
    uint64_t queries;       /* datagrams that came */
    uint64_t answered_fake; /* by us: with a fake address or its name, or that there is none */
    uint64_t answered;      /* by a server */
    uint64_t timeouts;      /* SERVFAIL: a server did not answer in time */
    uint64_t failed;        /* SERVFAIL: no upstream, no connection, no server, no fake address */
    uint64_t refused;       /* what DNS over UDP does not have, or too long */
    uint64_t malformed;     /* answered as such, or dropped */
    uint64_t repeated;      /* the same query again while it waited: dropped */
    uint64_t waiting;       /* for a server, now */
    uint64_t forwarded;     /* queries that were given to a connection to a server */
    uint64_t full;          /* of those that failed: no room in a table of ours */
    uint64_t again;         /* queries sent once more, as their connection had ended */
    uint64_t connections;   /* to servers, granted */
    uint64_t no_connection; /* no upstream could be had for one, or it said no */
    uint64_t broken;        /* connections that ended with queries unanswered, or by garbage */
    uint64_t truncated;     /* answers cut to what their client takes */
    uint64_t unsent;        /* answers that the client could not be sent */
};

struct message_status_reply {
    struct message_header header;
    uint32_t worker, pid;
    uint32_t max_flows;
    uint32_t draining; /* 1: an old worker that finishes its flows */
    struct message_udp_stats udp;
    struct message_names_stats names;
    struct message_stats stats;
    uint32_t sockmap; /* enum message_sockmap */
    uint32_t unused;
    char sockmap_why[160]; /* FAILED: what the self-test said */
};

struct message_sockmap_proof {
    struct message_header header;
    uint32_t sockmap; /* enum message_sockmap: ON or FAILED */
    uint32_t unused;
    char why[160]; /* FAILED */
};

struct message_capture {
    struct message_header header;
    char name[CAPTURE_NAME_MAX + 1];
    char upstream[CAPTURE_NAME_MAX + 1];
    uint32_t hook; /* enum capture_hook */
    uint32_t installed;
    uint32_t honest;     /* the application is connected when the upstream has said yes */
    char why_early[192]; /* why it is not although it was meant to; "": it was not */
    uint32_t stitched;   /* its connections are stitched now */
    uint32_t unused;
    char why_relayed[192]; /* "": they are stitched, or nobody asked */
};

/* The keeper's: connections that need no worker. */
struct message_stitch {
    struct message_header header;
    uint32_t wanted; /* by the configuration */
    uint32_t on;     /* the programs are in place */
    uint64_t counters[STITCH_N_COUNTERS];
    char why[192]; /* not on although it is wanted */
};

struct message_upstream {
    struct message_header header;
    char name[CAPTURE_NAME_MAX + 1];
    char url[512];     /* without user and password */
    uint32_t draining; /* so is the worker, which asks nobody any more */
    uint32_t healthy;  /* the last attempt reached it, whichever worker's that was */
    uint64_t granted, failed;
    char last_error[128];
};

/* States and engines as the flow table names them. */
struct message_flow {
    struct message_header header;
    uint64_t id;
    struct addr client;
    struct origin origin;
    char capture[CAPTURE_NAME_MAX + 1];
    char upstream[CAPTURE_NAME_MAX + 1];
    char engine[12]; /* "": none yet */
    char state[12];
    char name[256];    /* the destination's name, "": not known */
    uint32_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
    uint32_t unused;
    uint64_t age_ms; /* MESSAGE_AGE_UNKNOWN */
    uint64_t bytes_up, bytes_down;
};

#define MESSAGE_AGE_UNKNOWN UINT64_MAX

struct message_hello {
    struct message_header header;
    uint32_t workers;
    uint32_t pid;
    uint64_t uptime_ms;
    char daemon_version[16];
    char fast_path[12];
};

struct message_text {
    struct message_header header;
    char line[512];
};

struct message_end {
    struct message_header header;
    int32_t result;
    uint32_t unused;
};

struct message_proven {
    struct message_header header;
    uint32_t upstream;  /* its index in the configuration */
    uint32_t addresses; /* bit i: the first hop's address i */
};

#define MESSAGE_RESOLVERS_MAX 8

struct message_resolvers {
    struct message_header header;
    uint32_t n;
    uint32_t unused;
    struct addr at[MESSAGE_RESOLVERS_MAX];
};

/* NUL-terminated. */
struct message_name {
    struct message_header header;
    char name[256];
};

union message {
    struct message_header header;
    struct message_status_reply status;
    struct message_flow flow;
    struct message_capture capture;
    struct message_upstream upstream;
    struct message_text text;
    struct message_end end;
    struct message_proven proven;
    struct message_resolvers resolvers;
    struct message_name name;
    struct message_hello hello;
    struct message_sockmap_proof sockmap_proof;
    struct message_stitch stitch;
};

#define MESSAGE_HEADER(t, l)                                             \
    {                                                                    \
        .type = (t), .version = MESSAGE_VERSION, .length = (uint32_t)(l) \
    }

#endif
