/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What this kernel's cgroup hooks can do, found by loading programs of a few instructions, never by
 * the kernel's version.
 */
#ifndef UNDERSOCK_BPF_PROBE_H
#define UNDERSOCK_BPF_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bpf_feature {
    /* Without these there is no cgroup capture. */
    BPF_FEATURE_BTF,
    BPF_FEATURE_CONNECT,  /* cgroup/connect4 and connect6 with socket storage and setsockopt */
    BPF_FEATURE_NETNS,    /* connect programs can tell network namespaces apart */
    BPF_FEATURE_PEERNAME, /* cgroup/getpeername4 and 6 with socket storage */
    BPF_FEATURE_SOCKOPS,  /* sock_ops with socket storage and the namespace's cookie */
    BPF_FEATURE_RINGBUF,
    /* Without these it is a little poorer. */
    BPF_FEATURE_SET_RETVAL,
    BPF_FEATURE_PID,
    BPF_FEATURE_TASK,
    BPF_FEATURE_MPTCP,
    BPF_FEATURE_TAKE,
    BPF_FEATURE_HOLD, /* cgroup_skb with socket storage and ring buffers out of an array of maps */
    BPF_N_FEATURES
};

struct bpf_feature_info {
    const char *name;    /* a short key: "set-retval" */
    const char *without; /* what is lost, as a sentence without its full stop */
    bool required;       /* for the cgroup capture */
};

extern const struct bpf_feature_info bpf_feature_infos[BPF_N_FEATURES];

/*
 * Fills `ret` with one bit per feature (1u << enum bpf_feature). 0; -EPERM when this process may
 * not load programs at all, so that nothing can be said; -ENOSYS without bpf(2). Takes some
 * milliseconds.
 */
int bpf_probe(uint32_t *ret);

/*
 * Can cgroup captures here be honest? False: a sentence in `why`, and they can only be early. Takes
 * as long as bpf_probe().
 */
bool bpf_can_hold(char *why, size_t why_size);

#endif
