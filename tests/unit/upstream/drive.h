/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of upstream/ and flow/: a loop turned by hand, and the other ends of its sockets in
 * the same process. What looks like a blocking call here (accept, expect, ...) turns the loop while
 * it waits, so a test reads like the conversation it has. A wait is bounded far above what it can
 * take: a failure must not be a hang.
 */
#ifndef UNDERSOCK_TESTS_UPSTREAM_DRIVE_H
#define UNDERSOCK_TESTS_UPSTREAM_DRIVE_H

#include <dirent.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "addr.h"
#include "base/fd.h"
#include "base/loop.h"

#define DRIVE_KIND  30
#define DRIVE_TURNS 20000 /* of about a millisecond */
#define MS          INT64_C(1000000)

/* Raw bytes of a literal, without its NUL. */
#define BYTES(text) (text), sizeof(text) - 1

struct drive {
    struct loop *loop;
    struct timer tick;
    bool stopped; /* the loop's clock is the test's own and stands still: see hold_rig.h */
};

static inline void drive_stop(void *ctx, uint64_t ref, uint32_t events)
{
    (void)ref;
    (void)events;
    loop_stop(((struct drive *)ctx)->loop);
}

/* The loop stops at a timer, after all events of its batch: no edge is lost between two turns. */
static inline void drive_turn(struct drive *d)
{
    int64_t delay = d->stopped ? 0 : MS;

    assert_int_equal(loop_timer_set(d->loop, &d->tick, delay, loop_ref(DRIVE_KIND, 0, 0)), 0);
    assert_int_equal(loop_run(d->loop), 0);
    if (d->stopped)
        poll(NULL, 0, 1); /* the kernel's turn */
}

static inline void drive_open(struct drive *d, uint32_t max_timers)
{
    *d = (struct drive){.loop = NULL};
    assert_int_equal(loop_create(max_timers + 1, &d->loop), 0);
    loop_set_handler(d->loop, DRIVE_KIND, drive_stop, d);
}

static inline void drive_close(struct drive *d)
{
    loop_timer_cancel(d->loop, &d->tick);
    loop_destroy(d->loop);
}

static inline unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* Listens on a port of its own on 127.0.0.1; never blocks, and closes in order. */
static inline int listen_here(struct addr *ret_at)
{
    struct addr at;

    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    int fd = fd_listen(&at, 0, ret_at);

    assert_true(fd >= 0);
    assert_int_equal(fd_reset_on_close(fd, false), 0);
    return fd;
}

/* An address that refuses: it was listened on a moment ago. */
static inline struct addr refusing(void)
{
    struct addr at;

    close(listen_here(&at));
    return at;
}

/* A connected client, not blocking; the connection may still be in the backlog. */
static inline int connect_here(const struct addr *to)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(to, &sa);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(fd_tcp_options(fd), 0);
    assert_int_equal(fd_reset_on_close(fd, false), 0);
    if (connect(fd, (struct sockaddr *)&sa, len) < 0)
        fail_msg("connect: %s", strerror(errno));
    return fd;
}

static inline int drive_accept(struct drive *d, int listener)
{
    for (unsigned i = 0; i < DRIVE_TURNS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0)
            return fd;
        assert_int_equal(errno, EAGAIN);
        drive_turn(d);
    }
    fail_msg("nobody connects");
    return -1;
}

/* The next byte or end: 1, 0, or -errno. Waits for it. */
static inline int drive_byte(struct drive *d, int fd, uint8_t *ret)
{
    for (unsigned i = 0; i < DRIVE_TURNS; i++) {
        ssize_t n = recv(fd, ret, 1, MSG_DONTWAIT);

        if (n >= 0)
            return (int)n;
        if (errno != EAGAIN)
            return -errno;
        drive_turn(d);
    }
    fail_msg("nothing comes");
    return 0;
}

static inline void drive_expect(struct drive *d, int fd, const void *data, size_t len)
{
    const uint8_t *want = data;

    for (size_t i = 0; i < len; i++) {
        uint8_t got;
        int n = drive_byte(d, fd, &got);

        if (n != 1)
            fail_msg("%s after %zu of %zu bytes", n < 0 ? strerror(-n) : "the end", i, len);
        if (got != want[i])
            fail_msg("byte %zu is 0x%02x, not 0x%02x", i, got, want[i]);
    }
}

/* 0: FIN comes next; ECONNRESET: a reset. */
static inline void drive_expect_end(struct drive *d, int fd, int error)
{
    uint8_t c;
    int n = drive_byte(d, fd, &c);

    if (n != -error)
        fail_msg("%s instead of %s",
                 n < 0 ? strerror(-n)
                 : n   ? "a byte"
                       : "FIN",
                 error ? strerror(error) : "FIN");
}

static inline void put(int fd, const void *data, size_t len)
{
    ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

    if (n != (ssize_t)len)
        fail_msg("send: %zd of %zu: %s", n, len, strerror(errno));
}

static inline int outstanding(int fd)
{
    int n = 0;

    assert_int_equal(ioctl(fd, SIOCOUTQ, &n), 0);
    return n;
}

/* Sends what the other end has acknowledged and the loop has had the chance to see. */
static inline void drive_put(struct drive *d, int fd, const void *data, size_t len)
{
    put(fd, data, len);
    for (unsigned i = 0; outstanding(fd) > 0; i++) {
        assert_true(i < DRIVE_TURNS);
        drive_turn(d);
    }
    drive_turn(d);
}

static inline void reset(int fd)
{
    assert_int_equal(fd_reset_on_close(fd, true), 0);
    close(fd);
}

static inline int ignore_sigpipe(void **state)
{
    (void)state;
    return signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0;
}

#endif
