/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The form itself: one table of typed sets, chains and rules. ruleset.c fills it from policy,
 * text.c prints it, build.c and expr.c turn it into netlink; they agree through the three tables
 * below (types of data, fields of a packet, hooks), so a new match is a row here and a new
 * statement is a kind of expression.
 *
 * Everything refers to everything else by index, as the arrays grow. All data is in network byte
 * order, also what the kernel keeps in host order (struct nft_type_info says which).
 */
#ifndef UNDERSOCK_NFT_FORM_H
#define UNDERSOCK_NFT_FORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NFT_ID_SIZE  64 /* names of sets and chains, the terminating 0 included */
#define NFT_KEY_SIZE 20 /* an IPv6 address and a port, padded to 4 bytes */
#define NFT_RULE_MAX 12 /* expressions of one rule */

#define NFT_PREFIX_SIZE                                                      \
    32 /* of what is logged, the terminating 0 included; the kernel's is 128 \
        */

enum nft_type {
    NFT_TYPE_NFPROTO,
    NFT_TYPE_INET_PROTOCOL,
    NFT_TYPE_MARK,
    NFT_TYPE_CLASSID, /* of tc: two halves in hexadecimal, neither of them 0 */
    NFT_TYPE_UID,
    NFT_TYPE_IPV4_ADDR,
    NFT_TYPE_IPV6_ADDR,
    NFT_TYPE_INET_SERVICE,
    NFT_TYPE_TCP_FLAG,
    NFT_TYPE_IFNAME,
    NFT_TYPE_FIB_ADDR,  /* RTN_* */
    NFT_TYPE_CT_STATE,  /* bits */
    NFT_TYPE_CT_STATUS, /* IPS_*, bits */
    NFT_TYPE_CT_DIR,
    NFT_TYPE_CT_LABEL, /* the number of a bit */
    NFT_TYPE_BOOLEAN,
    NFT_TYPE_EXISTENCE, /* of a route: 0, missing */
};

struct nft_type_info {
    const char *name;  /* as in "type ipv4_addr" */
    uint32_t id;       /* nft's number of the type, which the kernel only keeps */
    unsigned size;     /* bytes */
    bool host_order;   /* the kernel compares it as a number of the host */
    bool prefixes;     /* nft prints an aligned range as a prefix */
    unsigned per_line; /* how many elements of a set nft prints on a line */
};

enum nft_field {
    NFT_FIELD_META_NFPROTO,
    NFT_FIELD_META_L4PROTO,
    NFT_FIELD_META_MARK,
    NFT_FIELD_META_PRIORITY,
    NFT_FIELD_META_SKUID,
    NFT_FIELD_SOCKET_MARK, /* of the socket that sends it, whatever became of the packet's */
    NFT_FIELD_IP_SADDR,
    NFT_FIELD_IP_DADDR,
    NFT_FIELD_IP6_SADDR,
    NFT_FIELD_IP6_DADDR,
    NFT_FIELD_TCP_SPORT,
    NFT_FIELD_TCP_DPORT,
    NFT_FIELD_TCP_FLAGS,
    NFT_FIELD_UDP_DPORT,
    NFT_FIELD_META_IIFNAME,
    NFT_FIELD_META_OIFNAME,
    NFT_FIELD_FIB_SADDR_TYPE,
    NFT_FIELD_FIB_DADDR_TYPE,
    NFT_FIELD_FIB_SADDR_OIFNAME, /* by which the source is reached */
    NFT_FIELD_FIB_SADDR_IIF,     /* whether it is by the input interface */
    NFT_FIELD_CT_STATE,
    NFT_FIELD_CT_STATUS,
    NFT_FIELD_CT_DIRECTION,
    NFT_FIELD_CT_LABEL,
    NFT_FIELD_SOCKET_TRANSPARENT,
    NFT_FIELD_SOCKET_WILDCARD,
};

enum nft_op { NFT_OP_EQ, NFT_OP_NEQ, NFT_OP_ANY, NFT_OP_NONE /* of these bits; not for sets */ };

/* Value or set that the packet's data is compared with. */
struct nft_match {
    enum nft_field fields[2]; /* two: a concatenation, for sets only */
    unsigned n_fields;
    enum nft_op op;
    bool in_set;
    unsigned set; /* with in_set: which */
    uint8_t value[16],
        mask[16]; /* else: of the field's size; the mask is all ones when there is none */
};

enum nft_verdict {
    NFT_VERDICT_ACCEPT,
    NFT_VERDICT_DROP,
    NFT_VERDICT_RETURN,
    NFT_VERDICT_JUMP,
    NFT_VERDICT_GOTO,
};

enum nft_expr_kind {
    NFT_EXPR_MATCH,
    NFT_EXPR_VERDICT,
    NFT_EXPR_REDIRECT,  /* nat chains, after a match on the transport protocol */
    NFT_EXPR_TCP_RESET, /* filter chains: reject with tcp reset */
    NFT_EXPR_REJECT,    /* filter chains: reject with icmpx, `number`: NFT_REJECT_ICMPX_* */
    NFT_EXPR_CGROUP,    /* matches sockets made in a cgroup or below it, at the output hook */
    NFT_EXPR_TPROXY,    /* prerouting, after a match on the transport protocol: to our loopback */
    NFT_EXPR_SET_MARK,
    NFT_EXPR_SET_PRIORITY,
    NFT_EXPR_SOCKET_MARK,      /* sets the packet's mark to its socket's */
    NFT_EXPR_SET_LABEL,        /* of connection tracking: adds one */
    NFT_EXPR_SPORT_HASH,       /* matches TCP whose source port has this hash */
    NFT_EXPR_LOG,              /* a copy to who has the group; the rule goes on */
    NFT_EXPR_KEEP_SOURCE,      /* nat chains at postrouting: snat to the address that it has */
    NFT_EXPR_KEEP_DESTINATION, /* nat chains at output: dnat, likewise */
    NFT_EXPR_ADD,              /* the match's field to its set, a dynamic one; the rule goes on,
                                  unless the set is full */
    NFT_EXPR_DELETE,           /* likewise, from its set */
};

struct nft_expr {
    enum nft_expr_kind kind;
    struct nft_match match;
    enum nft_verdict verdict;
    unsigned chain;  /* NFT_VERDICT_JUMP, NFT_VERDICT_GOTO: where to */
    uint16_t port;   /* NFT_EXPR_REDIRECT, NFT_EXPR_TPROXY, host order */
    bool v6;         /* NFT_EXPR_TPROXY: to ::1, else to 127.0.0.1; NFT_EXPR_KEEP_... */
    uint32_t number; /* NFT_EXPR_SET_MARK, NFT_EXPR_SET_PRIORITY, NFT_EXPR_SET_LABEL,
                        NFT_EXPR_REJECT */
    unsigned cgroup; /* NFT_EXPR_CGROUP: which of the form's */
    uint32_t modulus, seed, remainder; /* NFT_EXPR_SPORT_HASH */
    uint16_t group, snaplen;           /* NFT_EXPR_LOG */
    char prefix[NFT_PREFIX_SIZE];      /* likewise */
};

struct nft_rule {
    struct nft_expr exprs[NFT_RULE_MAX];
    unsigned n_exprs; /* NFT_RULE_MAX + 1: there was no room for all */
};

/* A packet whose mark a NFT_CHAIN_ROUTE changes is routed again; such a chain is at output. */
enum nft_chain_type { NFT_CHAIN_REGULAR, NFT_CHAIN_FILTER, NFT_CHAIN_NAT, NFT_CHAIN_ROUTE };

struct nft_chain {
    char name[NFT_ID_SIZE];
    enum nft_chain_type type;
    unsigned hook; /* enum nf_inet_hooks; base chains only, policy accept */
    int priority;
    /*
     * Connections that earlier rules took still need the chain: where it is left out of what
     * replaces it, it stays with its first n_kept rules, which use no sets but dynamic ones.
     */
    bool lasting;
    size_t n_kept;
    struct nft_rule *rules;
    size_t n_rules, cap_rules;
};

/* Both ends inclusive; equal outside interval sets. A concatenation pads each field to 4 bytes. */
struct nft_elem {
    uint8_t first[NFT_KEY_SIZE], last[NFT_KEY_SIZE];
};

struct nft_set {
    char name[NFT_ID_SIZE];
    enum nft_type types[2];
    unsigned n_types;
    bool interval;
    uint32_t timeout; /* milliseconds that an element stays; 0: the set is what the form says. Else
                         it is dynamic: rules fill it, and its elements are not the form's */
    uint32_t size;    /* dynamic sets: elements at most */
    struct nft_elem *elems; /* in the order in which nft prints them, disjoint, not adjacent */
    size_t n_elems, cap_elems;
};

struct nft_ruleset {
    struct nft_set *sets;
    size_t n_sets, cap_sets;
    struct nft_chain *chains;
    size_t n_chains, cap_chains;
    char **cgroups; /* paths below the root of cgroup2 */
    size_t n_cgroups, cap_cgroups;
};

extern const struct nft_type_info nft_types[];

struct nft_field_info {
    const char *name; /* "ip daddr" */
    enum nft_type type;
    uint8_t family;  /* NFPROTO_* without which the field is not there; 0: any */
    uint8_t l4proto; /* the same for IPPROTO_*; 0: any */
};

extern const struct nft_field_info nft_fields[];

struct nft_ruleset *nft_form_new(void);
/* The sets without their elements, the chains without all rules but the kept ones; NULL: no memory.
 */
struct nft_ruleset *nft_form_outline(const struct nft_ruleset *rs);
/* Whether the form has the very chain: of this name, type, hook and priority. */
bool nft_form_has_chain(const struct nft_ruleset *rs, const struct nft_chain *chain);
/* What `rs` lacks of the lasting chains of `old` is appended to it, with their sets. -ENOMEM. */
int nft_form_inherit(struct nft_ruleset *rs, const struct nft_ruleset *old);
/* All of it, elements and rules included; NULL: no memory. */
struct nft_ruleset *nft_form_copy(const struct nft_ruleset *rs);
bool nft_form_find_chain(const struct nft_ruleset *rs, const char *name, unsigned *ret_index);
/* Append an empty object; *ret_index is its index. -ENOMEM. */
int nft_form_add_set(struct nft_ruleset *rs, const char *name, const enum nft_type *types,
                     unsigned n_types, bool interval, unsigned *ret_index);
/* One that rules fill: `timeout` in milliseconds, not 0; `size` elements at most. -ENOMEM. */
int nft_form_add_dynamic_set(struct nft_ruleset *rs, const char *name, enum nft_type type,
                             uint32_t timeout, uint32_t size, unsigned *ret_index);
int nft_form_add_chain(struct nft_ruleset *rs, const char *name, enum nft_chain_type type,
                       unsigned hook, int priority, unsigned *ret_index);
int nft_form_add_cgroup(struct nft_ruleset *rs, const char *path, unsigned *ret_index);
/* The rules that the chain has by now are what is kept of it. */
void nft_chain_keep(struct nft_chain *chain);
/* `key` and `last` have the set's key length; last NULL: a single value. -ENOMEM. */
int nft_set_add(struct nft_set *set, const void *key, const void *last);
/* Brings the elements into nft's order, without duplicates; intervals that overlap or touch become
 * one. */
void nft_set_finish(struct nft_set *set);
/* Bytes of the set's key, a concatenation's padding included. */
unsigned nft_set_key_size(const struct nft_set *set);
/* Copies the rule to the chain's end. -ENOMEM; -E2BIG: the rule was longer than NFT_RULE_MAX. */
int nft_chain_append(struct nft_chain *chain, const struct nft_rule *rule);

/* Each appends one expression; past NFT_RULE_MAX they only count, and nft_chain_append() tells. */
struct nft_expr *nft_rule_add(struct nft_rule *rule, enum nft_expr_kind kind);
void nft_rule_match(struct nft_rule *rule, enum nft_field field, enum nft_op op, uint32_t value);
void nft_rule_match_masked(struct nft_rule *rule, enum nft_field field, enum nft_op op,
                           uint32_t value, uint32_t mask);
/* A name as it stands; at most 15 bytes of it count. */
void nft_rule_match_name(struct nft_rule *rule, enum nft_field field, enum nft_op op,
                         const char *name);
/* One of the bits of a NFT_TYPE_CT_STATE or NFT_TYPE_CT_STATUS, or the NFT_TYPE_CT_LABEL. */
void nft_rule_match_any(struct nft_rule *rule, enum nft_field field, uint32_t value);
/* That it has not. */
void nft_rule_match_none(struct nft_rule *rule, enum nft_field field, uint32_t value);
void nft_rule_match_set(struct nft_rule *rule, enum nft_field field, enum nft_op op, unsigned set);
void nft_rule_match_pair(struct nft_rule *rule, enum nft_field a, enum nft_field b, unsigned set);
/* NFT_EXPR_ADD, NFT_EXPR_DELETE */
void nft_rule_add_to_set(struct nft_rule *rule, enum nft_field field, unsigned set);
void nft_rule_delete_from_set(struct nft_rule *rule, enum nft_field field, unsigned set);
void nft_rule_verdict(struct nft_rule *rule, enum nft_verdict verdict, unsigned chain);

#endif
