/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/missing.h */
#include "keeper/missing.h"

#include "log.h"

void missing_warn(const struct config *c)
{
    for (size_t i = 0; i < c->n_upstreams; i++) {
        const struct config_upstream *u = &c->upstreams[i];

        if (u->warm > 0 || u->pipeline == TOGGLE_ON)
            log_warning(
                "upstream %s: warm and pipeline are not in this version; each connection is made "
                "when it is asked for",
                u->name);
    }
    for (size_t i = 0; i < c->n_groups; i++) {
        if (c->groups[i].policy == POLICY_LEAST_LATENCY || c->groups[i].probe)
            log_warning(
                "group %s: probes and least-latency are not in this version; the first member "
                "that answers is used",
                c->groups[i].name);
    }
    for (size_t i = 0; i < c->n_captures; i++) {
        if (config_lacks_dns_server(&c->captures[i]))
            log_warning(CONFIG_LACKS_DNS_SERVER, c->captures[i].policy.name);
    }
    if (c->metrics)
        log_warning(
            "metrics: the listener is not in this version; undersock metrics prints the counters");
}
