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

enum nft_transport { NFT_TCP, NFT_UDP };

/* What a capture selects: see `dns` and `fake` of struct capture_policy. Each is a rule per family.
 */
enum nft_part { NFT_PART_DNS, NFT_PART_FAKE, NFT_PART_DNS_DIRECT, NFT_PART_REST, NFT_N_PARTS };

/* What a table is about: the captures of which hooks (1 << enum capture_hook). */
struct nft_scope {
    unsigned hooks;     /* TCP */
    unsigned udp_hooks; /* UDP */
    bool guard;         /* the guard's own */
};

/* Those that all captures share; NFT_NO_SET where there would be nothing in it. */
struct nft_shared_sets {
    unsigned upstreams[NFT_N_FAMILIES], listeners[NFT_N_FAMILIES]; /* address . port */
    unsigned private[NFT_N_FAMILIES];                              /* the default exclusions */
    unsigned loopback[NFT_N_FAMILIES];                             /* where DNS is left alone */
    unsigned fake[NFT_N_FAMILIES];                                 /* addr_fake_prefixes */
    unsigned link_local;                                           /* of IPv6 */
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
/* Whether the capture has such a part: `to` of IPv4 prefixes alone selects no IPv6, for example. */
bool nft_has_part(const struct capture_policy *p, enum nft_transport transport, enum nft_family f,
                  enum nft_part part);
/* 0: the capture has no listener in the family. */
uint16_t nft_listener_port(const struct capture_policy *p, enum nft_family f);
uint16_t nft_udp_port(const struct capture_policy *p, enum nft_family f);
/* The same for a seat. */
uint16_t nft_seat_port(const struct capture_seat *seat, enum nft_family f);

/* Both fill `ret` also when they fail halfway; the sets belong to `rs`. -ENOMEM. */
int nft_add_shared_sets(struct nft_ruleset *rs, const struct capture_set *set,
                        const struct nft_scope *scope, struct nft_shared_sets *ret);
int nft_add_capture_sets(struct nft_ruleset *rs, const struct capture_policy *p,
                         const struct nft_scope *scope, struct nft_capture_sets *ret);

#endif
