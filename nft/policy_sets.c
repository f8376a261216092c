/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nft/policy_sets.h"

#include <ctype.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

static const enum nft_type family_type[] = {
    [NFT_V4] = NFT_TYPE_IPV4_ADDR, [NFT_V6] = NFT_TYPE_IPV6_ADDR};
static const char family_digit[] = {[NFT_V4] = '4', [NFT_V6] = '6'};

static const uint8_t *family_bytes(enum nft_family f, const uint8_t ip[16])
{
    return f == NFT_V4 ? ip + 12 : ip;
}

static bool any_of_family(const struct prefix *p, size_t n, enum nft_family f)
{
    for (size_t i = 0; i < n; i++)
        if (prefix_is_v4(&p[i]) == (f == NFT_V4))
            return true;
    return false;
}

static bool is_about(unsigned hooks, const struct capture_policy *p)
{
    return (hooks >> p->hook & 1) && !(p->hook == CAPTURE_GATEWAY && p->n_uids > 0);
}

static bool has_parts(const struct capture_policy *p, enum nft_transport transport)
{
    for (enum nft_part part = NFT_PART_DNS; part < NFT_N_PARTS; part++)
        for (enum nft_family f = NFT_V4; f < NFT_N_FAMILIES; f++)
            if (nft_has_part(p, transport, f, part))
                return true;
    return false;
}

bool nft_selects_tcp(const struct capture_policy *p, const struct nft_scope *scope)
{
    return is_about(scope->hooks, p) && has_parts(p, NFT_TCP);
}

bool nft_selects_udp(const struct capture_policy *p, const struct nft_scope *scope)
{
    return is_about(scope->udp_hooks, p) && has_parts(p, NFT_UDP);
}

bool nft_selects(const struct capture_policy *p, const struct nft_scope *scope)
{
    return nft_selects_tcp(p, scope) || nft_selects_udp(p, scope);
}

static bool rest_is_about(const struct capture_policy *p, enum nft_transport transport)
{
    return transport == NFT_TCP ? p->n_tcp_ports > 0 || p->n_udp_ports == 0
                                : p->n_udp_ports > 0 || p->n_tcp_ports == 0;
}

static bool includes_dns(const struct capture_policy *p)
{
    for (size_t i = 0; i < p->n_udp_ports; i++)
        if (p->udp_ports[i].first <= 53 && p->udp_ports[i].last >= 53)
            return true;
    return p->n_udp_ports == 0;
}

bool nft_has_part(const struct capture_policy *p, enum nft_transport transport, enum nft_family f,
                  enum nft_part part)
{
    /* The cgroup of a capture that names none is not known here. */
    if (transport == NFT_UDP && p->hook == CAPTURE_CGROUP && !p->cgroup)
        return false;
    switch (part) {
    case NFT_PART_DNS:
        return p->action == CAPTURE_PROXY && p->dns;
    case NFT_PART_FAKE:
        return p->action == CAPTURE_PROXY && p->fake;
    case NFT_PART_DNS_DIRECT:
        if (transport != NFT_UDP || p->action != CAPTURE_PROXY || !p->dns_direct ||
            p->udp == CAPTURE_UDP_LEAVE || !includes_dns(p))
            return false;
        /* fallthrough */
    default:
        return rest_is_about(p, transport) && (p->n_to == 0 || any_of_family(p->to, p->n_to, f));
    }
}

uint16_t nft_listener_port(const struct capture_policy *p, enum nft_family f)
{
    return f == NFT_V4 ? p->port_v4 : p->port_v6;
}

uint16_t nft_udp_port(const struct capture_policy *p, enum nft_family f)
{
    return f == NFT_V4 ? p->udp_port_v4 : p->udp_port_v6;
}

uint16_t nft_seat_port(const struct capture_seat *seat, enum nft_family f)
{
    return f == NFT_V4 ? seat->port_v4 : seat->port_v6;
}

static int add_set(struct nft_ruleset *rs, const char *name, enum nft_type type, unsigned *ret)
{
    /* Users and interfaces come one by one; ports and addresses come in ranges. */
    return nft_form_add_set(rs, name, &type, 1, type != NFT_TYPE_UID && type != NFT_TYPE_IFNAME,
                            ret);
}

/* A set of addresses with ports, "<name>4" or "<name>6". */
static int add_pair_set(struct nft_ruleset *rs, const char *name, enum nft_family f, unsigned *ret)
{
    const enum nft_type types[] = {family_type[f], NFT_TYPE_INET_SERVICE};
    char full[NFT_ID_SIZE];

    snprintf(full, sizeof(full), "%s%c", name, family_digit[f]);
    return nft_form_add_set(rs, full, types, 2, false, ret);
}

static int add_pair(struct nft_set *set, enum nft_family f, const uint8_t ip[16], uint16_t port)
{
    unsigned size = nft_types[family_type[f]].size;
    uint8_t key[NFT_KEY_SIZE] = {0};

    memcpy(key, family_bytes(f, ip), size);
    key[size] = (uint8_t)(port >> 8);
    key[size + 1] = (uint8_t)port;
    return nft_set_add(set, key, NULL);
}

static int add_prefix(struct nft_set *set, enum nft_family f, const struct prefix *p)
{
    uint8_t first[16], last[16];

    for (unsigned i = 0; i < 16; i++) {
        unsigned keep = p->len >= 8 * (i + 1) ? 8 : p->len > 8 * i ? p->len - 8 * i : 0;

        first[i] = (uint8_t)(p->ip[i] & (0xff00u >> keep));
        last[i] = (uint8_t)(p->ip[i] | (0xffu >> keep));
    }
    return nft_set_add(set, family_bytes(f, first), family_bytes(f, last));
}

/* The prefixes of one family; no set when there are none. */
static int add_prefix_set(struct nft_ruleset *rs, const char *name, enum nft_family f,
                          const struct prefix *p, size_t n, unsigned *ret)
{
    char full[NFT_ID_SIZE];

    if (!any_of_family(p, n, f))
        return 0;
    snprintf(full, sizeof(full), "%s%c", name, family_digit[f]);
    int r = add_set(rs, full, family_type[f], ret);

    for (size_t i = 0; r == 0 && i < n; i++)
        if (prefix_is_v4(&p[i]) == (f == NFT_V4))
            r = add_prefix(&rs->sets[*ret], f, &p[i]);
    if (r == 0)
        nft_set_finish(&rs->sets[*ret]);
    return r;
}

static int add_port_set(struct nft_ruleset *rs, const char *name, const struct port_range *ports,
                        size_t n, unsigned *ret)
{
    if (n == 0)
        return 0;
    int r = add_set(rs, name, NFT_TYPE_INET_SERVICE, ret);

    for (size_t i = 0; r == 0 && i < n; i++) {
        const uint8_t first[] = {(uint8_t)(ports[i].first >> 8), (uint8_t)ports[i].first};
        const uint8_t last[] = {(uint8_t)(ports[i].last >> 8), (uint8_t)ports[i].last};

        r = nft_set_add(&rs->sets[*ret], first, last);
    }
    if (r == 0)
        nft_set_finish(&rs->sets[*ret]);
    return r;
}

static int add_uid_set(struct nft_ruleset *rs, const char *name, const uint32_t *uids, size_t n,
                       unsigned *ret)
{
    if (n == 0)
        return 0;
    int r = add_set(rs, name, NFT_TYPE_UID, ret);

    for (size_t i = 0; r == 0 && i < n; i++) {
        const uint8_t key[] = {(uint8_t)(uids[i] >> 24), (uint8_t)(uids[i] >> 16),
                               (uint8_t)(uids[i] >> 8), (uint8_t)uids[i]};

        r = nft_set_add(&rs->sets[*ret], key, NULL);
    }
    if (r == 0)
        nft_set_finish(&rs->sets[*ret]);
    return r;
}

static int add_interface_set(struct nft_ruleset *rs, const char *name, const char *const *names,
                             size_t n, unsigned *ret)
{
    if (n == 0)
        return 0;
    int r = add_set(rs, name, NFT_TYPE_IFNAME, ret);

    for (size_t i = 0; r == 0 && i < n; i++) {
        char key[NFT_KEY_SIZE] = "";

        strncpy(key, names[i], IFNAMSIZ - 1);
        r = nft_set_add(&rs->sets[*ret], key, NULL);
    }
    if (r == 0)
        nft_set_finish(&rs->sets[*ret]);
    return r;
}

static int add_upstreams(struct nft_ruleset *rs, const struct capture_set *set, enum nft_family f,
                         unsigned *ret)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < set->n_upstreams; i++) {
        const struct addr *a = &set->upstreams[i];

        if (addr_is_v4(a) != (f == NFT_V4))
            continue;
        if (*ret == NFT_NO_SET)
            r = add_pair_set(rs, "upstreams", f, ret);
        if (r == 0)
            r = add_pair(&rs->sets[*ret], f, a->ip, a->port);
    }
    if (r == 0 && *ret != NFT_NO_SET)
        nft_set_finish(&rs->sets[*ret]);
    return r;
}

static int add_listener(struct nft_ruleset *rs, enum nft_family f, uint16_t port, unsigned *ret)
{
    static const uint8_t loopback[][16] = {
        [NFT_V4] = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1},
        [NFT_V6] = {[15] = 1},
    };
    int r = 0;

    if (port == 0)
        return 0;
    if (*ret == NFT_NO_SET)
        r = add_pair_set(rs, "listeners", f, ret);
    return r < 0 ? r : add_pair(&rs->sets[*ret], f, loopback[f], port);
}

/* Those of the captures, of the seats, and of the cgroup captures at each seat. */
static int add_listeners(struct nft_ruleset *rs, const struct capture_set *set, enum nft_family f,
                         unsigned *ret)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < set->n_seats; i++)
        r = add_listener(rs, f, nft_seat_port(&set->seats[i], f), ret);
    for (size_t i = 0; r == 0 && i < set->n_policies; i++) {
        const struct capture_policy *p = &set->policies[i];

        r = add_listener(rs, f, nft_listener_port(p, f), ret);
        if (p->hook != CAPTURE_CGROUP || !p->honest || !p->seat_ports)
            continue;
        for (size_t j = 0; r == 0 && j < set->n_seats; j++)
            r = add_listener(rs, f, f == NFT_V4 ? p->seat_ports[j].v4 : p->seat_ports[j].v6, ret);
    }
    if (r == 0 && *ret != NFT_NO_SET)
        nft_set_finish(&rs->sets[*ret]);
    return r;
}

static bool has_part(const struct capture_policy *p, const struct nft_scope *scope,
                     enum nft_family f, enum nft_part part)
{
    return (nft_selects_tcp(p, scope) && nft_has_part(p, NFT_TCP, f, part)) ||
           (nft_selects_udp(p, scope) && nft_has_part(p, NFT_UDP, f, part));
}

/* Whether a rule will ask for the set. */
static bool needs_private(const struct capture_policy *p, const struct nft_scope *scope,
                          enum nft_family f)
{
    return has_part(p, scope, f, NFT_PART_REST) && !p->private;
}

static bool needs_loopback(const struct capture_policy *p, const struct nft_scope *scope,
                           enum nft_family f)
{
    return has_part(p, scope, f, NFT_PART_DNS) && p->hook == CAPTURE_OUTPUT;
}

static bool needs_fake(const struct capture_policy *p, const struct nft_scope *scope,
                       enum nft_family f)
{
    return has_part(p, scope, f, NFT_PART_FAKE);
}

static bool needs_link_local(const struct capture_policy *p, const struct nft_scope *scope,
                             enum nft_family f)
{
    if (f != NFT_V6 || scope->guard || p->action != CAPTURE_PROXY)
        return false;
    if (p->hook == CAPTURE_GATEWAY)
        return p->honest && p->dns_local && nft_selects_tcp(p, scope);
    return nft_selects_udp(p, scope) && (p->dns || (p->private && p->udp == CAPTURE_UDP_TAKE));
}

/* Fills `ret` where one of the captures needs it. */
static int add_shared(struct nft_ruleset *rs, const struct capture_set *set,
                      const struct nft_scope *scope, enum nft_family f,
                      bool (*needs)(const struct capture_policy *, const struct nft_scope *,
                                    enum nft_family),
                      const char *name, const struct prefix *prefixes, size_t n, unsigned *ret)
{
    for (size_t i = 0; i < set->n_policies; i++)
        if (needs(&set->policies[i], scope, f))
            return add_prefix_set(rs, name, f, prefixes, n, ret);
    return 0;
}

/* The default exclusions, and what DNS and made-up addresses are about. */
static int add_destinations(struct nft_ruleset *rs, const struct capture_set *set,
                            const struct nft_scope *scope, enum nft_family f,
                            struct nft_shared_sets *ret)
{
    static const struct prefix loopback[] = {
        {{[10] = 0xff, [11] = 0xff, [12] = 127}, 104},
        {{[15] = 1}, 128},
    };
    static const struct prefix link_local[] = {{{0xfe, 0x80}, 10}};
    int r = add_shared(rs, set, scope, f, needs_private, "private", addr_private_prefixes,
                       addr_n_private_prefixes, &ret->private[f]);

    if (r == 0)
        r = add_shared(rs, set, scope, f, needs_loopback, "loopback", loopback, 2,
                       &ret->loopback[f]);
    if (r == 0)
        r = add_shared(rs, set, scope, f, needs_fake, "fake", addr_fake_prefixes,
                       addr_n_fake_prefixes, &ret->fake[f]);
    if (r == 0)
        r = add_shared(rs, set, scope, f, needs_link_local, "linklocal", link_local, 1,
                       &ret->link_local);
    return r;
}

int nft_add_shared_sets(struct nft_ruleset *rs, const struct capture_set *set,
                        const struct nft_scope *scope, struct nft_shared_sets *ret)
{
    bool at_output = !scope->guard && scope->hooks >> CAPTURE_OUTPUT & 1;
    int r = 0;

    *ret = (struct nft_shared_sets){.upstreams = {NFT_NO_SET, NFT_NO_SET},
                                    .listeners = {NFT_NO_SET, NFT_NO_SET},
                                    .private = {NFT_NO_SET, NFT_NO_SET},
                                    .loopback = {NFT_NO_SET, NFT_NO_SET},
                                    .fake = {NFT_NO_SET, NFT_NO_SET},
                                    .link_local = NFT_NO_SET};
    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++)
        r = add_upstreams(rs, set, f, &ret->upstreams[f]);
    /* Elsewhere our listeners are among the addresses of this host, which are left alone. */
    for (enum nft_family f = NFT_V4; r == 0 && at_output && f < NFT_N_FAMILIES; f++)
        r = add_listeners(rs, set, f, &ret->listeners[f]);
    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++)
        r = add_destinations(rs, set, scope, f, ret);
    return r;
}

/* Whether a set of the capture "<id>_..." is there already. */
static bool id_taken(const struct nft_ruleset *rs, const char *id)
{
    size_t n = strlen(id);

    for (size_t i = 0; i < rs->n_sets; i++)
        if (strncmp(rs->sets[i].name, id, n) == 0 && rs->sets[i].name[n] == '_' &&
            !strchr(rs->sets[i].name + n + 1, '_'))
            return true;
    return false;
}

/*
 * The capture's name as an nft identifier: a letter, then letters, digits and '_'. Names that
 * become the same get a number. No two sets clash, as what follows an id has no '_' but the one in
 * front.
 */
static void make_id(const struct nft_ruleset *rs, const char *name, char ret[NFT_ID_SIZE])
{
    char id[CAPTURE_NAME_MAX + 3];
    size_t n = 0;

    if (!isalpha((unsigned char)name[0])) {
        id[n++] = 'c';
        id[n++] = '_';
    }
    for (; *name && n < sizeof(id) - 1; name++)
        id[n++] = isalnum((unsigned char)*name) ? *name : '_';
    id[n] = '\0';
    snprintf(ret, NFT_ID_SIZE, "%s", id);
    for (unsigned i = 2; id_taken(rs, ret); i++)
        snprintf(ret, NFT_ID_SIZE, "%s_%u", id, i);
}

int nft_add_capture_sets(struct nft_ruleset *rs, const struct capture_policy *p,
                         const struct nft_scope *scope, struct nft_capture_sets *ret)
{
    char id[NFT_ID_SIZE], name[NFT_ID_SIZE + 16];
    int r = 0;

    *ret = (struct nft_capture_sets){.to = {NFT_NO_SET, NFT_NO_SET},
                                     .not_to = {NFT_NO_SET, NFT_NO_SET},
                                     .tcp = NFT_NO_SET,
                                     .udp = NFT_NO_SET,
                                     .uid = NFT_NO_SET,
                                     .not_uid = NFT_NO_SET,
                                     .interfaces = NFT_NO_SET};
    bool gateway = p->hook == CAPTURE_GATEWAY;

    make_id(rs, p->name, id);
    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        snprintf(name, sizeof(name), "%s_to", id);
        r = add_prefix_set(rs, name, f, p->to, p->n_to, &ret->to[f]);
    }
    for (enum nft_family f = NFT_V4; r == 0 && f < NFT_N_FAMILIES; f++) {
        snprintf(name, sizeof(name), "%s_not", id);
        if (has_part(p, scope, f, NFT_PART_REST))
            r = add_prefix_set(rs, name, f, p->not_to, p->n_not_to, &ret->not_to[f]);
    }
    snprintf(name, sizeof(name), "%s_uid", id);
    if (r == 0 && !gateway)
        r = add_uid_set(rs, name, p->uids, p->n_uids, &ret->uid);
    snprintf(name, sizeof(name), "%s_notuid", id);
    if (r == 0 && !gateway)
        r = add_uid_set(rs, name, p->not_uids, p->n_not_uids, &ret->not_uid);
    snprintf(name, sizeof(name), "%s_if", id);
    if (r == 0 && gateway)
        r = add_interface_set(rs, name, p->interfaces, p->n_interfaces, &ret->interfaces);
    snprintf(name, sizeof(name), "%s_tcp", id);
    if (r == 0 && nft_selects_tcp(p, scope))
        r = add_port_set(rs, name, p->tcp_ports, p->n_tcp_ports, &ret->tcp);
    snprintf(name, sizeof(name), "%s_udp", id);
    if (r == 0 && nft_selects_udp(p, scope))
        r = add_port_set(rs, name, p->udp_ports, p->n_udp_ports, &ret->udp);
    return r;
}
