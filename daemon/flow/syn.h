/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bytes of held SYNs: a packet that a capture holds is taken apart and made fit for a raw
 * socket, and the answers that a SYN may get are written. IPv4 (RFC 791), IPv6 (RFC 8200), TCP
 * (RFC 9293), ICMP (RFC 792), ICMPv6 (RFC 4443). No I/O, no allocation; everything comes from the
 * network or from an application, and nothing of it is trusted.
 */
#ifndef UNDERSOCK_FLOW_SYN_H
#define UNDERSOCK_FLOW_SYN_H

#include <stddef.h>
#include <stdint.h>

#include "addr.h"

#define SYN_MAX        256 /* headers only: IP with options or extension headers, TCP up to 60 */
#define SYN_ANSWER_MAX (SYN_MAX + 48) /* a SYN, quoted behind an IPv6 and an ICMPv6 header */

struct syn {
    struct addr client, destination; /* scope 0: of a link-local one, the packet does not know it */
    uint32_t isn;                    /* host order */
    uint16_t len;                    /* of `packet`, 40..SYN_MAX */
    uint8_t packet[SYN_MAX];         /* IP and TCP header, to be sent as it is */
};

/*
 * Reads a SYN without ACK, RST and FIN; other flags are no matter. `packet` begins with the IP
 * header and may be cut short anywhere behind the TCP header; what is behind the IP length is
 * padding.
 *
 * ret->packet has the headers as they came, options of IP and TCP with them, and nothing behind:
 * the data of a SYN (TCP Fast Open) is cut off, which is as if the listener knew no cookie, and its
 * owner sends it again. The lengths, the checksum of the IPv4 header and that of TCP are those of
 * what is left. The checksums that came are not verified, as a local SYN carries only part of one;
 * so a damaged SYN that the network card of a gateway let through is mended, not dropped.
 *
 * 0; or -EPROTO for whatever is no such SYN, or none that this host could accept for its owner:
 * truncated headers and lengths that contradict each other, headers of more than SYN_MAX bytes,
 * fragments (also an IPv6 fragment header alone), a destination that is not in the address field
 * (source routes, routing headers, home addresses), AH and other extension headers than hop-by-hop
 * and destination options, jumbograms; unspecified, multicast, limited broadcast and, in an IPv6
 * header, v4-mapped addresses; source port 0. Destination port 0 is left to the upstream. So are
 * addresses that only their place makes wrong, such as loopback from a gateway's client.
 */
int syn_parse(const uint8_t *packet, size_t len, struct syn *ret);

/*
 * The answers, each a whole IP packet from the SYN's destination to its client, with all checksums;
 * `s` is from syn_parse(). They return its length, which is never 0. The bytes behind are
 * untouched.
 */

/* RST and ACK, as from a closed port (RFC 9293, 3.10.7.1): ECONNREFUSED. */
size_t syn_make_reset(const struct syn *s, uint8_t ret[SYN_ANSWER_MAX]);

enum syn_unreachable {
    SYN_HOST_UNREACHABLE, /* ICMP 3/1, ICMPv6 1/3: EHOSTUNREACH */
    SYN_NET_UNREACHABLE,  /* ICMP 3/0, ICMPv6 1/0: ENETUNREACH */
    SYN_PROHIBITED,       /* ICMP 3/13: EHOSTUNREACH; ICMPv6 1/1: EACCES */
};

/* Destination unreachable, with the whole of s->packet as what was not delivered. */
size_t syn_make_unreachable(const struct syn *s, enum syn_unreachable why,
                            uint8_t ret[SYN_ANSWER_MAX]);

#endif
