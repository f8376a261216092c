/* SPDX-License-Identifier: GPL-2.0-or-later */
/* DNS messages put together by hand, whatever they are to look like, and copies of exact size. */
#ifndef UNDERSOCK_TESTS_UNIT_DNS_MESSAGE_H
#define UNDERSOCK_TESTS_UNIT_DNS_MESSAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/wire.h"
#include "dns/dns.h"

#define POISON 0xa5

/* A message that grows: `w` is at its end. */
struct message {
    struct wire_writer w;
    uint8_t data[70000];
};

static inline void put_header(struct message *m, uint16_t id, uint16_t flags, unsigned questions,
                              unsigned answers, unsigned authorities, unsigned additionals)
{
    m->w = wire_writer(m->data, sizeof(m->data));
    wire_put_u16(&m->w, id);
    wire_put_u16(&m->w, flags);
    wire_put_u16(&m->w, (uint16_t)questions);
    wire_put_u16(&m->w, (uint16_t)answers);
    wire_put_u16(&m->w, (uint16_t)authorities);
    wire_put_u16(&m->w, (uint16_t)additionals);
}

/* "a.example"; "" is the root. No escapes. */
static inline void put_name(struct message *m, const char *name)
{
    while (*name) {
        size_t n = strcspn(name, ".");

        wire_put_u8(&m->w, (uint8_t)n);
        wire_put_bytes(&m->w, name, n);
        name += n + (name[n] == '.');
    }
    wire_put_u8(&m->w, 0);
}

static inline void put_question(struct message *m, const char *name, uint16_t type)
{
    put_name(m, name);
    wire_put_u16(&m->w, type);
    wire_put_u16(&m->w, DNS_CLASS_IN);
}

/* What stands between a record's name and its data. */
static inline void put_fields(struct message *m, uint16_t type, uint16_t class, uint32_t ttl,
                              unsigned len)
{
    wire_put_u16(&m->w, type);
    wire_put_u16(&m->w, class);
    wire_put_u16(&m->w, (uint16_t)(ttl >> 16));
    wire_put_u16(&m->w, (uint16_t)ttl);
    wire_put_u16(&m->w, (uint16_t)len);
}

static inline void put_opt(struct message *m, uint16_t size, uint32_t ttl, unsigned options)
{
    wire_put_u8(&m->w, 0);
    put_fields(m, DNS_TYPE_OPT, size, ttl, options);
    for (unsigned i = 0; i < options; i++)
        wire_put_u8(&m->w, (uint8_t)(i == 3 && options < 260 ? options - 4 : 0));
}

/* A query as a stub resolver sends it. */
static inline void put_query(struct message *m, uint16_t id, const char *name, uint16_t type)
{
    put_header(m, id, DNS_FLAG_RD, 1, 0, 0, 0);
    put_question(m, name, type);
}

/* A block of exactly `n` bytes, so that a sanitizer sees one too many. */
static inline uint8_t *exact(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n + !n);

    assert_non_null(copy);
    if (n > 0)
        memcpy(copy, data, n);
    return copy;
}

/* A name of `len` bytes on the wire (2..255), as text: labels of 63 and a last one of what is
 * left. */
static inline void long_name(char text[DNS_TEXT_MAX + 1], size_t len, char c)
{
    size_t left = len - 1, n = 0;

    while (left > 0) {
        size_t label = left > 64 ? 63 : left - 1;

        if (left - label - 1 == 1) /* one byte is no label */
            label--;
        if (n > 0)
            text[n++] = '.';
        memset(text + n, c, label);
        n += label;
        left -= label + 1;
    }
    text[n] = '\0';
}

#endif
