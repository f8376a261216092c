/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names, with a hosts file, a resolv.conf and a name server of the test's own: in namespaces of its
 * own, which an ordinary user may not be allowed to make.
 */
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "fixture.h"
#include "serve/resolver.h"

static const char *why_not; /* NULL: the namespaces are there */
static pid_t name_server;
static int listener;
static struct addr target_at;
static char resolv_conf[64], hosts[64];

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static size_t answer(uint8_t *p, unsigned type, const void *data, size_t len)
{
    static const uint8_t head[12] = {0xc0, 0x0c, 0, 0, 0, 1, 0, 0, 0, 60};

    memcpy(p, head, sizeof(head));
    put16(p + 2, type);
    put16(p + 10, (unsigned)len);
    memcpy(p + 12, data, len);
    return 12 + len;
}

/* The answer to the query of `len` bytes in `p`, in place; 0: none. What it is depends on the first
 * label. */
static size_t respond(uint8_t *p, size_t len, size_t size)
{
    static const uint8_t six[16] = {[15] = 1};
    char label[64] = "";
    size_t end = 12;
    unsigned n = 0, rcode = 0;

    if (len < 17 || size < 1500)
        return 0;
    memcpy(label, p + 13, p[12] & 0x3f);
    while (end < len && p[end] != 0)
        end += p[end] + 1u;
    unsigned type = end + 2 < len ? p[end + 2] : 0;

    end += 5;
    if (end > len || strcmp(label, "silent") == 0)
        return 0;
    if (strcmp(label, "garbage") == 0) {
        memset(p + 2, 0xff, len - 2);
        return len;
    }
    if (strcmp(label, "none") == 0 || strcmp(label, "file") == 0) {
        rcode = 3;
    } else if (strcmp(label, "two") == 0 && type == 1) {
        /* Nobody listens on all but one. */
        static const uint8_t last[4] = {9, 8, 1, 7};

        for (; n < 4; n++)
            end += answer(p + end, 1, (uint8_t[4]){127, 0, 0, last[n]}, 4);
    } else if (strcmp(label, "many") == 0) {
        for (; n < 10; n++) /* fits into 512 bytes */
            end += type == 1 ? answer(p + end, 1, (uint8_t[4]){127, 0, 1, (uint8_t)n}, 4)
                             : answer(p + end, 28, six, 16);
    }
    put16(p + 2, 0x8180 | rcode);
    put16(p + 6, n);
    put16(p + 8, 0);
    put16(p + 10, 0);
    return end;
}

static void serve_names(int fd)
{
    uint8_t buf[2048];
    struct sockaddr_storage from;

    for (;;) {
        socklen_t from_len = sizeof(from);
        ssize_t n = recvfrom(fd, buf, 512, 0, (struct sockaddr *)&from, &from_len);

        if (n < 0)
            exit(1);
        size_t len = respond(buf, (size_t)n, sizeof(buf));

        if (len > 0)
            (void)!sendto(fd, buf, len, 0, (struct sockaddr *)&from, from_len);
    }
}

static int write_to(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_TRUNC);
    ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

    if (fd >= 0)
        close(fd);
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

static const char *enter_namespaces(void)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    char map[64];

    if (unshare(CLONE_NEWNS | CLONE_NEWNET | (uid == 0 ? 0 : CLONE_NEWUSER)) < 0)
        return "this user may not make namespaces";
    if (uid != 0) {
        snprintf(map, sizeof(map), "0 %u 1", (unsigned)uid);
        if (write_to("/proc/self/uid_map", map) < 0 || write_to("/proc/self/setgroups", "deny") < 0)
            return "this user may not make a user namespace";
        snprintf(map, sizeof(map), "0 %u 1", (unsigned)gid);
        if (write_to("/proc/self/gid_map", map) < 0)
            return "this user may not make a user namespace";
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return "no mounts of its own";
    write_file(resolv_conf, BYTES("nameserver 127.0.0.1\n"));
    write_file(hosts, BYTES("127.0.0.1 localhost file.test bare\n::1 localhost\n"));
    if (mount(resolv_conf, "/etc/resolv.conf", NULL, MS_BIND, NULL) < 0 ||
        mount(hosts, "/etc/hosts", NULL, MS_BIND, NULL) < 0)
        return "no resolv.conf or hosts file of its own";

    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = ioctl(fd, SIOCSIFFLAGS, &lo);

    close(fd);
    return r < 0 ? "no loopback of its own" : NULL;
}

static int setup(void **state)
{
    struct addr at;
    struct sockaddr_storage sa;
    int fd;

    (void)state;
    why_not = enter_namespaces();
    if (why_not)
        return 0;
    listener = listen_on("127.0.0.1:0", &target_at);
    assert_int_equal(addr_parse("127.0.0.1:53", 0, &at), 0);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, addr_to_sockaddr(&at, &sa)), 0);
    fflush(stdout);
    name_server = fork();
    if (name_server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve_names(fd);
    }
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (name_server > 0) {
        kill(name_server, SIGKILL);
        waitpid(name_server, NULL, 0);
    }
    if (resolv_conf[0])
        unlink(resolv_conf);
    if (hosts[0])
        unlink(hosts);
    return 0;
}

static void need_namespaces(void)
{
    if (why_not) {
        print_message("skipped: %s\n", why_not);
        skip();
    }
}

static int ask(const struct server *s, const char *name)
{
    uint8_t buf[300];
    int client = dial(&s->at);

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    put(client, buf, request5_name(buf, name, target_at.port));
    return client;
}

static void expect_granted(const struct server *s, const char *name)
{
    int client = ask(s, name), target = take(listener);

    expect_granted5(client, target);
    expect_joined(client, target);
    close(client);
    close(target);
}

static uint8_t refusal(const struct server *s, const char *name)
{
    uint8_t reply[10];
    int client = ask(s, name);

    assert_int_equal(recv(client, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
    assert_int_equal(reply[0], 5);
    expect_end(client);
    close(client);
    return reply[1];
}

static void test_hosts_file_first(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    expect_granted(&s, "file.test"); /* which the name server denies */
    expect_granted(&s, "bare");
    expect_granted(&s, "localhost"); /* ::1 as well, where nobody listens */
    server_stop(&s);
}

static void test_next_address(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    for (unsigned i = 0; i < 5; i++)
        expect_granted(&s, "two.test");
    assert_int_equal(server_counters(&s).connect_failed, 0);
    server_wait_idle(&s);
    server_stop(&s);
}

static void test_no_such_name(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    assert_int_equal(refusal(&s, "none.test"), 0x04);
    assert_int_equal(refusal(&s, "empty.test"), 0x04);
    assert_int_equal(server_counters(&s).lookup_failed, 2);
    server_stop(&s);
}

/* The session ends by its own time; the lookup ends by itself, or with the server. */
static void test_silent_name_server(void **state)
{
    static const char *const names[] = {"silent.test", "garbage.test"};
    struct serve_options o = {.connect_timeout = 150 * MS};
    struct server s = {0};

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    for (size_t i = 0; i < 2; i++) {
        uint8_t rep = refusal(&s, names[i]);

        assert_true(rep == 0x04 || rep == 0x06);
    }
    assert_int_equal(server_counters(&s).active, 0);
    expect_granted(&s, "two.test");
    server_stop(&s);
}

/* Sessions that end before their lookups do not make the number of lookups grow. */
static void test_lookups_are_bounded(void **state)
{
    struct serve_options o = {.max_sessions = 3, .connect_timeout = 100 * MS};
    struct server s = {0};

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    for (unsigned i = 0; i < 3; i++)
        (void)refusal(&s, "silent.test");
    assert_int_equal(refusal(&s, "two.test"), 0x01);
    /* Until those have given up. */
    for (unsigned i = 0;; i++) {
        uint8_t reply[10];
        int client = ask(&s, "two.test");

        assert_int_equal(recv(client, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
        close(client);
        if (reply[1] == 0x00)
            break;
        assert_true(i < WAIT_SECONDS);
        sleep(1);
    }
    close(take(listener));
    server_stop(&s);
}

static void test_resolv_conf_changes(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    uint8_t reply[10];

    (void)state;
    need_namespaces();
    assert_int_equal(write_to(resolv_conf, "nameserver 127.0.0.77\n"), 0);
    server_start(&s, &o);
    assert_int_equal(refusal(&s, "two.test"), 0x01);
    assert_int_equal(write_to(resolv_conf, "nameserver 127.0.0.1\n"), 0);
    for (unsigned i = 0;; i++) {
        int client = ask(&s, "two.test");

        assert_int_equal(recv(client, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
        close(client);
        if (reply[1] == 0x00)
            break;
        assert_true(i < WAIT_SECONDS * 10);
        usleep(100000);
    }
    close(take(listener));
    server_stop(&s);
}

struct result {
    struct loop *loop;
    size_t n, n_v4;
    int status;
};

static void on_done(void *ctx, uint64_t ref, int status, const struct addr *addresses, size_t n)
{
    struct result *a = ctx;

    (void)ref;
    a->status = status;
    a->n = n;
    for (size_t i = 0; i < n; i++)
        a->n_v4 += addr_is_v4(&addresses[i]);
    loop_stop(a->loop);
}

/* Of a long list, some of each family. */
static void test_many_addresses(void **state)
{
    struct result a = {.status = 1};
    struct resolver *r;

    (void)state;
    need_namespaces();
    assert_int_equal(loop_create(4, &a.loop), 0);
    assert_int_equal(resolver_create(a.loop, 2, 3, 4, on_done, &a, &r), 0);
    assert_int_equal(resolver_lookup(r, "many.test", 80, 1), 0);
    assert_int_equal(loop_run(a.loop), 0);
    assert_int_equal(a.status, 0);
    assert_int_equal(a.n, RESOLVER_ADDRESSES);
    assert_int_equal(a.n_v4, RESOLVER_ADDRESSES / 2);
    resolver_destroy(r);
    loop_destroy(a.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts_file_first),    cmocka_unit_test(test_next_address),
        cmocka_unit_test(test_no_such_name),        cmocka_unit_test(test_silent_name_server),
        cmocka_unit_test(test_lookups_are_bounded), cmocka_unit_test(test_resolv_conf_changes),
        cmocka_unit_test(test_many_addresses),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/names", tests, setup, teardown);
}
