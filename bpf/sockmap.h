/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-kernel fast path (include/fastpath.h) for one process: its maps, its verdict program. All
 * of it is gone with the process.
 */
#ifndef UNDERSOCK_BPF_SOCKMAP_H
#define UNDERSOCK_BPF_SOCKMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fastpath.h"

#define SOCKMAP_FDS 8 /* descriptors it keeps open, at most */

struct sockmap_options {
    uint32_t streams;     /* how many can be joined at a time */
    uint64_t burst_time;  /* nanoseconds; a stream in which more than burst_bytes come within */
    uint32_t burst_bytes; /* that time on top of others passes as bulk; 0: none does */
    /* Of the bytes passed and not taken; 0: by what receive buffers hold (net.ipv4.tcp_rmem). */
    uint32_t brake;       /* more: the sender is made to wait until they have become less */
    uint32_t waiting_max; /* more: an overrun */
    bool proven;          /* this kernel has passed the proof already: it is left out */
};

/*
 * Loads the programs and proves on connections of its own, over loopback, that this kernel does
 * what the fast path relies on (bpf/sockmap_test.c); takes some milliseconds and CAP_BPF and
 * CAP_NET_ADMIN. What it returns needs neither any more, only bpf(2) for updating and deleting
 * elements, and SO_ATTACH_BPF. 0, or -errno with a reason in `why`; then nothing is left open.
 * -EPROTO: this kernel has failed the proof, and would again.
 * `own_mark`: for the sockets of the proof, where the captures must leave them alone; 0: none.
 */
int bpf_sockmap_open(const struct sockmap_options *o, uint32_t own_mark, struct fastpath *ret,
                     char *why, size_t why_size);
/* Every stream must have been left or dropped. */
void bpf_sockmap_close(struct fastpath *f);

/*
 * The proof alone. 0; -EPROTO with the case that failed in `why`; or -errno when it could not be
 * tried: -ENETUNREACH and the like when there is no loopback.
 */
int bpf_sockmap_test(const struct fastpath *f, uint32_t own_mark, char *why, size_t why_size);
/* For the proof: joins although something is queued in `from`, nothing of which was read. */
int bpf_sockmap_join_queued(const struct fastpath *f, int from, int to, uint32_t *ret_stream);

#endif
