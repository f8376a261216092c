/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The embedded SOCKS4/4a/5 server: CONNECT, BIND and UDP ASSOCIATE, with the methods "none" and
 * username/password. One loop, one thread; every table is sized at start, and full means refuse and
 * count.
 */
#ifndef UNDERSOCK_SERVE_SERVE_H
#define UNDERSOCK_SERVE_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "relay/relay.h"

#define SERVE_DEFAULT_LISTEN "127.0.0.1:1080"
#define SERVE_LISTEN_MAX     8

struct loop;
struct serve;

/* Zero everywhere is a server for this host with the defaults. Durations in nanoseconds. */
struct serve_options {
    const struct addr *listen; /* none: SERVE_DEFAULT_LISTEN; at most SERVE_LISTEN_MAX */
    size_t n_listen;
    const char *user_file;     /* NULL: everybody may use it; see serve/users.h */
    unsigned max_sessions;     /* 0: what RLIMIT_NOFILE allows, at most 65536 */
    unsigned max_associations; /* sessions that may be UDP associations. 0: as above, 4096 */
    int64_t handshake_timeout; /* from accept to the whole request; 0: 15 s */
    int64_t connect_timeout;   /* resolving and connecting, all addresses of a name; 0: 12 s */
    int64_t address_timeout;   /* connecting to one address while others remain; 0: 3 s */
    int64_t bind_timeout;      /* BIND, from the first reply to the peer's connection; 0: 120 s */
    int64_t udp_idle;          /* an association without a datagram ends; 0: 5 min */
    enum relay_choice relay;
    uint32_t mark; /* SO_MARK of outgoing connections and datagrams where we may set it; 0: none */
    bool no_bind, no_udp; /* the command is not offered: REP 0x07 */
};

struct serve_counters {
    uint64_t accepted;     /* connections that got a session */
    uint64_t active;       /* sessions now */
    uint64_t granted;      /* requests that were connected: CONNECT, and BIND at its end */
    uint64_t bound;        /* BIND requests that got their first reply */
    uint64_t associated;   /* UDP ASSOCIATE requests that were granted */
    uint64_t associations; /* associations now */
    uint64_t refused_full; /* reset, or another one was: no session free */
    uint64_t refused_fds;  /* reset: no descriptor */
    uint64_t malformed;    /* not SOCKS, or a broken message */
    uint64_t
        auth_failed;    /* wrong password, or no acceptable method, or SOCKS4 where one is asked */
    uint64_t timed_out; /* the request did not come in time */
    uint64_t unsupported;    /* command or address type */
    uint64_t lookup_failed;  /* the name has no address, or could not be asked for */
    uint64_t connect_failed; /* no address of the destination answered */
    uint64_t reset;          /* relays that ended by a reset */
    uint64_t bind_failed;    /* no address to listen on, or nobody came in time */
    uint64_t bind_strangers; /* connections reset: not the peer that BIND named */
    uint64_t udp_full;       /* UDP ASSOCIATE refused: no association free */
    uint64_t udp_failed;     /* UDP ASSOCIATE refused: no socket */
    uint64_t udp_idle;       /* associations that ended by their idle limit */
    /* Datagrams, passed on, and dropped for one of these reasons: */
    uint64_t udp_up, udp_down;
    uint64_t udp_stranger;  /* not from the client */
    uint64_t udp_malformed; /* no header */
    uint64_t udp_fragment;  /* FRAG is not 0 */
    uint64_t udp_forbidden; /* to port 0, multicast, broadcast */
    uint64_t udp_no_name;   /* the name has no address */
    uint64_t udp_no_room;   /* too much waits for names */
    uint64_t udp_oversized; /* a reply that is too long for a datagram with its header */
    uint64_t udp_unsent;    /* the kernel did not take it: no route, no memory, a firewall */
};

/*
 * Listens and serves in `l`, of which it takes the kinds 20..30 and the end of the batch. Each
 * session needs a timer: a loop with fewer than serve_timers() refuses what is beyond. Raises the
 * soft limit of RLIMIT_NOFILE. SIGPIPE must be ignored. `o` is not needed afterwards. 0, or -errno
 * with a line that says what to do in `why`: -EINVAL for the options and the user file, -EMFILE
 * when RLIMIT_NOFILE is too small.
 */
int serve_create(struct loop *l, const struct serve_options *o, struct serve **ret, char *why,
                 size_t why_size);
/* Resets every session and closes everything. Not from within a handler. */
void serve_destroy(struct serve *sv);
/* Timers a loop must have for these options. */
uint32_t serve_timers(const struct serve_options *o);

/* Where listener `i` listens (port 0 of the options is the chosen one here). -ENOENT: there is
 * none. */
int serve_address(const struct serve *sv, size_t i, struct addr *ret);
const struct serve_counters *serve_counters(const struct serve *sv);
const struct relay_counters *serve_relay_counters(const struct serve *sv);

/*
 * `undersock serve`: a loop of its own until SIGINT or SIGTERM. Logs "serving SOCKS4/4a/5 on
 * ADDR:PORT" for each listener once it listens, and its errors. 0 after a signal, or the -errno of
 * serve_create().
 */
int serve_run(const struct serve_options *o);

#endif
