/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * BIND (RFC 1928 sections 4 and 6, and SOCKS4's): the server listens, says where, and joins the
 * client with the peer that connects.
 *
 * DST.ADDR names that peer. With it the listener is on the address that this host has towards it;
 * without it (0.0.0.0, ::) on all addresses of that family, and the client is told the one at which
 * its own connection came in, when others than this host could use that. DST.PORT has no say: an
 * FTP server answers from another port than the one it was asked at.
 *
 * Whoever else connects is reset and counted, and the peer still awaited, so that a passer-by does
 * not end it (where the SOCKS4 note would have it end). A client that closes while it waits is
 * gone: unlike with CONNECT, nobody has to answer for two minutes.
 */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "log.h"
#include "serve/session.h"

#define ACCEPT_BUDGET 16

/* The address from which this host sends to `to`. 0 or -errno. */
static int source_towards(const struct serve *sv, const struct addr *to, struct addr *ret)
{
    struct addr with_port = *to;
    struct sockaddr_storage sa;
    socklen_t len;
    int r = 0;

    with_port.port = 9; /* nothing is sent */
    len = addr_to_sockaddr(&with_port, &sa);
    int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    serve_mark(sv, fd);
    if (connect(fd, (struct sockaddr *)&sa, len) < 0)
        r = -errno;
    len = sizeof(sa);
    if (r == 0 && getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        r = -errno;
    if (r == 0)
        r = addr_from_sockaddr((struct sockaddr *)&sa, len, ret);
    fd_close(&fd);
    return r;
}

/* Somewhere in the world: what the default route leads to. */
static void set_elsewhere(struct addr *ret, bool v4)
{
    static const uint8_t six[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};

    if (v4)
        addr_set_v4(ret, (uint8_t[4]){192, 0, 2, 1}, 0);
    else
        addr_set_v6(ret, six, 0);
}

/* Where to listen, and what to call it; ports are 0. 0 or -errno. */
static int choose_address(const struct serve *sv, const struct session *s, struct addr *ret_listen,
                          struct addr *ret_shown)
{
    const struct addr *peer = &s->dial.candidates[0];
    struct addr in, out, elsewhere;
    int r;

    if (!addr_is_any(peer)) {
        r = source_towards(sv, peer, &out);
        out.port = 0;
        if (r == 0)
            *ret_listen = *ret_shown = out;
        return r;
    }
    r = session_client_address(s, true, &in);
    if (r < 0)
        return r;
    *ret_listen = *peer;
    *ret_shown = *peer;
    set_elsewhere(&elsewhere, addr_is_v4(peer));
    bool fits = addr_is_v4(&in) == addr_is_v4(peer);

    if (fits && !addr_is_loopback(&in))
        *ret_shown = in;
    else if (source_towards(sv, &elsewhere, &out) == 0)
        *ret_shown = out;
    else if (fits)
        *ret_shown = in;
    ret_listen->port = ret_shown->port = 0;
    return 0;
}

static void bind_failed(struct serve *sv, struct session *s, int error)
{
    sv->counters.bind_failed++;
    log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "bind failed: %s", strerror(-error));
    fd_close(&s->target);
    session_dial_finish(s);
    session_refuse_errno(sv, s, error);
}

void session_listen(struct serve *sv, struct session *s)
{
    struct addr at, shown, bound;
    char text[ADDR_STRLEN];
    int r = choose_address(sv, s, &at, &shown);

    if (r == 0)
        r = s->target = fd_listen(&at, 0, &bound);
    if (r >= 0) {
        serve_mark(sv, s->target);
        r = loop_add(sv->loop, s->target, EPOLLIN, session_ref(sv, s, SERVE_KIND_TARGET));
    }
    if (r == 0)
        r = loop_timer_set(sv->loop, &s->timer, sv->bind_timeout,
                           session_ref(sv, s, SERVE_KIND_TIMER));
    if (r < 0) {
        bind_failed(sv, s, r);
        return;
    }
    shown.port = bound.port;
    if (session_reply(s, &shown) < 0 || s->client_hangup) {
        session_dial_finish(s);
        session_close(sv, s, false);
        return;
    }
    if (log_get_level() >= LOG_LEVEL_DEBUG)
        log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "bound to %s", addr_format(&shown, text));
    session_set_state(s, SESSION_BINDING);
    sv->counters.bound++;
}

static bool is_awaited(const struct session_dial *d, const struct addr *peer)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (addr_is_any(&d->candidates[i]) || addr_same_ip(&d->candidates[i], peer))
            return true;
    }
    return false;
}

/* Takes `fd`, the peer's connection. */
static void join_peer(struct serve *sv, struct session *s, int fd, const struct addr *peer)
{
    fd_close(&s->target);
    s->target = fd;
    int r = loop_add(sv->loop, fd, RELAY_EVENTS, session_ref(sv, s, SERVE_KIND_TARGET));

    if (r < 0)
        bind_failed(sv, s, r);
    else
        session_grant(sv, s, peer, 0);
}

void session_bind_event(struct serve *sv, struct session *s)
{
    for (unsigned i = 0; i < ACCEPT_BUDGET; i++) {
        struct sockaddr_storage sa;
        socklen_t len = sizeof(sa);
        struct addr peer;
        int fd = accept4(s->target, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            if (addr_from_sockaddr((struct sockaddr *)&sa, len, &peer) == 0 &&
                is_awaited(&s->dial, &peer)) {
                join_peer(sv, s, fd, &peer);
                return;
            }
            sv->counters.bind_strangers++;
            close(fd); /* a reset: SO_LINGER is inherited from the listener */
            continue;
        }
        switch (errno) {
        case EAGAIN:
            return;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM: /* would be reported for ever */
            bind_failed(sv, s, -errno);
            return;
        default:
            break; /* the error of the connection that was to be accepted; it is gone */
        }
    }
}

void session_bind_timeout(struct serve *sv, struct session *s)
{
    bind_failed(sv, s, -ETIMEDOUT);
}
