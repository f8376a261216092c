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

#include "capture.h"

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

struct policy_rule {
    uint32_t mark, mask;
    bool back; /* for what only looks where the packet came from */
};

/* The kinds by TPROXY are those that have the bit 0x100. */
static const struct policy_rule rules[] = {
    {CAPTURE_UDP, CAPTURE_KIND_MASK, false}, /* with the instance */
    {CAPTURE_TPROXY_MARK, UINT32_MAX, true},
    {CAPTURE_TPROXY_MARK, UINT32_MAX, false},
    {CAPTURE_INJECTED | INJECTED_ACCEPT_TPROXY << 8, CAPTURE_INJECTED_MASK | 0x100, false},
    {CAPTURE_INJECTED | INJECTED_REJECT << 8 | REJECT_RESET, UINT32_MAX, false},
};

#define N_RULES (sizeof(rules) / sizeof(rules[0]))

/* A `run` has UDP only. */
static size_t n_rules(unsigned instance)
{
    return instance == 0 ? N_RULES : 1;
}

static int rule(struct mnl_socket *nl, bool add, uint8_t family, unsigned instance, size_t i)
{
    const struct policy_rule *p = &rules[i];
    uint32_t mark = i == 0 ? capture_udp_mark(instance, 0) : p->mark;
    char buf[BUFFER];
    struct nlmsghdr *h = begin(buf, add ? RTM_NEWRULE : RTM_DELRULE, add);
    struct fib_rule_hdr *r = mnl_nlmsg_put_extra_header(h, sizeof(*r));

    r->family = family;
    r->action = FR_ACT_TO_TBL;
    r->table = RT_TABLE_UNSPEC; /* the number is larger than a byte */
    mnl_attr_put_u32(h, FRA_TABLE, p->back ? RT_TABLE_MAIN : ROUTES_TABLE + instance);
    mnl_attr_put_u32(h, FRA_PRIORITY, p->back ? ROUTES_PRIORITY - 1 : ROUTES_PRIORITY + instance);
    if (p->back)
        mnl_attr_put_strz(h, FRA_IIFNAME, "lo");
    mnl_attr_put_u32(h, FRA_FWMARK, mark);
    mnl_attr_put_u32(h, FRA_FWMASK, p->mask);
    mnl_attr_put_u8(h, FRA_PROTOCOL, ROUTES_PROTOCOL);
    return transact(nl, h);
}

static int route(struct mnl_socket *nl, bool add, uint8_t family, unsigned instance)
{
    char buf[BUFFER];
    struct nlmsghdr *h = begin(buf, add ? RTM_NEWROUTE : RTM_DELROUTE, add);
    struct rtmsg *r = mnl_nlmsg_put_extra_header(h, sizeof(*r));

    r->rtm_family = family;
    r->rtm_table = RT_TABLE_UNSPEC;
    r->rtm_protocol = ROUTES_PROTOCOL;
    r->rtm_scope = RT_SCOPE_HOST;
    r->rtm_type = RTN_LOCAL;
    mnl_attr_put_u32(h, RTA_TABLE, ROUTES_TABLE + instance);
    mnl_attr_put_u32(h, RTA_OIF, if_nametoindex("lo"));
    return transact(nl, h);
}

static int install_family(struct mnl_socket *nl, uint8_t family, unsigned instance, bool *added)
{
    int r = route(nl, true, family, instance);

    *added |= r == 0;
    for (size_t i = 0; i < n_rules(instance) && (r == 0 || r == -EEXIST); i++) {
        r = rule(nl, true, family, instance, i);
        *added |= r == 0;
    }
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

int routes_install(unsigned instance, bool *ret_added, char *why, size_t why_size)
{
    struct mnl_socket *nl;
    bool added = false;
    int r = open_socket(&nl);

    if (r == 0) {
        r = install_family(nl, AF_INET, instance, &added);
        if (r == 0)
            install_family(nl, AF_INET6, instance, &added); /* where there is IPv6 */
        mnl_socket_close(nl);
    }
    if (ret_added)
        *ret_added = added;
    if (r < 0)
        snprintf(
            why, why_size, "cannot install the policy route that TPROXY needs: %s%s", strerror(-r),
            r == -EOPNOTSUPP ? "; this kernel has no policy routing (CONFIG_IP_MULTIPLE_TABLES)"
                             : "");
    return r;
}

void routes_remove(unsigned instance)
{
    struct mnl_socket *nl;

    if (open_socket(&nl) < 0)
        return;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t family = i == 0 ? AF_INET : AF_INET6;

        for (size_t j = n_rules(instance); j-- > 0;)
            rule(nl, false, family, instance, j);
        route(nl, false, family, instance);
    }
    mnl_socket_close(nl);
}
