/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The address field that SOCKS5 requests, replies and UDP headers share: ATYP, address, port (RFC
 * 1928 section 5). For the codecs of this folder only.
 */
#ifndef UNDERSOCK_SOCKS_SOCKS5_ADDR_H
#define UNDERSOCK_SOCKS_SOCKS5_ADDR_H

#include "base/wire.h"
#include "socks/socks.h"

/*
 * Reads the field at the reader's place. 0: no wrong byte so far, and `r->error` says whether
 * something is missing; -EAFNOSUPPORT: unknown ATYP; -EPROTO: a NUL in a name, or an empty one
 * unless `allow_empty`.
 * `*ret` is only good when 0 is returned and `r->error` is false. `*least`, the least length the
 * message can have, is raised by what ATYP and LEN tell.
 */
int socks5_read_addr(struct wire_reader *r, bool allow_empty, struct socks_dest *ret,
                     size_t *least);

/* Writes the field; -EINVAL: a name that is empty or holds a NUL. Fitting is the writer's `error`.
 */
int socks5_write_addr(struct wire_writer *w, const struct socks_dest *d);

#endif
