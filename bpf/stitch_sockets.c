/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sockets behind stitched connections (bpf/stitch.h), asked of the kernel by sock_diag, which
 * also tells what the programs keep with each: so a socket is ours by what it is, not by what it
 * looks like. Nobody keeps a list of them, and they need nobody.
 */
#include "bpf/stitch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>

#include "base/sock_diag.h"

#define PENDING 64 /* that are ended at a time */

struct walk {
    bpf_stitch_socket_fn fn;
    void *ctx;
};

/* The value of our map among what is kept with the socket. */
static bool read_storage(const struct nlattr *storages, struct abi_socket *ret)
{
    const struct nlattr *storage, *field;

    mnl_attr_for_each_nested(storage, storages)
    {
        mnl_attr_for_each_nested(field, storage)
        {
            if (mnl_attr_get_type(field) != SK_DIAG_BPF_STORAGE_MAP_VALUE ||
                mnl_attr_get_payload_len(field) != sizeof(*ret))
                continue;
            memcpy(ret, mnl_attr_get_payload(field), sizeof(*ret));
            return true;
        }
    }
    return false;
}

static int on_socket(const struct nlmsghdr *message, void *ctx)
{
    const struct inet_diag_msg *m = mnl_nlmsg_get_payload(message);
    struct walk *walk = ctx;
    struct bpf_stitch_socket socket = {0};
    const struct nlattr *attribute;
    bool ours = false;

    if (mnl_nlmsg_get_payload_len(message) < sizeof(*m))
        return MNL_CB_OK;
    mnl_attr_for_each(attribute, message, sizeof(*m))
    {
        unsigned type = mnl_attr_get_type(attribute);
        size_t len = mnl_attr_get_payload_len(attribute);

        if (type == INET_DIAG_SK_BPF_STORAGES)
            ours = read_storage(attribute, &socket.state);
        else if (type == INET_DIAG_INFO)
            memcpy(&socket.info, mnl_attr_get_payload(attribute),
                   len < sizeof(socket.info) ? len : sizeof(socket.info));
    }
    if (!ours || socket.state.decision != ABI_STITCH)
        return MNL_CB_OK;
    socket.local = sock_diag_local(m);
    socket.remote = sock_diag_remote(m);
    socket.inode = m->idiag_inode;
    socket.tcp_state = m->idiag_state;
    walk->fn(walk->ctx, &socket);
    return MNL_CB_OK;
}

static int walk_sockets(struct mnl_socket *nl, int sockets, bpf_stitch_socket_fn fn, void *ctx)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct walk walk = {.fn = fn, .ctx = ctx};
    int r = 0;

    for (size_t i = 0; r == 0 && i < 2; i++) {
        const struct sock_diag_query query = {
            .family = families[i],
            /* Those in TIME_WAIT are sockets no more. */
            .states = ~(1u << BPF_TCP_LISTEN | 1u << BPF_TCP_TIME_WAIT | 1u << 12 /* requests */),
            .ext = 1u << (INET_DIAG_INFO - 1),
            .storage_map = sockets};

        r = sock_diag_dump(nl, &query, on_socket, &walk);
    }
    return r;
}

int bpf_stitch_sockets(const struct bpf_stitch *s, bpf_stitch_socket_fn fn, void *ctx)
{
    struct mnl_socket *nl;
    int r = sock_diag_open(&nl);

    if (r < 0)
        return r;
    r = walk_sockets(nl, bpf_stitch_map_fd(s, ABI_MAP_SOCKETS), fn, ctx);
    mnl_socket_close(nl);
    return r;
}

struct unfinished {
    uint64_t instance;
    unsigned n, more;
    struct addr local[PENDING], remote[PENDING];
};

static void find_unfinished(void *ctx, const struct bpf_stitch_socket *socket)
{
    struct unfinished *u = ctx;

    if (socket->state.stitched || socket->tcp_state == BPF_TCP_CLOSE ||
        socket->state.instance != u->instance)
        return;
    if (u->n == PENDING) {
        u->more++;
        return;
    }
    u->local[u->n] = socket->local;
    u->remote[u->n] = socket->remote;
    u->n++;
}

static void put_ip(const struct addr *a, __be32 ret[4])
{
    if (addr_is_v4(a))
        memcpy(ret, a->ip + 12, 4);
    else
        memcpy(ret, a->ip, 16);
}

static int destroy(struct mnl_socket *nl, const struct addr *local, const struct addr *remote)
{
    struct inet_diag_sockid id = {
        .idiag_sport = htons(local->port),
        .idiag_dport = htons(remote->port),
        .idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE},
    };

    put_ip(local, id.idiag_src);
    put_ip(remote, id.idiag_dst);
    return sock_diag_destroy(nl, addr_is_v4(local) ? AF_INET : AF_INET6, &id);
}

int bpf_stitch_end(int sockets, uint64_t instance)
{
    struct unfinished u = {.instance = instance};
    struct mnl_socket *nl;
    int left, r = sock_diag_open(&nl);

    if (r < 0)
        return r;
    do {
        left = 0;
        u.n = u.more = 0;
        r = walk_sockets(nl, sockets, find_unfinished, &u);
        for (unsigned i = 0; r == 0 && i < u.n; i++) {
            int error = destroy(nl, &u.local[i], &u.remote[i]);

            left += error < 0 && error != -ENOENT;
        }
    } while (r == 0 && u.more > 0 && left == 0);
    mnl_socket_close(nl);
    return r < 0 ? r : left + (int)u.more;
}
