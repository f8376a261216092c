/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The worker's half of holding SYNs: reads one ring buffer that us_hold fills. Opened before the
 * sandbox is closed; reading makes no system call at all.
 */
#ifndef UNDERSOCK_BPF_HOLD_H
#define UNDERSOCK_BPF_HOLD_H

#include "capture.h"

/*
 * A source of held SYNs over `ring_fd` (bpf_capture_ring_fd()) of the capture `capture`, whose name
 * is copied. The descriptor stays the caller's and must outlive the source; it is ret->fd, readable
 * (for level-triggered epoll) as long as SYNs wait. What is read is gone from the ring for this
 * process and all others: a ring has one reader at a time, and the next one goes on where the last
 * one stopped, however that ended.
 *
 * The SYNs come with their origin; `interface` is the one they would have left by, lo. read()
 * answers -ENOBUFS when it found the ring full: SYNs may have been dropped, those that waited
 * were handed over as ever.
 *
 * 0; -EINVAL (no ring buffer of ours), -ENOMEM or another -errno. Needs no privilege. Release with
 * bpf_hold_close(), which NULL and a closed source survive.
 */
int bpf_hold_open(int ring_fd, const char *capture, struct hold_source *ret);
void bpf_hold_close(struct hold_source *source);

#endif
