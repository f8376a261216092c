/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What moves through an association, and what does not. */
#include "udp.h"

static struct server s;
static int control, client, target; /* for the tests that need no others */
static struct addr relay, client_at, target_at;

static int setup(void **state)
{
    struct serve_options o = {0};

    (void)state;
    server_start(&s, &o);
    control = associate(&s, &relay);
    client = udp_on("127.0.0.1:0", &client_at);
    target = udp_on("127.0.0.1:0", &target_at);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(control);
    close(client);
    close(target);
    server_wait_idle(&s);
    server_stop(&s);
    return 0;
}

static void need_ipv6(void)
{
    struct addr at;
    int fd = udp_on("[::1]:0", &at);

    if (fd < 0) {
        print_message("skipped: this host has no ::1\n");
        skip();
    }
    close(fd);
}

/* Clients of each family to targets of each, through one association; a target in each form. */
static void test_families(void **state)
{
    static const char *const local[] = {"127.0.0.1:0", "[::1]:0"};
    static const char *const names[2][2] = {{"127.0.0.1", "127.0.0.1"}, {"::1", "[::1]"}};

    (void)state;
    need_ipv6();
    for (unsigned i = 0; i < 2; i++) {
        struct addr listen = address(local[i]), at, way;
        struct serve_options o = {.listen = &listen, .n_listen = 1};
        struct server own = {0};

        server_start(&own, &o);
        int tcp = associate(&own, &way), udp = udp_on(local[i], &at);

        assert_true(addr_same_ip(&way, &listen));
        for (unsigned k = 0; k < 4; k++) {
            struct addr to;
            int far = udp_on(local[k % 2], &to);

            (void)expect_carried(udp, &way, far, &to);
            for (unsigned n = 0; n < 2; n++) {
                send_through_name(udp, &way, names[k % 2][n], to.port, BYTES("by name"));
                (void)expect_datagram(far, BYTES("by name"));
            }
            close(far);
        }
        close(udp);
        close(tcp);
        server_wait_idle(&own);
        server_stop(&own);
    }
}

/* An IPv4 address in IPv6 clothes is the IPv4 address. */
static void test_v4_mapped(void **state)
{
    uint8_t buf[64] = {0, 0, 0, 4};

    (void)state;
    memcpy(buf + 4, target_at.ip, 16);
    buf[20] = (uint8_t)(target_at.port >> 8);
    buf[21] = (uint8_t)target_at.port;
    memcpy(buf + 22, "mapped", 6);
    send_to(client, &relay, buf, 28);
    struct addr outer = expect_datagram(target, BYTES("mapped"));

    send_to(target, &outer, BYTES("back"));
    expect_through(client, &relay, &target_at, BYTES("back"));
}

/* Whoever answers, from wherever: the header says who. */
static void test_full_cone(void **state)
{
    struct addr outer = expect_carried(client, &relay, target, &target_at), at[3];
    int others[3] = {udp_on("127.0.0.1:0", &at[0]), udp_on("127.0.0.1:0", &at[1]),
                     udp_on("127.0.0.9:0", &at[2])};

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        send_to(others[i], &outer, BYTES("unasked"));
        expect_through(client, &relay, &at[i], BYTES("unasked"));
        /* And the client's socket has one outer address for all. */
        struct addr seen = expect_carried(client, &relay, others[i], &at[i]);

        assert_true(addr_equal(&seen, &outer));
        close(others[i]);
    }
}

/* Every beginning of a right datagram, and everything that is wrong with one, is dropped, counted
 * for its reason, and changes nothing. */
static void test_hostile(void **state)
{
    struct serve_counters before = server_counters(&s), after;
    struct addr to = target_at, six = address("[2001:db8::1]:9");
    uint8_t buf[400];
    uint64_t malformed = 0;

    (void)state;
    (void)expect_carried(client, &relay, target, &target_at);
    for (size_t i = 0; i < HEADER_V4; i++, malformed++) {
        (void)header(buf, &to);
        send_to(client, &relay, buf, i);
    }
    for (size_t i = 3; i < HEADER_V6; i++, malformed++) {
        (void)header(buf, &six);
        send_to(client, &relay, buf, i);
    }
    size_t len = header_name(buf, "localhost", to.port);

    for (size_t i = 4; i < len; i++, malformed++)
        send_to(client, &relay, buf, i);
    for (unsigned atyp = 0; atyp < 256; atyp++) {
        if (atyp == 1 || atyp == 3 || atyp == 4)
            continue;
        (void)header(buf, &to);
        buf[3] = (uint8_t)atyp;
        send_to(client, &relay, buf, 40);
        malformed++;
        if (atyp % 32 == 0) /* so many as a receive buffer certainly holds */
            WAIT_COUNTER(&s, udp_malformed, before.udp_malformed + malformed);
    }
    send_to(client, &relay, BYTES("\0\0\0\x03\0\0\x35payload")); /* no name */
    send_to(client, &relay,
            BYTES("\0\0\0\x03\x03"
                  "a\0b\0\x35payload")); /* half a name */
    malformed += 2;
    for (unsigned frag = 1; frag < 256; frag += 2) {
        (void)header(buf, &to);
        buf[2] = (uint8_t)frag;
        send_to(client, &relay, buf, 40);
    }
    WAIT_COUNTER(&s, udp_fragment, before.udp_fragment + 128);
    WAIT_COUNTER(&s, udp_malformed, before.udp_malformed + malformed);

    static const char *const forbidden[] = {"127.0.0.1:0",        "[::1]:0",
                                            "224.0.0.1:9",        "239.255.255.250:1900",
                                            "255.255.255.255:67", "[ff02::1]:9"};

    for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
        to = address(forbidden[i]);
        send_through(client, &relay, &to, BYTES("payload"));
    }
    send_through_name(client, &relay, "224.0.0.251", 5353, BYTES("payload"));
    send_through_name(client, &relay, "localhost", 0, BYTES("payload"));
    send_through_name(client, &relay, "a b", 9, BYTES("payload"));
    (void)expect_carried(client, &relay, target, &target_at);
    expect_nothing(target);
    expect_nothing(client);
    after = server_counters(&s);
    assert_int_equal(after.udp_forbidden - before.udp_forbidden, 8);
    assert_int_equal(after.udp_no_name - before.udp_no_name, 1);
    assert_int_equal(after.udp_up - before.udp_up, 2);
    assert_int_equal(after.udp_down - before.udp_down, 2);
    assert_int_equal(after.associations, 1);
}

/* RSV is reserved, and clients put things there. */
static void test_reserved(void **state)
{
    uint8_t buf[64];
    size_t n = header(buf, &target_at);

    (void)state;
    buf[0] = 0x12;
    buf[1] = 0xff;
    memcpy(buf + n, "hello", 5);
    send_to(client, &relay, buf, n + 5);
    (void)expect_datagram(target, BYTES("hello"));
}

/* Whole or not at all: from nothing to what a datagram can hold, on both sides of the limit. */
static void test_sizes(void **state)
{
    static uint8_t payload[65536];
    const size_t max = 65507; /* of UDP over IPv4 */
    const size_t sizes[] = {0, 1, 2, 511, 1472, 1473, 9000, 32768, max - HEADER_V4};
    uint64_t oversized = server_counters(&s).udp_oversized;
    struct addr outer = expect_carried(client, &relay, target, &target_at);

    (void)state;
    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (uint8_t)(i * 7 + i / 251);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        send_through(client, &relay, &target_at, payload, sizes[i]);
        (void)expect_datagram(target, payload, sizes[i]);
        send_to(target, &outer, payload, sizes[i]);
        expect_through(client, &relay, &target_at, payload, sizes[i]);
    }
    for (size_t len = max - HEADER_V4 + 1; len <= max; len++) {
        send_to(target, &outer, payload, len);
        oversized++;
        WAIT_COUNTER(&s, udp_oversized, oversized);
    }
    send_to(target, &outer, BYTES("and on"));
    expect_through(client, &relay, &target_at, BYTES("and on"));
    expect_nothing(client);
}

/* The same where a client over IPv6 has room for more than IPv4 takes. */
static void test_sizes_of_families(void **state)
{
    static uint8_t payload[65536];
    struct addr listen = address("[::1]:0"), at, way, six_at;
    struct serve_options o = {.listen = &listen, .n_listen = 1};
    struct server own = {0};
    int six = -1;

    (void)state;
    need_ipv6();
    memset(payload, 'x', sizeof(payload));
    server_start(&own, &o);
    int tcp = associate(&own, &way), udp = udp_on("[::1]:0", &at);

    six = udp_on("[::1]:0", &six_at);
    send_through(udp, &way, &target_at, payload, 65507);
    struct addr outer = expect_datagram(target, payload, 65507);

    send_through(udp, &way, &target_at, payload, 65508);
    WAIT_COUNTER(&own, udp_oversized, 1);
    send_to(target, &outer, payload, 65507);
    expect_through(udp, &way, &target_at, payload, 65507);

    send_through(udp, &way, &six_at, payload, 65527 - HEADER_V6);
    outer = expect_datagram(six, payload, 65527 - HEADER_V6);
    send_to(six, &outer, payload, 65527 - HEADER_V6);
    expect_through(udp, &way, &six_at, payload, 65527 - HEADER_V6);
    send_to(six, &outer, payload, 65527 - HEADER_V6 + 1);
    send_to(six, &outer, payload, 65527);
    WAIT_COUNTER(&own, udp_oversized, 3);
    expect_nothing(udp);
    close(six);
    close(udp);
    close(tcp);
    server_stop(&own);
}

/* More than a batch, to two targets of each family in turn: nothing is lost, mixed up or out of
 * order. */
static void test_batches(void **state)
{
    enum { BURST = 100, TARGETS = 4 };
    static const char *const local[TARGETS] = {"127.0.0.1:0", "[::1]:0", "127.0.0.1:0", "[::1]:0"};
    struct addr at[TARGETS], outer[2], from;
    int fd[TARGETS];
    uint8_t buf[64];

    (void)state;
    need_ipv6();
    for (unsigned i = 0; i < TARGETS; i++) {
        fd[i] = udp_on(local[i], &at[i]);
        outer[i % 2] = expect_carried(client, &relay, fd[i], &at[i]);
    }
    for (uint32_t round = 0; round < 30; round++) {
        for (uint32_t i = 0; i < BURST; i++) {
            uint32_t word[2] = {round, i};

            send_through(client, &relay, &at[i % TARGETS], word, sizeof(word));
        }
        for (uint32_t i = 0; i < BURST; i++) {
            uint32_t word[2] = {round, i};

            from = expect_datagram(fd[i % TARGETS], word, sizeof(word));
            assert_true(addr_equal(&from, &outer[i % 2]));
        }
        for (uint32_t i = 0; i < BURST; i++) {
            uint32_t word[2] = {i, round};

            send_to(fd[i % TARGETS], &outer[i % 2], word, sizeof(word));
        }
        /* Each family is in order; which of the two comes first is open. */
        uint32_t next[2] = {0, 1};

        for (uint32_t i = 0; i < BURST; i++) {
            size_t n = receive_from(client, buf, sizeof(buf), &from);
            unsigned six = buf[3] == 4;
            size_t head = six ? HEADER_V6 : HEADER_V4;
            uint32_t word[2];
            uint8_t want[HEADER_V6];

            assert_int_equal(n, head + sizeof(word));
            memcpy(word, buf + head, sizeof(word));
            assert_int_equal(word[0], next[six]);
            assert_int_equal(word[1], round);
            (void)header(want, &at[next[six] % TARGETS]);
            assert_memory_equal(buf, want, head);
            next[six] += 2;
        }
    }
    for (unsigned i = 0; i < TARGETS; i++)
        close(fd[i]);
}

/* Many at once keep to themselves. */
static void test_many_associations(void **state)
{
    enum { N = 60 };
    int tcp[N], udp[N];
    struct addr way[N], at[N], outer[N];

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        tcp[i] = associate(&s, &way[i]);
        udp[i] = udp_on("127.0.0.1:0", &at[i]);
        send_through(udp[i], &way[i], &target_at, &i, sizeof(i));
        outer[i] = expect_datagram(target, &i, sizeof(i));
    }
    for (uint32_t i = 0; i < N; i++)
        send_to(target, &outer[i], &i, sizeof(i));
    for (uint32_t i = 0; i < N; i++) {
        expect_through(udp[i], &way[i], &target_at, &i, sizeof(i));
        expect_nothing(udp[i]);
        close(udp[i]);
        close(tcp[i]);
    }
    WAIT_COUNTER(&s, associations, 1);
}

/* "Port unreachable" from either side is about one datagram, not about the association. */
static void test_icmp(void **state)
{
    struct addr closed, at, way;
    int fd = udp_on("127.0.0.1:0", &closed), tcp = associate(&s, &way);

    (void)state;
    close(fd);
    for (unsigned i = 0; i < 50; i++) {
        send_through(client, &relay, &closed, BYTES("nobody"));
        (void)expect_carried(client, &relay, target, &target_at);
    }
    /* A client that is not there for a while. */
    int udp = udp_on("127.0.0.1:0", &at);
    struct addr outer = expect_carried(udp, &way, target, &target_at);
    char text[ADDR_STRLEN];

    for (unsigned round = 0; round < 20; round++) {
        close(udp);
        send_to(target, &outer, BYTES("missed"));
        /* It has been read, and passed on to nobody. */
        for (unsigned i = 0; i < 3; i++)
            (void)expect_carried(client, &relay, target, &target_at);
        udp = udp_on(addr_format(&at, text), &at);
        assert_true(udp >= 0);
        send_to(target, &outer, BYTES("again"));
        expect_through(udp, &way, &target_at, BYTES("again"));
        send_through(udp, &way, &target_at, BYTES("I am back"));
        (void)expect_datagram(target, BYTES("I am back"));
    }
    close(udp);
    close(tcp);
    WAIT_COUNTER(&s, associations, 1);
}

/* What the kernel refuses does not keep what comes behind it. */
static void test_unsendable_in_a_batch(void **state)
{
    struct addr bad = address("127.255.255.255:9"); /* the broadcast of loopback */
    uint64_t unsent = server_counters(&s).udp_unsent;

    (void)state;
    for (uint32_t i = 0; i < 60; i++)
        send_through(client, &relay, i % 3 == 0 ? &target_at : &bad, &i, sizeof(i));
    for (uint32_t i = 0; i < 60; i += 3)
        (void)expect_datagram(target, &i, sizeof(i));
    WAIT_COUNTER(&s, udp_unsent, unsent + 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_v4_mapped),
        cmocka_unit_test(test_full_cone),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_reserved),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_sizes_of_families),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_many_associations),
        cmocka_unit_test(test_icmp),
        cmocka_unit_test(test_unsendable_in_a_batch),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("serve/datagrams", tests, setup, teardown);
}
