/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From a capture's policy to what connect.bpf.c reads: settings in .rodata, the rest in maps. */
#ifndef UNDERSOCK_BPF_POLICY_H
#define UNDERSOCK_BPF_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf_abi.h"
#include "capture.h"

struct bpf_object;

/* Are the policy's SYNs held? */
bool bpf_policy_is_honest(const struct capture_set *set, const struct capture_policy *policy);
/* Whether some of its connections may be stitched. */
bool bpf_policy_is_stitching(const struct capture_set *set, const struct capture_policy *policy);

/* Pure: all of `ret` but netns_cookie, instance and features, which are 0. */
void bpf_policy_settings(const struct capture_set *set, const struct capture_policy *policy,
                         struct abi_settings *ret);
/* Pure: one bit per port in the ranges. All bits when there are none. */
void bpf_policy_ports(const struct port_range *ranges, size_t n, uint64_t ret[ABI_PORT_WORDS]);

/* Sizes the maps of an open object for the policy, before it is loaded. 0 or -errno. */
int bpf_policy_size_maps(struct bpf_object *object, const struct capture_set *set,
                         const struct capture_policy *policy);
/* Fills the maps of a loaded object. 0 or -errno; E2BIG cannot happen after bpf_policy_size_maps().
 */
int bpf_policy_fill_maps(struct bpf_object *object, const struct capture_set *set,
                         const struct capture_policy *policy);

#endif
