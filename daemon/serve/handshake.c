/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the client says before its request is whole, and how it is refused.
 *
 * A message is first peeked at, decoded, and then taken out of the socket to its last byte and not
 * further: whatever the client sent behind its request stays in the socket, where the relay finds
 * it. So greeting, password, request and payload may come in one segment, and nothing is buffered
 * here.
 *
 * Nothing waits to be sent either: all answers together are shorter than any socket's send buffer.
 * A client for which that is not so is closed.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/wire.h"
#include "log.h"
#include "serve/session.h"
#include "socks/socks4.h"
#include "socks/socks5_auth.h"
#include "socks/socks5_server.h"

/* Holds any message whole, so that a decoder that wants more of a full buffer does not exist. */
#define PEEK_SIZE 1024
_Static_assert(PEEK_SIZE > SOCKS4_REQUEST_MAX && PEEK_SIZE > SOCKS5_AUTH_MAX, "peek size");

#define DRAIN_MAX     (64 * 1024)
#define DRAIN_TIMEOUT INT64_C(2000000000)

union message {
    struct socks5_greeting greeting;
    struct socks5_auth auth;
    struct socks5_request request5;
    struct socks4_request request4;
};

int session_send(const struct session *s, const void *data, size_t len)
{
    ssize_t n;

    do
        n = send(s->client, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -ENOBUFS;
}

void session_drain(struct serve *sv, struct session *s)
{
    char sink[16 * 1024];

    for (;;) {
        ssize_t n = recv(s->client, sink, sizeof(sink), MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n == 0) {
            session_close(sv, s, true);
            return;
        }
        s->drained += n > 0 ? (uint32_t)n : 0;
        if (n < 0 || s->drained > DRAIN_MAX) {
            session_close(sv, s, false);
            return;
        }
    }
}

/* The last words, then a FIN, then until the client has read them. */
static void say_goodbye(struct serve *sv, struct session *s, const struct wire_writer *w)
{
    if (w->error || session_send(s, w->data, w->pos) < 0 || shutdown(s->client, SHUT_WR) < 0 ||
        loop_timer_set(sv->loop, &s->timer, DRAIN_TIMEOUT, session_ref(sv, s, SERVE_KIND_TIMER)) <
            0) {
        session_close(sv, s, false);
        return;
    }
    session_set_state(s, SESSION_DRAINING);
    session_drain(sv, s);
}

void session_refuse(struct serve *sv, struct session *s, uint8_t rep5, uint8_t rep4)
{
    uint8_t buf[SOCKS5_REPLY_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    if (s->version == SOCKS4_VERSION)
        (void)socks4_encode_reply(&w, rep4, NULL);
    else
        (void)socks5_encode_reply(&w, rep5, NULL);
    say_goodbye(sv, s, &w);
}

void session_refuse_errno(struct serve *sv, struct session *s, int error)
{
    session_refuse(sv, s, socks5_reply_from_errno(error), socks4_reply_from_errno(error));
}

int session_reply(const struct session *s, const struct addr *bound)
{
    uint8_t buf[SOCKS5_REPLY_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    int r;

    if (s->version == SOCKS4_VERSION) {
        r = socks4_encode_reply(&w, SOCKS4_REP_GRANTED, bound);
    } else {
        struct socks_dest dest;

        socks_dest_set_addr(&dest, bound);
        r = socks5_encode_reply(&w, SOCKS5_REP_SUCCEEDED, &dest);
    }
    return r < 0 ? r : session_send(s, w.data, w.pos);
}

/* Says who keeps failing, not what was tried. */
static void count_auth_failure(struct serve *sv, const struct session *s, const char *what)
{
    struct addr peer;
    char text[ADDR_STRLEN];
    uint64_t suppressed;

    sv->counters.auth_failed++;
    if (!serve_log_allowed(sv, &sv->log_auth, &suppressed) ||
        session_client_address(s, false, &peer) < 0)
        return;
    log_warning("client %s refused: %s (%llu more such refusals since the last line)",
                addr_format_ip(&peer, text), what, (unsigned long long)suppressed);
}

static void on_greeting(struct serve *sv, struct session *s, const struct socks5_greeting *g)
{
    uint8_t buf[SOCKS5_METHOD_LEN];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    uint8_t method = sv->users ? SOCKS5_METHOD_PASSWORD : SOCKS5_METHOD_NONE;

    if (!socks5_greeting_offers(g, method)) {
        count_auth_failure(sv, s, sv->users ? "no password offered" : "no method that is taken");
        (void)socks5_encode_method(&w, SOCKS5_METHOD_UNACCEPTABLE);
        say_goodbye(sv, s, &w);
        return;
    }
    if (socks5_encode_method(&w, method) < 0 || session_send(s, w.data, w.pos) < 0) {
        session_close(sv, s, false);
        return;
    }
    session_set_state(s, sv->users ? SESSION_AUTH : SESSION_REQUEST);
}

static void refuse_auth(struct serve *sv, struct session *s)
{
    uint8_t buf[SOCKS5_AUTH_STATUS_LEN];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    count_auth_failure(sv, s, "wrong user or password");
    (void)socks5_encode_auth_status(&w, false);
    say_goodbye(sv, s, &w);
}

static void on_auth(struct serve *sv, struct session *s, const struct socks5_auth *a)
{
    uint8_t buf[SOCKS5_AUTH_STATUS_LEN];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    if (!users_check(sv->users, a->user, a->password)) {
        refuse_auth(sv, s);
        return;
    }
    if (socks5_encode_auth_status(&w, true) < 0 || session_send(s, w.data, w.pos) < 0) {
        session_close(sv, s, false);
        return;
    }
    session_set_state(s, SESSION_REQUEST);
}

static void on_request(struct serve *sv, struct session *s, uint8_t command,
                       const struct socks_dest *dest)
{
    if (s->version == SOCKS4_VERSION && sv->users) {
        /* Its user id is not a password, and there is no other place for one. */
        count_auth_failure(sv, s, "SOCKS4 has no password");
        session_refuse(sv, s, SOCKS5_REP_NOT_ALLOWED, SOCKS4_REP_IDENT_MISMATCH);
        return;
    }
    if (command == SOCKS_CMD_CONNECT || (command == SOCKS_CMD_BIND && !sv->no_bind)) {
        session_request(sv, s, command, dest);
    } else if (command == SOCKS_CMD_UDP_ASSOCIATE && s->version == SOCKS5_VERSION && sv->udp) {
        session_associate(sv, s, dest);
    } else {
        sv->counters.unsupported++;
        session_refuse(sv, s, SOCKS5_REP_COMMAND, SOCKS4_REP_REJECTED);
    }
}

static int decode(const struct session *s, const uint8_t *data, size_t len, union message *ret)
{
    if (s->state == SESSION_AUTH)
        return socks5_decode_auth(data, len, &ret->auth);
    if (s->state == SESSION_REQUEST)
        return socks5_decode_request(data, len, &ret->request5);
    if (s->version == SOCKS4_VERSION)
        return socks4_decode_request(data, len, &ret->request4);
    return socks5_decode_greeting(data, len, &ret->greeting);
}

static void act(struct serve *sv, struct session *s, const union message *m)
{
    if (s->state == SESSION_AUTH)
        on_auth(sv, s, &m->auth);
    else if (s->state == SESSION_REQUEST)
        on_request(sv, s, m->request5.command, &m->request5.dest);
    else if (s->version == SOCKS4_VERSION)
        on_request(sv, s, m->request4.command, &m->request4.dest);
    else
        on_greeting(sv, s, &m->greeting);
}

/* What can be said to a broken message is said: a client may show it. */
static void refuse_broken(struct serve *sv, struct session *s, int error)
{
    if (s->state == SESSION_REQUEST && error == -EAFNOSUPPORT) {
        sv->counters.unsupported++;
        session_refuse(sv, s, SOCKS5_REP_ATYP, SOCKS4_REP_REJECTED);
        return;
    }
    sv->counters.malformed++;
    if (s->state == SESSION_AUTH)
        refuse_auth(sv, s);
    else if (s->state == SESSION_REQUEST || s->version == SOCKS4_VERSION)
        session_refuse(sv, s, SOCKS5_REP_FAILURE, SOCKS4_REP_REJECTED);
    else
        session_close(sv, s, false);
}

/* Takes out of the socket what was peeked at and understood. */
static bool consume(const struct session *s, uint8_t *data, size_t len)
{
    ssize_t n;

    do
        n = recv(s->client, data, len, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n >= 0 && (size_t)n == len;
}

/*
 * One message. True: it was whole, and there are bytes behind it that are not looked at yet. What
 * arrives after the peek makes an edge of its own.
 */
static bool one_message(struct serve *sv, struct session *s, uint8_t *buf, union message *m)
{
    ssize_t n = recv(s->client, buf, PEEK_SIZE, MSG_PEEK | MSG_DONTWAIT);

    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return false;
    if (n <= 0) {
        session_close(sv, s, false);
        return false;
    }
    if (s->version == 0) {
        int version = socks_server_version(buf, (size_t)n);

        s->version = version > 0 ? (uint8_t)version : 0;
        if (version < 0) {
            refuse_broken(sv, s, version);
            return false;
        }
    }
    int used = decode(s, buf, (size_t)n, m);

    if (used < 0) {
        refuse_broken(sv, s, used);
        return false;
    }
    if (used == 0) {
        /* The rest will not come when the client has closed, or sent more than any message is long.
         */
        if (s->client_hangup || n == PEEK_SIZE)
            session_close(sv, s, false);
        return false;
    }
    if (!consume(s, buf, (size_t)used)) {
        session_close(sv, s, false);
        return false;
    }
    act(sv, s, m);
    return n > used || s->client_hangup;
}

void session_handshake(struct serve *sv, struct session *s)
{
    uint8_t buf[PEEK_SIZE];
    union message m;

    while (s->state == SESSION_GREETING || s->state == SESSION_AUTH ||
           s->state == SESSION_REQUEST) {
        if (!one_message(sv, s, buf, &m))
            break;
    }
    /* A password may have been in both. */
    explicit_bzero(buf, sizeof(buf));
    explicit_bzero(&m, sizeof(m));
}
