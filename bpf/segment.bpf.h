/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCP segments for the stitch programs: what they are made of, and reading one. Options that must
 * not go along are taken off in place, which keeps the length; everything else is build.bpf.h's.
 */
#ifndef UNDERSOCK_BPF_SEGMENT_BPF_H
#define UNDERSOCK_BPF_SEGMENT_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "endpoint.bpf.h"
#include "stitch_abi.h"

#define IPPROTO_ICMP    1
#define IPPROTO_IPIP    4
#define IPPROTO_TCP     6
#define IPPROTO_UDP     17
#define IPPROTO_IPV6    41
#define IPPROTO_GRE     47
#define IPPROTO_ESP     50
#define IPPROTO_AH      51
#define IPPROTO_ICMPV6  58
#define IPPROTO_DSTOPTS 60

/*
 * Type and code of what is unreachable. For IPv4 there are several that mean the same to connect(),
 * and "network" (0) and "host" (1) mean one thing more: the kernel takes back what its timer had
 * been put off by, and may find that it has already waited long enough for ETIMEDOUT.
 */
#define ICMP_UNREACHABLE  3
#define ICMP_NET          6  /* network unknown */
#define ICMP_HOST         12 /* host unreachable for this type of service */
#define ICMP6_UNREACHABLE 1
#define ICMP6_NET         0
#define ICMP6_PROHIBITED  1
#define ICMP6_HOST        3

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_ECE 0x40

#define TCP_HEADER   20
#define TCP_CHECKSUM 16 /* its place in the header */
#define OPTIONS_MAX  40

#define OPTION_END        0
#define OPTION_NOP        1
#define OPTION_SCALE      3
#define OPTION_TIMESTAMPS 8
#define OPTION_MPTCP      30
#define OPTION_FAST_OPEN  34
#define OPTION_EXPERIMENT 254 /* Fast Open before it had a number */

struct icmp_header {
    __u8 type, code;
    __be16 check;
    __u32 unused;
};

struct tcp_header {
    __be16 source, dest;
    __be32 seq, ack;
    __u8 length; /* in words, in the upper half */
    __u8 flags;
    __be16 window, check, urgent;
};

/* What an ICMP error quotes of a SYN: its IP header and the first 8 octets. */
struct quoted_tcp {
    __be16 source, dest;
    __be32 seq;
};

/* A segment as it was found. `key.local` is the application's end, whichever way it goes. */
struct packet {
    struct stitch_key key;
    __u32 seq, ack;
    __u32 tcp;         /* offset of its header */
    __u32 options_len; /* 0..40 */
    __u32 len;         /* of the data */
    __u16 window;
    __u8 flags;
};

/* A segment to be made of the packet at hand. Options are in the scratch. */
struct segment {
    struct stitch_key key;
    bool to_server;
    __u8 flags;
    __u16 window;
    __u32 l2; /* length of the device's header */
    __u32 seq, ack;
    __u32 options_len;
    __u32 at, len; /* the data: a part of stitch_flow.bytes */
};

/* What becomes of the packet at hand. */
enum action {
    LET,             /* goes on as it is */
    DROP,            /* with STITCH_COUNT_ODD */
    SHIFT,           /* the SYN, with the number that leaves room for us */
    MESSAGE,         /* the outstanding message, to the first hop */
    ACK,             /* an ACK without data, likewise */
    ANSWER,          /* a SYN-ACK, to the application */
    ANSWER_AND_MORE, /* and what is in the packet behind the reply comes after it */
    TELL,            /* the verdict, likewise */
    ABORT,           /* a reset, to the first hop */
};

/* Decided under the lock. */
struct plan {
    enum action action;
    __u32 count;  /* 1 + STITCH_COUNT_* */
    __u32 reason; /* STITCH_BY_*; 0: no event */
    __u32 verdict, code, step;
    __u32 interface, mark, bare;
    __u32 link[4]; /* an Ethernet header, as far as it goes */
    __u32 ts_client, ts_server;
    struct segment segment;
};

/* Too large for the stack, of which a program has 512 octets with all that it calls; before 6.8
 * each function's share is rounded up to 32. Nobody comes in between: the programs run with bottom
 * halves off. */
struct scratch {
    __u32 at; /* how far the walk has come: in memory, so that the verifier knows nothing of it */
    __u32 options_len;
    __u32 strip, dirty;
    __u32 ts_at; /* of TSval in options; 0: none */
    __u32 ts;    /* wire */
    __u32 has_scale, scale;
    __u8 options[64]; /* behind OPTIONS_MAX: what an option that lies about its length reads */
    __u8 before[OPTIONS_MAX];
    struct plan plan;
    union {
        struct iphdr v4;
        struct ipv6hdr v6;
    } ip;
    __be32 pseudo[10];                          /* header, of the checksum */
    __u32 link[3];                              /* of the SYN at hand */
    __u64 flow[sizeof(struct stitch_flow) / 8]; /* a new one; no lock may be in such a map */
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct scratch);
} us_st_scratch SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&us_st_scratch, &zero);
}

/* Fills in the addresses, `tcp`, and where the packet ends; the TCP header is loaded in one go with
 * IP's, as each load is a call (and is cleared before: clang copies it also where that failed).
 * Negative: not a segment that can be ours: not TCP, a fragment, or with IP options. */
static __always_inline int parse_ip(struct __sk_buff *skb, __u32 l2, bool incoming,
                                    struct packet *ret, __u32 *ret_end, struct tcp_header *ret_tcp)
{
    void *from = incoming ? ret->key.remote : ret->key.local;
    void *to = incoming ? ret->key.local : ret->key.remote;

    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct {
            struct iphdr ip;
            struct tcp_header tcp;
        } h = {};

        if (bpf_skb_load_bytes(skb, l2, &h, sizeof(h)) || h.ip.ihl != 5 || h.ip.version != 4 ||
            h.ip.protocol != IPPROTO_TCP || h.ip.frag_off & bpf_htons(0x3fff))
            return -1;
        set_ip(from, 0, 0, bpf_htonl(0xffff), h.ip.saddr);
        set_ip(to, 0, 0, bpf_htonl(0xffff), h.ip.daddr);
        ret->tcp = l2 + sizeof(h.ip);
        *ret_end = h.ip.tot_len ? l2 + bpf_ntohs(h.ip.tot_len) : skb->len;
        *ret_tcp = h.tcp;
        return 0;
    }
    if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        struct {
            struct ipv6hdr ip;
            struct tcp_header tcp;
        } h = {};

        if (bpf_skb_load_bytes(skb, l2, &h, sizeof(h)) || h.ip.version != 6 ||
            h.ip.nexthdr != IPPROTO_TCP)
            return -1;
        copy_ip(from, &h.ip.saddr);
        copy_ip(to, &h.ip.daddr);
        ret->tcp = l2 + sizeof(h.ip);
        *ret_end = h.ip.payload_len ? ret->tcp + bpf_ntohs(h.ip.payload_len) : skb->len;
        *ret_tcp = h.tcp;
        return 0;
    }
    return -1;
}

static __always_inline int parse(struct __sk_buff *skb, __u32 l2, bool incoming, struct packet *ret)
{
    struct tcp_header tcp = {};
    __u32 end = 0, header;

    if (parse_ip(skb, l2, incoming, ret, &end, &tcp))
        return -1;
    header = (tcp.length >> 4) * 4;
    if (end > skb->len)
        end = skb->len; /* what is missing is not there; what is behind is padding */
    if (header < TCP_HEADER || ret->tcp + header > end)
        return -1;
    ret->key.local_port = bpf_ntohs(incoming ? tcp.dest : tcp.source);
    ret->key.remote_port = bpf_ntohs(incoming ? tcp.source : tcp.dest);
    ret->seq = bpf_ntohl(tcp.seq);
    ret->ack = bpf_ntohl(tcp.ack);
    ret->window = bpf_ntohs(tcp.window);
    ret->flags = tcp.flags;
    ret->options_len = header - TCP_HEADER;
    ret->len = end - ret->tcp - header;
    return 0;
}

/* One option. What cannot survive is overwritten with padding. */
static long walk_option(__u32 n, void *ctx)
{
    struct scratch *s = scratch();
    __u32 at, kind, len;

    if (!s)
        return 1;
    at = s->at;
    if (at >= s->options_len || at >= OPTIONS_MAX)
        return 1;
    kind = s->options[at];
    if (kind == OPTION_END)
        return 1;
    if (kind == OPTION_NOP) {
        s->at = at + 1;
        return 0;
    }
    len = s->options[at + 1];
    if (len < 2 || at + len > s->options_len)
        return 1;
    s->at = at + len;
    if (kind == OPTION_TIMESTAMPS && len == 10) {
        s->ts_at = at + 2;
        __builtin_memcpy(&s->ts, s->options + at + 2, 4);
    } else if (kind == OPTION_SCALE && len == 3) {
        s->has_scale = 1;
        s->scale = s->options[at + 2] > 14 ? 14 : s->options[at + 2];
    } else if (s->strip &&
               (kind == OPTION_MPTCP || kind == OPTION_FAST_OPEN || kind == OPTION_EXPERIMENT)) {
        s->dirty = 1;
        for (__u32 i = 0; i < OPTIONS_MAX; i++) {
            if (i >= len)
                break;
            s->options[(at + i) & 63] = OPTION_NOP;
        }
    }
    return 0;
}

/* Whether *len is 1 to max. Older verifiers (6.1) learn nothing from `len != 0`: they see it in a
 * number that begins at 0 and is one less. */
static __always_inline bool within(__u32 *len, __u32 max)
{
    __u32 less = *len - 1;

    asm volatile("" : "+r"(less));
    if (less >= max)
        return false;
    less++;
    asm volatile("" : "+r"(less));
    *len = less;
    return true;
}

/* Reads the options into the scratch. `strip`: takes out what stands in the way of a handshake of
 * ours; store_options() then brings it into the packet. */
static __noinline int read_options(struct __sk_buff *skb, const struct packet *p, int strip)
{
    struct scratch *s = scratch();
    __u32 len;

    if (!s || !p)
        return -1;
    __builtin_memset(s, 0, __builtin_offsetof(struct scratch, plan));
    len = p->options_len;
    if (!len)
        return 0;
    if (!within(&len, OPTIONS_MAX) || bpf_skb_load_bytes(skb, p->tcp + TCP_HEADER, s->options, len))
        return -1;
    __builtin_memcpy(s->before, s->options, OPTIONS_MAX);
    s->options_len = len;
    s->strip = strip;
    bpf_loop(OPTIONS_MAX, walk_option, NULL, 0);
    return 0;
}

static __noinline int store_options(struct __sk_buff *skb, const struct packet *p)
{
    struct scratch *s = scratch();
    __s64 difference;
    __u32 len;

    if (!s || !p)
        return -1;
    if (!s->dirty)
        return 0;
    len = s->options_len;
    difference =
        bpf_csum_diff((__be32 *)s->before, OPTIONS_MAX, (__be32 *)s->options, OPTIONS_MAX, 0);
    if (!within(&len, OPTIONS_MAX) ||
        bpf_skb_store_bytes(skb, p->tcp + TCP_HEADER, s->options, len, 0))
        return -1;
    return bpf_l4_csum_replace(skb, p->tcp + TCP_CHECKSUM, 0, difference, 0) ? -1 : 0;
}

#endif
