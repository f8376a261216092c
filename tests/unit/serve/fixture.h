/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of serve/: the server in a child process, asked over a socketpair; a client and a
 * target over real sockets in the test itself. A wait has a limit far above what it can take, and
 * only so that a failure is a failure and not a hang.
 */
#ifndef TESTS_UNIT_SERVE_FIXTURE_H
#define TESTS_UNIT_SERVE_FIXTURE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "addr.h"
#include "base/fd.h"
#include "base/loop.h"
#include "log.h"
#include "serve/serve.h"

#define WAIT_SECONDS 20
#define MS           INT64_C(1000000)

/* Raw bytes of a literal, without its NUL. */
#define BYTES(text) (text), sizeof(text) - 1

struct server {
    pid_t pid;
    int control;
    struct addr at;
    unsigned sockets;   /* it has open when nobody is connected */
    unsigned spare_fds; /* before the start: > 0 leaves the child only so many more descriptors */
};

struct control {
    struct loop *loop;
    struct serve *sv;
    int fd;
};

__attribute__((unused)) static void on_control(void *ctx, uint64_t ref, uint32_t events)
{
    struct control *c = ctx;
    char command;

    (void)ref;
    (void)events;
    if (read(c->fd, &command, 1) == 1 && command == 'c')
        (void)!write(c->fd, serve_counters(c->sv), sizeof(struct serve_counters));
    else
        loop_stop(c->loop);
}

/* Fills the holes below the highest descriptor, and limits the number to `n` above it. */
__attribute__((unused)) static int leave_spare_fds(unsigned n)
{
    int highest = 0, fd;

    for (int i = 0; i < 4096; i++) {
        if (fcntl(i, F_GETFD) >= 0)
            highest = i;
    }
    do
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && fd < highest);
    if (fd > highest)
        close(fd);

    struct rlimit limit = {(rlim_t)highest + 1 + n, (rlim_t)highest + 1 + n};

    return fd < 0 ? -1 : setrlimit(RLIMIT_NOFILE, &limit);
}

/* The child. Exits through everything that frees, so that a sanitizer sees a leak. */
__attribute__((unused)) static void serve_child(const struct serve_options *o, int control,
                                                unsigned spare_fds)
{
    struct control c = {.fd = control};
    struct addr at;
    char why[512] = "";

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that failed does not stop it */
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_LEVEL_ERROR);
    if (loop_create(serve_timers(o), &c.loop) < 0)
        exit(10);
    if (serve_create(c.loop, o, &c.sv, why, sizeof(why)) < 0) {
        fprintf(stderr, "serve_create: %s\n", why);
        exit(11);
    }
    loop_set_handler(c.loop, 1, on_control, &c);
    if (loop_add(c.loop, control, EPOLLIN, loop_ref(1, 0, 0)) < 0)
        exit(12);
    if (spare_fds > 0 && leave_spare_fds(spare_fds) < 0)
        exit(13);
    if (serve_address(c.sv, 0, &at) < 0 || write(control, &at, sizeof(at)) != sizeof(at))
        exit(14);
    if (loop_run(c.loop) < 0)
        exit(15);
    serve_destroy(c.sv);
    loop_destroy(c.loop);
    close(control);
    exit(0);
}

/* Sockets the server has open. */
__attribute__((unused)) static unsigned server_sockets(const struct server *s)
{
    char path[64], target[64];
    unsigned n = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)s->pid);
    DIR *d = opendir(path);

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        ssize_t len = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);

        if (len > 0) {
            target[len] = '\0';
            n += strncmp(target, "socket:", 7) == 0;
        }
    }
    closedir(d);
    return n;
}

/* Listens on 127.0.0.1:0 unless the options say otherwise. */
__attribute__((unused)) static void server_start(struct server *s, const struct serve_options *o)
{
    struct serve_options options = *o;
    struct addr at;
    int pair[2];

    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    if (options.n_listen == 0) {
        options.listen = &at;
        options.n_listen = 1;
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    fflush(stdout);
    fflush(stderr);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        close(pair[0]);
        serve_child(&options, pair[1], s->spare_fds);
    }
    close(pair[1]);
    s->control = pair[0];
    assert_int_equal(read(s->control, &s->at, sizeof(s->at)), sizeof(s->at));
    s->sockets = server_sockets(s);
}

__attribute__((unused)) static struct serve_counters server_counters(const struct server *s)
{
    struct serve_counters c;

    assert_int_equal(write(s->control, "c", 1), 1);
    assert_int_equal(read(s->control, &c, sizeof(c)), sizeof(c));
    return c;
}

/* And its child has freed everything and exited with 0. */
__attribute__((unused)) static void server_stop(struct server *s)
{
    int status;

    assert_int_equal(write(s->control, "s", 1), 1);
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    close(s->control);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Until no session is left, and no socket that was not there at the start. */
__attribute__((unused)) static void server_wait_idle(const struct server *s)
{
    for (unsigned i = 0; i < WAIT_SECONDS * 100; i++) {
        if (server_counters(s).active == 0 && server_sockets(s) == s->sockets)
            return;
        usleep(10000);
    }
    fail_msg("%llu sessions and %u sockets are left, of %u",
             (unsigned long long)server_counters(s).active, server_sockets(s), s->sockets);
}

__attribute__((unused)) static void set_patience(int fd)
{
    struct timeval tv = {WAIT_SECONDS, 0};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)), 0);
}

__attribute__((unused)) static int dial(const struct addr *to)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(to, &sa);
    int on = 1, fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    set_patience(fd);
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof(on)), 0);
    if (connect(fd, (struct sockaddr *)&sa, len) < 0)
        fail_msg("connect: %s", strerror(errno));
    return fd;
}

/* A blocking listener; `text` like "127.0.0.1:0". -1: this host has no such address. */
__attribute__((unused)) static int listen_on(const char *text, struct addr *ret_at)
{
    struct addr at;

    assert_int_equal(addr_parse(text, 0, &at), 0);
    int fd = fd_listen(&at, false, ret_at);

    if (fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT)
        return -1;
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    assert_int_equal(fd_reset_on_close(fd, false), 0);
    set_patience(fd);
    return fd;
}

__attribute__((unused)) static int take(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        fail_msg("accept: %s", strerror(errno));
    set_patience(fd);
    return fd;
}

__attribute__((unused)) static void put(int fd, const void *data, size_t len)
{
    ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

    if (n != (ssize_t)len)
        fail_msg("send: %zd of %zu: %s", n, len, strerror(errno));
}

__attribute__((unused)) static void put_slowly(int fd, const void *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        put(fd, (const char *)data + i, 1);
        usleep(500);
    }
}

__attribute__((unused)) static void expect(int fd, const void *data, size_t len)
{
    uint8_t buf[4096];
    size_t got = 0;

    assert_true(len <= sizeof(buf));
    while (got < len) {
        ssize_t n = recv(fd, buf + got, len - got, 0);

        if (n <= 0)
            fail_msg("recv: %zd after %zu of %zu bytes: %s", n, got, len,
                     n < 0 ? strerror(errno) : "end");
        got += (size_t)n;
    }
    assert_memory_equal(buf, data, len);
}

__attribute__((unused)) static void expect_end(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, 0);

    if (n != 0)
        fail_msg("recv: %zd (%s) instead of the end", n, n < 0 ? strerror(errno) : "a byte");
}

__attribute__((unused)) static void expect_reset(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, 0);

    if (n >= 0 || errno != ECONNRESET)
        fail_msg("recv: %zd (%s) instead of a reset", n, n < 0 ? strerror(errno) : "no error");
}

__attribute__((unused)) static void reset(int fd)
{
    assert_int_equal(fd_reset_on_close(fd, true), 0);
    close(fd);
}

/* SOCKS5 CONNECT to an address; returns its length. */
__attribute__((unused)) static size_t request5(uint8_t *buf, const struct addr *to)
{
    size_t n = 0;

    memcpy(buf, "\x05\x01\x00", 3);
    if (addr_is_v4(to)) {
        buf[3] = 1;
        memcpy(buf + 4, to->ip + 12, 4);
        n = 8;
    } else {
        buf[3] = 4;
        memcpy(buf + 4, to->ip, 16);
        n = 20;
    }
    buf[n++] = (uint8_t)(to->port >> 8);
    buf[n++] = (uint8_t)to->port;
    return n;
}

__attribute__((unused)) static size_t request5_name(uint8_t *buf, const char *name, uint16_t port)
{
    size_t len = strlen(name);

    memcpy(buf, "\x05\x01\x00\x03", 4);
    buf[4] = (uint8_t)len;
    memcpy(buf + 5, name, len);
    buf[5 + len] = (uint8_t)(port >> 8);
    buf[6 + len] = (uint8_t)port;
    return 7 + len;
}

/* `name` NULL: SOCKS4, else 4a. */
__attribute__((unused)) static size_t request4(uint8_t *buf, const struct addr *to,
                                               const char *user, const char *name)
{
    static const uint8_t marker[4] = {0, 0, 0, 1};
    size_t n = 8;

    buf[0] = 4;
    buf[1] = 1;
    buf[2] = (uint8_t)(to->port >> 8);
    buf[3] = (uint8_t)to->port;
    memcpy(buf + 4, name ? marker : to->ip + 12, 4);
    memcpy(buf + n, user, strlen(user) + 1);
    n += strlen(user) + 1;
    if (name) {
        memcpy(buf + n, name, strlen(name) + 1);
        n += strlen(name) + 1;
    }
    return n;
}

/* The granting reply, whose BND is the address the target sees. */
__attribute__((unused)) static void expect_granted5(int client, int target)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct addr bound;
    uint8_t reply[22];

    assert_int_equal(getpeername(target, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, &bound), 0);
    size_t n = request5(reply, &bound);

    reply[1] = 0;
    expect(client, reply, n);
}

/* VN 0, CD 0x5a, and six bytes that mean nothing here. */
__attribute__((unused)) static void expect_granted4(int client)
{
    char bound[6];

    expect(client, BYTES("\x00\x5a"));
    assert_int_equal(recv(client, bound, sizeof(bound), MSG_WAITALL), sizeof(bound));
}

/* A session through the server, both ends in the test's hands. */
__attribute__((unused)) static void open_session(const struct server *s, int listener,
                                                 const struct addr *to, int *ret_client,
                                                 int *ret_target)
{
    uint8_t buf[64];
    int client = dial(&s->at);

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    put(client, buf, request5(buf, to));
    *ret_target = take(listener);
    expect_granted5(client, *ret_target);
    *ret_client = client;
}

/* Both directions carry bytes. */
__attribute__((unused)) static void expect_joined(int client, int target)
{
    put(client, BYTES("from the client"));
    expect(target, BYTES("from the client"));
    put(target, BYTES("from the target"));
    expect(client, BYTES("from the target"));
}

/* A file only its owner may read; to be unlinked. */
__attribute__((unused)) static void write_file(char path[64], const void *data, size_t len)
{
    strcpy(path, "/tmp/undersock-test-XXXXXX");
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    close(fd);
}

#endif
