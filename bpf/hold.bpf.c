/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Honest connect for the cgroup capture, kernel half: the SYN is held until the upstream has
 * answered.
 *
 * connect.bpf.c has turned the connection to the listener of a seat and kept the seat with the
 * socket. us_hold meets the SYN as the last one before the device: it copies the SYN with the
 * socket's origin to the ring buffer of that seat, and drops it. TCP takes that for a lost packet,
 * so connect() stays pending and the SYN is sent again after a second, and so on, which is held in
 * the same way. The worker of the seat lets the connection come true by sending the SYN itself,
 * from a raw socket, which has no such state and passes.
 *
 * us_hasty meets what comes back. Between the handshake's small socket and the connection's own the
 * kernel has neither in its table for a moment, and the application's first data, on another CPU,
 * finds the listener, which answers with a reset (nft/hasty.c tells more). While nothing of the
 * data has arrived, the first such reset is dropped, with those right behind it, and the data comes
 * again 200 ms later. Another reset passes, so that nothing can hang.
 *
 * The programs see every packet of the cgroup: one that is not a SYN costs us_hold two loads, and
 * one that has not the length of a reset costs us_hasty two comparisons.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "bpf_abi.h"
#include "endpoint.bpf.h"
#include "sockets.bpf.h"

#define IPPROTO_TCP 6
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER  20

/* TCP's flags are its octet 13. */
#define TCP_FLAGS 13
#define TCP_FIN   0x01
#define TCP_SYN   0x02
#define TCP_RST   0x04
#define TCP_ACK   0x10

/* What the programs answer. DROP is no congestion (2), which would slow the socket down. */
#define DROP 0
#define PASS 1

/* In ms: less than what TCP waits before it sends again. */
#define HASTY_TIME 100

char LICENSE[] SEC("license") = "GPL";

const volatile struct abi_hold_settings settings = {};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, ABI_SEATS);
    __type(key, __u32);
    __array(
        values, struct {
            __uint(type, BPF_MAP_TYPE_RINGBUF);
            __uint(max_entries, 65536); /* of a model only; the rings' own is the loader's */
        });
} us_rings SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, ABI_N_COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} us_counters SEC(".maps");

static __always_inline int miss(void)
{
    __u32 which = ABI_COUNT_MISSED;
    __u64 *n = bpf_map_lookup_elem(&us_counters, &which);

    if (n)
        (*n)++;
    return DROP;
}

/* The flags of a TCP packet; 0: it is something else. */
static __always_inline __u8 tcp_flags(struct __sk_buff *skb)
{
    __u32 at = IPV6_HEADER;
    __u8 first, protocol, flags;

    if (bpf_skb_load_bytes(skb, 0, &first, 1))
        return 0;
    if (first >> 4 == 4)
        at = (first & 0xf) * 4;
    if (bpf_skb_load_bytes(skb, first >> 4 == 4 ? 9 : 6, &protocol, 1))
        return 0;
    if (protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, at + TCP_FLAGS, &flags, 1))
        return 0;
    return flags;
}

static __always_inline int hold(struct __sk_buff *skb, const struct abi_socket *state)
{
    __u32 seat = state->seat - 1;
    void *ring = bpf_map_lookup_elem(&us_rings, &seat);
    struct abi_held *held;
    __u32 len = skb->len;

    if (!ring)
        return miss();
    held = bpf_ringbuf_reserve(ring, sizeof(*held), 0);
    if (!held)
        return miss();
    if (len > ABI_PACKET_MAX)
        len = ABI_PACKET_MAX;
    if (len < IPV4_HEADER + TCP_HEADER || bpf_skb_load_bytes(skb, 0, held->packet, len)) {
        bpf_ringbuf_discard(held, 0);
        return miss();
    }
    held->origin = state->origin;
    held->interface = skb->ifindex;
    held->len = len;
    bpf_ringbuf_submit(held, 0);
    return DROP;
}

SEC("cgroup_skb/egress")
int us_hold(struct __sk_buff *skb)
{
    struct bpf_sock *sk = skb->sk;
    struct abi_socket *state;

    if (!sk || sk->state != BPF_TCP_SYN_SENT)
        return PASS;
    state = bpf_sk_storage_get(&us_sockets_4, sk, NULL, 0);
    if (!state || state->decision != ABI_PROXY || state->instance != settings.instance ||
        !state->seat)
        return PASS;
    if ((tcp_flags(skb) & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN)
        return PASS;
    return hold(skb, state);
}

/*
 * Whether the socket has sent data of which nothing has arrived: TCP will send it again. A reset
 * that answers a bare ACK would not come a second time. (What it counts as acknowledged is its SYN;
 * `packets_out` is not yet counted when the reset comes back at once, on the same CPU.)
 */
static __always_inline bool repeats(struct bpf_sock *sk)
{
    struct bpf_tcp_sock *tcp;

    sk = bpf_sk_fullsock(sk);
    tcp = sk ? bpf_tcp_sock(sk) : NULL;
    return tcp && tcp->data_segs_out && tcp->bytes_acked <= 1;
}

/* Of whoever is connected to a seat's listener by us; a reset of the listener has no options. */
SEC("cgroup_skb/ingress")
int us_hasty(struct __sk_buff *skb)
{
    struct bpf_sock *sk = skb->sk;
    struct abi_socket *state;
    __u32 now;

    if (skb->len != IPV4_HEADER + TCP_HEADER && skb->len != IPV6_HEADER + TCP_HEADER)
        return PASS;
    if ((tcp_flags(skb) & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_RST || !sk)
        return PASS;
    state = bpf_sk_storage_get(&us_sockets_4, sk, NULL, 0);
    if (!state || state->decision != ABI_PROXY || state->instance != settings.instance ||
        !state->seat || !repeats(sk))
        return PASS;
    now = (__u32)(bpf_ktime_get_ns() / 1000000) | 1;
    if (!state->hasty)
        state->hasty = now;
    return now - state->hasty < HASTY_TIME ? DROP : PASS;
}
