/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stitch leaves behind when its process is killed: the guards on its cgroups, which are no
 * links (bpf/stitch.h says why). They concern nobody else's sockets, but each start adds two, each
 * packet of the cgroup passes them all, and the kernel takes 64 of a kind. A part of bpf/stitch.h.
 */
#ifndef UNDERSOCK_BPF_STITCH_LEFT_H
#define UNDERSOCK_BPF_STITCH_LEFT_H

#include <stdint.h>

#include "stitch_abi.h"

/* Fills in who guards a cgroup, except for the instance. 0 or -errno. */
int stitch_left_sign(int cgroup_fd, unsigned instance, struct stitch_owner *ret);

/*
 * Takes the guards of those before us off a cgroup. They are of who had the same number (`instance`
 * of capture_set) in our network namespace, and has no connect program on this cgroup any more;
 * others', dead or alive, stay. Their handshakes under way are ended first, as bpf_stitch_end()
 * does, since their filters are ours by now. Returns how many were taken, or -errno: -EPERM without
 * CAP_SYS_ADMIN, as nobody else may look at programs that he has not loaded.
 */
int stitch_left_clear(int cgroup_fd, unsigned instance);

/* How many programs there are of the kind that a guard is; or -errno. */
int stitch_left_count(int cgroup_fd);

#endif
