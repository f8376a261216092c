/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside names/ only: the engine, its servers, their connections, and the queries that wait.
 *
 * A *server* is an address and the capture by whose upstream it is reached; it has two connections
 * at most, which have fixed places: numbers 2k and 2k + 1 for server k. A query that waits is a
 * slot of one dns_match for all servers, so that one ring knows who expires next, and the same
 * number in `asked` says who asked and which connection it is on. Numbers instead of pointers
 * everywhere.
 *
 * No answer leads to a call back into the engine, and a connection is ended only by an event of its
 * own, by the clock, or when its server's place is given to another.
 */
#ifndef UNDERSOCK_NAMES_ENGINE_H
#define UNDERSOCK_NAMES_ENGINE_H

#include "base/shares.h"
#include "dns/match.h"
#include "names/names.h"
#include "upstream/dial.h"

enum { KIND_CONNECTION, KIND_EXPIRY }; /* from first_kind on */

#define NAMES_NONE     UINT16_MAX
#define NAMES_DIRECT   UINT8_MAX           /* in `order`: the server itself */
#define NAMES_HOLD_OFF INT64_C(1000000000) /* ns before a server that failed is tried again */
#define NAMES_OUT      4096 /* bytes on their way to a server; more waits as queries */

struct names_list {
    uint16_t head, tail; /* NAMES_NONE: empty */
};

/* What each state allows. */
enum names_state {
    NAMES_CLOSED,  /* nothing is held, no query is here */
    NAMES_DIALING, /* an upstream is being asked; queries wait unsent */
    NAMES_OPEN,    /* queries and answers */
};

struct names_connection {
    uint32_t generation;
    uint8_t state;    /* enum names_state */
    bool waits_proof; /* for an unproven upstream; no socket */
    bool probe;       /* looks whether a dead upstream is back: nobody else may wait for that */
    bool direct;      /* OPEN: goes past the upstreams */
    bool blocked;     /* the socket took no more: EPOLLOUT is awaited */
    uint8_t proof_waits;
    uint8_t n_order, at;
    uint8_t order[UPSTREAM_CANDIDATES + 1];
    int fd;             /* OPEN */
    struct timer timer; /* DIALING: of the dial; OPEN: idle */
    struct names_list unsent, sent;
    uint32_t n;       /* queries in both */
    uint32_t owed;    /* queries that were given up and may still be answered */
    uint32_t strays;  /* messages that answer nothing, since the last one that did */
    int64_t heard;    /* when something last came; 0: never */
    bool fruitful;    /* brought an answer */
    uint8_t *partial; /* the beginning of a frame, or NULL */
    uint32_t partial_len;
    uint16_t out_pos, out_len;
    uint8_t out[NAMES_OUT];
    struct dial dial;
};

struct names_server {
    bool used;
    uint32_t capture;
    struct addr at;
    bool direct;                  /* for names_options.direct_names */
    char name[DNS_PLAIN_MAX + 1]; /* `at` is a fake address that stands for this; "": it is real */
    int64_t last_used;
    int64_t retry_at;           /* no new connection before */
    unsigned fruitless;         /* connections in a row that brought nothing */
    struct shares_client asker; /* whose place it is, if `accounted` */
    bool accounted;
    bool shared; /* others wait here, too */
    bool said;   /* that the upstream cannot ask it; nothing has come from it since */
};

/* A query that waits, besides its dns_pending. */
struct names_asked {
    struct addr client, destination;
    int64_t sent_at;
    uint32_t bucket;
    struct shares_client who; /* the client */
    uint16_t bucket_next;
    uint16_t connection; /* its number */
    uint16_t next, prev; /* in one of the connection's lists */
    bool sent;           /* in which */
    bool again;          /* has lost a connection before */
};

struct names {
    struct names_options o;
    struct message_names_stats stats;
    struct dns_match match;
    struct dns_pending *slots;
    struct names_asked *asked;
    uint16_t *buckets;     /* by who asked what, as many as slots */
    struct shares clients; /* of the queries that wait */
    struct shares places;  /* of the servers */
    uint64_t key[2];
    int64_t *next_probe; /* by capture: all its upstreams are down; nobody asks them before */
    struct timer expiry;
    bool draining;
    char *added[NAMES_ADDED + 1]; /* to direct_names; ends with NULL */
    struct names_server servers[NAMES_SERVERS];
    struct names_connection connections[2 * NAMES_SERVERS];
    uint8_t scratch[DNS_FRAME_MAX]; /* one reading */
};

/* ---- names.c ---- */

/* Sends a whole answer. */
void names_send(struct names *n, const struct addr *source, const struct addr *client,
                const uint8_t *data, size_t len);
/* Says this to who asked `q`. */
void names_rcode(struct names *n, const struct dns_query *q, enum dns_rcode rcode,
                 const struct addr *source, const struct addr *client);

/* ---- own.c: what is not asked of anybody ---- */

/* Room for it, before dns_truncate(). */
#define NAMES_OWN_MAX DNS_ANSWER_MAX
/* Is it in a list that ends with NULL? NULL is an empty one. */
bool names_is_listed(char *const *list, const char *name, size_t len);
/* Is this to be asked for directly (names_options.direct_names)? */
bool names_is_direct(const struct names *n, const struct dns_query *q);
/* 1: the answer is in `w`; 0: to be forwarded; -errno: there is none to be had (SERVFAIL). */
int names_own_answer(struct names *n, const struct names_capture *c, const struct dns_query *q,
                     const struct addr *client, struct wire_writer *w);

/* ---- forward.c: queries that wait, and their servers ---- */

/* Gives it to a server, or answers with SERVFAIL. */
void names_forward(struct names *n, uint32_t capture, const struct dns_query *q,
                   const uint8_t *data, const struct addr *client, const struct addr *destination);
/* A message from a connection. False: it is not to be borne any longer. May change the message. */
bool names_answered(struct names *n, struct names_connection *c, uint8_t *message, size_t len);
/* A connection has been lost (CLOSED, its lists as they were) or could not be had (`dial_failed`):
 * its queries go to another one, once, or fail. */
void names_scatter(struct names *n, struct names_connection *c, bool dial_failed);
/* The next query is sent now: from list `unsent` to `sent`. */
void names_was_sent(struct names *n, struct names_connection *c);
/* The time of those has come that have waited for too long. */
void names_expire(struct names *n);
/* At the end of whatever may have taken the last query out. */
void names_check_empty(struct names *n);

/* ---- connection.c ---- */

/* Begins to dial, without queries: DIALING. False: it cannot be had, and is CLOSED. */
bool names_connect(struct names *n, struct names_connection *c);
/* A query was appended to `unsent`, or the last one has gone. */
void names_connection_changed(struct names *n, struct names_connection *c);
/* Closes in order, or with a reset; lists stay. */
void names_close(struct names *n, struct names_connection *c, bool orderly);
/* It ended by itself, or says nonsense, or nothing. Its queries go elsewhere. */
void names_broken(struct names *n, struct names_connection *c);
/* An event of the loop; `ctx` is the engine. */
void names_loop_event(void *ctx, uint64_t ref, uint32_t events);

static inline unsigned names_number(const struct names *n, const struct names_connection *c)
{
    return (unsigned)(c - n->connections);
}

static inline struct names_server *names_server_of(struct names *n,
                                                   const struct names_connection *c)
{
    return &n->servers[names_number(n, c) / 2];
}

#endif
