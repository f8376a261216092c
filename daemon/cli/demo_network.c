/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cli/demo_network.h: each call is one request and its acknowledgement. */
#include "cli/demo_network.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

/* Our longest request, the one for a veth pair, takes some 150 bytes. */
#define REQUEST_SIZE 512

struct demo_network {
    struct mnl_socket *socket;
    uint32_t sequence;
};

int demo_network_open(struct demo_network **ret)
{
    struct demo_network *n = calloc(1, sizeof(*n));
    int r;

    if (!n)
        return -ENOMEM;
    n->socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!n->socket || mnl_socket_bind(n->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
        r = -errno;
        demo_network_close(n);
        return r;
    }
    *ret = n;
    return 0;
}

void demo_network_close(struct demo_network *n)
{
    if (n && n->socket)
        mnl_socket_close(n->socket);
    free(n);
}

static struct nlmsghdr *request(void *buf, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

    h->nlmsg_type = type;
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    return h;
}

static int commit(struct demo_network *n, struct nlmsghdr *h)
{
    _Alignas(struct nlmsghdr) char buf[4096];
    unsigned port = mnl_socket_get_portid(n->socket);
    int r = MNL_CB_OK;

    h->nlmsg_seq = ++n->sequence;
    if (mnl_socket_sendto(n->socket, h, h->nlmsg_len) < 0)
        return -errno;
    while (r > MNL_CB_STOP) {
        ssize_t len = mnl_socket_recvfrom(n->socket, buf, sizeof(buf));

        r = len < 0 ? MNL_CB_ERROR : mnl_cb_run(buf, (size_t)len, n->sequence, port, NULL, NULL);
    }
    return r < 0 ? -errno : 0;
}

static void put_ip(struct nlmsghdr *h, uint16_t attribute, const struct addr *a)
{
    if (addr_is_v4(a))
        mnl_attr_put(h, attribute, 4, a->ip + 12);
    else
        mnl_attr_put(h, attribute, sizeof(a->ip), a->ip);
}

int demo_network_veth(struct demo_network *n, const char *name, const char *peer, int peer_netns)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_SIZE];
    struct nlmsghdr *h = request(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);

    mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(h, IFLA_IFNAME, name);
    struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);

    mnl_attr_put_strz(h, IFLA_INFO_KIND, "veth");
    struct nlattr *data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
    struct nlattr *other = mnl_attr_nest_start(h, VETH_INFO_PEER);

    mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(h, IFLA_IFNAME, peer);
    mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)peer_netns);
    mnl_attr_nest_end(h, other);
    mnl_attr_nest_end(h, data);
    mnl_attr_nest_end(h, info);
    return commit(n, h);
}

int demo_network_up(struct demo_network *n, const char *name)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_SIZE];
    struct nlmsghdr *h = request(buf, RTM_NEWLINK, 0);
    struct ifinfomsg *link = mnl_nlmsg_put_extra_header(h, sizeof(*link));
    unsigned index = if_nametoindex(name);

    if (index == 0)
        return -errno;
    link->ifi_index = (int)index;
    link->ifi_flags = IFF_UP;
    link->ifi_change = IFF_UP;
    return commit(n, h);
}

int demo_network_address(struct demo_network *n, const char *name, const struct addr *ip,
                         uint8_t length)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_SIZE];
    struct nlmsghdr *h = request(buf, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
    struct ifaddrmsg *address = mnl_nlmsg_put_extra_header(h, sizeof(*address));
    unsigned index = if_nametoindex(name);

    if (index == 0)
        return -errno;
    address->ifa_family = addr_is_v4(ip) ? AF_INET : AF_INET6;
    address->ifa_prefixlen = length;
    address->ifa_flags = addr_is_v4(ip) ? 0 : IFA_F_NODAD;
    address->ifa_index = index;
    put_ip(h, IFA_LOCAL, ip);
    put_ip(h, IFA_ADDRESS, ip);
    return commit(n, h);
}

int demo_network_local(struct demo_network *n, const struct addr *ip, const struct addr *source)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_SIZE];
    struct nlmsghdr *h = request(buf, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
    struct rtmsg *route = mnl_nlmsg_put_extra_header(h, sizeof(*route));
    unsigned loopback = if_nametoindex("lo");

    if (loopback == 0)
        return -errno;
    route->rtm_family = addr_is_v4(ip) ? AF_INET : AF_INET6;
    route->rtm_dst_len = addr_is_v4(ip) ? 32 : 128;
    route->rtm_table = RT_TABLE_LOCAL;
    route->rtm_protocol = RTPROT_STATIC;
    route->rtm_scope = RT_SCOPE_HOST;
    route->rtm_type = RTN_LOCAL;
    put_ip(h, RTA_DST, ip);
    put_ip(h, RTA_PREFSRC, source);
    mnl_attr_put_u32(h, RTA_OIF, loopback);
    return commit(n, h);
}
