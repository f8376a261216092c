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
 */
#include "upstream/script.c"

#include "chain.h"
#include "socks/socks5_server.h"
#include "stitch_kernel.h"

#define STREAM_MAX  2048
#define REPLIES_MAX 8192
#define ETHERNET    14
#define DEVICE      3

static const enum config_scheme schemes[] = {SCHEME_SOCKS5, SCHEME_SOCKS4A, SCHEME_SOCKS5H};

enum reply_kind { METHOD, STATUS, REPLY5, REPLY4 };

static struct config_upstream configs[3];
static struct upstream chain;

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

/* --- packets ------------------------------------------------------------------------------------
 */

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

/* --- the oracle --------------------------------------------------------------------------------
 */

static const struct stitch_flow *record(void)
{
    int i = kernel_find_flow(&x.key);

    return i < 0 ? NULL : kernel_flows[i].value;
}

/* The record is of a connection that the application has given up. */
static bool is_stale(void)
{
    return record() && record()->isn_client != app.isn;
}

/* The project's decoder wants a name to be one; nobody uses that of a reply, so the programs do not
 * look into it. */
static int decode_reply5(const uint8_t *p, size_t len, struct socks5_reply *ret)
{
    uint8_t copy[REPLIES_MAX];

    memcpy(copy, p, len);
    if (len > 3 && copy[3] == SOCKS5_ATYP_NAME)
        for (size_t i = 5; i < len && i < 5u + copy[4]; i++)
            copy[i] = copy[i] ? copy[i] : 'n';
    return socks5_decode_reply(copy, len, ret);
}

/* How many replies there are in what was taken; -1: one that is no success. `ret_left`: octets
 * behind them. */
static int replies(size_t *ret_left)
{
    size_t at = 0;
    unsigned n = 0;

    for (; n < x.n_steps; n++) {
        const uint8_t *p = x.replies + at;
        size_t len = x.n_replies - at;
        struct socks5_reply r5 = {.rep = 0};
        struct socks4_reply r4 = {.rep = 0};
        uint8_t method;
        int r;

        if (x.kinds[n] == METHOD)
            r = socks5_decode_method(p, len, &x.method[n], 1, &method);
        else if (x.kinds[n] == STATUS)
            r = socks5_decode_auth_status(p, len);
        else if (x.kinds[n] == REPLY5)
            r = decode_reply5(p, len, &r5);
        else
            r = socks4_decode_reply(p, len, &r4);
        if (r < 0 || (r > 0 && x.kinds[n] == REPLY5 && r5.rep != 0) ||
            (r > 0 && x.kinds[n] == REPLY4 && r4.rep != 0x5a))
            return -1;
        if (r == 0)
            break;
        at += (size_t)r;
    }
    *ret_left = x.n_replies - at;
    return (int)n;
}

static bool is_granted_by_oracle(void)
{
    size_t left;

    return replies(&left) == (int)x.n_steps && left == 0;
}

/* Something goes out by the wire. */
static void on_wire(const struct kernel_packet *p)
{
    struct view v = look_at(p, x.l2, !kernel.faulty);
    uint32_t base = app.isn - (uint32_t)x.len, at = v.seq - (base + 1);
    size_t left;
    int done;

    if (kernel.faulty && !v.tcp)
        return;
    FUZZ_CHECK(v.tcp && v.to_server);
    if (v.flags & TCP_SYN) {
        FUZZ_CHECK(v.seq == base && v.len == 0 && !(v.flags & TCP_ACK));
        /* What stands in the way of the handshake is padding now, the rest as it was. */
        FUZZ_CHECK(v.options_len == app.options_len);
        for (size_t i = 0; i < v.options_len; i++)
            FUZZ_CHECK(v.options[i] == (i < app.usual_len ? app.options[i] : 1));
        if (!server.open || server.base != base) {
            memset(&server, 0, sizeof(server));
            server.base = base;
            server.isn = base * 7 + 12345;
            server.open = true;
        }
        return;
    }
    if (v.flags & TCP_RST)
        FUZZ_CHECK(v.len == 0 || is_granted_by_oracle());
    if (v.flags & TCP_RST || is_stale())
        return;
    if (is_granted_by_oracle())
        return;
    FUZZ_CHECK(!app.connected && !app.state.stitched);
    FUZZ_CHECK(!(v.flags & TCP_FIN) && v.flags & TCP_ACK);
    done = replies(&left);
    FUZZ_CHECK(done >= 0 && at <= x.len && v.len <= x.len - at);
    FUZZ_CHECK(memcmp(x.stream + at, v.data, v.len) == 0);
    if (v.len)
        FUZZ_CHECK(done < (int)x.n_steps && at + v.len <= x.end_of[done]);
    FUZZ_CHECK(v.ack == x.server_isn + 1 + (uint32_t)x.n_replies);
    if (at == server.got && server.open)
        server.got += v.len;
}

/* What the application's kernel makes of it. */
static void on_application(const struct kernel_packet *p)
{
    const struct stitch_flow *f = record();
    struct view v = look_at(p, x.l2, !kernel.faulty);

    if (v.icmp) {
        FUZZ_CHECK(f && f->state == STITCH_FAILED);
        FUZZ_CHECK(v.data[0] == (x.v6 ? 1 : 3));
        FUZZ_CHECK(get32(v.data + (x.v6 ? 52 : 32)) == f->isn_client);
        app.dead |= !app.connected && !is_stale();
        return;
    }
    if (kernel.faulty && !v.tcp)
        return;
    FUZZ_CHECK(!v.to_server);
    if (!run_guard(us_st_guard_in, p) || app.dead)
        return;
    if (!app.connected) {
        bool acceptable = v.flags & TCP_ACK && v.ack == app.isn + 1;

        if (v.flags & TCP_RST) {
            app.dead |= acceptable;
        } else if (v.flags & TCP_SYN) {
            FUZZ_CHECK(v.flags & TCP_ACK); /* nobody opens it from the other side */
            if (!acceptable)
                return;
            FUZZ_CHECK(is_granted_by_oracle());
            FUZZ_CHECK(v.seq == x.server_isn + (uint32_t)x.n_replies && v.len == 0);
            app.connected = true;
            app.got = v.seq + 1;
        }
        return;
    }
    /* It takes what is next, from wherever in the segment. */
    if (v.len && !(v.flags & (TCP_SYN | TCP_RST)) && (int32_t)(app.got - v.seq) >= 0 &&
        (int32_t)(v.seq + (uint32_t)v.len - app.got) > 0)
        app.got = v.seq + (uint32_t)v.len;
}

/* --- the programs ------------------------------------------------------------------------------
 */

/* The octets that a run has taken as a reply. */
static void follow(const struct stitch_flow *before, const struct view *v)
{
    const struct stitch_flow *f = record();
    uint32_t n, skip;

    FUZZ_CHECK(f && f->isn_client == before->isn_client);
    if (is_stale())
        return;
    if (before->state == STITCH_SYN && f->state == STITCH_STEP) {
        FUZZ_CHECK((v->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK));
        FUZZ_CHECK(v->ack == app.isn - (uint32_t)x.len + 1);
        x.server_isn = v->seq;
        x.n_replies = 0;
    } else if (before->next_server != f->next_server) {
        size_t left;

        n = f->next_server - before->next_server;
        skip = before->next_server - v->seq;
        FUZZ_CHECK(before->state == STITCH_STEP && v->flags & TCP_ACK &&
                   !(v->flags & (TCP_SYN | TCP_RST)));
        FUZZ_CHECK(skip <= v->len && n <= v->len - skip && x.n_replies + n <= REPLIES_MAX);
        /* A stranger would have to know how much we have said. */
        FUZZ_CHECK(v->ack == app.isn - (uint32_t)x.len + 1 + (uint32_t)x.end_of[before->step]);
        memcpy(x.replies + x.n_replies, v->data + skip, n);
        x.n_replies += n;
        FUZZ_CHECK(replies(&left) >= 0);
        /* Nobody says more than he was asked. */
        if (n < v->len - skip || v->flags & TCP_FIN)
            FUZZ_CHECK(f->state != STITCH_STEP);
    }
    if (f->state == STITCH_GRANTED)
        FUZZ_CHECK(is_granted_by_oracle());
    if (f->state == STITCH_STEP)
        FUZZ_CHECK(!is_granted_by_oracle());
    if (f->state == STITCH_FAILED)
        x.failed = true;
    /* Who resets it has to know the number. */
    if (f->state != before->state && v->flags & TCP_RST)
        FUZZ_CHECK(before->state == STITCH_SYN ? v->ack == app.isn - (uint32_t)x.len + 1
                                               : v->seq == before->next_server);
}

/* Of the connection that the record is about: what is acknowledged is of ours. */
static bool is_other(const struct stitch_flow *f, const struct view *v)
{
    return v->flags & TCP_ACK && v->ack - (f->isn_client - f->injected + 1) > f->injected;
}

/* Whether a program would take it for a segment at all. */
static bool is_segment(const struct kernel_packet *p)
{
    const uint8_t *ip = p->data + x.l2, *tcp = ip + (x.v6 ? 40 : 20);
    size_t n = p->ctx.len - x.l2 - (x.v6 ? 40 : 20);

    return ip[0] == (x.v6 ? 0x60 : 0x45) && tcp[12] >> 4 >= 5 && (tcp[12] >> 4) * 4u <= n;
}

static struct kernel_packet copy_of(const struct kernel_packet *p)
{
    struct kernel_packet copy = *p;

    copy.data = malloc(p->ctx.len);
    FUZZ_CHECK(copy.data);
    memcpy(copy.data, p->data, p->ctx.len);
    return copy;
}

static void arrives(struct kernel_packet *p)
{
    struct kernel_packet was = copy_of(p), behind = {0};
    unsigned locks = kernel_n_locks;
    bool changed;
    struct view v;
    int r;

    r = kernel_run(x.l2 ? us_st_in : us_st_in_bare, p);
    FUZZ_CHECK(r == PASS || r == SHOT || r == 7);
    changed = p->ctx.len != was.ctx.len || memcmp(p->data, was.data, was.ctx.len) != 0;
    if (was.ctx.tc_index == OURS)
        FUZZ_CHECK(r == PASS && !changed && p->ctx.tc_index == OURS);
    if (kernel.has_clone) {
        behind = kernel.clone;
        kernel.has_clone = false;
        FUZZ_CHECK(behind.ctx.len == was.ctx.len &&
                   memcmp(behind.data, was.data, was.ctx.len) == 0);
    }
    if (kernel_n_locks != locks) {
        FUZZ_CHECK(is_segment(&was));
        v = look_at(&was, x.l2, false);
        follow(&kernel_at_lock, &v);
        if (is_other(&kernel_at_lock, &v))
            FUZZ_CHECK(r == PASS && !changed);
    }
    if (r == 7) {
        FUZZ_CHECK(p->went && !p->went_in && p->went_by == (uint32_t)x.device);
        on_wire(p);
    } else if (r == PASS && (changed || is_segment(p))) {
        on_application(p);
    }
    free(was.data);
    if (behind.data) {
        arrives(&behind);
        free(behind.data);
    }
}

/* The application's kernel sends; `guarded`: through the cgroup first. */
static void leaves(struct kernel_packet *p, bool guarded)
{
    struct view v = look_at(p, x.l2, false);
    int r;

    if (guarded && !run_guard(us_st_guard, p))
        return;
    FUZZ_CHECK(!guarded || !kernel_unready || app.state.stitched);
    p->ctx.sk = shown();
    kernel.storage = &app.state;
    r = kernel_run(x.l2 ? us_st_out : us_st_out_bare, p);
    FUZZ_CHECK(r == PASS || r == SHOT || r == 7);
    if (!guarded && (int32_t)(v.seq - app.isn) <= 0)
        return; /* such a packet is the guard's */
    if (r == 7) {
        FUZZ_CHECK(p->went_in && p->ctx.tc_index == OURS);
        FUZZ_CHECK(!x.l2 || p->data[0] == 0x22);
        p->ctx.sk = NULL;
        arrives(p);
    } else if (r == PASS && p->ctx.tc_index == OURS) {
        FUZZ_CHECK(x.device == LOOPBACK);
        p->ctx.sk = NULL;
        arrives(p);
    } else if (r == PASS) {
        on_wire(p);
    }
}

/* --- what happens ------------------------------------------------------------------------------
 */

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

/* --- the scene ---------------------------------------------------------------------------------
 */

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
