/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/command.c: the command of `run`: where it lives, what it inherits, how it fails. */
#include "keeper/command.h"
#include "tests/unit/keeper/cgroup_rig.h"

static char dir[CGROUP_PATH_MAX], why[512];
static sigset_t none;

static int set_up(void **state)
{
    (void)state;
    sigemptyset(&none);
    dir[0] = '\0';
    if (no_cgroup())
        return 0;
    int fd = cgroup_create(dir, sizeof(dir), why, sizeof(why));

    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (dir[0])
        cgroup_destroy(dir);
    return 0;
}

static int exit_code(pid_t pid)
{
    int status;

    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return command_exit_code(status);
}

/* A shell with one line. */
static int shell(const char *line)
{
    char sh[] = "sh", c[] = "-c", text[512];
    char *const argv[] = {sh, c, text, NULL};

    snprintf(text, sizeof(text), "%s", line);
    return exit_code(command_start(argv, dir, &none));
}

static void the_status_is_what_a_shell_would_say(void **state)
{
    (void)state;
    /* As wait(2) encodes them. */
    assert_int_equal(command_exit_code(0), 0);
    assert_int_equal(command_exit_code(7 << 8), 7);
    assert_int_equal(command_exit_code(255 << 8), 255);
    assert_int_equal(command_exit_code(SIGKILL), 128 + SIGKILL);
    assert_int_equal(command_exit_code(SIGSEGV | 0x80), 128 + SIGSEGV);
}

static void the_status_comes_back(void **state)
{
    (void)state;
    NEEDS_CGROUP();
    assert_int_equal(shell("exit 0"), 0);
    assert_int_equal(shell("exit 42"), 42);
    assert_int_equal(shell("kill -TERM $$"), 128 + SIGTERM);
}

static void it_is_in_its_cgroup_before_it_runs(void **state)
{
    char line[512];

    (void)state;
    NEEDS_CGROUP();
    snprintf(line, sizeof(line), "grep -q '^0::.*%s$' /proc/self/cgroup", strrchr(dir, '/'));
    assert_int_equal(shell(line), 0);
}

/* grep itself, because a shell puts its own mask right. */
static int status_matches(const char *pattern)
{
    char grep[] = "grep", quiet[] = "-q", text[64], file[] = "/proc/self/status";
    char *const argv[] = {grep, quiet, text, file, NULL};

    snprintf(text, sizeof(text), "%s", pattern);
    return exit_code(command_start(argv, dir, &none));
}

static void signals_are_as_the_caller_had_them(void **state)
{
    sigset_t all, saved;
    struct sigaction before;

    (void)state;
    NEEDS_CGROUP();
    /* A keeper has most signals blocked, and ignores SIGPIPE. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &saved);
    sigaction(SIGPIPE, NULL, &before);
    signal(SIGPIPE, SIG_IGN);
    int mask = status_matches("^SigBlk:.0000000000000000$");
    int ignored = status_matches("^SigIgn:.*[02468ace]...$"); /* SIGPIPE is bit 12 */

    sigaction(SIGPIPE, &before, NULL);
    sigprocmask(SIG_SETMASK, &saved, NULL);
    assert_int_equal(mask, 0);
    assert_int_equal(ignored, 0);
}

static int start_text(const char *command)
{
    char text[256];
    char *const argv[] = {text, NULL};

    snprintf(text, sizeof(text), "%s", command);
    return (int)command_start(argv, dir, &none);
}

/* 127 and 126 of `run` come from these. No child is left over. */
static void a_command_that_cannot_be_run_is_an_error(void **state)
{
    char script[] = "/tmp/undersock-command.XXXXXX", in_cgroup[CGROUP_PATH_MAX];

    (void)state;
    NEEDS_CGROUP();
    unsigned before = open_fds();

    assert_int_equal(start_text("no-such-command-here"), -ENOENT);
    assert_int_equal(start_text("/no/such/command"), -ENOENT);
    assert_int_equal(start_text("/etc"), -EACCES);
    int fd = mkstemp(script);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "#!/no/such/interpreter\n", 23), 23);
    close(fd);
    assert_int_equal(start_text(script), -EACCES); /* not executable */
    assert_int_equal(chmod(script, 0755), 0);
    assert_int_equal(start_text(script), -ENOENT);
    unlink(script);

    /* It must not run anywhere else when it cannot be put into its cgroup. */
    strcpy(in_cgroup, dir);
    strcpy(dir, "/no/such/cgroup");
    assert_int_equal(start_text("true"), -ENOENT);
    strcpy(dir, in_cgroup);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    assert_int_equal(open_fds(), before);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        FRESH(the_status_is_what_a_shell_would_say),     FRESH(the_status_comes_back),
        FRESH(it_is_in_its_cgroup_before_it_runs),       FRESH(signals_are_as_the_caller_had_them),
        FRESH(a_command_that_cannot_be_run_is_an_error),
    };

    return cmocka_run_group_tests_name("command", tests, NULL, NULL);
}
