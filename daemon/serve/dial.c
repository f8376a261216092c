/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a destination to a connected socket: a lookup when it is a name, then one address after the
 * other, in the order the resolver gives, until one answers or the time is over. While others
 * remain, an address gets only a short time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "log.h"
#include "serve/session.h"
#include "serve/udp.h"
#include "socks/socks4.h"
#include "socks/socks5_server.h"

void session_dial_finish(struct session *s)
{
    if (s->dial.candidates != &s->dial.single)
        free(s->dial.candidates);
    s->dial.candidates = NULL;
}

/* How much a failure says about the destination: of several, the client is told the most telling
 * one. */
static unsigned weight(int error)
{
    switch (error) {
    case 0:
        return 0;
    case -ECONNREFUSED:
        return 5;
    case -ETIMEDOUT:
        return 4;
    case -EHOSTUNREACH:
        return 3;
    case -ENETUNREACH:
        return 2;
    default:
        return 1;
    }
}

static void dial_failed(struct session *s, int error)
{
    if (weight(error) > weight(s->dial.error))
        s->dial.error = error;
}

/* A socket on its way to `a`, watched by the loop. The descriptor or -errno. */
static int start_connect(struct serve *sv, struct session *s, const struct addr *a)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(a, &sa);
    int r, fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    serve_mark(sv, fd);
    r = fd_tcp_options(fd);
    if (r == 0)
        r = fd_keepalive(fd);
    if (r == 0 && connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
        r = -errno;
    if (r == 0)
        r = loop_add(sv->loop, fd, RELAY_EVENTS, session_ref(sv, s, SERVE_KIND_TARGET));
    if (r < 0) {
        fd_close(&fd);
        return r;
    }
    return fd;
}

/* In DIALING without a target: the next address, or the refusal. */
static void dial_next(struct serve *sv, struct session *s)
{
    struct session_dial *d = &s->dial;

    while (d->next < d->n) {
        int64_t left = d->deadline - loop_now(sv->loop);

        if (left <= 0) {
            dial_failed(s, -ETIMEDOUT);
            break;
        }
        int fd = start_connect(sv, s, &d->candidates[d->next++]);

        if (fd < 0) {
            dial_failed(s, fd);
            continue;
        }
        s->target = fd;
        if (d->next < d->n && left > sv->address_timeout)
            left = sv->address_timeout;
        if (loop_timer_set(sv->loop, &s->timer, left, session_ref(sv, s, SERVE_KIND_TIMER)) < 0)
            session_close(sv, s, false);
        return;
    }
    int error = d->error;

    sv->counters.connect_failed++;
    log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "connect failed: %s", strerror(-error));
    session_dial_finish(s);
    session_refuse_errno(sv, s, error);
}

/* The candidates are there. */
static void start(struct serve *sv, struct session *s)
{
    if (s->dial.bind) {
        session_listen(sv, s);
        return;
    }
    session_set_state(s, SESSION_DIALING);
    dial_next(sv, s);
}

/* A single colon would be a port, which has its own place in the request. */
bool session_literal(const char *name, uint16_t port, struct addr *ret)
{
    const char *colon = strchr(name, ':');
    size_t len = strlen(name);

    if (colon && !strchr(colon + 1, ':'))
        return false;
    if (name[0] == '[' && name[len - 1] != ']')
        return false;
    return addr_parse(name, port, ret) == 0;
}

void session_request(struct serve *sv, struct session *s, uint8_t command,
                     const struct socks_dest *dest)
{
    char text[SOCKS_DEST_STRLEN];
    struct session_dial *d = &s->dial;

    if (log_get_level() >= LOG_LEVEL_DEBUG)
        log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "SOCKS%u %s %s", s->version,
                 socks_command_name(command), socks_dest_format(dest, text));
    if (command == SOCKS_CMD_CONNECT && dest->addr.port == 0) {
        sv->counters.connect_failed++;
        session_refuse(sv, s, SOCKS5_REP_NOT_ALLOWED, SOCKS4_REP_REJECTED);
        return;
    }
    memset(d, 0, sizeof(*d));
    d->candidates = &d->single;
    d->n = 1;
    d->bind = command == SOCKS_CMD_BIND;
    d->deadline = loop_now(sv->loop) + sv->connect_timeout;
    if (dest->type == SOCKS_DEST_ADDR) {
        d->single = dest->addr;
        start(sv, s);
        return;
    }
    if (session_literal(dest->name, dest->addr.port, &d->single)) {
        start(sv, s);
        return;
    }
    d->n = 0;
    if (loop_timer_set(sv->loop, &s->timer, sv->connect_timeout,
                       session_ref(sv, s, SERVE_KIND_TIMER)) < 0) {
        session_close(sv, s, false);
        return;
    }
    session_set_state(s, SESSION_RESOLVING);

    /* May already have called session_resolved() when it returns. */
    int r = resolver_lookup(sv->resolver, dest->name, dest->addr.port,
                            session_ref(sv, s, SERVE_KIND_CLIENT));

    if (r < 0) {
        sv->counters.lookup_failed++;
        session_refuse_errno(sv, s, r == -EINVAL ? -EHOSTUNREACH : r);
    }
}

void session_resolved(void *ctx, uint64_t ref, int status, const struct addr *addresses, size_t n)
{
    struct serve *sv = ctx;

    if (loop_ref_kind(ref) == SERVE_KIND_UDP_NAME) {
        udp_name_resolved(sv, ref, status, addresses, n);
        return;
    }
    struct session *s = session_find(sv, ref);

    if (!s || s->state != SESSION_RESOLVING)
        return;
    if (status == 0 && n > 1) {
        s->dial.candidates = malloc(n * sizeof(*addresses));
        if (!s->dial.candidates)
            status = -ENOMEM;
    }
    if (status < 0) {
        sv->counters.lookup_failed++;
        log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "lookup failed: %s", strerror(-status));
        session_refuse_errno(sv, s, status);
        return;
    }
    memcpy(s->dial.candidates, addresses, n * sizeof(*addresses));
    s->dial.n = (uint8_t)n;
    start(sv, s);
}

void session_grant(struct serve *sv, struct session *s, const struct addr *bound, uint32_t events)
{
    if (session_reply(s, bound) < 0) {
        session_close(sv, s, false);
        return;
    }
    loop_timer_cancel(sv->loop, &s->timer);
    session_dial_finish(s);
    session_set_state(s, SESSION_RELAY);
    sv->counters.granted++;
    relay_init(&s->relay, s->client, s->target);
    relay_event(&s->relay, 1, events);
    if (s->client_hangup)
        relay_event(&s->relay, 0, EPOLLIN | EPOLLRDHUP);
    session_ready(sv, s);
}

static void connected(struct serve *sv, struct session *s, uint32_t events)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct addr bound;

    if (getsockname(s->target, (struct sockaddr *)&sa, &len) < 0 ||
        addr_from_sockaddr((struct sockaddr *)&sa, len, &bound) < 0) {
        session_close(sv, s, false);
        return;
    }
    /* A free port of our own that connected to itself: nobody listens there. */
    if (addr_equal(&bound, &s->dial.candidates[s->dial.next - 1])) {
        fd_close(&s->target);
        dial_failed(s, -ECONNREFUSED);
        dial_next(sv, s);
        return;
    }
    session_grant(sv, s, &bound, events);
}

void session_target_event(struct serve *sv, struct session *s, uint32_t events)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        return;
    if (getsockopt(s->target, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    if (error == 0 && !(events & EPOLLOUT))
        error = ECONNRESET;
    if (error == 0) {
        connected(sv, s, events);
        return;
    }
    fd_close(&s->target);
    dial_failed(s, -error);
    dial_next(sv, s);
}

void session_dial_timeout(struct serve *sv, struct session *s)
{
    if (s->state == SESSION_RESOLVING) {
        sv->counters.lookup_failed++;
        session_refuse_errno(sv, s, -ETIMEDOUT);
        return;
    }
    fd_close(&s->target);
    dial_failed(s, -ETIMEDOUT);
    dial_next(sv, s);
}
