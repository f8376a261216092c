/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a client asks: one datagram, parsed without allocation and without trust. */
#ifndef UNDERSOCK_DNS_QUERY_H
#define UNDERSOCK_DNS_QUERY_H

#include <stdbool.h>

#include "dns/dns.h"

/* A copy: nothing of it points into the datagram. */
struct dns_query {
    uint16_t id, flags; /* as they came */
    uint16_t len; /* of the message; bytes behind it were none of it and are not to be sent on */
    uint16_t udp_size; /* what the client takes in a datagram: 512..4096, whatever it said */
    bool has_question; /* false only with an rcode: then the rest of this block is 0 */
    bool plain;        /* `name` is a plain name (name.h) */
    uint8_t wire_len;
    uint16_t name_len;
    uint16_t type, class;
    uint8_t wire[DNS_WIRE_MAX];  /* the name with the upper and lower case that the client chose */
    char name[DNS_TEXT_MAX + 1]; /* as text, lower case, no dot at the end; the root is "." */
    bool edns;                   /* there was an OPT, so the answer has one */
    bool dnssec_ok;              /* its DO bit */
    uint8_t edns_version;
};

/*
 * 0: a query to be answered. > 0: an rcode, with which dns_answer_rcode() answers what is in
 * `ret`: DNS_FORMERR (not exactly one question, a broken name, records where a query has none, more
 * than one OPT or one that is not the root's, cut short), DNS_NOTIMP (another opcode than QUERY;
 * nothing after the header was looked at), DNS_BADVERS (EDNS of another version than 0). < 0: to be
 * dropped without an answer, `ret` is untouched: -EBADMSG: no header, or an answer (whoever
 * answers an answer can be made to talk to itself); -EMSGSIZE: more than DNS_QUERY_MAX bytes.
 *
 * Records of the additional section other than OPT (TSIG) are stepped over. Any class and type is a
 * question, and so is the root.
 */
int dns_query_parse(const uint8_t *data, size_t len, struct dns_query *ret);

/* Another id in a message of at least two bytes. */
void dns_set_id(uint8_t *message, uint16_t id);

#endif
