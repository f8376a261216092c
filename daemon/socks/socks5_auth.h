/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Username/password authentication for SOCKS5 (RFC 1929), both sides. The rules for every codec are
 * in socks.h.
 *
 * RFC 1929 gives both lengths as 1..255. A user is never empty here. A password may be: accounts
 * without one exist, and curl and many servers send and take PLEN 0. Neither may hold a NUL,
 * because they are compared and kept as strings.
 *
 * Buffers that held credentials are the caller's to wipe (explicit_bzero()).
 */
#ifndef UNDERSOCK_SOCKS_SOCKS5_AUTH_H
#define UNDERSOCK_SOCKS_SOCKS5_AUTH_H

#include "base/wire.h"
#include "socks/socks.h"

struct socks5_auth {
    uint8_t user_len;     /* 1..255 */
    uint8_t password_len; /* 0..255 */
    char user[SOCKS_NAME_MAX + 1];
    char password[SOCKS_NAME_MAX + 1]; /* both NUL-terminated */
};

/* Client: VER ULEN UNAME PLEN PASSWD. -EINVAL: empty user; -ENAMETOOLONG: either above 255 bytes.
 */
int socks5_encode_auth(struct wire_writer *w, const char *user, const char *password);
/* Client: VER STATUS. > 0 only for status 0; -EACCES: any other status; -EPROTO: wrong version. */
int socks5_decode_auth_status(const uint8_t *data, size_t len);
size_t socks5_decode_auth_status_want(const uint8_t *data, size_t len);

/* Server. -EPROTO: wrong version, empty user, NUL inside. */
int socks5_decode_auth(const uint8_t *data, size_t len, struct socks5_auth *ret);
/* Server: `granted` is status 0, else 1; the connection must be closed after a refusal. */
int socks5_encode_auth_status(struct wire_writer *w, bool granted);

#endif
