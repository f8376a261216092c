/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of this folder share: the numbers of RFC 1035, RFC 6891 and later, and limits.
 *
 * Rules of the folder:
 * - No I/O, no logging, no clock: whoever needs the time gives it. What comes from the network is
 *   looked at in place, by a bounded cursor, and no compression pointer is ever followed: nothing
 *   that we need is behind one. Nothing is allocated for a message that may be refused.
 * - answer.c builds whole messages with ldns, which allocates and frees again before it returns.
 *   fake.c and real.c allocate when they are made and not afterwards.
 * - Outputs are written only on success. An encoder appends to a writer and returns 0; or it
 *   returns -errno and the writer is as it was.
 */
#ifndef UNDERSOCK_DNS_DNS_H
#define UNDERSOCK_DNS_DNS_H

#include <stddef.h>
#include <stdint.h>

#define DNS_HEADER_LEN 12
#define DNS_LABEL_MAX  63
#define DNS_WIRE_MAX   255  /* a name on the wire, with the root's byte */
#define DNS_TEXT_MAX   1004 /* a name as text at its longest: almost every byte as \DDD */
#define DNS_PLAIN_MAX  253  /* a name as text without escapes */

/* A datagram without EDNS; what EDNS may ask for and still get; what we say that we take. */
#define DNS_UDP_PLAIN 512
#define DNS_UDP_MAX   4096
#define DNS_UDP_OURS  1232

#define DNS_QUERY_MAX   4096  /* a longer query is nobody's */
#define DNS_ANSWER_MAX  576   /* holds any answer that answer.h makes */
#define DNS_MESSAGE_MAX 65535 /* over TCP */

#define DNS_CLASS_IN  1
#define DNS_CLASS_ANY 255

enum dns_type {
    DNS_TYPE_A = 1,
    DNS_TYPE_SOA = 6,
    DNS_TYPE_PTR = 12,
    DNS_TYPE_AAAA = 28,
    DNS_TYPE_OPT = 41,
    DNS_TYPE_SVCB = 64,
    DNS_TYPE_HTTPS = 65,
    DNS_TYPE_ANY = 255,
};

enum dns_rcode {
    DNS_NOERROR = 0,
    DNS_FORMERR = 1,
    DNS_SERVFAIL = 2,
    DNS_NXDOMAIN = 3,
    DNS_NOTIMP = 4,
    DNS_REFUSED = 5,
    DNS_BADVERS = 16, /* needs EDNS to be said */
};

/* The second 16 bits of a header, host order. */
#define DNS_FLAG_QR         0x8000
#define DNS_FLAG_TC         0x0200
#define DNS_FLAG_RD         0x0100
#define DNS_FLAG_RA         0x0080
#define DNS_FLAG_CD         0x0010
#define DNS_FLAGS_OPCODE(f) ((f) >> 11 & 15)
#define DNS_FLAGS_RCODE(f)  ((f)&15)
#define DNS_OPCODE_QUERY    0

#endif
