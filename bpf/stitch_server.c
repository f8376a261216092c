/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_server.h. One connection after the other, each to its end: so that what is reported is
 * all that was there. What is waited for has a limit.
 */
#include "bpf/stitch_server.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "addr.h"
#include "base/fd.h"
#include "bpf/stitch_stage.h"

#define PATIENCE_MS 1000
#define REQUEST_MAX (4 + 1 + 255 + 2)
#define ECHO_MAX    65536

const struct stitch_attempt stitch_attempts[] = {
    {.title = "a connection over IPv4", .to = "203.0.113.7:20001"},
    {.title = "a connection over IPv6",
     .to = "[2001:db8:5554::7]:20002",
     .v6 = true,
     .banner = true},
    {.title = "a connection to a name",
     .to = "198.18.3.7:20003",
     .name = "stitch.example",
     .banner = true},
    {.title = "a refusal", .to = "203.0.113.7:20004", .code = 5, .error = ECONNREFUSED},
    {.title = "a host that cannot be reached",
     .to = "[2001:db8:5554::7]:20005",
     .v6 = true,
     .code = 4,
     .error = EHOSTUNREACH},
};
const size_t stitch_n_attempts = sizeof(stitch_attempts) / sizeof(stitch_attempts[0]);

static bool receive(int fd, uint8_t *to, size_t n)
{
    return recv(fd, to, n, MSG_WAITALL) == (ssize_t)n;
}

/* What the attempt with this port has to ask for; its length. */
static size_t expected_request(const struct stitch_attempt *a, const struct addr *to, uint8_t *ret)
{
    size_t n = 0;

    ret[n++] = 5;
    ret[n++] = 1;
    ret[n++] = 0;
    if (a->name != NULL) {
        ret[n++] = 3;
        ret[n++] = (uint8_t)strlen(a->name);
        memcpy(ret + n, a->name, strlen(a->name));
        n += strlen(a->name);
    } else if (!a->v6) {
        ret[n++] = 1;
        memcpy(ret + n, to->ip + 12, 4);
        n += 4;
    } else {
        ret[n++] = 4;
        memcpy(ret + n, to->ip, 16);
        n += 16;
    }
    ret[n++] = (uint8_t)(to->port >> 8);
    ret[n++] = (uint8_t)to->port;
    return n;
}

/* Reads a request, which is as long as it says, and finds whose it is; NULL: nobody's. */
static const struct stitch_attempt *read_request(int fd)
{
    uint8_t request[REQUEST_MAX], expected[REQUEST_MAX];
    size_t len;

    if (!receive(fd, request, 5))
        return NULL;
    len = request[3] == 1 ? 10 : request[3] == 4 ? 22 : request[3] == 3 ? 7u + request[4] : 0;
    if (len == 0 || !receive(fd, request + 5, len - 5))
        return NULL;
    for (size_t i = 0; i < stitch_n_attempts; i++) {
        const struct stitch_attempt *a = &stitch_attempts[i];
        struct addr to;

        if (addr_parse(a->to, 0, &to) == 0 && expected_request(a, &to, expected) == len &&
            memcmp(expected, request, len) == 0)
            return a;
    }
    return NULL;
}

static void echo(int fd)
{
    static uint8_t data[ECHO_MAX];
    size_t used = 0;
    ssize_t n = 1;

    while (n > 0 && used < sizeof(data)) {
        n = recv(fd, data + used, sizeof(data) - used, 0);
        if (n > 0)
            used += (size_t)n;
    }
    /* Only after an orderly end; there is nothing to do about what the peer will not take. */
    for (size_t sent = 0; n == 0 && sent < used;) {
        ssize_t done = send(fd, data + sent, used - sent, MSG_NOSIGNAL);

        if (done <= 0)
            return;
        sent += (size_t)done;
    }
}

/* False: that was no handshake. */
static bool serve(int fd)
{
    static const uint8_t hello[3] = {5, 1, 0}, no_auth[2] = {5, 0};
    const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    uint8_t first[3], reply[10 + sizeof(STITCH_SERVER_BANNER)] = {5, 0, 0, 1};
    const struct stitch_attempt *a;
    size_t len = 10;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (!receive(fd, first, sizeof(first)) || memcmp(first, hello, sizeof(hello)) != 0 ||
        send(fd, no_auth, sizeof(no_auth), MSG_NOSIGNAL) != (ssize_t)sizeof(no_auth))
        return false;
    a = read_request(fd);
    if (a == NULL)
        return false;
    reply[1] = a->code;
    if (a->banner && a->code == 0) {
        memcpy(reply + len, STITCH_SERVER_BANNER, sizeof(STITCH_SERVER_BANNER) - 1);
        len += sizeof(STITCH_SERVER_BANNER) - 1;
    }
    if (send(fd, reply, len, MSG_NOSIGNAL) != (ssize_t)len)
        return false;
    if (a->code == 0)
        echo(fd);
    return true;
}

static void serve_all(int listener, struct stitch_server_report *report)
{
    int fd;

    while (listener >= 0 && (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        report->accepted++;
        fd_reset_on_close(fd, false); /* as the listener has it */
        if (!serve(fd))
            report->wrong++;
        close(fd);
    }
}

static int listen_on(const char *ip)
{
    struct addr at;
    int r = addr_parse(ip, STITCH_SERVER_PORT, &at);

    return r < 0 ? r : fd_listen(&at, 0, NULL);
}

static void tell(int control, int r)
{
    uint8_t byte = (uint8_t)(r < 0 ? 0x80 | (-r & 0x7f) : r);

    if (send(control, &byte, 1, MSG_NOSIGNAL) != 1 || r < 0)
        _exit(1);
}

void stitch_server(int control)
{
    struct stitch_server_report report = {0};
    struct pollfd p[3] = {{.fd = control, .events = POLLIN},
                          {.fd = -1, .events = POLLIN},
                          {.fd = -1, .events = POLLIN}};
    uint8_t byte;
    bool v6 = false;
    int r;

    r = unshare(CLONE_NEWNET) < 0 ? -errno : stage_lo_up();
    tell(control, r);
    if (recv(control, &byte, 1, 0) != 1)
        _exit(1);
    r = stage_addresses(STAGE_FAR, STAGE_FAR_V4, STAGE_FAR_V6, &v6);
    if (r == 0)
        r = p[1].fd = listen_on(STAGE_FAR_V4);
    if (r >= 0 && v6)
        r = p[2].fd = listen_on(STAGE_FAR_V6);
    tell(control, r < 0 ? r : v6);
    while (poll(p, 3, -1) > 0) {
        serve_all(p[1].fd, &report);
        serve_all(p[2].fd, &report);
        if (p[0].revents == 0)
            continue;
        if (recv(control, &byte, 1, 0) != 1 ||
            send(control, &report, sizeof(report), MSG_NOSIGNAL) < 0)
            break;
    }
    _exit(0);
}
