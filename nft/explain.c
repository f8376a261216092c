/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel's errors in words; who has the table is asked for. */
#include "nft/explain.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "nft/cgroup.h"
#include "nft/form.h"
#include "nft/text.h"
#include "nft/transaction.h"

int nft_say(int error, char *why, size_t size, const char *format, ...)
{
    va_list args;

    if (size > 0) {
        va_start(args, format);
        vsnprintf(why, size, format, args);
        va_end(args);
    }
    return error;
}

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

bool nft_table_is_there(const char *table)
{
    return find_table(table).there;
}

int nft_check_cgroups(const struct nft_ruleset *rs, char *why, size_t size)
{
    uint64_t id;

    for (size_t i = 0; i < rs->n_cgroups; i++) {
        int r = nft_cgroup_id(rs->cgroups[i], &id);

        if (r < 0)
            return nft_say(r, why, size, "nftables: no rule can name the cgroup %s: %s",
                           rs->cgroups[i], strerror(-r));
    }
    return 0;
}

int nft_explain_batch(int error, char *why, size_t size)
{
    switch (error) {
    case -EPERM:
        return nft_say(error, why, size,
                       "nftables: CAP_NET_ADMIN is missing in this network namespace");
    case -EOPNOTSUPP:
    case -EPROTONOSUPPORT:
    case -EAFNOSUPPORT:
        return nft_say(-EOPNOTSUPP, why, size,
                       "nftables: this kernel has no nf_tables (CONFIG_NF_TABLES)");
    case -EPROTO:
        return nft_say(error, why, size, "nftables: the kernel did not answer for every object");
    default:
        return nft_say(error, why, size, "nftables: %s", strerror(-error));
    }
}

static int explain_table(const char *table, int error, char *why, size_t size)
{
    struct found found = find_table(table);

    if (found.there && found.owned)
        return nft_say(-EBUSY, why, size,
                       "nftables: table inet %s is owned by another process (netlink port %u, most "
                       "likely its pid): is another undersock running in this network namespace?",
                       table, found.port);
    if (found.there)
        return nft_say(
            -EEXIST, why, size,
            "nftables: table inet %s is there and nobody owns it; if it is left over, remove "
            "it: nft delete table inet %s",
            table, table);
    switch (error) {
    case -EAFNOSUPPORT:
        return nft_say(
            -EOPNOTSUPP, why, size,
            "nftables: this kernel has no tables of family inet (CONFIG_NF_TABLES_INET)");
    case -EINVAL:
    case -EOPNOTSUPP:
        return nft_say(-EOPNOTSUPP, why, size,
                       "nftables: this kernel's tables cannot have an owner (Linux 5.12 can)");
    default:
        return nft_say(error, why, size, "nftables: table inet %s: %s", table, strerror(-error));
    }
}

static int explain_rule(const struct nft_ruleset *rs, const struct nft_label *label, int error,
                        char *why, size_t size)
{
    char *text = nft_rule_text(rs, label->index, label->rule);
    /* An expression that no module provides is "not found". */
    bool missing = error == -ENOENT || error == -EOPNOTSUPP;

    nft_say(error, why, size, "nftables: chain %s, rule \"%s\": %s", rs->chains[label->index].name,
            text ? text : "?",
            missing ? "this kernel lacks an expression of it" : strerror(-error));
    free(text);
    return missing ? -EOPNOTSUPP : error;
}

int nft_explain(const char *table, const struct nft_ruleset *rs, const struct nft_label *label,
                int error, char *why, size_t size)
{
    bool missing = error == -ENOENT || error == -EOPNOTSUPP;

    switch (label->object) {
    case NFT_OBJECT_BATCH:
        return nft_explain_batch(error, why, size);
    case NFT_OBJECT_TABLE:
        return explain_table(table, error, why, size);
    case NFT_OBJECT_SET:
        return nft_say(missing ? -EOPNOTSUPP : error, why, size, "nftables: set %s: %s",
                       rs->sets[label->index].name,
                       missing ? "this kernel has no sets of this kind" : strerror(-error));
    case NFT_OBJECT_ELEMENTS:
        return nft_say(error, why, size, "nftables: the elements of set %s: %s",
                       rs->sets[label->index].name, strerror(-error));
    case NFT_OBJECT_CHAIN:
        return nft_say(missing ? -EOPNOTSUPP : error, why, size, "nftables: chain %s: %s",
                       rs->chains[label->index].name,
                       missing ? "this kernel has no chains of this type (CONFIG_NFT_NAT)"
                               : strerror(-error));
    case NFT_OBJECT_OLD:
        return nft_say(error, why, size, "nftables: what is installed cannot be replaced: %s",
                       strerror(-error));
    case NFT_OBJECT_RULE:
        break;
    }
    return explain_rule(rs, label, error, why, size);
}
