/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who takes part in fuzz_stitch.c: the application's kernel, the server, and what has been said so
 * far; and the packets between them, made and looked at without the code under test.
 */
#ifndef UNDERSOCK_TESTS_FUZZ_STITCH_PACKETS_H
#define UNDERSOCK_TESTS_FUZZ_STITCH_PACKETS_H

#include "stitch_kernel.h"

#define STREAM_MAX  2048
#define REPLIES_MAX 8192
#define ETHERNET    14
#define DEVICE      3

enum reply_kind { METHOD, STATUS, REPLY5, REPLY4 };

/* The application's kernel, as far as it matters. */
static struct {
    uint32_t isn, got; /* `got`: the number that it awaits, once connected */
    bool connected, dead;
    struct bpf_sock socket; /* as the kernel would show it; see shown() */
    struct abi_socket state;
    uint8_t options[OPTIONS_MAX];
    size_t options_len, usual_len; /* usual: what may reach the server, at the beginning */
    uint16_t data_len;             /* in its SYN: Fast Open */
} app;

/* The server, which speaks as it should unless it is told otherwise, and what it has said. */
static struct {
    uint32_t isn, base; /* `base`: the number of the SYN that it got */
    bool open;
    size_t got;     /* octets of the stream, in order */
    size_t replied; /* steps */
    uint8_t said[REPLIES_MAX];
    size_t n_said;
} server;

/* What goes to the server, and what has been taken of its answers. */
static struct {
    bool v6;
    uint32_t l2, device;
    struct stitch_key key;
    uint8_t stream[STREAM_MAX];
    size_t len, end_of[STITCH_STEPS]; /* of each step's message */
    enum reply_kind kinds[STITCH_STEPS];
    uint8_t method[STITCH_STEPS];
    unsigned n_steps;
    uint8_t replies[REPLIES_MAX];
    size_t n_replies;
    uint32_t server_isn;
    bool hostile; /* no promise that it comes to an end */
    bool failed;
    bool twice;     /* what the server sends, two processors get at once */
    uint32_t hasty; /* what it does not acknowledge yet */
} x;

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

/* A view of a packet, made without the code under test. */
struct view {
    bool tcp, icmp;
    uint32_t seq, ack;
    uint8_t flags;
    const uint8_t *options, *data;
    size_t options_len, len;
    bool to_server;
};

static uint64_t pseudo_sum(const uint8_t *ip, unsigned protocol, size_t len)
{
    uint8_t tail[8] = {0};

    put32(tail, (uint32_t)len);
    tail[7] = (uint8_t)protocol;
    return kernel_sum(ip + (x.v6 ? 8 : 12), x.v6 ? 32 : 8) + kernel_sum(tail, 8);
}

/* Checks lengths, addresses, ports and, with `sums`, checksums. */
static struct view look_at(const struct kernel_packet *p, uint32_t l2, bool sums)
{
    const uint8_t *ip = p->data + l2, *l4 = ip + (x.v6 ? 40 : 20);
    size_t room = p->ctx.len - l2, n;
    struct view v = {0};
    unsigned protocol;
    uint64_t sum;

    FUZZ_CHECK(room >= (x.v6 ? 60u : 40u) && ip[0] == (x.v6 ? 0x60 : 0x45));
    n = x.v6 ? (ip[4] << 8 | ip[5]) + 40u : (unsigned)ip[2] << 8 | ip[3];
    FUZZ_CHECK(n <= room);
    n -= x.v6 ? 40 : 20;
    protocol = x.v6 ? ip[6] : ip[9];
    if (!x.v6 && sums)
        FUZZ_CHECK(kernel_fold(kernel_sum(ip, 20)) == 0xffff);
    v.to_server = memcmp(ip + (x.v6 ? 24 : 16), x.key.remote + (x.v6 ? 0 : 12), x.v6 ? 16 : 4) == 0;
    FUZZ_CHECK(memcmp(ip + (x.v6 ? 24 : 16),
                      (v.to_server ? x.key.remote : x.key.local) + (x.v6 ? 0 : 12),
                      x.v6 ? 16 : 4) == 0);
    FUZZ_CHECK(memcmp(ip + (x.v6 ? 8 : 12),
                      (v.to_server ? x.key.local : x.key.remote) + (x.v6 ? 0 : 12),
                      x.v6 ? 16 : 4) == 0);
    if (protocol != 6) {
        FUZZ_CHECK(protocol == (x.v6 ? 58 : 1) && !v.to_server && n == (x.v6 ? 56 : 36));
        sum = kernel_sum(l4, n) + (x.v6 ? pseudo_sum(ip, 58, n) : 0);
        FUZZ_CHECK(!sums || kernel_fold(sum) == 0xffff);
        v.icmp = true;
        v.data = l4;
        v.len = n;
        return v;
    }
    v.tcp = true;
    v.options_len = (size_t)(l4[12] >> 4) * 4 - 20;
    FUZZ_CHECK(l4[12] >> 4 >= 5 && v.options_len + 20 <= n);
    v.options = l4 + 20;
    v.data = v.options + v.options_len;
    v.len = n - 20 - v.options_len;
    v.seq = get32(l4 + 4);
    v.ack = get32(l4 + 8);
    v.flags = l4[13];
    FUZZ_CHECK((v.to_server ? l4 + 2 : l4)[0] == x.key.remote_port >> 8);
    FUZZ_CHECK((v.to_server ? l4 : l4 + 2)[1] == (x.key.local_port & 255));
    sum = pseudo_sum(ip, 6, n);
    if (!sums)
        return v;
    if (p->partial) {
        uint16_t check;

        memcpy(&check, l4 + 16, 2);
        FUZZ_CHECK(check % 0xffff == kernel_fold(sum) % 0xffff);
    } else {
        FUZZ_CHECK(kernel_fold(sum + kernel_sum(l4, n)) == 0xffff);
    }
    return v;
}

struct make {
    bool to_server, partial, broken; /* broken: its IP header is odd */
    uint32_t seq, ack;
    uint8_t flags, words; /* words: of the TCP header, if not as it should be */
    const uint8_t *options, *data;
    size_t options_len, len, padding;
};

static struct kernel_packet make_packet(const struct make *m)
{
    size_t head = x.v6 ? 40 : 20, n = 20 + m->options_len + m->len;
    struct kernel_packet p = {.partial = m->partial};
    uint8_t *ip, *l4;
    uint16_t check;

    p.ctx.len = (uint32_t)(x.l2 + head + n + m->padding);
    p.ctx.protocol = bpf_htons(x.v6 ? 0x86dd : 0x0800);
    p.ctx.ifindex = x.device;
    p.ctx.mark = 77;
    p.min = (uint32_t)(x.l2 + head + (m->partial ? 18 : 0));
    p.data = calloc(1, p.ctx.len);
    FUZZ_CHECK(p.data);
    ip = p.data + x.l2;
    l4 = ip + head;
    if (x.l2) {
        memset(p.data, m->to_server ? 0x11 : 0x22, 6);
        memset(p.data + 6, m->to_server ? 0x22 : 0x11, 6);
        put16(p.data + 12, x.v6 ? 0x86dd : 0x0800);
    }
    memcpy(ip + (x.v6 ? 8 : 12), (m->to_server ? x.key.local : x.key.remote) + (x.v6 ? 0 : 12),
           x.v6 ? 16 : 4);
    memcpy(ip + (x.v6 ? 24 : 16), (m->to_server ? x.key.remote : x.key.local) + (x.v6 ? 0 : 12),
           x.v6 ? 16 : 4);
    if (x.v6) {
        ip[0] = m->broken ? 0x50 : 0x60;
        put16(ip + 4, n);
        ip[6] = 6;
        ip[7] = 60;
    } else {
        ip[0] = m->broken ? 0x46 : 0x45;
        put16(ip + 2, head + n);
        ip[8] = 60;
        ip[9] = 6;
        check = (uint16_t)~kernel_fold(kernel_sum(ip, 20));
        memcpy(ip + 10, &check, 2);
    }
    put16(l4, m->to_server ? x.key.local_port : x.key.remote_port);
    put16(l4 + 2, m->to_server ? x.key.remote_port : x.key.local_port);
    put32(l4 + 4, m->seq);
    put32(l4 + 8, m->ack);
    l4[12] = (uint8_t)((m->words ? m->words : 5 + m->options_len / 4) << 4);
    l4[13] = m->flags;
    put16(l4 + 14, 0x8000);
    if (m->options_len)
        memcpy(l4 + 20, m->options, m->options_len);
    if (m->len)
        memcpy(l4 + 20 + m->options_len, m->data, m->len);
    check = kernel_fold(pseudo_sum(ip, 6, n) + (m->partial ? 0 : kernel_sum(l4, n)));
    if (!m->partial)
        check = (uint16_t)~check;
    memcpy(l4 + 16, &check, 2);
    return p;
}

static struct bpf_sock *shown(void)
{
    app.socket.state = app.connected ? BPF_TCP_ESTABLISHED : BPF_TCP_SYN_SENT;
    app.socket.family = x.v6 ? AF_INET6 : AF_INET;
    app.socket.dst_port = bpf_htons(app.state.to.port);
    if (x.v6)
        memcpy(app.socket.dst_ip6, app.state.to.ip, 16);
    else
        memcpy(&app.socket.dst_ip4, app.state.to.ip + 12, 4);
    return &app.socket;
}

/* What a cgroup's programs see: no header of the device. */
static int run_guard(int (*guard)(struct __sk_buff *), const struct kernel_packet *p)
{
    struct kernel_packet bare = *p;
    int r;

    bare.ctx.len -= x.l2;
    bare.ctx.sk = shown();
    bare.data = malloc(bare.ctx.len);
    FUZZ_CHECK(bare.data);
    memcpy(bare.data, p->data + x.l2, bare.ctx.len);
    kernel.storage = &app.state;
    r = kernel_run(guard, &bare);
    FUZZ_CHECK(memcmp(bare.data, p->data + x.l2, bare.ctx.len) == 0);
    free(bare.data);
    FUZZ_CHECK(r == 0 || r == 1);
    return r;
}

#endif
