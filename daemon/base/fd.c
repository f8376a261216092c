/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/fd.h */
#include "base/fd.h"

#include <errno.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "addr.h"

#define MESSAGE_FDS 8
#define UDP_BACKLOG (4 * 1024 * 1024)

/* A dead peer is noticed after 2 hours of silence by the kernel's default; ours takes 3 minutes. */
#define KEEPALIVE_IDLE     60
#define KEEPALIVE_INTERVAL 30
#define KEEPALIVE_PROBES   4

void fd_close(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;

        close(*fd);
        errno = saved;
    }
    *fd = -1;
}

void fd_close_others(const int *keep, size_t n)
{
    unsigned from = 3;

    for (;;) {
        unsigned next = ~0u;

        for (size_t i = 0; i < n; i++) {
            if (keep[i] >= (int)from && (unsigned)keep[i] < next)
                next = (unsigned)keep[i];
        }
        if (next == ~0u)
            break;
        if (next > from)
            syscall(SYS_close_range, from, next - 1, 0u);
        from = next + 1;
    }
    syscall(SYS_close_range, from, ~0u, 0u);
}

uint64_t fd_raise_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = {limit.rlim_max, limit.rlim_max};

        if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
            limit = raised;
    }
    return limit.rlim_cur;
}

uint64_t fd_hard_limit(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) < 0 ? 1024 : limit.rlim_max;
}

int fd_reset_on_close(int fd, bool on)
{
    struct linger linger = {.l_onoff = on, .l_linger = 0};

    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0 ? -errno : 0;
}

static int set_int(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

int fd_tcp_options(int fd)
{
    int r = set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);

    if (r == 0)
        r = set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
    return r == 0 ? fd_reset_on_close(fd, true) : r;
}

int fd_keepalive(int fd)
{
    int r = set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);

    if (r == 0)
        r = set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE);
    if (r == 0)
        r = set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL);
    return r == 0 ? set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES) : r;
}

static int bind_here(int fd, const struct sockaddr_storage *at, socklen_t len, struct addr *ret_at)
{
    struct sockaddr_storage sa;

    if (bind(fd, (const struct sockaddr *)at, len) < 0)
        return -errno;
    if (!ret_at)
        return 0;
    len = sizeof(sa);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    return addr_from_sockaddr((struct sockaddr *)&sa, len, ret_at);
}

int fd_listen(const struct addr *at, unsigned flags, struct addr *ret_at)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(at, &sa);
    int r, fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    r = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (r == 0 && (flags & FD_LISTEN_REUSE_PORT))
        r = set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (r == 0 && (flags & FD_LISTEN_TRANSPARENT))
        r = sa.ss_family == AF_INET6 ? set_int(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
                                     : set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
    if (r == 0 && sa.ss_family == AF_INET6)
        r = set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    if (r == 0)
        r = fd_tcp_options(fd);
    if (r == 0)
        r = fd_keepalive(fd);
    if (r == 0)
        r = bind_here(fd, &sa, len, ret_at);
    if (r == 0 && listen(fd, 65535) < 0)
        r = -errno;
    if (r < 0) {
        fd_close(&fd);
        return r;
    }
    return fd;
}

int fd_listen_udp(const struct addr *at, struct addr *ret_at)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(at, &sa);
    bool v6 = sa.ss_family == AF_INET6;
    int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    int r, fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    r = set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (r == 0)
        r = set_int(fd, level, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 1);
    if (r == 0)
        r = set_int(fd, level, v6 ? IPV6_RECVORIGDSTADDR : IP_RECVORIGDSTADDR, 1);
    if (r == 0 && v6)
        r = set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    /* A burst waits here; beyond the limit only with privilege, and without it is fine, too. */
    if (r == 0 && set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, UDP_BACKLOG) < 0)
        set_int(fd, SOL_SOCKET, SO_RCVBUF, UDP_BACKLOG);
    if (r == 0)
        r = bind_here(fd, &sa, len, ret_at);
    if (r < 0) {
        fd_close(&fd);
        return r;
    }
    return fd;
}

int fd_send_message(int sock, const void *data, size_t len, const int *fds, size_t n_fds)
{
    struct iovec iov = {(void *)data, len};
    union {
        char space[CMSG_SPACE(sizeof(int) * MESSAGE_FDS)];
        struct cmsghdr align;
    } control;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds > MESSAGE_FDS)
        return -EINVAL;
    if (n_fds > 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    ssize_t n;

    do
        n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -EIO;
}

ssize_t fd_recv_message(int sock, void *data, size_t size, int *ret_fds, size_t *ret_n)
{
    struct iovec iov = {data, size};
    union {
        char space[CMSG_SPACE(sizeof(int) * MESSAGE_FDS)];
        struct cmsghdr align;
    } control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    size_t n_fds = 0;
    ssize_t n;

    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        for (size_t i = 0; i < got; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (ret_fds && n_fds < MESSAGE_FDS && !(msg.msg_flags & MSG_TRUNC))
                ret_fds[n_fds++] = fd;
            else
                close(fd);
        }
    }
    if (ret_n)
        *ret_n = n_fds;
    return msg.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}
