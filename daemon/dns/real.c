/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dns/real.h. The patterns' names are in a hash table, at most half full, with what each of them
 * covers. A name is looked up whole, then without its first label, and so on to its last one.
 */
#include "dns/real.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dns/fake.h"
#include "dns/hash.h"
#include "dns/name.h"

const char *const real_builtin[] = {
    "localhost",     /* RFC 6761 */
    "local",         /* RFC 6762, multicast DNS */
    "invalid",       /* RFC 6761 */
    "home.arpa",     /* RFC 8375 */
    "internal",      /* reserved for private use by ICANN */
    "ipv4only.arpa", /* RFC 7050 */
    "in-addr.arpa",  /* names of addresses; of fake ones never */
    "ip6.arpa",
};
const size_t real_n_builtin = sizeof(real_builtin) / sizeof(real_builtin[0]);

enum { SELF = 1, BELOW = 2 };

struct entry {
    uint8_t covers; /* 0: empty */
    uint8_t len;
    char name[DNS_PLAIN_MAX];
};

struct real {
    struct entry *entries;
    size_t mask;
    bool single_label;
};

/* Whoever chooses names chooses none of what is in the table: no secret is needed. */
static const uint64_t key[2] = {0, 0};

/* Where the name is, or the empty place where it would be. */
static struct entry *find(const struct real *r, const char *name, size_t len)
{
    size_t at = dns_hash(key, name, len) & r->mask;

    for (;; at = (at + 1) & r->mask) {
        struct entry *e = &r->entries[at];

        if (!e->covers || (e->len == len && memcmp(e->name, name, len) == 0))
            return e;
    }
}

/* A pattern in its parts; "." has covers 0. False: it is none. */
static bool parse(const char *pattern, struct entry *ret)
{
    struct entry e = {.covers = SELF | BELOW};
    size_t len = strnlen(pattern, DNS_PLAIN_MAX + 4);

    if (strcmp(pattern, ".") == 0) {
        *ret = (struct entry){0};
        return true;
    }
    if (len > 2 && pattern[0] == '*' && pattern[1] == '.') {
        e.covers = BELOW;
        pattern += 2;
        len -= 2;
    }
    if (len > 0 && pattern[len - 1] == '.')
        len--;
    if (len == 0 || len > DNS_PLAIN_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = pattern[i];

        if (c == '*') /* it would mean nothing there, and was meant to mean something */
            return false;
        e.name[i] = (char)(c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c);
    }
    if (!dns_name_is_plain(e.name, len))
        return false;
    e.len = (uint8_t)len;
    *ret = e;
    return true;
}

bool real_pattern_ok(const char *pattern)
{
    struct entry e;

    return parse(pattern, &e);
}

static void add(struct real *r, const struct entry *e)
{
    if (!e->covers) {
        r->single_label = true;
        return;
    }
    struct entry *place = find(r, e->name, e->len);
    uint8_t covers = place->covers | e->covers;

    *place = *e;
    place->covers = covers;
}

int real_new(const char *const *patterns, size_t n, struct real **ret, size_t *ret_bad)
{
    size_t room = 16;
    struct entry e;

    for (size_t i = 0; i < n; i++) {
        if (!real_pattern_ok(patterns[i])) {
            *ret_bad = i;
            return -EINVAL;
        }
    }
    while (room < 2 * (n + real_n_builtin))
        room *= 2;
    struct real *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->entries = calloc(room, sizeof(r->entries[0]));
    r->mask = room - 1;
    if (!r->entries) {
        free(r);
        return -ENOMEM;
    }
    for (size_t i = 0; i < real_n_builtin; i++)
        if (parse(real_builtin[i], &e))
            add(r, &e);
    for (size_t i = 0; i < n; i++)
        if (parse(patterns[i], &e))
            add(r, &e);
    *ret = r;
    return 0;
}

void real_free(struct real *r)
{
    if (r)
        free(r->entries);
    free(r);
}

bool real_match(const struct real *r, const char *name, size_t len)
{
    struct addr a;
    const char *dot;
    uint8_t want = SELF;

    if (dns_reverse_parse(name, len, &a) == 0 && fake_is(&a))
        return false;
    if (r->single_label && !memchr(name, '.', len))
        return true;
    for (;;) {
        if (find(r, name, len)->covers & want)
            return true;
        dot = memchr(name, '.', len);
        if (!dot)
            return false;
        len -= (size_t)(dot + 1 - name);
        name = dot + 1;
        want = BELOW;
    }
}
