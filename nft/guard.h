/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * on-exit = "closed". A second table that nobody owns, so that it outlives the daemon: behind the
 * first one (priority 10), it rejects what captures with `fail_closed` would have taken. While the
 * daemon runs it sees nothing of that, as redirected packets no longer look like it; from the
 * moment the first table is gone it refuses what comes by. TCP gets a reset, UDP (of captures that
 * take or reject it) an ICMP "administratively prohibited".
 *
 * `nft delete table inet undersock-guard` lifts it by hand.
 *
 * Where a function fails, `why` (of `size` bytes; may be NULL when size is 0) gets one line, and is
 * untouched otherwise.
 */
#ifndef UNDERSOCK_NFT_GUARD_H
#define UNDERSOCK_NFT_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "capture.h"

#define NFT_GUARD_TABLE "undersock-guard" /* of family inet */

struct nft_ruleset;

/*
 * What the captures with `fail_closed` would take, of every hook, first match in the order of the
 * file: what another capture selects before them is let pass. Pure. Empty (nft_ruleset_empty())
 * when no capture asks. The caller frees it with nft_ruleset_free(). A capture by cgroup names its
 * cgroup in the rule by the number that it has when the rule is installed; one that is not there
 * matches nobody.
 *
 * -EINVAL: as nft_ruleset_build(); -ENOMEM.
 */
int nft_guard_build(const struct capture_set *set, struct nft_ruleset **ret);
/*
 * Makes the table exactly `rs`, and replaces the one before (whoever made it) at one moment: no
 * packet passes between the two. An empty ruleset removes it. After a failure all is as it was.
 * -EPERM: no CAP_NET_ADMIN; -EOPNOTSUPP: this kernel lacks nf_tables or what the object named in
 * `why` needs; -ENOENT: no cgroup2 is mounted; -EBUSY: another process owns a table of that name;
 * -ENOMEM; otherwise the kernel's -errno.
 */
int nft_guard_install(const struct nft_ruleset *rs, char *why, size_t size);
/* Whether it is there, and not removed by somebody (`nft flush ruleset`). */
bool nft_guard_stands(void);
/* Lifts it; 0 also when it is not there. Errors as above. */
int nft_guard_remove(char *why, size_t size);
/* As `nft list table inet undersock-guard` (1.0.6) prints it; NULL: no memory. The caller frees it.
 */
char *nft_guard_text(const struct nft_ruleset *rs);

#endif
