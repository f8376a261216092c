/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * UDP of a captured cgroup, which connect.bpf.c includes. Taking it is nftables' business, whose
 * rules are in our network namespace only: from another one it would go out as if there were no
 * capture. So there it is refused, or goes direct, as TCP does. It is looked at when a socket
 * connects and when a datagram says itself where it goes to.
 *
 * Several instances may see one datagram, as they may see one connect(). What one of them leaves
 * alone others leave alone, too: it tells them by the state that it keeps with the socket. Nothing
 * says when that state has grown old, as a SYN does. So an instance believes only those that are
 * asked before it, and puts its own name in place of theirs: it never finds the same state twice.
 *
 * In our own namespace nothing is refused. What nftables see to is noted there, as an instance of
 * another namespace may capture a cgroup above.
 *
 * Not seen is that a datagram answers somebody, which connection tracking would know. Nor are
 * sockets that were connected before the capture.
 */
#ifndef UNDERSOCK_BPF_DATAGRAMS_BPF_H
#define UNDERSOCK_BPF_DATAGRAMS_BPF_H

/* To this host itself, or to a group: ff00::/8, 224.0.0.0/4, limited broadcast. */
static __always_inline bool stays_near(const void *ip)
{
    const word *x = ip;
    __u32 v4;

    if (!is_v4(ip))
        return (x[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) ||
               (!x[0] && !x[1] && !x[2] && (x[3] & ~bpf_htonl(1)) == 0);
    v4 = bpf_ntohl(x[3]);
    return v4 == 0 || v4 >> 24 == 127 || v4 >> 28 == 0xe || v4 == 0xffffffff;
}

/* ABI_NONE: it is not selected; ABI_DIRECT: it is, and left alone; ABI_REFUSE: taken or rejected.
 */
static __always_inline __u32 judge(struct bpf_sock *sk, const struct abi_endpoint *to)
{
    __u32 flags = settings.flags;

    if (stays_near(to->ip) || !is_whose(sk))
        return ABI_NONE;
    if (is_naming(to))
        return ABI_REFUSE;
    if (flags & ABI_NO_UDP || (flags & ABI_UDP_PORTS && !in_ports(ABI_PORT_WORDS, to->port)) ||
        !is_whither(to))
        return ABI_NONE;
    if (!(flags & ABI_UDP) || (flags & ABI_DNS_DIRECT && to->port == 53))
        return ABI_DIRECT;
    return ABI_REFUSE;
}

/* Whether an instance before us has left this datagram alone. */
static __always_inline bool is_settled(const struct abi_socket *state,
                                       const struct abi_endpoint *to)
{
    return state->instance != settings.instance && same_endpoint(&state->to, to) &&
           (state->decision == ABI_NFT ||
            (state->decision == ABI_DIRECT && state->order < settings.order));
}

static __always_inline int on_datagram(struct bpf_sock_addr *ctx, const struct abi_endpoint *to)
{
    __u64 cookie = bpf_get_netns_cookie(ctx);
    struct bpf_sock *sk = ctx->sk;
    struct abi_socket *state;
    __u32 verdict;

    if (ctx->protocol != IPPROTO_UDP || !sk)
        return VERDICT_LEAVE;
    verdict = judge(sk, to);
    state = bpf_sk_storage_get(&us_sockets_4, sk, NULL, 0);
    if (cookie == settings.netns_cookie) {
        if (verdict)
            decide(sk, ABI_NFT, to);
        else if (state && state->instance == settings.instance)
            state->decision = ABI_NONE;
        return VERDICT_LEAVE;
    }
    if (state && is_settled(state, to))
        verdict = ABI_DIRECT;
    else if (state)
        state->decision = ABI_NONE;
    if (verdict == ABI_DIRECT)
        decide(sk, ABI_DIRECT, to);
    if (verdict != ABI_REFUSE)
        return VERDICT_LEAVE;
    return settings.action == ABI_REFUSE ? refuse() : foreign(sk, to, cookie);
}

SEC("cgroup/sendmsg4")
int us_sendmsg4(struct bpf_sock_addr *ctx)
{
    struct abi_endpoint to __attribute__((aligned(8))) = {};

    set_ip(to.ip, 0, 0, bpf_htonl(0xffff), READ(ctx->user_ip4));
    to.port = bpf_ntohs((__u16)READ(ctx->user_port));
    return on_datagram(ctx, &to);
}

SEC("cgroup/sendmsg6")
int us_sendmsg6(struct bpf_sock_addr *ctx)
{
    struct abi_endpoint to __attribute__((aligned(8))) = {};

    set_ip(to.ip, READ(ctx->user_ip6[0]), READ(ctx->user_ip6[1]), READ(ctx->user_ip6[2]),
           READ(ctx->user_ip6[3]));
    to.port = bpf_ntohs((__u16)READ(ctx->user_port));
    return on_datagram(ctx, &to);
}

#endif
