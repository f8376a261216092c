/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/hold.c: some SYNs at a time, in their order, by one reader after the other; a ring that is
 * full, and one whose reader left nonsense. */
#include <bpf/bpf.h>

#include "hold_rig.h"

#define RING_HOLDS 3120 /* SYNs; see bpf/holder.c */
#define RECORD     336  /* bytes that each takes */

/* A process in the cgroup that begins n connections and gives up each at once. */
static void flood(unsigned n)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc6336407)};
        char path[400];

        close(fixture.watch);
        snprintf(path, sizeof(path), "%s/cgroup.procs", fixture.inner);
        if (write_file(path, "0") < 0)
            _exit(1);
        for (unsigned i = 0; i < n; i++) {
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

            to.sin_port = htons((uint16_t)(i + 1));
            if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 || errno != EINPROGRESS)
                _exit(2);
            close(fd);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Ports in the order of flood(). */
static void in_order(void *ctx, const struct held_syn *held)
{
    unsigned *n = ctx;

    assert_int_equal(held->origin->destination.port, ++*n);
}

static void one_seat(void)
{
    rig.seats[1].serving = false;
    rig_replace(&rig);
}

static int read_syns(unsigned *n, unsigned max)
{
    return rig.sources[0].ops->read(rig.sources[0].ctx, in_order, n, max);
}

static void test_reading_some(void **state)
{
    unsigned n = 0;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    one_seat();
    assert_int_equal(read_syns(&n, 10), 0);
    flood(10);
    assert_int_equal(read_syns(&n, 0), 0);
    assert_int_equal(read_syns(&n, 3), 3);
    assert_true(a_syn_waits(&rig, 0));
    assert_int_equal(n, 3);
    /* The reader dies: the next one goes on. */
    bpf_hold_close(&rig.sources[0]);
    bpf_hold_close(&rig.sources[0]);
    bpf_hold_close(NULL);
    bpf_hold_close(&rig.sources[1]);
    rig_open(&rig);
    assert_int_equal(read_syns(&n, 6), 6);
    assert_true(a_syn_waits(&rig, 0));
    assert_int_equal(read_syns(&n, 6), 1);
    assert_int_equal(n, 10);
    assert_false(a_syn_waits(&rig, 0));
    assert_int_equal(read_syns(&n, 6), 0);
}

/* Those that find no room are dropped and counted, and the reader learns of it once. */
static void test_full(void **state)
{
    unsigned n = 0;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    one_seat();
    flood(RING_HOLDS + 80);
    assert_int_equal(missed(&rig), 80);
    assert_nobody_is_let_in(&rig);
    assert_int_equal(read_syns(&n, 100), -ENOBUFS);
    assert_int_equal(n, 100);
    assert_int_equal(read_syns(&n, RING_HOLDS), RING_HOLDS - 100);
    assert_int_equal(read_syns(&n, 100), 0);
    /* Round the end of the ring, several times. */
    for (int i = 0; i < 4; i++) {
        n = 0;
        flood(RING_HOLDS - 1);
        assert_int_equal(read_syns(&n, RING_HOLDS), RING_HOLDS - 1);
    }
    assert_int_equal(missed(&rig), 80);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
}

/* A reader before us that left nonsense for a position: what waits is lost, nothing else. */
static void test_damaged_position(void **state)
{
    static const unsigned long bad[] = {4, RECORD * 20, ~0ul, 8, 1ul << 40};
    unsigned long *at;
    unsigned n = 0;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    one_seat();
    at = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED,
              rig.sources[0].fd, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        unsigned long good = *at;
        int r = 1;

        flood(5);
        *at = good + bad[i];
        /* 8: in the middle of a record, where anything may seem to be its header. */
        for (int k = 0; r != 0 && k < 100; k++) {
            r = rig.sources[0].ops->read(rig.sources[0].ctx, ignore_syn, NULL, 10);
            if (bad[i] != 8)
                assert_int_equal(r, k == 0 ? -EPROTO : 0);
        }
        n = 0;
        if (*at == good + 5 * RECORD) {
            flood(3);
            assert_int_equal(read_syns(&n, 10), 3);
        } else {
            assert_int_equal(bad[i], 8);
            *at = good + 5 * RECORD;
        }
    }
    munmap(at, (size_t)sysconf(_SC_PAGESIZE));
}

static void test_what_is_no_ring(void **state)
{
    struct hold_source source = {.fd = 77};
    int fd;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    assert_int_equal(bpf_hold_open(bpf_capture_origin_fd(rig.capture), "x", &source), -EINVAL);
    assert_true(bpf_hold_open(-1, "x", &source) < 0);
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_true(bpf_hold_open(fd, "x", &source) < 0);
    close(fd);
    assert_int_equal(source.fd, 77);
    assert_null(source.ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reading_some),
        TEST(test_full),
        TEST(test_damaged_position),
        TEST(test_what_is_no_ring),
    };

    return cmocka_run_group_tests_name("bpf hold ring", tests, hold_setup, fixture_teardown);
}
