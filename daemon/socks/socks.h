/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the SOCKS codecs share: the numbers of RFC 1928, RFC 1929 and the SOCKS4/4a notes, the
 * destination type, names for logs, and the mapping between reply codes and errno.
 *
 * Rules of every codec in this folder:
 * - No I/O, no allocation, no logging, no clock, no state.
 * - A decoder looks at `data[0..len)`, the beginning of a stream. It returns the length of the one
 * message found there (> 0; bytes after it are not its concern), 0 when the message is incomplete,
 * or a negative errno as soon as a byte is seen that no right message has. Outputs are written only
 * when it returns > 0.
 * - A client-side decoder `x` has a companion `x_want(data, len)`: how many more bytes certainly
 * belong to the same message. >= 1 exactly while the decoder returns 0, else 0. Who reads by these
 * hints never reads beyond the message, so the server's first application bytes stay in the socket.
 * - An encoder appends to a writer and returns 0; or it returns -errno and the writer is as it was
 *   (-ENOBUFS: does not fit, or the writer had already failed).
 * - Reserved fields are sent as 0 and ignored when received: servers in the field put other values
 * there.
 */
#ifndef UNDERSOCK_SOCKS_SOCKS_H
#define UNDERSOCK_SOCKS_SOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"

#define SOCKS4_VERSION       0x04
#define SOCKS5_VERSION       0x05
#define SOCKS5_AUTH_VERSION  0x01 /* of the RFC 1929 sub-negotiation */
#define SOCKS4_REPLY_VERSION 0x00 /* VN of a SOCKS4 reply */

#define SOCKS_NAME_MAX 255 /* a domain name, a user, a password, a SOCKS4 user id */

/* Buffer sizes that hold any message of the kind. */
#define SOCKS5_GREETING_MAX    257 /* VER NMETHODS METHODS */
#define SOCKS5_METHOD_LEN      2   /* VER METHOD */
#define SOCKS5_AUTH_MAX        513 /* VER ULEN UNAME PLEN PASSWD */
#define SOCKS5_AUTH_STATUS_LEN 2   /* VER STATUS */
#define SOCKS5_REQUEST_MAX     262 /* VER CMD RSV ATYP LEN NAME PORT */
#define SOCKS5_REPLY_MAX       262
#define SOCKS5_UDP_HEADER_MAX  262 /* RSV RSV FRAG ATYP LEN NAME PORT */
#define SOCKS4_REQUEST_MAX     520 /* VN CD PORT IP USERID NUL NAME NUL */
#define SOCKS4_REPLY_LEN       8

/* CMD; SOCKS4 has the first two. */
enum socks_command {
    SOCKS_CMD_CONNECT = 0x01,
    SOCKS_CMD_BIND = 0x02,
    SOCKS_CMD_UDP_ASSOCIATE = 0x03,
};

/* METHOD */
enum socks5_method {
    SOCKS5_METHOD_NONE = 0x00,
    SOCKS5_METHOD_GSSAPI = 0x01,
    SOCKS5_METHOD_PASSWORD = 0x02,
    SOCKS5_METHOD_UNACCEPTABLE = 0xff, /* the server takes none of those offered */
};

/* ATYP */
enum socks5_atyp {
    SOCKS5_ATYP_IPV4 = 0x01,
    SOCKS5_ATYP_NAME = 0x03,
    SOCKS5_ATYP_IPV6 = 0x04,
};

/* REP of a SOCKS5 reply. 0x09..0xff are unassigned; a decoder passes them on, and they mean
 * failure. */
enum socks5_rep {
    SOCKS5_REP_SUCCEEDED = 0x00,
    SOCKS5_REP_FAILURE = 0x01,
    SOCKS5_REP_NOT_ALLOWED = 0x02,
    SOCKS5_REP_NET_UNREACHABLE = 0x03,
    SOCKS5_REP_HOST_UNREACHABLE = 0x04,
    SOCKS5_REP_REFUSED = 0x05,
    SOCKS5_REP_TTL_EXPIRED = 0x06,
    SOCKS5_REP_COMMAND = 0x07, /* command not supported */
    SOCKS5_REP_ATYP = 0x08,    /* address type not supported */
};

/* CD of a SOCKS4 reply. Others are passed on by the decoder, and mean failure. */
enum socks4_rep {
    SOCKS4_REP_GRANTED = 0x5a,
    SOCKS4_REP_REJECTED = 0x5b,
    SOCKS4_REP_NO_IDENTD = 0x5c,
    SOCKS4_REP_IDENT_MISMATCH = 0x5d,
};

enum socks_dest_type {
    SOCKS_DEST_ADDR, /* `addr` */
    SOCKS_DEST_NAME, /* `name`, and the port in `addr.port` */
};

/*
 * Where a request wants to go, or what a reply says was bound. The port is in `addr.port` for both
 * types; of a name the rest of `addr` is 0. A name is NUL-terminated and has no NUL inside, but is
 * otherwise any bytes: print it with socks_dest_format(). An IPv4-mapped IPv6 address (ATYP 4) is
 * the IPv4 address, as everywhere in this project, and goes out again as ATYP 1.
 */
struct socks_dest {
    struct addr addr;
    uint8_t type;     /* enum socks_dest_type */
    uint8_t name_len; /* 1..255; 0 when it is an address, or an empty name in a reply */
    char name[SOCKS_NAME_MAX + 1];
};

#define SOCKS_DEST_STRLEN 264 /* a name, ':', a port */

void socks_dest_set_addr(struct socks_dest *ret, const struct addr *a);
/* `port` in host order. -EINVAL: empty; -ENAMETOOLONG: more than 255 bytes. */
int socks_dest_set_name(struct socks_dest *ret, const char *name, uint16_t port);
/* "192.0.2.1:80", "[2001:db8::1]:80", "example.net:80"; bytes that are not printable ASCII as '?'.
 * Returns `buf`. */
const char *socks_dest_format(const struct socks_dest *d, char buf[SOCKS_DEST_STRLEN]);

/* Constant texts for logs; never NULL. */
const char *socks_command_name(uint8_t command);
const char *socks5_method_name(uint8_t method);
const char *socks5_reply_name(uint8_t rep);
const char *socks4_reply_name(uint8_t rep);

/*
 * What the application is to see: 0 when granted, else a negative errno. "Not allowed" (5: 0x02) is
 * -EACCES, which a caller that cannot deliver it turns into -ECONNREFUSED; every other failure
 * without an errno of its own is -ECONNREFUSED.
 */
int socks5_reply_errno(uint8_t rep);
int socks4_reply_errno(uint8_t rep);

/* What our server answers for an errno, of either sign; 0 is granted. */
uint8_t socks5_reply_from_errno(int err);
uint8_t socks4_reply_from_errno(int err);

/*
 * A server's first look at a client: SOCKS4_VERSION or SOCKS5_VERSION by the first byte, 0 when
 * there is none yet, -EPROTO when it is neither. Consumes nothing: the byte belongs to the message.
 */
int socks_server_version(const uint8_t *data, size_t len);

#endif
