/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lists: each type parses one element into an array of its own size; the array is then sorted and
 * merged, because what the kernel gets (nftables intervals, BPF tries) must not overlap.
 */
#include <errno.h>
#include <net/if.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "addr.h"
#include "config/values.h"
#include "dns/real.h"

typedef int element_parser(struct draft *d, const struct option *o, const struct draft_value *v,
                           void *ret);

/* A decimal number of at most `max`, its digits followed by `end`; NULL when it is none. */
static const char *parse_number(const char *text, char end, uint64_t max, uint64_t *ret)
{
    size_t n = strspn(text, "0123456789");
    uint64_t v = n > 0 && n <= 15 ? strtoull(text, NULL, 10) : UINT64_MAX;

    if (v > max || text[n] != end)
        return NULL;
    *ret = v;
    return text + n;
}

static int parse_ports(struct draft *d, const struct option *o, const struct draft_value *v,
                       void *ret)
{
    uint64_t first, last;
    const char *dash = strchr(v->text, '-');
    bool good = parse_number(v->text, dash ? '-' : '\0', UINT16_MAX, &first) != NULL;

    last = first;
    if (good && dash)
        good = parse_number(dash + 1, '\0', UINT16_MAX, &last) != NULL;
    if (!good || first == 0 || last == 0) {
        config_draft_error(
            d, v->line, o->name, v->text,
            "give a port or a range from 1 to 65535, as in \"443\" or \"8000-8999\"");
        return -EINVAL;
    }
    if (first > last) {
        config_draft_error(d, v->line, o->name, v->text, "the range is reversed: write \"%u-%u\"",
                           (unsigned)last, (unsigned)first);
        return -EINVAL;
    }
    *(struct port_range *)ret = (struct port_range){(uint16_t)first, (uint16_t)last};
    return 0;
}

static int parse_prefix(struct draft *d, const struct option *o, const struct draft_value *v,
                        void *ret)
{
    if (prefix_parse(v->text, ret) == 0)
        return 0;
    config_draft_error(
        d, v->line, o->name, v->text,
        "give a network, its length 0 to 32 (IPv4) or 0 to 128 (IPv6), or an address, as in "
        "\"203.0.113.0/24\", \"2001:db8::/32\", \"192.0.2.7\"");
    return -EINVAL;
}

static int parse_user(struct draft *d, const struct option *o, const struct draft_value *v,
                      void *ret)
{
    uint64_t uid;

    /* (uid_t)-1 means "no user" to every system call that takes one. */
    if (parse_number(v->text, '\0', UINT32_MAX - 1, &uid)) {
        *(uint32_t *)ret = (uint32_t)uid;
        return 0;
    }
    if (v->text[0] != '\0' && v->text[strspn(v->text, "0123456789")] == '\0') {
        config_draft_error(d, v->line, o->name, v->text,
                           "give a number from 0 to %u, or the name of a user", UINT32_MAX - 1);
        return -EINVAL;
    }
    struct passwd *pw = v->text[0] != '\0' ? getpwnam(v->text) : NULL;

    if (!pw) {
        config_draft_error(
            d, v->line, o->name, v->text,
            "no user has this name: give one that `getent passwd` shows, or a number");
        return -EINVAL;
    }
    *(uint32_t *)ret = pw->pw_uid;
    return 0;
}

/* The interface need not exist yet. The shape is the kernel's own (dev_valid_name()). */
static int parse_interface(struct draft *d, const struct option *o, const struct draft_value *v,
                           void *ret)
{
    size_t n = strlen(v->text);

    if (n == 0 || n >= IFNAMSIZ || strpbrk(v->text, "/: \t\r\n\v\f") || strcmp(v->text, ".") == 0 ||
        strcmp(v->text, "..") == 0) {
        config_draft_error(
            d, v->line, o->name, v->text,
            "give the name of an interface, 1 to 15 characters without '/', ':' or blanks, as "
            "`ip link` shows it");
        return -EINVAL;
    }
    char *copy = strdup(v->text);

    if (!copy) {
        d->out_of_memory = true;
        return -ENOMEM;
    }
    *(char **)ret = copy;
    return 0;
}

static int parse_name(struct draft *d, const struct option *o, const struct draft_value *v,
                      void *ret)
{
    if (!real_pattern_ok(v->text)) {
        config_draft_error(d, v->line, o->name, v->text,
                           "give a name (\"example.net\": itself and all below), \"*.example.net\" "
                           "(all below) or \".\" (names without a dot)");
        return -EINVAL;
    }
    char *copy = strdup(v->text);

    if (!copy) {
        d->out_of_memory = true;
        return -ENOMEM;
    }
    *(char **)ret = copy;
    return 0;
}

static int compare_ports(const void *a, const void *b)
{
    const struct port_range *x = a, *y = b;

    return x->first != y->first ? x->first - y->first : x->last - y->last;
}

static size_t merge_ports(void *items, size_t n)
{
    struct port_range *p = items;
    size_t kept = 0;

    qsort(p, n, sizeof(*p), compare_ports);
    for (size_t i = 1; i < n; i++) {
        if (p[i].first > p[kept].last)
            p[++kept] = p[i];
        else if (p[i].last > p[kept].last)
            p[kept].last = p[i].last;
    }
    return kept + 1;
}

/* IPv4 before IPv6, then by address, the wider network first. */
static int compare_prefixes(const void *a, const void *b)
{
    const struct prefix *x = a, *y = b;

    if (prefix_is_v4(x) != prefix_is_v4(y))
        return prefix_is_v4(x) ? -1 : 1;
    int c = memcmp(x->ip, y->ip, sizeof(x->ip));

    return c != 0 ? c : x->len - y->len;
}

static size_t merge_prefixes(void *items, size_t n)
{
    struct prefix *p = items;
    size_t kept = 0;

    qsort(p, n, sizeof(*p), compare_prefixes);
    for (size_t i = 1; i < n; i++) {
        struct addr a = {.port = 0};

        memcpy(a.ip, p[i].ip, sizeof(a.ip));
        if (prefix_is_v4(&p[i]) != prefix_is_v4(&p[kept]) || !prefix_contains(&p[kept], &a))
            p[++kept] = p[i];
    }
    return kept + 1;
}

static int compare_users(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static size_t merge_users(void *items, size_t n)
{
    uint32_t *u = items;
    size_t kept = 0;

    qsort(u, n, sizeof(*u), compare_users);
    for (size_t i = 1; i < n; i++) {
        if (u[i] != u[kept])
            u[++kept] = u[i];
    }
    return kept + 1;
}

static size_t merge_texts(void *items, size_t n)
{
    char **names = items;
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        size_t k = 0;

        while (k < kept && strcmp(names[k], names[i]) != 0)
            k++;
        if (k < kept)
            free(names[i]);
        else
            names[kept++] = names[i];
    }
    return kept;
}

static const struct list_type {
    size_t size;
    element_parser *parse;
    size_t (*merge)(void *items, size_t n); /* n > 0; returns the new number */
} list_types[] = {
    [OPTION_PORTS] = {sizeof(struct port_range), parse_ports, merge_ports},
    [OPTION_PREFIXES] = {sizeof(struct prefix), parse_prefix, merge_prefixes},
    [OPTION_USERS] = {sizeof(uint32_t), parse_user, merge_users},
    [OPTION_INTERFACES] = {sizeof(char *), parse_interface, merge_texts},
    [OPTION_NAMES] = {sizeof(char *), parse_name, merge_texts},
};

void config_set_list(struct draft *d, const struct draft_section *s, const struct option *o,
                     void *base)
{
    size_t n = 0, room = 0;

    for (const struct draft_value *v = config_draft_next(s, o, NULL); v;
         v = config_draft_next(s, o, v))
        room++;
    if (room == 0 || o->type == OPTION_MEMBERS)
        return;
    const struct list_type *t = &list_types[o->type];
    char *items = calloc(room, t->size);

    if (!items) {
        d->out_of_memory = true;
        return;
    }
    for (const struct draft_value *v = config_draft_next(s, o, NULL); v;
         v = config_draft_next(s, o, v)) {
        if (t->parse(d, o, v, items + n * t->size) == 0)
            n++;
    }
    if (n > 0)
        n = t->merge(items, n);
    memcpy((char *)base + o->offset, &items, sizeof(items));
    memcpy((char *)base + o->count_offset, &n, sizeof(n));
}
