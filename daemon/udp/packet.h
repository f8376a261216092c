/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whole IP packets, built: a UDP datagram from anybody to a client, ICMP port unreachable, and
 * either one cut into fragments. Pure: no I/O, no allocation. Only what stands before the payload
 * is written; the payload stays where it is.
 */
#ifndef UNDERSOCK_UDP_PACKET_H
#define UNDERSOCK_UDP_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"

/* IPv6, ICMP, the IPv6 and UDP headers of what it is about. */
#define PACKET_HEAD_MAX (40 + 8 + 40 + 8)
#define PACKET_MIN_MTU  68 /* RFC 791 */

struct udp_packet {
    struct addr client;     /* to whom */
    const uint8_t *payload; /* the caller's */
    uint32_t payload_len;
    uint16_t head_len;
    uint8_t head[PACKET_HEAD_MAX]; /* the IP header and what follows, up to the payload */
};

/*
 * A UDP datagram. 0; -EAFNOSUPPORT: the two are not of one family; -EMSGSIZE: `len` is more than
 * any datagram holds (65507, IPv6: 65527). IPv4's identification and header checksum are left 0:
 * the kernel fills them in.
 */
int packet_datagram(struct udp_packet *ret, const struct addr *source, const struct addr *client,
                    const void *data, size_t len);

/*
 * ICMP port unreachable (RFC 792: 3/3, RFC 4443: 1/4) from `destination` to `client`, about a
 * datagram of `len` bytes that it sent there: quotes that datagram as it was, but for what nobody
 * looks at (TTL, identification), as far as 576 bytes (IPv6: 1280) allow. 0 or -errno as above.
 */
int packet_unreachable(struct udp_packet *ret, const struct addr *destination,
                       const struct addr *client, const void *data, size_t len);

/*
 * Cutting one up. The caller fills in `packet`, `mtu` (of the path's first link) and `id`, the same
 * for all fragments and not soon again between the same two addresses; the rest is 0.
 */
struct packet_cut {
    const struct udp_packet *packet;
    uint32_t id; /* IPv4 takes the low half, which must not be 0 */
    uint32_t mtu;
    uint32_t offset; /* in what follows the IP header */
};

struct packet_fragment {
    const uint8_t *payload;
    uint32_t payload_len;
    uint16_t head_len;
    uint8_t head[PACKET_HEAD_MAX + 8];
};

/* The next fragment: 1; 0: that was all; -EMSGSIZE: the MTU is too small for any. */
int packet_next_fragment(struct packet_cut *cut, struct packet_fragment *ret);

#endif
