/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nft/cgroup.h"

#include <errno.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* nft looks for cgroups below this, also where cgroup2 is mounted deeper (with version 1 beside
 * it).
 */
#define NFT_ROOT "/sys/fs/cgroup"

/* Where cgroup2 is mounted, preferably where nft looks; "" when it is not. */
static void find_root(char *ret, size_t size)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent entry;
    char buf[4096];

    ret[0] = '\0';
    while (mounts && getmntent_r(mounts, &entry, buf, sizeof(buf))) {
        bool preferred = strncmp(entry.mnt_dir, NFT_ROOT, strlen(NFT_ROOT)) == 0;

        if (strcmp(entry.mnt_type, "cgroup2") != 0 || strlen(entry.mnt_dir) >= size)
            continue;
        if (preferred || ret[0] == '\0')
            strcpy(ret, entry.mnt_dir);
        if (preferred)
            break;
    }
    if (mounts)
        endmntent(mounts);
}

int nft_cgroup_id(const char *path, uint64_t *ret)
{
    char root[1024], full[NFT_CGROUP_NAME_SIZE];
    struct stat st;

    find_root(root, sizeof(root));
    if (root[0] == '\0')
        return -ENOENT;
    if (snprintf(full, sizeof(full), "%s%s", root, path) >= (int)sizeof(full))
        return -ENAMETOOLONG;
    *ret = UINT64_MAX;
    if (stat(full, &st) == 0)
        *ret = st.st_ino;
    else if (errno != ENOENT)
        return -errno;
    return 0;
}

unsigned nft_cgroup_level(const char *path)
{
    unsigned n = 0;

    for (const char *p = path; *p; p++)
        n += p[0] == '/' && p[1] != '/' && p[1] != '\0';
    return n;
}

void nft_cgroup_name(const char *path, char ret[NFT_CGROUP_NAME_SIZE])
{
    char root[1024];

    find_root(root, sizeof(root));
    const char *below = root;

    if (strncmp(root, NFT_ROOT, strlen(NFT_ROOT)) == 0)
        below += strlen(NFT_ROOT);
    else
        below = "";
    int n = snprintf(ret, NFT_CGROUP_NAME_SIZE, "%s%s", below, path);
    size_t skip = strspn(ret, "/"), len = strlen(ret);

    (void)n;
    memmove(ret, ret + skip, len - skip + 1);
}
