/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/datagrams.h */
#include "keeper/datagrams.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dns/name.h"
#include "dns/real.h"
#include "upstream/upstream.h"

#define DNS_PORT 53

/* Calls `test` for each upstream that the capture may use. */
static bool every(const struct config *c, const struct config_capture *k,
                  bool (*test)(const struct config_upstream *u))
{
    if (k->target == TARGET_UPSTREAM)
        return test(&c->upstreams[k->target_index]);
    const struct config_group *g = &c->groups[k->target_index];
    bool all = true;

    for (size_t i = 0; i < g->n_members; i++)
        all &= test(&c->upstreams[g->members[i]]);
    return all;
}

static bool takes_names(const struct config_upstream *u)
{
    return u->url.scheme == SCHEME_SOCKS5H || u->url.scheme == SCHEME_SOCKS4A;
}

static bool cannot_udp(const struct config_upstream *u)
{
    return u->via >= 0 || u->udp == TOGGLE_OFF ||
           (u->url.scheme != SCHEME_SOCKS5 && u->url.scheme != SCHEME_SOCKS5H);
}

static enum config_dns decide_dns(const struct config *c, const struct config_capture *k, bool run)
{
    const struct capture_policy *p = &k->policy;

    if (k->dns != DNS_AUTO)
        return k->dns;
    if (!run && p->n_to + p->n_tcp_ports + p->n_udp_ports > 0)
        return DNS_BYPASS;
    return every(c, k, takes_names) ? DNS_FAKE : DNS_TCP;
}

static enum config_udp decide_udp(const struct config *c, const struct config_capture *k)
{
    if (k->udp != UDP_AUTO)
        return k->udp;
    return every(c, k, cannot_udp) ? UDP_REJECT : UDP_ASSOCIATE;
}

void datagrams_decide(const struct config *c, size_t i, bool run, struct capture_policy *policy,
                      struct worker_udp *ret)
{
    const struct config_capture *k = &c->captures[i];
    struct worker_udp u = {.associate = false};

    policy->udp = CAPTURE_UDP_LEAVE;
    if (policy->action != CAPTURE_PROXY) {
        /* What is refused is refused of UDP, too, unless it is to be left alone. */
        if (policy->action == CAPTURE_REFUSE && k->udp != UDP_BYPASS)
            policy->udp = CAPTURE_UDP_REJECT;
        *ret = u;
        return;
    }
    enum config_udp udp = decide_udp(c, k);
    enum config_dns dns = decide_dns(c, k, run);

    policy->udp = udp == UDP_ASSOCIATE ? CAPTURE_UDP_TAKE
                  : udp == UDP_REJECT  ? CAPTURE_UDP_REJECT
                                       : CAPTURE_UDP_LEAVE;
    /* nftables can reject what this host itself sends only by failing send() with EPERM, which
     * programs do not take for an answer. A worker answers as the network would; but one that
     * associates DNS cannot tell the rest from it. */
    if (udp == UDP_REJECT && dns != DNS_ASSOCIATE && k->policy.hook != CAPTURE_GATEWAY)
        policy->udp = CAPTURE_UDP_TAKE;
    policy->dns = dns != DNS_BYPASS;
    policy->dns_direct = k->dns == DNS_BYPASS;
    policy->dns_local = policy->dns && k->dns != DNS_AUTO;
    policy->fake = dns == DNS_FAKE;
    u.associate = udp == UDP_ASSOCIATE || dns == DNS_ASSOCIATE;
    u.dns = dns == DNS_FAKE || dns == DNS_TCP;
    u.fake = dns == DNS_FAKE;
    if (k->dns_server)
        addr_parse(k->dns_server, DNS_PORT, &u.dns_server);
    *ret = u;
}

bool datagrams_needs_listener(const struct capture_policy *policy)
{
    return policy->action == CAPTURE_PROXY && (policy->udp == CAPTURE_UDP_TAKE || policy->dns);
}

int datagrams_list_real(const struct config *c, struct real **ret)
{
    const char **list = calloc(c->n_dns_real + c->n_upstreams + 1, sizeof(*list));
    size_t n = 0, bad;

    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < c->n_dns_real; i++)
        list[n++] = c->dns_real[i];
    for (size_t i = 0; i < c->n_upstreams; i++) {
        const char *host = c->upstreams[i].url.host;
        struct addr literal;

        if (addr_parse(host, 0, &literal) < 0 && real_pattern_ok(host))
            list[n++] = host;
    }
    int r = real_new(list, n, ret, &bad);

    free(list);
    return r;
}

static bool is_elsewhere(const struct config_upstream *u)
{
    struct addr a;

    return addr_parse(u->url.host, 0, &a) < 0 || !addr_is_private(&a) || addr_is_loopback(&a);
}

bool datagrams_asks_in_vain(const struct config *c, size_t i, const struct addr *resolver)
{
    const struct config_capture *k = &c->captures[i];
    struct capture_policy policy = k->policy;
    struct worker_udp udp;

    if (k->policy.action != CAPTURE_PROXY || k->policy.hook == CAPTURE_GATEWAY)
        return false;
    datagrams_decide(c, i, false, &policy, &udp);
    return policy.dns && !udp.fake && udp.dns_server.port == 0 && resolver->port != 0 &&
           addr_is_private(resolver) && every(c, k, is_elsewhere);
}

/* ---- names of upstreams ---- */

struct name_list {
    char **names; /* ends with NULL */
    size_t n;
};

/* `host` below `domain`, or by itself where that is NULL; once. What is no plain name is left out.
 */
static int add_name(struct name_list *l, const char *host, const char *domain)
{
    char name[DNS_PLAIN_MAX + 3];
    int len = snprintf(name, sizeof(name), "%s%s%s", host, domain ? "." : "", domain ? domain : "");

    if (len > 0 && (size_t)len < sizeof(name) && name[len - 1] == '.')
        name[--len] = '\0';
    for (int i = 0; i < len && (size_t)i < sizeof(name); i++)
        name[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 'a' - 'A' : name[i]);
    if (len <= 0 || (size_t)len >= sizeof(name) || !dns_name_is_plain(name, (size_t)len))
        return 0;
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->names[i], name) == 0)
            return 0;
    char **more = realloc(l->names, (l->n + 2) * sizeof(*more));

    if (!more)
        return -ENOMEM;
    l->names = more;
    more[l->n] = strdup(name);
    more[l->n + 1] = NULL;
    return more[l->n++] ? 0 : -ENOMEM;
}

/* By every domain that the system's resolver may search: "search" and "domain" of resolv.conf(5).
 */
static int add_searched(struct name_list *l, const char *host)
{
    FILE *f = fopen("/etc/resolv.conf", "re");
    char line[1024], *next;
    int r = 0;

    while (f && r == 0 && fgets(line, sizeof(line), f)) {
        const char *word = strtok_r(line, " \t\n", &next);

        if (!word || (strcmp(word, "search") != 0 && strcmp(word, "domain") != 0))
            continue;
        while (r == 0 && (word = strtok_r(NULL, " \t\n", &next)))
            r = add_name(l, host, word);
    }
    if (f)
        fclose(f);
    return r;
}

int datagrams_list_direct(const struct config *c, const struct upstream *upstreams, char ***ret)
{
    struct name_list l = {.names = calloc(1, sizeof(*l.names))};
    int r = l.names ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < c->n_upstreams; i++) {
        for (unsigned k = 0; r == 0 && k < upstreams[i].n_hops; k++) {
            const char *host = upstreams[i].hops[k].config->url.host;

            if (!upstream_resolves(&upstreams[i], k))
                continue;
            r = add_name(&l, host, NULL);
            if (r == 0 && !strchr(host, '.'))
                r = add_searched(&l, host);
        }
    }
    if (r < 0)
        datagrams_free_names(l.names);
    else
        *ret = l.names;
    return r;
}

int datagrams_add_names(char ***names, char *const *more)
{
    struct name_list l = {.names = *names};
    int r = 0;

    while (l.names && l.names[l.n])
        l.n++;
    for (; r == 0 && *more; more++)
        r = add_name(&l, *more, NULL);
    *names = l.names;
    return r;
}

void datagrams_free_names(char **names)
{
    for (char **name = names; name && *name; name++)
        free(*name);
    free(names);
}

/* ---- the resolver ---- */

/* Adds each "nameserver" of the file that is not on loopback. */
static size_t add_resolvers(const char *path, struct addr ret[DATAGRAMS_RESOLVERS], size_t n)
{
    FILE *f = fopen(path, "re");
    char line[256], text[128];

    while (f && n < DATAGRAMS_RESOLVERS && fgets(line, sizeof(line), f)) {
        if (sscanf(line, " nameserver %127s", text) == 1 &&
            addr_parse(text, DNS_PORT, &ret[n]) == 0 && !addr_is_loopback(&ret[n]))
            n++;
    }
    if (f)
        fclose(f);
    return n;
}

size_t datagrams_list_resolvers(struct addr ret[DATAGRAMS_RESOLVERS])
{
    size_t n = add_resolvers("/run/systemd/resolve/resolv.conf", ret, 0);

    return add_resolvers("/etc/resolv.conf", ret, n);
}
