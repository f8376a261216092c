/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/janitor.c: what it does when its keeper is killed, and that it does nothing otherwise. */
#include "keeper/janitor.h"
#include "tests/unit/keeper/cgroup_rig.h"

static char dir[CGROUP_PATH_MAX], why[512];

static void make(void)
{
    int fd = cgroup_create(dir, sizeof(dir), why, sizeof(why));

    if (fd < 0)
        fail_msg("%s", why);
    close(fd);
}

static void wait_until_gone(const char *path)
{
    for (unsigned ms = 0; exists(path); ms += 5) {
        assert_true(ms < PATIENCE_MS);
        usleep(5000);
    }
}

/* The last writer of the pipe is gone. */
static bool ended(int fd, int ms)
{
    struct pollfd p = {.fd = fd};

    return poll(&p, 1, ms) == 1 && (p.revents & POLLHUP);
}

static void a_dismissed_janitor_goes_and_touches_nothing(void **state)
{
    struct janitor j = {.hold = -1};

    (void)state;
    NEEDS_CGROUP();
    unsigned before = open_fds();

    make();
    pid_t pid = sleeper(dir, false);

    assert_int_equal(janitor_start(&(struct janitor_work){.dir = dir}, &j), 0);
    assert_true(j.pid > 0);
    assert_true(fcntl(j.hold, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(kill(j.pid, 0), 0);
    janitor_dismiss(&j);
    assert_int_equal(kill(j.pid, 0), -1); /* waited for */
    assert_int_equal(j.hold, -1);
    janitor_dismiss(&j);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    assert_true(exists(dir));
    cgroup_destroy(dir);
    assert_int_equal(killed_by(pid), SIGKILL);
    assert_int_equal(open_fds(), before);
}

/* Stop signals are for the keeper: a janitor that obeyed them would leave before its work. */
static void signals_do_not_move_it(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGALRM};
    struct janitor j;

    (void)state;
    NEEDS_CGROUP();
    make();
    assert_int_equal(janitor_start(&(struct janitor_work){.dir = dir}, &j), 0);
    /* At once: not even before it has begun. */
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        assert_int_equal(kill(j.pid, signals[i]), 0);
    usleep(50000);
    assert_int_equal(waitpid(j.pid, NULL, WNOHANG), 0);
    close(j.hold); /* the end of the keeper */
    wait_until_gone(dir);
    assert_int_equal(waitpid(j.pid, NULL, 0), j.pid);
}

/*
 * A keeper with a command in its cgroup is killed with SIGKILL: the command is ended, the cgroup is
 * removed, and until then the links stay open, so nothing goes direct meanwhile.
 */
static void the_death_of_the_keeper_is_cleaned_up_after(void **state)
{
    int link[2], output[2], sleeping[2], status;

    (void)state;
    NEEDS_CGROUP();
    make();
    assert_int_equal(pipe2(link, O_CLOEXEC), 0);
    assert_int_equal(pipe2(output, O_CLOEXEC), 0);
    assert_int_equal(pipe2(sleeping, O_CLOEXEC), 0);
    fflush(stdout);
    pid_t keeper = fork();

    assert_true(keeper >= 0);
    if (keeper == 0) {
        struct janitor j;

        dup2(output[1], STDOUT_FILENO);
        if (janitor_start(&(struct janitor_work){.dir = dir, .links = &link[1], .n_links = 1}, &j) <
            0)
            _exit(1);
        close(link[1]);
        if (fork() == 0) {
            close(j.hold); /* as exec() does */
            setsid();
            signal(SIGTERM, SIG_IGN);
            if (cgroup_enter(dir) < 0)
                _exit(1);
            (void)!write(sleeping[1], "r", 1);
            for (;;)
                pause();
        }
        for (;;)
            pause();
    }
    char c;

    close(link[1]);
    close(output[1]);
    close(sleeping[1]);
    assert_int_equal(read(sleeping[0], &c, 1), 1);
    assert_true(cgroup_populated(dir));
    assert_false(ended(link[0], 50));
    assert_int_equal(kill(keeper, SIGKILL), 0);
    assert_int_equal(waitpid(keeper, &status, 0), keeper);
    wait_until_gone(dir);
    assert_true(ended(sleeping[0], PATIENCE_MS)); /* the command has ended */
    assert_true(ended(link[0], PATIENCE_MS));     /* and then the janitor */
    /* Who reads the output of `run` to its end does not wait for anybody. */
    assert_true(ended(output[0], PATIENCE_MS));
    close(link[0]);
    close(output[0]);
    close(sleeping[0]);
}

/* The standard output is not held open by a janitor that has nothing to do yet. */
static void it_holds_no_stream_of_the_keepers(void **state)
{
    int output[2];
    struct janitor j;

    (void)state;
    NEEDS_CGROUP();
    make();
    assert_int_equal(pipe2(output, O_CLOEXEC), 0);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);

    dup2(output[1], STDOUT_FILENO);
    int r = janitor_start(&(struct janitor_work){.dir = dir}, &j);

    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(output[1]);
    assert_int_equal(r, 0);
    assert_true(ended(output[0], PATIENCE_MS));
    assert_int_equal(waitpid(j.pid, NULL, WNOHANG), 0);
    janitor_dismiss(&j);
    close(output[0]);
    cgroup_destroy(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dismissed_janitor_goes_and_touches_nothing),
        cmocka_unit_test(signals_do_not_move_it),
        cmocka_unit_test(the_death_of_the_keeper_is_cleaned_up_after),
        cmocka_unit_test(it_holds_no_stream_of_the_keepers),
    };

    return cmocka_run_group_tests_name("janitor", tests, NULL, NULL);
}
