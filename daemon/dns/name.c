/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/name.h */
#include "dns/name.h"

#include <errno.h>

static char lower(uint8_t c)
{
    return (char)(c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c);
}

static bool plain_byte(uint8_t c)
{
    return c > ' ' && c < 0x7f && c != '.' && c != '\\' && c != '"';
}

int dns_name_wire(const uint8_t *data, size_t len)
{
    struct wire_reader r = wire_reader(data, len);
    uint8_t label;

    do {
        label = wire_get_u8(&r);
        if (label > DNS_LABEL_MAX) /* a compression pointer, or what RFC 6891 took back */
            return -EPROTO;
        wire_take(&r, label);
    } while (label > 0 && r.pos < DNS_WIRE_MAX);
    if (r.error || label > 0 || r.pos > DNS_WIRE_MAX)
        return -EPROTO;
    return (int)r.pos;
}

int dns_skip_name(struct wire_reader *r)
{
    size_t start = r->pos;

    for (;;) {
        uint8_t label = wire_get_u8(r);

        if ((label & 0xc0) == 0xc0) {
            wire_take(r, 1);
            break;
        }
        if (label > DNS_LABEL_MAX)
            return -EPROTO;
        wire_take(r, label);
        if (label == 0)
            break;
        if (r->error || r->pos - start >= DNS_WIRE_MAX)
            return -EPROTO;
    }
    return r->error ? -EPROTO : 0;
}

size_t dns_name_text(const uint8_t *wire, char ret[DNS_TEXT_MAX + 1], bool *ret_plain)
{
    bool plain = wire[0] != 0;
    size_t n = 0;

    for (const uint8_t *label = wire; *label > 0; label += 1 + *label) {
        if (n > 0)
            ret[n++] = '.';
        for (unsigned i = 1; i <= *label; i++) {
            uint8_t c = label[i];

            if (plain_byte(c)) {
                ret[n++] = lower(c);
                continue;
            }
            plain = false;
            ret[n++] = '\\';
            if (c == '.' || c == '\\' || c == '"') {
                ret[n++] = (char)c;
            } else {
                ret[n++] = (char)('0' + c / 100);
                ret[n++] = (char)('0' + c / 10 % 10);
                ret[n++] = (char)('0' + c % 10);
            }
        }
    }
    if (n == 0)
        ret[n++] = '.';
    ret[n] = '\0';
    *ret_plain = plain;
    return n;
}

bool dns_name_is_plain(const char *text, size_t len)
{
    size_t label = 0;

    if (len == 0 || len > DNS_PLAIN_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)text[i];

        if (c == '.' ? label == 0 : !plain_byte(c) || (c >= 'A' && c <= 'Z'))
            return false;
        label = c == '.' ? 0 : label + 1;
        if (label > DNS_LABEL_MAX)
            return false;
    }
    return label > 0;
}

/* Cuts `suffix`, which begins with a dot, off the end; or the name is the suffix without the dot,
 * and nothing is left. */
static bool cut(const char *name, size_t *len, const char *suffix)
{
    size_t n = strlen(suffix);

    if (*len >= n && memcmp(name + *len - n, suffix, n) == 0) {
        *len -= n;
        return true;
    }
    if (*len == n - 1 && memcmp(name, suffix + 1, n - 1) == 0) {
        *len = 0;
        return true;
    }
    return false;
}

/* "4.3.2.1": the last byte of the address comes first. */
static int reverse_v4(const char *text, size_t len, uint8_t ret_ip[4])
{
    size_t pos = 0;

    for (int i = 3; i >= 0; i--) {
        unsigned value = 0, digits = 0;

        for (; pos < len && text[pos] >= '0' && text[pos] <= '9' && digits < 3; pos++, digits++)
            value = value * 10 + (unsigned)(text[pos] - '0');
        if (digits == 0 || value > 255 || (digits > 1 && text[pos - digits] == '0'))
            return -ENOENT;
        ret_ip[i] = (uint8_t)value;
        if (i > 0 && (pos >= len || text[pos++] != '.'))
            return -ENOENT;
    }
    return pos == len ? 0 : -ENOENT;
}

/* "b.a.9.8...": the last half byte comes first. */
static int reverse_v6(const char *text, size_t len, uint8_t ret_ip[16])
{
    if (len != 63)
        return -ENOENT;
    memset(ret_ip, 0, 16);
    for (size_t i = 0; i < 32; i++) {
        char c = text[2 * i];
        unsigned value = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                                                : 16;

        if (value > 15 || (i < 31 && text[2 * i + 1] != '.'))
            return -ENOENT;
        ret_ip[15 - i / 2] |= (uint8_t)(i % 2 ? value << 4 : value);
    }
    return 0;
}

int dns_reverse_parse(const char *name, size_t len, struct addr *ret)
{
    uint8_t ip[16];

    if (cut(name, &len, ".in-addr.arpa")) {
        if (reverse_v4(name, len, ip) < 0)
            return -ENOENT;
        addr_set_v4(ret, ip, 0);
        return 0;
    }
    if (cut(name, &len, ".ip6.arpa")) {
        if (reverse_v6(name, len, ip) < 0)
            return -ENOENT;
        addr_set_v6(ret, ip, 0);
        return 0;
    }
    return -EINVAL;
}
