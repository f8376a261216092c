/* SPDX-License-Identifier: GPL-2.0-or-later */
/* nft/routes.h, over rtnetlink with libmnl. */
#include "nft/routes.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define BUFFER 1024

/* Sends one request and waits for its acknowledgement. 0 or -errno. */
static int transact(struct mnl_socket *nl, struct nlmsghdr *request)
{
    static unsigned sequence;
    char buf[BUFFER * 8];
    unsigned port = mnl_socket_get_portid(nl);

    request->nlmsg_seq = ++sequence;
    if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        return -errno;
    for (;;) {
        ssize_t n = mnl_socket_recvfrom(nl, buf, sizeof(buf));

        if (n < 0)
            return -errno;
        int r = mnl_cb_run(buf, (size_t)n, request->nlmsg_seq, port, NULL, NULL);

        if (r < 0)
            return -errno;
        if (r == MNL_CB_STOP)
            return 0;
    }
}

static struct nlmsghdr *begin(char *buf, int type, bool add)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

    h->nlmsg_type = (uint16_t)type;
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | (add ? NLM_F_CREATE | NLM_F_EXCL : 0));
    return h;
}

/* With `back`: for what only looks where the packet came from. */
static int rule(struct mnl_socket *nl, bool add, uint8_t family, uint32_t mark, uint32_t mask,
                bool back)
{
    char buf[BUFFER];
    struct nlmsghdr *h = begin(buf, add ? RTM_NEWRULE : RTM_DELRULE, add);
    struct fib_rule_hdr *r = mnl_nlmsg_put_extra_header(h, sizeof(*r));

    r->family = family;
    r->action = FR_ACT_TO_TBL;
    r->table = RT_TABLE_UNSPEC; /* the number is larger than a byte */
    mnl_attr_put_u32(h, FRA_TABLE, back ? RT_TABLE_MAIN : ROUTES_TABLE);
    mnl_attr_put_u32(h, FRA_PRIORITY, back ? ROUTES_PRIORITY - 1 : ROUTES_PRIORITY);
    if (back)
        mnl_attr_put_strz(h, FRA_IIFNAME, "lo");
    mnl_attr_put_u32(h, FRA_FWMARK, mark);
    mnl_attr_put_u32(h, FRA_FWMASK, mask);
    mnl_attr_put_u8(h, FRA_PROTOCOL, ROUTES_PROTOCOL);
    return transact(nl, h);
}

static int route(struct mnl_socket *nl, bool add, uint8_t family)
{
    char buf[BUFFER];
    struct nlmsghdr *h = begin(buf, add ? RTM_NEWROUTE : RTM_DELROUTE, add);
    struct rtmsg *r = mnl_nlmsg_put_extra_header(h, sizeof(*r));

    r->rtm_family = family;
    r->rtm_table = RT_TABLE_UNSPEC;
    r->rtm_protocol = ROUTES_PROTOCOL;
    r->rtm_scope = RT_SCOPE_HOST;
    r->rtm_type = RTN_LOCAL;
    mnl_attr_put_u32(h, RTA_TABLE, ROUTES_TABLE);
    mnl_attr_put_u32(h, RTA_OIF, if_nametoindex("lo"));
    return transact(nl, h);
}

static int install_family(struct mnl_socket *nl, uint8_t family, uint32_t mark, uint32_t mask)
{
    int r = route(nl, true, family);

    if (r == 0 || r == -EEXIST)
        r = rule(nl, true, family, mark, mask, true);
    if (r == 0 || r == -EEXIST)
        r = rule(nl, true, family, mark, mask, false);
    return r == -EEXIST ? 0 : r;
}

static int open_socket(struct mnl_socket **ret)
{
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);

    if (!nl)
        return -errno;
    if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
        int r = -errno;

        mnl_socket_close(nl);
        return r;
    }
    *ret = nl;
    return 0;
}

int routes_install(uint32_t mark, uint32_t mask, bool *ret_v6, char *why, size_t why_size)
{
    struct mnl_socket *nl;
    int r = open_socket(&nl);

    if (r == 0) {
        r = install_family(nl, AF_INET, mark, mask);
        int v6 = r == 0 ? install_family(nl, AF_INET6, mark, mask) : r;

        mnl_socket_close(nl);
        if (r == 0 && ret_v6)
            *ret_v6 = v6 == 0;
    }
    if (r < 0)
        snprintf(
            why, why_size, "cannot install the policy route that TPROXY needs: %s%s", strerror(-r),
            r == -EOPNOTSUPP ? "; this kernel has no policy routing (CONFIG_IP_MULTIPLE_TABLES)"
                             : "");
    return r;
}

void routes_remove(uint32_t mark, uint32_t mask)
{
    struct mnl_socket *nl;

    if (open_socket(&nl) < 0)
        return;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t family = i == 0 ? AF_INET : AF_INET6;

        rule(nl, false, family, mark, mask, false);
        rule(nl, false, family, mark, mask, true);
        route(nl, false, family);
    }
    mnl_socket_close(nl);
}
