/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli/demo_web.h. HTTP/1.1 as far as one client that we start ourselves needs it: the method is not
 * looked at, each connection carries one request. A client that stops reading or writing is given
 * up, so that the next one is served.
 */
#include "cli/demo_web.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "addr.h"
#include "base/fd.h"

#define REQUEST_MAX 4096
#define PATIENCE    20   /* seconds that a client may be silent or not read */
#define SLOW_LINES  256u /* so many at a time ... */
#define SLOW_PAUSE  100  /* ... and so many milliseconds in between */
#define LISTENERS   4

void demo_web_line(unsigned i, char ret[DEMO_WEB_LINE + 1])
{
    snprintf(ret, DEMO_WEB_LINE + 1, "line %08u of %08u %037u\n", i + 1, DEMO_WEB_LINES,
             i * 2654435761u);
}

void demo_web_page(const char *own, const char *peer, char *ret, size_t size)
{
    snprintf(ret, size, "Hello from the web server at %s. You come from %s.\n", own, peer);
}

static bool send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

static bool send_head(int fd, const char *status, size_t length)
{
    char head[256];
    int n = snprintf(head, sizeof(head),
                     "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
                     "Connection: close\r\n\r\n",
                     status, length);

    return send_all(fd, head, (size_t)n);
}

static bool send_text(int fd, const char *status, const char *text)
{
    return send_head(fd, status, strlen(text)) && send_all(fd, text, strlen(text));
}

static bool send_page(int fd)
{
    char own[ADDR_STRLEN] = "?", peer[ADDR_STRLEN] = "?", page[512];
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct addr a;

    if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0 &&
        addr_from_sockaddr((struct sockaddr *)&sa, len, &a) == 0)
        addr_format_ip(&a, own);
    len = sizeof(sa);
    if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0 &&
        addr_from_sockaddr((struct sockaddr *)&sa, len, &a) == 0)
        addr_format_ip(&a, peer);
    demo_web_page(own, peer, page, sizeof(page));
    return send_text(fd, "200 OK", page);
}

static bool send_lines(int fd, unsigned from, unsigned n)
{
    char lines[SLOW_LINES * DEMO_WEB_LINE + 1];

    for (unsigned i = 0; i < n; i++)
        demo_web_line(from + i, lines + (size_t)i * DEMO_WEB_LINE);
    return send_all(fd, lines, (size_t)n * DEMO_WEB_LINE);
}

/* The last lines are kept back until the demo says so: the download cannot end before it was seen.
 */
static bool send_large(int fd, int hold)
{
    bool slow = true, sent = send_head(fd, "200 OK", (size_t)DEMO_WEB_LINES * DEMO_WEB_LINE);
    unsigned i = 0;

    while (sent && i < DEMO_WEB_LINES) {
        if (slow) {
            struct pollfd p = {.fd = hold, .events = POLLIN};
            char word;

            if (poll(&p, 1, SLOW_PAUSE) > 0) {
                if (read(hold, &word, 1) <= 0)
                    _exit(0);
                slow = false;
            } else if (i + SLOW_LINES >= DEMO_WEB_LINES) {
                continue;
            }
        }
        sent = send_lines(fd, i, SLOW_LINES);
        i += SLOW_LINES;
    }
    return sent;
}

_Static_assert(DEMO_WEB_LINES % SLOW_LINES == 0, "the last portion is a whole one");

/* The request as far as its empty line, NUL-terminated. */
static bool read_request(int fd, char *buf, size_t size)
{
    size_t have = 0;

    buf[0] = '\0';
    while (!strstr(buf, "\r\n\r\n")) {
        ssize_t n = have + 1 < size ? recv(fd, buf + have, size - 1 - have, 0) : 0;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        have += (size_t)n;
        buf[have] = '\0';
    }
    return true;
}

static void answer(int fd, int hold)
{
    struct timeval patience = {.tv_sec = PATIENCE};
    char request[REQUEST_MAX], path[64] = "";
    bool sent = false;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (read_request(fd, request, sizeof(request)) && sscanf(request, "%*s %63s", path) == 1) {
        if (strcmp(path, "/") == 0)
            sent = send_page(fd);
        else if (strcmp(path, "/large") == 0)
            sent = send_large(fd, hold);
        else
            sent = send_text(fd, "404 Not Found", "There are / and /large.\n");
    }
    /* The whole answer is on its way: end in order. Else the listener's setting holds: close()
     * resets. */
    if (sent && fd_reset_on_close(fd, false) == 0 && shutdown(fd, SHUT_WR) == 0) {
        while (recv(fd, request, sizeof(request), 0) > 0)
            ;
    }
    close(fd);
}

_Noreturn void demo_web_serve(const int *listeners, size_t n, int hold)
{
    struct pollfd p[LISTENERS + 1] = {{.fd = hold}};

    n = n < LISTENERS ? n : LISTENERS;
    for (size_t i = 0; i < n; i++)
        p[i + 1] = (struct pollfd){.fd = listeners[i], .events = POLLIN};
    for (;;) {
        if (poll(p, (nfds_t)n + 1, -1) < 0 && errno != EINTR)
            _exit(1);
        if (p[0].revents & (POLLHUP | POLLERR))
            _exit(0);
        for (size_t i = 1; i <= n; i++) {
            int fd = p[i].revents ? accept4(p[i].fd, NULL, NULL, SOCK_CLOEXEC) : -1;

            if (fd >= 0)
                answer(fd, hold);
        }
    }
}
