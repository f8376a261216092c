/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The worker's half of the cgroup capture: from an accepted socket to its origin, with one bpf(2)
 * call on an inherited map descriptor. No privilege, no libbpf object.
 */
#ifndef UNDERSOCK_BPF_ORIGIN_H
#define UNDERSOCK_BPF_ORIGIN_H

#include <stdint.h>

#include "capture.h"

/* SO_NETNS_COOKIE of a socket: its network namespace. 0 or -errno (-ENOPROTOOPT before Linux 5.14).
 */
int bpf_netns_cookie(int sock, uint64_t *ret);
/* Of the namespace that this process is in. */
int bpf_own_netns_cookie(uint64_t *ret);

struct abi_origin;

/* As the programs wrote it → as the flow code reads it. */
void bpf_origin_decode(const struct abi_origin *found, struct origin *ret);

/*
 * A source of origins over `map_fd` (bpf_capture_origin_fd()), for listeners in the network
 * namespace `netns_cookie`. The descriptor stays the caller's and must outlive the source. An
 * origin is handed out once: the lookup takes it out of the map. 0 or -ENOMEM; release with
 * bpf_origin_close().
 */
int bpf_origin_open(int map_fd, uint64_t netns_cookie, struct origin_source *ret);
void bpf_origin_close(struct origin_source *source);

#endif
