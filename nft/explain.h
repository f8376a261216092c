/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the kernel refused, in one line for `why` (of `size` bytes; may be NULL when size is 0). */
#ifndef UNDERSOCK_NFT_EXPLAIN_H
#define UNDERSOCK_NFT_EXPLAIN_H

#include <stdbool.h>
#include <stddef.h>

struct nft_label;
struct nft_ruleset;

/* Writes the line and returns `error`. */
int __attribute__((format(printf, 4, 5)))
nft_say(int error, char *why, size_t size, const char *format, ...);
/* Rules that name a cgroup need its number: -ENOENT (no cgroup2 is mounted), -errno. */
int nft_check_cgroups(const struct nft_ruleset *rs, char *why, size_t size);
/* Of family inet; false also when it cannot be told. */
bool nft_table_is_there(const char *table);
/* A transaction as a whole; returns our errno for the error. */
int nft_explain_batch(int error, char *why, size_t size);
/* The object of `rs` (NULL when none is involved) that the kernel refused, likewise. */
int nft_explain(const char *table, const struct nft_ruleset *rs, const struct nft_label *label,
                int error, char *why, size_t size);

#endif
