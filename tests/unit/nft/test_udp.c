/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UDP that is taken, rejected and left alone, by every hook. */
#include "udp_rig.h"

#include <net/if.h>
#include <sys/stat.h>

#include "nft/guard.h"
#include "nft/probe.h"

static const char *const far[] = {"203.0.113.5:443", "[2001:db8::5]:443"};
static const char *const stranger[] = {"203.0.113.6:3478", "[2001:db8::6]:3478"};
static const sa_family_t family_of[] = {AF_INET, AF_INET6};

static int listener[2];

static struct lan set_up(void)
{
    struct lan lan = make_lan();

    listener[0] = listen_udp("127.0.0.1:14001");
    listener[1] = listen_udp("[::1]:14002");
    watch_leaks();
    return lan;
}

static void put_in_force(const struct capture_set *set)
{
    static struct nft_owner *owner;

    if (!owner) {
        owner = install(set);
        CHECK(routes_install(set->instance, NULL, why, sizeof(why)) == 0);
    } else {
        replace(owner, set);
    }
}

/* What the application sends reaches the listener with both addresses, and its answer comes back.
 */
static bool goes_round(int app, int at, const char *where, const char *as)
{
    struct datagram d;
    struct addr expected = parse_addr(where);

    if (!next_datagram(at, &d, PATIENCE_MS))
        return false;
    CHECK(addr_equal(&d.to, &expected) && strcmp(d.data, "ask") == 0);
    answer_as(&d.to, &d.from, "answer", CAPTURE_OWN_MARK);
    return receives(app, as, "answer");
}

static bool nothing_at(int fd)
{
    struct datagram d;

    return !next_datagram(fd, &d, QUIET_MS);
}

static bool is_taken(const char *where)
{
    int v6 = where[0] == '[', app = udp_socket(family_of[v6]);
    int r = send_to(app, family_of[v6], where);
    struct datagram d;
    bool taken = r == 0 && next_datagram(listener[v6], &d, QUIET_MS);

    close(app);
    return taken;
}

/* -ECONNREFUSED at once, by ICMP. */
static int refused(const char *where)
{
    int app = udp_to(where, 0);

    if (send(app, "ask", 3, 0) < 0)
        CHECK(errno == EPERM || errno == ECONNREFUSED);
    int r = recv_in(app, QUIET_MS);

    close(app);
    return r;
}

/* Of both families, as firewalld has it for IPv6 (10), before everybody, and around our chains. */
static void check_reverse_paths(void)
{
    CHECK(system("n=0; for p in -300 -155 10 190; do n=$((n + 1)); nft \"table inet paths$n { "
                 "chain pre { type filter hook prerouting priority $p; fib saddr . mark . iif oif "
                 "missing drop; }; }\" || exit 1; done") == 0);
}

/* A chain of somebody's between our two, in the place of what was there. */
static void others_set(const char *statements)
{
    char command[512];

    snprintf(
        command, sizeof(command),
        "nft 'add table inet theirs; delete table inet theirs; add table inet theirs; add chain "
        "inet theirs pre { type filter hook prerouting priority 0; }; add rule inet theirs pre "
        "iifname lo %s'",
        statements);
    CHECK(system(command) == 0);
}

/* ---- this host ---- */

static void both_families_go_round(void)
{
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();

    (void)lan;
    CHECK(
        system("for i in all default lo wan0; do sysctl -qw net.ipv4.conf.$i.rp_filter=1; done") ==
        0);
    put_in_force(&set);
    for (unsigned round = 0; round < 3; round++) {
        /* All kinds of sockets, also where others filter and translate. */
        for (unsigned i = 0; i < 2; i++) {
            int connected = udp_to(far[i], 0), free = udp_socket(family_of[i]);

            CHECK(send(connected, "ask", 3, 0) == 3);
            CHECK(goes_round(connected, listener[i], far[i], far[i]));
            CHECK(send(connected, "ask", 3, 0) == 3);
            CHECK(goes_round(connected, listener[i], far[i], far[i]));
            CHECK(send_to(free, family_of[i], far[i]) == 0);
            CHECK(goes_round(free, listener[i], far[i], far[i]));
            CHECK(send_to(free, family_of[i], stranger[i]) == 0);
            CHECK(goes_round(free, listener[i], stranger[i], stranger[i]));
            close(connected);
            close(free);
        }
        int mapped = udp_socket(AF_INET6);

        CHECK(send_to(mapped, AF_INET6, far[0]) == 0);
        CHECK(goes_round(mapped, listener[0], far[0], far[0]));
        close(mapped);
        if (round == 0)
            put_up_firewall();
        if (round == 1) {
            masquerade();
            CHECK(system("nft 'table inet theirs_dnat { chain out { type nat hook output priority "
                         "-100; udp dport 443 dnat ip to 203.0.113.6:53; udp dport 443 dnat ip6 to "
                         "[2001:db8::6]:53; }; }'") == 0);
        }
    }
    CHECK(leaks() == 0);
}

static void reverse_paths_are_checked(void)
{
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();

    (void)lan;
    check_reverse_paths();
    put_in_force(&set);
    for (unsigned i = 0; i < 2; i++) {
        int app = udp_to(far[i], 0);

        for (unsigned k = 0; k < 2; k++) {
            CHECK(send(app, "ask", 3, 0) == 3);
            CHECK(goes_round(app, listener[i], far[i], far[i]));
        }
        close(app);
    }
    CHECK(leaks() == 0);
}

/* A mark is not needed any more; what has lost its priority reaches nobody. */
static void marks_and_priorities_of_others(void)
{
    static const char *const harmful[] = {"meta priority set 1:1",
                                          "meta priority set 1:1 meta mark set 7"};
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();
    int here[] = {udp_socket(AF_INET), udp_socket(AF_INET6)};

    (void)lan;
    for (unsigned i = 0; i < 2; i++) {
        struct addr any = parse_addr(i == 0 ? "0.0.0.0:443" : "[::]:443");
        struct sockaddr_storage ss;
        socklen_t len = addr_to_sockaddr(&any, &ss);
        int one = 1;

        if (i == 1)
            CHECK(setsockopt(here[i], SOL_IPV6, IPV6_V6ONLY, &one, sizeof(one)) == 0);
        CHECK(bind(here[i], (struct sockaddr *)&ss, len) == 0);
    }
    put_in_force(&set);
    others_set("meta mark set 7");
    CHECK(is_taken(far[0]) && is_taken(far[1]));
    for (unsigned k = 0; k < COUNT(harmful); k++) {
        others_set(harmful[k]);
        for (unsigned i = 0; i < 2; i++) {
            CHECK(!is_taken(far[i]));
            CHECK(recv_in(here[i], QUIET_MS) == -ETIMEDOUT);
        }
    }
    /* With its own address nothing is selected, and comes by lo all the same. */
    int near = udp_to("198.18.9.1:443", 0);

    CHECK(send(near, "x", 1, 0) == 1 && recv_in(here[0], PATIENCE_MS) == 1);
    close(near);
    CHECK(leaks() == 0);
}

/* Chains behind ours that set a mark, and route again by it: nothing gets out. A priority that
 * others set does no harm to what has the mark. */
static void routed_by_others_at_output(void)
{
    static const struct {
        const char *chain, *statement;
        bool taken;
    } theirs[] = {
        {"type route hook output priority -124", "meta mark set 7", false},
        {"type route hook output priority 0", "meta mark set 7", false},
        {"type route hook output priority 300", "meta mark set 7", false},
        {"type filter hook postrouting priority -150", "meta priority set 1:1", false},
        {"type filter hook output priority 0", "meta priority set 1:1", true},
    };
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();
    char command[256];

    (void)lan;
    put_in_force(&set);
    CHECK(system("nft add table inet theirs") == 0);
    for (unsigned k = 0; k < COUNT(theirs); k++) {
        /* The fourth comes beside the third. */
        snprintf(command, sizeof(command),
                 "%s nft 'add chain inet theirs c%u { %s; }; add rule inet theirs c%u %s'",
                 k == 3 ? "" : "nft flush table inet theirs;", k, theirs[k].chain, k,
                 theirs[k].statement);
        CHECK(system(command) == 0);
        for (unsigned i = 0; i < 2; i++) {
            int app = udp_socket(family_of[i]);

            CHECK(theirs[k].taken ? is_taken(far[i])
                                  : send_to(app, family_of[i], far[i]) == -EPERM);
            close(app);
        }
    }
    CHECK(leaks() == 0);
}

/* Datagrams above the MTU, and those that QUIC leaves to the kernel to cut. */
static void large_datagrams_stay_whole(void)
{
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE}};
    const struct capture_set set = {POLICIES(policies), OWN};
    static char data[8000];
    struct lan lan = set_up();

    (void)lan;
    put_in_force(&set);
    for (unsigned i = 0; i < 2; i++) {
        int app = udp_to(far[i], 0), segment = 1200;
        struct pollfd p = {.fd = listener[i], .events = POLLIN};

        CHECK(send(app, data, sizeof(data), 0) == sizeof(data));
        CHECK(poll(&p, 1, PATIENCE_MS) == 1);
        CHECK(recv(listener[i], data, 1, MSG_TRUNC) == sizeof(data));
        CHECK(setsockopt(app, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)) == 0);
        CHECK(send(app, data, 3000, 0) == 3000);
        for (unsigned k = 0; k < 3; k++) {
            CHECK(poll(&p, 1, PATIENCE_MS) == 1);
            CHECK(recv(listener[i], data, 1, MSG_TRUNC) == (k < 2 ? 1200 : 600));
        }
        close(app);
    }
    CHECK(leaks() == 0);
}

/* Who was never asked answers, and is asked then. */
static void strangers_may_answer(void)
{
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE, .fail_closed = true}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();

    (void)lan;
    put_in_force(&set);
    masquerade();
    for (unsigned i = 0; i < 2; i++) {
        int app = udp_socket(family_of[i]);
        struct addr from = parse_addr(stranger[i]);
        struct datagram d;

        CHECK(send_to(app, family_of[i], far[i]) == 0);
        CHECK(next_datagram(listener[i], &d, PATIENCE_MS));
        answer_as(&from, &d.from, "hello", CAPTURE_OWN_MARK);
        CHECK(receives(app, stranger[i], "hello"));
        CHECK(send_to(app, family_of[i], stranger[i]) == 0);
        CHECK(goes_round(app, listener[i], stranger[i], stranger[i]));
        close(app);
    }
    CHECK(leaks() == 0);
}

/* A server of this host answers; our own sockets, groups, and what is not selected. */
static void what_is_not_taken(void)
{
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();

    put_in_force(&set);
    for (unsigned i = 0; i < 2; i++) {
        static const char *const own[] = {"198.18.9.1:5000", "[3fff:9::1]:5000"};
        struct addr here = parse_addr(own[i]);
        struct sockaddr_storage ss;
        socklen_t len = addr_to_sockaddr(&here, &ss);
        int server = udp_socket(family_of[i]), before = leaks();

        CHECK(bind(server, (struct sockaddr *)&ss, len) == 0);
        CHECK(ask(&lan.server, PEER_UDP, i, own[i]) == 0);
        CHECK(ask(&lan.server, PEER_SEND, i, NULL) == 0);
        struct pollfd p = {.fd = server, .events = POLLIN};
        char buf[8];

        CHECK(poll(&p, 1, PATIENCE_MS) == 1);
        len = sizeof(ss);
        CHECK(recvfrom(server, buf, sizeof(buf), 0, (struct sockaddr *)&ss, &len) == 1);
        CHECK(sendto(server, "y", 1, 0, (struct sockaddr *)&ss, len) == 1);
        CHECK(ask(&lan.server, PEER_RECV, i, NULL) == 1);
        CHECK(leaks() == before + 1 && nothing_at(listener[i]));
        close(server);

        int ours = udp_to(far[i], CAPTURE_OWN_MARK);

        CHECK(send(ours, "x", 1, 0) == 1);
        CHECK(leaks() == before + 2 && nothing_at(listener[i]));
    }
    CHECK(!is_taken("10.9.9.9:443"));
    int group = udp_socket(AF_INET), one = 1;

    CHECK(setsockopt(group, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)) == 0);
    CHECK(send_to(group, AF_INET, "198.18.9.255:9") == 0 && nothing_at(listener[0]));
    CHECK(system("ip route add multicast 239.0.0.0/8 dev wan0 2>/dev/null || ip route add "
                 "239.0.0.0/8 dev wan0") == 0);
    CHECK(send_to(group, AF_INET, "239.1.2.3:9") == 0 && nothing_at(listener[0]));
}

static void rejected_at_once(void)
{
    static const struct prefix five[] = {NET4(203, 0, 113, 5, 32),
                                         NET6(0x2001, 0xdb8, 0, 0, 5, 128)};
    static const struct capture_policy policies[] = {
        {OTHER("direct", CAPTURE_DIRECT), UDP(quic), TO(ten), .private = true},
        {PROXY("quic"), UDP(quic), .udp = CAPTURE_UDP_REJECT, .dns = true, UDP_PORTS, TO(five)},
        {.name = "half", .hook = CAPTURE_OUTPUT, .udp = CAPTURE_UDP_TAKE, .udp_port_v4 = 14001},
    };
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();

    (void)lan;
    put_in_force(&set);
    CHECK(refused(far[0]) == -ECONNREFUSED && refused(far[1]) == -ECONNREFUSED);
    CHECK(is_taken("203.0.113.5:53") && is_taken("[2001:db8::5]:53"));
    CHECK(is_taken("203.0.113.6:443") && refused("[2001:db8::6]:443") == -ECONNREFUSED);
    CHECK(leaks() == 0);
    refused("10.9.9.9:443"); /* by the server */
    CHECK(leaks() == 1);
}

/* Only what the capture selects: the next one has the rest. */
static void dns_left_alone(void)
{
    static const struct prefix five[] = {NET4(203, 0, 113, 5, 32),
                                         NET6(0x2001, 0xdb8, 0, 0, 5, 128)};
    static const struct capture_policy policies[] = {
        {PROXY("five"), TAKE, TO(five), .dns_direct = true},
        {PROXY("quic"), TAKE, UDP(quic), .dns_direct = true}, /* DNS is none of its business */
        {PROXY("rest"), TAKE, .dns = true, .dns_direct = true},
    };
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();

    (void)lan;
    put_in_force(&set);
    CHECK(is_taken(far[0]) && is_taken(far[1]));
    CHECK(is_taken("203.0.113.6:53") && is_taken("[2001:db8::6]:53"));
    CHECK(leaks() == 0);
    CHECK(!is_taken("203.0.113.5:53") && !is_taken("[2001:db8::5]:53"));
    CHECK(leaks() == 2);
}

/* They cannot make the loop, and must not get out. */
static void bound_to_an_interface(void)
{
    static const struct capture_policy policies[] = {{PROXY("all"), TAKE, .private = true}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();

    (void)lan;
    put_in_force(&set);
    for (unsigned i = 0; i < 2; i++) {
        int app = udp_socket(family_of[i]);

        CHECK(setsockopt(app, SOL_SOCKET, SO_BINDTODEVICE, "wan0", 5) == 0);
        send_to(app, family_of[i], far[i]);
        CHECK(nothing_at(listener[i]));
    }
    CHECK(is_taken(far[0]) && is_taken(far[1]));
    struct sockaddr_in6 near = {.sin6_family = AF_INET6,
                                .sin6_port = htons(53),
                                .sin6_addr = {{{0xfe, 0x80, [15] = 9}}},
                                .sin6_scope_id = if_nametoindex("wan0")};
    int app = udp_socket(AF_INET6);

    CHECK(near.sin6_scope_id != 0);
    CHECK(sendto(app, "x", 1, 0, (struct sockaddr *)&near, sizeof(near)) < 0 && errno == EPERM);
    CHECK(nothing_at(listener[1]) && leaks() == 0);
}

static void dns_whatever_the_destination(void)
{
    static const struct capture_policy policies[] = {
        {.name = "quiet", .action = CAPTURE_DIRECT, TO(ten), .private = true},
        {PROXY("web"), TCP(web), TO(net4), .dns = true, .fake = true, TAKE},
    };
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();
    int tcp = listen_at("127.0.0.1:12345", false);

    (void)lan;
    put_in_force(&set);
    CHECK(system("ip addr add 203.0.113.77/32 dev lo") == 0);
    CHECK(is_taken("198.18.9.2:53") && is_taken("[3fff:9::2]:53") && is_taken("203.0.113.77:53"));
    CHECK(!is_taken("127.0.0.53:53") && !is_taken("[::1]:53") && !is_taken("10.9.9.9:53"));
    CHECK(!is_taken("203.0.113.5:443")); /* only TCP of the rest */
    CHECK(is_taken("198.18.9.2:9999"));  /* made up */
    int fd = connect_in("198.18.9.2:53", NULL, 0, PATIENCE_MS);

    CHECK(fd >= 0 && accept_in(tcp, PATIENCE_MS) >= 0);
    fd = connect_in("198.18.9.2:77", NULL, 0, PATIENCE_MS);
    CHECK(fd >= 0 && accept_in(tcp, PATIENCE_MS) >= 0);
    CHECK(connect_in("127.0.0.1:53", NULL, 0, PATIENCE_MS) == -ECONNREFUSED);
}

/* ---- cgroups ---- */

static char cgroup_root[256], cgroup_path[64], cgroup_home[512];

static void join(const char *path)
{
    char name[1024];

    snprintf(name, sizeof(name), "%s%s/cgroup.procs", cgroup_root, path);
    FILE *f = fopen(name, "we");

    CHECK(f && fprintf(f, "%d\n", getpid()) > 0 && fclose(f) == 0);
}

static void make_cgroup(void)
{
    char dir[512];
    char *root = output_of("awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts");
    char *home = output_of("sed -n 's/^0:://p' /proc/self/cgroup");

    snprintf(cgroup_root, sizeof(cgroup_root), "%.*s", (int)strcspn(root, "\n"), root);
    snprintf(cgroup_home, sizeof(cgroup_home), "%.*s", (int)strcspn(home, "\n"), home);
    snprintf(cgroup_path, sizeof(cgroup_path), "/undersock-udp-%d", getpid());
    snprintf(dir, sizeof(dir), "%s%s", cgroup_root, cgroup_path);
    if (cgroup_root[0] == '\0' || mkdir(dir, 0755) < 0)
        skip_because("no cgroup2 that can be written to");
}

static void remove_cgroup(void)
{
    char dir[512];

    snprintf(dir, sizeof(dir), "%s%s", cgroup_root, cgroup_path);
    CHECK(rmdir(dir) == 0);
}

/* A socket belongs to the cgroup in which it was made. */
static int socket_inside(sa_family_t family)
{
    join(cgroup_path);
    int fd = udp_socket(family);

    join(cgroup_home);
    return fd;
}

static void of_a_cgroup(void)
{
    struct capture_policy policies[] = {{.name = "cg",
                                         .hook = CAPTURE_CGROUP,
                                         .cgroup = cgroup_path,
                                         .dns = true,
                                         TAKE,
                                         .fail_closed = true}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();
    struct nft_owner *owner;
    struct nft_ruleset *rs;
    int app[2];

    (void)lan;
    /* One that is gone matches nobody. */
    make_cgroup();
    remove_cgroup();
    CHECK(nft_ruleset_build(&set, &rs) == 0);
    CHECK(nft_owner_open(&owner, why, sizeof(why)) == 0);
    CHECK(nft_owner_replace(owner, rs, why, sizeof(why)) == 0);
    nft_ruleset_free(rs);
    make_cgroup();
    for (unsigned i = 0; i < 2; i++)
        app[i] = socket_inside(family_of[i]);
    int stub = socket_inside(AF_INET), other = socket_inside(AF_INET), bad = 0;

    CHECK(nft_ruleset_build(&set, &rs) == 0);
    int r = nft_owner_replace(owner, rs, why, sizeof(why));

    nft_ruleset_free(rs);
    remove_cgroup();
    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    CHECK(routes_install(0, NULL, why, sizeof(why)) == 0);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(send_to(app[i], family_of[i], far[i]) == 0);
        CHECK(goes_round(app[i], listener[i], far[i], far[i]));
    }
    CHECK(send_to(stub, AF_INET, "127.0.0.53:53") == 0);
    CHECK(goes_round(stub, listener[0], "127.0.0.53:53", "127.0.0.53:53"));
    CHECK(send_to(other, AF_INET, "127.0.0.53:54") == 0 && nothing_at(listener[0]));
    CHECK(leaks() == 0);
    for (unsigned i = 0; i < 2; i++)
        bad += is_taken(far[i]);
    CHECK(bad == 0 && leaks() == 2); /* nobody's outside */
}

/* A `run` inside what a daemon takes has a proxy of its own, and neither ends with the other. */
static void instances_side_by_side(void)
{
    static const struct capture_policy all[] = {{PROXY("all"), TAKE}};
    struct capture_policy inside[] = {{.name = "run",
                                       .hook = CAPTURE_CGROUP,
                                       .cgroup = cgroup_path,
                                       .udp = CAPTURE_UDP_TAKE,
                                       .udp_port_v4 = 14011,
                                       .udp_port_v6 = 14012}};
    const struct capture_set daemon = {POLICIES(all), OWN};
    struct capture_set run = {POLICIES(inside)};
    struct lan lan = set_up();
    int at[] = {listen_udp("127.0.0.1:14011"), listen_udp("[::1]:14012")};
    struct nft_owner *owner, *second;
    unsigned other;
    int app[2];

    (void)lan;
    check_reverse_paths();
    make_cgroup();
    for (unsigned i = 0; i < 2; i++)
        app[i] = socket_inside(family_of[i]);
    bool claimed = nft_owner_claim(&owner, &run.instance, why, sizeof(why)) == 0;

    if (claimed) {
        replace(owner, &run);
        CHECK(routes_install(run.instance, NULL, why, sizeof(why)) == 0);
    }
    remove_cgroup();
    CHECK(claimed && run.instance == 1);
    CHECK(nft_owner_claim(&second, &other, why, sizeof(why)) == 0 && other == 2);
    nft_owner_close(second);
    /* A worker without a mark can do with none as long as nobody else takes UDP. */
    for (unsigned i = 0; i < 2; i++) {
        struct addr from = parse_addr(stranger[i]);
        struct datagram d;

        CHECK(send_to(app[i], family_of[i], far[i]) == 0);
        CHECK(next_datagram(at[i], &d, PATIENCE_MS));
        answer_as(&from, &d.from, "hello", 0);
        CHECK(receives(app[i], stranger[i], "hello"));
        CHECK(send_to(app[i], family_of[i], stranger[i]) == 0);
        CHECK(goes_round(app[i], at[i], stranger[i], stranger[i]));
    }
    put_in_force(&daemon);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(send_to(app[i], family_of[i], far[i]) == 0);
        CHECK(goes_round(app[i], at[i], far[i], far[i]));
        CHECK(is_taken(far[i]) && nothing_at(at[i]));
    }
    nft_owner_close(owner);
    routes_remove(run.instance);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(send_to(app[i], family_of[i], far[i]) == 0);
        CHECK(goes_round(app[i], listener[i], far[i], far[i]));
    }
    CHECK(leaks() == 0);
    routes_remove(0);
    CHECK(*output_of("ip rule | grep -w proto; ip -6 rule | grep -w proto; ip route show table all "
                     "proto 85; ip -6 route show table all proto 85; true") == '\0');
}

/* Found by trial, and the trial leaves nothing. */
static void the_kernel_can(void)
{
    int r = nft_probe_udp(true, why, sizeof(why));

    if (r == -EOPNOTSUPP || r == -ENOENT)
        skip_because(why);
    CHECK(r == 0);
    CHECK(*output_of("nft list ruleset") == '\0');
}

/* ---- the guard ---- */

static void the_guard_refuses_udp(void)
{
    struct capture_policy policies[] = {{PROXY("all"), TAKE, .fail_closed = true},
                                        {.name = "cg",
                                         .hook = CAPTURE_CGROUP,
                                         .dns = true,
                                         TAKE,
                                         .cgroup = cgroup_path,
                                         .fail_closed = true}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = set_up();
    struct nft_ruleset *rs;
    int app[2], known[2];

    (void)lan;
    make_cgroup();
    int stub = socket_inside(AF_INET);
    struct nft_owner *owner = install(&set);

    CHECK(nft_guard_build(&set, &rs) == 0);
    int r = nft_guard_install(rs, why, sizeof(why));

    remove_cgroup();
    CHECK(r == 0);
    CHECK(routes_install(0, NULL, why, sizeof(why)) == 0);
    CHECK(send_to(stub, AF_INET, "127.0.0.53:53") == 0);
    CHECK(goes_round(stub, listener[0], "127.0.0.53:53", "127.0.0.53:53"));
    for (unsigned i = 0; i < 2; i++) {
        struct addr from = parse_addr(stranger[i]);
        struct datagram d;

        app[i] = udp_socket(family_of[i]);
        CHECK(send_to(app[i], family_of[i], far[i]) == 0);
        CHECK(goes_round(app[i], listener[i], far[i], far[i]));
        known[i] = udp_socket(family_of[i]);
        CHECK(send_to(known[i], family_of[i], far[i]) == 0);
        CHECK(next_datagram(listener[i], &d, PATIENCE_MS));
        answer_as(&from, &d.from, "hello", CAPTURE_OWN_MARK);
        CHECK(receives(known[i], stranger[i], "hello"));
    }
    nft_owner_close(owner);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(send_to(app[i], family_of[i], far[i]) == -EPERM);
        CHECK(send_to(known[i], family_of[i], stranger[i]) == -EPERM);
        CHECK(send_to(udp_socket(family_of[i]), family_of[i], far[i]) == -EPERM);
    }
    CHECK(send_to(stub, AF_INET, "127.0.0.53:53") == -EPERM);
    CHECK(send_to(udp_socket(AF_INET), AF_INET, "127.0.0.53:53") == 0);
    CHECK(leaks() == 0);
    CHECK(nft_guard_remove(why, sizeof(why)) == 0);
}

/* ---- a gateway ---- */

/*
 * What would be answered elsewhere is not taken: neither an address beyond the uplink, nor one of
 * the gateway's own, nor that of a neighbour, unless the capture names the neighbour's interface,
 * too.
 */
static void of_nobody_there(void)
{
    static const char *const links[] = {"lan0", "lan1"};
    static const struct capture_policy any[] = {{GATE("gw"), TAKE}},
                                       one[] = {{GATE("gw"), IFS(lan_if), TAKE}},
                                       both[] = {{GATE("gw"), IFS(links), TAKE}};
    const struct capture_set sets[] = {
        {POLICIES(any), OWN, TPROXY}, {POLICIES(one), OWN, TPROXY}, {POLICIES(both), OWN, TPROXY}};
    static const char *const forged[][2] = {{"203.0.113.77:0", "[2001:db8::77]:0"},
                                            {"198.18.9.1:0", "[3fff:9::1]:0"},
                                            {"198.18.2.2:7777", "[3fff:2::2]:7777"}};
    struct lan lan = set_up();

    in_peer(&lan.client,
            "for a in 203.0.113.77/32 198.18.9.1/32 198.18.2.2/32 2001:db8::77/128 3fff:9::1/128 "
            "3fff:2::2/128; do ip addr add $a dev lo; done");
    CHECK(system("for i in all default lan0; do sysctl -qw net.ipv4.conf.$i.rp_filter=0; done") ==
          0);
    for (unsigned i = 0; i < COUNT(sets); i++) {
        struct nft_owner *owner = install(&sets[i]);
        struct datagram d;

        for (unsigned k = 0; k < 2; k++) {
            for (unsigned n = 0; n < COUNT(forged); n++) {
                CHECK(ask_from(&lan.client, PEER_UDP, n, far[k], forged[n][k], 0) == 0);
                CHECK(ask(&lan.client, PEER_SEND, n, NULL) == 0);
            }
            CHECK(ask(&lan.client, PEER_UDP, 3, far[k]) == 0);
            CHECK(ask(&lan.client, PEER_SEND, 3, NULL) == 0);
            if (i == 2)
                CHECK(next_datagram(listener[k], &d, PATIENCE_MS) && d.from.port == 7777);
            CHECK(next_datagram(listener[k], &d, PATIENCE_MS) && d.from.port != 7777);
            struct addr client = parse_addr(k == 0 ? "198.18.1.2" : "3fff:1::2");

            CHECK(addr_same_ip(&d.from, &client));
            for (unsigned n = 0; n <= COUNT(forged); n++)
                CHECK(ask(&lan.client, PEER_CLOSE, n, NULL) == 0);
        }
        CHECK(leaks() == 0);
        nft_owner_close(owner);
    }
}

static void of_a_gateways_clients(void)
{
    static const struct port_range bad[] = {{444, 444}};
    static const struct capture_policy policies[] = {
        {NOT_GATE("quiet", CAPTURE_DIRECT), TO(ten), .private = true},
        {NOT_GATE("bad", CAPTURE_REFUSE), UDP(bad), .udp = CAPTURE_UDP_REJECT},
        {GATE("gw"), IFS(lan_if), TAKE, .dns = true, .dns_local = true, .fail_closed = true}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    static const char *const own[] = {"198.18.1.1:53", "[3fff:1::1]:53"};
    static const char *const refuse[] = {"203.0.113.5:444", "[2001:db8::5]:444"};
    struct lan lan = set_up();
    int tcp = listen_at("127.0.0.1:12347", true);
    struct nft_owner *owner = install(&set);
    struct nft_ruleset *rs;
    struct datagram d;

    CHECK(nft_guard_build(&set, &rs) == 0 && nft_guard_install(rs, why, sizeof(why)) == 0);
    CHECK(system("for i in all default lan0 wan0; do sysctl -qw net.ipv4.conf.$i.rp_filter=1; "
                 "done") == 0);
    check_reverse_paths();
    for (unsigned i = 0; i < 2; i++) {
        struct addr from = parse_addr(stranger[i]), expected = parse_addr(far[i]);

        CHECK(ask(&lan.client, PEER_UDP, i, far[i]) == 0);
        for (unsigned k = 0; k < 2; k++) {
            CHECK(ask(&lan.client, PEER_SEND, i, NULL) == 0);
            CHECK(next_datagram(listener[i], &d, PATIENCE_MS) && addr_equal(&d.to, &expected));
            answer_as(&d.to, &d.from, "y", CAPTURE_OWN_MARK);
            CHECK(ask(&lan.client, PEER_RECV, i, NULL) == 1);
        }
        /* An answer from a stranger is one of ours, not of a server behind us. */
        answer_as(&from, &d.from, "y", CAPTURE_OWN_MARK);
        CHECK(ask(&lan.client, PEER_UDP, 2, own[i]) == 0);
        CHECK(ask(&lan.client, PEER_SEND, 2, NULL) == 0);
        CHECK(next_datagram(listener[i], &d, PATIENCE_MS) && d.to.port == 53);
        answer_as(&d.to, &d.from, "y", CAPTURE_OWN_MARK);
        CHECK(ask(&lan.client, PEER_RECV, 2, NULL) == 1);
        CHECK(ask(&lan.client, PEER_UDP, 3, refuse[i]) == 0);
        CHECK(ask(&lan.client, PEER_SEND, 3, NULL) == 0);
        CHECK(ask(&lan.client, PEER_RECV, 3, NULL) == -ECONNREFUSED);
    }
    CHECK(leaks() == 0);
    CHECK(ask(&lan.client, PEER_CONNECT, 5, "198.18.1.1:53") == 0 && accept_in(tcp, 1000) >= 0);
    CHECK(ask(&lan.client, PEER_CONNECT, 5, "198.18.1.1:54") == -ECONNREFUSED);
    /* Another interface, and a destination that is left alone. */
    CHECK(ask(&lan.other, PEER_UDP, 0, far[0]) == 0 && ask(&lan.other, PEER_SEND, 0, NULL) == 0);
    CHECK(ask(&lan.client, PEER_UDP, 4, "10.9.9.9:53") == 0);
    CHECK(ask(&lan.client, PEER_SEND, 4, NULL) == 0);
    CHECK(nothing_at(listener[0]) && leaks() == 2);

    /* Nobody is there any more. */
    nft_owner_close(owner);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(ask(&lan.client, PEER_SEND, i, NULL) == 0);
        CHECK(ask_from(&lan.client, PEER_RECV, i, NULL, NULL, QUIET_MS) < 0);
        int server = udp_socket(family_of[i]);
        struct addr here = parse_addr(own[i]);
        struct sockaddr_storage ss;
        socklen_t len = addr_to_sockaddr(&here, &ss);

        CHECK(bind(server, (struct sockaddr *)&ss, len) == 0);
        CHECK(ask(&lan.client, PEER_UDP, 2, own[i]) == 0);
        CHECK(ask(&lan.client, PEER_SEND, 2, NULL) == 0);
        CHECK(recv_in(server, QUIET_MS) == -ETIMEDOUT);
        CHECK(ask(&lan.other, PEER_UDP, 2, own[i]) == 0);
        CHECK(ask(&lan.other, PEER_SEND, 2, NULL) == 0);
        CHECK(recv_in(server, PATIENCE_MS) == 1);
        close(server);
    }
    CHECK(leaks() == 2);
    CHECK(nft_guard_remove(why, sizeof(why)) == 0);
    nft_ruleset_free(rs);
}

/* What comes in there is selected, but not where it answers what went out. */
static void answers_are_forwarded(void)
{
    static const char *const wan_if[] = {"wan0"};
    static const struct capture_policy policies[] = {{GATE("gw"), IFS(wan_if), TAKE}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    static const char *const here[] = {"203.0.113.5:7001", "[2001:db8::5]:7001"};
    static const char *const there[] = {"198.18.2.2:7000", "[3fff:2::2]:7000"};
    struct lan lan = set_up();

    put_in_force(&set);
    for (unsigned i = 0; i < 2; i++) {
        struct datagram d;

        CHECK(ask_from(&lan.server, PEER_UDP, 0, there[i], here[i], PATIENCE_MS) == 0);
        CHECK(ask_from(&lan.other, PEER_UDP, 0, here[i], there[i], PATIENCE_MS) == 0);
        CHECK(ask(&lan.other, PEER_SEND, 0, NULL) == 0);
        CHECK(ask(&lan.server, PEER_RECV, 0, NULL) == 1);
        CHECK(ask(&lan.server, PEER_SEND, 0, NULL) == 0);
        CHECK(ask(&lan.other, PEER_RECV, 0, NULL) == 1);
        CHECK(nothing_at(listener[i]));
        CHECK(ask(&lan.server, PEER_UDP, 1, there[i]) == 0);
        CHECK(ask(&lan.server, PEER_SEND, 1, NULL) == 0);
        CHECK(next_datagram(listener[i], &d, PATIENCE_MS));
        answer_as(&d.to, &d.from, "y", CAPTURE_OWN_MARK);
        CHECK(ask(&lan.server, PEER_RECV, 1, NULL) == 1);
    }
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(both_families_go_round)
NETNS_TEST(reverse_paths_are_checked)
NETNS_TEST(marks_and_priorities_of_others)
NETNS_TEST(routed_by_others_at_output)
NETNS_TEST(large_datagrams_stay_whole)
NETNS_TEST(strangers_may_answer)
NETNS_TEST(what_is_not_taken)
NETNS_TEST(rejected_at_once)
NETNS_TEST(dns_left_alone)
NETNS_TEST(bound_to_an_interface)
NETNS_TEST(dns_whatever_the_destination)
NETNS_TEST(of_a_cgroup)
NETNS_TEST(instances_side_by_side)
NETNS_TEST(the_kernel_can)
NETNS_TEST(the_guard_refuses_udp)
NETNS_TEST(of_nobody_there)
NETNS_TEST(of_a_gateways_clients)
NETNS_TEST(answers_are_forwarded)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_families_go_round),
        cmocka_unit_test(test_reverse_paths_are_checked),
        cmocka_unit_test(test_marks_and_priorities_of_others),
        cmocka_unit_test(test_routed_by_others_at_output),
        cmocka_unit_test(test_large_datagrams_stay_whole),
        cmocka_unit_test(test_strangers_may_answer),
        cmocka_unit_test(test_what_is_not_taken),
        cmocka_unit_test(test_rejected_at_once),
        cmocka_unit_test(test_dns_left_alone),
        cmocka_unit_test(test_bound_to_an_interface),
        cmocka_unit_test(test_dns_whatever_the_destination),
        cmocka_unit_test(test_of_a_cgroup),
        cmocka_unit_test(test_instances_side_by_side),
        cmocka_unit_test(test_the_kernel_can),
        cmocka_unit_test(test_the_guard_refuses_udp),
        cmocka_unit_test(test_of_nobody_there),
        cmocka_unit_test(test_of_a_gateways_clients),
        cmocka_unit_test(test_answers_are_forwarded),
    };

    return cmocka_run_group_tests_name("nft/udp", tests, NULL, NULL);
}
