/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nft/build.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "nft/expr.h"
#include "nft/form.h"
#include "nft/transaction.h"

/* nft's number of a concatenated type: six bits for each of its parts. */
#define CONCAT_TYPE_BITS 6

/* nft's numbers for the order of bytes. */
#define NFT_NOTE_HOST_ORDER 1
#define NFT_NOTE_BIG_ENDIAN 2

int nft_build_table(struct nft_transaction *t, uint16_t type, uint16_t flags, const char *table,
                    bool owned)
{
    static const struct nft_label label = {.object = NFT_OBJECT_TABLE};
    struct nftnl_table *n = nftnl_table_alloc();
    struct nlmsghdr *h = NULL;

    if (!n)
        return -ENOMEM;
    if (nftnl_table_set_str(n, NFTNL_TABLE_NAME, table) == 0) {
        if (type == NFT_MSG_NEWTABLE && owned)
            nftnl_table_set_u32(n, NFTNL_TABLE_FLAGS, NFT_TABLE_F_OWNER);
        h = nft_transaction_next(t, type, flags, label);
    }
    if (h) {
        nftnl_table_nlmsg_build_payload(h, n);
        nft_transaction_add(t, h);
    }
    nftnl_table_free(n);
    return h ? 0 : -ENOMEM;
}

/* One key, in the kernel's order. */
static int add_key(struct nftnl_set *n, const struct nft_set *set, const uint8_t *key,
                   uint32_t flags)
{
    uint8_t data[NFT_KEY_SIZE];
    struct nftnl_set_elem *e = nftnl_set_elem_alloc();

    if (!e)
        return -ENOMEM;
    memcpy(data, key, sizeof(data));
    if (set->n_types == 1)
        nft_expr_put_data(set->types[0], key, data);
    if (nftnl_set_elem_set(e, NFTNL_SET_ELEM_KEY, data, nft_set_key_size(set)) < 0) {
        nftnl_set_elem_free(e);
        return -ENOMEM;
    }
    if (flags != 0)
        nftnl_set_elem_set_u32(e, NFTNL_SET_ELEM_FLAGS, flags);
    nftnl_set_elem_add(n, e);
    return 0;
}

/* An interval is its first key and, marked, the first one behind it; there is none behind all ones.
 */
static int add_end(struct nftnl_set *n, const struct nft_set *set, const struct nft_elem *elem)
{
    uint8_t end[NFT_KEY_SIZE];

    memcpy(end, elem->last, sizeof(end));
    for (unsigned i = nft_set_key_size(set); i-- > 0;)
        if (++end[i] != 0)
            return add_key(n, set, end, NFT_SET_ELEM_INTERVAL_END);
    return 0;
}

static int name_set(struct nftnl_set *n, struct nft_place place, const struct nft_set *set)
{
    char name[NFT_ID_SIZE + NFT_SUFFIX_SIZE];

    snprintf(name, sizeof(name), "%s%s", set->name, place.suffix);
    if (nftnl_set_set_str(n, NFTNL_SET_TABLE, place.table) < 0 ||
        nftnl_set_set_str(n, NFTNL_SET_NAME, name) < 0)
        return -ENOMEM;
    return 0;
}

/*
 * A note for nft that the kernel keeps with the set: the order of the bytes of its keys. Without it
 * nft lists a user's number back to front.
 */
static int set_note(struct nftnl_set *n, const struct nft_set *set)
{
    uint32_t order = nft_types[set->types[0]].host_order || set->types[0] == NFT_TYPE_IFNAME
                         ? NFT_NOTE_HOST_ORDER
                         : NFT_NOTE_BIG_ENDIAN;
    struct nftnl_udata_buf *note = nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN);
    int r = -ENOMEM;

    if (note && nftnl_udata_put_u32(note, NFTNL_UDATA_SET_KEYBYTEORDER, order) &&
        nftnl_set_set_data(n, NFTNL_SET_USERDATA, nftnl_udata_buf_data(note),
                           nftnl_udata_buf_len(note)) == 0)
        r = 0;
    if (note)
        nftnl_udata_buf_free(note);
    return r;
}

static int set_attributes(struct nftnl_set *n, struct nft_place place, const struct nft_set *set,
                          unsigned index)
{
    uint32_t type = 0, flags = set->interval ? NFT_SET_INTERVAL : 0;

    if (set->timeout != 0)
        flags |= NFT_SET_EVAL | NFT_SET_TIMEOUT;

    for (unsigned i = 0; i < set->n_types; i++)
        type = type << CONCAT_TYPE_BITS | nft_types[set->types[i]].id;
    if (name_set(n, place, set) < 0)
        return -ENOMEM;
    nftnl_set_set_u32(n, NFTNL_SET_FAMILY, NFPROTO_INET);
    nftnl_set_set_u32(n, NFTNL_SET_ID, index + 1);
    nftnl_set_set_u32(n, NFTNL_SET_FLAGS, flags);
    nftnl_set_set_u32(n, NFTNL_SET_KEY_TYPE, type);
    nftnl_set_set_u32(n, NFTNL_SET_KEY_LEN, nft_set_key_size(set));
    if (set->timeout != 0) {
        nftnl_set_set_u64(n, NFTNL_SET_TIMEOUT, set->timeout);
        nftnl_set_set_u32(n, NFTNL_SET_DESC_SIZE, set->size);
    }
    return set->n_types == 1 ? set_note(n, set) : 0;
}

/* As many messages as the elements need; each holds up to 64 KiB of them. */
static int write_elements(struct nft_transaction *t, struct nftnl_set *n, unsigned index)
{
    const struct nft_label label = {.object = NFT_OBJECT_ELEMENTS, .index = index};
    struct nftnl_set_elems_iter *iter = nftnl_set_elems_iter_create(n);
    int more = 1;

    if (!iter)
        return -ENOMEM;
    while (more > 0) {
        struct nlmsghdr *h = nft_transaction_next(t, NFT_MSG_NEWSETELEM, NLM_F_CREATE, label);

        if (!h) {
            more = -ENOMEM;
            break;
        }
        more = nftnl_set_elems_nlmsg_build_payload_iter(h, iter);
        nft_transaction_add(t, h);
    }
    nftnl_set_elems_iter_destroy(iter);
    return more;
}

static int build_set(struct nft_transaction *t, struct nft_place place,
                     const struct nft_ruleset *rs, unsigned index)
{
    const struct nft_set *set = &rs->sets[index];
    const struct nft_label label = {.object = NFT_OBJECT_SET, .index = index};
    struct nftnl_set *n = nftnl_set_alloc();
    int r;

    if (!n)
        return -ENOMEM;
    r = set_attributes(n, place, set, index);
    if (r == 0) {
        struct nlmsghdr *h = nft_transaction_next(t, NFT_MSG_NEWSET, NLM_F_CREATE, label);

        if (h) {
            nftnl_set_nlmsg_build_payload(h, n);
            nft_transaction_add(t, h);
        }
        r = h ? 0 : -ENOMEM;
    }
    for (size_t i = 0; r == 0 && i < set->n_elems; i++) {
        r = add_key(n, set, set->elems[i].first, 0);
        if (r == 0 && set->interval)
            r = add_end(n, set, &set->elems[i]);
    }
    if (r == 0 && set->n_elems > 0)
        r = write_elements(t, n, index);
    nftnl_set_free(n);
    return r;
}

static int build_chain(struct nft_transaction *t, struct nft_place place,
                       const struct nft_ruleset *rs, unsigned index)
{
    const struct nft_chain *chain = &rs->chains[index];
    const struct nft_label label = {.object = NFT_OBJECT_CHAIN, .index = index};
    struct nftnl_chain *n = nftnl_chain_alloc();
    struct nlmsghdr *h = NULL;
    static const char *const types[] = {
        [NFT_CHAIN_FILTER] = "filter", [NFT_CHAIN_NAT] = "nat", [NFT_CHAIN_ROUTE] = "route"};
    int r = 0;

    if (!n)
        return -ENOMEM;
    if (nftnl_chain_set_str(n, NFTNL_CHAIN_TABLE, place.table) < 0 ||
        nftnl_chain_set_str(n, NFTNL_CHAIN_NAME, chain->name) < 0)
        r = -ENOMEM;
    if (r == 0 && chain->type != NFT_CHAIN_REGULAR) {
        r = nftnl_chain_set_str(n, NFTNL_CHAIN_TYPE, types[chain->type]);
        nftnl_chain_set_u32(n, NFTNL_CHAIN_HOOKNUM, chain->hook);
        nftnl_chain_set_s32(n, NFTNL_CHAIN_PRIO, chain->priority);
        nftnl_chain_set_u32(n, NFTNL_CHAIN_POLICY, NF_ACCEPT);
    }
    if (r == 0)
        h = nft_transaction_next(t, NFT_MSG_NEWCHAIN, NLM_F_CREATE, label);
    if (h) {
        nftnl_chain_nlmsg_build_payload(h, n);
        nft_transaction_add(t, h);
    }
    nftnl_chain_free(n);
    return h ? 0 : -ENOMEM;
}

static int build_rule(struct nft_transaction *t, struct nft_place place,
                      const struct nft_ruleset *rs, unsigned chain, unsigned rule)
{
    const struct nft_label label = {.object = NFT_OBJECT_RULE, .index = chain, .rule = rule};
    struct nftnl_rule *n = nftnl_rule_alloc();
    struct nlmsghdr *h = NULL;
    int r = -ENOMEM;

    if (!n)
        return r;
    nftnl_rule_set_u32(n, NFTNL_RULE_FAMILY, NFPROTO_INET);
    if (nftnl_rule_set_str(n, NFTNL_RULE_TABLE, place.table) == 0 &&
        nftnl_rule_set_str(n, NFTNL_RULE_CHAIN, rs->chains[chain].name) == 0)
        r = nft_expr_add_all(rs, place.suffix, &rs->chains[chain].rules[rule], n);
    if (r == 0) {
        h = nft_transaction_next(t, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, label);
        r = h ? 0 : -ENOMEM;
    }
    if (h) {
        nftnl_rule_nlmsg_build_payload(h, n);
        nft_transaction_add(t, h);
    }
    nftnl_rule_free(n);
    return r;
}

int nft_build_sets(struct nft_transaction *t, struct nft_place place, const struct nft_ruleset *rs)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < rs->n_sets; i++)
        r = build_set(t, place, rs, i);
    return r;
}

int nft_build_chains(struct nft_transaction *t, struct nft_place place,
                     const struct nft_ruleset *old, const struct nft_ruleset *rs)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < rs->n_chains; i++)
        if (!old || !nft_form_has_chain(old, &rs->chains[i]))
            r = build_chain(t, place, rs, i);
    return r;
}

int nft_build_rules(struct nft_transaction *t, struct nft_place place, const struct nft_ruleset *rs)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < rs->n_chains; i++)
        for (unsigned j = 0; r == 0 && j < rs->chains[i].n_rules; j++)
            r = build_rule(t, place, rs, i, j);
    return r;
}

/* A message that names a chain: itself, or all its rules. */
static int delete_by_chain(struct nft_transaction *t, uint16_t type, const char *table,
                           const char *chain)
{
    static const struct nft_label label = {.object = NFT_OBJECT_OLD};
    struct nlmsghdr *h = nft_transaction_next(t, type, 0, label);
    bool rules = type == NFT_MSG_DELRULE;

    if (!h)
        return -ENOMEM;
    mnl_attr_put_strz(h, rules ? NFTA_RULE_TABLE : NFTA_CHAIN_TABLE, table);
    mnl_attr_put_strz(h, rules ? NFTA_RULE_CHAIN : NFTA_CHAIN_NAME, chain);
    nft_transaction_add(t, h);
    return 0;
}

int nft_delete_rules(struct nft_transaction *t, struct nft_place place,
                     const struct nft_ruleset *rs)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < rs->n_chains; i++)
        r = delete_by_chain(t, NFT_MSG_DELRULE, place.table, rs->chains[i].name);
    return r;
}

int nft_delete_sets(struct nft_transaction *t, struct nft_place place, const struct nft_ruleset *rs)
{
    static const struct nft_label label = {.object = NFT_OBJECT_OLD};

    for (size_t i = 0; i < rs->n_sets; i++) {
        char name[NFT_ID_SIZE + NFT_SUFFIX_SIZE];
        struct nlmsghdr *h = nft_transaction_next(t, NFT_MSG_DELSET, 0, label);

        if (!h)
            return -ENOMEM;
        snprintf(name, sizeof(name), "%s%s", rs->sets[i].name, place.suffix);
        mnl_attr_put_strz(h, NFTA_SET_TABLE, place.table);
        mnl_attr_put_strz(h, NFTA_SET_NAME, name);
        nft_transaction_add(t, h);
    }
    return 0;
}

int nft_delete_chains(struct nft_transaction *t, struct nft_place place,
                      const struct nft_ruleset *old, const struct nft_ruleset *rs)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < old->n_chains; i++)
        if (!nft_form_has_chain(rs, &old->chains[i]))
            r = delete_by_chain(t, NFT_MSG_DELCHAIN, place.table, old->chains[i].name);
    return r;
}
