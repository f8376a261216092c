/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which connections and datagrams a cgroup capture selects. Included by connect.bpf.c alone, behind
 * `settings`; capture_policy says the same in user space, and bpf/policy.c fills the maps.
 */
#ifndef UNDERSOCK_BPF_SELECTION_BPF_H
#define UNDERSOCK_BPF_SELECTION_BPF_H

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct abi_prefix);
    __type(value, __u8);
} us_to SEC(".maps"), us_except SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u8);
} us_uids SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2 * ABI_PORT_WORDS);
    __type(key, __u32);
    __type(value, __u64);
} us_ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct abi_endpoint);
    __type(value, __u8);
} us_upstreams SEC(".maps");

static __always_inline bool in_trie(void *trie, const struct abi_endpoint *to)
{
    struct abi_prefix key = {.len = 128};

    copy_ip(key.ip, to->ip);
    return bpf_map_lookup_elem(trie, &key);
}

/* Names and what stands for them are taken whatever prefixes and ports say. */
static __always_inline bool is_naming(const struct abi_endpoint *to)
{
    return (settings.flags & ABI_FAKE && is_fake(to->ip)) ||
           (settings.flags & ABI_DNS && to->port == 53);
}

/* Marks and users. */
static __always_inline bool is_whose(struct bpf_sock *sk)
{
    __u32 flags = settings.flags;

    if (settings.own_mask && (sk->mark & settings.own_mask) == settings.own_mark)
        return false;
    if (flags & ABI_HAS_MARK && sk->mark != settings.mark)
        return false;
    if (flags & (ABI_HAS_UIDS | ABI_HAS_NOT_UIDS)) {
        __u32 uid = (__u32)bpf_get_current_uid_gid();
        __u8 *how = bpf_map_lookup_elem(&us_uids, &uid);

        if (how && *how & ABI_UID_EXCEPT)
            return false;
        if (flags & ABI_HAS_UIDS && !(how && *how & ABI_UID_SELECT))
            return false;
    }
    return true;
}

static __always_inline bool is_whither(const struct abi_endpoint *to)
{
    __u32 flags = settings.flags;

    if (flags & ABI_HAS_EXCEPT && in_trie(&us_except, to))
        return false;
    return !(flags & ABI_HAS_TO) || in_trie(&us_to, to);
}

/* `words`: where those of its protocol begin. */
static __always_inline bool in_ports(__u32 words, __u16 port)
{
    __u32 at = words + port / 64;
    __u64 *bits = bpf_map_lookup_elem(&us_ports, &at);

    return bits && *bits >> (port % 64) & 1;
}

static __always_inline bool is_selected(struct bpf_sock *sk, const struct abi_endpoint *to)
{
    __u32 flags = settings.flags;
    bool naming = is_naming(to);

    if (flags & ABI_NO_TCP || !is_whose(sk) || bpf_map_lookup_elem(&us_upstreams, to))
        return false;
    if (flags & ABI_HAS_PORTS && !naming && !in_ports(0, to->port))
        return false;
    return naming || is_whither(to);
}

#endif
