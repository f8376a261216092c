/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SOCKS4 and 4a, both sides. The request ends in one or two strings that have no length, only a
 * NUL; the limit of 255 bytes each is ours, so that a client cannot make the server wait for a NUL
 * for ever.
 */
#include "socks/socks4.h"

#include <errno.h>
#include <string.h>

/* The IPv4 address that says "a name follows" (4a): 0.0.0.x with x != 0. */
static bool means_name(const uint8_t ip[4])
{
    return ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] != 0;
}

int socks4_encode_request(struct wire_writer *w, uint8_t command, const struct socks_dest *dest,
                          const char *user)
{
    static const uint8_t name_follows[4] = {0, 0, 0, 1};
    struct wire_writer out = *w;
    size_t user_len = strlen(user);
    const uint8_t *ip = name_follows;

    if (command != SOCKS_CMD_CONNECT && command != SOCKS_CMD_BIND)
        return -EINVAL;
    if (user_len > SOCKS_NAME_MAX)
        return -ENAMETOOLONG;
    if (dest->type == SOCKS_DEST_ADDR) {
        if (!addr_is_v4(&dest->addr))
            return -EAFNOSUPPORT;
        ip = dest->addr.ip + sizeof(dest->addr.ip) - 4;
        if (means_name(ip))
            return -EINVAL;
    } else if (dest->type != SOCKS_DEST_NAME || dest->name_len == 0 ||
               memchr(dest->name, '\0', dest->name_len)) {
        return -EINVAL;
    }
    wire_put_u8(&out, SOCKS4_VERSION);
    wire_put_u8(&out, command);
    wire_put_u16(&out, dest->addr.port);
    wire_put_bytes(&out, ip, 4);
    wire_put_bytes(&out, user, user_len);
    wire_put_u8(&out, 0);
    if (dest->type == SOCKS_DEST_NAME) {
        wire_put_bytes(&out, dest->name, dest->name_len);
        wire_put_u8(&out, 0);
    }
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}

/* > 0 and the reply, 0 and how much is missing, or -EPROTO. */
static int scan_reply(const uint8_t *data, size_t len, struct socks4_reply *reply, size_t *want)
{
    struct wire_reader r = wire_reader(data, len);
    uint8_t version = wire_get_u8(&r), ip[4];

    if (!r.error && version != SOCKS4_REPLY_VERSION)
        return -EPROTO;
    reply->rep = wire_get_u8(&r);
    uint16_t port = wire_get_u16(&r);

    wire_get_bytes(&r, ip, sizeof(ip));
    if (r.error) {
        *want = SOCKS4_REPLY_LEN - len;
        return 0;
    }
    addr_set_v4(&reply->bound, ip, port);
    return (int)r.pos;
}

int socks4_decode_reply(const uint8_t *data, size_t len, struct socks4_reply *ret)
{
    struct socks4_reply reply = {.rep = 0};
    size_t want;
    int n = scan_reply(data, len, &reply, &want);

    if (n > 0)
        *ret = reply;
    return n;
}

size_t socks4_decode_reply_want(const uint8_t *data, size_t len)
{
    struct socks4_reply reply;
    size_t want;

    return scan_reply(data, len, &reply, &want) == 0 ? want : 0;
}

/*
 * A string that ends in NUL, of at most 255 bytes without it. 0, with `r->error` set when its end
 * has not come yet; -EPROTO: too long.
 */
static int read_string(struct wire_reader *r, char ret[SOCKS_NAME_MAX + 1], uint8_t *ret_len)
{
    size_t len = 0;
    uint8_t c;

    while ((c = wire_get_u8(r)) != 0) {
        if (len == SOCKS_NAME_MAX)
            return -EPROTO;
        ret[len++] = (char)c;
    }
    ret[len] = '\0';
    *ret_len = (uint8_t)len;
    return 0;
}

int socks4_decode_request(const uint8_t *data, size_t len, struct socks4_request *ret)
{
    struct wire_reader r = wire_reader(data, len);
    struct socks4_request request = {.dest.type = SOCKS_DEST_ADDR};
    uint8_t version = wire_get_u8(&r), ip[4];

    if (!r.error && version != SOCKS4_VERSION)
        return -EPROTO;
    request.command = wire_get_u8(&r);
    uint16_t port = wire_get_u16(&r);

    wire_get_bytes(&r, ip, sizeof(ip));
    int err = read_string(&r, request.user, &request.user_len);

    if (err < 0)
        return err;
    if (means_name(ip)) {
        request.dest.type = SOCKS_DEST_NAME;
        request.dest.addr.port = port;
        err = read_string(&r, request.dest.name, &request.dest.name_len);
        if (err < 0)
            return err;
        if (!r.error && request.dest.name_len == 0)
            return -EPROTO;
    } else {
        addr_set_v4(&request.dest.addr, ip, port);
    }
    if (r.error)
        return 0;
    *ret = request;
    return (int)r.pos;
}

int socks4_encode_reply(struct wire_writer *w, uint8_t rep, const struct addr *bound)
{
    static const uint8_t any[4];
    struct wire_writer out = *w;
    const uint8_t *ip = any;

    if (bound && addr_is_v4(bound))
        ip = bound->ip + sizeof(bound->ip) - 4;
    wire_put_u8(&out, SOCKS4_REPLY_VERSION);
    wire_put_u8(&out, rep);
    wire_put_u16(&out, bound ? bound->port : 0);
    wire_put_bytes(&out, ip, 4);
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}
