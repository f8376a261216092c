/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCP segments for the stitch programs: reading one, and turning the packet at hand into another,
 * with its checksum right in every state that an skb can be in.
 *
 * - CHECKSUM_COMPLETE (the device has summed what it received): changing the length makes it NONE;
 *   a packet is made longer than it is to be, and then cut.
 * - CHECKSUM_PARTIAL (somebody will complete it: what leaves this host, and what comes from a
 *   neighbour on it) is not told to programs, but bpf_l4_csum_replace() without BPF_F_PSEUDO_HDR
 *   does nothing exactly then: that is tried on the packet itself. Such a packet wants the sum of
 *   the pseudo header alone. Where the checksum is does not change, as headers have no options.
 * - NONE, UNNECESSARY: the whole checksum.
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

static __always_inline __u16 fold(__s64 sum)
{
    __u64 x = (__u32)sum;

    x = (x & 0xffff) + (x >> 16);
    x = (x & 0xffff) + (x >> 16);
    return x;
}

static __always_inline bool is_partial(struct __sk_buff *skb, __u32 at)
{
    __u16 was = 0x1234, is = 0;

    if (bpf_skb_store_bytes(skb, at, &was, sizeof(was), 0))
        return false;
    bpf_l4_csum_replace(skb, at, 0, 0x1111, 2);
    bpf_skb_load_bytes(skb, at, &is, sizeof(is));
    return is == was;
}

static __always_inline int resize(struct __sk_buff *skb, __u32 len)
{
    return bpf_skb_change_tail(skb, len + 4, 0) || bpf_skb_change_tail(skb, len, 0) ? -1 : 0;
}

/* The IP header of a packet with `len` octets behind it. Returns the offset behind it; negative:
 * failed. `ret_sum`: of the pseudo header. */
static __always_inline int store_ip(struct __sk_buff *skb, struct scratch *s, __u32 l2,
                                    const __u8 *from, const __u8 *to, __u8 protocol, __u32 len,
                                    __s64 *ret_sum)
{
    const word *source = (const word *)from, *dest = (const word *)to;
    __be32 *pseudo = s->pseudo;

    __builtin_memset(&s->ip, 0, sizeof(s->ip));
    if (is_v4(from)) {
        struct iphdr *ip = &s->ip.v4;

        ip->version = 4;
        ip->ihl = 5;
        ip->ttl = 64;
        ip->protocol = protocol;
        ip->tot_len = bpf_htons(sizeof(*ip) + len);
        ip->frag_off = bpf_htons(0x4000); /* DF */
        ip->saddr = source[3];
        ip->daddr = dest[3];
        ip->check = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
        pseudo[0] = source[3];
        pseudo[1] = dest[3];
        pseudo[2] = bpf_htonl((__u32)protocol << 16 | len);
        *ret_sum = bpf_csum_diff(NULL, 0, pseudo, 12, 0);
        return bpf_skb_store_bytes(skb, l2, ip, sizeof(*ip), 0) ? -1 : (int)(l2 + sizeof(*ip));
    }
    struct ipv6hdr *ip = &s->ip.v6;

    ip->version = 6;
    ip->hop_limit = 64;
    ip->nexthdr = protocol;
    ip->payload_len = bpf_htons(len);
    copy_ip(&ip->saddr, from);
    copy_ip(&ip->daddr, to);
    copy_ip(pseudo, from);
    copy_ip(pseudo + 4, to);
    pseudo[8] = bpf_htonl(len);
    pseudo[9] = bpf_htonl(protocol);
    *ret_sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(s->pseudo), 0);
    return bpf_skb_store_bytes(skb, l2, ip, sizeof(*ip), 0) ? -1 : (int)(l2 + sizeof(*ip));
}

/* Makes the packet the segment `g`. */
static __noinline int build(struct __sk_buff *skb, const struct segment *g,
                            struct stitch_flow *flow)
{
    struct scratch *s = scratch();
    struct tcp_header tcp = {};
    __u32 options, at, len, header;
    __s64 sum;
    const __u8 *payload;
    int offset;
    bool partial;

    if (!s || !g || !flow)
        return -1;
    options = g->options_len;
    at = g->at;
    len = g->len;
    if (options > OPTIONS_MAX || options & 3 || len > STITCH_REQUEST)
        return -1;
    /* 6.1 forgets the bound of a number that was on the stack when it was compared, and keeps
     * that of a pointer. */
    asm volatile("" : "+r"(at));
    if (at > STITCH_STATIC)
        return -1;
    payload = flow->bytes + at;
    asm volatile("" : "+r"(payload));
    header = is_v4(g->key.local) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
    if (resize(skb, g->l2 + header + TCP_HEADER + options + len))
        return -1;
    partial = is_partial(skb, g->l2 + header + TCP_CHECKSUM);
    offset = store_ip(skb, s, g->l2, g->to_server ? g->key.local : g->key.remote,
                      g->to_server ? g->key.remote : g->key.local, IPPROTO_TCP,
                      TCP_HEADER + options + len, &sum);
    if (offset < 0)
        return -1;

    tcp.source = bpf_htons(g->to_server ? g->key.local_port : g->key.remote_port);
    tcp.dest = bpf_htons(g->to_server ? g->key.remote_port : g->key.local_port);
    tcp.seq = bpf_htonl(g->seq);
    tcp.ack = bpf_htonl(g->ack);
    tcp.length = (TCP_HEADER + options) / 4 << 4;
    tcp.flags = g->flags;
    tcp.window = bpf_htons(g->window);
    if (!partial) {
        __u32 padded = (len + 3) & ~3u;

        sum = bpf_csum_diff(NULL, 0, (__be32 *)&tcp, sizeof(tcp), sum);
        asm volatile("" : "+r"(options));
        if (options > OPTIONS_MAX)
            return -1;
        sum = bpf_csum_diff(NULL, 0, (__be32 *)s->options, options, sum);
        asm volatile("" : "+r"(padded));
        if (padded > STITCH_REQUEST)
            return -1;
        sum = bpf_csum_diff(NULL, 0, (__be32 *)payload, padded, sum);
    }
    tcp.check = partial ? fold(sum) : ~fold(sum);

    if (bpf_skb_store_bytes(skb, offset, &tcp, sizeof(tcp), 0))
        return -1;
    if (within(&options, OPTIONS_MAX) &&
        bpf_skb_store_bytes(skb, offset + TCP_HEADER, s->options, options, 0))
        return -1;
    if (within(&len, STITCH_REQUEST) &&
        bpf_skb_store_bytes(skb, offset + TCP_HEADER + options, payload, len, 0))
        return -1;
    bpf_set_hash_invalid(skb);
    return 0;
}

/* What an ICMP error quotes of a SYN: its IP header and the first 8 octets. */
struct quoted_tcp {
    __be16 source, dest;
    __be32 seq;
};

/* Makes the packet an ICMP error "unreachable" that the first hop sends about the application's
 * SYN. */
static __noinline int build_unreachable(struct __sk_buff *skb, const struct segment *g, int verdict)
{
    struct scratch *s = scratch();
    struct quoted_tcp tcp;
    __s64 sum;
    int offset;

    if (!s || !g)
        return -1;
    tcp.source = bpf_htons(g->key.local_port);
    tcp.dest = bpf_htons(g->key.remote_port);
    tcp.seq = bpf_htonl(g->seq);
    if (is_v4(g->key.local)) {
        struct {
            struct icmp_header icmp;
            struct iphdr ip;
            struct quoted_tcp tcp;
        } m = {.icmp.type = ICMP_UNREACHABLE, .tcp = tcp};

        m.icmp.code = verdict == STITCH_TELL_NET ? ICMP_NET : ICMP_HOST;
        m.ip.version = 4;
        m.ip.ihl = 5;
        m.ip.ttl = 64;
        m.ip.protocol = IPPROTO_TCP;
        m.ip.tot_len = bpf_htons(sizeof(m.ip) + TCP_HEADER);
        m.ip.saddr = ((const word *)g->key.local)[3];
        m.ip.daddr = ((const word *)g->key.remote)[3];
        m.ip.check = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)&m.ip, sizeof(m.ip), 0));
        m.icmp.check = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)&m, sizeof(m), 0));
        if (resize(skb, g->l2 + sizeof(struct iphdr) + sizeof(m)))
            return -1;
        offset =
            store_ip(skb, s, g->l2, g->key.remote, g->key.local, IPPROTO_ICMP, sizeof(m), &sum);
        if (offset < 0 || bpf_skb_store_bytes(skb, offset, &m, sizeof(m), 0))
            return -1;
    } else {
        struct {
            struct icmp_header icmp;
            struct ipv6hdr ip;
            struct quoted_tcp tcp;
        } m = {.icmp.type = ICMP6_UNREACHABLE, .tcp = tcp};

        m.icmp.code = verdict == STITCH_TELL_NET          ? ICMP6_NET
                      : verdict == STITCH_TELL_PROHIBITED ? ICMP6_PROHIBITED
                                                          : ICMP6_HOST;
        m.ip.version = 6;
        m.ip.hop_limit = 64;
        m.ip.nexthdr = IPPROTO_TCP;
        m.ip.payload_len = bpf_htons(TCP_HEADER);
        copy_ip(&m.ip.saddr, g->key.local);
        copy_ip(&m.ip.daddr, g->key.remote);
        if (resize(skb, g->l2 + sizeof(struct ipv6hdr) + sizeof(m)))
            return -1;
        offset =
            store_ip(skb, s, g->l2, g->key.remote, g->key.local, IPPROTO_ICMPV6, sizeof(m), &sum);
        m.icmp.check = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)&m, sizeof(m), sum));
        if (offset < 0 || bpf_skb_store_bytes(skb, offset, &m, sizeof(m), 0))
            return -1;
    }
    bpf_set_hash_invalid(skb);
    return 0;
}

#endif
