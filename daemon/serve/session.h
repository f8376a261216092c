/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside serve/ only: the server, its table of sessions, and what handshake.c, dial.c, bind.c,
 * associate.c and serve.c call among themselves.
 *
 * A session and its states; `client` is open in all but FREE and CLOSED:
 *
 *   GREETING   nothing is known yet; a SOCKS4 request ends it as well
 *   AUTH       method 0x02 was answered; username and password are awaited
 *   REQUEST    the client may ask
 *   RESOLVING  a lookup is in flight, which outlives the session if it must
 *   DIALING    `target` is connecting to candidates[next - 1]
 *   BINDING    the first reply to BIND is sent: `target` listens for one of the candidates
 *   RELAY      granted: `relay` holds both sockets; no timer
 *   ASSOCIATED granted: `association` holds the UDP sockets, and there is no `target`
 *   DRAINING   the refusal and our FIN are sent; the client's bytes are read away, so that closing
 *              does not reset the connection before the refusal is read
 *   CLOSED     descriptors are closed; the slot is freed at the end of the batch
 *
 * One timer covers what the client owes (GREETING to REQUEST), one what the destination owes
 * (RESOLVING and DIALING, or BINDING), one how long an association is idle, one DRAINING: the same
 * struct timer, set anew.
 */
#ifndef UNDERSOCK_SERVE_SESSION_H
#define UNDERSOCK_SERVE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/timer.h"
#include "serve/resolver.h"
#include "serve/serve.h"
#include "serve/users.h"
#include "socks/socks.h"

/* Kinds of references in the loop. */
enum {
    SERVE_KIND_LISTENER = 20, /* index: which */
    SERVE_KIND_CLIENT,        /* index: session; so for TARGET and TIMER */
    SERVE_KIND_TARGET,
    SERVE_KIND_TIMER,
    SERVE_KIND_UDP_INNER, /* index: association; so for OUTER */
    SERVE_KIND_UDP_OUTER_V4,
    SERVE_KIND_UDP_OUTER_V6,
    SERVE_KIND_UDP_NAME, /* a lookup's only. index: association * UDP_NAMES + which */
    SERVE_KIND_PAUSE,
    SERVE_KIND_RESOLVER_FD,
    SERVE_KIND_RESOLVER_TICK,
    SERVE_KIND_SIGNAL, /* serve_run() */
};

enum session_state {
    SESSION_FREE,
    SESSION_GREETING,
    SESSION_AUTH,
    SESSION_REQUEST,
    SESSION_RESOLVING,
    SESSION_DIALING,
    SESSION_BINDING,
    SESSION_RELAY,
    SESSION_ASSOCIATED,
    SESSION_DRAINING,
    SESSION_CLOSED,
    SESSION_STATES,
};

#define SESSION_NONE UINT32_MAX

/* What is known of the destination while it is dialed, or of the peer that BIND waits for. */
struct session_dial {
    struct addr *candidates; /* `single`, or allocated */
    struct addr single;
    int64_t deadline; /* monotonic ns, for all of them */
    int error;        /* negative errno: the most telling failure so far */
    uint8_t n, next;
    bool bind; /* the command was BIND */
};

struct session {
    struct timer timer;
    int client, target; /* -1: none */
    uint32_t generation;
    uint32_t next;         /* in the free list, or in that of the closed */
    uint32_t next_ready;   /* in the list of relays to pump */
    uint32_t newer, older; /* in the list of those that were not let in; itself: in none */
    struct addr from;      /* the client */
    uint8_t state;         /* enum session_state; session_set_state() */
    uint8_t version;       /* SOCKS4_VERSION, SOCKS5_VERSION, or 0: not known yet */
    bool ready;            /* in the list */
    bool client_hangup;    /* the client's FIN was seen */
    bool dying;            /* RELAY: relay_dying(), the timer is for its end */
    uint32_t drained;      /* ASSOCIATED, DRAINING: bytes read away */
    union {
        struct session_dial dial;        /* RESOLVING, DIALING, BINDING */
        struct relay relay;              /* RELAY */
        struct association *association; /* ASSOCIATED */
    };
};

/* At most one line in ten seconds. */
struct serve_log_limit {
    int64_t last;
    bool used;
    uint64_t suppressed;
};

struct serve {
    struct loop *loop;
    struct users *users; /* NULL: everybody */
    struct resolver *resolver;
    struct relay_pool *pool;
    struct udp *udp; /* NULL: UDP ASSOCIATE is not offered */
    int64_t handshake_timeout, connect_timeout, address_timeout, bind_timeout, udp_idle;
    uint32_t mark; /* SO_MARK of outgoing connections and datagrams, 0: none */
    bool no_bind;

    struct addr listen[SERVE_LISTEN_MAX];
    int listeners[SERVE_LISTEN_MAX];
    size_t n_listeners;
    int reserve; /* given up to accept and reset when no descriptor is left; -1: it is */
    bool paused; /* not accepting for a while */
    struct timer pause_timer;

    struct session *sessions;
    uint32_t n_sessions, free, closed, ready;
    uint32_t oldest, newest; /* of those that were not let in when somebody last looked */

    struct serve_counters counters;
    struct serve_log_limit log_full, log_auth, log_associations;
};

/* session.c */

/* The only way to a state. A step that session.h does not know is a bug: it ends the process. */
void session_set_state(struct session *s, enum session_state state);
uint64_t session_ref(const struct serve *sv, const struct session *s, unsigned kind);
/* For log lines. */
uint64_t session_id(const struct serve *sv, const struct session *s);
/* NULL when that session is gone. */
struct session *session_find(struct serve *sv, uint64_t ref);
/* Closes its sockets: in order, or with a reset. The struct stays until the end of the batch. */
void session_close(struct serve *sv, struct session *s, bool orderly);
/* Puts the relay into the list for the end of the batch. */
void session_ready(struct serve *sv, struct session *s);
/* Puts the server's mark on a socket that will send. */
void serve_mark(const struct serve *sv, int fd);
/* Where the client's connection came in (`local`), or where it comes from. 0 or -errno. */
int session_client_address(const struct session *s, bool local, struct addr *ret);
/* True when a line may be written now; `ret_suppressed`: how many were not since the last. */
bool serve_log_allowed(struct serve *sv, struct serve_log_limit *limit, uint64_t *ret_suppressed);

/* handshake.c */

/* Sends all or fails: the few bytes of a handshake always fit into a fresh socket's buffer. */
int session_send(const struct session *s, const void *data, size_t len);
/* Sends a granting reply in the client's SOCKS version. 0 or -errno. */
int session_reply(const struct session *s, const struct addr *bound);
/* GREETING, AUTH, REQUEST: reads and answers whole messages, and not a byte beyond the request. */
void session_handshake(struct serve *sv, struct session *s);
/* Sends a refusal in the client's SOCKS version and goes to DRAINING. `target` must be closed. */
void session_refuse(struct serve *sv, struct session *s, uint8_t rep5, uint8_t rep4);
/* The same, with the reply that comes nearest to an errno (negative). */
void session_refuse_errno(struct serve *sv, struct session *s, int error);
/* Reads the client's bytes away; its FIN, and more bytes than anybody has a reason to send, close
 * the session. */
void session_drain(struct serve *sv, struct session *s);

/* dial.c */

/* CONNECT or BIND: from REQUEST (or a SOCKS4 GREETING) to RESOLVING, DIALING, BINDING or a refusal.
 */
void session_request(struct serve *sv, struct session *s, uint8_t command,
                     const struct socks_dest *dest);
void session_resolved(void *ctx, uint64_t ref, int status, const struct addr *addresses, size_t n);
void session_target_event(struct serve *sv, struct session *s, uint32_t events);
/* RESOLVING or DIALING took too long. */
void session_dial_timeout(struct serve *sv, struct session *s);
/* Frees what RESOLVING, DIALING and BINDING hold, the socket excepted. */
void session_dial_finish(struct session *s);
/* `target` is connected: sends the reply that says `bound`, and joins the two. `events` are what
 * epoll said of the target. */
void session_grant(struct serve *sv, struct session *s, const struct addr *bound, uint32_t events);
/* A name that is an address: "192.0.2.1", "2001:db8::1", "[2001:db8::1]". */
bool session_literal(const char *name, uint16_t port, struct addr *ret);

/* bind.c */

/* The candidates are known: to BINDING or a refusal. */
void session_listen(struct serve *sv, struct session *s);
/* Somebody connects. */
void session_bind_event(struct serve *sv, struct session *s);
/* Nobody did. */
void session_bind_timeout(struct serve *sv, struct session *s);

/* associate.c */

/* UDP ASSOCIATE: to ASSOCIATED or a refusal. */
void session_associate(struct serve *sv, struct session *s, const struct socks_dest *dest);
/* Closes the association's sockets and gives it back. */
void session_associate_finish(struct serve *sv, struct session *s);
/* Its timer: ends it, or waits for the rest of the time. */
void session_associate_idle(struct serve *sv, struct session *s);

#endif
