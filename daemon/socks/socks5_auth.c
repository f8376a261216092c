/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "socks/socks5_auth.h"

#include <errno.h>
#include <string.h>

int socks5_encode_auth(struct wire_writer *w, const char *user, const char *password)
{
    struct wire_writer out = *w;
    size_t user_len = strlen(user), password_len = strlen(password);

    if (user_len == 0)
        return -EINVAL;
    if (user_len > SOCKS_NAME_MAX || password_len > SOCKS_NAME_MAX)
        return -ENAMETOOLONG;
    /* Asked before writing: no part of a password is left in a buffer that is too short. */
    if (out.error || 3 + user_len + password_len > out.size - out.pos)
        return -ENOBUFS;
    wire_put_u8(&out, SOCKS5_AUTH_VERSION);
    wire_put_u8(&out, (uint8_t)user_len);
    wire_put_bytes(&out, user, user_len);
    wire_put_u8(&out, (uint8_t)password_len);
    wire_put_bytes(&out, password, password_len);
    *w = out;
    return 0;
}

/* > 0 and the status, 0 and how much is missing, or -EPROTO. */
static int scan_status(const uint8_t *data, size_t len, uint8_t *status, size_t *want)
{
    struct wire_reader r = wire_reader(data, len);
    uint8_t version = wire_get_u8(&r);

    if (!r.error && version != SOCKS5_AUTH_VERSION)
        return -EPROTO;
    *status = wire_get_u8(&r);
    *want = SOCKS5_AUTH_STATUS_LEN - r.pos;
    return r.error ? 0 : (int)r.pos;
}

int socks5_decode_auth_status(const uint8_t *data, size_t len)
{
    uint8_t status;
    size_t want;
    int n = scan_status(data, len, &status, &want);

    return n > 0 && status != 0 ? -EACCES : n;
}

size_t socks5_decode_auth_status_want(const uint8_t *data, size_t len)
{
    uint8_t status;
    size_t want;

    return scan_status(data, len, &status, &want) == 0 ? want : 0;
}

int socks5_decode_auth(const uint8_t *data, size_t len, struct socks5_auth *ret)
{
    struct wire_reader r = wire_reader(data, len);
    uint8_t version = wire_get_u8(&r);

    if (!r.error && version != SOCKS5_AUTH_VERSION)
        return -EPROTO;
    uint8_t user_len = wire_get_u8(&r);

    if (!r.error && user_len == 0)
        return -EPROTO;
    const uint8_t *user = wire_take(&r, user_len);

    if (user && memchr(user, '\0', user_len))
        return -EPROTO;
    uint8_t password_len = wire_get_u8(&r);
    const uint8_t *password = wire_take(&r, password_len);

    if (!user || !password)
        return 0;
    if (memchr(password, '\0', password_len))
        return -EPROTO;

    /* Straight into the output: a copy on the stack would have to be wiped. */
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->user, user, user_len);
    ret->user_len = user_len;
    memcpy(ret->password, password, password_len);
    ret->password_len = password_len;
    return (int)r.pos;
}

int socks5_encode_auth_status(struct wire_writer *w, bool granted)
{
    struct wire_writer out = *w;

    wire_put_u8(&out, SOCKS5_AUTH_VERSION);
    wire_put_u8(&out, granted ? 0 : 1);
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}
