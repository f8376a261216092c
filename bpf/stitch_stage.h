/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where bpf/stitch_test.h tries things: two network namespaces, a wire between them, a cgroup. */
#ifndef UNDERSOCK_BPF_STITCH_STAGE_H
#define UNDERSOCK_BPF_STITCH_STAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define STAGE_PATH_MAX 1024

/* The ends of the wire, and their addresses. */
#define STAGE_NEAR    "us0"
#define STAGE_FAR     "us1"
#define STAGE_NEAR_V4 "192.0.2.1"
#define STAGE_NEAR_V6 "2001:db8:5553::1"
#define STAGE_FAR_V4  "192.0.2.2"
#define STAGE_FAR_V6  "2001:db8:5553::2"

struct stage_cgroup {
    char parent[STAGE_PATH_MAX]; /* our own */
    char path[STAGE_PATH_MAX + 64];
};

/*
 * Where the calling process has its cgroup, below its own, once it is made; removes what others
 * have left there that were killed. 0 or -errno.
 */
int stage_cgroup_find(struct stage_cgroup *ret);
/* Makes it. 0 or -errno. */
int stage_cgroup_make(const struct stage_cgroup *c);
/* The calling process goes in, or back to where it was. 0 or -errno. */
int stage_cgroup_enter(const struct stage_cgroup *c);
int stage_cgroup_leave(const struct stage_cgroup *c);
/* When nobody is in it any more. */
void stage_cgroup_remove(const struct stage_cgroup *c);

/* A veth pair between our network namespace and that of the process `far`. 0 or -errno. */
int stage_wire(pid_t far);
/*
 * An end of the wire, in the namespace of that end: up, with its addresses. *ret_v6: whether there
 * is IPv6. 0 or -errno.
 */
int stage_addresses(const char *interface, const char *v4, const char *v6, bool *ret_v6);
/* Sets lo up. 0 or -errno. */
int stage_lo_up(void);

#endif
