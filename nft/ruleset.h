/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What captures ask of nftables, as a form: a table with its sets, chains and rules, made from
 * policy alone: all of the output and gateway captures, and the UDP of the cgroup captures.
 * nft/text.h prints it, nft/batch.h installs it.
 */
#ifndef UNDERSOCK_NFT_RULESET_H
#define UNDERSOCK_NFT_RULESET_H

#include <stdbool.h>

#include "capture.h"

#define NFT_TABLE "undersock" /* of family inet */

struct nft_ruleset;

/*
 * Translates the policies of `set` in their order. The TCP of those with hook CAPTURE_CGROUP is not
 * for us, but for their listeners, which no capture takes. A capture by cgroup names its cgroup in
 * the rule, which the kernel resolves when the rule is installed: make the cgroup first. Each hook
 * has chains of its own, whose first match wins. Pure: no kernel, no privilege. The form keeps
 * nothing of `set`. The caller frees it.
 *
 * A family for which a CAPTURE_PROXY has no listener (port 0) is refused, not let through; so is
 * one of an honest capture in which a serving seat has none, and everything while no seat serves.
 *
 * -EINVAL: own_mark has bits outside own_mask, a port range is upside down, or a prefix is longer
 * than 128, or an interface's name than 15 bytes, or a seat's number is CAPTURE_SEATS or more;
 * -ENOMEM.
 */
int nft_ruleset_build(const struct capture_set *set, struct nft_ruleset **ret);
/* NULL is allowed. */
void nft_ruleset_free(struct nft_ruleset *rs);
/* No capture does anything to what is for us: there is no table to install, and the text is "". */
bool nft_ruleset_empty(const struct nft_ruleset *rs);

#endif
