/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/listeners.c: rows that share a port, ports that stay, and ports that are somebody else's.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "keeper/listeners.h"

static struct listeners *pool;
static char why[256];
static unsigned fds;

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

static int set_up(void **state)
{
    (void)state;
    fds = open_fds();
    return listeners_create(&pool);
}

static int tear_down(void **state)
{
    (void)state;
    listeners_destroy(pool);
    pool = NULL;
    return open_fds() == fds ? 0 : -1;
}

static struct capture_policy policy(const char *name, enum capture_hook hook)
{
    struct capture_policy p = {.hook = hook};

    snprintf(p.name, sizeof(p.name), "%s", name);
    return p;
}

static void provide(struct capture_policy *p, unsigned rows, uint16_t port)
{
    if (listeners_provide(pool, p, rows, port, why, sizeof(why)) < 0)
        fail_msg("%s", why);
}

static bool have_ipv6(void)
{
    struct addr at;

    assert_int_equal(addr_parse("[::1]:0", 0, &at), 0);
    int fd = fd_listen(&at, 0, NULL);
    bool have = fd >= 0;

    fd_close(&fd);
    return have;
}

/* How many of a family; each row of 0..n-1 once; all on the policy's port. */
static unsigned rows(const struct capture_policy *p, bool v4)
{
    unsigned n = 0, seen = 0;

    for (struct listener *l = NULL; (l = listeners_next(pool, p, l));) {
        if (l->v4 != v4)
            continue;
        assert_int_equal(l->at.port, v4 ? p->port_v4 : p->port_v6);
        assert_true(addr_is_loopback(&l->at));
        assert_int_equal(addr_is_v4(&l->at), v4);
        assert_int_equal(seen & 1u << l->row, 0);
        seen |= 1u << l->row;
        n++;
    }
    assert_int_equal(seen, (1u << n) - 1);
    return n;
}

static unsigned count(const struct capture_policy *p)
{
    return rows(p, true) + rows(p, false);
}

/* Connections to a port of ours all end in one of its rows. */
static void expect_served(const struct capture_policy *p)
{
    for (unsigned i = 0; i < 8; i++) {
        struct sockaddr_storage sa;
        struct addr at;
        struct pollfd poll_fds[16];
        nfds_t n = 0;
        char text[32];

        snprintf(text, sizeof(text), "127.0.0.1:%u", p->port_v4);
        assert_int_equal(addr_parse(text, 0, &at), 0);
        socklen_t len = addr_to_sockaddr(&at, &sa);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
        for (struct listener *l = NULL; (l = listeners_next(pool, p, l)) && n < 16;)
            poll_fds[n++] = (struct pollfd){.fd = l->fd, .events = POLLIN};
        assert_int_equal(poll(poll_fds, n, 20000), 1);
        for (nfds_t k = 0; k < n; k++) {
            if (poll_fds[k].revents)
                close(accept4(poll_fds[k].fd, NULL, NULL, SOCK_CLOEXEC));
        }
        close(fd);
    }
}

static void rows_of_a_capture_share_a_port(void **state)
{
    struct capture_policy p = policy("host", CAPTURE_OUTPUT);

    (void)state;
    provide(&p, 3, 0);
    assert_int_not_equal(p.port_v4, 0);
    assert_int_equal(rows(&p, true), 3);
    if (have_ipv6()) {
        assert_int_equal(p.port_v6, p.port_v4);
        assert_int_equal(rows(&p, false), 3);
    } else {
        assert_int_equal(p.port_v6, 0);
        assert_int_equal(rows(&p, false), 0);
    }
    expect_served(&p);
}

static void a_reload_keeps_ports_and_sockets(void **state)
{
    struct capture_policy p = policy("host", CAPTURE_OUTPUT), again = p;
    int before[16];
    unsigned n = 0, still = 0;

    (void)state;
    provide(&p, 2, 0);
    for (struct listener *l = NULL; (l = listeners_next(pool, &p, l));)
        before[n++] = l->fd;
    listeners_unmark(pool);
    provide(&again, 4, 4711); /* more rows, and another port wished for */
    listeners_prune(pool);
    assert_int_equal(again.port_v4, p.port_v4);
    assert_int_equal(again.port_v6, p.port_v6);
    assert_int_equal(rows(&again, true), 4);
    for (struct listener *l = NULL; (l = listeners_next(pool, &again, l));)
        for (unsigned i = 0; i < n; i++)
            still += l->fd == before[i];
    assert_int_equal(still, n);

    /* Fewer: the rows that there are stay, for their connections are already in them. */
    listeners_unmark(pool);
    provide(&again, 1, 0);
    listeners_prune(pool);
    assert_int_equal(rows(&again, true), 4);
    expect_served(&again);
}

static void captures_are_told_apart_by_name_and_hook(void **state)
{
    struct capture_policy a = policy("a", CAPTURE_OUTPUT), b = policy("b", CAPTURE_OUTPUT),
                          c = policy("a", CAPTURE_CGROUP), d = policy("d", CAPTURE_OUTPUT);

    (void)state;
    provide(&a, 1, 0);
    provide(&b, 2, 0);
    provide(&c, 3, 0);
    assert_true(a.port_v4 != b.port_v4 && b.port_v4 != c.port_v4 && a.port_v4 != c.port_v4);
    assert_int_equal(rows(&a, true), 1);
    assert_int_equal(rows(&b, true), 2);
    assert_int_equal(rows(&c, true), 3);
    assert_null(listeners_next(pool, &d, NULL));
}

/* Marks of workers of an earlier configuration name them. */
static void numbers_stay(void **state)
{
    struct capture_policy a = policy("a", CAPTURE_OUTPUT), b = policy("b", CAPTURE_GATEWAY),
                          c = policy("c", CAPTURE_OUTPUT), udp = policy("u", CAPTURE_OUTPUT);

    (void)state;
    if (listeners_provide_udp(pool, &udp, 1, 0, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    provide(&a, 1, 0);
    provide(&b, 1, 0);
    assert_int_equal(a.early, 0);
    assert_int_equal(b.early, 1);
    /* In another order, with one more, and without the first: that has its number to the end. */
    a.early = b.early = 9;
    listeners_unmark(pool);
    provide(&c, 1, 0);
    provide(&b, 3, 0);
    listeners_prune(pool);
    assert_int_equal(b.early, 1);
    assert_int_equal(c.early, 2);
    for (struct listener *l = NULL; (l = listeners_next(pool, &b, l));)
        assert_int_equal(l->number, 1);
    provide(&a, 1, 0);
    assert_int_equal(a.early, 0);
}

static void what_is_not_wanted_any_more_is_closed(void **state)
{
    struct capture_policy a = policy("a", CAPTURE_OUTPUT), b = policy("b", CAPTURE_OUTPUT);
    struct addr at;
    char text[32];

    (void)state;
    provide(&a, 2, 0);
    provide(&b, 2, 0);
    snprintf(text, sizeof(text), "127.0.0.1:%u", a.port_v4);
    assert_int_equal(addr_parse(text, 0, &at), 0);
    assert_int_equal(fd_listen(&at, 0, NULL), -EADDRINUSE);
    listeners_unmark(pool);
    provide(&b, 2, 0);
    listeners_prune(pool);
    assert_null(listeners_next(pool, &a, NULL));
    assert_int_equal(rows(&b, true), 2);
    int fd = fd_listen(&at, 0, NULL); /* the port is free again */

    assert_true(fd >= 0);
    close(fd);
    listeners_prune(pool); /* all marked: nothing goes */
    assert_int_equal(rows(&b, true), 2);
}

/* A reload that failed had added rows: they go, the ones at work stay. */
static void single_listeners_can_be_wanted(void **state)
{
    struct capture_policy a = policy("a", CAPTURE_OUTPUT);
    int at_work[16];
    unsigned n = 0;

    (void)state;
    provide(&a, 2, 0);
    for (struct listener *l = NULL; (l = listeners_next(pool, &a, l));)
        at_work[n++] = l->fd;
    listeners_unmark(pool);
    provide(&a, 5, 0);
    listeners_unmark(pool);
    for (unsigned i = 0; i < n; i++)
        listeners_want(pool, at_work[i]);
    listeners_want(pool, -1);
    listeners_prune(pool);
    assert_int_equal(rows(&a, true), 2);
    assert_int_equal(count(&a), n);
    expect_served(&a); /* nobody else shares the port's connections */
}

/* A port that is free now, with room for a few steps above it. */
static uint16_t free_port(void)
{
    for (uint16_t port = 34000; port < 60000; port += 7) {
        bool all = true;

        for (unsigned step = 0; step < 4 && all; step++) {
            for (unsigned v4 = 0; v4 < 2; v4++) {
                struct addr at;
                char text[32];

                snprintf(text, sizeof(text), v4 ? "127.0.0.1:%u" : "[::1]:%u", port + 64 * step);
                assert_int_equal(addr_parse(text, 0, &at), 0);
                int fd = fd_listen(&at, 0, NULL);

                all &= fd != -EADDRINUSE;
                if (fd >= 0)
                    close(fd);
            }
        }
        if (all)
            return port;
    }
    fail_msg("no free port");
    return 0;
}

static int occupy(bool v4, unsigned port, unsigned flags)
{
    struct addr at;
    char text[32];

    snprintf(text, sizeof(text), v4 ? "127.0.0.1:%u" : "[::1]:%u", port);
    assert_int_equal(addr_parse(text, 0, &at), 0);
    return fd_listen(&at, flags, NULL);
}

static void the_wished_port_is_taken_when_it_is_free(void **state)
{
    struct capture_policy p = policy("host", CAPTURE_OUTPUT);
    uint16_t port = free_port();

    (void)state;
    provide(&p, 2, port);
    assert_int_equal(p.port_v4, port);
    assert_int_equal(rows(&p, true), 2);
}

/* Somebody listens there, or is willing to share: we do not join them, and take the next one. */
static void a_port_of_somebody_else_is_left_to_them(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags <= FD_LISTEN_REUSE_PORT; flags += FD_LISTEN_REUSE_PORT) {
        struct capture_policy p = policy(flags ? "shared" : "alone", CAPTURE_OUTPUT);
        uint16_t port = free_port();
        int first = occupy(true, port, flags);
        int second = occupy(true, port + 64, flags);

        assert_true(first >= 0 && second >= 0);
        provide(&p, 2, port);
        assert_int_equal(p.port_v4, port + 128);
        assert_int_equal(rows(&p, true), 2);
        expect_served(&p);
        close(first);
        close(second);
    }
}

static void a_port_that_is_taken_in_ipv6_only_is_not_used_either(void **state)
{
    struct capture_policy p = policy("host", CAPTURE_OUTPUT);
    uint16_t port = free_port();
    int other = occupy(false, port, 0);

    (void)state;
    if (other < 0) {
        print_message("skipped: no IPv6 on this machine\n");
        skip();
    }
    provide(&p, 1, port);
    assert_int_equal(p.port_v4, port + 64);
    assert_int_equal(p.port_v6, port + 64);
    close(other);
}

static void a_wish_beyond_the_last_port_finds_another(void **state)
{
    struct capture_policy p = policy("host", CAPTURE_OUTPUT);
    int other = occupy(true, 65535, 0);

    (void)state;
    provide(&p, 1, 65535);
    if (other >= 0)
        assert_int_not_equal(p.port_v4, 65535);
    assert_int_not_equal(p.port_v4, 0);
    assert_int_equal(rows(&p, true), 1);
    fd_close(&other);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        FRESH(rows_of_a_capture_share_a_port),
        FRESH(a_reload_keeps_ports_and_sockets),
        FRESH(captures_are_told_apart_by_name_and_hook),
        FRESH(numbers_stay),
        FRESH(what_is_not_wanted_any_more_is_closed),
        FRESH(single_listeners_can_be_wanted),
        FRESH(the_wished_port_is_taken_when_it_is_free),
        FRESH(a_port_of_somebody_else_is_left_to_them),
        FRESH(a_port_that_is_taken_in_ipv6_only_is_not_used_either),
        FRESH(a_wish_beyond_the_last_port_finds_another),
    };

    return cmocka_run_group_tests_name("listeners", tests, NULL, NULL);
}
