/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/account.h */
#include "bpf/account.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int info_of(int fd, struct tcp_info *ret)
{
    socklen_t len = sizeof(*ret);

    memset(ret, 0, sizeof(*ret));
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, ret, &len) < 0 ? -errno : 0;
}

int account_balance(int fd, bool exact, uint64_t *ret)
{
    struct tcp_info before, after;
    int queued = 0, r = info_of(fd, &before);

    for (unsigned i = 0; r == 0 && i < 8; i++) {
        if (ioctl(fd, SIOCOUTQ, &queued) < 0)
            return -errno;
        if (exact)
            r = info_of(fd, &after);
        if (r == 0 && (!exact || after.tcpi_bytes_acked == before.tcpi_bytes_acked)) {
            *ret = before.tcpi_bytes_acked + (uint64_t)queued;
            return 0;
        }
        before = after;
    }
    return r < 0 ? r : -EAGAIN;
}

/* Bytes received, less those that wait as `count` finds them (it returns how many, or -errno), at a
 * moment when no more came. */
static int received(int fd, int (*count)(int fd), uint64_t *ret)
{
    struct tcp_info before, after;
    int waiting = 0, r = info_of(fd, &before);

    for (unsigned i = 0; r == 0 && i < 8; i++) {
        waiting = count(fd);
        r = waiting < 0 ? waiting : info_of(fd, &after);
        if (r == 0 && after.tcpi_bytes_received == before.tcpi_bytes_received) {
            *ret = after.tcpi_bytes_received - (uint64_t)waiting;
            return 0;
        }
        before = after;
    }
    return r < 0 ? r : -EAGAIN;
}

static int count_none(int fd)
{
    char byte;

    if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0)
        return -EAGAIN;
    return errno == EAGAIN ? 0 : -errno;
}

static int count_queued(int fd)
{
    int queued = 0;

    return ioctl(fd, SIOCINQ, &queued) < 0 ? -errno : queued;
}

int account_received(int fd, uint64_t *ret)
{
    return received(fd, count_none, ret);
}

int account_handed_out(int fd, uint64_t *ret)
{
    return received(fd, count_queued, ret);
}

int account_cookie(int fd, uint64_t *ret)
{
    socklen_t len = sizeof(*ret);

    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret, &len) < 0 ? -errno : 0;
}

bool account_is_established(int fd)
{
    struct tcp_info info;

    return info_of(fd, &info) == 0 && info.tcpi_state == 1;
}
