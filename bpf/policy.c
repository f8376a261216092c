/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/policy.h. The sets are maps, so a policy may have tens of thousands of prefixes: `to`, and
 * `not-to` together with the default exclusions, are longest-prefix-match tries over 128 bits (IPv4
 * is mapped), ports are a bitmap, users and upstreams are hashes. Our own listeners stand among the
 * upstreams: neither is ever redirected.
 */
#include "bpf/policy.h"

#include <errno.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "addr.h"

static size_t n_private(const struct capture_policy *policy)
{
    return policy->private ? 0 : addr_n_private_prefixes;
}

bool bpf_policy_is_honest(const struct capture_set *set, const struct capture_policy *policy)
{
    return policy->honest && policy->action == CAPTURE_PROXY && set->n_seats > 0;
}

bool bpf_policy_is_stitching(const struct capture_set *set, const struct capture_policy *policy)
{
    return policy->stitch && policy->action == CAPTURE_PROXY && set->stitch != NULL;
}

static void add_seat(struct abi_seat *seats, uint32_t *n, unsigned number, uint16_t port)
{
    if (port == 0 || *n >= ABI_SEATS)
        return;
    seats[*n].number = (uint16_t)number;
    seats[*n].port = port;
    (*n)++;
}

static void add_seats(const struct capture_set *set, const struct capture_policy *policy,
                      struct abi_settings *s)
{
    for (size_t i = 0; i < set->n_seats; i++) {
        if (!set->seats[i].serving)
            continue;
        add_seat(s->seats_v4, &s->n_seats_v4, set->seats[i].number, policy->seat_ports[i].v4);
        add_seat(s->seats_v6, &s->n_seats_v6, set->seats[i].number, policy->seat_ports[i].v6);
    }
}

/* By its place in the file; a `run` is inside what a daemon captures. */
static uint32_t find_order(const struct capture_set *set, const struct capture_policy *policy)
{
    uint32_t n = set->instance == 0 ? UINT32_C(1) << 16 : 0;

    for (size_t i = 0; i < set->n_policies && &set->policies[i] != policy; i++)
        n++;
    return n;
}

void bpf_policy_settings(const struct capture_set *set, const struct capture_policy *policy,
                         struct abi_settings *ret)
{
    struct abi_settings s = {0};

    if (policy->has_mark)
        s.flags |= ABI_HAS_MARK;
    if (policy->n_tcp_ports > 0)
        s.flags |= ABI_HAS_PORTS;
    else if (policy->n_udp_ports > 0)
        s.flags |= ABI_NO_TCP;
    if (policy->n_udp_ports > 0)
        s.flags |= ABI_UDP_PORTS;
    else if (policy->n_tcp_ports > 0)
        s.flags |= ABI_NO_UDP;
    if (policy->udp != CAPTURE_UDP_LEAVE && policy->action != CAPTURE_DIRECT)
        s.flags |= ABI_UDP;
    if (policy->dns_direct && policy->action == CAPTURE_PROXY)
        s.flags |= ABI_DNS_DIRECT;
    if (policy->n_to > 0)
        s.flags |= ABI_HAS_TO;
    if (policy->n_not_to + n_private(policy) > 0)
        s.flags |= ABI_HAS_EXCEPT;
    if (policy->n_uids > 0)
        s.flags |= ABI_HAS_UIDS;
    if (policy->n_not_uids > 0)
        s.flags |= ABI_HAS_NOT_UIDS;
    if (policy->when_down == CAPTURE_DOWN_DIRECT)
        s.flags |= ABI_DOWN_DIRECT;
    if (policy->fake && policy->action == CAPTURE_PROXY)
        s.flags |= ABI_FAKE;
    if (policy->dns && policy->action == CAPTURE_PROXY)
        s.flags |= ABI_DNS;
    if (bpf_policy_is_stitching(set, policy))
        s.flags |= ABI_STITCHING;

    switch (policy->action) {
    case CAPTURE_PROXY:
        s.action = ABI_PROXY;
        break;
    case CAPTURE_DIRECT:
        s.action = ABI_DIRECT;
        break;
    case CAPTURE_REFUSE:
        s.action = ABI_REFUSE;
        break;
    }
    s.own_mark = set->own_mark;
    s.own_mask = set->own_mask;
    s.mark = policy->mark;
    s.order = find_order(set, policy);
    s.port_v4 = policy->port_v4;
    s.port_v6 = policy->port_v6;
    if (bpf_policy_is_honest(set, policy)) {
        s.flags |= ABI_HONEST;
        add_seats(set, policy, &s);
    }
    *ret = s;
}

void bpf_policy_ports(const struct port_range *ranges, size_t n, uint64_t ret[ABI_PORT_WORDS])
{
    memset(ret, n > 0 ? 0 : 0xff, ABI_PORT_WORDS * sizeof(ret[0]));
    for (size_t i = 0; i < n; i++) {
        for (uint32_t port = ranges[i].first; port <= ranges[i].last; port++)
            ret[port / 64] |= UINT64_C(1) << (port % 64);
    }
}

/* Ours are at 127.0.0.1 and ::1; who connects to the unspecified address means them, too. */
static const uint8_t own_ips[][16] = {
    {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1},
    {[10] = 0xff, [11] = 0xff},
    {[15] = 1},
    {[15] = 0},
};

#define OWN_V4  2 /* the first so many */
#define OWN_IPS (sizeof(own_ips) / sizeof(own_ips[0]))

static size_t n_listeners(const struct capture_set *set, const struct capture_policy *policy)
{
    return 1 + (bpf_policy_is_honest(set, policy) ? set->n_seats : 0);
}

static int size_map(struct bpf_object *object, const char *name, size_t n)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    if (map == NULL)
        return -ENOENT;
    if (n > UINT32_MAX)
        return -E2BIG;
    return bpf_map__set_max_entries(map, n > 0 ? (uint32_t)n : 1);
}

int bpf_policy_size_maps(struct bpf_object *object, const struct capture_set *set,
                         const struct capture_policy *policy)
{
    const struct {
        const char *name;
        size_t n;
    } maps[] = {
        {ABI_MAP_TO, policy->n_to},
        {ABI_MAP_EXCEPT, policy->n_not_to + n_private(policy)},
        {ABI_MAP_UIDS, policy->n_uids + policy->n_not_uids},
        {ABI_MAP_UPSTREAMS, set->n_upstreams + n_listeners(set, policy) * OWN_IPS},
    };

    for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
        int r = size_map(object, maps[i].name, maps[i].n);

        if (r < 0)
            return r;
    }
    return 0;
}

static int map_fd(struct bpf_object *object, const char *name)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    return map == NULL ? -ENOENT : bpf_map__fd(map);
}

static int fill_trie(int fd, const struct prefix *prefixes, size_t n)
{
    const uint8_t one = 1;

    for (size_t i = 0; i < n; i++) {
        struct abi_prefix key = {.len = prefixes[i].len};
        int r;

        memcpy(key.ip, prefixes[i].ip, sizeof(key.ip));
        r = bpf_map_update_elem(fd, &key, &one, BPF_ANY);
        if (r < 0)
            return r;
    }
    return 0;
}

static int fill_uids(int fd, const uint32_t *uids, size_t n, uint8_t how)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t value = 0;
        int r;

        if (bpf_map_lookup_elem(fd, &uids[i], &value) < 0)
            value = 0;
        value |= how;
        r = bpf_map_update_elem(fd, &uids[i], &value, BPF_ANY);
        if (r < 0)
            return r;
    }
    return 0;
}

static int fill_upstreams(int fd, const struct addr *upstreams, size_t n)
{
    const uint8_t one = 1;

    for (size_t i = 0; i < n; i++) {
        struct abi_endpoint key = {.port = upstreams[i].port};
        int r;

        memcpy(key.ip, upstreams[i].ip, sizeof(key.ip));
        r = bpf_map_update_elem(fd, &key, &one, BPF_ANY);
        if (r < 0)
            return r;
    }
    return 0;
}

static int fill_listener(int fd, uint16_t port_v4, uint16_t port_v6)
{
    const uint8_t one = 1;

    for (size_t i = 0; i < OWN_IPS; i++) {
        struct abi_endpoint key = {.port = i < OWN_V4 ? port_v4 : port_v6};
        int r;

        memcpy(key.ip, own_ips[i], sizeof(key.ip));
        r = key.port == 0 ? 0 : bpf_map_update_elem(fd, &key, &one, BPF_ANY);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Also those of seats that are not serving: their connections are ours to the end. */
static int fill_listeners(int fd, const struct capture_set *set,
                          const struct capture_policy *policy)
{
    int r = fill_listener(fd, policy->port_v4, policy->port_v6);

    for (size_t i = 0; r == 0 && i + 1 < n_listeners(set, policy); i++)
        r = fill_listener(fd, policy->seat_ports[i].v4, policy->seat_ports[i].v6);
    return r;
}

/* From the word `first` of the map on. */
static int fill_ports(int fd, uint32_t first, const struct port_range *ranges, size_t n)
{
    uint64_t words[ABI_PORT_WORDS];

    bpf_policy_ports(ranges, n, words);
    for (uint32_t i = 0; i < ABI_PORT_WORDS; i++) {
        uint32_t at = first + i;
        int r = words[i] == 0 ? 0 : bpf_map_update_elem(fd, &at, &words[i], BPF_ANY);

        if (r < 0)
            return r;
    }
    return 0;
}

int bpf_policy_fill_maps(struct bpf_object *object, const struct capture_set *set,
                         const struct capture_policy *policy)
{
    int to = map_fd(object, ABI_MAP_TO), except = map_fd(object, ABI_MAP_EXCEPT),
        uids = map_fd(object, ABI_MAP_UIDS), ports = map_fd(object, ABI_MAP_PORTS),
        upstreams = map_fd(object, ABI_MAP_UPSTREAMS);
    int r;

    if (to < 0 || except < 0 || uids < 0 || ports < 0 || upstreams < 0)
        return -ENOENT;
    r = fill_trie(to, policy->to, policy->n_to);
    if (r == 0)
        r = fill_trie(except, policy->not_to, policy->n_not_to);
    if (r == 0)
        r = fill_trie(except, addr_private_prefixes, n_private(policy));
    if (r == 0)
        r = fill_uids(uids, policy->uids, policy->n_uids, ABI_UID_SELECT);
    if (r == 0)
        r = fill_uids(uids, policy->not_uids, policy->n_not_uids, ABI_UID_EXCEPT);
    if (r == 0)
        r = fill_upstreams(upstreams, set->upstreams, set->n_upstreams);
    if (r == 0)
        r = fill_listeners(upstreams, set, policy);
    if (r == 0)
        r = fill_ports(ports, 0, policy->tcp_ports, policy->n_tcp_ports);
    if (r == 0 && policy->n_udp_ports > 0)
        r = fill_ports(ports, ABI_PORT_WORDS, policy->udp_ports, policy->n_udp_ports);
    return r;
}
