/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/fd.h: descriptors closed and kept, socket options, listeners, messages with descriptors. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "addr.h"
#include "base/fd.h"

static unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* Runs `body` in a child; its return value is the exit status. No assertion of ours in there. */
static int in_child(int (*body)(void))
{
    int status;

    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(body());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void close_is_idempotent_and_keeps_errno(void **state)
{
    int fd = dup(STDIN_FILENO), same = fd;

    (void)state;
    errno = EXDEV;
    fd_close(&fd);
    assert_int_equal(fd, -1);
    assert_false(is_open(same));
    errno = EXDEV;
    fd_close(&fd);
    assert_int_equal(errno, EXDEV);
    fd = 1000000; /* not open: close() fails, and errno does not show it */
    fd_close(&fd);
    assert_int_equal(errno, EXDEV);
    assert_int_equal(fd, -1);
}

static int keep_some(void)
{
    int keep[4], other[6];

    for (unsigned i = 0; i < 6; i++)
        other[i] = dup(0);
    keep[2] = fcntl(0, F_DUPFD, 200);
    int between = fcntl(0, F_DUPFD, 150);

    keep[0] = other[4]; /* in no order, and one twice */
    keep[1] = other[1];
    keep[3] = other[4];
    fd_close_others(keep, 4);
    for (unsigned i = 0; i < 6; i++) {
        if (is_open(other[i]) != (i == 4 || i == 1))
            return 1;
    }
    if (!is_open(keep[2]) || is_open(between))
        return 2;
    for (int fd = 0; fd < 3; fd++) {
        if (!is_open(fd))
            return 3;
    }
    fd_close_others(NULL, 0);
    if (is_open(other[4]) || is_open(keep[2]) || !is_open(0) || !is_open(2))
        return 4;
    fd_close_others((int[]){0, 1, -1}, 3); /* the standard ones and none at all */
    return is_open(2) ? 0 : 5;
}

static void others_are_closed_and_the_kept_are_not(void **state)
{
    (void)state;
    assert_int_equal(in_child(keep_some), 0);
}

static int raise_limit(void)
{
    struct rlimit limit = {64, 300};

    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1;
    if (fd_hard_limit() != 300 || fd_raise_limit() != 300)
        return 2;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur != 300 || limit.rlim_max != 300)
        return 3;
    return fd_raise_limit() == 300 ? 0 : 4;
}

static void the_limit_is_raised_to_the_hard_one_only(void **state)
{
    (void)state;
    assert_int_equal(in_child(raise_limit), 0);
}

static int option(int fd, int level, int name)
{
    int v = -1;
    socklen_t len = sizeof(v);

    assert_int_equal(getsockopt(fd, level, name, &v, &len), 0);
    return v;
}

static struct linger linger_of(int fd)
{
    struct linger l;
    socklen_t len = sizeof(l);

    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len), 0);
    return l;
}

static int connect_to(const struct addr *at)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(at, &sa);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
    return fd;
}

static int take(int listener)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};

    assert_int_equal(poll(&p, 1, 20000), 1);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static void accepted_sockets_have_the_options_of_their_listener(void **state)
{
    struct addr at, bound;

    (void)state;
    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    int listener = fd_listen(&at, 0, &bound);

    assert_true(listener >= 0);
    assert_true(fcntl(listener, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(listener, F_GETFD) & FD_CLOEXEC);
    assert_true(bound.port != 0 && addr_same_ip(&at, &bound));
    int client = connect_to(&bound), fd = take(listener);

    assert_int_not_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    assert_int_not_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    assert_int_not_equal(option(fd, SOL_SOCKET, SO_OOBINLINE), 0);
    /* A dead peer is found in minutes, not in hours. */
    assert_in_range(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) +
                        option(fd, IPPROTO_TCP, TCP_KEEPINTVL) *
                            option(fd, IPPROTO_TCP, TCP_KEEPCNT),
                    30, 300);
    assert_int_equal(linger_of(fd).l_onoff, 1);
    assert_int_equal(linger_of(fd).l_linger, 0);
    close(fd);
    close(client);
    close(listener);
}

/* What a peer sees of close(). */
static int end_seen(bool reset)
{
    struct addr at, bound;
    char c;

    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    int listener = fd_listen(&at, 0, &bound);
    int client = connect_to(&bound), fd = take(listener);

    assert_int_equal(fd_reset_on_close(fd, reset), 0);
    close(fd);
    int n = (int)recv(client, &c, 1, 0);

    if (n < 0)
        n = -errno;
    close(client);
    close(listener);
    return n;
}

static void a_close_resets_or_does_not(void **state)
{
    (void)state;
    assert_int_equal(end_seen(true), -ECONNRESET);
    assert_int_equal(end_seen(false), 0);
    assert_int_equal(fd_reset_on_close(-1, true), -EBADF);
    assert_int_equal(fd_tcp_options(-1), -EBADF);
    assert_int_equal(fd_keepalive(-1), -EBADF);
}

static void a_port_is_shared_only_when_asked_for(void **state)
{
    struct addr at, first, second;
    unsigned before = open_fds();

    (void)state;
    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    int alone = fd_listen(&at, 0, &first);

    assert_true(alone >= 0);
    assert_int_equal(fd_listen(&first, 0, NULL), -EADDRINUSE);
    assert_int_equal(fd_listen(&first, FD_LISTEN_REUSE_PORT, NULL), -EADDRINUSE);

    int a = fd_listen(&at, FD_LISTEN_REUSE_PORT, &first),
        b = fd_listen(&first, FD_LISTEN_REUSE_PORT, &second);

    assert_true(a >= 0 && b >= 0);
    assert_true(addr_equal(&first, &second));
    assert_int_equal(fd_listen(&first, 0, NULL), -EADDRINUSE);
    close(a);
    close(b);
    close(alone);
    assert_int_equal(addr_parse("203.0.113.77:0", 0, &at), 0); /* not ours */
    assert_int_equal(fd_listen(&at, 0, NULL), -EADDRNOTAVAIL);
    assert_int_equal(open_fds(), before);
}

/* The IPv6 wildcard leaves IPv4 to others. */
static void an_ipv6_listener_is_ipv6_only(void **state)
{
    struct addr at, bound;

    (void)state;
    assert_int_equal(addr_parse("[::1]:0", 0, &at), 0);
    int fd = fd_listen(&at, 0, &bound);

    if (fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT) {
        print_message("skipped: no IPv6 on this machine\n");
        skip();
    }
    assert_true(fd >= 0);
    assert_int_not_equal(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 0);
    close(fd);
}

static void messages_carry_bytes_and_descriptors(void **state)
{
    unsigned before = open_fds();
    char text[16];
    int pair[2], pipes[8], got[8], kept[8];
    size_t n = 99;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    for (unsigned i = 0; i < 8; i += 2)
        assert_int_equal(pipe(pipes + i), 0);
    assert_int_equal(fd_send_message(pair[0], "abc", 3, pipes, 8), 0);
    assert_int_equal(fd_send_message(pair[0], "defg", 4, NULL, 0), 0);
    assert_int_equal(fd_recv_message(pair[1], text, sizeof(text), got, &n), 3);
    assert_memory_equal(text, "abc", 3);
    assert_int_equal(n, 8);
    for (unsigned i = 0; i < 8; i++)
        assert_true(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
    memcpy(kept, got, sizeof(kept));
    /* They are the same pipes. */
    assert_int_equal(write(pipes[1], "x", 1), 1);
    assert_int_equal(read(kept[0], text, 1), 1);
    assert_int_equal(fd_recv_message(pair[1], text, sizeof(text), got, &n), 4);
    assert_int_equal(n, 0);
    for (unsigned i = 0; i < 8; i++)
        close(pipes[i]);
    close(kept[0]);
    for (unsigned i = 1; i < 8; i++)
        close(kept[i]);

    assert_int_equal(fd_send_message(pair[0], "x", 1, pipes, 9), -EINVAL);
    close(pair[0]);
    assert_int_equal(fd_recv_message(pair[1], text, sizeof(text), NULL, NULL), 0);
    assert_int_equal(fd_send_message(pair[1], "x", 1, NULL, 0), -EPIPE); /* and no SIGPIPE */
    close(pair[1]);
    assert_int_equal(open_fds(), before);
}

static void unwanted_descriptors_are_closed(void **state)
{
    char text[4];
    int pair[2], fds[2], got[8];
    size_t n = 99;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(pipe(fds), 0);
    unsigned before = open_fds();

    assert_int_equal(fd_send_message(pair[0], "ab", 2, fds, 2), 0);
    assert_int_equal(fd_recv_message(pair[1], text, sizeof(text), NULL, &n), 2);
    assert_int_equal(n, 0);
    assert_int_equal(open_fds(), before);

    /* A message that is too long is refused as a whole, with what came along. */
    assert_int_equal(fd_send_message(pair[0], "abcdef", 6, fds, 2), 0);
    assert_int_equal(fd_recv_message(pair[1], text, sizeof(text), got, &n), -EMSGSIZE);
    assert_int_equal(n, 0);
    assert_int_equal(open_fds(), before);
    assert_int_equal(fd_send_message(pair[0], "gh", 2, NULL, 0), 0);
    assert_int_equal(fd_recv_message(pair[1], text, sizeof(text), got, &n), 2);
    assert_memory_equal(text, "gh", 2);
    for (unsigned i = 0; i < 2; i++) {
        close(fds[i]);
        close(pair[i]);
    }
}

static void a_full_queue_is_eagain_and_an_empty_one_too(void **state)
{
    char block[4096] = {0};
    int pair[2], r = 0;
    unsigned sent = 0;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
                     0);
    while ((r = fd_send_message(pair[0], block, sizeof(block), NULL, 0)) == 0)
        assert_true(++sent < 100000);
    assert_int_equal(r, -EAGAIN);
    assert_true(sent > 0);
    for (; sent > 0; sent--)
        assert_int_equal(fd_recv_message(pair[1], block, sizeof(block), NULL, NULL), sizeof(block));
    assert_int_equal(fd_recv_message(pair[1], block, sizeof(block), NULL, NULL), -EAGAIN);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(close_is_idempotent_and_keeps_errno),
        cmocka_unit_test(others_are_closed_and_the_kept_are_not),
        cmocka_unit_test(the_limit_is_raised_to_the_hard_one_only),
        cmocka_unit_test(accepted_sockets_have_the_options_of_their_listener),
        cmocka_unit_test(a_close_resets_or_does_not),
        cmocka_unit_test(a_port_is_shared_only_when_asked_for),
        cmocka_unit_test(an_ipv6_listener_is_ipv6_only),
        cmocka_unit_test(messages_carry_bytes_and_descriptors),
        cmocka_unit_test(unwanted_descriptors_are_closed),
        cmocka_unit_test(a_full_queue_is_eagain_and_an_empty_one_too),
    };

    return cmocka_run_group_tests_name("fd", tests, NULL, NULL);
}
