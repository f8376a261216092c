/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one section's keys mean together: which selectors a hook can see, what would select more
 * than was written, and where an upstream's password may come from. And what may be written, but is
 * hardly meant.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "config/build.h"
#include "config/text.h"

#define HOOK(h) (1u << (h))

static const struct hook_rule {
    const char *key;
    unsigned hooks; /* where it can be matched */
    const char *remedy;
} hook_rules[] = {
    {"cgroup", HOOK(CAPTURE_CGROUP), "it needs hook = \"cgroup\": set that, or leave cgroup out"},
    {"interfaces", HOOK(CAPTURE_GATEWAY),
     "it needs hook = \"gateway\", as only forwarded traffic has an input interface: set that, or "
     "leave interfaces out"},
    {"uid", HOOK(CAPTURE_OUTPUT) | HOOK(CAPTURE_CGROUP),
     "forwarded traffic has no user: leave uid out, or select with to, mark or interfaces"},
    {"not-uid", HOOK(CAPTURE_OUTPUT) | HOOK(CAPTURE_CGROUP),
     "forwarded traffic has no user: leave not-uid out, or select with not-to, mark or interfaces"},
};

void config_check_capture(struct draft *d, const struct draft_section *s, bool for_run,
                          struct config_capture *c)
{
    for (size_t i = 0; i < sizeof(hook_rules) / sizeof(hook_rules[0]); i++) {
        const struct draft_value *v = config_draft_get(s, hook_rules[i].key);

        if (v && !(hook_rules[i].hooks & HOOK(c->policy.hook)))
            config_draft_error(d, v->line, hook_rules[i].key, v->text, "%s", hook_rules[i].remedy);
    }
    if (c->policy.hook == CAPTURE_CGROUP && !for_run && !config_draft_get(s, "cgroup"))
        config_draft_error(
            d, s->line, "a capture", s->title,
            "hook \"cgroup\" needs a cgroup: add cgroup = \"/proxied.slice\", or \"/\" for the "
            "whole host");
    const struct draft_value *mark = config_draft_get(s, "mark");

    c->policy.has_mark = mark != NULL;
    if (mark && (c->policy.mark & CAPTURE_OWN_MASK) == CAPTURE_OWN_MARK)
        config_draft_error(d, mark->line, "mark", mark->text,
                           "the marks from 0x55530000 to 0x5553ffff are undersock's own, and never "
                           "captured: choose another");

    /* Selectors that are not given match everything: all of TCP, here, which nobody means. */
    const struct draft_value *udp = config_draft_get(s, "udp-ports");

    if (udp && !config_draft_get(s, "tcp-ports"))
        config_draft_error(
            d, udp->line, "udp-ports", udp->text,
            "without tcp-ports, every TCP port is selected too: add tcp-ports = { ... }, or "
            "{ \"1-65535\" } when all are meant");
}

void config_check_password(struct draft *d, const struct draft_section *s,
                           struct config_upstream *u)
{
    const struct draft_value *v = config_draft_get(s, "password-file");
    char why[512];

    if (!v || !u->password_file || u->url.host[0] == '\0')
        return;
    if (!config_scheme_has_password(u->url.scheme)) {
        config_draft_error(d, v->line, "password-file", v->text,
                           "SOCKS4 carries no password: leave it out, or use socks5h in url");
        return;
    }
    if (u->url.has_password) {
        config_draft_error(
            d, v->line, "password-file", v->text,
            "url has a password too: take that one out, so that it stays in its file only");
        return;
    }
    if (!u->url.has_user) {
        config_draft_error(d, v->line, "password-file", v->text,
                           "a password needs a user: write url = \"socks5h://USER@HOST:PORT\"");
        return;
    }
    if (config_password_read(u->password_file, u->url.password, why, sizeof(why)) < 0)
        config_draft_error(d, v->line, "password-file", v->text, "%s", why);
    else
        u->url.has_password = true;
}

void config_check_meant(struct draft *d, const struct config *c)
{
    size_t n = 0;

    if (c->n_captures == 0)
        config_draft_warning(d, 0, "no capture", NULL,
                             "nothing is redirected: add capture \"NAME\" { hook = \"output\" "
                             "upstream = ... }");
    for (size_t i = 0; i < d->n_sections; i++) {
        const struct draft_section *s = &d->sections[i];

        if (s->kind != SECTION_UPSTREAM)
            continue;
        const struct config_url *url = &c->upstreams[n++].url;
        const struct draft_value *v = config_draft_get(s, "url");

        if (v && url->has_user && !url->has_password && config_scheme_has_password(url->scheme))
            config_draft_warning(
                d, v->line, "url", NULL,
                "it has a user and no password, which few servers take: add one, in "
                "password-file (with run: UNDERSOCK_PASSWORD), or leave the user out");
    }
}
