/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fixture.h"

static int listener;
static struct addr target_at;

static int setup(void **state)
{
    (void)state;
    listener = listen_on("127.0.0.1:0", &target_at);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(listener);
    return 0;
}

static void test_half_close_each_way(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    int end[2];

    (void)state;
    server_start(&s, &o);
    for (unsigned first = 0; first < 2; first++) {
        open_session(&s, listener, &target_at, &end[0], &end[1]);
        put(end[first], BYTES("last words"));
        shutdown(end[first], SHUT_WR);
        expect(end[!first], BYTES("last words"));
        expect_end(end[!first]);
        /* The other direction lives on. */
        for (unsigned i = 0; i < 3; i++) {
            put(end[!first], BYTES("answer"));
            expect(end[first], BYTES("answer"));
        }
        shutdown(end[!first], SHUT_WR);
        expect_end(end[first]);
        close(end[0]);
        close(end[1]);
    }
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).reset, 0);
    server_stop(&s);
}

static void test_reset_each_way(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    int end[2];

    (void)state;
    server_start(&s, &o);
    for (unsigned first = 0; first < 2; first++) {
        open_session(&s, listener, &target_at, &end[0], &end[1]);
        expect_joined(end[0], end[1]);
        reset(end[first]);
        expect_reset(end[!first]);
        close(end[!first]);
    }
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).reset, 2);
    server_stop(&s);
}

/* Its bytes are in the socket before the client knows that it is connected. */
static void test_target_speaks_first(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    uint8_t buf[64];
    char c;

    (void)state;
    server_start(&s, &o);
    int client = dial(&s.at);

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    put(client, buf, request5(buf, &target_at));
    int target = take(listener);

    put(target, BYTES("220 hello"));
    shutdown(target, SHUT_WR);
    assert_int_equal(recv(client, buf, 10, MSG_WAITALL), 10);
    expect(client, BYTES("220 hello"));
    expect_end(client);
    put(client, BYTES("QUIT"));
    close(client);
    expect(target, BYTES("QUIT"));
    assert_int_equal(recv(target, &c, 1, 0), 0);
    close(target);
    server_stop(&s);
}

static uint8_t pattern(uint64_t offset, unsigned salt)
{
    uint64_t x = (offset + salt) * UINT64_C(0x9e3779b97f4a7c15);

    return (uint8_t)(x >> 56);
}

/* Sends and checks both directions at the same time, without ever waiting for one of them. */
static void exchange(int end[2], uint64_t total)
{
    static uint8_t buf[65536];
    uint64_t sent[2] = {0, 0}, got[2] = {0, 0};
    bool ended[2] = {false, false};

    for (unsigned i = 0; i < 2; i++)
        fcntl(end[i], F_SETFL, O_NONBLOCK);
    while (!ended[0] || !ended[1]) {
        struct pollfd p[2];

        for (unsigned i = 0; i < 2; i++) {
            p[i].fd = end[i];
            p[i].events = (short)((ended[i] ? 0 : POLLIN) | (sent[i] < total ? POLLOUT : 0));
        }
        if (poll(p, 2, WAIT_SECONDS * 1000) <= 0)
            fail_msg("stuck at %llu and %llu bytes", (unsigned long long)got[0],
                     (unsigned long long)got[1]);
        for (unsigned i = 0; i < 2; i++) {
            if ((p[i].revents & POLLOUT) && sent[i] < total) {
                size_t n = total - sent[i] < sizeof(buf) ? total - sent[i] : sizeof(buf);

                for (size_t k = 0; k < n; k++)
                    buf[k] = pattern(sent[i] + k, i);
                ssize_t m = send(end[i], buf, n, MSG_NOSIGNAL);

                assert_true(m > 0 || errno == EAGAIN);
                sent[i] += m > 0 ? (uint64_t)m : 0;
                if (sent[i] == total)
                    shutdown(end[i], SHUT_WR);
            }
            if (p[i].revents & (POLLIN | POLLHUP | POLLERR)) {
                ssize_t m = recv(end[i], buf, sizeof(buf), 0);

                if (m < 0 && errno == EAGAIN)
                    continue;
                if (m < 0)
                    fail_msg("recv: %s", strerror(errno));
                ended[i] |= m == 0;
                for (ssize_t k = 0; k < m; k++) {
                    if (buf[k] != pattern(got[i] + (uint64_t)k, !i))
                        fail_msg("another byte at %llu", (unsigned long long)got[i] + (uint64_t)k);
                }
                got[i] += (uint64_t)m;
            }
        }
    }
    assert_true(got[0] == total && got[1] == total);
}

static void test_64_mib_each_way(void **state)
{
    static const enum relay_choice choices[] = {RELAY_CHOICE_AUTO, RELAY_CHOICE_COPY,
                                                RELAY_CHOICE_SPLICE};
    int end[2];

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct serve_options o = {.relay = choices[i]};
        struct server s = {0};

        server_start(&s, &o);
        open_session(&s, listener, &target_at, &end[0], &end[1]);
        exchange(end, 64 << 20);
        close(end[0]);
        close(end[1]);
        server_wait_idle(&s);
        assert_int_equal(server_counters(&s).reset, 0);
        server_stop(&s);
    }
}

static void test_200_sessions(void **state)
{
    enum { N = 200 };
    static int client[N], target[N];
    struct serve_options o = {0};
    struct server s = {0};

    (void)state;
    server_start(&s, &o);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < N; i++)
            open_session(&s, listener, &target_at, &client[i], &target[i]);
        assert_int_equal(server_counters(&s).active, N);
        for (unsigned i = 0; i < N; i++) {
            uint32_t mark = i * 7919;

            put(client[i], &mark, sizeof(mark));
            put(target[i], &mark, sizeof(mark));
        }
        for (unsigned i = 0; i < N; i++) {
            uint32_t mark = i * 7919;

            expect(client[i], &mark, sizeof(mark));
            expect(target[i], &mark, sizeof(mark));
        }
        for (unsigned i = 0; i < N; i++) {
            close(client[i]);
            close(target[i]);
        }
        server_wait_idle(&s);
    }
    assert_int_equal(server_counters(&s).granted, 2 * N);
    server_stop(&s);
}

static void test_full_table(void **state)
{
    struct serve_options o = {.max_sessions = 3};
    struct server s = {0};
    int client[3], target[3], more;

    (void)state;
    server_start(&s, &o);
    for (unsigned i = 0; i < 3; i++)
        open_session(&s, listener, &target_at, &client[i], &target[i]);
    for (unsigned i = 0; i < 5; i++) {
        more = dial(&s.at);
        expect_reset(more);
        close(more);
    }
    assert_int_equal(server_counters(&s).refused_full, 5);
    assert_int_equal(server_counters(&s).accepted, 3);
    for (unsigned i = 0; i < 3; i++)
        expect_joined(client[i], target[i]);
    close(client[1]);
    close(target[1]);
    for (unsigned i = 0; server_counters(&s).active == 3 && i < WAIT_SECONDS * 100; i++)
        usleep(10000);
    open_session(&s, listener, &target_at, &client[1], &target[1]);
    expect_joined(client[1], target[1]);
    for (unsigned i = 0; i < 3; i++) {
        close(client[i]);
        close(target[i]);
    }
    server_stop(&s);
}

static int dial_from(const char *source, const struct addr *to)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage sa;
    struct addr at;

    assert_true(fd >= 0);
    assert_int_equal(addr_parse(source, 0, &at), 0);
    socklen_t len = addr_to_sockaddr(&at, &sa);

    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    len = addr_to_sockaddr(to, &sa);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
    return fd;
}

/* Full of such as say nothing: the oldest of the client with most gives way, and no relay does. */
static void test_full_of_silent(void **state)
{
    struct serve_options o = {.max_sessions = 4};
    struct server s = {0};
    int client[2], target[2], one, two[2], more;

    (void)state;
    server_start(&s, &o);
    open_session(&s, listener, &target_at, &client[0], &target[0]);
    one = dial_from("127.0.0.2", &s.at);
    two[0] = dial_from("127.0.0.3", &s.at);
    two[1] = dial_from("127.0.0.3", &s.at);
    open_session(&s, listener, &target_at, &client[1], &target[1]);
    expect_reset(two[0]);
    assert_int_equal(server_counters(&s).refused_full, 1);
    more = dial(&s.at);
    expect_reset(one); /* each has one: the oldest */
    put(more, BYTES("\x05\x01\x00"));
    expect(more, BYTES("\x05\x00"));
    put(two[1], BYTES("\x05\x01\x00"));
    expect(two[1], BYTES("\x05\x00"));
    for (unsigned i = 0; i < 2; i++) {
        expect_joined(client[i], target[i]);
        close(client[i]);
        close(target[i]);
        close(two[i]);
    }
    close(one);
    close(more);
    server_wait_idle(&s);
    server_stop(&s);
}

/* Sessions are free and descriptors are not: reset, counted, and served again when there are some.
 */
static void test_no_descriptor(void **state)
{
    struct serve_options o = {0};
    struct server s = {.spare_fds = 4};
    int client[4], target, more, error;
    uint8_t buf[64];
    char c;

    (void)state;
    server_start(&s, &o);
    for (unsigned i = 0; i < 4; i++)
        client[i] = dial(&s.at);
    for (unsigned i = 0; server_counters(&s).active < 4 && i < WAIT_SECONDS * 100; i++)
        usleep(10000);
    assert_int_equal(server_counters(&s).active, 4);
    for (unsigned i = 0; i < 5; i++) {
        more = dial(&s.at);
        expect_reset(more);
        close(more);
    }
    assert_int_equal(server_counters(&s).refused_fds, 5);

    /* One that needs a descriptor to dial is told so. */
    put(client[0], BYTES("\x05\x01\x00"));
    expect(client[0], BYTES("\x05\x00"));
    put(client[0], buf, request5(buf, &target_at));
    expect(client[0], BYTES("\x05\x01\x00\x01\0\0\0\0\0\0"));
    for (unsigned i = 0; i < 4; i++)
        close(client[i]);
    server_wait_idle(&s);
    open_session(&s, listener, &target_at, &client[0], &target);
    expect_joined(client[0], target);
    error = recv(client[0], &c, 1, MSG_DONTWAIT) < 0 ? errno : 0;
    assert_int_equal(error, EAGAIN);
    close(client[0]);
    close(target);
    server_stop(&s);
}

/* Our own end is not a clean end of what it cut off. */
static void test_destroy_resets(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    int client, target;

    (void)state;
    server_start(&s, &o);
    open_session(&s, listener, &target_at, &client, &target);
    expect_joined(client, target);
    server_stop(&s);
    expect_reset(client);
    expect_reset(target);
    close(client);
    close(target);
}

static int create(const struct serve_options *o, char *why, size_t why_size)
{
    struct serve *sv = NULL;
    struct loop *l;

    assert_int_equal(loop_create(64, &l), 0);
    int r = serve_create(l, o, &sv, why, why_size);

    if (r == 0)
        serve_destroy(sv);
    else
        assert_null(sv);
    loop_destroy(l);
    return r;
}

static void test_options(void **state)
{
    struct addr at[SERVE_LISTEN_MAX + 1];
    struct serve_options o = {.listen = at, .n_listen = SERVE_LISTEN_MAX, .max_sessions = 10};
    char why[512] = "";

    (void)state;
    for (size_t i = 0; i <= SERVE_LISTEN_MAX; i++)
        assert_int_equal(addr_parse("127.0.0.1:0", 0, &at[i]), 0);
    assert_int_equal(create(&o, why, sizeof(why)), 0);
    assert_string_equal(why, "");
    o.n_listen++;
    assert_int_equal(create(&o, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "8"));

    o.n_listen = 2;
    at[1] = target_at;
    assert_int_equal(create(&o, why, sizeof(why)), -EADDRINUSE);
    assert_non_null(strstr(why, "-l ADDR:PORT"));

    o.n_listen = 1;
    o.user_file = "/nonexistent/users";
    assert_int_equal(create(&o, why, sizeof(why)), -ENOENT);
    assert_non_null(strstr(why, "/nonexistent/users"));
}

static void test_tiny_descriptor_limit(void **state)
{
    int status;

    (void)state;
    fflush(stdout);
    pid_t pid = fork();

    if (pid == 0) {
        struct rlimit limit = {24, 24};
        struct addr at;
        struct serve_options o = {.listen = &at, .n_listen = 1};
        char why[512] = "";
        struct serve *sv;
        struct loop *l;

        addr_parse("127.0.0.1:0", 0, &at);
        setrlimit(RLIMIT_NOFILE, &limit);
        if (loop_create(64, &l) < 0)
            _exit(1);
        if (serve_create(l, &o, &sv, why, sizeof(why)) != -EMFILE || !strstr(why, "ulimit"))
            _exit(2);
        loop_destroy(l);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* The process: says where it listens, serves, and ends cleanly on each of its signals. */
static void test_run(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct server s = {0};
        char line[256] = "";
        int err[2], status, client, target;
        const char *where;

        assert_int_equal(pipe2(err, O_CLOEXEC), 0);
        fflush(stdout);
        fflush(stderr);
        s.pid = fork();
        if (s.pid == 0) {
            struct addr at;
            struct serve_options o = {.listen = &at, .n_listen = 1};

            prctl(PR_SET_PDEATHSIG, SIGKILL);
            dup2(err[1], STDERR_FILENO);
            unsetenv("JOURNAL_STREAM");
            addr_parse("127.0.0.1:0", 0, &at);
            exit(serve_run(&o) == 0 ? 0 : 1);
        }
        close(err[1]);
        for (size_t n = 0; n < sizeof(line) - 1 && !strchr(line, '\n'); n++)
            assert_int_equal(read(err[0], line + n, 1), 1);
        *strchr(line, '\n') = '\0';
        where = strstr(line, "serving SOCKS4/4a/5 on ");
        assert_non_null(where);
        assert_int_equal(addr_parse(where + 23, 0, &s.at), 0);
        assert_true(s.at.port != 0);
        open_session(&s, listener, &target_at, &client, &target);
        expect_joined(client, target);
        assert_int_equal(kill(s.pid, signals[i]), 0);
        assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        expect_reset(client);
        close(client);
        close(target);
        close(err[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_close_each_way),   cmocka_unit_test(test_reset_each_way),
        cmocka_unit_test(test_target_speaks_first),   cmocka_unit_test(test_64_mib_each_way),
        cmocka_unit_test(test_200_sessions),          cmocka_unit_test(test_full_table),
        cmocka_unit_test(test_full_of_silent),        cmocka_unit_test(test_no_descriptor),
        cmocka_unit_test(test_destroy_resets),        cmocka_unit_test(test_options),
        cmocka_unit_test(test_tiny_descriptor_limit), cmocka_unit_test(test_run),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/serve", tests, setup, teardown);
}
