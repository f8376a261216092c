/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Held SYNs, as the rules of nft/hold.h log them: a socket of nfnetlink_log for the group of one
 * seat. A privileged process opens it; whoever has the descriptor reads it, and that takes nothing
 * but recvmsg(). The kernel forgets the group when the last copy is closed.
 */
#ifndef UNDERSOCK_NFT_LOG_H
#define UNDERSOCK_NFT_LOG_H

#include <stddef.h>

#include "capture.h"

/* Bytes of a SYN that are copied; those with TCP Fast Open may have more, which is left behind. */
#define NFT_LOG_SNAPLEN 256u

/*
 * Opens a socket (non-blocking, close-on-exec) that has the group, in the calling thread's network
 * namespace. The caller closes it. -EBUSY: another process has the group; -EOPNOTSUPP: this kernel
 * has no nfnetlink_log; -EPERM: no CAP_NET_ADMIN; -errno; with one line in `why` that says what to
 * do (of `why_size` bytes; may be NULL when that is 0).
 */
int nft_log_open(unsigned group, int *ret_fd, char *why, size_t why_size);

/* The `ctx` of nft_log_hold_ops; the descriptor stays the caller's. */
struct nft_log_source {
    int fd;
};

/* Only messages of the kernel count; what is not a packet with its prefix is passed over. */
extern const struct hold_ops nft_log_hold_ops;

/* The messages of one datagram (aligned as struct nlmsghdr is), whatever is in it: calls `fn` at
 * most `max` times; returns how often. */
unsigned nft_log_parse(const void *datagram, size_t len, held_syn_fn fn, void *fn_ctx,
                       unsigned max);

#endif
