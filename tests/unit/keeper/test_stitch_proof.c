/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/stitch_proof.c: a proof is believed that is of this boot and this program, and root's
 * alone to write; any other is none. In a /run of our own. (What is made is
 * tests/net/155-stitch-auto.sh's.)
 */
#include "keeper/stitch_proof.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ELSEWHERE STITCH_PROOF_DIR "/elsewhere"

static char good[256]; /* the line */

static void put(const char *path, const char *line)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_true(fputs(line, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0644), 0);
}

/* What the line must have in it, by whoever knows it. */
static void expect(char *ret, size_t size)
{
    char boot[64] = "";
    struct stat st;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%63s", boot), 1);
    fclose(f);
    assert_int_equal(stat("/proc/self/exe", &st), 0);
    snprintf(ret, size, "%s %jx:%jx %jd %jd.%09ld\n", boot, (uintmax_t)st.st_dev,
             (uintmax_t)st.st_ino, (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec,
             st.st_mtim.tv_nsec);
}

/* The directory is made, as at the first start after a boot. */
static int setup(void **state)
{
    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/run", "tmpfs", 0, NULL) < 0) {
        print_message("skipped: needs root, and a mount namespace\n");
        return 0;
    }
    assert_int_equal(mkdir(STITCH_PROOF_DIR, 0755), 0);
    expect(good, sizeof(good));
    return 0;
}

static void restore(void)
{
    if (!good[0])
        skip();
    unlink(STITCH_PROOF_FILE);
    put(STITCH_PROOF_FILE, good);
    assert_true(stitch_proof_kept());
}

static void test_of_this_boot_and_program(void **state)
{
    char line[sizeof(good) + 2];

    (void)state;
    restore();
    /* Each octet counts, and so does how many there are. */
    for (size_t i = 0; good[i]; i++) {
        snprintf(line, sizeof(line), "%s", good);
        line[i] = line[i] == '1' ? '2' : '1';
        put(STITCH_PROOF_FILE, line);
        assert_false(stitch_proof_kept());
        line[i] = '\0';
        put(STITCH_PROOF_FILE, line);
        assert_false(stitch_proof_kept());
    }
    snprintf(line, sizeof(line), "%s1", good);
    put(STITCH_PROOF_FILE, line);
    assert_false(stitch_proof_kept());
    unlink(STITCH_PROOF_FILE);
    assert_false(stitch_proof_kept());
}

static void test_of_another_program(void **state)
{
    char command[200];
    int status;

    (void)state;
    restore();
    snprintf(command, sizeof(command), "exec /proc/%ld/exe kept", (long)getpid());
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "cp /proc/%ld/exe " ELSEWHERE " && exec " ELSEWHERE " kept",
             (long)getpid());
    status = system(command);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
}

static void test_written_by_others(void **state)
{
    (void)state;
    restore();
    assert_int_equal(chmod(STITCH_PROOF_FILE, 0664), 0);
    assert_false(stitch_proof_kept());
    assert_int_equal(chmod(STITCH_PROOF_FILE, 0646), 0);
    assert_false(stitch_proof_kept());
    restore();
    assert_int_equal(chown(STITCH_PROOF_FILE, 1, 0), 0);
    assert_false(stitch_proof_kept());
    restore();
    assert_int_equal(rename(STITCH_PROOF_FILE, ELSEWHERE), 0);
    assert_int_equal(symlink(ELSEWHERE, STITCH_PROOF_FILE), 0);
    assert_false(stitch_proof_kept());
    unlink(STITCH_PROOF_FILE);
    assert_int_equal(mkfifo(STITCH_PROOF_FILE, 0644), 0);
    int fd = open(STITCH_PROOF_FILE, O_RDWR | O_CLOEXEC | O_NONBLOCK);

    assert_int_equal(write(fd, good, strlen(good)), strlen(good));
    assert_false(stitch_proof_kept());
    close(fd);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_this_boot_and_program),
        cmocka_unit_test(test_of_another_program),
        cmocka_unit_test(test_written_by_others),
    };

    if (argc == 2 && !strcmp(argv[1], "kept"))
        return !stitch_proof_kept();
    return cmocka_run_group_tests(tests, setup, NULL);
}
