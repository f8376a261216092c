/* SPDX-License-Identifier: GPL-2.0-or-later */
/* upstream/upstream.c: chains from the configuration, who is tried in which order, and health. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "log.h"
#include "upstream/upstream.h"

#define SECOND INT64_C(1000000000)

enum { N = 6 };

static struct config_upstream ups[N + 4];
static unsigned members[] = {4, 1, 5};
static struct config_group groups[1];
static struct config config;
static struct upstream *all;
static struct upstream_choice choice;

static int set_up(void **state)
{
    (void)state;
    memset(ups, 0, sizeof(ups));
    for (unsigned i = 0; i < N; i++) {
        snprintf(ups[i].name, sizeof(ups[i].name), "up%u", i);
        ups[i].via = -1;
    }
    groups[0] = (struct config_group){.name = "group", .members = members, .n_members = 3};
    config = (struct config){.upstreams = ups, .n_upstreams = N, .groups = groups, .n_groups = 1};
    return upstream_build(&config, 0x55, &all);
}

static int tear_down(void **state)
{
    (void)state;
    free(all);
    return 0;
}

static void choose(enum config_policy policy, enum capture_when_down when_down)
{
    struct config_capture capture = {.target = TARGET_GROUP, .policy = {.when_down = when_down}};

    groups[0].policy = policy;
    upstream_choose_from(&config, &capture, all, &choice);
    for (unsigned i = 0; i < N; i++)
        all[i].healthy = true;
}

static struct addr destination(unsigned i)
{
    struct addr a;
    char text[32];

    snprintf(text, sizeof(text), "203.0.113.%u:443", i % 256);
    assert_int_equal(addr_parse(text, 0, &a), 0);
    return a;
}

static void expect_order(const struct addr *to, unsigned a, unsigned b, unsigned c)
{
    uint8_t order[UPSTREAM_CANDIDATES];

    assert_int_equal(upstream_order(&choice, to, order), 3);
    assert_int_equal(order[0], a);
    assert_int_equal(order[1], b);
    assert_int_equal(order[2], c);
}

static void a_chain_is_dialled_from_its_far_end(void **state)
{
    struct upstream *chain;

    (void)state;
    ups[3].via = 1;
    ups[1].via = 5;
    assert_int_equal(upstream_build(&config, 0x77, &chain), 0);
    assert_int_equal(chain[3].n_hops, 3);
    assert_ptr_equal(chain[3].hops[0].config, &ups[5]);
    assert_ptr_equal(chain[3].hops[1].config, &ups[1]);
    assert_ptr_equal(chain[3].hops[2].config, &ups[3]);
    assert_int_equal(chain[1].n_hops, 2);
    assert_int_equal(chain[0].n_hops, 1);
    for (unsigned i = 0; i < N; i++) {
        assert_string_equal(chain[i].name, ups[i].name);
        assert_int_equal(chain[i].mark, 0x77);
        assert_true(chain[i].healthy);
        assert_false(upstream_is_direct(&chain[i]));
    }
    assert_true(upstream_is_direct(&chain[N]));
    assert_int_equal(chain[N].mark, 0x77); /* it must not be captured again either */
    free(chain);
}

static void the_longest_chain_has_room(void **state)
{
    struct config_upstream line[CONFIG_CHAIN_MAX];
    struct config c = {.upstreams = line, .n_upstreams = CONFIG_CHAIN_MAX};
    struct upstream *chain;

    (void)state;
    memset(line, 0, sizeof(line));
    for (int i = 0; i < CONFIG_CHAIN_MAX; i++)
        line[i].via = i - 1;
    assert_int_equal(upstream_build(&c, 0, &chain), 0);
    assert_int_equal(chain[CONFIG_CHAIN_MAX - 1].n_hops, CONFIG_CHAIN_MAX);
    for (int i = 0; i < CONFIG_CHAIN_MAX; i++)
        assert_ptr_equal(chain[CONFIG_CHAIN_MAX - 1].hops[i].config, &line[i]);
    free(chain);
}

static void a_capture_has_its_upstream_or_its_group(void **state)
{
    struct config_capture one = {.target = TARGET_UPSTREAM, .target_index = 2},
                          none = {.target = TARGET_DIRECT};

    (void)state;
    upstream_choose_from(&config, &one, all, &choice);
    assert_int_equal(choice.n, 1);
    assert_ptr_equal(choice.candidates[0], &all[2]);
    assert_false(choice.direct_when_down);
    upstream_choose_from(&config, &none, all, &choice);
    assert_int_equal(choice.n, 0);
    choose(POLICY_FAILOVER, CAPTURE_DOWN_REFUSE);
    assert_int_equal(choice.n, 3);
    for (unsigned i = 0; i < 3; i++)
        assert_ptr_equal(choice.candidates[i], &all[members[i]]);
}

/* A group larger than there is room for is cut, and nothing beyond it is written. */
static void a_large_group_is_cut(void **state)
{
    unsigned many[UPSTREAM_CANDIDATES + 5] = {0};
    struct {
        struct upstream_choice choice;
        uint8_t order[UPSTREAM_CANDIDATES], guard;
    } s = {.guard = 0xa5};
    struct config_capture capture = {.target = TARGET_GROUP};
    struct addr to = destination(1);

    (void)state;
    groups[0].members = many;
    groups[0].n_members = UPSTREAM_CANDIDATES + 5;
    upstream_choose_from(&config, &capture, all, &s.choice);
    assert_int_equal(s.choice.n, UPSTREAM_CANDIDATES);
    assert_int_equal(upstream_order(&s.choice, &to, s.order), UPSTREAM_CANDIDATES);
    assert_int_equal(s.guard, 0xa5);
}

static void failover_keeps_the_order_of_the_file(void **state)
{
    struct addr to = destination(1);

    (void)state;
    choose(POLICY_FAILOVER, CAPTURE_DOWN_REFUSE);
    for (unsigned i = 0; i < 5; i++)
        expect_order(&to, 0, 1, 2);
}

static void those_that_are_down_come_last(void **state)
{
    struct addr to = destination(1);

    (void)state;
    choose(POLICY_FAILOVER, CAPTURE_DOWN_REFUSE);
    choice.candidates[0]->healthy = false;
    expect_order(&to, 1, 2, 0);
    choice.candidates[2]->healthy = false;
    expect_order(&to, 1, 0, 2);
    choice.candidates[1]->healthy = false; /* all: they are tried as if none were */
    expect_order(&to, 0, 1, 2);
    choice.candidates[0]->healthy = true;
    expect_order(&to, 0, 1, 2);
}

static void round_robin_goes_round(void **state)
{
    struct addr to = destination(1);

    (void)state;
    choose(POLICY_ROUND_ROBIN, CAPTURE_DOWN_REFUSE);
    for (unsigned i = 0; i < 3; i++) {
        expect_order(&to, 0, 1, 2);
        expect_order(&to, 1, 2, 0);
        expect_order(&to, 2, 0, 1);
    }
    choice.candidates[1]->healthy = false;
    expect_order(&to, 0, 2, 1);
    expect_order(&to, 2, 0, 1);
    expect_order(&to, 2, 0, 1);
    choice.next = UINT32_MAX; /* the counter may wrap */
    assert_int_equal(upstream_order(&choice, &to, (uint8_t[UPSTREAM_CANDIDATES]){0}), 3);
    assert_int_equal(choice.next, 0);
}

static void hash_sends_a_destination_the_same_way(void **state)
{
    unsigned first[3] = {0, 0, 0};
    uint8_t order[UPSTREAM_CANDIDATES], again[UPSTREAM_CANDIDATES];

    (void)state;
    choose(POLICY_HASH, CAPTURE_DOWN_REFUSE);
    for (unsigned i = 0; i < 256; i++) {
        struct addr a = destination(i), other_port = a;

        other_port.port = 80;
        assert_int_equal(upstream_order(&choice, &a, order), 3);
        assert_int_equal(upstream_order(&choice, &other_port, again), 3);
        assert_memory_equal(order, again, 3);
        assert_int_equal((1u << order[0] | 1u << order[1] | 1u << order[2]), 7);
        first[order[0]]++;
        /* One member down moves only those that were its own. */
        choice.candidates[1]->healthy = false;
        assert_int_equal(upstream_order(&choice, &a, again), 3);
        assert_int_equal(again[2], 1);
        if (order[0] != 1)
            assert_int_equal(again[0], order[0]);
        choice.candidates[1]->healthy = true;
    }
    for (unsigned i = 0; i < 3; i++)
        assert_in_range(first[i], 40, 150); /* of 256: all have a share */
}

static void nobody_to_ask(void **state)
{
    struct addr to = destination(1);

    (void)state;
    memset(&choice, 0, sizeof(choice));
    choice.policy = POLICY_ROUND_ROBIN;
    assert_int_equal(upstream_order(&choice, &to, (uint8_t[UPSTREAM_CANDIDATES]){0}), 0);
}

static void direct_only_when_all_are_gone_and_it_was_asked_for(void **state)
{
    (void)state;
    for (unsigned allowed = 0; allowed < 2; allowed++) {
        choose(POLICY_FAILOVER, allowed ? CAPTURE_DOWN_DIRECT : CAPTURE_DOWN_REFUSE);
        assert_int_equal(choice.direct_when_down, allowed);
        assert_false(upstream_go_direct(&choice, 100 * SECOND));
        /* All are there, and end what they take: whose doing that is we do not know. */
        for (unsigned i = 0; i < 20; i++)
            upstream_report(choice.candidates[i % 3], "it closed", false, 90 * SECOND);
        assert_false(choice.candidates[2]->healthy);
        assert_false(upstream_go_direct(&choice, 100 * SECOND));
        for (unsigned i = 0; i < 20; i++)
            upstream_report(choice.candidates[i % 2], "cannot connect", true, 90 * SECOND);
        assert_false(upstream_go_direct(&choice, 100 * SECOND));
        upstream_report(choice.candidates[2], "cannot connect", true, 90 * SECOND);
        /* One asks them, the others go past until it is time for the next one to ask. */
        assert_false(upstream_go_direct(&choice, 100 * SECOND));
        assert_int_equal(upstream_go_direct(&choice, 100 * SECOND), allowed);
        assert_int_equal(upstream_go_direct(&choice, 101 * SECOND), allowed);
        assert_false(upstream_go_direct(&choice, 103 * SECOND));
        assert_int_equal(upstream_go_direct(&choice, 104 * SECOND), allowed);
        upstream_report(choice.candidates[1], "it closed", false, 104 * SECOND);
        assert_false(upstream_go_direct(&choice, 104 * SECOND));
        upstream_report(choice.candidates[1], "cannot connect", true, 104 * SECOND);
        assert_int_equal(upstream_go_direct(&choice, 104 * SECOND), allowed);
        upstream_report(choice.candidates[1], NULL, true, 104 * SECOND);
        assert_false(upstream_go_direct(&choice, 104 * SECOND));
    }
}

/* Counts the lines that `body` logs. */
static unsigned lines_of(void (*body)(void), char *text, size_t size)
{
    int fd[2], saved = dup(STDERR_FILENO);
    unsigned lines = 0;

    assert_int_equal(pipe(fd), 0);
    fflush(stderr);
    dup2(fd[1], STDERR_FILENO);
    body();
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd[1]);
    size_t n = 0;
    ssize_t r;

    while ((r = read(fd[0], text + n, size - 1 - n)) > 0)
        n += (size_t)r;
    close(fd[0]);
    text[n] = '\0';
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        lines++;
    return lines;
}

static void down_for_long(void)
{
    for (int64_t second = 1; second <= 25; second++)
        for (unsigned i = 0; i < 100; i++)
            upstream_report(&all[0], "cannot connect", false, second * SECOND);
}

static void up_again(void)
{
    for (unsigned i = 0; i < 100; i++)
        upstream_report(&all[0], NULL, false, 26 * SECOND);
}

/* It answers every other time: health follows at once, the log does not. */
static void flapping(void)
{
    for (int64_t i = 0; i < 2000; i++)
        upstream_report(&all[1], i % 2 ? NULL : "it closed the connection", false,
                        i * SECOND / 100);
}

static void health_is_the_last_attempt_and_the_log_stays_short(void **state)
{
    char text[8192];

    (void)state;
    assert_int_equal(lines_of(down_for_long, text, sizeof(text)), 3); /* of 2500, in 25 s */
    assert_non_null(strstr(text, "upstream up0: cannot connect\n"));
    assert_non_null(strstr(text, "more failures"));
    assert_false(all[0].healthy);
    assert_int_equal(all[0].failed, 2500);
    assert_string_equal(all[0].last_error, "cannot connect");
    assert_int_equal(lines_of(up_again, text, sizeof(text)), 1);
    assert_non_null(strstr(text, "answers again"));
    assert_true(all[0].healthy);

    assert_in_range(lines_of(flapping, text, sizeof(text)), 2, 6);
    assert_true(all[1].healthy);
    upstream_report(&all[1], "down", false, 2000 * SECOND);
    assert_false(all[1].healthy);
}

static void complain_often(void)
{
    for (unsigned i = 0; i < 100; i++)
        upstream_complain(&all[2], "reply 0x02: not allowed", 5 * SECOND);
}

static void a_complaint_says_nothing_of_health(void **state)
{
    char text[8192], longer[400];

    (void)state;
    assert_int_equal(lines_of(complain_often, text, sizeof(text)), 1);
    assert_true(all[2].healthy);
    assert_int_equal(all[2].failed, 0);
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    log_set_level(LOG_LEVEL_ERROR);
    upstream_complain(&all[2], longer, 5 * SECOND);
    log_set_level(LOG_LEVEL_INFO);
    assert_int_equal(strlen(all[2].last_error), sizeof(all[2].last_error) - 1);
}

static void fail_in_two_ways(void)
{
    for (unsigned i = 0; i < 100; i++)
        upstream_report(&all[0], i % 2 ? "its answer is not SOCKS" : "reply 0x01", false,
                        5 * SECOND);
}

static void fail_in_a_new_way_each_time(void)
{
    char reason[32];

    for (unsigned i = 0; i < 256; i++) {
        snprintf(reason, sizeof(reason), "reply 0x%02x", i);
        upstream_complain(&all[1], reason, 5 * SECOND);
    }
    upstream_complain(&all[1], "reply 0x00", 15 * SECOND);
}

static void each_reason_has_its_line_and_their_number_an_end(void **state)
{
    char text[8192];

    (void)state;
    assert_int_equal(lines_of(fail_in_two_ways, text, sizeof(text)), 2);
    assert_non_null(strstr(text, "upstream up0: reply 0x01\n"));
    assert_non_null(strstr(text, "upstream up0: its answer is not SOCKS\n"));

    assert_int_equal(lines_of(fail_in_a_new_way_each_time, text, sizeof(text)),
                     UPSTREAM_REASONS + 1);
    assert_non_null(strstr(text, "reply 0x07\n"));
    assert_null(strstr(text, "reply 0x08"));
    assert_non_null(strstr(text, "reply 0x00 (and 248 more failures)\n"));
}

static void the_first_is_looked_at_again(void **state)
{
    struct addr a = destination(1);
    uint8_t order[UPSTREAM_CANDIDATES], before;
    int64_t down = 100 * SECOND;

    (void)state;
    choose(POLICY_FAILOVER, CAPTURE_DOWN_REFUSE);
    upstream_report(choice.candidates[0], "gone", false, down);
    unsigned n = upstream_order(&choice, &a, order);

    assert_int_equal(n, 3);
    assert_int_equal(order[0], 1);
    upstream_look_again(&choice, order, n, down + SECOND);
    assert_int_equal(order[0], 1);
    upstream_look_again(&choice, order, n, down + 11 * SECOND);
    assert_memory_equal(order, ((uint8_t[]){0, 1, 2}), 3);

    /* One flow only, until the next interval is over. */
    upstream_order(&choice, &a, order);
    upstream_look_again(&choice, order, n, down + 12 * SECOND);
    assert_int_equal(order[0], 1);
    upstream_look_again(&choice, order, n, down + 22 * SECOND);
    assert_int_equal(order[0], 0);

    /* Other policies have no first one to go back to. */
    choose(POLICY_HASH, CAPTURE_DOWN_REFUSE);
    upstream_report(choice.candidates[0], "gone", false, down);
    upstream_order(&choice, &a, order);
    before = order[0];
    upstream_look_again(&choice, order, n, down + 60 * SECOND);
    assert_int_equal(order[0], before);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        FRESH(the_first_is_looked_at_again),
        FRESH(each_reason_has_its_line_and_their_number_an_end),
        FRESH(a_chain_is_dialled_from_its_far_end),
        FRESH(the_longest_chain_has_room),
        FRESH(a_capture_has_its_upstream_or_its_group),
        FRESH(a_large_group_is_cut),
        FRESH(failover_keeps_the_order_of_the_file),
        FRESH(those_that_are_down_come_last),
        FRESH(round_robin_goes_round),
        FRESH(hash_sends_a_destination_the_same_way),
        FRESH(nobody_to_ask),
        FRESH(direct_only_when_all_are_gone_and_it_was_asked_for),
        FRESH(health_is_the_last_attempt_and_the_log_stays_short),
        FRESH(a_complaint_says_nothing_of_health),
    };

    return cmocka_run_group_tests_name("upstream", tests, NULL, NULL);
}
