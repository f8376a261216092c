/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Each file of nft/examples, as it stands but for the names of what is there: loaded by nft twice,
 * and its mark leads to the listener of a capture that asks for it, and nothing else does. UDP has
 * the mark, too.
 */
#include "lan.h"

#include <grp.h>
#include <sys/stat.h>
#include <time.h>

#include "nft/batch.h"
#include "nft/cgroup.h"
#include "nft/routes.h"
#include "nft/ruleset.h"

#define EXAMPLES "nft/examples/"

static char why[512];

/* ---- the file ---- */

static char *read_example(const char *name)
{
    char path[256], *text = calloc(1, 1 << 16);

    snprintf(path, sizeof(path), EXAMPLES "%s.nft", name);
    FILE *f = fopen(path, "re");

    CHECK(f && text);
    CHECK(fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

/* Every example has the word where it is replaced. */
static char *with(char *text, const char *from, const char *to)
{
    char *result = calloc(1, 1 << 17), *p = text, *found = strstr(text, from);

    CHECK(result && found);
    for (; found; p = found + strlen(from), found = strstr(p, from)) {
        strncat(result, p, (size_t)(found - p));
        strcat(result, to);
    }
    strcat(result, p);
    free(text);
    return result;
}

static void load(char *text)
{
    for (unsigned i = 0; i < 2; i++) {
        FILE *nft = popen("nft -f -", "we");

        CHECK(nft);
        fputs(text, nft);
        CHECK(pclose(nft) == 0);
    }
    free(text);
}

/* ---- the capture that its head comment shows ---- */

static int listener4, listener6;

static struct lan set_up(bool gateway)
{
    static const char *const servers[] = {"203.0.113.5:80", "203.0.113.5:25",   "203.0.113.6:80",
                                          "10.9.9.9:80",    "[2001:db8::5]:80", "203.0.113.5:22"};
    static const struct capture_policy host[] = {{PROXY("x"), .has_mark = true, .mark = 0x51}};
    static const struct capture_policy gate[] = {{GATE("x"), .has_mark = true, .mark = 0x51}};
    const struct capture_set set = {.policies = gateway ? gate : host,
                                    .n_policies = 1,
                                    .own_mark = CAPTURE_OWN_MARK,
                                    .own_mask = CAPTURE_OWN_MASK,
                                    .tproxy_mark = CAPTURE_TPROXY_MARK};
    struct nft_owner *owner;
    struct nft_ruleset *rs;
    struct lan lan = make_lan();

    for (unsigned i = 0; i < COUNT(servers); i++)
        CHECK(ask(&lan.server, PEER_LISTEN, i, servers[i]) == 0);
    listener4 = listen_at(gateway ? "127.0.0.1:12347" : "127.0.0.1:12345", gateway);
    listener6 = listen_at(gateway ? "[::1]:12348" : "[::1]:12346", gateway);
    CHECK(nft_ruleset_build(&set, &rs) == 0);
    int r = nft_owner_open(&owner, why, sizeof(why));

    if (r == 0)
        r = nft_owner_replace(owner, rs, why, sizeof(why));
    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    nft_ruleset_free(rs);
    if (gateway)
        CHECK(routes_install(0, NULL, why, sizeof(why)) == 0);
    return lan;
}

/* Whether the listener has a connection waiting. */
static bool arrived(const char *where)
{
    struct addr to = parse_addr(where);
    int fd = accept_in(addr_is_v4(&to) ? listener4 : listener6, 0);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool taken_marked(const char *where, uint32_t mark)
{
    int fd = connect_in(where, NULL, mark, PATIENCE_MS);

    CHECK(fd >= 0);
    close(fd);
    return arrived(where);
}

static bool taken(const char *where)
{
    return taken_marked(where, 0);
}

/* The same by a child with these ids, and in this cgroup (NULL: ours). */
static bool taken_by(uid_t uid, gid_t gid, const char *procs, const char *where)
{
    int status;

    fflush(NULL);
    pid_t child = fork();

    if (child == 0) {
        FILE *f = procs ? fopen(procs, "we") : NULL;

        CHECK(!procs || (f && fprintf(f, "%d\n", getpid()) > 0 && fclose(f) == 0));
        CHECK(setgroups(0, NULL) == 0 && setgid(gid) == 0 && setuid(uid) == 0);
        int fd = connect_in(where, NULL, 0, PATIENCE_MS);

        CHECK(fd >= 0);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return arrived(where);
}

/* Whether a datagram of ours, sent by way of a command ("": none), has the mark where UDP is
 * selected. */
static bool datagram_marked(const char *by, const char *address)
{
    char command[256];

    if (!has_command("bash"))
        skip_because("bash is not installed");
    CHECK(system(
              "nft 'table inet seen; delete table inet seen; table inet seen { chain out { type "
              "filter hook output priority -125; meta l4proto udp meta mark 0x51 counter; }; }'") ==
          0);
    snprintf(command, sizeof(command), "%s bash -c 'echo >/dev/udp/%s/9'", by, address);
    CHECK(system(command) == 0);
    return system("nft list table inet seen | grep -q 'packets 1 '") == 0;
}

/* ---- one test for each ---- */

static void by_user(void)
{
    set_up(false);
    load(read_example("by-user"));
    CHECK(taken_by(1001, 1001, NULL, "203.0.113.5:80"));
    CHECK(taken_by(1002, 1002, NULL, "[2001:db8::5]:80"));
    CHECK(!taken_by(1001, 1001, NULL, "203.0.113.5:22"));
    CHECK(!taken_by(1003, 1001, NULL, "203.0.113.5:80"));
    CHECK(taken_by(1003, 2001, NULL, "203.0.113.5:80"));
    CHECK(!taken("203.0.113.5:80") && !taken("[2001:db8::5]:80"));
    if (!has_command("setpriv"))
        skip_because("setpriv is not installed");
    CHECK(datagram_marked("setpriv --reuid 1001 --clear-groups", "203.0.113.5"));
    CHECK(datagram_marked("setpriv --regid 2001 --clear-groups", "2001:db8::5"));
    CHECK(!datagram_marked("", "203.0.113.5"));
}

static void by_cgroup(void)
{
    char *root = output_of("awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts");
    char path[64], name[NFT_CGROUP_NAME_SIZE], match[NFT_CGROUP_NAME_SIZE + 64], dir[256];
    char procs[300];

    if (!root)
        skip_because("awk cannot be run");
    root[strcspn(root, "\n")] = '\0';
    snprintf(path, sizeof(path), "/undersock-test-%d", getpid());
    snprintf(dir, sizeof(dir), "%.100s%s", root, path);
    snprintf(procs, sizeof(procs), "%s/cgroup.procs", dir);
    nft_cgroup_name(path, name);
    /* nft counts directories below the root of cgroup2, and names them below /sys/fs/cgroup. */
    snprintf(match, sizeof(match), "level %u \"%s\"", nft_cgroup_level(path), name);
    set_up(false);
    if (root[0] == '\0' || mkdir(dir, 0755) < 0)
        skip_because("no cgroup2 that can be written to");
    char *text = with(read_example("by-cgroup"), "level 2 \"system.slice/backup.service\"", match);
    FILE *nft = popen("nft -f -", "we");

    CHECK(nft);
    fputs(text, nft);
    int loaded = pclose(nft);
    bool inside = loaded == 0 && taken_by(0, 0, procs, "203.0.113.5:80");
    bool inside6 = loaded == 0 && taken_by(0, 0, procs, "[2001:db8::5]:80");
    bool outside = loaded == 0 && taken_by(0, 0, NULL, "203.0.113.5:80");

    /* Whatever came out, it does not stay behind. */
    CHECK(rmdir(dir) == 0);
    CHECK(loaded == 0 && inside && inside6 && !outside);
}

static void by_destination(void)
{
    set_up(false);
    load(read_example("by-destination"));
    CHECK(taken("203.0.113.5:80") && taken("203.0.113.127:80") && taken("[2001:db8::5]:80"));
    CHECK(!taken("203.0.113.6:80") && !taken("203.0.113.5:25"));
    CHECK(system("nft add element inet mark-by-destination proxied4 { 203.0.113.6 }") == 0);
    CHECK(taken("203.0.113.6:80"));
    CHECK(datagram_marked("", "203.0.113.127") && datagram_marked("", "2001:db8::5"));
    CHECK(!datagram_marked("", "203.0.113.7"));
}

static void by_interface(void)
{
    struct lan lan = set_up(true);
    char *text = with(read_example("by-interface"), "br-guest", "lan0");

    load(with(text, "192.0.2.10", "198.18.1.77"));
    in_peer(&lan.client, "ip addr add 198.18.1.77/24 dev eth0");
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "203.0.113.5:80") == 0 && arrived("203.0.113.5:80"));
    CHECK(ask(&lan.client, PEER_CONNECT, 0, "[2001:db8::5]:80") == 0 &&
          arrived("[2001:db8::5]:80"));
    CHECK(ask_from(&lan.client, PEER_CONNECT, 0, "203.0.113.5:80", "198.18.1.77:0", PATIENCE_MS) ==
              0 &&
          !arrived("203.0.113.5:80"));
    CHECK(ask(&lan.other, PEER_CONNECT, 0, "203.0.113.5:80") == 0 && !arrived("203.0.113.5:80"));
    CHECK(!taken("203.0.113.5:80"));
}

/* Ranges around this hour and far from it; the day may change meanwhile, so two are named. */
static void by_time(void)
{
    static const char *const days[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                       "Thursday", "Friday", "Saturday"};
    static const char office[] = "\"Monday\", \"Tuesday\", \"Wednesday\", \"Thursday\", \"Friday\"";
    static const char hours[] = "\"08:00\"-\"18:00\"", always[] = "\"00:00\"-\"23:59:59\"";
    time_t now = time(NULL);
    struct tm tm;
    char today[64], others[128], elsewhen[64];

    CHECK(localtime_r(&now, &tm));
    unsigned day = (unsigned)tm.tm_wday, hour = (unsigned)(tm.tm_hour + 12) % 24;

    snprintf(today, sizeof(today), "\"%s\", \"%s\"", days[day], days[(day + 1) % 7]);
    snprintf(others, sizeof(others), "\"%s\", \"%s\"", days[(day + 3) % 7], days[(day + 4) % 7]);
    snprintf(elsewhen, sizeof(elsewhen), "\"%02u:00\"-\"%02u:59\"", hour, hour);
    set_up(false);
    load(with(with(read_example("by-time"), hours, always), office, today));
    CHECK(taken("203.0.113.5:80") && taken("[2001:db8::5]:80"));
    CHECK(datagram_marked("", "203.0.113.5"));
    load(with(with(read_example("by-time"), hours, always), office, others));
    CHECK(!taken("203.0.113.5:80"));
    load(with(with(read_example("by-time"), hours, elsewhen), office, today));
    CHECK(!taken("203.0.113.5:80"));
}

static void by_packet_mark(void)
{
    set_up(false);
    load(read_example("by-packet-mark"));
    CHECK(system("nft 'table inet tool { chain out { type filter hook output priority -140; tcp "
                 "dport 25 ct mark set 7; tcp dport 22 ct mark set 8; }; }'") == 0);
    CHECK(taken_marked("203.0.113.5:80", 0x10000) && taken_marked("[2001:db8::5]:80", 0x10003));
    CHECK(!taken_marked("203.0.113.5:80", 0x20000) && !taken("203.0.113.5:80"));
    CHECK(taken("203.0.113.5:25"));
    CHECK(!taken("203.0.113.5:22"));
    /* The daemon's own mark has the bit, too. */
    CHECK(!taken_marked("203.0.113.5:80", 0x55530000));
    CHECK(!taken_marked("203.0.113.5:25", 0x55530000));
}

/* Files without a test of their own would be missed here. */
static void every_example_is_tested(void)
{
    char *text = output_of("cd " EXAMPLES " && ls");

    CHECK(text && strcmp(text, "by-cgroup.nft\nby-destination.nft\nby-interface.nft\n"
                               "by-packet-mark.nft\nby-time.nft\nby-user.nft\n") == 0);
    free(text);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(by_user)
NETNS_TEST(by_cgroup)
NETNS_TEST(by_destination)
NETNS_TEST(by_interface)
NETNS_TEST(by_time)
NETNS_TEST(by_packet_mark)
NETNS_TEST(every_example_is_tested)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_user),
        cmocka_unit_test(test_by_cgroup),
        cmocka_unit_test(test_by_destination),
        cmocka_unit_test(test_by_interface),
        cmocka_unit_test(test_by_time),
        cmocka_unit_test(test_by_packet_mark),
        cmocka_unit_test(test_every_example_is_tested),
    };

    return cmocka_run_group_tests_name("nft/examples", tests, NULL, NULL);
}
