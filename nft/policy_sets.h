/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sets of a ruleset: what no capture takes, and what each capture asks for. */
#ifndef UNDERSOCK_NFT_POLICY_SETS_H
#define UNDERSOCK_NFT_POLICY_SETS_H

#include <stdbool.h>
#include <stdint.h>

#include "capture.h"

#include "nft/form.h"

#define NFT_NO_SET UINT32_MAX

enum nft_family { NFT_V4, NFT_V6, NFT_N_FAMILIES };

/* What a table is about. */
struct nft_scope {
    unsigned hooks; /* 1 << enum capture_hook */
    bool udp;       /* UDP as well as TCP */
    bool guard;     /* the guard's own */
};

/* Those that all captures share; NFT_NO_SET where there would be nothing in it. */
struct nft_shared_sets {
    unsigned upstreams[NFT_N_FAMILIES], listeners[NFT_N_FAMILIES]; /* address . port */
    unsigned private[NFT_N_FAMILIES];                              /* the default exclusions */
};

/* Those of one capture; NFT_NO_SET where it does not ask. */
struct nft_capture_sets {
    unsigned to[NFT_N_FAMILIES], not_to[NFT_N_FAMILIES];
    unsigned tcp, udp, uid, not_uid, interfaces;
};

/*
 * Whether the capture has a say in TCP (UDP) there. Forwarded traffic has no user: a gateway
 * capture with `uid` selects nothing, and `not-uid` says nothing about it.
 */
bool nft_selects_tcp(const struct capture_policy *p, const struct nft_scope *scope);
bool nft_selects_udp(const struct capture_policy *p, const struct nft_scope *scope);
bool nft_selects(const struct capture_policy *p, const struct nft_scope *scope);
/* Whether it does for destinations of the family: `to` of IPv4 prefixes alone selects no IPv6. */
bool nft_selects_family(const struct capture_policy *p, enum nft_family f);
/* 0: the capture has no listener in the family. */
uint16_t nft_listener_port(const struct capture_policy *p, enum nft_family f);
/* The same for a seat. */
uint16_t nft_seat_port(const struct capture_seat *seat, enum nft_family f);

/* Both fill `ret` also when they fail halfway; the sets belong to `rs`. -ENOMEM. */
int nft_add_shared_sets(struct nft_ruleset *rs, const struct capture_set *set,
                        const struct nft_scope *scope, struct nft_shared_sets *ret);
int nft_add_capture_sets(struct nft_ruleset *rs, const struct capture_policy *p,
                         const struct nft_scope *scope, struct nft_capture_sets *ret);

#endif
