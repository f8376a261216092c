/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What must hold in fuzz_stitch.c, whatever comes: after each run of a program on a packet that
 * arrives or leaves, by the codecs of the client and by what was said before.
 */
#ifndef UNDERSOCK_TESTS_FUZZ_STITCH_ORACLE_H
#define UNDERSOCK_TESTS_FUZZ_STITCH_ORACLE_H

#include "socks/socks4.h"
#include "socks/socks5_client.h"
#include "stitch_packets.h"

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

/* What RFC 9293 has a host say of a connection that is not. */
static bool resets(const struct kernel_packet *p, uint32_t seq)
{
    struct view v = look_at(p, x.l2, true);

    return v.to_server && v.flags == TCP_RST && v.seq == seq && v.len == 0;
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
        else if (kernel_at_lock.state == STITCH_FAILED && !kernel.faulty &&
                 (v.flags & (TCP_ACK | TCP_RST)) == TCP_ACK)
            FUZZ_CHECK(r == 7 && resets(p, v.ack));
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
    /* Not SHOT, which TCP would take for congestion. */
    FUZZ_CHECK(r == PASS || r == 7);
    if (r == 7 && p->went_by == 0)
        return; /* lost */
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

#endif
