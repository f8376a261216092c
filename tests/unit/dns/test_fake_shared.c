/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dns/fake.h among processes: they share a table, and one of them is killed in the middle of a
 * change. A child is traced, goes instruction by instruction, and is killed after each store to the
 * shared memory, so where it dies is no matter of luck.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dns/fake.h"
#include "message.h"
#include "worker/sandbox.h"

#define S INT64_C(1000000000)

enum { N = 16, SOME = 8 };

static struct fake *f;

static void name_of(unsigned i, char ret[32])
{
    snprintf(ret, 32, "n%u", i);
}

static int take(unsigned i, int64_t now, int64_t until, uint32_t *ret)
{
    char name[32];

    name_of(i, name);
    return fake_take(f, name, strlen(name), &(struct addr){.port = 0}, now, until, ret);
}

/* n0, n1, ... in slots 0, 1, ...; the first is held shortest. */
static void fill(unsigned n)
{
    assert_int_equal(fake_new(N, &f), 0);
    for (unsigned i = 0; i < n; i++) {
        uint32_t slot;

        assert_int_equal(take(i, 0, (10 + i) * S, &slot), 0);
        assert_int_equal(slot, i);
    }
}

/* What the victim does: a new name while there is room, or in place of n0. */
enum { VICTIM = 77 };

static int victim(void)
{
    uint32_t slot;

    return take(VICTIM, 10 * S, 99 * S, &slot);
}

static pid_t start_traced(void)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(99);
        raise(SIGSTOP);
        _exit(victim() == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status)) { /* tracing is forbidden here */
        assert_int_equal(WEXITSTATUS(status), 99);
        return -1;
    }
    assert_true(WIFSTOPPED(status));
    return pid;
}

/* One instruction. False: it has ended, and did well. */
static bool step(pid_t pid)
{
    int status;

    if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0)
        return false;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status)) {
        assert_int_equal(WEXITSTATUS(status), 0);
        return false;
    }
    assert_true(WIFSTOPPED(status));
    assert_int_equal(WSTOPSIG(status), SIGTRAP);
    return true;
}

static void end(pid_t pid)
{
    int status;

    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

/* The memory that is shared: the one such mapping of this process. */
static const uint8_t *shared;
static size_t shared_len;

static void find_shared(void)
{
    char line[512], mode[5];
    unsigned long from, to;
    FILE *maps = fopen("/proc/self/maps", "re");

    assert_non_null(maps);
    shared = NULL;
    while (fgets(line, sizeof(line), maps)) {
        if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) != 3 || strcmp(mode, "rw-s") != 0)
            continue;
        assert_null(shared);
        shared = (const uint8_t *)from;
        shared_len = to - from;
    }
    fclose(maps);
    assert_non_null(shared);
}

/* Lets a victim die `more` instructions after its store number `n`; false: it had ended before. */
static bool die_after(unsigned n, unsigned more)
{
    pid_t pid = start_traced();

    assert_true(pid > 0);
    find_shared();
    uint8_t *before = exact(shared, shared_len);
    bool alive = true;

    for (unsigned stores = 0; alive && stores < n;) {
        alive = step(pid);
        if (memcmp(before, shared, shared_len) != 0) {
            memcpy(before, shared, shared_len);
            stores++;
        }
    }
    for (unsigned i = 0; alive && i < more; i++)
        alive = step(pid);
    free(before);
    if (alive)
        end(pid);
    return alive;
}

static bool can_trace(void)
{
    fill(SOME);
    pid_t pid = start_traced();

    if (pid > 0)
        end(pid);
    fake_free(f);
    if (pid < 0)
        print_message("skipped: a child cannot be traced step by step here\n");
    return pid > 0;
}

/* The name behind each of both addresses of a slot, which must agree; "" is none. */
static void name_in(uint32_t slot, char ret[DNS_PLAIN_MAX + 1])
{
    struct addr v4, v6;
    char six[DNS_PLAIN_MAX + 1] = "";
    uint32_t found = 0;

    fake_address(f, slot, &v4, &v6);
    ret[0] = '\0';
    int r4 = fake_find(f, &v4, 0, ret, &found), r6 = fake_find(f, &v6, 0, six, &found);

    assert_int_equal(r4, r6);
    assert_true(r4 == 0 || r4 == -ENOENT);
    assert_string_equal(ret, six);
}

/*
 * After whatever happened: the lock can be had; the names whose time has not passed are where they
 * were; the victim's name is in its slot wholly or not at all; and the table takes names until it
 * is full, each in a slot of its own, the victim's among them.
 */
static void check(unsigned n_names)
{
    char name[DNS_PLAIN_MAX + 1], want[32];
    uint32_t slot, place = n_names < N ? n_names : 0, slots[N];
    unsigned first = n_names < N ? 0 : 1; /* of a full table n0 may have gone */
    struct fake_stats stats;

    name_in(place, name);
    name_of(VICTIM, want);
    if (strcmp(name, want) != 0 && name[0] != '\0') {
        assert_int_equal(n_names, N);
        name_of(0, want);
        assert_string_equal(name, want);
    }
    for (unsigned i = first; i < n_names; i++) {
        name_of(i, want);
        name_in(i, name);
        assert_string_equal(name, want);
        assert_int_equal(take(i, 5 * S, 300 * S, &slot), 0);
        assert_int_equal(slot, i);
    }
    for (unsigned i = n_names; i < N + first; i++) /* when the victim's 99 seconds are over */
        assert_int_equal(take(100 + i, 200 * S, 300 * S, &slots[i - first]), 0);
    for (unsigned i = n_names; i < N + first; i++) {
        assert_int_equal(take(100 + i, 200 * S, 300 * S, &slot), 0);
        assert_int_equal(slot, slots[i - first]);
        name_of(100 + i, want);
        name_in(slot, name);
        assert_string_equal(name, want);
    }
    bool seen[N] = {false};

    for (unsigned i = 0; i < N; i++) {
        name_in(i, name);
        assert_true(name[0] != '\0');
        assert_int_equal(fake_take(f, name, strlen(name), &(struct addr){.port = 0}, 0, 0, &slot),
                         0);
        assert_int_equal(slot, i); /* the index and the slots say the same */
        assert_false(seen[slot]);
        seen[slot] = true;
    }
    assert_int_equal(take(VICTIM, 299 * S, 400 * S, &slot), -ENOSPC);
    fake_get_stats(f, &stats);
    assert_int_equal(stats.known, N);
}

static void kill_after_every_store(unsigned n_names)
{
    unsigned died = 0, mended = 0;
    struct fake_stats stats;
    bool alive = true;

    if (!can_trace())
        skip();
    for (unsigned n = 0; alive; n++) {
        fill(n_names);
        alive = die_after(n, n % 3); /* the list of locks that a thread has is not in the table */
        died += alive;
        check(n_names);
        fake_get_stats(f, &stats);
        assert_true(stats.mended <= 1);
        mended += stats.mended == 1;
        fake_free(f);
    }
    /* It died with the lock in its hand again and again, or nothing was tested. */
    print_message("%u deaths, %u with the lock\n", died, mended);
    assert_true(mended > 10);
}

static void killed_while_it_adds_a_name(void **state)
{
    (void)state;
    kill_after_every_store(SOME);
}

static void killed_while_it_replaces_a_name(void **state)
{
    (void)state;
    kill_after_every_store(N);
}

/* Goes on with a victim until it has the lock: then nobody else gets it. */
static pid_t stop_with_lock(unsigned more)
{
    char name[DNS_PLAIN_MAX + 1];
    struct addr v4, v6;
    uint32_t slot;
    pid_t pid = start_traced();

    assert_true(pid > 0);
    fake_address(f, 1, &v4, &v6);
    while (fake_find(f, &v4, 0, name, &slot) == 0)
        assert_true(step(pid));
    for (unsigned i = 0; i < more; i++)
        assert_true(step(pid));
    return pid;
}

static void a_stopped_process_does_not_stop_the_others(void **state)
{
    uint32_t slot = 5;

    (void)state;
    if (!can_trace())
        skip();
    fill(SOME);
    pid_t pid = stop_with_lock(20);

    assert_int_equal(take(1, 0, S, &slot), -EAGAIN);
    assert_int_equal(slot, 5);
    end(pid);
    assert_int_equal(take(1, 0, S, &slot), 0);
    check(SOME);
    fake_free(f);
}

/* One dies with the lock, the next one while it mends, the third puts it in order. */
static void killed_while_it_mends(void **state)
{
    struct fake_stats stats;
    unsigned mended = 0, died = 0;
    bool alive = true;

    (void)state;
    if (!can_trace())
        skip();
    for (unsigned n = 0; alive; n++) {
        fill(SOME);
        end(stop_with_lock(60));
        alive = die_after(n, 0);
        died += alive;
        check(SOME);
        fake_get_stats(f, &stats);
        assert_true(stats.mended >= 1 && stats.mended <= 2);
        mended += stats.mended == 1;
        fake_free(f);
    }
    print_message("%u deaths, %u before it had mended\n", died, mended);
    assert_true(mended > 10);
}

/* ---- Several at once ---- */

enum { WORKERS = 3, KILLS = 30, NAMES = 4000 };

struct ledger {
    _Atomic int slot[NAMES]; /* that somebody was told + 1 */
    _Atomic unsigned told, wrong;
};

static _Noreturn void work(struct ledger *l, unsigned seed)
{
    for (;;) {
        char name[DNS_PLAIN_MAX + 1], want[32];
        struct addr v4, v6;
        uint32_t slot;
        int none = 0;

        seed = seed * 1103515245 + 12345;
        unsigned i = (seed >> 8) % NAMES;
        int r = take(i, S, 100 * S, &slot);

        if (r == -EAGAIN)
            continue;
        if (r < 0)
            l->wrong++;
        else if (!atomic_compare_exchange_strong(&l->slot[i], &none, (int)slot + 1) &&
                 none != (int)slot + 1)
            l->wrong++; /* another address than somebody else got */
        fake_hold(f, slot, 101 * S);
        fake_address(f, slot, &v4, &v6);
        name_of(i, want);
        r = fake_find(f, &v6, 102 * S, name, &slot);
        if (r != -EAGAIN && (r < 0 || strcmp(name, want) != 0))
            l->wrong++;
        l->told++;
    }
}

static pid_t start_worker(struct ledger *l, unsigned seed)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        work(l, seed);
    return pid;
}

static void workers_that_are_killed_all_the_time(void **state)
{
    struct ledger *l =
        mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[WORKERS];
    unsigned seed = 1;

    (void)state;
    assert_true(l != MAP_FAILED);
    assert_int_equal(fake_new(NAMES, &f), 0);
    for (unsigned i = 0; i < WORKERS; i++)
        pids[i] = start_worker(l, ++seed);
    for (unsigned n = 0; n < KILLS; n++) {
        unsigned told = l->told;

        while (l->told < told + 50) /* some work between two deaths */
            usleep(100);
        end(pids[n % WORKERS]);
        pids[n % WORKERS] = start_worker(l, ++seed);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        end(pids[i]);
    assert_int_equal(l->wrong, 0);
    for (unsigned i = 0; i < NAMES; i++) { /* what anybody was told is what the table says */
        uint32_t slot;

        assert_int_equal(take(i, S, 100 * S, &slot), 0);
        if (l->slot[i] > 0)
            assert_int_equal(slot, l->slot[i] - 1);
    }
    fake_free(f);
    munmap(l, sizeof(*l));
}

/* With the worker's system calls and no others: waiting for the lock, and taking it from the dead.
 */
static void in_the_sandbox(void **state)
{
    char why[128];
    int status;
    uint32_t slot;

    (void)state;
    bool traced = can_trace();

    fill(SOME);
    if (traced)
        end(stop_with_lock(10));
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (sandbox_seal(why, sizeof(why)) < 0)
            _exit(3);
        for (unsigned i = 0; i < 20000; i++)
            if (take(i % N, 0, S, &slot) < 0)
                _exit(1);
        _exit(0);
    }
    for (unsigned i = 0; i < 20000; i++)
        assert_int_equal(take(i % N, 0, S, &slot), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    fake_free(f);
    if (WEXITSTATUS(status) == 3) {
        print_message("skipped: no seccomp filters here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_while_it_adds_a_name),
        cmocka_unit_test(killed_while_it_replaces_a_name),
        cmocka_unit_test(a_stopped_process_does_not_stop_the_others),
        cmocka_unit_test(killed_while_it_mends),
        cmocka_unit_test(workers_that_are_killed_all_the_time),
        cmocka_unit_test(in_the_sandbox),
    };

    return cmocka_run_group_tests_name("dns/fake_shared", tests, NULL, NULL);
}
