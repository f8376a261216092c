/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * upstream/handshake.h: RFC 1928 with RFC 1929, SOCKS4 and 4a.
 *
 *   SOCKS5:    start → METHOD → (AUTH →) REPLY → granted
 *   SOCKS4/4a: start → REPLY4 → granted
 */
#include "upstream/handshake.h"

#include <errno.h>
#include <stdio.h>

#include "socks/socks4.h"
#include "socks/socks5_auth.h"
#include "socks/socks5_client.h"

enum { STEP_METHOD, STEP_AUTH, STEP_REPLY, STEP_REPLY4 };

static const uint8_t methods[] = {SOCKS5_METHOD_NONE, SOCKS5_METHOD_PASSWORD};

/* A password is offered only when there is one to give. */
static size_t n_methods(const struct handshake *h)
{
    return h->url->has_user ? 2 : 1;
}

static int fail(struct handshake *h, enum handshake_fault fault, int error)
{
    h->fault = (uint8_t)fault;
    return error;
}

int handshake_start(struct handshake *h, const struct config_url *url,
                    const struct socks_dest *target, struct wire_writer *out)
{
    int r;

    *h = (struct handshake){.url = url};
    if (url->scheme == SCHEME_SOCKS5 || url->scheme == SCHEME_SOCKS5H) {
        h->step = STEP_METHOD;
        r = socks5_encode_greeting(out, methods, n_methods(h));
    } else if (url->scheme == SCHEME_SOCKS4 || url->scheme == SCHEME_SOCKS4A) {
        h->step = STEP_REPLY4;
        r = socks4_encode_request(out, SOCKS_CMD_CONNECT, target, url->user);
    } else {
        r = -EPROTONOSUPPORT;
    }
    if (r == -EAFNOSUPPORT)
        return fail(h, HANDSHAKE_FAMILY, -ECONNREFUSED);
    return r < 0 ? fail(h, HANDSHAKE_REQUEST, -ECONNREFUSED) : 0;
}

bool handshake_awaits_reply(const struct handshake *h)
{
    return h->step == STEP_REPLY || h->step == STEP_REPLY4;
}

size_t handshake_want(const struct handshake *h, const uint8_t *in, size_t len)
{
    switch (h->step) {
    case STEP_METHOD:
        return socks5_decode_method_want(in, len);
    case STEP_AUTH:
        return socks5_decode_auth_status_want(in, len);
    case STEP_REPLY:
        return socks5_decode_reply_want(in, len);
    default:
        return socks4_decode_reply_want(in, len);
    }
}

static int request(struct handshake *h, const struct socks_dest *target, struct wire_writer *out)
{
    h->step = STEP_REPLY;
    if (socks5_encode_request(out, h->associate ? SOCKS_CMD_UDP_ASSOCIATE : SOCKS_CMD_CONNECT,
                              target) < 0)
        return fail(h, HANDSHAKE_REQUEST, -ECONNREFUSED);
    return 1;
}

static int input_method(struct handshake *h, const struct socks_dest *target, const uint8_t *in,
                        size_t len, struct wire_writer *out)
{
    uint8_t method;
    int r = socks5_decode_method(in, len, methods, n_methods(h), &method);

    if (r < 0)
        return fail(h, r == -EACCES ? HANDSHAKE_METHOD : HANDSHAKE_PROTOCOL, -ECONNREFUSED);
    if (r == 0)
        return 0;
    if (method == SOCKS5_METHOD_NONE) {
        h->no_auth = n_methods(h) > 1;
        return request(h, target, out);
    }
    h->step = STEP_AUTH;
    if (socks5_encode_auth(out, h->url->user, h->url->password) < 0)
        return fail(h, HANDSHAKE_AUTH, -ECONNREFUSED);
    return 1;
}

static int input_auth(struct handshake *h, const struct socks_dest *target, const uint8_t *in,
                      size_t len, struct wire_writer *out)
{
    int r = socks5_decode_auth_status(in, len);

    if (r < 0)
        return fail(h, r == -EACCES ? HANDSHAKE_AUTH : HANDSHAKE_PROTOCOL, -ECONNREFUSED);
    return r == 0 ? 0 : request(h, target, out);
}

/* The verdict of a reply code: 2 when granted. */
static int verdict(struct handshake *h, uint8_t rep, int error)
{
    h->rep = rep;
    if (error == 0)
        return 2;
    return fail(h, HANDSHAKE_REPLY, error);
}

int handshake_input(struct handshake *h, const struct socks_dest *target, const uint8_t *in,
                    size_t len, struct wire_writer *out)
{
    struct socks5_reply reply5;
    struct socks4_reply reply4;
    int r;

    switch (h->step) {
    case STEP_METHOD:
        return input_method(h, target, in, len, out);
    case STEP_AUTH:
        return input_auth(h, target, in, len, out);
    case STEP_REPLY:
        r = socks5_decode_reply(in, len, &reply5);
        if (r > 0) {
            h->bound = reply5.bound.addr;
            return verdict(h, reply5.rep, socks5_reply_errno(reply5.rep));
        }
        break;
    default:
        r = socks4_decode_reply(in, len, &reply4);
        if (r > 0)
            return verdict(h, reply4.rep, socks4_reply_errno(reply4.rep));
        break;
    }
    return r == 0 ? 0 : fail(h, HANDSHAKE_PROTOCOL, -ECONNREFUSED);
}

void handshake_describe_reply(enum config_scheme scheme, uint8_t rep, char *buf, size_t size)
{
    bool socks4 = scheme == SCHEME_SOCKS4 || scheme == SCHEME_SOCKS4A;

    snprintf(buf, size, "reply 0x%02x: %s", rep,
             socks4 ? socks4_reply_name(rep) : socks5_reply_name(rep));
}
