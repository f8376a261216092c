/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SipHash-2-4: where a name is in a table. With a key that nobody else knows, names cannot be
 * chosen so that they all land in the same place. */
#ifndef UNDERSOCK_DNS_HASH_H
#define UNDERSOCK_DNS_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t dns_hash(const uint64_t key[2], const void *data, size_t len);

#endif
