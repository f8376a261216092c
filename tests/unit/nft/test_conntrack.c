/* SPDX-License-Identifier: GPL-2.0-or-later */
/* established = "reset": which of the connections that are older than the rules go on. */
#include "lan.h"

#include "nft/batch.h"
#include "nft/conntrack.h"
#include "nft/routes.h"
#include "nft/ruleset.h"

static char why[512];

static struct nft_owner *install(const struct capture_set *set, unsigned *ret_n)
{
    struct nft_owner *owner;
    struct nft_ruleset *rs;
    int r = nft_owner_open(&owner, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    CHECK(nft_ruleset_build(set, &rs) == 0);
    CHECK(nft_owner_replace(owner, rs, why, sizeof(why)) == 0);
    nft_ruleset_free(rs);
    if (set->tproxy_mark != 0)
        CHECK(routes_install(0, NULL, why, sizeof(why)) == 0);
    r = conntrack_flush_selected(set, why, sizeof(why), ret_n);
    if (r == -EOPNOTSUPP)
        skip_because(why);
    if (r < 0)
        fprintf(stderr, "%s\n", why);
    CHECK(r == 0);
    return owner;
}

static const char *const servers[] = {"203.0.113.5:80", "203.0.113.5:81", "[2001:db8::5]:80",
                                      "[2001:db8::5]:81"};

static struct lan tracked_lan(void)
{
    struct lan lan = make_lan();

    for (unsigned i = 0; i < COUNT(servers); i++)
        CHECK(ask(&lan.server, PEER_LISTEN, i, servers[i]) == 0);
    /* Somebody else's rule, by which the kernel tracks connections before we come. */
    CHECK(system("nft 'table inet tracks { chain pre { type filter hook prerouting priority 0; ct "
                 "state invalid counter; }; }'") == 0);
    return lan;
}

static const struct port_range port80[] = {{80, 80}};
static const struct port_range port81[] = {{81, 81}};

/* The server speaks first: that must reach the client, whose answer meets the reset. */
static void a_forwarded_connection_is_reset(void)
{
    static const struct capture_policy policies[] = {
        {NOT_GATE("quiet", CAPTURE_DIRECT), TCP(port81)}, {GATE("gw"), .reset_established = true}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = tracked_lan();
    unsigned n = 99;

    for (unsigned i = 0; i < COUNT(servers); i++) {
        CHECK(ask(&lan.client, PEER_CONNECT, i, servers[i]) == 0);
        CHECK(ask(&lan.server, PEER_ACCEPT, i, NULL) == 0);
    }
    install(&set, &n);
    CHECK(n == 2);
    for (unsigned i = 0; i < COUNT(servers); i++) {
        CHECK(ask(&lan.server, PEER_SEND, i, NULL) == 0);
        if (i % 2 == 0) {
            /* The byte may have come before the reset that its acknowledgement was answered with,
             * and a reset throws away what is unread. */
            int r = ask(&lan.client, PEER_RECV, i, NULL);

            if (r == 1)
                r = ask(&lan.client, PEER_RECV, i, NULL);
            CHECK(r == -ECONNRESET);
            continue;
        }
        CHECK(ask(&lan.client, PEER_RECV, i, NULL) == 1);
        CHECK(ask(&lan.client, PEER_SEND, i, NULL) == 0);
        CHECK(ask(&lan.server, PEER_RECV, i, NULL) == 1);
    }
}

static void the_clients_own_packet_is_answered(void)
{
    static const struct capture_policy policies[] = {
        {GATE("gw"), IFS(lan_if), TCP(port80), .reset_established = true}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = tracked_lan();
    int listener = listen_at("127.0.0.1:12347", true);

    CHECK(ask_from(&lan.client, PEER_CONNECT, 0, servers[0], "198.18.1.2:40000", PATIENCE_MS) == 0);
    CHECK(ask(&lan.server, PEER_ACCEPT, 0, NULL) == 0);
    /* The same destination, from an interface that is not selected: only the rules can tell. */
    CHECK(ask(&lan.other, PEER_CONNECT, 0, servers[0]) == 0);
    CHECK(ask(&lan.server, PEER_ACCEPT, 0, NULL) == 0);
    install(&set, NULL);
    int before = packets_at_server(&lan);

    CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
    CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == -ECONNRESET);
    CHECK(packets_at_server(&lan) == before);
    CHECK(ask(&lan.other, PEER_SEND, 0, NULL) == 0);
    CHECK(ask(&lan.server, PEER_RECV, 0, NULL) == 1);
    /* And now by way of us, with the very same ports. */
    CHECK(ask(&lan.client, PEER_CLOSE, 0, NULL) == 0);
    CHECK(ask_from(&lan.client, PEER_CONNECT, 0, servers[0], "198.18.1.2:40000", PATIENCE_MS) == 0);
    int fd = accept_in(listener, PATIENCE_MS);

    CHECK(fd >= 0);
    CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0 && recv_in(fd, PATIENCE_MS) == 1);
}

static void a_connection_of_the_host_is_reset(void)
{
    static const struct capture_policy policies[] = {
        {PROXY("host"), TCP(port80), .reset_established = true}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = tracked_lan();
    int fd[COUNT(servers)], own;
    unsigned n = 0;

    for (unsigned i = 0; i < COUNT(servers); i++) {
        fd[i] = connect_in(servers[i], NULL, 0, PATIENCE_MS);
        CHECK(fd[i] >= 0 && ask(&lan.server, PEER_ACCEPT, i, NULL) == 0);
    }
    int gone = fd[0];

    install(&set, &n);
    CHECK(n == 2);
    for (unsigned i = 0; i < COUNT(servers); i++) {
        if (i % 2 == 0) {
            CHECK(send(fd[i], "x", 1, MSG_NOSIGNAL) == 1);
            CHECK(recv_in(fd[i], PATIENCE_MS) == -ECONNRESET);
            continue;
        }
        CHECK(send(fd[i], "x", 1, MSG_NOSIGNAL) == 1);
        CHECK(ask(&lan.server, PEER_RECV, i, NULL) == 1);
    }
    (void)gone;
    /* A connection of the daemon itself. */
    own = connect_in(servers[0], NULL, CAPTURE_OWN_MARK, PATIENCE_MS);
    CHECK(own >= 0 && ask(&lan.server, PEER_ACCEPT, 0, NULL) == 0);
    CHECK(conntrack_flush_selected(&set, why, sizeof(why), NULL) == 0);
    CHECK(send(own, "x", 1, MSG_NOSIGNAL) == 1 && ask(&lan.server, PEER_RECV, 0, NULL) == 1);
}

/* The same ports again, while the kernel still remembers the connection that was ended. */
static void a_port_of_the_host_is_used_again(void)
{
    static const struct capture_policy policies[] = {{PROXY("host"), .reset_established = true}};
    const struct capture_set set = {POLICIES(policies), OWN};
    static const char *const from[] = {"198.18.9.1:40000", "[3fff:9::1]:40000"};
    struct lan lan = tracked_lan();

    listen_at("127.0.0.1:12345", false);
    listen_at("[::1]:12346", false);
    int fd[2];

    for (unsigned i = 0; i < 2; i++) {
        fd[i] = connect_in(servers[2 * i], from[i], 0, PATIENCE_MS);
        CHECK(fd[i] >= 0 && ask(&lan.server, PEER_ACCEPT, 2 * i, NULL) == 0);
    }
    install(&set, NULL);
    int before = packets_at_server(&lan);

    for (unsigned i = 0; i < 2; i++) {
        CHECK(send(fd[i], "x", 1, MSG_NOSIGNAL) == 1);
        CHECK(recv_in(fd[i], PATIENCE_MS) == -ECONNRESET);
        close(fd[i]);
        CHECK(connect_in(servers[2 * i], from[i], 0, 1500) == -ETIMEDOUT);
    }
    CHECK(packets_at_server(&lan) == before);
}

static void what_we_have_taken_is_left_alone(void)
{
    static const struct capture_policy policies[] = {{PROXY("host"), .reset_established = true},
                                                     {GATE("gw"), .reset_established = true}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = tracked_lan();
    int listener = listen_at("127.0.0.1:12345", false), gate = listen_at("127.0.0.1:12347", true);
    unsigned n = 99;

    install(&set, NULL);
    int fd = connect_in(servers[0], NULL, 0, PATIENCE_MS), ours = accept_in(listener, PATIENCE_MS);

    CHECK(ask(&lan.client, PEER_CONNECT, 0, servers[0]) == 0);
    int taken = accept_in(gate, PATIENCE_MS);

    CHECK(fd >= 0 && ours >= 0 && taken >= 0);
    CHECK(conntrack_flush_selected(&set, why, sizeof(why), &n) == 0);
    CHECK(n == 0);
    CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == 1 && recv_in(ours, PATIENCE_MS) == 1);
    CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0 && recv_in(taken, PATIENCE_MS) == 1);
}

static void nothing_is_touched_unless_asked(void)
{
    static const struct capture_policy policies[] = {
        {NOT_GATE("quiet", CAPTURE_DIRECT), TCP(port80)},
        {GATE("gw"), TO(net4)},
        {GATE("rest"), TO(net46), .reset_established = true}};
    const struct capture_set keeps = {.policies = policies, .n_policies = 2, OWN, TPROXY};
    const struct capture_set resets = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = tracked_lan();
    unsigned n = 99;

    for (unsigned i = 0; i < COUNT(servers); i++)
        CHECK(ask(&lan.client, PEER_CONNECT, i, servers[i]) == 0);
    CHECK(conntrack_flush_selected(&keeps, why, sizeof(why), &n) == 0);
    CHECK(n == 0);
    /* The first two captures come before it, and leave only IPv6 and port 81. */
    CHECK(conntrack_flush_selected(&resets, why, sizeof(why), &n) == 0);
    CHECK(n == 1);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(a_forwarded_connection_is_reset)
NETNS_TEST(the_clients_own_packet_is_answered)
NETNS_TEST(a_connection_of_the_host_is_reset)
NETNS_TEST(a_port_of_the_host_is_used_again)
NETNS_TEST(what_we_have_taken_is_left_alone)
NETNS_TEST(nothing_is_touched_unless_asked)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_forwarded_connection_is_reset),
        cmocka_unit_test(test_the_clients_own_packet_is_answered),
        cmocka_unit_test(test_a_connection_of_the_host_is_reset),
        cmocka_unit_test(test_a_port_of_the_host_is_used_again),
        cmocka_unit_test(test_what_we_have_taken_is_left_alone),
        cmocka_unit_test(test_nothing_is_touched_unless_asked),
    };

    return cmocka_run_group_tests_name("nft/conntrack", tests, NULL, NULL);
}
