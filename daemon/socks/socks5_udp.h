/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The header in front of each datagram of a UDP association (RFC 1928 section 7), the same in both
 * directions. The rules for every codec are in socks.h, with one difference: a datagram is whole,
 * so a header that does not fit in it is an error, and there is no "need more".
 */
#ifndef UNDERSOCK_SOCKS_SOCKS5_UDP_H
#define UNDERSOCK_SOCKS_SOCKS5_UDP_H

#include "base/wire.h"
#include "socks/socks.h"

struct socks5_udp_header {
    uint8_t frag; /* 0: stands alone; 1..127: position in a sequence, with bit 7 its last */
    struct socks_dest dest;
};

#define SOCKS5_UDP_FRAG_LAST 0x80

/*
 * Returns the length of the header (> 0): the payload, maybe empty, is the rest of the datagram.
 * Fragments are decoded like any other; whoever does not reassemble must drop them (section 7), and
 * count. -EPROTO: cut short, a name that is empty or holds a NUL; -EAFNOSUPPORT: unknown ATYP.
 * Never 0.
 */
int socks5_decode_udp(const uint8_t *data, size_t len, struct socks5_udp_header *ret);

/* RSV FRAG ATYP DST.ADDR DST.PORT. -EINVAL: a name that is empty or holds a NUL. */
int socks5_encode_udp(struct wire_writer *w, uint8_t frag, const struct socks_dest *dest);

#endif
