/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nft/selection.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/netfilter/nf_tables.h>

#include "nft/hold.h"
#include "nft/ruleset.h"

static const uint32_t family_nfproto[] = {[NFT_V4] = NFPROTO_IPV4, [NFT_V6] = NFPROTO_IPV6};
static const enum nft_field family_daddr[] = {
    [NFT_V4] = NFT_FIELD_IP_DADDR, [NFT_V6] = NFT_FIELD_IP6_DADDR};

static bool ports_valid(const struct port_range *ports, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ports[i].first > ports[i].last)
            return false;
    return true;
}

static bool prefixes_valid(const struct prefix *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i].len > 128)
            return false;
    return true;
}

static bool valid(const struct capture_set *set)
{
    if (set->own_mark & ~set->own_mask)
        return false;
    for (size_t i = 0; i < set->n_seats; i++)
        if (set->seats[i].number >= CAPTURE_SEATS)
            return false;
    for (size_t i = 0; i < set->n_policies; i++) {
        const struct capture_policy *p = &set->policies[i];

        if (!ports_valid(p->tcp_ports, p->n_tcp_ports) ||
            !ports_valid(p->udp_ports, p->n_udp_ports) || !prefixes_valid(p->to, p->n_to) ||
            !prefixes_valid(p->not_to, p->n_not_to))
            return false;
        for (size_t j = 0; j < p->n_interfaces; j++)
            if (p->interfaces[j][0] == '\0' || strlen(p->interfaces[j]) >= 16)
                return false;
    }
    return true;
}

int nft_maker_begin(struct nft_maker *m, const struct capture_set *set, struct nft_scope scope)
{
    *m = (struct nft_maker){
        .set = set, .scope = scope, .refuse_tcp = NFT_NO_CHAIN, .refuse_udp = NFT_NO_CHAIN};
    if (!valid(set))
        return -EINVAL;
    m->rs = nft_form_new();
    m->sets = calloc(set->n_policies ? set->n_policies : 1, sizeof(*m->sets));
    return m->rs && m->sets ? 0 : -ENOMEM;
}

int nft_maker_end(struct nft_maker *m, int r, struct nft_ruleset **ret)
{
    free(m->sets);
    if (r < 0)
        nft_ruleset_free(m->rs);
    else
        *ret = m->rs;
    return r;
}

enum nft_treatment nft_treatment(const struct capture_set *set, const struct capture_policy *p,
                                 enum nft_family f)
{
    switch (p->action) {
    case CAPTURE_DIRECT:
        return NFT_TREAT_RETURN;
    case CAPTURE_PROXY:
        if (p->honest && p->hook != CAPTURE_CGROUP)
            return nft_seats_serve(set, f) ? NFT_TREAT_HOLD : NFT_TREAT_REFUSE;
        return nft_listener_port(p, f) != 0 ? NFT_TREAT_REDIRECT : NFT_TREAT_REFUSE;
    case CAPTURE_REFUSE:
        break;
    }
    return NFT_TREAT_REFUSE;
}

enum nft_treatment nft_udp_treatment(const struct capture_set *set, size_t capture,
                                     struct nft_way way)
{
    const struct capture_policy *p = &set->policies[capture];
    bool take = way.part == NFT_PART_DNS || p->udp == CAPTURE_UDP_TAKE;

    /* Nobody but us knows where a made-up address is. */
    if (p->action == CAPTURE_DIRECT || way.part == NFT_PART_DNS_DIRECT ||
        (p->udp == CAPTURE_UDP_LEAVE && way.part == NFT_PART_REST))
        return NFT_TREAT_RETURN;
    return p->action == CAPTURE_PROXY && take && nft_udp_port(p, way.family) != 0 &&
                   capture < CAPTURE_UDP_POLICIES
               ? NFT_TREAT_REDIRECT
               : NFT_TREAT_REFUSE;
}

bool nft_way(const struct capture_policy *p, enum nft_transport transport, unsigned k,
             struct nft_way *ret)
{
    struct nft_way way = {k / NFT_N_FAMILIES, k % NFT_N_FAMILIES};

    if (!nft_has_part(p, transport, way.family, way.part))
        return false;
    *ret = way;
    return true;
}

bool nft_way_is_local(const struct capture_policy *p, struct nft_way way)
{
    if (way.part == NFT_PART_DNS)
        return p->hook != CAPTURE_GATEWAY || p->dns_local;
    return way.part == NFT_PART_REST && p->action == CAPTURE_DIRECT;
}

int nft_append_return(struct nft_maker *m, unsigned chain, struct nft_rule *rule)
{
    nft_rule_verdict(rule, NFT_VERDICT_RETURN, 0);
    return nft_chain_append(&m->rs->chains[chain], rule);
}

int nft_append_own_mark_return(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    if (m->set->own_mask == 0)
        return 0;
    nft_match_mark(&rule, m->set->own_mark, m->set->own_mask);
    return nft_append_return(m, chain, &rule);
}

int nft_append_addr_type_return(struct nft_maker *m, unsigned chain, uint32_t rtn)
{
    struct nft_rule rule = {.n_exprs = 0};

    nft_rule_match(&rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_EQ, rtn);
    return nft_append_return(m, chain, &rule);
}

int nft_add_from_lo(struct nft_maker *m, const char *name, int priority, unsigned *ret_chain)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r =
        nft_form_add_chain(m->rs, name, NFT_CHAIN_FILTER, NF_INET_PRE_ROUTING, priority, ret_chain);

    nft_rule_match_name(&rule, NFT_FIELD_META_IIFNAME, NFT_OP_NEQ, "lo");
    return r < 0 ? r : nft_append_return(m, *ret_chain, &rule);
}

void nft_match_pair(struct nft_rule *rule, enum nft_family f, unsigned set)
{
    nft_rule_match_pair(rule, family_daddr[f], NFT_FIELD_TCP_DPORT, set);
}

int nft_append_pairs_return(struct nft_maker *m, unsigned chain,
                            const unsigned sets[NFT_N_FAMILIES])
{
    int r = 0;

    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        struct nft_rule rule = {.n_exprs = 0};

        if (sets[f] == NFT_NO_SET)
            continue;
        nft_match_pair(&rule, f, sets[f]);
        r = nft_append_return(m, chain, &rule);
    }
    return r;
}

void nft_match_not_syn(struct nft_rule *rule)
{
    nft_rule_match_masked(rule, NFT_FIELD_TCP_FLAGS, NFT_OP_NEQ, NFT_TCP_SYN,
                          NFT_TCP_FIN_SYN_RST_ACK);
}

void nft_match_mark(struct nft_rule *rule, uint32_t mark, uint32_t mask)
{
    nft_rule_match_masked(rule, NFT_FIELD_META_MARK, NFT_OP_EQ, mark, mask);
}

static void match_if(struct nft_rule *rule, enum nft_field field, enum nft_op op, unsigned set)
{
    if (set != NFT_NO_SET)
        nft_rule_match_set(rule, field, op, set);
}

static int match_cgroup(struct nft_maker *m, const struct capture_policy *p, struct nft_rule *rule)
{
    unsigned index;
    int r = nft_form_add_cgroup(m->rs, p->cgroup, &index);

    if (r == 0)
        nft_rule_add(rule, NFT_EXPR_CGROUP)->cgroup = index;
    return r;
}

int nft_append_udp_reply_return(struct nft_maker *m, unsigned chain)
{
    struct nft_rule rule = {.n_exprs = 0};

    nft_rule_match(&rule, NFT_FIELD_CT_DIRECTION, NFT_OP_EQ, IP_CT_DIR_REPLY);
    nft_rule_match_none(&rule, NFT_FIELD_CT_LABEL, NFT_FLOW_LABEL);
    return nft_append_return(m, chain, &rule);
}

static void match_destination(struct nft_maker *m, size_t capture, struct nft_way way,
                              struct nft_rule *rule)
{
    const struct capture_policy *p = &m->set->policies[capture];
    const struct nft_capture_sets *s = &m->sets[capture];
    enum nft_field daddr = family_daddr[way.family];
    unsigned n_before = rule->n_exprs;

    switch (way.part) {
    case NFT_PART_DNS:
        if (p->hook == CAPTURE_OUTPUT)
            match_if(rule, daddr, NFT_OP_NEQ, m->shared.loopback[way.family]);
        break;
    case NFT_PART_FAKE:
        match_if(rule, daddr, NFT_OP_EQ, m->shared.fake[way.family]);
        break;
    default:
        match_if(rule, daddr, NFT_OP_EQ, s->to[way.family]);
        match_if(rule, daddr, NFT_OP_NEQ, s->not_to[way.family]);
        match_if(rule, daddr, NFT_OP_NEQ, p->private ? NFT_NO_SET : m->shared.private[way.family]);
        break;
    }
    /* nft takes the family for granted once an address is named, and drops this from its listing.
     */
    if (rule->n_exprs == n_before)
        nft_rule_match(rule, NFT_FIELD_META_NFPROTO, NFT_OP_EQ, family_nfproto[way.family]);
}

int nft_match_selection(struct nft_maker *m, size_t capture, struct nft_way way,
                        enum nft_transport transport, struct nft_rule *rule)
{
    static const enum nft_field port_field[] = {
        [NFT_TCP] = NFT_FIELD_TCP_DPORT, [NFT_UDP] = NFT_FIELD_UDP_DPORT};
    static const uint32_t protocol[] = {[NFT_TCP] = IPPROTO_TCP, [NFT_UDP] = IPPROTO_UDP};
    const struct capture_policy *p = &m->set->policies[capture];
    const struct nft_capture_sets *s = &m->sets[capture];
    unsigned ports = way.part != NFT_PART_REST ? NFT_NO_SET
                     : transport == NFT_TCP    ? s->tcp
                                               : s->udp;
    int r = 0;

    match_if(rule, NFT_FIELD_META_IIFNAME, NFT_OP_EQ, s->interfaces);
    match_destination(m, capture, way, rule);
    if (p->has_mark)
        nft_rule_match(rule, NFT_FIELD_META_MARK, NFT_OP_EQ, p->mark);
    match_if(rule, NFT_FIELD_META_SKUID, NFT_OP_EQ, s->uid);
    match_if(rule, NFT_FIELD_META_SKUID, NFT_OP_NEQ, s->not_uid);
    /* The root's own number is no ancestor of a socket; the whole host needs no match. */
    if (p->hook == CAPTURE_CGROUP && p->cgroup && strspn(p->cgroup, "/") < strlen(p->cgroup))
        r = match_cgroup(m, p, rule);
    if (way.part == NFT_PART_DNS || way.part == NFT_PART_DNS_DIRECT)
        nft_rule_match(rule, port_field[transport], NFT_OP_EQ, 53);
    else if (ports != NFT_NO_SET)
        nft_rule_match_set(rule, port_field[transport], NFT_OP_EQ, ports);
    else
        nft_rule_match(rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, protocol[transport]);
    return r;
}

static int add_refusing_chain(struct nft_maker *m, enum nft_transport transport, unsigned *chain)
{
    bool tcp = transport == NFT_TCP;
    struct nft_rule rule = {.n_exprs = 0};
    int r = nft_form_add_chain(m->rs, tcp ? "refuse_tcp" : "refuse_udp", NFT_CHAIN_REGULAR, 0, 0,
                               chain);

    if (r < 0)
        return r;
    if (tcp)
        nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_TCP);
    /* "Port unreachable" is what tells an application at once to do without UDP. */
    nft_rule_add(&rule, tcp ? NFT_EXPR_TCP_RESET : NFT_EXPR_REJECT)->number =
        m->scope.guard ? NFT_REJECT_ICMPX_ADMIN_PROHIBITED : NFT_REJECT_ICMPX_PORT_UNREACH;
    return nft_chain_append(&m->rs->chains[*chain], &rule);
}

int nft_need_refusing(struct nft_maker *m, enum nft_transport transport)
{
    unsigned *chain = transport == NFT_TCP ? &m->refuse_tcp : &m->refuse_udp;

    return *chain == NFT_NO_CHAIN ? add_refusing_chain(m, transport, chain) : 0;
}

int nft_rule_refuse(struct nft_maker *m, struct nft_rule *rule, enum nft_transport transport)
{
    int r = nft_need_refusing(m, transport);

    nft_rule_verdict(rule, NFT_VERDICT_JUMP, transport == NFT_TCP ? m->refuse_tcp : m->refuse_udp);
    return r;
}

void nft_match_no_entry(struct nft_rule *rule)
{
    nft_rule_match_any(rule, NFT_FIELD_CT_STATE,
                       NF_CT_STATE_INVALID_BIT | NF_CT_STATE_UNTRACKED_BIT);
}

int nft_append_unseen(struct nft_maker *m, unsigned chain)
{
    struct nft_rule stale = {.n_exprs = 0}, none = {.n_exprs = 0};

    nft_rule_match_any(&stale, NFT_FIELD_CT_STATE, NF_CT_STATE_BIT(IP_CT_ESTABLISHED));
    nft_rule_match_masked(&stale, NFT_FIELD_CT_STATUS, NFT_OP_EQ, 0, IPS_DST_NAT);
    int r = nft_rule_refuse(m, &stale, NFT_TCP);

    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &stale);
    nft_match_no_entry(&none);
    if (r == 0)
        r = nft_rule_refuse(m, &none, NFT_TCP);
    return r < 0 ? r : nft_chain_append(&m->rs->chains[chain], &none);
}

static bool ends_established(const struct nft_maker *m, size_t i, enum capture_hook hook)
{
    const struct capture_policy *p = &m->set->policies[i];

    return p->hook == hook && p->reset_established && p->action != CAPTURE_DIRECT &&
           nft_selects_tcp(p, &m->scope);
}

bool nft_ends_established(const struct nft_maker *m, enum capture_hook hook)
{
    for (size_t i = 0; i < m->set->n_policies; i++)
        if (ends_established(m, i, hook))
            return true;
    return false;
}

int nft_append_ended(struct nft_maker *m, unsigned chain, enum capture_hook hook)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r;

    nft_rule_match_masked(&rule, NFT_FIELD_CT_STATUS, NFT_OP_NEQ, NFT_CT_ENDED, NFT_CT_ENDED);
    r = nft_append_return(m, chain, &rule);
    rule.n_exprs = 0;
    nft_rule_match(&rule, NFT_FIELD_CT_DIRECTION, NFT_OP_EQ, IP_CT_DIR_REPLY);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    /* The end that the peer of a reset connection sends on its own. */
    rule.n_exprs = 0;
    nft_rule_match_masked(&rule, NFT_FIELD_TCP_FLAGS, NFT_OP_EQ, NFT_TCP_RST, NFT_TCP_RST);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    if (r == 0)
        r = nft_append_own_mark_return(m, chain);
    if (r == 0)
        r = nft_append_pairs_return(m, chain, m->shared.upstreams);
    for (size_t i = 0; r == 0 && i < m->set->n_policies; i++) {
        const struct capture_policy *p = &m->set->policies[i];

        for (unsigned k = 0; r == 0 && k < NFT_N_WAYS; k++) {
            struct nft_way way;

            if (p->hook != hook || !nft_selects_tcp(p, &m->scope) || !nft_way(p, NFT_TCP, k, &way))
                continue;
            rule.n_exprs = 0;
            r = nft_match_selection(m, i, way, NFT_TCP, &rule);
            if (r == 0 && ends_established(m, i, hook))
                r = nft_rule_refuse(m, &rule, NFT_TCP);
            else
                nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
            if (r == 0)
                r = nft_chain_append(&m->rs->chains[chain], &rule);
        }
    }
    return r;
}
