/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where fuzz_stitch.c begins: a chain, a destination and a SYN of the input, the script that is
 * made of them, and the stream that the codecs make of the same.
 */
#ifndef UNDERSOCK_TESTS_FUZZ_STITCH_SCENE_H
#define UNDERSOCK_TESTS_FUZZ_STITCH_SCENE_H

#include "chain.h"
#include "stitch_packets.h"

static const enum config_scheme schemes[] = {SCHEME_SOCKS5, SCHEME_SOCKS4A, SCHEME_SOCKS5H};

static struct config_upstream configs[3];
static struct upstream chain;

static void add_step(enum reply_kind kind, uint8_t method, const struct wire_writer *w)
{
    x.kinds[x.n_steps] = kind;
    x.method[x.n_steps] = method;
    x.len += w->pos;
    x.end_of[x.n_steps++] = x.len;
}

/* The stream as the codecs have it. */
static bool say(const struct socks_dest *dest)
{
    for (unsigned i = 0; i < chain.n_hops; i++) {
        const struct config_url *url = &chain.hops[i].config->url;
        bool socks5 = url->scheme != SCHEME_SOCKS4A, password = socks5 && url->has_user;
        struct wire_writer w = wire_writer(x.stream + x.len, STREAM_MAX - x.len);
        uint8_t method = password ? 2 : 0;
        struct socks_dest target = *dest;
        int r;

        if (socks5) {
            if (socks5_encode_greeting(&w, &method, 1) < 0)
                return false;
            add_step(METHOD, method, &w);
            w = wire_writer(x.stream + x.len, STREAM_MAX - x.len);
        }
        if (password) {
            if (socks5_encode_auth(&w, url->user, url->password) < 0)
                return false;
            add_step(STATUS, 0, &w);
            w = wire_writer(x.stream + x.len, STREAM_MAX - x.len);
        }
        if (i + 1 < chain.n_hops) {
            const struct upstream_hop *next = &chain.hops[i + 1];

            if (next->n_addrs > 0)
                socks_dest_set_addr(&target, &next->addrs[0]);
            else if (socks_dest_set_name(&target, next->config->url.host, next->config->url.port))
                return false;
        }
        r = socks5 ? socks5_encode_request(&w, SOCKS_CMD_CONNECT, &target)
                   : socks4_encode_request(&w, SOCKS_CMD_CONNECT, &target, url->user);
        if (r < 0)
            return false;
        add_step(socks5 ? REPLY5 : REPLY4, 0, &w);
    }
    return true;
}

static void set_options(struct input *in, unsigned how)
{
    static const uint8_t usual[] = {2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7};
    static const uint8_t more[] = {30, 12, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 34, 2, 1, 1};

    app.options_len = 0;
    if (how & 1) {
        memcpy(app.options, usual, sizeof(usual));
        app.options_len = sizeof(usual);
    }
    app.usual_len = app.options_len;
    if (how & 2) {
        memcpy(app.options + app.options_len, more, sizeof(more));
        app.options_len += sizeof(more);
    }
    app.data_len = how & 4 ? (uint16_t)(take_octet(in) % 64) : 0;
}

static bool set_scene(struct input *in)
{
    unsigned how = take_octet(in);
    struct script_options o = {.id = 1};
    struct socks_dest dest;
    struct addr to;
    const char *why;

    memset(&x, 0, sizeof(x));
    memset(&app, 0, sizeof(app));
    memset(&server, 0, sizeof(server));
    x.v6 = how & 1;
    x.l2 = how & 2 ? 0 : ETHERNET;
    x.device = x.l2 && how & 4 ? LOOPBACK : DEVICE;
    take_chain(in, 3, schemes, sizeof(schemes) / sizeof(schemes[0]), 30, x.v6, &chain, configs);
    chain.hops[0].config = &configs[0];
    configs[0].connect_timeout = configs[0].handshake_timeout = INT64_C(10000000000);
    if (script_build(&chain, &o, &kernel_script, &why) < 0)
        return false;
    kernel_ports = UINT64_C(1) << (kernel_script.server.port % 64);

    take_addr(in, how & 8, &to);
    if (how & 16) {
        memset(&to, 0, sizeof(to));
        to.ip[10] = to.ip[11] = 0xff;
        to.ip[12] = 198;
        to.ip[13] = 18;
        to.port = 443;
        kernel_name.len = (uint8_t)(1 + take_octet(in) % 255);
        memset(kernel_name.name, 'w', kernel_name.len);
        memcpy(kernel_fake, to.ip, 16);
        char name[256];

        memset(name, 'w', kernel_name.len);
        name[kernel_name.len] = '\0';
        if (socks_dest_set_name(&dest, name, to.port) < 0)
            return false;
    } else {
        socks_dest_set_addr(&dest, &to);
    }
    if (!say(&dest))
        return false;
    app.state.decision = ABI_STITCH;
    app.state.script = 1;
    app.state.to = kernel_script.server;
    memcpy(app.state.origin.ip, to.ip, 16);
    app.state.origin.port = to.port;
    app.isn = take_word(in);
    set_options(in, take_octet(in));
    memcpy(x.key.remote, kernel_script.server.ip, 16);
    memcpy(x.key.local, kernel_script.server.ip, 16);
    x.key.local[15] ^= 0xff;
    x.key.local_port = 40000;
    x.key.remote_port = kernel_script.server.port;
    return true;
}

#endif
