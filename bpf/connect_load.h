/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading connect.bpf.c for a policy. Maps that hold the policy belong to the programs; those
 * listed here live as long as a capture, and the programs of its next policy are loaded over them.
 * A part of bpf/cgroup.h.
 */
#ifndef UNDERSOCK_BPF_CONNECT_LOAD_H
#define UNDERSOCK_BPF_CONNECT_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "capture.h"

struct bpf_object;

enum connect_map {
    CONNECT_ORIGINS,
    CONNECT_EVENTS,
    CONNECT_SEEN,
    CONNECT_COUNTERS,
    CONNECT_SOCKETS,
    CONNECT_USE,
    CONNECT_N_MAPS
};

extern const char *const connect_map_names[CONNECT_N_MAPS];

/*
 * Over `maps` when they are there (maps[0] >= 0), else with lasting maps of their own. The object
 * is the caller's to close. 0, or -errno with one sentence in `why`, as of bpf_cgroup_attach().
 */
int connect_load(const struct capture_set *set, const struct capture_policy *policy,
                 uint64_t instance, const int maps[CONNECT_N_MAPS], struct bpf_object **ret,
                 char *why, size_t why_size);

#endif
