/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/origin_local.h */
#include "flow/origin_local.h"

#include <errno.h>
#include <string.h>

static int lookup(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                  struct origin *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct addr destination;

    (void)ctx;
    (void)peer;
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
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

const struct origin_ops origin_local_ops = {.lookup = lookup};
