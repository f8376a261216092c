/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the captures would take, refused.
 *
 * Theory of operation. While the daemon runs, the guard's chains see what it takes only as
 * something else: a redirected packet goes to an address of this host, a gateway's packet is not
 * forwarded, a cgroup's socket connects to a listener. So the guard needs no sign of life. What
 * comes past in its true form, and is selected, is refused.
 *
 *   output       filter, priority 10: this host's own packets, behind the nat of everybody
 *   forward      filter, priority 10: a gateway's
 *   translate    nat, without rules: as long as there is a nat chain, the kernel goes on
 * translating the connections that were redirected; their packets meet a dead listener and a reset,
 * where without it they would go out to their original destination. A nat chain alone does not
 * keep connection tracking at work: the rule about the state of a connection does.
 *
 * A SYN that was held is dropped before it comes here. When it is sent again (nft/hold.c), it bears
 * our mark; it must be on its way to this host by then, by lo, or it is refused like any other.
 *
 * As in the first table, only SYNs are selected, so that connections which began before the
 * daemon go on, and so do the resets that the kernel itself sends in answer. A gateway's
 * connections carry NFT_FLOW_LABEL; their other packets are answered with a reset. UDP that is
 * taken bears our mark here; of the rest, answers pass, and what is selected does not.
 *
 *   input        filter, priority 10: a gateway's clients that ask this host itself for DNS, where
 *                a capture takes that; likewise output_dns, for a stub resolver on loopback
 *
 * A client's packet whose source is routed to another interface is dropped: the ICMP error that
 * refuses others would take what it says to whatever address the client has written there.
 *
 * Replacement. Rules and sets of one transaction do not come into force at one moment (see
 * nft/batch.c), and who made the table that is there may be long gone. So a second table with the
 * same rules stands in while the first is exchanged: between any two transactions, and within the
 * second, one of them is complete.
 */
#include "nft/guard.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "nft/build.h"
#include "nft/explain.h"
#include "nft/form.h"
#include "nft/hold.h"
#include "nft/ruleset.h"
#include "nft/selection.h"
#include "nft/text.h"
#include "nft/transaction.h"

#define STAND_IN NFT_GUARD_TABLE "-next"

#define PRIORITY_GUARD     10
#define PRIORITY_TRANSLATE (-110)

/* ---- policy to form ---- */

static bool selects(const struct nft_maker *m, size_t i, enum nft_transport transport,
                    unsigned hooks)
{
    const struct capture_policy *p = &m->set->policies[i];
    const struct nft_scope scope = {.hooks = hooks, .udp_hooks = hooks};

    return transport == NFT_TCP ? nft_selects_tcp(p, &scope) : nft_selects_udp(p, &scope);
}

/* Whether the guard refuses what the capture selects that way; else it lets it pass. */
static bool refuses(const struct nft_maker *m, size_t i, struct nft_way way,
                    enum nft_transport transport)
{
    const struct capture_policy *p = &m->set->policies[i];
    enum nft_treatment t = transport == NFT_TCP ? nft_treatment(m->set, p, way.family)
                                                : nft_udp_treatment(m->set, i, way);

    return p->fail_closed && t != NFT_TREAT_RETURN;
}

/* How many captures a chain must hold so that all that refuse are among them. */
static size_t captures(const struct nft_maker *m, enum nft_transport transport, unsigned hooks)
{
    struct nft_way way;
    size_t n = 0;

    for (size_t i = 0; i < m->set->n_policies; i++)
        for (unsigned k = 0; k < NFT_N_WAYS; k++)
            if (selects(m, i, transport, hooks) &&
                nft_way(&m->set->policies[i], transport, k, &way) && refuses(m, i, way, transport))
                n = i + 1;
    return n;
}

/* What is selected, and has a source that is routed to another interface: see the top. */
static int append_forged(struct nft_maker *m, unsigned chain, const struct nft_rule *selected)
{
    struct nft_rule rule = *selected;

    nft_rule_match(&rule, NFT_FIELD_FIB_SADDR_IIF, NFT_OP_EQ, 0);
    nft_rule_verdict(&rule, NFT_VERDICT_DROP, 0);
    return nft_chain_append(&m->rs->chains[chain], &rule);
}

/* `local`: as far as they concern addresses of this host. */
static int append_captures(struct nft_maker *m, unsigned chain, enum nft_transport transport,
                           unsigned hooks, bool local)
{
    size_t n = captures(m, transport, hooks);
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        for (unsigned k = 0; r == 0 && k < NFT_N_WAYS; k++) {
            const struct capture_policy *p = &m->set->policies[i];
            struct nft_rule rule = {.n_exprs = 0};
            struct nft_way way;

            if (!selects(m, i, transport, hooks) || !nft_way(p, transport, k, &way) ||
                (local && !nft_way_is_local(p, way)))
                continue;
            bool refuse = refuses(m, i, way, transport);

            r = nft_match_selection(m, i, way, transport, &rule);
            if (r == 0 && refuse && p->hook == CAPTURE_GATEWAY)
                r = append_forged(m, chain, &rule);
            if (r == 0 && refuse)
                r = nft_rule_refuse(m, &rule, transport);
            else
                nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
            if (r == 0)
                r = nft_chain_append(&m->rs->chains[chain], &rule);
        }
    return r;
}

/* UDP has a chain of its own: there an established flow may be one that we had taken. */
static int append_udp(struct nft_maker *m, unsigned chain, const char *name, unsigned hooks)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned udp;

    if (captures(m, NFT_UDP, hooks) == 0)
        return 0;
    int r = nft_form_add_chain(m->rs, name, NFT_CHAIN_REGULAR, 0, 0, &udp);

    nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_EQ, IPPROTO_UDP);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, udp);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    if (r == 0)
        r = nft_append_udp_reply_return(m, udp);
    if (r == 0)
        r = nft_append_addr_type_return(m, udp, RTN_BROADCAST);
    if (r == 0)
        r = nft_append_addr_type_return(m, udp, RTN_MULTICAST);
    return r < 0 ? r : append_captures(m, udp, NFT_UDP, hooks, false);
}

/* What is no SYN, then the captures. A SYN that connection tracking takes for one of an established
 * connection is a new one all the same, in the place of one whose end was never seen. */
static int append_selection(struct nft_maker *m, unsigned chain, const char *udp, unsigned hooks)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r = append_udp(m, chain, udp, hooks);

    nft_rule_match(&rule, NFT_FIELD_META_L4PROTO, NFT_OP_NEQ, IPPROTO_TCP);
    nft_rule_match_any(&rule, NFT_FIELD_CT_STATE, NF_CT_STATE_BIT(IP_CT_ESTABLISHED));
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    rule.n_exprs = 0;
    nft_match_not_syn(&rule);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    if (r == 0)
        r = nft_append_pairs_return(m, chain, m->shared.upstreams);
    return r < 0 ? r : append_captures(m, chain, NFT_TCP, hooks, false);
}

/* ---- DNS to this host itself ---- */

/* Whether some capture of the hooks would have taken it. */
static bool takes_local_dns(const struct nft_maker *m, unsigned hooks)
{
    static const struct nft_way dns = {NFT_PART_DNS, NFT_V4};

    for (size_t i = 0; i < m->set->n_policies; i++) {
        const struct capture_policy *p = &m->set->policies[i];

        if (p->fail_closed && selects(m, i, NFT_UDP, hooks) && nft_way_is_local(p, dns) &&
            nft_has_part(p, NFT_UDP, NFT_V4, NFT_PART_DNS))
            return true;
    }
    return false;
}

/* The chain for it; it begins with what else there is. */
static int add_local_dns(struct nft_maker *m, const char *name, unsigned hooks, unsigned *ret)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, name, NFT_CHAIN_REGULAR, 0, 0, &chain);

    nft_match_not_syn(&rule);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    rule.n_exprs = 0;
    nft_rule_match(&rule, NFT_FIELD_TCP_DPORT, NFT_OP_NEQ, 53);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    rule.n_exprs = 0;
    nft_rule_match(&rule, NFT_FIELD_UDP_DPORT, NFT_OP_NEQ, 53);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    if (r == 0)
        r = nft_append_udp_reply_return(m, chain);
    if (r == 0)
        r = append_captures(m, chain, NFT_TCP, hooks, true);
    if (r == 0)
        r = append_captures(m, chain, NFT_UDP, hooks, true);
    *ret = chain;
    return r;
}

/* What goes to this host is left alone, but for DNS that is taken. */
static int append_local(struct nft_maker *m, unsigned chain, const char *name, unsigned hooks)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned local;

    if (!takes_local_dns(m, hooks))
        return nft_append_addr_type_return(m, chain, RTN_LOCAL);
    int r = add_local_dns(m, name, hooks, &local);

    nft_rule_match(&rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_EQ, RTN_LOCAL);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, local);
    return r < 0 ? r : nft_chain_append(&m->rs->chains[chain], &rule);
}

/* A gateway's clients, who ask this host itself. */
static int add_input(struct nft_maker *m, unsigned hooks)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain, local;
    int r = nft_form_add_chain(m->rs, "input", NFT_CHAIN_FILTER, NF_INET_LOCAL_IN, PRIORITY_GUARD,
                               &chain);

    if (r == 0)
        r = nft_append_own_mark_return(m, chain);
    nft_rule_match_name(&rule, NFT_FIELD_META_IIFNAME, NFT_OP_EQ, "lo");
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    if (r == 0)
        r = add_local_dns(m, "input_dns", hooks, &local);
    if (r < 0)
        return r;
    rule.n_exprs = 0;
    nft_rule_match(&rule, NFT_FIELD_FIB_DADDR_TYPE, NFT_OP_EQ, RTN_LOCAL);
    nft_rule_verdict(&rule, NFT_VERDICT_GOTO, local);
    return nft_chain_append(&m->rs->chains[chain], &rule);
}

/* ---- the chains ---- */

static int add_output(struct nft_maker *m, unsigned hooks)
{
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "translate", NFT_CHAIN_NAT, NF_INET_LOCAL_OUT,
                               PRIORITY_TRANSLATE, &chain);

    if (r == 0)
        r = nft_form_add_chain(m->rs, "output", NFT_CHAIN_FILTER, NF_INET_LOCAL_OUT, PRIORITY_GUARD,
                               &chain);
    if (r == 0 && nft_has_seats(m->set))
        r = nft_append_injected_guard(m, chain);
    if (r == 0)
        r = nft_append_own_mark_return(m, chain);
    if (r == 0)
        r = append_local(m, chain, "output_dns", hooks);
    return r < 0 ? r : append_selection(m, chain, "output_udp", hooks);
}

static int add_forward(struct nft_maker *m, unsigned hooks)
{
    struct nft_rule rule = {.n_exprs = 0};
    unsigned chain;
    int r = nft_form_add_chain(m->rs, "forward", NFT_CHAIN_FILTER, NF_INET_FORWARD, PRIORITY_GUARD,
                               &chain);

    /* Somebody's port forwarding: to this host's address when we would have looked at it. */
    nft_rule_match_any(&rule, NFT_FIELD_CT_STATUS, IPS_DST_NAT);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    rule.n_exprs = 0;
    nft_match_not_syn(&rule);
    nft_rule_match_any(&rule, NFT_FIELD_CT_LABEL, NFT_FLOW_LABEL);
    if (r == 0)
        r = nft_rule_refuse(m, &rule, NFT_TCP);
    if (r == 0)
        r = nft_chain_append(&m->rs->chains[chain], &rule);
    return r < 0 ? r : append_selection(m, chain, "forward_udp", hooks);
}

static int make(struct nft_maker *m)
{
    const unsigned local = 1u << CAPTURE_OUTPUT | 1u << CAPTURE_CGROUP;
    const unsigned forwarded = 1u << CAPTURE_GATEWAY;
    bool output = captures(m, NFT_TCP, local) + captures(m, NFT_UDP, local) > 0;
    bool forward = captures(m, NFT_TCP, forwarded) + captures(m, NFT_UDP, forwarded) > 0;
    int r;

    m->scope.hooks = (output ? local : 0) | (forward ? forwarded : 0);
    m->scope.udp_hooks = m->scope.hooks;
    if (m->scope.hooks == 0)
        return 0;
    r = nft_add_shared_sets(m->rs, m->set, &m->scope, &m->shared);
    for (size_t i = 0; r == 0 && i < m->set->n_policies; i++)
        if (nft_selects(&m->set->policies[i], &m->scope))
            r = nft_add_capture_sets(m->rs, &m->set->policies[i], &m->scope, &m->sets[i]);
    if (r == 0 && output)
        r = add_output(m, local);
    if (r == 0 && forward)
        r = add_forward(m, forwarded);
    if (r == 0 && forward && takes_local_dns(m, forwarded))
        r = add_input(m, forwarded);
    return r;
}

int nft_guard_build(const struct capture_set *set, struct nft_ruleset **ret)
{
    struct nft_scope scope = {.guard = true};
    struct nft_maker m;
    int r = nft_maker_begin(&m, set, scope);

    if (r == 0)
        r = make(&m);
    return nft_maker_end(&m, r, ret);
}

char *nft_guard_text(const struct nft_ruleset *rs)
{
    return nft_ruleset_text_as(rs, NFT_GUARD_TABLE, false);
}

/* ---- installation ---- */

/* The table goes, whether it is there or not; to delete what is not there would fail. */
static int delete_table(struct nft_transaction *t, const char *table)
{
    int r = nft_build_table(t, NFT_MSG_NEWTABLE, NLM_F_CREATE, table, false);

    return r < 0 ? r : nft_build_table(t, NFT_MSG_DELTABLE, 0, table, false);
}

static int make_table(struct nft_transaction *t, const char *table, const struct nft_ruleset *rs)
{
    const struct nft_place place = {table, ""};
    int r = delete_table(t, table);

    if (r == 0)
        r = nft_build_table(t, NFT_MSG_NEWTABLE, NLM_F_CREATE, table, false);
    if (r == 0)
        r = nft_build_sets(t, place, rs);
    if (r == 0)
        r = nft_build_chains(t, place, NULL, rs);
    return r < 0 ? r : nft_build_rules(t, place, rs);
}

struct session {
    struct mnl_socket *socket;
    uint32_t seq;
    char *why;
    size_t size;
};

static int open_session(struct session *s, char *why, size_t size)
{
    int capped = 1;

    *s = (struct session){.seq = (uint32_t)time(NULL), .why = why, .size = size};
    s->socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    if (!s->socket)
        return nft_explain_batch(-errno, why, size);
    if (mnl_socket_bind(s->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
        int r = nft_explain_batch(-errno, why, size);

        mnl_socket_close(s->socket);
        return r;
    }
    (void)mnl_socket_setsockopt(s->socket, NETLINK_CAP_ACK, &capped, sizeof(capped));
    return 0;
}

/* Makes `table` from `rs`, or removes it (NULL). */
static int transact(struct session *s, const char *table, const struct nft_ruleset *rs)
{
    struct nft_label label = {.object = NFT_OBJECT_BATCH};
    struct nft_transaction t = {.buf = NULL};
    int r = nft_transaction_begin(&t, s->seq);

    if (r == 0)
        r = rs ? make_table(&t, table, rs) : delete_table(&t, table);
    if (r == 0)
        r = nft_transaction_commit(&t, s->socket, &label);
    s->seq += (uint32_t)t.n_labels;
    nft_transaction_free(&t);
    return r < 0 ? nft_explain(table, rs, &label, r, s->why, s->size) : 0;
}

int nft_guard_install(const struct nft_ruleset *rs, char *why, size_t size)
{
    struct session s;

    if (nft_ruleset_empty(rs))
        return nft_guard_remove(why, size);
    int r = nft_check_cgroups(rs, why, size);

    if (r == 0)
        r = open_session(&s, why, size);
    if (r < 0)
        return r;
    r = transact(&s, STAND_IN, rs);
    if (r == 0) {
        r = transact(&s, NFT_GUARD_TABLE, rs);
        if (r < 0)
            s.size = 0; /* `why` says it already */
        int removed = transact(&s, STAND_IN, NULL);

        r = r < 0 ? r : removed;
    }
    mnl_socket_close(s.socket);
    return r;
}

bool nft_guard_stands(void)
{
    return nft_table_is_there(NFT_GUARD_TABLE);
}

int nft_guard_remove(char *why, size_t size)
{
    struct session s;
    int r = open_session(&s, why, size);

    if (r < 0)
        return r;
    r = transact(&s, NFT_GUARD_TABLE, NULL);
    if (r == 0)
        r = transact(&s, STAND_IN, NULL);
    mnl_socket_close(s.socket);
    return r;
}
