/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/probe.c: what it says agrees with what loads, and it says so when it may not look. */
#include "fixture.h"

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < BPF_N_FEATURES; i++) {
        assert_non_null(bpf_feature_infos[i].name);
        assert_non_null(bpf_feature_infos[i].without);
    }
}

/* Where all that is required is there the capture loads; the fixture has looked at the bits. */
static void test_required_means_it_loads(void **state)
{
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    uint32_t found;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(bpf_probe(&found), 0);
    for (size_t i = 0; i < BPF_N_FEATURES; i++)
        print_message("%-18s %s\n", bpf_feature_infos[i].name, found & 1u << i ? "yes" : "no");
    bpf_capture_detach(attach(&set, 0, fixture.inner_fd));
}

static void test_without_privileges(void **state)
{
    int status;
    pid_t pid;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    pid = fork();
    if (pid == 0) {
        uint32_t found = 42;
        char why[BPF_WHY_MAX] = "";

        close(fixture.watch);
        if (setresuid(65534, 65534, 65534) < 0)
            _exit(9);
        if (bpf_can_hold(why, sizeof(why)) || strstr(why, "CAP_") == NULL)
            _exit(2);
        _exit(bpf_probe(&found) == -EPERM && found == 42 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* What it says about honest captures is what an attempt at one comes to. */
static void test_can_hold(void **state)
{
    const struct capture_seat seat = {.number = 0, .serving = true};
    const struct capture_seat_ports ports = {1, 1};
    struct capture_policy policy = plain_policy();
    struct capture_set set = {.policies = &policy, .n_policies = 1, .seats = &seat, .n_seats = 1};
    struct bpf_capture *capture = NULL;
    char why[BPF_WHY_MAX] = "", reason[BPF_WHY_MAX] = "";
    uint32_t found;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    policy.honest = true;
    policy.seat_ports = &ports;
    assert_int_equal(bpf_probe(&found), 0);
    assert_int_equal(bpf_can_hold(reason, sizeof(reason)), (found >> BPF_FEATURE_HOLD) & 1);
    if (bpf_can_hold(reason, sizeof(reason))) {
        assert_string_equal(reason, "");
        capture = attach(&set, 0, fixture.inner_fd);
        bpf_capture_detach(capture);
    } else {
        assert_true(reason[0] != '\0');
        assert_true(bpf_cgroup_attach(&set, 0, fixture.inner_fd, &capture, why, sizeof(why)) < 0);
        assert_null(capture);
        assert_true(why[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_required_means_it_loads),
        cmocka_unit_test(test_can_hold),
        cmocka_unit_test(test_without_privileges),
    };

    return cmocka_run_group_tests_name("bpf probe", tests, fixture_setup, fixture_teardown);
}
