/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stitch, kernel half: the SOCKS handshake inside the application's own TCP connection.
 *
 * connect.bpf.c has turned connect() to the first hop, and keeps with the socket that it is
 * ABI_STITCH. What makes it possible to stay out of the way afterwards are two numbers:
 *
 *   application           these programs                            first hop
 *     SYN(c)         ──▶  SYN(c - n): n octets of ours will follow ──▶
 *                         GREETING(c - n + 1)                      ──▶  ◀── SYN-ACK(s)
 *                         REQUEST ... up to c                      ──▶  ◀── its replies ... up to r
 *     SYN-ACK(r)     ◀──  made of the last reply: r is the number of its last octet
 *     ACK, data(c+1) ──────────────────────── untouched from here on ────────────────────────▶
 *
 * So after the handshake both ends count alike, and nothing needs translating, ever.
 *
 * - Whatever we send is made of a packet at hand: of what the first hop has sent (incoming), or of
 *   the application's SYN, which its kernel sends again until it is answered (outgoing). That is
 *   the timer of our handshake, too.
 * - A handshake's record is there from the first SYN to the application's first ACK. Its lock is
 *   held while it changes; what is to be done with the packet is decided under it
 *   (handshake.bpf.h), and done after (build.bpf.h). records.bpf.h has the records.
 * - A failure is told to the application as its kernel would hear it from the network: a reset, or
 *   an ICMP error. The first hop hears of it when it sends something: it is reset.
 * - us_st_guard, on the packets of the cgroup before they reach a device, drops everything of such
 *   a socket but SYNs and resets that carry nothing until the record says "granted"; and everything
 *   through a device that has no filters of ours. us_st_out does the same once more,
 *   where that costs nothing to those who are connected and have no handshake beside them.
 *   us_st_guard_in keeps a SYN-ACK from it until then, so it never is connected to the SOCKS server
 *   as such, and has nothing to send when the guards are gone one day.
 *
 * A packet that has been through here once may come again: through a bridge, a bond, a VLAN device,
 * packed into another one by a tunnel, or because we sent it back. It is known by its numbers, by
 * not being TCP, or by tc_index.
 */
#include "segment.bpf.h"

#include "build.bpf.h"
#include "handshake.bpf.h"
#include "quoted.bpf.h"
#include "records.bpf.h"
#include "sockets.bpf.h"

#define IPV4     2      /* AF_INET */
#define LOOPBACK 1      /* its interface index, in every network namespace */
#define OURS     0x5553 /* tc_index of a packet that is sent in again */
#define PASS     (-1)   /* TC_ACT_UNSPEC: the filters behind ours */
#define SHOT     2

char LICENSE[] SEC("license") = "GPL";

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u64);
    __type(value, struct stitch_owner);
} us_st_owners SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, ABI_PORT_WORDS);
    __type(key, __u32);
    __type(value, __u64);
} us_st_ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, STITCH_N_COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} us_st_counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} us_st_events SEC(".maps");

static __always_inline void count(__u32 which)
{
    __u64 *n = bpf_map_lookup_elem(&us_st_counters, &which);

    if (n)
        (*n)++;
}

/* A socket that failed to connect may be used again, and the daemon be dead by then: nobody has
 * decided that connect(), and the upstream's password is not for whom it goes to. */
static __always_inline bool leads_to(struct bpf_sock *sk, const struct abi_endpoint *to)
{
    __u32 v4 = READ(sk->dst_ip4), v6[4] = {READ(sk->dst_ip6[0]), READ(sk->dst_ip6[1]),
                                           READ(sk->dst_ip6[2]), READ(sk->dst_ip6[3])};
    __u32 family = READ(sk->family);
    __be16 port = READ(sk->dst_port);

    if (family == IPV4)
        set_ip(v6, 0, 0, bpf_htonl(0xffff), v4);
    return bpf_ntohs(port) == to->port && same_ip(v6, to->ip);
}

/* A socket whose handshake is ours, and not over. Other instances, also dead ones, have filters and
 * guards of their own. */
static __always_inline struct abi_socket *stitched_socket(struct __sk_buff *skb)
{
    struct bpf_sock *sk = skb->sk;
    struct abi_socket *state;

    if (!sk)
        return NULL;
    sk = bpf_sk_fullsock(sk);
    if (!sk)
        return NULL;
    state = bpf_sk_storage_get(&us_sockets_4, sk, NULL, 0);
    if (!state || state->decision != ABI_STITCH || state->stitched || !leads_to(sk, &state->to))
        return NULL;
    return bpf_map_lookup_elem(&us_st_owners, &state->instance) ? state : NULL;
}

/* Such a socket is in no handshake any more. */
static __always_inline bool is_connected(struct __sk_buff *skb)
{
    return skb->sk && skb->sk->state == BPF_TCP_ESTABLISHED;
}

/* --- doing -------------------------------------------------------------------------------------
 */

static __always_inline void report(struct __sk_buff *skb, const struct plan *plan,
                                   const struct stitch_flow *f)
{
    struct stitch_event event = {};

    if (plan->count)
        count(plan->count - 1);
    if (!plan->reason)
        return;
    event.id = f->id;
    event.reason = plan->reason;
    event.step = plan->step;
    event.code = plan->code;
    event.verdict = plan->verdict;
    event.interface = skb->ifindex;
    event.origin = f->origin;
    if (bpf_ringbuf_output(&us_st_events, &event, sizeof(event), 0))
        count(STITCH_COUNT_EVENTS);
}

/* Makes the packet what the plan says. */
static __noinline int perform(struct __sk_buff *skb, struct plan *plan, struct stitch_flow *f)
{
    struct scratch *s = scratch();
    __u32 at;

    if (!s || !plan || !f)
        return -1;
    switch (plan->action) {
    case MESSAGE:
    case ACK:
    case ABORT:
        s->options[0] = s->options[1] = OPTION_NOP;
        s->options[2] = OPTION_TIMESTAMPS;
        s->options[3] = 10;
        __builtin_memcpy(s->options + 4, &plan->ts_client, 4);
        __builtin_memcpy(s->options + 8, &plan->ts_server, 4);
        return build(skb, &plan->segment, f);
    case ANSWER:
    case ANSWER_AND_MORE:
        __builtin_memcpy(s->options, f->options, OPTIONS_MAX);
        at = f->ts_at;
        if (at > 0 && at <= OPTIONS_MAX - 8) {
            __builtin_memcpy(s->options + at, &plan->ts_server, 4);
            __builtin_memcpy(s->options + at + 4, &plan->ts_client, 4);
        }
        return build(skb, &plan->segment, f);
    case TELL:
        if (plan->verdict == STITCH_TELL_HOST || plan->verdict == STITCH_TELL_NET ||
            (plan->verdict == STITCH_TELL_PROHIBITED && !is_v4(plan->segment.key.local))) {
            plan->segment.seq = plan->segment.ack - 1;
            return build_unreachable(skb, &plan->segment, plan->verdict);
        }
        return build(skb, &plan->segment, f);
    default:
        return -1;
    }
}

static __always_inline struct plan *new_plan(struct scratch *s)
{
    __builtin_memset(&s->plan, 0, sizeof(s->plan));
    return &s->plan;
}

static __always_inline int drop_failed(void)
{
    count(STITCH_COUNT_ERROR);
    return SHOT;
}

/* --- towards the application -------------------------------------------------------------------
 */

static __always_inline bool is_upstreams(__u32 port)
{
    __u32 word_at = port / 64;
    __u64 *bits = bpf_map_lookup_elem(&us_st_ports, &word_at);

    return bits && *bits >> (port % 64) & 1;
}

/* Where this host translates addresses (an output chain's "dnat") the first hop answers from
 * another port than that of the script. User space may write the word anew: then the next SYN does
 * this. */
static __always_inline void expect_from(__u32 port)
{
    __u32 word_at = port / 64;
    __u64 *bits = bpf_map_lookup_elem(&us_st_ports, &word_at);

    if (bits && !(*bits >> (port % 64) & 1))
        __sync_fetch_and_or(bits, 1ull << (port % 64));
}

/* The packet is let through, whatever it is. */
static __noinline int on_error(struct __sk_buff *skb, __u32 l2)
{
    bool v4 = skb->protocol == bpf_htons(ETH_P_IP);
    struct scratch *s = scratch();
    struct quoted q = {};
    struct stitch_flow *f;
    struct plan *plan;

    if ((!v4 && skb->protocol != bpf_htons(ETH_P_IPV6)) || !s || parse_quoted(skb, l2, &q) ||
        !is_upstreams(q.key.remote_port))
        return PASS;
    f = bpf_map_lookup_elem(&us_st_flows, &q.key);
    if (!f)
        return PASS;
    plan = new_plan(s);
    bpf_spin_lock(&f->lock);
    decide_quoted(f, &q, v4, plan);
    bpf_spin_unlock(&f->lock);
    report(skb, plan, f);
    if (plan->action == SHIFT && requote(skb, &q, plan->segment.seq))
        return drop_failed();
    return PASS;
}

static __always_inline void read_octets(struct __sk_buff *skb, const struct packet *p,
                                        const struct stitch_flow *f, struct octets *o)
{
    __s32 skip;

    o->state = f->state;
    o->step = f->step;
    o->next = f->next_server;
    o->got = f->got;
    skip = o->next - p->seq;
    if (o->state != STITCH_STEP || skip < 0)
        return;
#pragma unroll
    for (__u32 i = 0; i < 5; i++) {
        __u32 at = skip + i - o->got;

        if (i < o->got || at >= p->len)
            continue;
        if (bpf_skb_load_bytes(skb, p->tcp + TCP_HEADER + p->options_len + at, &o->at[i], 1))
            o->state = 0; /* what cannot be read must not count as read */
        else
            o->has |= 1u << i;
    }
}

/* The packet as it is, behind the answer that is made of it: through the queue of the device. TCP
 * trims the reply off as something that it has already. */
static __always_inline void send_behind(struct __sk_buff *skb)
{
    skb->tc_index = OURS;
    bpf_clone_redirect(skb, skb->ifindex, skb->ifindex == LOOPBACK ? 0 : BPF_F_INGRESS);
    skb->tc_index = 0;
}

/* By the way of the SYN, which need not be the one by which the reply has come. Where there is no
 * Ethernet header, the kernel takes off that of the reply. */
static __always_inline int to_server(struct __sk_buff *skb, struct plan *plan, __u32 l2)
{
    const __be16 protocol = skb->protocol;

    skb->mark = plan->mark;
    if (skb->ifindex == LOOPBACK)
        return bpf_redirect(LOOPBACK, 0);
    if (plan->bare)
        return bpf_redirect(plan->interface, 0);
    if (!l2 && bpf_skb_change_head(skb, ETH_HLEN, 0))
        return drop_failed();
    __builtin_memcpy((__u8 *)plan->link + 2 * ETH_ALEN, &protocol, sizeof(protocol));
    if (bpf_skb_store_bytes(skb, 0, plan->link, ETH_HLEN, 0))
        return drop_failed();
    return bpf_redirect(plan->interface, 0);
}

static __always_inline int incoming(struct __sk_buff *skb, __u32 l2)
{
    struct packet p = {};
    struct octets o = {};
    struct stitch_flow *f;
    struct scratch *s;
    struct plan *plan;
    __u64 now;

    if (is_idle()) /* what arrives is of nobody here */
        return PASS;
    if (skb->tc_index == OURS) /* and it stays so: there may be others like us, and devices above */
        return PASS;
    if (skb->vlan_present)
        return PASS;
    if (parse(skb, l2, true, &p))
        return on_error(skb, l2);
    if (!is_upstreams(p.key.remote_port))
        return PASS;
    f = bpf_map_lookup_elem(&us_st_flows, &p.key);
    if (!f)
        return PASS;
    s = scratch();
    if (!s || read_options(skb, &p, 0))
        return drop_failed();
    read_octets(skb, &p, f, &o);
    plan = new_plan(s);
    now = bpf_ktime_get_ns();

    bpf_spin_lock(&f->lock);
    decide_incoming(f, &p, s, &o, now, plan);
    bpf_spin_unlock(&f->lock);

    report(skb, plan, f);
    if (plan->action == LET)
        return PASS;
    if (plan->action == DROP) {
        if (p.len)
            count(STITCH_COUNT_ODD);
        return SHOT;
    }
    plan->segment.key = p.key;
    plan->segment.l2 = l2;
    if (plan->action == ANSWER_AND_MORE)
        send_behind(skb);
    if (perform(skb, plan, f))
        return drop_failed();
    if (plan->segment.to_server)
        return to_server(skb, plan, l2);
    skb->tc_index = OURS;
    return PASS;
}

SEC("tc")
int us_st_in(struct __sk_buff *skb)
{
    return incoming(skb, ETH_HLEN);
}

/* The same for devices without a header of their own. */
SEC("tc")
int us_st_in_bare(struct __sk_buff *skb)
{
    return incoming(skb, 0);
}

/* --- from the application ----------------------------------------------------------------------
 */

/* The SYN with another number, and without what it must not carry. */
static __always_inline int shift(struct __sk_buff *skb, const struct packet *p, __u32 l2,
                                 struct plan *plan, struct stitch_flow *f)
{
    __be32 was = bpf_htonl(p->seq), is = bpf_htonl(plan->segment.seq);

    if (p->len) {
        /* Fast Open: its data come again, after the handshake. */
        struct scratch *s = scratch();

        plan->segment.to_server = true;
        plan->segment.flags = p->flags;
        plan->segment.window = p->window;
        plan->segment.options_len = p->options_len;
        return !s || build(skb, &plan->segment, f) ? drop_failed() : PASS;
    }
    if (store_options(skb, p) || bpf_skb_store_bytes(skb, p->tcp + 4, &is, sizeof(is), 0) ||
        bpf_l4_csum_replace(skb, p->tcp + TCP_CHECKSUM, was, is, sizeof(is)))
        return drop_failed();
    return PASS;
}

/* Back to the application, by the way it came. Over loopback everything comes back by itself. */
static __always_inline int turn_back(struct __sk_buff *skb, __u32 l2)
{
    __u8 mac[12], swapped[12];

    skb->tc_index = OURS;
    if (skb->ifindex == LOOPBACK)
        return PASS;
    if (l2) {
        if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
            return drop_failed();
        __builtin_memcpy(swapped, mac + 6, 6);
        __builtin_memcpy(swapped + 6, mac, 6);
        if (bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0))
            return drop_failed();
    }
    return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

static __always_inline int on_syn(struct __sk_buff *skb, __u32 l2, const struct packet *p,
                                  const struct abi_socket *state)
{
    struct stitch_flow *f = bpf_map_lookup_elem(&us_st_flows, &p->key);
    struct scratch *s = scratch();
    __u64 now = bpf_ktime_get_ns();
    struct stitch_flow *new;
    struct plan *plan;

    if (!s || (f && p->seq == base_of(f)))
        return s ? PASS : SHOT; /* it has been here, on a device further up */
    if (read_options(skb, p, 1) || (l2 && bpf_skb_load_bytes(skb, 0, s->link, sizeof(s->link))))
        return drop_failed();
    plan = new_plan(s);
    expect_from(p->key.remote_port);
    if (!f || f->isn_client != p->seq) {
        if (begin(p, state))
            return drop_failed();
        new = (struct stitch_flow *)s->flow;
        new->mark = skb->mark;
        new->ts_client = s->ts;
        new->scale_client = s->scale;
        new->flags = (s->ts_at ? STITCH_TIMESTAMPS : 0) | (s->has_scale ? STITCH_SCALING : 0);
        take_way(new, skb->ifindex, !l2, s->link);
        if (f)
            drop_record(&p->key); /* of an earlier connection with the same ports */
        if (put_record(&p->key, s->flow)) {
            count(STITCH_COUNT_FULL);
            return SHOT;
        }
        f = bpf_map_lookup_elem(&us_st_flows, &p->key);
        if (!f)
            return SHOT;
        plan->action = SHIFT;
        plan->count = 1 + STITCH_COUNT_BEGUN;
        plan->segment.seq = base_of(f);
    } else {
        __u32 interface = skb->ifindex;

        bpf_spin_lock(&f->lock);
        take_way(f, interface, !l2, s->link);
        decide_again(f, s, now, plan);
        bpf_spin_unlock(&f->lock);
    }
    report(skb, plan, f);
    plan->segment.key = p->key;
    plan->segment.l2 = l2;
    if (plan->action == DROP)
        return SHOT;
    if (plan->action == SHIFT)
        return shift(skb, p, l2, plan, f);
    if (perform(skb, plan, f))
        return drop_failed();
    return plan->segment.to_server ? PASS : turn_back(skb, l2);
}

static __always_inline bool only_syn(const struct packet *p)
{
    return (p->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* Whether somebody has packed the socket's packet into another one (VXLAN, WireGuard, GRE, PPPoE),
 * which still is that socket's for the kernel: then it has been here on the device further up, and
 * before that at the guard. What a TCP socket sends itself is TCP, behind options of IPv6 at most.
 */
static __always_inline bool is_wrapped(struct __sk_buff *skb, __u32 l2)
{
    __u8 protocol = IPPROTO_TCP;

    if (skb->protocol == bpf_htons(ETH_P_IP))
        return !bpf_skb_load_bytes(skb, l2 + 9, &protocol, 1) && protocol != IPPROTO_TCP;
    if (skb->protocol != bpf_htons(ETH_P_IPV6))
        return true;
    if (bpf_skb_load_bytes(skb, l2 + 6, &protocol, 1))
        return false;
    /* A tunnel's own option, of how deep it may be packed. */
    if (protocol == IPPROTO_DSTOPTS &&
        bpf_skb_load_bytes(skb, l2 + sizeof(struct ipv6hdr), &protocol, 1))
        return false;
    return protocol == IPPROTO_IPIP || protocol == IPPROTO_UDP || protocol == IPPROTO_IPV6 ||
           protocol == IPPROTO_GRE || protocol == IPPROTO_ESP || protocol == IPPROTO_AH;
}

static __always_inline int outgoing(struct __sk_buff *skb, __u32 l2)
{
    struct abi_socket *state;
    struct stitch_flow *f;
    struct packet p = {};
    __s32 behind;

    /* What is connected was granted, and is free when its record has gone; and it has been at the
     * guard. To look for its storage would cost each packet more than all the rest does. */
    if (is_idle() && is_connected(skb))
        return PASS;
    state = stitched_socket(skb);
    if (!state || is_wrapped(skb, l2))
        return PASS;
    if (parse(skb, l2, false, &p))
        goto guarded;
    if (only_syn(&p))
        return on_syn(skb, l2, &p, state);
    if (p.flags & TCP_RST && !p.len)
        return PASS;
    f = bpf_map_lookup_elem(&us_st_flows, &p.key);
    if (!f)
        goto guarded;
    behind = p.seq - f->isn_client;
    if (behind <= 0 && behind + (__s32)f->injected >= 0)
        return PASS; /* a message of ours, made of a SYN on a device further up */
    if (f->state == STITCH_GRANTED) {
        state->stitched = 1;
        drop_record(&p.key);
        count(STITCH_COUNT_CARRIED);
        return PASS;
    }
guarded:
    count(STITCH_COUNT_GUARDED);
    return SHOT;
}

/* What is dropped is lost in the network for its sender. To be told that this host has dropped it
 * would be congestion: TCP sends a SYN again after 500 ms then, and counts that, so that connect()
 * would time out long before its time. So it is sent to an interface that does not exist: tcx does
 * not know TC_ACT_STOLEN, and would let it pass. */
static __always_inline int as_lost(int action)
{
    return action == SHOT ? bpf_redirect(0, 0) : action;
}

SEC("tc")
int us_st_out(struct __sk_buff *skb)
{
    return as_lost(outgoing(skb, ETH_HLEN));
}

SEC("tc")
int us_st_out_bare(struct __sk_buff *skb)
{
    return as_lost(outgoing(skb, 0));
}

#include "guards.bpf.h" /* the rest of the programs, over the above */
