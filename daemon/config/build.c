/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Builds the configuration from a draft, in the order: values, names, references, combinations. */
#include "config/build.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/values.h"

static void copy_name(char ret[CONFIG_NAME_MAX + 1], const char *title)
{
    snprintf(ret, CONFIG_NAME_MAX + 1, "%s", title ? title : "");
}

static int allocate(const struct draft *d, struct config **ret)
{
    struct config *c = calloc(1, sizeof(*c));
    size_t n[SECTION_KINDS] = {0};

    if (!c)
        return -ENOMEM;
    for (size_t i = 0; i < d->n_sections; i++)
        n[d->sections[i].kind]++;
    /* One more than needed: an array of none is still an array. */
    c->upstreams = calloc(n[SECTION_UPSTREAM] + 1, sizeof(*c->upstreams));
    c->groups = calloc(n[SECTION_GROUP] + 1, sizeof(*c->groups));
    c->captures = calloc(n[SECTION_CAPTURE] + 1, sizeof(*c->captures));
    if (!c->upstreams || !c->groups || !c->captures) {
        config_free(c);
        return -ENOMEM;
    }
    *ret = c;
    return 0;
}

static void fill(struct draft *d, bool partial, bool for_run, struct config *c)
{
    for (size_t i = 0; i < d->n_sections; i++) {
        const struct draft_section *s = &d->sections[i];

        switch (s->kind) {
        case SECTION_TOP:
            config_set_section(d, s, partial, c);
            break;
        case SECTION_UPSTREAM: {
            struct config_upstream *u = &c->upstreams[c->n_upstreams++];

            copy_name(u->name, s->title);
            u->line = s->line;
            u->via = -1;
            config_set_section(d, s, partial, u);
            config_check_password(d, s, u);
            break;
        }
        case SECTION_GROUP: {
            struct config_group *g = &c->groups[c->n_groups++];

            copy_name(g->name, s->title);
            g->line = s->line;
            config_set_section(d, s, partial, g);
            break;
        }
        case SECTION_CAPTURE: {
            struct config_capture *k = &c->captures[c->n_captures++];

            copy_name(k->policy.name, s->title);
            k->line = s->line;
            config_set_section(d, s, partial, k);
            if (!partial)
                config_check_capture(d, s, for_run, k);
            break;
        }
        case SECTION_KINDS:
            break;
        }
    }
}

int config_build(struct draft *d, bool partial, bool for_run, struct config **ret)
{
    struct config *c = NULL;

    if (d->out_of_memory || allocate(d, &c) < 0) {
        d->out_of_memory = true;
        return -ENOMEM;
    }
    fill(d, partial, for_run, c);
    if (!partial) {
        config_check_names(d);
        config_resolve(d, c);
    }
    if (d->out_of_memory || d->has_errors) {
        config_free(c);
        return d->out_of_memory ? -ENOMEM : -EINVAL;
    }
    *ret = c;
    return 0;
}
