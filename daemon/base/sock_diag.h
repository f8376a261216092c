/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asking the kernel for the TCP sockets of the calling thread's network namespace:
 * NETLINK_SOCK_DIAG (sock_diag(7), linux/inet_diag.h). To see them takes no privilege, to destroy
 * them CAP_NET_ADMIN.
 */
#ifndef UNDERSOCK_BASE_SOCK_DIAG_H
#define UNDERSOCK_BASE_SOCK_DIAG_H

#include <stdint.h>

#include "addr.h"

struct mnl_socket;
struct nlmsghdr;
struct inet_diag_msg;
struct inet_diag_sockid;

struct sock_diag_query {
    int family;      /* AF_INET, or AF_INET6: sockets of that family, v4-mapped ones included */
    uint32_t states; /* 1 << enum of netinet/tcp.h (TCP_LISTEN, ...), or-ed */
    uint8_t ext;     /* INET_DIAG_INFO and others: 1 << (N - 1), or-ed */
    int storage_map; /* what this BPF socket storage has for each socket is told, too; -1: none */
};

/* 0 or -errno (-EPROTONOSUPPORT: a kernel without). To be closed by mnl_socket_close(). */
int sock_diag_open(struct mnl_socket **ret);
/* One call of `fn` for each socket; it returns MNL_CB_OK and finds a struct inet_diag_msg and its
 * attributes in the message. 0 or -errno (-ENOENT: a kernel that knows no TCP there). */
int sock_diag_dump(struct mnl_socket *nl, const struct sock_diag_query *query,
                   int (*fn)(const struct nlmsghdr *message, void *ctx), void *ctx);
/* Ends the socket as tcp_abort() of net/ipv4/tcp.c does: reset, or forgotten when it is in
 * TIME-WAIT. 0; -ENOENT: it is gone by itself; or -errno (-EOPNOTSUPP: a kernel without
 * CONFIG_INET_DIAG_DESTROY). */
int sock_diag_destroy(struct mnl_socket *nl, int family, const struct inet_diag_sockid *id);
/* Its two addresses. */
struct addr sock_diag_local(const struct inet_diag_msg *m);
struct addr sock_diag_remote(const struct inet_diag_msg *m);

#endif
