/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cursors over a byte view, with a sticky error flag: read or write field after field, ask once at
 * the end whether all of it fitted. A failed read returns zeros and moves nothing more; a failed
 * write writes nothing more. Numbers are in network order on the wire, host order in C.
 */
#ifndef UNDERSOCK_BASE_WIRE_H
#define UNDERSOCK_BASE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct wire_reader {
    const uint8_t *data;
    size_t len, pos;
    bool error; /* something was asked for that is not there */
};

struct wire_writer {
    uint8_t *data;
    size_t size, pos;
    bool error; /* something did not fit */
};

static inline struct wire_reader wire_reader(const void *data, size_t len)
{
    return (struct wire_reader){.data = data, .len = len};
}

static inline struct wire_writer wire_writer(void *data, size_t size)
{
    return (struct wire_writer){.data = data, .size = size};
}

static inline size_t wire_left(const struct wire_reader *r)
{
    return r->len - r->pos;
}

/* The next `n` bytes in place, or NULL. */
static inline const uint8_t *wire_take(struct wire_reader *r, size_t n)
{
    if (r->error || n > r->len - r->pos) {
        r->error = true;
        return NULL;
    }
    r->pos += n;
    return r->data + r->pos - n;
}

static inline uint8_t wire_get_u8(struct wire_reader *r)
{
    const uint8_t *p = wire_take(r, 1);

    return p ? p[0] : 0;
}

static inline uint16_t wire_get_u16(struct wire_reader *r)
{
    const uint8_t *p = wire_take(r, 2);

    return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

static inline void wire_get_bytes(struct wire_reader *r, void *to, size_t n)
{
    const uint8_t *p = wire_take(r, n);

    if (p)
        memcpy(to, p, n);
    else
        memset(to, 0, n);
}

static inline void wire_put_bytes(struct wire_writer *w, const void *from, size_t n)
{
    if (w->error || n > w->size - w->pos) {
        w->error = true;
        return;
    }
    if (n > 0)
        memcpy(w->data + w->pos, from, n);
    w->pos += n;
}

static inline void wire_put_u8(struct wire_writer *w, uint8_t v)
{
    wire_put_bytes(w, &v, 1);
}

static inline void wire_put_u16(struct wire_writer *w, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};

    wire_put_bytes(w, b, 2);
}

#endif
