/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cgroup capture for TCP, privileged half: loads connect.bpf.c for one policy and attaches it
 * to one cgroup. The programs send the selected connections of that cgroup (and the ones below it)
 * to our listener; a worker then learns the destination from bpf/origin.h. With `honest` their SYNs
 * are held (hold.bpf.c), and a worker reads them with bpf/hold.h. UDP is nftables' business, but
 * for that of other network namespaces (datagrams.bpf.h).
 *
 * Nothing is pinned. The programs stay attached as long as some process holds the links
 * (bpf_capture_fds()), so they go with the last of them, however it dies.
 */
#ifndef UNDERSOCK_BPF_CGROUP_H
#define UNDERSOCK_BPF_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf/origin.h"
#include "capture.h"

struct bpf_capture;

#define BPF_CAPTURE_MAX_FDS 9
#define BPF_WHY_MAX         256 /* room enough for every `why` */

/*
 * Captures `set->policies[policy_index]` in the cgroup2 directory open as `cgroup_fd` (which stays
 * the caller's and is not needed afterwards). `port_v4` and `port_v6` of the policy are listeners
 * in the caller's network namespace; a family without one is refused. `policy.cgroup` and
 * `policy.hook` are not looked at. Where several captures select a connection, the innermost
 * cgroup's decides; within one cgroup, the one attached first: attach in the order of the set.
 *
 * With policy.honest and set->n_seats > 0 the listeners are those of policy.seat_ports: each
 * connection goes to one of the seats that are serving and have a port of its family, by chance; to
 * none, and it is refused. Ask bpf_can_hold() (bpf/probe.h) first.
 *
 * 0, or -errno with one sentence in `why` that names the privilege or the kernel feature missing:
 * -EPERM (privilege, lockdown), -EOPNOTSUPP (kernel feature), -EBADF or -EINVAL (not a cgroup2
 * directory), -ENOMEM, -E2BIG. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or CAP_SYS_ADMIN.
 */
int bpf_cgroup_attach(const struct capture_set *set, size_t policy_index, int cgroup_fd,
                      struct bpf_capture **ret, char *why, size_t why_size);

/*
 * Puts another policy in force on the same cgroup, program by program, each atomically: no
 * connection goes uncaptured meanwhile. Links, origin map, rings and event descriptor stay what
 * they were, so what workers and others have inherited stays valid, connections in the backlog keep
 * their origins, and SYNs that are held stay held. A capture that becomes honest gets two links
 * more, and loses them with its last ring. That the cgroup is removed meanwhile is no error: the
 * next one gets the new policy (bpf_capture_move()). Errors as above; on failure the old policy is
 * in force, unless `why` says that it is mixed.
 */
int bpf_cgroup_replace(struct bpf_capture *capture, const struct capture_set *set,
                       size_t policy_index, char *why, size_t why_size);

/*
 * Puts the capture on another cgroup, as one that has been removed and made anew is; -1: on none.
 * What workers and others have inherited stays valid, but for the links. Connections that were to
 * be stitched in the one before, and are not through, are ended. 0, or -errno with a sentence in
 * `why`; then it is on none, or, if that is no cgroup2 directory, where it was.
 */
int bpf_capture_move(struct bpf_capture *capture, int cgroup_fd, char *why, size_t why_size);

/* The map a worker inherits for bpf_origin_open(). Owned by the capture, close-on-exec. */
int bpf_capture_origin_fd(const struct bpf_capture *capture);

/*
 * The ring buffer of a seat's SYNs, which its worker inherits for bpf_hold_open(). It is there from
 * the first honest set that names the seat, serving or not, until a set does not name it. Owned by
 * the capture, close-on-exec. -ENOENT: none.
 */
int bpf_capture_ring_fd(const struct bpf_capture *capture, unsigned seat);

/* The link descriptors, up to `max` of them; whoever holds duplicates keeps the programs attached.
 * Returns how many there are (at most BPF_CAPTURE_MAX_FDS). Owned by the capture, close-on-exec. */
int bpf_capture_fds(const struct bpf_capture *capture, int *ret, size_t max);

/* The first connection or datagram of a network namespace that cannot reach our listener. */
struct bpf_capture_event {
    uint64_t netns_cookie;
    uint32_t pid; /* 0: unknown */
    uint32_t uid;
    bool refused; /* else it went direct */
    char comm[17];
};

typedef void (*bpf_capture_event_fn)(void *ctx, const struct bpf_capture_event *event);

/* Readable when events wait: level-triggered, for epoll. */
int bpf_capture_event_fd(const struct bpf_capture *capture);
/* Calls `fn` for every event that waits; never blocks. Returns their number or -errno. */
int bpf_capture_poll_events(struct bpf_capture *capture, bpf_capture_event_fn fn, void *ctx);

/*
 * Of a capture with policy.stitch: by which script its connections are stitched from now on, for
 * IPv4 sockets and for IPv6 sockets; 0: by none, they go to the listener. An IPv6 socket can only
 * reach an IPv6 server; one that connects to a v4-mapped address counts as IPv4. 0; -EOPNOTSUPP:
 * the capture cannot stitch; or -errno.
 */
int bpf_capture_use(const struct bpf_capture *capture, unsigned script_v4, unsigned script_v6);
/*
 * Whether a cgroup above has connect programs, of another undersock or of somebody else. They run
 * after ours, see the SOCKS server as the destination, and would have to be obeyed: nothing may be
 * stitched then. A relay's own connection is seen by who encloses the relay.
 */
bool bpf_capture_is_enclosed(const struct bpf_capture *capture);

/* Since the capture was attached; sums over all CPUs. */
struct bpf_capture_counters {
    uint64_t proxied, refused, direct, foreign, failed, lost, missed, stitched; /* ABI_COUNT_* */
};

/* 0 or -errno. */
int bpf_capture_read_counters(const struct bpf_capture *capture, struct bpf_capture_counters *ret);

/* By which the sockets of the capture are known (abi_socket.instance). */
uint64_t bpf_capture_instance(const struct bpf_capture *capture);

/*
 * Detaches, whoever else holds the links, and frees. NULL is allowed. False: connections that were
 * to be stitched could not be ended, so their guards stay, and so must the filters: no
 * bpf_stitch_detach() then.
 */
bool bpf_capture_detach(struct bpf_capture *capture);
/* Frees this process's share only: the programs stay attached while others hold the links. */
void bpf_capture_release(struct bpf_capture *capture);

#endif
