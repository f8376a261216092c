/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nft/expr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>

#include "nft/build.h"

/* Where the kernel finds a field. */
enum source { META, NETWORK_HEADER, TRANSPORT_HEADER };

static const struct {
    enum source source;
    uint32_t at; /* NFT_META_*, or bytes into the header */
} loads[] = {
    [NFT_FIELD_META_NFPROTO] = {META, NFT_META_NFPROTO},
    [NFT_FIELD_META_L4PROTO] = {META, NFT_META_L4PROTO},
    [NFT_FIELD_META_MARK] = {META, NFT_META_MARK},
    [NFT_FIELD_META_SKUID] = {META, NFT_META_SKUID},
    [NFT_FIELD_IP_DADDR] = {NETWORK_HEADER, offsetof(struct iphdr, daddr)},
    [NFT_FIELD_IP6_DADDR] = {NETWORK_HEADER, offsetof(struct ip6_hdr, ip6_dst)},
    [NFT_FIELD_TCP_DPORT] = {TRANSPORT_HEADER, offsetof(struct tcphdr, th_dport)},
    [NFT_FIELD_TCP_FLAGS] = {TRANSPORT_HEADER, offsetof(struct tcphdr, th_flags)},
};

/* The rule under construction and what is known of the packet by now. */
struct writer {
    struct nftnl_rule *rule;
    const char *suffix; /* of the names of sets */
    bool failed;        /* sticky: no memory */
    uint8_t family, l4proto;
};

static struct nftnl_expr *add(struct writer *w, const char *name)
{
    struct nftnl_expr *e = nftnl_expr_alloc(name);

    if (e)
        nftnl_rule_add_expr(w->rule, e);
    else
        w->failed = true;
    return e;
}

static void set_data(struct writer *w, struct nftnl_expr *e, uint16_t attr, const void *data,
                     uint32_t size)
{
    if (nftnl_expr_set(e, attr, data, size) < 0)
        w->failed = true;
}

static void load(struct writer *w, enum nft_field field, uint32_t reg)
{
    bool meta = loads[field].source == META;
    struct nftnl_expr *e = add(w, meta ? "meta" : "payload");

    if (!e)
        return;
    if (meta) {
        nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, loads[field].at);
        nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, reg);
        return;
    }
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE,
                       loads[field].source == NETWORK_HEADER ? NFT_PAYLOAD_NETWORK_HEADER
                                                             : NFT_PAYLOAD_TRANSPORT_HEADER);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, loads[field].at);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, nft_types[nft_fields[field].type].size);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, reg);
}

static void compare(struct writer *w, enum nft_op op, const void *data, uint32_t size)
{
    struct nftnl_expr *e = add(w, "cmp");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, NFT_REG32_00);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, op == NFT_OP_NEQ ? NFT_CMP_NEQ : NFT_CMP_EQ);
    set_data(w, e, NFTNL_EXPR_CMP_DATA, data, size);
}

/* What must hold for the field to be there, unless the rule has said so already. */
static void require(struct writer *w, enum nft_field field)
{
    const struct nft_field_info *f = &nft_fields[field];

    if (f->family != 0 && w->family != f->family) {
        load(w, NFT_FIELD_META_NFPROTO, NFT_REG32_00);
        compare(w, NFT_OP_EQ, &f->family, 1);
        w->family = f->family;
    }
    if (f->l4proto != 0 && w->l4proto != f->l4proto) {
        load(w, NFT_FIELD_META_L4PROTO, NFT_REG32_00);
        compare(w, NFT_OP_EQ, &f->l4proto, 1);
        w->l4proto = f->l4proto;
    }
}

void nft_expr_put_data(enum nft_type type, const uint8_t *data, uint8_t *ret)
{
    unsigned size = nft_types[type].size;

    memcpy(ret, data, size);
    if (nft_types[type].host_order) {
        uint32_t n;

        memcpy(&n, data, sizeof(n));
        n = ntohl(n);
        memcpy(ret, &n, sizeof(n));
    }
}

/* reg = reg & mask, unless the mask is all ones. */
static void apply_mask(struct writer *w, const uint8_t *mask, uint32_t size)
{
    static const uint8_t zero[16];
    bool all_ones = true;

    for (uint32_t i = 0; i < size; i++)
        all_ones = all_ones && mask[i] == 0xff;
    if (all_ones)
        return;
    struct nftnl_expr *e = add(w, "bitwise");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, NFT_REG32_00);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, NFT_REG32_00);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_OP, NFT_BITWISE_BOOL);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, size);
    set_data(w, e, NFTNL_EXPR_BITWISE_MASK, mask, size);
    set_data(w, e, NFTNL_EXPR_BITWISE_XOR, zero, size);
}

static void add_lookup(struct writer *w, const struct nft_ruleset *rs, const struct nft_match *m)
{
    struct nftnl_expr *e = add(w, "lookup");
    char name[NFT_ID_SIZE + NFT_SUFFIX_SIZE];

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, NFT_REG32_00);
    snprintf(name, sizeof(name), "%s%s", rs->sets[m->set].name, w->suffix);
    if (nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, name) < 0)
        w->failed = true;
    if (m->op == NFT_OP_NEQ)
        nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
}

static void add_match(struct writer *w, const struct nft_ruleset *rs, const struct nft_match *m)
{
    enum nft_type type = nft_fields[m->fields[0]].type;
    uint32_t reg = NFT_REG32_00;
    uint8_t value[16], mask[16];

    for (unsigned i = 0; i < m->n_fields; i++)
        require(w, m->fields[i]);
    for (unsigned i = 0; i < m->n_fields; i++) {
        load(w, m->fields[i], reg);
        reg += (nft_types[nft_fields[m->fields[i]].type].size + 3) / 4;
    }
    if (m->in_set) {
        add_lookup(w, rs, m);
        return;
    }
    nft_expr_put_data(type, m->value, value);
    nft_expr_put_data(type, m->mask, mask);
    apply_mask(w, mask, nft_types[type].size);
    compare(w, m->op, value, nft_types[type].size);
    if (m->op == NFT_OP_EQ && m->fields[0] == NFT_FIELD_META_NFPROTO)
        w->family = value[0];
    if (m->op == NFT_OP_EQ && m->fields[0] == NFT_FIELD_META_L4PROTO)
        w->l4proto = value[0];
}

static void add_verdict(struct writer *w, const struct nft_ruleset *rs, const struct nft_expr *x)
{
    static const uint32_t codes[] = {
        [NFT_VERDICT_DROP] = NF_DROP,
        [NFT_VERDICT_RETURN] = (uint32_t)NFT_RETURN,
        [NFT_VERDICT_JUMP] = (uint32_t)NFT_JUMP,
    };
    struct nftnl_expr *e = add(w, "immediate");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, codes[x->verdict]);
    if (x->verdict == NFT_VERDICT_JUMP &&
        nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, rs->chains[x->chain].name) < 0)
        w->failed = true;
}

static void add_redirect(struct writer *w, uint16_t port)
{
    uint16_t be = htons(port);
    struct nftnl_expr *e = add(w, "immediate");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG32_00);
    set_data(w, e, NFTNL_EXPR_IMM_DATA, &be, sizeof(be));
    e = add(w, "redir");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_REDIR_REG_PROTO_MIN, NFT_REG32_00);
    nftnl_expr_set_u32(e, NFTNL_EXPR_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
}

static void add_tcp_reset(struct writer *w)
{
    struct nftnl_expr *e = add(w, "reject");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, NFT_REJECT_TCP_RST);
    nftnl_expr_set_u8(e, NFTNL_EXPR_REJECT_CODE, 0);
}

int nft_expr_add_all(const struct nft_ruleset *rs, const char *suffix, const struct nft_rule *rule,
                     struct nftnl_rule *ret)
{
    struct writer w = {.rule = ret, .suffix = suffix};

    for (unsigned i = 0; i < rule->n_exprs; i++) {
        const struct nft_expr *x = &rule->exprs[i];

        switch (x->kind) {
        case NFT_EXPR_MATCH:
            add_match(&w, rs, &x->match);
            break;
        case NFT_EXPR_VERDICT:
            add_verdict(&w, rs, x);
            break;
        case NFT_EXPR_REDIRECT:
            add_redirect(&w, x->port);
            break;
        case NFT_EXPR_TCP_RESET:
            add_tcp_reset(&w);
            break;
        }
    }
    return w.failed ? -ENOMEM : 0;
}
