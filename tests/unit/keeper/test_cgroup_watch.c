/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/cgroup_watch.c: what is made and removed on the way to a cgroup is heard of. */
#include <poll.h>

#include "keeper/cgroup_watch.h"
#include "tests/unit/keeper/cgroup_rig.h"

#define LIMIT_MS 10000 /* for what must come */

static char dir[CGROUP_PATH_MAX], why[512];

static bool heard(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool some = poll(&p, 1, ms) > 0;

    cgroup_watch_drain(fd);
    return some;
}

static void what_is_on_the_way_is_heard_of(void **state)
{
    char root[CGROUP_PATH_MAX], target[CGROUP_PATH_MAX + 32], outer[CGROUP_PATH_MAX + 16];
    char beside[CGROUP_PATH_MAX + 16];
    unsigned before = 0;
    int fd, cgroup;

    (void)state;
    NEEDS_CGROUP();
    before = open_fds();
    cgroup = cgroup_create(dir, sizeof(dir), why, sizeof(why));
    if (cgroup < 0)
        fail_msg("%s", why);
    close(cgroup);
    assert_int_equal(cgroup_root(root, sizeof(root)), 0);
    snprintf(outer, sizeof(outer), "%s/outer", dir);
    snprintf(target, sizeof(target), "%s/outer/inner", dir);
    snprintf(beside, sizeof(beside), "%s/beside", dir);
    const char *path = target + strlen(root);

    fd = cgroup_watch_open();
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    cgroup_watch_drain(fd); /* nothing, at once */
    assert_true(cgroup_watch_add(fd, path));
    assert_true(cgroup_watch_add(fd, "/"));
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(mkdir(outer, 0755), 0);
        assert_true(heard(fd, LIMIT_MS));
        cgroup_watch_add(fd, path);
        for (unsigned k = 0; k < 3; k++) {
            assert_int_equal(mkdir(target, 0755), 0);
            assert_true(heard(fd, LIMIT_MS));
            cgroup_watch_add(fd, path);
            assert_int_equal(rmdir(target), 0);
            assert_true(heard(fd, LIMIT_MS));
        }
        assert_int_equal(rmdir(outer), 0);
        assert_true(heard(fd, LIMIT_MS));
    }
    /* Each time once, however often it is asked for. */
    for (unsigned i = 0; i < 100; i++)
        cgroup_watch_add(fd, path);
    assert_int_equal(mkdir(beside, 0755), 0);
    assert_true(heard(fd, LIMIT_MS));
    assert_int_equal(rmdir(beside), 0);
    assert_true(heard(fd, LIMIT_MS));
    assert_false(cgroup_watch_add(-1, path));
    close(fd);
    cgroup_destroy(dir);
    assert_int_equal(open_fds(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_on_the_way_is_heard_of),
    };

    return cmocka_run_group_tests_name("cgroup watch", tests, NULL, NULL);
}
