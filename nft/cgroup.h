/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A cgroup by its path below the root of cgroup2, which begins with '/', as nft sees it. */
#ifndef UNDERSOCK_NFT_CGROUP_H
#define UNDERSOCK_NFT_CGROUP_H

#include <stdint.h>

#define NFT_CGROUP_NAME_SIZE 4096

/* The number of its directory, which is what the kernel compares; one that nobody has, when it is
 * not there. -ENOENT: no cgroup2 is mounted; -ENAMETOOLONG; -errno. */
int nft_cgroup_id(const char *path, uint64_t *ret);
/* How many directories it is below the root. */
unsigned nft_cgroup_level(const char *path);
/* What nft calls it: its path below /sys/fs/cgroup, wherever there cgroup2 is mounted. */
void nft_cgroup_name(const char *path, char ret[NFT_CGROUP_NAME_SIZE]);

#endif
