/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small helpers on descriptors that every floor above needs. */
#ifndef UNDERSOCK_BASE_FD_H
#define UNDERSOCK_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct addr;

/* Closes *fd when it is >= 0 and sets it to -1; errno is kept. */
void fd_close(int *fd);
/* All descriptors of the array that are >= 3 stay open; every other one from 3 up is closed. */
void fd_close_others(const int *keep, size_t n);
/*
 * Raises the soft limit of RLIMIT_NOFILE to the hard one and returns the limit in force. The hard
 * limit is the administrator's word and is left alone.
 */
uint64_t fd_raise_limit(void);
/* What fd_raise_limit() would return; changes nothing. */
uint64_t fd_hard_limit(void);

/* SO_LINGER with time 0: close() resets. Off: close() is orderly. 0 or -errno. */
int fd_reset_on_close(int fd, bool on);
/* What every relayed TCP socket wants from the start: TCP_NODELAY, urgent data left in the stream,
 * and reset on close. A listener that has it hands it to the sockets it accepts, as it does with
 * the next one. 0 or -errno. */
int fd_tcp_options(int fd);
/* SO_KEEPALIVE with times that notice a dead peer within three minutes. Four system calls:
 * connections that are over before it matters do without. 0 or -errno. */
int fd_keepalive(int fd);

#define FD_LISTEN_REUSE_PORT  0x1u /* others of our user may listen on the same port */
#define FD_LISTEN_TRANSPARENT 0x2u /* takes connections to addresses that are not ours (TPROXY) */
/*
 * A non-blocking, close-on-exec TCP listener on `at`. Port 0 lets the kernel choose. Returns the
 * descriptor and fills `ret_at` (may be NULL) with the bound address, or -errno.
 */
int fd_listen(const struct addr *at, unsigned flags, struct addr *ret_at);

/*
 * A non-blocking, close-on-exec UDP socket on `at` for what TPROXY hands over: transparent, tells
 * each datagram's original destination, shares its port with others of our user. Otherwise as
 * above.
 */
int fd_listen_udp(const struct addr *at, struct addr *ret_at);

/* Sends a message with up to 8 descriptors attached, without waiting: the whole of it or -errno
 * (-EAGAIN: the queue is full). */
int fd_send_message(int sock, const void *data, size_t len, const int *fds, size_t n_fds);
/* Receives one SEQPACKET message. Returns its length (0: the other side is gone) or -errno; a
 * message longer than `size` is -EMSGSIZE. Up to 8 descriptors go to `ret_fds`, their number to
 * `ret_n`; with `ret_fds` NULL they are closed. */
ssize_t fd_recv_message(int sock, void *data, size_t size, int *ret_fds, size_t *ret_n);

#endif
