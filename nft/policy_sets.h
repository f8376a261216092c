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

/* Those that all captures share; NFT_NO_SET where there would be nothing in it. */
struct nft_shared_sets {
    unsigned upstreams[NFT_N_FAMILIES], listeners[NFT_N_FAMILIES]; /* address . port */
    unsigned private[NFT_N_FAMILIES];                              /* the default exclusions */
};

/* Those of one capture; NFT_NO_SET where it does not ask. */
struct nft_capture_sets {
    unsigned to[NFT_N_FAMILIES], not_to[NFT_N_FAMILIES];
    unsigned tcp, uid, not_uid;
};

/* Whether the capture has a say in TCP connections at the output hook. */
bool nft_selects_tcp(const struct capture_policy *p);
/* Whether it does for destinations of the family: `to` of IPv4 prefixes alone selects no IPv6. */
bool nft_selects_family(const struct capture_policy *p, enum nft_family f);
/* 0: the capture has no listener in the family. */
uint16_t nft_listener_port(const struct capture_policy *p, enum nft_family f);

/* Both fill `ret` also when they fail halfway; the sets belong to `rs`. -ENOMEM. */
int nft_add_shared_sets(struct nft_ruleset *rs, const struct capture_set *set,
                        struct nft_shared_sets *ret);
int nft_add_capture_sets(struct nft_ruleset *rs, const struct capture_policy *p,
                         struct nft_capture_sets *ret);

#endif
