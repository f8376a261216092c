/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stitch: no relay. The kernel does the SOCKS handshake inside the application's own connection
 * (bpf/stitch.bpf.c says how), and then is out of the way. This is the user half: one for a network
 * namespace, shared by the cgroup captures of it.
 *
 * The order is what keeps an application's bytes from reaching a SOCKS server raw:
 *
 *   bpf_stitch_open()      programs and maps, nothing attached
 *   bpf_stitch_attach()    filters on every interface; from now on bpf_stitch_follow() whenever
 *                          bpf_stitch_link_fd() is readable
 *   bpf_cgroup_attach()    with capture_set.stitch: the guard of that cgroup, then the connect
 *                          programs
 *   bpf_capture_use()      connections are stitched from now on
 *   ...
 *   bpf_capture_use(0, 0)  no more
 *   bpf_stitch_pending()   until it is 0, or too long
 *   bpf_capture_detach()   ends connections that are not through by now, bpf_stitch_end()
 *   bpf_stitch_detach()
 *
 * A SYN through an interface without filters is dropped by the guard, and comes again after a
 * second, when they are there. Filters and guards are no links: they stay when this process is
 * killed, and with them handshakes under way reach their end and nothing of theirs gets out raw.
 * They touch nothing else. The next bpf_stitch_attach() replaces the filters, the next
 * bpf_cgroup_attach() to the same cgroup takes the guards off (bpf/stitch_left.h).
 *
 * Connections that are past the handshake need none of this.
 */
#ifndef UNDERSOCK_BPF_STITCH_H
#define UNDERSOCK_BPF_STITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/tcp.h>

#include "addr.h"
#include "capture.h"
#include "stitch_abi.h"

struct bpf_stitch;

struct bpf_stitch_options {
    uint32_t
        flows; /* handshakes at a time; 0: 16384. When 15 of 16 are taken, new ones are relayed */
    uint32_t names;    /* that addresses may stand for; 0: 65536 */
    unsigned instance; /* as in capture_set: each has filters of its own on the interfaces */
};

/*
 * Loads. 0, or -errno with one sentence in `why`: -EPERM, -EOPNOTSUPP (the kernel lacks something
 * that is needed), -ENOMEM.
 */
int bpf_stitch_open(const struct bpf_stitch_options *o, struct bpf_stitch **ret, char *why,
                    size_t why_size);
/* Frees this process's share; what is attached stays. NULL is allowed. */
void bpf_stitch_close(struct bpf_stitch *s);

/*
 * Puts filters on every interface of our network namespace. 0, or -errno with a sentence in `why`;
 * one interface that will not have them is a warning in the log, and connections through it do not
 * come about. May be called again.
 */
int bpf_stitch_attach(struct bpf_stitch *s, char *why, size_t why_size);
/* Readable when interfaces have come, gone, or lost their filters; for epoll. */
int bpf_stitch_link_fd(const struct bpf_stitch *s);
/* 0 or -errno; never blocks. */
int bpf_stitch_follow(struct bpf_stitch *s);
/*
 * Somebody's program on the interface `index` is asked before our filters, and lets packets past
 * them (STITCH_BY_BYPASS): ours are put before all others, there and on every other interface, also
 * those to come. Where somebody has programs of tcx when the filters come, that is done at once. 0;
 * -EALREADY: that has been done there, and is not enough; -EOPNOTSUPP: no kernel before 6.6 can;
 * -ENODEV: there are none of ours; or another -errno.
 */
int bpf_stitch_go_first(struct bpf_stitch *s, int index);
/* Whether some interface that may carry IP cannot have them: connections through it would not come
 * about, so nothing should be stitched. */
bool bpf_stitch_is_uncovered(const struct bpf_stitch *s);
/* Takes the filters off again, and the clsact qdiscs that were made for them if nobody else uses
 * them. */
void bpf_stitch_detach(struct bpf_stitch *s);

/* Likewise what a process that was killed has left of this instance, when it is known that nobody
 * uses the instance any more. */
void bpf_stitch_clean(unsigned instance);

/*
 * Puts a script in place of whatever has this number (1..STITCH_SCRIPTS-1); NULL: nothing.
 * Handshakes under way are not concerned. 0 or -errno.
 */
int bpf_stitch_set_script(struct bpf_stitch *s, unsigned number,
                          const struct stitch_script *script);

/*
 * The map of names (STITCH_MAP_NAMES), which workers inherit to say what they have given an address
 * to, before they give it away. Owned by `s`, close-on-exec. A connection to a fake address that is
 * not in it is relayed.
 */
int bpf_stitch_names_fd(const struct bpf_stitch *s);
/*
 * `name` of 1..255 bytes. Needs no privilege, and may be called in a worker's sandbox. 0; or
 * -errno: the address stands for nothing now; -ESTALE: and what it stood for before could not be
 * taken out: it must not be given to anybody.
 */
int bpf_stitch_set_name(int names_fd, const struct addr *a, const char *name, size_t len);
/* What an address stands for now, NUL-terminated; cut to `size`. 0 or -ENOENT. */
int bpf_stitch_get_name(int names_fd, const struct addr *a, char *ret, size_t size);

/* A handshake that failed. */
typedef void (*bpf_stitch_event_fn)(void *ctx, const struct stitch_event *event);
/* Readable when some have. */
int bpf_stitch_event_fd(const struct bpf_stitch *s);
/* Calls `fn` for each; never blocks. Returns their number or -errno. */
int bpf_stitch_poll_events(struct bpf_stitch *s, bpf_stitch_event_fn fn, void *ctx);

/* Calls `fn` for every handshake in the table, over ones too. 0 or -errno. */
typedef void (*bpf_stitch_flow_fn)(void *ctx, const struct stitch_key *key,
                                   const struct stitch_flow *flow);
int bpf_stitch_each(const struct bpf_stitch *s, bpf_stitch_flow_fn fn, void *ctx);

/* How many handshakes are under way; or -errno. */
int bpf_stitch_pending(const struct bpf_stitch *s);
/*
 * Ends what nobody waits for any more at its server, and takes out of the table what is over, and
 * what nobody has asked about for so long that its socket must be gone. `now`: CLOCK_MONOTONIC,
 * nanoseconds. To be called every few seconds. Returns how many, or -errno.
 */
int bpf_stitch_sweep(struct bpf_stitch *s, int64_t now);

/*
 * The sockets of our network namespace that were sent to be stitched, in whatever state. `info`:
 * of the kernel (struct tcp_info), cut or filled with zeroes to its size here.
 */
struct bpf_stitch_socket {
    struct addr local, remote;
    struct abi_socket state;
    uint32_t inode;
    uint8_t tcp_state; /* BPF_TCP_ESTABLISHED, ... (linux/bpf.h) */
    struct tcp_info info;
};

typedef void (*bpf_stitch_socket_fn)(void *ctx, const struct bpf_stitch_socket *socket);
/* 0 or -errno. */
int bpf_stitch_sockets(const struct bpf_stitch *s, bpf_stitch_socket_fn fn, void *ctx);
/*
 * Ends each of an instance's (abi_settings.instance) that is not through its handshake: connect()
 * says ECONNABORTED. `sockets`: a descriptor of ABI_MAP_SOCKETS. Returns how many are left that
 * could not be ended (a kernel without CONFIG_INET_DIAG_DESTROY): then the guards and the filters
 * must stay; or -errno, likewise.
 */
int bpf_stitch_end(int sockets, uint64_t instance);

/* Sums over all CPUs, STITCH_COUNT_*. 0 or -errno. */
int bpf_stitch_read_counters(const struct bpf_stitch *s, uint64_t ret[STITCH_N_COUNTERS]);

/* For bpf/cgroup.c: the descriptor of a map. Owned by `s`. */
int bpf_stitch_map_fd(const struct bpf_stitch *s, const char *name);
/*
 * Likewise: the guards of a cgroup, before the first connection of that instance (the capture's,
 * abi_settings.instance) can be stitched. They are no links,
 * for the same reason as the filters. 0, or -errno with a sentence in `why`; -E2BIG: there are so
 * many programs on the cgroup that the last places are better left to others.
 */
int bpf_stitch_guard(struct bpf_stitch *s, uint64_t instance, int cgroup_fd, char *why,
                     size_t why_size);
/* After bpf_stitch_end(): with the guards goes what keeps unfinished connections from the servers.
 */
void bpf_stitch_unguard(struct bpf_stitch *s, uint64_t instance, int cgroup_fd);

#endif
