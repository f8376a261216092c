/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The host's settings: whether what is captured arrives at our listener, and how much of it we can
 * hold. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <linux/netfilter.h>

#include "doctor/judge.h"
#include "doctor/judge_names.h"

#define DEFAULT_MAX_FLOWS 65536u
#define WORKERS_MAX       64
#define FEW_DESCRIPTORS   256 /* with less, a worker does not even have its own */
#define FIXED_DESCRIPTORS 200 /* of a worker, without flows; ample */

/* Input chains that may be what swallows a connection on the loopback; false: there is none. */
static bool name_dropper(const struct facts *f, uint32_t hook, char *ret, size_t size, char *mend,
                         size_t mend_size)
{
    for (size_t i = 0; i < f->firewall.n_chains; i++) {
        const struct fw_chain *c = &f->firewall.chains[i];
        char name[CHAIN_NAME_SIZE];

        if (c->hook != hook || !(c->drops || (c->traits & FW_DROP)) || (c->traits & FW_ACCEPT_LO))
            continue;
        snprintf(ret, size, "chain %s", chain_name(c, name, sizeof(name)));
        snprintf(mend, mend_size, "nft insert rule %s %s lo accept", name,
                 hook == NF_INET_LOCAL_IN ? "iifname" : "oifname");
        return true;
    }
    return false;
}

static void judge_arrival(const struct facts *f, int error, const char *how, struct findings *ret)
{
    char chain[CHAIN_NAME_SIZE + 16] = "", mend[CHAIN_NAME_SIZE + 64] = "", text[512];

    bool dropped =
        error == -ETIMEDOUT || error == -EPERM || error == -ECONNREFUSED || error == -EHOSTUNREACH;

    if (dropped && !name_dropper(f, NF_INET_LOCAL_IN, chain, sizeof(chain), mend, sizeof(mend)))
        name_dropper(f, NF_INET_LOCAL_OUT, chain, sizeof(chain), mend, sizeof(mend));
    snprintf(text, sizeof(text),
             "a connection %s does not arrive (%s), and so would no redirected one%s%s", how,
             error == -ETIMEDOUT ? "it vanishes" : strerror(-error),
             chain[0] ? ": the firewall drops it, most likely in " : "", chain);
    finding_add_mend(ret, "listener", FINDING_FAIL, text, "%s", mend);
}

static void judge_loopback(const struct facts *f, struct findings *ret)
{
    const struct facts_loopback *l = &f->host.loopback;

    if (f->host.lo_up != 1) {
        finding_add(
            ret, "lo", FINDING_FAIL, "ip link set lo up",
            "the loopback interface is down: nothing that is captured reaches the listener");
        return;
    }
    finding_add(ret, "lo", FINDING_OK, NULL, "the loopback interface is up");
    if (l->v4 < 0)
        judge_arrival(f, l->v4, "to a listener on 127.0.0.1", ret);
    else if (l->v4_outside < 0)
        judge_arrival(f, l->v4_outside, "from this host's own address to 127.0.0.1", ret);
    else
        finding_add(ret, "listener", FINDING_OK, NULL, "a listener on 127.0.0.1 can be reached");
    if (l->v6 == -EADDRNOTAVAIL || l->v6 == -EAFNOSUPPORT)
        finding_add(ret, "listener6", FINDING_WARN, "sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
                    "there is no ::1 on this host: IPv6 that a capture selects is refused");
    else if (l->v6 < 0)
        judge_arrival(f, l->v6, "to a listener on ::1", ret);
}

static void judge_switch(int value, const char *id, const char *family, const char *sysctl,
                         struct findings *ret)
{
    char text[256];

    if (value == 1) {
        finding_add(ret, id, FINDING_OK, NULL, "%s is forwarded", family);
        return;
    }
    snprintf(text, sizeof(text),
             "%s is not forwarded: what a gateway capture selects goes through, and everything "
             "else from "
             "its clients is dropped",
             family);
    finding_add_mend(ret, id, FINDING_WARN, text, "sysctl -w %s=1", sysctl);
}

static void judge_interface(const struct facts *f, const struct facts_interface *i,
                            struct findings *ret)
{
    const struct facts_host *h = &f->host;
    char text[320];

    if (!i->there) {
        finding_add(ret, "interface", FINDING_WARN, "ip -br link",
                    "there is no interface %s: a gateway capture that names it takes nothing",
                    i->name);
        return;
    }
    if (i->rp_filter == 1) {
        snprintf(
            text, sizeof(text),
            "rp_filter is strict on %s: packets whose sender is routed to another interface are "
            "dropped before they are captured, even if the capture names that one, too",
            i->name);
        finding_add_mend(ret, "rp-filter", FINDING_WARN, text,
                         "sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.%s.rp_filter=2",
                         i->name);
    }
    if (i->route_localnet == 1) {
        snprintf(
            text, sizeof(text),
            "route_localnet is on for %s: its neighbours can reach what listens on 127.0.0.1, our "
            "listener too",
            i->name);
        finding_add_mend(ret, "route-localnet", FINDING_WARN, text,
                         "sysctl -w net.ipv4.conf.all.route_localnet=0 "
                         "net.ipv4.conf.%s.route_localnet=0",
                         i->name);
    }
    /* The reverse lookup then finds our own local route instead of the way to the sender, whatever
     * rp_filter says. */
    if (i->src_valid_mark == 1) {
        snprintf(text, sizeof(text),
                 "src_valid_mark is on for %s (wg-quick sets it): senders are checked with the "
                 "mark that "
                 "TPROXY gives their packets, and all of those are dropped",
                 i->name);
        finding_add_mend(ret, "src-valid-mark", FINDING_FAIL, text,
                         "sysctl -w net.ipv4.conf.all.src_valid_mark=0 "
                         "net.ipv4.conf.%s.src_valid_mark=0",
                         i->name);
    }
    if (i->bridge && (h->bridge_nf4 == 1 || h->bridge_nf6 == 1))
        finding_add(
            ret, "bridge-netfilter", FINDING_FAIL,
            "sysctl -w net.bridge.bridge-nf-call-iptables=0 "
            "net.bridge.bridge-nf-call-ip6tables=0",
            "br_netfilter hands frames on the bridge %s to the rules before they are routed, "
            "and TPROXY loses them",
            i->name);
}

static void judge_gateway(const struct facts *f, struct findings *ret)
{
    const struct facts_host *h = &f->host;
    size_t before;

    judge_switch(h->ip_forward, "ip-forward", "IPv4", "net.ipv4.ip_forward", ret);
    if (h->ip6_forwarding != FACT_UNKNOWN)
        judge_switch(h->ip6_forwarding, "ip6-forward", "IPv6", "net.ipv6.conf.all.forwarding", ret);
    before = ret->n;
    for (size_t i = 0; i < h->n_interfaces; i++)
        judge_interface(f, &h->interfaces[i], ret);
    if (ret->n == before && h->n_interfaces > 0)
        finding_add(ret, "interface", FINDING_OK, NULL,
                    "no setting of the gateway's interfaces stands in the way");
}

static void judge_cgroup(const struct facts *f, struct findings *ret)
{
    if (f->host.cgroup_root[0])
        finding_add(ret, "cgroup2", FINDING_OK, NULL, "cgroup2 is mounted on %s",
                    f->host.cgroup_root);
    else
        finding_add(
            ret, "cgroup2",
            facts_has_hook(f, CAPTURE_CGROUP) || !f->config ? FINDING_FAIL : FINDING_WARN,
            "mount -t cgroup2 none /sys/fs/cgroup",
            "no cgroup2 hierarchy is mounted: neither undersock run nor hook = \"cgroup\" works");
}

static void judge_limit(const struct facts *f, struct findings *ret)
{
    uint64_t limit = f->host.nofile;
    unsigned flows = f->config ? f->config->max_flows : DEFAULT_MAX_FLOWS;
    long cpus = f->host.cpus > 0 ? f->host.cpus : 1;
    unsigned workers = f->config && f->config->workers > 0 ? f->config->workers : (unsigned)cpus;
    char text[256];

    if (workers > WORKERS_MAX)
        workers = WORKERS_MAX;
    /* Two descriptors a flow, and one in sixteen for the pipes of splice. */
    uint64_t share = (flows + workers - 1) / workers;
    uint64_t wanted = FIXED_DESCRIPTORS + share * 2 * 16 / 15;
    uint64_t possible = limit > FIXED_DESCRIPTORS ? (limit - FIXED_DESCRIPTORS) * 15 / 32 : 0;
    const char *whose = f->host.daemon > 0 ? "of the running daemon" : "of this shell";

    if (limit == RLIM_INFINITY || limit >= wanted) {
        finding_add(ret, "fd-limit", FINDING_OK, NULL,
                    "the limit of open files %s is enough for max-flows = %u with %u workers",
                    whose, flows, workers);
        return;
    }
    snprintf(text, sizeof(text),
             "the hard limit of open files %s is %" PRIu64 ": at most %" PRIu64
             " flows a worker instead of %" PRIu64 "; in a unit it is LimitNOFILE=%" PRIu64 "%s",
             whose, limit, possible, share, wanted,
             f->host.daemon > 0 ? "; then undersock reload" : "");
    enum finding_level level = limit < FEW_DESCRIPTORS ? FINDING_FAIL : FINDING_WARN;

    /* A shell's limit is nothing to who runs already. The workers of its next reload have it. */
    if (f->host.daemon > 0)
        finding_add_mend(ret, "fd-limit", level, text,
                         "prlimit --pid %ld --nofile=%" PRIu64 ":%" PRIu64, (long)f->host.daemon,
                         wanted, wanted);
    else
        finding_add_mend(ret, "fd-limit", level, text, "ulimit -n %" PRIu64, wanted);
}

static void judge_daemon(const struct facts *f, struct findings *ret)
{
    const struct facts_host *h = &f->host;

    if (h->daemon > 0)
        finding_add(ret, "control", FINDING_OK, NULL, "the daemon (pid %ld) answers on %s",
                    (long)h->daemon, h->control);
    else if (h->control_exists)
        finding_add(ret, "control", FINDING_WARN, "systemctl restart undersock", "%s",
                    h->control_why);
    else
        finding_add(ret, "control", FINDING_OK, NULL, "no daemon runs on %s", h->control);
}

void judge_host(const struct facts *f, struct findings *ret)
{
    judge_loopback(f, ret);
    if (facts_has_hook(f, CAPTURE_GATEWAY))
        judge_gateway(f, ret);
    judge_cgroup(f, ret);
    judge_limit(f, ret);
    judge_daemon(f, ret);
}
