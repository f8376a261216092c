/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a client may send our server. The first byte chooses the message, the rest is the stream. */
#include "fuzz.h"
#include "socks/socks4.h"
#include "socks/socks5_client.h"
#include "socks/socks5_server.h"
#include "socks_stream.h"

static int decode_greeting(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_greeting(data, len, ret);
}

static int decode_auth(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_auth(data, len, ret);
}

static int decode_request5(const uint8_t *data, size_t len, void *ret)
{
    return socks5_decode_request(data, len, ret);
}

static int decode_request4(const uint8_t *data, size_t len, void *ret)
{
    return socks4_decode_request(data, len, ret);
}

static void same_greeting(const void *a, const void *b)
{
    const struct socks5_greeting *x = a, *y = b;

    FUZZ_CHECK(x->n_methods == y->n_methods);
    FUZZ_CHECK(memcmp(x->methods, y->methods, sizeof(x->methods)) == 0);
}

static void same_auth(const void *a, const void *b)
{
    const struct socks5_auth *x = a, *y = b;

    FUZZ_CHECK(x->user_len == y->user_len && strcmp(x->user, y->user) == 0);
    FUZZ_CHECK(x->password_len == y->password_len && strcmp(x->password, y->password) == 0);
}

static void same_request5(const void *a, const void *b)
{
    const struct socks5_request *x = a, *y = b;

    FUZZ_CHECK(x->command == y->command);
    fuzz_check_same_dest(&x->dest, &y->dest);
}

static void same_request4(const void *a, const void *b)
{
    const struct socks4_request *x = a, *y = b;

    FUZZ_CHECK(x->command == y->command && strcmp(x->user, y->user) == 0);
    fuzz_check_same_dest(&x->dest, &y->dest);
}

static void check_greeting(const uint8_t *data, size_t len, const uint8_t *out)
{
    struct socks5_greeting g;

    memcpy(&g, out, sizeof(g));
    FUZZ_CHECK(len == 2u + g.n_methods);
    for (unsigned m = 0; m <= 0xff; m++)
        FUZZ_CHECK(socks5_greeting_offers(&g, (uint8_t)m) ==
                   (memchr(data + 2, (int)m, g.n_methods) != NULL));
}

/* Credentials have one form only: ours is the one that came. */
static void check_auth(const uint8_t *data, size_t len, const uint8_t *out)
{
    uint8_t buf[SOCKS5_AUTH_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks5_auth a;

    memcpy(&a, out, sizeof(a));
    FUZZ_CHECK(strlen(a.user) == a.user_len && strlen(a.password) == a.password_len);
    FUZZ_CHECK(socks5_encode_auth(&w, a.user, a.password) == 0);
    FUZZ_CHECK(w.pos == len && memcmp(buf, data, len) == 0);
}

static void check_request5(const uint8_t *out)
{
    uint8_t buf[SOCKS5_REQUEST_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks5_request request, second;

    memcpy(&request, out, sizeof(request));
    fuzz_check_dest(&request.dest);
    FUZZ_CHECK(request.dest.type == SOCKS_DEST_ADDR || request.dest.name_len > 0);
    int err = socks5_encode_request(&w, request.command, &request.dest);

    FUZZ_CHECK((err == 0) == (request.command >= 1 && request.command <= 3));
    if (err < 0)
        return;
    FUZZ_CHECK(socks5_decode_request(buf, w.pos, &second) == (int)w.pos);
    FUZZ_CHECK(second.command == request.command);
    fuzz_check_same_dest(&second.dest, &request.dest);
}

static void check_request4(size_t len, const uint8_t *out)
{
    uint8_t buf[SOCKS4_REQUEST_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));
    struct socks4_request request, second;

    memcpy(&request, out, sizeof(request));
    fuzz_check_dest(&request.dest);
    FUZZ_CHECK(strlen(request.user) == request.user_len);
    FUZZ_CHECK(request.dest.type == SOCKS_DEST_ADDR || request.dest.name_len > 0);
    int err = socks4_encode_request(&w, request.command, &request.dest, request.user);

    FUZZ_CHECK((err == 0) == (request.command == 1 || request.command == 2));
    if (err < 0)
        return;
    FUZZ_CHECK(w.pos == len);
    FUZZ_CHECK(socks4_decode_request(buf, w.pos, &second) == (int)w.pos);
    FUZZ_CHECK(second.command == request.command && strcmp(second.user, request.user) == 0);
    fuzz_check_same_dest(&second.dest, &request.dest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_decoder decoders[] = {
        {decode_greeting, NULL, same_greeting},
        {decode_auth, NULL, same_auth},
        {decode_request5, NULL, same_request5},
        {decode_request4, NULL, same_request4},
    };
    _Alignas(max_align_t) static uint8_t out[STREAM_OUT_MAX];

    if (size == 0)
        return 0;
    unsigned kind = data[0] % (sizeof(decoders) / sizeof(decoders[0]));
    int r = fuzz_stream(&decoders[kind], data + 1, size - 1, out);
    int version = socks_server_version(data + 1, size - 1);

    /* Whoever is not SOCKS by the first byte is not SOCKS by its decoder. */
    FUZZ_CHECK((version == 0) == (size == 1));
    if (r > 0 && kind != 1)
        FUZZ_CHECK(version == (kind == 3 ? SOCKS4_VERSION : SOCKS5_VERSION));
    if (r > 0 && kind == 0)
        check_greeting(data + 1, (size_t)r, out);
    if (r > 0 && kind == 1)
        check_auth(data + 1, (size_t)r, out);
    if (r > 0 && kind == 2)
        check_request5(out);
    if (r > 0 && kind == 3)
        check_request4((size_t)r, out);
    return 0;
}
