/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What we answer ourselves. Each answer repeats id, opcode, RD and CD of the query, and its
 * question to the byte, upper and lower case included; it says QR and RA, never AA or AD; it has an
 * OPT (version 0, our size, the query's DO bit) when the query had one. One record at most, with
 * the question's class IN. Any of them fits in DNS_ANSWER_MAX bytes, and is longer than 512 only
 * when a PTR's two names are: dns_truncate() before it is sent.
 *
 * All return 0 after appending to `w`; -ENOBUFS: does not fit; -ENOMEM; -EINVAL as stated. After
 * an error the writer is as it was.
 */
#ifndef UNDERSOCK_DNS_ANSWER_H
#define UNDERSOCK_DNS_ANSWER_H

#include "addr.h"
#include "base/wire.h"
#include "dns/query.h"

/* An A or AAAA record, by the family of `a`. -EINVAL: the question is not for that type (or ANY),
 * its class is not IN (or ANY). `ttl` in seconds, 31 bits. */
int dns_answer_address(const struct dns_query *q, const struct addr *a, uint32_t ttl,
                       struct wire_writer *w);
/* A PTR record to a plain name. -EINVAL: the question is for another type or class; `name` is not
 * plain. */
int dns_answer_name(const struct dns_query *q, const char *name, uint32_t ttl,
                    struct wire_writer *w);
/*
 * No record: DNS_NOERROR is "the name exists, without such a record" (NODATA). There is no SOA with
 * it, so nobody keeps it. -EINVAL: an rcode above 15 for a query without EDNS.
 */
int dns_answer_rcode(const struct dns_query *q, enum dns_rcode rcode, struct wire_writer *w);

/*
 * Makes an answer, ours or a server's, fit in `max` bytes (512 or more: the query's udp_size), in
 * place. One that fits is left as it is. Otherwise header, question and OPT stay (the OPT without
 * its options if they do not fit), all other records go, and TC tells the client to ask over TCP.
 * Returns the new length; -EPROTO: this is no answer with one question, nothing was changed.
 */
int dns_truncate(uint8_t *answer, size_t len, size_t max);

#endif
