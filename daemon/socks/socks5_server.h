/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SOCKS5 (RFC 1928) from the server's side: greeting in, method out, request in, reply out. The
 * password sub-negotiation between them is in socks5_auth.h. The rules for every codec are in
 * socks.h.
 */
#ifndef UNDERSOCK_SOCKS_SOCKS5_SERVER_H
#define UNDERSOCK_SOCKS_SOCKS5_SERVER_H

#include "base/wire.h"
#include "socks/socks.h"
#include "socks/socks5_auth.h"

struct socks5_greeting {
    uint8_t n_methods; /* 0 is let through: there is nothing to accept, the answer is 0xff */
    uint8_t methods[255];
};

struct socks5_request {
    uint8_t command; /* CMD: enum socks_command, or anything: to be answered with 0x07 */
    struct socks_dest dest;
};

/* VER NMETHODS METHODS (section 3). -EPROTO: wrong version. */
int socks5_decode_greeting(const uint8_t *data, size_t len, struct socks5_greeting *ret);
bool socks5_greeting_offers(const struct socks5_greeting *g, uint8_t method);
/* VER METHOD. SOCKS5_METHOD_UNACCEPTABLE: the client must close the connection. */
int socks5_encode_method(struct wire_writer *w, uint8_t method);

/*
 * VER CMD RSV ATYP DST.ADDR DST.PORT (section 4). -EAFNOSUPPORT: unknown ATYP, to be answered with
 * 0x08 before closing (the length of the message cannot be known); -EPROTO: wrong version, a name
 * that is empty or holds a NUL. Port 0 is passed on.
 */
int socks5_decode_request(const uint8_t *data, size_t len, struct socks5_request *ret);

/* VER REP RSV ATYP BND.ADDR BND.PORT (section 6). `bound` may be NULL (0.0.0.0:0). -EINVAL: a name
 * that is empty or holds a NUL. */
int socks5_encode_reply(struct wire_writer *w, uint8_t rep, const struct socks_dest *bound);

#endif
