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
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>

#define BUFFER  32768
#define PENDING 64 /* that are ended at a time */

struct walk {
    int sockets; /* the map */
    bpf_stitch_socket_fn fn;
    void *ctx;
};

static void read_endpoint(unsigned family, const __be32 ip[4], __be16 port, struct addr *ret)
{
    if (family == AF_INET)
        addr_set_v4(ret, ip, ntohs(port));
    else
        addr_set_v6(ret, ip, ntohs(port));
}

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
    read_endpoint(m->idiag_family, m->id.idiag_src, m->id.idiag_sport, &socket.local);
    read_endpoint(m->idiag_family, m->id.idiag_dst, m->id.idiag_dport, &socket.remote);
    socket.inode = m->idiag_inode;
    socket.tcp_state = m->idiag_state;
    walk->fn(walk->ctx, &socket);
    return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, int family, struct walk *walk)
{
    char buf[BUFFER];
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    unsigned seq = (unsigned)time(NULL);
    struct inet_diag_req_v2 *body;
    struct nlattr *nest;
    int r = 1;

    request->nlmsg_type = SOCK_DIAG_BY_FAMILY;
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request->nlmsg_seq = seq;
    body = mnl_nlmsg_put_extra_header(request, sizeof(*body));
    body->sdiag_family = (uint8_t)family;
    body->sdiag_protocol = IPPROTO_TCP;
    body->idiag_ext = 1u << (INET_DIAG_INFO - 1);
    /* Those in TIME_WAIT are sockets no more. */
    body->idiag_states =
        ~(1u << BPF_TCP_LISTEN | 1u << BPF_TCP_TIME_WAIT | 1u << 12 /* requests */);
    nest = mnl_attr_nest_start(request, INET_DIAG_REQ_SK_BPF_STORAGES);
    mnl_attr_put_u32(request, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, (uint32_t)walk->sockets);
    mnl_attr_nest_end(request, nest);
    if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        return -errno;
    while (r > 0) {
        ssize_t n = mnl_socket_recvfrom(nl, buf, sizeof(buf));

        if (n < 0)
            return -errno;
        r = mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl), on_socket, walk);
        if (r < 0)
            return -errno;
    }
    return 0;
}

static int walk_sockets(int sockets, bpf_stitch_socket_fn fn, void *ctx)
{
    struct walk walk = {.sockets = sockets, .fn = fn, .ctx = ctx};
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    int r = 0;

    if (nl == NULL)
        return -errno;
    if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
        r = -errno;
    if (r == 0)
        r = dump(nl, AF_INET, &walk);
    if (r == 0)
        r = dump(nl, AF_INET6, &walk);
    mnl_socket_close(nl);
    return r;
}

int bpf_stitch_sockets(const struct bpf_stitch *s, bpf_stitch_socket_fn fn, void *ctx)
{
    return walk_sockets(bpf_stitch_map_fd(s, ABI_MAP_SOCKETS), fn, ctx);
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

/* 0; -ENOENT: it is gone by itself; or -errno. */
static int destroy(struct mnl_socket *nl, const struct addr *local, const struct addr *remote)
{
    char buf[BUFFER];
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    unsigned seq = (unsigned)time(NULL);
    struct inet_diag_req_v2 *body;
    ssize_t n;

    request->nlmsg_type = SOCK_DESTROY;
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    request->nlmsg_seq = seq;
    body = mnl_nlmsg_put_extra_header(request, sizeof(*body));
    body->sdiag_family = addr_is_v4(local) ? AF_INET : AF_INET6;
    body->sdiag_protocol = IPPROTO_TCP;
    body->idiag_states = ~0u;
    body->id.idiag_sport = htons(local->port);
    body->id.idiag_dport = htons(remote->port);
    put_ip(local, body->id.idiag_src);
    put_ip(remote, body->id.idiag_dst);
    body->id.idiag_cookie[0] = body->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        return -errno;
    n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
    if (n < 0 || mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl), NULL, NULL) < 0)
        return -errno;
    return 0;
}

int bpf_stitch_end(int sockets, uint64_t instance)
{
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    struct unfinished u = {.instance = instance};
    int left, r;

    if (nl == NULL)
        return -errno;
    r = mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno : 0;
    do {
        left = 0;
        u.n = u.more = 0;
        if (r == 0)
            r = walk_sockets(sockets, find_unfinished, &u);
        for (unsigned i = 0; r == 0 && i < u.n; i++) {
            int error = destroy(nl, &u.local[i], &u.remote[i]);

            left += error < 0 && error != -ENOENT;
        }
    } while (r == 0 && u.more > 0 && left == 0);
    mnl_socket_close(nl);
    return r < 0 ? r : left + (int)u.more;
}
