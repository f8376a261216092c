/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The names that keep their real addresses while all others get fake ones. Made once from patterns,
 * asked for every query: one hash lookup for each label of the name, however many patterns there
 * are.
 *
 *   "example.net"    that name and every name below it
 *   "*.example.net"  every name below it, not itself
 *   "."              names of one label ("printer"), which only a local network knows
 *
 * Upper and lower case are the same, and a dot at the end says nothing. Some names are always real
 * (real_builtin): what RFCs give to the host or its network, and "ipv4only.arpa", by which a host
 * learns of a NAT64 (RFC 7050) and would conclude nonsense from a fake address. The reverse names
 * of fake addresses never are, as nobody else can answer them.
 */
#ifndef UNDERSOCK_DNS_REAL_H
#define UNDERSOCK_DNS_REAL_H

#include <stdbool.h>
#include <stddef.h>

struct real;

extern const char *const real_builtin[];
extern const size_t real_n_builtin;

/* Whether `pattern` is one of the above. */
bool real_pattern_ok(const char *pattern);
/*
 * A list of `n` patterns (copied; 0 is a list too) and the built-in ones. -EINVAL: one is no
 * pattern, *ret_bad is its index; -ENOMEM. Read-only from then on: it may be shared by fork().
 */
int real_new(const char *const *patterns, size_t n, struct real **ret, size_t *ret_bad);
void real_free(struct real *r); /* NULL is all right */
/* `name` is a plain name (name.h). */
bool real_match(const struct real *r, const char *name, size_t len);

#endif
