/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp/packet.h. Headers are written field after field; checksums are RFC 1071, eight bytes at a
 * time. */
#include "udp/packet.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "base/wire.h"

#define IP4_LEN        20
#define IP6_LEN        40
#define UDP_LEN        8
#define ICMP_LEN       8
#define FRAGMENT_LEN   8
#define TTL            64
#define QUOTE_MAX_4    576  /* of the whole ICMP packet: RFC 1812, 4.3.2.3 */
#define QUOTE_MAX_6    1280 /* RFC 4443, 3.1 */
#define MORE_FRAGMENTS 0x2000

/* The sum is in the machine's own byte order, so that it is stored as it is. It may start from any
 * sum of an even number of bytes. */
static uint64_t sum_add(uint64_t sum, uint64_t word)
{
    sum += word;
    return sum + (sum < word);
}

static uint64_t sum_bytes(uint64_t sum, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t word;

    for (; len >= sizeof(word); len -= sizeof(word), p += sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        sum = sum_add(sum, word);
    }
    if (len > 0) {
        word = 0;
        memcpy(&word, p, len);
        sum = sum_add(sum, word);
    }
    return sum;
}

static uint16_t sum_end(uint64_t sum)
{
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)~sum;
}

static size_t ip_len(bool v4)
{
    return v4 ? IP4_LEN : IP6_LEN;
}

static void put_u32(struct wire_writer *w, uint32_t v)
{
    wire_put_u16(w, (uint16_t)(v >> 16));
    wire_put_u16(w, (uint16_t)v);
}

/* An IP header for `len` bytes behind it. `fragment`: IPv4's flags and offset. */
static void put_ip(struct wire_writer *w, const struct addr *from, const struct addr *to,
                   uint8_t protocol, size_t len, uint16_t id, uint16_t fragment)
{
    bool v4 = addr_is_v4(from);
    size_t at = v4 ? 12 : 0;

    if (v4) {
        wire_put_u8(w, 0x45);
        wire_put_u8(w, 0);
        wire_put_u16(w, (uint16_t)(IP4_LEN + len));
        wire_put_u16(w, id);
        wire_put_u16(w, fragment);
        wire_put_u8(w, TTL);
        wire_put_u8(w, protocol);
        wire_put_u16(w, 0);
    } else {
        put_u32(w, 6u << 28);
        wire_put_u16(w, (uint16_t)len);
        wire_put_u8(w, protocol);
        wire_put_u8(w, TTL);
    }
    wire_put_bytes(w, from->ip + at, sizeof(from->ip) - at);
    wire_put_bytes(w, to->ip + at, sizeof(to->ip) - at);
}

/* Of a transport header at `head` and the payload, with the pseudo-header (RFC 768, RFC 8200 8.1).
 */
static uint16_t transport_sum(const struct addr *from, const struct addr *to, uint8_t protocol,
                              const void *head, size_t head_len, const void *payload, size_t len)
{
    size_t at = addr_is_v4(from) ? 12 : 0, total = head_len + len;
    /* Length and protocol, in 32 bits each, as IPv6 has them; to the sum it is the same. */
    uint8_t rest[8] = {
        0, (uint8_t)(total >> 16), (uint8_t)(total >> 8), (uint8_t)total, 0, 0, 0, protocol};
    uint64_t sum = sum_bytes(0, from->ip + at, sizeof(from->ip) - at);

    sum = sum_bytes(sum, to->ip + at, sizeof(to->ip) - at);
    sum = sum_bytes(sum, rest, sizeof(rest));
    sum = sum_bytes(sum, head, head_len);
    return sum_end(sum_bytes(sum, payload, len));
}

static int check(const struct addr *from, const struct addr *to, size_t len)
{
    if (addr_is_v4(from) != addr_is_v4(to))
        return -EAFNOSUPPORT;
    return len > 65535u - UDP_LEN - (addr_is_v4(from) ? IP4_LEN : 0) ? -EMSGSIZE : 0;
}

/* The IP and UDP headers of a datagram. */
static void put_datagram(struct wire_writer *w, const struct addr *from, const struct addr *to,
                         const void *data, size_t len)
{
    put_ip(w, from, to, IPPROTO_UDP, UDP_LEN + len, 0, 0);
    uint8_t *udp = w->data + w->pos;

    wire_put_u16(w, from->port);
    wire_put_u16(w, to->port);
    wire_put_u16(w, (uint16_t)(UDP_LEN + len));
    wire_put_u16(w, 0);
    uint16_t sum = transport_sum(from, to, IPPROTO_UDP, udp, UDP_LEN, data, len);

    if (sum == 0)
        sum = 0xffff; /* 0 would say that there is none */
    memcpy(udp + 6, &sum, sizeof(sum));
}

int packet_datagram(struct udp_packet *ret, const struct addr *source, const struct addr *client,
                    const void *data, size_t len)
{
    int r = check(source, client, len);

    if (r < 0)
        return r;
    struct wire_writer w = wire_writer(ret->head, sizeof(ret->head));

    put_datagram(&w, source, client, data, len);
    ret->client = *client;
    ret->payload = data;
    ret->payload_len = (uint32_t)len;
    ret->head_len = (uint16_t)w.pos;
    return 0;
}

int packet_unreachable(struct udp_packet *ret, const struct addr *destination,
                       const struct addr *client, const void *data, size_t len)
{
    bool v4 = addr_is_v4(destination);
    size_t room = (v4 ? QUOTE_MAX_4 : QUOTE_MAX_6) - 2 * ip_len(v4) - ICMP_LEN - UDP_LEN;
    size_t quoted = len < room ? len : room;
    uint8_t protocol = v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    int r = check(destination, client, len);

    if (r < 0)
        return r;
    struct wire_writer w = wire_writer(ret->head, sizeof(ret->head));

    put_ip(&w, destination, client, protocol, ICMP_LEN + ip_len(v4) + UDP_LEN + quoted, 0, 0);
    uint8_t *icmp = ret->head + w.pos;

    wire_put_u8(&w, v4 ? 3 : 1);
    wire_put_u8(&w, v4 ? 3 : 4);
    wire_put_u16(&w, 0);
    put_u32(&w, 0);
    uint8_t *quote = ret->head + w.pos;

    put_datagram(&w, client, destination, data, len);
    if (v4) { /* nobody else fills in the checksum of a quoted header */
        uint16_t sum = sum_end(sum_bytes(0, quote, IP4_LEN));

        memcpy(quote + 10, &sum, sizeof(sum));
    }
    size_t head_len = (size_t)(ret->head + w.pos - icmp);
    /* ICMP for IPv4 has no pseudo-header. */
    uint16_t sum = v4 ? sum_end(sum_bytes(sum_bytes(0, icmp, head_len), data, quoted))
                      : transport_sum(destination, client, protocol, icmp, head_len, data, quoted);

    memcpy(icmp + 2, &sum, sizeof(sum));
    ret->client = *client;
    ret->payload = data;
    ret->payload_len = (uint32_t)quoted;
    ret->head_len = (uint16_t)w.pos;
    return 0;
}

int packet_next_fragment(struct packet_cut *cut, struct packet_fragment *ret)
{
    const struct udp_packet *p = cut->packet;
    bool v4 = (p->head[0] >> 4) == 4;
    size_t ip = ip_len(v4), before = v4 ? ip : ip + FRAGMENT_LEN;
    size_t transport = p->head_len - ip, total = transport + p->payload_len;
    size_t most = cut->mtu > before ? (cut->mtu - before) & ~(size_t)7 : 0;

    /* The first one carries the whole transport header. */
    if (most == 0 || most < transport)
        return -EMSGSIZE;
    if (cut->offset >= total)
        return 0;
    size_t len = total - cut->offset < most ? total - cut->offset : most;
    bool more = cut->offset + len < total;
    struct addr from, to;

    if (v4) {
        addr_set_v4(&from, p->head + 12, 0);
        addr_set_v4(&to, p->head + 16, 0);
    } else {
        addr_set_v6(&from, p->head + 8, 0);
        addr_set_v6(&to, p->head + 24, 0);
    }
    struct wire_writer w = wire_writer(ret->head, sizeof(ret->head));
    uint8_t protocol = p->head[v4 ? 9 : 6];

    if (v4) {
        put_ip(&w, &from, &to, protocol, len, (uint16_t)cut->id,
               (uint16_t)(cut->offset / 8 | (more ? MORE_FRAGMENTS : 0)));
    } else {
        put_ip(&w, &from, &to, IPPROTO_FRAGMENT, FRAGMENT_LEN + len, 0, 0);
        wire_put_u8(&w, protocol);
        wire_put_u8(&w, 0);
        wire_put_u16(&w, (uint16_t)(cut->offset | (more ? 1 : 0)));
        put_u32(&w, cut->id);
    }
    size_t head = cut->offset == 0 ? transport : 0;

    wire_put_bytes(&w, p->head + ip, head);
    ret->head_len = (uint16_t)w.pos;
    ret->payload = p->payload + (cut->offset == 0 ? 0 : cut->offset - transport);
    ret->payload_len = (uint32_t)(len - head);
    cut->offset += (uint32_t)len;
    return 1;
}
