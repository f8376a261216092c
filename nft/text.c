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

static void print_set(FILE *out, const struct nft_set *set)
{
    unsigned per_line = set->n_types > 1 ? 1 : nft_types[set->types[0]].per_line;

    fprintf(out, "\tset %s {\n\t\ttype %s", set->name, nft_types[set->types[0]].name);
    if (set->n_types > 1)
        fprintf(out, " . %s", nft_types[set->types[1]].name);
    fputc('\n', out);
    if (set->interval)
        fputs("\t\tflags interval\n", out);
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

    bool masked = has_mask(m, nft_types[field->type].size);

    if (masked && field->type != NFT_TYPE_TCP_FLAG) {
        fputs(" & ", out);
        print_value(out, field->type, m->mask);
    }
    if (m->op == NFT_OP_NEQ)
        fputs(" != ", out);
    else
        fputs(masked && field->type != NFT_TYPE_TCP_FLAG ? " == " : " ", out);
    print_value(out, field->type, m->value);
    if (masked && field->type == NFT_TYPE_TCP_FLAG) {
        fputs(" / ", out);
        print_value(out, field->type, m->mask);
    }
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
            if (e->verdict == NFT_VERDICT_JUMP)
                fprintf(out, "jump %s", rs->chains[e->chain].name);
            else
                fputs(e->verdict == NFT_VERDICT_DROP ? "drop" : "return", out);
            break;
        case NFT_EXPR_REDIRECT:
            fprintf(out, "redirect to :%u", e->port);
            break;
        case NFT_EXPR_TCP_RESET:
            fputs("reject with tcp reset", out);
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

    fprintf(out, "\tchain %s {\n", chain->name);
    if (chain->type != NFT_CHAIN_REGULAR) {
        fprintf(out, "\t\ttype %s hook %s priority ",
                chain->type == NFT_CHAIN_NAT ? "nat" : "filter", hooks[chain->hook]);
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

static void print_table(FILE *out, const struct nft_ruleset *rs)
{
    fputs("table inet " NFT_TABLE " {\n\tflags owner\n", out);
    for (size_t i = 0; i < rs->n_sets; i++) {
        fputc('\n', out);
        print_set(out, &rs->sets[i]);
    }
    for (size_t i = 0; i < rs->n_chains; i++) {
        fputc('\n', out);
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
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    if (!nft_ruleset_empty(rs))
        print_table(out, rs);
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
