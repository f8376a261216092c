/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The little rtnetlink that the demo needs: a veth pair, addresses, local routes. Everything acts
 * on the network namespace that the process was in when it called demo_network_open(). Needs
 * CAP_NET_ADMIN there.
 */
#ifndef UNDERSOCK_CLI_DEMO_NETWORK_H
#define UNDERSOCK_CLI_DEMO_NETWORK_H

#include <stdint.h>

#include "addr.h"

struct demo_network;

/* 0 or -errno. */
int demo_network_open(struct demo_network **ret);
void demo_network_close(struct demo_network *n);

/* A veth pair: `name` here, `peer` in the namespace that the descriptor `peer_netns` stands for;
 * both down. -EOPNOTSUPP: this kernel has no veth interfaces. */
int demo_network_veth(struct demo_network *n, const char *name, const char *peer, int peer_netns);
/* 0, or -ENODEV when there is no such interface. */
int demo_network_up(struct demo_network *n, const char *name);
/* `length` is that of the prefix in the address's own family. Usable at once: no duplicate address
 * detection. -EOPNOTSUPP, -EACCES: this family is off. */
int demo_network_address(struct demo_network *n, const char *name, const struct addr *ip,
                         uint8_t length);
/* Packets to `ip` are for this namespace, and its answers to itself about `ip` come from `source`:
 * a host that is asked from `source` instead of from its own address. `source` must be an address
 * of it. */
int demo_network_local(struct demo_network *n, const struct addr *ip, const struct addr *source);

#endif
