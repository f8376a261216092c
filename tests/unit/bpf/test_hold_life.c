/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/holder.c: rings come and go with the seats of a set and with nothing else, and what is held
 * stays held while the policy changes.
 */
#include <dirent.h>
#include <sys/resource.h>

#include "hold_rig.h"

static int n_links(void)
{
    int fds[BPF_CAPTURE_MAX_FDS];

    return bpf_capture_fds(rig.capture, fds, BPF_CAPTURE_MAX_FDS);
}

static void let_in_and_check(const struct client *c, struct result *result, const struct syn *syn)
{
    let_in(&rig, syn);
    close(assert_let_in(&rig, c, result, syn, c->to));
    client_done(result);
}

/* A SYN that nobody has read while the policy changes is there afterwards, in the same ring, and
 * so is its retransmission. */
static void test_replace_keeps_rings(void **state)
{
    struct client c = {.to = SOMEWHERE};
    struct prefix elsewhere;
    struct result result;
    struct syn syn, again;
    int fds[SEATS], links[2][BPF_CAPTURE_MAX_FDS], n;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < SEATS; i++)
        fds[i] = bpf_capture_ring_fd(rig.capture, rig.seats[i].number);
    n = bpf_capture_fds(rig.capture, links[0], BPF_CAPTURE_MAX_FDS);
    assert_int_equal(n, 9);
    client_start(&c, &result);
    assert_true(a_syn_waits(&rig, 10000));
    assert_int_equal(prefix_parse("203.0.113.0/24", &elsewhere), 0);
    rig.policy.to = &elsewhere;
    rig.policy.n_to = 1;
    for (int i = 0; i < 5; i++)
        rig_replace(&rig);
    for (size_t i = 0; i < SEATS; i++)
        assert_int_equal(bpf_capture_ring_fd(rig.capture, rig.seats[i].number), fds[i]);
    assert_int_equal(bpf_capture_fds(rig.capture, links[1], BPF_CAPTURE_MAX_FDS), n);
    assert_memory_equal(links[0], links[1], (size_t)n * sizeof(int));
    next_syn(&rig, &syn);
    assert_held(&rig, &c, &result, &syn, c.to);
    next_syn(&rig, &again);
    assert_int_equal(again.isn, syn.isn);
    let_in_and_check(&c, &result, &again);
    forget_syns(&rig); /* a busy host has given it time for more of them */
    /* The new policy is in force. */
    expect_direct((struct client){.to = PRIVATE_V4 ":0"});
    expect_held_and_let_in(&rig, (struct client){.to = WORLD_V4 ":80"}, WORLD_V4 ":80");
    assert_int_equal(missed(&rig), 0);
}

/* Seats that are not serving keep their ring and get nothing new; without a serving one of the
 * family there is no connection. */
static void test_serving(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t on = 0; on < SEATS; on++) {
        rig.seats[on].serving = true;
        rig.seats[1 - on].serving = false;
        rig_replace(&rig);
        for (int i = 0; i < 20; i++) {
            struct client c = {.to = SOMEWHERE};
            struct result result;
            struct syn syn;

            client_start(&c, &result);
            next_syn(&rig, &syn);
            assert_int_equal(syn.seat, on);
            let_in_and_check(&c, &result, &syn);
        }
        assert_true(bpf_capture_ring_fd(rig.capture, rig.seats[1 - on].number) >= 0);
    }
    rig.seats[0].serving = rig.seats[1].serving = true;
    rig.ports[0].v6 = 0;
    rig_replace(&rig);
    for (int i = 0; i < 20; i++) {
        struct client c = {.to = "[2001:db8:7::9]:80"};
        struct result result;
        struct syn syn;

        client_start(&c, &result);
        next_syn(&rig, &syn);
        assert_int_equal(syn.seat, 1);
        let_in_and_check(&c, &result, &syn);
    }
    rig.ports[1].v6 = 0;
    rig_replace(&rig);
    expect_refused((struct client){.to = "[2001:db8:7::9]:80"}, ECONNREFUSED);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
    rig.seats[0].serving = rig.seats[1].serving = false;
    rig_replace(&rig);
    expect_refused((struct client){.to = SOMEWHERE}, ECONNREFUSED);
    expect_refused((struct client){.to = SOMEWHERE, .protocol = IPPROTO_MPTCP}, ECONNREFUSED);
    assert_nobody_is_let_in(&rig);
}

static void test_seats_come_and_go(void **state)
{
    struct capture_seat third = {.number = 64, .serving = true};
    struct capture_seat seats[] = {rig.seats[0], third, rig.seats[1]};
    struct capture_seat_ports ports[] = {rig.ports[0], {1, 1}, rig.ports[1]};
    char why[BPF_WHY_MAX] = "";
    int fd;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    fd = bpf_capture_ring_fd(rig.capture, FIRST);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, 64), -ENOENT);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, 0), -ENOENT);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, CAPTURE_SEATS), -ENOENT);
    rig.set.seats = seats;
    rig.set.n_seats = 3;
    rig.policy.seat_ports = ports;
    rig_replace(&rig);
    assert_true(bpf_capture_ring_fd(rig.capture, 64) >= 0);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, FIRST), fd);
    /* A set that cannot be: nothing changes. */
    seats[2].number = CAPTURE_SEATS;
    assert_int_equal(bpf_cgroup_replace(rig.capture, &rig.set, 0, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "seat 128"));
    assert_true(bpf_capture_ring_fd(rig.capture, SECOND) >= 0);
    bpf_hold_close(&rig.sources[1]);
    rig.set.seats = rig.seats;
    rig.set.n_seats = 1;
    rig.policy.seat_ports = rig.ports;
    rig_replace(&rig);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, FIRST), fd);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, 64), -ENOENT);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, SECOND), -ENOENT);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
}

/* The seat of a SYN that is under way is gone: nobody can be told, so it is dropped and counted,
 * not let in unasked. */
static void test_seat_gone(void **state)
{
    struct client c = {.to = SOMEWHERE};
    struct result result;
    struct syn syn;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    rig.seats[0].serving = false;
    rig_replace(&rig);
    client_start(&c, &result);
    next_syn(&rig, &syn);
    bpf_hold_close(&rig.sources[1]);
    rig.set.n_seats = 1;
    rig.seats[0].serving = true;
    rig_replace(&rig);
    assert_int_equal(missed(&rig), 0);
    for (int i = 0; i < 1000 && missed(&rig) == 0; i++)
        usleep(10000);
    assert_int_equal(missed(&rig), 1);
    assert_true(client_is_waiting(&result));
    assert_nobody_is_let_in(&rig);
    assert_false(a_syn_waits(&rig, 0));
    kill(result.pid, SIGKILL);
    client_done(&result);
}

/* Reload: what was held before still is, as long as its seat is named; new connections are early,
 * then honest again. */
static void test_honest_and_early(void **state)
{
    struct client c = {.to = SOMEWHERE};
    struct result result;
    struct syn syn, again;
    int fd;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    client_start(&c, &result);
    next_syn(&rig, &syn);
    rig.policy.honest = false;
    rig.policy.seat_ports = NULL;
    rig.seats[0].serving = rig.seats[1].serving = false;
    fd = bpf_capture_ring_fd(rig.capture, FIRST);
    rig_replace(&rig);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, FIRST), fd);
    assert_int_equal(n_links(), 9);
    expect_captured(rig.capture, fixture.v4, c, c.to);
    /* Of a listener that is no seat's the programs know nothing. */
    {
        struct addr peer, local;
        struct result early;
        int ours;

        client_run(&c, &early);
        ours = accept_one(fixture.v4, &peer, &local);
        assert_true(ours >= 0);
        assert_int_equal(repeats_until_reset(&early, ours), 0);
        client_done(&early);
    }
    expect_captured(rig.capture, fixture.v6, (struct client){.to = "[2001:db8:7::9]:80"},
                    "[2001:db8:7::9]:80");
    next_syn(&rig, &again);
    assert_int_equal(again.isn, syn.isn);
    assert_held(&rig, &c, &result, &again, c.to);
    let_in_and_check(&c, &result, &syn);

    rig.set.n_seats = 0;
    rig_replace(&rig);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, FIRST), -ENOENT);
    assert_int_equal(n_links(), 7);
    expect_captured(rig.capture, fixture.v4, c, c.to);

    /* Never two at the same: honest, and no seat at all, is early. */
    rig.policy.honest = true;
    rig_replace(&rig);
    expect_captured(rig.capture, fixture.v4, c, c.to);

    rig.set.n_seats = SEATS;
    rig.seats[0].serving = rig.seats[1].serving = true;
    rig.policy.seat_ports = rig.ports;
    rig_replace(&rig);
    assert_int_equal(n_links(), 9);
    for (size_t i = 0; i < SEATS; i++)
        bpf_hold_close(&rig.sources[i]);
    rig_open(&rig);
    expect_held_and_let_in(&rig, c, c.to);
    expect_held_and_let_in(&rig, (struct client){.to = "[2001:db8:7::9]:80"}, "[2001:db8:7::9]:80");
}

/* An early capture has no ring, no link more, and none of its packets is looked at. Only captures
 * that proxy can be honest. */
static void test_early_has_none(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    bpf_capture_detach(rig.capture);
    for (int i = 0; i < 2; i++) {
        rig.policy.honest = i == 1;
        rig.policy.action = i == 1 ? CAPTURE_REFUSE : CAPTURE_PROXY;
        rig.capture = attach(&rig.set, 0, fixture.inner_fd);
        assert_int_equal(n_links(), 7);
        assert_int_equal(bpf_capture_ring_fd(rig.capture, FIRST), -ENOENT);
        if (i == 0)
            bpf_capture_detach(rig.capture);
    }
    expect_refused((struct client){.to = SOMEWHERE}, ECONNREFUSED);
}

/* The innermost capture decides, and holds; the others' us_hold lets pass what is not theirs. */
static void test_nested(void **state)
{
    struct capture_policy policies[2] = {plain_policy(), rig.policy};
    struct capture_set set = rig.set;
    struct bpf_capture *inner = rig.capture, *outer;
    struct bpf_capture_counters counters;
    struct client c = {.to = SOMEWHERE, .outer = true};
    struct origin origin;
    struct syn syn;
    struct result result;
    struct rig theirs = rig;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    set.policies = policies;
    set.n_policies = 2;
    policies[1].private = true;
    outer = attach(&set, 1, fixture.outer_fd);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
    assert_int_equal(bpf_capture_read_counters(outer, &counters), 0);
    assert_int_equal(counters.proxied, 0);
    /* The outer one's own processes. */
    theirs.capture = outer;
    rig_open(&theirs);
    assert_false(a_syn_waits(&theirs, 0));
    expect_held_and_let_in(&theirs, c, SOMEWHERE);
    assert_false(a_syn_waits(&rig, 0));
    /* Early inside honest. */
    for (size_t i = 0; i < SEATS; i++)
        bpf_hold_close(&rig.sources[i]);
    bpf_capture_detach(inner);
    rig.capture = attach(&set, 0, fixture.inner_fd);
    expect_captured(rig.capture, fixture.v4, (struct client){.to = SOMEWHERE}, SOMEWHERE);
    assert_false(a_syn_waits(&theirs, 0));
    /* Honest inside early. */
    policies[1].honest = false;
    bpf_capture_detach(rig.capture);
    rig_down(&theirs);
    rig_up(&rig);
    outer = attach(&set, 1, fixture.outer_fd);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
    client_run(&c, &result);
    assert_int_equal(result.error, 0);
    close(accept_one(fixture.v4, &syn.from, &syn.to));
    assert_int_equal(origin_of(outer, -1, &syn.from, &syn.to, &origin), 0);
    client_done(&result);
    bpf_capture_detach(outer);
}

/* The daemon is gone: the next SYN meets a closed port. */
static void test_detached(void **state)
{
    struct client c = {.to = SOMEWHERE};
    struct result result;
    struct syn syn;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    client_start(&c, &result);
    next_syn(&rig, &syn);
    rig_down(&rig);
    client_wait(&c, &result);
    assert_int_equal(result.error, ECONNREFUSED);
    client_done(&result);
    rig_up(&rig);
}

static int count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(d);
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static void test_no_descriptor_is_left(void **state)
{
    struct bpf_capture *mine = rig.capture, *none = NULL;
    char why[BPF_WHY_MAX];
    int before;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    before = count_fds();
    rig.capture = attach(&rig.set, 0, fixture.outer_fd);
    rig_replace(&rig);
    rig.set.n_seats = 1;
    rig_replace(&rig);
    rig.policy.honest = false;
    rig.set.n_seats = 0;
    rig_replace(&rig);
    rig.policy.honest = true;
    rig.set.n_seats = SEATS;
    rig_replace(&rig);
    rig.seats[1].number = CAPTURE_SEATS;
    assert_int_equal(bpf_cgroup_replace(rig.capture, &rig.set, 0, why, sizeof(why)), -EINVAL);
    bpf_capture_detach(rig.capture);
    rig.capture = mine;
    assert_int_equal(bpf_cgroup_attach(&rig.set, 0, fixture.outer_fd, &none, why, sizeof(why)),
                     -EINVAL);
    assert_int_equal(count_fds(), before);
}

/* Out of descriptors half-way: the rings that were made are gone again, the others are not. */
static void test_rings_fail(void **state)
{
    struct capture_seat seats[CAPTURE_SEATS];
    struct capture_seat_ports ports[CAPTURE_SEATS];
    struct bpf_capture *none = NULL;
    struct rlimit limit, less;
    char why[BPF_WHY_MAX] = "";
    int before, ring;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (unsigned i = 0; i < CAPTURE_SEATS; i++) {
        seats[i] = (struct capture_seat){.number = i, .serving = true};
        ports[i] = rig.ports[0];
    }
    rig.set.seats = seats;
    rig.set.n_seats = CAPTURE_SEATS;
    rig.policy.seat_ports = ports;
    before = count_fds();
    ring = bpf_capture_ring_fd(rig.capture, FIRST);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    less = limit;
    less.rlim_cur = (rlim_t)before + 80;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &less), 0);
    assert_int_equal(bpf_cgroup_replace(rig.capture, &rig.set, 0, why, sizeof(why)), -EMFILE);
    assert_true(why[0] != '\0');
    assert_int_equal(bpf_cgroup_attach(&rig.set, 0, fixture.outer_fd, &none, why, sizeof(why)),
                     -EMFILE);
    assert_null(none);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(count_fds(), before);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, FIRST), ring);
    assert_int_equal(bpf_capture_ring_fd(rig.capture, 0), -ENOENT);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_replace_keeps_rings),
        TEST(test_serving),
        TEST(test_seats_come_and_go),
        TEST(test_seat_gone),
        TEST(test_honest_and_early),
        TEST(test_early_has_none),
        TEST(test_nested),
        TEST(test_detached),
        TEST(test_no_descriptor_is_left),
        TEST(test_rings_fail),
    };

    return cmocka_run_group_tests_name("bpf hold life", tests, hold_setup, fixture_teardown);
}
