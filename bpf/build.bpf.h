/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Turning the packet at hand into another one, with its checksum right in every state that an skb
 * can be in.
 *
 * - CHECKSUM_COMPLETE (the device has summed what it received): changing the length makes it NONE;
 *   a packet is made longer than it is to be, and then cut.
 * - CHECKSUM_PARTIAL (somebody will complete it: what leaves this host, and what comes from a
 *   neighbour on it) is not told to programs, but bpf_l4_csum_replace() without BPF_F_PSEUDO_HDR
 *   does nothing exactly then: that is tried on the packet itself. Such a packet wants the sum of
 *   the pseudo header alone. Where the checksum is does not change, as headers have no options.
 * - NONE, UNNECESSARY: the whole checksum.
 */
#ifndef UNDERSOCK_BPF_BUILD_BPF_H
#define UNDERSOCK_BPF_BUILD_BPF_H

#include "segment.bpf.h"

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
