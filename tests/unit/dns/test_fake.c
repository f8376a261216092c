/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/fake.h in one process; processes that share a table and die are in test_fake_shared.c. */
#include "dns/fake.h"

#include <errno.h>
#include <stdio.h>

#include "message.h"

#define S INT64_C(1000000000)

static struct fake *table(uint32_t names)
{
    struct fake *f = NULL;

    assert_int_equal(fake_new(names, &f), 0);
    assert_non_null(f);
    return f;
}

static int take_for(struct fake *f, const char *who, const char *name, int64_t now, int64_t until,
                    uint32_t *ret)
{
    struct addr client;

    assert_int_equal(addr_parse(who, 4000, &client), 0);
    uint8_t *copy = exact((const uint8_t *)name, strlen(name));

    *ret = UINT32_MAX;
    int r = fake_take(f, (const char *)copy, strlen(name), &client, now, until, ret);

    assert_int_equal(r < 0, *ret == UINT32_MAX);
    free(copy);
    return r;
}

static int take(struct fake *f, const char *name, int64_t now, int64_t until, uint32_t *ret)
{
    return take_for(f, "192.0.2.1", name, now, until, ret);
}

/* The name behind an address, or NULL; *ret_err says why not. */
static const char *find(struct fake *f, const struct addr *a, int *ret_err)
{
    static char name[DNS_PLAIN_MAX + 1];
    uint32_t slot = UINT32_MAX;

    memset(name, POISON, sizeof(name));
    *ret_err = fake_find(f, a, 0, name, &slot);
    if (*ret_err == 0)
        return name;
    assert_int_equal((uint8_t)name[0], POISON);
    assert_true(slot == UINT32_MAX);
    return NULL;
}

static const char *find_text(struct fake *f, const char *text, int *ret_err)
{
    struct addr a;

    assert_int_equal(addr_parse(text, 0, &a), 0);
    return find(f, &a, ret_err);
}

static void a_name_has_two_addresses(void **state)
{
    struct fake *f = table(16);
    struct addr v4, v6, again4, again6;
    uint32_t slot, again, other;
    int err;

    (void)state;
    assert_int_equal(take(f, "example.net", 0, S, &slot), 0);
    assert_int_equal(take(f, "example.org", 0, S, &other), 0);
    assert_int_equal(take(f, "example.net", 5 * S, 6 * S, &again), 0);
    assert_int_equal(slot, again);
    assert_int_not_equal(slot, other);
    fake_address(f, slot, &v4, &v6);
    fake_address(f, other, &again4, &again6);
    assert_false(addr_equal(&v4, &again4) || addr_equal(&v6, &again6));
    assert_true(addr_is_v4(&v4) && !addr_is_v4(&v6));
    assert_true(prefix_contains(&fake_prefix4, &v4) && prefix_contains(&fake_prefix6, &v6));
    assert_true(v4.port == 0 && v6.port == 0);
    v4.port = v6.port = 443;
    assert_string_equal(find(f, &v4, &err), "example.net");
    assert_string_equal(find(f, &v6, &err), "example.net");
    assert_string_equal(find(f, &again4, &err), "example.org");
    fake_free(f);
}

static void the_prefixes(void **state)
{
    static const struct {
        const char *text;
        bool fake;
    } cases[] = {
        {"198.18.0.0", true},          {"198.19.255.255", true},
        {"198.17.255.255", false},     {"198.20.0.0", false},
        {"fdf6:6931:7149::", true},    {"fdf6:6931:7149::ffff:ffff:ffff:ffff", true},
        {"fdf6:6931:7149:1::", false}, {"fdf6:6931:7148:ffff::", false},
        {"::198.18.0.0", false},
    };
    struct fake *f = table(FAKE_NAMES_MIN);
    char text[PREFIX_STRLEN];
    struct addr a;

    (void)state;
    assert_string_equal(prefix_format(&fake_prefix4, text), "198.18.0.0/15");
    assert_string_equal(prefix_format(&fake_prefix6, text), "fdf6:6931:7149::/64");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int err;

        assert_int_equal(addr_parse(cases[i].text, 0, &a), 0);
        assert_int_equal(fake_is(&a), cases[i].fake);
        assert_null(find(f, &a, &err));
        assert_int_equal(err, cases[i].fake ? -ENOENT : -EINVAL);
    }
    fake_free(f);
}

/* As many names as there can be: each has addresses of its own, and leads back to itself. */
static void every_address_once(void **state)
{
    static uint8_t seen[1 << 17];
    struct fake *f = table(FAKE_NAMES_MAX);
    struct fake_stats stats;
    char name[32];
    int err;

    (void)state;
    memset(seen, 0, sizeof(seen));
    for (unsigned i = 0; i < FAKE_NAMES_MAX; i++) {
        struct addr v4, v6;
        uint32_t slot;

        snprintf(name, sizeof(name), "n%u.example", i);
        assert_int_equal(take(f, name, 0, S, &slot), 0);
        fake_address(f, slot, &v4, &v6);
        unsigned place = (unsigned)(v4.ip[13] & 1) << 16 | (unsigned)v4.ip[14] << 8 | v4.ip[15];

        assert_true(v4.ip[12] == 198 && (v4.ip[13] & 0xfe) == 18);
        assert_true(place >= 64 && place < 64 + 131000 && !seen[place]);
        seen[place] = 1;
        assert_string_equal(find(f, &v4, &err), name);
        assert_string_equal(find(f, &v6, &err), name);
        v6.ip[11] ^= 1; /* of another table */
        assert_null(find(f, &v6, &err));
        assert_int_equal(err, -ENOENT);
        v6.ip[11] ^= 1;
        v6.ip[12] ^= 0x80; /* of no slot */
        assert_null(find(f, &v6, &err));
    }
    assert_null(find_text(f, "198.18.0.63", &err));
    assert_null(find_text(f, "198.19.255.248", &err));
    fake_get_stats(f, &stats);
    assert_int_equal(stats.known, FAKE_NAMES_MAX);
    assert_int_equal(stats.reused + stats.refused + stats.mended, 0);
    fake_free(f);
}

/* An address that somebody kept from the daemon before. */
static void tables_differ(void **state)
{
    enum { TABLES = 32 };
    struct addr v4[TABLES], v6[TABLES];
    unsigned same4 = 0, same6 = 0;

    (void)state;
    for (unsigned i = 0; i < TABLES; i++) {
        struct fake *f = table(16);
        uint32_t slot;

        assert_int_equal(take(f, "example.net", 0, S, &slot), 0);
        fake_address(f, slot, &v4[i], &v6[i]);
        for (unsigned j = 0; j < i; j++) {
            same4 += addr_equal(&v4[i], &v4[j]);
            same6 += addr_equal(&v6[i], &v6[j]);
        }
        fake_free(f);
    }
    assert_true(same4 < 10); /* of 496 pairs: expected are 0.004 */
    assert_true(same6 < 10);
}

static void what_is_no_name(void **state)
{
    struct fake *f = table(16);
    char text[DNS_TEXT_MAX + 1];
    uint32_t slot = 0;
    int err;

    (void)state;
    assert_int_equal(take(f, "", 0, S, &slot), -EINVAL);
    assert_int_equal(take(f, ".", 0, S, &slot), -EINVAL);
    assert_int_equal(take(f, "A.b", 0, S, &slot), -EINVAL);
    assert_int_equal(take(f, "a\\.b", 0, S, &slot), -EINVAL);
    assert_int_equal(fake_take(f, "a\0b", 3, &(struct addr){.port = 0}, 0, S, &slot), -EINVAL);
    long_name(text, 256, 'x');
    assert_int_equal(take(f, text, 0, S, &slot), -EINVAL);
    for (size_t n = 3; n <= 255; n += 63) {
        struct addr v4, v6;

        long_name(text, n, 'x');
        assert_int_equal(strlen(text), n - 2);
        assert_int_equal(take(f, text, 0, S, &slot), 0);
        fake_address(f, slot, &v4, &v6);
        assert_string_equal(find(f, &v4, &err), text);
    }
    fake_free(f);
}

static void sizes_of_a_table(void **state)
{
    struct fake *f = NULL;

    (void)state;
    assert_int_equal(fake_new(0, &f), -EINVAL);
    assert_int_equal(fake_new(FAKE_NAMES_MIN - 1, &f), -EINVAL);
    assert_int_equal(fake_new(FAKE_NAMES_MAX + 1, &f), -EINVAL);
    assert_null(f);
    fake_free(NULL);
    for (uint32_t n = FAKE_NAMES_MIN; n <= FAKE_NAMES_MAX; n = n * 3 + 1) {
        uint32_t slot;

        f = table(n);
        for (uint32_t i = 0; i < n; i++) {
            char name[16];

            snprintf(name, sizeof(name), "n%u", i);
            assert_int_equal(take(f, name, 0, S, &slot), 0);
            assert_true(slot < n);
        }
        assert_int_equal(take(f, "one.more", 0, S, &slot), -ENOSPC);
        fake_free(f);
    }
}

/* ---- Reuse ---- */

enum { N = 16 };

/* "n0" to "n15", held until 100, 101, ... seconds. */
static struct fake *full(void)
{
    struct fake *f = table(N);
    uint32_t slot;
    char name[16];

    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(take(f, name, i * S, (100 + i) * S, &slot), 0);
    }
    return f;
}

static void never_early(void **state)
{
    struct fake *f = full();
    struct fake_stats stats;
    struct addr v4, v6;
    uint32_t slot, n0;
    int err;

    (void)state;
    assert_int_equal(take(f, "new", 0, S, &slot), -ENOSPC);
    assert_int_equal(take(f, "new", 100 * S - 1, 200 * S, &slot), -ENOSPC);
    assert_int_equal(take(f, "n0", 50 * S, 60 * S, &n0), 0); /* what is known is still answered */
    fake_address(f, n0, &v4, &v6);
    assert_string_equal(find(f, &v4, &err), "n0");
    fake_get_stats(f, &stats);
    assert_int_equal(stats.refused, 2);
    assert_int_equal(take(f, "new", 100 * S, 200 * S, &slot), 0);
    assert_int_equal(slot, n0);
    assert_string_equal(find(f, &v4, &err), "new");
    assert_string_equal(find(f, &v6, &err), "new");
    assert_int_equal(take(f, "n0", 100 * S, 200 * S, &slot), -ENOSPC); /* it is forgotten */
    fake_get_stats(f, &stats);
    assert_int_equal(stats.reused, 1);
    assert_int_equal(stats.known, N);
    fake_free(f);
}

/* One client has filled the table: others get its names, those first that nobody connected to and
 * nobody else asked for, and it gets none of theirs. */
static void who_has_most_loses_names(void **state)
{
    struct fake *f = table(N);
    uint32_t slot, got;
    bool used[N] = {false};
    char name[DNS_PLAIN_MAX + 1];
    struct addr v4, v6;
    int err;

    (void)state;
    for (unsigned i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        assert_int_equal(
            take_for(f, i < 2 ? "192.0.2.2" : "192.0.2.1", name, 0, (i < 2 ? 50 : 100) * S, &slot),
            0);
        fake_address(f, slot, &v4, &v6);
        used[slot] = i < 9;
        if (i < 5)
            assert_int_equal(fake_find(f, &v4, S, name, &got), 0);
        else if (i < 9)
            assert_int_equal(take_for(f, "192.0.2.3", name, 0, 0, &got), 0);
    }
    assert_int_equal(take_for(f, "192.0.2.1", "more", S, 200 * S, &slot), -ENOSPC);
    assert_int_equal(take_for(f, "192.0.2.3", "new", S, 200 * S, &slot), 0);
    assert_false(used[slot]);
    fake_address(f, slot, &v4, &v6);
    assert_string_equal(find(f, &v4, &err), "new");
    /* What was the second one's is not for the first, but for anybody else. */
    assert_int_equal(take_for(f, "192.0.2.1", "more", 60 * S, 200 * S, &slot), -ENOSPC);
    assert_int_equal(take_for(f, "192.0.2.4", "another", 60 * S, 200 * S, &slot), 0);
    assert_true(slot < 2);
    /* Its own, when they are over, are. */
    assert_int_equal(take_for(f, "192.0.2.1", "more", 110 * S, 200 * S, &slot), 0);
    assert_true(slot >= 2);
    fake_free(f);
}

/* One client has most of the names, and they are held; another's are free. The one finds none for
 * itself, which is no reason for a third not to, nor for taking one of the many away. After an hour
 * nobody keeps the free ones any more, and they are for everybody. */
static bool is_in_nobodys_way(void)
{
    struct fake *f = table(2 * N);
    uint32_t slot = 0, more = 0;

    for (unsigned i = 0; i < 2 * N; i++) {
        const char *who = i < 12 ? "192.0.2.2" : "192.0.2.1";
        char name[16];

        snprintf(name, sizeof(name), "n%u", i);
        assert_int_equal(take_for(f, who, name, 0, (i < 12 ? 50 : 9000) * S, &slot), 0);
        assert_int_equal(slot, i);
    }
    bool well = take_for(f, "192.0.2.1", "more", 60 * S, 9000 * S, &more) == -ENOSPC &&
                take_for(f, "192.0.2.3", "new", 60 * S, 70 * S, &slot) == 0 && slot < 12 &&
                take_for(f, "192.0.2.1", "more", 3649 * S, 9000 * S, &more) == -ENOSPC &&
                take_for(f, "192.0.2.1", "more", 3650 * S, 9000 * S, &more) == 0 && more < 12 &&
                more != slot;

    fake_free(f);
    return well;
}

static void who_has_most_is_in_nobodys_way(void **state)
{
    (void)state;
    /* In one table of a thousand two of them share a place, and so their counts. */
    assert_true(is_in_nobodys_way() || is_in_nobodys_way() || is_in_nobodys_way());
}

static void until_the_end_of_the_second(void **state)
{
    struct fake *f = table(N);
    uint32_t slot;
    char name[16];

    (void)state;
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(take(f, name, 0, 10 * S + 1, &slot), 0);
    }
    assert_int_equal(take(f, "new", 10 * S + 1, 20 * S, &slot), -ENOSPC);
    assert_int_equal(take(f, "new", 11 * S - 1, 20 * S, &slot), -ENOSPC);
    assert_int_equal(take(f, "new", 11 * S, 20 * S, &slot), 0);
    fake_free(f);
}

static void what_is_held_longer_stays_longer(void **state)
{
    struct fake *f = full();
    struct addr v4, v6;
    uint32_t slot[4], got;
    char name[DNS_PLAIN_MAX + 1];
    int err;

    (void)state;
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(take(f, name, 0, 0, &slot[i]), 0); /* nothing is taken back */
    }
    fake_hold(f, slot[0], 500 * S);
    fake_hold(f, slot[0], 10 * S); /* nor here */
    fake_hold(f, 99, 500 * S);     /* nobody's */
    fake_address(f, slot[1], &v4, &v6);
    assert_int_equal(fake_find(f, &v6, 500 * S, name, &got), 0);
    assert_int_equal(got, slot[1]);
    assert_int_equal(fake_find(f, &v6, 0, name, &got), 0); /* only asking */
    assert_int_equal(take(f, "n2", 0, 500 * S, &got), 0);
    assert_int_equal(take(f, "new", 102 * S, 500 * S, &got), -ENOSPC);
    assert_int_equal(take(f, "new", 103 * S, 500 * S, &got), 0);
    assert_int_equal(got, slot[3]);
    for (int i = 4; i < N; i++) { /* and then, in the order in which they became free */
        char want[16];

        snprintf(want, sizeof(want), "n%d", i);
        assert_int_equal(take(f, want, 0, 0, &slot[3]), 0);
        snprintf(name, sizeof(name), "new%d", i);
        assert_int_equal(take(f, name, 200 * S, 500 * S, &got), 0);
        assert_int_equal(got, slot[3]);
    }
    assert_int_equal(take(f, "more", 499 * S, 600 * S, &got), -ENOSPC);
    fake_address(f, slot[0], &v4, &v6);
    assert_string_equal(find(f, &v4, &err), "n0");
    fake_free(f);
}

/* Times that no clock has break nothing. */
static void strange_times(void **state)
{
    struct fake *f = full();
    uint32_t slot;

    (void)state;
    assert_int_equal(take(f, "n1", INT64_MIN, INT64_MAX, &slot), 0);
    assert_int_equal(take(f, "n2", INT64_MAX, INT64_MIN, &slot), 0);
    assert_int_equal(take(f, "new", INT64_MIN, 0, &slot), -ENOSPC);
    assert_int_equal(take(f, "new", INT64_MAX, 0, &slot), 0);
    fake_free(f);
}

/* Any sequence of operations against a model that is too simple to be wrong. */
static uint64_t seed;

static uint32_t pick(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

static void agrees_with_the_model(void **state)
{
    enum { NAMES = 40, STEPS = 100000 };
    int in_slot[N], slot_of[NAMES];
    int64_t held[N] = {0}, now = 1000;
    struct fake *f = table(N);
    unsigned used = 0, reused = 0, refused = 0;
    char name[32];

    (void)state;
    seed = 7;
    for (int i = 0; i < NAMES; i++)
        slot_of[i] = -1;
    for (int step = 0; step < STEPS; step++) {
        int n = (int)pick(NAMES);
        int64_t until = now + pick(30);
        uint32_t got;

        now += pick(4) == 0;
        snprintf(name, sizeof(name), "name%d.example", n);
        if (pick(4) == 0 && slot_of[n] >= 0) {
            fake_hold(f, (uint32_t)slot_of[n], until * S);
            held[slot_of[n]] = until > held[slot_of[n]] ? until : held[slot_of[n]];
            continue;
        }
        int want = slot_of[n];
        int64_t first = INT64_MAX;

        if (want < 0 && used < N) {
            want = (int)used++;
        } else if (want < 0) {
            for (int i = 0; i < N; i++)
                first = held[i] < first ? held[i] : first;
            if (first > now) {
                refused++;
                assert_int_equal(take(f, name, now * S, until * S, &got), -ENOSPC);
                continue;
            }
            reused++;
        }
        assert_int_equal(take(f, name, now * S, until * S, &got), 0);
        if (want < 0) { /* any of those that were free first */
            want = (int)got;
            assert_true(held[want] == first);
            slot_of[in_slot[want]] = -1;
        }
        assert_int_equal(got, want);
        in_slot[want] = n;
        slot_of[n] = want;
        held[want] = until > held[want] ? until : held[want];
    }
    struct fake_stats stats;

    fake_get_stats(f, &stats);
    assert_true(stats.known == N && stats.reused == reused && stats.refused == refused);
    assert_true(reused > 1000 && refused > 1000);
    for (int i = 0; i < N; i++) {
        struct addr v4, v6;
        int err;

        fake_address(f, (uint32_t)i, &v4, &v6);
        snprintf(name, sizeof(name), "name%d.example", in_slot[i]);
        assert_string_equal(find(f, &v4, &err), name);
    }
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_has_two_addresses),
        cmocka_unit_test(the_prefixes),
        cmocka_unit_test(every_address_once),
        cmocka_unit_test(tables_differ),
        cmocka_unit_test(what_is_no_name),
        cmocka_unit_test(sizes_of_a_table),
        cmocka_unit_test(never_early),
        cmocka_unit_test(who_has_most_loses_names),
        cmocka_unit_test(who_has_most_is_in_nobodys_way),
        cmocka_unit_test(until_the_end_of_the_second),
        cmocka_unit_test(what_is_held_longer_stays_longer),
        cmocka_unit_test(strange_times),
        cmocka_unit_test(agrees_with_the_model),
    };

    return cmocka_run_group_tests_name("dns/fake", tests, NULL, NULL);
}
