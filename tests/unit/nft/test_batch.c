/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The owned table in a real kernel: what nft lists, who may touch it, and when it goes. */
#include "netns.h"

#include <fcntl.h>
#include <stdbool.h>

#include <linux/netfilter.h>

#include "cases.h"
#include "nft/batch.h"
#include "nft/form.h"
#include "nft/probe.h"
#include "nft/ruleset.h"
#include "nft/text.h"

#define LIST "nft list table inet undersock 2>/dev/null"

static char why[512];

static struct nft_owner *open_owner(void)
{
    struct nft_owner *owner;
    int r = nft_owner_open(&owner, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    return owner;
}

static struct nft_ruleset *build(const struct capture_set *set)
{
    struct nft_ruleset *rs;

    CHECK(nft_ruleset_build(set, &rs) == 0);
    return rs;
}

static void install(struct nft_owner *owner, const struct capture_set *set)
{
    struct nft_ruleset *rs = build(set);

    if (nft_owner_replace(owner, rs, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        CHECK(!"installed");
    }
    nft_ruleset_free(rs);
}

static const struct capture_set *case_named(const char *name)
{
    for (size_t i = 0; i < COUNT(cases); i++)
        if (strcmp(cases[i].name, name) == 0)
            return &cases[i].set;
    CHECK(!"a case of that name");
    return NULL;
}

static void need_nft(void)
{
    if (!has_command("nft"))
        skip_because("the nft command is not installed");
}

/* What the command lists, without the comment that names the owner's program. */
static char *listing(const char *command)
{
    char *text = output_of(command);
    char *comment = text ? strstr(text, " # progname") : NULL;

    if (comment) {
        char *end = strchr(comment, '\n');

        memmove(comment, end, strlen(end) + 1);
    }
    return text;
}

static void expect_same(const char *name, const char *expected, const char *found)
{
    size_t i = 0;

    if (found && strcmp(expected, found) == 0)
        return;
    while (found && expected[i] && expected[i] == found[i])
        i++;
    while (i > 0 && expected[i - 1] != '\n')
        i--;
    fprintf(stderr, "%s: expected\n%.200s\nbut nft lists\n%.200s\n", name, expected + i,
            found ? found + i : "nothing");
    CHECK(!"the same text");
}

/* nft's own reading of our text, without the owner (nft itself would own it, and take it along). */
static char *listing_of_loaded(const char *text)
{
    static const char owner[] = "\tflags owner\n\n";
    const char *flags = strstr(text, owner);
    FILE *pipe = popen("nft -f -", "we");

    CHECK(pipe && flags);
    fwrite(text, 1, (size_t)(flags - text), pipe);
    fputs(flags + strlen(owner), pipe);
    CHECK(pclose(pipe) == 0);
    char *found = listing(LIST);

    CHECK(system("nft delete table inet undersock") == 0);
    return found;
}

/*
 * What is installed is what the text says. The text is that of nft 1.0.6; another nft may word
 * things differently, so there its listing of the installed table is held against its listing of
 * our text.
 */
static void expect_listed(const char *name, const struct capture_set *set)
{
    char *version = output_of("nft --version");
    struct nft_ruleset *rs = build(set);
    char *text = nft_ruleset_text(rs);
    struct nft_owner *owner = open_owner();

    install(owner, set);
    char *found = listing(LIST);

    if (strstr(version, "v1.0.6"))
        expect_same(name, text, found);
    CHECK(found);
    nft_owner_close(owner);

    char *loaded = listing_of_loaded(text);
    char *flags = strstr(found, "\tflags owner\n\n");

    CHECK(flags);
    memmove(flags, flags + 14, strlen(flags + 14) + 1);
    expect_same(name, loaded, found);

    FILE *check = popen("nft -c -f -", "we");

    CHECK(check);
    fputs(text, check);
    CHECK(pclose(check) == 0);
    free(loaded);
    free(found);
    free(text);
    free(version);
    nft_ruleset_free(rs);
}

static void every_case(void)
{
    need_nft();
    for (size_t i = 0; i < COUNT(cases); i++)
        expect_listed(cases[i].name, &cases[i].set);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/*
 * The listing with its chains and sets in alphabetical order: nft lists what stays before what is
 * new. Chains that were kept for the sake of connections are left out where `first` (a listing of
 * the same policy, installed afresh) has none of the name.
 */
static char *sorted(const char *listing_text, const char *first)
{
    char *copy = strdup(listing_text), *blocks[64], *p = copy;
    size_t n = 0, len = strlen(listing_text) + 64;
    char *result = calloc(1, len);

    CHECK(copy && result);
    for (char *next; p; p = next) {
        next = strstr(p, "\n\t}\n");
        if (next) {
            next[3] = '\0';
            next += 4;
        }
        while (*p == '\n')
            p++;
        char *brace = strchr(p, '{');
        char head[80];

        size_t head_len = brace ? (size_t)(brace - p) : 0;

        CHECK(head_len < sizeof(head));
        memcpy(head, p, head_len);
        head[head_len] = '\0';
        bool kept = !strncmp(p, "\tchain output", 13) || !strncmp(p, "\tchain prerouting", 17) ||
                    !strncmp(p, "\tchain established", 18) || !strncmp(p, "\tchain injected", 15) ||
                    !strncmp(p, "\tchain source", 13) || !strncmp(p, "\tchain loopback", 15) ||
                    !strncmp(p, "\tchain granted", 14) || !strncmp(p, "\tchain delivery", 15) ||
                    !strncmp(p, "\tchain forward", 14) || !strncmp(p, "\tchain hasty", 12) ||
                    !strncmp(p, "\tset hasty", 10);

        CHECK(n < COUNT(blocks));
        if (!kept || strstr(first, head))
            blocks[n++] = p;
    }
    if (n > 2)
        qsort(blocks + 1, n - 2, sizeof(blocks[0]), by_text);
    for (size_t i = 0; i < n; i++) {
        strncat(result, blocks[i], len - strlen(result) - 1);
        strncat(result, "\n", len - strlen(result) - 1);
    }
    free(copy);
    return result;
}

/* The listing after a replacement is as if it were the first, from each case to the next. */
static void every_case_after_another(void)
{
    need_nft();
    struct nft_owner *owner = open_owner();

    for (size_t i = 0; i < 2 * COUNT(cases); i++) {
        const struct test_case *c = &cases[i * 7 % COUNT(cases)];
        struct nft_owner *fresh;

        install(owner, &c->set);
        char *replaced = listing(LIST);

        CHECK(nft_owner_remove(owner, why, sizeof(why)) == 0);
        CHECK(nft_owner_open(&fresh, why, sizeof(why)) == 0);
        install(fresh, &c->set);
        char *first = listing(LIST);

        CHECK(first && replaced);
        char *a = sorted(first, first), *b = sorted(replaced, first);

        expect_same(c->name, a, b);
        free(a);
        free(b);
        nft_owner_close(fresh);
        install(owner, &c->set);
        free(first);
        free(replaced);
    }
}

/* What a reload leaves out stays as far as connections need it, until the owner goes. */
static void what_connections_need_stays(void)
{
    const struct capture_set gate = {POLICIES(gate_lan), OWN, TPROXY};
    const struct capture_set host = {POLICIES(everything), OWN};
    struct nft_ruleset *nothing = build(&set_nothing_to_do);

    need_nft();
    struct nft_owner *owner = open_owner();

    install(owner, &gate);
    install(owner, &host);
    char *text = listing(LIST);

    CHECK(strstr(text, "goto established\n\t}"));
    CHECK(strstr(text, "socket transparent 1 meta mark set 0x55530001 accept"));
    CHECK(!strstr(text, "tproxy") && !strstr(text, "gw_"));
    CHECK(strstr(text, "redirect to :12345"));
    free(text);
    install(owner, &gate);
    text = listing(LIST);
    CHECK(strstr(text, "priority -110; policy accept;\n\t\tct status dnat return\n\t}"));
    CHECK(strstr(text, "tproxy ip to 127.0.0.1:12347"));
    free(text);
    CHECK(nft_owner_replace(owner, nothing, why, sizeof(why)) == 0);
    text = listing(LIST);
    CHECK(strstr(text, "priority -110; policy accept;\n\t\tct status dnat return\n\t}"));
    CHECK(strstr(text, "goto established\n\t}"));
    CHECK(!strstr(text, "set gw") && !strstr(text, "tproxy"));
    free(text);
    /* With the sets that rules fill, and nothing else of the seats'. */
    install(owner, case_named("honest gateway, several seats"));
    for (unsigned i = 0; i < 3; i++) {
        CHECK(nft_owner_replace(owner, nothing, why, sizeof(why)) == 0);
        text = listing(LIST);
        CHECK(strstr(text, "\tset hasty_ports {\n"));
        CHECK(strstr(text, "\t\tadd @hasty_ports { tcp sport }\n"));
        CHECK(strstr(text, "tcp sport 41001 drop") && !strstr(text, "chain hold_"));
        CHECK(!strstr(text, "_new") && !strstr(text, "set private4"));
        free(text);
    }
    install(owner, case_named("honest, one seat"));
    text = listing(LIST);
    CHECK(strstr(text, "tcp sport 41002 drop") && !strstr(text, "tcp sport 41001 drop"));
    free(text);
    nft_ruleset_free(nothing);
    nft_owner_close(owner);
    CHECK(!listing(LIST));
}

/* 5,000 prefixes per family: most apart, some within or right behind others. */
static void large_sets(void)
{
    enum { N = 5000 };
    static struct prefix to[2 * N];

    need_nft();
    for (uint32_t i = 0; i < N; i++) {
        struct prefix *v4 = &to[i], *v6 = &to[N + i];
        /* In an order that is not the sorted one; 7919 and N have no common factor. */
        uint32_t k = i * 7919u % N;
        uint32_t net = 0x10000000u + k * 0x600u;

        *v4 = (struct prefix)NET4(net >> 24, net >> 16 & 0xff, net >> 8 & 0xff, 0, 24);
        if (k % 10 == 1)
            v4->len = 96 + 22; /* reaches into its neighbours */
        if (k % 10 == 2)
            v4->len = 128;
        *v6 = (struct prefix)NET6(0x2001, 0x1000 + k / 100, k % 100 * 3, 0, 0, 48);
        if (k % 10 == 1)
            v6->len = 46;
        if (k % 7 == 0)
            v6->len = 128;
        if (k % 11 == 0) {
            v6->ip[5]++; /* right behind the neighbour */
            v6->len = 48;
        }
    }
    /* Host bits are allowed: the kernel would mind, the form does not. */
    const struct capture_policy policy = {PROXY("large"), TO(to), NOT_TO(to)};
    const struct capture_set set = {.policies = &policy, .n_policies = 1};

    expect_listed("large sets", &set);
}

static void second_owner_is_refused(void)
{
    struct nft_owner *first = open_owner(), *second = open_owner();
    struct nft_ruleset *rs = build(&cases[0].set);
    char port[32];

    install(first, &cases[0].set);
    why[0] = '\0';
    CHECK(nft_owner_replace(second, rs, why, sizeof(why)) == -EBUSY);
    /* The first netlink socket of a process has its pid for a port. */
    snprintf(port, sizeof(port), "netlink port %d,", getpid());
    CHECK(strstr(why, "table inet undersock is owned by another process"));
    CHECK(strstr(why, port));
    /* The refusal did not harm the first, which may still replace. */
    install(first, case_named("uid"));
    CHECK(nft_owner_replace(second, rs, why, sizeof(why)) == -EBUSY);
    nft_owner_close(first);
    CHECK(nft_owner_replace(second, rs, why, sizeof(why)) == 0);
    nft_owner_close(second);
    nft_ruleset_free(rs);
}

static void table_without_owner_is_left_alone(void)
{
    need_nft();
    CHECK(system("nft add table inet undersock '{ chain mine { counter; }; }'") == 0);
    char *before = output_of("nft list ruleset");
    struct nft_owner *owner = open_owner();
    struct nft_ruleset *rs = build(&cases[0].set);

    CHECK(nft_owner_replace(owner, rs, why, sizeof(why)) == -EEXIST);
    CHECK(strstr(why, "nobody owns it"));
    CHECK(nft_owner_remove(owner, why, sizeof(why)) == 0); /* has none to remove */
    char *after = output_of("nft list ruleset");

    expect_same("a foreign table of our name", before, after);
    CHECK(system("nft delete table inet undersock") == 0);
    CHECK(nft_owner_replace(owner, rs, why, sizeof(why)) == 0);
    nft_owner_close(owner);
    nft_ruleset_free(rs);
    free(before);
    free(after);
}

static void others_may_not_touch_it(void)
{
    need_nft();
    struct nft_owner *owner = open_owner();

    for (unsigned i = 0; i < 2; i++) { /* as installed, and as replaced */
        install(owner, case_named("uid"));
        char *before = listing(LIST);

        CHECK(before);
        CHECK(system("nft delete table inet undersock 2>/dev/null") != 0);
        CHECK(system("nft add chain inet undersock intruder 2>/dev/null") != 0);
        CHECK(system("nft flush chain inet undersock output 2>/dev/null") != 0);
        CHECK(system("nft flush ruleset") == 0);
        char *after = listing(LIST);

        expect_same("after others tried", before, after);
        free(before);
        free(after);
    }
    nft_owner_close(owner);
}

static void gone_after_close(void)
{
    need_nft();
    struct nft_owner *owner = open_owner();

    install(owner, &cases[0].set);
    install(owner, &cases[1].set);
    free(listing(LIST));
    nft_owner_close(owner);
    CHECK(!listing(LIST));
    CHECK(*output_of("nft list ruleset") == '\0');
}

static void gone_after_sigkill(void)
{
    int ready[2], status;
    char c;

    need_nft();
    CHECK(pipe2(ready, O_CLOEXEC) == 0);
    pid_t child = fork();

    if (child == 0) {
        struct nft_owner *owner = open_owner();

        install(owner, &cases[0].set);
        CHECK(write(ready[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    close(ready[1]);
    if (read(ready[0], &c, 1) != 1) {
        waitpid(child, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    char *there = listing(LIST);

    CHECK(there);
    free(there);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    CHECK(!listing(LIST));
}

static void removed_and_installed_again(void)
{
    need_nft();
    struct nft_owner *owner = open_owner();
    struct nft_ruleset *nothing = build(&set_nothing_to_do);

    CHECK(nft_owner_remove(owner, why, sizeof(why)) == 0);
    install(owner, &cases[0].set);
    CHECK(nft_owner_remove(owner, why, sizeof(why)) == 0);
    CHECK(!listing(LIST));
    install(owner, &cases[1].set);
    char *there = listing(LIST);

    CHECK(there);
    free(there);
    CHECK(nft_ruleset_empty(nothing));
    CHECK(nft_owner_replace(owner, nothing, why, sizeof(why)) == 0);
    there = listing(LIST);
    CHECK(strstr(there, "chain output {") && !strstr(there, "redirect") && !strstr(there, "set "));
    free(there);
    CHECK(nft_owner_remove(owner, why, sizeof(why)) == 0);
    CHECK(nft_owner_replace(owner, nothing, why, sizeof(why)) == 0);
    CHECK(!listing(LIST));
    nft_ruleset_free(nothing);
    nft_owner_close(owner);
}

/* A ruleset whose second rule the kernel must refuse: redirect outside nat. */
static struct nft_ruleset *impossible(void)
{
    struct nft_ruleset *rs = nft_form_new();
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;

    CHECK(rs);
    CHECK(nft_form_add_chain(rs, "wrong", NFT_CHAIN_FILTER, NF_INET_LOCAL_OUT, 0, &chain) == 0);
    nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, 6);
    CHECK(nft_chain_append(&rs->chains[chain], &rule) == 0);
    nft_rule_add(&rule, NFT_EXPR_REDIRECT)->port = 4711;
    CHECK(nft_chain_append(&rs->chains[chain], &rule) == 0);
    return rs;
}

static void failure_changes_nothing(void)
{
    need_nft();
    struct nft_owner *owner = open_owner();
    struct nft_ruleset *bad = impossible();

    CHECK(nft_owner_replace(owner, bad, why, sizeof(why)) < 0);
    CHECK(!listing(LIST));
    install(owner, &cases[0].set);
    char *before = listing(LIST);

    why[0] = '\0';
    CHECK(nft_owner_replace(owner, bad, why, sizeof(why)) < 0);
    CHECK(strstr(why, "chain wrong, rule \"meta l4proto tcp redirect to :4711\""));
    char *after = listing(LIST);

    expect_same("after a failed replacement", before, after);
    install(owner, case_named("uid"));
    nft_ruleset_free(bad);
    nft_owner_close(owner);
    free(before);
    free(after);
}

static void foreign_tables_are_untouched(void)
{
    need_nft();
    CHECK(
        system("nft -f - <<'EOF'\n"
               "table ip theirs {\n"
               "  set s { type ipv4_addr; elements = { 192.0.2.1 }; }\n"
               "  chain out { type nat hook output priority -100; tcp dport 81 redirect to :82; }\n"
               "}\n"
               "table inet undersock2 { chain c { }; }\n"
               "EOF") == 0);
    char *before = output_of("nft list ruleset");
    struct nft_owner *owner = open_owner();

    install(owner, case_named("every selector"));
    install(owner, case_named("refuse last"));
    char *theirs = output_of("nft list table ip theirs");

    CHECK(theirs && strstr(before, theirs) == before);
    nft_owner_close(owner);
    char *after = output_of("nft list ruleset");

    expect_same("foreign tables", before, after);
    free(theirs);
    free(before);
    free(after);
}

static void missing_privilege_is_named(void)
{
    struct nft_owner *untouched = (struct nft_owner *)&why, *owner = untouched;

    CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    CHECK(nft_owner_open(&owner, why, sizeof(why)) == -EPERM);
    CHECK(strstr(why, "CAP_NET_ADMIN"));
    CHECK(owner == untouched);
    CHECK(nft_owner_open(&owner, NULL, 0) == -EPERM);
}

static void socket_is_not_inherited(void)
{
    struct nft_owner *owner = open_owner();

    CHECK(fcntl(nft_owner_fd(owner), F_GETFD) & FD_CLOEXEC);
    nft_owner_close(owner);
    nft_owner_close(NULL);
}

static void probe_leaves_nothing(void)
{
    struct nft_probe probe;
    int r = nft_probe(&probe, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    for (enum nft_feature f = 0; f < NFT_N_FEATURES; f++) {
        /* A kernel may lack one of them, but then it says why. */
        CHECK((probe.result[f] == 0) == (probe.why[f][0] == '\0'));
        if (probe.result[f] < 0)
            fprintf(stderr, "%s: %s\n", nft_feature_name(f), probe.why[f]);
    }
    CHECK(probe.result[NFT_FEATURE_OWNER] == 0);
    need_nft();
    CHECK(*output_of("nft list ruleset") == '\0');
}

static void probe_goes_beside_an_owner(void)
{
    struct nft_probe probe;
    struct nft_owner *owner = open_owner();

    install(owner, &cases[0].set);
    CHECK(nft_probe(&probe, why, sizeof(why)) == 0);
    CHECK(probe.result[NFT_FEATURE_REDIRECT] == 0);
    install(owner, &cases[1].set);
    nft_owner_close(owner);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(every_case)
NETNS_TEST(every_case_after_another)
NETNS_TEST(what_connections_need_stays)
NETNS_TEST(large_sets)
NETNS_TEST(second_owner_is_refused)
NETNS_TEST(table_without_owner_is_left_alone)
NETNS_TEST(others_may_not_touch_it)
NETNS_TEST(gone_after_close)
NETNS_TEST(gone_after_sigkill)
NETNS_TEST(removed_and_installed_again)
NETNS_TEST(failure_changes_nothing)
NETNS_TEST(foreign_tables_are_untouched)
NETNS_TEST(missing_privilege_is_named)
NETNS_TEST(socket_is_not_inherited)
NETNS_TEST(probe_leaves_nothing)
NETNS_TEST(probe_goes_beside_an_owner)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_case),
        cmocka_unit_test(test_every_case_after_another),
        cmocka_unit_test(test_what_connections_need_stays),
        cmocka_unit_test(test_large_sets),
        cmocka_unit_test(test_second_owner_is_refused),
        cmocka_unit_test(test_table_without_owner_is_left_alone),
        cmocka_unit_test(test_others_may_not_touch_it),
        cmocka_unit_test(test_gone_after_close),
        cmocka_unit_test(test_gone_after_sigkill),
        cmocka_unit_test(test_removed_and_installed_again),
        cmocka_unit_test(test_failure_changes_nothing),
        cmocka_unit_test(test_foreign_tables_are_untouched),
        cmocka_unit_test(test_missing_privilege_is_named),
        cmocka_unit_test(test_socket_is_not_inherited),
        cmocka_unit_test(test_probe_leaves_nothing),
        cmocka_unit_test(test_probe_goes_beside_an_owner),
    };

    return cmocka_run_group_tests_name("nft/batch", tests, NULL, NULL);
}
