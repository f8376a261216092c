/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every stream decoder of daemon/socks must hold, for one message: each prefix needs more and
 * writes nothing, the whole is consumed exactly with and without bytes after it, and reading by the
 * hints ends at its end. Inputs are copied into blocks of their exact size, so that the sanitizers
 * see one byte too many.
 */
#ifndef UNDERSOCK_TESTS_SOCKS_STREAM_H
#define UNDERSOCK_TESTS_SOCKS_STREAM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STREAM_OUT_MAX 1024
#define POISON         0xa5

struct stream_decoder {
    int (*decode)(const uint8_t *data, size_t len, void *ret);
    size_t (*want)(const uint8_t *data, size_t len); /* NULL: a server's decoder */
    size_t out_size;                                 /* 0: the decoder has no output */
};

static inline bool stream_untouched(const uint8_t *out)
{
    for (size_t i = 0; i < STREAM_OUT_MAX; i++)
        if (out[i] != POISON)
            return false;
    return true;
}

/* Decodes the first `n` bytes from a block of their own; `out` is poisoned before. */
static inline int stream_try(const struct stream_decoder *d, const uint8_t *bytes, size_t n,
                             uint8_t out[STREAM_OUT_MAX], size_t *ret_want)
{
    uint8_t *copy = malloc(n + !n);

    assert_non_null(copy);
    if (n > 0)
        memcpy(copy, bytes, n);
    memset(out, POISON, STREAM_OUT_MAX);
    int r = d->decode(copy, n, out);

    *ret_want = d->want ? d->want(copy, n) : (r == 0);
    free(copy);
    return r;
}

/* One right message of exactly `len` bytes; leaves its decoded form in `ret`. */
static inline void stream_check(const struct stream_decoder *d, const uint8_t *bytes, size_t len,
                                void *ret)
{
    static const uint8_t after[] = {0x00, 0x05, 0xff, 0x01, 0x04, 'x', 0x00, 0x00, 0x05, 0x00};
    uint8_t out[STREAM_OUT_MAX], whole[2048];
    size_t want, pos = 0;

    for (size_t n = 0; n < len; n++) {
        assert_int_equal(stream_try(d, bytes, n, out, &want), 0);
        assert_true(stream_untouched(out));
        assert_in_range(want, 1, len - n);
    }
    assert_int_equal(stream_try(d, bytes, len, out, &want), len);
    assert_int_equal(want, 0);
    for (size_t i = d->out_size; i < STREAM_OUT_MAX; i++)
        assert_int_equal(out[i], POISON);

    assert_true(len + 2 * sizeof(after) <= sizeof(whole));
    memcpy(whole, bytes, len);
    for (size_t extra = 1; extra <= sizeof(after); extra++) {
        memcpy(whole + len, after, extra);
        assert_int_equal(stream_try(d, whole, len + extra, out, &want), len);
        assert_int_equal(want, 0);
    }
    if (d->want) {
        while ((want = d->want(bytes, pos)) > 0)
            pos += want;
        assert_int_equal(pos, len);
    }
    if (d->out_size > 0)
        memcpy(ret, out, d->out_size);
}

/*
 * A message that is right up to, and broken by, the byte at `at`: needs more before it, and fails
 * with `err` from there on, however much follows.
 */
static inline void stream_check_broken(const struct stream_decoder *d, const uint8_t *bytes,
                                       size_t len, size_t at, int err)
{
    uint8_t out[STREAM_OUT_MAX];
    size_t want;

    assert_true(at < len);
    for (size_t n = 0; n <= len; n++) {
        assert_int_equal(stream_try(d, bytes, n, out, &want), n > at ? err : 0);
        assert_true(stream_untouched(out));
        if (n > at)
            assert_int_equal(want, 0);
        else
            assert_true(want >= 1);
    }
}

#endif
