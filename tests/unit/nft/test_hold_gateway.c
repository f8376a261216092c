/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Held SYNs of a gateway's clients, and what becomes of them with each verdict. */
#include "hold_rig.h"

#include <net/if.h>

#define SEAT         2u /* of one_seat */
#define SEAT4        "127.0.0.1:41002"
#define SEAT6        "[::1]:41102"
#define EARLY4       "127.0.0.1:12347"
#define EARLY6       "[::1]:12348"
#define NOTHING_SEEN 300 /* ms: for what must not come */

static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
static const char *const client_ip[] = {"198.18.1.2", "3fff:1::2"};
/* What the client gets, per family. */
static const int reject_errors[][2] = {
    [REJECT_RESET] = {-ECONNREFUSED, -ECONNREFUSED},
    [REJECT_HOST] = {-EHOSTUNREACH, -EHOSTUNREACH},
    [REJECT_NET] = {-ENETUNREACH, -ENETUNREACH},
    [REJECT_PROHIBITED] = {-ECONNREFUSED, -EACCES},
};

static const struct capture_policy gate_policy[] = {{GATE("gw"), .honest = true}};
static const struct capture_set gate = {POLICIES(gate_policy), OWN, TPROXY, SEATS(one_seat)};

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
    early[0] = listen_at(EARLY4, true);
    early[1] = listen_at(EARLY6, true);
    seat_log = open_log(SEAT);
    put_up_firewall();
    struct nft_owner *owner = install(set);

    if (ret_owner)
        *ret_owner = owner;
    return lan;
}

/* The client connects, and its SYN is held; what it gets is asked with answer_of(). */
static struct held hold_client(const struct lan *lan, unsigned family)
{
    struct held h;

    tell(&lan->client, PEER_CONNECT, 0, where[family]);
    CHECK(next_held(&seat_log, &h, PATIENCE_MS));
    CHECK(held_v4(&h) == (family == 0));
    CHECK(strcmp(h.capture, "gw") == 0);
    CHECK(!h.has_uid);
    CHECK(h.interface == if_nametoindex("lan0"));
    return h;
}

static void expect_nobody(void)
{
    for (unsigned i = 0; i < 2; i++)
        CHECK(accept_in(seat[i], 0) < 0 && accept_in(early[i], 0) < 0);
}

static void expect_granted(const struct lan *lan, int listener, unsigned family)
{
    CHECK(answer_of(&lan->client) == 0);
    int ours = accept_in(listener, PATIENCE_MS);

    CHECK(ours >= 0);
    CHECK(local_is(ours, where[family]) && peer_is(ours, client_ip[family]));
    CHECK(ask(&lan->client, PEER_SEND, 0, NULL) == 0 && recv_in(ours, PATIENCE_MS) == 1);
    CHECK(send(ours, "x", 1, MSG_NOSIGNAL) == 1);
    CHECK(ask(&lan->client, PEER_RECV, 0, NULL) == 1);
    close(ours);
    CHECK(ask(&lan->client, PEER_RECV, 0, NULL) == 0);
    CHECK(ask(&lan->client, PEER_CLOSE, 0, NULL) == 0);
}

static void grant(const struct lan *lan, unsigned family)
{
    struct held h = hold_client(lan, family);

    expect_nobody();
    CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT)) == 0);
    expect_granted(lan, seat[family], family);
}

/* The client's process may still be inside connect(), where it hears no ICMP; it asks again. */
static int rejection(const struct lan *lan, struct held *h, unsigned reject)
{
    int r;

    for (;;) {
        struct pollfd p = {.fd = lan->client.fd, .events = POLLIN};

        r = send_again(h, capture_injected_mark(INJECTED_REJECT, reject));
        CHECK(r == 0 || r == -EPERM);
        if (poll(&p, 1, 100) == 1)
            return answer_of(&lan->client);
    }
}

static void clients_are_granted(void)
{
    struct lan lan = set_up(&gate, NULL);

    grant(&lan, 0);
    grant(&lan, 1);
    CHECK(packets_at_server(&lan) == 0);
}

/* As those of this host; it is the reset for what has lost its socket. */
static void hasty_resets_are_dropped(void)
{
    struct lan lan = set_up(&gate, NULL);

    count_resets();
    for (unsigned f = 0; f < 2; f++) {
        long dropped = 0;

        for (unsigned tries = 0; dropped == 0 && tries < 10; tries++) {
            long before = resets("before"), after = resets("after");
            struct held h = hold_client(&lan, f);

            CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT)) == 0);
            CHECK(answer_of(&lan.client) == 0);
            vanish(accept_in(seat[f], PATIENCE_MS));
            CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
            CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == -ECONNRESET);
            CHECK(ask(&lan.client, PEER_CLOSE, 0, NULL) == 0);
            dropped = resets("before") - before - 1;
            CHECK(resets("after") == after + 1);
        }
        CHECK(dropped == 1);
    }
    CHECK(packets_at_server(&lan) == 0);
}

static void clients_are_rejected(void)
{
    struct lan lan = set_up(&gate, NULL);

    for (unsigned reflect = 0; reflect < 2; reflect++) {
        for (unsigned f = 0; f < 2; f++)
            for (unsigned reject = 0; reject < REJECT_COUNT; reject++) {
                struct held h = hold_client(&lan, f);

                CHECK(rejection(&lan, &h, reject) == reject_errors[reject][f]);
            }
        /* The answer must not follow the mark. */
        CHECK(system("sysctl -qw net.ipv4.fwmark_reflect=1 net.ipv6.fwmark_reflect=1") == 0);
    }
    expect_nobody();
    CHECK(packets_at_server(&lan) == 0);
}

static void clients_are_connected_early(void)
{
    struct lan lan = set_up(&gate, NULL);

    for (unsigned f = 0; f < 2; f++) {
        struct held h = hold_client(&lan, f);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_EARLY_TPROXY, 0)) == 0);
        expect_granted(&lan, early[f], f);
    }
    CHECK(packets_at_server(&lan) == 0);
}

/* Nothing has to lead to the destination but what is installed here. */
static void no_route_to_the_destination(void)
{
    struct lan lan = set_up(&gate, NULL);

    CHECK(system("set -e; ip route del 203.0.113.0/24; ip route del 2001:db8::/32") == 0);
    for (unsigned f = 0; f < 2; f++) {
        struct held h = hold_client(&lan, f);

        CHECK(send_again(&h, capture_injected_mark(INJECTED_REJECT, REJECT_HOST)) == -ENETUNREACH);
        CHECK(rejection(&lan, &h, REJECT_RESET) == -ECONNREFUSED);
        grant(&lan, f);
    }
}

/* The client hears nothing, and nobody hears of the client. */
static void expect_silence(const struct lan *lan)
{
    struct pollfd p = {.fd = lan->client.fd, .events = POLLIN};

    CHECK(poll(&p, 1, NOTHING_SEEN) == 0);
    expect_nobody();
    CHECK(packets_at_server(lan) == 0);
}

/* Frees the client for the next one; retransmissions that were held meanwhile go. */
static void let_go(const struct lan *lan, struct held *h)
{
    CHECK(rejection(lan, h, REJECT_RESET) == -ECONNREFUSED);
    while (next_held(&seat_log, h, 0))
        ;
}

static void a_verdict_without_rule_is_none(void)
{
    static const uint32_t marks[] = {
        CAPTURE_INJECTED | INJECTED_ACCEPT_TPROXY << 8 | 9,
        CAPTURE_INJECTED | INJECTED_EARLY_TPROXY << 8 | 9,
        CAPTURE_INJECTED | INJECTED_ACCEPT_NAT << 8 | 9,
        CAPTURE_INJECTED | INJECTED_REJECT << 8 | 9,
        CAPTURE_INJECTED | 6 << 8,
        CAPTURE_INJECTED | 7 << 8,
        CAPTURE_INJECTED | 0x7fff,
    };
    struct lan lan = set_up(&gate, NULL);

    for (unsigned f = 0; f < 2; f++) {
        struct held h = hold_client(&lan, f);

        for (size_t i = 0; i < COUNT(marks); i++)
            (void)send_again(&h, marks[i]);
        expect_silence(&lan);
        let_go(&lan, &h);
    }
}

/* Without its route a SYN would go out to the destination. */
static void without_the_policy_route_nothing_leaves(void)
{
    struct lan lan = set_up(&gate, NULL);

    for (unsigned f = 0; f < 2; f++) {
        struct held h = hold_client(&lan, f);

        routes_remove(0);
        (void)send_again(&h, capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT));
        (void)send_again(&h, capture_injected_mark(INJECTED_EARLY_TPROXY, 0));
        expect_silence(&lan);
        CHECK(routes_install(0, NULL, why, sizeof(why)) == 0);
        let_go(&lan, &h);
    }
}

/* A server of this host that listens on all addresses must not get it, either. */
static void an_overwritten_mark_on_the_way_out(void)
{
    struct lan lan = set_up(&gate, NULL);
    int all4 = listen_at("0.0.0.0:80", false), all6 = listen_at("[::]:80", false);

    overwrite_marks_at("output");
    for (unsigned f = 0; f < 2; f++) {
        struct held h = hold_client(&lan, f);

        (void)send_again(&h, capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT));
        expect_silence(&lan);
        CHECK(accept_in(all4, 0) < 0 && accept_in(all6, 0) < 0);
        /* The socket's mark mends it. */
        CHECK(send_again_by(MARK_OF_SOCKET, &h,
                            capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT)) == 0);
        expect_granted(&lan, seat[f], f);
        while (next_held(&seat_log, &h, 0))
            ;
    }
}

static void an_overwritten_mark_on_the_way_in(void)
{
    struct lan lan = set_up(&gate, NULL);

    overwrite_marks_at("prerouting");
    grant(&lan, 0);
    grant(&lan, 1);
    CHECK(packets_at_server(&lan) == 0);
}

/* Before our chain looks, too: that is lost, but nobody else's. */
static void an_overwritten_mark_before_everybody(void)
{
    struct lan lan = set_up(&gate, NULL);
    int all4 = listen_at("0.0.0.0:80", false), all6 = listen_at("[::]:80", false);

    CHECK(system("nft 'table inet theirs { chain pre { type filter hook prerouting priority raw; "
                 "meta mark set 0; }; }'") == 0);
    for (unsigned f = 0; f < 2; f++) {
        struct held h = hold_client(&lan, f);

        (void)send_again(&h, capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT));
        expect_silence(&lan);
        CHECK(accept_in(all4, 0) < 0 && accept_in(all6, 0) < 0);
        let_go(&lan, &h);
    }
}

/* Chains of others between our two. */
static void an_overwritten_priority(void)
{
    struct lan lan = set_up(&gate, NULL);
    int all4 = listen_at("0.0.0.0:80", false), all6 = listen_at("[::]:80", false);

    CHECK(system("nft 'add table inet theirs; add chain inet theirs pre { type filter hook "
                 "prerouting priority 0; }; add rule inet theirs pre meta priority set 1:1'") == 0);
    for (unsigned f = 0; f < 2; f++) {
        struct held h = hold_client(&lan, f);

        (void)send_again(&h, capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT));
        expect_silence(&lan);
        CHECK(accept_in(all4, 0) < 0 && accept_in(all6, 0) < 0);
        let_go(&lan, &h);
    }
}

/* As firewalld has it (IPv6_rpfilter, 10), before everybody, and between our two chains. */
static void a_reverse_path_check(void)
{
    struct lan lan = set_up(&gate, NULL);

    CHECK(system("n=0; for p in -300 -155 10 190; do n=$((n + 1)); nft \"table inet theirs$n { "
                 "chain pre { type filter hook prerouting priority $p; fib saddr . mark . iif oif "
                 "missing drop; }; }\" || exit 1; done") == 0);
    grant(&lan, 0);
    grant(&lan, 1);
    CHECK(packets_at_server(&lan) == 0);
}

static void the_reverse_path_check_of_iptables(void)
{
    struct lan lan = set_up(&gate, NULL);

    if (system("command -v iptables >/dev/null && command -v ip6tables >/dev/null") != 0)
        skip_because("iptables is not installed");
    CHECK(system("for c in iptables ip6tables; do for t in raw mangle; do "
                 "$c -w -t $t -A PREROUTING -m rpfilter --invert -j DROP && "
                 "$c -w -t $t -A PREROUTING -m rpfilter --validmark --invert -j DROP || exit 1; "
                 "done; done") == 0);
    grant(&lan, 0);
    grant(&lan, 1);
    CHECK(packets_at_server(&lan) == 0);
}

static void the_reverse_path_check_of_the_kernel(void)
{
    struct lan lan = set_up(&gate, NULL);

    for (unsigned strict = 1; strict <= 2; strict++) {
        char command[256];

        snprintf(command, sizeof(command),
                 "for i in all default lo lan0; do sysctl -qw net.ipv4.conf.$i.rp_filter=%u "
                 "net.ipv4.conf.$i.src_valid_mark=1 || exit 1; done",
                 strict);
        CHECK(system(command) == 0);
        grant(&lan, 0);
        grant(&lan, 1);
    }
    CHECK(packets_at_server(&lan) == 0);
}

static void the_source_survives_masquerading(void)
{
    struct lan lan = set_up(&gate, NULL);

    masquerade();
    grant(&lan, 0);
    grant(&lan, 1);
}

static void first_match_wins(void)
{
    static const struct port_range direct[] = {{80, 80}}, taken[] = {{82, 82}}, bad[] = {{83, 83}};
    static const struct capture_policy policies[] = {
        {NOT_GATE("direct", CAPTURE_DIRECT), TCP(direct)},
        {GATE("early"), TCP(taken)},
        {NOT_GATE("bad", CAPTURE_REFUSE), TCP(bad)},
        {GATE("gw"), .honest = true},
    };
    static const struct capture_set set = {POLICIES(policies), OWN, TPROXY, SEATS(one_seat)};
    struct lan lan = set_up(&set, NULL);
    struct held h;

    /* An early one comes in by lan0, and is new there. */
    CHECK(system("nft add rule inet firewall in iif lan0 accept") == 0);
    for (unsigned f = 0; f < 2; f++) {
        const char *at82 = f == 0 ? "203.0.113.5:82" : "[2001:db8::5]:82";
        const char *at83 = f == 0 ? "203.0.113.5:83" : "[2001:db8::5]:83";
        const char *at84 = f == 0 ? "203.0.113.5:84" : "[2001:db8::5]:84";

        CHECK(ask(&lan.client, PEER_CONNECT, 1, where[f]) == 0);
        expect_nobody();
        CHECK(ask(&lan.client, PEER_CONNECT, 1, at82) == 0);
        CHECK(accept_in(early[f], PATIENCE_MS) >= 0);
        CHECK(ask(&lan.client, PEER_CONNECT, 1, at83) == -ECONNREFUSED);
        CHECK(!next_held(&seat_log, &h, 0));
        tell(&lan.client, PEER_CONNECT, 1, at84);
        CHECK(next_held(&seat_log, &h, PATIENCE_MS));
        CHECK(rejection(&lan, &h, REJECT_RESET) == -ECONNREFUSED);
    }
}

/* What was held before a reload is answered after it. */
static void a_verdict_comes_after_a_reload(void)
{
    static const struct capture_set others[] = {
        {POLICIES(gate_everything), OWN, TPROXY, SEATS(one_seat)}, /* connects early */
        {POLICIES(gate_refuse), OWN, TPROXY, SEATS(one_seat)},
        {POLICIES(everything), OWN, TPROXY, SEATS(one_seat)}, /* this host's alone */
        {.n_policies = 0},
    };
    struct nft_owner *owner;
    struct lan lan = set_up(&gate, &owner);

    for (unsigned i = 0; i < COUNT(others); i++)
        for (unsigned f = 0; f < 2; f++) {
            replace(owner, &gate);
            struct held h = hold_client(&lan, f);

            replace(owner, &others[i]);
            CHECK(send_again(&h, capture_injected_mark(INJECTED_ACCEPT_TPROXY, SEAT)) == 0);
            expect_granted(&lan, seat[f], f);
        }
    CHECK(packets_at_server(&lan) == 0);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(clients_are_granted)
NETNS_TEST(hasty_resets_are_dropped)
NETNS_TEST(clients_are_rejected)
NETNS_TEST(clients_are_connected_early)
NETNS_TEST(no_route_to_the_destination)
NETNS_TEST(a_verdict_without_rule_is_none)
NETNS_TEST(without_the_policy_route_nothing_leaves)
NETNS_TEST(an_overwritten_mark_on_the_way_out)
NETNS_TEST(an_overwritten_mark_on_the_way_in)
NETNS_TEST(an_overwritten_mark_before_everybody)
NETNS_TEST(an_overwritten_priority)
NETNS_TEST(a_reverse_path_check)
NETNS_TEST(the_reverse_path_check_of_iptables)
NETNS_TEST(the_reverse_path_check_of_the_kernel)
NETNS_TEST(the_source_survives_masquerading)
NETNS_TEST(first_match_wins)
NETNS_TEST(a_verdict_comes_after_a_reload)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clients_are_granted),
        cmocka_unit_test(test_hasty_resets_are_dropped),
        cmocka_unit_test(test_clients_are_rejected),
        cmocka_unit_test(test_clients_are_connected_early),
        cmocka_unit_test(test_no_route_to_the_destination),
        cmocka_unit_test(test_a_verdict_without_rule_is_none),
        cmocka_unit_test(test_without_the_policy_route_nothing_leaves),
        cmocka_unit_test(test_an_overwritten_mark_on_the_way_out),
        cmocka_unit_test(test_an_overwritten_mark_on_the_way_in),
        cmocka_unit_test(test_an_overwritten_mark_before_everybody),
        cmocka_unit_test(test_an_overwritten_priority),
        cmocka_unit_test(test_a_reverse_path_check),
        cmocka_unit_test(test_the_reverse_path_check_of_iptables),
        cmocka_unit_test(test_the_reverse_path_check_of_the_kernel),
        cmocka_unit_test(test_the_source_survives_masquerading),
        cmocka_unit_test(test_first_match_wins),
        cmocka_unit_test(test_a_verdict_comes_after_a_reload),
    };

    return cmocka_run_group_tests_name("nft/hold_gateway", tests, NULL, NULL);
}
