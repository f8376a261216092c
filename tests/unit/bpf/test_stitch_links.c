/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_links.c in a network namespace of its own: filters on every interface that there is,
 * that comes, or that has lost them, and an interface is told to the programs only while it has
 * both. Nothing of others is touched, nothing of ours is left.
 */
#include "fixture.h"

#include <linux/pkt_sched.h>
#include <net/if.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/stitch.h"

#define HANDLE   0x5500 /* and the instance, as stitch_links.c has it */
#define INSTANCE 7

static struct bpf_stitch *open_instance(unsigned instance)
{
    const struct bpf_stitch_options o = {.flows = 16, .names = 16, .instance = instance};
    struct bpf_stitch *s = NULL;
    char why[BPF_WHY_MAX] = "";

    if (bpf_stitch_open(&o, &s, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    return s;
}

static struct bpf_stitch *attach_instance(unsigned instance)
{
    struct bpf_stitch *s = open_instance(instance);
    char why[BPF_WHY_MAX] = "";

    if (bpf_stitch_attach(s, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    return s;
}

static int index_of(const char *name)
{
    unsigned i = if_nametoindex(name);

    assert_true(i > 0);
    return (int)i;
}

/* The program's id; 0: none. */
static unsigned filter_at(int index, enum bpf_tc_attach_point where, unsigned instance)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = index, .attach_point = where);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = HANDLE + instance, .priority = 1);

    return bpf_tc_query(&hook, &options) == 0 ? options.prog_id : 0;
}

/* Both, or none. */
static bool has_filters(int index, unsigned instance)
{
    unsigned in = filter_at(index, BPF_TC_INGRESS, instance),
             out = filter_at(index, BPF_TC_EGRESS, instance);

    assert_true(!in == !out);
    assert_true(!in || in != out);
    return in;
}

static bool is_told(const struct bpf_stitch *s, int index)
{
    uint32_t key = (uint32_t)index;
    uint8_t value = 0;

    return bpf_map_lookup_elem(bpf_stitch_map_fd(s, STITCH_MAP_DEVICES), &key, &value) == 0;
}

static unsigned n_told(const struct bpf_stitch *s)
{
    uint32_t key;
    unsigned n = 0;

    for (const void *from = NULL;
         bpf_map_get_next_key(bpf_stitch_map_fd(s, STITCH_MAP_DEVICES), from, &key) == 0;
         from = &key)
        n++;
    return n;
}

static void assert_covered(const struct bpf_stitch *s, int index)
{
    assert_true(has_filters(index, INSTANCE));
    assert_true(is_told(s, index));
}

static bool has_qdisc(const char *name)
{
    char command[200];

    snprintf(command, sizeof(command), "tc qdisc show dev %s clsact | grep -q clsact", name);
    return system(command) == 0;
}

static void follow(struct bpf_stitch *s)
{
    assert_int_equal(bpf_stitch_follow(s), 0);
}

static void what_is_there(void **state)
{
    struct bpf_stitch *s;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    s = attach_instance(INSTANCE);
    assert_covered(s, index_of("lo"));
    assert_covered(s, index_of("us0"));
    assert_covered(s, index_of("us1"));
    assert_int_equal(n_told(s), 3);
    bpf_stitch_detach(s);
    assert_int_equal(n_told(s), 0);
    assert_false(has_filters(index_of("us0"), INSTANCE));
    assert_false(has_qdisc("us0"));
    assert_false(has_qdisc("lo"));
    bpf_stitch_close(s);
}

static void what_comes_and_goes(void **state)
{
    struct bpf_stitch *s;
    int index;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    s = attach_instance(INSTANCE);
    assert_int_equal(sh("ip link add us2 type veth peer name us3"), 0);
    index = index_of("us2");
    assert_false(is_told(s, index)); /* without filters it is not used */
    follow(s);
    assert_covered(s, index);
    assert_covered(s, index_of("us3"));

    assert_int_equal(sh("ip link set us2 name us4 && ip link set us4 up"), 0);
    follow(s);
    assert_int_equal(index_of("us4"), index);
    assert_covered(s, index);
    assert_int_equal(n_told(s), 5);

    assert_int_equal(sh("ip link del us4"), 0);
    follow(s);
    assert_false(is_told(s, index));
    assert_int_equal(n_told(s), 3);

    /* The same index again is another interface. */
    char command[100];

    snprintf(command, sizeof(command), "ip link add us5 index %d type veth peer name us6", index);
    assert_int_equal(sh(command), 0);
    follow(s);
    assert_covered(s, index);
    assert_int_equal(sh("ip link del us5"), 0);
    bpf_stitch_detach(s);
    bpf_stitch_close(s);
}

/* Somebody takes them away: the interface is as new. */
static void what_is_taken_is_put_back(void **state)
{
    static const char *const ways[] = {
        "tc qdisc del dev us0 clsact",
        "tc filter del dev us0 ingress",
        "tc filter del dev us0 egress",
    };
    struct bpf_stitch *s;
    int index;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    s = attach_instance(INSTANCE);
    index = index_of("us0");
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        assert_int_equal(sh(ways[i]), 0);
        assert_true(filter_at(index, BPF_TC_INGRESS, INSTANCE) == 0 ||
                    filter_at(index, BPF_TC_EGRESS, INSTANCE) == 0);
        follow(s);
        assert_covered(s, index);
        follow(s);
        assert_covered(s, index);
    }
    bpf_stitch_detach(s);
    bpf_stitch_close(s);
}

/* More happens than the socket holds: everything is looked at again, also what is gone. */
static void what_was_missed(void **state)
{
    struct bpf_stitch *s;
    struct pollfd p = {.events = POLLIN};
    int gone, taken, size = 1;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(sh("ip link add us2 type veth peer name us3"), 0);
    s = attach_instance(INSTANCE);
    follow(s);
    gone = index_of("us2");
    taken = index_of("us0");
    assert_int_equal(setsockopt(bpf_stitch_link_fd(s), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)),
                     0);
    assert_int_equal(sh("for i in 1 2 3 4 5 6 7 8; do ip link set us1 alias x$i; done;"
                        "ip link del us2; tc qdisc del dev us0 clsact;"
                        "ip link add us4 type veth peer name us5"),
                     0);
    p.fd = bpf_stitch_link_fd(s);
    assert_int_equal(poll(&p, 1, 0), 1);
    assert_true(p.revents & POLLERR); /* it was too much */
    follow(s);
    assert_covered(s, taken);
    assert_covered(s, index_of("us4"));
    assert_covered(s, index_of("us5"));
    assert_false(is_told(s, gone));
    assert_int_equal(n_told(s), 5);
    assert_int_equal(sh("ip link del us4"), 0);
    bpf_stitch_detach(s);
    bpf_stitch_close(s);
}

static void put_filter_of_others(int index, enum bpf_tc_attach_point where, unsigned program)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = index, .attach_point = where);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = 9, .priority = 9);

    options.prog_fd = bpf_prog_get_fd_by_id(program);
    assert_true(options.prog_fd >= 0);
    assert_int_equal(bpf_tc_attach(&hook, &options), 0);
    close(options.prog_fd);
}

/* A filter and a qdisc of somebody else's stay, and so does another instance's filter. */
static void others(void **state)
{
    struct bpf_stitch *s, *other;
    int index;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    index = index_of("us0");
    assert_int_equal(sh("tc qdisc add dev us1 clsact"), 0);
    s = attach_instance(INSTANCE);
    other = attach_instance(INSTANCE + 1);
    assert_true(has_filters(index, INSTANCE) && has_filters(index, INSTANCE + 1));
    put_filter_of_others(index, BPF_TC_INGRESS, filter_at(index, BPF_TC_INGRESS, INSTANCE));
    bpf_stitch_detach(s);
    assert_false(has_filters(index, INSTANCE));
    assert_true(has_filters(index, INSTANCE + 1));
    bpf_stitch_detach(other);
    assert_true(has_qdisc("us0"));
    assert_int_equal(sh("tc filter show dev us0 ingress | grep -q 'pref 9 .*handle 0x9'"), 0);
    assert_true(has_qdisc("us1")); /* it was there before us */
    /* Of two instances the one that came second does not know whose the qdisc was. */
    assert_int_equal(sh("for i in lo us0 us1; do tc qdisc del dev $i clsact; done"), 0);
    bpf_stitch_close(s);
    bpf_stitch_close(other);
}

/* The qdisc was made for our filters, and somebody uses it meanwhile, whichever half. */
static void what_others_use_stays(void **state)
{
    static const char *const checks[] = {
        "tc filter show dev us0 ingress | grep -q 'pref 9 .*handle 0x9'",
        "tc filter show dev us0 egress | grep -q 'pref 9 .*handle 0x9'",
    };
    struct bpf_stitch *s;
    int index;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    index = index_of("us0");
    for (size_t i = 0; i < 2; i++) {
        s = attach_instance(INSTANCE);
        put_filter_of_others(index, i == 0 ? BPF_TC_INGRESS : BPF_TC_EGRESS,
                             filter_at(index, BPF_TC_INGRESS, INSTANCE));
        bpf_stitch_detach(s);
        assert_false(has_filters(index, INSTANCE));
        assert_int_equal(sh(checks[i]), 0);
        assert_int_equal(sh("tc qdisc del dev us0 clsact"), 0);
        bpf_stitch_close(s);
    }
}

/* No clsact can be made beside another qdisc of that kind: no filters, and nothing goes out there.
 */
static void what_cannot_be_covered(void **state)
{
    struct bpf_stitch *s;
    int index;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    if (sh("tc qdisc add dev us1 ingress") < 0) {
        print_message("skipped: this kernel has no ingress qdisc\n");
        skip();
    }
    index = index_of("us1");
    s = attach_instance(INSTANCE);
    assert_false(is_told(s, index));
    assert_false(has_filters(index, INSTANCE));
    assert_covered(s, index_of("us0"));
    assert_true(bpf_stitch_is_uncovered(s));

    /* It is away, and something happens to the interface. */
    assert_int_equal(sh("tc qdisc del dev us1 ingress; ip link set us1 alias x"), 0);
    follow(s);
    assert_false(bpf_stitch_is_uncovered(s));
    assert_covered(s, index);
    /* And it is there again, in place of ours. */
    assert_int_equal(sh("tc qdisc del dev us1 clsact && tc qdisc add dev us1 ingress"), 0);
    follow(s);
    assert_false(is_told(s, index));
    assert_false(has_filters(index, INSTANCE));
    assert_int_equal(n_told(s), 2);
    bpf_stitch_detach(s);
    assert_int_equal(sh("tc qdisc del dev us1 ingress"), 0);
    bpf_stitch_close(s);
}

/* Who is killed leaves filters; who comes after takes them over, and takes them away. */
static void what_was_left(void **state)
{
    struct bpf_stitch *s;
    unsigned before;
    int index;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    index = index_of("us0");
    bpf_stitch_close(attach_instance(INSTANCE));
    before = filter_at(index, BPF_TC_EGRESS, INSTANCE);
    assert_true(before > 0);
    s = attach_instance(INSTANCE);
    assert_true(has_filters(index, INSTANCE));
    assert_int_not_equal(filter_at(index, BPF_TC_EGRESS, INSTANCE), before);
    bpf_stitch_detach(s);
    assert_false(has_qdisc("us0"));
    bpf_stitch_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_there),
        cmocka_unit_test(what_comes_and_goes),
        cmocka_unit_test(what_is_taken_is_put_back),
        cmocka_unit_test(what_was_missed),
        cmocka_unit_test(others),
        cmocka_unit_test(what_others_use_stays),
        cmocka_unit_test(what_cannot_be_covered),
        cmocka_unit_test(what_was_left),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
