/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * upstream/dial.c: getting there. Several addresses, chains of hops, silence, and what is missing
 * on our own side. What is said on the way is in test_dial.c.
 */
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/upstream/dial_rig.h"

/* The first hop's addresses: `n` that refuse, and then the listener if `good`. */
static void set_addresses(struct rig *r, unsigned n, bool good)
{
    build(r);
    struct upstream_hop *hop = &r->all[0].hops[0];

    for (unsigned i = 0; i < n; i++)
        hop->addrs[i] = refusing();
    hop->n_addrs = n;
    if (good)
        hop->addrs[hop->n_addrs++] = r->at;
}

static void the_next_address_is_tried_when_one_refuses(void **state)
{
    struct rig *r = *state;

    for (unsigned n = 1; n < UPSTREAM_ADDRS; n++) {
        set_addresses(r, n, true);
        begin_and_accept(r, 1);
        expect_handshake(r);
        put(r->server, SUCCEEDED);
        expect_granted(r, "");
        assert_int_equal(r->dial.address, n);
    }
}

static void when_all_addresses_refuse_the_upstream_is_down(void **state)
{
    struct rig *r = *state;

    set_addresses(r, UPSTREAM_ADDRS, false);
    begin(r, 1);
    expect_failed(r, DIAL_CONNECT, ECONNREFUSED, true);
    assert_int_equal(r->dial.os_error, ECONNREFUSED);
    expect_described(r, "cannot connect to 127.0.0.1");
    assert_true(dial_upstream_gone(&r->dial));

    /* None at all. */
    r->all[0].hops[0].n_addrs = 0;
    begin(r, 1);
    expect_failed(r, DIAL_CONNECT, ECONNREFUSED, true);
}

/* Of an upstream on this host each address is known, or not, by itself. */
static void an_address_that_was_away_is_not_asked_before_it_is_proven(void **state)
{
    struct rig *r = *state;
    char byte;

    set_addresses(r, 2, true);
    r->all[0].local = 0x6;
    begin_and_accept(r, 1);
    expect_handshake(r);
    put(r->server, SUCCEEDED);
    expect_granted(r, "");
    assert_int_equal(r->all[0].unproven, 0x2); /* the first refused, too, but is elsewhere */

    set_addresses(r, 2, true);
    r->all[0].local = r->all[0].unproven = 0x4;
    begin_and_accept(r, 1);
    wait_for(r, DIAL_UNPROVEN);
    assert_int_equal(r->all[0].unproven, 0x4);
    assert_int_equal(recv(r->server, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

/* An address without a route or a family here is passed over at once. */
static void an_address_that_cannot_be_dialled_is_passed_over(void **state)
{
    struct rig *r = *state;

    set_addresses(r, 1, true);
    assert_int_equal(addr_parse("[ff00::1]:1", 0, &r->all[0].hops[0].addrs[0]), 0);
    begin_and_accept(r, 1);
    expect_handshake(r);
    put(r->server, SUCCEEDED);
    expect_granted(r, "");
}

/* A listener whose backlog is full: a connect() to it neither succeeds nor fails. */
struct mute {
    int listener, fill[8];
    struct addr at;
};

static void mute_open(struct mute *m)
{
    m->listener = listen_here(&m->at);
    assert_int_equal(listen(m->listener, 0), 0);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&m->at, &sa);

    for (unsigned i = 0; i < 8; i++) {
        m->fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        assert_true(m->fill[i] >= 0);
        (void)connect(m->fill[i], (struct sockaddr *)&sa, len);
    }
}

static void mute_close(struct mute *m)
{
    for (unsigned i = 0; i < 8; i++)
        close(m->fill[i]);
    close(m->listener);
}

/* Hands the dial its timer's event; what it had armed it for is told apart by the deadline. */
static void time_is_up(struct rig *r, int64_t delay)
{
    assert_int_not_equal(r->timer.slot, 0);
    assert_in_range(r->timer.deadline - loop_now(r->d.loop), delay - 2000 * MS, delay);
    r->result = dial_event(&r->dial, LOOP_TIMEOUT, &r->env);
    if (r->result != DIAL_PENDING)
        loop_timer_cancel(r->d.loop, &r->timer);
}

static void an_address_that_hangs_has_connect_timeout(void **state)
{
    struct rig *r = *state;
    struct mute mute;

    mute_open(&mute);
    r->hops[0].connect_timeout = 60000 * MS;
    set_addresses(r, 0, true);
    r->all[0].hops[0].addrs[0] = mute.at;
    begin(r, 1);
    drive_turn(&r->d);
    assert_int_equal(r->result, DIAL_PENDING);
    assert_false(r->dial.connected);
    time_is_up(r, 60000 * MS);
    expect_failed(r, DIAL_CONNECT_TIMEOUT, ECONNREFUSED, true);
    expect_described(r, "connect-timeout");
    assert_true(dial_upstream_gone(&r->dial));

    /* And each of several its own. */
    r->all[0].hops[0].addrs[1] = mute.at;
    r->all[0].hops[0].addrs[2] = r->at;
    r->all[0].hops[0].n_addrs = 3;
    begin(r, 1);
    time_is_up(r, 60000 * MS);
    assert_int_equal(r->result, DIAL_PENDING);
    time_is_up(r, 60000 * MS);
    assert_int_equal(r->result, DIAL_PENDING);
    r->server = drive_accept(&r->d, r->listener);
    expect_handshake(r);
    put(r->server, SUCCEEDED);
    expect_granted(r, "");
    mute_close(&mute);
}

/* Silence after each of the server's messages. Before the request was answered it is the server's.
 */
static void a_server_that_hangs_has_handshake_timeout(void **state)
{
    static const char said[] = "\x05\x00\x05\x00\x00\x01\x0a\x00\x00\x01\x12";
    struct rig *r = *state;

    r->hops[0].handshake_timeout = 90000 * MS;
    for (size_t n = 0; n < sizeof(said); n++) {
        begin_and_accept(r, 1);
        drive_expect(&r->d, r->server, GREETING);
        if (n > 0)
            drive_put(&r->d, r->server, said, n);
        assert_int_equal(r->result, DIAL_PENDING);
        time_is_up(r, 90000 * MS);
        expect_failed(r, DIAL_HANDSHAKE_TIMEOUT, ETIMEDOUT, n < 2);
        assert_false(dial_was_answered(&r->dial));
        expect_described(r, "handshake-timeout");
        assert_int_equal(dial_upstream_gone(&r->dial), n < 2);
    }
}

/* Whoever has not run for a while finds the time over with the answer waiting behind more events
 * than the loop takes at once: it was in time, and says that the upstream is there. */
static void what_has_come_counts_when_the_time_is_over(void **state)
{
    struct rig *r = *state;

    begin(r, 1);
    struct pollfd p = {.fd = r->listener, .events = POLLIN};

    assert_int_equal(poll(&p, 1, 20000), 1);
    r->server = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(r->server >= 0);
    assert_false(r->dial.connected);
    time_is_up(r, r->hops[0].connect_timeout);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    while (outstanding(r->server) > 0)
        poll(NULL, 0, 1);
    time_is_up(r, r->hops[0].handshake_timeout);
    drive_expect(&r->d, r->server, REQUEST);
    put(r->server, SUCCEEDED);
    expect_granted(r, "");

    /* Once: who sends an octet whenever the time is over keeps nobody for ever. */
    begin_and_accept(r, 1);
    drive_expect(&r->d, r->server, GREETING);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(r->result, DIAL_PENDING);
        put(r->server, &"\x05\x00"[i], 1);
        while (outstanding(r->server) > 0)
            poll(NULL, 0, 1);
        time_is_up(r, r->hops[0].handshake_timeout);
    }
    expect_failed(r, DIAL_HANDSHAKE_TIMEOUT, ETIMEDOUT, true);

    /* A refusal, too. */
    r->all[0].hops[0].addrs[0] = refusing();
    begin(r, 1);
    if (r->result == DIAL_PENDING)
        time_is_up(r, r->hops[0].connect_timeout);
    expect_failed(r, DIAL_CONNECT, ECONNREFUSED, true);
}

/* The timer of the loop itself, short. */
static void the_timeouts_are_armed(void **state)
{
    struct rig *r = *state;
    struct mute mute;

    r->hops[0].connect_timeout = r->hops[0].handshake_timeout = 20 * MS;
    begin_and_accept(r, 1);
    expect_failed(r, DIAL_HANDSHAKE_TIMEOUT, ETIMEDOUT, true);
    drive_expect(&r->d, r->server, GREETING);
    drive_expect_end(&r->d, r->server, ECONNRESET);

    mute_open(&mute);
    r->all[0].hops[0].addrs[0] = mute.at;
    begin(r, 1);
    expect_failed(r, DIAL_CONNECT_TIMEOUT, ECONNREFUSED, true);
    mute_close(&mute);
}

#define REQUEST_HOP1 BYTES("\x05\x01\x00\x01\xc6\x33\x64\x01\x04\x38") /* 198.51.100.1:1080 */
#define REQUEST_HOP2 BYTES("\x05\x01\x00\x01\xc6\x33\x64\x02\x04\x38")

static void a_chain_of_two(void **state)
{
    struct rig *r = *state;

    begin_and_accept(r, 2);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, REQUEST_HOP1);
    put(r->server, SUCCEEDED);
    expect_handshake(r);
    put(r->server, BYTES("\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
                         "words"));
    expect_granted(r, "words");
}

/* Three hops of three kinds, each asked for the next; each with its own credentials and timer. */
static void a_chain_of_three_kinds(void **state)
{
    struct rig *r = *state;

    r->hops[1].url.scheme = SCHEME_SOCKS4;
    strcpy(r->hops[1].url.user, "bob");
    r->hops[2].url.scheme = SCHEME_SOCKS5H;
    r->hops[2].url.has_user = true;
    strcpy(r->hops[2].url.user, "eve");
    for (unsigned i = 0; i < 3; i++)
        r->hops[i].handshake_timeout = (10 + 10 * (int)i) * 1000 * MS;
    r->name = "example.net";
    begin_and_accept(r, 3);
    drive_expect(&r->d, r->server, GREETING);
    assert_in_range(r->timer.deadline - loop_now(r->d.loop), 8000 * MS, 10000 * MS);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, REQUEST_HOP1);
    put(r->server, SUCCEEDED);
    drive_expect(&r->d, r->server,
                 BYTES("\x04\x01\x04\x38\xc6\x33\x64\x02"
                       "bob\x00"));
    assert_in_range(r->timer.deadline - loop_now(r->d.loop), 18000 * MS, 20000 * MS);
    put(r->server, BYTES("\x00\x5a\x00\x00\x00\x00\x00\x00"));
    drive_expect(&r->d, r->server, BYTES("\x05\x02\x00\x02"));
    assert_in_range(r->timer.deadline - loop_now(r->d.loop), 28000 * MS, 30000 * MS);
    put(r->server, BYTES("\x05\x02"));
    drive_expect(&r->d, r->server,
                 BYTES("\x01\x03"
                       "eve\x00"));
    put(r->server, BYTES("\x01\x00"));
    drive_expect(&r->d, r->server,
                 BYTES("\x05\x01\x00\x03\x0b"
                       "example.net\x00\x50"));
    put(r->server, SUCCEEDED);
    expect_granted(r, "");
}

/* A name of the next hop that the one before resolves is passed on as it is. */
static void a_hop_that_has_only_a_name(void **state)
{
    struct rig *r = *state;

    r->hops[0].url.scheme = SCHEME_SOCKS5H;
    strcpy(r->hops[1].url.host, "inner.invalid");
    begin_and_accept(r, 2);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, BYTES("\x05\x01\x00\x03\x0dinner.invalid\x04\x38"));
}

/* What a hop on the way says about the next one is the upstream's fault, and the log says which. */
static void a_failure_on_the_way_names_its_hop(void **state)
{
    struct rig *r = *state;

    begin_and_accept(r, 3);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, REQUEST_HOP1);
    put(r->server, BYTES("\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"));
    /* It is the second hop that cannot be reached: nothing is known of the destination. */
    expect_failed(r, DIAL_HANDSHAKE, ECONNREFUSED, true);
    expect_described(r, "hop 1 (127.0.0.1:");
    assert_true(dial_upstream_gone(&r->dial));

    begin_and_accept(r, 3);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, REQUEST_HOP1);
    put(r->server, SUCCEEDED);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, REQUEST_HOP2);
    time_is_up(r, r->hops[1].handshake_timeout);
    expect_failed(r, DIAL_HANDSHAKE_TIMEOUT, ETIMEDOUT, true);
    expect_described(r, "hop 2 (198.51.100.1:1080): no answer");

    begin_and_accept(r, 2);
    drive_expect(&r->d, r->server, GREETING);
    put(r->server, METHOD);
    drive_expect(&r->d, r->server, REQUEST_HOP1);
    put(r->server, SUCCEEDED);
    expect_handshake(r);
    put(r->server, BYTES("\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"));
    expect_failed(r, DIAL_HANDSHAKE, EHOSTUNREACH,
                  false); /* the last one speaks of the destination */
    expect_described(r, "hop 2 (198.51.100.1:1080): reply 0x04");
    assert_false(dial_upstream_gone(&r->dial));
}

static void without_a_descriptor_it_is_our_fault(void **state)
{
    struct rig *r = *state;
    struct rlimit old, tight;
    int highest = dup(STDIN_FILENO);

    build(r);
    assert_true(highest >= 0);
    close(highest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = (struct rlimit){(rlim_t)highest, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    begin(r, 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    expect_failed(r, DIAL_RESOURCE, ECONNREFUSED, false);
    assert_int_equal(r->dial.os_error, EMFILE);
    expect_described(r, "out of resources: ");
}

/* In a network where this host has a single port to connect from, which is taken. */
static bool fails_without_a_port(struct rig *r)
{
    struct addr at;

    if (system("ip link set lo up && echo 40000 40000 >/proc/sys/net/ipv4/ip_local_port_range"))
        return false;
    int listener = fd_listen(&r->at, 0, &at), taken = connect_here(&r->at);

    begin(r, 1);
    close(taken);
    close(listener);
    if (r->result != DIAL_FAILED || r->dial.os_error != EADDRNOTAVAIL ||
        !dial_upstream_at_fault(&r->dial) || dial_upstream_gone(&r->dial))
        return false;
    /* Without an address it is as far away as without a route. */
    if (system("cd /proc/sys/net/ipv6/conf/all 2>/dev/null || exit 0; echo 1 >disable_ipv6"))
        return false;
    assert_int_equal(addr_parse("2001:db8::1", 1080, &r->all[0].hops[0].addrs[0]), 0);
    begin(r, 1);
    return r->result == DIAL_FAILED && dial_upstream_gone(&r->dial);
}

/* A client with many connections can use up all of ours: that says nothing of the upstream. */
static void without_a_port_nothing_is_known_of_the_upstream(void **state)
{
    struct rig *r = *state;
    int status;

    build(r);
    fflush(stdout);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (unshare(CLONE_NEWNET) < 0)
            _exit(77);
        _exit(fails_without_a_port(r) ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: needs root for a network namespace\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* A timer that cannot be armed would be a dial that never ends. */
static void without_a_timer_it_fails_at_once(void **state)
{
    struct rig *r = *state;
    struct timer others[8] = {{0}};
    unsigned n = 0;

    while (loop_timer_set(r->d.loop, &others[n], 1000000 * MS, 0) == 0)
        assert_true(++n < 8);
    begin(r, 1);
    expect_failed(r, DIAL_RESOURCE, ECONNREFUSED, false);
    for (unsigned i = 0; i < n; i++)
        loop_timer_cancel(r->d.loop, &others[i]);
}

/* A socket that cannot be marked would be captured again: it is not used. */
static void a_mark_that_is_not_allowed_is_not_left_out(void **state)
{
    struct rig *r = *state;
    int status;

    build(r);
    r->all[0].mark = 0x5553;
    fflush(stdout);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && setuid(65534) < 0)
            _exit(3);
        begin(r, 1);
        _exit(r->result == DIAL_FAILED && r->dial.fault == DIAL_RESOURCE &&
                      r->dial.os_error == EPERM && r->dial.fd == -1
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_direct_dial_ends_with_the_connection(void **state)
{
    struct rig *r = *state;

    build(r);
    struct upstream *direct = &r->all[3];

    assert_true(upstream_is_direct(direct));
    r->destination = r->at;
    r->result = dial_start(&r->dial, direct, &r->destination, NULL, &r->env);
    assert_int_equal(r->result, DIAL_PENDING);
    r->server = drive_accept(&r->d, r->listener);
    put(r->server, BYTES("220"));
    expect_granted(r, "220");

    /* And fails as the destination does. */
    r->destination = refusing();
    r->result = dial_start(&r->dial, direct, &r->destination, NULL, &r->env);
    expect_failed(r, DIAL_CONNECT, ECONNREFUSED, false);
    assert_false(dial_worth_a_line(&r->dial));
    expect_described(r, "direct: ");
    assert_false(dial_upstream_gone(&r->dial));
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(the_next_address_is_tried_when_one_refuses),
        ON_A_RIG(when_all_addresses_refuse_the_upstream_is_down),
        ON_A_RIG(an_address_that_was_away_is_not_asked_before_it_is_proven),
        ON_A_RIG(an_address_that_cannot_be_dialled_is_passed_over),
        ON_A_RIG(an_address_that_hangs_has_connect_timeout),
        ON_A_RIG(a_server_that_hangs_has_handshake_timeout),
        ON_A_RIG(what_has_come_counts_when_the_time_is_over),
        ON_A_RIG(the_timeouts_are_armed),
        ON_A_RIG(a_chain_of_two),
        ON_A_RIG(a_chain_of_three_kinds),
        ON_A_RIG(a_hop_that_has_only_a_name),
        ON_A_RIG(a_failure_on_the_way_names_its_hop),
        ON_A_RIG(without_a_descriptor_it_is_our_fault),
        ON_A_RIG(without_a_port_nothing_is_known_of_the_upstream),
        ON_A_RIG(without_a_timer_it_fails_at_once),
        ON_A_RIG(a_mark_that_is_not_allowed_is_not_left_out),
        ON_A_RIG(a_direct_dial_ends_with_the_connection),
    };

    return cmocka_run_group_tests_name("dial: getting there", tests, ignore_sigpipe, NULL);
}
