/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * upstream/dial.h. The socket is registered once, edge-triggered; each event runs the machine as
 * far as it goes: connect result, rest of what is to be sent, exactly the bytes of the awaited
 * message, next message. The buffer lives only while the handshake does, and is wiped: it may have
 * held a password.
 */
#include "upstream/dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

_Static_assert(CONFIG_CHAIN_MAX <= 8, "dial.no_auth has a bit for each hop");

#define DIRECT_TIMEOUT INT64_C(30000000000)

#define DIAL_EVENTS (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET)

struct dial_buffer {
    size_t out_len, out_pos, in_len;
    uint8_t out[HANDSHAKE_OUT_MAX];
    uint8_t in[HANDSHAKE_IN_MAX];
};

static void free_buffer(struct dial *d)
{
    if (d->buffer)
        explicit_bzero(d->buffer, sizeof(*d->buffer));
    free(d->buffer);
    d->buffer = NULL;
}

static enum dial_result fail(struct dial *d, enum dial_fault fault, int os_error, int app_errno)
{
    d->fault = (uint8_t)fault;
    d->os_error = os_error;
    d->app_errno = app_errno;
    dial_finish(d);
    return DIAL_FAILED;
}

static int open_socket(const struct addr *a, uint32_t mark)
{
    int fd =
        socket(addr_is_v4(a) ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    int r = 0;

    if (mark != 0 && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
        r = -errno; /* unmarked, it would be captured again: never go on without */
    if (r == 0)
        r = fd_tcp_options(fd);
    if (r < 0) {
        fd_close(&fd);
        return r;
    }
    return fd;
}

/* Has this host an address to connect from? What fails all the same is for want of a port. */
static bool has_source(const struct addr *to, uint32_t mark)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(to, &sa);
    int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return true;
    (void)setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)); /* the same route */
    bool has = connect(fd, (struct sockaddr *)&sa, len) == 0 || errno != EADDRNOTAVAIL;

    fd_close(&fd);
    return has;
}

/* Does a connection that failed so leave open whether somebody is there? It was taken and reset, or
 * it was for us that there was none: no port, no memory, no permission. */
static bool may_be_there(const struct dial *d, int error)
{
    switch (error) {
    case EADDRNOTAVAIL:
        return has_source(dial_peer(d), d->upstream->mark);
    case ECONNRESET:
    case EPIPE:
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
    case EACCES:
    case EPERM:
        return true;
    default:
        return false;
    }
}

/* Somebody else may listen there the next time. */
static void note_failure(struct dial *d, int error)
{
    _Static_assert(UPSTREAM_ADDRS <= 8 * sizeof(d->upstream->local), "a bit for each address");
    if (!upstream_is_direct(d->upstream))
        d->may_be_there |= may_be_there(d, error);
    if (error != ETIMEDOUT)
        d->upstream->unproven |= d->upstream->local & 1u << d->address;
}

/* The time of what goes on now. */
static int64_t timeout_of(const struct dial *d)
{
    if (upstream_is_direct(d->upstream))
        return DIRECT_TIMEOUT;
    const struct config_upstream *c = d->upstream->hops[d->hop].config;

    return d->connected ? c->handshake_timeout : c->connect_timeout;
}

/* Dials the addresses from d->address on; the first that does not fail at once is waited for. */
static enum dial_result connect_next(struct dial *d, int last_error, const struct dial_env *env)
{
    const struct upstream_hop *hop = &d->upstream->hops[0];
    bool direct = upstream_is_direct(d->upstream);
    unsigned n = direct ? 1 : hop->n_addrs;

    for (; d->address < n; d->address++) {
        const struct addr *a = direct ? d->destination : &hop->addrs[d->address];
        struct sockaddr_storage sa;
        socklen_t len = addr_to_sockaddr(a, &sa);
        int fd = open_socket(a, d->upstream->mark);

        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS || fd == -EPERM)
            return fail(d, DIAL_RESOURCE, -fd, ECONNREFUSED);
        if (fd < 0) {
            last_error = -fd; /* no such family here */
            continue;
        }
        int r = connect(fd, (struct sockaddr *)&sa, len) < 0 ? errno : 0;

        if (r != 0 && r != EINPROGRESS) {
            fd_close(&fd);
            note_failure(d, r);
            last_error = r;
            continue;
        }
        d->fd = fd;
        r = loop_add(env->loop, fd, DIAL_EVENTS, env->ref);
        if (r == 0)
            r = loop_timer_set(env->loop, env->timer, timeout_of(d), env->ref);
        return r < 0 ? fail(d, DIAL_RESOURCE, -r, ECONNREFUSED) : DIAL_PENDING;
    }
    return fail(d, last_error == ETIMEDOUT ? DIAL_CONNECT_TIMEOUT : DIAL_CONNECT, last_error,
                direct ? last_error : ECONNREFUSED);
}

/* This address will not do; the next one. */
static enum dial_result try_next_address(struct dial *d, int error, const struct dial_env *env)
{
    fd_close(&d->fd);
    note_failure(d, error);
    d->address++;
    return connect_next(d, error, env);
}

/* What hop `d->hop` is asked for: the next hop's host, or the destination. */
static void set_target(const struct dial *d, struct socks_dest *ret)
{
    const struct upstream *u = d->upstream;

    if (d->associate) {
        /* We do not know yet where our datagrams will come from. */
        static const uint8_t any[16];

        ret->type = SOCKS_DEST_ADDR;
        if (addr_is_v4(dial_peer(d)))
            addr_set_v4(&ret->addr, any, 0);
        else
            addr_set_v6(&ret->addr, any, 0);
        return;
    }
    if (d->hop + 1u < u->n_hops) {
        const struct upstream_hop *next = &u->hops[d->hop + 1];

        if (next->n_addrs > 0)
            socks_dest_set_addr(ret, &next->addrs[0]);
        else
            socks_dest_set_name(ret, next->config->url.host, next->config->url.port);
    } else if (d->name) {
        /* Whatever the scheme: the address only stands for the name, and nobody else could tell. */
        socks_dest_set_name(ret, d->name, d->destination->port);
    } else {
        socks_dest_set_addr(ret, d->destination);
    }
}

static enum dial_result start_hop(struct dial *d, const struct dial_env *env)
{
    const struct config_upstream *c = d->upstream->hops[d->hop].config;
    struct socks_dest target;
    struct wire_writer w = wire_writer(d->buffer->out, sizeof(d->buffer->out));

    set_target(d, &target);
    int r = handshake_start(&d->handshake, &c->url, &target, &w);

    d->handshake.associate = d->associate;
    d->buffer->out_len = w.pos;
    d->buffer->out_pos = d->buffer->in_len = 0;
    if (r < 0)
        return fail(d, DIAL_HANDSHAKE, 0, -r);
    r = loop_timer_set(env->loop, env->timer, c->handshake_timeout, env->ref);
    return r < 0 ? fail(d, DIAL_RESOURCE, -r, ECONNREFUSED) : DIAL_PENDING;
}

/* DIAL_PENDING: all of it is out, or the socket is full (`ret_blocked`). */
static enum dial_result send_out(struct dial *d, bool *ret_blocked)
{
    struct dial_buffer *b = d->buffer;

    *ret_blocked = false;
    while (b->out_pos < b->out_len) {
        ssize_t n = send(d->fd, b->out + b->out_pos, b->out_len - b->out_pos, MSG_NOSIGNAL);

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            *ret_blocked = true;
            return DIAL_PENDING;
        }
        if (n < 0)
            return fail(d, DIAL_CLOSED, errno, ECONNREFUSED);
        b->out_pos += (size_t)n;
    }
    return DIAL_PENDING;
}

/* The awaited message was complete or wrong: what next? */
static enum dial_result take_message(struct dial *d, const struct dial_env *env, bool *ret_more)
{
    struct dial_buffer *b = d->buffer;
    struct wire_writer w = wire_writer(b->out, sizeof(b->out));
    struct socks_dest target;

    set_target(d, &target);
    int r = handshake_input(&d->handshake, &target, b->in, b->in_len, &w);

    *ret_more = r == 1 || r == 2;
    /* What an inner hop says is about the next hop, not about the destination. */
    if (r < 0)
        return fail(d, DIAL_HANDSHAKE, 0, d->hop + 1u == d->upstream->n_hops ? -r : ECONNREFUSED);
    if (r == 1) {
        b->out_len = w.pos;
        b->out_pos = b->in_len = 0;
    } else if (r == 2) {
        d->no_auth |= (uint8_t)(d->handshake.no_auth << d->hop);
        if (d->hop + 1u == d->upstream->n_hops) {
            upstream_learn(d->upstream, dial_peer(d), d->no_auth);
            return DIAL_GRANTED;
        }
        d->hop++;
        return start_hop(d, env);
    }
    return DIAL_PENDING;
}

static enum dial_result run(struct dial *d, const struct dial_env *env)
{
    for (;;) {
        struct dial_buffer *b = d->buffer;
        bool stop;
        enum dial_result result = send_out(d, &stop);

        if (result != DIAL_PENDING || stop)
            return result;
        size_t want = handshake_want(&d->handshake, b->in, b->in_len);

        if (want == 0 || want > sizeof(b->in) - b->in_len)
            return fail(d, DIAL_HANDSHAKE, 0, ECONNREFUSED);
        ssize_t n = recv(d->fd, b->in + b->in_len, want, 0);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return DIAL_PENDING;
        if (n <= 0)
            return fail(d, DIAL_CLOSED, n < 0 ? errno : 0, ECONNREFUSED);
        b->in_len += (size_t)n;
        result = take_message(d, env, &stop);
        if (result != DIAL_PENDING)
            return result;
    }
}

enum dial_result dial_start(struct dial *d, struct upstream *u, const struct addr *destination,
                            const char *name, const struct dial_env *env)
{
    *d = (struct dial){.upstream = u, .destination = destination, .name = name, .fd = -1};
    return connect_next(d, EHOSTUNREACH, env);
}

enum dial_result dial_associate(struct dial *d, struct upstream *u, const struct dial_env *env)
{
    *d = (struct dial){.upstream = u, .fd = -1, .associate = true};
    return connect_next(d, EHOSTUNREACH, env);
}

const struct addr *dial_peer(const struct dial *d)
{
    return &d->upstream->hops[0].addrs[d->address];
}

int dial_relay(const struct dial *d, struct addr *ret, bool *ret_named)
{
    const struct addr *peer = dial_peer(d), *bound = &d->handshake.bound;
    bool multicast = addr_is_v4(bound) ? bound->ip[12] >= 224 : bound->ip[0] == 0xff;
    /* Of a name the codec leaves an address of zeros; so does an upstream that names none. */
    bool named = !addr_is_any(bound) && !multicast &&
                 (addr_is_loopback(peer) || !addr_is_loopback(bound)) &&
                 (addr_is_private(peer) || !addr_is_private(bound));

    if (bound->port == 0)
        return -EPROTO;
    if (ret_named)
        *ret_named = named;
    *ret = named ? *bound : *peer;
    ret->port = bound->port;
    return 0;
}

/* Is there something that the loop has not told of yet? Whoever has not run for a while finds the
 * time over and, in one of the batches to come, the answer that was there in time. */
static bool has_come(const struct dial *d)
{
    struct tcp_info info = {.tcpi_state = TCP_SYN_SENT};
    socklen_t len = sizeof(info);
    uint8_t byte;

    if (d->connected) /* what waits while we have not said all is not looked at */
        return d->buffer && d->buffer->out_pos == d->buffer->out_len &&
               (recv(d->fd, &byte, 1, MSG_PEEK) >= 0 || errno != EAGAIN);
    return getsockopt(d->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           info.tcpi_state != TCP_SYN_SENT;
}

enum dial_result dial_event(struct dial *d, uint32_t events, const struct dial_env *env)
{
    if ((events & LOOP_TIMEOUT) && !d->extended && has_come(d)) {
        int r = loop_timer_set(env->loop, env->timer, timeout_of(d), env->ref);

        d->extended = d->connected;
        if (r < 0)
            return fail(d, DIAL_RESOURCE, -r, ECONNREFUSED);
        events = EPOLLIN | EPOLLOUT;
    }
    if (events & LOOP_TIMEOUT) {
        if (d->connected)
            return fail(d, DIAL_HANDSHAKE_TIMEOUT, 0, ETIMEDOUT);
        return try_next_address(d, ETIMEDOUT, env);
    }
    if (!d->connected) {
        int error = 0;
        socklen_t len = sizeof(error);

        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return DIAL_PENDING;
        if (getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
            error = errno;
        if (error != 0)
            return try_next_address(d, error, env);
        d->connected = true;
        if (upstream_is_direct(d->upstream))
            return DIAL_GRANTED;
        if (d->upstream->unproven & 1u << d->address)
            return DIAL_UNPROVEN;
        d->buffer = malloc(sizeof(*d->buffer));
        if (!d->buffer)
            return fail(d, DIAL_RESOURCE, ENOMEM, ECONNREFUSED);
        enum dial_result result = start_hop(d, env);

        if (result != DIAL_PENDING)
            return result;
    }
    enum dial_result result = run(d, env);

    if (result == DIAL_GRANTED)
        free_buffer(d);
    return result;
}

int dial_take(struct dial *d)
{
    int fd = d->fd;

    d->fd = -1;
    return fd;
}

void dial_finish(struct dial *d)
{
    free_buffer(d);
    fd_close(&d->fd);
}

int dial_errno(const struct dial *d)
{
    return d->app_errno;
}

/* That it cannot be reached, or does not listen: what an application is told without a proxy too.
 */
static bool is_about_destination(uint8_t rep)
{
    switch (rep) {
    case SOCKS5_REP_NET_UNREACHABLE:
    case SOCKS5_REP_HOST_UNREACHABLE:
    case SOCKS5_REP_REFUSED:
    case SOCKS5_REP_TTL_EXPIRED:
    case SOCKS4_REP_REJECTED:
        return true;
    default:
        return false;
    }
}

bool dial_upstream_at_fault(const struct dial *d)
{
    if (upstream_is_direct(d->upstream))
        return false;
    if (d->fault == DIAL_HANDSHAKE) {
        uint8_t rep = d->handshake.rep;

        /* These codes speak of the destination: another upstream would be asked in vain, or should
         * not. */
        if (d->handshake.fault == HANDSHAKE_REPLY && d->hop + 1u == d->upstream->n_hops)
            return rep == SOCKS5_REP_COMMAND;
        return d->handshake.fault != HANDSHAKE_FAMILY && d->handshake.fault != HANDSHAKE_REQUEST;
    }
    if (d->fault == DIAL_HANDSHAKE_TIMEOUT)
        return !handshake_awaits_reply(&d->handshake) || d->hop + 1u < d->upstream->n_hops;
    return d->fault != DIAL_RESOURCE;
}

bool dial_upstream_gone(const struct dial *d)
{
    switch (d->fault) {
    case DIAL_CONNECT:
    case DIAL_CONNECT_TIMEOUT:
        return !upstream_is_direct(d->upstream) && !d->may_be_there;
    case DIAL_HANDSHAKE_TIMEOUT:
        return dial_upstream_at_fault(d);
    default:
        /* Of a chain it is the hop before that says so. */
        return dial_was_answered(d) && d->hop + 1u < d->upstream->n_hops &&
               is_about_destination(d->handshake.rep);
    }
}

bool dial_was_answered(const struct dial *d)
{
    return d->fault == DIAL_HANDSHAKE && d->handshake.fault == HANDSHAKE_REPLY;
}

bool dial_worth_a_line(const struct dial *d)
{
    if (upstream_is_direct(d->upstream))
        return false;
    return !dial_was_answered(d) || !is_about_destination(d->handshake.rep) ||
           d->hop + 1u < d->upstream->n_hops;
}

bool dial_udp_denied(const struct dial *d)
{
    /* Some that know no UDP close the connection at the question, or leave it without an answer. */
    return (d->fault == DIAL_HANDSHAKE || d->fault == DIAL_CLOSED ||
            d->fault == DIAL_HANDSHAKE_TIMEOUT) &&
           handshake_awaits_reply(&d->handshake);
}

static void describe_handshake(const struct dial *d, char *buf, size_t size)
{
    switch (d->handshake.fault) {
    case HANDSHAKE_METHOD:
        snprintf(buf, size,
                 "it accepts none of our authentication methods; "
                 "give a user and a password-file");
        break;
    case HANDSHAKE_AUTH:
        snprintf(buf, size, "it refused the user name or password");
        break;
    case HANDSHAKE_REPLY:
        handshake_describe_reply(d->handshake.url->scheme, d->handshake.rep, buf, size);
        break;
    case HANDSHAKE_FAMILY:
        snprintf(buf, size, "SOCKS4 cannot reach IPv6 destinations; use socks5 or socks5h");
        break;
    case HANDSHAKE_REQUEST:
        snprintf(buf, size, "the destination cannot be put into a request");
        break;
    default:
        snprintf(buf, size, "its answer is not SOCKS; is this the right port and scheme?");
        break;
    }
}

const char *dial_describe(const struct dial *d, char *buf, size_t size)
{
    if (upstream_is_direct(d->upstream)) {
        snprintf(buf, size, "direct: %s", strerror(d->os_error));
        return buf;
    }
    const struct config_url *url = &d->upstream->hops[d->hop].config->url;
    int n = 0;

    if (d->upstream->n_hops > 1)
        n = snprintf(buf, size, "hop %u (%s:%u): ", d->hop + 1u, url->host, url->port);
    if (n < 0 || (size_t)n >= size)
        return buf;
    char *at = buf + n;
    size_t left = size - (size_t)n;

    switch (d->fault) {
    case DIAL_RESOURCE:
        snprintf(at, left, "out of resources: %s", strerror(d->os_error));
        break;
    case DIAL_CONNECT:
        snprintf(at, left, "cannot connect to %s:%u: %s", url->host, url->port,
                 strerror(d->os_error));
        break;
    case DIAL_CONNECT_TIMEOUT:
        snprintf(at, left, "no connection to %s:%u within connect-timeout", url->host, url->port);
        break;
    case DIAL_HANDSHAKE_TIMEOUT:
        snprintf(at, left, "no answer within handshake-timeout");
        break;
    case DIAL_CLOSED:
        snprintf(at, left, "it closed the connection during the handshake");
        break;
    default:
        describe_handshake(d, at, left);
        break;
    }
    return buf;
}
