/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * doctor/probe.h. One connection for each question, as few servers answer two on one.
 */
#include "doctor/probe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fd.h"
#include "doctor/child.h"
#include "doctor/talk.h"
#include "socks/socks4.h"
#include "socks/socks5_client.h"

#define PATIENCE_MS   3000 /* for each step */
#define CHILD_SECONDS 120

struct probing {
    struct upstream *upstream;
    const struct config_url *url;
    bool socks4;
    uint8_t method; /* SOCKS5: the one it chose */
    int answered;   /* an ability whose request is answered at once; -1: none */
    struct probe *found;
};

/* One reply, of either version. */
struct reply {
    uint8_t rep;
    bool granted;
    struct socks_dest bound;
};

struct question {
    uint8_t command;
    const char *address, *name; /* one of them */
};

static const struct question questions[PROBE_ABILITIES] = {
    [PROBE_CONNECT_IPV4] = {SOCKS_CMD_CONNECT, "192.0.2.1:9", NULL},
    [PROBE_CONNECT_IPV6] = {SOCKS_CMD_CONNECT, "[2001:db8::1]:9", NULL},
    [PROBE_CONNECT_NAME] = {SOCKS_CMD_CONNECT, NULL, "undersock.invalid"},
    [PROBE_UDP_ASSOCIATE] = {SOCKS_CMD_UDP_ASSOCIATE, "0.0.0.0:0", NULL},
    [PROBE_BIND] = {SOCKS_CMD_BIND, "0.0.0.0:0", NULL},
};

const char *probe_ability_name(enum probe_ability a)
{
    static const char *const names[PROBE_ABILITIES] = {
        [PROBE_CONNECT_IPV4] = "connect-ipv4",
        [PROBE_CONNECT_IPV6] = "connect-ipv6",
        [PROBE_CONNECT_NAME] = "connect-name",
        [PROBE_UDP_ASSOCIATE] = "udp-associate",
        [PROBE_BIND] = "bind",
        [PROBE_PIPELINING] = "pipelining",
    };

    return names[a];
}

__attribute__((format(printf, 3, 4))) static void
answer(struct probe_answer *ret, enum probe_verdict verdict, const char *format, ...)
{
    va_list ap;

    ret->verdict = verdict;
    va_start(ap, format);
    vsnprintf(ret->text, sizeof(ret->text), format, ap);
    va_end(ap);
}

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- messages ---- */

/* One message and no byte more. Its length, or -errno. */
static int receive_message(int fd, uint8_t *in, size_t size,
                           size_t (*want)(const uint8_t *data, size_t len), int64_t deadline)
{
    size_t len = 0, more;

    while ((more = want(in, len)) > 0) {
        if (more > size - len)
            return -EMSGSIZE;
        int r = talk_receive(fd, in + len, more, deadline);

        if (r < 0)
            return r;
        len += more;
    }
    return (int)len;
}

static int receive_method(int fd, const uint8_t *offered, size_t n, int64_t deadline, uint8_t *ret)
{
    uint8_t in[SOCKS5_METHOD_LEN];
    int r = receive_message(fd, in, sizeof(in), socks5_decode_method_want, deadline);

    if (r >= 0)
        r = socks5_decode_method(in, (size_t)r, offered, n, ret);
    return r < 0 ? r : 0;
}

/* -EACCES: it does not take them. */
static int receive_status(int fd, int64_t deadline)
{
    uint8_t in[SOCKS5_AUTH_STATUS_LEN];
    int r = receive_message(fd, in, sizeof(in), socks5_decode_auth_status_want, deadline);

    if (r >= 0)
        r = socks5_decode_auth_status(in, (size_t)r);
    return r < 0 ? r : 0;
}

static int receive_reply(const struct probing *p, int fd, int64_t deadline, struct reply *ret)
{
    uint8_t in[SOCKS5_REPLY_MAX];
    struct socks4_reply four;
    struct socks5_reply five;
    int r =
        receive_message(fd, in, sizeof(in),
                        p->socks4 ? socks4_decode_reply_want : socks5_decode_reply_want, deadline);

    if (r < 0)
        return r;
    r = p->socks4 ? socks4_decode_reply(in, (size_t)r, &four)
                  : socks5_decode_reply(in, (size_t)r, &five);
    if (r < 0)
        return r;
    *ret = p->socks4 ? (struct reply){.rep = four.rep, .granted = four.rep == SOCKS4_REP_GRANTED}
                     : (struct reply){.rep = five.rep,
                                      .granted = five.rep == SOCKS5_REP_SUCCEEDED,
                                      .bound = five.bound};
    if (p->socks4)
        socks_dest_set_addr(&ret->bound, &four.bound);
    return 0;
}

static int write_request(const struct probing *p, const struct question *q, struct wire_writer *w)
{
    struct socks_dest to;
    struct addr a;

    if (q->name) {
        socks_dest_set_name(&to, q->name, 9);
    } else {
        addr_parse(q->address, 0, &a);
        socks_dest_set_addr(&to, &a);
    }
    return p->socks4 ? socks4_encode_request(w, q->command, &to, p->url->user)
                     : socks5_encode_request(w, q->command, &to);
}

/* ---- conversations ---- */

static int64_t deadline(void)
{
    return talk_now() + PATIENCE_MS;
}

static int greet(int fd, const uint8_t *methods, size_t n, uint8_t *ret_method)
{
    uint8_t out[SOCKS5_GREETING_MAX];
    struct wire_writer w = wire_writer(out, sizeof(out));
    int r = socks5_encode_greeting(&w, methods, n);

    if (r == 0)
        r = talk_send(fd, &w, deadline());
    return r < 0 ? r : receive_method(fd, methods, n, deadline(), ret_method);
}

static int log_in(const struct probing *p, int fd)
{
    uint8_t out[SOCKS5_AUTH_MAX];
    struct wire_writer w = wire_writer(out, sizeof(out));
    int r = socks5_encode_auth(&w, p->url->user, p->url->password);

    if (r == 0)
        r = talk_send(fd, &w, deadline());
    explicit_bzero(out, sizeof(out));
    return r < 0 ? r : receive_status(fd, deadline());
}

static int connect_to(const struct probing *p)
{
    return talk_connect(&p->found->at, deadline());
}

/* Greeting and password. 0 or -errno. */
static int be_let_in(struct probing *p, int fd)
{
    const uint8_t methods[] = {SOCKS5_METHOD_NONE, SOCKS5_METHOD_PASSWORD};
    int r = p->socks4 ? 0 : greet(fd, methods, p->url->has_user ? 2 : 1, &p->method);

    return r == 0 && p->method == SOCKS5_METHOD_PASSWORD ? log_in(p, fd) : r;
}

/* A connection that is let in, or -errno. */
static int enter(struct probing *p)
{
    int fd = connect_to(p), r = fd < 0 ? fd : be_let_in(p, fd);

    if (fd >= 0 && r < 0)
        fd_close(&fd);
    return r < 0 ? r : fd;
}

static bool takes(const struct probing *p, uint8_t method)
{
    uint8_t chosen;
    int fd = connect_to(p), r = fd < 0 ? fd : greet(fd, &method, 1, &chosen);

    fd_close(&fd);
    return r == 0;
}

/* ---- what the answers mean ---- */

static const char *silence(int error)
{
    return error == -EPIPE || error == -ECONNRESET  ? "it hangs up"
           : error == -EPROTO || error == -EMSGSIZE ? "what it answers is no reply"
                                                    : strerror(-error);
}

static enum probe_verdict verdict_of(const struct probing *p, const struct reply *r)
{
    if (r->granted)
        return PROBE_YES;
    if (p->socks4) /* one word for all */
        return PROBE_UNKNOWN;
    switch (r->rep) {
    case SOCKS5_REP_COMMAND:
    case SOCKS5_REP_ATYP:
        return PROBE_NO;
    case SOCKS5_REP_HOST_UNREACHABLE:
    case SOCKS5_REP_REFUSED:
    case SOCKS5_REP_TTL_EXPIRED:
        return PROBE_YES; /* it has tried */
    default:
        return PROBE_UNKNOWN;
    }
}

static void judge_connect(const struct probing *p, const struct reply *r, struct probe_answer *ret)
{
    if (r->granted)
        answer(ret, PROBE_YES, "granted before it can know: connect() will say yes to everything");
    else
        answer(ret, verdict_of(p, r), "%s",
               p->socks4 ? socks4_reply_name(r->rep) : socks5_reply_name(r->rep));
}

static void judge_bound(const struct probing *p, const struct reply *r, struct probe_answer *ret)
{
    char at[SOCKS_DEST_STRLEN];

    if (r->granted)
        answer(ret, PROBE_YES, "at %.100s", socks_dest_format(&r->bound, at));
    else /* nobody was to be reached: whatever it says is no */
        answer(ret, PROBE_NO, "%s",
               p->socks4 ? socks4_reply_name(r->rep) : socks5_reply_name(r->rep));
}

/* Has SOCKS4 no words for it? */
static const char *impossible(const struct probing *p, enum probe_ability a)
{
    if (!p->socks4)
        return NULL;
    switch (a) {
    case PROBE_CONNECT_IPV6:
        return "SOCKS4 has no IPv6";
    case PROBE_UDP_ASSOCIATE:
        return "SOCKS4 has no UDP";
    case PROBE_CONNECT_NAME:
        return p->url->scheme == SCHEME_SOCKS4 ? "socks4a:// has names" : NULL;
    case PROBE_PIPELINING:
        return "SOCKS4 has no greeting";
    default:
        return NULL;
    }
}

static void ask(struct probing *p, enum probe_ability a)
{
    const struct question *q = &questions[a];
    struct probe_answer *ret = &p->found->abilities[a];
    uint8_t out[SOCKS4_REQUEST_MAX];
    struct wire_writer w = wire_writer(out, sizeof(out));
    struct reply reply;
    int fd = enter(p), r = fd < 0 ? fd : write_request(p, q, &w);

    if (r >= 0)
        r = talk_send(fd, &w, deadline());
    if (r >= 0)
        r = receive_reply(p, fd, deadline(), &reply);
    fd_close(&fd);
    if (r == -ETIMEDOUT && q->command == SOCKS_CMD_CONNECT) {
        answer(ret, PROBE_YES, "it tries: no answer within %d s", PATIENCE_MS / 1000);
    } else if (r < 0) {
        answer(ret, r == -ETIMEDOUT ? PROBE_UNKNOWN : PROBE_NO, "%s", silence(r));
    } else {
        if (p->answered < 0 || reply.granted)
            p->answered = (int)a;
        if (q->command == SOCKS_CMD_CONNECT)
            judge_connect(p, &reply, ret);
        else
            judge_bound(p, &reply, ret);
    }
}

/* All that is said at once, and the same answers in the same order. */
static void ask_at_once(struct probing *p)
{
    struct probe_answer *ret = &p->found->abilities[PROBE_PIPELINING];
    uint8_t out[SOCKS5_GREETING_MAX + SOCKS5_AUTH_MAX + SOCKS5_REQUEST_MAX], method;
    struct wire_writer w = wire_writer(out, sizeof(out));
    bool password = p->method == SOCKS5_METHOD_PASSWORD;
    struct reply reply;

    if (p->answered < 0) {
        answer(ret, PROBE_UNKNOWN, "no request is answered at once");
        return;
    }
    int fd = connect_to(p), r = fd < 0 ? fd : socks5_encode_greeting(&w, &p->method, 1);

    if (r >= 0 && password)
        r = socks5_encode_auth(&w, p->url->user, p->url->password);
    if (r >= 0)
        r = write_request(p, &questions[p->answered], &w);
    if (r >= 0)
        r = talk_send(fd, &w, deadline());
    explicit_bzero(out, sizeof(out));
    if (r >= 0)
        r = receive_method(fd, &p->method, 1, deadline(), &method);
    if (r >= 0 && password)
        r = receive_status(fd, deadline());
    if (r >= 0)
        r = receive_reply(p, fd, deadline(), &reply);
    fd_close(&fd);
    if (r >= 0)
        answer(ret, PROBE_YES, "greeting%s and request in one go", password ? ", password" : "");
    else
        answer(ret, PROBE_NO, "%s",
               r == -ETIMEDOUT ? "what comes behind the greeting is lost" : silence(r));
}

/* ---- all of it ---- */

static void say_why(struct probing *p, int error)
{
    char *why = p->found->why;
    size_t size = sizeof(p->found->why);
    bool user = p->url->has_user;

    if (!p->found->connected)
        snprintf(why, size, "cannot connect: %s", strerror(-error));
    else if (error == -EACCES && user)
        snprintf(why, size, "it does not let %.100s in: user or password refused", p->url->user);
    else if (error == -EACCES)
        snprintf(why, size, "it does not let us in without a %s",
                 p->found->password ? "user: socks5h://USER@HOST, and UNDERSOCK_PASSWORD"
                                    : "method that we have");
    else if (error == -EPROTO || error == -EMSGSIZE)
        snprintf(why, size, "it does not speak SOCKS5");
    else if (error == -ETIMEDOUT)
        snprintf(why, size, "no answer to the greeting within %d s", PATIENCE_MS / 1000);
    else
        snprintf(why, size, "the greeting failed: %s", silence(error));
}

/* A connection to the first of its addresses that has one. */
static int reach(struct probing *p)
{
    const struct upstream_hop *hop = &p->upstream->hops[0];
    int fd = -EHOSTUNREACH;

    for (unsigned i = 0; i < hop->n_addrs && fd < 0; i++) {
        int64_t began = now_us();

        p->found->at = hop->addrs[i];
        fd = connect_to(p);
        p->found->connect_us = now_us() - began;
    }
    p->found->connected = fd >= 0;
    return fd;
}

static void find_methods(struct probing *p)
{
    struct probe *f = p->found;

    f->has_methods = true;
    f->none = takes(p, SOCKS5_METHOD_NONE);
    f->password = takes(p, SOCKS5_METHOD_PASSWORD);
    f->gssapi = takes(p, SOCKS5_METHOD_GSSAPI);
}

static void find_abilities(struct probing *p)
{
    for (unsigned a = 0; a < PROBE_ABILITIES; a++) {
        const char *no = impossible(p, a);

        if (no)
            answer(&p->found->abilities[a], PROBE_NO, "%s", no);
        else if (a == PROBE_PIPELINING)
            ask_at_once(p);
        else
            ask(p, a);
    }
}

/* In the child. */
static void work(void *ctx, void *record)
{
    struct probing *p = ctx;
    int64_t began;
    int fd, r;

    p->found = record;
    if (upstream_resolve(p->upstream, 1, p->found->why, sizeof(p->found->why)) < 0)
        return;
    fd = reach(p);
    began = now_us();
    r = fd < 0 ? fd : be_let_in(p, fd);
    p->found->handshake_us = now_us() - began;
    fd_close(&fd);
    if (p->found->connected && !p->socks4 && (r == 0 || r == -EACCES))
        find_methods(p);
    if (r < 0) {
        say_why(p, r);
        return;
    }
    p->found->logged_in = true;
    p->found->asked_password = p->method == SOCKS5_METHOD_PASSWORD;
    find_abilities(p);
}

/* The child has listened to a stranger. */
static void check_record(struct probe *f)
{
    f->why[sizeof(f->why) - 1] = '\0';
    for (unsigned a = 0; a < PROBE_ABILITIES; a++) {
        struct probe_answer *one = &f->abilities[a];

        one->text[sizeof(one->text) - 1] = '\0';
        if (one->verdict != PROBE_YES && one->verdict != PROBE_NO)
            one->verdict = PROBE_UNKNOWN;
    }
}

int probe_upstream(const struct config *c, struct probe *ret)
{
    const struct config_url *url = &c->upstreams[0].url;
    struct upstream *all = NULL;
    struct probing p = {.url = url,
                        .socks4 = url->scheme == SCHEME_SOCKS4 || url->scheme == SCHEME_SOCKS4A,
                        .answered = -1};
    struct child child;
    int r = upstream_build(c, 0, &all);

    *ret = (struct probe){.connected = false};
    p.upstream = all;
    if (r == 0)
        r = child_start(work, &p, sizeof(*ret), CHILD_UNPRIVILEGED, CHILD_SECONDS, &child);
    if (r == 0)
        r = child_finish(&child, ret, sizeof(*ret));
    free(all);
    check_record(ret);
    return r;
}
