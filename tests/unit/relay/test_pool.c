/* SPDX-License-Identifier: GPL-2.0-or-later */
/* relay/pool.c: pipes are lent, taken back, counted, and never more than allowed. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "tests/unit/relay/rig.h"

static unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void pipes_are_lent_up_to_the_limit(void **state)
{
    unsigned before = open_fds();
    struct relay_pool *p = make_pool(3, 0, RELAY_CHOICE_AUTO);
    struct relay_pipe *lent[3];

    (void)state;
    assert_int_equal(open_fds(), before); /* none was asked for in advance */
    for (unsigned i = 0; i < 3; i++) {
        lent[i] = relay_pipe_borrow(p);
        assert_non_null(lent[i]);
        for (unsigned k = 0; k < i; k++)
            assert_ptr_not_equal(lent[i], lent[k]);
    }
    assert_null(relay_pipe_borrow(p));
    assert_int_equal(open_fds(), before + 6);

    relay_pipe_return(p, lent[1]);
    assert_ptr_equal(relay_pipe_borrow(p), lent[1]);
    assert_null(relay_pipe_borrow(p));

    /* One that is dropped may be replaced. */
    relay_pipe_drop(p, lent[0]);
    assert_int_equal(open_fds(), before + 4);
    lent[0] = relay_pipe_borrow(p);
    assert_non_null(lent[0]);
    assert_null(relay_pipe_borrow(p));
    for (unsigned i = 0; i < 3; i++)
        relay_pipe_return(p, lent[i]);
    assert_pool_idle(p);
    relay_pool_destroy(p);
    assert_int_equal(open_fds(), before);
}

static void preopened_pipes_are_there_and_count(void **state)
{
    unsigned before = open_fds();
    struct relay_pool *p = NULL;

    (void)state;
    assert_int_equal(relay_pool_create(4, 2, 0, RELAY_CHOICE_AUTO, &p), 0);
    assert_int_equal(open_fds(), before + 4);
    struct relay_pipe *a = relay_pipe_borrow(p), *b = relay_pipe_borrow(p);

    assert_true(a && b);
    assert_int_equal(open_fds(), before + 4);
    relay_pipe_return(p, a);
    relay_pipe_return(p, b);
    relay_pool_destroy(p);
    assert_int_equal(open_fds(), before);

    /* Never more than the maximum, whatever is asked for. */
    assert_int_equal(relay_pool_create(1, 5, 0, RELAY_CHOICE_AUTO, &p), 0);
    assert_int_equal(open_fds(), before + 2);
    relay_pool_destroy(p);
    assert_int_equal(open_fds(), before);
    relay_pool_destroy(NULL);
}

static void a_pipe_is_empty_unblocking_and_large(void **state)
{
    struct relay_pool *p = make_pool(1, 0, RELAY_CHOICE_AUTO);
    struct relay_pipe *pipe = relay_pipe_borrow(p);
    char c;

    (void)state;
    assert_int_equal(read(pipe->fd[0], &c, 1), -1);
    assert_int_equal(errno, EAGAIN);
    for (unsigned i = 0; i < 2; i++)
        assert_true(fcntl(pipe->fd[i], F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(pipe->fd[0], F_GETPIPE_SZ) >= 4096);
    if (geteuid() == 0)
        assert_int_equal(fcntl(pipe->fd[0], F_GETPIPE_SZ), RELAY_PIPE_SIZE);
    relay_pipe_return(p, pipe);
    relay_pool_destroy(p);
}

/* No descriptor left: NULL, nothing counted, and it works again when there is one. */
static void without_descriptors_there_is_no_pipe(void **state)
{
    struct relay_pool *p = make_pool(8, 0, RELAY_CHOICE_AUTO);
    struct rlimit old, tight;
    int highest = dup(STDIN_FILENO);

    (void)state;
    assert_true(highest >= 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = (struct rlimit){(rlim_t)highest + 1, old.rlim_max};
    close(highest);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0); /* room for one, and a pipe takes two */
    struct relay_pipe *none = relay_pipe_borrow(p);

    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_null(none);
    assert_int_equal(p->n_pipes, 0);
    struct relay_pipe *pipe = relay_pipe_borrow(p);

    assert_non_null(pipe);
    assert_int_equal(p->n_pipes, 1);
    relay_pipe_return(p, pipe);
    relay_pool_destroy(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipes_are_lent_up_to_the_limit),
        cmocka_unit_test(preopened_pipes_are_there_and_count),
        cmocka_unit_test(a_pipe_is_empty_unblocking_and_large),
        cmocka_unit_test(without_descriptors_there_is_no_pipe),
    };

    return cmocka_run_group_tests_name("relay pool", tests, NULL, NULL);
}
