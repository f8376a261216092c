/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "udp.h"

static int bind_to(const struct server *s, const char *peer, struct addr *ret_at)
{
    struct addr dest = address(peer);
    int client = request_command(s, 2, &dest);

    *ret_at = take_reply5(client);
    return client;
}

/* A connection to `to` from the address `from`; or -ECONNREFUSED, or -ECONNRESET: it is reset
 * before connect() has looked. */
static int come_from(const char *from, const struct addr *to, struct addr *ret_at)
{
    struct addr at = address(from);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&at, &sa);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    set_patience(fd);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    len = addr_to_sockaddr(to, &sa);
    if (connect(fd, (struct sockaddr *)&sa, len) < 0) {
        int error = errno;

        assert_true(error == ECONNREFUSED || error == ECONNRESET);
        close(fd);
        return -error;
    }
    len = sizeof(sa);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, ret_at), 0);
    return fd;
}

/* What come_from() has returned, of a connection that is taken and reset. */
static void expect_reset_peer(int peer)
{
    if (peer == -ECONNRESET)
        return;
    expect_reset(peer);
    close(peer);
}

/* The second reply names the peer. */
static void expect_peer(int client, const struct addr *peer)
{
    struct addr said = take_reply5(client);

    assert_true(addr_equal(&said, peer));
}

static void test_named_peer(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, from;

    (void)state;
    server_start(&s, &o);
    for (unsigned i = 0; i < 2; i++) {
        /* The port of the request is not the one that the peer comes from. */
        int client = bind_to(&s, i ? "127.0.0.1:0" : "127.0.0.1:21", &at);
        struct addr local = address("127.0.0.1:0");

        assert_true(addr_same_ip(&at, &local));
        assert_int_not_equal(at.port, 0);
        assert_int_equal(server_counters(&s).granted, i);
        int peer = come_from("127.0.0.1:0", &at, &from);

        expect_peer(client, &from);
        expect_joined(client, peer);
        /* One peer, and no more. */
        assert_int_equal(come_from("127.0.0.1:0", &at, &from), -ECONNREFUSED);
        put(peer, BYTES("last words"));
        shutdown(peer, SHUT_WR);
        expect(client, BYTES("last words"));
        expect_end(client);
        put(client, BYTES("answer"));
        close(client);
        expect(peer, BYTES("answer"));
        expect_end(peer);
        close(peer);
    }
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).bound, 2);
    assert_int_equal(server_counters(&s).granted, 2);
    server_stop(&s);
}

/* Whoever else comes is reset, and the peer is still awaited. */
static void test_strangers(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, from;

    (void)state;
    server_start(&s, &o);
    for (unsigned version = 4; version < 6; version++) {
        uint64_t before = server_counters(&s).bind_strangers;
        int client;

        if (version == 5) {
            client = bind_to(&s, "127.0.0.1:0", &at);
        } else {
            uint8_t reply[8];

            client = dial(&s.at);
            put(client, BYTES("\x04\x02\0\x15\x7f\0\0\x01name\0"));
            assert_int_equal(recv(client, reply, 8, MSG_WAITALL), 8);
            assert_memory_equal(reply, "\x00\x5a", 2);
            addr_set_v4(&at, reply + 4, (uint16_t)(reply[2] << 8 | reply[3]));
        }
        for (unsigned i = 0; i < 40; i++) {
            expect_reset_peer(come_from("127.0.0.2:0", &at, &from));
        }
        assert_int_equal(server_counters(&s).bind_strangers - before, 40);
        int peer = come_from("127.0.0.1:0", &at, &from);

        if (version == 5) {
            expect_peer(client, &from);
        } else {
            uint8_t reply[8] = {0, 0x5a, (uint8_t)(from.port >> 8), (uint8_t)from.port, 127, 0,
                                0, 1};

            expect(client, reply, 8);
        }
        expect_joined(client, peer);
        close(client);
        close(peer);
    }
    server_wait_idle(&s);
    server_stop(&s);
}

/* 0.0.0.0 and ::, by number and by SOCKS4: anybody of that family, on any address of this host. */
static void test_any_peer(void **state)
{
    static const char *const from[] = {"127.0.0.1:0", "127.0.0.7:0"};
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, peer_at;

    (void)state;
    server_start(&s, &o);
    for (unsigned i = 0; i < 4; i++) {
        int client;

        if (i < 2) {
            client = bind_to(&s, "0.0.0.0:0", &at);
        } else {
            uint8_t reply[8];

            client = dial(&s.at);
            put(client, BYTES("\x04\x02\0\0\0\0\0\0\0"));
            assert_int_equal(recv(client, reply, 8, MSG_WAITALL), 8);
            assert_memory_equal(reply, "\x00\x5a", 2);
            addr_set_v4(&at, reply + 4, (uint16_t)(reply[2] << 8 | reply[3]));
        }
        /* What the client is told is an address that can be connected to. */
        assert_false(addr_is_any(&at));
        uint16_t port = at.port;

        if (i % 2 == 0)
            at = address("127.0.0.5:0");
        at.port = port;
        int peer = come_from(from[i / 2], &at, &peer_at);

        if (i < 2)
            expect_peer(client, &peer_at);
        else
            expect_granted4(client);
        expect_joined(client, peer);
        close(client);
        close(peer);
    }
    server_wait_idle(&s);
    server_stop(&s);
}

static void test_ipv6(void **state)
{
    struct addr listen[2], at, from;
    struct serve_options o = {.listen = listen, .n_listen = 2};
    struct server s = {0};
    int probe = listen_on("[::1]:0", &at);

    (void)state;
    if (probe < 0) {
        print_message("skipped: this host has no ::1\n");
        skip();
    }
    close(probe);
    listen[0] = address("[::1]:0");
    listen[1] = address("127.0.0.1:0");
    server_start(&s, &o);
    for (unsigned i = 0; i < 4; i++) {
        static const char *const dest[] = {"[::1]:21", "[::]:0", "127.0.0.1:0", "0.0.0.0:0"};
        int client = bind_to(&s, dest[i], &at);

        assert_true(addr_is_v4(&at) == (i >= 2));
        int peer = come_from(i < 2 ? "[::1]:0" : "127.0.0.1:0", &at, &from);

        expect_peer(client, &from);
        expect_joined(client, peer);
        close(client);
        close(peer);
    }
    server_wait_idle(&s);
    server_stop(&s);
}

/* The peer by name: in SOCKS5 and 4a. */
static void test_name(void **state)
{
    static const char *const names[] = {"localhost", "127.0.0.1"};
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, from, any = address("0.0.0.0:0");
    uint8_t buf[300], reply[8];

    (void)state;
    server_start(&s, &o);
    for (size_t i = 0; i < 4; i++) {
        const char *name = names[i % 2];
        int client = dial(&s.at);

        if (i < 2) {
            put(client, BYTES("\x05\x01\x00"));
            expect(client, BYTES("\x05\x00"));
            size_t n = request5_name(buf, name, 21);

            buf[1] = 2;
            put(client, buf, n);
            at = take_reply5(client);
        } else {
            any.port = 21;
            size_t n = request4(buf, &any, "", name);

            buf[1] = 2;
            put(client, buf, n);
            assert_int_equal(recv(client, reply, 8, MSG_WAITALL), 8);
            assert_memory_equal(reply, "\x00\x5a", 2);
            addr_set_v4(&at, reply + 4, (uint16_t)(reply[2] << 8 | reply[3]));
            if (addr_is_any(&at)) { /* an IPv6 listener, which SOCKS4 cannot say */
                uint16_t port = at.port;

                at = address("[::1]:0");
                at.port = port;
            }
        }
        int peer = come_from(addr_is_v4(&at) ? "127.0.0.1:0" : "[::1]:0", &at, &from);

        if (i < 2)
            expect_peer(client, &from);
        else
            expect_granted4(client);
        expect_joined(client, peer);
        close(client);
        close(peer);
    }
    /* One that is none. */
    int client = dial(&s.at);

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    size_t n = request5_name(buf, "a b", 21);

    buf[1] = 2;
    put(client, buf, n);
    expect_refusal5(client, 0x04);
    server_wait_idle(&s);
    server_stop(&s);
}

/* The client's bytes behind its request wait for the peer, and the peer's come behind the reply. */
static void test_early_bytes(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, from;

    (void)state;
    server_start(&s, &o);
    int client = dial(&s.at);

    put(client, BYTES("\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x15"
                      "early "));
    expect(client, BYTES("\x05\x00"));
    at = take_reply5(client);
    put(client, BYTES("and more"));
    int peer = come_from("127.0.0.1:0", &at, &from);

    put(peer, BYTES("220 hello"));
    expect_peer(client, &from);
    expect(client, BYTES("220 hello"));
    expect(peer, BYTES("early and more"));
    expect_joined(client, peer);
    close(client);
    close(peer);
    server_wait_idle(&s);
    server_stop(&s);
}

/* Nobody comes: the second reply says so. */
static void test_timeout(void **state)
{
    struct serve_options o = {.bind_timeout = 100 * MS};
    struct server s = {0};
    struct addr at, from;

    (void)state;
    server_start(&s, &o);
    int client = bind_to(&s, "127.0.0.1:21", &at);

    expect_refusal5(client, 0x06);
    assert_int_equal(come_from("127.0.0.1:0", &at, &from), -ECONNREFUSED);
    client = dial(&s.at);
    put(client, BYTES("\x04\x02\0\x15\x7f\0\0\x01name\0"));
    expect_granted4(client);
    expect(client, BYTES("\x00\x5b\0\0\0\0\0\0"));
    expect_end(client);
    close(client);
    assert_int_equal(server_counters(&s).bind_failed, 2);
    server_wait_idle(&s);
    server_stop(&s);
}

/* A client that is gone needs no listener. */
static void test_client_gone(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, from;

    (void)state;
    server_start(&s, &o);
    for (unsigned how = 0; how < 4; how++) {
        int client;

        if (how < 3) {
            client = bind_to(&s, how ? "127.0.0.1:21" : "0.0.0.0:0", &at);
        } else { /* its end came with the request */
            client = dial(&s.at);
            put(client, BYTES("\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x15"));
            shutdown(client, SHUT_WR);
            expect(client, BYTES("\x05\x00"));
            at = take_reply5(client);
        }
        if (how == 1)
            reset(client);
        else if (how == 2)
            shutdown(client, SHUT_WR);
        else if (how == 0)
            close(client);
        server_wait_idle(&s);
        if (how >= 2)
            close(client);
        if (how > 0)
            assert_int_equal(come_from("127.0.0.1:0", &at, &from), -ECONNREFUSED);
    }
    server_stop(&s);
}

static void test_refusals(void **state)
{
    struct serve_options o = {0};
    struct addr dest = address("127.255.255.255:9");
    struct server s = {0};

    (void)state;
    server_start(&s, &o);
    /* A broadcast address, whatever routes there are: no way there. */
    expect_refusal5(request_command(&s, 2, &dest), 0x02);
    assert_int_equal(server_counters(&s).bind_failed, 1);
    server_wait_idle(&s);
    server_stop(&s);

    o.no_bind = true;
    server_start(&s, &o);
    dest = address("127.0.0.1:9");
    expect_refusal5(request_command(&s, 2, &dest), 0x07);
    int client = dial(&s.at);

    put(client, BYTES("\x04\x02\0\x15\x7f\0\0\x01name\0"));
    expect(client, BYTES("\x00\x5b\0\0\0\0\0\0"));
    expect_end(client);
    close(client);
    assert_int_equal(server_counters(&s).unsupported, 2);
    server_stop(&s);
}

/* A peer that cannot be accepted ends it, and does not keep the server busy. */
static void test_no_descriptor(void **state)
{
    struct serve_options o = {0};
    struct server s = {.spare_fds = 2};
    struct addr at, from;

    (void)state;
    server_start(&s, &o);
    int client = bind_to(&s, "127.0.0.1:21", &at);
    int peer = come_from("127.0.0.1:0", &at, &from);

    expect_refusal5(client, 0x01);
    expect_reset_peer(peer);
    assert_int_equal(server_counters(&s).bind_failed, 1);
    server_wait_idle(&s);
    server_stop(&s);
}

static void test_destroy_resets(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr at, from;

    (void)state;
    server_start(&s, &o);
    int client = bind_to(&s, "127.0.0.1:21", &at);

    server_stop(&s);
    expect_reset(client);
    assert_int_equal(come_from("127.0.0.1:0", &at, &from), -ECONNREFUSED);
    close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_named_peer),     cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_any_peer),       cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_name),           cmocka_unit_test(test_early_bytes),
        cmocka_unit_test(test_timeout),        cmocka_unit_test(test_client_gone),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_no_descriptor),
        cmocka_unit_test(test_destroy_resets),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/bind", tests, NULL, NULL);
}
