/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Form to text. What nft adds by itself (the family before an address, the protocol before a port)
 * it leaves out again when it lists, so the text is the form as it stands.
 */
#include "nft/text.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/rtnetlink.h>

#include "nft/cgroup.h"
#include "nft/form.h"
#include "nft/ruleset.h"

static uint32_t get_number(const uint8_t *value, unsigned size)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < size; i++)
        n = n << 8 | value[i];
    return n;
}

/* Flags in nft's order, from the lowest bit. */
static void print_tcp_flags(FILE *out, uint8_t flags)
{
    static const char *const names[] = {"fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"};
    const char *separator = "";

    for (unsigned i = 0; i < 8; i++)
        if (flags & 1u << i) {
            fprintf(out, "%s%s", separator, names[i]);
            separator = ",";
        }
}

/* nft's word for one of the numbers or bits that we use; the number where it has none. */
static void print_word(FILE *out, enum nft_type type, uint32_t n)
{
    static const struct {
        enum nft_type type;
        uint32_t n;
        const char *word;
    } words[] = {
        {NFT_TYPE_FIB_ADDR, RTN_LOCAL, "local"},
        {NFT_TYPE_FIB_ADDR, RTN_BROADCAST, "broadcast"},
        {NFT_TYPE_FIB_ADDR, RTN_MULTICAST, "multicast"},
        {NFT_TYPE_CT_STATE, NF_CT_STATE_INVALID_BIT, "invalid"},
        {NFT_TYPE_CT_STATE, NF_CT_STATE_INVALID_BIT | NF_CT_STATE_UNTRACKED_BIT,
         "invalid,untracked"},
        {NFT_TYPE_CT_STATE, NF_CT_STATE_BIT(IP_CT_NEW), "new"},
        {NFT_TYPE_CT_STATE, NF_CT_STATE_BIT(IP_CT_ESTABLISHED), "established"},
        {NFT_TYPE_CT_STATUS, IPS_CONFIRMED, "confirmed"},
        {NFT_TYPE_CT_STATUS, IPS_DST_NAT, "dnat"},
        {NFT_TYPE_CT_DIR, IP_CT_DIR_ORIGINAL, "original"},
        {NFT_TYPE_CT_DIR, IP_CT_DIR_REPLY, "reply"},
        {NFT_TYPE_EXISTENCE, 0, "missing"},
        {NFT_TYPE_EXISTENCE, 1, "exists"},
    };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (words[i].type == type && words[i].n == n) {
            fputs(words[i].word, out);
            return;
        }
    fprintf(out, type == NFT_TYPE_CT_STATUS ? "0x%x" : "%u", n);
}

static void print_classid(FILE *out, uint32_t n)
{
    fprintf(out, "%04x:%04x", n >> 16, n & 0xffff);
}

static void print_value(FILE *out, enum nft_type type, const uint8_t *value)
{
    char ip[INET6_ADDRSTRLEN] = "";
    uint32_t n = get_number(value, nft_types[type].size <= 4 ? nft_types[type].size : 0);

    switch (type) {
    case NFT_TYPE_NFPROTO:
        fputs(n == NFPROTO_IPV4 ? "ipv4" : "ipv6", out);
        return;
    case NFT_TYPE_INET_PROTOCOL:
        if (n == IPPROTO_TCP || n == IPPROTO_UDP)
            fputs(n == IPPROTO_TCP ? "tcp" : "udp", out);
        else
            fprintf(out, "%u", n);
        return;
    case NFT_TYPE_MARK:
        fprintf(out, "0x%08x", n);
        return;
    case NFT_TYPE_CLASSID:
        print_classid(out, n);
        return;
    case NFT_TYPE_UID:
    case NFT_TYPE_INET_SERVICE:
        fprintf(out, "%u", n);
        return;
    case NFT_TYPE_IPV4_ADDR:
        fputs(inet_ntop(AF_INET, value, ip, sizeof(ip)), out);
        return;
    case NFT_TYPE_IPV6_ADDR:
        fputs(inet_ntop(AF_INET6, value, ip, sizeof(ip)), out);
        return;
    case NFT_TYPE_TCP_FLAG:
        print_tcp_flags(out, value[0]);
        return;
    case NFT_TYPE_IFNAME:
        fprintf(out, "\"%.15s\"", (const char *)value);
        return;
    case NFT_TYPE_BOOLEAN:
        fprintf(out, "%u", n);
        return;
    case NFT_TYPE_CT_LABEL:
        fprintf(out, "%u", get_number(value + 12, 4));
        return;
    case NFT_TYPE_FIB_ADDR:
    case NFT_TYPE_CT_STATE:
    case NFT_TYPE_CT_STATUS:
    case NFT_TYPE_CT_DIR:
    case NFT_TYPE_EXISTENCE:
        print_word(out, type, n);
        return;
    }
}

/* Bits that two keys share from the left if what follows is all zeros in one and all ones in the
 * other, which makes them the ends of a prefix; else -1. */
static int prefix_length(const uint8_t *first, const uint8_t *last, unsigned size)
{
    unsigned bits = size * 8, len = 0;

#define BIT(key, i) ((key)[(i) / 8] >> (7 - (i) % 8) & 1)
    while (len < bits && BIT(first, len) == BIT(last, len))
        len++;
    for (unsigned i = len; i < bits; i++)
        if (BIT(first, i) != 0 || BIT(last, i) != 1)
            return -1;
#undef BIT
    return (int)len;
}

static void print_element(FILE *out, const struct nft_set *set, const struct nft_elem *e)
{
    const struct nft_type_info *type = &nft_types[set->types[0]];
    int len = -1;

    print_value(out, set->types[0], e->first);
    if (set->n_types == 2) {
        fputs(" . ", out);
        print_value(out, set->types[1], e->first + ((type->size + 3) & ~3u));
        return;
    }
    if (memcmp(e->first, e->last, type->size) == 0)
        return;
    if (type->prefixes)
        len = prefix_length(e->first, e->last, type->size);
    if (len >= 0) {
        fprintf(out, "/%d", len);
    } else {
        fputc('-', out);
        print_value(out, set->types[0], e->last);
    }
}

/* Milliseconds, as nft writes them: up to minutes is what we have. */
static void print_duration(FILE *out, uint32_t ms)
{
    if (ms >= 60000)
        fprintf(out, "%um", ms / 60000);
    if (ms % 60000 >= 1000)
        fprintf(out, "%us", ms % 60000 / 1000);
    if (ms % 1000 != 0)
        fprintf(out, "%ums", ms % 1000);
}

static void print_set(FILE *out, const struct nft_set *set)
{
    unsigned per_line = set->n_types > 1 ? 1 : nft_types[set->types[0]].per_line;

    fprintf(out, "\tset %s {\n\t\ttype %s", set->name, nft_types[set->types[0]].name);
    if (set->n_types > 1)
        fprintf(out, " . %s", nft_types[set->types[1]].name);
    fputc('\n', out);
    if (set->interval)
        fputs("\t\tflags interval\n", out);
    if (set->timeout != 0) {
        fprintf(out, "\t\tsize %u\n\t\tflags dynamic,timeout\n\t\ttimeout ", set->size);
        print_duration(out, set->timeout);
        fputc('\n', out);
    }
    if (set->n_elems > 0) {
        fputs("\t\telements = { ", out);
        for (size_t i = 0; i < set->n_elems; i++) {
            if (i > 0)
                fputs(i % per_line == 0 ? ",\n\t\t\t     " : ", ", out);
            print_element(out, set, &set->elems[i]);
        }
        fputs(" }\n", out);
    }
    fputs("\t}\n", out);
}

static bool has_mask(const struct nft_match *m, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        if (m->mask[i] != 0xff)
            return true;
    return false;
}

/* The number of leading ones when the mask is nothing else, and nft prints "value/number"; else -1.
 */
static int mask_length(const uint8_t *mask, unsigned size)
{
    int n = 0, bits = (int)size * 8;

    while (n < bits && (mask[n / 8] & (0x80 >> n % 8)))
        n++;
    for (int i = n; i < bits; i++) {
        if (mask[i / 8] & (0x80 >> i % 8))
            return -1;
    }
    return n;
}

static void print_match(FILE *out, const struct nft_ruleset *rs, const struct nft_match *m)
{
    const struct nft_field_info *field = &nft_fields[m->fields[0]];

    fputs(field->name, out);
    if (m->n_fields > 1)
        fprintf(out, " . %s", nft_fields[m->fields[1]].name);
    if (m->in_set) {
        fprintf(out, m->op == NFT_OP_NEQ ? " != @%s" : " @%s", rs->sets[m->set].name);
        return;
    }

    if (m->op == NFT_OP_NONE) {
        fputs(" ! ", out);
        print_value(out, field->type, m->value);
        return;
    }
    bool masked = has_mask(m, nft_types[field->type].size);
    bool flags = field->type == NFT_TYPE_TCP_FLAG;

    if ((flags || field->type == NFT_TYPE_CT_STATUS) && masked && m->op == NFT_OP_EQ &&
        get_number(m->value, nft_types[field->type].size) == 0) {
        fputs(" ! ", out);
        print_value(out, field->type, m->mask);
        return;
    }
    /* "value / mask" is for flags only, and not for a flag alone. */
    if (flags && m->op == NFT_OP_EQ && m->value[0] == m->mask[0])
        flags = false;
    int prefix = masked && field->type == NFT_TYPE_MARK ? mask_length(m->mask, 4) : -1;

    if (prefix >= 0) {
        fputs(m->op == NFT_OP_NEQ ? " != " : " ", out);
        print_value(out, field->type, m->value);
        fprintf(out, "/%d", prefix);
        return;
    }
    if (masked && !flags) {
        fputs(" & ", out);
        print_value(out, field->type, m->mask);
    }
    if (m->op == NFT_OP_NEQ)
        fputs(" != ", out);
    else
        fputs(masked && !flags ? " == " : " ", out);
    print_value(out, field->type, m->value);
    if (masked && flags) {
        fputs(" / ", out);
        print_value(out, field->type, m->mask);
    }
}

static void print_verdict(FILE *out, const struct nft_ruleset *rs, const struct nft_expr *e)
{
    static const char *const words[] = {
        [NFT_VERDICT_ACCEPT] = "accept", [NFT_VERDICT_DROP] = "drop",
        [NFT_VERDICT_RETURN] = "return", [NFT_VERDICT_JUMP] = "jump",
        [NFT_VERDICT_GOTO] = "goto",
    };

    fputs(words[e->verdict], out);
    if (e->verdict == NFT_VERDICT_JUMP || e->verdict == NFT_VERDICT_GOTO)
        fprintf(out, " %s", rs->chains[e->chain].name);
}

static void print_cgroup(FILE *out, const char *path)
{
    char name[NFT_CGROUP_NAME_SIZE];

    nft_cgroup_name(path, name);
    fprintf(out, "socket cgroupv2 level %u \"%s\"", nft_cgroup_level(path), name);
}

/* nft's words for NFT_REJECT_ICMPX_*. */
static void print_icmpx(FILE *out, uint32_t code)
{
    static const char *const words[] = {
        [NFT_REJECT_ICMPX_NO_ROUTE] = "no-route",
        [NFT_REJECT_ICMPX_HOST_UNREACH] = "host-unreachable",
        [NFT_REJECT_ICMPX_ADMIN_PROHIBITED] = "admin-prohibited",
    };

    /* Which nft takes for granted. */
    if (code == NFT_REJECT_ICMPX_PORT_UNREACH)
        fputs("reject", out);
    else
        fprintf(out, "reject with icmpx %s", words[code]);
}

static void print_rule(FILE *out, const struct nft_ruleset *rs, const struct nft_rule *rule)
{
    for (unsigned i = 0; i < rule->n_exprs; i++) {
        const struct nft_expr *e = &rule->exprs[i];

        if (i > 0)
            fputc(' ', out);
        switch (e->kind) {
        case NFT_EXPR_MATCH:
            print_match(out, rs, &e->match);
            break;
        case NFT_EXPR_VERDICT:
            print_verdict(out, rs, e);
            break;
        case NFT_EXPR_REDIRECT:
            fprintf(out, "redirect to :%u", e->port);
            break;
        case NFT_EXPR_TCP_RESET:
            fputs("reject with tcp reset", out);
            break;
        case NFT_EXPR_REJECT:
            print_icmpx(out, e->number);
            break;
        case NFT_EXPR_CGROUP:
            print_cgroup(out, rs->cgroups[e->cgroup]);
            break;
        case NFT_EXPR_TPROXY:
            fprintf(out, e->v6 ? "tproxy ip6 to [::1]:%u" : "tproxy ip to 127.0.0.1:%u", e->port);
            break;
        case NFT_EXPR_SET_MARK:
            fprintf(out, "meta mark set 0x%08x", e->number);
            break;
        case NFT_EXPR_SET_PRIORITY:
            fputs("meta priority set ", out);
            print_classid(out, e->number);
            break;
        case NFT_EXPR_SOCKET_MARK:
            fputs("meta mark set socket mark", out);
            break;
        case NFT_EXPR_SET_LABEL:
            fprintf(out, "ct label set %u", e->number);
            break;
        case NFT_EXPR_SPORT_HASH:
            fprintf(out, "jhash tcp sport mod %u seed 0x%x %u", e->modulus, e->seed, e->remainder);
            break;
        case NFT_EXPR_LOG:
            fprintf(out, "log prefix \"%s\" group %u snaplen %u queue-threshold 1", e->prefix,
                    e->group, e->snaplen);
            break;
        case NFT_EXPR_KEEP_SOURCE:
            fputs(e->v6 ? "snat ip6 to ip6 saddr" : "snat ip to ip saddr", out);
            break;
        case NFT_EXPR_KEEP_DESTINATION:
            fputs(e->v6 ? "dnat ip6 to ip6 daddr" : "dnat ip to ip daddr", out);
            break;
        case NFT_EXPR_ADD:
        case NFT_EXPR_DELETE:
            fprintf(out, "%s @%s { %s }", e->kind == NFT_EXPR_ADD ? "add" : "delete",
                    rs->sets[e->match.set].name, nft_fields[e->match.fields[0]].name);
            break;
        }
    }
}

/*
 * nft 1.0.6 writes a priority within 10 of a known one as that name and the difference. Which names
 * there are depends on the hook.
 */
static void print_priority(FILE *out, unsigned hook, int priority)
{
    static const struct {
        const char *name;
        int priority;
        int hook; /* -1: any */
    } known[] = {
        {"raw", -300, -1},
        {"mangle", -150, -1},
        {"filter", 0, -1},
        {"security", 50, -1},
        {"dstnat", -100, NF_INET_PRE_ROUTING},
        {"srcnat", 100, NF_INET_POST_ROUTING},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        int difference = priority - known[i].priority;

        if (difference < -10 || difference > 10 ||
            (known[i].hook >= 0 && known[i].hook != (int)hook))
            continue;
        fputs(known[i].name, out);
        if (difference != 0)
            fprintf(out, " %c %d", difference < 0 ? '-' : '+', abs(difference));
        return;
    }
    fprintf(out, "%d", priority);
}

static void print_chain(FILE *out, const struct nft_ruleset *rs, const struct nft_chain *chain)
{
    static const char *const hooks[] = {
        [NF_INET_PRE_ROUTING] = "prerouting",   [NF_INET_LOCAL_IN] = "input",
        [NF_INET_FORWARD] = "forward",          [NF_INET_LOCAL_OUT] = "output",
        [NF_INET_POST_ROUTING] = "postrouting",
    };
    static const char *const types[] = {
        [NFT_CHAIN_FILTER] = "filter", [NFT_CHAIN_NAT] = "nat", [NFT_CHAIN_ROUTE] = "route"};

    fprintf(out, "\tchain %s {\n", chain->name);
    if (chain->type != NFT_CHAIN_REGULAR) {
        fprintf(out, "\t\ttype %s hook %s priority ", types[chain->type], hooks[chain->hook]);
        print_priority(out, chain->hook, chain->priority);
        fputs("; policy accept;\n", out);
    }
    for (size_t i = 0; i < chain->n_rules; i++) {
        fputs("\t\t", out);
        print_rule(out, rs, &chain->rules[i]);
        fputc('\n', out);
    }
    fputs("\t}\n", out);
}

static void print_table(FILE *out, const struct nft_ruleset *rs, const char *table, bool owned)
{
    const char *separator = owned ? "\n" : "";

    fprintf(out, "table inet %s {\n", table);
    if (owned)
        fputs("\tflags owner\n", out);
    for (size_t i = 0; i < rs->n_sets; i++) {
        fputs(separator, out);
        separator = "\n";
        print_set(out, &rs->sets[i]);
    }
    for (size_t i = 0; i < rs->n_chains; i++) {
        fputs(separator, out);
        separator = "\n";
        print_chain(out, rs, &rs->chains[i]);
    }
    fputs("}\n", out);
}

/* Closes a stream of open_memstream(); the string, or NULL when memory ran out on the way. */
static char *finish(FILE *out, char **text)
{
    int failed = ferror(out);

    if (fclose(out) == 0 && !failed)
        return *text;
    free(*text);
    return NULL;
}

char *nft_ruleset_text(const struct nft_ruleset *rs)
{
    return nft_ruleset_text_as(rs, NFT_TABLE, true);
}

char *nft_ruleset_text_as(const struct nft_ruleset *rs, const char *table, bool owned)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    if (!nft_ruleset_empty(rs))
        print_table(out, rs, table, owned);
    return finish(out, &text);
}

char *nft_rule_text(const struct nft_ruleset *rs, unsigned chain, unsigned rule)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    print_rule(out, rs, &rs->chains[chain].rules[rule]);
    return finish(out, &text);
}
