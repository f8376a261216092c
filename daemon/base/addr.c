/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The address type of include/addr.h: the only place, with the codecs, that branches on the family.
 */
#include "addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

#define V4(a, b, c, d, n)                                                \
    {                                                                    \
        {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}, 96 + (n) \
    }

const struct prefix addr_private_prefixes[] = {
    V4(0, 0, 0, 0, 8),          /* "this network", RFC 1122 */
    V4(10, 0, 0, 0, 8),         /* RFC 1918 */
    V4(100, 64, 0, 0, 10),      /* shared address space, RFC 6598 */
    V4(127, 0, 0, 0, 8),        /* loopback */
    V4(169, 254, 0, 0, 16),     /* link-local, RFC 3927 */
    V4(172, 16, 0, 0, 12),      /* RFC 1918 */
    V4(192, 168, 0, 0, 16),     /* RFC 1918 */
    V4(224, 0, 0, 0, 4),        /* multicast */
    V4(255, 255, 255, 255, 32), /* limited broadcast */
    {{0}, 127},                 /* :: and ::1 */
    {{0xfc}, 7},                /* ULA, RFC 4193 */
    {{0xfe, 0x80}, 10},         /* link-local */
    {{0xff}, 8},                /* multicast */
};
const size_t addr_n_private_prefixes =
    sizeof(addr_private_prefixes) / sizeof(addr_private_prefixes[0]);

const struct prefix addr_fake_prefixes[] = {
    V4(198, 18, 0, 0, 15),
    {{0xfd, 0xf6, 0x69, 0x31, 0x71, 0x49}, 64},
};
const size_t addr_n_fake_prefixes = sizeof(addr_fake_prefixes) / sizeof(addr_fake_prefixes[0]);

bool addr_is_v4(const struct addr *a)
{
    return memcmp(a->ip, v4_mapped, sizeof(v4_mapped)) == 0;
}

bool addr_same_ip(const struct addr *a, const struct addr *b)
{
    return memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
    return addr_same_ip(a, b) && a->port == b->port && a->scope == b->scope;
}

bool addr_is_any(const struct addr *a)
{
    static const uint8_t zero[16];

    return addr_is_v4(a) ? memcmp(a->ip + 12, zero, 4) == 0 : memcmp(a->ip, zero, 16) == 0;
}

bool addr_is_link_local(const struct addr *a)
{
    return a->ip[0] == 0xfe && (a->ip[1] & 0xc0) == 0x80;
}

bool addr_is_loopback(const struct addr *a)
{
    static const uint8_t one[16] = {[15] = 1};

    return addr_is_v4(a) ? a->ip[12] == 127 : memcmp(a->ip, one, 16) == 0;
}

void addr_set_v4(struct addr *ret, const void *be_ip, uint16_t port)
{
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->ip, v4_mapped, sizeof(v4_mapped));
    memcpy(ret->ip + 12, be_ip, 4);
    ret->port = port;
}

void addr_set_v6(struct addr *ret, const void *be_ip, uint16_t port)
{
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->ip, be_ip, 16);
    ret->port = port;
}

int addr_from_sockaddr(const struct sockaddr *sa, socklen_t len, struct addr *ret)
{
    if (len < (socklen_t)sizeof(sa->sa_family))
        return -EINVAL;
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;

        if (len < (socklen_t)sizeof(in))
            return -EINVAL;
        memcpy(&in, sa, sizeof(in));
        addr_set_v4(ret, &in.sin_addr, ntohs(in.sin_port));
        return 0;
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;

        if (len < (socklen_t)sizeof(in6))
            return -EINVAL;
        memcpy(&in6, sa, sizeof(in6));
        addr_set_v6(ret, &in6.sin6_addr, ntohs(in6.sin6_port));
        ret->scope = in6.sin6_scope_id;
        return 0;
    }
    return -EAFNOSUPPORT;
}

socklen_t addr_to_sockaddr(const struct addr *a, struct sockaddr_storage *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (addr_is_v4(a)) {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(a->port)};

        memcpy(&in.sin_addr, a->ip + 12, 4);
        memcpy(ret, &in, sizeof(in));
        return sizeof(in);
    }
    struct sockaddr_in6 in6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(a->port), .sin6_scope_id = a->scope};

    memcpy(&in6.sin6_addr, a->ip, 16);
    memcpy(ret, &in6, sizeof(in6));
    return sizeof(in6);
}

/* A decimal number of at most five digits, 0..65535, and nothing else. */
static int parse_port(const char *text, uint16_t *ret)
{
    size_t n = strspn(text, "0123456789");

    if (n == 0 || n > 5 || text[n] != '\0')
        return -EINVAL;
    unsigned long v = strtoul(text, NULL, 10);

    if (v > UINT16_MAX)
        return -EINVAL;
    *ret = (uint16_t)v;
    return 0;
}

static int parse_ip(const char *text, struct addr *ret)
{
    uint8_t ip[16];
    char host[64];
    const char *zone = strchr(text, '%');
    size_t n = zone ? (size_t)(zone - text) : strlen(text);

    if (n >= sizeof(host))
        return -EINVAL;
    memcpy(host, text, n);
    host[n] = '\0';
    if (!zone && inet_pton(AF_INET, host, ip) == 1) {
        addr_set_v4(ret, ip, 0);
        return 0;
    }
    if (inet_pton(AF_INET6, host, ip) != 1)
        return -EINVAL;
    uint32_t scope = 0;

    if (zone) {
        /* The kernel would take "lo:80" for an alias of lo, and a port would be lost without a
         * word. */
        scope = strchr(zone, ':') ? 0 : if_nametoindex(zone + 1);
        if (scope == 0)
            return -EINVAL;
    }
    addr_set_v6(ret, ip, 0);
    ret->scope = scope;
    return zone && addr_is_v4(ret) ? -EINVAL : 0;
}

int addr_parse(const char *text, uint16_t default_port, struct addr *ret)
{
    char host[ADDR_STRLEN];
    const char *port = NULL;
    size_t n = strlen(text);

    if (text[0] == '[') {
        const char *end = strchr(text, ']');

        if (!end || (end[1] != '\0' && end[1] != ':'))
            return -EINVAL;
        port = end[1] == ':' ? end + 2 : NULL;
        text++;
        n = (size_t)(end - text);
    } else if (strchr(text, ':') && strchr(text, ':') == strrchr(text, ':')) {
        port = strchr(text, ':') + 1;
        n = (size_t)(port - 1 - text);
    }
    if (n == 0 || n >= sizeof(host))
        return -EINVAL;
    memcpy(host, text, n);
    host[n] = '\0';

    struct addr a;
    uint16_t number = default_port;
    int r = parse_ip(host, &a);

    if (r == 0 && port)
        r = parse_port(port, &number);
    if (r < 0)
        return r;
    a.port = number;
    *ret = a;
    return 0;
}

const char *addr_format_ip(const struct addr *a, char buf[ADDR_STRLEN])
{
    char text[INET6_ADDRSTRLEN] = "?";

    if (addr_is_v4(a))
        inet_ntop(AF_INET, a->ip + 12, text, sizeof(text));
    else
        inet_ntop(AF_INET6, a->ip, text, sizeof(text));
    if (a->scope != 0)
        snprintf(buf, ADDR_STRLEN, "%s%%%u", text, a->scope);
    else
        snprintf(buf, ADDR_STRLEN, "%s", text);
    return buf;
}

const char *addr_format(const struct addr *a, char buf[ADDR_STRLEN])
{
    char ip[ADDR_STRLEN];

    addr_format_ip(a, ip);
    if (addr_is_v4(a))
        snprintf(buf, ADDR_STRLEN, "%.60s:%u", ip, a->port);
    else
        snprintf(buf, ADDR_STRLEN, "[%.60s]:%u", ip, a->port);
    return buf;
}

bool prefix_is_v4(const struct prefix *p)
{
    return p->len >= 96 && memcmp(p->ip, v4_mapped, sizeof(v4_mapped)) == 0;
}

bool prefix_contains(const struct prefix *p, const struct addr *a)
{
    unsigned whole = p->len / 8, rest = p->len % 8;

    if (prefix_is_v4(p) != addr_is_v4(a))
        return false;
    if (memcmp(p->ip, a->ip, whole) != 0)
        return false;
    return rest == 0 || ((p->ip[whole] ^ a->ip[whole]) >> (8 - rest)) == 0;
}

int prefix_parse(const char *text, struct prefix *ret)
{
    char host[ADDR_STRLEN];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    struct addr a;
    struct prefix p;

    if (n >= sizeof(host))
        return -EINVAL;
    memcpy(host, text, n);
    host[n] = '\0';
    int r = parse_ip(host, &a);

    if (r < 0)
        return r;
    uint16_t max = addr_is_v4(&a) ? 32 : 128, len = max;

    if (slash) {
        r = parse_port(slash + 1, &len);
        if (r < 0 || len > max)
            return -EINVAL;
    }
    p.len = (uint8_t)(len + (128 - max));
    for (unsigned i = 0; i < 16; i++) {
        unsigned keep = p.len >= 8 * (i + 1) ? 8 : p.len > 8 * i ? p.len - 8 * i : 0;

        p.ip[i] = (uint8_t)(a.ip[i] & (0xff00u >> keep));
    }
    *ret = p;
    return 0;
}

const char *prefix_format(const struct prefix *p, char buf[PREFIX_STRLEN])
{
    struct addr a = {.port = 0};
    char ip[ADDR_STRLEN];

    memcpy(a.ip, p->ip, sizeof(a.ip));
    if (prefix_is_v4(p)) {
        snprintf(buf, PREFIX_STRLEN, "%.46s/%u", addr_format_ip(&a, ip), p->len - 96u);
    } else {
        inet_ntop(AF_INET6, p->ip, ip, sizeof(ip));
        snprintf(buf, PREFIX_STRLEN, "%.46s/%u", ip, p->len);
    }
    return buf;
}

bool addr_is_private(const struct addr *a)
{
    for (size_t i = 0; i < addr_n_private_prefixes; i++) {
        if (prefix_contains(&addr_private_prefixes[i], a))
            return true;
    }
    return false;
}
