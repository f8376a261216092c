/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/missing.h */
#include "keeper/missing.h"

#include <errno.h>
#include <stdio.h>

#include "log.h"

static void check_capture(const struct config_capture *c)
{
    const char *name = c->policy.name;

    if (c->policy.action == CAPTURE_DIRECT)
        return;
    if (c->udp == UDP_ASSOCIATE || c->udp == UDP_REJECT || c->policy.n_udp_ports > 0)
        log_warning("capture %s: UDP is not redirected by this version; it goes direct", name);
    if (c->dns == DNS_FAKE || c->dns == DNS_TCP || c->dns == DNS_ASSOCIATE)
        log_warning("capture %s: DNS is not redirected by this version; queries go direct", name);
}

int missing_check(const struct config *c, char *why, size_t why_size)
{
    for (size_t i = 0; i < c->n_upstreams; i++) {
        const struct config_upstream *u = &c->upstreams[i];

        if (u->url.scheme == SCHEME_HTTP) {
            snprintf(why, why_size,
                     "upstream %s: http:// is not in this version; use a SOCKS server (socks5h://)",
                     u->name);
            return -EPROTONOSUPPORT;
        }
        if (u->warm > 0 || u->pipeline == TOGGLE_ON)
            log_warning(
                "upstream %s: warm and pipeline are not in this version; each connection is made "
                "when it is asked for",
                u->name);
    }
    for (size_t i = 0; i < c->n_captures; i++)
        check_capture(&c->captures[i]);
    for (size_t i = 0; i < c->n_groups; i++) {
        if (c->groups[i].policy == POLICY_LEAST_LATENCY || c->groups[i].probe)
            log_warning(
                "group %s: probes and least-latency are not in this version; the first member "
                "that answers is used",
                c->groups[i].name);
    }
    if (c->fast_path == FAST_STITCH)
        log_warning("fast-path: stitch is not in this version; auto is used");
    if (c->metrics)
        log_warning("metrics: the listener is not in this version");
    return 0;
}

void missing_say_names(const struct config *c)
{
    for (size_t i = 0; i < c->n_captures; i++) {
        const struct config_capture *capture = &c->captures[i];

        if (capture->target != TARGET_UPSTREAM)
            continue;
        enum config_scheme s = c->upstreams[capture->target_index].url.scheme;

        if (s == SCHEME_SOCKS5H || s == SCHEME_SOCKS4A) {
            log_warning("names are resolved by this host, not by the proxy: this version redirects "
                        "TCP only");
            return;
        }
    }
}
