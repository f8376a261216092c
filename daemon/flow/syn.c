/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow/syn.h. Reading goes once over the headers, with a reader that ends where the headers must
 * have ended, and notes the places of the few fields that are written anew. Writing puts a zero
 * for each checksum, and fills it in when the bytes that it covers are there.
 */
#include "flow/syn.h"

#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <stdbool.h>

#include "base/wire.h"

#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER  20
#define ICMP_HEADER 8
#define HOP_LIMIT   64
#define TOS_CONTROL 0xc0 /* precedence of ICMP errors, RFC 1812 4.3.2.5 */

#define OPTION_HOME_ADDRESS 0xc9 /* RFC 6275: the source is another address, for TCP too */

/* Where in the packet the fields are that are written anew. */
struct places {
    size_t length;     /* IPv4: total length; IPv6: payload length */
    size_t header_sum; /* IPv4 only */
    size_t tcp;        /* the TCP header */
    size_t tcp_sum;
};

/* ---- checksums (RFC 1071) ---- */

/* All that is summed up here has a length of whole 16-bit words. */
static uint32_t sum_bytes(uint32_t sum, const uint8_t *data, size_t len)
{
    struct wire_reader r = wire_reader(data, len);

    while (wire_left(&r) >= 2)
        sum += wire_get_u16(&r);
    return sum;
}

static uint32_t sum_ip(uint32_t sum, const struct addr *a)
{
    return addr_is_v4(a) ? sum_bytes(sum, a->ip + 12, 4) : sum_bytes(sum, a->ip, 16);
}

/* The pseudo header. Both families' come to the same sum. */
static uint32_t sum_pseudo(const struct syn *s, uint8_t protocol, size_t len)
{
    return sum_ip(sum_ip((uint32_t)len + protocol, &s->client), &s->destination);
}

static void put_u16_at(uint8_t *packet, size_t at, uint16_t v)
{
    struct wire_writer w = wire_writer(packet + at, 2);

    wire_put_u16(&w, v);
}

static void put_sum_at(uint8_t *packet, size_t at, uint32_t sum)
{
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    put_u16_at(packet, at, (uint16_t)~sum);
}

/* ---- reading ---- */

/* The IP packet ends `n` bytes from its beginning: what follows is padding of the link's. False:
 * that is within what was read already. */
static bool end_at(struct wire_reader *r, size_t n)
{
    if (r->error || n < r->pos)
        return false;
    if (n < r->len)
        r->len = n;
    return true;
}

/* A source route has the last destination behind the header, and is none of our business. */
static bool ipv4_options_are_fine(const uint8_t *options, size_t len)
{
    struct wire_reader r = wire_reader(options, len);

    while (wire_left(&r) > 0) {
        uint8_t type = wire_get_u8(&r), size;

        if (type == IPOPT_END)
            return true;
        if (type == IPOPT_NOOP)
            continue;
        size = wire_get_u8(&r); /* with the two bytes before */
        if (type == IPOPT_LSRR || type == IPOPT_SSRR || size < 2 || !wire_take(&r, size - 2u))
            return false;
    }
    return true;
}

/* Of a hop-by-hop or destination options header, without its first two bytes. */
static bool ipv6_options_are_fine(const uint8_t *options, size_t len)
{
    struct wire_reader r = wire_reader(options, len);

    while (wire_left(&r) > 0) {
        uint8_t type = wire_get_u8(&r);

        if (type == IP6OPT_PAD1)
            continue;
        if (type == IP6OPT_JUMBO || type == OPTION_HOME_ADDRESS || !wire_take(&r, wire_get_u8(&r)))
            return false;
    }
    return true;
}

static bool ipv4_is_a_host(const uint8_t *ip)
{
    static const uint8_t zero[4], broadcast[4] = {255, 255, 255, 255};

    return memcmp(ip, zero, 4) != 0 && memcmp(ip, broadcast, 4) != 0 && (ip[0] & 0xf0) != 0xe0;
}

/* On the wire a v4-mapped address is nobody's, and here it would pass for IPv4. */
static bool ipv6_is_a_host(const struct addr *a)
{
    return !addr_is_any(a) && !addr_is_v4(a) && a->ip[0] != 0xff;
}

static bool read_ipv4(struct wire_reader *r, struct syn *s, struct places *at)
{
    size_t header = (wire_get_u8(r) & 0x0fu) * 4;

    wire_get_u8(r); /* type of service */
    at->length = r->pos;
    uint16_t total = wire_get_u16(r);

    wire_get_u16(r); /* identification */
    uint16_t fragment = wire_get_u16(r);

    wire_get_u8(r); /* time to live */
    uint8_t protocol = wire_get_u8(r);

    at->header_sum = r->pos;
    wire_get_u16(r);
    const uint8_t *source = wire_take(r, 4), *destination = wire_take(r, 4);

    if (!end_at(r, total) || header < IPV4_HEADER)
        return false;
    const uint8_t *options = wire_take(r, header - IPV4_HEADER);

    if (r->error || (fragment & (IP_MF | IP_OFFMASK)) || protocol != IPPROTO_TCP ||
        !ipv4_options_are_fine(options, header - IPV4_HEADER) || !ipv4_is_a_host(source) ||
        !ipv4_is_a_host(destination))
        return false;
    addr_set_v4(&s->client, source, 0);
    addr_set_v4(&s->destination, destination, 0);
    return true;
}

static bool read_ipv6(struct wire_reader *r, struct syn *s, struct places *at)
{
    wire_take(r, 4); /* version, traffic class, flow label */
    at->length = r->pos;
    uint16_t payload = wire_get_u16(r);
    uint8_t next = wire_get_u8(r);

    wire_get_u8(r); /* hop limit */
    const uint8_t *source = wire_take(r, 16), *destination = wire_take(r, 16);

    if (!end_at(r, IPV6_HEADER + (size_t)payload))
        return false;
    addr_set_v6(&s->client, source, 0);
    addr_set_v6(&s->destination, destination, 0);
    if (!ipv6_is_a_host(&s->client) || !ipv6_is_a_host(&s->destination))
        return false;
    /* Each header takes 8 bytes or more of the reader. */
    for (bool first = true; next != IPPROTO_TCP; first = false) {
        if (next != IPPROTO_DSTOPTS && !(next == IPPROTO_HOPOPTS && first))
            return false;
        next = wire_get_u8(r);
        size_t len = 6 + wire_get_u8(r) * 8u;
        const uint8_t *options = wire_take(r, len);

        if (!options || !ipv6_options_are_fine(options, len))
            return false;
    }
    return true;
}

static bool read_tcp(struct wire_reader *r, struct syn *s, struct places *at)
{
    at->tcp = r->pos;
    s->client.port = wire_get_u16(r);
    s->destination.port = wire_get_u16(r);
    s->isn = (uint32_t)wire_get_u16(r) << 16;
    s->isn |= wire_get_u16(r);
    wire_take(r, 4); /* acknowledgement number */
    size_t header = (wire_get_u8(r) >> 4) * 4u;
    uint8_t flags = wire_get_u8(r);

    wire_get_u16(r); /* window */
    at->tcp_sum = r->pos;
    wire_take(r, 4); /* checksum, urgent pointer */
    return header >= TCP_HEADER && wire_take(r, header - TCP_HEADER) && s->client.port != 0 &&
           (flags & (TH_SYN | TH_ACK | TH_RST | TH_FIN)) == TH_SYN;
}

int syn_parse(const uint8_t *packet, size_t len, struct syn *ret)
{
    struct wire_reader r = wire_reader(packet, len < SYN_MAX ? len : SYN_MAX);
    struct places at = {0};
    struct syn s = {0};
    uint8_t version = len > 0 ? packet[0] >> 4 : 0;

    if (version != 4 && version != 6)
        return -EPROTO;
    if (!(version == 4 ? read_ipv4 : read_ipv6)(&r, &s, &at) || !read_tcp(&r, &s, &at))
        return -EPROTO;
    s.len = (uint16_t)r.pos;
    memcpy(s.packet, packet, s.len);
    put_u16_at(s.packet, at.length, (uint16_t)(version == 4 ? s.len : s.len - IPV6_HEADER));
    if (version == 4) {
        put_u16_at(s.packet, at.header_sum, 0);
        put_sum_at(s.packet, at.header_sum, sum_bytes(0, s.packet, at.tcp));
    }
    put_u16_at(s.packet, at.tcp_sum, 0);
    put_sum_at(
        s.packet, at.tcp_sum,
        sum_bytes(sum_pseudo(&s, IPPROTO_TCP, s.len - at.tcp), s.packet + at.tcp, s.len - at.tcp));
    *ret = s;
    return 0;
}

/* ---- writing ---- */

static void put_u32(struct wire_writer *w, uint32_t v)
{
    wire_put_u16(w, (uint16_t)(v >> 16));
    wire_put_u16(w, (uint16_t)v);
}

/* The IP header of an answer with `len` bytes behind it. */
static void put_ip(struct wire_writer *w, const struct syn *s, uint8_t protocol, uint8_t tos,
                   size_t len)
{
    if (!addr_is_v4(&s->client)) {
        put_u32(w, 6u << 28 | (uint32_t)tos << 20);
        wire_put_u16(w, (uint16_t)len);
        wire_put_u8(w, protocol);
        wire_put_u8(w, HOP_LIMIT);
        wire_put_bytes(w, s->destination.ip, 16);
        wire_put_bytes(w, s->client.ip, 16);
        return;
    }
    wire_put_u8(w, 4 << 4 | IPV4_HEADER / 4);
    wire_put_u8(w, tos);
    wire_put_u16(w, (uint16_t)(IPV4_HEADER + len));
    wire_put_u16(w, 0); /* identification: not needed with DF, RFC 6864 */
    wire_put_u16(w, IP_DF);
    wire_put_u8(w, HOP_LIMIT);
    wire_put_u8(w, protocol);
    size_t sum_at = w->pos;

    wire_put_u16(w, 0);
    wire_put_bytes(w, s->destination.ip + 12, 4);
    wire_put_bytes(w, s->client.ip + 12, 4);
    put_sum_at(w->data, sum_at, sum_bytes(0, w->data, w->pos));
}

size_t syn_make_reset(const struct syn *s, uint8_t ret[SYN_ANSWER_MAX])
{
    struct wire_writer w = wire_writer(ret, SYN_ANSWER_MAX);

    put_ip(&w, s, IPPROTO_TCP, 0, TCP_HEADER);
    size_t tcp = w.pos;

    wire_put_u16(&w, s->destination.port);
    wire_put_u16(&w, s->client.port);
    put_u32(&w, 0);          /* its own sequence number: the SYN acknowledged nothing */
    put_u32(&w, s->isn + 1); /* the SYN takes one; data that came with it stays unacknowledged */
    wire_put_u8(&w, TCP_HEADER / 4 << 4);
    wire_put_u8(&w, TH_RST | TH_ACK);
    wire_put_u16(&w, 0); /* window */
    size_t sum_at = w.pos;

    wire_put_u16(&w, 0);
    wire_put_u16(&w, 0); /* urgent pointer */
    put_sum_at(ret, sum_at,
               sum_bytes(sum_pseudo(s, IPPROTO_TCP, TCP_HEADER), ret + tcp, TCP_HEADER));
    return w.pos;
}

size_t syn_make_unreachable(const struct syn *s, enum syn_unreachable why,
                            uint8_t ret[SYN_ANSWER_MAX])
{
    static const struct {
        uint8_t v4, v6;
    } code[] = {
        [SYN_HOST_UNREACHABLE] = {ICMP_HOST_UNREACH, ICMP6_DST_UNREACH_ADDR},
        [SYN_NET_UNREACHABLE] = {ICMP_NET_UNREACH, ICMP6_DST_UNREACH_NOROUTE},
        [SYN_PROHIBITED] = {ICMP_PKT_FILTERED, ICMP6_DST_UNREACH_ADMIN},
    };
    struct wire_writer w = wire_writer(ret, SYN_ANSWER_MAX);
    bool v4 = addr_is_v4(&s->client);
    size_t len = ICMP_HEADER + (size_t)s->len;

    put_ip(&w, s, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, v4 ? TOS_CONTROL : 0, len);
    size_t icmp = w.pos;

    wire_put_u8(&w, v4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH);
    wire_put_u8(&w, v4 ? code[why].v4 : code[why].v6);
    size_t sum_at = w.pos;

    wire_put_u16(&w, 0);
    put_u32(&w, 0); /* unused */
    wire_put_bytes(&w, s->packet, s->len);
    put_sum_at(ret, sum_at,
               sum_bytes(v4 ? 0 : sum_pseudo(s, IPPROTO_ICMPV6, len), ret + icmp, len));
    return w.pos;
}
