/* SPDX-License-Identifier: GPL-2.0-or-later */
/* doctor/talk.h */
#include "doctor/talk.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include "base/fd.h"

int64_t talk_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* 0 or -ETIMEDOUT. */
static int await(int fd, short events, int64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = events};
    int64_t left;
    int n;

    do {
        left = deadline - talk_now();
        n = left > 0 ? poll(&p, 1, (int)left) : 0;
    } while (n < 0 && errno == EINTR);
    return n > 0 ? 0 : -ETIMEDOUT;
}

int talk_connect(const struct addr *a, int64_t deadline)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(a, &sa), size = sizeof(int);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;

    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&sa, len) < 0)
        error = errno;
    if (error == EINPROGRESS) {
        error = -await(fd, POLLOUT, deadline);
        if (error == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
            error = errno;
    }
    if (error == 0)
        return fd;
    fd_close(&fd);
    return -error;
}

int talk_send(int fd, const struct wire_writer *w, int64_t deadline)
{
    for (size_t pos = 0; pos < w->pos;) {
        ssize_t n = send(fd, w->data + pos, w->pos - pos, MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN) {
            int r = await(fd, POLLOUT, deadline);

            if (r < 0)
                return r;
        } else if (n < 0) {
            return -errno;
        } else {
            pos += (size_t)n;
        }
    }
    return 0;
}

int talk_receive(int fd, uint8_t *to, size_t want, int64_t deadline)
{
    for (size_t got = 0; got < want;) {
        ssize_t n = recv(fd, to + got, want - got, 0);
        int r = n == 0            ? -EPIPE
                : n > 0           ? 0
                : errno == EAGAIN ? await(fd, POLLIN, deadline)
                                  : -errno;

        if (r < 0)
            return r;
        got += n > 0 ? (size_t)n : 0;
    }
    return 0;
}
