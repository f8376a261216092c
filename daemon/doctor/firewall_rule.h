/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one nftables rule does, as far as it matters to us. */
#ifndef UNDERSOCK_DOCTOR_FIREWALL_RULE_H
#define UNDERSOCK_DOCTOR_FIREWALL_RULE_H

#include <libnftnl/rule.h>

/* Its traits, enum fw_trait. `ret_jump`: the chain of its table that it jumps or goes to, as long
 * as the rule lives; NULL: none. */
unsigned firewall_rule(struct nftnl_rule *rule, const char **ret_jump);

#endif
