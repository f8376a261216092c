/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A chain of hops as a script, whatever the chain: within its bounds, as the programs rely on it,
 * and step by step what a server of ours understands. The source is taken in whole, as a fuzzer is
 * linked with daemon/base and daemon/socks only.
 */
#include "upstream/script.c"

#include "bpf/compose.bpf.h"
#include "chain.h"
#include "socks/socks5_server.h"

static const enum config_scheme schemes[] = {SCHEME_SOCKS5, SCHEME_SOCKS5H, SCHEME_SOCKS4,
                                             SCHEME_SOCKS4A, SCHEME_HTTP};

/* What bpf/stitch.bpf.c copies without a further look. */
static void check_form(const struct stitch_script *s)
{
    size_t before = 0, end = 0;

    FUZZ_CHECK(s->n_steps >= 1 && s->n_steps <= STITCH_STEPS);
    FUZZ_CHECK(s->static_len % 8 == 0 && s->static_len <= STITCH_STATIC);
    FUZZ_CHECK(s->user_len <= STITCH_USER_MAX);
    for (unsigned i = 0; i < s->n_steps; i++) {
        const struct stitch_step *step = &s->steps[i];

        FUZZ_CHECK(step->before == before && step->at % 4 == 0);
        FUZZ_CHECK(step->reply_len == 0 || step->reply_len >= 2);
        FUZZ_CHECK((step->verdicts == STITCH_VERDICTS_REFUSE) ||
                   (i + 1u == s->n_steps && s->form == STITCH_FORM_SOCKS5));
        if (i + 1u == s->n_steps)
            break;
        FUZZ_CHECK(step->at == end && step->len > 0 && step->at + step->len <= s->static_len);
        end = (step->at + step->len + 7u) & ~7u;
        for (size_t k = step->at + step->len; k < end; k++)
            FUZZ_CHECK(s->bytes[k] == 0);
        before += step->len;
    }
    FUZZ_CHECK(s->steps[s->n_steps - 1].at == STITCH_STATIC && s->static_len == end);
    for (size_t k = end; k < STITCH_STATIC; k++)
        FUZZ_CHECK(s->bytes[k] == 0);
    for (unsigned i = s->n_steps; i < STITCH_STEPS; i++)
        FUZZ_CHECK(s->steps[i].len == 0 && s->steps[i].version == 0);
}

static const struct stitch_step *next_step(const struct stitch_script *s, unsigned *at)
{
    FUZZ_CHECK(*at < s->n_steps);
    return &s->steps[(*at)++];
}

static void check_methods(const struct stitch_script *s, unsigned *at, const struct config_url *url,
                          bool no_auth)
{
    const struct stitch_step *step = next_step(s, at);
    const uint8_t *m = s->bytes + step->at;
    bool password = url->has_user && !no_auth;
    struct socks5_auth auth;

    FUZZ_CHECK(step->len == 3 && m[0] == 5 && m[1] == 1 && m[2] == (password ? 2 : 0));
    FUZZ_CHECK(step->version == 5 && step->good == m[2] && step->reply_len == 2);
    if (!password)
        return;
    step = next_step(s, at);
    FUZZ_CHECK(socks5_decode_auth(s->bytes + step->at, step->len, &auth) == step->len);
    FUZZ_CHECK(strcmp(auth.user, url->user) == 0 && strcmp(auth.password, url->password) == 0);
    FUZZ_CHECK(step->version == 1 && step->good == 0 && step->reply_len == 2);
}

static void check_dest(const struct socks_dest *d, const struct upstream_hop *next)
{
    if (next->n_addrs > 0) {
        FUZZ_CHECK(d->type == SOCKS_DEST_ADDR && addr_equal(&d->addr, &next->addrs[0]));
    } else {
        FUZZ_CHECK(d->type == SOCKS_DEST_NAME && strcmp(d->name, next->config->url.host) == 0 &&
                   d->addr.port == next->config->url.port);
    }
}

/* What each hop would read. */
static void check_steps(const struct stitch_script *s, const struct upstream *u, unsigned no_auth)
{
    unsigned at = 0;

    for (unsigned i = 0; i < u->n_hops; i++) {
        const struct config_url *url = &u->hops[i].config->url;
        bool socks5 = url->scheme == SCHEME_SOCKS5 || url->scheme == SCHEME_SOCKS5H;
        const struct stitch_step *step;

        if (socks5)
            check_methods(s, &at, url, no_auth >> i & 1);
        step = next_step(s, &at);
        FUZZ_CHECK(step->version == (socks5 ? 5 : 0) && step->good == (socks5 ? 0 : 0x5a) &&
                   step->reply_len == (socks5 ? 0 : 8));
        if (i + 1 == u->n_hops)
            break;
        if (socks5) {
            struct socks5_request r;

            FUZZ_CHECK(socks5_decode_request(s->bytes + step->at, step->len, &r) == step->len);
            check_dest(&r.dest, &u->hops[i + 1]);
        } else {
            struct socks4_request r;

            FUZZ_CHECK(socks4_decode_request(s->bytes + step->at, step->len, &r) == step->len);
            check_dest(&r.dest, &u->hops[i + 1]);
            FUZZ_CHECK(strcmp(r.user, url->user) == 0);
        }
    }
    FUZZ_CHECK(at == s->n_steps);
}

/* What the programs write behind it stays inside, and is what was asked for. */
static void check_request(struct input *in, const struct stitch_script *s)
{
    struct stitch_name name = {.len = (uint8_t)take_octet(in)};
    struct {
        uint8_t to[STITCH_REQUEST], behind[16];
    } m = {0};
    bool named = take_octet(in) & 1;
    struct addr a;
    ABI_U32 len;

    take_addr(in, take_octet(in) & 1, &a);
    for (size_t i = 0; i < name.len; i++) {
        unsigned v = take_octet(in);

        name.name[i] = v ? (uint8_t)v : 'n';
    }
    len = compose_request(m.to, s, a.ip, a.port, named ? &name : NULL);
    FUZZ_CHECK(len <= STITCH_REQUEST);
    for (size_t i = len; i < sizeof(m); i++)
        FUZZ_CHECK(((const uint8_t *)&m)[i] == 0);
    if (len == 0) {
        FUZZ_CHECK(named ? name.len == 0 : s->form == STITCH_FORM_SOCKS4);
        return;
    }
    if (s->form == STITCH_FORM_SOCKS5) {
        struct socks5_request r;

        FUZZ_CHECK(socks5_decode_request(m.to, len, &r) == (int)len);
        FUZZ_CHECK(r.dest.addr.port == a.port && (r.dest.type == SOCKS_DEST_NAME) == named);
    } else {
        struct socks4_request r;

        FUZZ_CHECK(socks4_decode_request(m.to, len, &r) == (int)len);
        FUZZ_CHECK(r.dest.addr.port == a.port && (r.dest.type == SOCKS_DEST_NAME) == named);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config_upstream configs[CONFIG_CHAIN_MAX];
    static struct upstream u;
    struct input in = {.data = data, .size = size};
    struct script_options o = {.no_auth = take_octet(&in), .id = take_word(&in)};
    struct stitch_script s, untouched;
    const char *why = NULL;
    int64_t timeout;
    int r;

    take_chain(&in, CONFIG_CHAIN_MAX, schemes, sizeof(schemes) / sizeof(schemes[0]), 255,
               take_octet(&in) & 1, &u, configs);
    memset(&s, 0xee, sizeof(s));
    untouched = s;
    r = script_build(&u, &o, &s, &why);
    if (r < 0) {
        FUZZ_CHECK(why != NULL && memcmp(&s, &untouched, sizeof(s)) == 0);
        return 0;
    }
    FUZZ_CHECK(s.id == o.id && s.server.port == u.hops[0].addrs[0].port &&
               memcmp(s.server.ip, u.hops[0].addrs[0].ip, 16) == 0);
    timeout = 0;
    for (unsigned i = 0; i < u.n_hops; i++)
        timeout += configs[i].handshake_timeout;
    FUZZ_CHECK(s.timeout == timeout / 1000000);
    FUZZ_CHECK(s.connect_timeout == configs[0].connect_timeout / 1000000);
    check_form(&s);
    check_steps(&s, &u, o.no_auth);
    check_request(&in, &s);
    return 0;
}
