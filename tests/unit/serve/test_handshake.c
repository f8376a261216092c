/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fixture.h"

static struct server open_server, closed_server; /* without and with a user file */
static char users[64];
static int listener;
static struct addr target_at;

static int setup(void **state)
{
    static struct serve_options o;

    (void)state;
    listener = listen_on("127.0.0.1:0", &target_at);
    server_start(&open_server, &o);
    write_file(users, BYTES("alice:secret\n"));
    o.user_file = users;
    server_start(&closed_server, &o);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    server_stop(&open_server);
    server_stop(&closed_server);
    unlink(users);
    close(listener);
    return 0;
}

static void test_no_authentication(void **state)
{
    int client, target;

    (void)state;
    open_session(&open_server, listener, &target_at, &client, &target);
    expect_joined(client, target);
    close(client);
    expect_end(target);
    close(target);

    /* Among other methods. */
    client = dial(&open_server.at);
    put(client, BYTES("\x05\x03\x02\x80\x00"));
    expect(client, BYTES("\x05\x00"));
    close(client);
}

static void test_password(void **state)
{
    uint8_t buf[64];
    int client = dial(&closed_server.at), target;

    (void)state;
    put(client, BYTES("\x05\x02\x00\x02"));
    expect(client, BYTES("\x05\x02"));
    put(client, BYTES("\x01\x05"
                      "alice\x06secret"));
    expect(client, BYTES("\x01\x00"));
    put(client, buf, request5(buf, &target_at));
    target = take(listener);
    expect_granted5(client, target);
    expect_joined(client, target);
    close(client);
    close(target);
}

static void expect_auth_refused(const void *message, size_t len)
{
    int client = dial(&closed_server.at);

    put(client, BYTES("\x05\x01\x02"));
    expect(client, BYTES("\x05\x02"));
    put(client, message, len);
    expect(client, BYTES("\x01\x01"));
    expect_end(client);
    close(client);
}

static void test_wrong_password(void **state)
{
    uint64_t before = server_counters(&closed_server).auth_failed;

    (void)state;
    expect_auth_refused(BYTES("\x01\x05"
                              "alice\x06Secret"));
    expect_auth_refused(BYTES("\x01\x05"
                              "alice\x00"));
    expect_auth_refused(BYTES("\x01\x03"
                              "bob\x06secret"));
    expect_auth_refused(BYTES("\x01\x05"
                              "alice\x07secret\0"));
    expect_auth_refused(BYTES("\x01\x00\x06secret"));
    expect_auth_refused(BYTES("\x05\x05"
                              "alice\x06secret"));
    /* With a request behind it, which is not looked at. */
    expect_auth_refused(BYTES("\x01\x01"
                              "a\x01"
                              "b\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x01"));
    assert_int_equal(server_counters(&closed_server).auth_failed, before + 7);
}

static void expect_no_method(const struct server *s, const void *greeting, size_t len)
{
    int client = dial(&s->at);

    put(client, greeting, len);
    expect(client, BYTES("\x05\xff"));
    expect_end(client);
    close(client);
}

static void test_no_acceptable_method(void **state)
{
    (void)state;
    expect_no_method(&open_server, BYTES("\x05\x01\x02"));
    expect_no_method(&open_server, BYTES("\x05\x00"));
    expect_no_method(&closed_server, BYTES("\x05\x01\x00"));
    expect_no_method(&closed_server, BYTES("\x05\x02\x00\x01"));
}

static void test_socks4(void **state)
{
    uint8_t buf[600];
    int client = dial(&open_server.at), target;

    (void)state;
    put(client, buf, request4(buf, &target_at, "", NULL));
    target = take(listener);
    expect_granted4(client);
    expect_joined(client, target);
    close(client);
    close(target);

    /* No place for a password. */
    client = dial(&closed_server.at);
    put(client, buf, request4(buf, &target_at, "alice", NULL));
    expect(client, BYTES("\x00\x5d\0\0\0\0\0\0"));
    expect_end(client);
    close(client);
}

static void test_socks4a(void **state)
{
    static const char *const names[] = {"localhost", "127.0.0.1"};
    uint8_t buf[600];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int client = dial(&open_server.at), target;

        put(client, buf, request4(buf, &target_at, "someone", names[i]));
        target = take(listener);
        expect_granted4(client);
        expect_joined(client, target);
        close(client);
        close(target);
    }
}

static void test_byte_by_byte(void **state)
{
    uint8_t buf[600];
    int client = dial(&closed_server.at), target;

    (void)state;
    put_slowly(client, BYTES("\x05\x02\x00\x02"));
    expect(client, BYTES("\x05\x02"));
    put_slowly(client, BYTES("\x01\x05"
                             "alice\x06secret"));
    expect(client, BYTES("\x01\x00"));
    put_slowly(client, buf, request5_name(buf, "localhost", target_at.port));
    put_slowly(client, BYTES("early"));
    target = take(listener);
    expect_granted5(client, target);
    expect(target, BYTES("early"));
    expect_joined(client, target);
    close(client);
    close(target);

    client = dial(&open_server.at);
    put_slowly(client, buf, request4(buf, &target_at, "user", "localhost"));
    put_slowly(client, BYTES("early"));
    target = take(listener);
    expect_granted4(client);
    expect(target, BYTES("early"));
    close(client);
    close(target);
}

/* Greeting, password, request, payload and FIN at once: not a byte is lost, and none is taken for
 * another. */
static void test_everything_in_one_segment(void **state)
{
    uint8_t buf[600], payload[300];
    int client = dial(&closed_server.at), target;
    size_t n = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (uint8_t)i;
    memcpy(buf,
           "\x05\x01\x02\x01\x05"
           "alice\x06secret",
           17);
    n = 17;
    n += request5(buf + n, &target_at);
    memcpy(buf + n, payload, sizeof(payload));
    n += sizeof(payload);
    put(client, buf, n);
    shutdown(client, SHUT_WR);
    target = take(listener);
    expect(client, BYTES("\x05\x02\x01\x00"));
    expect_granted5(client, target);
    expect(target, payload, sizeof(payload));
    expect_end(target);
    put(target, BYTES("answer"));
    expect(client, BYTES("answer"));
    close(target);
    expect_end(client);
    close(client);

    /* More than the server peeks at. */
    static uint8_t large[5000];

    client = dial(&open_server.at);
    n = request4(large, &target_at, "", NULL);
    memset(large + n, 'x', sizeof(large) - n);
    put(client, large, sizeof(large));
    target = take(listener);
    expect_granted4(client);
    for (size_t left = sizeof(large) - n; left > 0;) {
        size_t step = left < 1000 ? left : 1000;

        expect(target, large + n, step);
        left -= step;
    }
    close(client);
    expect_end(target);
    close(target);
}

static void expect_reply5(const void *request, size_t len, uint8_t rep)
{
    uint8_t reply[10] = {5, rep, 0, 1};
    int client = dial(&open_server.at);

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    put(client, request, len);
    expect(client, reply, sizeof(reply));
    expect_end(client);
    close(client);
}

static void expect_reply4(const void *request, size_t len, uint8_t rep)
{
    uint8_t reply[8] = {0, rep};
    int client = dial(&open_server.at);

    put(client, request, len);
    expect(client, reply, sizeof(reply));
    expect_end(client);
    close(client);
}

static void test_other_commands(void **state)
{
    uint8_t buf[64];

    (void)state;
    size_t n = request5(buf, &target_at);
    uint64_t before = server_counters(&open_server).unsupported;

    buf[1] = 0;
    expect_reply5(buf, n, 0x07);
    buf[1] = 4;
    expect_reply5(buf, n, 0x07);
    buf[1] = 255;
    expect_reply5(buf, n, 0x07);
    n = request4(buf, &target_at, "u", NULL);
    buf[1] = 3;
    expect_reply4(buf, n, 0x5b);
    expect_reply5(BYTES("\x05\x01\x00\x02xxxxxx"), 0x08);
    assert_int_equal(server_counters(&open_server).unsupported, before + 5);
}

static void test_broken_requests(void **state)
{
    uint8_t buf[600];

    (void)state;
    uint64_t before = server_counters(&open_server).malformed;

    expect_reply5(BYTES("\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50"), 0x01);
    expect_reply5(BYTES("\x05\x01\x00\x03\x00\x00\x50"), 0x01);
    expect_reply5(BYTES("\x05\x01\x00\x03\x03"
                        "a\0b\x00\x50"),
                  0x01);

    char user[301];

    memset(user, 'u', 300);
    user[300] = '\0';
    expect_reply4(buf, request4(buf, &target_at, user, NULL), 0x5b);
    memset(user, 'n', 300);
    expect_reply4(buf, request4(buf, &target_at, "", user), 0x5b);
    expect_reply4(buf, request4(buf, &target_at, "", ""), 0x5b);
    assert_int_equal(server_counters(&open_server).malformed, before + 6);
}

static void test_garbage(void **state)
{
    static const char *const first[] = {"GET / HTTP/1.0\r\n\r\n", "\x16\x03\x01", "\x06",
                                        "\xff\xff"};

    (void)state;
    for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
        int client = dial(&open_server.at);

        put(client, first[i], strlen(first[i]));
        expect_reset(client);
        close(client);
    }
    int client = dial(&open_server.at);

    put(client, BYTES("\x00\x01"));
    expect_reset(client);
    close(client);
}

/* The refusal is read though the client had sent more than the server ever read. */
static void test_refusal_arrives_behind_payload(void **state)
{
    static uint8_t buf[9000];
    int client = dial(&open_server.at);

    (void)state;
    memcpy(buf, "\x05\x01\x00\x05\x04\x00\x01\x7f\x00\x00\x01\x00\x50", 13);
    put(client, buf, sizeof(buf));
    expect(client, BYTES("\x05\x00\x05\x07\x00\x01\0\0\0\0\0\0"));
    expect_end(client);
    /* And it is not reset for what it still sends. */
    for (unsigned k = 0; k < 3; k++) {
        put(client, BYTES("more"));
        usleep(20000);
    }
    close(client);
}

/* A client that vanishes after any number of its bytes, with a FIN or a reset, leaves nothing
 * behind. */
static void test_early_close(void **state)
{
    uint8_t buf[600];
    const struct server *servers[] = {&closed_server, &open_server};

    (void)state;
    fcntl(listener, F_SETFL, O_NONBLOCK);
    for (unsigned k = 0; k < 2; k++) {
        size_t n = 0;

        if (servers[k] == &closed_server) {
            memcpy(buf,
                   "\x05\x01\x02\x01\x05"
                   "alice\x06secret",
                   17);
            n = 17 + request5_name(buf + 17, "localhost", target_at.port);
        } else {
            n = request4(buf, &target_at, "user", "localhost");
        }
        memcpy(buf + n, "tail", 4);
        n += 4;
        for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;)
            close(fd);
        server_wait_idle(servers[k]);
        for (size_t i = 0; i <= n; i++) {
            for (unsigned how = 0; how < 3; how++) {
                int client = dial(&servers[k]->at);

                if (i > 0)
                    put(client, buf, i);
                if (how == 0)
                    close(client);
                else if (how == 1)
                    reset(client);
                else {
                    shutdown(client, SHUT_WR);
                    close(client);
                }
                for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;)
                    close(fd);
            }
        }
        for (unsigned i = 0; i < WAIT_SECONDS * 100 && server_counters(servers[k]).active > 0;
             i++) {
            for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;)
                close(fd);
            usleep(10000);
        }
        server_wait_idle(servers[k]);
    }
    fcntl(listener, F_SETFL, 0);
}

/* So it is with the commands that leave more behind than a connection. */
static void test_early_close_of_bind_and_associate(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } said[] = {
        {BYTES("\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x15tail")},
        {BYTES("\x05\x01\x00\x05\x02\x00\x03\x09localhost\x00\x15tail")},
        {BYTES("\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00tail")},
        {BYTES("\x05\x01\x00\x05\x03\x00\x01\x7f\x00\x00\x01\x12\x34tail")},
        {BYTES("\x04\x02\x00\x15\x00\x00\x00\x01user\0localhost\0tail")},
    };

    (void)state;
    for (size_t k = 0; k < sizeof(said) / sizeof(said[0]); k++) {
        for (size_t i = 0; i <= said[k].len; i++) {
            for (unsigned how = 0; how < 3; how++) {
                int client = dial(&open_server.at);

                if (i > 0)
                    put(client, said[k].bytes, i);
                if (how == 1)
                    reset(client);
                else if (how == 2)
                    shutdown(client, SHUT_WR);
                if (how != 1)
                    close(client);
            }
        }
        server_wait_idle(&open_server);
    }
    assert_int_equal(server_counters(&open_server).associations, 0);
}

static void test_slow_client(void **state)
{
    static const char *const said[] = {"", "\x05", "\x05\x01", "\x04\x01"};
    struct serve_options o = {.handshake_timeout = 150 * MS};
    struct server s = {0};
    char c;

    (void)state;
    server_start(&s, &o);
    for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        int client = dial(&s.at);

        put(client, said[i], strlen(said[i]));
        expect_reset(client);
        close(client);
    }
    /* Between two messages, and with a byte now and then: the time is for all of it. */
    int client = dial(&s.at);

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    for (unsigned i = 0; i < WAIT_SECONDS * 50; i++) {
        static const char name[] = "\x05\x01\x00\x03\xff";

        if (send(client, i < 5 ? &name[i] : "x", 1, MSG_NOSIGNAL) < 0 ||
            (recv(client, &c, 1, MSG_DONTWAIT) <= 0 && errno == ECONNRESET))
            break;
        usleep(20000);
    }
    close(client);
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).timed_out, 5);
    server_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_authentication),
        cmocka_unit_test(test_password),
        cmocka_unit_test(test_wrong_password),
        cmocka_unit_test(test_no_acceptable_method),
        cmocka_unit_test(test_socks4),
        cmocka_unit_test(test_socks4a),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_everything_in_one_segment),
        cmocka_unit_test(test_other_commands),
        cmocka_unit_test(test_broken_requests),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_refusal_arrives_behind_payload),
        cmocka_unit_test(test_early_close),
        cmocka_unit_test(test_early_close_of_bind_and_associate),
        cmocka_unit_test(test_slow_client),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/handshake", tests, setup, teardown);
}
