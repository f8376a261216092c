/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The owning socket.
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
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "capture.h"
#include "nft/build.h"
#include "nft/explain.h"
#include "nft/form.h"
#include "nft/ruleset.h"
#include "nft/transaction.h"

struct nft_owner {
    struct mnl_socket *socket;
    char table[NFT_ID_SIZE];
    uint32_t seq;                  /* of the next transaction's first message */
    struct nft_ruleset *installed; /* its outline; NULL: there is no table */
    char suffix[NFT_SUFFIX_SIZE]; /* of a second instance of its sets, when the third step failed */
    unsigned round;               /* of replacement, for the names of the first step */
};

/* Commits what `t` holds (unless making it failed with `r`) and frees it. */
static int commit(struct nft_owner *owner, struct nft_transaction *t, int r,
                  const struct nft_ruleset *rs, char *why, size_t size)
{
    struct nft_label label = {.object = NFT_OBJECT_BATCH};

    if (r == 0)
        r = nft_transaction_commit(t, owner->socket, &label);
    owner->seq += (uint32_t)t->n_labels;
    nft_transaction_free(t);
    return r < 0 ? nft_explain(owner->table, rs, &label, r, why, size) : 0;
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
        return nft_say(-ENAMETOOLONG, why, size, "nftables: the table's name is too long");
    owner = calloc(1, sizeof(*owner));
    if (!owner)
        return nft_explain_batch(-ENOMEM, why, size);
    strcpy(owner->table, table);
    owner->seq = (uint32_t)time(NULL);
    owner->socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    if (!owner->socket || mnl_socket_bind(owner->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
        r = nft_explain_batch(-errno, why, size);
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
        r = nft_build_table(&t, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, owner->table, true);
    if (r == 0)
        r = nft_build_sets(&t, place, rs);
    if (r == 0)
        r = nft_build_chains(&t, place, NULL, rs);
    if (r == 0)
        r = nft_build_rules(&t, place, rs);
    return commit(owner, &t, r, rs, why, size);
}

void nft_table_name(unsigned instance, char ret[NFT_TABLE_SIZE])
{
    if (instance == 0)
        strcpy(ret, NFT_TABLE);
    else
        snprintf(ret, NFT_TABLE_SIZE, NFT_TABLE "-run-%u", instance);
}

/* The empty table, which is then as good as one that was replaced by nothing. */
static int claim(struct nft_owner *owner, char *why, size_t size)
{
    struct nft_ruleset *nothing = nft_form_new();
    int r = nothing ? install(owner, nothing, why, size) : nft_explain_batch(-ENOMEM, why, size);

    if (r == 0)
        owner->installed = nothing;
    else
        nft_ruleset_free(nothing);
    return r;
}

static int open_and_claim(unsigned instance, struct nft_owner **ret, char *why, size_t size)
{
    char table[NFT_TABLE_SIZE];
    struct nft_owner *owner;

    nft_table_name(instance, table);
    int r = nft_owner_open_table(table, &owner, why, size);

    if (r < 0)
        return r;
    r = claim(owner, why, size);
    if (r == 0)
        *ret = owner;
    else
        nft_owner_close(owner);
    return r;
}

int nft_owner_take(struct nft_owner **ret, char *why, size_t size)
{
    return open_and_claim(0, ret, why, size);
}

int nft_owner_claim(struct nft_owner **ret, unsigned *ret_instance, char *why, size_t size)
{
    int r = -EBUSY;

    for (unsigned i = 1; i < CAPTURE_INSTANCES; i++) {
        r = open_and_claim(i, ret, why, size);
        if (r == 0) {
            *ret_instance = i;
            return 0;
        }
        /* Somebody has it, or something of that name is left. */
        if (r != -EBUSY && r != -EEXIST)
            return r;
    }
    return nft_say(r, why, size,
                   "nftables: all %d tables undersock-run-N of this network namespace are taken",
                   CAPTURE_INSTANCES - 1);
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

/*
 * What replaces a table keeps the chains that connections of the old one need. Without a nat chain
 * (ours or anybody's) the kernel stops translating the packets of redirected connections; without
 * the chain that finds their sockets, the packets of a gateway's connections are forwarded.
 */
int nft_owner_replace(struct nft_owner *owner, const struct nft_ruleset *rs, char *why, size_t size)
{
    struct nft_ruleset *whole = nft_form_copy(rs), *outline = NULL;
    int r = nft_check_cgroups(rs, why, size);

    if (r < 0) {
        nft_ruleset_free(whole);
        return r;
    }
    r = whole ? 0 : -ENOMEM;

    if (r == 0 && owner->installed)
        r = nft_form_inherit(whole, owner->installed);
    if (r == 0)
        outline = nft_form_outline(whole);
    if (r == 0 && !outline)
        r = -ENOMEM;
    if (r < 0)
        r = nft_explain_batch(r, why, size);
    else if (owner->installed)
        r = exchange(owner, whole, why, size);
    else if (!nft_ruleset_empty(whole))
        r = install(owner, whole, why, size);
    else
        goto out; /* nothing then, nothing now */
    if (r == 0) {
        nft_ruleset_free(owner->installed);
        owner->installed = outline;
        outline = NULL;
    }
out:
    nft_ruleset_free(outline);
    nft_ruleset_free(whole);
    return r;
}

int nft_owner_remove(struct nft_owner *owner, char *why, size_t size)
{
    struct nft_transaction t = {.buf = NULL};
    int r;

    if (!owner->installed)
        return 0;
    r = nft_transaction_begin(&t, owner->seq);
    if (r == 0)
        r = nft_build_table(&t, NFT_MSG_DELTABLE, 0, owner->table, true);
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
