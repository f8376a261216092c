/* SPDX-License-Identifier: GPL-2.0-or-later */
/* names/own.c and names.c: what is answered without asking anybody, and what is behind an address.
 */
#include "tests/unit/names/names_rig.h"

static struct rig *started(void **state)
{
    struct rig *r = *state;

    rig_start(r);
    return r;
}

/* The address in the only record of an answer, which ends with it. */
static struct addr address_in(const struct rig_answer *a, bool v6)
{
    struct addr ret;

    if (v6)
        addr_set_v6(&ret, a->data + a->len - 16, 0);
    else
        addr_set_v4(&ret, a->data + a->len - 4, 0);
    return ret;
}

static struct addr fake_of(struct rig *r, const char *name, bool v6)
{
    unsigned n = r->n_answers + 1;

    rig_ask(r, FAKE, 7, name, v6 ? DNS_TYPE_AAAA : DNS_TYPE_A);
    return address_in(rig_expect(r, n, 7, DNS_NOERROR, 1), v6);
}

static void a_name_has_an_address_and_the_address_a_name(void **state)
{
    struct rig *r = started(state);
    struct addr a4 = fake_of(r, "www.example.net", false);
    struct addr again = fake_of(r, "WWW.Example.NET", false),
                other = fake_of(r, "b.example", false);
    struct addr a6 = fake_of(r, "www.example.net", true);
    char name[DNS_PLAIN_MAX + 1];
    uint32_t slot4 = 0, slot6 = 1;

    assert_true(fake_is(&a4) && addr_is_v4(&a4));
    assert_true(fake_is(&a6) && !addr_is_v4(&a6));
    assert_true(addr_equal(&a4, &again));
    assert_false(addr_equal(&a4, &other));
    a4.port = a6.port = 443;
    assert_int_equal(names_name_of(r->n, &a4, NAMES_HOLD, name, &slot4), 0);
    assert_string_equal(name, "www.example.net");
    assert_int_equal(names_name_of(r->n, &a6, NAMES_HOLD, name, &slot6), 0);
    assert_string_equal(name, "www.example.net");
    assert_int_equal(slot4, slot6);
    rig_count(r, answered_fake, 4);
    assert_true(rig_nobody_asks(r, 0));
}

/* What on_name was told last, and how many answers there were by then. */
static struct {
    struct addr a4, a6;
    char name[DNS_PLAIN_MAX + 1];
    unsigned n, answers;
    int result;
} told;

static int on_name(void *ctx, const struct addr *a4, const struct addr *a6, const char *name,
                   size_t len)
{
    const struct rig *r = ctx;

    assert_int_equal(strlen(name), len);
    told.a4 = *a4;
    told.a6 = *a6;
    memcpy(told.name, name, len + 1);
    told.answers = r->n_answers;
    told.n++;
    return told.result;
}

static void who_wants_to_know_is_told_of_names_before_the_answer(void **state)
{
    struct rig *r = *state;
    char name[DNS_PLAIN_MAX + 1];
    uint32_t slot;

    memset(&told, 0, sizeof(told));
    r->o.on_name = on_name;
    rig_start(r);
    struct addr a6 = fake_of(r, "WWW.example.net", true);

    assert_int_equal(told.n, 1);
    assert_int_equal(told.answers, 0);
    assert_string_equal(told.name, "www.example.net");
    assert_true(addr_equal(&told.a6, &a6));
    struct addr a4 = fake_of(r, "www.example.net", false);

    /* Again, as the first time may be forgotten by now. */
    assert_int_equal(told.n, 2);
    assert_int_equal(told.answers, 1);
    assert_true(addr_equal(&told.a4, &a4));
    fake_of(r, "b.example", false);
    assert_string_equal(told.name, "b.example");
    assert_false(addr_equal(&told.a4, &a4));
    assert_int_equal(names_name_of(r->n, &a6, NAMES_HOLD, name, &slot), 0);
    assert_int_equal(told.n, 4);
    assert_string_equal(told.name, "www.example.net");
    assert_true(addr_equal(&told.a4, &a4) && addr_equal(&told.a6, &a6));
    /* No name, nothing to tell. */
    a4 = rig_addr("198.18.0.1:80");
    assert_int_equal(names_name_of(r->n, &a4, NAMES_HOLD, name, &slot), -ENOENT);
    assert_int_equal(told.n, 4);
}

/* A slot that changes its name is told of like any other. */
static void a_slot_with_another_name_is_told_of(void **state)
{
    struct rig *r = *state;
    char name[DNS_PLAIN_MAX + 1];

    memset(&told, 0, sizeof(told));
    r->o.on_name = on_name;
    rig_start(r);
    struct addr first = fake_of(r, "n0.example", false);

    for (unsigned i = 1; i < RIG_NAMES; i++) {
        snprintf(name, sizeof(name), "n%u.example", i);
        fake_of(r, name, false);
    }
    rig_skip(r, NAMES_HOLD + 2 * SECOND);
    for (unsigned i = 1; i < RIG_NAMES; i++) {
        snprintf(name, sizeof(name), "n%u.example", i);
        fake_of(r, name, false);
    }
    struct addr again = fake_of(r, "new.example", false);

    assert_true(addr_equal(&again, &first));
    assert_string_equal(told.name, "new.example");
    assert_true(addr_equal(&told.a4, &first));
}

static void an_address_that_could_mean_an_older_name_is_not_given(void **state)
{
    struct rig *r = *state;

    memset(&told, 0, sizeof(told));
    told.result = -ESTALE;
    r->o.on_name = on_name;
    rig_start(r);
    rig_ask(r, FAKE, 7, "www.example.net", DNS_TYPE_A);
    rig_expect(r, 1, 7, DNS_SERVFAIL, 0);
    assert_int_equal(told.n, 1);
    rig_count(r, failed, 1);
}

static void addresses_that_stand_for_nothing(void **state)
{
    struct rig *r = started(state);
    struct addr real = rig_addr("203.0.113.1:80"), stale4 = rig_addr("198.18.0.1:80"),
                stale6 = rig_addr("[fdf6:6931:7149::1]:80");
    char name[DNS_PLAIN_MAX + 1] = "untouched";
    uint32_t slot = 99;

    assert_int_equal(names_name_of(r->n, &real, 1, name, &slot), -EINVAL);
    assert_int_equal(names_name_of(r->n, &stale4, 1, name, &slot), -ENOENT);
    assert_int_equal(names_name_of(r->n, &stale6, 1, name, &slot), -ENOENT);
    assert_string_equal(name, "untouched");
    assert_int_equal(slot, 99);
}

static void without_a_table_no_address_is_fake(void **state)
{
    struct rig *r = *state;
    struct addr a = rig_addr("198.18.0.100:80");
    char name[DNS_PLAIN_MAX + 1];
    uint32_t slot;

    r->o.fake = NULL;
    assert_int_equal(names_create(&r->o, &r->n), -EINVAL); /* there is a capture that needs it */
    assert_null(r->n);
    r->captures[FAKE].mode = NAMES_TCP;
    rig_start(r);
    assert_int_equal(names_name_of(r->n, &a, 1, name, &slot), -EINVAL);
    names_hold(r->n, 0, 1);
}

static void the_ttl_is_short_and_held_for_longer(void **state)
{
    struct rig *r = started(state);
    const struct rig_answer *a;
    char name[RIG_NAMES][32];

    rig_ask(r, FAKE, 1, "first.example", DNS_TYPE_A);
    a = rig_expect(r, 1, 1, DNS_NOERROR, 1);
    assert_memory_equal(a->data + a->len - 10, "\x00\x00\x00\x3c\x00\x04", 6);
    for (unsigned i = 1; i < RIG_NAMES; i++) {
        snprintf(name[i], sizeof(name[i]), "n%u.example", i);
        fake_of(r, name[i], false);
    }
    /* The table is full, and stays so for as long as somebody may have been told. */
    rig_skip(r, NAMES_TTL * SECOND);
    rig_ask(r, FAKE, 3, "late.example", DNS_TYPE_A);
    rig_expect(r, RIG_NAMES + 1, 3, DNS_SERVFAIL, 0);
    rig_count(r, failed, 1);
    rig_count(r, full, 1);
    rig_skip(r, NAMES_HOLD);
    fake_of(r, "late.example", false);
}

static void who_has_a_flow_keeps_the_name(void **state)
{
    struct rig *r = started(state);
    struct addr mine = fake_of(r, "mine.example", false), found = fake_of(r, "b.example", false);
    char name[DNS_PLAIN_MAX + 1];
    uint32_t slot, other;

    assert_int_equal(names_name_of(r->n, &mine, NAMES_HOLD, name, &slot), 0);
    rig_skip(r, NAMES_HOLD / 2);
    names_hold(r->n, slot, 3 * NAMES_HOLD);
    assert_int_equal(names_name_of(r->n, &found, 3 * NAMES_HOLD, name, &other), 0);
    rig_skip(r, 2 * NAMES_HOLD);
    for (unsigned i = 0; i < RIG_NAMES; i++) {
        snprintf(name, sizeof(name), "n%u.example", i);
        rig_ask(r, FAKE, 1, name, DNS_TYPE_A);
    }
    assert_int_equal(names_name_of(r->n, &mine, 0, name, &slot), 0);
    assert_string_equal(name, "mine.example");
    assert_int_equal(names_name_of(r->n, &found, 0, name, &slot), 0);
    assert_string_equal(name, "b.example");
    rig_count(r, full, 2);
}

static void a_fake_address_asked_for_its_name(void **state)
{
    struct rig *r = started(state);
    struct addr a = fake_of(r, "www.example.net", false);
    char reverse[80];

    snprintf(reverse, sizeof(reverse), "%u.%u.%u.%u.in-addr.arpa", a.ip[15], a.ip[14], a.ip[13],
             a.ip[12]);
    rig_ask(r, FAKE, 2, reverse, DNS_TYPE_PTR);
    const struct rig_answer *got = rig_expect(r, 2, 2, DNS_NOERROR, 1);

    assert_memory_equal(got->data + got->len - 17,
                        "\x03www\x07"
                        "example\x03net",
                        17);
    rig_ask(r, FAKE, 3, reverse, DNS_TYPE_A);
    rig_expect(r, 3, 3, DNS_NOERROR, 0);
    rig_ask(r, FAKE, 4, "1.0.18.198.in-addr.arpa", DNS_TYPE_PTR);
    rig_expect(r, 4, 4, DNS_NXDOMAIN, 0);
    /* Others' names are not told. */
    r->captures[FAKE].many_hosts = true;
    rig_ask(r, FAKE, 5, reverse, DNS_TYPE_PTR);
    rig_expect(r, 5, 5, DNS_NXDOMAIN, 0);
    rig_ask(r, FAKE, 6, reverse, DNS_TYPE_A);
    rig_expect(r, 6, 6, DNS_NXDOMAIN, 0);
    assert_true(rig_nobody_asks(r, 0));
}

static void hints_at_real_addresses_are_not_given(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, FAKE, 1, "www.example.net", DNS_TYPE_HTTPS);
    rig_expect(r, 1, 1, DNS_NOERROR, 0);
    rig_ask(r, FAKE, 2, "_dns.resolver.arpa", DNS_TYPE_SVCB);
    rig_expect(r, 2, 2, DNS_NOERROR, 0);
    rig_ask(r, FAKE, 3, "www.example.net", DNS_TYPE_ANY);
    struct addr a = address_in(rig_expect(r, 3, 3, DNS_NOERROR, 1), false);

    assert_true(fake_is(&a));
    assert_true(rig_nobody_asks(r, 0));
}

static void localhost_is_here(void **state)
{
    struct rig *r = started(state);
    struct addr a = fake_of(r, "localhost", false);

    assert_true(addr_is_loopback(&a));
    a = fake_of(r, "db.LocalHost", true);
    assert_true(addr_is_loopback(&a));
    rig_ask(r, FAKE, 1, "localhost", DNS_TYPE_HTTPS);
    rig_expect(r, 3, 1, DNS_NOERROR, 0);
    a = fake_of(r, "notlocalhost", false);
    assert_true(fake_is(&a));
}

static void without_ipv6_there_are_no_such_addresses(void **state)
{
    struct rig *r = *state;

    r->captures[FAKE].no_v6 = true;
    rig_start(r);
    rig_ask(r, FAKE, 1, "www.example.net", DNS_TYPE_AAAA);
    rig_expect(r, 1, 1, DNS_NOERROR, 0);
    fake_of(r, "www.example.net", false);
    rig_ask(r, FAKE, 2, "localhost", DNS_TYPE_AAAA);
    rig_expect(r, 3, 2, DNS_NOERROR, 1);
}

/* One after the other, each answered by the server before the next one. */
static void what_others_must_answer(void **state)
{
    static const struct {
        const char *name;
        uint16_t type;
        uint32_t capture;
    } t[] = {
        {"www.corp.example", DNS_TYPE_A, FAKE}, /* a real name */
        {"corp.example", DNS_TYPE_HTTPS, FAKE}, /* whatever is asked about it */
        {"printer.local", DNS_TYPE_AAAA, FAKE}, /* a built-in one */
        {"www.example.net", 15, FAKE},          /* MX */
        {"", 2, FAKE},                          /* the root is not plain */
        {"a b.example", DNS_TYPE_A, FAKE},      /* nor is this */
        {"1.2.0.192.in-addr.arpa", 12, FAKE},   /* no fake address */
        {"www.example.net", DNS_TYPE_A, TCP},   /* nothing is fake there */
        {"1.0.18.198.in-addr.arpa", 12, TCP},   /* nor this */
        {"localhost", DNS_TYPE_A, TCP},
    };
    struct rig *r = started(state);
    int fd[CAPTURES] = {-1, -1};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        rig_ask(r, t[i].capture, (uint16_t)i, t[i].name, t[i].type);
        if (fd[t[i].capture] < 0)
            fd[t[i].capture] = rig_join(r);
        struct rig_query q = rig_next(r, fd[t[i].capture]);

        assert_int_equal(q.q.type, t[i].type);
        rig_answer(r, fd[t[i].capture], &q, (uint8_t)i);
        assert_int_equal(rig_last(rig_expect(r, i + 1, (uint16_t)i, DNS_NOERROR, 1)), i);
    }
    rig_count(r, answered, sizeof(t) / sizeof(t[0]));
    rig_count(r, answered_fake, 0);
    close(fd[FAKE]);
    close(fd[TCP]);
}

static void another_class_is_forwarded(void **state)
{
    struct rig *r = started(state);

    put_header(&r->m, 5, 0, 1, 0, 0, 0);
    put_name(&r->m, "version.bind");
    wire_put_u16(&r->m.w, DNS_TYPE_A);
    wire_put_u16(&r->m.w, 3);
    rig_send(r, FAKE);
    int fd = rig_join(r);

    assert_int_equal(rig_next(r, fd).q.class, 3);
    close(fd);
}

static void what_is_no_query(void **state)
{
    struct rig *r = started(state);

    put_header(&r->m, 1, DNS_FLAG_QR, 1, 0, 0, 0); /* an answer: never answered */
    put_question(&r->m, "a.example", DNS_TYPE_A);
    rig_send(r, FAKE);
    r->m.w.pos = 11; /* no header */
    rig_send(r, FAKE);
    r->m.w.pos = 0;
    rig_send(r, TCP);
    rig_quiet(r);
    rig_count(r, malformed, 3);
    put_header(&r->m, 2, 0, 2, 0, 0, 0);
    put_question(&r->m, "a.example", DNS_TYPE_A);
    put_question(&r->m, "b.example", DNS_TYPE_A);
    rig_send(r, FAKE);
    rig_expect(r, 1, 2, DNS_FORMERR, 0);
    put_header(&r->m, 3, 5 << 11, 0, 0, 0, 0);
    rig_send(r, TCP);
    rig_expect(r, 2, 3, DNS_NOTIMP, 0);
    put_header(&r->m, 4, 0, 1, 0, 0, 1);
    put_question(&r->m, "a.example", DNS_TYPE_A);
    put_opt(&r->m, 1232, 1 << 16, 0);
    rig_send(r, FAKE);
    rig_expect(r, 3, 4, DNS_NOERROR, 0); /* the upper bits of 16 are in the OPT */
    rig_count(r, malformed, 6);
    assert_true(rig_nobody_asks(r, 0));
}

static void what_udp_does_not_have(void **state)
{
    struct rig *r = started(state);

    rig_ask(r, TCP, 1, "example.net", 252);
    rig_expect(r, 1, 1, DNS_REFUSED, 0);
    rig_ask(r, FAKE, 2, "example.net", 251);
    rig_expect(r, 2, 2, DNS_REFUSED, 0);
    put_header(&r->m, 3, 0, 1, 0, 0, 1);
    put_question(&r->m, "example.net", 16);
    put_opt(&r->m, 1232, 0, DNS_MATCH_QUERY_MAX - 40); /* 12 + 17 + 11: one byte more would be */
    assert_int_equal(r->m.w.pos, DNS_MATCH_QUERY_MAX);
    put_header(&r->m, 3, 0, 1, 0, 0, 1);
    put_question(&r->m, "example.net", 16);
    put_opt(&r->m, 1232, 0, DNS_MATCH_QUERY_MAX - 39);
    rig_send(r, TCP);
    rig_expect(r, 3, 3, DNS_REFUSED, 0);
    rig_count(r, refused, 3);
    assert_true(rig_nobody_asks(r, 0));
}

static void an_answer_that_cannot_be_sent_is_counted(void **state)
{
    struct rig *r = started(state);

    r->send_result = -EAGAIN;
    rig_ask(r, FAKE, 1, "a.example", DNS_TYPE_A);
    rig_count(r, unsent, 1);
    rig_count(r, answered_fake, 1);
}

static void the_longest_name_behind_an_address(void **state)
{
    struct rig *r = started(state);
    char name[DNS_TEXT_MAX + 1], reverse[80];

    long_name(name, DNS_WIRE_MAX, 'x');
    struct addr a = fake_of(r, name, true);
    size_t at = 0;

    for (int i = 15; i >= 0; i--)
        at += (size_t)snprintf(reverse + at, sizeof(reverse) - at, "%x.%x.", a.ip[i] & 15,
                               a.ip[i] >> 4);
    snprintf(reverse + at, sizeof(reverse) - at, "ip6.arpa");
    rig_ask(r, FAKE, 9, reverse, DNS_TYPE_PTR);
    const struct rig_answer *got = rig_expect(r, 2, 9, DNS_NOERROR, 1);

    assert_true(got->len > 300 && got->len <= DNS_UDP_PLAIN);
    assert_false(rig_truncated(got));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        T(a_name_has_an_address_and_the_address_a_name),
        T(who_wants_to_know_is_told_of_names_before_the_answer),
        T(a_slot_with_another_name_is_told_of),
        T(an_address_that_could_mean_an_older_name_is_not_given),
        T(addresses_that_stand_for_nothing),
        T(without_a_table_no_address_is_fake),
        T(the_ttl_is_short_and_held_for_longer),
        T(who_has_a_flow_keeps_the_name),
        T(a_fake_address_asked_for_its_name),
        T(hints_at_real_addresses_are_not_given),
        T(localhost_is_here),
        T(without_ipv6_there_are_no_such_addresses),
        T(what_others_must_answer),
        T(another_class_is_forwarded),
        T(what_is_no_query),
        T(what_udp_does_not_have),
        T(an_answer_that_cannot_be_sent_is_counted),
        T(the_longest_name_behind_an_address),
    };

    return cmocka_run_group_tests_name("names/own", tests, ignore_sigpipe, NULL);
}
