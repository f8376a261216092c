/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/match.h: whose answer is this? */
#include "dns/match.h"

#include <errno.h>

#include "message.h"

/* ---- Framing ---- */

/* Byte by byte, and with the next frame behind it. */
static void a_frame_is_consumed_when_it_is_whole(void **state)
{
    static struct message m;
    uint8_t stream[2 * 600];
    const uint8_t *got;
    size_t got_len;

    (void)state;
    put_query(&m, 1, "example.net", DNS_TYPE_A);
    for (size_t len = 12; len <= 512; len += 100) {
        struct wire_writer w = wire_writer(stream, sizeof(stream));

        memset(m.data + m.w.pos, 'x', 512);
        assert_int_equal(dns_frame_encode(&w, m.data, len), 0);
        assert_int_equal(dns_frame_encode(&w, m.data, 12), 0);
        assert_int_equal(w.pos, 2 + len + 14);
        for (size_t n = 0; n <= w.pos; n++) {
            uint8_t *copy = exact(stream, n);

            got = (const uint8_t *)"untouched";
            got_len = 99;
            int r = dns_frame_decode(copy, n, &got, &got_len);

            assert_int_equal(r, n < 2 + len ? 0 : (int)(2 + len));
            if (r == 0) {
                assert_int_equal(got_len, 99);
                assert_string_equal((const char *)got, "untouched");
            } else {
                assert_ptr_equal(got, copy + 2);
                assert_int_equal(got_len, len);
                assert_memory_equal(got, m.data, len);
            }
            free(copy);
        }
    }
}

static void frames_of_no_right_length(void **state)
{
    static uint8_t big[DNS_FRAME_MAX + 1], message[DNS_MESSAGE_MAX + 1];
    const uint8_t *got = NULL;
    size_t got_len;
    struct wire_writer w = wire_writer(big, sizeof(big));

    (void)state;
    for (unsigned n = 0; n < 14; n++) {
        uint8_t head[2] = {0, (uint8_t)n};

        assert_int_equal(dns_frame_decode(head, 2, &got, &got_len), n < 12 ? -EPROTO : 0);
        assert_int_equal(dns_frame_decode(head, 1, &got, &got_len), 0);
        if (n < 12)
            assert_int_equal(dns_frame_encode(&w, message, n), -EMSGSIZE);
    }
    assert_null(got);
    assert_int_equal(dns_frame_encode(&w, message, 65536), -EMSGSIZE);
    assert_int_equal(w.pos, 0);
    big[0] = big[1] = 0xff;
    assert_int_equal(dns_frame_decode(big, 65536, &got, &got_len), 0);
    assert_int_equal(dns_frame_decode(big, 65537, &got, &got_len), 65537);
    assert_int_equal(got_len, 65535);
    w = wire_writer(big, 13);
    assert_int_equal(dns_frame_encode(&w, message, 12), -ENOBUFS);
    assert_true(w.pos == 0 && !w.error);
    w = wire_writer(big, 14);
    assert_int_equal(dns_frame_encode(&w, message, 12), 0);
}

/* ---- Matching ---- */

enum { SLOTS = 8, TIMEOUT = 1000 };

static struct dns_pending slots[DNS_MATCH_MAX];
static struct dns_match match;
static struct message m;

static int setup(void **state)
{
    (void)state;
    memset(slots, POISON, sizeof(slots));
    return dns_match_init(&match, slots, SLOTS, TIMEOUT, 0x5a5a);
}

static const struct dns_pending *add(uint16_t client_id, const char *name, uint16_t type,
                                     uint64_t ref, int64_t now)
{
    const struct dns_pending *p = NULL;
    struct dns_query q;

    put_query(&m, client_id, name, type);
    assert_int_equal(dns_query_parse(m.data, m.w.pos, &q), 0);
    assert_int_equal(dns_match_add(&match, &q, m.data, ref, now, &p), 0);
    assert_non_null(p);
    assert_int_equal(p->message[0] << 8 | p->message[1], p->id);
    assert_int_equal(p->len, m.w.pos);
    assert_memory_equal(p->message + 2, m.data + 2, m.w.pos - 2);
    return p;
}

/* An answer under `id`, with or without the question. */
static int answer(uint16_t id, uint16_t flags, const char *name, uint16_t type,
                  const struct dns_pending **ret)
{
    put_header(&m, id, flags, name != NULL, 0, 0, 0);
    if (name)
        put_question(&m, name, type);
    uint8_t *copy = exact(m.data, m.w.pos);

    *ret = NULL;
    int r = dns_match_answer(&match, copy, m.w.pos, ret);

    assert_int_equal(r == 0, *ret != NULL);
    free(copy);
    return r;
}

static void answers_in_any_order(void **state)
{
    static const int order[] = {3, 0, 7, 1, 6, 5, 2, 4};
    const struct dns_pending *p, *got;
    uint16_t ids[SLOTS];

    (void)state;
    setup(NULL);
    for (int i = 0; i < SLOTS; i++) { /* all clients chose the same id and ask the same */
        p = add(77, "Example.net", DNS_TYPE_A, 1000 + (uint64_t)i, i);
        ids[i] = p->id;
        for (int j = 0; j < i; j++)
            assert_int_not_equal(ids[i], ids[j]);
    }
    assert_int_equal(match.n_waiting, SLOTS);
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(answer(ids[order[i]], DNS_FLAG_QR, "Example.net", DNS_TYPE_A, &got), 0);
        assert_int_equal(got->ref, 1000 + order[i]);
        assert_int_equal(got->client_id, 77);
        assert_int_equal(got->udp_size, 512);
        assert_int_equal(got->message[1], 77); /* it is the client's query again */
        assert_int_equal(answer(ids[order[i]], DNS_FLAG_QR, "Example.net", DNS_TYPE_A, &got),
                         -ENOENT); /* once */
        assert_int_equal(match.n_waiting, SLOTS - i - 1);
    }
    assert_int_equal(dns_match_deadline(&match), INT64_MAX);
}

static void another_question_is_another_answer(void **state)
{
    const struct dns_pending *p, *got;

    (void)state;
    setup(NULL);
    uint16_t id = (p = add(5, "Example.net", DNS_TYPE_A, 1, 0))->id;

    assert_int_equal(answer(id, DNS_FLAG_QR, "Example.net", DNS_TYPE_AAAA, &got), -ENOENT);
    assert_int_equal(answer(id, DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), -ENOENT);
    assert_int_equal(answer(id, DNS_FLAG_QR, "Example.org", DNS_TYPE_A, &got), -ENOENT);
    assert_int_equal(answer(id, DNS_FLAG_QR, "Example.net.x", DNS_TYPE_A, &got), -ENOENT);
    assert_int_equal(answer(id, DNS_FLAG_QR, "", DNS_TYPE_A, &got), -ENOENT);
    put_header(&m, id, DNS_FLAG_QR, 1, 0, 0, 0); /* another class */
    put_question(&m, "Example.net", DNS_TYPE_A);
    m.data[m.w.pos - 1] = 3;
    assert_int_equal(dns_match_answer(&match, m.data, m.w.pos, &got), -ENOENT);
    for (unsigned bit = 0; bit < 16; bit++)
        assert_int_equal(
            answer(id ^ (uint16_t)(1 << bit), DNS_FLAG_QR, "Example.net", DNS_TYPE_A, &got),
            -ENOENT);
    assert_true(p->waiting);
    assert_int_equal(answer(id, DNS_FLAG_QR, "Example.net", DNS_TYPE_A, &got), 0);
    assert_ptr_equal(got, p);
}

static void what_is_no_answer(void **state)
{
    const struct dns_pending *got = NULL;

    (void)state;
    setup(NULL);
    uint16_t id = add(5, "example.net", DNS_TYPE_A, 1, 0)->id;

    assert_int_equal(answer(id, 0, "example.net", DNS_TYPE_A, &got), -EPROTO); /* a query */
    assert_int_equal(answer(id, DNS_FLAG_QR | 4 << 11, "example.net", DNS_TYPE_A, &got), -EPROTO);
    put_header(&m, id, DNS_FLAG_QR, 2, 0, 0, 0);
    put_question(&m, "example.net", DNS_TYPE_A);
    put_question(&m, "example.net", DNS_TYPE_A);
    assert_int_equal(dns_match_answer(&match, m.data, m.w.pos, &got), -EPROTO);
    put_header(&m, id, DNS_FLAG_QR, 1, 0, 0, 0);
    put_question(&m, "example.net", DNS_TYPE_A);
    for (size_t n = 0; n < m.w.pos; n++) {
        uint8_t *copy = exact(m.data, n);

        assert_int_equal(dns_match_answer(&match, copy, n, &got), n < 12 ? -EPROTO : -ENOENT);
        free(copy);
    }
    assert_null(got);
    assert_int_equal(match.n_waiting, 1);
}

/* FORMERR, REFUSED and such come as a header alone from some servers; "no error" does not. */
static void an_error_without_its_question(void **state)
{
    const struct dns_pending *got;

    (void)state;
    for (uint16_t rcode = 0; rcode < 16; rcode++) {
        setup(NULL);
        uint16_t id = add(5, "example.net", DNS_TYPE_A, rcode, 0)->id;

        assert_int_equal(answer(id, DNS_FLAG_QR | rcode, NULL, 0, &got), rcode ? 0 : -EPROTO);
        if (rcode)
            assert_int_equal(got->ref, rcode);
    }
}

static void full_means_refused(void **state)
{
    const struct dns_pending *p = NULL, *got;
    struct dns_query q;
    uint16_t id = 0;

    (void)state;
    setup(NULL);
    for (int i = 0; i < SLOTS; i++)
        id = add(1, "example.net", DNS_TYPE_A, 1, 0)->id;
    assert_int_equal(dns_query_parse(m.data, m.w.pos, &q), 0);
    assert_int_equal(dns_match_add(&match, &q, m.data, 1, 0, &p), -ENOSPC);
    assert_null(p);
    assert_int_equal(answer(id, DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), 0);
    add(1, "example.net", DNS_TYPE_A, 1, 0);
}

static void a_query_that_is_too_long(void **state)
{
    const struct dns_pending *p = NULL;
    struct dns_query q;

    (void)state;
    setup(NULL);
    for (unsigned len = 511; len < 514; len++) {
        put_header(&m, 1, 0, 1, 0, 0, 1);
        put_question(&m, "example.net", DNS_TYPE_A);
        put_opt(&m, 1232, 0, len - 12 - 17 - 11);
        assert_int_equal(m.w.pos, len);
        assert_int_equal(dns_query_parse(m.data, len, &q), 0);
        assert_int_equal(dns_match_add(&match, &q, m.data, 1, 0, &p), len > 512 ? -EMSGSIZE : 0);
    }
    assert_int_equal(match.n_waiting, 2);
    assert_int_equal(p->udp_size, 1232);
}

static void time_passes(void **state)
{
    const struct dns_pending *got;
    uint16_t ids[4];

    (void)state;
    setup(NULL);
    for (int i = 0; i < 4; i++)
        ids[i] = add(1, "example.net", DNS_TYPE_A, (uint64_t)i, 10 * i)->id;
    assert_int_equal(dns_match_deadline(&match), TIMEOUT);
    assert_false(dns_match_expired(&match, TIMEOUT - 1, &got));
    assert_int_equal(answer(ids[1], DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), 0);
    for (uint64_t i = 0; i < 3; i += 2) { /* 1 is gone */
        assert_true(dns_match_expired(&match, TIMEOUT + 20, &got));
        assert_int_equal(got->ref, i);
        assert_int_equal(got->message[1], 1);
    }
    assert_false(dns_match_expired(&match, TIMEOUT + 29, &got));
    assert_int_equal(dns_match_deadline(&match), TIMEOUT + 30);
    assert_int_equal(answer(ids[0], DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), -ENOENT);
    assert_int_equal(answer(ids[3], DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), 0);
    assert_false(dns_match_expired(&match, INT64_MAX - 1, &got));
}

/* A late answer to a query that was given up must not be taken for the next one's. */
static void ids_come_back_late(void **state)
{
    static uint8_t seen[65536];
    const struct dns_pending *got;

    (void)state;
    setup(NULL);
    memset(seen, 0, sizeof(seen));
    for (unsigned i = 0; i < 65536; i++) {
        uint16_t id = add(1, "example.net", DNS_TYPE_A, 1, 0)->id;

        assert_false(seen[id]);
        seen[id] = 1;
        assert_int_equal(answer(id, DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), 0);
    }
}

static void all_that_wait_once_more(void **state)
{
    const struct dns_pending *p = NULL, *got;
    uint16_t ids[SLOTS];
    unsigned n = 0;

    (void)state;
    setup(NULL);
    assert_false(dns_match_each(&match, &p));
    assert_false(dns_match_pop(&match, &got));
    for (int i = 0; i < 5; i++)
        ids[i] = add(9, "example.net", DNS_TYPE_A, (uint64_t)i, 0)->id;
    assert_int_equal(answer(ids[2], DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), 0);
    while (dns_match_each(&match, &p)) {
        assert_int_equal(p->ref, n < 2 ? n : n + 1);
        assert_int_equal(p->id, ids[p->ref]);
        assert_int_equal(p->message[0] << 8 | p->message[1], p->id);
        assert_true(++n <= 4);
    }
    assert_int_equal(n, 4);
    for (n = 0; dns_match_pop(&match, &got); n++) {
        struct dns_query q;

        assert_int_equal(got->ref, n < 2 ? n : n + 1);
        assert_int_equal(dns_query_parse(got->message, got->len, &q), 0);
        assert_int_equal(q.id, 9);
        assert_string_equal(q.name, "example.net");
    }
    assert_int_equal(n, 4);
    assert_int_equal(match.n_waiting, 0);
}

static void sizes_of_a_table(void **state)
{
    struct dns_match other;
    const struct dns_pending *got;

    (void)state;
    assert_int_equal(dns_match_init(&other, slots, 0, 1, 0), -EINVAL);
    assert_int_equal(dns_match_init(&other, slots, 3, 1, 0), -EINVAL);
    assert_int_equal(dns_match_init(&other, slots, 2 * DNS_MATCH_MAX, 1, 0), -EINVAL);
    assert_int_equal(dns_match_init(&other, slots, 4, 0, 0), -EINVAL);
    for (uint32_t n = 1; n <= DNS_MATCH_MAX; n *= 64) {
        uint16_t last = 0;

        assert_int_equal(dns_match_init(&match, slots, n, TIMEOUT, (uint16_t)n), 0);
        for (uint32_t i = 0; i < n; i++)
            last = add(1, "example.net", DNS_TYPE_A, i, 0)->id;
        assert_int_equal(answer(last, DNS_FLAG_QR, "example.net", DNS_TYPE_A, &got), 0);
        assert_int_equal(got->ref, n - 1);
    }
}

static void found_and_left_where_it_is(void **state)
{
    const struct dns_pending *a = add(1, "a.example", DNS_TYPE_A, 1, 0), *got = NULL;

    (void)state;
    put_header(&m, a->id, DNS_FLAG_QR, 1, 0, 0, 0);
    put_question(&m, "b.example", DNS_TYPE_A);
    assert_int_equal(dns_match_find(&match, m.data, m.w.pos, &got), -ENOENT);
    assert_null(got);
    put_header(&m, a->id, DNS_FLAG_QR, 1, 0, 0, 0);
    put_question(&m, "a.example", DNS_TYPE_A);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(dns_match_find(&match, m.data, m.w.pos, &got), 0);
        assert_ptr_equal(got, a);
        assert_true(a->waiting);
    }
    assert_int_equal(dns_match_answer(&match, m.data, m.w.pos, &got), 0);
    assert_int_equal(dns_match_find(&match, m.data, m.w.pos, &got), -ENOENT);
}

static void taken_out_from_the_middle(void **state)
{
    const struct dns_pending *got, *p[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        p[i] = add((uint16_t)(40 + i), "a.example", DNS_TYPE_A, i, i);
    dns_match_remove(&match, p[1]);
    assert_false(p[1]->waiting);
    assert_int_equal(p[1]->message[1], 41); /* the client's id */
    assert_int_equal(match.n_waiting, 2);
    assert_true(dns_match_pop(&match, &got) && got == p[0]);
    assert_true(dns_match_pop(&match, &got) && got == p[2]);
    assert_false(dns_match_pop(&match, &got));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_is_consumed_when_it_is_whole),
        cmocka_unit_test(frames_of_no_right_length),
        cmocka_unit_test(answers_in_any_order),
        cmocka_unit_test(another_question_is_another_answer),
        cmocka_unit_test(what_is_no_answer),
        cmocka_unit_test(an_error_without_its_question),
        cmocka_unit_test(full_means_refused),
        cmocka_unit_test(a_query_that_is_too_long),
        cmocka_unit_test(time_passes),
        cmocka_unit_test(ids_come_back_late),
        cmocka_unit_test(all_that_wait_once_more),
        cmocka_unit_test(sizes_of_a_table),
        cmocka_unit_test_setup(found_and_left_where_it_is, setup),
        cmocka_unit_test_setup(taken_out_from_the_middle, setup),
    };

    return cmocka_run_group_tests_name("dns/match", tests, NULL, NULL);
}
