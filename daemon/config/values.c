/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Single values: checked against the option's table entry, stored at its offset. */
#include "config/values.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "addr.h"
#include "config/text.h"

static void store(void *base, const struct option *o, const void *value, size_t size)
{
    memcpy((char *)base + o->offset, value, size);
}

static int store_text(struct draft *d, const struct option *o, const char *text, void *base)
{
    char *copy = strdup(text);

    if (!copy) {
        d->out_of_memory = true;
        return -ENOMEM;
    }
    store(base, o, &copy, sizeof(copy));
    return 0;
}

static int set_word(struct draft *d, const struct option *o, unsigned line, const char *text,
                    void *base)
{
    struct suggestion near = {.written = text};
    char hint[80], all[160] = "";

    for (unsigned i = 0; o->words[i]; i++) {
        if (strcmp(text, o->words[i]) == 0) {
            store(base, o, &i, sizeof(i));
            return 0;
        }
        config_suggestion_offer(&near, o->words[i]);
        strncat(all, i > 0 ? ", " : "", sizeof(all) - strlen(all) - 1);
        strncat(all, o->words[i], sizeof(all) - strlen(all) - 1);
    }
    config_draft_error(d, line, o->name, text, "%sit is one of %s",
                       config_suggestion_text(&near, hint, sizeof(hint)), all);
    return -EINVAL;
}

static int set_number(struct draft *d, const struct option *o, unsigned line, const char *text,
                      void *base)
{
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *digits = hex ? text + 2 : text;
    size_t n = strspn(digits, hex ? "0123456789abcdefABCDEF" : "0123456789");
    /* 15 digits of either kind fit into 64 bits, and are more than any maximum has. */
    uint64_t v = n > 0 && n <= 15 ? strtoull(digits, NULL, hex ? 16 : 10) : UINT64_MAX;

    if (n == 0 || digits[n] != '\0' || v < (uint64_t)o->min || v > (uint64_t)o->max) {
        config_draft_error(d, line, o->name, text, "give a number from %" PRId64 " to %" PRId64,
                           o->min, o->max);
        return -EINVAL;
    }
    unsigned number = (unsigned)v;

    store(base, o, &number, sizeof(number));
    return 0;
}

static const char *format_duration(int64_t ns, char *buf, size_t size)
{
    int64_t ms = ns / 1000000;

    if (ms == 0)
        snprintf(buf, size, "0");
    else if (ms % 3600000 == 0)
        snprintf(buf, size, "%" PRId64 "h", ms / 3600000);
    else if (ms % 1000 == 0)
        snprintf(buf, size, "%" PRId64 "s", ms / 1000);
    else
        snprintf(buf, size, "%" PRId64 "ms", ms);
    return buf;
}

static int set_duration(struct draft *d, const struct option *o, unsigned line, const char *text,
                        void *base)
{
    int64_t ns;
    char min[32], max[32];

    if (config_duration_parse(text, &ns) < 0 || ns < o->min || ns > o->max) {
        config_draft_error(
            d, line, o->name, text,
            "give a whole number and a unit (ms, s, m, h) from %s to %s, as in \"30s\"",
            format_duration(o->min, min, sizeof(min)), format_duration(o->max, max, sizeof(max)));
        return -EINVAL;
    }
    store(base, o, &ns, sizeof(ns));
    return 0;
}

static int set_bool(struct draft *d, const struct option *o, unsigned line, const char *text,
                    void *base)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};

    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            bool b = i % 2 == 1;

            store(base, o, &b, sizeof(b));
            return 0;
        }
    }
    config_draft_error(d, line, o->name, text, "it is true or false");
    return -EINVAL;
}

static int set_url(struct draft *d, const struct option *o, unsigned line, const char *text,
                   void *base)
{
    struct config_url u;
    char why[256], shown[160];
    int r = config_url_parse(text, &u, why, sizeof(why));

    if (r < 0) {
        config_draft_error(d, line, o->name, config_url_redact(text, shown, sizeof(shown)), "%s",
                           why);
        return r;
    }
    if (u.scheme == SCHEME_HTTP) {
        config_draft_error(d, line, o->name, config_url_format(&u, shown, sizeof(shown)),
                           "http:// is not in this version: use a SOCKS server, as in "
                           "socks5h://HOST:PORT");
        r = -EINVAL;
    } else {
        store(base, o, &u, sizeof(u));
    }
    explicit_bzero(&u, sizeof(u));
    return r;
}

static int set_path(struct draft *d, const struct option *o, unsigned line, const char *text,
                    void *base)
{
    if (text[0] != '/') {
        config_draft_error(d, line, o->name, text, "give an absolute path, one that begins with /");
        return -EINVAL;
    }
    if (strlen(text) > (size_t)o->max) {
        config_draft_error(d, line, o->name, text,
                           "the path has %zu bytes: at most %" PRId64 " fit", strlen(text), o->max);
        return -EINVAL;
    }
    return store_text(d, o, text, base);
}

/* No empty, "." or ".." component: the path is walked below the cgroup2 root and must stay there.
 */
static int set_cgroup(struct draft *d, const struct option *o, unsigned line, const char *text,
                      void *base)
{
    bool good = text[0] == '/' && strlen(text) <= (size_t)o->max;

    for (const char *p = text; good && *p == '/' && p[1] != '\0'; p += 1 + strcspn(p + 1, "/")) {
        size_t n = strcspn(p + 1, "/");

        good = n > 0 && n <= 255 && !(n <= 2 && strncmp(p + 1, "..", n) == 0) &&
               !(p[1 + n] == '/' && p[2 + n] == '\0');
    }
    if (!good) {
        config_draft_error(
            d, line, o->name, text,
            "give a path below the cgroup2 root that begins with / and has no empty, \".\" or "
            "\"..\" part, as in \"/proxied.slice\"; \"/\" is the whole host");
        return -EINVAL;
    }
    return store_text(d, o, text, base);
}

static int set_address(struct draft *d, const struct option *o, unsigned line, const char *text,
                       void *base)
{
    struct addr a;

    if (addr_parse(text, (uint16_t)o->min, &a) < 0 || a.port == 0) {
        config_draft_error(
            d, line, o->name, text,
            "give an address and a port from 1 to 65535, as in \"127.0.0.1:9180\" or "
            "\"[2001:db8::1]:53\"; names are not resolved here");
        return -EINVAL;
    }
    return store_text(d, o, text, base);
}

static int set_endpoint(struct draft *d, const struct option *o, unsigned line, const char *text,
                        void *base)
{
    char host[CONFIG_HOST_MAX + 1], why[256];
    uint16_t port = 0;

    if (config_split_endpoint(text, strlen(text), host, &port, why, sizeof(why)) < 0) {
        config_draft_error(d, line, o->name, text, "%s", why);
        return -EINVAL;
    }
    return store_text(d, o, text, base);
}

int config_set_value(struct draft *d, const struct option *o, unsigned line, const char *text,
                     void *base)
{
    switch (o->type) {
    case OPTION_WORD:
        return set_word(d, o, line, text, base);
    case OPTION_NUMBER:
        return set_number(d, o, line, text, base);
    case OPTION_DURATION:
        return set_duration(d, o, line, text, base);
    case OPTION_BOOL:
        return set_bool(d, o, line, text, base);
    case OPTION_URL:
        return set_url(d, o, line, text, base);
    case OPTION_PATH:
        return set_path(d, o, line, text, base);
    case OPTION_CGROUP:
        return set_cgroup(d, o, line, text, base);
    case OPTION_ADDRESS:
        return set_address(d, o, line, text, base);
    case OPTION_ENDPOINT:
        return set_endpoint(d, o, line, text, base);
    case OPTION_REFERENCE:
        return 0;
    case OPTION_PORTS:
    case OPTION_PREFIXES:
    case OPTION_USERS:
    case OPTION_INTERFACES:
    case OPTION_NAMES:
    case OPTION_MEMBERS:
        break;
    }
    return -EINVAL;
}

void config_set_section(struct draft *d, const struct draft_section *s, bool partial, void *base)
{
    for (size_t i = 0; i < config_n_options; i++) {
        const struct option *o = &config_options[i];
        const struct draft_value *v = config_draft_next(s, o, NULL);

        if (o->section != s->kind)
            continue;
        /* Of an empty list nothing comes here but its error. */
        bool empty = d->empty_list && config_option_is_list(o);

        if (!v && (o->flags & OPTION_REQUIRED) && !partial && !empty)
            config_draft_error(d, s->line, config_section_name(s->kind), s->title,
                               "%s is missing: every %s needs one", o->name,
                               strchr(config_section_name(s->kind), ' ') + 1);
        if (config_option_is_list(o)) {
            config_set_list(d, s, o, base);
            continue;
        }
        if (!v && o->fallback)
            config_set_value(d, o, 0, o->fallback, base);
        if (!v)
            continue;
        const struct draft_value *second = config_draft_next(s, o, v);

        if (second)
            config_draft_error(d, second->line, o->name,
                               o->type == OPTION_URL ? NULL : second->text,
                               "it takes one value, not a list: write %s = \"VALUE\"", o->name);
        config_set_value(d, o, v->line, v->text, base);
    }
}
