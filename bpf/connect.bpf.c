/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cgroup capture for TCP, kernel half.
 *
 * - connect(): us_connect4/6 decide. A selected connection is turned towards our listener on
 *   loopback, and what was asked for is kept in the socket's own storage (it goes with the socket,
 *   and is reached through every duplicate of it).
 * - The SYN goes out: us_sockops knows the source port by now and publishes {namespace, source,
 *   listener} → origin, before the SYN can reach the listener. The worker takes it from there.
 *   Of an honest capture the SYN does not reach the listener: hold.bpf.c, right after.
 * - getpeername(): us_getpeername4/6 answer with what was asked for, as long as the socket's peer
 *   is still the one we put there.
 *
 * All programs of all instances share one socket storage. Several instances may see one connect()
 * (nested cgroups, a reload): the first to decide leaves its decision there, the others keep their
 * hands off. A decision belongs to the present connect() when it is another instance's, no SYN has
 * left since, and the destination is the one it left; an instance runs once per connect(), so its
 * own is always stale.
 *
 * What cannot be carried is refused, never let through. That goes for UDP, too, where nftables is
 * not at work: datagrams.bpf.h.
 *
 * Of a capture that stitches, a connection may go to the SOCKS server itself instead of to our
 * listener: stitch.bpf.c. Which upstream that is, and whether any, user space says at any time.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bpf_abi.h"
#include "endpoint.bpf.h"
#include "sockets.bpf.h"
#include "stitch_abi.h"

#define SOCK_STREAM     1
#define SOCK_DGRAM      2
#define IPPROTO_TCP     6
#define IPPROTO_UDP     17
#define IPPROTO_MPTCP   262
#define SOL_SOCKET      1
#define SO_BINDTODEVICE 25
#define IFNAMSIZ        16
#define ECONNREFUSED    111

/* What a connect program answers; the kernel's own 0 and 1, and ours. */
#define VERDICT_REFUSE 0
#define VERDICT_LEAVE  1
#define VERDICT_PROXY  2

char LICENSE[] SEC("license") = "GPL";

const volatile struct abi_settings settings = {};

#include "selection.bpf.h" /* over the above */

struct task_struct {
    int tgid;
} __attribute__((preserve_access_index));

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, struct abi_origin_key);
    __type(value, struct abi_origin);
} us_origins SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536); /* a page on every architecture */
} us_events SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, __u64);
    __type(value, __u8);
} us_seen SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, ABI_N_COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} us_counters SEC(".maps");

static __always_inline void count(__u32 which)
{
    __u64 *n = bpf_map_lookup_elem(&us_counters, &which);

    if (n)
        (*n)++;
}

/* The process in the initial pid namespace; 0 where the kernel has neither way to ask. */
static __always_inline __u32 current_pid(void)
{
    if (settings.features & ABI_CAN_PID)
        return bpf_get_current_pid_tgid() >> 32;
    if (settings.features & ABI_CAN_TASK) {
        struct task_struct *task = (void *)bpf_get_current_task_btf();

        return (__u32)task->tgid;
    }
    return 0;
}

static __always_inline int refuse(void)
{
    count(ABI_COUNT_REFUSED);
    if (settings.features & ABI_CAN_SET_RETVAL)
        bpf_set_retval(-ECONNREFUSED);
    return VERDICT_REFUSE; /* EPERM by itself */
}

static __always_inline int refuse_failed(void)
{
    count(ABI_COUNT_FAILED);
    return refuse();
}

/* Keeps the decision with the socket. NULL: no memory. */
static __always_inline struct abi_socket *decide(struct bpf_sock *sk, __u32 decision,
                                                 const struct abi_endpoint *to)
{
    struct abi_socket *state =
        bpf_sk_storage_get(&us_sockets_4, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

    if (!state)
        return NULL;
    state->instance = settings.instance;
    state->decision = decision;
    state->sent = 0;
    state->script = 0;
    state->stitched = 0;
    state->hasty = 0;
    state->order = settings.order;
    copy_ip(state->to.ip, to->ip);
    state->to.port = to->port;
    return state;
}

static __always_inline void remember_who(struct abi_origin *origin)
{
    origin->known = ABI_KNOWN_UID | ABI_KNOWN_CGROUP;
    origin->uid = (__u32)bpf_get_current_uid_gid();
    origin->cgroup_id = bpf_get_current_cgroup_id();
    origin->pid = current_pid();
    if (origin->pid)
        origin->known |= ABI_KNOWN_PID;
    if (!bpf_get_current_comm(origin->comm, sizeof(origin->comm)))
        origin->known |= ABI_KNOWN_COMM;
}

/* Our listener is on the loopback of our namespace: from another one it cannot be reached. */
static __always_inline int foreign(struct bpf_sock *sk, const struct abi_endpoint *to, __u64 cookie)
{
    bool direct = settings.flags & ABI_DOWN_DIRECT;
    __u8 one = 1;

    count(ABI_COUNT_FOREIGN);
    if (!bpf_map_update_elem(&us_seen, &cookie, &one, BPF_NOEXIST)) {
        struct abi_event event = {.kind = ABI_EVENT_FOREIGN_NETNS, .netns_cookie = cookie};

        event.pid = current_pid();
        event.uid = (__u32)bpf_get_current_uid_gid();
        event.refused = !direct;
        bpf_get_current_comm(event.comm, sizeof(event.comm));
        bpf_ringbuf_output(&us_events, &event, sizeof(event), 0);
    }
    if (direct) {
        count(ABI_COUNT_DIRECT);
        decide(sk, ABI_DIRECT, to);
        return VERDICT_LEAVE;
    }
    decide(sk, ABI_REFUSE, to);
    return refuse();
}

/* A seat by chance, so that all get their share; returns its number counted from 1. */
static __always_inline __u32 take_seat(const volatile struct abi_seat *seats, __u32 n,
                                       __u16 *ret_port)
{
    __u32 i;

    if (!n)
        return 0;
    i = (__u64)bpf_get_prandom_u32() * n >> 32;
    i &= ABI_SEATS - 1; /* for the verifier */
    *ret_port = seats[i].port;
    return (__u32)seats[i].number + 1;
}

/* Fills in the port of `listener`, 0 where there is none, and returns the seat, 0 for the same. */
static __always_inline __u32 choose_listener(struct abi_endpoint *listener)
{
    bool v4 = is_v4(listener->ip);

    if (!(settings.flags & ABI_HONEST)) {
        listener->port = v4 ? settings.port_v4 : settings.port_v6;
        return 0;
    }
    if (v4)
        return take_seat(settings.seats_v4, settings.n_seats_v4, &listener->port);
    return take_seat(settings.seats_v6, settings.n_seats_v6, &listener->port);
}

#include "scripts.bpf.h" /* over the above */

static __always_inline int stitch(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                  const struct abi_endpoint *to, const struct abi_endpoint *server,
                                  __u32 script)
{
    struct abi_socket *state = decide(sk, ABI_STITCH, server);

    if (!state)
        return refuse_failed();
    state->script = script;
    state->seat = 0;
    copy_ip(state->origin.ip, to->ip);
    state->origin.port = to->port;
    state->origin.scope = 0;
    remember_who(&state->origin);
    limit_syns(ctx, script);
    count(ABI_COUNT_STITCHED);
    return VERDICT_PROXY;
}

/* VERDICT_PROXY: to where `listener` says. */
static __always_inline int proxy(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                 const struct abi_endpoint *to, struct abi_endpoint *listener)
{
    __u64 cookie = bpf_get_netns_cookie(ctx);
    struct abi_socket *state;
    __u32 device = sk->bound_dev_if;
    __u32 seat, script;

    if (cookie != settings.netns_cookie)
        return foreign(sk, to, cookie);
    script = find_script(sk, to, is_v4(listener->ip), listener);
    if (script)
        return stitch(ctx, sk, to, listener, script);
    seat = choose_listener(listener);
    if (!listener->port) {
        decide(sk, ABI_REFUSE, to);
        return refuse();
    }
    state = decide(sk, ABI_PROXY, listener);
    if (!state)
        return refuse_failed();
    state->seat = seat;
    copy_ip(state->origin.ip, to->ip);
    state->origin.port = to->port;
    state->origin.scope = 0;
    if (to->ip[0] == 0xfe && (to->ip[1] & 0xc0) == 0x80)
        state->origin.scope = device;
    remember_who(&state->origin);
    if (device) {
        /* A socket bound to another interface would never reach loopback. The kernel lets go of the
         * interface only for a process with CAP_NET_RAW, which the application may not have. */
        char none[IFNAMSIZ] = "";

        state->device = device;
        if (bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none))) {
            state->decision = ABI_REFUSE;
            return refuse_failed();
        }
    }
    count(ABI_COUNT_PROXIED);
    return VERDICT_PROXY;
}

#include "datagrams.bpf.h" /* over the above */

/* `listener` has its address; VERDICT_PROXY leaves there where it is to go instead. */
static __always_inline int on_connect(struct bpf_sock_addr *ctx, const struct abi_endpoint *to,
                                      struct abi_endpoint *listener)
{
    struct bpf_sock *sk = ctx->sk;
    struct abi_socket *state;
    __u32 protocol = ctx->protocol;

    if (ctx->type == SOCK_DGRAM)
        return on_datagram(ctx, to);
    if (ctx->type != SOCK_STREAM || (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP) || !sk)
        return VERDICT_LEAVE;

    state = bpf_sk_storage_get(&us_sockets_4, sk, NULL, 0);
    if (state) {
        if (state->decision && state->instance != settings.instance && !state->sent &&
            same_endpoint(&state->to, to))
            return state->decision == ABI_REFUSE ? refuse() : VERDICT_LEAVE;
        state->decision = ABI_NONE;
    }

    if (is_selected(sk, to)) {
        switch (settings.action) {
        case ABI_PROXY:
            return proxy(ctx, sk, to, listener);
        case ABI_REFUSE:
            decide(sk, ABI_REFUSE, to);
            return refuse();
        default:
            count(ABI_COUNT_DIRECT);
            decide(sk, ABI_DIRECT, to);
        }
    }
    /* An earlier connect() of this socket took its interface away, and a program cannot give it
     * back: going out by any interface is not what the application asked for. */
    if (state && state->device && !sk->bound_dev_if)
        return refuse_failed();
    return VERDICT_LEAVE;
}

SEC("cgroup/connect4")
int us_connect4(struct bpf_sock_addr *ctx)
{
    struct abi_endpoint to __attribute__((aligned(8))) = {};
    struct abi_endpoint listener __attribute__((aligned(8))) = {};
    int verdict;

    set_ip(to.ip, 0, 0, bpf_htonl(0xffff), READ(ctx->user_ip4));
    to.port = bpf_ntohs((__u16)READ(ctx->user_port));
    set_ip(listener.ip, 0, 0, bpf_htonl(0xffff), bpf_htonl(0x7f000001));

    verdict = on_connect(ctx, &to, &listener);
    if (verdict != VERDICT_PROXY)
        return verdict;
    ctx->user_ip4 = ((const word *)listener.ip)[3];
    ctx->user_port = bpf_htons(listener.port);
    return VERDICT_LEAVE;
}

SEC("cgroup/connect6")
int us_connect6(struct bpf_sock_addr *ctx)
{
    struct abi_endpoint to __attribute__((aligned(8))) = {};
    struct abi_endpoint listener __attribute__((aligned(8))) = {};
    const word *ip = (const word *)listener.ip;
    int verdict;

    set_ip(to.ip, READ(ctx->user_ip6[0]), READ(ctx->user_ip6[1]), READ(ctx->user_ip6[2]),
           READ(ctx->user_ip6[3]));
    to.port = bpf_ntohs((__u16)READ(ctx->user_port));
    if (is_v4(to.ip))
        set_ip(listener.ip, 0, 0, bpf_htonl(0xffff), bpf_htonl(0x7f000001));
    else
        set_ip(listener.ip, 0, 0, 0, bpf_htonl(1));

    verdict = on_connect(ctx, &to, &listener);
    if (verdict != VERDICT_PROXY)
        return verdict;
    ctx->user_ip6[0] = ip[0];
    ctx->user_ip6[1] = ip[1];
    ctx->user_ip6[2] = ip[2];
    ctx->user_ip6[3] = ip[3];
    ctx->user_port = bpf_htons(listener.port);
    return VERDICT_LEAVE;
}

/* The state of a socket whose peer is, as the kernel tells it, the one we sent it to. */
static __always_inline struct abi_socket *redirected(struct bpf_sock_addr *ctx,
                                                     const struct abi_endpoint *peer)
{
    struct bpf_sock *sk = ctx->sk;
    struct abi_socket *state;

    if (!sk)
        return NULL;
    state = bpf_sk_storage_get(&us_sockets_4, sk, NULL, 0);
    if (!state || (state->decision != ABI_PROXY && state->decision != ABI_STITCH) ||
        !same_endpoint(&state->to, peer))
        return NULL;
    return state;
}

SEC("cgroup/getpeername4")
int us_getpeername4(struct bpf_sock_addr *ctx)
{
    struct abi_endpoint peer __attribute__((aligned(8))) = {};
    struct abi_socket *state;

    set_ip(peer.ip, 0, 0, bpf_htonl(0xffff), READ(ctx->user_ip4));
    peer.port = bpf_ntohs((__u16)READ(ctx->user_port));
    state = redirected(ctx, &peer);
    if (state && is_v4(state->origin.ip)) {
        ctx->user_ip4 = ((const word *)state->origin.ip)[3];
        ctx->user_port = bpf_htons(state->origin.port);
    }
    return 1;
}

SEC("cgroup/getpeername6")
int us_getpeername6(struct bpf_sock_addr *ctx)
{
    struct abi_endpoint peer __attribute__((aligned(8))) = {};
    struct abi_socket *state;
    const word *ip;

    set_ip(peer.ip, READ(ctx->user_ip6[0]), READ(ctx->user_ip6[1]), READ(ctx->user_ip6[2]),
           READ(ctx->user_ip6[3]));
    peer.port = bpf_ntohs((__u16)READ(ctx->user_port));
    state = redirected(ctx, &peer);
    if (state) {
        ip = (const word *)state->origin.ip;
        ctx->user_ip6[0] = ip[0];
        ctx->user_ip6[1] = ip[1];
        ctx->user_ip6[2] = ip[2];
        ctx->user_ip6[3] = ip[3];
        ctx->user_port = bpf_htons(state->origin.port);
    }
    return 1;
}

/* An MPTCP connection is asked for its peer on its own socket, while connect() met its first
 * subflow. */
static __always_inline void tell_mptcp(struct bpf_sock *sk, const struct abi_socket *state)
{
    struct mptcp_sock *whole = bpf_skc_to_mptcp_sock(sk);
    struct abi_socket *copy;

    if (!whole)
        return;
    copy = bpf_sk_storage_get(&us_sockets_4, whole, NULL, BPF_SK_STORAGE_GET_F_CREATE);
    if (copy)
        *copy = *state;
}

/* Says to the worker where an accepted connection was going. */
static __always_inline void publish(struct bpf_sock_ops *ctx, const struct abi_socket *state)
{
    /* All of them, before any branch: see READ(). */
    __u32 ip4 = READ(ctx->local_ip4), ip6[] = {READ(ctx->local_ip6[0]), READ(ctx->local_ip6[1]),
                                               READ(ctx->local_ip6[2]), READ(ctx->local_ip6[3])};
    struct abi_origin_key key = {};

    key.netns_cookie = bpf_get_netns_cookie(ctx);
    if (is_v4(state->to.ip))
        set_ip(key.ip, 0, 0, bpf_htonl(0xffff), ip4);
    else
        copy_ip(key.ip, ip6);
    key.port = (__u16)READ(ctx->local_port);
    key.listener_port = state->to.port;
    if (bpf_map_update_elem(&us_origins, &key, &state->origin, BPF_ANY))
        count(ABI_COUNT_LOST);
}

SEC("sockops")
int us_sockops(struct bpf_sock_ops *ctx)
{
    struct abi_socket *state;
    struct bpf_sock *sk;

    if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
        return 1;
    sk = ctx->sk;
    if (!sk)
        return 1;
    state = bpf_sk_storage_get(&us_sockets_4, sk, NULL, 0);
    if (!state || !state->decision)
        return 1;
    state->sent = 1;
    if ((state->decision != ABI_PROXY && state->decision != ABI_STITCH) ||
        state->instance != settings.instance)
        return 1;

    if (state->decision == ABI_PROXY && !state->seat) /* a held SYN carries its origin itself */
        publish(ctx, state);
    if (settings.features & ABI_CAN_MPTCP)
        tell_mptcp(sk, state);
    return 1;
}
