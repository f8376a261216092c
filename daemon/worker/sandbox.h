/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a worker gives up before it reads the first byte from the network. */
#ifndef UNDERSOCK_WORKER_SANDBOX_H
#define UNDERSOCK_WORKER_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * Becomes uid/gid without supplementary groups and with no capability but, when asked for,
 * CAP_NET_RAW; no new privileges, no core dump, dies with its parent. Does nothing about the ids
 * when not root. 0 or -errno, with what failed in `why`.
 */
int sandbox_drop(uid_t uid, gid_t gid, bool keep_net_raw, char *why, size_t why_size);
/*
 * From here on only the system calls of a relay: no file can be opened, nothing executed, nobody
 * signalled. -EOPNOTSUPP when the kernel has no seccomp filters.
 */
int sandbox_seal(char *why, size_t why_size);

#endif
