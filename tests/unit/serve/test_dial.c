/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fixture.h"

static void greet(int client)
{
    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
}

static void expect_refused(const struct server *s, const uint8_t *request, size_t len, uint8_t rep)
{
    uint8_t reply[10] = {5, rep, 0, 1};
    int client = dial(&s->at);

    greet(client);
    put(client, request, len);
    expect(client, reply, sizeof(reply));
    expect_end(client);
    close(client);
}

/* An address that refuses: bound, so that nobody else takes the port, and not listening. */
static int refusing(struct addr *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(addr_parse("127.0.0.1:0", 0, ret), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, addr_to_sockaddr(ret, &sa)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, ret), 0);
    return fd;
}

/* An address that answers nothing: its queue of connections is full, and a SYN more is dropped. */
static void silent(struct addr *ret, int *ret_listener, int ret_fillers[8])
{
    struct sockaddr_storage sa;
    socklen_t len;

    *ret_listener = listen_on("127.0.0.1:0", ret);
    assert_int_equal(listen(*ret_listener, 0), 0);
    len = addr_to_sockaddr(ret, &sa);
    for (unsigned i = 0; i < 8; i++) {
        ret_fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        assert_true(ret_fillers[i] >= 0);
        (void)!connect(ret_fillers[i], (struct sockaddr *)&sa, len);
    }
}

static void speak(int listener, int fillers[8])
{
    for (unsigned i = 0; i < 8; i++)
        close(fillers[i]);
    close(listener);
}

static void test_ipv6(void **state)
{
    static const char *const names[] = {"::1", "[::1]"};
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at;
    uint8_t buf[64];
    int client, target, listener = listen_on("[::1]:0", &at);

    (void)state;
    if (listener < 0) {
        print_message("skipped: this host has no ::1\n");
        skip();
    }
    struct addr serve_at;

    assert_int_equal(addr_parse("[::1]:0", 0, &serve_at), 0);
    o.listen = &serve_at;
    o.n_listen = 1;
    server_start(&s, &o);
    open_session(&s, listener, &at, &client, &target);
    expect_joined(client, target);
    close(client);
    close(target);
    for (size_t i = 0; i < 2; i++) {
        client = dial(&s.at);
        greet(client);
        put(client, buf, request5_name(buf, names[i], at.port));
        target = take(listener);
        expect_granted5(client, target);
        expect_joined(client, target);
        close(client);
        close(target);
    }
    server_stop(&s);
    close(listener);
}

static void test_v4_mapped(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at;
    uint8_t request[22] = {5, 1, 0, 4};
    int client, target, listener = listen_on("127.0.0.1:0", &at);

    (void)state;
    server_start(&s, &o);
    memcpy(request + 4, at.ip, 16);
    request[20] = (uint8_t)(at.port >> 8);
    request[21] = (uint8_t)at.port;
    client = dial(&s.at);
    greet(client);
    put(client, request, sizeof(request));
    target = take(listener);
    expect_granted5(client, target);
    close(client);
    close(target);
    server_stop(&s);
    close(listener);
}

static void test_refusals(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at;
    uint8_t buf[300], reply4[8] = {0, 0x5b};
    int fd = refusing(&at);

    (void)state;
    server_start(&s, &o);
    expect_refused(&s, buf, request5(buf, &at), 0x05);
    expect_refused(&s, buf, request5_name(buf, "127.0.0.1", at.port), 0x05);
    expect_refused(&s, buf, request5_name(buf, "localhost", at.port), 0x05);

    int client = dial(&s.at);

    put(client, buf, request4(buf, &at, "", NULL));
    expect(client, reply4, sizeof(reply4));
    expect_end(client);
    close(client);
    assert_int_equal(server_counters(&s).connect_failed, 4);

    at.port = 0;
    expect_refused(&s, buf, request5(buf, &at), 0x02);
    expect_refused(&s, buf, request5_name(buf, "localhost", 0), 0x02);
    /* What is not even asked for. */
    expect_refused(&s, buf, request5_name(buf, "a b", 80), 0x04);
    expect_refused(&s, buf, request5_name(buf, "a\nb", 80), 0x04);
    assert_int_equal(server_counters(&s).lookup_failed, 2);
    server_wait_idle(&s);
    server_stop(&s);
    close(fd);
}

static void test_silent_destination(void **state)
{
    struct serve_options o = {.connect_timeout = 150 * MS};
    struct server s = {0};
    struct addr at;
    uint8_t buf[64], reply[10];
    int listener, fillers[8], client;

    (void)state;
    silent(&at, &listener, fillers);
    server_start(&s, &o);
    client = dial(&s.at);
    greet(client);
    put(client, buf, request5(buf, &at));
    assert_int_equal(recv(client, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
    assert_int_equal(reply[0], 5);
    assert_true(reply[1] == 0x04 || reply[1] == 0x06);
    expect_end(client);
    close(client);
    assert_int_equal(server_counters(&s).connect_failed, 1);
    server_wait_idle(&s);
    server_stop(&s);
    speak(listener, fillers);
}

/* A client that is reset while the destination is dialed does not wait for it. */
static void test_client_gone_while_dialing(void **state)
{
    struct serve_options o = {.connect_timeout = 3600 * 1000 * MS};
    struct server s = {0};
    struct addr at;
    uint8_t buf[64];
    int listener, fillers[8], client;

    (void)state;
    silent(&at, &listener, fillers);
    server_start(&s, &o);
    for (unsigned i = 0; i < 20; i++) {
        client = dial(&s.at);
        greet(client);
        put(client, buf, request5(buf, &at));
        reset(client);
    }
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).accepted, 20);
    assert_int_equal(server_counters(&s).granted, 0);
    server_stop(&s);
    speak(listener, fillers);
}

/* One that only ends its direction is still served. */
static void test_client_half_closes_while_dialing(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at;
    uint8_t buf[64];
    int client, target, listener = listen_on("127.0.0.1:0", &at);

    (void)state;
    server_start(&s, &o);
    client = dial(&s.at);
    greet(client);
    put(client, buf, request5(buf, &at));
    shutdown(client, SHUT_WR);
    target = take(listener);
    expect_granted5(client, target);
    expect_end(target);
    put(target, BYTES("still here"));
    close(target);
    expect(client, BYTES("still here"));
    expect_end(client);
    close(client);
    server_wait_idle(&s);
    server_stop(&s);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_v4_mapped),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_silent_destination),
        cmocka_unit_test(test_client_gone_while_dialing),
        cmocka_unit_test(test_client_half_closes_while_dialing),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/dial", tests, NULL, NULL);
}
