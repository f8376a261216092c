/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The form's tables, its growth, and the order of a set's elements. */
#include "nft/form.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include <linux/netfilter.h>

#include "nft/ruleset.h"

const struct nft_type_info nft_types[] = {
    [NFT_TYPE_NFPROTO] = {"nf_proto", 2, 1, false, false, 5},
    [NFT_TYPE_INET_PROTOCOL] = {"inet_proto", 12, 1, false, false, 5},
    [NFT_TYPE_MARK] = {"mark", 19, 4, true, false, 5},
    [NFT_TYPE_UID] = {"uid", 24, 4, true, false, 5},
    [NFT_TYPE_IPV4_ADDR] = {"ipv4_addr", 7, 4, false, true, 2},
    [NFT_TYPE_IPV6_ADDR] = {"ipv6_addr", 8, 16, false, true, 1},
    [NFT_TYPE_INET_SERVICE] = {"inet_service", 13, 2, false, false, 5},
    [NFT_TYPE_TCP_FLAG] = {"tcp_flag", 15, 1, false, false, 5},
};

const struct nft_field_info nft_fields[] = {
    [NFT_FIELD_META_NFPROTO] = {"meta nfproto", NFT_TYPE_NFPROTO, 0, 0},
    [NFT_FIELD_META_L4PROTO] = {"meta l4proto", NFT_TYPE_INET_PROTOCOL, 0, 0},
    [NFT_FIELD_META_MARK] = {"meta mark", NFT_TYPE_MARK, 0, 0},
    [NFT_FIELD_META_SKUID] = {"meta skuid", NFT_TYPE_UID, 0, 0},
    [NFT_FIELD_IP_DADDR] = {"ip daddr", NFT_TYPE_IPV4_ADDR, NFPROTO_IPV4, 0},
    [NFT_FIELD_IP6_DADDR] = {"ip6 daddr", NFT_TYPE_IPV6_ADDR, NFPROTO_IPV6, 0},
    [NFT_FIELD_TCP_DPORT] = {"tcp dport", NFT_TYPE_INET_SERVICE, 0, IPPROTO_TCP},
    [NFT_FIELD_TCP_FLAGS] = {"tcp flags", NFT_TYPE_TCP_FLAG, 0, IPPROTO_TCP},
};

/* The array with room for one more element of `size` bytes, perhaps moved; NULL: no memory. */
static void *grow(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return array;
    size_t wanted = *cap ? *cap * 2 : 8;
    void *p = reallocarray(array, wanted, size);

    if (p)
        *cap = wanted;
    return p;
}

static int set_id(char id[NFT_ID_SIZE], const char *name)
{
    size_t n = strlen(name);

    if (n >= NFT_ID_SIZE)
        return -ENAMETOOLONG;
    memcpy(id, name, n + 1);
    return 0;
}

struct nft_ruleset *nft_form_new(void)
{
    return calloc(1, sizeof(struct nft_ruleset));
}

void nft_ruleset_free(struct nft_ruleset *rs)
{
    if (!rs)
        return;
    for (size_t i = 0; i < rs->n_sets; i++)
        free(rs->sets[i].elems);
    for (size_t i = 0; i < rs->n_chains; i++)
        free(rs->chains[i].rules);
    free(rs->sets);
    free(rs->chains);
    free(rs);
}

bool nft_ruleset_empty(const struct nft_ruleset *rs)
{
    return rs->n_chains == 0;
}

int nft_form_add_set(struct nft_ruleset *rs, const char *name, const enum nft_type *types,
                     unsigned n_types, bool interval, unsigned *ret_index)
{
    struct nft_set set = {.n_types = n_types, .interval = interval};
    int r = set_id(set.name, name);

    if (r < 0)
        return r;
    struct nft_set *sets = grow(rs->sets, rs->n_sets, &rs->cap_sets, sizeof(set));

    if (!sets)
        return -ENOMEM;
    rs->sets = sets;
    for (unsigned i = 0; i < n_types; i++)
        set.types[i] = types[i];
    rs->sets[rs->n_sets] = set;
    *ret_index = (unsigned)rs->n_sets++;
    return 0;
}

int nft_form_add_chain(struct nft_ruleset *rs, const char *name, enum nft_chain_type type,
                       unsigned hook, int priority, unsigned *ret_index)
{
    struct nft_chain chain = {.type = type, .hook = hook, .priority = priority};
    int r = set_id(chain.name, name);

    if (r < 0)
        return r;
    struct nft_chain *chains = grow(rs->chains, rs->n_chains, &rs->cap_chains, sizeof(chain));

    if (!chains)
        return -ENOMEM;
    rs->chains = chains;
    rs->chains[rs->n_chains] = chain;
    *ret_index = (unsigned)rs->n_chains++;
    return 0;
}

struct nft_ruleset *nft_form_outline(const struct nft_ruleset *rs)
{
    struct nft_ruleset *outline = nft_form_new();
    unsigned index;
    int r = outline ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < rs->n_sets; i++)
        r = nft_form_add_set(outline, rs->sets[i].name, rs->sets[i].types, rs->sets[i].n_types,
                             rs->sets[i].interval, &index);
    for (size_t i = 0; r == 0 && i < rs->n_chains; i++)
        r = nft_form_add_chain(outline, rs->chains[i].name, rs->chains[i].type, rs->chains[i].hook,
                               rs->chains[i].priority, &index);
    if (r == 0)
        return outline;
    nft_ruleset_free(outline);
    return NULL;
}

bool nft_form_has_chain(const struct nft_ruleset *rs, const struct nft_chain *chain)
{
    for (size_t i = 0; i < rs->n_chains; i++) {
        const struct nft_chain *c = &rs->chains[i];

        if (strcmp(c->name, chain->name) == 0)
            return c->type == chain->type && c->hook == chain->hook &&
                   c->priority == chain->priority;
    }
    return false;
}

unsigned nft_set_key_size(const struct nft_set *set)
{
    if (set->n_types == 1)
        return nft_types[set->types[0]].size;
    unsigned size = 0;

    for (unsigned i = 0; i < set->n_types; i++)
        size += (nft_types[set->types[i]].size + 3) & ~3u;
    return size;
}

int nft_set_add(struct nft_set *set, const void *key, const void *last)
{
    unsigned size = nft_set_key_size(set);
    struct nft_elem e;
    struct nft_elem *elems = grow(set->elems, set->n_elems, &set->cap_elems, sizeof(e));

    if (!elems)
        return -ENOMEM;
    set->elems = elems;
    memset(&e, 0, sizeof(e));
    memcpy(e.first, key, size);
    memcpy(e.last, last ? last : key, size);
    set->elems[set->n_elems++] = e;
    return 0;
}

/* Keys are zero beyond their size, so whole arrays compare as big-endian numbers. */
static int by_value(const void *a, const void *b)
{
    const struct nft_elem *x = a, *y = b;

    return memcmp(x->first, y->first, NFT_KEY_SIZE);
}

/*
 * nft 1.0.6 reads the bytes of a concatenation as one number of the host, so that on a
 * little-endian machine their last byte decides first. Padding takes part as zeros, which changes
 * nothing.
 */
static int by_concatenation(const void *a, const void *b)
{
    const struct nft_elem *x = a, *y = b;

    if (BYTE_ORDER == BIG_ENDIAN)
        return by_value(a, b);
    for (unsigned i = NFT_KEY_SIZE; i-- > 0;)
        if (x->first[i] != y->first[i])
            return x->first[i] < y->first[i] ? -1 : 1;
    return 0;
}

/* Whether `b` begins inside `a` or right behind it; a begins no later than b. */
static bool touches(const struct nft_elem *a, const struct nft_elem *b, unsigned size)
{
    uint8_t next[NFT_KEY_SIZE];

    if (memcmp(b->first, a->last, size) <= 0)
        return true;
    memcpy(next, a->last, size);
    for (unsigned i = size; i-- > 0;)
        if (++next[i] != 0)
            break;
    return memcmp(b->first, next, size) == 0;
}

void nft_set_finish(struct nft_set *set)
{
    unsigned size = nft_set_key_size(set);
    size_t n = 0;

    if (set->n_elems == 0)
        return;
    qsort(set->elems, set->n_elems, sizeof(set->elems[0]),
          set->n_types > 1 ? by_concatenation : by_value);
    for (size_t i = 1; i < set->n_elems; i++) {
        struct nft_elem *a = &set->elems[n], *b = &set->elems[i];

        if (set->interval && touches(a, b, size)) {
            if (memcmp(b->last, a->last, size) > 0)
                memcpy(a->last, b->last, size);
        } else if (memcmp(a, b, sizeof(*a)) != 0) {
            set->elems[++n] = *b;
        }
    }
    set->n_elems = n + 1;
}

int nft_chain_append(struct nft_chain *chain, const struct nft_rule *rule)
{
    if (rule->n_exprs > NFT_RULE_MAX)
        return -E2BIG;
    struct nft_rule *rules = grow(chain->rules, chain->n_rules, &chain->cap_rules, sizeof(*rule));

    if (!rules)
        return -ENOMEM;
    chain->rules = rules;
    chain->rules[chain->n_rules++] = *rule;
    return 0;
}

struct nft_expr *nft_rule_add(struct nft_rule *rule, enum nft_expr_kind kind)
{
    struct nft_expr *e;

    if (rule->n_exprs >= NFT_RULE_MAX) {
        rule->n_exprs = NFT_RULE_MAX + 1;
        e = &rule->exprs[NFT_RULE_MAX - 1];
    } else {
        e = &rule->exprs[rule->n_exprs++];
    }
    memset(e, 0, sizeof(*e));
    e->kind = kind;
    return e;
}

static struct nft_match *add_match(struct nft_rule *rule, enum nft_field field, enum nft_op op)
{
    struct nft_match *m = &nft_rule_add(rule, NFT_EXPR_MATCH)->match;

    m->fields[0] = field;
    m->n_fields = 1;
    m->op = op;
    return m;
}

/* The low `size` bytes of a number, in network order. */
static void put_number(uint8_t *ret, uint32_t value, unsigned size)
{
    for (unsigned i = size; i-- > 0; value >>= 8)
        ret[i] = (uint8_t)value;
}

void nft_rule_match_masked(struct nft_rule *rule, enum nft_field field, enum nft_op op,
                           uint32_t value, uint32_t mask)
{
    struct nft_match *m = add_match(rule, field, op);
    unsigned size = nft_types[nft_fields[field].type].size;

    put_number(m->value, value, size);
    put_number(m->mask, mask, size);
}

void nft_rule_match(struct nft_rule *rule, enum nft_field field, enum nft_op op, uint32_t value)
{
    nft_rule_match_masked(rule, field, op, value, UINT32_MAX);
}

void nft_rule_match_set(struct nft_rule *rule, enum nft_field field, enum nft_op op, unsigned set)
{
    struct nft_match *m = add_match(rule, field, op);

    m->in_set = true;
    m->set = set;
}

void nft_rule_match_pair(struct nft_rule *rule, enum nft_field a, enum nft_field b, unsigned set)
{
    struct nft_match *m = add_match(rule, a, NFT_OP_EQ);

    m->fields[1] = b;
    m->n_fields = 2;
    m->in_set = true;
    m->set = set;
}

void nft_rule_verdict(struct nft_rule *rule, enum nft_verdict verdict, unsigned chain)
{
    struct nft_expr *e = nft_rule_add(rule, NFT_EXPR_VERDICT);

    e->verdict = verdict;
    e->chain = chain;
}
