/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/origin_socket.h */
#include "flow/origin_socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

/* linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h do not go together with
 * netinet/in.h. */
#define ORIGINAL_DST 80

/* The origin from what the kernel said, which is the listener's own address for a direct
 * connection. */
static int finish(const struct sockaddr_storage *sa, socklen_t len, const struct addr *local,
                  struct origin *ret)
{
    struct addr destination;
    int r = addr_from_sockaddr((const struct sockaddr *)sa, len, &destination);

    if (r < 0)
        return r;
    destination.scope = 0;
    if (addr_equal(&destination, local))
        return -ENOENT;
    memset(ret, 0, sizeof(*ret));
    ret->destination = destination;
    return 0;
}

static int lookup_nat(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                      struct origin *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    (void)ctx;
    (void)peer;
    if (getsockopt(fd, addr_is_v4(local) ? IPPROTO_IP : IPPROTO_IPV6, ORIGINAL_DST, &sa, &len) < 0)
        return -errno;
    return finish(&sa, len, local, ret);
}

static int lookup_local(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                        struct origin *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    (void)ctx;
    (void)peer;
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    return finish(&sa, len, local, ret);
}

static int lookup_either(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                         struct origin *ret)
{
    int r = lookup_local(ctx, fd, peer, local, ret);

    return r == -ENOENT ? lookup_nat(ctx, fd, peer, local, ret) : r;
}

const struct origin_ops origin_nat_ops = {.lookup = lookup_nat};
const struct origin_ops origin_local_ops = {.lookup = lookup_local};
const struct origin_ops origin_either_ops = {.lookup = lookup_either};
