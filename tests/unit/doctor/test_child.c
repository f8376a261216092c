/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The record of a child arrives whole or not at all, and what it must give up it has given up. */
#include "doctor/child.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct record {
    int value;
    uid_t uid, fsuid;
    gid_t gid;
    int groups;
    ino_t netns;
};

static void fill(void *ctx, void *record)
{
    struct record *r = record;
    struct stat st;

    r->value = *(int *)ctx;
    r->uid = getuid();
    r->fsuid = geteuid();
    r->gid = getgid();
    r->groups = getgroups(0, NULL);
    r->netns = stat("/proc/self/ns/net", &st) == 0 ? st.st_ino : 0;
}

static void die(void *ctx, void *record)
{
    (void)ctx;
    (void)record;
    raise(SIGKILL);
}

static void sleep_long(void *ctx, void *record)
{
    (void)ctx;
    (void)record;
    pause();
}

static void test_record(void **state)
{
    struct record r = {.value = 0};
    struct child c;
    int value = 4711;

    (void)state;
    assert_int_equal(child_start(fill, &value, sizeof(r), 0, 30, &c), 0);
    assert_int_equal(child_finish(&c, &r, sizeof(r)), 0);
    assert_int_equal(r.value, 4711);
    assert_int_equal(r.uid, getuid());
    assert_int_equal(child_finish(&c, &r, sizeof(r)), -EIO); /* it is over */
}

static void test_unprivileged(void **state)
{
    struct record r;
    struct child c;
    int value = 1;

    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(child_start(fill, &value, sizeof(r), CHILD_UNPRIVILEGED, 30, &c), 0);
    assert_int_equal(child_finish(&c, &r, sizeof(r)), 0);
    assert_int_not_equal(r.uid, 0);
    assert_int_not_equal(r.fsuid, 0);
    assert_int_not_equal(r.gid, 0);
    assert_int_equal(r.groups, 0);
}

static void test_netns(void **state)
{
    struct record r;
    struct child c;
    struct stat st;
    int value = 1;

    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(child_start(fill, &value, sizeof(r), CHILD_NETNS, 30, &c), 0);
    assert_int_equal(child_finish(&c, &r, sizeof(r)), 0);
    assert_int_equal(stat("/proc/self/ns/net", &st), 0);
    assert_int_not_equal(r.netns, 0);
    assert_int_not_equal(r.netns, st.st_ino);
}

static void test_no_record(void **state)
{
    struct record r = {.value = 5};
    struct child c;

    (void)state;
    assert_int_equal(child_start(die, NULL, sizeof(r), 0, 30, &c), 0);
    assert_int_equal(child_finish(&c, &r, sizeof(r)), -EIO);
    assert_int_equal(child_start(sleep_long, NULL, sizeof(r), 0, 1, &c), 0);
    assert_int_equal(child_finish(&c, &r, sizeof(r)), -EIO);
    assert_int_equal(r.value, 5);
    assert_int_equal(child_start(die, NULL, 1 << 20, 0, 30, &c), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record),
        cmocka_unit_test(test_unprivileged),
        cmocka_unit_test(test_netns),
        cmocka_unit_test(test_no_record),
    };

    return cmocka_run_group_tests_name("child", tests, NULL, NULL);
}
