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
    [NFT_TYPE_CLASSID] = {"classid", 23, 4, true, false, 5},
    [NFT_TYPE_UID] = {"uid", 24, 4, true, false, 5},
    [NFT_TYPE_IPV4_ADDR] = {"ipv4_addr", 7, 4, false, true, 2},
    [NFT_TYPE_IPV6_ADDR] = {"ipv6_addr", 8, 16, false, true, 1},
    [NFT_TYPE_INET_SERVICE] = {"inet_service", 13, 2, false, false, 5},
    [NFT_TYPE_TCP_FLAG] = {"tcp_flag", 15, 1, false, false, 5},
    [NFT_TYPE_IFNAME] = {"ifname", 41, 16, false, false, 1},
    [NFT_TYPE_FIB_ADDR] = {"fib_addrtype", 43, 4, true, false, 5},
    [NFT_TYPE_CT_STATE] = {"ct_state", 26, 4, true, false, 5},
    [NFT_TYPE_CT_STATUS] = {"ct_status", 28, 4, true, false, 5},
    [NFT_TYPE_CT_DIR] = {"ct_dir", 27, 1, false, false, 5},
    [NFT_TYPE_CT_LABEL] = {"ct_label", 33, 16, false, false, 5},
    [NFT_TYPE_BOOLEAN] = {"boolean", 44, 1, false, false, 5},
    [NFT_TYPE_EXISTENCE] = {"boolean", 44, 4, true, false, 5},
};

const struct nft_field_info nft_fields[] = {
    [NFT_FIELD_META_NFPROTO] = {"meta nfproto", NFT_TYPE_NFPROTO, 0, 0},
    [NFT_FIELD_META_L4PROTO] = {"meta l4proto", NFT_TYPE_INET_PROTOCOL, 0, 0},
    [NFT_FIELD_META_MARK] = {"meta mark", NFT_TYPE_MARK, 0, 0},
    [NFT_FIELD_META_PRIORITY] = {"meta priority", NFT_TYPE_CLASSID, 0, 0},
    [NFT_FIELD_META_SKUID] = {"meta skuid", NFT_TYPE_UID, 0, 0},
    [NFT_FIELD_SOCKET_MARK] = {"socket mark", NFT_TYPE_MARK, 0, 0},
    [NFT_FIELD_IP_SADDR] = {"ip saddr", NFT_TYPE_IPV4_ADDR, NFPROTO_IPV4, 0},
    [NFT_FIELD_IP_DADDR] = {"ip daddr", NFT_TYPE_IPV4_ADDR, NFPROTO_IPV4, 0},
    [NFT_FIELD_IP6_SADDR] = {"ip6 saddr", NFT_TYPE_IPV6_ADDR, NFPROTO_IPV6, 0},
    [NFT_FIELD_IP6_DADDR] = {"ip6 daddr", NFT_TYPE_IPV6_ADDR, NFPROTO_IPV6, 0},
    [NFT_FIELD_TCP_SPORT] = {"tcp sport", NFT_TYPE_INET_SERVICE, 0, IPPROTO_TCP},
    [NFT_FIELD_TCP_DPORT] = {"tcp dport", NFT_TYPE_INET_SERVICE, 0, IPPROTO_TCP},
    [NFT_FIELD_TCP_FLAGS] = {"tcp flags", NFT_TYPE_TCP_FLAG, 0, IPPROTO_TCP},
    [NFT_FIELD_UDP_DPORT] = {"udp dport", NFT_TYPE_INET_SERVICE, 0, IPPROTO_UDP},
    [NFT_FIELD_META_IIFNAME] = {"iifname", NFT_TYPE_IFNAME, 0, 0},
    [NFT_FIELD_META_OIFNAME] = {"oifname", NFT_TYPE_IFNAME, 0, 0},
    [NFT_FIELD_FIB_SADDR_TYPE] = {"fib saddr type", NFT_TYPE_FIB_ADDR, 0, 0},
    [NFT_FIELD_FIB_DADDR_TYPE] = {"fib daddr type", NFT_TYPE_FIB_ADDR, 0, 0},
    [NFT_FIELD_FIB_SADDR_OIFNAME] = {"fib saddr oifname", NFT_TYPE_IFNAME, 0, 0},
    [NFT_FIELD_FIB_SADDR_IIF] = {"fib saddr . iif oif", NFT_TYPE_EXISTENCE, 0, 0},
    [NFT_FIELD_CT_STATE] = {"ct state", NFT_TYPE_CT_STATE, 0, 0},
    [NFT_FIELD_CT_STATUS] = {"ct status", NFT_TYPE_CT_STATUS, 0, 0},
    [NFT_FIELD_CT_DIRECTION] = {"ct direction", NFT_TYPE_CT_DIR, 0, 0},
    [NFT_FIELD_CT_LABEL] = {"ct label", NFT_TYPE_CT_LABEL, 0, 0},
    [NFT_FIELD_SOCKET_TRANSPARENT] = {"socket transparent", NFT_TYPE_BOOLEAN, 0, 0},
    [NFT_FIELD_SOCKET_WILDCARD] = {"socket wildcard", NFT_TYPE_BOOLEAN, 0, 0},
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
    for (size_t i = 0; i < rs->n_cgroups; i++)
        free(rs->cgroups[i]);
    free(rs->sets);
    free(rs->chains);
    free(rs->cgroups);
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

int nft_form_add_dynamic_set(struct nft_ruleset *rs, const char *name, enum nft_type type,
                             uint32_t timeout, uint32_t size, unsigned *ret_index)
{
    int r = nft_form_add_set(rs, name, &type, 1, false, ret_index);

    if (r < 0)
        return r;
    rs->sets[*ret_index].timeout = timeout;
    rs->sets[*ret_index].size = size;
    return 0;
}

/* The set without its elements. */
static int copy_set(struct nft_ruleset *to, const struct nft_set *set, unsigned *ret_index)
{
    int r = nft_form_add_set(to, set->name, set->types, set->n_types, set->interval, ret_index);

    if (r < 0)
        return r;
    to->sets[*ret_index].timeout = set->timeout;
    to->sets[*ret_index].size = set->size;
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

int nft_form_add_cgroup(struct nft_ruleset *rs, const char *path, unsigned *ret_index)
{
    char **cgroups = grow(rs->cgroups, rs->n_cgroups, &rs->cap_cgroups, sizeof(*cgroups));
    char *copy = strdup(path);

    if (cgroups)
        rs->cgroups = cgroups;
    if (!cgroups || !copy) {
        free(copy);
        return -ENOMEM;
    }
    rs->cgroups[rs->n_cgroups] = copy;
    *ret_index = (unsigned)rs->n_cgroups++;
    return 0;
}

void nft_chain_keep(struct nft_chain *chain)
{
    chain->lasting = true;
    chain->n_kept = chain->n_rules;
}

/* The chain with its first `n` rules, which go on naming chains by their old index. */
static int copy_chain(struct nft_ruleset *to, const struct nft_chain *chain, size_t n,
                      unsigned *ret_index)
{
    int r =
        nft_form_add_chain(to, chain->name, chain->type, chain->hook, chain->priority, ret_index);

    if (r < 0)
        return r;
    to->chains[*ret_index].lasting = chain->lasting;
    to->chains[*ret_index].n_kept = chain->n_kept;
    for (size_t i = 0; r == 0 && i < n; i++)
        r = nft_chain_append(&to->chains[*ret_index], &chain->rules[i]);
    return r;
}

struct nft_ruleset *nft_form_outline(const struct nft_ruleset *rs)
{
    struct nft_ruleset *outline = nft_form_new();
    unsigned index;
    int r = outline ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < rs->n_sets; i++)
        r = copy_set(outline, &rs->sets[i], &index);
    for (size_t i = 0; r == 0 && i < rs->n_chains; i++)
        r = copy_chain(outline, &rs->chains[i], rs->chains[i].lasting ? rs->chains[i].n_kept : 0,
                       &index);
    if (r == 0)
        return outline;
    nft_ruleset_free(outline);
    return NULL;
}

struct nft_ruleset *nft_form_copy(const struct nft_ruleset *rs)
{
    struct nft_ruleset *copy = nft_form_new();
    unsigned index;
    int r = copy ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < rs->n_sets; i++) {
        const struct nft_set *set = &rs->sets[i];

        r = copy_set(copy, set, &index);
        for (size_t j = 0; r == 0 && j < set->n_elems; j++)
            r = nft_set_add(&copy->sets[index], set->elems[j].first, set->elems[j].last);
    }
    for (size_t i = 0; r == 0 && i < rs->n_chains; i++)
        r = copy_chain(copy, &rs->chains[i], rs->chains[i].n_rules, &index);
    for (size_t i = 0; r == 0 && i < rs->n_cgroups; i++)
        r = nft_form_add_cgroup(copy, rs->cgroups[i], &index);
    if (r == 0)
        return copy;
    nft_ruleset_free(copy);
    return NULL;
}

/* The index of the chain of this name; the number of chains when there is none. */
static size_t find_chain(const struct nft_ruleset *rs, const char *name)
{
    size_t i = 0;

    while (i < rs->n_chains && strcmp(rs->chains[i].name, name) != 0)
        i++;
    return i;
}

bool nft_form_find_chain(const struct nft_ruleset *rs, const char *name, unsigned *ret_index)
{
    size_t i = find_chain(rs, name);

    if (i == rs->n_chains)
        return false;
    *ret_index = (unsigned)i;
    return true;
}

/* The index of the old set in the form, which gets it if it has none of the name. */
static int find_or_copy_set(struct nft_ruleset *rs, const struct nft_set *set, unsigned *index)
{
    for (size_t i = 0; i < rs->n_sets; i++)
        if (strcmp(rs->sets[i].name, set->name) == 0) {
            *index = (unsigned)i;
            return 0;
        }
    return copy_set(rs, set, index);
}

/* Lets an expression of the old form name what it means in the new one. */
static int translate(struct nft_ruleset *rs, const struct nft_ruleset *old, struct nft_expr *e)
{
    if (e->kind == NFT_EXPR_VERDICT &&
        (e->verdict == NFT_VERDICT_JUMP || e->verdict == NFT_VERDICT_GOTO))
        e->chain = (unsigned)find_chain(rs, old->chains[e->chain].name);
    if (e->kind == NFT_EXPR_ADD || e->kind == NFT_EXPR_DELETE ||
        (e->kind == NFT_EXPR_MATCH && e->match.in_set))
        return find_or_copy_set(rs, &old->sets[e->match.set], &e->match.set);
    return 0;
}

/*
 * Rules name chains and sets by index, which is another one in another form. First all chains, then
 * where the new ones jump to. A lasting chain jumps only to lasting chains.
 */
int nft_form_inherit(struct nft_ruleset *rs, const struct nft_ruleset *old)
{
    size_t first = rs->n_chains;
    unsigned index;
    int r = 0;

    for (size_t i = 0; r == 0 && i < old->n_chains; i++)
        if (old->chains[i].lasting && find_chain(rs, old->chains[i].name) == rs->n_chains)
            r = copy_chain(rs, &old->chains[i], old->chains[i].n_kept, &index);
    for (size_t i = first; r == 0 && i < rs->n_chains; i++)
        for (size_t j = 0; r == 0 && j < rs->chains[i].n_rules; j++) {
            struct nft_rule *rule = &rs->chains[i].rules[j];

            for (unsigned k = 0; r == 0 && k < rule->n_exprs; k++)
                r = translate(rs, old, &rule->exprs[k]);
        }
    return r;
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
 * nft 1.0.6 reads the bytes of a concatenation, and of a name, as one number of the host, so that
 * on a little-endian machine their last byte decides first. Padding takes part as zeros, which
 * changes nothing.
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
          set->n_types > 1 || set->types[0] == NFT_TYPE_IFNAME ? by_concatenation : by_value);
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

void nft_rule_match_name(struct nft_rule *rule, enum nft_field field, enum nft_op op,
                         const char *name)
{
    struct nft_match *m = add_match(rule, field, op);

    strncpy((char *)m->value, name, sizeof(m->value) - 1);
    memset(m->mask, 0xff, sizeof(m->mask));
}

static void match_bits(struct nft_rule *rule, enum nft_field field, enum nft_op op, uint32_t value)
{
    struct nft_match *m = add_match(rule, field, op);
    unsigned size = nft_types[nft_fields[field].type].size;

    put_number(m->value, value, size);
    memset(m->mask, 0xff, size);
}

void nft_rule_match_any(struct nft_rule *rule, enum nft_field field, uint32_t value)
{
    match_bits(rule, field, NFT_OP_ANY, value);
}

void nft_rule_match_none(struct nft_rule *rule, enum nft_field field, uint32_t value)
{
    match_bits(rule, field, NFT_OP_NONE, value);
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

static void change_set(struct nft_rule *rule, enum nft_expr_kind kind, enum nft_field field,
                       unsigned set)
{
    struct nft_match *m = &nft_rule_add(rule, kind)->match;

    m->fields[0] = field;
    m->n_fields = 1;
    m->set = set;
}

void nft_rule_add_to_set(struct nft_rule *rule, enum nft_field field, unsigned set)
{
    change_set(rule, NFT_EXPR_ADD, field, set);
}

void nft_rule_delete_from_set(struct nft_rule *rule, enum nft_field field, unsigned set)
{
    change_set(rule, NFT_EXPR_DELETE, field, set);
}

void nft_rule_verdict(struct nft_rule *rule, enum nft_verdict verdict, unsigned chain)
{
    struct nft_expr *e = nft_rule_add(rule, NFT_EXPR_VERDICT);

    e->verdict = verdict;
    e->chain = chain;
}
