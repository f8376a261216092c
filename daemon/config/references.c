/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names and what refers to them. A reference is resolved to an index; via may lead neither back to
 * where it began nor further than CONFIG_CHAIN_MAX hops.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/build.h"
#include "config/options.h"

static bool name_is_good(const char *name)
{
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");

    return n > 0 && n <= CONFIG_NAME_MAX && name[n] == '\0';
}

static bool is_target(enum section_kind kind)
{
    return kind == SECTION_UPSTREAM || kind == SECTION_GROUP;
}

static void check_name(struct draft *d, size_t index)
{
    const struct draft_section *s = &d->sections[index];
    const char *what = strchr(config_section_name(s->kind), ' ') + 1;

    if (!name_is_good(s->title)) {
        config_draft_error(d, s->line, what, s->title,
                           "a name has 1 to %d characters out of letters, digits, '_', '.' and '-'",
                           CONFIG_NAME_MAX);
        return;
    }
    if (is_target(s->kind) &&
        (strcmp(s->title, "direct") == 0 || strcmp(s->title, "refuse") == 0)) {
        config_draft_error(
            d, s->line, what, s->title,
            "the name is reserved: a capture's upstream = \"%s\" means no upstream at all; "
            "choose another",
            s->title);
        return;
    }
    for (size_t i = 1; i < index; i++) {
        const struct draft_section *e = &d->sections[i];

        if ((e->kind != s->kind && !(is_target(e->kind) && is_target(s->kind))) ||
            strcmp(e->title, s->title) != 0)
            continue;
        config_draft_error(d, s->line, what, s->title,
                           "%s on line %u has this name already: choose another",
                           config_section_name(e->kind), e->line);
        return;
    }
}

void config_check_names(struct draft *d)
{
    for (size_t i = 1; i < d->n_sections; i++)
        check_name(d, i);
}

static int find_upstream(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->n_upstreams; i++) {
        if (strcmp(c->upstreams[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

static int find_group(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->n_groups; i++) {
        if (strcmp(c->groups[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

/* A name that nothing has. `groups`: one of a group would do as well. */
static void report_missing(struct draft *d, const struct config *c, const struct draft_value *v,
                           bool groups)
{
    struct suggestion near = {.written = v->text};
    char hint[80];

    for (size_t i = 0; i < c->n_upstreams; i++)
        config_suggestion_offer(&near, c->upstreams[i].name);
    for (size_t i = 0; groups && i < c->n_groups; i++)
        config_suggestion_offer(&near, c->groups[i].name);
    if (groups) {
        config_suggestion_offer(&near, "direct");
        config_suggestion_offer(&near, "refuse");
    }
    config_draft_error(d, v->line, v->option->name, v->text,
                       "%sno upstream%s has this name: define upstream \"NAME\" { url = ... }%s",
                       config_suggestion_text(&near, hint, sizeof(hint)), groups ? " or group" : "",
                       groups ? ", or use \"direct\" or \"refuse\"" : "");
}

/* An upstream, and only that: for via and members. Its index or -1. */
static int need_upstream(struct draft *d, const struct config *c, const struct draft_value *v)
{
    int i = find_upstream(c, v->text);

    if (i >= 0)
        return i;
    if (find_group(c, v->text) >= 0)
        config_draft_error(d, v->line, v->option->name, v->text,
                           "this is a group: name one of its upstreams instead");
    else
        report_missing(d, c, v, false);
    return -1;
}

static void resolve_members(struct draft *d, const struct config *c, const struct draft_section *s,
                            struct config_group *g)
{
    const struct option *o = config_option_find(SECTION_GROUP, "members");

    g->members = calloc(s->n_values + 1, sizeof(*g->members));
    if (!g->members) {
        d->out_of_memory = true;
        return;
    }
    for (const struct draft_value *v = config_draft_next(s, o, NULL); v;
         v = config_draft_next(s, o, v)) {
        int member = need_upstream(d, c, v);
        size_t k = 0;

        if (member < 0)
            continue;
        while (k < g->n_members && g->members[k] != (unsigned)member)
            k++;
        if (k < g->n_members)
            config_draft_error(d, v->line, o->name, v->text,
                               "it is in the list already: name it once");
        else
            g->members[g->n_members++] = (unsigned)member;
    }
}

static void resolve_target(struct draft *d, const struct config *c, const struct draft_value *v,
                           struct config_capture *k)
{
    int i;

    k->policy.action = CAPTURE_PROXY;
    if (strcmp(v->text, "direct") == 0) {
        k->target = TARGET_DIRECT;
        k->policy.action = CAPTURE_DIRECT;
    } else if (strcmp(v->text, "refuse") == 0) {
        k->target = TARGET_REFUSE;
        k->policy.action = CAPTURE_REFUSE;
    } else if ((i = find_upstream(c, v->text)) >= 0) {
        k->target = TARGET_UPSTREAM;
        k->target_index = (unsigned)i;
    } else if ((i = find_group(c, v->text)) >= 0) {
        k->target = TARGET_GROUP;
        k->target_index = (unsigned)i;
    } else {
        report_missing(d, c, v, true);
    }
}

/* The hops from upstream `i` to where it began, or 0 when there is no end to them. */
static size_t chain_length(const struct config *c, size_t i)
{
    size_t n = 1;

    for (int at = c->upstreams[i].via; at >= 0; at = c->upstreams[at].via) {
        if (++n > c->n_upstreams)
            return 0;
    }
    return n;
}

/* Reports a loop once: at the first of its upstreams. */
static void check_loop(struct draft *d, const struct config *c, const struct draft_value *v,
                       size_t i)
{
    char path[256];
    size_t n = (size_t)snprintf(path, sizeof(path), "%s", c->upstreams[i].name);
    int at = c->upstreams[i].via;

    for (size_t steps = 0; at >= 0 && steps <= c->n_upstreams; steps++) {
        if ((size_t)at < i)
            return; /* another one's, or only leads into one */
        if (n < sizeof(path))
            n += (size_t)snprintf(path + n, sizeof(path) - n, " -> %s", c->upstreams[at].name);
        if ((size_t)at == i) {
            config_draft_error(d, v->line, "via", v->text,
                               "the chain is a loop (%s): take one via out", path);
            return;
        }
        at = c->upstreams[at].via;
    }
}

static void check_chains(struct draft *d, const struct config *c)
{
    size_t u = 0;

    for (size_t i = 0; i < d->n_sections; i++) {
        const struct draft_section *s = &d->sections[i];

        if (s->kind != SECTION_UPSTREAM)
            continue;
        const struct draft_value *v = config_draft_get(s, "via");
        size_t n = chain_length(c, u);

        if (n == 0)
            check_loop(d, c, v, u);
        else if (n == CONFIG_CHAIN_MAX + 1) /* longer ones lead through this one */
            config_draft_error(d, v->line, "via", v->text,
                               "the chain has more than %d hops: shorten it", CONFIG_CHAIN_MAX);
        u++;
    }
}

void config_resolve(struct draft *d, struct config *c)
{
    size_t n[SECTION_KINDS] = {0};

    for (size_t i = 0; i < d->n_sections; i++) {
        const struct draft_section *s = &d->sections[i];
        size_t at = n[s->kind]++;
        const struct draft_value *v;

        if (s->kind == SECTION_UPSTREAM && (v = config_draft_get(s, "via")))
            c->upstreams[at].via = need_upstream(d, c, v);
        else if (s->kind == SECTION_GROUP)
            resolve_members(d, c, s, &c->groups[at]);
        else if (s->kind == SECTION_CAPTURE && (v = config_draft_get(s, "upstream")))
            resolve_target(d, c, v, &c->captures[at]);
    }
    check_chains(d, c);
}
