/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/sock_diag.h */
#include "base/sock_diag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>

#define BUFFER 32768

int sock_diag_open(struct mnl_socket **ret)
{
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    int r = 0;

    if (nl == NULL)
        return -errno;
    if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
        r = -errno;
        mnl_socket_close(nl);
        return r;
    }
    *ret = nl;
    return 0;
}

static struct inet_diag_req_v2 *put_request(struct nlmsghdr *request, uint16_t type, uint16_t flags,
                                            int family)
{
    struct inet_diag_req_v2 *body;

    request->nlmsg_type = type;
    request->nlmsg_flags = NLM_F_REQUEST | flags;
    request->nlmsg_seq = (uint32_t)time(NULL);
    body = mnl_nlmsg_put_extra_header(request, sizeof(*body));
    body->sdiag_family = (uint8_t)family;
    body->sdiag_protocol = IPPROTO_TCP;
    return body;
}

int sock_diag_dump(struct mnl_socket *nl, const struct sock_diag_query *query,
                   int (*fn)(const struct nlmsghdr *message, void *ctx), void *ctx)
{
    char buf[BUFFER] __attribute__((aligned(8)));
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    struct inet_diag_req_v2 *body =
        put_request(request, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, query->family);
    const unsigned seq = request->nlmsg_seq;
    int r = 1;

    body->idiag_ext = query->ext;
    body->idiag_states = query->states;
    if (query->storage_map >= 0) {
        struct nlattr *nest = mnl_attr_nest_start(request, INET_DIAG_REQ_SK_BPF_STORAGES);

        mnl_attr_put_u32(request, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, (uint32_t)query->storage_map);
        mnl_attr_nest_end(request, nest);
    }
    if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        return -errno;
    while (r > 0) {
        ssize_t n = mnl_socket_recvfrom(nl, buf, sizeof(buf));

        if (n < 0)
            return -errno;
        r = mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl), fn, ctx);
        if (r < 0)
            return -errno;
    }
    return 0;
}

int sock_diag_destroy(struct mnl_socket *nl, int family, const struct inet_diag_sockid *id)
{
    char buf[BUFFER] __attribute__((aligned(8)));
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    struct inet_diag_req_v2 *body = put_request(request, SOCK_DESTROY, NLM_F_ACK, family);
    const unsigned seq = request->nlmsg_seq;
    ssize_t n;

    body->idiag_states = ~0u;
    body->id = *id;
    if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        return -errno;
    n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
    if (n < 0 || mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl), NULL, NULL) < 0)
        return -errno;
    return 0;
}

static struct addr endpoint(const struct inet_diag_msg *m, const __be32 ip[4], __be16 port)
{
    struct addr a;

    if (m->idiag_family == AF_INET)
        addr_set_v4(&a, ip, ntohs(port));
    else
        addr_set_v6(&a, ip, ntohs(port));
    return a;
}

struct addr sock_diag_local(const struct inet_diag_msg *m)
{
    return endpoint(m, m->id.idiag_src, m->id.idiag_sport);
}

struct addr sock_diag_remote(const struct inet_diag_msg *m)
{
    return endpoint(m, m->id.idiag_dst, m->id.idiag_dport);
}
