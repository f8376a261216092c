/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/sockmap.c: the proof passes and can fail, thousands of times in and out under traffic lose
 * nothing, and who may not is told so. What the relay does with it: tests/unit/relay.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "addr.h"
#include "base/fd.h"
#include "bpf/sockmap.h"

#define CYCLES 5000 /* each way */
#define LIMIT  100  /* seconds, for a hang */

static struct fastpath fast;
static char why[300];

#define SKIP_UNLESS_POSSIBLE()                   \
    do {                                         \
        if (!fast.ops) {                         \
            print_message("skipped: %s\n", why); \
            skip();                              \
        }                                        \
    } while (0)

static int open_maps(void **state)
{
    struct sockmap_options o = {.streams = 16384};

    (void)state;
    signal(SIGPIPE, SIG_IGN);
    bpf_sockmap_open(&o, 0, &fast, why, sizeof(why));
    return 0;
}

static int close_maps(void **state)
{
    (void)state;
    bpf_sockmap_close(&fast);
    return 0;
}

static void connect_pair(int *ret_app, int *ret_own)
{
    struct addr at, bound;
    struct sockaddr_storage sa;

    assert_int_equal(addr_parse("127.0.0.1:0", 0, &at), 0);
    int listener = fd_listen(&at, 0, &bound);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = addr_to_sockaddr(&bound, &sa);

    assert_true(listener >= 0 && fd >= 0);
    assert_int_equal(fd_tcp_options(fd), 0);
    assert_int_equal(fd_reset_on_close(fd, false), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
    *ret_own = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(*ret_own >= 0);
    close(listener);
    *ret_app = fd;
}

static uint8_t pattern(uint64_t offset)
{
    return (uint8_t)((offset * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

/* --- 10,000 times in and out -------------------------------------------------------------------
 */

/* An application: writes messages without end until it is told to stop, compares what it reads. Its
 * exit status is 0 when it has read a FIN and not one wrong byte. */
static void chatter(int fd, const volatile int *stop, uint64_t *ret_sent, uint64_t *ret_received)
{
    uint64_t sent = 0, received = 0;
    unsigned seed = (unsigned)getpid();
    bool fin = false;
    uint8_t data[4096];

    alarm(LIMIT);
    for (;;) {
        size_t n = 1 + (size_t)rand_r(&seed) % 1500;
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (*stop && !fin) {
            shutdown(fd, SHUT_WR);
            fin = true;
        }
        for (size_t i = 0; !fin && i < n; i++)
            data[i] = pattern(sent + i);
        ssize_t done = fin ? 0 : send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (done > 0)
            sent += (uint64_t)done;
        /* Now and then a pause in which everything comes to rest. */
        if (rand_r(&seed) % 8 == 0 || fin)
            poll(&p, 1, fin ? 1000 : 1);
        done = recv(fd, data, sizeof(data), MSG_DONTWAIT);
        for (ssize_t i = 0; i < done; i++) {
            if (data[i] != pattern(received++))
                _exit(1);
        }
        *ret_sent = sent;
        *ret_received = received;
        if (done == 0)
            _exit(*stop ? 0 : 2);
        if (done < 0 && errno != EAGAIN)
            _exit(3);
    }
}

struct direction {
    uint32_t stream;
    unsigned cycles;
};

/* Everything that is readable goes over. False: FIN. */
static bool move(int from, int to, uint32_t stream)
{
    uint8_t data[65536];

    for (;;) {
        ssize_t n = recv(from, data, sizeof(data), MSG_DONTWAIT), done = 0;

        if (n == 0)
            return false;
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            return true;
        }
        while (done < n) {
            ssize_t k = send(to, data + done, (size_t)(n - done), MSG_DONTWAIT | MSG_NOSIGNAL);
            struct pollfd p = {.fd = to, .events = POLLOUT};

            if (k > 0)
                done += k;
            else
                poll(&p, 1, 1000);
        }
        if (stream != FASTPATH_NONE)
            fast.ops->taken(fast.ctx, stream, (size_t)n);
    }
}

static void no_event(void *ctx, uint64_t owner, uint32_t stream)
{
    (void)ctx;
    (void)owner;
    (void)stream;
}

/* In, a moment, and out. */
static void cycle(struct direction *d, int from, int to)
{
    int r;

    do {
        move(from, to, FASTPATH_NONE);
        r = fast.ops->join(fast.ctx, from, to, 0, &d->stream);
    } while (r == -EAGAIN);
    assert_int_equal(r, 0);
    for (unsigned i = d->cycles % 64; i > 0; i--) {
        int64_t active;

        fast.ops->progress(fast.ctx, d->stream, &active);
        fast.ops->events(fast.ctx, no_event, NULL);
        if (i % 16 == 0)
            usleep(10);
    }
    fast.ops->hold(fast.ctx, d->stream);
    do {
        while (!fast.ops->settled(fast.ctx, d->stream))
            usleep(10);
        move(from, to, d->stream);
        r = fast.ops->leave(fast.ctx, d->stream);
    } while (r == -EAGAIN);
    assert_int_equal(r, 0);
    d->stream = FASTPATH_NONE;
    d->cycles++;
}

static void test_in_and_out(void **state)
{
    struct shared {
        volatile int stop;
        uint64_t sent[2], received[2];
    } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct direction d[2] = {{.stream = FASTPATH_NONE}, {.stream = FASTPATH_NONE}};
    struct fastpath_counters before, after;
    int app[2], own[2], status;
    bool open[2] = {true, true};
    pid_t pid[2];

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    fast.ops->counters(fast.ctx, &before);
    for (unsigned i = 0; i < 2; i++)
        connect_pair(&app[i], &own[i]);
    for (unsigned i = 0; i < 2; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            close(app[!i]);
            close(own[0]);
            close(own[1]);
            chatter(app[i], &shared->stop, &shared->sent[i], &shared->received[i]);
        }
    }
    for (unsigned i = 0; i < 2; i++)
        close(app[i]);
    alarm(LIMIT);
    for (unsigned n = 0; n < 2 * CYCLES; n++)
        cycle(&d[n & 1], own[n & 1], own[!(n & 1)]);
    shared->stop = 1;
    while (open[0] || open[1]) {
        struct pollfd p[2] = {{.fd = open[0] ? own[0] : -1, .events = POLLIN},
                              {.fd = open[1] ? own[1] : -1, .events = POLLIN}};

        poll(p, 2, 1000);
        for (unsigned i = 0; i < 2; i++) {
            if (open[i] && !move(own[i], own[!i], FASTPATH_NONE)) {
                open[i] = false;
                shutdown(own[!i], SHUT_WR);
            }
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
        close(own[i]);
    }
    /* When both have ended: one may be at an end while the other still reads what it has sent. */
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(shared->received[!i], shared->sent[i]);
    alarm(0);
    fast.ops->counters(fast.ctx, &after);
    assert_int_equal(after.joined - before.joined, 2 * CYCLES);
    assert_int_equal(after.left - before.left, 2 * CYCLES);
    assert_int_equal(after.lost, 0);
    /* Something has gone either way, or the test is about nothing. */
    assert_true(after.redirected - before.redirected > CYCLES * 100);
    print_message("%llu bytes, %llu redirected, %llu passed\n",
                  (unsigned long long)(shared->sent[0] + shared->sent[1]),
                  (unsigned long long)(after.redirected - before.redirected),
                  (unsigned long long)(after.passed - before.passed));
    munmap(shared, 4096);
}

/* --- The rest ----------------------------------------------------------------------------------
 */

static void test_proof(void **state)
{
    (void)state;
    SKIP_UNLESS_POSSIBLE();
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(bpf_sockmap_test(&fast, 0, why, sizeof(why)), 0);
}

/* Until `n` bytes have been passed and redirected, all in all. */
static void arrived(uint32_t stream, uint64_t passed, uint64_t redirected)
{
    int64_t active = 0;

    for (unsigned i = 0; i < 5000; i++) {
        if (fast.ops->waiting(fast.ctx, stream) == passed &&
            fast.ops->progress(fast.ctx, stream, &active) == redirected)
            return;
        usleep(1000);
    }
    fail_msg("waiting %llu, redirected %llu",
             (unsigned long long)fast.ops->waiting(fast.ctx, stream),
             (unsigned long long)fast.ops->progress(fast.ctx, stream, &active));
}

/* Held, it passes everything, also when nothing is waiting; resumed, it redirects. */
static void test_hold(void **state)
{
    char data[3000] = {0};
    int app[2], own[2];
    uint32_t stream;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    for (unsigned i = 0; i < 2; i++)
        connect_pair(&app[i], &own[i]);
    assert_int_equal(fast.ops->join(fast.ctx, own[0], own[1], 0, &stream), 0);
    assert_int_equal(write(app[0], data, 1000), 1000);
    arrived(stream, 0, 1000);
    fast.ops->hold(fast.ctx, stream);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(write(app[0], data, 1000), 1000);
        arrived(stream, 1000, 1000);
        assert_false(fast.ops->resume(fast.ctx, stream));
        while (!fast.ops->settled(fast.ctx, stream))
            usleep(100);
        assert_int_equal(recv(own[0], data, sizeof(data), MSG_DONTWAIT), 1000);
        assert_int_equal(send(own[1], data, 1000, MSG_DONTWAIT), 1000);
        fast.ops->taken(fast.ctx, stream, 1000);
    }
    assert_true(fast.ops->resume(fast.ctx, stream));
    assert_int_equal(write(app[0], data, 1000), 1000);
    arrived(stream, 0, 2000);
    fast.ops->drop(fast.ctx, stream);
    for (unsigned i = 0; i < 2; i++) {
        close(own[i]);
        close(app[i]);
    }
}

static struct fastpath_ops broken_ops;

static uint64_t never_waiting(void *ctx, uint32_t stream)
{
    (void)ctx;
    (void)stream;
    return 0;
}

static bool always_settled(void *ctx, uint32_t stream)
{
    (void)ctx;
    (void)stream;
    return true;
}

static void never_taken(void *ctx, uint32_t stream, size_t n)
{
    (void)ctx;
    (void)stream;
    (void)n;
}

static bool never_resumes(void *ctx, uint32_t stream)
{
    (void)ctx;
    (void)stream;
    return false;
}

static void no_events(void *ctx, void (*fn)(void *fn_ctx, uint64_t owner, uint32_t stream),
                      void *fn_ctx)
{
    (void)ctx;
    (void)fn;
    (void)fn_ctx;
}

/* With a kernel, or a user half, that does not do its part, the proof fails and says where. */
static void test_proof_can_fail(void **state)
{
    struct fastpath f = fast;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    f.ops = &broken_ops;
    for (unsigned i = 0; i < 4; i++) {
        broken_ops = *fast.ops;
        switch (i) {
        case 0:
            broken_ops.events = no_events;
            break;
        case 1:
            broken_ops.taken = never_taken;
            break;
        case 2:
            broken_ops.resume = never_resumes;
            break;
        case 3:
            broken_ops.waiting = never_waiting;
            broken_ops.settled = always_settled;
            break;
        }
        why[0] = '\0';
        assert_true(bpf_sockmap_test(&f, 0, why, sizeof(why)) < 0);
        assert_non_null(strstr(why, "proof"));
        print_message("%s\n", why);
    }
    assert_int_equal(bpf_sockmap_test(&fast, 0, why, sizeof(why)), 0);
}

static void test_without_privileges(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    pid = fork();
    if (pid == 0) {
        struct sockmap_options o = {.streams = 64};
        struct fastpath f = {.event_fd = 42};

        if (setresuid(65534, 65534, 65534) < 0)
            _exit(9);
        _exit(bpf_sockmap_open(&o, 0, &f, why, sizeof(why)) < 0 && why[0] && f.event_fd == 42 ? 0
                                                                                              : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Bytes that are there, a FIN that is there, no connection: none of them joins, nothing stays. */
static void test_refuses(void **state)
{
    struct pollfd p = {.events = POLLIN};
    int app[2], own[2], loose = socket(AF_INET, SOCK_STREAM, 0);
    uint32_t stream = 42;

    (void)state;
    SKIP_UNLESS_POSSIBLE();
    for (unsigned i = 0; i < 2; i++)
        connect_pair(&app[i], &own[i]);
    assert_int_equal(fast.ops->join(fast.ctx, loose, own[0], 0, &stream), -EOPNOTSUPP);
    assert_int_equal(fast.ops->join(fast.ctx, own[0], loose, 0, &stream), -EOPNOTSUPP);
    assert_int_equal(write(app[0], "x", 1), 1);
    p.fd = own[0];
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(fast.ops->join(fast.ctx, own[0], own[1], 0, &stream), -EAGAIN);
    shutdown(app[1], SHUT_WR);
    p.fd = own[1];
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(fast.ops->join(fast.ctx, own[1], own[0], 0, &stream), -EOPNOTSUPP);
    assert_int_equal(stream, 42);
    for (unsigned i = 0; i < 2; i++) {
        close(app[i]);
        close(own[i]);
    }
    close(loose);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proof),      cmocka_unit_test(test_proof_can_fail),
        cmocka_unit_test(test_refuses),    cmocka_unit_test(test_without_privileges),
        cmocka_unit_test(test_in_and_out), cmocka_unit_test(test_hold),
    };

    return cmocka_run_group_tests_name("bpf sockmap", tests, open_maps, close_maps);
}
