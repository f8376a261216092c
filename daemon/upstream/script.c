/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * upstream/script.h. The messages are the codecs' own; what is added here is where each begins, and
 * how its reply is known. The last message is the programs' to write, because it carries the
 * destination.
 */
#include "upstream/script.h"

#include <errno.h>
#include <string.h>

#include "socks/socks4.h"
#include "socks/socks5_auth.h"
#include "socks/socks5_client.h"

#define SYN_RETRIES_MAX 30 /* the kernel's own limit is 127; years are enough */

struct builder {
    struct stitch_script *s;
    size_t used;   /* of s->bytes, a multiple of 8 */
    size_t before; /* octets of all messages so far */
};

static struct stitch_step *new_step(struct builder *b, uint8_t version, uint8_t good,
                                    uint8_t reply_len)
{
    struct stitch_step *step;

    if (b->s->n_steps == STITCH_STEPS)
        return NULL;
    step = &b->s->steps[b->s->n_steps++];
    step->version = version;
    step->good = good;
    step->reply_len = reply_len;
    step->verdicts = STITCH_VERDICTS_REFUSE;
    step->before = (uint16_t)b->before;
    return step;
}

static struct wire_writer room(const struct builder *b)
{
    return wire_writer(b->s->bytes + b->used, STITCH_STATIC - b->used);
}

/* What was written becomes the message of a step. */
static int take(struct builder *b, const struct wire_writer *w, int r, struct stitch_step *step)
{
    if (r < 0)
        return r == -ENOBUFS ? -E2BIG : r;
    if (step == NULL)
        return -E2BIG;
    step->at = (uint16_t)b->used;
    step->len = (uint16_t)w->pos;
    b->before += w->pos;
    b->used += (w->pos + 7) & ~(size_t)7;
    return 0;
}

static int add_methods(struct builder *b, const struct config_url *url, bool password)
{
    const uint8_t method = password ? SOCKS5_METHOD_PASSWORD : SOCKS5_METHOD_NONE;
    struct wire_writer w = room(b);
    int r = socks5_encode_greeting(&w, &method, 1);

    r = take(b, &w, r, new_step(b, SOCKS5_VERSION, method, SOCKS5_METHOD_LEN));
    if (r < 0 || !password)
        return r;
    w = room(b);
    r = socks5_encode_auth(&w, url->user, url->password);
    return take(b, &w, r, new_step(b, SOCKS5_AUTH_VERSION, 0, SOCKS5_AUTH_STATUS_LEN));
}

static struct stitch_step *new_request(struct builder *b, bool socks5)
{
    if (socks5)
        return new_step(b, SOCKS5_VERSION, SOCKS5_REP_SUCCEEDED, 0);
    return new_step(b, SOCKS4_REPLY_VERSION, SOCKS4_REP_GRANTED, SOCKS4_REPLY_LEN);
}

/* An inner hop is asked for the next one; what it answers says nothing of the destination. */
static int add_inner_request(struct builder *b, const struct upstream_hop *hop,
                             const struct upstream_hop *next, bool socks5)
{
    struct wire_writer w = room(b);
    struct socks_dest target;
    int r = 0;

    if (next->n_addrs > 0)
        socks_dest_set_addr(&target, &next->addrs[0]);
    else
        r = socks_dest_set_name(&target, next->config->url.host, next->config->url.port);
    if (r == 0 && socks5)
        r = socks5_encode_request(&w, SOCKS_CMD_CONNECT, &target);
    else if (r == 0)
        r = socks4_encode_request(&w, SOCKS_CMD_CONNECT, &target, hop->config->url.user);
    return take(b, &w, r, new_request(b, socks5));
}

static int add_last_request(struct builder *b, const struct config_url *url, bool socks5)
{
    size_t user_len = strlen(url->user);
    struct stitch_step *step = new_request(b, socks5);

    if (step == NULL || (!socks5 && user_len > STITCH_USER_MAX))
        return -E2BIG;
    step->at = STITCH_STATIC;
    if (socks5) {
        b->s->form = STITCH_FORM_SOCKS5;
        step->verdicts = STITCH_VERDICTS_SOCKS5;
        return 0;
    }
    b->s->form = STITCH_FORM_SOCKS4;
    b->s->user_len = (uint8_t)user_len;
    memcpy(b->s->user, url->user, user_len);
    return 0;
}

static int add_hop(struct builder *b, const struct upstream *u, unsigned i, bool no_auth)
{
    const struct config_url *url = &u->hops[i].config->url;
    bool socks5 = url->scheme == SCHEME_SOCKS5 || url->scheme == SCHEME_SOCKS5H;
    int r = 0;

    if (!socks5 && url->scheme != SCHEME_SOCKS4 && url->scheme != SCHEME_SOCKS4A)
        return -EOPNOTSUPP;
    if (socks5)
        r = add_methods(b, url, url->has_user && !no_auth);
    if (r < 0)
        return r;
    if (i + 1 < u->n_hops)
        return add_inner_request(b, &u->hops[i], &u->hops[i + 1], socks5);
    return add_last_request(b, url, socks5);
}

static const char *explain(int error)
{
    switch (error) {
    case -EOPNOTSUPP:
        return "only SOCKS hops can be stitched";
    case -E2BIG:
        return "the handshake is too long to be stitched";
    case -EAFNOSUPPORT:
        return "a SOCKS4 hop cannot reach the next one over IPv6";
    case -EADDRNOTAVAIL:
        return "its upstream has a link-local address, which takes the relay";
    default:
        return "the handshake cannot be encoded";
    }
}

static uint32_t milliseconds(int64_t t)
{
    return t / 1000000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(t / 1000000);
}

/* How often a SYN may be repeated until nobody waits for the handshake: the kernel does it after 1,
 * 2, 4 ... seconds (RFC 6298, 5.5; since Linux 6.5 a few times more, tcp_syn_linear_timeouts). */
static uint16_t syn_retries(int64_t handshake)
{
    uint16_t n = 1;

    while (n < SYN_RETRIES_MAX && ((INT64_C(2) << n) - 1) * INT64_C(1000000000) < handshake)
        n++;
    return n;
}

int script_build(const struct upstream *u, const struct script_options *o,
                 struct stitch_script *ret, const char **ret_why)
{
    struct stitch_script s = {0};
    struct builder b = {.s = &s};
    int64_t timeout = 0;
    int r = 0;

    if (u->n_hops == 0)
        r = -EOPNOTSUPP;
    else if (o->address >= u->hops[0].n_addrs)
        r = -EINVAL;
    else if (u->hops[0].addrs[o->address].scope != 0)
        r = -EADDRNOTAVAIL; /* what turns connect() to it gives it an address, no interface */
    for (unsigned i = 0; r == 0 && i < u->n_hops; i++) {
        r = add_hop(&b, u, i, o->no_auth >> i & 1);
        timeout += u->hops[i].config->handshake_timeout;
    }
    if (r == 0) {
        const struct addr *server = &u->hops[0].addrs[o->address];

        memcpy(s.server.ip, server->ip, sizeof(s.server.ip));
        s.server.port = server->port;
        s.id = o->id;
        s.connect_timeout = milliseconds(u->hops[0].config->connect_timeout);
        s.timeout = milliseconds(timeout);
        s.syn_retries = syn_retries(u->hops[0].config->connect_timeout + timeout);
        s.static_len = (uint16_t)b.used;
        *ret = s;
    } else {
        *ret_why = explain(r);
    }
    explicit_bzero(&s, sizeof(s));
    return r;
}
