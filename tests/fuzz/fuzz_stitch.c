/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel half of stitch between an application and a server that sends whatever it likes, cut,
 * repeated and out of order as it likes, while helpers may fail: bpf/stitch.bpf.c itself, over
 * stitch_kernel.h. What must hold, whatever comes:
 *
 * - before the handshake is granted the server gets nothing but the script's own octets, each at
 * its number, and no message before the replies that come before it;
 * - granted is what the client's codecs take for success, reply by reply, and nothing else;
 * - the application is connected only then, and counts from the reply's last octet;
 * - every packet that is made has the right lengths and checksums; one that is let through is as it
 *   was;
 * - what is of another connection is let through;
 * - with an honest server, whatever is lost, cut or repeated, it comes to an end, and the
 *   application gets what the server sends, from the first octet.
 *
 * Here is what happens; where it begins is in stitch_scene.h, what must hold in stitch_oracle.h.
 */
#include "upstream/script.c"

#include "chain.h"
#include "socks/socks5_server.h"
#include "stitch_kernel.h"
#include "stitch_oracle.h"
#include "stitch_packets.h"
#include "stitch_scene.h"

static void send_syn(void)
{
    static const uint8_t data[64] = "GET / HTTP/1.1\r\n";
    struct kernel_packet p;

    if (app.connected || app.dead)
        return;
    p = make_packet(&(struct make){.to_server = true,
                                   .partial = true,
                                   .seq = app.isn,
                                   .flags = TCP_SYN,
                                   .options = app.options,
                                   .options_len = app.options_len,
                                   .data = data,
                                   .len = app.data_len});
    leaves(&p, true);
    free(p.data);
}

static void send_application_data(size_t n)
{
    static const uint8_t data[64] = "application's own";
    struct kernel_packet p;

    if (!app.connected || app.dead)
        return;
    p = make_packet(&(struct make){.to_server = true,
                                   .partial = true,
                                   .seq = app.isn + 1,
                                   .ack = app.got,
                                   .flags = TCP_ACK,
                                   .data = data,
                                   .len = n % 64});
    leaves(&p, true);
    free(p.data);
    FUZZ_CHECK(kernel.faulty || kernel_unready || app.state.stitched);
}

/* What no kernel sends, but a guard is there for. */
static void send_odd(struct input *in)
{
    static const uint8_t data[64] = "raw";
    struct make m = {.to_server = true, .partial = true, .options = app.options, .data = data};
    unsigned how = take_octet(in);
    struct kernel_packet p;

    if (is_granted_by_oracle() || is_stale())
        return;
    m.flags = (uint8_t)(take_octet(in) & ~TCP_SYN);
    m.seq = app.isn + (uint32_t)(int8_t)take_octet(in);
    m.ack = take_word(in);
    m.len = how & 63;
    p = make_packet(&m);
    leaves(&p, how & 64);
    free(p.data);
    FUZZ_CHECK(!app.state.stitched);
}

static size_t said_for(unsigned step, struct input *in, uint8_t *ret)
{
    static const uint8_t types[] = {1, 4, 3};

    if (x.kinds[step] == METHOD || x.kinds[step] == STATUS) {
        ret[0] = x.kinds[step] == METHOD ? 5 : 1;
        ret[1] = x.kinds[step] == METHOD ? x.method[step] : 0;
        return 2;
    }
    memset(ret, 0, 300);
    if (x.kinds[step] == REPLY4) {
        ret[1] = 0x5a;
        return 8;
    }
    ret[0] = 5;
    ret[3] = types[take_octet(in) % 3];
    if (ret[3] != 3)
        return ret[3] == 1 ? 10 : 22;
    ret[4] = (uint8_t)(1 + take_octet(in) % 255);
    memset(ret + 5, 'n', ret[4]);
    return 7u + ret[4];
}

/* The server's kernel has more to send for every message that has come. */
static void server_thinks(struct input *in)
{
    while (server.open && server.replied < x.n_steps && server.got >= x.end_of[server.replied] &&
           server.n_said < REPLIES_MAX - 600) {
        server.n_said += said_for((unsigned)server.replied, in, server.said + server.n_said);
        if (++server.replied == x.n_steps && take_octet(in) & 1) {
            memset(server.said + server.n_said, 'b', 100); /* a banner right behind */
            server.n_said += 100;
        }
    }
}

/* The same packet by another queue, on another processor. */
static struct kernel_packet twin;

static void twin_arrives(void)
{
    struct kernel_packet p = copy_of(&twin);

    arrives(&p);
    free(p.data);
}

static void server_sends(uint8_t flags, uint32_t seq, uint32_t ack, const uint8_t *options,
                         size_t options_len, const uint8_t *data, size_t len, bool partial)
{
    struct kernel_packet p = make_packet(&(struct make){.partial = partial,
                                                        .seq = seq,
                                                        .ack = ack,
                                                        .flags = flags,
                                                        .options = options,
                                                        .options_len = options_len,
                                                        .data = data,
                                                        .len = len});

    if (x.twice) {
        twin = p;
        twin.data = malloc(p.ctx.len);
        FUZZ_CHECK(twin.data);
        memcpy(twin.data, p.data, p.ctx.len);
        kernel_meanwhile = twin_arrives;
    }
    arrives(&p);
    kernel_meanwhile = NULL;
    if (x.twice)
        free(twin.data);
    free(p.data);
}

static void server_syn_ack(struct input *in)
{
    static const uint8_t usual[] = {2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7};
    uint8_t options[40];
    unsigned how = take_octet(in);
    size_t n = sizeof(usual);

    if (!server.open)
        return;
    memcpy(options, usual, sizeof(usual));
    if (how & 1) {
        n = (take_octet(in) % 11) * 4u;
        for (size_t i = 0; i < n; i++)
            options[i] = (uint8_t)take_octet(in);
    }
    server_sends((uint8_t)(TCP_SYN | TCP_ACK | (how & TCP_ECE)), server.isn, server.base + 1,
                 options, n, NULL, 0, how & 2);
}

/* What it says next is not what it should be. */
static void server_spoils(struct input *in)
{
    size_t at = server.n_said - take_octet(in) % (server.n_said + 1);

    if (at < server.n_said)
        server.said[at] = (uint8_t)take_octet(in);
    x.hostile = true;
}

/* Octets of what it has said, from `at`. */
static void server_says(size_t at, size_t len, bool partial)
{
    if (!server.open || at > server.n_said)
        return;
    if (len > server.n_said - at)
        len = server.n_said - at;
    server_sends(TCP_ACK | TCP_PSH, server.isn + 1 + (uint32_t)at,
                 server.base + 1 + (uint32_t)server.got - x.hasty, NULL, 0, server.said + at, len,
                 partial);
}

static void server_is_hostile(struct input *in)
{
    uint8_t options[40], data[600];
    unsigned how = take_octet(in);
    const struct stitch_flow *f = record();
    struct make m = {
        .partial = how & 1, .broken = how & 2 && how & 4, .options = options, .data = data};
    struct kernel_packet p;
    uint32_t near = f ? f->next_server : server.isn;

    x.hostile = true;
    m.flags = (uint8_t)take_octet(in);
    m.seq = how & 8 ? take_word(in) : near + (uint32_t)(int8_t)take_octet(in);
    m.ack = how & 16 ? take_word(in)
                     : (f ? f->isn_client - f->injected : 0) + 1 + take_octet(in) % 64 +
                           (how & 32 ? (uint32_t)server.got : 0);
    if (how & 64 && f)
        m.ack = f->isn_client + (how & 1);
    m.options_len = how & 128 ? (take_octet(in) % 11) * 4u : 0;
    for (size_t i = 0; i < m.options_len; i++)
        options[i] = (uint8_t)take_octet(in);
    m.len = take_octet(in);
    for (size_t i = 0; i < m.len; i++)
        data[i] = (uint8_t)take_octet(in);
    if ((how & 6) == 2)
        m.words = (uint8_t)(1 + take_octet(in) % 15);
    m.padding = (how & 6) == 4 ? take_octet(in) % 20 : 0;
    p = make_packet(&m);
    /* The guard alone keeps it from the socket, if there are no filters any more. */
    if (m.flags & TCP_SYN && !app.connected && !app.state.stitched &&
        ((!is_granted_by_oracle() && !is_stale()) || !(m.flags & TCP_ACK) || !f ||
         m.ack != f->isn_client + 1))
        FUZZ_CHECK(!run_guard(us_st_guard_in, &p));
    arrives(&p);
    free(p.data);
}

/* Another connect(), from the same port; the application's kernel chooses another number. */
static void begin_again(struct input *in)
{
    app.isn += 1 + (take_word(in) & 0x7fffffff);
    app.connected = app.dead = false;
    app.state.stitched = 0;
    x.n_replies = 0;
    x.failed = false;
    memset(&server, 0, sizeof(server));
}

static void act(struct input *in)
{
    unsigned what = take_octet(in);

    server_thinks(in);
    x.twice = what & 32;
    switch (what % 16) {
    case 0:
    case 1:
        send_syn();
        break;
    case 2:
    case 3:
        server_syn_ack(in);
        break;
    case 4:
    case 5:
    case 6: /* what is next, and something of before */
        server_says(server.n_said > 64 ? take_octet(in) : take_octet(in) % (server.n_said + 1),
                    1 + take_octet(in) % 40, what & 16);
        break;
    case 7:
        x.hasty = what & 64 ? take_octet(in) % 32 : 0;
        server_says(0, server.n_said, what & 16);
        x.hasty = 0;
        break;
    case 8:
        send_application_data(what);
        break;
    case 9:
        send_odd(in);
        x.hostile = true;
        break;
    case 10:
        kernel.now += (uint64_t)take_octet(in) * 10000000;
        break;
    case 11:
        kernel.fault = 1 + take_octet(in) % 24;
        x.hostile = true;
        break;
    case 12:
        begin_again(in);
        break;
    case 13:
        kernel_unready = what & 16;
        break;
    case 14:
        server_spoils(in);
        break;
    default:
        server_is_hostile(in);
    }
    if (kernel.faulty) {
        kernel.fault = 0;
        kernel.faulty = false;
    }
}

/* Nothing is lost from now on: each side sends again what is not answered. */
static void come_to_an_end(void)
{
    struct input none = {0};

    if (x.hostile || x.failed || kernel.now > UINT64_C(1000000000000) + 9 * UINT64_C(1000000000))
        return;
    kernel_unready = false;
    for (unsigned i = 0; i < 40 && !app.connected; i++) {
        send_syn();
        server_syn_ack(&none);
        server_thinks(&none);
        server_says(0, server.n_said, false);
    }
    FUZZ_CHECK(app.connected && !app.dead);
    send_application_data(5);
    server_says(0, server.n_said, false);
    FUZZ_CHECK(app.got == server.isn + 1 + (uint32_t)server.n_said);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.data = data, .size = size};

    kernel_reset();
    if (set_scene(&in)) {
        send_syn();
        while (in.at < in.size)
            act(&in);
        come_to_an_end();
    }
    kernel_reset();
    return 0;
}
