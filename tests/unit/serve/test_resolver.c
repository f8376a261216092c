/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Only names that need no name server: a unit test has none. */
#include "fixture.h"
#include "serve/resolver.h"

struct answer {
    struct loop *loop;
    unsigned calls;
    uint64_t ref;
    int status;
    size_t n;
    struct addr addresses[RESOLVER_ADDRESSES];
};

static void on_done(void *ctx, uint64_t ref, int status, const struct addr *addresses, size_t n)
{
    struct answer *a = ctx;

    assert_true(n <= RESOLVER_ADDRESSES);
    a->calls++;
    a->ref = ref;
    a->status = status;
    a->n = n;
    memcpy(a->addresses, addresses, n * sizeof(*addresses));
    loop_stop(a->loop);
}

static void test_localhost(void **state)
{
    struct answer a = {0};
    struct resolver *r;
    bool v4 = false;

    (void)state;
    assert_int_equal(loop_create(8, &a.loop), 0);
    assert_int_equal(resolver_create(a.loop, 2, 3, 1, 0, on_done, &a, &r), 0);
    /* More often than there are slots: each is given back. */
    for (unsigned i = 1; i <= 5; i++) {
        assert_int_equal(resolver_lookup(r, "localhost", 443, 0x1234 + i), 0);
        if (a.calls < i)
            assert_int_equal(loop_run(a.loop), 0);
        assert_int_equal(a.calls, i);
        assert_int_equal(a.status, 0);
        assert_int_equal(a.ref, 0x1234 + i);
        assert_true(a.n >= 1);
    }
    for (size_t i = 0; i < a.n; i++) {
        assert_true(addr_is_loopback(&a.addresses[i]));
        assert_int_equal(a.addresses[i].port, 443);
        v4 |= addr_is_v4(&a.addresses[i]);
    }
    assert_true(v4);
    resolver_destroy(r);
    loop_destroy(a.loop);
}

static void test_what_is_not_asked(void **state)
{
    static const char *const names[] = {"", " ", "a b", "a\tb", "a\nb", "a\x7f", "\x01"};
    struct answer a = {0};
    struct resolver *r;

    (void)state;
    assert_int_equal(loop_create(8, &a.loop), 0);
    assert_int_equal(resolver_create(a.loop, 2, 3, 4, 0, on_done, &a, &r), 0);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_int_equal(resolver_lookup(r, names[i], 1, 1), -EINVAL);
    resolver_destroy(r);

    assert_int_equal(resolver_create(a.loop, 2, 3, 0, 0, on_done, &a, &r), 0);
    assert_int_equal(resolver_lookup(r, "localhost", 1, 1), -EBUSY);
    resolver_destroy(r);
    assert_int_equal(a.calls, 0);
    loop_destroy(a.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_localhost),
        cmocka_unit_test(test_what_is_not_asked),
    };

    return cmocka_run_group_tests_name("serve/resolver", tests, NULL, NULL);
}
