/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last message of a script: the request that carries the destination. Plain C without helpers,
 * so that a test can look at what it writes. Loops and indices are as the verifier wants them:
 * bounded, and masked.
 */
#ifndef UNDERSOCK_BPF_COMPOSE_BPF_H
#define UNDERSOCK_BPF_COMPOSE_BPF_H

#include "stitch_abi.h"

#define COMPOSE_MASK (STITCH_REQUEST - 1)

/* IPv4 as ::ffff:a.b.c.d */
static inline __attribute__((always_inline)) int compose_is_v4(const ABI_U8 *ip)
{
    for (int i = 0; i < 10; i++) {
        if (ip[i])
            return 0;
    }
    return ip[10] == 0xff && ip[11] == 0xff;
}

/* Appends; an octet that does not fit lands somewhere in the message, but never outside. */
static inline __attribute__((always_inline)) ABI_U32 compose_put(ABI_U8 *to, ABI_U32 at, ABI_U8 v)
{
    to[at & COMPOSE_MASK] = v;
    return at + 1;
}

static inline __attribute__((always_inline)) ABI_U32 compose_name(ABI_U8 *to, ABI_U32 at,
                                                                  const struct stitch_name *name)
{
    for (ABI_U32 i = 0; i < STITCH_NAME_MAX; i++) {
        if (i >= name->len)
            break;
        to[(at + i) & COMPOSE_MASK] = name->name[i];
    }
    return at + name->len;
}

static inline __attribute__((always_inline)) ABI_U32
compose_socks5(ABI_U8 *to, const ABI_U8 *ip, ABI_U16 port, const struct stitch_name *name)
{
    ABI_U32 at;

    to[0] = 5; /* VER */
    to[1] = 1; /* CMD: CONNECT */
    to[2] = 0; /* RSV */
    if (name) {
        to[3] = 3; /* ATYP: a name */
        to[4] = name->len;
        at = compose_name(to, 5, name);
    } else if (compose_is_v4(ip)) {
        to[3] = 1;
        for (int i = 0; i < 4; i++)
            to[4 + i] = ip[12 + i];
        at = 8;
    } else {
        to[3] = 4;
        for (int i = 0; i < 16; i++)
            to[4 + i] = ip[i];
        at = 20;
    }
    at = compose_put(to, at, port >> 8);
    return compose_put(to, at, port & 0xff);
}

/* 0: SOCKS4 cannot carry it. */
static inline __attribute__((always_inline)) ABI_U32 compose_socks4(ABI_U8 *to,
                                                                    const struct stitch_script *s,
                                                                    const ABI_U8 *ip, ABI_U16 port,
                                                                    const struct stitch_name *name)
{
    ABI_U32 at = 8;

    if (!name && (!compose_is_v4(ip) || !ip[12]))
        return 0;
    to[0] = 4; /* VN */
    to[1] = 1; /* CD: CONNECT */
    to[2] = port >> 8;
    to[3] = port & 0xff;
    for (int i = 0; i < 4; i++)
        to[4 + i] = name ? i == 3 : ip[12 + i]; /* 0.0.0.1: a name follows */
    for (ABI_U32 i = 0; i < STITCH_USER_MAX; i++) {
        if (i >= s->user_len)
            break;
        to[8 + i] = s->user[i];
    }
    at = compose_put(to, 8 + s->user_len, 0);
    if (name) {
        at = compose_name(to, at, name);
        at = compose_put(to, at, 0);
    }
    return at;
}

/*
 * Writes the request to `to`, STITCH_REQUEST octets, which are zeroes before. `name` may be NULL.
 * Returns its length; 0: it cannot be asked for in this form.
 */
static inline __attribute__((always_inline)) ABI_U32 compose_request(ABI_U8 *to,
                                                                     const struct stitch_script *s,
                                                                     const ABI_U8 *ip, ABI_U16 port,
                                                                     const struct stitch_name *name)
{
    if (name && !name->len)
        return 0;
    if (s->form == STITCH_FORM_SOCKS5)
        return compose_socks5(to, ip, port, name);
    if (s->form == STITCH_FORM_SOCKS4 && s->user_len <= STITCH_USER_MAX)
        return compose_socks4(to, s, ip, port, name);
    return 0;
}

#endif
