/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One rule of somebody's becomes a few traits: what it does, on which condition that matters to us.
 * iptables-nft's matches and targets are opaque expressions, of which we know some. Of conditions
 * in sets, those on the protocol are looked at; verdict maps are not followed, but those of states.
 */
#include "doctor/firewall_rule.h"

#include <netinet/in.h>
#include <string.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/xt_addrtype.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/rtnetlink.h>

#include <libnftnl/expr.h>

#include "capture.h"
#include "doctor/facts.h"
#include "doctor/firewall_set.h"

#define STATE_INVALID     1u /* NF_CT_STATE_INVALID_BIT */
#define STATE_ESTABLISHED 2u /* NF_CT_STATE_BIT(IP_CT_ESTABLISHED) */

/* What was met so far in a rule, left to right. */
struct walk {
    bool ct_state, meta_iif, meta_mark, meta_l4proto, fib_type; /* the last value loaded is that */
    uint32_t mask;                                              /* of the mark */
    bool invalid, established, socket, iif, lo, other;
    bool mark, marks_left_out, local;
    bool not_tcp, not_udp;
    struct nftnl_rule *rule;
    struct rule_does *does;
};

static void add_trait(struct walk *w, unsigned trait)
{
    w->does->tcp |= w->not_tcp ? 0 : trait;
    w->does->udp |= w->not_udp ? 0 : trait;
}

static void on_jump(struct walk *w, const char *to)
{
    w->does->jump = to;
    w->does->jump_tcp = !w->not_tcp;
    w->does->jump_udp = !w->not_udp;
}

static void on_drop(struct walk *w)
{
    add_trait(w, FW_DROP | (w->invalid ? FW_DROP_INVALID : 0));
}

static void on_accept(struct walk *w)
{
    if (w->socket)
        add_trait(w, FW_ACCEPT_SOCKET | (w->mark && !w->marks_left_out ? FW_ACCEPT_MARKS : 0));
    else if (w->established && !w->iif && !w->other)
        add_trait(w, FW_ACCEPT_ESTABLISHED);
    else if (w->other || w->ct_state)
        return;
    else if (w->local)
        add_trait(w, FW_ACCEPT_LOCAL);
    else if (w->lo)
        add_trait(w, FW_ACCEPT_LO);
    else
        add_trait(w, w->iif ? FW_ACCEPT_INTERFACE : FW_ACCEPT_ALL);
}

static void on_verdict(struct walk *w, const struct nftnl_expr *e)
{
    if (!nftnl_expr_is_set(e, NFTNL_EXPR_IMM_VERDICT))
        return;
    switch ((int32_t)nftnl_expr_get_u32(e, NFTNL_EXPR_IMM_VERDICT)) {
    case NF_DROP:
        on_drop(w);
        break;
    case NF_ACCEPT:
        on_accept(w);
        break;
    case NFT_JUMP:
    case NFT_GOTO:
        on_jump(w, nftnl_expr_get_str(e, NFTNL_EXPR_IMM_CHAIN));
        break;
    }
}

static uint32_t first_word(const struct nftnl_expr *e, uint16_t attribute)
{
    uint32_t len = 0, word = 0;
    const void *data = nftnl_expr_get(e, attribute, &len);

    if (data)
        memcpy(&word, data, len < sizeof(word) ? len : sizeof(word));
    return word;
}

static void on_meta(struct walk *w, const struct nftnl_expr *e)
{
    uint32_t key = nftnl_expr_is_set(e, NFTNL_EXPR_META_DREG)
                       ? nftnl_expr_get_u32(e, NFTNL_EXPR_META_KEY)
                       : UINT32_MAX;

    w->meta_iif = key == NFT_META_IIF || key == NFT_META_IIFNAME || key == NFT_META_OIF ||
                  key == NFT_META_OIFNAME;
    w->iif = w->iif || w->meta_iif;
    w->meta_mark = key == NFT_META_MARK;
    w->meta_l4proto = key == NFT_META_L4PROTO;
    w->mask = UINT32_MAX;
    w->mark = w->mark || w->meta_mark;
    w->socket = w->socket || w->meta_mark;
    w->other = w->other || (!w->meta_iif && !w->meta_mark && key != NFT_META_L4PROTO &&
                            key != NFT_META_NFPROTO);
}

/* Other ways to ask for a mark, by range or set, are taken for right. */
static void on_mark(struct walk *w, uint32_t mark, uint32_t mask, bool equal)
{
    bool some = ((CAPTURE_OWN_MARK ^ mark) & CAPTURE_OWN_MASK & mask) == 0;
    bool all = (mask & ~CAPTURE_OWN_MASK) == 0 && (CAPTURE_OWN_MARK & mask) == mark;

    w->marks_left_out = w->marks_left_out || (equal ? !all : some);
}

static void on_protocols(struct walk *w, bool tcp, bool udp, bool equal)
{
    w->not_tcp = w->not_tcp || tcp != equal;
    w->not_udp = w->not_udp || udp != equal;
}

static void on_compare(struct walk *w, const struct nftnl_expr *e)
{
    uint32_t len = 0, op = nftnl_expr_get_u32(e, NFTNL_EXPR_CMP_OP);
    const char *data = nftnl_expr_get(e, NFTNL_EXPR_CMP_DATA, &len);
    uint32_t word = first_word(e, NFTNL_EXPR_CMP_DATA);

    if (w->meta_iif && op == NFT_CMP_EQ && data)
        w->lo = (len >= 3 && memcmp(data, "lo", 3) == 0) || (len == 4 && word == 1);
    if (w->meta_l4proto && (!data || (op != NFT_CMP_EQ && op != NFT_CMP_NEQ)))
        w->other = true;
    else if (w->meta_l4proto)
        on_protocols(w, *data == IPPROTO_TCP, *data == IPPROTO_UDP, op == NFT_CMP_EQ);
    if (w->meta_mark)
        on_mark(w, word, w->mask, op == NFT_CMP_EQ);
    if (w->fib_type) {
        w->local = op == NFT_CMP_EQ && word == RTN_LOCAL;
        w->other = w->other || !w->local;
    }
    if (w->ct_state && op == NFT_CMP_EQ && word == STATE_INVALID)
        w->invalid = true;
    if (w->ct_state && op == NFT_CMP_EQ && word == STATE_ESTABLISHED)
        w->established = true;
}

static void on_protocol_set(struct walk *w, const struct nftnl_expr *e)
{
    uint32_t flags = nftnl_expr_is_set(e, NFTNL_EXPR_LOOKUP_FLAGS)
                         ? nftnl_expr_get_u32(e, NFTNL_EXPR_LOOKUP_FLAGS)
                         : 0;
    bool tcp, udp;
    int r = firewall_set(nftnl_rule_get_u32(w->rule, NFTNL_RULE_FAMILY),
                         nftnl_rule_get_str(w->rule, NFTNL_RULE_TABLE),
                         nftnl_expr_get_str(e, NFTNL_EXPR_LOOKUP_SET), &tcp, &udp);

    if (r < 0)
        w->other = true;
    else
        on_protocols(w, tcp, udp, !(flags & NFT_LOOKUP_F_INV));
}

/* A set of states, or a map from them to verdicts, has the usual one. */
static void on_lookup(struct walk *w, const struct nftnl_expr *e)
{
    if (w->meta_l4proto)
        on_protocol_set(w, e);
    if (!w->ct_state)
        return;
    w->established = true;
    if (nftnl_expr_is_set(e, NFTNL_EXPR_LOOKUP_DREG))
        on_accept(w);
}

static bool is_to_local(const void *data, uint32_t len, uint32_t revision)
{
    struct xt_addrtype_info_v1 info;

    if (!data || len < sizeof(info) || revision != 1)
        return false;
    memcpy(&info, data, sizeof(info));
    return info.dest == XT_ADDRTYPE_LOCAL && info.source == 0 && info.flags == 0;
}

static void on_xt_match(struct walk *w, const struct nftnl_expr *e)
{
    const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_MT_NAME);
    uint32_t len = 0;
    const void *data = nftnl_expr_get(e, NFTNL_EXPR_MT_INFO, &len);
    struct xt_conntrack_mtinfo3 info;

    if (name && (strcmp(name, "socket") == 0 || strcmp(name, "mark") == 0)) {
        struct xt_mark_mtinfo1 mark;

        w->socket = true;
        w->mark = w->mark || name[0] == 'm';
        if (name[0] == 'm' && data && len >= sizeof(mark)) {
            memcpy(&mark, data, sizeof(mark));
            on_mark(w, mark.mark, mark.mask, !mark.invert);
        }
        return;
    }
    if (name && strcmp(name, "addrtype") == 0) {
        w->local = is_to_local(data, len, nftnl_expr_get_u32(e, NFTNL_EXPR_MT_REV));
        w->other = w->other || !w->local;
        return;
    }
    if (!name || strcmp(name, "conntrack") != 0 || !data || len < sizeof(info) ||
        nftnl_expr_get_u32(e, NFTNL_EXPR_MT_REV) != 3) {
        w->other = true;
        return;
    }
    memcpy(&info, data, sizeof(info));
    bool state = info.match_flags == XT_CONNTRACK_STATE && info.invert_flags == 0;

    w->ct_state = w->ct_state || state;
    w->other = w->other || !state;
    w->established = w->established || (state && (info.state_mask & STATE_ESTABLISHED));
    w->invalid = w->invalid || ((info.match_flags & XT_CONNTRACK_STATE) &&
                                (info.state_mask & XT_CONNTRACK_STATE_INVALID));
}

static void on_xt_target(struct walk *w, const struct nftnl_expr *e)
{
    const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_TG_NAME);

    if (!name)
        return;
    if (strcmp(name, "REDIRECT") == 0 || strcmp(name, "DNAT") == 0)
        add_trait(w, FW_NAT);
    else if (strcmp(name, "TPROXY") == 0)
        add_trait(w, FW_TPROXY);
    else if (strcmp(name, "REJECT") == 0)
        on_drop(w);
}

static int on_expr(struct nftnl_expr *e, void *ctx)
{
    struct walk *w = ctx;
    const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME);

    if (strcmp(name, "bitwise") != 0 && strcmp(name, "cmp") != 0 && strcmp(name, "lookup") != 0)
        w->meta_mark = w->meta_l4proto = w->fib_type = false;
    if (strcmp(name, "immediate") == 0) {
        on_verdict(w, e);
    } else if (strcmp(name, "meta") == 0) {
        on_meta(w, e);
    } else if (strcmp(name, "cmp") == 0) {
        on_compare(w, e);
    } else if (strcmp(name, "ct") == 0) {
        w->ct_state = nftnl_expr_get_u32(e, NFTNL_EXPR_CT_KEY) == NFT_CT_STATE;
        w->other = w->other || !w->ct_state;
    } else if (strcmp(name, "fib") == 0) {
        w->fib_type = nftnl_expr_get_u32(e, NFTNL_EXPR_FIB_RESULT) == NFT_FIB_RESULT_ADDRTYPE &&
                      nftnl_expr_get_u32(e, NFTNL_EXPR_FIB_FLAGS) == NFTA_FIB_F_DADDR;
        w->other = w->other || !w->fib_type;
    } else if (strcmp(name, "bitwise") == 0) {
        w->mask = first_word(e, NFTNL_EXPR_BITWISE_MASK);
        if (w->ct_state && (first_word(e, NFTNL_EXPR_BITWISE_MASK) & STATE_INVALID))
            w->invalid = true;
        if (w->ct_state && (first_word(e, NFTNL_EXPR_BITWISE_MASK) & STATE_ESTABLISHED))
            w->established = true;
    } else if (strcmp(name, "socket") == 0) {
        w->socket = true;
    } else if (strcmp(name, "redir") == 0) {
        add_trait(w, FW_NAT);
    } else if (strcmp(name, "nat") == 0) {
        if (nftnl_expr_get_u32(e, NFTNL_EXPR_NAT_TYPE) == NFT_NAT_DNAT)
            add_trait(w, FW_NAT);
    } else if (strcmp(name, "tproxy") == 0) {
        add_trait(w, FW_TPROXY);
    } else if (strcmp(name, "reject") == 0) {
        on_drop(w);
    } else if (strcmp(name, "lookup") == 0) {
        on_lookup(w, e);
    } else if (strcmp(name, "match") == 0) {
        on_xt_match(w, e);
    } else if (strcmp(name, "target") == 0) {
        on_xt_target(w, e);
    } else if (strcmp(name, "counter") != 0 && strcmp(name, "log") != 0) {
        w->other = true;
    }
    return 0;
}

void firewall_rule(struct nftnl_rule *rule, struct rule_does *ret)
{
    struct walk w = {.rule = rule, .does = ret};

    *ret = (struct rule_does){.jump = NULL};
    nftnl_expr_foreach(rule, on_expr, &w);
}
