/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The server's side of RFC 1928. */
#include "socks/socks5_server.h"

#include <errno.h>
#include <string.h>

#include "socks/socks5_addr.h"

int socks5_decode_greeting(const uint8_t *data, size_t len, struct socks5_greeting *ret)
{
    struct wire_reader r = wire_reader(data, len);
    uint8_t version = wire_get_u8(&r);

    if (!r.error && version != SOCKS5_VERSION)
        return -EPROTO;
    uint8_t n = wire_get_u8(&r);
    const uint8_t *methods = wire_take(&r, n);

    if (!methods)
        return 0;
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->methods, methods, n);
    ret->n_methods = n;
    return (int)r.pos;
}

bool socks5_greeting_offers(const struct socks5_greeting *g, uint8_t method)
{
    return memchr(g->methods, method, g->n_methods) != NULL;
}

int socks5_encode_method(struct wire_writer *w, uint8_t method)
{
    struct wire_writer out = *w;

    wire_put_u8(&out, SOCKS5_VERSION);
    wire_put_u8(&out, method);
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}

int socks5_decode_request(const uint8_t *data, size_t len, struct socks5_request *ret)
{
    struct wire_reader r = wire_reader(data, len);
    struct socks5_request request;
    size_t least = 0;
    uint8_t version = wire_get_u8(&r);

    if (!r.error && version != SOCKS5_VERSION)
        return -EPROTO;
    request.command = wire_get_u8(&r);
    wire_get_u8(&r); /* RSV */
    int err = socks5_read_addr(&r, false, &request.dest, &least);

    if (err < 0)
        return err;
    if (r.error)
        return 0;
    *ret = request;
    return (int)r.pos;
}

int socks5_encode_reply(struct wire_writer *w, uint8_t rep, const struct socks_dest *bound)
{
    struct wire_writer out = *w;
    struct socks_dest none = {.type = SOCKS_DEST_ADDR};

    if (!bound) {
        addr_set_v4(&none.addr, (uint8_t[4]){0}, 0);
        bound = &none;
    }
    wire_put_u8(&out, SOCKS5_VERSION);
    wire_put_u8(&out, rep);
    wire_put_u8(&out, 0);
    int err = socks5_write_addr(&out, bound);

    if (err < 0)
        return err;
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}
