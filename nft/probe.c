/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each trial is a small form of its own, whose rules match nothing. */
#include "nft/probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/netfilter.h>

#include "nft/batch.h"
#include "nft/explain.h"
#include "nft/form.h"
#include "nft/log.h"
#include "nft/ruleset.h"

#define TRIAL_GROUP (CAPTURE_LOG_GROUP + CAPTURE_SEATS) /* no seat's */

const char *nft_feature_name(enum nft_feature feature)
{
    static const char *const names[NFT_N_FEATURES] = {
        [NFT_FEATURE_OWNER] = "table owner",
        [NFT_FEATURE_SETS] = "interval and concatenated sets",
        [NFT_FEATURE_REDIRECT] = "redirect at output",
        [NFT_FEATURE_REJECT] = "reject with tcp reset",
        [NFT_FEATURE_TPROXY] = "tproxy at prerouting",
        [NFT_FEATURE_LABEL] = "conntrack labels",
        [NFT_FEATURE_CT_STATUS] = "conntrack state",
        [NFT_FEATURE_FIB] = "address types",
        [NFT_FEATURE_HOLD] = "rules that hold SYNs",
        [NFT_FEATURE_UDP] = "rules that take UDP",
        [NFT_FEATURE_CGROUP] = "cgroups in rules",
        [NFT_FEATURE_LOG] = "nfnetlink_log",
    };

    return names[feature];
}

/* A rule about TCP from nobody to nowhere: both marks at once is impossible. */
static void match_nothing(struct nft_rule *rule)
{
    nft_rule_match(rule, NFT_FIELD_META_MARK, NFT_OP_EQ, 1);
    nft_rule_match(rule, NFT_FIELD_META_MARK, NFT_OP_EQ, 2);
    nft_rule_match(rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_TCP);
}

static int add_sets(struct nft_ruleset *rs, struct nft_rule *rule)
{
    static const enum nft_type pair_types[] = {NFT_TYPE_IPV4_ADDR, NFT_TYPE_INET_SERVICE};
    static const uint8_t first[] = {192, 0, 2, 0}, last[] = {192, 0, 2, 255};
    static const uint8_t key[NFT_KEY_SIZE] = {192, 0, 2, 1, 0, 9};
    unsigned prefixes, pairs;
    int r = nft_form_add_set(rs, "prefixes", pair_types, 1, true, &prefixes);

    if (r == 0)
        r = nft_form_add_set(rs, "pairs", pair_types, 2, false, &pairs);
    if (r == 0)
        r = nft_set_add(&rs->sets[prefixes], first, last);
    if (r == 0)
        r = nft_set_add(&rs->sets[pairs], key, NULL);
    if (r == 0) {
        nft_rule_match_set(rule, NFT_FIELD_IP_DADDR, NFT_OP_EQ, prefixes);
        nft_rule_match_pair(rule, NFT_FIELD_IP_DADDR, NFT_FIELD_TCP_DPORT, pairs);
    }
    return r;
}

/* The one cgroup that is there wherever any is. */
static int add_root_cgroup(struct nft_ruleset *rs, struct nft_rule *rule)
{
    unsigned index;
    int r = nft_form_add_cgroup(rs, "/", &index);

    if (r == 0)
        nft_rule_add(rule, NFT_EXPR_CGROUP)->cgroup = index;
    return r;
}

static int add_expressions(enum nft_feature feature, struct nft_ruleset *rs, struct nft_rule *rule)
{
    switch (feature) {
    case NFT_FEATURE_SETS:
        return add_sets(rs, rule);
    case NFT_FEATURE_REDIRECT:
        nft_rule_add(rule, NFT_EXPR_REDIRECT)->port = 9;
        break;
    case NFT_FEATURE_REJECT:
        nft_rule_add(rule, NFT_EXPR_TCP_RESET);
        break;
    case NFT_FEATURE_TPROXY:
        nft_rule_match(rule, NFT_FIELD_SOCKET_WILDCARD, NFT_OP_EQ, 1);
        nft_rule_match(rule, NFT_FIELD_SOCKET_TRANSPARENT, NFT_OP_EQ, 1);
        nft_rule_add(rule, NFT_EXPR_TPROXY)->port = 9;
        break;
    case NFT_FEATURE_LABEL:
        nft_rule_match_any(rule, NFT_FIELD_CT_LABEL, 85);
        nft_rule_add(rule, NFT_EXPR_SET_LABEL)->number = 85;
        break;
    case NFT_FEATURE_CT_STATUS:
        nft_rule_match_any(rule, NFT_FIELD_CT_STATE, 8);
        nft_rule_match_any(rule, NFT_FIELD_CT_STATUS, 32);
        break;
    case NFT_FEATURE_CGROUP:
        return add_root_cgroup(rs, rule);
    case NFT_FEATURE_FIB:
        nft_rule_match(rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_EQ, 2);
        break;
    default:
        break;
    }
    return 0;
}

/* What nft/hold.c asks for beyond the other features. */
static int make_hold(struct nft_ruleset *rs)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(rs, "trial", NFT_CHAIN_ROUTE, NF_INET_LOCAL_OUT, -110, &chain);

    match_nothing(&rule);
    nft_rule_match(&rule, NFT_FIELD_SOCKET_MARK, NFT_OP_EQ, 1);
    nft_rule_add(&rule, NFT_EXPR_SOCKET_MARK);
    struct nft_expr *hash = nft_rule_add(&rule, NFT_EXPR_SPORT_HASH);

    hash->modulus = 2;
    hash->seed = 1;
    struct nft_expr *log = nft_rule_add(&rule, NFT_EXPR_LOG);

    log->group = TRIAL_GROUP;
    log->snaplen = NFT_LOG_SNAPLEN;
    strcpy(log->prefix, "trial");
    if (r == 0)
        r = nft_chain_append(&rs->chains[chain], &rule);
    if (r == 0)
        r = nft_form_add_chain(rs, "trial_source", NFT_CHAIN_NAT, NF_INET_POST_ROUTING, 90, &chain);
    for (unsigned i = 0; r == 0 && i < 2; i++) {
        rule.n_exprs = 0;
        match_nothing(&rule);
        nft_rule_add(&rule, NFT_EXPR_KEEP_SOURCE)->v6 = i == 1;
        r = nft_chain_append(&rs->chains[chain], &rule);
    }
    return r;
}

/* What nft/udp.c asks for: two chain types more, and the UDP half of tproxy. */
static int make_udp(struct nft_ruleset *rs)
{
    static const struct {
        const char *name;
        enum nft_chain_type type;
        unsigned hook;
        int priority;
    } chains[] = {
        {"trial", NFT_CHAIN_ROUTE, NF_INET_LOCAL_OUT, -125},
        {"trial_destination", NFT_CHAIN_NAT, NF_INET_LOCAL_OUT, -110},
        {"trial_source", NFT_CHAIN_NAT, NF_INET_POST_ROUTING, 90},
        {"trial_loopback", NFT_CHAIN_FILTER, NF_INET_PRE_ROUTING, -160},
    };
    int r = 0;

    for (unsigned i = 0; r == 0 && i < 2 * sizeof(chains) / sizeof(chains[0]); i++) {
        struct nft_rule rule = {.n_exprs = 0};
        bool v6 = i % 2 == 1;
        unsigned chain = i / 2, index;

        if (!v6)
            r = nft_form_add_chain(rs, chains[chain].name, chains[chain].type, chains[chain].hook,
                                   chains[chain].priority, &index);
        nft_rule_match(&rule, NFT_FIELD_META_MARK, NFT_OP_EQ, 1);
        nft_rule_match(&rule, NFT_FIELD_META_MARK, NFT_OP_EQ, 2);
        nft_rule_match(&rule, NFT_FIELD_META_NFPROTO, NFT_OP_EQ, v6 ? NFPROTO_IPV6 : NFPROTO_IPV4);
        nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_UDP);
        struct nft_expr *e = nft_rule_add(&rule, chain == 0   ? NFT_EXPR_SET_MARK
                                                 : chain == 1 ? NFT_EXPR_KEEP_DESTINATION
                                                 : chain == 2 ? NFT_EXPR_KEEP_SOURCE
                                                              : NFT_EXPR_TPROXY);

        e->v6 = v6;
        e->number = 1;
        e->port = 9;
        if (r == 0)
            r = nft_chain_append(&rs->chains[chain], &rule);
    }
    return r;
}

static int make_form(enum nft_feature feature, struct nft_ruleset *rs)
{
    enum nft_chain_type type = feature == NFT_FEATURE_REDIRECT ? NFT_CHAIN_NAT
                               : feature == NFT_FEATURE_REJECT ? NFT_CHAIN_FILTER
                               : feature == NFT_FEATURE_TPROXY ? NFT_CHAIN_FILTER
                               : feature == NFT_FEATURE_CGROUP ? NFT_CHAIN_ROUTE
                                                               : NFT_CHAIN_REGULAR;
    unsigned hook = feature == NFT_FEATURE_TPROXY ? NF_INET_PRE_ROUTING : NF_INET_LOCAL_OUT;
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;

    if (feature == NFT_FEATURE_HOLD)
        return make_hold(rs);
    if (feature == NFT_FEATURE_UDP)
        return make_udp(rs);
    int r = nft_form_add_chain(rs, "trial", type, hook, -110, &chain);

    if (r < 0 || feature == NFT_FEATURE_OWNER)
        return r;
    match_nothing(&rule);
    r = add_expressions(feature, rs, &rule);
    return r < 0 ? r : nft_chain_append(&rs->chains[chain], &rule);
}

/* A group that somebody has shows it as well. */
static int try_log(char *why, size_t size)
{
    int fd, r = nft_log_open(TRIAL_GROUP, &fd, why, size);

    if (r == 0)
        close(fd);
    if (r != -EBUSY)
        return r;
    why[0] = '\0';
    return 0;
}

static int try_feature(struct nft_owner *owner, enum nft_feature feature, char *why, size_t size)
{
    if (feature == NFT_FEATURE_LOG)
        return try_log(why, size);
    struct nft_ruleset *rs = nft_form_new();
    int r = rs ? make_form(feature, rs) : -ENOMEM;

    if (r < 0)
        snprintf(why, size, "%s", strerror(-r));
    else
        r = nft_owner_replace(owner, rs, why, size);
    nft_ruleset_free(rs);
    if (feature == NFT_FEATURE_HOLD && r == -EOPNOTSUPP)
        nft_say(r, why, size,
                "nftables: SYNs cannot be held: this kernel lacks one of the modules nft_hash, "
                "nft_log, nft_socket, nft_nat and nfnetlink_log");
    return r;
}

static int open_scratch(struct nft_owner **ret, char *why, size_t size)
{
    char table[NFT_ID_SIZE];

    snprintf(table, sizeof(table), NFT_TABLE "-probe-%d", getpid());
    return nft_owner_open_table(table, ret, why, size);
}

/* Each of the first `n` of them. */
static int try_all(const enum nft_feature *features, unsigned n, char *why, size_t size)
{
    struct nft_owner *owner;
    char reason[512] = "";
    int r = open_scratch(&owner, why, size);

    if (r < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < n; i++)
        r = try_feature(owner, features[i], reason, sizeof(reason));
    nft_owner_close(owner);
    return r < 0 ? nft_say(r, why, size, "%s", reason) : 0;
}

int nft_probe_hold(char *why, size_t size)
{
    static const enum nft_feature features[] = {NFT_FEATURE_HOLD, NFT_FEATURE_LOG};

    return try_all(features, 2, why, size);
}

int nft_probe_udp(bool cgroup, char *why, size_t size)
{
    static const enum nft_feature features[] = {
        NFT_FEATURE_FIB, NFT_FEATURE_LABEL,  NFT_FEATURE_CT_STATUS,
        NFT_FEATURE_UDP, NFT_FEATURE_CGROUP,
    };

    return try_all(features, cgroup ? 5 : 4, why, size);
}

int nft_probe(struct nft_probe *ret, char *why, size_t size)
{
    struct nft_probe probe;
    struct nft_owner *owner;

    memset(&probe, 0, sizeof(probe));
    int r = open_scratch(&owner, why, size);

    if (r < 0)
        return r;
    for (enum nft_feature f = 0; f < NFT_N_FEATURES; f++)
        probe.result[f] = try_feature(owner, f, probe.why[f], sizeof(probe.why[f]));
    nft_owner_close(owner);
    *ret = probe;
    return 0;
}
