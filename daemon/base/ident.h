/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Flow identifiers: worker (8 bits; its place in the keeper's table), generation (24), slot (32).
 * Unique among the flows alive in one daemon, and not reused before 16 million flows have passed
 * through the same slot.
 */
#ifndef UNDERSOCK_BASE_IDENT_H
#define UNDERSOCK_BASE_IDENT_H

#include <inttypes.h>
#include <stdint.h>

#define IDENT_FMT    "%" PRIx64
#define IDENT_ARG(i) (i)

static inline uint64_t ident_make(unsigned worker, uint32_t generation, uint32_t slot)
{
    return (uint64_t)(worker & 0xff) << 56 | (uint64_t)(generation & 0xffffff) << 32 | slot;
}

#endif
