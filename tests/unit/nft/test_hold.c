/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Held SYNs of this host and of a gateway's clients, and what becomes of them with each verdict. */
#include "hold_rig.h"

#include <net/if.h>

#include "nft/guard.h"
#include "nft/probe.h"

#define SEAT         2u /* of one_seat */
#define SEAT4        "127.0.0.1:41002"
#define SEAT6        "[::1]:41102"
#define EARLY4       "127.0.0.1:12345"
#define EARLY6       "[::1]:12346"
#define NOTHING_SEEN 300 /* ms: for what must not come */

static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
/* The one an application gets, per family. */
static const int reject_errors[][2] = {
    [REJECT_RESET] = {-ECONNREFUSED, -ECONNREFUSED},
    [REJECT_HOST] = {-EHOSTUNREACH, -EHOSTUNREACH},
    [REJECT_NET] = {-ENETUNREACH, -ENETUNREACH},
    [REJECT_PROHIBITED] = {-ECONNREFUSED, -EACCES},
};

static const struct capture_policy host_policy[] = {{PROXY("host"), .honest = true}};
static const struct capture_set host = {POLICIES(host_policy), OWN, SEATS(one_seat)};

/* The listeners of the seat and of the early connections, by family. */
static int seat[2], early[2];
static struct nft_log_source seat_log;

static struct lan set_up(const struct capture_set *set, struct nft_owner **ret_owner)
{
    struct lan lan = make_lan();

    for (unsigned i = 0; i < 2; i++)
        CHECK(ask(&lan.server, PEER_LISTEN, i, where[i]) == 0);
    seat[0] = listen_at(SEAT4, true);
    seat[1] = listen_at(SEAT6, true);
    early[0] = listen_at(EARLY4, false);
    early[1] = listen_at(EARLY6, false);
    seat_log = open_log(SEAT);
    put_up_firewall();
    struct nft_owner *owner = install(set);

    if (ret_owner)
        *ret_owner = owner;
    return lan;
}

static void expect_nobody(void)
{
    for (unsigned i = 0; i < 2; i++)
        CHECK(accept_in(seat[i], 0) < 0 && accept_in(early[i], 0) < 0);
}

static struct held take_held(void)
{
    struct held h;

    CHECK(next_held(&seat_log, &h, PATIENCE_MS));
    return h;
}

/* ---- this host ---- */

/* The application's socket, with its SYN held. */
static int hold_host(unsigned family, struct held *ret)
{
    int fd = begin_connect(where[family], NULL);

    *ret = take_held();
    CHECK(held_v4(ret) == (family == 0));
    CHECK(strcmp(ret->capture, "host") == 0);
    return fd;
}

/* The application is connected with the listener, and they hear each other. */
static void expect_granted(int fd, int listener, unsigned family)
{
    CHECK(connected(fd) == 0);
    int ours = accept_in(listener, PATIENCE_MS);

    CHECK(ours >= 0);
    CHECK(same_port_pair(ours, fd));
    CHECK(original_is(ours, where[family]));
    CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == 1 && recv_in(ours, PATIENCE_MS) == 1);
    CHECK(send(ours, "x", 1, MSG_NOSIGNAL) == 1 && recv_in(fd, PATIENCE_MS) == 1);
    close(ours);
    close(fd);
}

static void host_is_granted(void)
{
    struct lan lan = set_up(&host, NULL);

    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        expect_nobody();
        CHECK(h.has_uid && h.uid == 0);
        CHECK(h.interface == if_nametoindex("wan0"));
        CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) == 0);
        expect_granted(fd, seat[f], f);
    }
    CHECK(packets_at_server(&lan) == 0);
}

/* A reset right behind the SYN is dropped, and what it answers comes again; the second one is for
 * good. The machine may be too slow for what is right behind. */
static void expect_hasty(unsigned f)
{
    long dropped = 0;

    for (unsigned tries = 0; dropped == 0 && tries < 10; tries++) {
        long before = resets("before"), after = resets("after");
        struct held h;
        int fd = hold_host(f, &h);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) == 0);
        CHECK(connected(fd) == 0);
        vanish(accept_in(seat[f], PATIENCE_MS));
        CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == 1);
        CHECK(recv_in(fd, PATIENCE_MS) == -ECONNRESET);
        close(fd);
        dropped = resets("before") - before - 1;
        CHECK(resets("after") == after + 1);
    }
    CHECK(dropped == 1);
}

static void hasty_resets_are_dropped(void)
{
    struct nft_owner *owner;

    set_up(&host, &owner);
    count_resets();
    for (unsigned i = 0; i < 4; i++) {
        expect_hasty(i % 2);
        if (i == 1)
            replace(owner, &host);
    }
}

/* Who asks whether a reset is meant asks once: the answer must not be lost, nor ever come late. */
static void a_reset_that_is_meant_is_told(void)
{
    set_up(&host, NULL);
    lose_data();
    count_resets();
    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) == 0);
        CHECK(connected(fd) == 0);
        break_off(accept_in(seat[f], PATIENCE_MS));
        CHECK(recv_in(fd, PATIENCE_MS) == -ECONNRESET);
        close(fd);
        CHECK(resets("before") == f + 1 && resets("after") == f + 1);
    }
}

/* Those of a listener that is no seat's are nobody's business. */
static void other_resets_pass(void)
{
    set_up(&host, NULL);
    count_resets();
    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_EARLY_NAT, 0)) == 0);
        CHECK(connected(fd) == 0);
        vanish(accept_in(early[f], PATIENCE_MS));
        CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == 1);
        CHECK(recv_in(fd, PATIENCE_MS) == -ECONNRESET);
        close(fd);
    }
    CHECK(resets("before") == 2 && resets("after") == 2);
}

static void host_is_rejected(void)
{
    struct lan lan = set_up(&host, NULL);

    for (unsigned f = 0; f < 2; f++)
        for (unsigned reject = 0; reject < REJECT_COUNT; reject++) {
            struct held h;
            int fd = hold_host(f, &h);

            (void)send_again(&h, capture_injected_mark(INJECTED_REJECT, reject));
            CHECK(connected(fd) == reject_errors[reject][f]);
            close(fd);
        }
    expect_nobody();
    CHECK(packets_at_server(&lan) == 0);
}

static void host_is_connected_early(void)
{
    struct lan lan = set_up(&host, NULL);

    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_EARLY_NAT, 0)) == 0);
        expect_granted(fd, early[f], f);
    }
    CHECK(packets_at_server(&lan) == 0);
}

/* A mark that no rule knows must not let the SYN out. */
static void a_verdict_without_rule_is_none(void)
{
    static const uint32_t marks[] = {
        CAPTURE_INJECTED | INJECTED_ACCEPT_NAT << 8 | 9,
        CAPTURE_INJECTED | INJECTED_EARLY_NAT << 8 | 9,
        CAPTURE_INJECTED | INJECTED_ACCEPT_TPROXY << 8 | SEAT,
        CAPTURE_INJECTED | INJECTED_REJECT << 8 | 9,
        CAPTURE_INJECTED | 7 << 8,
        CAPTURE_INJECTED | 0x7fff,
    };
    struct lan lan = set_up(&host, NULL);

    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        for (size_t i = 0; i < COUNT(marks); i++)
            (void)send_again(&h, marks[i]);
        CHECK(connected_in(fd, NOTHING_SEEN) == -ETIMEDOUT);
        close(fd);
    }
    expect_nobody();
    CHECK(packets_at_server(&lan) == 0);
}

/* One that is no longer tracked when it is sent again is not seen by nat, and drops all the same.
 */
static void a_verdict_past_nat_is_none(void)
{
    static const uint32_t kinds[] = {INJECTED_ACCEPT_NAT, INJECTED_EARLY_NAT,
                                     INJECTED_ACCEPT_TPROXY, 7};
    struct lan lan = set_up(&host, NULL);
    struct held h[2];
    int fd[2];

    for (unsigned f = 0; f < 2; f++)
        fd[f] = hold_host(f, &h[f]);
    CHECK(system("nft 'table inet theirs { chain out { type filter hook output priority raw; "
                 "notrack; }; }'") == 0);
    for (unsigned f = 0; f < 2; f++) {
        for (size_t i = 0; i < COUNT(kinds); i++)
            (void)send_again(&h[f], CAPTURE_INJECTED | kinds[i] << 8 | SEAT);
        /* Its retransmission is refused. */
        CHECK(connected(fd[f]) == -ECONNREFUSED);
        close(fd[f]);
    }
    expect_nobody();
    CHECK(packets_at_server(&lan) == 0);
}

static void retransmissions_are_held(void)
{
    struct held first, second;

    set_up(&host, NULL);
    int fd = hold_host(0, &first);

    second = take_held();
    CHECK(held_source_port(&first) == held_source_port(&second));
    CHECK(send_again(&second, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) == 0);
    expect_granted(fd, seat[0], 0);
}

static void an_overwritten_mark_of_the_host(void)
{
    struct lan lan = set_up(&host, NULL);

    overwrite_marks_at("output");
    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        /* What the socket has of it mends it. */
        CHECK(send_again_by(MARK_OF_SOCKET, &h, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) ==
              0);
        expect_granted(fd, seat[f], f);
    }
    CHECK(packets_at_server(&lan) == 0);
}

static void the_source_survives_masquerading(void)
{
    set_up(&host, NULL);
    masquerade();
    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) == 0);
        expect_granted(fd, seat[f], f);
    }
}

/* ---- which ones, and by whom ---- */

static void first_match_wins(void)
{
    static const struct port_range held_ports[] = {{80, 82}}, refused[] = {{81, 83}},
                                   direct[] = {{80, 80}}, taken[] = {{82, 84}};
    static const struct capture_policy policies[] = {
        {OTHER("direct", CAPTURE_DIRECT), TCP(direct)},
        {PROXY("host"), TCP(held_ports), .honest = true},
        {OTHER("refused", CAPTURE_REFUSE), TCP(refused)},
        {PROXY("early"), TCP(taken)},
        {PROXY("last"), .honest = true},
    };
    static const struct capture_set set = {POLICIES(policies), OWN, SEATS(one_seat)};
    struct held h;

    set_up(&set, NULL);
    int fd = begin_connect(where[0], NULL);

    CHECK(connected(fd) == 0);
    close(fd);
    fd = begin_connect("203.0.113.5:81", NULL);
    h = take_held();
    CHECK(strcmp(h.capture, "host") == 0);
    close(fd);
    fd = begin_connect("[2001:db8::5]:82", NULL);
    h = take_held();
    CHECK(strcmp(h.capture, "host") == 0);
    close(fd);
    CHECK(connect_in("203.0.113.5:83", NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
    CHECK(connect_in("203.0.113.5:84", NULL, 0, PATIENCE_MS) >= 0);
    CHECK(accept_in(early[0], PATIENCE_MS) >= 0);
    fd = begin_connect("203.0.113.5:85", NULL);
    h = take_held();
    CHECK(strcmp(h.capture, "last") == 0);
    /* The daemon's own, and what goes to its listeners, is not held. */
    CHECK(connect_in(where[1], NULL, CAPTURE_OWN_MARK | 0x42, PATIENCE_MS) >= 0);
    expect_nobody();
}

static void listeners_are_exempt(void)
{
    static const struct capture_seat_ports ports[] = {{42002, 42102}};
    static const struct capture_policy policies[] = {
        {PROXY("all"), .honest = true, .private = true},
        {CGROUP("cg", "/nobody"), .honest = true, .seat_ports = ports}};
    static const struct capture_set set = {POLICIES(policies), OWN, SEATS(one_seat)};
    static const char *const exempt[] = {SEAT4, SEAT6, EARLY4, EARLY6};
    struct held h;

    set_up(&set, NULL);
    CHECK(listen_at("127.0.0.1:42002", false) >= 0 && listen_at("[::1]:42102", false) >= 0);
    for (unsigned i = 0; i < COUNT(exempt); i++)
        CHECK(connect_in(exempt[i], NULL, 0, PATIENCE_MS) >= 0);
    CHECK(connect_in("127.0.0.1:42002", NULL, 0, PATIENCE_MS) >= 0);
    CHECK(connect_in("[::1]:42102", NULL, 0, PATIENCE_MS) >= 0);
    CHECK(!next_held(&seat_log, &h, 0));
    CHECK(begin_connect("127.0.0.1:42003", NULL) >= 0);
    h = take_held();
    CHECK(strcmp(h.capture, "all") == 0);
}

static void without_a_serving_seat_it_is_refused(void)
{
    static const struct capture_set nobody = {POLICIES(host_policy), OWN, SEATS(old_seat)};
    static const struct capture_set no_seats = {POLICIES(host_policy), OWN};
    static const struct capture_set half = {POLICIES(host_policy), OWN, SEATS(v4_seat)};
    struct nft_owner *owner;
    struct held h;

    set_up(&nobody, &owner);
    CHECK(connect_in(where[0], NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
    CHECK(connect_in(where[1], NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
    replace(owner, &no_seats);
    CHECK(connect_in(where[0], NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
    CHECK(connect_in(where[1], NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
    replace(owner, &half);
    struct nft_log_source log = open_log(0);

    CHECK(connect_in(where[1], NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
    CHECK(begin_connect(where[0], NULL) >= 0);
    CHECK(next_held(&log, &h, PATIENCE_MS));
    expect_nobody();
}

/* Each source port has its seat, the same at every time, and each serving seat has some. */
static void seats_share_by_source_port(void)
{
    enum { N = 32 };
    static const struct capture_set several = {POLICIES(host_policy), OWN, SEATS(some_seats)};
    struct nft_log_source logs[COUNT(some_seats)];
    unsigned seat_of[N], n_of[COUNT(some_seats)] = {0};

    set_up(&several, NULL);
    for (unsigned i = 0; i < COUNT(some_seats); i++)
        logs[i] = some_seats[i].number == SEAT ? seat_log : open_log(some_seats[i].number);
    for (unsigned i = 0; i < 2 * N; i++) {
        struct pollfd p[COUNT(some_seats)];
        struct held h;
        char from[64];
        unsigned k = 0;

        snprintf(from, sizeof(from), i < N ? "198.18.9.1:%u" : "[3fff:9::1]:%u", 30000 + i % N);
        int fd = begin_connect(where[i / N], from);

        for (unsigned j = 0; j < COUNT(some_seats); j++)
            p[j] = (struct pollfd){.fd = logs[j].fd, .events = POLLIN};
        CHECK(poll(p, COUNT(some_seats), PATIENCE_MS) == 1);
        while (!p[k].revents)
            k++;
        CHECK(next_held(&logs[k], &h, 0) && held_source_port(&h) == 30000 + i % N);
        n_of[k]++;
        if (i < N)
            seat_of[i] = k;
        else
            CHECK(seat_of[i % N] == k);
        CHECK(send_again(&h, capture_injected_mark(INJECTED_REJECT, REJECT_RESET)) <= 0);
        CHECK(connected(fd) == -ECONNREFUSED);
        close(fd);
    }
    for (unsigned i = 0; i < COUNT(some_seats); i++)
        CHECK((n_of[i] > 0) == some_seats[i].serving);
}

/* ---- reloads and the end ---- */

/*
 * A SYN that was on its way before the rules is past nat, with connection tracking at work or not:
 * held and granted, it would reach its destination.
 */
static void older_syns_are_left_alone(void)
{
    static const char *const nat[] = {
        "true", "nft 'table inet theirs_nat { chain out { type nat hook output priority 0; }; }'"};
    static const struct capture_set none = {.n_policies = 0};
    struct nft_owner *owner;
    struct lan lan = set_up(&none, &owner);

    in_peer(&lan.server, "nft \"table inet deaf { chain in { type filter hook input priority 0; "
                         "tcp flags syn drop; }; }\"");
    for (unsigned i = 0; i < COUNT(nat); i++) {
        CHECK(system(nat[i]) == 0);
        for (unsigned f = 0; f < 2; f++) {
            struct held h;
            int before = packets_at_server(&lan), fd = begin_connect(where[f], NULL);

            replace(owner, &host);
            for (unsigned tries = 0; packets_at_server(&lan) < before + 2; tries++)
                CHECK(tries < PATIENCE_MS / 100 && !next_held(&seat_log, &h, 100));
            close(fd);
            CHECK(nft_owner_remove(owner, why, sizeof(why)) == 0);
        }
    }
}

/* What was held before a reload is answered after it. */
static void a_verdict_comes_after_a_reload(void)
{
    static const struct capture_set others[] = {
        {POLICIES(everything), OWN, SEATS(one_seat)}, /* connects early */
        {POLICIES(no_listener), OWN, SEATS(one_seat)},
        {.n_policies = 0},
    };
    struct nft_owner *owner;
    struct lan lan = set_up(&host, &owner);

    for (unsigned i = 0; i < COUNT(others); i++)
        for (unsigned f = 0; f < 2; f++) {
            struct held granted, refused;

            replace(owner, &host);
            int fd = hold_host(f, &granted), other = hold_host(f, &refused);

            replace(owner, &others[i]);
            CHECK(send_again(&granted, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) == 0);
            expect_granted(fd, seat[f], f);
            (void)send_again(&refused, capture_injected_mark(INJECTED_REJECT, REJECT_RESET));
            CHECK(connected(other) == -ECONNREFUSED);
            close(other);
        }
    CHECK(packets_at_server(&lan) == 0);
}

/* The table is gone, and the guard is there. */
static void the_guard_refuses_what_is_sent_again(void)
{
    static const struct capture_policy closed_host[] = {
        {PROXY("host"), .honest = true, .fail_closed = true}};
    static const struct capture_set set = {POLICIES(closed_host), OWN, SEATS(one_seat)};
    struct nft_owner *owner;
    struct nft_ruleset *rs;
    struct lan lan = set_up(&set, &owner);

    CHECK(nft_guard_build(&set, &rs) == 0);
    CHECK(nft_guard_install(rs, why, sizeof(why)) == 0);
    for (unsigned f = 0; f < 2; f++) {
        struct held h;
        int fd = hold_host(f, &h);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT)) == 0);
        expect_granted(fd, seat[f], f);
    }
    struct held h[2];
    int fd[2] = {hold_host(0, &h[0]), hold_host(1, &h[1])};

    nft_owner_close(owner);
    for (unsigned f = 0; f < 2; f++) {
        (void)send_again(&h[f], capture_injected_mark(INJECTED_ACCEPT_NAT, SEAT));
        CHECK(connected(fd[f]) == -ECONNREFUSED);
        CHECK(connect_in(where[f], NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
    }
    CHECK(packets_at_server(&lan) == 0);
}

static void this_kernel_can_hold(void)
{
    int r = nft_probe_hold(why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    CHECK(!has_command("nft") || *output_of("nft list ruleset") == '\0');
    /* Somebody else's group is as good a sign. */
    int fd;

    CHECK(nft_log_open(CAPTURE_LOG_GROUP + CAPTURE_SEATS, &fd, why, sizeof(why)) == 0);
    CHECK(nft_probe_hold(why, sizeof(why)) == 0);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(host_is_granted)
NETNS_TEST(hasty_resets_are_dropped)
NETNS_TEST(a_reset_that_is_meant_is_told)
NETNS_TEST(other_resets_pass)
NETNS_TEST(host_is_rejected)
NETNS_TEST(host_is_connected_early)
NETNS_TEST(a_verdict_without_rule_is_none)
NETNS_TEST(a_verdict_past_nat_is_none)
NETNS_TEST(retransmissions_are_held)
NETNS_TEST(an_overwritten_mark_of_the_host)
NETNS_TEST(the_source_survives_masquerading)
NETNS_TEST(first_match_wins)
NETNS_TEST(listeners_are_exempt)
NETNS_TEST(without_a_serving_seat_it_is_refused)
NETNS_TEST(seats_share_by_source_port)
NETNS_TEST(older_syns_are_left_alone)
NETNS_TEST(a_verdict_comes_after_a_reload)
NETNS_TEST(the_guard_refuses_what_is_sent_again)
NETNS_TEST(this_kernel_can_hold)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_is_granted),
        cmocka_unit_test(test_hasty_resets_are_dropped),
        cmocka_unit_test(test_a_reset_that_is_meant_is_told),
        cmocka_unit_test(test_other_resets_pass),
        cmocka_unit_test(test_host_is_rejected),
        cmocka_unit_test(test_host_is_connected_early),
        cmocka_unit_test(test_a_verdict_without_rule_is_none),
        cmocka_unit_test(test_a_verdict_past_nat_is_none),
        cmocka_unit_test(test_retransmissions_are_held),
        cmocka_unit_test(test_an_overwritten_mark_of_the_host),
        cmocka_unit_test(test_the_source_survives_masquerading),
        cmocka_unit_test(test_first_match_wins),
        cmocka_unit_test(test_listeners_are_exempt),
        cmocka_unit_test(test_without_a_serving_seat_it_is_refused),
        cmocka_unit_test(test_seats_share_by_source_port),
        cmocka_unit_test(test_older_syns_are_left_alone),
        cmocka_unit_test(test_a_verdict_comes_after_a_reload),
        cmocka_unit_test(test_the_guard_refuses_what_is_sent_again),
        cmocka_unit_test(test_this_kernel_can_hold),
    };

    return cmocka_run_group_tests_name("nft/hold", tests, NULL, NULL);
}
