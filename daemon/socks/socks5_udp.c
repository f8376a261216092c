/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "socks/socks5_udp.h"

#include <errno.h>

#include "socks/socks5_addr.h"

int socks5_decode_udp(const uint8_t *data, size_t len, struct socks5_udp_header *ret)
{
    struct wire_reader r = wire_reader(data, len);
    struct socks5_udp_header header;
    size_t least = 0;

    wire_get_u16(&r); /* RSV */
    header.frag = wire_get_u8(&r);
    int err = socks5_read_addr(&r, false, &header.dest, &least);

    if (err < 0)
        return err;
    if (r.error)
        return -EPROTO;
    *ret = header;
    return (int)r.pos;
}

int socks5_encode_udp(struct wire_writer *w, uint8_t frag, const struct socks_dest *dest)
{
    struct wire_writer out = *w;

    wire_put_u16(&out, 0);
    wire_put_u8(&out, frag);
    int err = socks5_write_addr(&out, dest);

    if (err < 0)
        return err;
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}
