/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "socks/socks5_addr.h"

#include <errno.h>
#include <string.h>

#define PORT_LEN 2

static int read_name(struct wire_reader *r, bool allow_empty, struct socks_dest *ret, size_t *least)
{
    uint8_t len = wire_get_u8(r);

    if (r->error)
        return 0;
    if (len == 0 && !allow_empty)
        return -EPROTO;
    *least = r->pos + len + PORT_LEN;

    const uint8_t *name = wire_take(r, len);

    if (!name)
        return 0;
    if (memchr(name, '\0', len))
        return -EPROTO;
    memcpy(ret->name, name, len);
    ret->name_len = len;
    return 0;
}

int socks5_read_addr(struct wire_reader *r, bool allow_empty, struct socks_dest *ret, size_t *least)
{
    struct socks_dest d = {.type = SOCKS_DEST_ADDR};
    uint8_t atyp = wire_get_u8(r), ip[16];
    size_t ip_len = 0;

    if (r->error)
        return 0;
    switch (atyp) {
    case SOCKS5_ATYP_IPV4:
        ip_len = 4;
        break;
    case SOCKS5_ATYP_IPV6:
        ip_len = 16;
        break;
    case SOCKS5_ATYP_NAME:
        d.type = SOCKS_DEST_NAME;
        break;
    default:
        return -EAFNOSUPPORT;
    }
    if (d.type == SOCKS_DEST_NAME) {
        int err = read_name(r, allow_empty, &d, least);

        if (err < 0)
            return err;
    } else {
        *least = r->pos + ip_len + PORT_LEN;
        wire_get_bytes(r, ip, ip_len);
        if (ip_len == 4)
            addr_set_v4(&d.addr, ip, 0);
        else
            addr_set_v6(&d.addr, ip, 0);
    }
    d.addr.port = wire_get_u16(r);
    *ret = d;
    return 0;
}

int socks5_write_addr(struct wire_writer *w, const struct socks_dest *d)
{
    if (d->type == SOCKS_DEST_NAME) {
        if (d->name_len == 0 || memchr(d->name, '\0', d->name_len))
            return -EINVAL;
        wire_put_u8(w, SOCKS5_ATYP_NAME);
        wire_put_u8(w, d->name_len);
        wire_put_bytes(w, d->name, d->name_len);
    } else if (d->type == SOCKS_DEST_ADDR) {
        /* The IPv4 address is the end of the mapped form. */
        size_t ip_len = addr_is_v4(&d->addr) ? 4 : 16;

        wire_put_u8(w, ip_len == 4 ? SOCKS5_ATYP_IPV4 : SOCKS5_ATYP_IPV6);
        wire_put_bytes(w, d->addr.ip + sizeof(d->addr.ip) - ip_len, ip_len);
    } else {
        return -EINVAL;
    }
    wire_put_u16(w, d->addr.port);
    return 0;
}
