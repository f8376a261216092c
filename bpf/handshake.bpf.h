/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handshake's states: what a packet changes in the record of its flow, and what is to be done
 * with it. All of this is done under the record's lock, so without helpers; what is to be done
 * after is left in a plan (segment.bpf.h).
 *
 *   SYN ──SYN-ACK──▶ STEP ──reply──▶ STEP ... ──last reply──▶ GRANTED ──the application's ACK──▶
 * gone │                └─── any other reply, reset, end, timeout ──▶ FAILED └────────────────────
 * reset, timeout, ICMP error ──▶ FAILED
 *
 * Each state answers what comes again, from either side, with what it answered first.
 */
#ifndef UNDERSOCK_BPF_HANDSHAKE_BPF_H
#define UNDERSOCK_BPF_HANDSHAKE_BPF_H

#include "segment.bpf.h"

/* The octets of a reply that matter, as far as they are in the segment. */
struct octets {
    __u32 state, step, next, got; /* of the flow when they were read */
    __u32 has;                    /* bits */
    __u8 at[8];
};

/* The number of our first octet, less one. */
static __always_inline __u32 base_of(const struct stitch_flow *f)
{
    return f->isn_client - f->injected;
}

static __always_inline struct stitch_step *step_of(struct stitch_flow *f)
{
    return &f->steps[f->step & (STITCH_STEPS - 1)];
}

static __always_inline void plan_to_server(struct stitch_flow *f, struct plan *plan,
                                           enum action action)
{
    const struct stitch_step *step = step_of(f);
    __u32 scale = f->flags & STITCH_SCALING ? f->scale_client & 15 : 0;

    plan->action = action;
    plan->segment.to_server = true;
    plan->segment.seq = base_of(f) + 1 + step->before;
    plan->segment.ack = f->next_server;
    plan->segment.window = f->window_client >> scale;
    if (!plan->segment.window)
        plan->segment.window = 1;
    plan->segment.options_len = f->flags & STITCH_TIMESTAMPS ? 12 : 0;
    plan->segment.flags = TCP_ACK;
    if (action == MESSAGE) {
        plan->segment.flags |= TCP_PSH;
        plan->segment.at = step->at;
        plan->segment.len = step->len;
    } else {
        /* A server believes a reset with the number that it awaits, and has the message by then. */
        plan->segment.seq += step->len;
        if (action == ABORT)
            plan->segment.flags = TCP_RST | TCP_ACK;
    }
}

/* A SYN-ACK may come from who keeps connections from the server until they are real (nft's
 * "synproxy"): its window is closed, and data are lost. The ACK makes it real; then it opens. */
static __always_inline void plan_await(struct stitch_flow *f, struct plan *plan)
{
    plan_to_server(f, plan, ACK);
    plan->segment.seq -= step_of(f)->len;
}

/* Nobody has that connection any more: what the kernel would say (RFC 9293, 3.10.7.1), but for a
 * firewall that does not let it see what connection tracking calls invalid. */
static __always_inline void plan_refusal(const struct packet *p, struct plan *plan)
{
    plan->action = ABORT;
    plan->segment.to_server = true;
    plan->segment.flags = TCP_RST;
    plan->segment.seq = p->ack;
}

static __always_inline void plan_answer(struct stitch_flow *f, struct plan *plan, bool more)
{
    plan->action = more ? ANSWER_AND_MORE : ANSWER;
    plan->segment.flags = TCP_SYN | TCP_ACK | f->syn_flags;
    plan->segment.seq = f->next_server - 1;
    plan->segment.ack = f->isn_client + 1;
    plan->segment.window = f->window_server;
    plan->segment.options_len = f->options_len;
}

static __always_inline void plan_tell(struct stitch_flow *f, struct plan *plan)
{
    plan->verdict = f->verdict;
    if (f->verdict == STITCH_TELL_NOTHING) {
        plan->action = DROP;
        return;
    }
    plan->action = TELL;
    plan->segment.flags = TCP_RST | TCP_ACK;
    plan->segment.seq = 0;
    plan->segment.ack = f->isn_client + 1;
}

static __always_inline void fail(struct stitch_flow *f, struct plan *plan, __u32 reason,
                                 __u32 verdict)
{
    f->state = STITCH_FAILED;
    f->verdict = verdict;
    plan->reason = reason;
    plan->count = 1 + STITCH_COUNT_FAILED;
    plan->step = f->step;
    plan->code = f->code;
    plan_tell(f, plan);
}

static __always_inline __u32 verdict_of(const struct stitch_step *step, __u32 code)
{
    if (step->verdicts != STITCH_VERDICTS_SOCKS5)
        return STITCH_TELL_RESET;
    switch (code) {
    case 2:
        return STITCH_TELL_PROHIBITED;
    case 3:
        return STITCH_TELL_NET;
    case 4:
    case 6:
        return STITCH_TELL_HOST;
    default:
        return STITCH_TELL_RESET;
    }
}

static __always_inline void on_syn_ack(struct stitch_flow *f, const struct packet *p,
                                       const struct scratch *s, __u64 now, struct plan *plan)
{
    f->next_server = p->seq + 1;
    f->scale_server = s->scale;
    f->syn_flags = p->flags & TCP_ECE;
    f->ts_server = s->ts;
    f->ts_at = s->ts_at;
    if (!s->ts_at)
        f->flags &= ~STITCH_TIMESTAMPS;
    if (!s->has_scale)
        f->flags &= ~STITCH_SCALING;
    f->options_len = s->options_len;
    __builtin_memcpy(f->options, s->options, OPTIONS_MAX);
    f->state = STITCH_STEP;
    f->deadline = now + f->timeout * 1000000ull;
    if (p->window) {
        plan_to_server(f, plan, MESSAGE);
    } else {
        f->flags |= STITCH_WAITS;
        plan_await(f, plan);
    }
}

/* What the server takes by now, as a SYN-ACK can say it. */
static __always_inline __u16 window_of(const struct stitch_flow *f, const struct packet *p)
{
    __u32 window = p->window;

    if (f->flags & STITCH_SCALING)
        window <<= f->scale_server & 15;
    return window > 65535 ? 65535 : window;
}

/* Takes what there is of a reply. False: it is none; plan says so. */
static __always_inline bool take_octets(struct stitch_flow *f, const struct octets *o,
                                        struct plan *plan)
{
    const struct stitch_step *step = step_of(f);

    if (o->has & 1 && o->at[0] != step->version) {
        f->code = o->at[0];
        fail(f, plan, STITCH_BY_PROTOCOL, STITCH_TELL_RESET);
        return false;
    }
    if (o->has & 2) {
        f->code = o->at[1];
        if (f->code != step->good) {
            fail(f, plan, f->step + 1 == f->n_steps ? STITCH_BY_REPLY : STITCH_BY_HOP,
                 verdict_of(step, f->code));
            return false;
        }
    }
    if (step->reply_len) {
        f->reply_len = step->reply_len;
        return true;
    }
    if (o->has & 8) {
        if (o->at[3] == 1) {
            f->reply_len = 10;
        } else if (o->at[3] == 4) {
            f->reply_len = 22;
        } else if (o->at[3] != 3) {
            fail(f, plan, STITCH_BY_PROTOCOL, STITCH_TELL_RESET);
            return false;
        }
    }
    /* Of the three only a name leaves the length open for one octet more. */
    if (o->has & 16 && !f->reply_len)
        f->reply_len = 7 + o->at[4];
    return true;
}

static __always_inline void on_reply(struct stitch_flow *f, const struct packet *p,
                                     const struct scratch *s, const struct octets *o,
                                     struct plan *plan)
{
    const struct stitch_step *step = step_of(f);
    __s32 skip = f->next_server - p->seq, behind;
    __u32 available, n;
    bool more;

    if (p->flags & TCP_RST) {
        if (skip == 0)
            fail(f, plan, STITCH_BY_RESET, STITCH_TELL_RESET);
        return;
    }
    behind = p->ack - (base_of(f) + 1 + step->before + step->len);
    if (skip < 0 || behind > 0 || !(p->flags & TCP_ACK))
        return;
    if (!p->len && !(p->flags & TCP_FIN)) {
        /* The ACK of what we sent, or of nothing. */
        if (f->flags & STITCH_WAITS && p->window) {
            f->flags &= ~STITCH_WAITS;
            plan_to_server(f, plan, MESSAGE);
        }
        return;
    }
    if (skip > (__s32)p->len || (skip == (__s32)p->len && !(p->flags & TCP_FIN))) {
        plan_to_server(f, plan, MESSAGE); /* once more: ours was lost, or our ACK */
        return;
    }
    /* New octets answer the whole message. Who forges them has to know both numbers, not one of
     * them nearly; a server that is too hasty sends them again. */
    if (behind != 0 && p->len)
        return;
    if (o->state != f->state || o->step != f->step || o->next != f->next_server || o->got != f->got)
        return; /* somebody else was faster */
    if (s->ts_at)
        f->ts_server = s->ts;
    f->flags &= ~STITCH_WAITS;
    if (!take_octets(f, o, plan))
        return;
    available = p->len - skip;
    n = available;
    if (f->reply_len && n > (__u32)f->reply_len - f->got)
        n = (__u32)f->reply_len - f->got;
    f->got += n;
    f->next_server += n;
    more = n < available || p->flags & TCP_FIN;
    if (!f->reply_len || f->got < f->reply_len) {
        if (p->flags & TCP_FIN)
            fail(f, plan, STITCH_BY_CLOSE, STITCH_TELL_RESET);
        else
            plan_to_server(f, plan, ACK);
    } else if (f->step + 1 == f->n_steps) {
        f->state = STITCH_GRANTED;
        f->window_server = window_of(f, p);
        plan->count = 1 + STITCH_COUNT_GRANTED;
        plan_answer(f, plan, more);
    } else if (more) {
        fail(f, plan, p->flags & TCP_FIN ? STITCH_BY_CLOSE : STITCH_BY_PROTOCOL, STITCH_TELL_RESET);
    } else {
        f->step++;
        f->got = 0;
        f->reply_len = 0;
        plan_to_server(f, plan, MESSAGE);
    }
}

/*
 * Of another connection between the same addresses and ports: an older one, or one that is not
 * stitched, when the socket of this record is gone. The application's kernel knows what to do with
 * it. If it still waits for the end of the handshake, it takes an ACK of isn_client + 1 only, and
 * no reset without an ACK.
 */
static __always_inline bool is_foreign(const struct stitch_flow *f, const struct packet *p)
{
    if (p->flags & TCP_ACK)
        return p->ack - (base_of(f) + 1) > f->injected;
    return p->flags & TCP_RST && (f->state != STITCH_STEP || p->seq != f->next_server);
}

/* What comes from the first hop. */
static __always_inline void decide_incoming(struct stitch_flow *f, const struct packet *p,
                                            const struct scratch *s, const struct octets *o,
                                            __u64 now, struct plan *plan)
{
    bool for_our_syn = p->flags & TCP_ACK && p->ack == base_of(f) + 1;
    __s32 skip = f->next_server - p->seq;

    plan->action = DROP;
    plan->interface = f->interface;
    plan->mark = f->mark;
    plan->bare = f->flags & STITCH_BARE;
    __builtin_memcpy(plan->link, f->link, sizeof(f->link));
    if (is_foreign(f, p)) {
        plan->action = LET;
        return;
    }
    switch (f->state) {
    case STITCH_SYN:
        if (p->flags & TCP_RST) {
            if (for_our_syn)
                fail(f, plan, STITCH_BY_REFUSAL, STITCH_TELL_RESET);
        } else if (p->flags & TCP_ACK && !(p->flags & TCP_SYN) && !for_our_syn) {
            plan->action = LET; /* the kernel knows what to answer */
        } else if (p->flags & TCP_SYN && for_our_syn) {
            on_syn_ack(f, p, s, now, plan);
        }
        /* An ACK of our SYN alone has overtaken the SYN-ACK. The kernel would reset what it has
         * not asked for. */
        break;
    case STITCH_STEP:
        if (!(p->flags & TCP_SYN))
            on_reply(f, p, s, o, plan);
        else if (for_our_syn && f->flags & STITCH_WAITS)
            plan_await(f, plan);
        else if (for_our_syn)
            plan_to_server(f, plan, MESSAGE);
        break;
    case STITCH_GRANTED:
        if (p->flags & TCP_SYN) {
            break; /* its SYN-ACK again, or one that it has no business to send */
        } else if (p->flags & TCP_RST || skip <= 0) {
            plan->action = LET;
        } else {
            /* The reply again: the application's ACK has not arrived, perhaps our answer has not.
             */
            plan_answer(f, plan, (__s32)p->len > skip || p->flags & TCP_FIN);
        }
        break;
    case STITCH_FAILED:
        if (p->flags & TCP_RST) {
            if (p->seq == 0 && p->ack == f->isn_client + 1)
                plan->action = LET; /* our own, over loopback */
        } else if (p->flags & TCP_ACK) {
            plan_refusal(p, plan);
        } else {
            plan->action = LET;
        }
        break;
    }
    plan->ts_client = f->ts_client;
    plan->ts_server = f->ts_server;
}

/* What goes to the first hop leaves as the application's SYN did: the route for it may depend on
 * what a program cannot ask with, like the user or a port. */
static __always_inline void take_way(struct stitch_flow *f, __u32 interface, bool bare,
                                     const void *link)
{
    f->interface = interface;
    f->flags = bare ? f->flags | STITCH_BARE : f->flags & ~STITCH_BARE;
    __builtin_memcpy(f->link, link, sizeof(f->link));
}

/* The application's SYN, which the record is about already. */
static __always_inline void decide_again(struct stitch_flow *f, const struct scratch *s, __u64 now,
                                         struct plan *plan)
{
    bool was_out = f->state == STITCH_STEP;

    plan->action = DROP;
    plan->count = 1 + STITCH_COUNT_AGAIN;
    if (s->ts_at)
        f->ts_client = s->ts;
    if (f->state == STITCH_FAILED && f->verdict == STITCH_TELL_NATIVE)
        f->state = STITCH_SYN;
    if ((f->state == STITCH_SYN || f->state == STITCH_STEP) && now > f->deadline) {
        /* A server that is not there is told at once; one that is silent may wait for the
         * destination, and connect() times out as it would by itself. */
        if (was_out)
            fail(f, plan, STITCH_BY_TIMEOUT, STITCH_TELL_NOTHING);
        else
            fail(f, plan, STITCH_BY_SILENCE, STITCH_TELL_RESET);
        if (was_out)
            plan_to_server(f, plan, ABORT);
    } else if (f->state == STITCH_SYN) {
        plan->action = SHIFT;
        plan->segment.seq = base_of(f);
    } else if (f->state == STITCH_STEP) {
        plan_to_server(f, plan, MESSAGE);
    } else if (f->state == STITCH_GRANTED) {
        plan_answer(f, plan, false);
    } else {
        plan_tell(f, plan);
    }
    plan->ts_client = f->ts_client;
    plan->ts_server = f->ts_server;
}

#endif
