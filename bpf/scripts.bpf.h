/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a selected connection can be stitched, and by which script: the part of stitch.bpf.c that
 * is asked on connect(). Included by connect.bpf.c alone, behind `settings`.
 */
#ifndef UNDERSOCK_BPF_SCRIPTS_BPF_H
#define UNDERSOCK_BPF_SCRIPTS_BPF_H

#define SOL_TCP    6
#define TCP_SYNCNT 7

/* Of a capture that stitches; the loader brings those of stitch.bpf.c, but for us_st_use. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u32);
} us_st_use SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct stitch_script);
} us_st_scripts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1);
    __type(key, __u8[16]);
    __type(value, struct stitch_name);
} us_st_names SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, STITCH_N_ROOM);
    __type(key, __u32);
    __type(value, __u64);
} us_st_room SEC(".maps");

/* Whether a handshake finds room for its record: its SYN goes out before connect() returns. */
static __always_inline bool has_room(void)
{
    __u32 which[] = {STITCH_ROOM_TAKEN, STITCH_ROOM_LIMIT};
    __u64 *taken = bpf_map_lookup_elem(&us_st_room, &which[0]);
    __u64 *limit = bpf_map_lookup_elem(&us_st_room, &which[1]);

    return taken && limit && *taken < *limit;
}

/* Where it could not reach the server from. */
static __always_inline bool is_bound_to_loopback(struct bpf_sock *sk, bool v4)
{
    __u32 v6[] = {READ(sk->src_ip6[0]), READ(sk->src_ip6[1]), READ(sk->src_ip6[2]),
                  READ(sk->src_ip6[3])};

    if (v4)
        return (READ(sk->src_ip4) & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
    return !v6[0] && !v6[1] && !v6[2] && v6[3] == bpf_htonl(1);
}

/* The number of the script by which this connection can be stitched, and where it goes then; 0: it
 * is relayed. */
static __always_inline __u32 find_script(struct bpf_sock *sk, const struct abi_endpoint *to,
                                         bool v4, struct abi_endpoint *ret)
{
    __u32 family = v4 ? 0 : 1, number, *use;
    struct stitch_script *script;
    bool named = false;

    if (!(settings.flags & ABI_STITCHING))
        return 0;
    if (settings.flags & ABI_DNS && to->port == 53)
        return 0; /* the worker knows whom to ask in its place */
    use = bpf_map_lookup_elem(&us_st_use, &family);
    number = use ? *use : 0;
    if (!number || !has_room())
        return 0;
    script = bpf_map_lookup_elem(&us_st_scripts, &number);
    if (!script || !script->n_steps || is_v4(script->server.ip) != v4)
        return 0;
    if (is_fake(to->ip)) {
        __u8 ip[16] __attribute__((aligned(8)));

        copy_ip(ip, to->ip);
        named = bpf_map_lookup_elem(&us_st_names, ip);
        if (!named)
            return 0; /* the worker knows, or refuses */
    }
    if (script->form == STITCH_FORM_SOCKS4 && !named && (!v4 || !to->ip[12]))
        return 0;
    if (sk->bound_dev_if || is_bound_to_loopback(sk, v4))
        return 0;
    copy_ip(ret->ip, script->server.ip);
    ret->port = script->server.port;
    return number;
}

/* A handshake without an answer ends in silence, and connect() with the kernel's last SYN: not long
 * after the timeouts, where two minutes are usual, unless the application wants it sooner. */
static __always_inline void limit_syns(struct bpf_sock_addr *ctx, __u32 number)
{
    struct stitch_script *script = bpf_map_lookup_elem(&us_st_scripts, &number);
    int now = 0, most = script ? script->syn_retries : 0;

    if (most && !bpf_getsockopt(ctx, SOL_TCP, TCP_SYNCNT, &now, sizeof(now)) && now > most)
        bpf_setsockopt(ctx, SOL_TCP, TCP_SYNCNT, &most, sizeof(most));
}

#endif
