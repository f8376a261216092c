/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/ipsec.h: a dump of the kernel's policies (linux/xfrm.h). To ask for it would load the
 * kernel's module, which only those have loaded who have policies; so it is looked for first, by
 * its own socket.
 */
#include "keeper/ipsec.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/xfrm.h>

static bool is_loaded(void)
{
    FILE *f = fopen("/proc/net/netlink", "re");
    char line[256];
    unsigned protocol, port;
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f))
        found = sscanf(line, "%*s %u %u", &protocol, &port) == 2 && protocol == NETLINK_XFRM &&
                port == 0;
    if (f)
        fclose(f);
    return found;
}

struct search {
    const struct addr *addrs;
    bool *wrapped;
    size_t n;
};

/* Whether the policy transforms, and is no interface's. */
static bool transforms(const struct nlmsghdr *message)
{
    const struct nlattr *a;
    bool some = false;

    mnl_attr_for_each(a, message, sizeof(struct xfrm_userpolicy_info))
    {
        const size_t len = mnl_attr_get_payload_len(a);
        const void *payload = mnl_attr_get_payload(a);

        if (mnl_attr_get_type(a) == XFRMA_TMPL) {
            some = len >= sizeof(struct xfrm_user_tmpl);
        } else if (mnl_attr_get_type(a) == XFRMA_IF_ID && len >= sizeof(uint32_t)) {
            if (mnl_attr_get_u32(a) != 0)
                return false;
        } else if (mnl_attr_get_type(a) == XFRMA_MARK && len >= sizeof(struct xfrm_mark)) {
            struct xfrm_mark mark;

            memcpy(&mark, payload, sizeof(mark));
            if (mark.m != 0)
                return false;
        }
    }
    return some;
}

static bool selects(const struct xfrm_selector *s, const struct addr *a)
{
    struct prefix p = {.len = s->prefixlen_d};

    /* What goes by lo is never wrapped, whatever a policy for everything says. */
    if (addr_is_loopback(a) || (s->proto != 0 && s->proto != IPPROTO_TCP))
        return false;
    if (s->family == AF_INET) {
        p.ip[10] = p.ip[11] = 0xff;
        memcpy(p.ip + 12, &s->daddr, 4);
        p.len += 96;
    } else {
        memcpy(p.ip, &s->daddr, 16);
    }
    return p.len <= 128 && prefix_contains(&p, a);
}

static int on_policy(const struct nlmsghdr *message, void *ctx)
{
    const struct xfrm_userpolicy_info *policy = mnl_nlmsg_get_payload(message);
    const struct search *s = ctx;

    if (message->nlmsg_type != XFRM_MSG_NEWPOLICY ||
        mnl_nlmsg_get_payload_len(message) < sizeof(*policy) || policy->dir != XFRM_POLICY_OUT ||
        !transforms(message))
        return MNL_CB_OK;
    for (size_t i = 0; i < s->n; i++)
        s->wrapped[i] |= selects(&policy->sel, &s->addrs[i]);
    return MNL_CB_OK;
}

int ipsec_find_wrapped(const struct addr *addrs, bool *wrapped, size_t n)
{
    struct search s = {addrs, wrapped, n};
    char buf[16384];
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    const unsigned seq = (unsigned)time(NULL);
    struct mnl_socket *nl;
    int r = 1;

    memset(wrapped, 0, n * sizeof(*wrapped));
    if (!is_loaded())
        return 0;
    nl = mnl_socket_open2(NETLINK_XFRM, SOCK_CLOEXEC);
    if (!nl)
        return -errno;
    request->nlmsg_type = XFRM_MSG_GETPOLICY;
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request->nlmsg_seq = seq;
    mnl_nlmsg_put_extra_header(request, sizeof(struct xfrm_userpolicy_id));
    if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ||
        mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        r = -errno;
    while (r > 0) {
        ssize_t got = mnl_socket_recvfrom(nl, buf, sizeof(buf));

        r = got < 0 ? -1
                    : mnl_cb_run(buf, (size_t)got, seq, mnl_socket_get_portid(nl), on_policy, &s);
        if (r < 0)
            r = -errno;
    }
    mnl_socket_close(nl);
    return r;
}
