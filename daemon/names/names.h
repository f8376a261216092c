/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A worker's DNS: what becomes of the queries that applications send by UDP to port 53, and which
 * name is behind a fake address.
 *
 * NAMES_TCP. Each query goes to its server as DNS over TCP (RFC 7766), through the capture's
 * upstream like any connection, and the answer comes back as a datagram from the address that was
 * asked. What a client does not take in a datagram is cut, with TC; then it asks again by TCP, and
 * that is an ordinary flow, to the same server (flow_names.server).
 *
 * NAMES_FAKE. A name is answered with addresses that stand for it, so that the upstream is asked
 * for the name. By type of the question:
 *   A, AAAA      from the table (dns/fake.h)
 *   ANY          the A record alone, as RFC 8482 section 4.1 has it
 *   HTTPS, SVCB  no such record: what they hint at are real addresses, keys that belong to those,
 *                and ways past us (RFC 9460, RFC 9462)
 *   PTR          of a fake address: its name, or NXDOMAIN to one of many hosts
 *   any other    as with NAMES_TCP
 * Real names (dns/real.h), names that are not plain (dns/name.h) and other classes than IN are
 * forwarded whatever their type; "localhost" is answered with loopback (RFC 6761 section 6.3).
 * Nothing here is signed: a client that checks DNSSEC itself refuses it. A client that asks by TCP
 * of its own accord gets real addresses, and then connects to those through the upstream.
 *
 * What holds: no query waits longer than `query_timeout`; who cannot be answered gets SERVFAIL
 * then, and at once when the upstream is known to be down. Nothing is asked twice because a client
 * repeats itself. One client has an eighth of the table at most, beyond it REFUSED,
 * and does not keep others from the servers that they ask (base/shares.h).
 * Tables, connections and buffers are bounded; a server that says nonsense loses its connection. An
 * answer is believed when it comes from the server that was asked, over a connection that the query
 * went by, with its id and its question.
 */
#ifndef UNDERSOCK_NAMES_NAMES_H
#define UNDERSOCK_NAMES_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "dns/fake.h"
#include "dns/real.h"
#include "message.h"
#include "upstream/upstream.h"

enum names_mode { NAMES_FAKE, NAMES_TCP };

struct names_capture {
    const char *name;
    enum names_mode mode;
    struct upstream_choice *choice;
    struct addr server; /* dns-server; port 0: where the application sent it */
    bool many_hosts;    /* those that ask are not one host: which names another one has asked for is
                           not said */
    bool no_v6;         /* NAMES_FAKE: no IPv6 is captured, so AAAA is answered with "none" */
};

/* Sends a datagram from `source` to `client`: udp_answer(). 0 or -errno. Must not call back. */
struct names_answer {
    int (*send)(void *ctx, const struct addr *source, const struct addr *client,
                const uint8_t *data, size_t len);
    void *ctx;
};

#define NAMES_KINDS   2   /* of the loop */
#define NAMES_SERVERS 64  /* servers at once, of all captures */
#define NAMES_FDS     128 /* descriptors: two connections for each */
#define NAMES_ADDED   64  /* direct_names that are added later */
#define NAMES_TIMERS  129 /* of the loop: one for each connection and one more */

#define NAMES_TTL  60                    /* seconds: of a fake address */
#define NAMES_HOLD INT64_C(120000000000) /* ns: and it is not given to another name for so long */

struct names_options {
    struct loop *loop;                    /* with room for NAMES_TIMERS */
    unsigned first_kind;                  /* of NAMES_KINDS kinds of the loop */
    const struct names_capture *captures; /* lives as long as the engine; and what it points to */
    size_t n_captures;
    struct fake *fake; /* these two: NULL when no capture is NAMES_FAKE; stay the caller's */
    const struct real *real;
    struct names_answer answer;
    /*
     * Plain names that are asked for directly, where the application sent the query: an upstream
     * cannot be asked for its own address, and need not reach the resolver of this network. Only
     * where nobody answers there, through the upstream. Ends with NULL, or is NULL; lives as long
     * as the engine, as the next one does.
     */
    char *const *direct_names;
    const struct addr *direct_servers; /* the resolvers of this host. Nobody else is asked directly:
                                          whoever asks may name any address, to be seen by it */
    size_t n_direct_servers;
    struct addr fallback;  /* who is asked instead of a resolver on loopback (127.0.0.53), which the
                              upstream cannot reach; port 0: nobody, so SERVFAIL */
    uint32_t max_queries;  /* that wait at once: a power of two, 2..4096; 0: 4096. 640 bytes each */
    int64_t query_timeout; /* nanoseconds; 0: 5 s */
    int64_t idle_timeout;  /* of a connection without queries, nanoseconds; 0: 10 s */
    void (*on_empty)(void *ctx);    /* draining, and no query waits any more */
    void (*on_unproven)(void *ctx); /* as udp/udp.h */
    /*
     * A slot's addresses stand for this name: told each time before one of them is given away, and
     * when somebody asks which name is behind it. < 0: nobody is given them (SERVFAIL). `name` is
     * NUL-terminated.
     */
    int (*on_name)(void *ctx, const struct addr *a4, const struct addr *a6, const char *name,
                   size_t len);
    void *ctx; /* of these three; all may be NULL */
};

struct names;

/* 0; -EINVAL: a NAMES_FAKE capture without `fake` or `real`, or max_queries; -ENOMEM, or an errno
 * of getrandom(). */
int names_create(const struct names_options *o, struct names **ret);
/* Ends every connection; queries that wait get no answer. NULL is allowed. */
void names_destroy(struct names *n);
/* Other ones than at first: direct_servers, which live as long, and with the first one fallback. */
void names_use_resolvers(struct names *n, const struct addr *list, size_t n_list);
/* One more of direct_names, copied. 0, -ENOSPC (NAMES_ADDED of them) or -ENOMEM. */
int names_add_direct(struct names *n, const char *name);
/* No more queries will come: on_empty as soon as none waits, now if that is so. */
void names_drain(struct names *n);
void names_stats(const struct names *n, struct message_names_stats *ret);

/*
 * Takes a datagram that `client` has sent to port 53 of `destination`, captured by `capture`
 * (index). It is answered, now or later, or was none that deserves an answer. `data` is not kept.
 */
void names_query(struct names *n, uint32_t capture, const struct addr *client,
                 const struct addr *destination, const uint8_t *data, size_t len);
/* Whether it is a query for one of direct_names: also where others are not for this engine. */
bool names_is_for_direct(const struct names *n, const uint8_t *query, size_t len);

/*
 * The name behind an address that an application connects or sends to (the port does not matter),
 * and its slot; not given to another name for `hold` nanoseconds from now on (NAMES_HOLD is
 * reasonable). -EINVAL: no fake address (without a table none is), so a real destination; -ENOENT:
 * a fake address that stands for nothing any more, or never did: refuse it, nothing else can be
 * done with it; -EAGAIN: not to be had at this moment: refuse it, too.
 */
int names_name_of(struct names *n, const struct addr *address, int64_t hold,
                  char ret_name[DNS_PLAIN_MAX + 1], uint32_t *ret_slot);
/* A flow that was begun by that still uses it: again for `hold` from now on. */
void names_hold(struct names *n, uint32_t slot, int64_t hold);

#endif
