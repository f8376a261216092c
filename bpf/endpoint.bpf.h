/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses and endpoints in BPF programs: 16 bytes, IPv4 mapped, handled as four words. */
#ifndef UNDERSOCK_BPF_ENDPOINT_BPF_H
#define UNDERSOCK_BPF_ENDPOINT_BPF_H

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bpf_abi.h"

typedef __u32 __attribute__((may_alias)) word;

/* Reads one field of the context: clang must not merge such loads into an address of its own
 * making, the verifier refuses a modified context pointer. Loads that end two branches are merged
 * all the same: read before the branch. */
#define READ(field) (*(const volatile typeof(field) *)&(field))

static __always_inline bool same_ip(const void *a, const void *b)
{
    const word *x = a, *y = b;

    return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

static __always_inline bool same_endpoint(const struct abi_endpoint *a,
                                          const struct abi_endpoint *b)
{
    return a->port == b->port && same_ip(a->ip, b->ip);
}

static __always_inline void copy_ip(void *to, const void *from)
{
    word *x = to;
    const word *y = from;

    x[0] = y[0];
    x[1] = y[1];
    x[2] = y[2];
    x[3] = y[3];
}

static __always_inline void set_ip(void *to, __u32 a, __u32 b, __u32 c, __u32 d)
{
    word *x = to;

    x[0] = a;
    x[1] = b;
    x[2] = c;
    x[3] = d;
}

static __always_inline bool is_v4(const void *ip)
{
    const word *x = ip;

    return !x[0] && !x[1] && x[2] == bpf_htonl(0xffff);
}

/* 198.18.0.0/15 and fdf6:6931:7149::/64: addr_fake_prefixes. */
static __always_inline bool is_fake(const void *ip)
{
    const word *x = ip;

    if (is_v4(ip))
        return (x[3] & bpf_htonl(0xfffe0000)) == bpf_htonl(0xc6120000);
    return x[0] == bpf_htonl(0xfdf66931) && x[1] == bpf_htonl(0x71490000);
}

#endif
