/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A form as the messages of a transaction. */
#ifndef UNDERSOCK_NFT_BUILD_H
#define UNDERSOCK_NFT_BUILD_H

#include <stdbool.h>
#include <stdint.h>

struct nft_ruleset;
struct nft_transaction;

/* Where a form goes: the table, and what is put behind the names of its sets ("": nothing). */
struct nft_place {
    const char *table, *suffix;
};

/* What may be put behind a set's name, the terminating 0 included. */
#define NFT_SUFFIX_SIZE 16

/* All append messages to the transaction. -ENOMEM. */

/* NFT_MSG_NEWTABLE or NFT_MSG_DELTABLE for a table of family inet; `flags` are NLM_F_*. */
int nft_build_table(struct nft_transaction *t, uint16_t type, uint16_t flags, const char *table,
                    bool owned);
/* The sets with their elements. */
int nft_build_sets(struct nft_transaction *t, struct nft_place place, const struct nft_ruleset *rs);
/* The chains, still without rules, that `old` (NULL: none) has not. */
int nft_build_chains(struct nft_transaction *t, struct nft_place place,
                     const struct nft_ruleset *old, const struct nft_ruleset *rs);
/* The rules of all chains; their sets and chains are there or come earlier in the transaction. */
int nft_build_rules(struct nft_transaction *t, struct nft_place place,
                    const struct nft_ruleset *rs);

/* Undo those. Rules go before the sets and chains that they use; all rules of each chain go. */
int nft_delete_rules(struct nft_transaction *t, struct nft_place place,
                     const struct nft_ruleset *rs);
int nft_delete_sets(struct nft_transaction *t, struct nft_place place,
                    const struct nft_ruleset *rs);
/* The chains of `old` that `rs` has not. */
int nft_delete_chains(struct nft_transaction *t, struct nft_place place,
                      const struct nft_ruleset *old, const struct nft_ruleset *rs);

#endif
