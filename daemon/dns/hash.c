/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/hash.h, after the paper of Aumasson and Bernstein (2012). */
#include "dns/hash.h"

struct state {
    uint64_t a, b, c, d;
};

static uint64_t rotate(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static void mix(struct state *s)
{
    s->a += s->b;
    s->b = rotate(s->b, 13) ^ s->a;
    s->a = rotate(s->a, 32);
    s->c += s->d;
    s->d = rotate(s->d, 16) ^ s->c;
    s->a += s->d;
    s->d = rotate(s->d, 21) ^ s->a;
    s->c += s->b;
    s->b = rotate(s->b, 17) ^ s->c;
    s->c = rotate(s->c, 32);
}

static void absorb(struct state *s, uint64_t word)
{
    s->d ^= word;
    mix(s);
    mix(s);
    s->a ^= word;
}

uint64_t dns_hash(const uint64_t key[2], const void *data, size_t len)
{
    struct state s = {key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
                      key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573)};
    const uint8_t *p = data;
    uint64_t word = 0;

    for (size_t i = 0; i < len; i++) {
        word |= (uint64_t)p[i] << (i % 8 * 8);
        if (i % 8 == 7) {
            absorb(&s, word);
            word = 0;
        }
    }
    absorb(&s, word | (uint64_t)len << 56);
    s.c ^= 0xff;
    for (int i = 0; i < 4; i++)
        mix(&s);
    return s.a ^ s.b ^ s.c ^ s.d;
}
