/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/policy.c, the pure half: needs no privilege. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bpf/policy.h"

static const struct port_range http[] = {{80, 80}, {443, 443}, {8000, 8999}};

static int is_set(const uint64_t words[ABI_PORT_WORDS], unsigned port)
{
    return (int)(words[port / 64] >> (port % 64) & 1);
}

static void test_flags(void **state)
{
    struct capture_policy policy = {.action = CAPTURE_PROXY};
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct abi_settings settings;

    (void)state;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, ABI_HAS_EXCEPT);
    assert_int_equal(settings.action, ABI_PROXY);
    policy.private = true;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, 0);
    policy.n_not_to = 1;
    policy.n_to = 1;
    policy.n_uids = 1;
    policy.n_not_uids = 1;
    policy.has_mark = true;
    policy.n_tcp_ports = 1;
    policy.when_down = CAPTURE_DOWN_DIRECT;
    policy.action = CAPTURE_REFUSE;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, ABI_HAS_EXCEPT | ABI_HAS_TO | ABI_HAS_UIDS | ABI_HAS_NOT_UIDS |
                                         ABI_HAS_MARK | ABI_HAS_PORTS | ABI_DOWN_DIRECT |
                                         ABI_NO_UDP);
    assert_int_equal(settings.action, ABI_REFUSE);
    policy.action = CAPTURE_DIRECT;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.action, ABI_DIRECT);
}

static void test_numbers(void **state)
{
    const struct capture_policy policy = {.mark = 7, .port_v4 = 40001, .port_v6 = 40002};
    const struct capture_set set = {.own_mark = 0x500, .own_mask = 0xf00};
    struct abi_settings settings;

    (void)state;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.mark, 7);
    assert_int_equal(settings.port_v4, 40001);
    assert_int_equal(settings.port_v6, 40002);
    assert_int_equal(settings.own_mark, 0x500);
    assert_int_equal(settings.own_mask, 0xf00);
    assert_int_equal(settings.netns_cookie, 0);
    assert_int_equal(settings.instance, 0);
    assert_int_equal(settings.features, 0);
}

/* Connections go to the seats that are serving, of each family to those that have a port of it. */
static void test_seats(void **state)
{
    const struct capture_seat seats[] = {{.number = 1, .serving = true},
                                         {.number = 2},
                                         {.number = 90, .serving = true},
                                         {.number = 127, .serving = true}};
    const struct capture_seat_ports ports[] = {{10, 11}, {20, 21}, {30, 0}, {40, 41}};
    struct capture_policy policy = {.honest = true, .seat_ports = ports};
    struct capture_set set = {.policies = &policy, .n_policies = 1, .seats = seats, .n_seats = 4};
    struct abi_settings settings;

    (void)state;
    assert_true(bpf_policy_is_honest(&set, &policy));
    bpf_policy_settings(&set, &policy, &settings);
    assert_true(settings.flags & ABI_HONEST);
    assert_int_equal(settings.n_seats_v4, 3);
    assert_int_equal(settings.seats_v4[0].number, 1);
    assert_int_equal(settings.seats_v4[0].port, 10);
    assert_int_equal(settings.seats_v4[1].number, 90);
    assert_int_equal(settings.seats_v4[1].port, 30);
    assert_int_equal(settings.seats_v4[2].number, 127);
    assert_int_equal(settings.n_seats_v6, 2);
    assert_int_equal(settings.seats_v6[1].number, 127);
    assert_int_equal(settings.seats_v6[1].port, 41);

    set.n_seats = 0;
    assert_false(bpf_policy_is_honest(&set, &policy));
    bpf_policy_settings(&set, &policy, &settings);
    assert_false(settings.flags & ABI_HONEST);
    assert_int_equal(settings.n_seats_v4, 0);
    set.n_seats = 4;
    policy.action = CAPTURE_DIRECT;
    assert_false(bpf_policy_is_honest(&set, &policy));
    policy.action = CAPTURE_PROXY;
    policy.honest = false;
    assert_false(bpf_policy_is_honest(&set, &policy));
}

static void test_all_seats(void **state)
{
    struct capture_seat seats[CAPTURE_SEATS];
    struct capture_seat_ports ports[CAPTURE_SEATS];
    struct capture_policy policy = {.honest = true, .seat_ports = ports};
    struct capture_set set = {.seats = seats, .n_seats = CAPTURE_SEATS};
    struct abi_settings settings;

    (void)state;
    for (unsigned i = 0; i < CAPTURE_SEATS; i++) {
        seats[i] = (struct capture_seat){.number = i, .serving = true};
        ports[i] = (struct capture_seat_ports){(uint16_t)(1000 + i), (uint16_t)(2000 + i)};
    }
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.n_seats_v4, CAPTURE_SEATS);
    assert_int_equal(settings.n_seats_v6, CAPTURE_SEATS);
    for (unsigned i = 0; i < CAPTURE_SEATS; i++) {
        assert_int_equal(settings.seats_v4[i].port, 1000 + i);
        assert_int_equal(settings.seats_v6[i].number, i);
    }
}

static void test_udp_only(void **state)
{
    struct capture_policy policy = {.udp_ports = http, .n_udp_ports = 1};
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct abi_settings settings;

    (void)state;
    bpf_policy_settings(&set, &policy, &settings);
    assert_true(settings.flags & ABI_NO_TCP);
    policy.tcp_ports = http;
    policy.n_tcp_ports = 1;
    bpf_policy_settings(&set, &policy, &settings);
    assert_false(settings.flags & ABI_NO_TCP);
}

/* What is taken and what is rejected is refused alike where nftables is not. */
static void test_udp(void **state)
{
    struct capture_policy policy = {.private = true, .udp_ports = http, .n_udp_ports = 1};
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct abi_settings settings;

    (void)state;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, ABI_NO_TCP | ABI_UDP_PORTS);
    policy.udp = CAPTURE_UDP_TAKE;
    policy.tcp_ports = http;
    policy.n_tcp_ports = 1;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, ABI_HAS_PORTS | ABI_UDP_PORTS | ABI_UDP);
    policy.n_tcp_ports = policy.n_udp_ports = 0;
    policy.udp = CAPTURE_UDP_REJECT;
    policy.dns_direct = true;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, ABI_UDP | ABI_DNS_DIRECT);
    policy.action = CAPTURE_REFUSE;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, ABI_UDP);
    policy.action = CAPTURE_DIRECT;
    bpf_policy_settings(&set, &policy, &settings);
    assert_int_equal(settings.flags, 0);
}

/* In the order of the file, and a `run` before a daemon. */
static void test_order(void **state)
{
    struct capture_policy policies[2] = {{.name = "a"}, {.name = "b"}};
    struct capture_set daemon = {.policies = policies, .n_policies = 2},
                       run = {.policies = policies, .n_policies = 2, .instance = 3};
    struct abi_settings settings[3];

    (void)state;
    bpf_policy_settings(&run, &policies[1], &settings[0]);
    bpf_policy_settings(&daemon, &policies[0], &settings[1]);
    bpf_policy_settings(&daemon, &policies[1], &settings[2]);
    assert_true(settings[0].order < settings[1].order);
    assert_true(settings[1].order < settings[2].order);
}

static void test_port_bits(void **state)
{
    const struct port_range ends[] = {{0, 0}, {65535, 65535}, {64, 127}};
    uint64_t words[ABI_PORT_WORDS];

    (void)state;
    bpf_policy_ports(http, 3, words);
    for (unsigned port = 0; port < 65536; port++)
        assert_int_equal(is_set(words, port),
                         port == 80 || port == 443 || (port >= 8000 && port <= 8999));
    bpf_policy_ports(ends, 3, words);
    for (unsigned port = 0; port < 65536; port++)
        assert_int_equal(is_set(words, port),
                         port == 0 || port == 65535 || (port >= 64 && port <= 127));
    bpf_policy_ports(ends, 0, words);
    for (unsigned i = 0; i < ABI_PORT_WORDS; i++)
        assert_true(words[i] == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags),    cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_seats),    cmocka_unit_test(test_all_seats),
        cmocka_unit_test(test_udp_only), cmocka_unit_test(test_port_bits),
        cmocka_unit_test(test_udp),      cmocka_unit_test(test_order),
    };

    return cmocka_run_group_tests_name("bpf policy", tests, NULL, NULL);
}
