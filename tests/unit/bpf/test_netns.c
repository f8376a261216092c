/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process of the cgroup in another network namespace cannot reach our listener: it is refused or
 * left alone, as the policy says, never redirected to whatever listens there, and it is reported
 * once.
 */
#include "fixture.h"

/* A namespace that has the world's addresses of its own. */
#define NAMESPACE                                                                      \
    "ip link set lo up && ip addr add " WORLD_V4 "/32 dev lo && ip addr add " WORLD_V6 \
    "/128 dev lo nodad"

static bool has_events(const struct bpf_capture *capture)
{
    struct pollfd p = {.fd = bpf_capture_event_fd(capture), .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void test_refused(void **state)
{
    static const struct client clients[] = {
        {.to = WORLD_V4 ":80", .netns = NAMESPACE},
        {.to = "[" WORLD_V6 "]:80", .netns = NAMESPACE},
        {.to = WORLD_V4 ":80", .netns = NAMESPACE, .family = AF_INET6},
        {.to = WORLD_V4 ":80", .netns = NAMESPACE, .fastopen_send = true},
    };
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture *capture;
    struct seen seen = {0};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.when_down = CAPTURE_DOWN_REFUSE;
    capture = attach(&set, 0, fixture.inner_fd);
    assert_false(has_events(capture));
    assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 0);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
        struct result result;

        client_run(&clients[i], &result);
        assert_refused(&clients[i], &result, ECONNREFUSED);
        assert_true(has_events(capture));
        assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 1);
        assert_int_equal(seen.n, i + 1);
        assert_int_equal(seen.last.pid, result.pid);
        assert_int_equal(seen.last.uid, 0);
        assert_true(seen.last.refused);
        assert_string_equal(seen.last.comm, "us-client");
        assert_true(seen.last.netns_cookie != fixture.netns);
        assert_false(has_events(capture));
        client_done(&result);
    }
    bpf_capture_detach(capture);
}

static void test_direct(void **state)
{
    static const struct client clients[] = {
        {.to = WORLD_V4 ":0", .netns = NAMESPACE, .serve = true},
        {.to = "[" WORLD_V6 "]:0", .netns = NAMESPACE, .serve = true},
    };
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_capture_counters counters;
    struct bpf_capture *capture;
    struct seen seen = {0};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.when_down = CAPTURE_DOWN_DIRECT;
    capture = attach(&set, 0, fixture.inner_fd);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
        struct addr asked;
        struct result result;

        client_run(&clients[i], &result);
        assert_int_equal(result.error, 0);
        assert_int_equal(addr_parse(clients[i].to, 0, &asked), 0);
        assert_true(addr_same_ip(&result.peer, &asked));
        client_done(&result);
        assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 1);
        assert_false(seen.last.refused);
    }
    assert_int_equal(bpf_capture_read_counters(capture, &counters), 0);
    assert_int_equal(counters.foreign, 2);
    assert_int_equal(counters.direct, 2);
    assert_int_equal(counters.proxied, 0);
    /* At home it captures as ever. */
    expect_captured(capture, fixture.v4, (struct client){.to = "198.51.100.7:80"},
                    "198.51.100.7:80");
    bpf_capture_detach(capture);
}

/* Many connections from one namespace: one event. */
static void test_one_event(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct client c = {
        .to = WORLD_V4 ":80", .then = "[" WORLD_V6 "]:81", .netns = NAMESPACE, .family = AF_INET6};
    struct bpf_capture_counters counters;
    struct bpf_capture *capture;
    struct seen seen = {0};
    struct result result;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    capture = attach(&set, 0, fixture.inner_fd);
    client_run(&c, &result);
    assert_int_equal(result.error, ECONNREFUSED);
    assert_int_equal(result.then_error, ECONNREFUSED);
    client_done(&result);
    assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 1);
    assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 0);
    assert_int_equal(seen.n, 1);
    assert_int_equal(bpf_capture_read_counters(capture, &counters), 0);
    assert_int_equal(counters.foreign, 2);
    assert_int_equal(counters.refused, 2);
    bpf_capture_detach(capture);
}

/* What is not selected is nobody's business, wherever it is. */
static void test_not_selected(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct client c = {.to = "127.0.0.1:0", .netns = NAMESPACE, .serve = true};
    struct bpf_capture *capture;
    struct seen seen = {0};
    struct result result;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    capture = attach(&set, 0, fixture.inner_fd);
    client_run(&c, &result);
    assert_int_equal(result.error, 0);
    client_done(&result);
    assert_int_equal(bpf_capture_poll_events(capture, on_event, &seen), 0);
    bpf_capture_detach(capture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_direct),
        cmocka_unit_test(test_one_event),
        cmocka_unit_test(test_not_selected),
    };

    return cmocka_run_group_tests_name("bpf netns", tests, fixture_setup, fixture_teardown);
}
