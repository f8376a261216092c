/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/origin.h: the origin of an accepted socket, out of the map that us_sockops fills. */
#include "bpf/origin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "bpf_abi.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

/* The kernel's own "not supported", which has no name in user space. */
#define KERNEL_ENOTSUPP 524

_Static_assert(ABI_KNOWN_PID == ORIGIN_PID && ABI_KNOWN_UID == ORIGIN_UID &&
                   ABI_KNOWN_CGROUP == ORIGIN_CGROUP && ABI_KNOWN_COMM == ORIGIN_COMM,
               "the bits are handed on as they are");
_Static_assert(sizeof(((struct origin *)0)->comm) == ABI_COMM_LEN, "comm");

struct bpf_origins {
    int map_fd;
    uint64_t netns_cookie;
};

int bpf_netns_cookie(int sock, uint64_t *ret)
{
    uint64_t cookie;
    socklen_t len = sizeof(cookie);

    if (getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) < 0)
        return -errno;
    *ret = cookie;
    return 0;
}

int bpf_own_netns_cookie(uint64_t *ret)
{
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int r;

    if (sock < 0)
        return -errno;
    r = bpf_netns_cookie(sock, ret);
    close(sock);
    return r;
}

/* One call where the kernel can (LRU hashes: 5.14), else two. */
static int take(int map_fd, const struct abi_origin_key *key, struct abi_origin *ret)
{
    int r = bpf_map_lookup_and_delete_elem(map_fd, key, ret);

    if (r != -EINVAL && r != -EOPNOTSUPP && r != -KERNEL_ENOTSUPP)
        return r;
    r = bpf_map_lookup_elem(map_fd, key, ret);
    if (r == 0)
        bpf_map_delete_elem(map_fd, key);
    return r;
}

void bpf_origin_decode(const struct abi_origin *found, struct origin *ret)
{
    *ret = (struct origin){
        .destination = {.scope = found->scope, .port = found->port},
        .cgroup_id = found->cgroup_id,
        .pid = found->pid,
        .uid = found->uid,
        .known = found->known,
    };
    memcpy(ret->destination.ip, found->ip, sizeof(found->ip));
    memcpy(ret->comm, found->comm, sizeof(found->comm));
    ret->comm[sizeof(ret->comm) - 1] = '\0';
}

static int lookup(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                  struct origin *ret)
{
    const struct bpf_origins *origins = ctx;
    struct abi_origin_key key = {
        .netns_cookie = origins->netns_cookie,
        .port = peer->port,
        .listener_port = local->port,
    };
    struct abi_origin found;
    int r;

    (void)fd;
    memcpy(key.ip, peer->ip, sizeof(key.ip));
    r = take(origins->map_fd, &key, &found);
    if (r < 0)
        return r;
    bpf_origin_decode(&found, ret);
    return 0;
}

static const struct origin_ops ops = {.lookup = lookup};

int bpf_origin_open(int map_fd, uint64_t netns_cookie, struct origin_source *ret)
{
    struct bpf_origins *origins = calloc(1, sizeof(*origins));

    if (origins == NULL)
        return -ENOMEM;
    origins->map_fd = map_fd;
    origins->netns_cookie = netns_cookie;
    ret->ops = &ops;
    ret->ctx = origins;
    return 0;
}

void bpf_origin_close(struct origin_source *source)
{
    if (source == NULL)
        return;
    free(source->ctx);
    source->ops = NULL;
    source->ctx = NULL;
}
