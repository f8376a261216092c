/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guards of stitch.bpf.c, which includes this at its end: on the packets of a cgroup's sockets,
 * before a device sees them and after one has. They meet what has not been to a filter of ours, and
 * tell of it.
 */
#ifndef UNDERSOCK_BPF_GUARDS_BPF_H
#define UNDERSOCK_BPF_GUARDS_BPF_H

#define CGROUP_DROP 0
#define CGROUP_PASS 1

/* Interfaces that have their filters. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, __u32);
    __type(value, __u8);
} us_st_devices SEC(".maps");

/* Whether a packet of such a socket belongs to a handshake that has been granted. */
static __always_inline bool is_granted(const struct packet *p)
{
    struct stitch_flow *f = bpf_map_lookup_elem(&us_st_flows, &p->key);

    return f && f->state == STITCH_GRANTED;
}

/* The same of a SYN-ACK, of this handshake and no earlier one with the same ports. Where this host
 * translates addresses it has got the application's by now, and the record those of the interface:
 * what a filter has made is marked, too, and the kernel knows whether it is for this SYN. */
static __always_inline bool is_answer(struct __sk_buff *skb, const struct packet *p)
{
    struct stitch_flow *f = bpf_map_lookup_elem(&us_st_flows, &p->key);

    return skb->tc_index == OURS ||
           (f && f->state == STITCH_GRANTED && p->flags & TCP_ACK && p->ack == f->isn_client + 1);
}

/* Whether it is the first hop's own SYN-ACK, which no filter has turned into anything: of a SYN
 * that has been to none either, or of ours. */
static __always_inline bool is_untouched(struct __sk_buff *skb, const struct packet *p)
{
    struct stitch_flow *f = bpf_map_lookup_elem(&us_st_flows, &p->key);
    struct bpf_tcp_sock *tcp;
    struct bpf_sock *sk;

    if (!(p->flags & TCP_ACK))
        return false;
    if (f)
        return f->state == STITCH_SYN && p->ack == base_of(f) + 1;
    sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
    tcp = sk ? bpf_tcp_sock(sk) : NULL;
    /* The kernel counts the SYN only when it has been sent; a server near by answers before. */
    return tcp && (p->ack == tcp->snd_nxt || p->ack == tcp->snd_nxt + 1);
}

static __always_inline void report_bypass(struct __sk_buff *skb, const struct abi_socket *state,
                                          __u8 code)
{
    struct stitch_event event = {.reason = STITCH_BY_BYPASS,
                                 .code = code,
                                 .interface = skb->ifindex,
                                 .number = state->script};

    event.origin = state->origin;
    if (bpf_ringbuf_output(&us_st_events, &event, sizeof(event), 0))
        count(STITCH_COUNT_EVENTS);
}

static __always_inline int guard_drops(void)
{
    count(STITCH_COUNT_GUARDED);
    return CGROUP_DROP;
}

SEC("cgroup_skb/egress")
int us_st_guard(struct __sk_buff *skb)
{
    struct abi_socket *state = stitched_socket(skb);
    __u32 device = skb->ifindex;
    struct packet p = {};

    if (!state)
        return CGROUP_PASS;
    if (!bpf_map_lookup_elem(&us_st_devices, &device)) {
        count(STITCH_COUNT_UNREADY);
        return CGROUP_DROP;
    }
    if (parse(skb, 0, false, &p)) {
        if (is_wrapped(skb, 0))
            report_bypass(skb, state, STITCH_WRAPPED);
        return guard_drops();
    }
    /* Not one that carries data (Fast Open), as only a filter could take them out. The kernel sees
     * that it has not been sent, and sends one without at once. */
    if (only_syn(&p))
        return p.len ? CGROUP_DROP : CGROUP_PASS;
    if ((p.flags & TCP_RST && !p.len) || is_granted(&p))
        return CGROUP_PASS;
    return guard_drops();
}

/* A SYN-ACK that nobody has made a verdict of would connect the application to the SOCKS server
 * itself. Anything else does nothing to a socket that is not connected, or ends it. */
SEC("cgroup_skb/ingress")
int us_st_guard_in(struct __sk_buff *skb)
{
    struct abi_socket *state;
    struct packet p = {};

    if (is_connected(skb))
        return CGROUP_PASS;
    state = stitched_socket(skb);
    if (!state)
        return CGROUP_PASS;
    if (parse(skb, 0, true, &p))
        return guard_drops();
    if (!(p.flags & TCP_SYN) || is_answer(skb, &p))
        return CGROUP_PASS;
    if (is_untouched(skb, &p))
        report_bypass(skb, state, 0);
    return guard_drops();
}

#endif
