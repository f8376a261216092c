/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation. To delete an entry does not end its connection: the kernel takes the next
 * packet up again, in mid-stream, and if it is one of the server's, the new entry even has the
 * directions the wrong way round. So a TCP entry is not deleted but marked, by a bit of its status
 * that can be set from outside and that rules can see (NFT_CT_ENDED, IPS_FIXED_TIMEOUT), and the
 * rules answer the next packet of whoever opened the connection with a reset. By that bit its life
 * is no longer prolonged, so the entry goes by itself: in a minute when all that the capture asks
 * for is in the entry; when the capture also asks for a user or the like, then the rules
 * may yet spare the connection, and the entry keeps the time that it has.
 *
 * UDP has no reset: its entries are deleted, and the next packet is a new one to the rules.
 *
 * The table is read first and changed afterwards, so that the changes do not disturb the reading.
 */
#include "nft/conntrack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "nft/explain.h"
#include "nft/selection.h"

#define LAST_SECONDS 60

/* One direction of an entry. */
struct tuple {
    struct addr from, to;
    uint8_t protocol;
};

struct entry {
    struct tuple original;
    struct addr reply_from; /* who answers: the destination, or what it was translated to */
    uint32_t status;
    bool labelled; /* NFT_FLOW_LABEL */
    bool exact;    /* the capture asks for nothing that is not in the entry */
    bool has_zone;
    uint16_t zone;
};

struct scan {
    const struct capture_set *set;
    struct addr *local; /* the addresses of this host */
    size_t n_local, cap_local;
    struct entry *chosen;
    size_t n_chosen, cap_chosen;
    int error;
};

/* ---- reading ---- */

static void parse_ip(const struct nlattr *nest, struct tuple *t)
{
    const struct nlattr *a;

    mnl_attr_for_each_nested(a, nest)
    {
        size_t size = mnl_attr_get_payload_len(a);
        const void *ip = mnl_attr_get_payload(a);

        switch (mnl_attr_get_type(a)) {
        case CTA_IP_V4_SRC:
            if (size == 4)
                addr_set_v4(&t->from, ip, t->from.port);
            break;
        case CTA_IP_V4_DST:
            if (size == 4)
                addr_set_v4(&t->to, ip, t->to.port);
            break;
        case CTA_IP_V6_SRC:
            if (size == 16)
                addr_set_v6(&t->from, ip, t->from.port);
            break;
        case CTA_IP_V6_DST:
            if (size == 16)
                addr_set_v6(&t->to, ip, t->to.port);
            break;
        default:
            break;
        }
    }
}

static void parse_ports(const struct nlattr *nest, struct tuple *t)
{
    const struct nlattr *a;

    mnl_attr_for_each_nested(a, nest)
    {
        size_t size = mnl_attr_get_payload_len(a);

        if (mnl_attr_get_type(a) == CTA_PROTO_NUM && size == 1)
            t->protocol = mnl_attr_get_u8(a);
        if (mnl_attr_get_type(a) == CTA_PROTO_SRC_PORT && size == 2)
            t->from.port = ntohs(mnl_attr_get_u16(a));
        if (mnl_attr_get_type(a) == CTA_PROTO_DST_PORT && size == 2)
            t->to.port = ntohs(mnl_attr_get_u16(a));
    }
}

static void parse_tuple(const struct nlattr *nest, struct tuple *t)
{
    const struct nlattr *a;

    memset(t, 0, sizeof(*t));
    mnl_attr_for_each_nested(a, nest)
    {
        if (mnl_attr_get_type(a) == CTA_TUPLE_IP)
            parse_ip(a, t);
        if (mnl_attr_get_type(a) == CTA_TUPLE_PROTO)
            parse_ports(a, t);
    }
}

static bool has_label(const struct nlattr *a)
{
    unsigned long bits[16 / sizeof(long)] = {0};
    unsigned per_long = 8 * sizeof(long);
    size_t size = mnl_attr_get_payload_len(a);

    memcpy(bits, mnl_attr_get_payload(a), size < sizeof(bits) ? size : sizeof(bits));
    return bits[NFT_FLOW_LABEL / per_long] >> NFT_FLOW_LABEL % per_long & 1;
}

static bool parse_entry(const struct nlmsghdr *h, struct entry *e)
{
    const struct nlattr *a;
    struct tuple reply = {.protocol = 0};
    bool found = false;

    memset(e, 0, sizeof(*e));
    if (h->nlmsg_len < mnl_nlmsg_size(sizeof(struct nfgenmsg)))
        return false;
    mnl_attr_for_each(a, h, sizeof(struct nfgenmsg))
    {
        switch (mnl_attr_get_type(a)) {
        case CTA_TUPLE_ORIG:
            parse_tuple(a, &e->original);
            found = true;
            break;
        case CTA_TUPLE_REPLY:
            parse_tuple(a, &reply);
            break;
        case CTA_STATUS:
            if (mnl_attr_get_payload_len(a) == 4)
                e->status = ntohl(mnl_attr_get_u32(a));
            break;
        case CTA_LABELS:
            e->labelled = has_label(a);
            break;
        case CTA_ZONE:
            e->has_zone = mnl_attr_get_payload_len(a) == 2;
            e->zone = e->has_zone ? mnl_attr_get_u16(a) : 0;
            break;
        default:
            break;
        }
    }
    e->reply_from = reply.from;
    return found;
}

/* ---- choosing ---- */

static bool is_local(const struct scan *s, const struct addr *a)
{
    for (size_t i = 0; i < s->n_local; i++)
        if (addr_same_ip(&s->local[i], a))
            return true;
    return addr_is_loopback(a);
}

static bool in_prefixes(const struct prefix *p, size_t n, const struct addr *a)
{
    for (size_t i = 0; i < n; i++)
        if (prefix_contains(&p[i], a))
            return true;
    return false;
}

static bool in_ports(const struct port_range *ports, size_t n, uint16_t port)
{
    for (size_t i = 0; i < n; i++)
        if (port >= ports[i].first && port <= ports[i].last)
            return true;
    return n == 0;
}

/* As far as an entry can tell. */
static bool selects(const struct capture_policy *p, enum capture_hook hook, const struct tuple *t)
{
    const struct nft_scope scope = {.hooks = 1u << hook, .udp_hooks = 1u << hook};
    const struct addr *to = &t->to;

    if (p->action == CAPTURE_PROXY &&
        ((p->dns && to->port == 53 && !addr_is_loopback(to)) ||
         (p->fake && in_prefixes(addr_fake_prefixes, addr_n_fake_prefixes, to))))
        return true;
    if (t->protocol == IPPROTO_TCP
            ? !nft_selects_tcp(p, &scope) || !in_ports(p->tcp_ports, p->n_tcp_ports, to->port)
            : !nft_selects_udp(p, &scope) || !in_ports(p->udp_ports, p->n_udp_ports, to->port))
        return false;
    if (p->n_to > 0 && !in_prefixes(p->to, p->n_to, to))
        return false;
    if (in_prefixes(p->not_to, p->n_not_to, to))
        return false;
    return p->private || !in_prefixes(addr_private_prefixes, addr_n_private_prefixes, to);
}

static bool left_alone(const struct capture_policy *p, const struct tuple *t)
{
    bool dns = t->to.port == 53;

    return t->protocol == IPPROTO_UDP && !(dns && p->dns) &&
           (p->udp == CAPTURE_UDP_LEAVE || (dns && p->dns_direct));
}

static bool asks_for_more(const struct capture_policy *p)
{
    return p->n_uids > 0 || p->n_not_uids > 0 || p->n_interfaces > 0 || p->has_mark;
}

/* Whether it was translated to one of our listeners. */
static bool is_ours(const struct scan *s, const struct entry *e)
{
    if (!(e->status & IPS_DST_NAT) || !addr_is_loopback(&e->reply_from))
        return false;
    for (size_t i = 0; i < s->set->n_policies; i++)
        if (e->reply_from.port == s->set->policies[i].port_v4 ||
            e->reply_from.port == s->set->policies[i].port_v6)
            return true;
    for (size_t i = 0; i < s->set->n_seats; i++)
        if (e->reply_from.port == s->set->seats[i].port_v4 ||
            e->reply_from.port == s->set->seats[i].port_v6)
            return true;
    return false;
}

static bool chosen(const struct scan *s, struct entry *e)
{
    const struct tuple *t = &e->original;
    enum capture_hook hook = is_local(s, &t->from) ? CAPTURE_OUTPUT : CAPTURE_GATEWAY;

    if ((t->protocol != IPPROTO_TCP && t->protocol != IPPROTO_UDP) || e->labelled ||
        is_local(s, &t->to) || is_ours(s, e))
        return false;
    for (size_t i = 0; i < s->set->n_upstreams; i++)
        if (addr_same_ip(&s->set->upstreams[i], &t->to) && s->set->upstreams[i].port == t->to.port)
            return false;
    e->exact = true;
    for (size_t i = 0; i < s->set->n_policies; i++) {
        const struct capture_policy *p = &s->set->policies[i];

        if (p->hook != hook || !selects(p, hook, t))
            continue;
        if (asks_for_more(p))
            e->exact = false;
        if (p->reset_established && p->action != CAPTURE_DIRECT && !left_alone(p, t))
            return true;
        /* It lets the connection go on, unless what the entry does not tell leads past it. */
        if (!asks_for_more(p))
            return false;
    }
    return false;
}

/* ---- the two passes ---- */

/* The array with room for one more; NULL: no memory. */
static void *grow(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return array;
    size_t wanted = *cap ? *cap * 2 : 64;
    void *p = reallocarray(array, wanted, size);

    if (p)
        *cap = wanted;
    return p;
}

static int take_entry(const struct nlmsghdr *h, void *data)
{
    struct scan *s = data;
    struct entry e;

    if (!parse_entry(h, &e) || !chosen(s, &e))
        return MNL_CB_OK;
    struct entry *entries = grow(s->chosen, s->n_chosen, &s->cap_chosen, sizeof(e));

    if (!entries) {
        s->error = -ENOMEM;
        return MNL_CB_OK;
    }
    s->chosen = entries;
    s->chosen[s->n_chosen++] = e;
    return MNL_CB_OK;
}

static int find_local(struct scan *s)
{
    struct ifaddrs *list, *i;

    if (getifaddrs(&list) < 0)
        return -errno;
    for (i = list; i; i = i->ifa_next) {
        struct addr a;

        if (!i->ifa_addr ||
            addr_from_sockaddr(i->ifa_addr,
                               i->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                                                 : sizeof(struct sockaddr_in6),
                               &a) < 0)
            continue;
        struct addr *local = grow(s->local, s->n_local, &s->cap_local, sizeof(a));

        if (!local) {
            freeifaddrs(list);
            return -ENOMEM;
        }
        s->local = local;
        s->local[s->n_local++] = a;
    }
    freeifaddrs(list);
    return 0;
}

static struct nlmsghdr *begin(char *buf, uint16_t type, uint16_t flags, uint32_t seq,
                              uint8_t family)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

    h->nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | type);
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    h->nlmsg_seq = seq;
    g->nfgen_family = family;
    g->version = NFNETLINK_V0;
    return h;
}

/* Sends and reads to the end of the answer. */
static int transact(struct mnl_socket *socket, const struct nlmsghdr *h, mnl_cb_t callback,
                    void *data)
{
    _Alignas(struct nlmsghdr) char buf[32768];

    if (mnl_socket_sendto(socket, h, h->nlmsg_len) < 0)
        return -errno;
    for (;;) {
        ssize_t n = mnl_socket_recvfrom(socket, buf, sizeof(buf));

        if (n < 0)
            return -errno;
        int r =
            mnl_cb_run(buf, (size_t)n, h->nlmsg_seq, mnl_socket_get_portid(socket), callback, data);

        if (r < 0)
            return -errno;
        if (r == MNL_CB_STOP)
            return 0;
    }
}

static void put_tuple(struct nlmsghdr *h, const struct tuple *t)
{
    bool v4 = addr_is_v4(&t->to);
    struct nlattr *tuple = mnl_attr_nest_start(h, CTA_TUPLE_ORIG);
    struct nlattr *part = mnl_attr_nest_start(h, CTA_TUPLE_IP);

    mnl_attr_put(h, v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, v4 ? 4 : 16, t->from.ip + (v4 ? 12 : 0));
    mnl_attr_put(h, v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, v4 ? 4 : 16, t->to.ip + (v4 ? 12 : 0));
    mnl_attr_nest_end(h, part);
    part = mnl_attr_nest_start(h, CTA_TUPLE_PROTO);
    mnl_attr_put_u8(h, CTA_PROTO_NUM, t->protocol);
    mnl_attr_put_u16(h, CTA_PROTO_SRC_PORT, htons(t->from.port));
    mnl_attr_put_u16(h, CTA_PROTO_DST_PORT, htons(t->to.port));
    mnl_attr_nest_end(h, part);
    mnl_attr_nest_end(h, tuple);
}

static int end_entry(struct mnl_socket *socket, uint32_t seq, const struct entry *e)
{
    _Alignas(struct nlmsghdr) char buf[1024];
    bool tcp = e->original.protocol == IPPROTO_TCP;
    struct nlmsghdr *h = begin(buf, tcp ? IPCTNL_MSG_CT_NEW : IPCTNL_MSG_CT_DELETE, NLM_F_ACK, seq,
                               addr_is_v4(&e->original.to) ? AF_INET : AF_INET6);

    put_tuple(h, &e->original);
    if (e->has_zone)
        mnl_attr_put_u16(h, CTA_ZONE, e->zone);
    if (tcp) {
        mnl_attr_put_u32(h, CTA_STATUS, htonl(e->status | NFT_CT_ENDED));
        if (e->exact && !(e->status & NFT_CT_ENDED))
            mnl_attr_put_u32(h, CTA_TIMEOUT, htonl(LAST_SECONDS));
    }
    return transact(socket, h, NULL, NULL);
}

static int flush_all(struct scan *s, struct mnl_socket *socket, uint32_t seq, unsigned *n)
{
    for (size_t i = 0; i < s->n_chosen; i++) {
        int r = end_entry(socket, seq++, &s->chosen[i]);

        /* It went meanwhile, or is on its way. */
        if (r == -ENOENT || r == -EBUSY || r == -ETIME)
            continue;
        if (r < 0)
            return r;
        (*n)++;
    }
    return 0;
}

static int scan_and_flush(struct scan *s, struct mnl_socket *socket, unsigned *n)
{
    _Alignas(struct nlmsghdr) char buf[256];
    uint32_t seq = (uint32_t)time(NULL);
    int r = find_local(s);

    if (r == 0)
        r = transact(socket, begin(buf, IPCTNL_MSG_CT_GET, NLM_F_DUMP, seq, AF_UNSPEC), take_entry,
                     s);
    if (r == 0)
        r = s->error;
    return r < 0 ? r : flush_all(s, socket, seq + 1, n);
}

static bool anything_to_do(const struct capture_set *set)
{
    for (size_t i = 0; i < set->n_policies; i++)
        if (set->policies[i].reset_established && set->policies[i].hook != CAPTURE_CGROUP)
            return true;
    return false;
}

static int explain(int error, char *why, size_t size)
{
    if (error == -EINVAL || error == -EOPNOTSUPP || error == -EPROTONOSUPPORT)
        return nft_say(-EOPNOTSUPP, why, size,
                       "established connections cannot be reset: this kernel has no ctnetlink "
                       "(CONFIG_NF_CT_NETLINK)");
    return nft_say(error, why, size, "established connections cannot be reset: %s",
                   strerror(-error));
}

int conntrack_flush_selected(const struct capture_set *set, char *why, size_t size, unsigned *ret_n)
{
    struct scan s = {.set = set};
    struct mnl_socket *socket;
    unsigned n = 0;
    int r = 0;

    if (anything_to_do(set)) {
        socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
        if (!socket)
            return explain(-errno, why, size);
        r = mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno
                                                               : scan_and_flush(&s, socket, &n);
        mnl_socket_close(socket);
        free(s.local);
        free(s.chosen);
    }
    if (r < 0)
        return explain(r, why, size);
    if (ret_n)
        *ret_n = n;
    return 0;
}
