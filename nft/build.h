/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A form as the messages of a transaction. */
#ifndef UNDERSOCK_NFT_BUILD_H
#define UNDERSOCK_NFT_BUILD_H

#include <stdint.h>

struct nft_ruleset;
struct nft_transaction;

/* NFT_MSG_NEWTABLE or NFT_MSG_DELTABLE for an owned table of family inet; `flags` are NLM_F_*.
 * -ENOMEM. */
int nft_build_table(struct nft_transaction *t, uint16_t type, uint16_t flags, const char *table);
/* The sets with their elements, then the chains, then the rules, of a table that is there. -ENOMEM.
 */
int nft_build_contents(struct nft_transaction *t, const char *table, const struct nft_ruleset *rs);

#endif
