/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names, with a hosts file, a resolv.conf and a name server of the test's own: in namespaces of its
 * own, which an ordinary user may not be allowed to make.
 */
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "serve/resolver.h"
#include "udp.h"

static const char *why_not; /* NULL: the namespaces are there */
static pid_t name_server;
static int listener;
static struct addr target_at;
static char resolv_conf[64], hosts[64];
static volatile unsigned *queries; /* that the name server got; shared with it */

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
    } else if ((strcmp(label, "one") == 0 || strcmp(label, "slow") == 0) && type == 1) {
        end += answer(p + end, 1, (uint8_t[4]){127, 0, 0, 1}, 4);
        n = 1;
    } else if (strcmp(label, "group") == 0 && type == 1) {
        end += answer(p + end, 1, (uint8_t[4]){224, 0, 0, 251}, 4);
        n = 1;
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

/* The answers to "slow" are kept until somebody asks for "release". */
static void serve_names(int fd)
{
    static struct {
        uint8_t data[600];
        size_t len;
        struct sockaddr_storage to;
        socklen_t to_len;
    } kept[8];
    uint8_t buf[2048];
    struct sockaddr_storage from;
    unsigned n_kept = 0;

    for (;;) {
        socklen_t from_len = sizeof(from);
        ssize_t n = recvfrom(fd, buf, 512, 0, (struct sockaddr *)&from, &from_len);

        if (n < 0)
            exit(1);
        *queries += 1;
        size_t len = respond(buf, (size_t)n, sizeof(buf));

        if (n > 20 && memcmp(buf + 12, "\x04slow", 5) == 0 && n_kept < 8) {
            memcpy(kept[n_kept].data, buf, len);
            kept[n_kept].len = len;
            kept[n_kept].to = from;
            kept[n_kept++].to_len = from_len;
            continue;
        }
        for (; n > 20 && memcmp(buf + 12, "\x07release", 8) == 0 && n_kept > 0; n_kept--)
            (void)!sendto(fd, kept[n_kept - 1].data, kept[n_kept - 1].len, 0,
                          (struct sockaddr *)&kept[n_kept - 1].to, kept[n_kept - 1].to_len);
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
    queries =
        mmap(NULL, sizeof(*queries), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal((void *)queries, MAP_FAILED);
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

/* The peer of BIND. */
static void test_bind_to_a_name(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, from;
    uint8_t buf[300];

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    /* two.test: each of its addresses may come, and no other. */
    int client = dial(&s.at), peer;

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    size_t n = request5_name(buf, "two.test", 21);

    buf[1] = 2;
    put(client, buf, n);
    at = take_reply5(client);
    for (unsigned i = 0; i < 2; i++) {
        struct sockaddr_storage sa;
        socklen_t len;

        from = address(i ? "127.0.0.7:0" : "127.0.0.6:0");
        len = addr_to_sockaddr(&from, &sa);
        peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        set_patience(peer);
        assert_int_equal(bind(peer, (struct sockaddr *)&sa, len), 0);
        len = addr_to_sockaddr(&at, &sa);
        assert_int_equal(connect(peer, (struct sockaddr *)&sa, len), 0);
        if (i == 0) {
            expect_reset(peer);
            close(peer);
        }
    }
    at = take_reply5(client);
    assert_true(addr_same_ip(&at, &from));
    expect_joined(client, peer);
    close(client);
    close(peer);

    client = dial(&s.at);
    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    n = request5_name(buf, "none.test", 21);
    buf[1] = 2;
    put(client, buf, n);
    expect_refusal5(client, 0x04);
    server_wait_idle(&s);
    server_stop(&s);
}

/* Datagrams wait for their name in order, each with its port; then the name is known for a while.
 */
static void test_datagrams_to_a_name(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at, far_at[2];

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    int control = associate(&s, &relay), client = udp_on("127.0.0.1:0", &at);
    int far[2] = {udp_on("127.0.0.1:0", &far_at[0]), udp_on("127.0.0.1:0", &far_at[1])};
    unsigned before = *queries;

    for (uint32_t i = 0; i < 30; i++)
        send_through_name(client, &relay, i % 4 < 2 ? "one.test" : "ONE.test", far_at[i % 2].port,
                          &i, sizeof(i));
    for (uint32_t i = 0; i < 30; i++)
        (void)expect_datagram(far[i % 2], &i, sizeof(i));
    unsigned once = *queries - before;

    assert_true(once == 1 || once == 2); /* A and AAAA */
    for (unsigned i = 0; i < 100; i++) {
        send_through_name(client, &relay, "one.test", far_at[0].port, BYTES("again"));
        struct addr outer = expect_datagram(far[0], BYTES("again"));

        send_to(far[0], &outer, BYTES("answer"));
        expect_through(client, &relay, &far_at[0], BYTES("answer"));
    }
    send_through_name(client, &relay, "file.test", far_at[1].port, BYTES("from the hosts file"));
    (void)expect_datagram(far[1], BYTES("from the hosts file"));
    send_through_name(client, &relay, "one.test", far_at[1].port, BYTES(""));
    (void)expect_datagram(far[1], BYTES(""));
    assert_int_equal(*queries - before, once);
    assert_int_equal(server_counters(&s).udp_up, 132);
    close(far[0]);
    close(far[1]);
    close(client);
    close(control);
    server_wait_idle(&s);
    server_stop(&s);
}

/* One without an address takes its datagrams with it, and is not asked for with each of them. */
static void test_datagrams_to_no_name(void **state)
{
    static const char *const names[] = {"none.test", "empty.test", "group.test"};
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at, far_at;

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    int control = associate(&s, &relay), client = udp_on("127.0.0.1:0", &at);
    int far = udp_on("127.0.0.1:0", &far_at);

    for (unsigned i = 0; i < 3; i++) {
        uint64_t dropped = server_counters(&s).udp_no_name;

        send_through_name(client, &relay, names[i], far_at.port, BYTES("lost"));
        WAIT_COUNTER(&s, udp_no_name, dropped + 1);
        unsigned before = *queries;

        for (unsigned k = 0; k < 20; k++)
            send_through_name(client, &relay, names[i], far_at.port, BYTES("lost"));
        WAIT_COUNTER(&s, udp_no_name, dropped + 21);
        assert_int_equal(*queries, before);
    }
    (void)expect_carried(client, &relay, far, &far_at);
    close(far);
    close(client);
    close(control);
    server_wait_idle(&s);
    server_stop(&s);
}

/* What waits is bounded: datagrams, bytes, names; and goes with its association. */
static void test_waiting_datagrams_are_bounded(void **state)
{
    static uint8_t payload[60000];
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at, far_at;
    int far;

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    far = udp_on("127.0.0.1:0", &far_at);
    for (unsigned round = 0; round < 3; round++) {
        int control = associate(&s, &relay), client = udp_on("127.0.0.1:0", &at);
        uint64_t before = server_counters(&s).udp_no_room;
        unsigned lost = 0;
        char name[64];

        for (unsigned i = 0; round == 0 && i < 40; i++) /* 32 datagrams */
            send_through_name(client, &relay, "silent.test", 9, BYTES("waits"));
        for (unsigned i = 0; round == 1 && i < 5; i++) { /* 128 KiB */
            send_through_name(client, &relay, "silent.test", 9, payload, sizeof(payload));
            (void)expect_carried(client, &relay, far, &far_at);
        }
        for (unsigned i = 0; round == 2 && i < 11; i++) { /* 8 names */
            snprintf(name, sizeof(name), "silent.%u.test", i);
            send_through_name(client, &relay, name, 9, BYTES("waits"));
        }
        lost = round == 0 ? 8 : 3;
        WAIT_COUNTER(&s, udp_no_room, before + lost);
        (void)expect_carried(client, &relay, far, &far_at);
        assert_int_equal(server_counters(&s).udp_no_room, before + lost);
        close(control);
        close(client);
        WAIT_COUNTER(&s, associations, 0);
    }
    close(far);
    assert_int_equal(server_counters(&s).udp_no_name, 0);
    server_stop(&s);
}

/* So are the bytes of all associations together. */
static void test_all_waiting_datagrams_are_bounded(void **state)
{
    enum { N = 150, BOUND = 16 * 1024 * 1024 };
    static uint8_t payload[60000];
    static int control[N], client[N];
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t before = server_counters(&s).udp_no_room;

        for (unsigned i = 0; i < N; i++) {
            control[i] = associate(&s, &relay);
            client[i] = udp_on("127.0.0.1:0", &at);
            for (unsigned k = 0; k < 2; k++)
                send_through_name(client[i], &relay, "silent.test", 9, payload, sizeof(payload));
        }
        WAIT_COUNTER(&s, udp_no_room, before + 2 * N - BOUND / sizeof(payload));
        for (unsigned i = 0; i < N; i++) {
            close(control[i]);
            close(client[i]);
        }
        WAIT_COUNTER(&s, associations, 0);
    }
    server_stop(&s);
}

/* An answer for an association that is gone is none for the one that has its place now. */
static void test_answer_for_another_association(void **state)
{
    struct serve_options o = {.max_associations = 1};
    struct server s = {0};
    struct addr relay, at, far_at;

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    int far = udp_on("127.0.0.1:0", &far_at), control = associate(&s, &relay);
    int client = udp_on("127.0.0.1:0", &at);
    unsigned before = *queries;

    send_through_name(client, &relay, "slow.test", far_at.port, BYTES("gone"));
    for (unsigned i = 0; *queries < before + 1 && i < WAIT_SECONDS * 100; i++)
        usleep(10000);
    close(control);
    close(client);
    WAIT_COUNTER(&s, associations, 0);
    control = associate(&s, &relay);
    client = udp_on("127.0.0.1:0", &at);
    send_through_name(client, &relay, "silent.test", far_at.port, BYTES("waits"));
    (void)expect_carried(client, &relay, far, &far_at);
    assert_int_equal(refusal(&s, "release.test"), 0x04);
    /* The answer is there, and read, before that of a question after it. */
    send_through_name(client, &relay, "one.test", far_at.port, BYTES("asked"));
    (void)expect_datagram(far, BYTES("asked"));
    (void)expect_carried(client, &relay, far, &far_at);
    close(control);
    close(client);
    close(far);
    server_stop(&s);
}

/* Of many names the ones that were used last are remembered. */
static void test_names_take_turns(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at, far_at;
    char name[64];

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    int control = associate(&s, &relay), client = udp_on("127.0.0.1:0", &at);
    int far = udp_on("127.0.0.1:0", &far_at);

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 20; i++) {
            snprintf(name, sizeof(name), "one.%u.test", i);
            send_through_name(client, &relay, name, far_at.port, name, strlen(name));
            (void)expect_datagram(far, name, strlen(name));
            send_through_name(client, &relay, "one.test", far_at.port, BYTES("always"));
            (void)expect_datagram(far, BYTES("always"));
        }
    }
    unsigned before = *queries;

    send_through_name(client, &relay, "one.test", far_at.port, BYTES("always"));
    (void)expect_datagram(far, BYTES("always"));
    send_through_name(client, &relay, "one.19.test", far_at.port, BYTES("lately"));
    (void)expect_datagram(far, BYTES("lately"));
    assert_int_equal(*queries, before);
    send_through_name(client, &relay, "one.2.test", far_at.port, BYTES("long ago"));
    (void)expect_datagram(far, BYTES("long ago"));
    assert_true(*queries > before);
    close(far);
    close(client);
    close(control);
    server_wait_idle(&s);
    server_stop(&s);
}

/* However many datagrams want one, some lookups are left for CONNECT; and they are given back. */
static void test_lookups_of_datagrams_are_bounded(void **state)
{
    struct serve_options o = {.max_sessions = 6};
    struct server s = {0};
    struct addr relay, at, far_at;
    char name[64];

    (void)state;
    need_namespaces();
    server_start(&s, &o);
    int far = udp_on("127.0.0.1:0", &far_at), client, control;

    for (unsigned round = 0; round < 2; round++) {
        control = associate(&s, &relay);
        client = udp_on("127.0.0.1:0", &at);
        for (unsigned i = 0; i < 8; i++) {
            snprintf(name, sizeof(name), "silent.%u.test", i);
            send_through_name(client, &relay, name, 9, BYTES("waits"));
        }
        /* Three of six; those of an association that is gone still count. */
        WAIT_COUNTER(&s, udp_no_room, round == 0 ? 5u : 13u);
        expect_granted(&s, "two.test");
        close(control);
        close(client);
        WAIT_COUNTER(&s, associations, 0);
    }
    /* Until those have given up. */
    control = associate(&s, &relay);
    client = udp_on("127.0.0.1:0", &at);
    for (unsigned i = 0; server_counters(&s).udp_up == 0; i++) {
        send_through_name(client, &relay, "one.test", far_at.port, BYTES("at last"));
        assert_true(i < WAIT_SECONDS * 10);
        usleep(100000);
    }
    (void)expect_datagram(far, BYTES("at last"));
    close(control);
    close(client);
    close(far);
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
    assert_int_equal(resolver_create(a.loop, 2, 3, 4, 0, on_done, &a, &r), 0);
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
        cmocka_unit_test(test_hosts_file_first),
        cmocka_unit_test(test_next_address),
        cmocka_unit_test(test_no_such_name),
        cmocka_unit_test(test_silent_name_server),
        cmocka_unit_test(test_lookups_are_bounded),
        cmocka_unit_test(test_resolv_conf_changes),
        cmocka_unit_test(test_many_addresses),
        cmocka_unit_test(test_bind_to_a_name),
        cmocka_unit_test(test_datagrams_to_a_name),
        cmocka_unit_test(test_datagrams_to_no_name),
        cmocka_unit_test(test_waiting_datagrams_are_bounded),
        cmocka_unit_test(test_all_waiting_datagrams_are_bounded),
        cmocka_unit_test(test_answer_for_another_association),
        cmocka_unit_test(test_names_take_turns),
        cmocka_unit_test(test_lookups_of_datagrams_are_bounded),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/names", tests, setup, teardown);
}
