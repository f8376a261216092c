/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The elements of one set, dumped over a socket of their own: another dump is under way. */
#include "doctor/firewall_set.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <time.h>

#include <linux/netfilter/nf_tables.h>

#include <libmnl/libmnl.h>
#include <libnftnl/set.h>

#define DUMP_BUFFER 65536

struct protocols {
    bool tcp, udp, unknown;
};

static int on_element(struct nftnl_set_elem *e, void *ctx)
{
    struct protocols *p = ctx;
    uint32_t len = 0;
    const uint8_t *key = nftnl_set_elem_get(e, NFTNL_SET_ELEM_KEY, &len);

    if (!key || len == 0 || nftnl_set_elem_is_set(e, NFTNL_SET_ELEM_FLAGS)) {
        p->unknown = true;
        return 0;
    }
    p->tcp = p->tcp || *key == IPPROTO_TCP;
    p->udp = p->udp || *key == IPPROTO_UDP;
    return 0;
}

static int on_elements(const struct nlmsghdr *nlh, void *ctx)
{
    struct nftnl_set *s = nftnl_set_alloc();

    if (s && nftnl_set_elems_nlmsg_parse(nlh, s) == 0)
        nftnl_set_elem_foreach(s, on_element, ctx);
    else
        ((struct protocols *)ctx)->unknown = true;
    if (s)
        nftnl_set_free(s);
    return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, uint32_t family, struct nftnl_set *s, char *buf,
                struct protocols *ret)
{
    uint32_t seq = (uint32_t)time(NULL);
    struct nlmsghdr *nlh =
        nftnl_nlmsg_build_hdr(buf, NFT_MSG_GETSETELEM, (uint16_t)family, NLM_F_DUMP, seq);
    int end = MNL_CB_OK;

    nftnl_set_elems_nlmsg_build_payload(nlh, s);
    if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ||
        mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
        return -errno;
    while (end == MNL_CB_OK) {
        ssize_t n = mnl_socket_recvfrom(nl, buf, DUMP_BUFFER);

        end = n < 0 ? MNL_CB_ERROR
                    : mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl), on_elements, ret);
    }
    return end < 0 ? -errno : 0;
}

int firewall_set(uint32_t family, const char *table, const char *set, bool *ret_tcp, bool *ret_udp)
{
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    struct nftnl_set *s = nftnl_set_alloc();
    char *buf = malloc(DUMP_BUFFER);
    struct protocols found = {.tcp = false};
    int r = -ENOMEM;

    if (nl && s && buf && table && set && nftnl_set_set_str(s, NFTNL_SET_TABLE, table) == 0 &&
        nftnl_set_set_str(s, NFTNL_SET_NAME, set) == 0)
        r = dump(nl, family, s, buf, &found);
    free(buf);
    if (s)
        nftnl_set_free(s);
    if (nl)
        mnl_socket_close(nl);
    *ret_tcp = found.tcp;
    *ret_udp = found.udp;
    return r < 0 ? r : found.unknown ? -EOPNOTSUPP : 0;
}
