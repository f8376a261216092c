/* SPDX-License-Identifier: GPL-2.0-or-later */
/* names/forward.c: queries that wait, whose answer it is, and which servers are asked. */
#include "tests/unit/names/names_rig.h"

static struct rig *started(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    return r;
}

static void a_query_there_and_back(void **state)
{
    struct rig *r = started(state);

    rig_ask_edns(r, TCP, 0x1234, "Www.Example.net", DNS_TYPE_A, 1232);
    rig_count(r, waiting, 1);
    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    /* All of it, but for the id. */
    assert_int_equal(q.len, r->m.w.pos);
    assert_memory_equal(q.data + 2, r->m.data + 2, q.len - 2);
    rig_answer(r, fd, &q, 9);
    const struct rig_answer *a = rig_expect(r, 1, 0x1234, DNS_NOERROR, 1);

    assert_int_equal(a->len, r->m.w.pos);
    assert_memory_equal(a->data + 2, r->m.data + 2, a->len - 2);
    rig_count(r, answered, 1);
    rig_count(r, forwarded, 1);
    rig_count(r, connections, 1);
    rig_count(r, waiting, 0);
    assert_true(r->all[0].healthy);
    assert_int_equal(r->all[0].granted, 1);
    close(fd);
}

/* Many queries under one id, on one connection; answers backwards and in one piece, then byte by
 * byte. */
static void answers_in_any_order_and_shape(void **state)
{
    struct rig *r = started(state);
    struct rig_query q[8];
    static uint8_t all[4096];
    char name[20];
    int fd = -1;

    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 8; i++) {
            snprintf(name, sizeof(name), "n%u.example", i);
            rig_ask(r, TCP, 7, name, DNS_TYPE_A);
        }
        if (fd < 0)
            fd = rig_join(r);
        for (unsigned i = 0; i < 8; i++)
            q[i] = rig_next(r, fd);
        struct wire_writer w = wire_writer(all, sizeof(all));

        for (unsigned i = 8; i-- > 0;) {
            rig_compose(r, q[i].q.id, &q[i].q, 1, (uint8_t)i);
            if (round == 0)
                assert_int_equal(dns_frame_encode(&w, r->m.data, r->m.w.pos), 0);
            else
                rig_put(r, fd, 1);
        }
        if (round == 0)
            put(fd, all, w.pos);
        for (unsigned i = 0; i < 8; i++) {
            const struct rig_answer *a;

            rig_answers(r, (round + 1) * 8);
            a = &r->answers[round * 8 + i];
            assert_int_equal(rig_last(a), 7 - i);
            assert_int_equal(a->data[14], (uint8_t)('0' + 7 - i)); /* its own question */
        }
    }
    rig_count(r, connections, 1);
    close(fd);
}

static void who_repeats_himself_is_asked_for_once(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 7, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    rig_skip(r, SECOND);
    rig_ask(r, TCP, 7, "a.example", DNS_TYPE_A);
    rig_ask(r, TCP, 7, "a.example", DNS_TYPE_A);
    rig_count(r, repeated, 2);
    rig_count(r, forwarded, 1);
    /* None of these is the same. */
    rig_ask(r, TCP, 8, "a.example", DNS_TYPE_A);
    rig_ask(r, TCP, 7, "a.example", DNS_TYPE_AAAA);
    rig_ask(r, TCP, 7, "A.example", DNS_TYPE_A);
    rig_ask_edns(r, TCP, 7, "a.example", DNS_TYPE_A, 1232);
    r->client.port++;
    rig_ask(r, TCP, 7, "a.example", DNS_TYPE_A);
    r->client.port--;
    rig_count(r, repeated, 2);
    rig_count(r, forwarded, 6);
    rig_answer(r, fd, &q, 1);
    rig_expect(r, 1, 7, DNS_NOERROR, 1);
    /* It waits no more: a query like any other. */
    rig_ask(r, TCP, 7, "a.example", DNS_TYPE_A);
    rig_count(r, repeated, 2);
    rig_count(r, forwarded, 7);
    close(fd);
}

static void an_answer_is_cut_to_what_the_client_takes(void **state)
{
    static const struct {
        unsigned records;
        uint16_t size; /* of EDNS, 0: none */
        bool cut;
    } t[] = {
        {30, 0, false},   {31, 0, true},      {70, 1232, false},
        {80, 1232, true}, {250, 4096, false}, {260, 60000, true}, /* 4096 is the most */
        {4090, 0, true},                                          /* as long as a message can be */
    };
    struct rig *r = started(state);
    int fd = -1;
    unsigned n = 0, cut = 0;

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        if (t[i].size)
            rig_ask_edns(r, TCP, 3, "a.example", DNS_TYPE_A, t[i].size);
        else
            rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A);
        if (fd < 0)
            fd = rig_join(r);
        struct rig_query q = rig_next(r, fd);

        rig_compose(r, q.q.id, &q.q, t[i].records, 1);
        if (t[i].records == 4090) /* padded to the last byte */
            r->m.w.pos = DNS_MESSAGE_MAX;
        rig_put(r, fd, 0);
        cut += t[i].cut;
        const struct rig_answer *a =
            rig_expect(r, ++n, 3, DNS_NOERROR, t[i].cut ? 0 : t[i].records);

        assert_int_equal(rig_truncated(a), t[i].cut);
        assert_int_equal(a->len, t[i].cut ? (t[i].size ? 38 : 27) : r->m.w.pos);
    }
    rig_count(r, truncated, cut);
    rig_count(r, connections, 1);
    close(fd);
}

/* FORMERR without the question, but with more than fits: nothing that could be cut. */
static void an_error_that_cannot_be_cut(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 3, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    put_header(&r->m, q.q.id, DNS_FLAG_QR | DNS_FORMERR, 0, 0, 0, 0);
    memset(r->m.data + DNS_HEADER_LEN, 0, 600);
    r->m.w.pos = 600;
    rig_put(r, fd, 0);
    rig_expect(r, 1, 3, DNS_SERVFAIL, 0);
    rig_count(r, failed, 1);
    /* And one that fits goes as it is. */
    rig_ask(r, TCP, 4, "a.example", DNS_TYPE_A);
    q = rig_next(r, fd);
    put_header(&r->m, q.q.id, DNS_FLAG_QR | DNS_FORMERR, 0, 0, 0, 0);
    rig_put(r, fd, 0);
    assert_int_equal(rig_expect(r, 2, 4, DNS_FORMERR, 0)->len, DNS_HEADER_LEN);
    close(fd);
}

static void no_answer_in_time(void **state)
{
    struct rig *r = started(state);

    rig_ask_edns(r, TCP, 1, "a.example", DNS_TYPE_A, 1232);
    int fd = rig_join(r);
    struct rig_query first = rig_next(r, fd);

    rig_skip(r, 3 * SECOND);
    rig_ask(r, TCP, 2, "b.example", DNS_TYPE_A);
    struct rig_query second = rig_next(r, fd);

    rig_answer(r, fd, &second, 2); /* so it is alive */
    rig_expect(r, 1, 2, DNS_NOERROR, 1);
    rig_skip(r, 2 * SECOND - 1 * MS);
    rig_quiet(r);
    rig_skip(r, 1 * MS);
    const struct rig_answer *a = rig_expect(r, 2, 1, DNS_SERVFAIL, 0);

    assert_int_equal(rig_u16(a->data + 10), 1); /* with an OPT, as it had one */
    rig_count(r, timeouts, 1);
    /* Too late: nobody's, and no offence. */
    rig_answer(r, fd, &first, 1);
    rig_quiet(r);
    assert_int_equal(r->n->connections[0].strays, 0);
    rig_ask(r, TCP, 3, "c.example", DNS_TYPE_A);
    second = rig_next(r, fd);
    rig_answer(r, fd, &second, 3);
    rig_expect(r, 3, 3, DNS_NOERROR, 1);
    rig_count(r, connections, 1);
    rig_count(r, broken, 0);
    close(fd);
}

/* Nobody asked for these: the true answer is still awaited, and a few of them are borne with. */
static void answers_to_something_else(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd), other = q;

    for (unsigned i = 0; i < 4; i++) {
        rig_compose(r, q.q.id ^ 0x100, &q.q, 1, 66); /* the id */
        rig_put(r, fd, 0);
        other.q.wire[1] = 'b'; /* the question */
        rig_compose(r, q.q.id, &other.q, 1, 66);
        rig_put(r, fd, 0);
    }
    rig_quiet(r);
    assert_int_equal(r->n_answers, 0);
    rig_answer(r, fd, &q, 1);
    assert_int_equal(rig_last(rig_expect(r, 1, 1, DNS_NOERROR, 1)), 1);
    /* Nine are too many. */
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    q = rig_next(r, fd);
    for (unsigned i = 0; i < 8; i++) {
        rig_compose(r, q.q.id ^ 0x200, &q.q, 1, 66);
        rig_put(r, fd, 0);
    }
    rig_count(r, broken, 0);
    rig_put(r, fd, 0);
    rig_count(r, broken, 1);
    drive_expect_end(&r->d, fd, ECONNRESET);
    close(fd);
    fd = rig_join(r);
    q = rig_next(r, fd);
    rig_answer(r, fd, &q, 2);
    assert_int_equal(rig_last(rig_expect(r, 2, 2, DNS_NOERROR, 1)), 2);
    close(fd);
}

/* Another server knows the id and the question, and answers for the one that was asked. */
static void a_server_cannot_speak_for_another(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int asked = rig_join(r);
    struct rig_query q = rig_next(r, asked);

    r->server = rig_addr("198.51.100.66");
    rig_ask(r, TCP, 2, "b.example", DNS_TYPE_A);
    int other = rig_asked(r, 0, "198.51.100.66:53");

    rig_reply(other, 0);
    rig_next(r, other);
    rig_answer(r, other, &q, 66);
    rig_quiet(r);
    assert_int_equal(r->n_answers, 0);
    rig_answer(r, asked, &q, 1);
    r->server = rig_addr("192.0.2.53");
    assert_int_equal(rig_last(rig_expect(r, 1, 1, DNS_NOERROR, 1)), 1);
    close(asked);
    close(other);
}

/* ---- Which server ---- */

static void the_server_of_the_configuration(void **state)
{
    struct rig *r = *state;

    r->captures[TCP].server = rig_addr("9.9.9.9:5353");
    rig_start(r);
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = rig_asked(r, 0, "9.9.9.9:5353");

    rig_reply(fd, 0);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 1);
    rig_expect(r, 1, 1, DNS_NOERROR, 1); /* from where it was sent to */
    r->server = rig_addr("127.0.0.53");  /* wherever that is */
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    q = rig_next(r, fd);
    rig_answer(r, fd, &q, 2);
    rig_expect(r, 2, 2, DNS_NOERROR, 1);
    close(fd);
}

static void a_resolver_on_loopback_is_not_for_the_upstream(void **state)
{
    struct rig *r = *state;

    r->o.fallback = rig_addr("9.9.9.9");
    rig_start(r);
    r->server = rig_addr("127.0.0.53");
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    int fd = rig_asked(r, 0, "9.9.9.9:53");

    rig_reply(fd, 0);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 1);
    rig_expect(r, 1, 1, DNS_NOERROR, 1);
    r->server = rig_addr("192.0.2.53"); /* a real one is asked itself */
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    int other = rig_asked(r, 0, "192.0.2.53:53");

    close(fd);
    close(other);
}

static void nor_is_there_somebody_instead(void **state)
{
    struct rig *r = started(state);

    r->server = rig_addr("127.0.0.53");
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    rig_expect(r, 1, 1, DNS_SERVFAIL, 0);
    r->server = rig_addr("[::1]");
    rig_ask(r, FAKE, 2, "www.corp.example", DNS_TYPE_A);
    rig_expect(r, 2, 2, DNS_SERVFAIL, 0);
    rig_ask(r, FAKE, 3, "a.example", DNS_TYPE_A); /* which needs nobody */
    rig_expect(r, 3, 3, DNS_NOERROR, 1);
    rig_count(r, failed, 2);
    assert_true(rig_nobody_asks(r, 0));
}

/* An application has looked up "dns.example", and asks at the fake address. */
static void a_server_behind_a_fake_address_is_asked_by_name(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, FAKE, 1, "dns.example", DNS_TYPE_A);
    const struct rig_answer *a = rig_expect(r, 1, 1, DNS_NOERROR, 1);

    addr_set_v4(&r->server, a->data + a->len - 4, 53);
    rig_ask(r, FAKE, 2, "example.net", 15);
    int fd = drive_accept(&r->d, r->upstream[0]);

    drive_expect(&r->d, fd, BYTES("\x05\x01\x00"));
    put(fd, BYTES("\x05\x00"));
    drive_expect(&r->d, fd,
                 BYTES("\x05\x01\x00\x03\x0b"
                       "dns.example\x00\x35"));
    rig_reply(fd, 0);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 1);
    rig_expect(r, 2, 2, DNS_NOERROR, 1);
    r->server = rig_addr("198.18.0.9"); /* stands for nothing */
    rig_ask(r, FAKE, 3, "example.net", 15);
    rig_expect(r, 3, 3, DNS_SERVFAIL, 0);
    close(fd);
}

/* ---- Bounds ---- */

static void ask_server(struct rig *r, unsigned k, uint16_t id)
{
    char text[40];

    snprintf(text, sizeof(text), "203.0.113.%u", k + 1);
    r->server = rig_addr(text);
    rig_ask(r, TCP, id, "a.example", DNS_TYPE_A);
}

static int join_server(struct rig *r, unsigned k)
{
    char text[40];

    snprintf(text, sizeof(text), "203.0.113.%u:53", k + 1);
    int fd = rig_asked(r, 0, text);

    rig_reply(fd, 0);
    return fd;
}

static void places_for_servers(void **state)
{
    struct rig *r = *state;
    int fd[NAMES_SERVERS];
    struct rig_query q;

    r->o.max_queries = 1024;
    rig_start(r);
    for (unsigned k = 0; k < NAMES_SERVERS; k++) {
        rig_skip(r, MS);
        r->client = rig_addr(k % 2 ? "192.0.2.7:4000" : "192.0.2.8:4000"); /* as many each */
        ask_server(r, k, (uint16_t)k);
        fd[k] = join_server(r, k);
        q = rig_next(r, fd[k]);
        if (k != 5 && k != 7)
            continue;
        rig_answer(r, fd[k], &q, 1);
        rig_answers(r, k == 5 ? 1 : 2);
    }
    ask_server(r, 7, 99); /* so 5 has been idle for longer */
    q = rig_next(r, fd[7]);
    rig_answer(r, fd[7], &q, 1);
    rig_answers(r, 3);
    ask_server(r, 100, 100);
    drive_expect_end(&r->d, fd[5], 0);
    int first = join_server(r, 100);

    ask_server(r, 101, 101);
    drive_expect_end(&r->d, fd[7], 0);
    int second = join_server(r, 101);

    /* All have something to do. */
    ask_server(r, 102, 102);
    rig_expect(r, 4, 102, DNS_SERVFAIL, 0);
    rig_count(r, full, 1);
    ask_server(r, 0, 103); /* who has a place is asked */
    rig_next(r, fd[0]);
    assert_true(rig_nobody_asks(r, 0));
    for (unsigned k = 0; k < NAMES_SERVERS; k++)
        close(fd[k]);
    close(first);
    close(second);
}

/* One client asks as many servers as there are places, and none of them answers. */
static void servers_of_one_client_give_way(void **state)
{
    struct rig *r = *state;
    struct addr crowd = rig_addr("192.0.2.7:4000"), other = rig_addr("192.0.2.8:4000");
    int fd[NAMES_SERVERS];

    r->o.max_queries = 1024;
    rig_start(r);
    for (unsigned k = 0; k < NAMES_SERVERS; k++) {
        rig_skip(r, MS);
        r->client = crowd;
        ask_server(r, k, (uint16_t)k);
        fd[k] = join_server(r, k);
        rig_next(r, fd[k]);
        if (k > 0)
            continue;
        r->client = other; /* somebody else waits for this one, too */
        ask_server(r, k, 500);
        rig_next(r, fd[k]);
    }
    r->client = crowd;
    ask_server(r, 100, 100); /* it has all of them already */
    rig_expect(r, 1, 100, DNS_SERVFAIL, 0);
    r->client = other;
    ask_server(r, 101, 101);
    rig_answers(r, 2);
    assert_int_equal(rig_u16(r->answers[1].data), 1); /* the oldest that is its alone */
    assert_true(addr_equal(&r->answers[1].client, &crowd));
    drive_expect_end(&r->d, fd[1], 0);
    int server = join_server(r, 101);
    struct rig_query q = rig_next(r, server);

    rig_answer(r, server, &q, 9);
    rig_answers(r, 3);
    rig_count(r, full, 1);
    close(server);
    for (unsigned k = 0; k < NAMES_SERVERS; k++)
        close(fd[k]);
}

static void by_client(struct rig *r, unsigned client, uint16_t id)
{
    char text[32];

    /* Another port each time: it is the same client for all that. */
    snprintf(text, sizeof(text), "192.0.2.%u:%u", 20 + client, 4000u + id);
    r->client = rig_addr(text);
    rig_ask(r, TCP, id, "a.example", DNS_TYPE_A);
}

static void one_client_has_an_eighth_of_all_queries(void **state)
{
    struct rig *r = *state;

    r->o.max_queries = 32;
    rig_start(r);
    for (uint16_t i = 0; i < 4; i++)
        by_client(r, 0, i);
    by_client(r, 0, 4);
    rig_expect(r, 1, 4, DNS_REFUSED, 0);
    rig_count(r, refused, 1);
    by_client(r, 0, 3); /* the very same query again is none */
    rig_count(r, repeated, 1);
    by_client(r, 1, 5); /* others have room */
    rig_count(r, waiting, 5);
    rig_count(r, full, 0);

    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    rig_answer(r, fd, &q, 1); /* that was the first one's */
    rig_answers(r, 2);
    by_client(r, 0, 6);
    rig_count(r, waiting, 5);
    by_client(r, 0, 7);
    rig_expect(r, 3, 7, DNS_REFUSED, 0);
    /* Also what is never answered gives its room back. */
    rig_skip(r, 5 * SECOND);
    rig_answers(r, 8);
    for (uint16_t i = 10; i < 14; i++)
        by_client(r, 0, i);
    rig_count(r, refused, 2);
    rig_count(r, waiting, 4);
    close(fd);
}

/* All addresses of a /64 together have twice as much, and others room all the same. */
static void one_network_has_a_quarter_of_all_queries(void **state)
{
    struct rig *r = *state;
    char text[32];

    r->o.max_queries = 32;
    rig_start(r);
    r->server = rig_addr("2001:db8::53");
    for (uint16_t i = 0; i <= 8; i++) {
        snprintf(text, sizeof(text), "[2001:db8:1::%u]:4000", i);
        r->client = rig_addr(text);
        rig_ask(r, TCP, i, "a.example", DNS_TYPE_A);
    }
    rig_expect(r, 1, 8, DNS_REFUSED, 0);
    rig_count(r, waiting, 8);
    r->client = rig_addr("[2001:db8:1:1::1]:4000");
    rig_ask(r, TCP, 9, "a.example", DNS_TYPE_A);
    rig_count(r, waiting, 9);
}

static void one_server_has_half_of_all_queries(void **state)
{
    struct rig *r = *state;

    r->o.max_queries = 32;
    rig_start(r);
    for (uint16_t i = 0; i < 16; i++)
        by_client(r, i / 4, i);
    rig_count(r, waiting, 16);
    by_client(r, 4, 16);
    rig_expect(r, 1, 16, DNS_SERVFAIL, 0);
    for (uint16_t i = 0; i < 16; i++) {
        char text[32];

        snprintf(text, sizeof(text), "192.0.2.%u:4000", 24u + i / 4);
        r->client = rig_addr(text);
        ask_server(r, 1, i);
    }
    rig_count(r, waiting, 32);
    ask_server(r, 2, 1);
    rig_expect(r, 2, 1, DNS_SERVFAIL, 0);
    rig_count(r, full, 2);
    rig_count(r, forwarded, 32);
    /* All in one moment, when theirs has come. */
    rig_skip(r, 5 * SECOND);
    rig_answers(r, 34);
    rig_count(r, timeouts, 32);
    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    rig_count(r, waiting, 1);
}

static void sizes_of_the_table(void **state)
{
    static const uint32_t bad[] = {1, 3, 100, 8192};
    struct rig *r = *state;

    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        r->o.max_queries = bad[i];
        assert_int_equal(names_create(&r->o, &r->n), -EINVAL);
        assert_null(r->n);
    }
    r->o.max_queries = 0;
    rig_start(r);
    for (unsigned i = 0; i < 2048; i++) {
        char text[32];

        snprintf(text, sizeof(text), "192.0.2.%u:4000", 10 + i / 512);
        r->client = rig_addr(text);
        rig_ask(r, TCP, (uint16_t)i, "a.example", DNS_TYPE_A);
    }
    rig_count(r, waiting, 2048);
    r->client = rig_addr("192.0.2.9:4000");
    rig_ask(r, TCP, 2048, "a.example", DNS_TYPE_A);
    rig_expect(r, 1, 2048, DNS_SERVFAIL, 0);
}

static void draining_ends_with_the_last_query(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "a.example", DNS_TYPE_A);
    rig_ask(r, TCP, 2, "a.example", DNS_TYPE_A);
    int fd = rig_join(r);
    struct rig_query q = rig_next(r, fd);

    names_drain(r->n);
    assert_int_equal(r->emptied, 0);
    rig_answer(r, fd, &q, 1);
    rig_answers(r, 1);
    assert_int_equal(r->emptied, 0);
    rig_skip(r, 5 * SECOND);
    rig_answers(r, 2);
    assert_int_equal(r->emptied, 1);
    rig_turns(r, 5);
    assert_int_equal(r->emptied, 1);
    close(fd);
}

static void draining_with_nothing_to_do(void **state)
{
    struct rig *r = started(state);

    names_drain(r->n);
    assert_int_equal(r->emptied, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        T(a_query_there_and_back),
        T(answers_in_any_order_and_shape),
        T(who_repeats_himself_is_asked_for_once),
        T(an_answer_is_cut_to_what_the_client_takes),
        T(an_error_that_cannot_be_cut),
        T(no_answer_in_time),
        T(answers_to_something_else),
        T(a_server_cannot_speak_for_another),
        T(the_server_of_the_configuration),
        T(a_resolver_on_loopback_is_not_for_the_upstream),
        T(nor_is_there_somebody_instead),
        T(a_server_behind_a_fake_address_is_asked_by_name),
        T(places_for_servers),
        T(one_client_has_an_eighth_of_all_queries),
        T(one_network_has_a_quarter_of_all_queries),
        T(servers_of_one_client_give_way),
        T(one_server_has_half_of_all_queries),
        T(sizes_of_the_table),
        T(draining_ends_with_the_last_query),
        T(draining_with_nothing_to_do),
    };

    return cmocka_run_group_tests_name("names/forward", tests, ignore_sigpipe, NULL);
}
