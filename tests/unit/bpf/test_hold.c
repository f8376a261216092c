/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/hold.bpf.c, bpf/hold.c: the SYN of every kind of socket is held, tells whose it is and where
 * it was going, and connects when it is sent again; or its owner gets what the SYN is answered
 * with.
 */

#include "hold_rig.h"

static int setup(void **state)
{
    int r = hold_setup(state);

    if (r == 0 && fixture.skip[0] == '\0')
        rig_up(&rig);
    return r;
}

static int teardown(void **state)
{
    if (rig.capture != NULL)
        rig_down(&rig);
    return fixture_teardown(state);
}

static void test_ipv4(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE, .nonblock = true}, SOMEWHERE);
}

static void test_ipv6(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_held_and_let_in(&rig, (struct client){.to = "[2001:db8:7::9]:443"},
                           "[2001:db8:7::9]:443");
    expect_held_and_let_in(&rig, (struct client){.to = "[2001:db8:7::9]:443", .nonblock = true},
                           "[2001:db8:7::9]:443");
}

static void test_v4_mapped(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE, .family = AF_INET6}, SOMEWHERE);
}

static void test_other_users(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE, .uid = 65534}, SOMEWHERE);
}

/* The listener is reached from addresses that are not loopback's, and by sockets that were bound to
 * an interface. */
static void test_bound(void **state)
{
    static const struct client clients[] = {
        {.to = SOMEWHERE, .bind = "192.0.2.1:45671"},
        {.to = SOMEWHERE, .device = "us0"},
        {.to = "[2001:db8:7::9]:80", .bind = "[2001:db8:2::1]:0"},
        {.to = "[2001:db8:7::9]:80", .device = "us0"},
    };

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++)
        expect_held_and_let_in(&rig, clients[i], clients[i].to);
}

/* Its first subflow sends the SYN, and has the state. */
static void test_mptcp(void **state)
{
    static const struct client clients[] = {
        {.to = SOMEWHERE, .protocol = IPPROTO_MPTCP},
        {.to = "[2001:db8:7::9]:80", .protocol = IPPROTO_MPTCP},
        {.to = SOMEWHERE, .protocol = IPPROTO_MPTCP, .nonblock = true},
        {.to = SOMEWHERE, .protocol = IPPROTO_MPTCP, .family = AF_INET6},
    };
    int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    if (fd < 0) {
        print_message("skipped: no MPTCP in this kernel\n");
        skip();
    }
    close(fd);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++)
        expect_held_and_let_in(&rig, clients[i], clients[i].to);
}

/* A SYN with data is held with it. TCP then tries at once without, which is held as well; and what
 * was in the SYN follows the handshake. */
static void test_fast_open(void **state)
{
    static const struct client clients[] = {
        {.to = SOMEWHERE, .fastopen_send = true},
        {.to = SOMEWHERE, .fastopen_send = true, .family = AF_INET6},
        {.to = "[2001:db8:7::9]:80", .fastopen_send = true},
    };

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
        struct result result;
        struct syn first, second;
        char data[8] = "";
        int fd;

        client_start(&clients[i], &result);
        next_syn(&rig, &first);
        assert_held(&rig, &clients[i], &result, &first, clients[i].to);
        assert_memory_equal(first.packet + first.len - 5, "hello", 5);
        next_syn(&rig, &second);
        assert_int_equal(second.isn, first.isn);
        assert_true(addr_equal(&second.from, &first.from));
        let_in(&rig, &first);
        fd = assert_let_in(&rig, &clients[i], &result, &first, clients[i].to);
        assert_int_equal(recv(fd, data, 5, MSG_WAITALL), 5);
        assert_string_equal(data, "hello");
        close(fd);
        client_done(&result);
    }
    assert_false(a_syn_waits(&rig, 0));
}

/* The client that connects when it writes: write() waits where connect() would. */
static void test_fast_open_connect(void **state)
{
    struct client c = {.to = SOMEWHERE, .fastopen_connect = true};
    struct result result;
    struct syn syn;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    client_start(&c, &result);
    next_syn(&rig, &syn);
    assert_held(&rig, &c, &result, &syn, c.to);
    let_in(&rig, &syn);
    close(assert_let_in(&rig, &c, &result, &syn, c.to));
    client_done(&result);
    forget_syns(&rig);
}

/* More data than a record has room for: cut short, and the rest of the packet is there. */
static void test_long_syn(void **state)
{
    struct client c = {.to = SOMEWHERE, .fastopen_send = true, .long_data = true};
    struct result result;
    struct syn syn;
    int fd;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    client_start(&c, &result);
    next_syn(&rig, &syn);
    assert_held(&rig, &c, &result, &syn, c.to);
    assert_int_equal(syn.len, 256);
    assert_true(get_be(syn.packet + 2, 2) > 1000);
    let_in(&rig, &syn);
    fd = assert_let_in(&rig, &c, &result, &syn, c.to);
    close(fd);
    client_done(&result);
    forget_syns(&rig);
}

/* Whoever drops packets cannot tell a held SYN from a lost one: it is sent again, and held again,
 * and its connection is made by whichever of them. */
static void test_retransmission(void **state)
{
    struct client c = {.to = SOMEWHERE};
    struct result result;
    struct syn first, again;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    client_start(&c, &result);
    next_syn(&rig, &first);
    assert_false(a_syn_waits(&rig, 0));
    next_syn(&rig, &again);
    assert_held(&rig, &c, &result, &again, c.to);
    assert_int_equal(again.isn, first.isn);
    assert_int_equal(again.seat, first.seat);
    assert_true(addr_equal(&again.from, &first.from));
    let_in(&rig, &again);
    close(assert_let_in(&rig, &c, &result, &again, c.to));
    client_done(&result);
}

/* The first reset of a seat's listener is dropped, not the one after the byte has come again. */
static void test_hasty_reset(void **state)
{
    static const struct client clients[] = {
        {.to = SOMEWHERE}, {.to = "[2001:db8:7::9]:80"}, {.to = SOMEWHERE, .family = AF_INET6}};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
        struct result result;
        struct syn syn;
        int ours;

        client_start(&clients[i], &result);
        next_syn(&rig, &syn);
        let_in(&rig, &syn);
        ours = assert_let_in(&rig, &clients[i], &result, &syn, clients[i].to);
        assert_int_equal(repeats_until_reset(&result, ours), 1);
        client_done(&result);
    }
}

/* Who has sent nothing sends nothing again: a reset that answered a bare ACK of his is for good. */
static void test_reset_of_a_listener_is_final(void **state)
{
    static const struct client clients[] = {{.to = SOMEWHERE}, {.to = "[2001:db8:7::9]:80"}};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
        const struct timeval patience = {.tv_sec = 10};
        int on = 1, queue = TCP_SEND_QUEUE, ours, fd;
        struct result result;
        struct syn syn;
        uint32_t seq;
        socklen_t len = sizeof(seq);
        char byte;

        client_start(&clients[i], &result);
        next_syn(&rig, &syn);
        let_in(&rig, &syn);
        ours = assert_let_in(&rig, &clients[i], &result, &syn, clients[i].to);
        fd = borrow_socket(&result);
        assert_int_equal(setsockopt(ours, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
        assert_int_equal(setsockopt(ours, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)), 0);
        assert_int_equal(getsockopt(ours, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, &len), 0);
        close(ours);
        answer_bare_reset(&rig, &syn, seq);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
        assert_int_equal(recv(fd, &byte, 1, 0), -1);
        assert_int_equal(errno, ECONNRESET);
        close(fd);
        client_done(&result);
    }
}

static void test_application_is_gone(void **state)
{
    struct client c = {.to = SOMEWHERE};
    struct result result;
    struct syn syn;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    client_start(&c, &result);
    next_syn(&rig, &syn);
    kill(result.pid, SIGKILL);
    client_done(&result);
    let_in(&rig, &syn);
    assert_nobody_is_let_in(&rig);
    assert_false(a_syn_waits(&rig, 0));
}

/* Connections are spread over the seats, and each keeps its own. */
static void test_two_seats(void **state)
{
    enum { N = 40 };
    struct result results[N];
    struct client clients[N];
    struct syn syns[N];
    char texts[N][ADDR_STRLEN];
    unsigned of_seat[SEATS] = {0};

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (int i = 0; i < N; i++) {
        snprintf(texts[i], sizeof(texts[i]), "198.51.100.%d:%d", i, 1000 + i);
        clients[i] = (struct client){.to = texts[i]};
        client_start(&clients[i], &results[i]);
        next_syn(&rig, &syns[i]);
        assert_held(&rig, &clients[i], &results[i], &syns[i], texts[i]);
        of_seat[syns[i].seat]++;
    }
    /* By chance it would be nobody's once in 10^11 runs. */
    for (size_t i = 0; i < SEATS; i++)
        assert_true(of_seat[i] > 0);
    for (int i = N - 1; i >= 0; i--) {
        let_in(&rig, &syns[i]);
        close(assert_let_in(&rig, &clients[i], &results[i], &syns[i], texts[i]));
        client_done(&results[i]);
    }
    forget_syns(&rig);
}

/* What is not selected, and our own listeners, which are no destination even with `private`. */
static void test_not_held(void **state)
{
    char to[4][ADDR_STRLEN];

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_direct((struct client){.to = PRIVATE_V4 ":0"});
    expect_direct((struct client){.to = WORLD_V4 ":0", .outer = true});
    rig.policy.private = true;
    rig_replace(&rig);
    snprintf(to[0], sizeof(to[0]), "127.0.0.1:%d", rig.ports[0].v4);
    snprintf(to[1], sizeof(to[1]), "[::1]:%d", rig.ports[0].v6);
    snprintf(to[2], sizeof(to[2]), "0.0.0.0:%d", rig.ports[1].v4);
    snprintf(to[3], sizeof(to[3]), "[::]:%d", rig.ports[1].v6);
    for (size_t i = 0; i < 4; i++) {
        struct client c = {.to = to[i]};
        struct addr peer, local;
        struct result result;
        int fd;

        client_run(&c, &result);
        assert_int_equal(result.error, 0);
        fd = accept_one(i % 2 == 0 ? rig.v4[i / 2] : rig.v6[i / 2], &peer, &local);
        assert_true(fd >= 0);
        close(fd);
        client_done(&result);
    }
    assert_false(a_syn_waits(&rig, 0));
    rig.policy.private = false;
    rig_replace(&rig);
}

/* Answers in the place of the listener: the application gets their errno, also where a firewall
 * drops what conntrack does not know. */
static void expect_answers(void)
{
    static const char *const to[] = {SOMEWHERE, "[2001:db8:7::9]:80"};

    for (int i = 0; i < 8; i++) {
        struct client c = {.to = to[i % 2], .nonblock = i & 2};
        struct result result;
        struct syn syn;

        client_start(&c, &result);
        next_syn(&rig, &syn);
        if (i < 4) {
            answer_reset(&rig, &syn);
        } else {
            /* While the socket is in connect() an ICMP error is only noted. */
            usleep(20000);
            answer_unreachable(&rig, &syn);
        }
        client_wait(&c, &result);
        assert_int_equal(result.error, i < 4 ? ECONNREFUSED : EHOSTUNREACH);
        client_done(&result);
        assert_nobody_is_let_in(&rig);
    }
    forget_syns(&rig);
}

static void test_answers(void **state)
{
    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    expect_answers();
}

static void test_answers_behind_a_firewall(void **state)
{
    static const char rules[] =
        "nft -f - 2>/dev/null <<'EOF'\n"
        "table inet t {\n"
        " counter bad { }\n"
        " chain i { type filter hook input priority 0;\n"
        "  ct state invalid counter name bad drop; ct state new tcp flags & (syn|ack) != syn "
        "counter "
        "name bad drop; }\n"
        " chain o { type filter hook output priority 0; ct state invalid counter name bad drop; }\n"
        "}\nEOF\n";

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    if (system(rules) != 0) {
        print_message("skipped: no nft, or no conntrack in this kernel\n");
        skip();
    }
    expect_answers();
    /* And so is the SYN itself no stranger. */
    expect_held_and_let_in(&rig, (struct client){.to = SOMEWHERE}, SOMEWHERE);
    expect_held_and_let_in(&rig, (struct client){.to = "[2001:db8:7::9]:80"}, "[2001:db8:7::9]:80");
    assert_int_equal(system("nft list counter inet t bad | grep -q 'packets 0 '"), 0);
    assert_int_equal(system("nft delete table inet t"), 0);
}

/* The worker has no capability, and after its start no system call of bpf's. */
static void test_worker_without_privileges(void **state)
{
    struct client c = {.to = SOMEWHERE};
    struct result result;
    int status;
    pid_t pid;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    for (size_t i = 0; i < SEATS; i++)
        bpf_hold_close(&rig.sources[i]);
    pid = fork();
    if (pid == 0) {
        struct syn syn;

        close(fixture.watch);
        if (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 ||
            setresuid(65534, 65534, 65534) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
            _exit(99);
        rig_open(&rig);
        if (prctl(PR_SET_SECCOMP, 1, 0, 0, 0) < 0 && errno != EINVAL)
            _exit(98);
        for (;;) { /* strict: read(), write(), exit() only */
            for (size_t i = 0; i < SEATS; i++) {
                const struct hold_source *source = &rig.sources[i];

                if (source->ops->read(source->ctx, on_held, &syn, 1) == 1)
                    syscall(SYS_exit, syn.origin.destination.port == 80 ? 42 : 1);
            }
        }
    }
    client_start(&c, &result);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    kill(result.pid, SIGKILL);
    client_done(&result);
    rig_open(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ipv4),
        cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_v4_mapped),
        cmocka_unit_test(test_other_users),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_mptcp),
        cmocka_unit_test(test_fast_open),
        cmocka_unit_test(test_fast_open_connect),
        cmocka_unit_test(test_long_syn),
        cmocka_unit_test(test_retransmission),
        cmocka_unit_test(test_hasty_reset),
        cmocka_unit_test(test_reset_of_a_listener_is_final),
        cmocka_unit_test(test_application_is_gone),
        cmocka_unit_test(test_two_seats),
        cmocka_unit_test(test_not_held),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_answers_behind_a_firewall),
        cmocka_unit_test(test_worker_without_privileges),
    };

    return cmocka_run_group_tests_name("bpf hold", tests, setup, teardown);
}
