/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a configuration says about UDP and DNS, made out for each capture; and who resolves names
 * for this host, and which of them are the upstreams' own. */
#ifndef UNDERSOCK_KEEPER_DATAGRAMS_H
#define UNDERSOCK_KEEPER_DATAGRAMS_H

#include <stdbool.h>
#include <stddef.h>

#include "capture.h"
#include "config/config.h"
#include "message.h"
#include "worker/worker.h"

/*
 * Sets the fields about UDP and DNS of capture `i`'s policy, and what its worker does. "auto":
 * udp    associate where some upstream of the capture can, else reject
 * dns    fake where all of its upstreams take names (socks5h, socks4a), else tcp; for a capture
 * that selects by destination or port, bypass, as names say nothing of those. `run` has it always
 */
void datagrams_decide(const struct config *c, size_t i, bool run, struct capture_policy *policy,
                      struct worker_udp *ret);
/* Whether the capture needs UDP listeners. */
bool datagrams_needs_listener(const struct capture_policy *policy);
/* The names that keep their addresses: those of the configuration, and the upstreams' own, which we
 * have to resolve ourselves at each reload. 0 or -ENOMEM. */
int datagrams_list_real(const struct config *c, struct real **ret);
/*
 * The plain names by which upstream_resolve() asks for the upstreams' addresses: of a host without
 * a dot also those in the search domains of /etc/resolv.conf. They are asked for past the upstreams
 * (names.h). `*ret` ends with NULL; datagrams_free_names(). 0 or -ENOMEM.
 */
int datagrams_list_direct(const struct config *c, const struct upstream *upstreams, char ***ret);
/* Adds what is in `more`, copied, and not yet in the list. 0, or -ENOMEM after some. */
int datagrams_add_names(char ***names, char *const *more);
void datagrams_free_names(char **names); /* NULL is allowed */
/*
 * Whether queries of this host for `resolver` go through upstreams which, as far as the
 * configuration tells, are not in its network. The text takes the capture's name and the resolver's
 * address.
 */
bool datagrams_asks_in_vain(const struct config *c, size_t i, const struct addr *resolver);
#define DATAGRAMS_ASKS_IN_VAIN                                                                  \
    "capture %s: queries for %s, the resolver of this network, go through the upstream, which " \
    "may "                                                                                      \
    "not reach it: then set dns-server to one that it reaches, or take socks5h for its URL"
#define DATAGRAMS_RESOLVERS MESSAGE_RESOLVERS_MAX
/* Who resolves for this host, beyond a stub on loopback: that of systemd-resolved, if there is one,
 * first. Their number. */
size_t datagrams_list_resolvers(struct addr ret[DATAGRAMS_RESOLVERS]);

#endif
