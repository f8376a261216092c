/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What becomes of traffic when the owner of the first table is gone and the guard stays. */
#include "lan.h"

#include <sys/stat.h>

#include "nft/batch.h"
#include "nft/cgroup.h"
#include "nft/guard.h"
#include "nft/routes.h"
#include "nft/ruleset.h"

#define LIST "nft list table inet undersock-guard 2>/dev/null"

static char why[512];

static void guard(const struct capture_set *set)
{
    struct nft_ruleset *rs;

    CHECK(nft_guard_build(set, &rs) == 0);
    int r = nft_guard_install(rs, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    if (r < 0)
        fprintf(stderr, "%s\n", why);
    CHECK(r == 0);
    nft_ruleset_free(rs);
}

/* The daemon's tables, in the order in which it makes them. */
static struct nft_owner *install(const struct capture_set *set)
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
    guard(set);
    return owner;
}

static bool direct_as(const char *where, uint32_t mark)
{
    int fd = connect_in(where, NULL, mark, PATIENCE_MS);

    CHECK(fd >= 0 || fd == -ECONNREFUSED);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool direct(const char *where)
{
    return direct_as(where, 0);
}

static struct lan lan_with_servers(void)
{
    static const char *const servers[] = {"203.0.113.5:80", "203.0.113.5:81",   "203.0.113.6:80",
                                          "10.9.9.9:80",    "[2001:db8::5]:80", "[2001:db8::5]:81"};
    struct lan lan = make_lan();

    for (unsigned i = 0; i < COUNT(servers); i++)
        CHECK(ask(&lan.server, PEER_LISTEN, i, servers[i]) == 0);
    return lan;
}

static const struct port_range port80[] = {{80, 80}};

/* ---- the table ---- */

static void every_case_is_listed(void)
{
    if (!has_command("nft"))
        skip_because("the nft command is not installed");
    bool exact = strstr(output_of("nft --version"), "v1.0.6") != NULL;

    for (size_t i = 0; i < COUNT(guard_cases); i++) {
        struct nft_ruleset *rs;

        CHECK(nft_guard_build(&guard_cases[i].set, &rs) == 0);
        CHECK(!nft_ruleset_empty(rs));
        guard(&guard_cases[i].set);
        char *text = nft_guard_text(rs), *found = output_of(LIST);

        CHECK(text && found);
        if (exact && strcmp(text, found) != 0) {
            fprintf(stderr, "%s: expected\n%sbut nft lists\n%s", guard_cases[i].name, text, found);
            CHECK(!"the same text");
        }
        FILE *check = popen("nft -c -f -", "we");

        CHECK(check);
        fputs(text, check);
        CHECK(pclose(check) == 0);
        free(text);
        free(found);
        nft_ruleset_free(rs);
    }
    CHECK(!output_of("nft list table inet undersock-guard-next 2>/dev/null"));
    CHECK(nft_guard_remove(why, sizeof(why)) == 0);
    CHECK(nft_guard_remove(why, sizeof(why)) == 0);
    CHECK(*output_of("nft list ruleset") == '\0');
}

static void only_fail_closed_captures_are_guarded(void)
{
    static const struct capture_policy proxied = {PROXY("direct"), .fail_closed = true};
    struct capture_policy direct_one = proxied;
    const struct capture_set sets[] = {
        {POLICIES(everything), OWN}, {.policies = &direct_one, .n_policies = 1}, {.n_policies = 0}};

    direct_one.action = CAPTURE_DIRECT;
    if (!has_command("nft"))
        skip_because("the nft command is not installed");
    guard(&guard_cases[0].set);
    for (size_t i = 0; i < COUNT(sets); i++) {
        struct nft_ruleset *rs;

        CHECK(nft_guard_build(&sets[i], &rs) == 0);
        CHECK(nft_ruleset_empty(rs));
        CHECK(*nft_guard_text(rs) == '\0');
        /* The guard of before goes. */
        CHECK(nft_guard_install(rs, why, sizeof(why)) == 0);
        CHECK(*output_of("nft list ruleset") == '\0');
        nft_ruleset_free(rs);
    }
}

static void somebody_elses_table_is_left_alone(void)
{
    struct nft_ruleset *rs;
    struct nft_owner *other;

    CHECK(nft_owner_open_table(NFT_GUARD_TABLE, &other, why, sizeof(why)) == 0);
    CHECK(nft_ruleset_build(&cases[0].set, &rs) == 0);
    CHECK(nft_owner_replace(other, rs, why, sizeof(why)) == 0);
    nft_ruleset_free(rs);
    CHECK(nft_guard_build(&guard_cases[0].set, &rs) == 0);
    CHECK(nft_guard_install(rs, why, sizeof(why)) == -EBUSY);
    CHECK(strstr(why, NFT_GUARD_TABLE));
    CHECK(nft_guard_remove(why, sizeof(why)) == -EBUSY);
    CHECK(!strstr(output_of("nft list tables"), "undersock-guard-next"));
    nft_ruleset_free(rs);
}

/* ---- this host ---- */

static void the_host_is_refused_and_nothing_leaks(void)
{
    static const struct capture_policy policies[] = {
        {PROXY("web"), TCP(port80), .fail_closed = true}};
    const struct capture_set set = {POLICIES(policies), OWN};
    struct lan lan = lan_with_servers();
    int listener4 = listen_at("127.0.0.1:12345", false);
    int listener6 = listen_at("[::1]:12346", false);
    struct nft_owner *owner = install(&set);
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    int client[2], ours[2];

    /* It is not in the way of the living. */
    for (unsigned i = 0; i < 2; i++) {
        client[i] = connect_in(where[i], NULL, 0, PATIENCE_MS);
        ours[i] = accept_in(i == 0 ? listener4 : listener6, PATIENCE_MS);
        CHECK(client[i] >= 0 && ours[i] >= 0);
        CHECK(send(client[i], "x", 1, 0) == 1 && recv_in(ours[i], PATIENCE_MS) == 1);
    }
    CHECK(packets_at_server(&lan) == 0);

    nft_owner_close(owner);
    CHECK(!direct(where[0]) && !direct(where[1]) && !direct("203.0.113.99:80"));
    /* What was redirected still goes where it went, also when nobody is there any more. */
    for (unsigned i = 0; i < 2; i++) {
        static const struct linger now = {.l_onoff = 1};

        CHECK(send(client[i], "x", 1, 0) == 1 && recv_in(ours[i], PATIENCE_MS) == 1);
        CHECK(setsockopt(ours[i], SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
        close(ours[i]);
        CHECK(recv_in(client[i], PATIENCE_MS) == -ECONNRESET);
    }
    CHECK(packets_at_server(&lan) == 0);

    CHECK(direct("203.0.113.5:81") && direct("[2001:db8::5]:81") && direct("10.9.9.9:80"));
    CHECK(direct_as("203.0.113.5:80", CAPTURE_OWN_MARK) &&
          direct_as("[2001:db8::5]:80", CAPTURE_OWN_MARK));
    int here = listen_at("198.18.9.1:80", false);

    CHECK(direct("198.18.9.1:80"));
    close(here);

    CHECK(nft_guard_remove(why, sizeof(why)) == 0);
    CHECK(direct(where[0]) && direct(where[1]));
}

static void older_connections_of_the_host_go_on(void)
{
    const struct capture_set set = {POLICIES(closed), OWN};
    struct lan lan = lan_with_servers();
    int fd = connect_in("203.0.113.5:80", NULL, 0, PATIENCE_MS);

    CHECK(fd >= 0 && ask(&lan.server, PEER_ACCEPT, 0, NULL) == 0);
    struct nft_owner *owner = install(&set);

    for (unsigned i = 0; i < 2; i++) {
        CHECK(send(fd, "x", 1, 0) == 1 && ask(&lan.server, PEER_RECV, 0, NULL) == 1);
        if (i == 0)
            nft_owner_close(owner);
    }
    CHECK(!direct("203.0.113.5:80"));
}

static void upstreams_can_be_reached(void)
{
    static const struct addr upstreams[] = {AT4(203, 0, 113, 5, 81)};
    const struct capture_set set = {POLICIES(closed), OWN, .upstreams = upstreams,
                                    .n_upstreams = COUNT(upstreams)};
    struct lan lan = lan_with_servers();

    (void)lan;
    guard(&set);
    CHECK(direct("203.0.113.5:81"));
    CHECK(!direct("203.0.113.5:80"));
}

/* UDP that a capture would have taken is refused at once; what was under way goes on. */
static void udp_is_refused(void)
{
    const struct capture_set set = {POLICIES(closed_udp), OWN};
    struct lan lan = lan_with_servers();
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(443), .sin_addr.s_addr = htonl(0xcb007105)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)lan;
    CHECK(fd >= 0);
    CHECK(sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) == 1);
    guard(&set);
    CHECK(sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) < 0 && errno == EPERM);
    to.sin_addr.s_addr = htonl(0xc6336407); /* 198.51.100.7, in the last capture's not-to */
    to.sin_port = htons(53);
    CHECK(sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) == 1 || errno == ENETUNREACH);
    CHECK(nft_guard_remove(why, sizeof(why)) == 0);
}

/* At no moment of a replacement does a SYN pass. */
static void replaced_without_a_gap(void)
{
    static const struct capture_policy two[] = {{PROXY("a"), TO(net46), .fail_closed = true},
                                                {PROXY("b"), TCP(web), .fail_closed = true}};
    const struct capture_set first = {POLICIES(two), OWN}, second = {POLICIES(closed), OWN};
    struct lan lan = lan_with_servers();
    int status;

    guard(&first);
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned i = 0; i < 200; i++)
            guard(i % 2 ? &first : &second);
        _exit(0);
    }
    unsigned n = 0;

    while (waitpid(child, &status, WNOHANG) == 0) {
        CHECK(!direct("203.0.113.5:80") && !direct("[2001:db8::5]:80"));
        n++;
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(n > 0);
    CHECK(packets_at_server(&lan) == 0);
}

/* ---- cgroups ---- */

/* Runs direct() in a child that is in the cgroup. */
static bool direct_in(const char *procs, const char *where)
{
    int status;

    fflush(NULL);
    pid_t child = fork();

    if (child == 0) {
        FILE *f = fopen(procs, "we");

        CHECK(f && fprintf(f, "%d\n", getpid()) > 0 && fclose(f) == 0);
        _exit(direct(where) ? 10 : 11);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) >= 10);
    return WEXITSTATUS(status) == 10;
}

static void a_cgroup_is_refused_and_others_are_not(void)
{
    char *root = output_of("awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts");
    char path[64], inner[128], dir[256], below[512], procs[600];
    struct capture_policy policy = {CGROUP("slice", path), TCP(port80), .fail_closed = true};
    struct capture_policy all = {CGROUP("all", "/"), TCP(port80), .fail_closed = true};
    const struct capture_set set = {.policies = &policy, .n_policies = 1, OWN};
    const struct capture_set whole = {.policies = &all, .n_policies = 1, OWN};
    struct nft_ruleset *rs;
    struct lan lan = lan_with_servers();

    (void)lan;
    if (!root || !*root)
        skip_because("no cgroup2");
    root[strcspn(root, "\n")] = '\0';
    snprintf(path, sizeof(path), "/undersock-test-%d", getpid());
    snprintf(inner, sizeof(inner), "%s/inner", path);
    snprintf(dir, sizeof(dir), "%.100s%s", root, path);
    snprintf(below, sizeof(below), "%s/inner", dir);
    if (mkdir(dir, 0755) < 0)
        skip_because("no cgroup2 that can be written to");
    /* One that is gone matches nobody. */
    CHECK(rmdir(dir) == 0);
    CHECK(nft_guard_build(&set, &rs) == 0);
    CHECK(nft_guard_install(rs, why, sizeof(why)) == 0);
    CHECK(direct("203.0.113.5:80"));
    CHECK(mkdir(dir, 0755) == 0);
    CHECK(mkdir(below, 0755) == 0);

    int r = nft_guard_install(rs, why, sizeof(why));
    char *text = nft_guard_text(rs), *found = output_of(LIST);

    nft_ruleset_free(rs);
    snprintf(procs, sizeof(procs), "%s/cgroup.procs", below);
    bool inside = r == 0 && direct_in(procs, "203.0.113.5:80");
    bool unselected = r == 0 && direct_in(procs, "203.0.113.5:81");
    bool outside = r == 0 && direct("203.0.113.5:80");

    /* Whatever came out, it does not stay behind. */
    CHECK(rmdir(below) == 0 && rmdir(dir) == 0);
    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    CHECK(!inside && unselected && outside);
    if (strncmp(root, "/sys/fs/cgroup", 14) == 0 && strstr(output_of("nft --version"), "v1.0.6"))
        CHECK(found && strcmp(text, found) == 0);

    guard(&whole);
    CHECK(!direct("203.0.113.5:80"));
    CHECK(direct("203.0.113.5:81"));
}

/* ---- a gateway ---- */

static void clients_are_refused_and_nothing_leaks(void)
{
    static const struct capture_policy policies[] = {
        {GATE("gw"), IFS(lan_if), TCP(port80), .fail_closed = true}};
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    static const struct linger now = {.l_onoff = 1};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = lan_with_servers();
    int listener4 = listen_at("127.0.0.1:12347", true);
    int listener6 = listen_at("[::1]:12348", true);
    struct nft_owner *owner = install(&set);
    int ours[2];

    for (unsigned i = 0; i < 2; i++) {
        CHECK(ask(&lan.client, PEER_CONNECT, i, where[i]) == 0);
        ours[i] = accept_in(i == 0 ? listener4 : listener6, PATIENCE_MS);
        CHECK(ours[i] >= 0);
    }
    /* The daemon dies, and its resets are lost. */
    CHECK(system("nft 'table inet lossy { chain out { type filter hook output priority 0; tcp "
                 "flags & rst == rst drop; }; }'") == 0);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(setsockopt(ours[i], SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
        close(ours[i]);
    }
    close(listener4);
    close(listener6);
    nft_owner_close(owner);
    CHECK(system("nft delete table inet lossy") == 0);

    for (unsigned i = 0; i < 2; i++) {
        CHECK(ask(&lan.client, PEER_SEND, i, NULL) == 0);
        CHECK(ask(&lan.client, PEER_RECV, i, NULL) == -ECONNRESET);
        CHECK(ask(&lan.client, PEER_CONNECT, i, where[i]) == -ECONNREFUSED);
    }
    CHECK(packets_at_server(&lan) == 0);
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "203.0.113.5:81") == 0);
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "10.9.9.9:80") == 0);
    CHECK(ask(&lan.other, PEER_CONNECT, 0, "203.0.113.5:80") == 0);
    CHECK(ask(&lan.other, PEER_CONNECT, 0, "[2001:db8::5]:80") == 0);
    CHECK(direct("203.0.113.5:80")); /* the gateway itself is nobody's client */
    CHECK(nft_guard_remove(why, sizeof(why)) == 0);
    CHECK(ask(&lan.client, PEER_CONNECT, 0, where[0]) == 0);
}

static void forged_sources_are_answered_by_nobody(void)
{
    static const struct capture_policy policies[] = {{GATE("gw"), .fail_closed = true}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    static const char *const where[] = {"203.0.113.5:80", "[2001:db8::5]:80"};
    static const char *const from[] = {"203.0.113.77:0", "[2001:db8::77]:0"};
    struct lan lan = lan_with_servers();

    in_peer(&lan.client, "ip addr add 203.0.113.77/32 dev lo; "
                         "ip addr add 2001:db8::77/128 dev lo nodad; " ADDRESSES_SETTLE);
    guard(&set);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(ask_from(&lan.client, PEER_CONNECT, 0, where[i], from[i], 100) == -ETIMEDOUT);
        CHECK(ask(&lan.client, PEER_CONNECT, 0, where[i]) == -ECONNREFUSED);
    }
    CHECK(packets_at_server(&lan) == 0);
}

static void older_connections_of_clients_go_on(void)
{
    const struct capture_set set = {POLICIES(closed_gate), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    CHECK(ask(&lan.client, PEER_CONNECT, 0, "203.0.113.5:80") == 0);
    CHECK(ask(&lan.server, PEER_ACCEPT, 0, NULL) == 0);
    struct nft_owner *owner = install(&set);

    for (unsigned i = 0; i < 2; i++) {
        CHECK(ask(&lan.client, PEER_SEND, 0, NULL) == 0);
        CHECK(ask(&lan.server, PEER_RECV, 0, NULL) == 1);
        CHECK(ask(&lan.server, PEER_SEND, 0, NULL) == 0);
        CHECK(ask(&lan.client, PEER_RECV, 0, NULL) == 1);
        if (i == 0)
            nft_owner_close(owner);
    }
    CHECK(ask(&lan.client, PEER_CONNECT, 1, "203.0.113.5:80") == -ECONNREFUSED);
}

/* From the outside to a server behind the gateway: at prerouting it was for the gateway itself. */
static void port_forwarding_is_left_alone(void)
{
    static const struct capture_policy policies[] = {
        {GATE("gw"), .private = true, .fail_closed = true}};
    const struct capture_set set = {POLICIES(policies), OWN, TPROXY};
    struct lan lan = lan_with_servers();

    CHECK(system("nft 'table ip mine { chain pre { type nat hook prerouting priority -100; iifname "
                 "lan1 ip daddr 198.18.2.1 tcp dport 8080 dnat to 203.0.113.5:80; }; }'") == 0);
    guard(&set);
    CHECK(ask(&lan.other, PEER_CONNECT, 0, "198.18.2.1:8080") == 0);
    CHECK(ask(&lan.other, PEER_CONNECT, 0, "203.0.113.5:80") == -ECONNREFUSED);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(every_case_is_listed)
NETNS_TEST(only_fail_closed_captures_are_guarded)
NETNS_TEST(somebody_elses_table_is_left_alone)
NETNS_TEST(the_host_is_refused_and_nothing_leaks)
NETNS_TEST(older_connections_of_the_host_go_on)
NETNS_TEST(upstreams_can_be_reached)
NETNS_TEST(udp_is_refused)
NETNS_TEST(replaced_without_a_gap)
NETNS_TEST(a_cgroup_is_refused_and_others_are_not)
NETNS_TEST(clients_are_refused_and_nothing_leaks)
NETNS_TEST(forged_sources_are_answered_by_nobody)
NETNS_TEST(older_connections_of_clients_go_on)
NETNS_TEST(port_forwarding_is_left_alone)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_case_is_listed),
        cmocka_unit_test(test_only_fail_closed_captures_are_guarded),
        cmocka_unit_test(test_somebody_elses_table_is_left_alone),
        cmocka_unit_test(test_the_host_is_refused_and_nothing_leaks),
        cmocka_unit_test(test_older_connections_of_the_host_go_on),
        cmocka_unit_test(test_upstreams_can_be_reached),
        cmocka_unit_test(test_udp_is_refused),
        cmocka_unit_test(test_replaced_without_a_gap),
        cmocka_unit_test(test_a_cgroup_is_refused_and_others_are_not),
        cmocka_unit_test(test_clients_are_refused_and_nothing_leaks),
        cmocka_unit_test(test_forged_sources_are_answered_by_nobody),
        cmocka_unit_test(test_older_connections_of_clients_go_on),
        cmocka_unit_test(test_port_forwarding_is_left_alone),
    };

    return cmocka_run_group_tests_name("nft/guard", tests, NULL, NULL);
}
