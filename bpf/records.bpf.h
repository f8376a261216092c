/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The records of handshakes that are under way: what a new one is made of, how many there are, and
 * whether there are any.
 */
#ifndef UNDERSOCK_BPF_RECORDS_BPF_H
#define UNDERSOCK_BPF_RECORDS_BPF_H

#include "compose.bpf.h"
#include "segment.bpf.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, STITCH_SCRIPTS);
    __type(key, __u32);
    __type(value, struct stitch_script);
} us_st_scripts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, __u8[16]);
    __type(value, struct stitch_name);
} us_st_names SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 16384);
    __type(key, struct stitch_key);
    __type(value, struct stitch_flow);
} us_st_flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, STITCH_N_ROOM);
    __type(key, __u32);
    __type(value, __u64);
} us_st_room SEC(".maps");

/* No handshake at all, as nearly all of the time. */
static __always_inline bool is_idle(void)
{
    __u32 which[] = {STITCH_ROOM_TAKEN, STITCH_ROOM_LIMIT, STITCH_ROOM_SIZE};
    __u64 *taken = bpf_map_lookup_elem(&us_st_room, &which[0]);
    __u64 *limit = bpf_map_lookup_elem(&us_st_room, &which[1]);
    __u64 *size = bpf_map_lookup_elem(&us_st_room, &which[2]);

    return taken && limit && size && *limit - *taken == *size;
}

/* A new record, in the scratch. Negative: it cannot be. */
static __noinline int begin(const struct packet *p, const struct abi_socket *state)
{
    struct scratch *s = scratch();
    struct stitch_script *script;
    struct stitch_name *name = NULL;
    struct stitch_flow *f;
    __u32 number, last, len;
    __u8 address[16];

    if (!s || !p || !state)
        return -1;
    number = state->script;
    script = bpf_map_lookup_elem(&us_st_scripts, &number);
    if (!script || !script->n_steps || script->n_steps > STITCH_STEPS ||
        script->static_len > STITCH_STATIC || !same_endpoint(&script->server, &state->to))
        return -1;
    f = (struct stitch_flow *)s->flow;
    __builtin_memset(f, 0, __builtin_offsetof(struct stitch_flow, steps));
    for (__u32 i = 0; i < STITCH_BYTES / 8; i++)
        ((__u64 *)f->bytes)[i] = 0;
    for (__u32 i = 0; i < STITCH_STATIC / 8; i++) {
        if (i * 8 >= script->static_len)
            break;
        __builtin_memcpy(f->bytes + i * 8, script->bytes + i * 8, 8);
    }
    __builtin_memcpy(f->steps, script->steps, sizeof(f->steps));
    if (is_fake(state->origin.ip)) {
        __builtin_memcpy(address, state->origin.ip, sizeof(address));
        name = bpf_map_lookup_elem(&us_st_names, address);
        if (!name)
            return -1; /* it was there when the socket connected: the address alone means nothing */
    }
    len = compose_request(f->bytes + STITCH_STATIC, script, state->origin.ip, state->origin.port,
                          name);
    if (!len || len > STITCH_REQUEST)
        return -1;
    last = (script->n_steps - 1) & (STITCH_STEPS - 1);
    f->steps[last].len = len;
    f->injected = f->steps[last].before + len;
    f->n_steps = script->n_steps;
    f->id = script->id;
    f->origin = state->origin;
    f->state = STITCH_SYN;
    f->isn_client = p->seq;
    f->window_client = p->window;
    f->began = bpf_ktime_get_ns();
    f->deadline = f->began + script->connect_timeout * 1000000ull;
    f->timeout = script->timeout;
    return 0;
}

static __always_inline void take_room(__s64 n)
{
    __u32 which = STITCH_ROOM_TAKEN;
    __u64 *taken = bpf_map_lookup_elem(&us_st_room, &which);

    if (taken)
        __sync_fetch_and_add(taken, n);
}

/* What is put in is new, and what is taken out was there: so the count is right whoever else does
 * the same at this moment. */
static __always_inline long put_record(const struct stitch_key *key, const void *record)
{
    long r = bpf_map_update_elem(&us_st_flows, key, record, BPF_NOEXIST);

    if (!r)
        take_room(1);
    return r;
}

static __always_inline void drop_record(const struct stitch_key *key)
{
    if (!bpf_map_delete_elem(&us_st_flows, key))
        take_room(-1);
}

#endif
