/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Other people's nftables rules, read over netlink: chains and rules of all families are dumped,
 * each rule becomes a few traits (what it does, on which condition that matters to us), and a base
 * chain gets the traits of all that it jumps to. iptables-nft's rules are among them, with xtables
 * matches and targets as opaque expressions of which we know some; those of iptables-legacy cannot
 * be read, only that there are some. Jumps by verdict maps and conditions in sets are not followed.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/xt_addrtype.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/rtnetlink.h>

#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>

#include "capture.h"
#include "doctor/gather.h"
#include "doctor/proc.h"
#include "nft/ruleset.h"

#define DUMP_BUFFER       65536
#define STATE_INVALID     1u /* NF_CT_STATE_INVALID_BIT */
#define STATE_ESTABLISHED 2u /* NF_CT_STATE_BIT(IP_CT_ESTABLISHED) */

struct node {
    char *table, *name;
    uint8_t family;
    bool base, nat, drops, seen;
    uint32_t hook;
    int priority;
    unsigned traits;
};

struct jump {
    size_t from;
    char *to; /* a chain of the same table */
};

struct reading {
    struct node *nodes;
    size_t n_nodes, cap_nodes;
    struct jump *jumps;
    size_t n_jumps, cap_jumps;
    bool out_of_memory;
};

/* One more element of `size` bytes in a growing array; NULL: no memory. */
static void *grow(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return array;
    size_t more = *cap ? 2 * *cap : 64;
    void *bigger = realloc(array, more * size);

    if (bigger)
        *cap = more;
    return bigger;
}

/* Ours, and the scratch tables of a probe. */
static bool is_ours(const char *table)
{
    return strncmp(table, NFT_TABLE, strlen(NFT_TABLE)) == 0;
}

static void add_node(struct reading *r, const struct nftnl_chain *c)
{
    const char *table = nftnl_chain_get_str(c, NFTNL_CHAIN_TABLE);
    const char *name = nftnl_chain_get_str(c, NFTNL_CHAIN_NAME);
    const char *type = nftnl_chain_get_str(c, NFTNL_CHAIN_TYPE);

    if (!table || !name || is_ours(table))
        return;
    struct node *nodes = grow(r->nodes, r->n_nodes, &r->cap_nodes, sizeof(*nodes));
    struct node n = {.table = strdup(table),
                     .name = strdup(name),
                     .family = (uint8_t)nftnl_chain_get_u32(c, NFTNL_CHAIN_FAMILY),
                     .base = nftnl_chain_is_set(c, NFTNL_CHAIN_HOOKNUM)};

    if (nodes)
        r->nodes = nodes;
    if (!nodes || !n.table || !n.name) {
        r->out_of_memory = true;
        free(n.table);
        free(n.name);
        return;
    }
    if (n.base) {
        n.hook = nftnl_chain_get_u32(c, NFTNL_CHAIN_HOOKNUM);
        n.priority = nftnl_chain_get_s32(c, NFTNL_CHAIN_PRIO);
        n.nat = type && strcmp(type, "nat") == 0;
        n.drops = nftnl_chain_is_set(c, NFTNL_CHAIN_POLICY) &&
                  nftnl_chain_get_u32(c, NFTNL_CHAIN_POLICY) == NF_DROP;
    }
    r->nodes[r->n_nodes++] = n;
}

static int on_chain(const struct nlmsghdr *nlh, void *ctx)
{
    struct nftnl_chain *c = nftnl_chain_alloc();

    if (c && nftnl_chain_nlmsg_parse(nlh, c) == 0)
        add_node(ctx, c);
    nftnl_chain_free(c);
    return MNL_CB_OK;
}

/* What was met so far in a rule, left to right. */
struct walk {
    struct reading *reading;
    size_t node;
    bool ct_state, meta_iif, meta_mark, meta_l4proto, fib_type; /* the last value loaded is that */
    uint32_t mask;                                              /* of the mark */
    bool invalid, established, socket, iif, lo, other;
    bool mark, marks_left_out, local;
};

static void add_trait(struct walk *w, unsigned trait)
{
    w->reading->nodes[w->node].traits |= trait;
}

static void add_jump(struct walk *w, const char *to)
{
    struct reading *r = w->reading;
    struct jump *jumps = grow(r->jumps, r->n_jumps, &r->cap_jumps, sizeof(*jumps));
    char *name = strdup(to);

    if (jumps)
        r->jumps = jumps;
    if (!jumps || !name) {
        r->out_of_memory = true;
        free(name);
        return;
    }
    r->jumps[r->n_jumps++] = (struct jump){.from = w->node, .to = name};
}

static void on_drop(struct walk *w)
{
    add_trait(w, FW_DROP | (w->invalid ? FW_DROP_INVALID : 0));
}

static void on_accept(struct walk *w)
{
    if (w->socket)
        add_trait(w, FW_ACCEPT_SOCKET | (w->mark && !w->marks_left_out ? FW_ACCEPT_MARKS : 0));
    else if (w->established && !w->iif && !w->other)
        add_trait(w, FW_ACCEPT_ESTABLISHED);
    else if (w->other || w->ct_state)
        return;
    else if (w->local)
        add_trait(w, FW_ACCEPT_LOCAL);
    else if (w->lo)
        add_trait(w, FW_ACCEPT_LO);
    else
        add_trait(w, w->iif ? FW_ACCEPT_INTERFACE : FW_ACCEPT_ALL);
}

static void on_verdict(struct walk *w, const struct nftnl_expr *e)
{
    if (!nftnl_expr_is_set(e, NFTNL_EXPR_IMM_VERDICT))
        return;
    switch ((int32_t)nftnl_expr_get_u32(e, NFTNL_EXPR_IMM_VERDICT)) {
    case NF_DROP:
        on_drop(w);
        break;
    case NF_ACCEPT:
        on_accept(w);
        break;
    case NFT_JUMP:
    case NFT_GOTO:
        add_jump(w, nftnl_expr_get_str(e, NFTNL_EXPR_IMM_CHAIN));
        break;
    }
}

static uint32_t first_word(const struct nftnl_expr *e, uint16_t attribute)
{
    uint32_t len = 0, word = 0;
    const void *data = nftnl_expr_get(e, attribute, &len);

    if (data)
        memcpy(&word, data, len < sizeof(word) ? len : sizeof(word));
    return word;
}

static void on_meta(struct walk *w, const struct nftnl_expr *e)
{
    uint32_t key = nftnl_expr_is_set(e, NFTNL_EXPR_META_DREG)
                       ? nftnl_expr_get_u32(e, NFTNL_EXPR_META_KEY)
                       : UINT32_MAX;

    w->meta_iif = key == NFT_META_IIF || key == NFT_META_IIFNAME || key == NFT_META_OIF ||
                  key == NFT_META_OIFNAME;
    w->iif = w->iif || w->meta_iif;
    w->meta_mark = key == NFT_META_MARK;
    w->meta_l4proto = key == NFT_META_L4PROTO;
    w->mask = UINT32_MAX;
    w->mark = w->mark || w->meta_mark;
    w->socket = w->socket || w->meta_mark;
    /* `meta l4proto tcp` narrows nothing that matters here; ICMP is another thing. */
    w->other = w->other || (!w->meta_iif && !w->meta_mark && key != NFT_META_L4PROTO &&
                            key != NFT_META_NFPROTO);
}

/* Other ways to ask for a mark, by range or set, are taken for right. */
static void on_mark(struct walk *w, uint32_t mark, uint32_t mask, bool equal)
{
    bool some = ((CAPTURE_OWN_MARK ^ mark) & CAPTURE_OWN_MASK & mask) == 0;
    bool all = (mask & ~CAPTURE_OWN_MASK) == 0 && (CAPTURE_OWN_MARK & mask) == mark;

    w->marks_left_out = w->marks_left_out || (equal ? !all : some);
}

static void on_compare(struct walk *w, const struct nftnl_expr *e)
{
    uint32_t len = 0, op = nftnl_expr_get_u32(e, NFTNL_EXPR_CMP_OP);
    const char *data = nftnl_expr_get(e, NFTNL_EXPR_CMP_DATA, &len);
    uint32_t word = first_word(e, NFTNL_EXPR_CMP_DATA);

    if (w->meta_iif && op == NFT_CMP_EQ && data)
        w->lo = (len >= 3 && memcmp(data, "lo", 3) == 0) || (len == 4 && word == 1);
    if (w->meta_l4proto && data)
        w->other = w->other || op != NFT_CMP_EQ || (*data != IPPROTO_TCP && *data != IPPROTO_UDP);
    if (w->meta_mark)
        on_mark(w, word, w->mask, op == NFT_CMP_EQ);
    if (w->fib_type) {
        w->local = op == NFT_CMP_EQ && word == RTN_LOCAL;
        w->other = w->other || !w->local;
    }
    if (w->ct_state && op == NFT_CMP_EQ && word == STATE_INVALID)
        w->invalid = true;
    if (w->ct_state && op == NFT_CMP_EQ && word == STATE_ESTABLISHED)
        w->established = true;
}

/* A set of states, or a map from them to verdicts, has the usual one. */
static void on_lookup(struct walk *w, const struct nftnl_expr *e)
{
    if (!w->ct_state)
        return;
    w->established = true;
    if (nftnl_expr_is_set(e, NFTNL_EXPR_LOOKUP_DREG))
        on_accept(w);
}

static bool is_to_local(const void *data, uint32_t len, uint32_t revision)
{
    struct xt_addrtype_info_v1 info;

    if (!data || len < sizeof(info) || revision != 1)
        return false;
    memcpy(&info, data, sizeof(info));
    return info.dest == XT_ADDRTYPE_LOCAL && info.source == 0 && info.flags == 0;
}

static void on_xt_match(struct walk *w, const struct nftnl_expr *e)
{
    const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_MT_NAME);
    uint32_t len = 0;
    const void *data = nftnl_expr_get(e, NFTNL_EXPR_MT_INFO, &len);
    struct xt_conntrack_mtinfo3 info;

    if (name && (strcmp(name, "socket") == 0 || strcmp(name, "mark") == 0)) {
        struct xt_mark_mtinfo1 mark;

        w->socket = true;
        w->mark = w->mark || name[0] == 'm';
        if (name[0] == 'm' && data && len >= sizeof(mark)) {
            memcpy(&mark, data, sizeof(mark));
            on_mark(w, mark.mark, mark.mask, !mark.invert);
        }
        return;
    }
    if (name && strcmp(name, "addrtype") == 0) {
        w->local = is_to_local(data, len, nftnl_expr_get_u32(e, NFTNL_EXPR_MT_REV));
        w->other = w->other || !w->local;
        return;
    }
    if (!name || strcmp(name, "conntrack") != 0 || !data || len < sizeof(info) ||
        nftnl_expr_get_u32(e, NFTNL_EXPR_MT_REV) != 3) {
        w->other = true;
        return;
    }
    memcpy(&info, data, sizeof(info));
    bool state = info.match_flags == XT_CONNTRACK_STATE && info.invert_flags == 0;

    w->ct_state = w->ct_state || state;
    w->other = w->other || !state;
    w->established = w->established || (state && (info.state_mask & STATE_ESTABLISHED));
    w->invalid = w->invalid || ((info.match_flags & XT_CONNTRACK_STATE) &&
                                (info.state_mask & XT_CONNTRACK_STATE_INVALID));
}

static void on_xt_target(struct walk *w, const struct nftnl_expr *e)
{
    const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_TG_NAME);

    if (!name)
        return;
    if (strcmp(name, "REDIRECT") == 0 || strcmp(name, "DNAT") == 0)
        add_trait(w, FW_NAT);
    else if (strcmp(name, "TPROXY") == 0)
        add_trait(w, FW_TPROXY);
    else if (strcmp(name, "REJECT") == 0)
        on_drop(w);
}

static int on_expr(struct nftnl_expr *e, void *ctx)
{
    struct walk *w = ctx;
    const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME);

    if (strcmp(name, "bitwise") != 0 && strcmp(name, "cmp") != 0)
        w->meta_mark = w->meta_l4proto = w->fib_type = false;
    if (strcmp(name, "immediate") == 0) {
        on_verdict(w, e);
    } else if (strcmp(name, "meta") == 0) {
        on_meta(w, e);
    } else if (strcmp(name, "cmp") == 0) {
        on_compare(w, e);
    } else if (strcmp(name, "ct") == 0) {
        w->ct_state = nftnl_expr_get_u32(e, NFTNL_EXPR_CT_KEY) == NFT_CT_STATE;
        w->other = w->other || !w->ct_state;
    } else if (strcmp(name, "fib") == 0) {
        w->fib_type = nftnl_expr_get_u32(e, NFTNL_EXPR_FIB_RESULT) == NFT_FIB_RESULT_ADDRTYPE &&
                      nftnl_expr_get_u32(e, NFTNL_EXPR_FIB_FLAGS) == NFTA_FIB_F_DADDR;
        w->other = w->other || !w->fib_type;
    } else if (strcmp(name, "bitwise") == 0) {
        w->mask = first_word(e, NFTNL_EXPR_BITWISE_MASK);
        if (w->ct_state && (first_word(e, NFTNL_EXPR_BITWISE_MASK) & STATE_INVALID))
            w->invalid = true;
        if (w->ct_state && (first_word(e, NFTNL_EXPR_BITWISE_MASK) & STATE_ESTABLISHED))
            w->established = true;
    } else if (strcmp(name, "socket") == 0) {
        w->socket = true;
    } else if (strcmp(name, "redir") == 0) {
        add_trait(w, FW_NAT);
    } else if (strcmp(name, "nat") == 0) {
        if (nftnl_expr_get_u32(e, NFTNL_EXPR_NAT_TYPE) == NFT_NAT_DNAT)
            add_trait(w, FW_NAT);
    } else if (strcmp(name, "tproxy") == 0) {
        add_trait(w, FW_TPROXY);
    } else if (strcmp(name, "reject") == 0) {
        on_drop(w);
    } else if (strcmp(name, "lookup") == 0) {
        on_lookup(w, e);
    } else if (strcmp(name, "match") == 0) {
        on_xt_match(w, e);
    } else if (strcmp(name, "target") == 0) {
        on_xt_target(w, e);
    } else if (strcmp(name, "counter") != 0 && strcmp(name, "log") != 0) {
        w->other = true;
    }
    return 0;
}

static size_t find_node(const struct reading *r, uint8_t family, const char *table,
                        const char *name)
{
    size_t i = 0;

    while (i < r->n_nodes && (r->nodes[i].family != family || strcmp(r->nodes[i].name, name) != 0 ||
                              strcmp(r->nodes[i].table, table) != 0))
        i++;
    return i;
}

static int on_rule(const struct nlmsghdr *nlh, void *ctx)
{
    struct reading *r = ctx;
    struct nftnl_rule *rule = nftnl_rule_alloc();

    if (rule && nftnl_rule_nlmsg_parse(nlh, rule) == 0) {
        const char *table = nftnl_rule_get_str(rule, NFTNL_RULE_TABLE);
        const char *chain = nftnl_rule_get_str(rule, NFTNL_RULE_CHAIN);
        uint8_t family = (uint8_t)nftnl_rule_get_u32(rule, NFTNL_RULE_FAMILY);
        size_t i = table && chain ? find_node(r, family, table, chain) : r->n_nodes;
        struct walk w = {.reading = r, .node = i};

        if (i < r->n_nodes)
            nftnl_expr_foreach(rule, on_expr, &w);
    }
    nftnl_rule_free(rule);
    return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, uint16_t type, mnl_cb_t on_message, struct reading *r)
{
    char *buf = malloc(DUMP_BUFFER);
    uint32_t seq = (uint32_t)time(NULL) + type;
    int result = 0;

    if (!buf)
        return -ENOMEM;
    struct nlmsghdr *nlh = nftnl_nlmsg_build_hdr(buf, type, NFPROTO_UNSPEC, NLM_F_DUMP, seq);

    if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
        result = -errno;
    while (result == 0) {
        ssize_t n = mnl_socket_recvfrom(nl, buf, DUMP_BUFFER);
        int end =
            n < 0 ? -1 : mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl), on_message, r);

        if (end < 0)
            result = -errno;
        else if (end == MNL_CB_STOP)
            break;
    }
    free(buf);
    return result;
}

/* Somebody changed the rules while they were dumped: once more from the beginning. */
static void clear(struct reading *r)
{
    for (size_t i = 0; i < r->n_nodes; i++) {
        free(r->nodes[i].table);
        free(r->nodes[i].name);
    }
    for (size_t i = 0; i < r->n_jumps; i++)
        free(r->jumps[i].to);
    free(r->nodes);
    free(r->jumps);
    *r = (struct reading){.n_nodes = 0};
}

static int read_rules(struct reading *r)
{
    int result = -EINTR;

    for (int tries = 0; tries < 5 && result == -EINTR; tries++) {
        struct mnl_socket *nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);

        clear(r);
        if (!nl)
            return -errno;
        result = mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno : 0;
        if (result == 0)
            result = dump(nl, NFT_MSG_GETCHAIN, on_chain, r);
        if (result == 0)
            result = dump(nl, NFT_MSG_GETRULE, on_rule, r);
        mnl_socket_close(nl);
    }
    return result < 0 ? result : r->out_of_memory ? -ENOMEM : 0;
}

/* The traits of a chain and of all below it; each chain counts once. */
static unsigned traits_below(struct reading *r, size_t at)
{
    unsigned traits = r->nodes[at].traits;

    r->nodes[at].seen = true;
    for (size_t i = 0; i < r->n_jumps; i++) {
        if (r->jumps[i].from != at)
            continue;
        size_t to = find_node(r, r->nodes[at].family, r->nodes[at].table, r->jumps[i].to);

        /* What it accepts holds under the conditions of the jump, which are not known here. */
        if (to < r->n_nodes && !r->nodes[to].seen)
            traits |= traits_below(r, to) & ~(unsigned)FW_ACCEPT_ALL;
    }
    return traits;
}

static unsigned tools_of(const struct node *n)
{
    static const struct {
        const char *prefix;
        unsigned tool;
        bool table;
    } signs[] = {
        {"firewalld", FW_FIREWALLD, true}, {"ufw-", FW_UFW, false},
        {"ufw6-", FW_UFW, false},          {"DOCKER", FW_DOCKER, false},
        {"docker", FW_DOCKER, true},       {"LIBVIRT_", FW_LIBVIRT, false},
        {"libvirt", FW_LIBVIRT, true},     {"KUBE-", FW_KUBERNETES, false},
        {"kube-", FW_KUBERNETES, true},    {"f2b-", FW_FAIL2BAN, false},
        {"f2b-", FW_FAIL2BAN, true},
    };
    unsigned tools = 0;

    for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++) {
        const char *name = signs[i].table ? n->table : n->name;

        if (strncmp(name, signs[i].prefix, strlen(signs[i].prefix)) == 0)
            tools |= signs[i].tool;
    }
    return tools;
}

static int keep_base_chains(struct reading *r, struct facts_firewall *ret)
{
    ret->chains = calloc(r->n_nodes + 1, sizeof(*ret->chains));
    if (!ret->chains)
        return -ENOMEM;
    for (size_t i = 0; i < r->n_nodes; i++) {
        const struct node *n = &r->nodes[i];

        ret->tools |= tools_of(n);
        if (!n->base)
            continue;
        struct fw_chain *c = &ret->chains[ret->n_chains++];

        for (size_t k = 0; k < r->n_nodes; k++)
            r->nodes[k].seen = false;
        *c = (struct fw_chain){.family = n->family,
                               .hook = n->hook,
                               .priority = n->priority,
                               .nat = n->nat,
                               .drops = n->drops,
                               .traits = traits_below(r, i)};
        snprintf(c->table, sizeof(c->table), "%s", n->table);
        snprintf(c->name, sizeof(c->name), "%s", n->name);
    }
    return 0;
}

/* One name a line. */
static int read_legacy(const char *path, char *ret, size_t size)
{
    int r = proc_read(path, ret, size);

    if (r < 0) {
        ret[0] = '\0';
        return r == -ENOENT ? 0 : r; /* no such module: no such rules */
    }
    for (char *p = ret; *p; p++) {
        if (*p == '\n')
            *p = p[1] ? ' ' : '\0';
    }
    return 0;
}

void gather_firewall(struct facts_firewall *ret)
{
    struct reading r = {.n_nodes = 0};

    memset(ret, 0, sizeof(*ret));
    ret->error = read_rules(&r);
    if (ret->error == 0)
        ret->error = keep_base_chains(&r, ret);
    clear(&r);
    int v4 = read_legacy("/proc/net/ip_tables_names", ret->legacy4, sizeof(ret->legacy4));
    int v6 = read_legacy("/proc/net/ip6_tables_names", ret->legacy6, sizeof(ret->legacy6));

    ret->legacy_error = v4 < 0 ? v4 : v6;
}

void gather_firewall_free(struct facts_firewall *f)
{
    free(f->chains);
    f->chains = NULL;
    f->n_chains = 0;
}
