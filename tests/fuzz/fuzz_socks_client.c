/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a SOCKS server may send us. The first byte chooses the message, the rest is the stream. */
#include "fuzz.h"
#include "socks/socks4.h"
#include "socks/socks5_client.h"
#include "socks/socks5_server.h"
#include "socks_stream.h"

static int decode_method(const uint8_t *data, size_t len, void *ret)
{
    static const uint8_t offered[] = {SOCKS5_METHOD_NONE, SOCKS5_METHOD_PASSWORD};

    return socks5_decode_method(data, len, offered, sizeof(offered), ret);
}

static int decode_status(const uint8_t *data, size_t len, void *ret)
{
    (void)ret;
    return socks5_decode_auth_status(data, len);
}

static int decode_reply5(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_reply(data, len, ret);
}

static int decode_reply4(const uint8_t *data, size_t len, void *ret)
{
    return socks4_decode_reply(data, len, ret);
}

static void same_method(const void *a, const void *b)
{
    FUZZ_CHECK(memcmp(a, b, 1) == 0);
}

static void same_reply5(const void *a, const void *b)
{
    const struct socks5_reply *x = a, *y = b;

    FUZZ_CHECK(x->rep == y->rep);
    fuzz_check_same_dest(&x->bound, &y->bound);
}

static void same_reply4(const void *a, const void *b)
{
    const struct socks4_reply *x = a, *y = b;

    FUZZ_CHECK(x->rep == y->rep && addr_equal(&x->bound, &y->bound));
}

/* Said again by our own server, it decodes to the same. */
static void again5(const uint8_t *out)
{
    uint8_t buf[SOCKS5_REPLY_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks5_reply reply, second;

    memcpy(&reply, out, sizeof(reply));
    fuzz_check_dest(&reply.bound);
    if (reply.bound.type == SOCKS_DEST_NAME && reply.bound.name_len == 0) {
        FUZZ_CHECK(socks5_encode_reply(&w, reply.rep, &reply.bound) < 0);
        return;
    }
    FUZZ_CHECK(socks5_encode_reply(&w, reply.rep, &reply.bound) == 0);
    FUZZ_CHECK(socks5_decode_reply(buf, w.pos, &second) == (int)w.pos);
    FUZZ_CHECK(second.rep == reply.rep);
    fuzz_check_same_dest(&second.bound, &reply.bound);
}

static void again4(const uint8_t *data, size_t len, const uint8_t *out)
{
    uint8_t buf[SOCKS4_REPLY_LEN];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks4_reply reply;

    memcpy(&reply, out, sizeof(reply));
    FUZZ_CHECK(socks4_encode_reply(&w, reply.rep, &reply.bound) == 0);
    FUZZ_CHECK(w.pos == len && memcmp(buf, data, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_decoder decoders[] = {
        {decode_method, socks5_decode_method_want, same_method},
        {decode_status, socks5_decode_auth_status_want, NULL},
        {decode_reply5, socks5_decode_reply_want, same_reply5},
        {decode_reply4, socks4_decode_reply_want, same_reply4},
    };
    _Alignas(max_align_t) static uint8_t out[STREAM_OUT_MAX];

    if (size == 0)
        return 0;
    unsigned kind = data[0] % (sizeof(decoders) / sizeof(decoders[0]));
    int r = fuzz_stream(&decoders[kind], data + 1, size - 1, out);

    if (r > 0 && kind == 0)
        FUZZ_CHECK(out[0] == SOCKS5_METHOD_NONE || out[0] == SOCKS5_METHOD_PASSWORD);
    if (r > 0 && kind == 2)
        again5(out);
    if (r > 0 && kind == 3)
        again4(data + 1, (size_t)r, out);
    return 0;
}
