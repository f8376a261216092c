/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel that bpf/stitch.bpf.c runs in, as far as it matters, in user space: a packet in a
 * block of its exact size, checksums as the helpers treat them in each state of an skb, maps in
 * blocks of their own that are freed at once (the kernel is kinder), and helpers that fail when
 * they are told to. The programs are included as they are.
 */
#ifndef UNDERSOCK_TESTS_STITCH_KERNEL_H
#define UNDERSOCK_TESTS_STITCH_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <linux/bpf.h>

#include "fuzz.h"

/* In place of bpf/bpf_helpers.h. */
#define __BPF_HELPERS__
#define SEC(name)
#define __uint(name, val) int(*name)[val]
#define __type(name, val) __typeof__(val) *name
#define asm __asm__
#define typeof __typeof__
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline      __attribute__((noinline))

struct kernel_packet {
    struct __sk_buff ctx; /* first: programs get this */
    uint8_t *data;        /* exactly ctx.len */
    bool partial;         /* CHECKSUM_PARTIAL */
    uint32_t min;         /* no shorter than this: what is to be completed is in it */
    uint32_t went_by;     /* of a redirection: the interface */
    bool went, went_in;
};

static struct {
    uint64_t now;
    unsigned fault;  /* the so-many-th fallible helper from now fails; 0: none */
    bool faulty;     /* one has */
    bool table_full; /* of flows */
    void *storage;   /* struct abi_socket of the socket at hand */
    struct kernel_packet clone;
    bool has_clone;
    unsigned events;
} kernel;

static bool kernel_fails(void)
{
    if (kernel.fault == 0 || --kernel.fault > 0)
        return false;
    kernel.faulty = true;
    return true;
}

/* --- checksums -------------------------------------------------------------------------------- */

static uint16_t kernel_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* Over octets as they are in memory, like the kernel's; `n` may be odd. */
static uint64_t kernel_sum(const void *from, size_t n)
{
    const uint8_t *p = from;
    uint64_t sum = 0;

    for (; n > 1; n -= 2, p += 2) {
        uint16_t v;

        memcpy(&v, p, 2);
        sum += v;
    }
    if (n > 0) {
        uint8_t last[2] = {*p, 0};
        uint16_t v;

        memcpy(&v, last, 2);
        sum += v;
    }
    return sum;
}

static __s64 bpf_csum_diff(const void *from, __u32 from_size, const void *to, __u32 to_size,
                           __u32 seed)
{
    uint64_t sum;

    FUZZ_CHECK(from_size % 4 == 0 && to_size % 4 == 0 && from_size + to_size <= 512);
    sum = kernel_sum(to, to_size) + seed;
    for (__u32 i = 0; i < from_size; i += 2) {
        uint16_t v;

        memcpy(&v, (const uint8_t *)from + i, 2);
        sum += (uint16_t)~v;
    }
    return kernel_fold(sum);
}

static long bpf_skb_load_bytes(const void *skb, __u32 at, void *to, __u32 len)
{
    const struct kernel_packet *p = skb;

    FUZZ_CHECK(len > 0);
    if (kernel_fails() || at > p->ctx.len || len > p->ctx.len - at) {
        memset(to, 0, len);
        return -14;
    }
    memcpy(to, p->data + at, len);
    return 0;
}

static long bpf_skb_store_bytes(void *skb, __u32 at, const void *from, __u32 len, __u64 flags)
{
    struct kernel_packet *p = skb;

    FUZZ_CHECK(len > 0 && flags == 0);
    if (kernel_fails() || at > p->ctx.len || len > p->ctx.len - at)
        return -14;
    memcpy(p->data + at, from, len);
    return 0;
}

static long bpf_l4_csum_replace(void *skb, __u32 at, __u64 from, __u64 to, __u64 flags)
{
    struct kernel_packet *p = skb;
    uint16_t check;
    uint64_t sum;

    FUZZ_CHECK(flags == 0 || flags == 2 || flags == 4);
    if (kernel_fails() || at > p->ctx.len || 2 > p->ctx.len - at)
        return -14;
    FUZZ_CHECK(flags != 0 || from == 0);
    if (p->partial)
        return 0;
    memcpy(&check, p->data + at, 2);
    sum = (uint16_t)~check;
    if (flags == 0) {
        sum += kernel_fold(to);
    } else {
        uint32_t was = (uint32_t)from, is = (uint32_t)to;

        sum += kernel_sum(&is, flags) + (uint16_t)~kernel_fold(kernel_sum(&was, flags));
    }
    check = (uint16_t)~kernel_fold(sum);
    memcpy(p->data + at, &check, 2);
    return 0;
}

static long bpf_skb_change_tail(void *skb, __u32 len, __u64 flags)
{
    struct kernel_packet *p = skb;
    uint8_t *data;

    FUZZ_CHECK(flags == 0);
    if (kernel_fails() || len < p->min || len > 65536)
        return -22;
    data = calloc(1, len + !len);
    FUZZ_CHECK(data);
    memcpy(data, p->data, len < p->ctx.len ? len : p->ctx.len);
    free(p->data);
    p->data = data;
    p->ctx.len = len;
    return 0;
}

static long bpf_skb_change_head(void *skb, __u32 more, __u64 flags)
{
    struct kernel_packet *p = skb;
    uint8_t *data;

    FUZZ_CHECK(flags == 0);
    if (kernel_fails())
        return -12;
    data = calloc(1, p->ctx.len + more);
    FUZZ_CHECK(data);
    memcpy(data + more, p->data, p->ctx.len);
    free(p->data);
    p->data = data;
    p->ctx.len += more;
    return 0;
}

/* --- where packets go --------------------------------------------------------------------------
 */

static void bpf_set_hash_invalid(void *skb)
{
    (void)skb;
}

static struct kernel_packet *kernel_current;

static long bpf_redirect(__u32 interface, __u64 flags)
{
    kernel_current->went = true;
    kernel_current->went_in = flags & BPF_F_INGRESS;
    kernel_current->went_by = interface;
    return 7; /* TC_ACT_REDIRECT */
}

static long bpf_clone_redirect(void *skb, __u32 interface, __u64 flags)
{
    const struct kernel_packet *p = skb;

    FUZZ_CHECK(!kernel.has_clone && interface == p->ctx.ifindex);
    if (kernel_fails())
        return -12;
    kernel.clone = *p;
    kernel.clone.data = malloc(p->ctx.len + !p->ctx.len);
    FUZZ_CHECK(kernel.clone.data);
    memcpy(kernel.clone.data, p->data, p->ctx.len);
    kernel.has_clone = true;
    (void)flags;
    return 0;
}

/* --- the rest ----------------------------------------------------------------------------------
 */

static __u64 bpf_ktime_get_ns(void)
{
    return kernel.now;
}

static struct bpf_sock *bpf_sk_fullsock(struct bpf_sock *sk)
{
    return sk;
}

static struct bpf_tcp_sock kernel_tcp; /* of the only socket that there is */

static struct bpf_tcp_sock *bpf_tcp_sock(struct bpf_sock *sk)
{
    return sk ? &kernel_tcp : NULL;
}

static long bpf_ringbuf_output(void *map, void *data, __u64 size, __u64 flags)
{
    (void)map;
    (void)data;
    (void)flags;
    FUZZ_CHECK(size == 80);
    kernel.events++;
    return kernel_fails() ? -11 : 0;
}

static bool kernel_locked;

static void kernel_take_lock(void *lock);

static void bpf_spin_lock(void *lock)
{
    FUZZ_CHECK(!kernel_locked);
    kernel_take_lock(lock);
    kernel_locked = true;
}

static void bpf_spin_unlock(void *lock)
{
    (void)lock;
    FUZZ_CHECK(kernel_locked);
    kernel_locked = false;
}

static long bpf_loop(__u32 n, long (*fn)(__u32, void *), void *ctx, __u64 flags)
{
    __u32 i = 0;

    FUZZ_CHECK(flags == 0);
    while (i < n && fn(i, ctx) == 0)
        i++;
    return i;
}

static void *bpf_map_lookup_elem(void *map, const void *key);
static long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags);
static long bpf_map_delete_elem(void *map, const void *key);
static void *bpf_sk_storage_get(void *map, void *sk, void *value, __u64 flags);

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#include "bpf/stitch.bpf.c"
#pragma GCC diagnostic pop

#define KERNEL_FLOWS 8

static struct {
    struct stitch_key key;
    struct stitch_flow *value;
} kernel_flows[KERNEL_FLOWS];

static struct stitch_script kernel_script; /* number 1 */
static struct stitch_name kernel_name;
static struct scratch *kernel_scratch; /* a block, which is of whatever type is written */
static uint8_t kernel_fake[16];        /* stands for kernel_name; zeroes: there is none */
static uint64_t kernel_counters[STITCH_N_COUNTERS], kernel_ports, kernel_room[STITCH_N_ROOM];
/* What another processor does while this one waits for the lock: once, then NULL again. */
static void (*kernel_meanwhile)(void);
static struct stitch_flow kernel_at_lock; /* the record as it was when the lock was taken last */
static unsigned kernel_n_locks;
static bool kernel_unready; /* the interface is not in us_st_devices */

static int kernel_find_flow(const void *key)
{
    for (int i = 0; i < KERNEL_FLOWS; i++) {
        if (kernel_flows[i].value &&
            memcmp(&kernel_flows[i].key, key, sizeof(struct stitch_key)) == 0)
            return i;
    }
    return -1;
}

static void *bpf_map_lookup_elem(void *map, const void *key)
{
    static uint8_t one = 1;
    uint32_t number;
    int i;

    FUZZ_CHECK(!kernel_locked);
    memcpy(&number, key, sizeof(number));
    if (map == &us_st_scratch)
        return kernel_scratch;
    if (map == &us_st_flows)
        return (i = kernel_find_flow(key)) < 0 ? NULL : kernel_flows[i].value;
    if (map == &us_st_scripts)
        return number == 1 ? &kernel_script : NULL;
    if (map == &us_st_names)
        return kernel_name.len && memcmp(key, kernel_fake, 16) == 0 ? &kernel_name : NULL;
    if (map == &us_st_devices)
        return kernel_unready ? NULL : &one;
    if (map == &us_st_owners)
        return &one;
    if (map == &us_st_ports)
        return number == kernel_script.server.port / 64u ? &kernel_ports : NULL;
    if (map == &us_st_room)
        return &kernel_room[number];
    FUZZ_CHECK(map == &us_st_counters && number < STITCH_N_COUNTERS);
    return &kernel_counters[number];
}

static long bpf_map_delete_elem(void *map, const void *key)
{
    int i = kernel_find_flow(key);

    FUZZ_CHECK(map == &us_st_flows && !kernel_locked);
    if (i < 0)
        return -2;
    free(kernel_flows[i].value);
    kernel_flows[i].value = NULL;
    return 0;
}

static long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags)
{
    int i = kernel_find_flow(key);

    FUZZ_CHECK(map == &us_st_flows && flags <= BPF_NOEXIST && !kernel_locked);
    if (kernel_fails() || kernel.table_full)
        return -7;
    if (i >= 0 && flags == BPF_NOEXIST)
        return -17;
    if (i >= 0)
        bpf_map_delete_elem(map, key);
    for (i = 0; i < KERNEL_FLOWS; i++) {
        if (kernel_flows[i].value)
            continue;
        kernel_flows[i].value = malloc(sizeof(struct stitch_flow));
        FUZZ_CHECK(kernel_flows[i].value);
        memcpy(kernel_flows[i].value, value, sizeof(struct stitch_flow));
        memcpy(&kernel_flows[i].key, key, sizeof(struct stitch_key));
        return 0;
    }
    return -7;
}

static void *bpf_sk_storage_get(void *map, void *sk, void *value, __u64 flags)
{
    FUZZ_CHECK(map == &us_sockets_4 && sk && !value && !flags);
    return kernel.storage;
}

static void kernel_take_lock(void *lock)
{
    void (*meanwhile)(void) = kernel_meanwhile;
    struct scratch *own = kernel_scratch;

    if (meanwhile) {
        kernel_meanwhile = NULL;
        kernel_scratch = malloc(sizeof(*kernel_scratch));
        FUZZ_CHECK(kernel_scratch);
        memset(kernel_scratch, 0x5a, sizeof(*kernel_scratch));
        meanwhile();
        free(kernel_scratch);
        kernel_scratch = own;
    }
    memcpy(&kernel_at_lock, lock, sizeof(kernel_at_lock)); /* it is the first member */
    kernel_n_locks++;
}

/* Everything as after loading. */
static void kernel_reset(void)
{
    for (int i = 0; i < KERNEL_FLOWS; i++) {
        free(kernel_flows[i].value);
        kernel_flows[i].value = NULL;
    }
    if (kernel.has_clone)
        free(kernel.clone.data);
    memset(&kernel, 0, sizeof(kernel));
    memset(&kernel_script, 0, sizeof(kernel_script));
    memset(&kernel_name, 0, sizeof(kernel_name));
    memset(kernel_fake, 0, sizeof(kernel_fake));
    memset(kernel_counters, 0, sizeof(kernel_counters));
    memset(kernel_room, 0, sizeof(kernel_room));
    kernel_unready = kernel_locked = false;
    kernel_meanwhile = NULL;
    free(kernel_scratch);
    kernel_scratch = malloc(sizeof(*kernel_scratch));
    FUZZ_CHECK(kernel_scratch);
    memset(kernel_scratch, 0xa5, sizeof(*kernel_scratch));
    kernel.now = UINT64_C(1000000000000);
}

static int kernel_run(int (*program)(struct __sk_buff *), struct kernel_packet *p)
{
    struct kernel_packet *outer = kernel_current;
    int r;

    kernel_current = p;
    p->went = false;
    r = program(&p->ctx);
    kernel_current = outer;
    FUZZ_CHECK(!kernel_locked);
    return r;
}

#endif
