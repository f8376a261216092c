/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/inject.h: IPPROTO_RAW sockets, which send and never receive (raw(7)). */
#include "flow/inject.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

/* linux/in6.h does not go together with netinet/in.h. */
#ifndef IPV6_HDRINCL
#define IPV6_HDRINCL 36
#endif

int injector_open(struct injector *ret)
{
    struct injector j = {.v4 = -1, .v6 = -1};
    int one = 1;

    j.v4 = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW);
    if (j.v4 < 0)
        return -errno;
    j.v6 = socket(AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW);
    if (j.v6 >= 0 && setsockopt(j.v6, IPPROTO_IPV6, IPV6_HDRINCL, &one, sizeof(one)) < 0)
        fd_close(&j.v6);
    *ret = j;
    return 0;
}

void injector_close(struct injector *j)
{
    fd_close(&j->v4);
    fd_close(&j->v6);
}

/* On the socket and not on the packet alone: a rule can restore from it what somebody else's rule
 * has overwritten. It rarely changes. */
static int set_mark(int fd, uint32_t *have, uint32_t mark)
{
    if (*have == mark)
        return 0;
    if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
        return -errno;
    *have = mark;
    return 0;
}

int injector_send(void *injector, const uint8_t *packet, size_t len, uint32_t mark,
                  uint32_t interface)
{
    struct injector *j = injector;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to = {.v6 = {.sin6_family = AF_UNSPEC}};
    bool v4 = len > 0 && packet[0] >> 4 == 4;
    socklen_t to_len = v4 ? sizeof(to.v4) : sizeof(to.v6);

    if (len < (v4 ? 20u : 40u))
        return -EINVAL;
    if (v4) {
        to.v4.sin_family = AF_INET;
        memcpy(&to.v4.sin_addr, packet + 16, 4);
    } else {
        to.v6.sin6_family = AF_INET6;
        memcpy(&to.v6.sin6_addr, packet + 24, 16);
        if (IN6_IS_ADDR_LINKLOCAL(&to.v6.sin6_addr))
            to.v6.sin6_scope_id = interface;
    }
    int r = set_mark(v4 ? j->v4 : j->v6, &j->mark[v4], mark);

    if (r < 0)
        return r;
    return sendto(v4 ? j->v4 : j->v6, packet, len, 0, &to.any, to_len) < 0 ? -errno : 0;
}
