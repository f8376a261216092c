/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's side of RFC 1928. A message that comes in is read by one scan function, which serves
 * both the decoder and its `_want`: so the two cannot disagree about where the message ends.
 */
#include "socks/socks5_client.h"

#include <errno.h>
#include <string.h>

#include "socks/socks5_addr.h"

#define REPLY_MIN 7 /* VER REP RSV ATYP LEN PORT: an empty name */

int socks5_encode_greeting(struct wire_writer *w, const uint8_t *methods, size_t n)
{
    struct wire_writer out = *w;

    if (n < 1 || n > 255 || memchr(methods, SOCKS5_METHOD_UNACCEPTABLE, n))
        return -EINVAL;
    wire_put_u8(&out, SOCKS5_VERSION);
    wire_put_u8(&out, (uint8_t)n);
    wire_put_bytes(&out, methods, n);
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}

/* > 0 and the method, 0 and how much is missing, or -EPROTO. */
static int scan_method(const uint8_t *data, size_t len, uint8_t *method, size_t *want)
{
    struct wire_reader r = wire_reader(data, len);
    uint8_t version = wire_get_u8(&r);

    if (!r.error && version != SOCKS5_VERSION)
        return -EPROTO;
    *method = wire_get_u8(&r);
    *want = SOCKS5_METHOD_LEN - r.pos;
    return r.error ? 0 : (int)r.pos;
}

int socks5_decode_method(const uint8_t *data, size_t len, const uint8_t *offered, size_t n_offered,
                         uint8_t *ret_method)
{
    uint8_t method;
    size_t want;
    int n = scan_method(data, len, &method, &want);

    if (n <= 0)
        return n;
    if (method == SOCKS5_METHOD_UNACCEPTABLE)
        return -EACCES;
    if (n_offered == 0 || !memchr(offered, method, n_offered))
        return -EPROTO;
    *ret_method = method;
    return n;
}

size_t socks5_decode_method_want(const uint8_t *data, size_t len)
{
    uint8_t method;
    size_t want;

    return scan_method(data, len, &method, &want) == 0 ? want : 0;
}

int socks5_encode_request(struct wire_writer *w, uint8_t command, const struct socks_dest *dest)
{
    struct wire_writer out = *w;

    if (command < SOCKS_CMD_CONNECT || command > SOCKS_CMD_UDP_ASSOCIATE)
        return -EINVAL;
    wire_put_u8(&out, SOCKS5_VERSION);
    wire_put_u8(&out, command);
    wire_put_u8(&out, 0);
    int err = socks5_write_addr(&out, dest);

    if (err < 0)
        return err;
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}

/* > 0 and the reply, 0 and how much is certainly missing, or -EPROTO. */
static int scan_reply(const uint8_t *data, size_t len, struct socks5_reply *reply, size_t *want)
{
    struct wire_reader r = wire_reader(data, len);
    size_t least = REPLY_MIN;
    uint8_t version = wire_get_u8(&r);

    if (!r.error && version != SOCKS5_VERSION)
        return -EPROTO;
    reply->rep = wire_get_u8(&r);
    wire_get_u8(&r); /* RSV */
    if (socks5_read_addr(&r, true, &reply->bound, &least) < 0)
        return -EPROTO;
    if (!r.error)
        return (int)r.pos;
    *want = least - len;
    return 0;
}

int socks5_decode_reply(const uint8_t *data, size_t len, struct socks5_reply *ret)
{
    struct socks5_reply reply = {.rep = 0};
    size_t want;
    int n = scan_reply(data, len, &reply, &want);

    if (n > 0)
        *ret = reply;
    return n;
}

size_t socks5_decode_reply_want(const uint8_t *data, size_t len)
{
    struct socks5_reply reply;
    size_t want;

    return scan_reply(data, len, &reply, &want) == 0 ? want : 0;
}
