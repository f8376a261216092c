/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The server around the sessions: listeners, the table, what the loop reports, the end of each
 * batch.
 *
 * Both sockets of a session are registered once, edge-triggered. An event of a session that is
 * gone, or closed earlier in the same batch, is recognised by generation and state. A slot is freed
 * at the end of the batch, so that nobody up the stack sees another session in it.
 *
 * Listeners are level-triggered with a budget per turn. No session free: one that was not let in
 * yet is reset for the new one, so that nobody without a password keeps out those who have one; and
 * if there is none the new connection is. Both are counted. No descriptor free: the reserve is
 * closed to do the same; if even that fails, the listeners are left alone for a moment, so that a
 * full process never spins.
 */
#include "serve/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "log.h"
#include "serve/session.h"
#include "serve/udp.h"

#define SECOND            INT64_C(1000000000)
#define HANDSHAKE_TIMEOUT (15 * SECOND)
#define CONNECT_TIMEOUT   (12 * SECOND) /* leaves a client with 15 s the time to hear of it */
#define ADDRESS_TIMEOUT   (3 * SECOND)
#define BIND_TIMEOUT      (120 * SECOND) /* as the SOCKS4 note has it */
#define UDP_IDLE          (300 * SECOND) /* RFC 4787 has no less than 2 minutes, and names 5 */
#define PAUSE             (SECOND / 10)

#define SESSIONS_DEFAULT 65536
#define SESSIONS_MAX     1000000
#define ASSOCIATIONS_MAX 4096 /* by default */
#define PIPES_MAX        512
#define LOOKUPS_MAX      1024
#define STASH_BUDGET     (32 * 1024 * 1024)
#define ACCEPT_BUDGET    64
#define WAITING_LOOK     32 /* so many of those that were not let in are compared */
/* Descriptors that are neither a session's nor a pipe's: standard streams, loop, listeners,
 * resolver, and the one more that BIND has while its peer is accepted. */
#define FDS_BESIDE 32

/* ---- Those that were not let in, in the order in which they came ---- */

static bool not_let_in(const struct serve *sv, const struct session *s)
{
    return s->state == SESSION_GREETING || s->state == SESSION_AUTH ||
           (s->state == SESSION_REQUEST && !sv->users) || s->state == SESSION_DRAINING;
}

static void join_waiting(struct serve *sv, struct session *s)
{
    uint32_t i = (uint32_t)(s - sv->sessions);

    s->newer = SESSION_NONE;
    s->older = sv->newest;
    *(sv->newest == SESSION_NONE ? &sv->oldest : &sv->sessions[sv->newest].newer) = i;
    sv->newest = i;
}

static void leave_waiting(struct serve *sv, struct session *s)
{
    uint32_t i = (uint32_t)(s - sv->sessions);

    if (s->newer == i)
        return;
    *(s->newer == SESSION_NONE ? &sv->newest : &sv->sessions[s->newer].older) = s->older;
    *(s->older == SESSION_NONE ? &sv->oldest : &sv->sessions[s->older].newer) = s->newer;
    s->newer = s->older = i;
}

/* Of the oldest ones that of the client that has most of these; NULL: there is none. */
static struct session *find_waiting(struct serve *sv)
{
    struct session *first[WAITING_LOOK], *best = NULL;
    unsigned n = 0, most = 0;

    for (uint32_t i = sv->oldest; i != SESSION_NONE && n < WAITING_LOOK;) {
        struct session *s = &sv->sessions[i];

        i = s->newer;
        if (not_let_in(sv, s))
            first[n++] = s;
        else
            leave_waiting(sv, s); /* it never will be again */
    }
    for (unsigned k = 0; k < n; k++) {
        unsigned same = 0;

        for (unsigned j = k; j < n; j++)
            same += addr_same_ip(&first[j]->from, &first[k]->from);
        if (same > most) {
            best = first[k];
            most = same;
        }
    }
    return best;
}

/* The last one that was closed is free at once. */
static void free_closed(struct serve *sv)
{
    uint32_t i = sv->closed;
    struct session *s = &sv->sessions[i];

    sv->closed = s->next;
    leave_waiting(sv, s);
    session_set_state(s, SESSION_FREE);
    s->generation++;
    s->next = sv->free;
    sv->free = i;
}

/* No session is free. False: nor can one be. */
static bool make_room(struct serve *sv)
{
    struct session *s = find_waiting(sv);
    uint64_t suppressed;

    sv->counters.refused_full++;
    if (serve_log_allowed(sv, &sv->log_full, &suppressed))
        log_warning("all %u sessions are in use: connection reset (%llu more since the last line)",
                    sv->n_sessions, (unsigned long long)suppressed);
    if (!s)
        return false;
    session_close(sv, s, false);
    free_closed(sv);
    return true;
}

/* Takes `fd`, which is closed on failure. */
static void session_open(struct serve *sv, int fd, const struct addr *from)
{
    if (sv->free == SESSION_NONE && !make_room(sv)) {
        close(fd); /* a reset: SO_LINGER is inherited from the listener */
        return;
    }
    struct session *s = &sv->sessions[sv->free];

    if (loop_add(sv->loop, fd, RELAY_EVENTS, session_ref(sv, s, SERVE_KIND_CLIENT)) < 0 ||
        loop_timer_set(sv->loop, &s->timer, sv->handshake_timeout,
                       session_ref(sv, s, SERVE_KIND_TIMER)) < 0) {
        sv->counters.refused_full++;
        close(fd);
        return;
    }
    sv->free = s->next;
    s->client = fd;
    s->from = *from;
    s->target = -1;
    s->version = 0;
    s->client_hangup = false;
    s->dying = false;
    s->drained = 0;
    session_set_state(s, SESSION_GREETING);
    join_waiting(sv, s);
    sv->counters.accepted++;
    sv->counters.active++;
}

static void listen_for(struct serve *sv, uint32_t events)
{
    for (size_t i = 0; i < sv->n_listeners; i++)
        (void)loop_modify(sv->loop, sv->listeners[i], events,
                          loop_ref(SERVE_KIND_LISTENER, 0, (uint32_t)i));
}

static void pause_accepting(struct serve *sv)
{
    if (sv->paused ||
        loop_timer_set(sv->loop, &sv->pause_timer, PAUSE, loop_ref(SERVE_KIND_PAUSE, 0, 0)) < 0)
        return;
    sv->paused = true;
    listen_for(sv, 0);
}

static void on_pause_over(void *ctx, uint64_t ref, uint32_t events)
{
    struct serve *sv = ctx;

    (void)ref;
    (void)events;
    sv->paused = false;
    listen_for(sv, EPOLLIN);
}

static int open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/*
 * No descriptor is left for a connection that may wait (the kernel says so before it looks). 0: it
 * was reset; -EAGAIN: none waits; else -errno.
 */
static int shed(struct serve *sv, int listener)
{
    fd_close(&sv->reserve);
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int r = fd < 0 ? -errno : 0;

    if (fd >= 0) {
        close(fd);
        sv->counters.refused_fds++;
    }
    sv->reserve = open_reserve();
    return sv->reserve < 0 ? -EMFILE : r;
}

static void on_listener(void *ctx, uint64_t ref, uint32_t events)
{
    struct serve *sv = ctx;
    int listener = sv->listeners[loop_ref_index(ref)];

    (void)events;
    for (unsigned i = 0; i < ACCEPT_BUDGET && !sv->paused; i++) {
        struct sockaddr_storage sa;
        socklen_t len = sizeof(sa);
        int r, fd = accept4(listener, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct addr from = {.port = 0};

        if (fd >= 0) {
            (void)addr_from_sockaddr((struct sockaddr *)&sa, len, &from);
            session_open(sv, fd, &from);
            continue;
        }
        switch (errno) {
        case EAGAIN:
            return;
        case EMFILE:
        case ENFILE:
            r = shed(sv, listener);
            if (r == -EAGAIN)
                return;
            if (r < 0)
                pause_accepting(sv);
            break;
        case ENOBUFS:
        case ENOMEM:
            pause_accepting(sv);
            break;
        default:
            break; /* the error of the connection that was to be accepted; it is gone */
        }
    }
}

static void on_client(void *ctx, uint64_t ref, uint32_t events)
{
    struct serve *sv = ctx;
    struct session *s = session_find(sv, ref);

    if (!s)
        return;
    if (s->state == SESSION_RELAY) {
        relay_event(&s->relay, 0, events);
        session_ready(sv, s);
        return;
    }
    if (events & (EPOLLRDHUP | EPOLLHUP))
        s->client_hangup = true;
    if (s->state == SESSION_DRAINING || s->state == SESSION_ASSOCIATED) {
        session_drain(sv, s);
        return;
    }
    if (events & (EPOLLERR | EPOLLHUP) || (s->state == SESSION_BINDING && s->client_hangup)) {
        session_close(sv, s, false);
        return;
    }
    session_handshake(sv, s);
}

static void on_target(void *ctx, uint64_t ref, uint32_t events)
{
    struct serve *sv = ctx;
    struct session *s = session_find(sv, ref);

    if (!s)
        return;
    if (s->state == SESSION_RELAY) {
        relay_event(&s->relay, 1, events);
        session_ready(sv, s);
    } else if (s->state == SESSION_DIALING) {
        session_target_event(sv, s, events);
    } else if (s->state == SESSION_BINDING) {
        session_bind_event(sv, s);
    }
}

static void on_datagrams(void *ctx, uint64_t ref, uint32_t events)
{
    struct serve *sv = ctx;
    uint32_t index = loop_ref_index(ref);
    unsigned kind = loop_ref_kind(ref);

    (void)events;
    if (index >= sv->udp->n)
        return;
    struct association *a = &sv->udp->associations[index];

    if ((a->generation & 0xffffff) != loop_ref_generation(ref))
        return; /* it ended in this batch */
    if (kind == SERVE_KIND_UDP_INNER)
        udp_from_client(sv, a);
    else
        udp_from_outside(sv, a, kind == SERVE_KIND_UDP_OUTER_V4 ? UDP_V4 : UDP_V6);
}

static void on_timer(void *ctx, uint64_t ref, uint32_t events)
{
    struct serve *sv = ctx;
    struct session *s = session_find(sv, ref);

    (void)events;
    if (!s)
        return;
    switch (s->state) {
    case SESSION_GREETING:
    case SESSION_AUTH:
    case SESSION_REQUEST:
        sv->counters.timed_out++;
        session_close(sv, s, false);
        break;
    case SESSION_RESOLVING:
    case SESSION_DIALING:
        session_dial_timeout(sv, s);
        break;
    case SESSION_BINDING:
        session_bind_timeout(sv, s);
        break;
    case SESSION_ASSOCIATED:
        session_associate_idle(sv, s);
        break;
    case SESSION_DRAINING:
    case SESSION_RELAY: /* was reset, and the other side has had its time */
        session_close(sv, s, false);
        break;
    default:
        break;
    }
}

static void pump(struct serve *sv, struct session *s)
{
    switch (relay_pump(&s->relay, sv->pool)) {
    case RELAY_IDLE:
    case RELAY_SOON: /* never: no kernel here */
        break;
    case RELAY_MORE:
        session_ready(sv, s);
        break;
    case RELAY_DONE:
        session_close(sv, s, true);
        return;
    case RELAY_RESET:
        session_close(sv, s, false);
        return;
    }
    if (relay_dying(&s->relay) && !s->dying) {
        s->dying = true;
        if (loop_timer_set(sv->loop, &s->timer, RELAY_DYING_TIME,
                           session_ref(sv, s, SERVE_KIND_TIMER)) < 0)
            session_close(sv, s, false);
    }
}

static bool on_batch_end(void *ctx)
{
    struct serve *sv = ctx;
    uint32_t i = sv->ready;

    sv->ready = SESSION_NONE;
    while (i != SESSION_NONE) {
        struct session *s = &sv->sessions[i];

        i = s->next_ready;
        s->ready = false;
        if (s->state == SESSION_RELAY)
            pump(sv, s);
    }
    while (sv->closed != SESSION_NONE)
        free_closed(sv);
    return sv->ready != SESSION_NONE;
}

static unsigned asked_sessions(const struct serve_options *o)
{
    unsigned n = o->max_sessions > 0 ? o->max_sessions : SESSIONS_DEFAULT;

    return n < SESSIONS_MAX ? n : SESSIONS_MAX;
}

uint32_t serve_timers(const struct serve_options *o)
{
    return asked_sessions(o) + 2; /* the pause, and the resolver's tick */
}

/*
 * How many of each the limit of descriptors allows: two a pipe, two a session, two more an
 * association; an eighth of the sessions at most are kept free to be associations.
 */
static int divide_descriptors(struct serve *sv, const struct serve_options *o, uint32_t *ret_pipes,
                              uint32_t *ret_associations, char *why, size_t why_size)
{
    uint64_t limit = fd_raise_limit();
    uint64_t pipes = limit / 16 < PIPES_MAX ? limit / 16 : PIPES_MAX;
    uint64_t associations = o->max_associations > 0 ? o->max_associations : ASSOCIATIONS_MAX;
    unsigned asked = asked_sessions(o);

    if (limit < FDS_BESIDE + 2 * pipes + 4) {
        snprintf(why, why_size,
                 "the limit of open files is %" PRIu64
                 ", too few to serve; raise it: ulimit -n 1024",
                 limit);
        return -EMFILE;
    }
    uint64_t fit = (limit - FDS_BESIDE - 2 * pipes) / 2;

    if (associations > fit / 8)
        associations = fit / 8 > 0 ? fit / 8 : 1;
    if (o->no_udp)
        associations = 0;
    else if (associations < o->max_associations)
        log_warning("%" PRIu64
                    " UDP associations instead of %u: the limit of open files is %" PRIu64,
                    associations, o->max_associations, limit);
    fit -= associations;
    sv->n_sessions = fit < asked ? (uint32_t)fit : asked;
    if (fit < o->max_sessions)
        log_warning("%u sessions instead of %u: the limit of open files is %" PRIu64,
                    sv->n_sessions, o->max_sessions, limit);
    *ret_pipes = (uint32_t)pipes;
    *ret_associations = associations < sv->n_sessions ? (uint32_t)associations : sv->n_sessions;
    return 0;
}

static int create_table(struct serve *sv, const struct serve_options *o, char *why, size_t why_size)
{
    uint32_t pipes, associations;
    int r = divide_descriptors(sv, o, &pipes, &associations, why, why_size);

    if (r < 0)
        return r;
    sv->sessions = calloc(sv->n_sessions, sizeof(*sv->sessions));
    if (!sv->sessions) {
        snprintf(why, why_size, "out of memory for %u sessions", sv->n_sessions);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < sv->n_sessions; i++) {
        sv->sessions[i].client = sv->sessions[i].target = -1;
        sv->sessions[i].newer = sv->sessions[i].older = i;
        sv->sessions[i].next = i + 1 < sv->n_sessions ? i + 1 : SESSION_NONE;
    }
    sv->free = 0;

    unsigned lookups = sv->n_sessions < LOOKUPS_MAX ? sv->n_sessions : LOOKUPS_MAX;

    r = relay_pool_create(pipes, 0, STASH_BUDGET, o->relay, &sv->pool);

    if (r == 0)
        r = resolver_create(sv->loop, SERVE_KIND_RESOLVER_FD, SERVE_KIND_RESOLVER_TICK, lookups,
                            sv->mark, session_resolved, sv, &sv->resolver);
    if (r == 0 && associations > 0)
        r = udp_create(associations, lookups > 1 ? lookups / 2 : 1, &sv->udp);
    if (r < 0)
        snprintf(why, why_size, "cannot set up the server: %s", strerror(-r));
    return r;
}

static int create_listeners(struct serve *sv, const struct serve_options *o, char *why,
                            size_t why_size)
{
    struct addr standard;
    const struct addr *at = o->listen;
    size_t n = o->n_listen;
    char text[ADDR_STRLEN];

    if (n == 0) {
        int r = addr_parse(SERVE_DEFAULT_LISTEN, 0, &standard);

        if (r < 0)
            return r;
        at = &standard;
        n = 1;
    }
    if (n > SERVE_LISTEN_MAX) {
        snprintf(why, why_size, "%zu addresses to listen on; at most %d are possible", n,
                 SERVE_LISTEN_MAX);
        return -EINVAL;
    }
    for (size_t i = 0; i < n; i++) {
        int fd = fd_listen(&at[i], false, &sv->listen[i]);

        if (fd < 0) {
            snprintf(why, why_size, "cannot listen on %s: %s%s", addr_format(&at[i], text),
                     strerror(-fd), fd == -EADDRINUSE ? "; choose another with -l ADDR:PORT" : "");
            return fd;
        }
        sv->listeners[sv->n_listeners++] = fd;
        int r = loop_add(sv->loop, fd, EPOLLIN, loop_ref(SERVE_KIND_LISTENER, 0, (uint32_t)i));

        if (r < 0) {
            snprintf(why, why_size, "cannot watch the listener: %s", strerror(-r));
            return r;
        }
        if (!addr_is_loopback(&at[i]) && !sv->users)
            log_warning("listening on %s without a user file: anybody who can reach it may use it; "
                        "give one with -A USERFILE",
                        addr_format(&sv->listen[i], text));
    }
    return 0;
}

int serve_create(struct loop *l, const struct serve_options *o, struct serve **ret, char *why,
                 size_t why_size)
{
    struct serve *sv = calloc(1, sizeof(*sv));
    int r;

    if (!sv) {
        snprintf(why, why_size, "out of memory");
        return -ENOMEM;
    }
    sv->loop = l;
    sv->free = sv->closed = sv->ready = sv->oldest = sv->newest = SESSION_NONE;
    sv->mark = o->mark;
    sv->handshake_timeout = o->handshake_timeout > 0 ? o->handshake_timeout : HANDSHAKE_TIMEOUT;
    sv->connect_timeout = o->connect_timeout > 0 ? o->connect_timeout : CONNECT_TIMEOUT;
    sv->address_timeout = o->address_timeout > 0 ? o->address_timeout : ADDRESS_TIMEOUT;
    sv->bind_timeout = o->bind_timeout > 0 ? o->bind_timeout : BIND_TIMEOUT;
    sv->udp_idle = o->udp_idle > 0 ? o->udp_idle : UDP_IDLE;
    sv->no_bind = o->no_bind;
    sv->reserve = open_reserve();
    loop_set_handler(l, SERVE_KIND_LISTENER, on_listener, sv);
    loop_set_handler(l, SERVE_KIND_CLIENT, on_client, sv);
    loop_set_handler(l, SERVE_KIND_TARGET, on_target, sv);
    loop_set_handler(l, SERVE_KIND_TIMER, on_timer, sv);
    loop_set_handler(l, SERVE_KIND_PAUSE, on_pause_over, sv);
    loop_set_handler(l, SERVE_KIND_UDP_INNER, on_datagrams, sv);
    loop_set_handler(l, SERVE_KIND_UDP_OUTER_V4, on_datagrams, sv);
    loop_set_handler(l, SERVE_KIND_UDP_OUTER_V6, on_datagrams, sv);
    loop_set_batch_end(l, on_batch_end, sv);

    r = o->user_file ? users_load(o->user_file, &sv->users, why, why_size) : 0;
    if (r == 0)
        r = create_table(sv, o, why, why_size);
    if (r == 0)
        r = create_listeners(sv, o, why, why_size);
    if (r < 0) {
        serve_destroy(sv);
        return r;
    }
    *ret = sv;
    return 0;
}

void serve_destroy(struct serve *sv)
{
    if (!sv)
        return;
    for (uint32_t i = 0; sv->sessions && i < sv->n_sessions; i++) {
        struct session *s = &sv->sessions[i];

        if (s->state != SESSION_FREE && s->state != SESSION_CLOSED)
            session_close(sv, s, false);
    }
    for (size_t i = 0; i < sv->n_listeners; i++)
        fd_close(&sv->listeners[i]);
    fd_close(&sv->reserve);
    resolver_destroy(sv->resolver);
    udp_destroy(sv->udp);
    relay_pool_destroy(sv->pool);
    loop_timer_cancel(sv->loop, &sv->pause_timer);
    for (unsigned kind = SERVE_KIND_LISTENER; kind <= SERVE_KIND_PAUSE; kind++)
        loop_set_handler(sv->loop, kind, NULL, NULL);
    loop_set_batch_end(sv->loop, NULL, NULL);
    users_free(sv->users);
    free(sv->sessions);
    free(sv);
}

int serve_address(const struct serve *sv, size_t i, struct addr *ret)
{
    if (i >= sv->n_listeners)
        return -ENOENT;
    *ret = sv->listen[i];
    return 0;
}

const struct serve_counters *serve_counters(const struct serve *sv)
{
    return &sv->counters;
}

const struct relay_counters *serve_relay_counters(const struct serve *sv)
{
    return relay_pool_counters(sv->pool);
}
