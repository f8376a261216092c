/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is known of a socket, kept with it: the programs of connect.bpf.c decide it, those that see
 * packets go by it. One map, whatever object a program comes from (bpf_abi.h, ABI_MAP_SOCKETS).
 */
#ifndef UNDERSOCK_BPF_SOCKETS_BPF_H
#define UNDERSOCK_BPF_SOCKETS_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "bpf_abi.h"

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct abi_socket);
} us_sockets_4 SEC(".maps");

#endif
