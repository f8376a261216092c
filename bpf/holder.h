/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper's half of holding SYNs: hold.bpf.c on one cgroup, and a ring buffer for each seat.
 * They are there as long as some seat has a ring, and cost nothing otherwise. A part of
 * bpf/cgroup.h.
 */
#ifndef UNDERSOCK_BPF_HOLDER_H
#define UNDERSOCK_BPF_HOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "capture.h"

struct bpf_holder;

#define BPF_HOLDER_LINKS 2

/* What it shares with the connect programs of its capture. The descriptors stay the caller's. */
struct bpf_holder_base {
    uint64_t instance;
    int cgroup;   /* the directory; -1: there is none yet, see bpf_holder_move() */
    int sockets;  /* ABI_MAP_SOCKETS */
    int counters; /* ABI_MAP_COUNTERS */
};

struct bpf_holder_seats {
    bool has[CAPTURE_SEATS];
};

/* Without seats, and without a trace in the kernel. NULL: no memory. */
struct bpf_holder *bpf_holder_new(void);

/*
 * Gives the seats `wanted` their rings, so that connections may be sent to them from now on; who
 * has one keeps it. 0, or -errno with a sentence in `why`; then some may have been made:
 * bpf_holder_shrink() takes them away.
 */
int bpf_holder_grow(struct bpf_holder *holder, const struct bpf_holder_base *base,
                    const struct bpf_holder_seats *wanted, char *why, size_t why_size);
/* Takes the rings away of all seats but `kept`; with the last one the programs are detached. */
void bpf_holder_shrink(struct bpf_holder *holder, const struct bpf_holder_seats *kept);
/* Those that have a ring. */
void bpf_holder_get_seats(const struct bpf_holder *holder, struct bpf_holder_seats *ret);

/* A seat's ring, or -ENOENT. Owned by the holder. */
int bpf_holder_ring(const struct bpf_holder *holder, unsigned seat);
/* The links, up to `max` of them; returns how many there are (0 or BPF_HOLDER_LINKS). Owned by the
 * holder. */
int bpf_holder_links(const struct bpf_holder *holder, int *ret, size_t max);

/* Puts the programs, if there are any, on another cgroup; -1: on none. 0, or -errno with a sentence
 * in `why`; then they are on none. */
int bpf_holder_move(struct bpf_holder *holder, int cgroup, char *why, size_t why_size);
/* Detaches, whoever else holds the link. */
void bpf_holder_detach(struct bpf_holder *holder);
/* Frees this process's share. NULL is allowed. */
void bpf_holder_free(struct bpf_holder *holder);

#endif
