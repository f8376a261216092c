/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of an association: who may have one, whose datagrams it takes, how it ends. */
#include "udp.h"

static int target, other_target;
static struct addr target_at, other_at;

static int setup(void **state)
{
    (void)state;
    target = udp_on("127.0.0.1:0", &target_at);
    other_target = udp_on("127.0.0.1:0", &other_at);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(target);
    close(other_target);
    return 0;
}

/* The client can reach it there, whatever address the server listens on. */
static void test_bound_address(void **state)
{
    struct addr any = address("0.0.0.0:0"), relay, client_at;
    struct serve_options o = {.listen = &any, .n_listen = 1};
    struct server s = {0};

    (void)state;
    server_start(&s, &o);
    for (unsigned i = 1; i < 4; i++) {
        char text[ADDR_STRLEN];
        struct addr want;

        snprintf(text, sizeof(text), "127.0.0.%u:%u", i, s.at.port);
        want = s.at = address(text);
        int control = associate(&s, &relay);
        struct sockaddr_storage sa;
        socklen_t len = sizeof(sa);
        struct addr from;

        assert_int_equal(getsockname(control, (struct sockaddr *)&sa, &len), 0);
        assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, &from), 0);
        want.port = relay.port;
        assert_true(addr_equal(&relay, &want));
        assert_int_not_equal(relay.port, 0);
        assert_int_not_equal(relay.port, s.at.port);
        int client = udp_on(addr_format_ip(&from, text), &client_at);

        (void)expect_carried(client, &relay, target, &target_at);
        close(client);
        close(control);
    }
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).associated, 3);
    assert_int_equal(server_counters(&s).associations, 0);
    server_stop(&s);
}

/* Not the first datagram makes the client, but the first right one. */
static void test_port_is_learnt(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    int control = associate(&s, &relay);
    int first = udp_on("127.0.0.1:0", &at), second = udp_on("127.0.0.1:0", &at);

    send_to(first, &relay, BYTES("\0\0\0\x01\x7f"));
    send_to(first, &relay, BYTES(""));
    send_to(first, &relay, BYTES("\0\0\x01\x01\x7f\0\0\x01\x12\x34payload"));
    WAIT_COUNTER(&s, udp_malformed, 2);
    WAIT_COUNTER(&s, udp_fragment, 1);
    (void)expect_carried(second, &relay, target, &target_at);
    send_through(first, &relay, &target_at, BYTES("of another"));
    (void)expect_carried(second, &relay, target, &target_at);
    expect_nothing(target);
    expect_nothing(first);
    close(first);
    close(second);
    close(control);
    server_wait_idle(&s);
    server_stop(&s);
}

/* DST.PORT of the request, when DST.ADDR is none, or the client's own. */
static void test_port_is_said(void **state)
{
    static const char *const said[] = {"0.0.0.0", "::", "127.0.0.1"};
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at, right_at;

    (void)state;
    server_start(&s, &o);
    for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        int wrong = udp_on("127.0.0.1:0", &at), right = udp_on("127.0.0.1:0", &right_at);

        int control = associate_from(&s, said[i], right_at.port, &relay);

        send_through(wrong, &relay, &target_at, BYTES("of another"));
        (void)expect_carried(right, &relay, target, &target_at);
        expect_nothing(target);
        close(wrong);
        close(right);
        close(control);
    }
    /* A name that is an address is one. */
    int wrong = udp_on("127.0.0.1:0", &at), right = udp_on("127.0.0.1:0", &right_at);
    uint8_t buf[64];
    int control = dial(&s.at);

    put(control, BYTES("\x05\x01\x00"));
    expect(control, BYTES("\x05\x00"));
    size_t n = request5_name(buf, "127.0.0.1", right_at.port);

    buf[1] = 3;
    put(control, buf, n);
    relay = take_reply5(control);
    send_through(wrong, &relay, &target_at, BYTES("of another"));
    (void)expect_carried(right, &relay, target, &target_at);
    expect_nothing(target);
    close(wrong);
    close(right);
    close(control);
    server_wait_idle(&s);
    server_stop(&s);
}

/* A client behind a translator, or one that names its destination here, says another address: then
 * its port says nothing either. */
static void test_another_address_is_said(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    int control = associate_from(&s, "192.0.2.1", 9, &relay);
    int client = udp_on("127.0.0.1:0", &at);

    (void)expect_carried(client, &relay, target, &target_at);
    close(client);
    close(control);
    server_stop(&s);
}

/* Others at other addresses, before and after the client is known. */
static void test_strangers(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    int control = associate(&s, &relay);
    int client = udp_on("127.0.0.1:0", &at), stranger = udp_on("127.0.0.2:0", &at);

    send_through(stranger, &relay, &target_at, BYTES("let me in"));
    WAIT_COUNTER(&s, udp_stranger, 1);
    (void)expect_carried(client, &relay, target, &target_at);
    send_through(stranger, &relay, &target_at, BYTES("let me in"));
    (void)expect_carried(client, &relay, target, &target_at);
    expect_nothing(target);
    expect_nothing(stranger);
    assert_int_equal(server_counters(&s).udp_up, 2);
    close(client);
    close(stranger);
    close(control);
    server_stop(&s);
}

/* Also what was already waiting when the first right datagram was read. */
static void test_strangers_in_the_queue(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    int control = associate(&s, &relay);
    int client = udp_on("127.0.0.1:0", &at), stranger = udp_on("127.0.0.1:0", &at);

    assert_int_equal(kill(s.pid, SIGSTOP), 0);
    send_through(client, &relay, &target_at, BYTES("first"));
    send_through(stranger, &relay, &target_at, BYTES("let me in"));
    send_through(client, &relay, &target_at, BYTES("second"));
    assert_int_equal(kill(s.pid, SIGCONT), 0);
    (void)expect_datagram(target, BYTES("first"));
    struct addr outer = expect_datagram(target, BYTES("second"));

    assert_int_equal(server_counters(&s).udp_stranger, 1);
    send_to(target, &outer, BYTES("answer"));
    expect_through(client, &relay, &target_at, BYTES("answer"));
    expect_nothing(target);
    expect_nothing(stranger);
    close(client);
    close(stranger);
    close(control);
    server_stop(&s);
}

static void test_ends_with_the_control_connection(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    for (unsigned how = 0; how < 3; how++) {
        int control = associate(&s, &relay), client = udp_on("127.0.0.1:0", &at);

        (void)expect_carried(client, &relay, target, &target_at);
        assert_int_equal(server_counters(&s).associations, 1);
        if (how == 0) {
            close(control);
        } else if (how == 1) {
            reset(control);
        } else {
            shutdown(control, SHUT_WR);
            expect_end(control);
            close(control);
        }
        server_wait_idle(&s);
        assert_int_equal(server_counters(&s).associations, 0);
        close(client);
    }
    server_stop(&s);
}

/* What the client says there means nothing; too much of it is not a client. */
static void test_bytes_on_the_control_connection(void **state)
{
    static uint8_t junk[100000];
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    int control = associate(&s, &relay), client = udp_on("127.0.0.1:0", &at);

    for (unsigned i = 0; i < 10; i++) {
        put(control, junk, 100);
        (void)expect_carried(client, &relay, target, &target_at);
    }
    (void)!send(control, junk, sizeof(junk), MSG_NOSIGNAL);
    server_wait_idle(&s);
    close(control);
    close(client);
    server_stop(&s);
}

/* All of it at once, the end included. */
static void test_request_and_end_in_one_segment(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};

    (void)state;
    server_start(&s, &o);
    for (unsigned i = 0; i < 20; i++) {
        int control = dial(&s.at);

        put(control, BYTES("\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0tail"));
        shutdown(control, SHUT_WR);
        expect(control, BYTES("\x05\x00"));
        (void)take_reply5(control);
        expect_end(control);
        close(control);
    }
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).associated, 20);
    server_stop(&s);
}

static void test_idle(void **state)
{
    struct serve_options o = {.udp_idle = 150 * MS};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    int control = associate(&s, &relay);

    expect_end(control);
    close(control);
    /* Also one that was in use. */
    control = associate(&s, &relay);
    int client = udp_on("127.0.0.1:0", &at);

    send_through(client, &relay, &target_at, BYTES("once"));
    (void)expect_datagram(target, BYTES("once"));
    expect_end(control);
    close(control);
    close(client);
    server_wait_idle(&s);
    assert_int_equal(server_counters(&s).udp_idle, 2);
    server_stop(&s);
}

/* A datagram either way is a sign of life, from whomever it should not come is none. The limit is
 * far above the time between two of them. */
static void test_not_idle(void **state)
{
    struct serve_options o = {.udp_idle = 2000 * MS};
    struct server s = {0};
    struct addr relay, at, relay2;

    (void)state;
    server_start(&s, &o);
    int control = associate(&s, &relay), control2 = associate(&s, &relay2);
    int client = udp_on("127.0.0.1:0", &at), stranger = udp_on("127.0.0.2:0", &at);
    struct addr outer = expect_carried(client, &relay, target, &target_at);

    for (unsigned i = 0; server_counters(&s).udp_idle == 0; i++) {
        if (i < 50)
            send_through(client, &relay, &target_at, BYTES("up"));
        else
            send_to(target, &outer, BYTES("down"));
        send_through(stranger, &relay2, &target_at, BYTES("nothing"));
        usleep(50000);
        if (i < 50)
            (void)expect_datagram(target, BYTES("up"));
        else
            expect_through(client, &relay, &target_at, BYTES("down"));
        assert_true(i < WAIT_SECONDS * 20);
    }
    /* It was the other one. */
    expect_end(control2);
    for (unsigned i = 0; i < 50; i++) {
        send_to(target, &outer, BYTES("down"));
        usleep(50000);
        expect_through(client, &relay, &target_at, BYTES("down"));
    }
    (void)expect_carried(client, &relay, target, &target_at);
    assert_int_equal(server_counters(&s).udp_idle, 1);
    close(control);
    close(control2);
    close(client);
    close(stranger);
    server_stop(&s);
}

static void test_full(void **state)
{
    struct serve_options o = {.max_associations = 2};
    struct server s = {0};
    struct addr relay[2], any = address("0.0.0.0:0"), at;
    int control[2];

    (void)state;
    server_start(&s, &o);
    for (unsigned i = 0; i < 2; i++)
        control[i] = associate(&s, &relay[i]);
    for (unsigned i = 0; i < 3; i++)
        expect_refusal5(request_command(&s, 3, &any), 0x01);
    assert_int_equal(server_counters(&s).udp_full, 3);
    assert_int_equal(server_counters(&s).associations, 2);
    /* Each has sockets of its own, and so it is after one has ended. */
    for (unsigned round = 0; round < 4; round++) {
        int client[2];

        for (unsigned i = 0; i < 2; i++) {
            client[i] = udp_on("127.0.0.1:0", &at);
            (void)expect_carried(client[i], &relay[i], i ? other_target : target,
                                 i ? &other_at : &target_at);
        }
        close(client[0]);
        close(client[1]);
        /* One after the other, and both at once. */
        for (unsigned i = 0; round < 2 && i < 2; i++) {
            close(control[i]);
            WAIT_COUNTER(&s, associations, 1);
            control[i] = associate(&s, &relay[i]);
        }
        if (round == 2) {
            close(control[0]);
            close(control[1]);
            WAIT_COUNTER(&s, associations, 0);
            control[0] = associate(&s, &relay[0]);
            control[1] = associate(&s, &relay[1]);
        }
    }
    close(control[0]);
    close(control[1]);
    server_wait_idle(&s);
    server_stop(&s);
}

static void test_password(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;
    char users[64];

    (void)state;
    write_file(users, BYTES("alice:secret\n"));
    o.user_file = users;
    server_start(&s, &o);
    int control = dial(&s.at);

    put(control, BYTES("\x05\x01\x02"));
    expect(control, BYTES("\x05\x02"));
    put(control, BYTES("\x01\x05"
                       "alice\x06secret\x05\x03\x00\x01\0\0\0\0\0\0"));
    expect(control, BYTES("\x01\x00"));
    relay = take_reply5(control);
    int client = udp_on("127.0.0.1:0", &at);

    (void)expect_carried(client, &relay, target, &target_at);
    close(client);
    close(control);
    server_stop(&s);
    unlink(users);
}

/* Not offered, and not in SOCKS4 at all. */
static void test_not_offered(void **state)
{
    struct serve_options o = {.no_udp = true};
    struct addr any = address("0.0.0.0:0");
    struct server s = {0};

    (void)state;
    server_start(&s, &o);
    expect_refusal5(request_command(&s, 3, &any), 0x07);
    assert_int_equal(server_counters(&s).unsupported, 1);
    server_stop(&s);

    o.no_udp = false;
    server_start(&s, &o);
    int client = dial(&s.at);

    put(client, BYTES("\x04\x03\0\x50\x7f\0\0\x01\0"));
    expect(client, BYTES("\x00\x5b\0\0\0\0\0\0"));
    expect_end(client);
    close(client);
    assert_int_equal(server_counters(&s).unsupported, 1);
    server_stop(&s);
}

/* Refused for want of a descriptor; without one for the outside, the datagram is dropped. */
static void test_no_descriptor(void **state)
{
    struct serve_options o = {0};
    struct addr any = address("0.0.0.0:0"), relay, at;
    struct server s = {.spare_fds = 1};

    (void)state;
    server_start(&s, &o);
    expect_refusal5(request_command(&s, 3, &any), 0x01);
    assert_int_equal(server_counters(&s).udp_failed, 1);
    server_wait_idle(&s);
    server_stop(&s);

    s.spare_fds = 3;
    server_start(&s, &o);
    int control = associate(&s, &relay), more = dial(&s.at);
    int client = udp_on("127.0.0.1:0", &at);

    WAIT_COUNTER(&s, active, 2);
    send_through(client, &relay, &target_at, BYTES("no socket"));
    WAIT_COUNTER(&s, udp_unsent, 1);
    close(more);
    WAIT_COUNTER(&s, active, 1);
    (void)expect_carried(client, &relay, target, &target_at);
    close(control);
    close(client);
    server_wait_idle(&s);
    server_stop(&s);
}

static void test_destroy_resets(void **state)
{
    struct serve_options o = {0};
    struct server s = {0};
    struct addr relay, at;

    (void)state;
    server_start(&s, &o);
    int control = associate(&s, &relay), client = udp_on("127.0.0.1:0", &at);

    (void)expect_carried(client, &relay, target, &target_at);
    server_stop(&s);
    expect_reset(control);
    close(control);
    close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound_address),
        cmocka_unit_test(test_port_is_learnt),
        cmocka_unit_test(test_port_is_said),
        cmocka_unit_test(test_another_address_is_said),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_strangers_in_the_queue),
        cmocka_unit_test(test_ends_with_the_control_connection),
        cmocka_unit_test(test_bytes_on_the_control_connection),
        cmocka_unit_test(test_request_and_end_in_one_segment),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_not_idle),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_password),
        cmocka_unit_test(test_not_offered),
        cmocka_unit_test(test_no_descriptor),
        cmocka_unit_test(test_destroy_resets),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/associate", tests, setup, teardown);
}
