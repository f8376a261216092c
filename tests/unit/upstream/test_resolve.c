/* SPDX-License-Identifier: GPL-2.0-or-later */
/* upstream/resolve.c: literals without a child, names by one, errors that name the upstream. */
#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/upstream/drive.h"
#include "upstream/upstream.h"

static struct config_upstream ups[3];
static struct config config;
static struct upstream *all;
static char why[512];

static void hop(unsigned i, enum config_scheme scheme, const char *host, uint16_t port)
{
    ups[i] = (struct config_upstream){.via = (int)i - 1, .url = {.scheme = scheme, .port = port}};
    snprintf(ups[i].name, sizeof(ups[i].name), "up%u", i);
    snprintf(ups[i].url.host, sizeof(ups[i].url.host), "%s", host);
}

static void nothing_is_left(unsigned fds)
{
    assert_int_equal(open_fds(), fds);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

/* Resolves the first `n`; no child and no descriptor is left over. */
static int resolve(unsigned n)
{
    unsigned before = open_fds();

    free(all);
    config = (struct config){.upstreams = ups, .n_upstreams = n};
    assert_int_equal(upstream_build(&config, 0, &all), 0);
    why[0] = '\0';
    int r = upstream_resolve(all, n, why, sizeof(why));

    nothing_is_left(before);
    return r;
}

static void literals_are_taken_as_they_are(void **state)
{
    struct addr want;

    (void)state;
    hop(0, SCHEME_SOCKS5, "203.0.113.5", 1080);
    hop(1, SCHEME_SOCKS5, "2001:db8::5", 65535);
    assert_int_equal(resolve(2), 0);
    assert_int_equal(all[0].hops[0].n_addrs, 1);
    assert_int_equal(addr_parse("203.0.113.5:1080", 0, &want), 0);
    assert_true(addr_equal(&all[0].hops[0].addrs[0], &want));
    assert_int_equal(all[1].hops[1].n_addrs, 1);
    assert_int_equal(addr_parse("[2001:db8::5]:65535", 0, &want), 0);
    assert_true(addr_equal(&all[1].hops[1].addrs[0], &want));
}

static void a_name_is_looked_up_by_a_child(void **state)
{
    (void)state;
    hop(0, SCHEME_SOCKS5, "localhost", 1081);
    if (resolve(1) < 0)
        fail_msg("%s", why);
    assert_in_range(all[0].hops[0].n_addrs, 1, UPSTREAM_ADDRS);
    for (unsigned i = 0; i < all[0].hops[0].n_addrs; i++) {
        assert_true(addr_is_loopback(&all[0].hops[0].addrs[i]));
        assert_int_equal(all[0].hops[0].addrs[i].port, 1081);
    }
    /* A second time does not add to the first. */
    unsigned n = all[0].hops[0].n_addrs;

    assert_int_equal(upstream_resolve(all, 1, why, sizeof(why)), 0);
    assert_int_equal(all[0].hops[0].n_addrs, n);
}

/* RFC 6761: never exists, whatever the resolver says otherwise. */
static void a_name_that_does_not_exist_is_named(void **state)
{
    (void)state;
    hop(0, SCHEME_SOCKS5, "203.0.113.5", 1080);
    hop(1, SCHEME_SOCKS5, "nowhere.invalid", 1080);
    assert_int_equal(resolve(2), -EHOSTUNREACH);
    assert_non_null(strstr(why, "upstream up1: "));
    assert_non_null(strstr(why, "\"nowhere.invalid\""));
    assert_null(strchr(why, '\n'));
}

/* Behind a hop that resolves names the name is its business; behind the others it is ours. */
static void a_name_behind_a_resolving_hop_is_left_to_it(void **state)
{
    static const struct {
        enum config_scheme scheme;
        int result;
    } cases[] = {
        {SCHEME_SOCKS5H, 0},
        {SCHEME_SOCKS4A, 0},
        {SCHEME_SOCKS5, -EHOSTUNREACH},
        {SCHEME_SOCKS4, -EHOSTUNREACH},
    };

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        hop(0, cases[i].scheme, "203.0.113.5", 1080);
        hop(1, SCHEME_SOCKS5, "nowhere.invalid", 1080);
        assert_int_equal(resolve(2), cases[i].result);
        if (cases[i].result == 0)
            assert_int_equal(all[1].hops[1].n_addrs, 0);
    }
}

static struct upstream_lookup *start(const char *first, const char *second)
{
    struct upstream_lookup *l = NULL;

    hop(0, SCHEME_SOCKS5, first, 1080);
    hop(1, SCHEME_SOCKS5, second, 1081);
    free(all);
    config = (struct config){.upstreams = ups, .n_upstreams = 2};
    assert_int_equal(upstream_build(&config, 0, &all), 0);
    why[0] = '\0';
    int r = upstream_lookup_start(all, 2, &l, why, sizeof(why));

    assert_int_equal(r, l ? 0 : 1);
    return l;
}

static int go_on(struct upstream_lookup *l)
{
    struct pollfd p = {.fd = upstream_lookup_fd(l), .events = POLLIN};
    int r;

    while ((r = upstream_lookup_continue(l, why, sizeof(why))) == 0)
        assert_int_equal(poll(&p, 1, 60000), 1);
    return r;
}

static void who_does_not_wait_is_told_by_the_descriptor(void **state)
{
    unsigned fds = open_fds();

    (void)state;
    assert_null(start("203.0.113.5", "203.0.113.6"));
    struct upstream_lookup *l = start("localhost", "localhost");

    assert_int_equal(go_on(l), 1);
    upstream_lookup_end(l);
    nothing_is_left(fds);
    for (unsigned i = 0; i < 2; i++) {
        assert_in_range(all[1].hops[i].n_addrs, 1, UPSTREAM_ADDRS);
        assert_true(addr_is_loopback(&all[1].hops[i].addrs[0]));
        assert_int_equal(all[1].hops[i].addrs[0].port, 1080 + i);
    }
    l = start("localhost", "nowhere.invalid");
    assert_int_equal(go_on(l), -EHOSTUNREACH);
    assert_non_null(strstr(why, "\"nowhere.invalid\""));
    upstream_lookup_end(l);
    nothing_is_left(fds);
    upstream_lookup_end(NULL);
}

static void it_can_be_ended_at_any_time(void **state)
{
    unsigned fds = open_fds();
    siginfo_t info;

    (void)state;
    struct upstream_lookup *l = start("localhost", "localhost");

    upstream_lookup_end(l);
    nothing_is_left(fds);
    l = start("localhost", "localhost");
    /* Whoever waits for all children has seen it first. */
    assert_int_equal(waitid(P_ALL, 0, &info, WEXITED), 0);
    assert_int_equal(go_on(l), 1);
    upstream_lookup_end(l);
    nothing_is_left(fds);
}

static void without_descriptors_it_fails_and_says_so(void **state)
{
    int fill[64], n = 0;

    (void)state;
    hop(0, SCHEME_SOCKS5, "localhost", 1080);
    config = (struct config){.upstreams = ups, .n_upstreams = 1};
    free(all);
    assert_int_equal(upstream_build(&config, 0, &all), 0);
    int highest = dup(STDIN_FILENO);

    close(highest);
    fflush(stdout);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit tight = {(rlim_t)highest + 1, (rlim_t)highest + 1};

        setrlimit(RLIMIT_NOFILE, &tight);
        while (n < 64 && (fill[n] = dup(STDIN_FILENO)) >= 0)
            n++;
        int r = upstream_resolve(all, 1, why, sizeof(why));

        _exit(r < 0 && strstr(why, "localhost") ? 0 : 1);
    }
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static int forget(void **state)
{
    (void)state;
    free(all);
    all = NULL;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(literals_are_taken_as_they_are),
        cmocka_unit_test(a_name_is_looked_up_by_a_child),
        cmocka_unit_test(a_name_that_does_not_exist_is_named),
        cmocka_unit_test(a_name_behind_a_resolving_hop_is_left_to_it),
        cmocka_unit_test(who_does_not_wait_is_told_by_the_descriptor),
        cmocka_unit_test(it_can_be_ended_at_any_time),
        cmocka_unit_test(without_descriptors_it_fails_and_says_so),
    };

    return cmocka_run_group_tests_name("resolve", tests, NULL, forget);
}
