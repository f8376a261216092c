/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which forwarded connections come to our listeners, and what reaches the server nevertheless. */
#include "lan.h"

#include "nft/batch.h"
#include "nft/routes.h"
#include "nft/ruleset.h"

#define LISTENER4 "127.0.0.1:12347" /* as in GATE() */
#define LISTENER6 "[::1]:12348"

static char why[512];

static void replace(struct nft_owner *owner, const struct capture_set *set)
{
    struct nft_ruleset *rs;

    CHECK(nft_ruleset_build(set, &rs) == 0);
    int r = nft_owner_replace(owner, rs, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    if (r < 0)
        fprintf(stderr, "%s\n", why);
    CHECK(r == 0);
    nft_ruleset_free(rs);
}

static struct nft_owner *install(const struct capture_set *set)
{
    struct nft_owner *owner;
    int r = nft_owner_open(&owner, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    replace(owner, set);
    r = routes_install(0, NULL, why, sizeof(why));
    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    return owner;
}

/* Our listeners, which a test may close. */
static int listener4, listener6;

static void open_listeners(void)
{
    listener4 = listen_at(LISTENER4, true);
    listener6 = listen_at(LISTENER6, true);
}

static bool connects(const struct peer *p, const char *where)
{
    int r = ask(p, PEER_CONNECT, 0, where);

    if (r != 0)
        fprintf(stderr, "connecting to %s: %s\n", where, strerror(-r));
    return r == 0;
}

/* The peer's connection to `where` comes to our listener; ours is returned, theirs is in slot 0. */
static int take(const struct peer *p, const char *where)
{
    struct addr to = parse_addr(where);
    int fd = -1;

    CHECK(connects(p, where));
    fd = accept_in(addr_is_v4(&to) ? listener4 : listener6, PATIENCE_MS);
    CHECK(fd >= 0);
    CHECK(local_is(fd, where));
    return fd;
}

static bool arrives(const struct peer *p, const char *where, int ms)
{
    struct addr to = parse_addr(where);

    CHECK(connects(p, where));
    int fd = accept_in(addr_is_v4(&to) ? listener4 : listener6, ms);

    if (fd >= 0) {
        CHECK(local_is(fd, where));
        close(fd);
    }
    CHECK(ask(p, PEER_CLOSE, 0, NULL) == 0);
    return fd >= 0;
}

/* The peer is connected with the SYN's answer, and its last packet may still be on its way to us.
 */
static bool taken(const struct peer *p, const char *where)
{
    return arrives(p, where, PATIENCE_MS);
}

/* What comes late nevertheless is not where the next one expects it. */
static bool left_alone(const struct peer *p, const char *where)
{
    return !arrives(p, where, 0);
}

/* With listeners at the server, so that a connection always succeeds. */
static struct lan lan_with_servers(void)
{
    static const char *const servers[] = {"203.0.113.5:80", "203.0.113.5:81",   "203.0.113.6:80",
                                          "10.9.9.9:80",    "[2001:db8::5]:80", "[2001:db8::5]:81"};
    struct lan lan = make_lan();

    for (unsigned i = 0; i < COUNT(servers); i++)
        CHECK(ask(&lan.server, PEER_LISTEN, i, servers[i]) == 0);
    open_listeners();
    return lan;
}

static const struct port_range port80[] = {{80, 80}};
static const struct prefix only5[] = {NET4(203, 0, 113, 5, 32), NET6(0x2001, 0xdb8, 0, 0, 5, 128)};
static const char *const bridge[] = {"br-lan"};

static void both_families_arrive_as_they_were_sent(void)
{
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY};
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    static const char *const from[] = {"198.18.1.2", "3fff:1::2"};
    struct lan lan = lan_with_servers();

    CHECK(left_alone(&lan.client, where[0]) && left_alone(&lan.client, where[1]));
    int before = packets_at_server(&lan);

    CHECK(before > 0);
    install(&set);
    for (unsigned i = 0; i < 2; i++) {
        int fd = take(&lan.client, where[i]);

        CHECK(peer_is(fd, from[i]));
        CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
        CHECK(recv_in(fd, PATIENCE_MS) == 1);
        CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == 1);
        CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == 1);
        close(fd);
        CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == 0);
        CHECK(ask(&lan.client, PEER_CLOSE, 0, NULL) == 0);
    }
    CHECK(packets_at_server(&lan) == before);
}

static void by_interface(void)
{
    const struct capture_set set = {POLICIES(gate_lan), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    install(&set);
    CHECK(taken(&lan.client, "203.0.113.5:80") && taken(&lan.client, "[2001:db8::5]:80"));
    CHECK(left_alone(&lan.other, "203.0.113.5:80") && left_alone(&lan.other, "[2001:db8::5]:80"));
}

static void set_br_netfilter(bool on)
{
    char line[256];

    /* Not there without br_netfilter, which is as good as off. */
    snprintf(line, sizeof(line),
             "sysctl -qw net.bridge.bridge-nf-call-iptables=%d "
             "net.bridge.bridge-nf-call-ip6tables=%d 2>/dev/null",
             on, on);
    (void)!system(line);
}

static void by_bridge(void)
{
    static const struct capture_policy policies[] = {{GATE("gw"), IFS(bridge)}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    if (system("ip link add br-lan type bridge 2>/dev/null") != 0)
        skip_because("no bridges here");
    CHECK(system("set -e; ip addr flush dev lan0; ip link set br-lan up; "
                 "ip link set lan0 master br-lan; ip addr add 198.18.1.1/24 dev br-lan; "
                 "ip addr add 3fff:1::1/64 dev br-lan nodad; " ADDRESSES_SETTLE) == 0);
    install(&set);
    /* br_netfilter takes the socket away that tproxy has found: nothing works, and nothing leaks.
     */
    if (access("/proc/sys/net/bridge/bridge-nf-call-iptables", F_OK) == 0) {
        set_br_netfilter(true);
        CHECK(ask_from(&lan.client, PEER_CONNECT, 0, "203.0.113.5:80", NULL, 1500) < 0);
        CHECK(packets_at_server(&lan) == 0);
    }
    set_br_netfilter(false);
    CHECK(taken(&lan.client, "203.0.113.5:80") && taken(&lan.client, "[2001:db8::5]:80"));
    CHECK(left_alone(&lan.other, "203.0.113.5:80"));
}

static void by_vlan(void)
{
    static const char *const vlan[] = {"lan0.7"};
    static const struct capture_policy policies[] = {{GATE("gw"), IFS(vlan)}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    if (system("ip link add link lan0 name lan0.7 type vlan id 7 2>/dev/null") != 0)
        skip_because("no VLANs here");
    in_peer(&lan.client, "ip link add link eth0 name eth0.7 type vlan id 7; ip link set eth0.7 up; "
                         "ip addr add 198.18.7.2/24 dev eth0.7; "
                         "ip route add 203.0.113.6/32 via 198.18.7.1");
    CHECK(system("ip link set lan0.7 up; ip addr add 198.18.7.1/24 dev lan0.7") == 0);
    install(&set);
    CHECK(taken(&lan.client, "203.0.113.6:80"));
    CHECK(left_alone(&lan.client, "203.0.113.5:80"));
}

static void by_destination_and_port(void)
{
    static const struct capture_policy to[] = {{GATE("gw"), TO(only5), TCP(port80)}};
    static const struct capture_policy not_to[] = {{GATE("gw"), NOT_TO(only5), .private = true}};
    const struct capture_set first = {POLICIES(to), OWN, TPROXY};
    const struct capture_set second = {POLICIES(not_to), OWN, TPROXY};
    struct lan lan = lan_with_servers();
    struct nft_owner *owner = install(&first);

    CHECK(taken(&lan.client, "203.0.113.5:80") && taken(&lan.client, "[2001:db8::5]:80"));
    CHECK(left_alone(&lan.client, "203.0.113.5:81") && left_alone(&lan.client, "[2001:db8::5]:81"));
    CHECK(left_alone(&lan.client, "203.0.113.6:80"));
    replace(owner, &second);
    CHECK(left_alone(&lan.client, "203.0.113.5:80") && left_alone(&lan.client, "[2001:db8::5]:81"));
    CHECK(taken(&lan.client, "203.0.113.6:80"));
    CHECK(taken(&lan.client, "10.9.9.9:80"));
}

static void default_exclusions(void)
{
    static const struct addr upstreams[] = {AT4(203, 0, 113, 5, 81),
                                            AT6(0x2001, 0xdb8, 0, 0, 5, 81)};
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY, .upstreams = upstreams,
                                    .n_upstreams = COUNT(upstreams)};
    struct lan lan = lan_with_servers();

    install(&set);
    CHECK(left_alone(&lan.client, "10.9.9.9:80"));
    CHECK(left_alone(&lan.client, "203.0.113.5:81") && left_alone(&lan.client, "[2001:db8::5]:81"));
    CHECK(taken(&lan.client, "203.0.113.5:80") && taken(&lan.client, "[2001:db8::5]:80"));
}

/* The administrator's own table marks before we look. */
static void by_the_administrators_mark(void)
{
    static const struct capture_policy policies[] = {{GATE("gw"), .has_mark = true, .mark = 0x51}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    CHECK(system("nft 'table inet mine { chain pre { type filter hook prerouting priority -160; "
                 "tcp dport 80 ip daddr 203.0.113.5 meta mark set 0x51; }; }'") == 0);
    install(&set);
    CHECK(taken(&lan.client, "203.0.113.5:80"));
    CHECK(left_alone(&lan.client, "203.0.113.5:81") && left_alone(&lan.client, "203.0.113.6:80"));
}

static void first_match_wins(void)
{
    static const struct capture_policy policies[] = {
        {NOT_GATE("direct", CAPTURE_DIRECT), TO(only5), TCP(port80)},
        {.name = "second", .hook = CAPTURE_GATEWAY, TO(only5), .port_v4 = 12355, .port_v6 = 12356},
        {GATE("rest")},
    };
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = lan_with_servers();
    int second = listen_at("127.0.0.1:12355", true);

    install(&set);
    CHECK(left_alone(&lan.client, "203.0.113.5:80"));
    CHECK(taken(&lan.client, "203.0.113.6:80"));
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "203.0.113.5:81") == 0);
    int fd = accept_in(second, PATIENCE_MS);

    CHECK(fd >= 0 && local_is(fd, "203.0.113.5:81"));
}

/* The gateway's own services, also at an address that a capture selects. */
static void own_addresses_are_left_alone(void)
{
    const struct capture_set set = {POLICIES(gate_private), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    CHECK(system("ip addr add 203.0.113.77/32 dev lo; ip addr add 2001:db8::77/128 dev lo "
                 "nodad; " ADDRESSES_SETTLE) == 0);
    int here4 = listen_at("0.0.0.0:22", false), here6 = listen_at("[::]:22", false);

    install(&set);
    static const char *const own4[] = {"198.18.1.1:22", "198.18.9.1:22", "203.0.113.77:22"};
    static const char *const own6[] = {"[3fff:1::1]:22", "[2001:db8::77]:22"};

    for (unsigned i = 0; i < COUNT(own4); i++) {
        CHECK(left_alone(&lan.client, own4[i]));
        CHECK(accept_in(here4, PATIENCE_MS) >= 0);
    }
    for (unsigned i = 0; i < COUNT(own6); i++) {
        CHECK(left_alone(&lan.client, own6[i]));
        CHECK(accept_in(here6, PATIENCE_MS) >= 0);
    }
    CHECK(taken(&lan.client, "203.0.113.5:80"));
}

static void refused_means_reset(void)
{
    static const struct capture_policy policies[] = {
        {NOT_GATE("bad", CAPTURE_REFUSE), TO(only5)},
        {.name = "half", .hook = CAPTURE_GATEWAY, .port_v4 = 12347}, /* no IPv6 listener */
    };
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    install(&set);
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "203.0.113.5:80") == -ECONNREFUSED);
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "[2001:db8::5]:80") == -ECONNREFUSED);
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "[2001:db8::99]:80") == -ECONNREFUSED);
    CHECK(taken(&lan.client, "203.0.113.6:80"));
    CHECK(packets_at_server(&lan) == 0);
}

/* Whoever writes another source gets the gateway to send nothing there, neither SYN-ACK nor reset.
 */
static void forged_sources_are_answered_by_nobody(void)
{
    static const char *const links[] = {"lan0", "lan1"};
    static const struct capture_policy any[] = {
        {NOT_GATE("bad", CAPTURE_REFUSE), TO(only5)},
        {GATE("gw")},
    };
    static const struct capture_policy named[] = {
        {NOT_GATE("bad", CAPTURE_REFUSE), IFS(links), TO(only5)},
        {GATE("gw"), IFS(links)},
    };
    const struct capture_set sets[] = {{POLICIES(any), OWN, TPROXY},
                                       {POLICIES(named), OWN, TPROXY}};
    static const char *const where[] = {"203.0.113.5:80", "203.0.113.6:80", "[2001:db8::5]:80",
                                        "[2001:db8::6]:80"};
    static const char *const server[] = {"203.0.113.77:0", "[2001:db8::77]:0"};
    struct lan lan = lan_with_servers();
    struct nft_owner *owner = install(&sets[0]);

    in_peer(&lan.client, "ip addr add 203.0.113.77/32 dev lo; "
                         "ip addr add 2001:db8::77/128 dev lo nodad; " ADDRESSES_SETTLE);
    for (unsigned i = 0; i < COUNT(sets); i++) {
        replace(owner, &sets[i]);
        for (unsigned k = 0; k < COUNT(where); k++)
            CHECK(ask_from(&lan.client, PEER_CONNECT, 0, where[k], server[k / 2], 100) ==
                  -ETIMEDOUT);
        CHECK(taken(&lan.client, "203.0.113.6:80") && taken(&lan.client, "[2001:db8::6]:80"));
        CHECK(packets_at_server(&lan) == 0);
    }
}

/* `tproxy` to a port where nobody listens lets the packet go on. */
static void nothing_leaks_without_a_listener(void)
{
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    install(&set);
    close(listener4);
    close(listener6);
    /* Long enough for the first retransmission. */
    CHECK(ask_from(&lan.client, PEER_CONNECT, 0, "203.0.113.5:80", NULL, 1500) == -ETIMEDOUT);
    CHECK(ask_from(&lan.client, PEER_CONNECT, 0, "[2001:db8::5]:80", NULL, 1500) == -ETIMEDOUT);
    CHECK(packets_at_server(&lan) == 0);
    listener4 = listen_at(LISTENER4, true);
    CHECK(taken(&lan.client, "203.0.113.5:80"));
}

static void older_connections_go_on(void)
{
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    static const unsigned listener[] = {0, 4};
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    for (unsigned i = 0; i < 2; i++) {
        /* The server keeps its side in the listener's slot, the client in its own. */
        CHECK(ask(&lan.client, PEER_CONNECT, i, where[i]) == 0);
        CHECK(ask(&lan.server, PEER_ACCEPT, listener[i], NULL) == 0);
    }
    install(&set);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(ask(&lan.client, PEER_SEND, i, NULL) == 0);
        CHECK(ask(&lan.server, PEER_RECV, listener[i], NULL) == 1);
        CHECK(ask(&lan.server, PEER_SEND, listener[i], NULL) == 0);
        CHECK(ask(&lan.client, PEER_RECV, i, NULL) == 1);
    }
    CHECK(taken(&lan.client, "203.0.113.5:81"));
}

/* Neither another selection nor none at all cuts what was taken. */
static void connections_outlive_a_reload(void)
{
    static const char *const elsewhere[] = {"lan1"};
    static const struct capture_policy other[] = {{GATE("gw"), IFS(elsewhere)}};
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY};
    const struct capture_set changed = {POLICIES(other), OWN, TPROXY};
    const struct capture_set none = {OWN, TPROXY};
    const struct capture_set *const sets[] = {&set, &changed, &none};
    struct lan lan = lan_with_servers();
    struct nft_owner *owner = install(&set);

    /* A shortcut of the kernel past routing, which hides for a while what the rules lack. */
    CHECK(system("sysctl -qw net.ipv4.ip_early_demux=0") == 0);
    int fd = take(&lan.client, "203.0.113.5:80");

    for (unsigned i = 0; i < COUNT(sets); i++) {
        replace(owner, sets[i]);
        CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
        CHECK(recv_in(fd, PATIENCE_MS) == 1);
        CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == 1);
        CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == 1);
    }
    CHECK(packets_at_server(&lan) == 0);
    CHECK(left_alone(&lan.client, "203.0.113.5:81"));
}

/* Somebody removes it, and a reload leaves no capture: packets wait until it is back. */
static void nothing_leaks_without_the_policy_route(void)
{
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY}, none = {OWN, TPROXY};
    const struct capture_set *const sets[] = {&set, &none};
    struct lan lan = lan_with_servers();
    struct nft_owner *owner = install(&set);

    CHECK(system("sysctl -qw net.ipv4.ip_early_demux=0") == 0);
    for (unsigned i = 0; i < COUNT(where); i++) {
        replace(owner, &set);
        int fd = take(&lan.client, where[i]);

        for (unsigned k = 0; k < COUNT(sets); k++) {
            replace(owner, sets[k]);
            routes_remove(0);
            CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
            CHECK(routes_install(0, NULL, why, sizeof(why)) == 0);
            CHECK(recv_in(fd, PATIENCE_MS) == 1);
        }
        close(fd);
        CHECK(ask(&lan.client, PEER_CLOSE, 0, NULL) == 0);
    }
    CHECK(packets_at_server(&lan) == 0);
}

/* Somebody marks what comes from the clients, behind us: it is routed by his mark. */
static void nothing_leaks_by_the_marks_of_others(void)
{
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY}, none = {OWN, TPROXY};
    const struct capture_set *const sets[] = {&set, &none};
    struct lan lan = lan_with_servers();
    struct nft_owner *owner = install(&set);

    CHECK(system("sysctl -qw net.ipv4.ip_early_demux=0") == 0);
    for (unsigned i = 0; i < COUNT(where); i++) {
        replace(owner, &set);
        int fd = take(&lan.client, where[i]);

        for (unsigned k = 0; k < COUNT(sets); k++) {
            replace(owner, sets[k]);
            CHECK(system("nft 'table inet others { chain pre { type filter hook prerouting "
                         "priority 0; iifname lan0 meta mark set 7; }; }'") == 0);
            CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
            CHECK(system("nft delete table inet others") == 0);
            CHECK(recv_in(fd, PATIENCE_MS) == 1);
        }
        close(fd);
        CHECK(ask(&lan.client, PEER_CLOSE, 0, NULL) == 0);
    }
    CHECK(packets_at_server(&lan) == 0);
}

/*
 * A worker died, and its reset did not reach the client, which goes on sending. To connection
 * tracking this is a connection like those that are forwarded.
 */
static void orphaned_packets_are_reset(void)
{
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    static const struct linger now = {.l_onoff = 1};
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    install(&set);
    for (unsigned i = 0; i < 2; i++) {
        int fd = take(&lan.client, where[i]);

        CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
        CHECK(system("nft 'table inet lossy { chain out { type filter hook output priority 0; tcp "
                     "flags & rst == rst drop; }; }'") == 0);
        close(fd);
        CHECK(system("nft delete table inet lossy") == 0);
        CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
        CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == -ECONNRESET);
        CHECK(ask(&lan.client, PEER_CLOSE, 0, NULL) == 0);
    }
    CHECK(packets_at_server(&lan) == 0);
}

/* Somebody else's transparent listener on every address is not the socket of a forwarded packet. */
static void foreign_transparent_listeners_take_nothing(void)
{
    const struct capture_set set = {POLICIES(gate_lan), OWN, TPROXY}; /* not lan1 */
    struct lan lan = lan_with_servers();
    int foreign = listen_at("0.0.0.0:80", true);

    install(&set);
    CHECK(ask(&lan.other, PEER_CONNECT, 0, "203.0.113.5:80") == 0);
    CHECK(ask(&lan.server, PEER_ACCEPT, 0, NULL) == 0);
    CHECK(ask(&lan.other, PEER_SEND, 0, NULL) == 0);
    CHECK(ask(&lan.server, PEER_RECV, 0, NULL) == 1);
    CHECK(accept_in(foreign, 0) < 0);
    CHECK(taken(&lan.client, "203.0.113.5:80"));
}

/* The same addresses and ports again, while the kernel still remembers the connection before. */
static void a_port_is_used_again(void)
{
    const struct capture_set set = {POLICIES(gate_everything), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    install(&set);
    for (unsigned i = 0; i < 5; i++) {
        CHECK(ask_from(&lan.client, PEER_CONNECT, 0, "203.0.113.5:80", "198.18.1.2:40000",
                       PATIENCE_MS) == 0);
        int fd = accept_in(listener4, PATIENCE_MS);

        CHECK(fd >= 0);
        /* Our side closes first and remembers. */
        close(fd);
        CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == 0);
        CHECK(ask(&lan.client, PEER_CLOSE, 0, NULL) == 0);
    }
    CHECK(packets_at_server(&lan) == 0);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(both_families_arrive_as_they_were_sent)
NETNS_TEST(by_interface)
NETNS_TEST(by_bridge)
NETNS_TEST(by_vlan)
NETNS_TEST(by_destination_and_port)
NETNS_TEST(default_exclusions)
NETNS_TEST(by_the_administrators_mark)
NETNS_TEST(first_match_wins)
NETNS_TEST(own_addresses_are_left_alone)
NETNS_TEST(refused_means_reset)
NETNS_TEST(forged_sources_are_answered_by_nobody)
NETNS_TEST(nothing_leaks_without_a_listener)
NETNS_TEST(older_connections_go_on)
NETNS_TEST(connections_outlive_a_reload)
NETNS_TEST(nothing_leaks_without_the_policy_route)
NETNS_TEST(nothing_leaks_by_the_marks_of_others)
NETNS_TEST(orphaned_packets_are_reset)
NETNS_TEST(foreign_transparent_listeners_take_nothing)
NETNS_TEST(a_port_is_used_again)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_families_arrive_as_they_were_sent),
        cmocka_unit_test(test_by_interface),
        cmocka_unit_test(test_by_bridge),
        cmocka_unit_test(test_by_vlan),
        cmocka_unit_test(test_by_destination_and_port),
        cmocka_unit_test(test_default_exclusions),
        cmocka_unit_test(test_by_the_administrators_mark),
        cmocka_unit_test(test_first_match_wins),
        cmocka_unit_test(test_own_addresses_are_left_alone),
        cmocka_unit_test(test_refused_means_reset),
        cmocka_unit_test(test_forged_sources_are_answered_by_nobody),
        cmocka_unit_test(test_nothing_leaks_without_a_listener),
        cmocka_unit_test(test_older_connections_go_on),
        cmocka_unit_test(test_connections_outlive_a_reload),
        cmocka_unit_test(test_nothing_leaks_without_the_policy_route),
        cmocka_unit_test(test_nothing_leaks_by_the_marks_of_others),
        cmocka_unit_test(test_orphaned_packets_are_reset),
        cmocka_unit_test(test_foreign_transparent_listeners_take_nothing),
        cmocka_unit_test(test_a_port_is_used_again),
    };

    return cmocka_run_group_tests_name("nft/gateway", tests, NULL, NULL);
}
