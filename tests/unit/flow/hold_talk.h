/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of flow/hold.c: what they expect of the rig (hold_rig.h), and the conversations
 * that they all have, from the SYN to the upstream's answer and on.
 */
#ifndef UNDERSOCK_TESTS_FLOW_HOLD_TALK_H
#define UNDERSOCK_TESTS_FLOW_HOLD_TALK_H

#include "tests/unit/flow/hold_rig.h"

/* Turns long enough for whatever is under way to arrive; no time passes. */
static inline void settle(struct held_rig *h)
{
    for (unsigned i = 0; i < 10; i++)
        drive_turn(&h->r->d);
}

/* ---- what is sent ---- */

static inline uint32_t accept_mark(unsigned capture)
{
    return capture == OUT   ? capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)
           : capture == LAN ? capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT)
                            : OWN_MARK;
}

static inline const struct sent *last_sent(struct held_rig *h, unsigned n)
{
    if (h->n_sent != n)
        fail_msg("%u packets were sent, not %u", h->n_sent, n);
    return &h->sent[(n - 1) % SENT];
}

/* `n` packets by now, the last of which is the application's SYN with a mark. */
static inline void expect_sent(struct held_rig *h, unsigned n, const struct app *a, uint32_t mark)
{
    const struct sent *k = last_sent(h, n);
    struct syn s;

    if (k->mark != mark)
        fail_msg("the mark is 0x%x, not 0x%x", k->mark, mark);
    assert_int_equal(k->interface, DEVICE);
    assert_int_equal(syn_parse(k->packet, k->len, &s), 0);
    assert_int_equal(s.len, k->len);
    assert_true(addr_equal(&s.client, &a->client));
    assert_true(addr_equal(&s.destination, &a->destination));
    assert_int_equal(s.isn, a->isn);
}

/* Likewise, and it says no: by its mark, or written by ourselves. */
static inline void expect_told(struct held_rig *h, unsigned n, const struct app *a,
                               enum injected_reject reject)
{
    static const struct {
        uint8_t v4, v6;
    } codes[REJECT_COUNT] = {
        [REJECT_HOST] = {1, 3}, [REJECT_NET] = {0, 0}, [REJECT_PROHIBITED] = {13, 1}};
    const struct sent *k = last_sent(h, n);
    bool v4 = addr_is_v4(&a->client);
    size_t ip = v4 ? 20 : 40, at = v4 ? 12 : 8, size = v4 ? 4 : 16;

    if (a->capture != SLICE) {
        expect_sent(h, n, a, capture_injected_mark(INJECTED_REJECT, reject));
        return;
    }
    uint8_t syn[SYN_MAX];
    size_t len = make_syn(a, syn);
    const uint8_t *body = k->packet + ip;

    assert_int_equal(k->mark, OWN_MARK);
    assert_int_equal(k->interface, DEVICE);
    assert_memory_equal(k->packet + at, syn + at + size, size);
    assert_memory_equal(k->packet + at + size, syn + at, size);
    if (reject == REJECT_RESET) {
        uint32_t ack = a->isn + 1;
        uint8_t want[4] = {(uint8_t)(ack >> 24), (uint8_t)(ack >> 16), (uint8_t)(ack >> 8),
                           (uint8_t)ack};

        assert_int_equal(k->packet[v4 ? 9 : 6], IPPROTO_TCP);
        assert_memory_equal(body, syn + ip + 2, 2);
        assert_memory_equal(body + 2, syn + ip, 2);
        assert_memory_equal(body + 8, want, 4);
        assert_int_equal(body[13], 0x14); /* RST, ACK */
        return;
    }
    assert_int_equal(k->packet[v4 ? 9 : 6], v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    assert_int_equal(body[0], v4 ? 3 : 1);
    assert_int_equal(body[1], v4 ? codes[reject].v4 : codes[reject].v6);
    assert_int_equal(k->len, ip + 8 + len);
    assert_memory_equal(body + 8 + ip, syn + ip, 8); /* ports and sequence number */
}

/* ---- upstreams ---- */

/* One of them takes the connection and is asked for where the application goes. */
static inline int asked(struct held_rig *h, unsigned upstream, const struct app *a)
{
    const struct addr *to = a->capture == SLICE ? &h->r->origin.destination : &a->destination;
    uint8_t want[32];
    struct wire_writer w = wire_writer(want, sizeof(want));
    bool v4 = addr_is_v4(to);

    wire_put_bytes(&w, v4 ? "\x05\x01\x00\x01" : "\x05\x01\x00\x04", 4);
    wire_put_bytes(&w, v4 ? to->ip + 12 : to->ip, v4 ? 4 : 16);
    wire_put_u16(&w, to->port);
    int fd = drive_accept(&h->r->d, h->r->upstream[upstream]);

    drive_expect(&h->r->d, fd, BYTES("\x05\x01\x00"));
    put(fd, BYTES("\x05\x00"));
    drive_expect(&h->r->d, fd, want, w.pos);
    return fd;
}

static inline void expect_nobody_asked(struct held_rig *h)
{
    for (unsigned i = 0; i < 5; i++)
        drive_turn(&h->r->d);
    for (unsigned i = 0; i < RIG_UPSTREAMS; i++)
        assert_int_equal(accept4(h->r->upstream[i], NULL, NULL, 0), -1);
}

static inline unsigned flows_in(const struct held_rig *h, enum flow_state state)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < h->r->t->n_used; i++)
        n += h->r->t->flows[i].state == state;
    return n;
}

/* Not a turn longer than it takes. */
static inline void until_in(struct held_rig *h, enum flow_state state, unsigned n)
{
    for (unsigned i = 0; flows_in(h, state) != n; i++) {
        if (i == DRIVE_TURNS)
            fail_msg("%u flows are %s, not %u", flows_in(h, state), flow_state_name(state), n);
        drive_turn(&h->r->d);
    }
}

/* An upstream that is being asked answers, and this has been read. */
static inline void answer(struct held_rig *h, int server, uint8_t code)
{
    unsigned n = flows_in(h, FLOW_HANDSHAKE);

    rig_reply(server, code);
    until_in(h, FLOW_HANDSHAKE, n - 1);
}

/* From the SYN to the upstream's answer. */
static inline int ask_and_answer(struct held_rig *h, const struct app *a, uint8_t code)
{
    take_syn(h, a);
    int server = asked(h, 0, a);

    answer(h, server, code);
    return server;
}

/* A SYN that was granted, and an application that has not seen it let through. */
static inline int grant_unseen(struct held_rig *h, struct app *a)
{
    a->away = true;
    int server = ask_and_answer(h, a, 0);

    assert_int_equal(flows_in(h, FLOW_GRANTED), 1);
    return server;
}

/* The application asks again, and sees the answer. */
static inline void let_see(struct held_rig *h, struct app *a)
{
    a->away = false;
    skip_time(h, 101 * MS);
    take_syn(h, a);
}

/* Both directions carry bytes, and then it ends. */
static inline void expect_relayed(struct held_rig *h, struct app *a, int server)
{
    uint64_t finished = rig_stats(h->r).finished;

    rig_expect_joined(h->r, a->fd, server);
    assert_int_equal(shutdown(a->fd, SHUT_WR), 0);
    drive_expect_end(&h->r->d, server, 0);
    assert_int_equal(shutdown(server, SHUT_WR), 0);
    drive_expect_end(&h->r->d, a->fd, 0);
    for (unsigned i = 0; rig_stats(h->r).finished == finished; i++) {
        assert_true(i < DRIVE_TURNS);
        drive_turn(&h->r->d);
    }
    close(server);
    close_app(a);
}

static inline void expect_nothing_left(struct held_rig *h)
{
    rig_until_flows(h->r, 0);
    assert_int_equal(rig_stats(h->r).held, 0);
}

/* Nothing more is sent. */
static inline void expect_silence(struct held_rig *h, unsigned n, int64_t time)
{
    skip_time(h, time);
    assert_int_equal(h->n_sent, n);
}

/* From the answer on: at once by a reset; by ICMP to a gateway's client at once, too, and to an
 * application of this host when its SYN is 2 ms old, and then once more. Returns how many. */
static inline unsigned expect_refused(struct held_rig *h, unsigned before, const struct app *a,
                                      enum injected_reject reject)
{
    unsigned n = before;

    if (reject == REJECT_RESET || a->capture == LAN) {
        expect_told(h, ++n, a, reject);
    } else {
        expect_silence(h, n, 1900000);
        skip_time(h, 110000);
        expect_told(h, ++n, a, reject);
        expect_silence(h, n, 24900000);
        skip_time(h, 110000);
        expect_told(h, ++n, a, reject);
    }
    expect_silence(h, n, 1000 * MS);
    expect_nothing_left(h);
    return n - before;
}

#endif
