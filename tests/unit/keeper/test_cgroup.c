/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/cgroup.c: the transient cgroup of `run`, with processes and cgroups in it. */
#include "tests/unit/keeper/cgroup_rig.h"

static char dir[CGROUP_PATH_MAX], why[512];

static int make(void)
{
    why[0] = '\0';
    int fd = cgroup_create(dir, sizeof(dir), why, sizeof(why));

    if (fd < 0)
        fail_msg("%s", why);
    return fd;
}

static void the_root_is_a_cgroup2_mount(void **state)
{
    char root[CGROUP_PATH_MAX], file[CGROUP_PATH_MAX + 32], small[2];

    (void)state;
    int r = cgroup_root(root, sizeof(root));

    if (r == -ENOENT) {
        print_message("skipped: no cgroup2 hierarchy is mounted\n");
        skip();
    }
    assert_int_equal(r, 0);
    snprintf(file, sizeof(file), "%s/cgroup.controllers", root);
    assert_true(exists(file));
    assert_int_equal(cgroup_root(small, sizeof(small)), -ENOENT); /* no room: not cut */
}

static void a_cgroup_is_made_and_removed(void **state)
{
    struct stat a, b;

    (void)state;
    NEEDS_CGROUP();
    unsigned before = open_fds();
    int fd = make();

    assert_int_equal(fstat(fd, &a), 0);
    assert_int_equal(stat(dir, &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_non_null(strstr(dir, "/undersock-run-"));
    assert_false(cgroup_populated(dir));
    close(fd);
    cgroup_destroy(dir);
    assert_false(exists(dir));
    cgroup_destroy(dir); /* and again: nothing happens, at once */
    assert_int_equal(open_fds(), before);
    assert_false(cgroup_populated(dir));
    assert_true(cgroup_enter(dir) < 0);
    cgroup_signal(dir, SIGTERM);
}

static void what_lives_in_it_is_seen_signalled_and_killed(void **state)
{
    (void)state;
    NEEDS_CGROUP();
    close(make());
    pid_t polite = sleeper(dir, false), stubborn = sleeper(dir, true);

    assert_true(cgroup_populated(dir));
    cgroup_signal(dir, SIGTERM);
    assert_int_equal(killed_by(polite), SIGTERM);
    assert_true(cgroup_populated(dir));
    assert_int_equal(waitpid(stubborn, NULL, WNOHANG), 0);
    cgroup_destroy(dir);
    assert_int_equal(killed_by(stubborn), SIGKILL);
    assert_false(exists(dir));
}

/* A command may make cgroups of its own in it, with processes in them, and sessions of their own.
 */
static void cgroups_inside_it_go_too(void **state)
{
    char inner[CGROUP_PATH_MAX + 8], deep[CGROUP_PATH_MAX + 16];

    (void)state;
    NEEDS_CGROUP();
    close(make());
    snprintf(inner, sizeof(inner), "%s/inner", dir);
    snprintf(deep, sizeof(deep), "%s/deep", inner);
    assert_int_equal(mkdir(inner, 0755), 0);
    assert_int_equal(mkdir(deep, 0755), 0);
    pid_t pid = sleeper(deep, true);

    assert_true(cgroup_populated(dir)); /* "or below" */
    cgroup_destroy(dir);
    assert_int_equal(killed_by(pid), SIGKILL);
    assert_false(exists(dir));
}

/* What was left of a run that is over is swept; what is in use, or somebody else's, is not. */
static void leftovers_are_swept_and_nothing_else(void **state)
{
    char parent[CGROUP_PATH_MAX], dead[CGROUP_PATH_MAX + 64], alive[CGROUP_PATH_MAX + 64],
        used[CGROUP_PATH_MAX + 64], other[CGROUP_PATH_MAX + 64];
    pid_t gone[2];

    (void)state;
    NEEDS_CGROUP();
    close(make());
    strcpy(parent, dir);
    *strrchr(parent, '/') = '\0';
    cgroup_destroy(dir);
    for (unsigned i = 0; i < 2; i++) {
        fflush(stdout);
        gone[i] = fork();
        if (gone[i] == 0)
            _exit(0);
        assert_int_equal(waitpid(gone[i], NULL, 0), gone[i]);
    }
    snprintf(dead, sizeof(dead), "%s/undersock-run-%ld", parent, (long)gone[0]);
    snprintf(used, sizeof(used), "%s/undersock-run-%ld", parent, (long)gone[1]);
    snprintf(alive, sizeof(alive), "%s/undersock-run-%ld", parent, (long)getppid());
    snprintf(other, sizeof(other), "%s/undersock-runner-%ld", parent, (long)gone[0]);
    assert_int_equal(mkdir(dead, 0755), 0);
    assert_int_equal(mkdir(used, 0755), 0);
    assert_int_equal(mkdir(alive, 0755), 0);
    assert_int_equal(mkdir(other, 0755), 0);
    pid_t pid = sleeper(used, false);

    close(make());
    assert_false(exists(dead));
    assert_true(exists(used));
    assert_true(exists(alive));
    assert_true(exists(other));
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* and nobody is killed */
    cgroup_destroy(dir);
    cgroup_destroy(used);
    assert_int_equal(killed_by(pid), SIGKILL);
    cgroup_destroy(alive);
    cgroup_destroy(other);
}

static void a_cgroup_that_is_not_there_is_named_with_the_remedy(void **state)
{
    char root[CGROUP_PATH_MAX], longest[3 * CGROUP_PATH_MAX];

    (void)state;
    if (cgroup_root(root, sizeof(root)) < 0) {
        print_message("skipped: no cgroup2 hierarchy is mounted\n");
        skip();
    }
    unsigned before = open_fds();

    assert_int_equal(cgroup_open("/no.such.slice", why, sizeof(why)), -ENOENT);
    assert_non_null(strstr(why, "/no.such.slice"));
    assert_non_null(strstr(why, "mkdir"));
    memset(longest, 'x', sizeof(longest) - 1);
    longest[0] = '/';
    longest[sizeof(longest) - 1] = '\0';
    assert_true(cgroup_open(longest, why, sizeof(why)) < 0);
    int fd = cgroup_open("/", why, sizeof(why));

    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(open_fds(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_root_is_a_cgroup2_mount),
        cmocka_unit_test(a_cgroup_is_made_and_removed),
        cmocka_unit_test(what_lives_in_it_is_seen_signalled_and_killed),
        cmocka_unit_test(cgroups_inside_it_go_too),
        cmocka_unit_test(leftovers_are_swept_and_nothing_else),
        cmocka_unit_test(a_cgroup_that_is_not_there_is_named_with_the_remedy),
    };

    return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}
