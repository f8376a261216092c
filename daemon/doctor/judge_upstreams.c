/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The upstreams, and what the captures need of the host besides. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "doctor/judge.h"

/* Of a chain it is the first hop that was not reached. */
static void judge_unreached(const struct facts_upstream *u, const char *url, struct findings *ret)
{
    const struct config_upstream *c = u->config;
    char text[768], at[ADDR_STRLEN];

    snprintf(text, sizeof(text),
             "upstream %s (%s) cannot be reached: %s; does it run there, and does no firewall "
             "come between?",
             c->name, url, u->why);
    if (u->at.port == 0)
        finding_add_mend(ret, "upstream-connect", FINDING_FAIL, text, "getent ahosts %s",
                         c->url.host);
    else if (addr_is_loopback(&u->at))
        finding_add_mend(ret, "upstream-connect", FINDING_FAIL, text, "ss -ltnp 'sport = :%u'",
                         u->at.port);
    else
        finding_add_mend(ret, "upstream-connect", FINDING_FAIL, text, "ip route get %s",
                         addr_format_ip(&u->at, at));
}

static void judge_upstream(const struct facts_upstream *u, const char *file, struct findings *ret)
{
    const struct config_upstream *c = u->config;
    char url[CONFIG_HOST_MAX + 64], text[768];

    config_url_format(&c->url, url, sizeof(url));
    switch (u->stage) {
    case REACH_RESOLVE:
        finding_add_mend(ret, "upstream-resolve", FINDING_FAIL, u->why, "getent ahosts %s",
                         c->url.host);
        break;
    case REACH_CONNECT:
        judge_unreached(u, url, ret);
        break;
    case REACH_HANDSHAKE:
        snprintf(text, sizeof(text), "upstream %s (%s) is reached and does not let us in: %s",
                 c->name, url, u->why);
        finding_add_mend(ret, "upstream-handshake", FINDING_FAIL, text, "sudoedit %s",
                         c->password_file ? c->password_file : file);
        break;
    case REACH_DONE:
        finding_add(ret, "upstream", FINDING_OK, NULL, "upstream %s (%s) %s", c->name, url,
                    u->greeted ? "answers and lets us in"
                               : "can be connected to (its protocol has no greeting to try)");
        break;
    }
}

static void judge_capture(const struct facts *f, size_t i, struct findings *ret)
{
    const struct facts_capture *c = &f->captures[i];
    const struct capture_policy *p = &f->config->captures[i].policy;
    char text[512];

    if (c->cgroup == -ENOENT && f->host.cgroup_root[0]) {
        snprintf(text, sizeof(text), "capture %s: there is no cgroup \"%.200s\"", p->name,
                 p->cgroup);
        finding_add_mend(ret, "cgroup-path", FINDING_FAIL, text, "mkdir -p %s%s",
                         f->host.cgroup_root, p->cgroup);
    } else if (c->cgroup < 0 && f->host.cgroup_root[0]) {
        finding_add(ret, "cgroup-path", FINDING_FAIL, NULL,
                    "capture %s: the cgroup \"%.200s\" cannot be opened: %s", p->name, p->cgroup,
                    strerror(-c->cgroup));
    }
    if (c->local_error < 0)
        finding_add(ret, "upstream-owner", FINDING_WARN, NULL, "capture %s: %s", p->name,
                    c->local_why);
    else if (c->local.verdict == LOCAL_UPSTREAM_REFUSE)
        finding_add(ret, "upstream-owner", FINDING_FAIL, NULL, "%s", c->local_why);
    else if (c->local.verdict == LOCAL_UPSTREAM_EXCLUDE)
        finding_add(ret, "upstream-owner", FINDING_WARN, NULL, "%s", c->local_why);
}

void judge_upstreams(const struct facts *f, struct findings *ret)
{
    if (!f->config)
        return;
    for (size_t i = 0; f->upstreams && i < f->config->n_upstreams; i++)
        judge_upstream(&f->upstreams[i], f->file, ret);
    for (size_t i = 0; f->captures && i < f->config->n_captures; i++)
        judge_capture(f, i, ret);
}
