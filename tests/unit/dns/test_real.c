/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/real.h: which names keep their addresses. */
#include "dns/real.h"

#include <errno.h>
#include <stdio.h>

#include "dns/fake.h"
#include "message.h"

static bool match(const struct real *r, const char *name)
{
    uint8_t *copy = exact((const uint8_t *)name, strlen(name));
    bool m = real_match(r, (const char *)copy, strlen(name));

    free(copy);
    return m;
}

static struct real *list(const char *const *patterns, size_t n)
{
    struct real *r = NULL;
    size_t bad = 99;

    assert_int_equal(real_new(patterns, n, &r, &bad), 0);
    assert_int_equal(bad, 99);
    assert_non_null(r);
    return r;
}

static void patterns_end_at_labels(void **state)
{
    static const char *const patterns[] = {"example.net", "*.Example.ORG.", "a.b.test", "b.test"};
    static const struct {
        const char *name;
        bool real;
    } cases[] = {
        {"example.net", true},
        {"www.example.net", true},
        {"a.b.c.example.net", true},
        {"badexample.net", false},
        {"net", false},
        {"example.net.org", false},
        {"example.org", false},
        {"www.example.org", true},
        {"x.www.example.org", true},
        {"wwwexample.org", false},
        {"b.test", true},
        {"c.b.test", true},
        {"test", false},
        {"a.test", false},
        {"printer", false},
        {"1.0.0.10.x.test", false},
    };
    struct real *r = list(patterns, 4);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(match(r, cases[i].name), cases[i].real);
    real_free(r);
}

static void both_kinds_of_one_name(void **state)
{
    static const char *const patterns[][2] = {{"*.example.net", "example.net"},
                                              {"example.net", "*.example.net"}};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct real *r = list(patterns[i], 2);

        assert_true(match(r, "example.net"));
        assert_true(match(r, "a.example.net"));
        real_free(r);
    }
}

static void names_of_one_label(void **state)
{
    static const char *const dot[] = {"."};
    struct real *without = list(NULL, 0), *with = list(dot, 1);

    (void)state;
    assert_true(match(with, "printer"));
    assert_false(match(with, "printer.example"));
    assert_false(match(without, "printer"));
    real_free(without);
    real_free(with);
}

static void some_are_real_without_being_named(void **state)
{
    struct real *r = list(NULL, 0);

    (void)state;
    assert_true(match(r, "localhost"));
    assert_true(match(r, "a.localhost"));
    assert_true(match(r, "printer.local"));
    assert_true(match(r, "nas.home.arpa"));
    assert_true(match(r, "ipv4only.arpa"));
    assert_true(match(r, "1.0.0.10.in-addr.arpa"));
    assert_false(match(r, "localhost.example"));
    assert_false(match(r, "xlocal"));
    assert_false(match(r, "arpa"));
    assert_false(match(r, "resolver.arpa"));
    assert_false(match(r, "facebookcorewwwi.onion"));
    for (size_t i = 0; i < real_n_builtin; i++) {
        assert_true(real_pattern_ok(real_builtin[i]));
        assert_true(match(r, real_builtin[i]));
    }
    real_free(r);
}

/* Nobody else could say what is behind one, whatever the patterns are. */
static void reverse_names_of_fake_addresses_never_are(void **state)
{
    static const char *const patterns[] = {"arpa", "198.in-addr.arpa", "1.0.18.198.in-addr.arpa"};
    struct real *r = list(patterns, 3);

    (void)state;
    assert_false(match(r, "1.0.18.198.in-addr.arpa"));
    assert_false(match(r, "255.255.19.198.in-addr.arpa"));
    assert_false(match(r, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.4.1.7.1.3.9.6.6.f.d.f."
                          "ip6.arpa"));
    assert_true(match(r, "1.0.17.198.in-addr.arpa"));
    assert_true(match(r, "1.0.20.198.in-addr.arpa"));
    assert_true(match(r, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.9.4.1.7.1.3.9.6.6.f.d.f."
                         "ip6.arpa"));
    real_free(r);
}

static void what_is_no_pattern(void **state)
{
    static const char *const bad[] = {"",    "*",   "*.",  "**.a", "a.*.b",
                                      "*a",  "..",  ".a",  "a..b", "b\xc3\xbc.net",
                                      "a b", "*.*", "a..", "*..",  "*.a*"};
    char text[DNS_TEXT_MAX + 1];
    struct real *r = NULL;
    const char *patterns[3] = {"ok.net", "x", "also.ok"};
    size_t at = 99;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(real_pattern_ok(bad[i]));
        patterns[1] = bad[i];
        at = 99;
        assert_int_equal(real_new(patterns, 3, &r, &at), -EINVAL);
        assert_int_equal(at, 1);
        assert_null(r);
    }
    long_name(text, 255, 'x');
    assert_true(real_pattern_ok(text));
    strcat(text, ".");
    assert_true(real_pattern_ok(text));
    long_name(text, 256, 'x');
    assert_false(real_pattern_ok(text));
}

/* A long list, and a name of as many labels as there can be. */
static void many_patterns(void **state)
{
    enum { N = 3000 };
    static char names[N][32];
    static const char *patterns[N];
    char text[DNS_TEXT_MAX + 1];

    (void)state;
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "n%d.d%d.example", i, i % 10);
        patterns[i] = names[i];
    }
    struct real *r = list(patterns, N);

    for (int i = 0; i < N; i++) {
        assert_true(match(r, names[i]));
        snprintf(text, sizeof(text), "www.n%d.d%d.example", i, i % 10);
        assert_true(match(r, text));
        snprintf(text, sizeof(text), "xn%d.d%d.example", i, i % 10);
        assert_false(match(r, text));
    }
    for (int i = 0; i < 253; i++)
        text[i] = i % 2 ? '.' : 'a';
    text[253] = '\0';
    assert_false(match(r, text));
    memcpy(text + 253 - 10, "d0.example", 10);
    assert_false(match(r, text));
    memcpy(text + 253 - 13, "n0.d0.example", 13);
    text[253 - 14] = '.';
    text[253 - 15] = 'a';
    assert_true(match(r, text));
    real_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_end_at_labels),
        cmocka_unit_test(both_kinds_of_one_name),
        cmocka_unit_test(names_of_one_label),
        cmocka_unit_test(some_are_real_without_being_named),
        cmocka_unit_test(reverse_names_of_fake_addresses_never_are),
        cmocka_unit_test(what_is_no_pattern),
        cmocka_unit_test(many_patterns),
    };

    return cmocka_run_group_tests_name("dns/real", tests, NULL, NULL);
}
