/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_links.h. Listening begins before the first dump, so that no interface falls between
 * the two. A message about an interface that is known already is of no interest, but for the loss
 * of a filter or a qdisc: then the interface is taken from the programs' list first, and put right
 * after. When messages were lost, everything is looked at again.
 */
#include "bpf/stitch_links.h"

#include <errno.h>
#include <linux/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/fd.h"
#include "bpf/object.h"
#include "log.h"

#define PRIORITY 1
#define HANDLE   0x5500 /* and the instance */

#define LOOKS_MAX 100 /* at interfaces that change as fast as they are listed */

static const char *const program_names[STITCH_N_FILTERS] = {
    [STITCH_OUT] = "us_st_out",
    [STITCH_IN] = "us_st_in",
    [STITCH_OUT_BARE] = "us_st_out_bare",
    [STITCH_IN_BARE] = "us_st_in_bare",
};

void stitch_links_init(struct stitch_links *l)
{
    *l = (struct stitch_links){.devices = -1};
    for (size_t i = 0; i < STITCH_N_FILTERS; i++)
        l->programs[i] = -1;
}

int stitch_links_open(struct stitch_links *l, struct bpf_object *object, int devices,
                      unsigned instance)
{
    l->handle = HANDLE + instance;
    l->devices = devices;
    for (size_t i = 0; i < STITCH_N_FILTERS; i++) {
        l->programs[i] = bpf_object_dup_program(object, program_names[i]);
        if (l->programs[i] < 0)
            return l->programs[i];
    }
    l->events = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (l->events == NULL)
        return -errno;
    return mnl_socket_bind(l->events, RTMGRP_LINK | RTMGRP_TC, MNL_SOCKET_AUTOPID) < 0 ? -errno : 0;
}

void stitch_links_close(struct stitch_links *l)
{
    for (size_t i = 0; i < l->n; i++)
        stitch_first_take(&l->links[i].first);
    for (size_t i = 0; i < STITCH_N_FILTERS; i++)
        fd_close(&l->programs[i]);
    if (l->events != NULL)
        mnl_socket_close(l->events);
    l->events = NULL;
}

int stitch_links_fd(const struct stitch_links *l)
{
    return mnl_socket_get_fd(l->events);
}

static struct stitch_link *find(struct stitch_links *l, int index)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->links[i].index == index)
            return &l->links[i];
    }
    return NULL;
}

/* Whether packets of such a device begin with an Ethernet header (dev_is_mac_header_xmit()), or
 * with the IP header; false: neither. */
static bool header_of(unsigned type, bool *ret_bare)
{
    switch (type) {
    case ARPHRD_ETHER:
    case ARPHRD_LOOPBACK:
        *ret_bare = false;
        return true;
    case ARPHRD_NONE:
    case ARPHRD_RAWIP:
    case ARPHRD_TUNNEL:
    case ARPHRD_TUNNEL6:
    case ARPHRD_SIT:
    case ARPHRD_IPGRE:
    case ARPHRD_IP6GRE:
    case ARPHRD_PPP:
        *ret_bare = true;
        return true;
    default:
        return false;
    }
}

/* Whether IP never goes by such a device, whoever is up. */
static bool carries_no_ip(unsigned type)
{
    return type == ARPHRD_CAN || type == ARPHRD_IEEE80211 || type == ARPHRD_IEEE80211_PRISM ||
           type == ARPHRD_IEEE80211_RADIOTAP || type == ARPHRD_IEEE802154 ||
           type == ARPHRD_IEEE802154_MONITOR || type == ARPHRD_NETLINK || type == ARPHRD_VSOCKMON;
}

static int put_filter(const struct stitch_links *l, int index, enum bpf_tc_attach_point where,
                      int program)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = index, .attach_point = where);
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = l->programs[program], .handle = l->handle,
                .priority = PRIORITY, .flags = BPF_TC_F_REPLACE);

    return bpf_tc_attach(&hook, &options);
}

/* The program of our filter there; 0: there is none. */
static uint32_t filter_at(const struct stitch_links *l, int index, enum bpf_tc_attach_point where)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = index, .attach_point = where);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = l->handle, .priority = PRIORITY);

    return bpf_tc_query(&hook, &options) == 0 ? options.prog_id : 0;
}

static void take_filter(const struct stitch_links *l, int index, enum bpf_tc_attach_point where)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = index, .attach_point = where);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = l->handle, .priority = PRIORITY);

    bpf_tc_detach(&hook, &options);
}

static int put_first(const struct stitch_links *l, struct stitch_link *link)
{
    return stitch_first_put(&link->first, link->index,
                            l->programs[link->bare ? STITCH_IN_BARE : STITCH_IN],
                            l->programs[link->bare ? STITCH_OUT_BARE : STITCH_OUT]);
}

/* What comes back first, so that nothing goes out that could not be answered. */
static int put_filters(struct stitch_links *l, struct stitch_link *link)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = link->index,
                .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
    const uint32_t key = (uint32_t)link->index;
    const uint8_t one = 1;
    int r = bpf_tc_hook_create(&hook);

    if (r < 0 && r != -EEXIST)
        return r;
    /* An earlier process has left its filter there: the qdisc was made for it, or serves others
     * too.
     */
    if (r == 0 || filter_at(l, link->index, BPF_TC_INGRESS) != 0)
        link->made_qdisc = true;
    r = put_filter(l, link->index, BPF_TC_INGRESS, link->bare ? STITCH_IN_BARE : STITCH_IN);
    if (r == 0)
        r = put_filter(l, link->index, BPF_TC_EGRESS, link->bare ? STITCH_OUT_BARE : STITCH_OUT);
    /* The qdisc "ingress" takes a filter for what leaves, too, and asks it about what arrives. */
    if (r == 0 &&
        filter_at(l, link->index, BPF_TC_INGRESS) == filter_at(l, link->index, BPF_TC_EGRESS))
        r = -EBUSY;
    /* Whether that was enough is seen by what comes to the guard. */
    if (r == 0 && (l->first || stitch_first_is_needed(link->index)))
        put_first(l, link);
    return r < 0 ? r : bpf_map_update_elem(l->devices, &key, &one, BPF_ANY);
}

static void forget(struct stitch_links *l, int index)
{
    const uint32_t key = (uint32_t)index;
    struct stitch_link *link = find(l, index);

    bpf_map_delete_elem(l->devices, &key);
    if (link == NULL)
        return;
    stitch_first_take(&link->first);
    *link = l->links[--l->n];
}

/* Said once, and not with every message about it. */
static void say_uncovered(struct stitch_links *l, int index, const char *name, const char *why)
{
    if (l->uncovered != index)
        log_warning("stitch: no filters on %s: connections are relayed: %s", name, why);
    l->uncovered = index;
}

static void cover(struct stitch_links *l, int index, unsigned type, const char *name)
{
    struct stitch_link *link = find(l, index);
    bool bare, had = link != NULL;
    int r = 0;

    if (!header_of(type, &bare)) {
        if (!carries_no_ip(type))
            say_uncovered(l, index, name, "its type is not known");
        return;
    }
    if (!had && l->n == STITCH_LINKS_MAX) {
        r = -ENOSPC;
    } else {
        if (!had) {
            link = &l->links[l->n++];
            *link = (struct stitch_link){.index = index, .first = STITCH_FIRST_NONE};
        }
        link->bare = bare;
        link->seen = true;
        r = put_filters(l, link);
        if (r < 0) {
            forget(l, index);
            take_filter(l, index, BPF_TC_EGRESS); /* nobody would take one alone away */
            take_filter(l, index, BPF_TC_INGRESS);
        }
    }
    if (r == 0 && l->uncovered == index)
        l->uncovered = 0;
    if (r < 0 && r != -ENODEV)
        say_uncovered(l, index, name,
                      r == -EBUSY ? "it has the qdisc \"ingress\", which leaves no room for clsact"
                                  : strerror(-r));
}

static const char *name_of(const struct nlmsghdr *message)
{
    const struct nlattr *attribute;

    mnl_attr_for_each(attribute, message, sizeof(struct ifinfomsg))
    {
        if (mnl_attr_get_type(attribute) == IFLA_IFNAME &&
            mnl_attr_validate(attribute, MNL_TYPE_NUL_STRING) >= 0)
            return mnl_attr_get_str(attribute);
    }
    return "?";
}

static int on_dumped(const struct nlmsghdr *message, void *ctx)
{
    const struct ifinfomsg *link = mnl_nlmsg_get_payload(message);

    if (message->nlmsg_type == RTM_NEWLINK)
        cover(ctx, link->ifi_index, link->ifi_type, name_of(message));
    return MNL_CB_OK;
}

/* Asks for all interfaces, or one. -EINTR: they changed meanwhile, and some may be missing. */
static int look_once(struct stitch_links *l, int index, mnl_cb_t on_link)
{
    char buf[16384];
    struct mnl_socket *s = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    struct ifinfomsg *link;
    unsigned seq = (unsigned)time(NULL);
    ssize_t n = 0;
    int r = 1;

    if (s == NULL)
        return -errno;
    request->nlmsg_type = RTM_GETLINK;
    request->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | (index ? NLM_F_ACK : NLM_F_DUMP));
    request->nlmsg_seq = seq;
    link = mnl_nlmsg_put_extra_header(request, sizeof(*link));
    link->ifi_index = index;
    if (mnl_socket_bind(s, 0, MNL_SOCKET_AUTOPID) < 0 ||
        mnl_socket_sendto(s, request, request->nlmsg_len) < 0)
        r = -errno;
    while (r > 0) {
        n = mnl_socket_recvfrom(s, buf, sizeof(buf));
        r = n < 0 ? -errno : mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(s), on_link, l);
        if (n >= 0 && r < 0)
            r = -errno;
    }
    mnl_socket_close(s);
    return r;
}

static int look(struct stitch_links *l, int index, mnl_cb_t on_link)
{
    int r = -EINTR;

    for (int i = 0; r == -EINTR && i < LOOKS_MAX; i++)
        r = look_once(l, index, on_link);
    return r;
}

/* Everything, also what is gone: another interface may have its index one day. */
static int look_at_all(struct stitch_links *l)
{
    int r;

    for (size_t i = 0; i < l->n; i++)
        l->links[i].seen = false;
    r = look(l, 0, on_dumped);
    for (size_t i = r < 0 ? 0 : l->n; i-- > 0;) {
        if (!l->links[i].seen)
            forget(l, l->links[i].index);
    }
    return r;
}

int stitch_links_attach(struct stitch_links *l, char *why, size_t why_size)
{
    int r = look_at_all(l);

    if (r < 0)
        snprintf(why, why_size, "the interfaces cannot be listed: %s", strerror(-r));
    return r;
}

static int on_event(const struct nlmsghdr *message, void *ctx)
{
    struct stitch_links *l = ctx;
    const struct ifinfomsg *link = mnl_nlmsg_get_payload(message);
    const struct tcmsg *tc = mnl_nlmsg_get_payload(message);
    int r;

    switch (message->nlmsg_type) {
    case RTM_NEWLINK:
        /* Messages of a bridge about its ports have another family. */
        if (link->ifi_family == AF_UNSPEC && find(l, link->ifi_index) == NULL)
            cover(l, link->ifi_index, link->ifi_type, name_of(message));
        break;
    case RTM_DELLINK:
        if (link->ifi_family != AF_UNSPEC)
            break;
        forget(l, link->ifi_index);
        if (l->uncovered == link->ifi_index) {
            l->uncovered = 0;
            look(l, 0, on_dumped); /* it may not have been the only one */
        }
        break;
    case RTM_DELTFILTER:
    case RTM_DELQDISC:
        if (find(l, tc->tcm_ifindex) == NULL ||
            (message->nlmsg_type == RTM_DELTFILTER && tc->tcm_info >> 16 != PRIORITY))
            break;
        forget(l, tc->tcm_ifindex);
        r = look(l, tc->tcm_ifindex, on_dumped);
        if (r < 0 && r != -ENODEV)
            log_warning("stitch: interface %d cannot be asked about: %s", tc->tcm_ifindex,
                        strerror(-r));
        break;
    default:
        break;
    }
    return MNL_CB_OK;
}

int stitch_links_follow(struct stitch_links *l)
{
    char buf[16384];

    for (;;) {
        ssize_t n = mnl_socket_recvfrom(l->events, buf, sizeof(buf));

        if (n < 0 && errno == ENOBUFS) {
            int r = look_at_all(l);

            if (r < 0)
                return r;
        } else if (n < 0) {
            return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        } else if (mnl_cb_run(buf, (size_t)n, 0, 0, on_event, l) < 0 && errno != EINTR) {
            return -errno;
        }
    }
}

int stitch_links_go_first(struct stitch_links *l, int index)
{
    int r = -ENODEV;

    l->first = true;
    for (size_t i = 0; i < l->n; i++) {
        int put = put_first(l, &l->links[i]);

        if (l->links[i].index == index)
            r = put;
    }
    return r;
}

static int on_filter(const struct nlmsghdr *message, void *ctx)
{
    bool *found = ctx;

    *found |= message->nlmsg_type == RTM_NEWTFILTER;
    return MNL_CB_OK;
}

/* Whether anybody has a filter there; in doubt, yes. */
static bool has_filters(struct mnl_socket *s, int index, uint32_t parent)
{
    char buf[16384];
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    unsigned seq = (unsigned)time(NULL);
    struct tcmsg *tc;
    bool found = false;
    int r = 1;

    request->nlmsg_type = RTM_GETTFILTER;
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request->nlmsg_seq = seq;
    tc = mnl_nlmsg_put_extra_header(request, sizeof(*tc));
    tc->tcm_ifindex = index;
    tc->tcm_parent = parent;
    if (mnl_socket_sendto(s, request, request->nlmsg_len) < 0)
        return true;
    while (r > 0) {
        ssize_t n = mnl_socket_recvfrom(s, buf, sizeof(buf));

        r = n < 0 ? -1
                  : mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(s), on_filter, &found);
    }
    return found || r < 0;
}

/* A qdisc that was made for our filters goes with them, unless somebody uses it meanwhile. */
static void take_qdisc(struct mnl_socket *s, int index)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = index,
                .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);

    if (!has_filters(s, index, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)) &&
        !has_filters(s, index, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)))
        bpf_tc_hook_destroy(&hook);
}

void stitch_links_detach(struct stitch_links *l)
{
    struct mnl_socket *s = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);

    if (s != NULL && mnl_socket_bind(s, 0, MNL_SOCKET_AUTOPID) < 0) {
        mnl_socket_close(s);
        s = NULL;
    }
    while (l->n > 0) {
        struct stitch_link link = l->links[l->n - 1];

        forget(l, link.index);
        take_filter(l, link.index, BPF_TC_EGRESS);
        take_filter(l, link.index, BPF_TC_INGRESS);
        if (link.made_qdisc && s != NULL)
            take_qdisc(s, link.index);
    }
    if (s != NULL)
        mnl_socket_close(s);
}

static int on_left_over(const struct nlmsghdr *message, void *ctx)
{
    const struct ifinfomsg *i = mnl_nlmsg_get_payload(message);
    struct stitch_links *l = ctx;

    if (message->nlmsg_type == RTM_NEWLINK && l->n < STITCH_LINKS_MAX &&
        filter_at(l, i->ifi_index, BPF_TC_INGRESS) != 0)
        l->links[l->n++] = (struct stitch_link){
            .index = i->ifi_index, .made_qdisc = true, .first = STITCH_FIRST_NONE};
    return MNL_CB_OK;
}

void stitch_links_clean(unsigned instance)
{
    struct stitch_links *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return;
    stitch_links_init(l);
    l->handle = HANDLE + instance;
    look(l, 0, on_left_over);
    stitch_links_detach(l);
    free(l);
}
