/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `undersock run -u URL -o KEY=VALUE`: fills the same draft that a file would, without a detour
 * through the file's grammar, so there is nothing to quote and nothing to inject. The draft's
 * "lines" are the arguments: first the URLs, then the options, and each has a label that begins its
 * errors.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/build.h"
#include "config/options.h"
#include "config/text.h"

#define PASSWORD_VARIABLE "UNDERSOCK_PASSWORD"

struct arguments {
    char *const *urls, *const *options;
    size_t n_urls, n_options;
    char **labels; /* n_urls + n_options */
};

static const struct option *find_key(const char *key)
{
    const struct option *o = config_option_find(SECTION_CAPTURE, key);

    if (!o)
        o = config_option_find(SECTION_TOP, key);
    if (!o) {
        o = config_option_find(SECTION_UPSTREAM, key);
        o = o && (o->flags & OPTION_EVERY_HOP) ? o : NULL;
    }
    return o;
}

/* The key of "KEY=VALUE" as a copy; NULL without '=' or without memory. */
static char *key_of(const char *text)
{
    size_t n = strcspn(text, "=");

    return text[n] == '=' ? strndup(text, n) : NULL;
}

/* "-u socks5h://host:1080", "-o KEY=VALUE"; the value of an unknown key may be anything: not shown.
 */
static char *make_label(const struct arguments *a, size_t i)
{
    char shown[200], *label = NULL;
    struct config_url u;
    int n;

    if (i < a->n_urls) {
        if (config_url_parse(a->urls[i], &u, shown, sizeof(shown)) == 0)
            config_url_format(&u, shown, sizeof(shown));
        else
            config_url_redact(a->urls[i], shown, sizeof(shown));
        explicit_bzero(&u, sizeof(u));
        n = asprintf(&label, "-u %s", shown);
    } else {
        const char *text = a->options[i - a->n_urls];
        char *key = key_of(text);

        if (key && find_key(key))
            n = asprintf(&label, "-o %.160s", text);
        else if (key)
            n = asprintf(&label, "-o %.60s", key);
        else
            n = asprintf(&label, "-o %s", config_url_redact(text, shown, sizeof(shown)));
        free(key);
    }
    return n < 0 ? NULL : label;
}

static void report_key(struct draft *d, unsigned line, const char *key)
{
    struct suggestion near = {.written = key};
    char capture[512], top[256], hops[128], hint[80];

    for (size_t i = 0; i < config_n_options; i++) {
        if (find_key(config_options[i].name))
            config_suggestion_offer(&near, config_options[i].name);
    }
    config_draft_error(d, line, "unknown key", key, "%sthe keys are %s; %s; %s",
                       config_suggestion_text(&near, hint, sizeof(hint)),
                       config_option_list(SECTION_CAPTURE, 0, capture, sizeof(capture)),
                       config_option_list(SECTION_TOP, 0, top, sizeof(top)),
                       config_option_list(SECTION_UPSTREAM, OPTION_EVERY_HOP, hops, sizeof(hops)));
}

/* The elements of "a, b,c": blanks around the commas do not count. */
static void add_list(struct draft *d, struct draft_section *s, const struct option *o,
                     unsigned line, const char *value)
{
    while (true) {
        size_t n = strcspn(value, ","), begin = strspn(value, " \t"), end = n;

        while (end > begin && (value[end - 1] == ' ' || value[end - 1] == '\t'))
            end--;
        char *element = strndup(value + (begin < end ? begin : end), begin < end ? end - begin : 0);

        if (!element) {
            d->out_of_memory = true;
            return;
        }
        config_draft_add(d, s, o, line, element);
        free(element);
        if (value[n] == '\0')
            return;
        value += n + 1;
    }
}

/* The last one of a single value wins; lists add up. */
static void add_option(struct draft *d, unsigned line, const char *text)
{
    char *key = key_of(text);
    const struct option *o = key ? find_key(key) : NULL;

    if (!key)
        config_draft_error(d, line, "option", NULL, "write -o KEY=VALUE, as in -o udp=reject");
    else if (!o)
        report_key(d, line, key);
    free(key);
    if (!o)
        return;
    const char *value = text + strlen(o->name) + 1;

    for (size_t i = 0; i < d->n_sections; i++) {
        struct draft_section *s = &d->sections[i];

        if (s->kind != o->section)
            continue;
        if (config_option_is_list(o)) {
            add_list(d, s, o, line, value);
        } else {
            config_draft_remove(s, o);
            config_draft_add(d, s, o, line, value);
        }
    }
}

static void fill(struct draft *d, const struct arguments *a)
{
    char name[32], via[32] = "";

    for (size_t i = 0; i < a->n_urls; i++) {
        unsigned line = (unsigned)i + 1;

        snprintf(name, sizeof(name), "hop%zu", i + 1);
        config_draft_begin(d, SECTION_UPSTREAM, name, line);
        if (d->out_of_memory)
            return;
        struct draft_section *s = &d->sections[d->n_sections - 1];

        config_draft_add(d, s, config_option_find(SECTION_UPSTREAM, "url"), line, a->urls[i]);
        if (via[0] != '\0')
            config_draft_add(d, s, config_option_find(SECTION_UPSTREAM, "via"), line, via);
        memcpy(via, name, sizeof(via));
    }
    config_draft_begin(d, SECTION_CAPTURE, "run", 0);
    if (d->out_of_memory)
        return;
    struct draft_section *s = &d->sections[d->n_sections - 1];

    config_draft_add(d, s, config_option_find(SECTION_CAPTURE, "hook"), 0, "cgroup");
    config_draft_add(d, s, config_option_find(SECTION_CAPTURE, "upstream"), 0, via);
    for (size_t i = 0; i < a->n_options; i++)
        add_option(d, (unsigned)(a->n_urls + i) + 1, a->options[i]);
}

/* The environment's password, for the last hop that names a user and no password. */
static void take_password(struct draft *d, struct config *c)
{
    const char *password = getenv(PASSWORD_VARIABLE);
    size_t n = password ? strlen(password) : 0;
    struct config_upstream *last = NULL;

    for (size_t i = 0; i < c->n_upstreams; i++) {
        struct config_upstream *u = &c->upstreams[i];

        if (u->url.has_user && !u->url.has_password && config_scheme_has_password(u->url.scheme))
            last = u;
    }
    if (!password || !last)
        return;
    if (n == 0 || n >= sizeof(last->url.password)) {
        config_draft_error(d, last->line, PASSWORD_VARIABLE, NULL,
                           "the password has %zu bytes: give 1 to 255, or unset the variable", n);
        return;
    }
    memcpy(last->url.password, password, n + 1);
    last->url.has_password = true;
}

static int build(struct draft *d, const struct arguments *a, struct config **ret)
{
    if (a->n_urls == 0) {
        config_draft_error(d, 0, "-u URL is required", NULL,
                           "name the proxy, e.g. -u socks5h://127.0.0.1:1080");
        return -EINVAL;
    }
    if (a->n_urls > CONFIG_CHAIN_MAX) {
        config_draft_error(d, 0, "-u URL", NULL, "%zu of them: a chain has at most %d hops",
                           a->n_urls, CONFIG_CHAIN_MAX);
        return -EINVAL;
    }
    fill(d, a);

    struct config *c = NULL;
    int r = config_build(d, false, true, &c);

    if (r < 0)
        return r;
    take_password(d, c);
    if (d->has_errors) {
        config_free(c);
        return -EINVAL;
    }
    config_check_meant(d, c);
    *ret = c;
    return 0;
}

int config_from_options(char *const *urls, size_t n_urls, char *const *options, size_t n_options,
                        config_error_fn error, void *ctx, struct config **ret)
{
    struct arguments a = {
        .urls = urls, .options = options, .n_urls = n_urls, .n_options = n_options};
    struct config *c = NULL;
    size_t n = n_urls + n_options;
    struct draft d;
    int r = 0;

    a.labels = calloc(n + 1, sizeof(*a.labels));
    for (size_t i = 0; a.labels && i < n; i++)
        a.labels[i] = make_label(&a, i);

    config_draft_init(&d, "undersock run", (const char *const *)a.labels, n);
    if (!a.labels)
        d.out_of_memory = true;
    for (size_t i = 0; a.labels && i < n; i++)
        d.out_of_memory |= !a.labels[i];
    if (!d.out_of_memory)
        r = build(&d, &a, &c);

    int reported = config_draft_report(&d, error, ctx);

    if (r == 0)
        r = reported;
    config_draft_free(&d);
    for (size_t i = 0; a.labels && i < n; i++)
        free(a.labels[i]);
    free(a.labels);
    if (r < 0) {
        config_free(c);
        return r;
    }
    *ret = c;
    return 0;
}
