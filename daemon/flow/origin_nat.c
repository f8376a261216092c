/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/origin_nat.h */
#include "flow/origin_nat.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

/* linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h do not go together with
 * netinet/in.h. */
#define ORIGINAL_DST 80

static int lookup(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                  struct origin *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct addr destination;

    (void)ctx;
    (void)peer;
    if (getsockopt(fd, addr_is_v4(local) ? IPPROTO_IP : IPPROTO_IPV6, ORIGINAL_DST, &sa, &len) < 0)
        return -errno;
    int r = addr_from_sockaddr((struct sockaddr *)&sa, len, &destination);

    if (r < 0)
        return r;
    destination.scope = 0;
    if (addr_equal(&destination, local))
        return -ENOENT;
    memset(ret, 0, sizeof(*ret));
    ret->destination = destination;
    return 0;
}

const struct origin_ops origin_nat_ops = {.lookup = lookup};
