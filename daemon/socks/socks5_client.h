/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SOCKS5 (RFC 1928) from the client's side: greeting out, method in, request out, reply in. The
 * password sub-negotiation between them is in socks5_auth.h. The rules for every codec are in
 * socks.h.
 */
#ifndef UNDERSOCK_SOCKS_SOCKS5_CLIENT_H
#define UNDERSOCK_SOCKS_SOCKS5_CLIENT_H

#include "base/wire.h"
#include "socks/socks.h"
#include "socks/socks5_auth.h"

struct socks5_reply {
    uint8_t rep;             /* enum socks5_rep, or unassigned; socks5_reply_errno() */
    struct socks_dest bound; /* BND.ADDR and BND.PORT */
};

/*
 * VER NMETHODS METHODS (section 3). -EINVAL when `n` is not 1..255 or 0xff is among the methods.
 */
int socks5_encode_greeting(struct wire_writer *w, const uint8_t *methods, size_t n);

/*
 * VER METHOD (section 3). `offered`: what the greeting had. -EACCES: no acceptable methods (0xff);
 * -EPROTO: wrong version, or a method that was not offered.
 */
int socks5_decode_method(const uint8_t *data, size_t len, const uint8_t *offered, size_t n_offered,
                         uint8_t *ret_method);
size_t socks5_decode_method_want(const uint8_t *data, size_t len);

/*
 * VER CMD RSV ATYP DST.ADDR DST.PORT (section 4). -EINVAL: not one of the three commands, or a name
 * that is empty or holds a NUL. A scope (link-local addresses) has no place on the wire and is
 * dropped.
 */
int socks5_encode_request(struct wire_writer *w, uint8_t command, const struct socks_dest *dest);

/*
 * VER REP RSV ATYP BND.ADDR BND.PORT (section 6); also the second reply to BIND. BND.ADDR may be a
 * name, even an empty one: for CONNECT it means nothing, and a granted connection is not lost over
 * it. A reply that says "failed" decodes like any other (> 0, `rep` != 0). -EPROTO: wrong version,
 * unknown ATYP, NUL in a name.
 */
int socks5_decode_reply(const uint8_t *data, size_t len, struct socks5_reply *ret);
size_t socks5_decode_reply_want(const uint8_t *data, size_t len);

#endif
