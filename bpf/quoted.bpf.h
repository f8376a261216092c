/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ICMP errors about the application's SYN, which a router or the first hop's firewall sends: what
 * they quote is the SYN as it was on the wire, c - n, and the application's kernel believes only
 * what quotes c (RFC 5927). So the number is put right, and connect() ends as it would without us;
 * or does not yet, if somebody held the socket at that moment: then the SYN goes out again, as it
 * would without us.
 *
 * That is all. Errors about the messages of ours that follow quote numbers that the application
 * has not reached yet: its kernel ignores them, as it would take them for a hint at most once the
 * connection stands; the timeout says the same later. After the handshake both count alike.
 */
#ifndef UNDERSOCK_BPF_QUOTED_BPF_H
#define UNDERSOCK_BPF_QUOTED_BPF_H

#include "handshake.bpf.h"

#define ICMP_FRAGMENTATION 4 /* a code of ICMP_UNREACHABLE: not an error, a smaller MTU */
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER     12
#define ICMP6_TOO_BIG      2
#define ICMP6_TIME         3
#define ICMP6_PARAMETER    4

/* An error as it was found. */
struct quoted {
    struct stitch_key key;
    __u32 seq;      /* of the segment that is quoted */
    __u32 at;       /* offset of that number */
    __u32 checksum; /* offset of the message's */
    __u8 type, code;
};

static __always_inline bool is_about_packets(const struct quoted *q, bool v4)
{
    if (v4)
        return q->type == ICMP_UNREACHABLE || q->type == ICMP_TIME_EXCEEDED ||
               q->type == ICMP_PARAMETER;
    return q->type == ICMP6_UNREACHABLE || q->type == ICMP6_TOO_BIG || q->type == ICMP6_TIME ||
           q->type == ICMP6_PARAMETER;
}

/* Fills in all. Negative: not an error about a TCP segment without IP options. */
static __always_inline int parse_quoted(struct __sk_buff *skb, __u32 l2, struct quoted *ret)
{
    bool v4 = skb->protocol == bpf_htons(ETH_P_IP);
    struct icmp_header icmp;
    struct quoted_tcp tcp;
    __u32 at;

    if (v4) {
        struct iphdr ip, inner;

        if (bpf_skb_load_bytes(skb, l2, &ip, sizeof(ip)) || ip.ihl != 5 ||
            ip.protocol != IPPROTO_ICMP || ip.frag_off & bpf_htons(0x3fff) ||
            bpf_skb_load_bytes(skb, l2 + sizeof(ip) + sizeof(icmp), &inner, sizeof(inner)) ||
            inner.ihl != 5 || inner.protocol != IPPROTO_TCP || inner.frag_off & bpf_htons(0x1fff))
            return -1;
        set_ip(ret->key.local, 0, 0, bpf_htonl(0xffff), inner.saddr);
        set_ip(ret->key.remote, 0, 0, bpf_htonl(0xffff), inner.daddr);
        at = l2 + sizeof(ip);
        ret->at = at + sizeof(icmp) + sizeof(inner);
    } else {
        struct ipv6hdr ip, inner;

        at = l2 + sizeof(ip);
        if (bpf_skb_load_bytes(skb, l2, &ip, sizeof(ip)) || ip.nexthdr != IPPROTO_ICMPV6 ||
            bpf_skb_load_bytes(skb, at + sizeof(icmp), &inner, sizeof(inner)) ||
            inner.nexthdr != IPPROTO_TCP)
            return -1;
        copy_ip(ret->key.local, &inner.saddr);
        copy_ip(ret->key.remote, &inner.daddr);
        ret->at = at + sizeof(icmp) + sizeof(inner);
    }
    if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)) ||
        bpf_skb_load_bytes(skb, ret->at, &tcp, sizeof(tcp)))
        return -1;
    ret->type = icmp.type;
    ret->code = icmp.code;
    ret->checksum = at + __builtin_offsetof(struct icmp_header, check);
    ret->key.local_port = bpf_ntohs(tcp.source);
    ret->key.remote_port = bpf_ntohs(tcp.dest);
    ret->seq = bpf_ntohl(tcp.seq);
    ret->at += __builtin_offsetof(struct quoted_tcp, seq);
    return is_about_packets(ret, v4) ? 0 : -1;
}

/* Under the lock. SHIFT: the number that is quoted becomes plan->segment.seq. */
static __always_inline void decide_quoted(struct stitch_flow *f, const struct quoted *q, bool v4,
                                          struct plan *plan)
{
    plan->action = LET;
    if (f->state != STITCH_SYN || q->seq != base_of(f))
        return;
    if (v4 ? q->type != ICMP_UNREACHABLE || q->code != ICMP_FRAGMENTATION
           : q->type != ICMP6_TOO_BIG) {
        f->code = q->code;
        fail(f, plan, STITCH_BY_UNREACHABLE, STITCH_TELL_NATIVE);
    }
    plan->action = SHIFT;
    plan->segment.seq = f->isn_client;
}

/* A number for another, and the sum with it: what a device has summed stays the same. */
static __always_inline int requote(struct __sk_buff *skb, const struct quoted *q, __u32 seq)
{
    __be32 was = bpf_htonl(q->seq), is = bpf_htonl(seq);

    return bpf_skb_store_bytes(skb, q->at, &is, sizeof(is), 0) ||
                   bpf_l4_csum_replace(skb, q->checksum, was, is, sizeof(is))
               ? -1
               : 0;
}

#endif
