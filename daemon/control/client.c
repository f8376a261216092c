/* SPDX-License-Identifier: GPL-2.0-or-later */
/* control/client.h */
#include "control/client.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/fd.h"

#define PATIENCE 30 /* seconds without a record */

static size_t size_of(unsigned type)
{
    switch (type) {
    case MESSAGE_STATUS_REPLY:
        return sizeof(struct message_status_reply);
    case MESSAGE_FLOW:
        return sizeof(struct message_flow);
    case MESSAGE_CAPTURE:
        return sizeof(struct message_capture);
    case MESSAGE_UPSTREAM:
        return sizeof(struct message_upstream);
    case MESSAGE_STITCH:
        return sizeof(struct message_stitch);
    case MESSAGE_TEXT:
        return sizeof(struct message_text);
    case MESSAGE_END:
        return sizeof(struct message_end);
    case MESSAGE_HELLO:
        return sizeof(struct message_hello);
    default:
        return 0;
    }
}

static int open_socket(const char *path, char *why, size_t why_size)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = PATIENCE};

    if (strlen(path) >= sizeof(sa.sun_path)) {
        snprintf(why, why_size, "control socket: the path is too long: %.200s", path);
        return -ENAMETOOLONG;
    }
    memcpy(sa.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        int r = -errno;

        snprintf(why, why_size, "no daemon answers on %s (%s); %s", path, strerror(-r),
                 r == -EACCES ? "be root or a member of the group undersock"
                              : "start it: undersock daemon, or systemctl start undersock");
        fd_close(&fd);
        return r;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

int control_ask(const char *path, enum message_type type,
                void (*record)(void *ctx, const union message *m), void *ctx, char *why,
                size_t why_size)
{
    struct message_header question = MESSAGE_HEADER(type, sizeof(question));
    int fd = open_socket(path, why, why_size);
    unsigned ends_due = 1;
    int result = 0;

    if (fd < 0)
        return fd;
    int r = fd_send_message(fd, &question, sizeof(question), NULL, 0);

    /* To the end of file, which comes when everybody who was asked has answered, or has ended. */
    while (r == 0) {
        union message m;
        ssize_t n = fd_recv_message(fd, &m, sizeof(m), NULL, NULL);

        if (n == 0 && ends_due == 0)
            break;
        if (n < (ssize_t)sizeof(m.header) || m.header.version != MESSAGE_VERSION ||
            (size_t)n != size_of(m.header.type)) {
            r = n < 0 ? (int)n : n == 0 ? -EPIPE : -EPROTO;
            break;
        }
        if (m.header.type == MESSAGE_HELLO)
            ends_due = m.hello.workers;
        if (m.header.type == MESSAGE_END) {
            ends_due -= ends_due > 0; /* those who drain are not due, and may have an answer */
            if (m.end.result != 0)
                result = m.end.result;
        } else {
            record(ctx, &m);
        }
    }
    fd_close(&fd);
    if (r < 0)
        snprintf(why, why_size, "the daemon's answer is incomplete: %s", strerror(-r));
    return r < 0 ? r : result;
}
