/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nft/expr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <string.h>

#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>

#include "nft/build.h"
#include "nft/cgroup.h"

/* Where the kernel finds a field. */
enum source { META, NETWORK_HEADER, TRANSPORT_HEADER, FIB_SOURCE, FIB_REVERSE, FIB, CT, SOCKET };

static const struct {
    enum source source;
    uint32_t
        at; /* NFT_META_*, NFT_CT_*, NFT_SOCKET_*, NFT_FIB_RESULT_*, or bytes into the header */
} loads[] = {
    [NFT_FIELD_META_NFPROTO] = {META, NFT_META_NFPROTO},
    [NFT_FIELD_META_L4PROTO] = {META, NFT_META_L4PROTO},
    [NFT_FIELD_META_MARK] = {META, NFT_META_MARK},
    [NFT_FIELD_META_PRIORITY] = {META, NFT_META_PRIORITY},
    [NFT_FIELD_META_SKUID] = {META, NFT_META_SKUID},
    [NFT_FIELD_SOCKET_MARK] = {SOCKET, NFT_SOCKET_MARK},
    [NFT_FIELD_IP_SADDR] = {NETWORK_HEADER, offsetof(struct iphdr, saddr)},
    [NFT_FIELD_IP_DADDR] = {NETWORK_HEADER, offsetof(struct iphdr, daddr)},
    [NFT_FIELD_IP6_SADDR] = {NETWORK_HEADER, offsetof(struct ip6_hdr, ip6_src)},
    [NFT_FIELD_IP6_DADDR] = {NETWORK_HEADER, offsetof(struct ip6_hdr, ip6_dst)},
    [NFT_FIELD_TCP_SPORT] = {TRANSPORT_HEADER, offsetof(struct tcphdr, th_sport)},
    [NFT_FIELD_TCP_DPORT] = {TRANSPORT_HEADER, offsetof(struct tcphdr, th_dport)},
    [NFT_FIELD_TCP_FLAGS] = {TRANSPORT_HEADER, offsetof(struct tcphdr, th_flags)},
    [NFT_FIELD_UDP_DPORT] = {TRANSPORT_HEADER, offsetof(struct udphdr, uh_dport)},
    [NFT_FIELD_META_IIFNAME] = {META, NFT_META_IIFNAME},
    [NFT_FIELD_META_OIFNAME] = {META, NFT_META_OIFNAME},
    [NFT_FIELD_FIB_SADDR_TYPE] = {FIB_SOURCE, NFT_FIB_RESULT_ADDRTYPE},
    [NFT_FIELD_FIB_DADDR_TYPE] = {FIB, NFT_FIB_RESULT_ADDRTYPE},
    [NFT_FIELD_FIB_SADDR_OIFNAME] = {FIB_SOURCE, NFT_FIB_RESULT_OIFNAME},
    [NFT_FIELD_FIB_SADDR_IIF] = {FIB_REVERSE, NFT_FIB_RESULT_OIF},
    [NFT_FIELD_CT_STATE] = {CT, NFT_CT_STATE},
    [NFT_FIELD_CT_STATUS] = {CT, NFT_CT_STATUS},
    [NFT_FIELD_CT_DIRECTION] = {CT, NFT_CT_DIRECTION},
    [NFT_FIELD_CT_LABEL] = {CT, NFT_CT_LABELS},
    [NFT_FIELD_SOCKET_TRANSPARENT] = {SOCKET, NFT_SOCKET_TRANSPARENT},
    [NFT_FIELD_SOCKET_WILDCARD] = {SOCKET, NFT_SOCKET_WILDCARD},
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
    static const uint32_t fib_flags[] = {
        [FIB_SOURCE] = NFTA_FIB_F_SADDR,
        [FIB_REVERSE] = NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT,
        [FIB] = NFTA_FIB_F_DADDR,
    };
    static const char *const names[] = {
        [META] = "meta",      [NETWORK_HEADER] = "payload", [TRANSPORT_HEADER] = "payload",
        [FIB_SOURCE] = "fib", [FIB_REVERSE] = "fib",        [FIB] = "fib",
        [CT] = "ct",          [SOCKET] = "socket",
    };
    struct nftnl_expr *e = add(w, names[loads[field].source]);
    uint32_t base = NFT_PAYLOAD_TRANSPORT_HEADER;

    if (!e)
        return;
    switch (loads[field].source) {
    case META:
        nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, loads[field].at);
        nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, reg);
        break;
    case FIB_SOURCE:
    case FIB_REVERSE:
    case FIB:
        nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_RESULT, loads[field].at);
        nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_FLAGS, fib_flags[loads[field].source]);
        nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_DREG, reg);
        break;
    case CT:
        nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, loads[field].at);
        nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, reg);
        break;
    case SOCKET:
        nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_KEY, loads[field].at);
        nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_DREG, reg);
        break;
    case NETWORK_HEADER:
        base = NFT_PAYLOAD_NETWORK_HEADER;
        __attribute__((fallthrough));
    case TRANSPORT_HEADER:
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, loads[field].at);
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, nft_types[nft_fields[field].type].size);
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, reg);
        break;
    }
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

/* reg = reg & mask */
static void and_mask(struct writer *w, const uint8_t *mask, uint32_t size)
{
    static const uint8_t zero[16];
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

/* reg = reg & mask, unless the mask is all ones. */
static void apply_mask(struct writer *w, const uint8_t *mask, uint32_t size)
{
    bool all_ones = true;

    for (uint32_t i = 0; i < size; i++)
        all_ones = all_ones && mask[i] == 0xff;
    if (!all_ones)
        and_mask(w, mask, size);
}

/* The bits of a number as the kernel keeps labels: an array of longs. */
static void put_label(uint32_t label, uint8_t ret[16])
{
    unsigned long bits[16 / sizeof(long)] = {0};
    unsigned per_long = 8 * sizeof(long);

    bits[label / per_long % (sizeof(bits) / sizeof(bits[0]))] = 1ul << label % per_long;
    memcpy(ret, bits, 16);
}

/* Whether the register has any of the bits of `value`, or none. */
static void compare_bits(struct writer *w, enum nft_type type, enum nft_op op, const uint8_t *value)
{
    static const uint8_t zero[16];
    uint8_t bits[16];

    if (type == NFT_TYPE_CT_LABEL) {
        uint32_t label;

        memcpy(&label, value + 12, sizeof(label));
        put_label(ntohl(label), bits);
    } else {
        nft_expr_put_data(type, value, bits);
    }
    and_mask(w, bits, nft_types[type].size);
    compare(w, op == NFT_OP_ANY ? NFT_OP_NEQ : NFT_OP_EQ, zero, nft_types[type].size);
}

/* The set's name in this transaction. */
static void put_set_name(struct writer *w, struct nftnl_expr *e, uint16_t attr,
                         const struct nft_set *set)
{
    char name[NFT_ID_SIZE + NFT_SUFFIX_SIZE];

    snprintf(name, sizeof(name), "%s%s", set->name, w->suffix);
    if (nftnl_expr_set_str(e, attr, name) < 0)
        w->failed = true;
}

static void add_lookup(struct writer *w, const struct nft_ruleset *rs, const struct nft_match *m)
{
    struct nftnl_expr *e = add(w, "lookup");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, NFT_REG32_00);
    put_set_name(w, e, NFTNL_EXPR_LOOKUP_SET, &rs->sets[m->set]);
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
    if (m->op == NFT_OP_ANY || m->op == NFT_OP_NONE) {
        compare_bits(w, type, m->op, m->value);
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
        [NFT_VERDICT_ACCEPT] = NF_ACCEPT,
        [NFT_VERDICT_DROP] = NF_DROP,
        [NFT_VERDICT_RETURN] = (uint32_t)NFT_RETURN,
        [NFT_VERDICT_JUMP] = (uint32_t)NFT_JUMP,
        [NFT_VERDICT_GOTO] = (uint32_t)NFT_GOTO,
    };
    struct nftnl_expr *e = add(w, "immediate");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, codes[x->verdict]);
    if ((x->verdict == NFT_VERDICT_JUMP || x->verdict == NFT_VERDICT_GOTO) &&
        nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, rs->chains[x->chain].name) < 0)
        w->failed = true;
}

static void load_data(struct writer *w, uint32_t reg, const void *data, uint32_t size)
{
    struct nftnl_expr *e = add(w, "immediate");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, reg);
    set_data(w, e, NFTNL_EXPR_IMM_DATA, data, size);
}

static void add_redirect(struct writer *w, uint16_t port)
{
    uint16_t be = htons(port);

    load_data(w, NFT_REG32_00, &be, sizeof(be));
    struct nftnl_expr *e = add(w, "redir");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_REDIR_REG_PROTO_MIN, NFT_REG32_00);
    nftnl_expr_set_u32(e, NFTNL_EXPR_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
}

static void add_tproxy(struct writer *w, bool v6, uint16_t port)
{
    static const uint8_t loopback4[4] = {127, 0, 0, 1}, loopback6[16] = {[15] = 1};
    uint16_t be = htons(port);
    uint32_t port_reg = v6 ? NFT_REG32_04 : NFT_REG32_01;

    load_data(w, NFT_REG32_00, v6 ? loopback6 : loopback4, v6 ? 16 : 4);
    load_data(w, port_reg, &be, sizeof(be));
    struct nftnl_expr *e = add(w, "tproxy");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_FAMILY, v6 ? NFPROTO_IPV6 : NFPROTO_IPV4);
    nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_REG_ADDR, NFT_REG32_00);
    nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_REG_PORT, port_reg);
}

/* The packet's `key` (NFT_META_*) becomes what is in the register. */
static void store_meta(struct writer *w, uint32_t key)
{
    struct nftnl_expr *e = add(w, "meta");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_SREG, NFT_REG32_00);
}

static void add_set_meta(struct writer *w, uint32_t key, uint32_t value)
{
    load_data(w, NFT_REG32_00, &value, sizeof(value));
    store_meta(w, key);
}

static void add_set_label(struct writer *w, uint32_t label)
{
    uint8_t bits[16];

    put_label(label, bits);
    load_data(w, NFT_REG32_00, bits, sizeof(bits));
    struct nftnl_expr *e = add(w, "ct");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, NFT_CT_LABELS);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CT_SREG, NFT_REG32_00);
}

/* The kernel compares the ancestor of the socket's cgroup at that level, by its number. */
static int add_cgroup(struct writer *w, const char *path)
{
    uint64_t id;
    int r = nft_cgroup_id(path, &id);

    if (r < 0)
        return r;
    struct nftnl_expr *e = add(w, "socket");

    if (!e)
        return -ENOMEM;
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_KEY, NFT_SOCKET_CGROUPV2);
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_LEVEL, nft_cgroup_level(path));
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_DREG, NFT_REG32_00);
    compare(w, NFT_OP_EQ, &id, sizeof(id));
    return 0;
}

static void add_reject(struct writer *w, uint32_t type, uint8_t code)
{
    struct nftnl_expr *e = add(w, "reject");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, type);
    nftnl_expr_set_u8(e, NFTNL_EXPR_REJECT_CODE, code);
}

static void add_sport_hash(struct writer *w, const struct nft_expr *x)
{
    require(w, NFT_FIELD_TCP_SPORT);
    load(w, NFT_FIELD_TCP_SPORT, NFT_REG32_01);
    struct nftnl_expr *e = add(w, "hash");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_HASH_TYPE, NFT_HASH_JENKINS);
    nftnl_expr_set_u32(e, NFTNL_EXPR_HASH_SREG, NFT_REG32_01);
    nftnl_expr_set_u32(e, NFTNL_EXPR_HASH_DREG, NFT_REG32_00);
    nftnl_expr_set_u32(e, NFTNL_EXPR_HASH_LEN, sizeof(uint16_t));
    nftnl_expr_set_u32(e, NFTNL_EXPR_HASH_MODULUS, x->modulus);
    nftnl_expr_set_u32(e, NFTNL_EXPR_HASH_SEED, x->seed);
    compare(w, NFT_OP_EQ, &x->remainder, sizeof(x->remainder));
}

static void add_log(struct writer *w, const struct nft_expr *x)
{
    struct nftnl_expr *e = add(w, "log");

    if (!e)
        return;
    if (nftnl_expr_set_str(e, NFTNL_EXPR_LOG_PREFIX, x->prefix) < 0)
        w->failed = true;
    nftnl_expr_set_u16(e, NFTNL_EXPR_LOG_GROUP, x->group);
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOG_SNAPLEN, x->snaplen);
    nftnl_expr_set_u16(e, NFTNL_EXPR_LOG_QTHRESHOLD, 1);
}

static void add_keep(struct writer *w, bool destination, bool v6)
{
    enum nft_field field = destination ? v6 ? NFT_FIELD_IP6_DADDR : NFT_FIELD_IP_DADDR
                           : v6        ? NFT_FIELD_IP6_SADDR
                                       : NFT_FIELD_IP_SADDR;

    require(w, field);
    load(w, field, NFT_REG32_00);
    struct nftnl_expr *e = add(w, "nat");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_TYPE, destination ? NFT_NAT_DNAT : NFT_NAT_SNAT);
    nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FAMILY, v6 ? NFPROTO_IPV6 : NFPROTO_IPV4);
    nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_ADDR_MIN, NFT_REG32_00);
}

static void change_set(struct writer *w, uint32_t op, const struct nft_set *set,
                       enum nft_field field)
{
    require(w, field);
    load(w, field, NFT_REG32_00);
    struct nftnl_expr *e = add(w, "dynset");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_OP, op);
    nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_SREG_KEY, NFT_REG32_00);
    put_set_name(w, e, NFTNL_EXPR_DYNSET_SET_NAME, set);
}

int nft_expr_add_all(const struct nft_ruleset *rs, const char *suffix, const struct nft_rule *rule,
                     struct nftnl_rule *ret)
{
    struct writer w = {.rule = ret, .suffix = suffix};
    int r = 0;

    for (unsigned i = 0; r == 0 && i < rule->n_exprs; i++) {
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
            add_reject(&w, NFT_REJECT_TCP_RST, 0);
            break;
        case NFT_EXPR_REJECT:
            add_reject(&w, NFT_REJECT_ICMPX_UNREACH, (uint8_t)x->number);
            break;
        case NFT_EXPR_CGROUP:
            r = add_cgroup(&w, rs->cgroups[x->cgroup]);
            break;
        case NFT_EXPR_TPROXY:
            add_tproxy(&w, x->v6, x->port);
            break;
        case NFT_EXPR_SET_MARK:
            add_set_meta(&w, NFT_META_MARK, x->number);
            break;
        case NFT_EXPR_SET_PRIORITY:
            add_set_meta(&w, NFT_META_PRIORITY, x->number);
            break;
        case NFT_EXPR_SOCKET_MARK:
            load(&w, NFT_FIELD_SOCKET_MARK, NFT_REG32_00);
            store_meta(&w, NFT_META_MARK);
            break;
        case NFT_EXPR_SET_LABEL:
            add_set_label(&w, x->number);
            break;
        case NFT_EXPR_SPORT_HASH:
            add_sport_hash(&w, x);
            break;
        case NFT_EXPR_LOG:
            add_log(&w, x);
            break;
        case NFT_EXPR_KEEP_SOURCE:
            add_keep(&w, false, x->v6);
            break;
        case NFT_EXPR_KEEP_DESTINATION:
            add_keep(&w, true, x->v6);
            break;
        case NFT_EXPR_ADD:
        case NFT_EXPR_DELETE:
            change_set(&w, x->kind == NFT_EXPR_ADD ? NFT_DYNSET_OP_ADD : NFT_DYNSET_OP_DELETE,
                       &rs->sets[x->match.set], x->match.fields[0]);
            break;
        }
    }
    return w.failed ? -ENOMEM : r;
}
