/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What of nftables works here, found by trial: each feature is installed in a scratch table
 * ("undersock-probe-PID", owned, without effect on any packet) in a transaction of its own, and the
 * table is gone when the function returns.
 */
#ifndef UNDERSOCK_NFT_PROBE_H
#define UNDERSOCK_NFT_PROBE_H

#include <stdbool.h>
#include <stddef.h>

enum nft_feature {
    NFT_FEATURE_OWNER,     /* a table that dies with its socket */
    NFT_FEATURE_SETS,      /* interval sets and concatenated keys */
    NFT_FEATURE_REDIRECT,  /* redirect in a nat chain of family inet, at the output hook */
    NFT_FEATURE_REJECT,    /* reject with tcp reset */
    NFT_FEATURE_TPROXY,    /* tproxy at prerouting, and the match on transparent sockets */
    NFT_FEATURE_LABEL,     /* labels of connection tracking, which tell a gateway's connections */
    NFT_FEATURE_CT_STATUS, /* state and status of connection tracking */
    NFT_FEATURE_FIB,       /* the type of an address */
    NFT_FEATURE_HOLD,      /* held SYNs: hash, log and the snat of the injected ones */
    NFT_FEATURE_UDP,       /* what nft/udp.c asks for beyond the others */
    NFT_FEATURE_CGROUP,    /* the match on a socket's cgroup */
    NFT_FEATURE_LOG,       /* nfnetlink_log: somebody can read what is logged */
    NFT_N_FEATURES,
};

struct nft_probe {
    int result[NFT_N_FEATURES];    /* 0: works; -errno: the kernel's answer */
    char why[NFT_N_FEATURES][160]; /* "" where it works */
};

/* "table owner", "redirect", ... */
const char *nft_feature_name(enum nft_feature feature);
/* 0 when every feature was tried, whatever came out; -errno (-EPERM, -EOPNOTSUPP: see
 * nft_owner_open()) when nothing could be tried. */
int nft_probe(struct nft_probe *ret, char *why, size_t size);
/*
 * Whether SYNs can be held here (NFT_FEATURE_HOLD and NFT_FEATURE_LOG alone). 0; -EOPNOTSUPP: the
 * kernel lacks what `why` says; -errno when it could not be tried.
 */
int nft_probe_hold(char *why, size_t size);
/* Likewise whether UDP can be taken; `cgroup`: of a cgroup, too. */
int nft_probe_udp(bool cgroup, char *why, size_t size);

#endif
