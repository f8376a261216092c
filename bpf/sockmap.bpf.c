/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verdict of the in-kernel fast path: where the bytes that a relayed socket has received go.
 * Only sockets of the daemon itself are in these maps, so no application's poll() is touched.
 *
 * Theory of operation. A flow is two streams; each has a record, whose number is the key of its
 * source and of its target in two sockmaps. The kernel hands us each received packet whole, under
 * the source's lock. We answer either
 *
 *   redirect: the packet goes to a queue of the target that is charged to nobody and that a kernel
 *             worker empties into the target's send queue. The source's window opens at once: the
 *             sender is not slowed down by a receiver that does not read.
 *   pass:     the packet stays with the source, charged to its receive buffer. The sender is slowed
 *             down as ever.
 *
 * So we redirect only what the target's send queue has room for. What is under way to it is known
 * exactly: `expect` is its write_seq as it will be when all of that has arrived, and nobody else
 * writes to the target meanwhile. When there is no room, we pass, and go on passing whatever comes,
 * as it must not overtake: user space reads it, sends it, and then publishes how much. Once that is
 * all (taken == passed) we may redirect again, starting from the write_seq of that moment, which
 * counts the bytes of user space. A stream that moves too much at once passes too, until user space
 * has decided: splice(2) is better at bulk (the thresholds and why: daemon/relay/sockmap.c).
 *
 * What is passed is charged to the source, but not while the source, as the target of the opposite
 * stream, has something in that uncharged queue: then it is queued behind, and the sender is not
 * slowed down while the kernel worker waits for a processor. So each source has a gate, a filter on
 * what its TCP receives. When more than `brake` is waiting, which no receive buffer holds, the gate
 * takes the data off packets before TCP has seen them: the sender will repeat them, and the ACKs
 * count. Should it ever become more than `waiting_max` yet, user space is told, and resets the
 * flow.
 *
 * A packet may begin with bytes that came before: a sender repeats what it believes lost, cut in
 * other pieces. recv() skips those by TCP's own bookkeeping; a verdict gets the packet whole, and
 * would hand them on twice. So each stream knows the sequence number that comes next, and what is
 * before it is cut off.
 *
 * A FIN arrives as a packet of no length, when TCP has done with it all there is to do and recv()
 * will say 0 in any case. Redirecting it would break the target; passing it would break the source,
 * while the queue of the opposite stream has something for it. It is dropped. No parser is ever
 * attached: it would clone packets and cut them.
 *
 * Memory ordering: `taken` is read before write_seq is, and published after send() has returned; a
 * passed packet is counted before `waking` is looked at, and user space clears `waking` before it
 * looks at the count.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "fastpath_abi.h"

/* Messages that may be under way to one target: bounds what small ones cost beyond their bytes. */
#define PENDING_MAX 4096
/* What a message costs the target's send buffer beyond its bytes. */
#define MESSAGE_COST 256
/* Room there must be before a stream that passed is redirected again. */
#define ROOM_MIN (16 * 1024)

#define ESTABLISHED 1
#define CLOSE_WAIT  8

/* Of the TCP header. */
#define TCP_DATA_OFFSET 12
#define TCP_FLAGS       13
#define TCP_FIN         0x01
#define TCP_RST         0x04
#define TCP_URG         0x20

#define CORE __attribute__((preserve_access_index))

struct sock {
    int sk_sndbuf;
    int sk_wmem_queued;
    int sk_err;
} CORE;
struct inet_sock {
    struct sock sk;
} CORE;
struct inet_connection_sock {
    struct inet_sock icsk_inet;
} CORE;
struct tcp_sock {
    struct inet_connection_sock inet_conn;
    __u32 write_seq;
    __u32 copied_seq;
} CORE;
/* TCP keeps a packet's first sequence number at the beginning of its control block. */
struct sk_buff {
    char cb[48];
} CORE;

const volatile struct fastpath_settings settings = {};

/* The loader sets the sizes. */
struct {
    __uint(type, BPF_MAP_TYPE_SOCKMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} us_targets SEC(".maps"), us_sources SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, __u64);
    __type(value, __u32);
} us_index SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct fastpath_stream);
} us_streams SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} us_passed SEC(".maps");

#define ONCE(field) (*(volatile typeof(field) *)&(field))

/* The target's write_seq, and how much it can take; false: nothing. */
static __always_inline bool look_at_target(__u32 stream, __u32 *seq, __s32 *room)
{
    struct bpf_sock *sk = bpf_map_lookup_elem(&us_targets, &stream);
    bool ok = false;

    if (!sk)
        return false;
    if (sk->state == ESTABLISHED || sk->state == CLOSE_WAIT) {
        struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

        if (tp) {
            struct sock *s = &tp->inet_conn.icsk_inet.sk;

            *seq = ONCE(tp->write_seq);
            *room = ONCE(s->sk_sndbuf) - ONCE(s->sk_wmem_queued);
            ok = !ONCE(s->sk_err);
        }
    }
    bpf_sk_release(sk);
    return ok;
}

/*
 * More than the settings allow, within their time, of what comes on top of something that is still
 * under way? Request and response, however large and fast, never do that; a stream does it all the
 * time.
 */
static __always_inline bool is_bulk(struct fastpath_stream *s, __u32 len, __u32 now)
{
    if (!settings.burst_bytes)
        return false;
    if (now - s->burst_began > settings.burst_time) {
        s->burst_began = now;
        s->burst = 0;
    }
    s->burst += len;
    return s->burst > settings.burst_bytes;
}

static __always_inline bool may_redirect(struct fastpath_stream *s, __u32 stream, __u32 len,
                                         __u64 now)
{
    __u32 seq, under_way;
    __s32 room;

    if (ONCE(s->hold) || s->state == FASTPATH_BULK || s->state == FASTPATH_OVERRUN)
        return false;
    /* An atomic operation, for its ordering. */
    if (s->state == FASTPATH_PASSING && __sync_fetch_and_add(&s->taken, 0) != s->passed)
        return false;
    if (!look_at_target(stream, &seq, &room))
        return false;
    if (s->state == FASTPATH_PASSING) {
        if (room < ROOM_MIN)
            return false;
        s->expect = seq;
        s->state = FASTPATH_REDIRECTING;
    }
    under_way = s->expect - seq;
    if (under_way == 0)
        s->pending = 0;
    /* Neither number can be large; a sum that is not small is one that makes no sense. */
    if (room <= 0 || under_way > (__u32)room || s->pending >= PENDING_MAX ||
        under_way + len + s->pending * MESSAGE_COST > (__u32)room)
        return false;
    if (under_way && is_bulk(s, len, (__u32)(now >> 20))) {
        s->state = FASTPATH_BULK;
        return false;
    }
    return true;
}

/* The most that the kernel removes at a time, and how many times it takes for any packet. */
#define CUT_MAX  4095u
#define CUTS_MAX 32

struct cut {
    struct __sk_buff *skb;
    __u32 left;
};

/* 1: done, or it cannot be. A loop of C would be verified turn by turn, which takes longer than all
 * the rest of loading. */
static long cut_some(__u32 turn, void *ctx)
{
    struct cut *cut = ctx;
    __u32 n = cut->left < CUT_MAX ? cut->left : CUT_MAX;

    (void)turn;
    if (n == 0 || bpf_skb_adjust_room(cut->skb, -(__s32)n, 0, 0) < 0)
        return 1;
    cut->left -= n;
    return 0;
}

/* Removes what was handed on before. False: it could not be done, or nothing would be left. */
static __always_inline bool cut_repeated(struct __sk_buff *skb, struct fastpath_stream *s)
{
    struct cut cut;
    __u32 seq, repeated;

    if (bpf_core_read(&seq, sizeof(seq), &((struct sk_buff *)skb)->cb) < 0)
        return false;
    if (s->state == FASTPATH_NEW) {
        struct bpf_sock *sk = skb->sk;
        struct tcp_sock *tp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

        if (!tp)
            return false;
        s->next = tp->copied_seq;
        s->state = FASTPATH_PASSING;
    }
    repeated = s->next - seq;
    s->next = seq + skb->len;
    if (!repeated)
        return true;
    /* The next byte is missing, which cannot be; or all of it is old. */
    if ((__s32)repeated < 0 || repeated >= skb->len)
        return false;
    cut.skb = skb;
    cut.left = repeated;
    bpf_loop(CUTS_MAX, cut_some, &cut, 0);
    return !cut.left;
}

/* What user space must put an end to. */
static __always_inline void break_stream(struct fastpath_stream *s, __u32 stream)
{
    if (s->state == FASTPATH_OVERRUN)
        return;
    s->state = FASTPATH_OVERRUN;
    bpf_ringbuf_output(&us_passed, &stream, sizeof(stream), 0);
}

SEC("sk_skb/stream_verdict")
int us_verdict(struct __sk_buff *skb)
{
    __u32 len = skb->len;
    __u64 cookie;
    __u32 *index, stream;
    struct fastpath_stream *s;
    __u64 now;

    if (!len)
        return SK_DROP; /* a FIN: see above */
    cookie = bpf_get_socket_cookie(skb);
    index = bpf_map_lookup_elem(&us_index, &cookie);
    if (!index)
        return SK_PASS;
    stream = *index;
    s = bpf_map_lookup_elem(&us_streams, &stream);
    if (!s)
        return SK_PASS;
    now = bpf_ktime_get_ns();
    s->active = now;
    if (!cut_repeated(skb, s))
        break_stream(s, stream);
    len = skb->len;
    if (may_redirect(s, stream, len, now) &&
        bpf_sk_redirect_map(skb, &us_targets, stream, 0) == SK_PASS) {
        s->expect += len;
        s->pending++;
        ONCE(s->redirected) = s->redirected + len;
        return SK_PASS;
    }
    if (s->state == FASTPATH_REDIRECTING)
        s->state = FASTPATH_PASSING;
    ONCE(s->passed) = s->passed + len;
    if (s->passed - ONCE(s->taken) > settings.waiting_max)
        break_stream(s, stream);
    /* At most this event and that of an overrun are out for a stream: the ring has room for all. */
    if (__sync_lock_test_and_set(&s->waking, 1) == 0)
        bpf_ringbuf_output(&us_passed, &stream, sizeof(stream), 0);
    return SK_PASS;
}

/* What stays of a packet; all is more than there is. */
#define GATE_NOTHING 0
#define GATE_ALL     0xffffffff

/* The filter of each source. */
SEC("socket")
int us_gate(struct __sk_buff *skb)
{
    __u64 cookie = bpf_get_socket_cookie(skb);
    __u32 *index = bpf_map_lookup_elem(&us_index, &cookie), stream, header;
    __u8 at[TCP_FLAGS - TCP_DATA_OFFSET + 1];
    struct fastpath_stream *s;

    if (!index)
        return GATE_ALL;
    stream = *index;
    s = bpf_map_lookup_elem(&us_streams, &stream);
    if (!s)
        return GATE_ALL;
    /* It is taken out of the maps: nothing may arrive just then. */
    if (ONCE(s->hold) == FASTPATH_DEAF)
        return GATE_NOTHING;
    if (ONCE(s->passed) - ONCE(s->taken) <= settings.brake)
        return GATE_ALL;
    if (bpf_skb_load_bytes(skb, TCP_DATA_OFFSET, at, sizeof(at)))
        return GATE_NOTHING;
    header = (at[0] >> 4) * 4;
    if (skb->len <= header || at[1] & TCP_RST)
        return GATE_ALL;
    /* Where these are is counted by the data. */
    return at[1] & (TCP_FIN | TCP_URG) ? GATE_NOTHING : header;
}

char LICENSE[] SEC("license") = "GPL";
