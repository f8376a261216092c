/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SOCKS4 and its extension 4a, both sides. Written after the notes "SOCKS: A protocol for TCP proxy
 * across firewalls" and "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol". The rules for every
 * codec are in socks.h.
 */
#ifndef UNDERSOCK_SOCKS_SOCKS4_H
#define UNDERSOCK_SOCKS_SOCKS4_H

#include "base/wire.h"
#include "socks/socks.h"

struct socks4_request {
    uint8_t command;        /* CD: enum socks_command, or anything: to be answered with 0x5b */
    uint8_t user_len;       /* 0..255 */
    struct socks_dest dest; /* a name when the client spoke 4a */
    char user[SOCKS_NAME_MAX + 1]; /* USERID, NUL-terminated */
};

struct socks4_reply {
    uint8_t rep;       /* CD: enum socks4_rep, or anything; socks4_reply_errno() */
    struct addr bound; /* DSTIP and DSTPORT: of meaning after BIND only */
};

/*
 * Client: VN CD DSTPORT DSTIP USERID NUL, and for a name (4a: DSTIP 0.0.0.1) NAME NUL. `user` may
 * be empty. -EINVAL: not CONNECT or BIND, a name that is empty or holds a NUL, or an address in
 * 0.0.0.0/24 other than 0.0.0.0, which would be taken for 4a; -EAFNOSUPPORT: an IPv6 address;
 * -ENAMETOOLONG: `user` above 255 bytes.
 */
int socks4_encode_request(struct wire_writer *w, uint8_t command, const struct socks_dest *dest,
                          const char *user);

/*
 * Client: VN CD DSTPORT DSTIP. VN is 0 in a reply; -EPROTO when not. A reply that says "rejected"
 * decodes like any other (> 0, `rep` != 0x5a).
 */
int socks4_decode_reply(const uint8_t *data, size_t len, struct socks4_reply *ret);
size_t socks4_decode_reply_want(const uint8_t *data, size_t len);

/*
 * Server. USERID and NAME have no length on the wire; more than 255 bytes of either is -EPROTO, as
 * are a wrong version and an empty 4a name.
 */
int socks4_decode_request(const uint8_t *data, size_t len, struct socks4_request *ret);

/*
 * Server. `bound` may be NULL (0.0.0.0:0). An IPv6 address is sent as 0.0.0.0 with its port, which
 * clients read as "the server's own address".
 */
int socks4_encode_reply(struct wire_writer *w, uint8_t rep, const struct addr *bound);

#endif
