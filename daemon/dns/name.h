/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names: from the wire to text, what text is a name that a proxy can be asked for, and the names
 * that stand for addresses (in-addr.arpa, ip6.arpa).
 *
 * A *plain* name is text as everything else in the project sees it: lower case, labels of 1..63
 * printable ASCII characters but space, '.', '\' and '"', separated by dots, none at the end, 253
 * characters at most. It is not checked for more than that: underscores and the like are in use.
 * Two plain names are the same name when they are the same bytes.
 */
#ifndef UNDERSOCK_DNS_NAME_H
#define UNDERSOCK_DNS_NAME_H

#include <stdbool.h>

#include "addr.h"
#include "base/wire.h"
#include "dns/dns.h"

/*
 * Reads a name that must stand there in full, as in a question: a compression pointer or another
 * label type is an error. Returns its length on the wire (1..255), the name is data[0..length);
 * -EPROTO: not a name, more than 255 bytes, or cut short.
 */
int dns_name_wire(const uint8_t *data, size_t len);

/* Past a name that may end in a compression pointer, which is not followed. 0 or -EPROTO; then the
 * reader is anywhere. */
int dns_skip_name(struct wire_reader *r);

/*
 * As text, lower case, without the dot at the end; the root is ".". Bytes that no plain name has
 * are escaped as in RFC 1035 section 5.1: "\." and "\DDD". `wire` is what dns_name_wire() found
 * right. Returns the length of the text, and whether it is plain (the root is not).
 */
size_t dns_name_text(const uint8_t *wire, char ret[DNS_TEXT_MAX + 1], bool *ret_plain);

/* Whether text[0..len) is a plain name. */
bool dns_name_is_plain(const char *text, size_t len);

/*
 * What a plain name, of a PTR question, asks about: four labels of in-addr.arpa, each 0..255
 * without leading zeros, or 32 of ip6.arpa. The port is 0. -ENOENT: it is under one of the two, but
 * no whole address; -EINVAL: it is neither.
 */
int dns_reverse_parse(const char *name, size_t len, struct addr *ret);

#endif
