/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What must hold of a stream decoder of daemon/socks, whatever the bytes. */
#ifndef UNDERSOCK_TESTS_FUZZ_SOCKS_STREAM_H
#define UNDERSOCK_TESTS_FUZZ_SOCKS_STREAM_H

#include <stdbool.h>
#include <string.h>

#include "fuzz.h"
#include "socks/socks.h"

#define STREAM_OUT_MAX    1024
#define STREAM_PREFIX_MAX 640 /* longer than any message */

struct fuzz_decoder {
    int (*decode)(const uint8_t *data, size_t len, void *ret);
    size_t (*want)(const uint8_t *data, size_t len); /* NULL: a server's decoder */
    /* Compares two outputs field by field (their padding may differ); NULL: there is no output. */
    void (*check_same)(const void *a, const void *b);
};

/* A destination as any decoder may leave it. */
static inline void fuzz_check_dest(const struct socks_dest *d)
{
    char text[SOCKS_DEST_STRLEN];

    if (d->type == SOCKS_DEST_NAME) {
        FUZZ_CHECK(strlen(d->name) == d->name_len);
    } else {
        FUZZ_CHECK(d->type == SOCKS_DEST_ADDR);
        FUZZ_CHECK(d->name_len == 0 && d->name[0] == '\0');
        FUZZ_CHECK(d->addr.unused == 0 && d->addr.scope == 0);
    }
    FUZZ_CHECK(strlen(socks_dest_format(d, text)) < SOCKS_DEST_STRLEN);
}

static inline void fuzz_check_same_dest(const struct socks_dest *a, const struct socks_dest *b)
{
    FUZZ_CHECK(a->type == b->type);
    FUZZ_CHECK(addr_equal(&a->addr, &b->addr));
    FUZZ_CHECK(a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0);
}

/* A block of exactly `n` bytes, so that reading one too many is seen. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n + !n);

    FUZZ_CHECK(copy);
    if (n > 0)
        memcpy(copy, data, n);
    return copy;
}

/*
 * Returns what the decoder says of the whole input, its output in `out`. Every prefix says "more"
 * up to one point, and the same as the whole from there on; only success writes; the hints end
 * where the decoder ends, and reading by them comes to the same result.
 */
static inline int fuzz_stream(const struct fuzz_decoder *d, const uint8_t *data, size_t size,
                              uint8_t out[STREAM_OUT_MAX])
{
    _Alignas(max_align_t) static uint8_t poison[STREAM_OUT_MAX], part[STREAM_OUT_MAX];
    size_t prefixes = size < STREAM_PREFIX_MAX ? size : STREAM_PREFIX_MAX, pos = 0;
    bool ended = false;

    memset(poison, 0xa5, sizeof(poison));
    memcpy(out, poison, STREAM_OUT_MAX);
    int whole = d->decode(data, size, out);

    FUZZ_CHECK(whole <= 0 || (size_t)whole <= size);
    FUZZ_CHECK(whole > 0 || memcmp(out, poison, STREAM_OUT_MAX) == 0);
    FUZZ_CHECK(whole != 0 || size < STREAM_PREFIX_MAX); /* nobody waits for ever */
    for (size_t n = 0; n <= prefixes; n++) {
        uint8_t *copy = fuzz_copy(data, n);

        memcpy(part, poison, sizeof(part));
        int r = d->decode(copy, n, part);

        FUZZ_CHECK(r == (ended ? whole : r));
        FUZZ_CHECK(r == 0 || r == whole);
        FUZZ_CHECK(r <= 0 || (size_t)r <= n);
        if (r <= 0)
            FUZZ_CHECK(memcmp(part, poison, sizeof(part)) == 0);
        else if (d->check_same)
            d->check_same(part, out);
        if (d->want) {
            size_t want = d->want(copy, n);

            FUZZ_CHECK((want == 0) == (r != 0));
            FUZZ_CHECK(whole <= 0 || n >= (size_t)whole || n + want <= (size_t)whole);
        }
        ended = r != 0;
        free(copy);
    }
    if (d->want && whole != 0) {
        size_t want;

        while ((want = d->want(data, pos)) > 0) {
            pos += want;
            if (pos > size) { /* asked for bytes beyond: never on the way to a whole message */
                FUZZ_CHECK(whole < 0);
                return whole;
            }
        }
        FUZZ_CHECK(whole < 0 || pos == (size_t)whole);
        FUZZ_CHECK(d->decode(data, pos, part) == whole);
        if (whole > 0 && d->check_same)
            d->check_same(part, out);
    }
    return whole;
}

#endif
