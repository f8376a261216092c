/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One hop's handshake as a pure state machine: what to send, how much to read, what the answer
 * means. No I/O. It asks for exactly the bytes of each message, so nothing behind the last reply is
 * ever read.
 */
#ifndef UNDERSOCK_UPSTREAM_HANDSHAKE_H
#define UNDERSOCK_UPSTREAM_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/wire.h"
#include "config/config.h"
#include "socks/socks.h"

/* Any message we send or read. */
#define HANDSHAKE_OUT_MAX 520
#define HANDSHAKE_IN_MAX  264

enum handshake_fault {
    HANDSHAKE_OK,
    HANDSHAKE_PROTOCOL, /* not a SOCKS answer, or not to what we asked */
    HANDSHAKE_METHOD,   /* none of our methods is good enough for it */
    HANDSHAKE_AUTH,     /* user or password refused */
    HANDSHAKE_REPLY,    /* a reply code: `rep` */
    HANDSHAKE_FAMILY,   /* SOCKS4 cannot carry this destination */
    HANDSHAKE_REQUEST,  /* our own request cannot be encoded */
};

struct handshake {
    const struct config_url *url;
    uint8_t step;
    uint8_t fault;     /* enum handshake_fault */
    uint8_t rep;       /* of the reply */
    bool no_auth;      /* it could have had a password, and did not want it */
    bool associate;    /* UDP ASSOCIATE instead of CONNECT (SOCKS5 only); set after the start */
    struct addr bound; /* granted by SOCKS5: BND; of a name, the port alone */
};

/* Begins; writes the first message. 0, or -errno with `fault` set. */
int handshake_start(struct handshake *h, const struct config_url *url,
                    const struct socks_dest *target, struct wire_writer *out);
/* Everything but the answer to our request is done: a silence may be the destination's. */
bool handshake_awaits_reply(const struct handshake *h);
/* How many more bytes belong to the awaited message for certain, >= 1. */
size_t handshake_want(const struct handshake *h, const uint8_t *in, size_t len);
/*
 * Looks at what was read of the awaited message. 0: more is needed. 1: it was complete and the next
 * message was written to `out`; read from the beginning again. 2: the hop granted the connection.
 * -errno: `fault` says why; the errno is what the application is to see.
 */
int handshake_input(struct handshake *h, const struct socks_dest *target, const uint8_t *in,
                    size_t len, struct wire_writer *out);
/* The line's words for a reply code of a hop with this scheme. */
void handshake_describe_reply(enum config_scheme scheme, uint8_t rep, char *buf, size_t size);

#endif
