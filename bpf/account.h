/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many bytes the kernel's TCP has taken from and given to the owner of a socket: what
 * bpf/sockmap.c compares its own counts with. TCP_INFO, SIOCOUTQ and SIOCINQ, tcp(7).
 */
#ifndef UNDERSOCK_BPF_ACCOUNT_H
#define UNDERSOCK_BPF_ACCOUNT_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Bytes ever put into the send queue. An acknowledgement between the two calls makes the sum too
 * small, which does for waiting until it has grown so far; `exact` tries again until none came in
 * between, or gives up with -EAGAIN. 0 or -errno.
 */
int account_balance(int fd, bool exact, uint64_t *ret);
/*
 * Bytes received, of which none waits to be read. 0; -EAGAIN: some do, or their end does, or more
 * keep coming; or another -errno.
 */
int account_received(int fd, uint64_t *ret);
/*
 * Bytes received that have left the receive queue, of a socket in no sockmap: of one that is in
 * one, be it as a target only, SIOCINQ leaves that queue out where Linux has tcp_bpf_ioctl().
 * 0 or -errno; -EAGAIN: more keep coming.
 */
int account_handed_out(int fd, uint64_t *ret);
/* SO_COOKIE, which never changes in a socket's life. 0 or -errno. */
int account_cookie(int fd, uint64_t *ret);
bool account_is_established(int fd);

#endif
