/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A rule of the form as the kernel's expressions: registers are loaded, compared, and acted on. */
#ifndef UNDERSOCK_NFT_EXPR_H
#define UNDERSOCK_NFT_EXPR_H

#include "nft/form.h"

struct nftnl_rule;

/*
 * Appends the expressions of `rule` to `ret`. Like nft, it adds the matches without which a field
 * means nothing (the family before an address, the protocol before a port), each once in a rule and
 * right before the first field that needs it, so that nft leaves them out again when it lists.
 * `suffix` is put behind the names of sets. -ENOMEM; -ENOENT: a
 * cgroup is not there, or no cgroup2 is mounted.
 */
int nft_expr_add_all(const struct nft_ruleset *rs, const char *suffix, const struct nft_rule *rule,
                     struct nftnl_rule *ret);
/* Data of the form's network order as the kernel compares it; `size` bytes of `type`. */
void nft_expr_put_data(enum nft_type type, const uint8_t *data, uint8_t *ret);

#endif
