/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ruleset in nft's syntax, letter for letter as `nft list table inet undersock` (nftables 1.0.6)
 * prints it once it is installed, but for the comment "# progname NAME" after the opening brace,
 * which names whoever owns the table. `nft -c -f` accepts it.
 */
#ifndef UNDERSOCK_NFT_TEXT_H
#define UNDERSOCK_NFT_TEXT_H

#include <stdbool.h>

struct nft_ruleset;

/* A string with a newline at its end (empty for an empty ruleset) that the caller frees; NULL: no
 * memory. */
char *nft_ruleset_text(const struct nft_ruleset *rs);
/* The same for a table of another name, with an owner or without. */
char *nft_ruleset_text_as(const struct nft_ruleset *rs, const char *table, bool owned);
/* One rule, without indentation and newline, for messages; the caller frees it; NULL: no memory. */
char *nft_rule_text(const struct nft_ruleset *rs, unsigned chain, unsigned rule);

#endif
