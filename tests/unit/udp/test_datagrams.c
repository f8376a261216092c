/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp/listener.c, udp/relay.c, udp/answer.c: datagrams both ways, and those that are not let by. */
#include "udp_rig.h"

static void test_both_ways(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
    rig_expect_answer(r, 1, "127.1.0.1", r->port, BYTES("answer"));
    /* Another destination, the same association; empty ones too. */
    rig_send(r, "127.1.0.2", BYTES("second"));
    rig_expect_up(r, r->relay, "127.1.0.2", BYTES("second"), NULL);
    rig_send(r, "127.1.0.3", "", 0);
    rig_expect_up(r, r->relay, "127.1.0.3", "", 0, NULL);
    rig_answer(r->relay, &us, "127.1.0.3", r->port, "", 0);
    rig_expect_answer(r, 2, "127.1.0.3", r->port, "", 0);
    /* Anybody may answer. */
    rig_answer(r->relay, &us, "203.0.113.77", 9, BYTES("unasked"));
    rig_expect_answer(r, 3, "203.0.113.77", 9, BYTES("unasked"));
    assert_true(rig_nobody_asks(r, 0));

    struct message_udp_stats s = rig_stats(r);

    assert_int_equal(s.associations, 1);
    assert_int_equal(s.begun, 1);
    assert_int_equal(s.granted, 1);
    assert_int_equal(s.datagrams_up, 3);
    assert_int_equal(s.bytes_up, 11);
    assert_int_equal(s.datagrams_down, 3);
    assert_int_equal(s.bytes_down, 13);
    close(server);
}

static void test_record(void **state)
{
    struct rig *r = *state;
    struct message_flow f;
    struct addr us, to = rig_addr("127.18.0.9", r->port);
    uint32_t cursor = 0;

    rig_start(r);
    int server = rig_join(r, &us);
    uint8_t buf[100];

    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("answer"));
    rig_injected(r, 1);
    rig_send(r, "127.18.0.9", BYTES("named"));
    rig_await(r, r->relay, buf, sizeof(buf), NULL);
    assert_int_equal(udp_table_records(r->t, &cursor, &f, 1), 1);
    assert_int_equal(f.protocol, IPPROTO_UDP);
    assert_int_equal(f.header.type, MESSAGE_FLOW);
    assert_int_equal(f.header.length, sizeof(f));
    assert_true(addr_equal(&f.client, &r->client_at));
    assert_true(addr_equal(&f.origin.destination, &to));
    assert_string_equal(f.capture, "test");
    assert_string_equal(f.upstream, "up0");
    assert_string_equal(f.state, "relay");
    assert_string_equal(f.name, "host9.example");
    assert_int_equal(f.bytes_up, 10);
    assert_int_equal(f.bytes_down, 6);
    assert_int_equal(f.id >> 56, 5);
    assert_true(f.id & 0x80000000u);
    assert_int_equal(udp_table_records(r->t, &cursor, &f, 1), 0);
    close(server);
}

/* The capture leaves private addresses alone: the relay speaks for none, but for who was asked. */
static void test_private_sources(void **state)
{
    static const char *const private[] = {"10.0.0.1", "192.168.1.1", "169.254.1.1", "127.1.0.2"};
    struct rig *r = *state;
    struct addr us;

    r->capture.private = false;
    rig_start(r);
    int server = rig_join(r, &us);

    for (unsigned i = 0; i < 4; i++) {
        rig_answer(r->relay, &us, private[i], r -> port, BYTES("forged"));
        rig_until(r, dropped_source, i + 1);
    }
    rig_answer(r->relay, &us, "127.1.0.1", 99, BYTES("asked"));
    rig_expect_answer(r, 1, "127.1.0.1", 99, BYTES("asked"));
    rig_answer(r->relay, &us, "203.0.113.77", 9, BYTES("stranger"));
    rig_expect_answer(r, 2, "203.0.113.77", 9, BYTES("stranger"));
    close(server);
}

/* Several clients, more datagrams than a batch, in their order. */
static void test_batches(void **state)
{
    struct rig *r = *state;
    struct addr at[3], us[3], client_at[3];
    int client[3], relay[3], server[3];
    char text[40];

    rig_start(r);
    for (unsigned c = 0; c < 3; c++) {
        struct addr to = rig_addr("127.1.0.1", r->port);

        client[c] = rig_datagrams("127.0.0.1", &client_at[c]);
        relay[c] = rig_datagrams("127.0.0.1", &us[c]);
        rig_send_from(client[c], &to, BYTES("first"));
        server[c] = rig_asked(r, 0);
        rig_reply(server[c], 0, &us[c]);
        rig_expect_up(r, relay[c], "127.1.0.1", BYTES("first"), &at[c]);
    }
    for (unsigned i = 0; i < 300; i++) { /* runs of 1, 2, 3, ... */
        unsigned c = (i * i / 7) % 3;
        struct addr to = rig_addr(i % 5 ? "127.1.0.1" : "127.1.0.2", r->port);

        snprintf(text, sizeof(text), "%u", i);
        rig_send_from(client[c], &to, text, strlen(text));
    }
    for (unsigned i = 0; i < 300; i++) {
        unsigned c = (i * i / 7) % 3;

        snprintf(text, sizeof(text), "%u", i);
        rig_expect_up(r, relay[c], i % 5 ? "127.1.0.1" : "127.1.0.2", text, strlen(text), NULL);
    }
    for (unsigned c = 0; c < 3; c++) /* the kernel took many as one */
        assert_false(udp_find(r->t, 0, &client_at[c])->one_by_one);
    for (unsigned i = 0; i < 150; i++) {
        snprintf(text, sizeof(text), "%u", i);
        rig_answer(relay[1], &at[1], "127.1.0.1", r->port, text, strlen(text));
    }
    rig_injected(r, 150);
    for (unsigned i = 0; i < 150; i++) {
        snprintf(text, sizeof(text), "%u", i);
        assert_int_equal(r->injected[i].len, strlen(text));
        assert_memory_equal(r->injected[i].data, text, strlen(text));
    }
    for (unsigned c = 0; c < 3; c++) {
        close(client[c]);
        close(relay[c]);
        close(server[c]);
    }
}

/* Of any lengths, to destinations that change: what the kernel takes as one comes out as it was. */
static void test_lengths_in_a_row(void **state)
{
    static const size_t lengths[] = {5, 5, 5, 3, 5, 7,    7,    7,    7,    0,    0, 0,
                                     9, 9, 8, 8, 9, 1391, 1391, 1390, 1390, 1390, 2, 2,
                                     2, 2, 2, 2, 2, 2,    2,    2,    2,    2,    2, 2};
    const unsigned n = sizeof(lengths) / sizeof(lengths[0]);
    static uint8_t data[1400];
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    for (unsigned shift = 0; shift < 8; shift++) { /* the batch ends elsewhere each time */
        for (unsigned i = 0; i < n + shift; i++) {
            memset(data, (int)i, sizeof(data));
            rig_send(r, (i >> shift / 2) % 2 ? "127.1.0.1" : "127.1.0.2", data, lengths[i % n]);
        }
        for (unsigned i = 0; i < n + shift; i++) {
            memset(data, (int)i, sizeof(data));
            rig_expect_up(r, r->relay, (i >> shift / 2) % 2 ? "127.1.0.1" : "127.1.0.2", data,
                          lengths[i % n], NULL);
        }
    }
    assert_false(udp_find(r->t, 0, &r->client_at)->one_by_one);
    close(server);
}

/* One event takes no more than its share, and the rest is not forgotten. */
static void test_budget(void **state)
{
    struct rig *r = *state;
    uint8_t buf[100];
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    for (unsigned i = 0; i < 200; i++)
        rig_send(r, "127.1.0.1", BYTES("x"));
    udp_listener_event(r->t, 0);
    assert_int_equal(rig_stats(r).datagrams_up, 1 + UDP_ROUNDS * UDP_BATCH);
    assert_int_equal(r->t->batch.out_n[0], UDP_BATCH); /* as one packet, at the kernel's door */
    rig_until(r, datagrams_up, 201);
    for (unsigned i = 0; i < 200; i++)
        rig_await(r, r->relay, buf, sizeof(buf), NULL);
    for (unsigned i = 0; i < 200; i++)
        rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("y"));
    udp_relay_event(r->t, udp_find(r->t, 0, &r->client_at));
    assert_int_equal(r->n_injected, UDP_ROUNDS * UDP_BATCH);
    rig_injected(r, 200);
    close(server);
}

/* What waits for the upstream leaves in its order; what does not fit is counted. */
static void test_waiting(void **state)
{
    struct rig *r = *state;
    char text[20];

    rig_start(r);
    for (unsigned i = 0; i < 20; i++) {
        snprintf(text, sizeof(text), "%u", i);
        rig_send(r, i % 2 ? "127.1.0.1" : "127.1.0.2", text, strlen(text));
    }
    int server = rig_asked(r, 0);

    rig_until(r, dropped_waiting, 4);
    rig_reply(server, 0, &r->relay_at);
    for (unsigned i = 0; i < 16; i++) {
        snprintf(text, sizeof(text), "%u", i);
        rig_expect_up(r, r->relay, i % 2 ? "127.1.0.1" : "127.1.0.2", text, strlen(text), NULL);
    }
    rig_turns(r, 5);
    assert_int_equal(rig_stats(r).datagrams_up, 16);
    assert_int_equal(r->t->waiting_total, 0);
    close(server);
}

/* The largest there is; and one that with its header is none. */
static void test_long_ones(void **state)
{
    static uint8_t data[65507];
    struct rig *r = *state;

    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    rig_start(r);
    rig_send(r, "127.1.0.1", data, 65497);
    int server = rig_asked(r, 0);

    rig_reply(server, 0, &r->relay_at);
    rig_expect_up(r, r->relay, "127.1.0.1", data, 65497, NULL);
    rig_send(r, "127.1.0.1", data, 65498);
    rig_send(r, "127.1.0.1", BYTES("after"));
    rig_expect_up(r, r->relay, "127.1.0.1", BYTES("after"), NULL);
    assert_int_equal(rig_stats(r).dropped_up, 1);
    close(server);
}

/* A hostile relay: nothing of it gets through, and nothing changes. */
static void test_bad_from_relay(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        char counted; /* h: header, f: fragment, s: source */
    } bad[] = {
        {BYTES(""), 'h'},
        {BYTES("\x00"), 'h'},
        {BYTES("\x00\x00\x00"), 'h'},
        {BYTES("\x00\x00\x00\x01\x01\x02\x03\x04\x00"), 'h'},
        {BYTES("\x00\x00\x00\x02\x01\x02\x03\x04\x00\x35..."), 'h'},
        {BYTES("\x00\x00\x00\x00\x01\x02\x03\x04\x00\x35..."), 'h'},
        {BYTES("\x00\x00\x00\x03\x00\x00\x35..."), 'h'},
        {BYTES("\x00\x00\x00\x03\xff name"), 'h'},
        {BYTES("\x00\x00\x00\x03\x03"
               "a\x00"
               "b\x00\x35..."),
         'h'},
        {BYTES("\x00\x00\x00\x04\x01\x02\x03\x04\x00\x35..."), 'h'},
        {BYTES("\x00\x00\x01\x01\x01\x02\x03\x04\x00\x35..."), 'f'},
        {BYTES("\x00\x00\x80\x01\x01\x02\x03\x04\x00\x35..."), 'f'},
        {BYTES("\x00\x00\xff\x01\x01\x02\x03\x04\x00\x35..."), 'f'},
        {BYTES("\x00\x00\x00\x03\x0b"
               "example.net\x00\x35..."),
         's'},
        {BYTES("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x35..."), 's'},
        {BYTES("\x00\x00\x00\x01\x00\x02\x03\x04\x00\x35..."), 's'},
        {BYTES("\x00\x00\x00\x01\xe0\x00\x00\xfb\x00\x35..."), 's'},
        {BYTES("\x00\x00\x00\x01\xff\xff\xff\xff\x00\x35..."), 's'},
        {BYTES("\x00\x00\x00\x01\x01\x02\x03\x04\x00\x00..."), 's'},
        {BYTES("\x00\x00\x00\x04 sixteen bytes..\x00\x35..."), 's'}, /* IPv6 to an IPv4 client */
    };
    struct rig *r = *state;
    uint64_t header = 0, fragment = 0, source = 0;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rig_send_from(r->relay, &us, bad[i].bytes, bad[i].len);
        header += bad[i].counted == 'h';
        fragment += bad[i].counted == 'f';
        source += bad[i].counted == 's';
    }
    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("good"));
    rig_expect_answer(r, 1, "127.1.0.1", r->port, BYTES("good"));
    assert_int_equal(rig_stats(r).dropped_header, header);
    assert_int_equal(rig_stats(r).dropped_fragment, fragment);
    assert_int_equal(rig_stats(r).dropped_source, source);
    assert_int_equal(rig_stats(r).datagrams_down, 1);
    /* Its own address as source. */
    rig_answer(r->relay, &us, "127.0.0.1", r->client_at.port, BYTES("self"));
    rig_until(r, dropped_source, source + 1);
    assert_int_equal(r->n_injected, 1);
    close(server);
}

/* Only the relay is listened to. */
static void test_spoofed(void **state)
{
    struct rig *r = *state;
    struct addr us, at;
    int other = rig_datagrams("127.0.0.1", &at), elsewhere = rig_datagrams("127.0.0.9", &at);

    rig_start(r);
    int server = rig_join(r, &us);

    rig_answer(other, &us, "127.1.0.1", r->port, BYTES("lie"));
    rig_answer(elsewhere, &us, "127.1.0.1", r->port, BYTES("lie"));
    rig_turns(r, 5);
    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("truth"));
    rig_expect_answer(r, 1, "127.1.0.1", r->port, BYTES("truth"));
    close(other);
    close(elsewhere);
    close(server);
}

static void test_taken(void **state)
{
    struct rig *r = *state;
    struct addr from = rig_addr("203.0.113.53", 53);

    rig_start(r);
    r->take = true;
    rig_send(r, "127.1.0.1", BYTES("query"));
    rig_until(r, taken, 1);
    assert_int_equal(r->taken, 1);
    assert_int_equal(udp_table_count(r->t), 0);
    assert_true(rig_nobody_asks(r, 0));
    assert_int_equal(udp_answer(r->t, &from, &r->client_at, (const uint8_t *)"reply", 5), 0);
    rig_expect_answer(r, 1, "203.0.113.53", 53, BYTES("reply"));
    struct addr six = rig_addr("2001:db8::1", 53);

    assert_int_equal(udp_answer(r->t, &six, &r->client_at, (const uint8_t *)"reply", 5),
                     -EAFNOSUPPORT);
    r->inject_result = -EPERM;
    assert_int_equal(udp_answer(r->t, &from, &r->client_at, (const uint8_t *)"reply", 5), -EPERM);
}

static void test_reject(void **state)
{
    struct rig *r = *state;
    uint8_t data[100];

    memset(data, 'x', sizeof(data));
    r->capture.mode = UDP_MODE_REJECT;
    r->capture.choice = NULL;
    rig_start(r);
    rig_send(r, "127.1.0.1", data, sizeof(data));
    rig_expect_refusal(r, 1, "127.1.0.1");
    assert_int_equal(r->injected[0].len, sizeof(data));
    assert_memory_equal(r->injected[0].data, data, sizeof(data));
    assert_int_equal(udp_table_count(r->t), 0);
    /* Not without limit. */
    for (unsigned i = 0; i < 400; i++) {
        struct addr to = rig_addr("127.1.0.1", r->port);

        udp_refuse(r->t, &to, &r->client_at, data, 1);
    }
    assert_true(r->n_injected <= 101);
    struct addr to = rig_addr("127.1.0.1", r->port);

    assert_int_equal(udp_refuse(r->t, &to, &r->client_at, data, 1), -EBUSY);
}

static void test_came_back(void **state)
{
    struct rig *r = *state;
    struct addr us, at;

    r->ours[1] = rig_addr("127.1.0.7", r->port);
    rig_start(r);
    rig_send(r, "127.1.0.7", BYTES("loop"));
    rig_send(r, "127.0.0.1", BYTES("to the listener itself"));
    rig_until(r, dropped_loop, 2);
    assert_int_equal(udp_table_count(r->t), 0);
    /* To the relay of an association: from a second client, so that it would make another. */
    int server = rig_join(r, &us), second = rig_datagrams("127.0.0.1", &at);
    struct addr to = rig_addr("127.1.0.7", r->port);

    r->ours[1].port++; /* the host is an upstream's, the port is not */
    udp_find(r->t, 0, &r->client_at)->relay_at = to;
    rig_send_from(second, &to, BYTES("loop"));
    rig_until(r, dropped_loop, 3);
    assert_int_equal(udp_table_count(r->t), 1);
    assert_int_equal(r->n_injected, 0);
    close(second);
    close(server);
}

/* A listener that is told no original destination. */
static void test_stray(void **state)
{
    struct rig *r = *state;
    int off = 0;

    assert_int_equal(setsockopt(r->listener.fd, SOL_IP, IP_RECVORIGDSTADDR, &off, sizeof(off)), 0);
    rig_start(r);
    rig_send(r, "127.1.0.1", BYTES("direct"));
    rig_until(r, dropped_stray, 1);
    assert_int_equal(udp_table_count(r->t), 0);
    assert_int_equal(r->n_injected, 0);
}

/* A fake address from before: no upstream is asked for its sake, and none hears of it. */
static void test_name_of_nothing(void **state)
{
    struct rig *r = *state;
    struct addr us;
    uint8_t buf[100];

    rig_start(r);
    rig_send(r, "127.18.0.255", BYTES("stale"));
    rig_until(r, refused, 1);
    assert_int_equal(udp_table_count(r->t), 0);
    assert_int_equal(rig_stats(r).begun, 0);
    assert_int_equal(r->n_injected, 1);
    int server = rig_join(r, &us);

    r->t->times.refusal_gap = 0;
    rig_send(r, "127.18.0.255", BYTES("stale"));
    rig_until(r, refused, 2);
    rig_send(r, "127.18.0.9", BYTES("named"));
    rig_await(r, r->relay, buf, sizeof(buf), NULL);
    assert_memory_equal(buf, "\0\0\0\3\15host9.example", 18);
    assert_int_equal(udp_table_count(r->t), 1);
    close(server);
}

static void test_names(void **state)
{
    struct rig *r = *state;
    static const uint8_t head[] = "\x00\x00\x00\x03\x0dhost5.example";
    uint8_t buf[300];
    struct addr us;

    rig_start(r);
    rig_send(r, "127.18.0.5", BYTES("hello"));
    int server = rig_asked(r, 0);

    rig_reply(server, 0, &r->relay_at);
    unsigned n = rig_await(r, r->relay, buf, sizeof(buf), &us);

    assert_int_equal(n, sizeof(head) - 1 + 2 + 5);
    assert_memory_equal(buf, head, sizeof(head) - 1);
    assert_int_equal(rig_u16(buf + sizeof(head) - 1), r->port);
    assert_memory_equal(buf + sizeof(head) + 1, "hello", 5);
    /* By its real address, by its name, and somebody else. */
    rig_answer(r->relay, &us, "203.0.113.5", r->port, BYTES("one"));
    rig_expect_answer(r, 1, "127.18.0.5", r->port, BYTES("one"));
    memcpy(buf + sizeof(head) + 1, "two", 3);
    rig_send_from(r->relay, &us, buf, sizeof(head) + 1 + 3);
    rig_expect_answer(r, 2, "127.18.0.5", r->port, BYTES("two"));
    rig_answer(r->relay, &us, "203.0.113.6", 1, BYTES("three"));
    rig_expect_answer(r, 3, "203.0.113.6", 1, BYTES("three"));
    buf[5] = 'H'; /* case says nothing; another name is nobody's */
    rig_send_from(r->relay, &us, buf, sizeof(head) + 1 + 3);
    rig_expect_answer(r, 4, "127.18.0.5", r->port, BYTES("two"));
    buf[5] = 'c';
    rig_send_from(r->relay, &us, buf, sizeof(head) + 1 + 3);
    rig_until(r, dropped_source, 1);
    /* A real one beside it. */
    rig_send(r, "127.1.0.1", BYTES("real"));
    rig_expect_up(r, r->relay, "127.1.0.1", BYTES("real"), NULL);
    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("four"));
    rig_expect_answer(r, 5, "127.1.0.1", r->port, BYTES("four"));
    close(server);
}

static void test_injection_fails(void **state)
{
    struct rig *r = *state;
    struct addr us;

    rig_start(r);
    int server = rig_join(r, &us);

    r->inject_result = -EPERM;
    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("lost"));
    rig_until(r, dropped_down, 1);
    assert_int_equal(rig_stats(r).datagrams_down, 0);
    r->inject_result = 0;
    rig_answer(r->relay, &us, "127.1.0.1", r->port, BYTES("found"));
    rig_expect_answer(r, 1, "127.1.0.1", r->port, BYTES("found"));
    close(server);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_both_ways),
        TEST(test_record),
        TEST(test_private_sources),
        TEST(test_batches),
        TEST(test_lengths_in_a_row),
        TEST(test_budget),
        TEST(test_waiting),
        TEST(test_long_ones),
        TEST(test_bad_from_relay),
        TEST(test_spoofed),
        TEST(test_taken),
        TEST(test_reject),
        TEST(test_came_back),
        TEST(test_name_of_nothing),
        TEST(test_stray),
        TEST(test_names),
        TEST(test_injection_fails),
    };

    return cmocka_run_group_tests_name("udp/datagrams", tests, ignore_sigpipe, NULL);
}
