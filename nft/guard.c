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
 * connections carry NFT_FLOW_LABEL; their other packets are answered with a reset.
 *
 * Replacement. Rules and sets of one transaction do not come into force at one moment (see
 * nft/batch.c), and who made the table that is there may be long gone. So a second table with the
 * same rules stands in while the first is exchanged: between any two transactions, and within the
 * second, one of them is complete.
 */
#include "nft/guard.h"

#include <errno.h>
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
#include "nft/cgroup.h"
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
    const struct nft_scope scope = {.hooks = hooks, .udp = true};

    return transport == NFT_TCP ? nft_selects_tcp(p, &scope) : nft_selects_udp(p, &scope);
}

/* Whether the guard refuses what the capture selects of the family; else it lets it pass. */
static bool refuses(const struct nft_maker *m, const struct capture_policy *p, enum nft_family f)
{
    return p->fail_closed && nft_treatment(m->set, p, f) != NFT_TREAT_RETURN;
}

/* How many captures a chain must hold so that all that refuse are among them. */
static size_t captures(const struct nft_maker *m, enum nft_transport transport, unsigned hooks)
{
    size_t n = 0;

    for (size_t i = 0; i < m->set->n_policies; i++)
        for (enum nft_family f = NFT_V4; f < NFT_N_FAMILIES; f++)
            if (selects(m, i, transport, hooks) && nft_selects_family(&m->set->policies[i], f) &&
                refuses(m, &m->set->policies[i], f))
                n = i + 1;
    return n;
}

static int append_captures(struct nft_maker *m, unsigned chain, enum nft_transport transport,
                           unsigned hooks)
{
    size_t n = captures(m, transport, hooks);
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
            const struct capture_policy *p = &m->set->policies[i];
            struct nft_rule rule = {.n_exprs = 0};

            if (!selects(m, i, transport, hooks) || !nft_selects_family(p, f))
                continue;
            r = nft_match_selection(m, i, f, transport, &rule);
            if (r == 0 && refuses(m, p, f))
                r = nft_rule_refuse(m, &rule, transport);
            else
                nft_rule_verdict(&rule, NFT_VERDICT_RETURN, 0);
            if (r == 0)
                r = nft_chain_append(&m->rs->chains[chain], &rule);
        }
    return r;
}

/* What is known already, and what is no SYN, then the captures. */
static int append_selection(struct nft_maker *m, unsigned chain, unsigned hooks)
{
    struct nft_rule rule = {.n_exprs = 0};
    int r;

    nft_rule_match_any(&rule, NFT_FIELD_CT_STATE, NF_CT_STATE_BIT(IP_CT_ESTABLISHED));
    r = nft_append_return(m, chain, &rule);
    rule.n_exprs = 0;
    nft_match_not_syn(&rule);
    if (r == 0)
        r = nft_append_return(m, chain, &rule);
    if (r == 0)
        r = nft_append_pairs_return(m, chain, m->shared.upstreams);
    if (r == 0)
        r = append_captures(m, chain, NFT_TCP, hooks);
    if (r < 0 || captures(m, NFT_UDP, hooks) == 0)
        return r;
    r = nft_append_addr_type_return(m, chain, RTN_BROADCAST);
    if (r == 0)
        r = nft_append_addr_type_return(m, chain, RTN_MULTICAST);
    return r < 0 ? r : append_captures(m, chain, NFT_UDP, hooks);
}

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
        r = nft_append_addr_type_return(m, chain, RTN_LOCAL);
    return r < 0 ? r : append_selection(m, chain, hooks);
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
    return r < 0 ? r : append_selection(m, chain, hooks);
}

static int make(struct nft_maker *m)
{
    const unsigned local = 1u << CAPTURE_OUTPUT | 1u << CAPTURE_CGROUP;
    const unsigned forwarded = 1u << CAPTURE_GATEWAY;
    bool output = captures(m, NFT_TCP, local) + captures(m, NFT_UDP, local) > 0;
    bool forward = captures(m, NFT_TCP, forwarded) + captures(m, NFT_UDP, forwarded) > 0;
    int r;

    m->scope.hooks = (output ? local : 0) | (forward ? forwarded : 0);
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
    return r;
}

int nft_guard_build(const struct capture_set *set, struct nft_ruleset **ret)
{
    struct nft_scope scope = {.udp = true, .guard = true};
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

/* Rules that name a cgroup need its number, so it must be there. */
static int check_cgroups(const struct nft_ruleset *rs, char *why, size_t size)
{
    uint64_t id;

    for (size_t i = 0; i < rs->n_cgroups; i++) {
        int r = nft_cgroup_id(rs->cgroups[i], &id);

        if (r < 0)
            return nft_say(r, why, size, "nftables: cgroup %s cannot be guarded: %s",
                           rs->cgroups[i], strerror(-r));
    }
    return 0;
}

int nft_guard_install(const struct nft_ruleset *rs, char *why, size_t size)
{
    struct session s;

    if (nft_ruleset_empty(rs))
        return nft_guard_remove(why, size);
    int r = check_cgroups(rs, why, size);

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
