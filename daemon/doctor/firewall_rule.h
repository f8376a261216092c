/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one nftables rule does, as far as it matters to us. */
#ifndef UNDERSOCK_DOCTOR_FIREWALL_RULE_H
#define UNDERSOCK_DOCTOR_FIREWALL_RULE_H

#include <stdbool.h>

#include <libnftnl/rule.h>

/* Traits, enum fw_trait, for packets of each protocol. */
struct rule_does {
    unsigned tcp, udp;
    const char *jump; /* the chain of its table that it jumps or goes to; NULL: none */
    bool jump_tcp, jump_udp;
};

/* `ret->jump` is the rule's, and lives as long. */
void firewall_rule(struct nftnl_rule *rule, struct rule_does *ret);

#endif
