/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Other people's nftables rules, read over netlink: chains and rules of all families are dumped,
 * each rule becomes a few traits (firewall_rule.c), and a base chain gets the traits of all that it
 * jumps to. iptables-nft's rules are among them; those of iptables-legacy cannot be read, only that
 * there are some. Jumps by verdict maps are not followed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/rule.h>

#include "doctor/firewall_rule.h"
#include "doctor/gather.h"
#include "doctor/proc.h"
#include "nft/ruleset.h"

#define DUMP_BUFFER 65536

struct node {
    char *table, *name;
    uint8_t family;
    bool base, nat, drops, seen;
    uint32_t hook;
    int priority;
    unsigned tcp, udp; /* traits */
};

struct jump {
    size_t from;
    bool tcp, udp; /* who goes there */
    char *to;      /* a chain of the same table */
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

static void add_jump(struct reading *r, size_t from, const struct rule_does *does)
{
    struct jump *jumps = grow(r->jumps, r->n_jumps, &r->cap_jumps, sizeof(*jumps));
    char *name = strdup(does->jump);

    if (jumps)
        r->jumps = jumps;
    if (!jumps || !name) {
        r->out_of_memory = true;
        free(name);
        return;
    }
    r->jumps[r->n_jumps++] =
        (struct jump){.from = from, .tcp = does->jump_tcp, .udp = does->jump_udp, .to = name};
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
        struct rule_does does;

        if (i < r->n_nodes) {
            firewall_rule(rule, &does);
            r->nodes[i].tcp |= does.tcp;
            r->nodes[i].udp |= does.udp;
            if (does.jump)
                add_jump(r, i, &does);
        }
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

/* The traits of a chain and of all below it, for one protocol; each chain counts once. */
static unsigned traits_below(struct reading *r, size_t at, bool udp)
{
    unsigned traits = udp ? r->nodes[at].udp : r->nodes[at].tcp;

    r->nodes[at].seen = true;
    for (size_t i = 0; i < r->n_jumps; i++) {
        const struct jump *j = &r->jumps[i];

        if (j->from != at || !(udp ? j->udp : j->tcp))
            continue;
        size_t to = find_node(r, r->nodes[at].family, r->nodes[at].table, j->to);

        /* What it accepts holds under the conditions of the jump, which are not known here. */
        if (to < r->n_nodes && !r->nodes[to].seen)
            traits |= traits_below(r, to, udp) & ~(unsigned)FW_ACCEPT_ALL;
    }
    return traits;
}

static unsigned traits_of(struct reading *r, size_t at, bool udp)
{
    for (size_t i = 0; i < r->n_nodes; i++)
        r->nodes[i].seen = false;
    return traits_below(r, at, udp);
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

        *c = (struct fw_chain){.family = n->family,
                               .hook = n->hook,
                               .priority = n->priority,
                               .nat = n->nat,
                               .drops = n->drops,
                               .traits = traits_of(r, i, false),
                               .udp_traits = traits_of(r, i, true)};
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
