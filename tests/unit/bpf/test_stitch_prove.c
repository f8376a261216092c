/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_test.c: it proves what is so here, whoever is killed meanwhile leaves nothing behind,
 * and who may not try it says so.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bpf/cgroup.h"
#include "bpf/probe.h"
#include "bpf/stitch_stage.h"
#include "bpf/stitch_test.h"

#define NOBODY   65534
#define UNTIL_MS 30000 /* longer than a proof may take */

static char parent[STAGE_PATH_MAX]; /* of the cgroups that are made */

static bool cannot(void)
{
    struct stage_cgroup c;
    uint32_t features;
    int r;

    if (geteuid() != 0) {
        print_message("skipped: needs root\n");
        return true;
    }
    r = bpf_probe(&features);
    if (r < 0) {
        print_message("skipped: no BPF here: %s\n", strerror(-r));
        return true;
    }
    for (size_t i = 0; i < BPF_N_FEATURES; i++) {
        if (bpf_feature_infos[i].required && !(features & 1u << i)) {
            print_message("skipped: this kernel lacks %s\n", bpf_feature_infos[i].name);
            return true;
        }
    }
    r = stage_cgroup_find(&c);
    if (r == 0)
        r = stage_cgroup_make(&c);
    if (r < 0) {
        print_message("skipped: no cgroup can be made: %s\n", strerror(-r));
        return true;
    }
    stage_cgroup_remove(&c);
    snprintf(parent, sizeof(parent), "%s", c.parent);
    return false;
}

/* Processes of a proof that are alive, also other tests'. */
static int provers(void)
{
    DIR *d = opendir("/proc");
    const struct dirent *e;
    int n = 0;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        char path[300], name[32] = "";
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
        f = e->d_name[0] >= '1' && e->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        if (f == NULL)
            continue;
        n += fscanf(f, "%31[^\n]", name) == 1 && strcmp(name, "undersock-proof") == 0;
        fclose(f);
    }
    closedir(d);
    return n;
}

/* Whether the cgroup that `pid` makes is there. */
static bool has_cgroup(pid_t pid)
{
    char path[STAGE_PATH_MAX + 64];
    struct stat st;

    snprintf(path, sizeof(path), "%s/undersock-proof-%ld", parent, (long)pid);
    return stat(path, &st) == 0;
}

static void what_holds_is_proved(void **state)
{
    char why[BPF_WHY_MAX] = "";
    int r;

    (void)state;
    if (cannot())
        skip();
    for (unsigned i = 0; i < 3; i++) {
        r = bpf_stitch_prove(why, sizeof(why));
        if (r < 0)
            print_error("%s\n", why);
        assert_int_equal(r, 0);
        assert_false(has_cgroup(getpid()));
    }
}

/* Whatever moment it is killed at. */
static void nothing_is_left_when_the_caller_is_killed(void **state)
{
    static const int after_ms[] = {0, 3, 15, 40, 90, 150};
    int before;

    (void)state;
    if (cannot())
        skip();
    before = provers();
    for (size_t i = 0; i < sizeof(after_ms) / sizeof(after_ms[0]); i++) {
        struct pollfd alive = {.fd = -1};
        int ends[2];
        pid_t pid;

        /* The other end is with the caller and all that it starts, for as long as they live. */
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            char why[BPF_WHY_MAX];

            close(ends[0]);
            _exit(bpf_stitch_prove(why, sizeof(why)) < 0);
        }
        poll(NULL, 0, after_ms[i]);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(ends[1]);
        alive.fd = ends[0];
        assert_int_equal(poll(&alive, 1, UNTIL_MS), 1);
        close(ends[0]);
        /* Without its descriptors, it takes a moment to be gone. */
        for (int n = 0; n < UNTIL_MS / 10 && provers() > before; n++)
            poll(NULL, 0, 10);
        assert_false(has_cgroup(pid));
        assert_true(provers() <= before);
    }
}

static void who_may_not_try_says_so(void **state)
{
    pid_t pid;
    int status = 0;

    (void)state;
    if (cannot())
        skip();
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char why[BPF_WHY_MAX] = "";
        int r;

        if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
            setresuid(NOBODY, NOBODY, NOBODY) < 0)
            _exit(1);
        r = bpf_stitch_prove(why, sizeof(why));
        _exit((r == -EPERM || r == -EACCES) && strstr(why, "cgroup") != NULL ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_holds_is_proved),
        cmocka_unit_test(nothing_is_left_when_the_caller_is_killed),
        cmocka_unit_test(who_may_not_try_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
