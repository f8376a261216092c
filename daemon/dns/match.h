/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DNS over one TCP connection for many clients (RFC 1035 section 4.2.2, RFC 7766): the framing, and
 * the table of queries that wait for their answer.
 *
 * Clients choose their ids without knowing of each other, so every query goes out under an id of
 * ours. Answers come in any order. One is matched by id and by its question, to the byte: what was
 * asked, in the case that the client chose, is what is answered, or it is not the answer. The
 * table keeps the client's message, so that a query can be sent again over another connection when
 * a server closes this one, as servers do when they have been idle, and so that whoever gives up
 * can still answer (dns_query_parse() of it).
 *
 * The table is the caller's memory, fixed in size. All queries have the same time to live, so they
 * wait in the order in which they expire.
 */
#ifndef UNDERSOCK_DNS_MATCH_H
#define UNDERSOCK_DNS_MATCH_H

#include <stdbool.h>

#include "base/wire.h"
#include "dns/query.h"

/* ---- Framing: two bytes of length, then the message ---- */

#define DNS_FRAME_MAX (2 + DNS_MESSAGE_MAX)

/*
 * Looks at the beginning of a stream. Returns the length of the frame found there (> 0: the message
 * is *ret_message, `*ret_len` bytes, inside of `data`), 0 when it is incomplete, -EPROTO when its
 * length is less than a header: nothing after that can be trusted. Outputs are written only when
 * it returns > 0.
 */
int dns_frame_decode(const uint8_t *data, size_t len, const uint8_t **ret_message, size_t *ret_len);
/* Length and message. -EMSGSIZE: less than a header or more than 65535; -ENOBUFS: does not fit. */
int dns_frame_encode(struct wire_writer *w, const uint8_t *message, size_t len);

/* ---- Who waits ---- */

#define DNS_MATCH_MAX 4096 /* slots of a table */
#define DNS_MATCH_QUERY_MAX                                               \
    512 /* a forwarded query; those of resolvers have less than 300 bytes \
         */

/* A query that waits; the caller reads it and writes nothing. */
struct dns_pending {
    uint64_t ref;          /* the caller's: who asked */
    int64_t deadline;      /* monotonic nanoseconds */
    uint16_t id;           /* that it is sent under, and has in `message` while it waits */
    uint16_t client_id;    /* that the answer must have, and `message` has afterwards */
    uint16_t len;          /* of message */
    uint16_t question_len; /* name, type, class: message[12..12 + question_len) */
    uint16_t udp_size;     /* what the client takes */
    uint16_t next, prev;   /* in its list */
    bool waiting;
    uint8_t message[DNS_MATCH_QUERY_MAX];
};

struct dns_match {
    struct dns_pending *slots;
    int64_t timeout;
    uint32_t n_slots, n_waiting;
    uint16_t waiting, free; /* rings, by their heads: oldest first; longest unused first */
    uint16_t mask;          /* what makes ids differ from connection to connection */
};

/*
 * An empty table in `slots`: a power of two of them, 1..DNS_MATCH_MAX. `timeout` in nanoseconds, at
 * least 1; `random` any number that others do not know. -EINVAL.
 */
int dns_match_init(struct dns_match *m, struct dns_pending *slots, uint32_t n_slots,
                   int64_t timeout, uint16_t random);
/*
 * A query to be sent: `data` is the datagram that `q` was parsed from, with result 0. `now` must
 * not go back from call to call. The frame to send is ret->message (it has the new id already). The
 * same query from the same client again is another entry: both are answered. -ENOSPC: the table is
 * full; -EMSGSIZE: longer than DNS_MATCH_QUERY_MAX.
 */
int dns_match_add(struct dns_match *m, const struct dns_query *q, const uint8_t *data, uint64_t ref,
                  int64_t now, const struct dns_pending **ret);
/*
 * A message from the server: 0, whose it is in `ret`, and it waits no more; `ret` can be read until
 * the next dns_match_add(). The caller gives the message ret->client_id (dns_set_id()), truncates
 * it to ret->udp_size (dns_truncate()) and sends it to ret->ref. -ENOENT: nobody waits for this: an
 * unknown id, or the question is another one (then who waits under that id still does). -EPROTO:
 * not an answer to one question; drop it. An answer without the question is taken if it is an
 * error: some servers say FORMERR or REFUSED like that.
 */
int dns_match_answer(struct dns_match *m, const uint8_t *message, size_t len,
                     const struct dns_pending **ret);
/* The same, but it waits on: for who shares a table among several servers, and must know first
 * whether this one was asked. */
int dns_match_find(const struct dns_match *m, const uint8_t *message, size_t len,
                   const struct dns_pending **ret);
/* Takes out one whose time has passed, oldest first: true, and `ret` as above. */
bool dns_match_expired(struct dns_match *m, int64_t now, const struct dns_pending **ret);
/* Takes out one that waits: as dns_match_expired() leaves it. */
void dns_match_remove(struct dns_match *m, const struct dns_pending *p);
/* When the next one expires; INT64_MAX when nobody waits. */
int64_t dns_match_deadline(const struct dns_match *m);
/* All that wait, oldest first, to send them again: begin with *ret NULL; false after the last. */
bool dns_match_each(const struct dns_match *m, const struct dns_pending **ret);
/* Takes out the oldest: to answer all when there is no connection to be had. False: none left. */
bool dns_match_pop(struct dns_match *m, const struct dns_pending **ret);

#endif
