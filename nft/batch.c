/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The owning socket, and the kernel's errors in words.
 *
 * Theory of operation. The first transaction makes the table and insists that there is none. A
 * later one could delete the table and make it again, but one transaction is not as atomic for
 * packets as for the rules:
 *
 *   - An interval set that is made in the transaction may get its elements only after the kernel
 *     has switched to the rules that look them up. Seen on 6.18: with the rules replaced all the
 *     time, one connection in twenty was not found in the `to` of its capture and got away.
 *   - A new base chain is attached to its hook before the switch, so for a moment the old and the
 *     new chain are both there, and a packet may pass each when it has no rules. Never seen, but
 *     nothing excludes it.
 *
 * So base chains stay, as the rules of one chain are switched at once, and no rule comes into force
 * in the transaction that fills its sets:
 *
 *   1. make the new sets under other names;
 *   2. switch to the new rules with these sets; exchange the sets of the proper names;
 *   3. switch to the sets of the proper names, and remove the others.
 *
 * The policy changes once, in the second step. If that fails, the first is undone.
 */
#include "nft/batch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "nft/build.h"
#include "nft/form.h"
#include "nft/ruleset.h"
#include "nft/text.h"
#include "nft/transaction.h"

struct nft_owner {
    struct mnl_socket *socket;
    char table[NFT_ID_SIZE];
    uint32_t seq;                  /* of the next transaction's first message */
    struct nft_ruleset *installed; /* its outline; NULL: there is no table */
    char suffix[NFT_SUFFIX_SIZE]; /* of a second instance of its sets, when the third step failed */
    unsigned round;               /* of replacement, for the names of the first step */
};

static int __attribute__((format(printf, 4, 5)))
say(int error, char *why, size_t size, const char *format, ...)
{
    va_list args;

    if (size > 0) {
        va_start(args, format);
        vsnprintf(why, size, format, args);
        va_end(args);
    }
    return error;
}

/* ---- the table as the kernel has it ---- */

struct found {
    bool there, owned;
    uint32_t port; /* of the owner's socket */
};

static int read_table(const struct nlmsghdr *h, void *data)
{
    struct found *found = data;
    struct nftnl_table *n = nftnl_table_alloc();

    if (n && nftnl_table_nlmsg_parse(h, n) == 0) {
        found->there = true;
        found->owned = nftnl_table_is_set(n, NFTNL_TABLE_OWNER);
        if (found->owned)
            found->port = nftnl_table_get_u32(n, NFTNL_TABLE_OWNER);
    }
    nftnl_table_free(n);
    return MNL_CB_OK;
}

/* Who has the table, asked on a socket of its own; "not there" when it cannot be told. */
static struct found find_table(const char *table)
{
    struct found found = {.there = false};
    _Alignas(struct nlmsghdr) char buf[16384];
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    struct nftnl_table *n = nftnl_table_alloc();

    if (!socket || !n || mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0 ||
        nftnl_table_set_str(n, NFTNL_TABLE_NAME, table) < 0)
        goto out;
    struct nlmsghdr *h = nftnl_nlmsg_build_hdr(buf, NFT_MSG_GETTABLE, NFPROTO_INET, NLM_F_ACK, 1);

    nftnl_table_nlmsg_build_payload(h, n);
    if (mnl_socket_sendto(socket, h, h->nlmsg_len) < 0)
        goto out;
    for (;;) {
        ssize_t len = mnl_socket_recvfrom(socket, buf, sizeof(buf));

        if (len <= 0 || mnl_cb_run(buf, (size_t)len, 1, mnl_socket_get_portid(socket), read_table,
                                   &found) <= MNL_CB_STOP)
            break;
    }
out:
    nftnl_table_free(n);
    if (socket)
        mnl_socket_close(socket);
    return found;
}

/* ---- errors ---- */

static int explain_batch(int error, char *why, size_t size)
{
    switch (error) {
    case -EPERM:
        return say(error, why, size,
                   "nftables: CAP_NET_ADMIN is missing in this network namespace");
    case -EOPNOTSUPP:
    case -EPROTONOSUPPORT:
    case -EAFNOSUPPORT:
        return say(-EOPNOTSUPP, why, size,
                   "nftables: this kernel has no nf_tables (CONFIG_NF_TABLES)");
    case -EPROTO:
        return say(error, why, size, "nftables: the kernel did not answer for every object");
    default:
        return say(error, why, size, "nftables: %s", strerror(-error));
    }
}

static int explain_table(const char *table, int error, char *why, size_t size)
{
    struct found found = find_table(table);

    if (found.there && found.owned)
        return say(-EBUSY, why, size,
                   "nftables: table inet %s is owned by another process (netlink port %u, most "
                   "likely its pid): is another undersock running in this network namespace?",
                   table, found.port);
    if (found.there)
        return say(
            -EEXIST, why, size,
            "nftables: table inet %s is there and nobody owns it; if it is left over, remove "
            "it: nft delete table inet %s",
            table, table);
    switch (error) {
    case -EAFNOSUPPORT:
        return say(-EOPNOTSUPP, why, size,
                   "nftables: this kernel has no tables of family inet (CONFIG_NF_TABLES_INET)");
    case -EINVAL:
    case -EOPNOTSUPP:
        return say(-EOPNOTSUPP, why, size,
                   "nftables: this kernel's tables cannot have an owner (Linux 5.12 can)");
    default:
        return say(error, why, size, "nftables: table inet %s: %s", table, strerror(-error));
    }
}

static int explain_rule(const struct nft_ruleset *rs, const struct nft_label *label, int error,
                        char *why, size_t size)
{
    char *text = nft_rule_text(rs, label->index, label->rule);
    /* An expression that no module provides is "not found". */
    bool missing = error == -ENOENT || error == -EOPNOTSUPP;

    say(error, why, size, "nftables: chain %s, rule \"%s\": %s", rs->chains[label->index].name,
        text ? text : "?", missing ? "this kernel lacks an expression of it" : strerror(-error));
    free(text);
    return missing ? -EOPNOTSUPP : error;
}

/* One line for the object of `rs` (NULL when none is involved) that the kernel refused, and our
 * errno for it. */
static int explain(const char *table, const struct nft_ruleset *rs, const struct nft_label *label,
                   int error, char *why, size_t size)
{
    bool missing = error == -ENOENT || error == -EOPNOTSUPP;

    switch (label->object) {
    case NFT_OBJECT_BATCH:
        return explain_batch(error, why, size);
    case NFT_OBJECT_TABLE:
        return explain_table(table, error, why, size);
    case NFT_OBJECT_SET:
        return say(missing ? -EOPNOTSUPP : error, why, size, "nftables: set %s: %s",
                   rs->sets[label->index].name,
                   missing ? "this kernel has no sets of this kind" : strerror(-error));
    case NFT_OBJECT_ELEMENTS:
        return say(error, why, size, "nftables: the elements of set %s: %s",
                   rs->sets[label->index].name, strerror(-error));
    case NFT_OBJECT_CHAIN:
        return say(missing ? -EOPNOTSUPP : error, why, size, "nftables: chain %s: %s",
                   rs->chains[label->index].name,
                   missing ? "this kernel has no chains of this type (CONFIG_NFT_NAT)"
                           : strerror(-error));
    case NFT_OBJECT_OLD:
        return say(error, why, size, "nftables: what is installed cannot be replaced: %s",
                   strerror(-error));
    case NFT_OBJECT_RULE:
        break;
    }
    return explain_rule(rs, label, error, why, size);
}

/* Commits what `t` holds (unless making it failed with `r`) and frees it. */
static int commit(struct nft_owner *owner, struct nft_transaction *t, int r,
                  const struct nft_ruleset *rs, char *why, size_t size)
{
    struct nft_label label = {.object = NFT_OBJECT_BATCH};

    if (r == 0)
        r = nft_transaction_commit(t, owner->socket, &label);
    owner->seq += (uint32_t)t->n_labels;
    nft_transaction_free(t);
    return r < 0 ? explain(owner->table, rs, &label, r, why, size) : 0;
}

/* ---- the owner ---- */

int nft_owner_open(struct nft_owner **ret, char *why, size_t size)
{
    return nft_owner_open_table(NFT_TABLE, ret, why, size);
}

int nft_owner_open_table(const char *table, struct nft_owner **ret, char *why, size_t size)
{
    struct nft_transaction t = {.buf = NULL};
    struct nft_owner *owner;
    int capped = 1, r;

    if (strlen(table) >= sizeof(owner->table))
        return say(-ENAMETOOLONG, why, size, "nftables: the table's name is too long");
    owner = calloc(1, sizeof(*owner));
    if (!owner)
        return explain_batch(-ENOMEM, why, size);
    strcpy(owner->table, table);
    owner->seq = (uint32_t)time(NULL);
    owner->socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    if (!owner->socket || mnl_socket_bind(owner->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
        r = explain_batch(-errno, why, size);
        goto fail;
    }
    /* Errors need not bring our own message back; a kernel that cannot leave it out may send it. */
    (void)mnl_socket_setsockopt(owner->socket, NETLINK_CAP_ACK, &capped, sizeof(capped));
    /* An empty transaction tells whether there are nf_tables and whether we may change them. */
    r = commit(owner, &t, nft_transaction_begin(&t, owner->seq), NULL, why, size);
    if (r < 0)
        goto fail;
    *ret = owner;
    return 0;
fail:
    nft_owner_close(owner);
    return r;
}

static int install(struct nft_owner *owner, const struct nft_ruleset *rs, char *why, size_t size)
{
    const struct nft_place place = {owner->table, ""};
    struct nft_transaction t = {.buf = NULL};
    int r = nft_transaction_begin(&t, owner->seq);

    if (r == 0)
        r = nft_build_table(&t, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, owner->table);
    if (r == 0)
        r = nft_build_sets(&t, place, rs);
    if (r == 0)
        r = nft_build_chains(&t, place, NULL, rs);
    if (r == 0)
        r = nft_build_rules(&t, place, rs);
    return commit(owner, &t, r, rs, why, size);
}

/* The three steps of a replacement, and the way back from the first. */

static int stage_sets(struct nft_owner *owner, struct nft_place staged,
                      const struct nft_ruleset *rs, char *why, size_t size)
{
    struct nft_transaction t = {.buf = NULL};
    int r = nft_transaction_begin(&t, owner->seq);

    if (r == 0)
        r = nft_build_sets(&t, staged, rs);
    return commit(owner, &t, r, rs, why, size);
}

static void unstage_sets(struct nft_owner *owner, struct nft_place staged,
                         const struct nft_ruleset *rs)
{
    struct nft_transaction t = {.buf = NULL};
    int r = nft_transaction_begin(&t, owner->seq);

    if (r == 0)
        r = nft_delete_sets(&t, staged, rs);
    (void)commit(owner, &t, r, rs, NULL, 0); /* nobody uses them, should they stay */
}

static int switch_rules(struct nft_owner *owner, struct nft_place staged,
                        const struct nft_ruleset *rs, char *why, size_t size)
{
    const struct nft_place place = {owner->table, ""}, left = {owner->table, owner->suffix};
    const struct nft_ruleset *old = owner->installed;
    struct nft_transaction t = {.buf = NULL};
    int r = nft_transaction_begin(&t, owner->seq);

    if (r == 0)
        r = nft_delete_rules(&t, place, old);
    if (r == 0)
        r = nft_delete_sets(&t, place, old);
    if (r == 0 && owner->suffix[0] != '\0')
        r = nft_delete_sets(&t, left, old);
    if (r == 0)
        r = nft_delete_chains(&t, place, old, rs);
    if (r == 0)
        r = nft_build_sets(&t, place, rs);
    if (r == 0)
        r = nft_build_chains(&t, place, old, rs);
    if (r == 0)
        r = nft_build_rules(&t, staged, rs);
    return commit(owner, &t, r, rs, why, size);
}

static int switch_sets(struct nft_owner *owner, struct nft_place staged,
                       const struct nft_ruleset *rs)
{
    const struct nft_place place = {owner->table, ""};
    struct nft_transaction t = {.buf = NULL};
    int r = nft_transaction_begin(&t, owner->seq);

    if (r == 0)
        r = nft_delete_rules(&t, place, rs);
    if (r == 0)
        r = nft_delete_sets(&t, staged, rs);
    if (r == 0)
        r = nft_build_rules(&t, place, rs);
    return commit(owner, &t, r, rs, NULL, 0);
}

static int exchange(struct nft_owner *owner, const struct nft_ruleset *rs, char *why, size_t size)
{
    char suffix[NFT_SUFFIX_SIZE];
    const struct nft_place staged = {owner->table, suffix};

    snprintf(suffix, sizeof(suffix), "_new%u", owner->round++ % 1000);
    int r = stage_sets(owner, staged, rs, why, size);

    if (r < 0)
        return r;
    r = switch_rules(owner, staged, rs, why, size);
    if (r < 0) {
        unstage_sets(owner, staged, rs);
        return r;
    }
    owner->suffix[0] = '\0';
    /* The new policy is in force. A failure now is one of names, and the next round mends it. */
    if (rs->n_sets > 0 && switch_sets(owner, staged, rs) < 0)
        memcpy(owner->suffix, suffix, sizeof(suffix));
    return 0;
}

static int replace(struct nft_owner *owner, const struct nft_ruleset *rs, char *why, size_t size)
{
    struct nft_ruleset *outline = nft_form_outline(rs);
    int r;

    if (!outline)
        return explain_batch(-ENOMEM, why, size);
    r = owner->installed ? exchange(owner, rs, why, size) : install(owner, rs, why, size);
    if (r < 0) {
        nft_ruleset_free(outline);
        return r;
    }
    nft_ruleset_free(owner->installed);
    owner->installed = outline;
    return 0;
}

/*
 * No rules any more, but a nat chain: without one (ours or anybody's) the kernel stops translating
 * the packets of the connections that are redirected already, and they hang.
 */
static int replace_with_bare_chains(struct nft_owner *owner, char *why, size_t size)
{
    struct nft_ruleset *bare = nft_form_new();
    int r = bare ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < owner->installed->n_chains; i++) {
        const struct nft_chain *c = &owner->installed->chains[i];
        unsigned index;

        if (c->type == NFT_CHAIN_NAT)
            r = nft_form_add_chain(bare, c->name, c->type, c->hook, c->priority, &index);
    }
    r = r < 0 ? explain_batch(r, why, size) : replace(owner, bare, why, size);
    nft_ruleset_free(bare);
    return r;
}

int nft_owner_replace(struct nft_owner *owner, const struct nft_ruleset *rs, char *why, size_t size)
{
    if (!nft_ruleset_empty(rs))
        return replace(owner, rs, why, size);
    return owner->installed ? replace_with_bare_chains(owner, why, size) : 0;
}

int nft_owner_remove(struct nft_owner *owner, char *why, size_t size)
{
    struct nft_transaction t = {.buf = NULL};
    int r;

    if (!owner->installed)
        return 0;
    r = nft_transaction_begin(&t, owner->seq);
    if (r == 0)
        r = nft_build_table(&t, NFT_MSG_DELTABLE, 0, owner->table);
    r = commit(owner, &t, r, NULL, why, size);
    if (r == 0) {
        nft_ruleset_free(owner->installed);
        owner->installed = NULL;
        owner->suffix[0] = '\0';
    }
    return r;
}

void nft_owner_close(struct nft_owner *owner)
{
    if (!owner)
        return;
    if (owner->socket)
        mnl_socket_close(owner->socket);
    nft_ruleset_free(owner->installed);
    free(owner);
}

int nft_owner_fd(const struct nft_owner *owner)
{
    return mnl_socket_get_fd(owner->socket);
}
