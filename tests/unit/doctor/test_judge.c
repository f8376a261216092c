/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Facts to findings: a host where all is well, and then one fact broken at a time, also those that
 * cannot be broken on a test machine. Each must be named under its id at its level, and be the only
 * complaint.
 */
#include "doctor/judge.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <linux/netfilter.h>

#include <cmocka.h>

#include "bpf/probe.h"

/* A good host with one capture of each hook and one upstream. */
struct world {
    struct facts facts;
    struct config config;
    struct config_capture captures[3];
    struct config_upstream upstream;
    struct facts_upstream reached;
    struct facts_capture capture_facts[3];
    struct fw_chain chains[2];
    struct findings found;
};

static struct world w;

static void good_world(void)
{
    memset(&w, 0, sizeof(w));
    w.upstream = (struct config_upstream){.name = "corp",
                                          .url = {.scheme = SCHEME_SOCKS5H,
                                                  .host = "proxy.example.net",
                                                  .port = 1080,
                                                  .has_user = true},
                                          .via = -1};
    snprintf(w.upstream.url.user, sizeof(w.upstream.url.user), "alice");
    snprintf(w.upstream.url.password, sizeof(w.upstream.url.password), "S3cret");
    w.captures[0].policy = (struct capture_policy){.name = "host", .hook = CAPTURE_OUTPUT};
    w.captures[1].policy =
        (struct capture_policy){.name = "app", .hook = CAPTURE_CGROUP, .cgroup = "/proxied.slice"};
    w.captures[2].policy = (struct capture_policy){.name = "lan", .hook = CAPTURE_GATEWAY};
    w.config = (struct config){.upstreams = &w.upstream,
                               .n_upstreams = 1,
                               .captures = w.captures,
                               .n_captures = 3,
                               .workers = 2,
                               .max_flows = 1000};
    w.reached =
        (struct facts_upstream){.config = &w.upstream, .stage = REACH_DONE, .greeted = true};
    w.facts.file = "undersock.conf";
    w.facts.config = &w.config;
    w.facts.kernel.bpf = (1u << BPF_N_FEATURES) - 1;
    w.facts.kernel.lockdown = LOCKDOWN_NONE;
    w.facts.kernel.unprivileged_bpf = 2;
    w.facts.host = (struct facts_host){.lo_up = 1,
                                       .ip_forward = 1,
                                       .ip6_forwarding = 1,
                                       .bridge_nf4 = FACT_UNKNOWN,
                                       .bridge_nf6 = FACT_UNKNOWN,
                                       .n_interfaces = 1,
                                       .cgroup_root = "/sys/fs/cgroup",
                                       .nofile = 100000,
                                       .cpus = 2,
                                       .control = "/run/undersock/control.sock"};
    w.facts.host.interfaces[0] = (struct facts_interface){.name = "br-lan", .there = true};
    w.facts.firewall.chains = w.chains;
    w.facts.upstreams = &w.reached;
    w.facts.captures = w.capture_facts;
}

static const struct finding *find(const char *id, enum finding_level level)
{
    for (size_t i = 0; i < w.found.n; i++) {
        if (strcmp(w.found.all[i].id, id) == 0 && w.found.all[i].level == level)
            return &w.found.all[i];
    }
    return NULL;
}

/* Judges the world and expects exactly one complaint: `id` at `level`, whose text has `text` in it
 * and whose mend has `mend` in it (NULL: none). */
static void expect(const char *id, enum finding_level level, const char *text, const char *mend)
{
    judge(&w.facts, &w.found);
    assert_false(w.found.out_of_memory);
    const struct finding *f = find(id, level);

    for (size_t i = 0; i < w.found.n; i++) {
        if (!f || (w.found.all[i].level != FINDING_OK && &w.found.all[i] != f))
            print_error("%s %s: %s\n", finding_level_name(w.found.all[i].level), w.found.all[i].id,
                        w.found.all[i].text);
        assert_null(strstr(w.found.all[i].text, "S3cret"));
        assert_null(strstr(w.found.all[i].text, "alice"));
    }
    assert_non_null(f);
    assert_int_equal(
        findings_count(&w.found, FINDING_WARN) + findings_count(&w.found, FINDING_FAIL), 1);
    if (!strstr(f->text, text) || (mend ? !strstr(f->mend, mend) : f->mend[0] != '\0'))
        fail_msg("%s: \"%s\", mend \"%s\"", id, f->text, f->mend);
    findings_free(&w.found);
    good_world();
}

static int setup(void **state)
{
    (void)state;
    good_world();
    return 0;
}

static void test_all_is_well(void **state)
{
    (void)state;
    judge(&w.facts, &w.found);
    for (size_t i = 0; i < w.found.n; i++) {
        if (w.found.all[i].level != FINDING_OK)
            fail_msg("%s: %s", w.found.all[i].id, w.found.all[i].text);
    }
    assert_true(w.found.n > 10);
    findings_free(&w.found);
}

static void test_config(void **state)
{
    char *errors[] = {(char *)"undersock.conf:3: url: wrong"};

    (void)state;
    w.facts.config = NULL;
    w.facts.config_errors = errors;
    w.facts.n_config_errors = 1;
    expect("config", FINDING_FAIL, "undersock.conf:3:", "undersock check -c undersock.conf");
    errors[0] = (char *)"undersock.conf:3: warning: hardly meant";
    w.facts.config_errors = errors;
    w.facts.n_config_errors = 1;
    expect("config", FINDING_WARN, "hardly meant", "undersock check -c undersock.conf");
}

static void test_dns_server(void **state)
{
    static const struct {
        enum config_dns dns;
        enum capture_hook hook;
        const char *server;
        bool warns;
    } t[] = {
        {DNS_TCP, CAPTURE_GATEWAY, NULL, true},   {DNS_ASSOCIATE, CAPTURE_GATEWAY, NULL, true},
        {DNS_FAKE, CAPTURE_GATEWAY, NULL, false}, {DNS_TCP, CAPTURE_GATEWAY, "9.9.9.9:53", false},
        {DNS_TCP, CAPTURE_OUTPUT, NULL, false}, /* loopback has the host's resolver */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct config_capture *k = &w.captures[0];

        k->policy.action = CAPTURE_PROXY;
        k->policy.hook = t[i].hook;
        k->dns = t[i].dns;
        k->dns_server = (char *)t[i].server;
        judge(&w.facts, &w.found);
        const struct finding *f = find("dns-server", FINDING_WARN);

        assert_int_equal(f != NULL, t[i].warns);
        assert_true(!f || strstr(f->text, "set dns-server"));
        findings_free(&w.found);
        good_world();
    }
}

/* A resolver of this network, and an upstream that is most likely not in it. */
static void test_resolver(void **state)
{
    static const struct {
        const char *resolver, *upstream, *server;
        enum config_scheme scheme;
        enum config_dns dns;
        bool warns;
    } t[] = {
        {"192.168.1.1", "proxy.example.net", NULL, SCHEME_SOCKS5, DNS_AUTO, true},
        {"192.168.1.1", "203.0.113.1", NULL, SCHEME_SOCKS5H, DNS_ASSOCIATE, true},
        {"fd00::1", "127.0.0.1", NULL, SCHEME_SOCKS5, DNS_TCP, true}, /* ssh -D */
        {"192.168.1.1", "192.168.1.2", NULL, SCHEME_SOCKS5, DNS_AUTO, false},
        {"9.9.9.9", "203.0.113.1", NULL, SCHEME_SOCKS5, DNS_AUTO, false},
        {"192.168.1.1", "203.0.113.1", "9.9.9.9:53", SCHEME_SOCKS5, DNS_AUTO, false},
        {"192.168.1.1", "203.0.113.1", NULL, SCHEME_SOCKS5H, DNS_AUTO, false},
        {"192.168.1.1", "203.0.113.1", NULL, SCHEME_SOCKS5, DNS_BYPASS, false},
        {NULL, "203.0.113.1", NULL, SCHEME_SOCKS5, DNS_AUTO, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct config_capture *k = &w.captures[0];

        w.config.n_captures = 1;
        k->policy.action = CAPTURE_PROXY;
        k->dns = t[i].dns;
        k->dns_server = (char *)t[i].server;
        w.upstream.url.scheme = t[i].scheme;
        snprintf(w.upstream.url.host, sizeof(w.upstream.url.host), "%s", t[i].upstream);
        if (t[i].resolver)
            assert_int_equal(addr_parse(t[i].resolver, 53, &w.facts.host.resolver), 0);
        judge(&w.facts, &w.found);
        const struct finding *f = find("dns-server", FINDING_WARN);

        if ((f != NULL) != t[i].warns)
            fail_msg("%zu: %s", i, f ? f->text : "no warning");
        assert_true(!f || strstr(f->text, t[i].resolver));
        findings_free(&w.found);
        good_world();
    }
}

static void test_no_config(void **state)
{
    (void)state;
    w.facts.file = NULL;
    w.facts.config = NULL;
    judge(&w.facts, &w.found);
    const struct finding *f = find("config", FINDING_OK);

    assert_non_null(f);
    assert_non_null(strstr(f->text, "no configuration"));
    assert_null(find("upstream", FINDING_OK));
    assert_null(find("ip-forward", FINDING_OK));
    findings_free(&w.found);
}

static void test_btf(void **state)
{
    (void)state;
    w.facts.kernel.bpf &= ~(1u << BPF_FEATURE_BTF);
    expect("btf", FINDING_FAIL, "BTF", NULL);
    /* Nothing needs it: no failure. */
    w.facts.kernel.bpf &= ~(1u << BPF_FEATURE_BTF);
    w.captures[1].policy.hook = CAPTURE_OUTPUT;
    expect("btf", FINDING_WARN, "BTF", NULL);
}

static void test_bpf(void **state)
{
    (void)state;
    w.facts.kernel.bpf &= ~(1u << BPF_FEATURE_PEERNAME);
    expect("bpf-cgroup", FINDING_FAIL, "getpeername", NULL);
    w.facts.kernel.bpf &= ~(1u << BPF_FEATURE_MPTCP);
    expect("bpf-extras", FINDING_WARN, "mptcp", NULL);
    w.facts.kernel.bpf_error = w.facts.kernel.bpf_worker = -ENOSYS;
    expect("bpf-cgroup", FINDING_FAIL, "no BPF", NULL);
    w.facts.kernel.bpf_error = w.facts.kernel.bpf_worker = -EPERM;
    expect("bpf-cgroup", FINDING_FAIL, "although the privilege is there", "lockdown");
    w.facts.kernel.bpf_worker = -EPERM;
    expect("bpf-worker", FINDING_FAIL, "unprivileged worker", "unprivileged_bpf_disabled");
    w.facts.kernel.stitch_error = -EOPNOTSUPP;
    expect("stitch", FINDING_WARN, "so they are relayed", NULL);
    w.facts.kernel.unprivileged_bpf = 0;
    expect("unprivileged-bpf", FINDING_WARN, "every user", "unprivileged_bpf_disabled=2");
}

static void test_lockdown(void **state)
{
    (void)state;
    w.facts.kernel.lockdown = LOCKDOWN_CONFIDENTIALITY;
    expect("lockdown", FINDING_WARN, "confidentiality", NULL);
    w.facts.kernel.lockdown = LOCKDOWN_CONFIDENTIALITY;
    w.facts.kernel.bpf_error = w.facts.kernel.bpf_worker = -EPERM;
    judge(&w.facts, &w.found);
    assert_non_null(find("lockdown", FINDING_FAIL));
    findings_free(&w.found);
}

static void test_nft(void **state)
{
    (void)state;
    w.facts.kernel.nft.result[NFT_FEATURE_OWNER] = -EOPNOTSUPP;
    expect("nft-owner", FINDING_FAIL, "owner", NULL);
    w.facts.kernel.nft.result[NFT_FEATURE_REDIRECT] = -ENOENT;
    expect("nft-redirect", FINDING_FAIL, "redirect", "modprobe");
    w.facts.kernel.nft.result[NFT_FEATURE_LOG] = -EOPNOTSUPP; /* then connect = "early" */
    expect("nft-nfnetlink-log", FINDING_WARN, "nfnetlink_log", "modprobe");
    w.facts.kernel.nft.result[NFT_FEATURE_HOLD] = -ENOENT;
    expect("nft-rules-that-hold-syns", FINDING_WARN, "hold", "modprobe");
    w.facts.kernel.nft.result[NFT_FEATURE_REDIRECT] = -ENOENT;
    w.captures[0].policy.hook = CAPTURE_CGROUP;
    expect("nft-redirect", FINDING_WARN, "redirect", "modprobe");
    w.facts.kernel.nft_error = -EOPNOTSUPP;
    expect("nft", FINDING_FAIL, "nftables cannot be used", "modprobe nf_tables");
}

static void test_privileges(void **state)
{
    (void)state;
    snprintf(w.facts.kernel.missing, sizeof(w.facts.kernel.missing), "CAP_SETUID");
    expect("privileges", FINDING_FAIL, "CAP_SETUID", "sudo");
}

static void test_loopback(void **state)
{
    (void)state;
    w.facts.host.lo_up = 0;
    w.facts.host.loopback.v4 = -EADDRNOTAVAIL;
    expect("lo", FINDING_FAIL, "down", "ip link set lo up");
    w.facts.host.loopback.v4 = -ETIMEDOUT;
    expect("listener", FINDING_FAIL, "127.0.0.1", NULL);
    w.facts.host.loopback.v4_outside = -ETIMEDOUT;
    expect("listener", FINDING_FAIL, "own address", NULL);
    w.facts.host.loopback.v6 = -EADDRNOTAVAIL;
    expect("listener6", FINDING_WARN, "::1", "disable_ipv6");
    /* The chain that drops is named; one that lets the loopback through is not suspected. */
    w.facts.host.loopback.v4 = -ETIMEDOUT;
    w.chains[0] = (struct fw_chain){.table = "a",
                                    .name = "in",
                                    .family = NFPROTO_INET,
                                    .hook = NF_INET_LOCAL_IN,
                                    .drops = true,
                                    .traits = FW_ACCEPT_LO | FW_ACCEPT_SOCKET,
                                    .udp_traits = FW_ACCEPT_LO | FW_ACCEPT_SOCKET};
    w.chains[1] = (struct fw_chain){.table = "b",
                                    .name = "in",
                                    .family = NFPROTO_IPV4,
                                    .hook = NF_INET_LOCAL_IN,
                                    .drops = true,
                                    .traits = FW_ACCEPT_SOCKET,
                                    .udp_traits = FW_ACCEPT_SOCKET};
    w.facts.firewall.n_chains = 2;
    expect("listener", FINDING_FAIL, "ip b in", "nft insert rule ip b in iifname lo accept");
}

static void test_gateway(void **state)
{
    struct facts_interface *i = &w.facts.host.interfaces[0];

    (void)state;
    w.facts.host.ip_forward = 0;
    expect("ip-forward", FINDING_WARN, "IPv4 is not forwarded", "net.ipv4.ip_forward=1");
    w.facts.host.ip6_forwarding = 0;
    expect("ip6-forward", FINDING_WARN, "IPv6 is not forwarded", "net.ipv6.conf.all.forwarding=1");
    i->there = false;
    expect("interface", FINDING_WARN, "br-lan", "ip -br link");
    i->rp_filter = 1;
    expect("rp-filter", FINDING_WARN, "strict on br-lan", "conf.br-lan.rp_filter=2");
    i->route_localnet = 1;
    expect("route-localnet", FINDING_WARN, "br-lan", "route_localnet=0");
    i->src_valid_mark = 1;
    expect("src-valid-mark", FINDING_FAIL, "br-lan", "src_valid_mark=0");
    i->bridge = true;
    w.facts.host.bridge_nf4 = 1;
    expect("bridge-netfilter", FINDING_FAIL, "br-lan", "bridge-nf-call-iptables=0");
    /* None of it concerns who has no gateway capture. */
    w.captures[2].policy.hook = CAPTURE_OUTPUT;
    w.facts.host.ip_forward = 0;
    i->src_valid_mark = i->rp_filter = w.facts.host.bridge_nf4 = 1;
    i->bridge = true;
    test_all_is_well(state);
}

static void test_cgroup(void **state)
{
    (void)state;
    w.facts.host.cgroup_root[0] = '\0';
    w.capture_facts[1].cgroup = -ENOENT;
    expect("cgroup2", FINDING_FAIL, "no cgroup2", "mount -t cgroup2");
    w.capture_facts[1].cgroup = -ENOENT;
    expect("cgroup-path", FINDING_FAIL, "/proxied.slice", "mkdir -p /sys/fs/cgroup/proxied.slice");
}

static void test_limits(void **state)
{
    (void)state;
    w.facts.host.nofile = 1024; /* 500 flows a worker want more */
    expect("fd-limit", FINDING_WARN, "1024", "ulimit -n");
    w.facts.host.nofile = 64;
    expect("fd-limit", FINDING_FAIL, "64", "ulimit -n");
    w.facts.host.nofile = 1024;
    w.facts.host.daemon = 4711;
    expect("fd-limit", FINDING_WARN, "of the running daemon is 1024",
           "prlimit --pid 4711 --nofile=");
    w.facts.host.nofile = RLIM_INFINITY;
    test_all_is_well(state);
}

static void test_daemon(void **state)
{
    (void)state;
    w.facts.host.control_exists = true;
    snprintf(w.facts.host.control_why, sizeof(w.facts.host.control_why), "no daemon answers");
    expect("control", FINDING_WARN, "no daemon answers", "restart");
}

static void test_firewall(void **state)
{
    struct fw_chain *c = &w.chains[0];
    const struct fw_chain nat = {.table = "nat",
                                 .name = "OUT",
                                 .family = NFPROTO_IPV4,
                                 .hook = NF_INET_LOCAL_OUT,
                                 .priority = -150,
                                 .nat = true,
                                 .traits = FW_NAT,
                                 .udp_traits = FW_NAT};
    const struct fw_chain input = {.table = "filter",
                                   .name = "in",
                                   .family = NFPROTO_INET,
                                   .hook = NF_INET_LOCAL_IN,
                                   .drops = true};

    (void)state;
    *c = nat;
    w.facts.firewall.n_chains = 1;
    expect("foreign-nat", FINDING_FAIL, "ip nat OUT", "nft -a list chain ip nat OUT");
    *c = nat;
    c->priority = -110;
    w.facts.firewall.n_chains = 1;
    expect("foreign-nat", FINDING_WARN, "made first", "nft -a list chain");
    *c = nat;
    c->priority = -100; /* Docker's and iptables' own: after ours */
    w.facts.firewall.n_chains = 1;
    test_all_is_well(state);
    *c = nat;
    c->traits = c->udp_traits = 0; /* before us, and does nothing to destinations */
    test_all_is_well(state);

    good_world();
    *c = input;
    w.facts.firewall.n_chains = 1;
    expect("foreign-input", FINDING_FAIL, "held until", "in socket transparent 1 accept");
    /* What is held needs both, and no interface; UDP needs the interface. */
    static const struct {
        enum config_connect connect;
        enum config_udp udp;
        int log; /* the kernel's word on holding */
        unsigned traits;
        enum finding_level level;
        const char *text;
    } ways[] = {
        {CONNECT_AUTO, UDP_BYPASS, 0, FW_ACCEPT_LO, FINDING_FAIL, "come in by lo"},
        {CONNECT_AUTO, UDP_BYPASS, 0, FW_ACCEPT_ESTABLISHED, FINDING_FAIL, "come in by lo"},
        {CONNECT_AUTO, UDP_BYPASS, 0, FW_ACCEPT_ESTABLISHED | FW_ACCEPT_INTERFACE, FINDING_FAIL,
         "come in by lo"},
        {CONNECT_AUTO, UDP_BYPASS, 0, FW_ACCEPT_LO | FW_ACCEPT_ESTABLISHED, FINDING_OK, NULL},
        {CONNECT_AUTO, UDP_AUTO, 0, FW_ACCEPT_LO | FW_ACCEPT_ESTABLISHED, FINDING_FAIL,
         "also the UDP that"},
        {CONNECT_AUTO, UDP_AUTO, 0, FW_ACCEPT_LO | FW_ACCEPT_ESTABLISHED | FW_ACCEPT_INTERFACE,
         FINDING_WARN, "drops the UDP that"},
        {CONNECT_EARLY, UDP_BYPASS, 0, FW_ACCEPT_LO | FW_ACCEPT_ESTABLISHED, FINDING_FAIL,
         "also what TPROXY"},
        {CONNECT_EARLY, UDP_BYPASS, 0, FW_ACCEPT_INTERFACE, FINDING_WARN, "drops what TPROXY"},
        {CONNECT_HONEST, UDP_BYPASS, -ENOENT, FW_ACCEPT_INTERFACE, FINDING_WARN,
         "drops what TPROXY"},
    };
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        good_world();
        *c = input;
        c->traits = c->udp_traits = ways[i].traits;
        w.facts.firewall.n_chains = 1;
        w.captures[2].connect = ways[i].connect;
        w.captures[2].udp = ways[i].udp;
        w.captures[2].dns = ways[i].udp == UDP_BYPASS ? DNS_BYPASS : DNS_AUTO;
        w.facts.kernel.nft.result[NFT_FEATURE_HOLD] = ways[i].log;
        if (ways[i].log < 0) { /* which is a finding itself */
            judge(&w.facts, &w.found);
            const struct finding *f = find("foreign-input", ways[i].level);

            assert_true(f && strstr(f->text, ways[i].text));
            findings_free(&w.found);
            continue;
        }
        if (ways[i].level == FINDING_OK)
            test_all_is_well(state);
        else
            expect("foreign-input", ways[i].level, ways[i].text, "in socket transparent 1 accept");
    }
    good_world();
    *c = input;
    c->traits = c->udp_traits = FW_ACCEPT_SOCKET;
    w.facts.firewall.n_chains = 1;
    test_all_is_well(state);

    good_world();
    *c = (struct fw_chain){.table = "t",
                           .name = "p",
                           .family = NFPROTO_INET,
                           .hook = NF_INET_PRE_ROUTING,
                           .traits = FW_TPROXY,
                           .udp_traits = FW_TPROXY};
    w.facts.firewall.n_chains = 1;
    expect("foreign-tproxy", FINDING_WARN, "inet t p", "nft -a list");
    *c = (struct fw_chain){.table = "t",
                           .name = "o",
                           .family = NFPROTO_INET,
                           .hook = NF_INET_LOCAL_OUT,
                           .traits = FW_DROP | FW_DROP_INVALID,
                           .udp_traits = FW_DROP | FW_DROP_INVALID};
    w.facts.firewall.n_chains = 1;
    expect("ct-invalid", FINDING_WARN, "inet t o", "nft -a list");
    snprintf(w.facts.firewall.legacy4, sizeof(w.facts.firewall.legacy4), "nat filter");
    expect("iptables-legacy", FINDING_WARN, "nat filter", "iptables-legacy-save");
    w.facts.firewall.error = -EPERM;
    expect("firewall", FINDING_WARN, "cannot be read", "sudo");
}

/* Chains that accept one protocol alone, with a gateway and this host's own, held, and UDP. */
static void test_one_protocol(void **state)
{
    static const char marks[] = "meta mark and 0xffff0000 == 0x55530000 accept";
    static const struct {
        uint32_t hook;
        unsigned tcp, udp;
        const char *text, *mend; /* NULL: all is well */
    } chains[] = {
        {NF_INET_LOCAL_OUT, FW_ACCEPT_ALL, 0, "UDP and DNS that are redirected", marks},
        {NF_INET_LOCAL_OUT, 0, FW_ACCEPT_ALL, "connections that the proxy has granted", marks},
        {NF_INET_LOCAL_OUT, FW_ACCEPT_MARKS, 0, "UDP and DNS that are redirected", marks},
        {NF_INET_LOCAL_OUT, FW_ACCEPT_ALL, FW_ACCEPT_MARKS, NULL, NULL},
        {NF_INET_LOCAL_IN, FW_ACCEPT_ALL, 0, "also the UDP that", "socket transparent 1 accept"},
        {NF_INET_LOCAL_IN, 0, FW_ACCEPT_SOCKET, "come in by lo", "socket transparent 1 accept"},
        {NF_INET_LOCAL_IN, FW_ACCEPT_ALL, FW_ACCEPT_ALL, NULL, NULL},
    };

    for (size_t i = 0; i < sizeof(chains) / sizeof(chains[0]); i++) {
        good_world();
        w.chains[0] = (struct fw_chain){.table = "k",
                                        .name = "c",
                                        .family = NFPROTO_IPV4,
                                        .hook = chains[i].hook,
                                        .drops = true,
                                        .traits = chains[i].tcp,
                                        .udp_traits = chains[i].udp};
        w.facts.firewall.n_chains = 1;
        for (size_t k = 0; k < 3; k++) {
            w.captures[k].connect = CONNECT_AUTO;
            w.captures[k].udp = UDP_AUTO;
            w.captures[k].dns = DNS_AUTO;
        }
        if (chains[i].text)
            expect(chains[i].hook == NF_INET_LOCAL_OUT ? "foreign-output" : "foreign-input",
                   FINDING_FAIL, chains[i].text, chains[i].mend);
        else
            test_all_is_well(state);
    }
}

/* Output chains that drop by default, with all captures of one hook. */
static void test_output_chain(void **state)
{
    static const char marks[] =
        "nft insert rule ip k out meta mark and 0xffff0000 == 0x55530000 accept",
                      local[] = "nft insert rule ip k out fib daddr type local accept";
    static const struct {
        enum capture_hook hook;
        enum config_connect connect;
        enum config_udp udp;
        int priority;
        unsigned traits;
        enum finding_level level;
        const char *text, *mend;
    } chains[] = {
        {CAPTURE_OUTPUT, CONNECT_AUTO, UDP_AUTO, 0, FW_ACCEPT_LO | FW_ACCEPT_ESTABLISHED,
         FINDING_FAIL, "ip k out drops by default, also the connections", marks},
        {CAPTURE_OUTPUT, CONNECT_AUTO, UDP_BYPASS, 0, FW_ACCEPT_SOCKET, FINDING_FAIL, "granted",
         marks},
        {CAPTURE_OUTPUT, CONNECT_AUTO, UDP_AUTO, 0, FW_ACCEPT_SOCKET | FW_ACCEPT_MARKS, FINDING_OK,
         NULL, NULL},
        {CAPTURE_OUTPUT, CONNECT_AUTO, UDP_AUTO, 0, FW_ACCEPT_ALL, FINDING_OK, NULL, NULL},
        {CAPTURE_OUTPUT, CONNECT_AUTO, UDP_AUTO, 0, FW_ACCEPT_INTERFACE, FINDING_WARN,
         "by interface", marks},
        {CAPTURE_OUTPUT, CONNECT_AUTO, UDP_AUTO, -200, 0, FINDING_WARN, "before ours",
         "nft -a list chain ip k out"},
        {CAPTURE_OUTPUT, CONNECT_EARLY, UDP_AUTO, 0, 0, FINDING_FAIL, "redirected",
         "== 0x55530000 accept && nft insert rule ip k out fib daddr type local accept"},
        {CAPTURE_OUTPUT, CONNECT_EARLY, UDP_BYPASS, 0, 0, FINDING_FAIL, "redirected", local},
        {CAPTURE_OUTPUT, CONNECT_EARLY, UDP_BYPASS, 0, FW_ACCEPT_LOCAL, FINDING_OK, NULL, NULL},
        {CAPTURE_CGROUP, CONNECT_AUTO, UDP_AUTO, 0, 0, FINDING_FAIL, "UDP and DNS that", marks},
        {CAPTURE_CGROUP, CONNECT_AUTO, UDP_BYPASS, 0, 0, FINDING_OK, NULL, NULL},
        {CAPTURE_GATEWAY, CONNECT_AUTO, UDP_AUTO, 0, 0, FINDING_OK, NULL, NULL},
    };

    for (size_t i = 0; i < sizeof(chains) / sizeof(chains[0]); i++) {
        good_world();
        w.chains[0] = (struct fw_chain){.table = "k",
                                        .name = "out",
                                        .family = NFPROTO_IPV4,
                                        .hook = NF_INET_LOCAL_OUT,
                                        .priority = chains[i].priority,
                                        .drops = true,
                                        .traits = chains[i].traits,
                                        .udp_traits = chains[i].traits};
        w.facts.firewall.n_chains = 1;
        for (size_t k = 0; k < 3; k++) {
            w.captures[k].policy.hook = chains[i].hook;
            w.captures[k].policy.cgroup = chains[i].hook == CAPTURE_CGROUP ? "/s" : NULL;
            w.captures[k].connect = chains[i].connect;
            w.captures[k].udp = chains[i].udp;
            w.captures[k].dns = chains[i].udp == UDP_BYPASS ? DNS_BYPASS : DNS_AUTO;
        }
        if (chains[i].level == FINDING_OK)
            test_all_is_well(state);
        else
            expect("foreign-output", chains[i].level, chains[i].text, chains[i].mend);
    }
}

/* A table that iptables has made is mended by itself: nft's rules would keep it from reading it. */
static void test_iptables(void **state)
{
    static const struct {
        struct fw_chain chain;
        const char *id, *mend;
    } cases[] = {
        {{.table = "filter", .name = "OUTPUT", .family = NFPROTO_IPV4, .hook = NF_INET_LOCAL_OUT},
         "foreign-output",
         "iptables -t filter -I OUTPUT -m mark --mark 0x55530000/0xffff0000 -j ACCEPT && "
         "iptables -t filter -I OUTPUT -m addrtype --dst-type LOCAL -j ACCEPT"},
        {{.table = "mangle", .name = "OUTPUT", .family = NFPROTO_IPV6, .hook = NF_INET_LOCAL_OUT},
         "foreign-output",
         "&& ip6tables -t mangle -I OUTPUT -m addrtype --dst-type LOCAL -j ACCEPT"},
        {{.table = "filter", .name = "INPUT", .family = NFPROTO_IPV4, .hook = NF_INET_LOCAL_IN},
         "foreign-input",
         "iptables -t filter -I INPUT -m socket --transparent -j ACCEPT"},
        {{.table = "filter", .name = "OUTPUT", .family = NFPROTO_INET, .hook = NF_INET_LOCAL_OUT},
         "foreign-output",
         "nft insert rule inet filter OUTPUT fib daddr type local accept"},
        {{.table = "mine", .name = "OUTPUT", .family = NFPROTO_IPV4, .hook = NF_INET_LOCAL_OUT},
         "foreign-output",
         "nft insert rule ip mine OUTPUT fib daddr type local accept"},
        {{.table = "filter", .name = "input", .family = NFPROTO_IPV4, .hook = NF_INET_LOCAL_IN},
         "foreign-input",
         "nft insert rule ip filter input socket transparent 1 accept"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        good_world();
        w.chains[0] = cases[i].chain;
        w.chains[0].drops = true;
        w.facts.firewall.n_chains = 1;
        w.captures[0].connect = w.captures[2].connect = CONNECT_EARLY;
        expect(cases[i].id, FINDING_FAIL, "drops by default", cases[i].mend);
    }
}

static void test_tools(void **state)
{
    static const char *const ids[] = {"firewalld", "ufw",        "docker",
                                      "libvirt",   "kubernetes", "fail2ban"};

    (void)state;
    w.facts.firewall.tools =
        FW_FIREWALLD | FW_UFW | FW_DOCKER | FW_LIBVIRT | FW_KUBERNETES | FW_FAIL2BAN;
    judge(&w.facts, &w.found);
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        assert_non_null(find(ids[i], FINDING_OK));
    findings_free(&w.found);
}

static void reached(enum reach_stage stage, const char *why)
{
    w.reached.stage = stage;
    snprintf(w.reached.why, sizeof(w.reached.why), "%s", why);
}

static void test_upstreams(void **state)
{
    (void)state;
    reached(REACH_RESOLVE, "upstream corp: cannot resolve");
    expect("upstream-resolve", FINDING_FAIL, "corp", "getent ahosts proxy.example.net");
    reached(REACH_CONNECT, "no result within 60 s");
    expect("upstream-connect", FINDING_FAIL, "no result", "getent ahosts proxy.example.net");
    reached(REACH_CONNECT, "Connection refused");
    assert_int_equal(addr_parse("[2001:db8::5]", 1080, &w.reached.at), 0);
    expect("upstream-connect", FINDING_FAIL, "Connection refused", "ip route get 2001:db8::5");
    reached(REACH_CONNECT, "Connection refused");
    assert_int_equal(addr_parse("127.0.0.1", 1081, &w.reached.at), 0);
    expect("upstream-connect", FINDING_FAIL, "Connection refused", "ss -ltnp 'sport = :1081'");
    reached(REACH_HANDSHAKE, "it accepts none of our authentication methods");
    expect("upstream-handshake", FINDING_FAIL, "none of our", "sudoedit undersock.conf");
    reached(REACH_HANDSHAKE, "it refused the user name or password");
    w.upstream.password_file = (char *)"/etc/undersock/corp.password";
    expect("upstream-handshake", FINDING_FAIL, "refused the user", "/etc/undersock/corp.password");

    w.capture_facts[0].local.verdict = LOCAL_UPSTREAM_REFUSE;
    snprintf(w.capture_facts[0].local_why, sizeof(w.capture_facts[0].local_why),
             "run it elsewhere");
    expect("upstream-owner", FINDING_FAIL, "run it elsewhere", NULL);
    w.capture_facts[0].local.verdict = LOCAL_UPSTREAM_EXCLUDE;
    snprintf(w.capture_facts[0].local_why, sizeof(w.capture_facts[0].local_why), "left alone");
    expect("upstream-owner", FINDING_WARN, "left alone", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_all_is_well, setup),
        cmocka_unit_test_setup(test_config, setup),
        cmocka_unit_test_setup(test_dns_server, setup),
        cmocka_unit_test_setup(test_resolver, setup),
        cmocka_unit_test_setup(test_no_config, setup),
        cmocka_unit_test_setup(test_btf, setup),
        cmocka_unit_test_setup(test_bpf, setup),
        cmocka_unit_test_setup(test_lockdown, setup),
        cmocka_unit_test_setup(test_nft, setup),
        cmocka_unit_test_setup(test_privileges, setup),
        cmocka_unit_test_setup(test_loopback, setup),
        cmocka_unit_test_setup(test_gateway, setup),
        cmocka_unit_test_setup(test_cgroup, setup),
        cmocka_unit_test_setup(test_limits, setup),
        cmocka_unit_test_setup(test_daemon, setup),
        cmocka_unit_test_setup(test_firewall, setup),
        cmocka_unit_test_setup(test_one_protocol, setup),
        cmocka_unit_test_setup(test_output_chain, setup),
        cmocka_unit_test_setup(test_iptables, setup),
        cmocka_unit_test_setup(test_tools, setup),
        cmocka_unit_test_setup(test_upstreams, setup),
    };

    return cmocka_run_group_tests_name("judge", tests, NULL, NULL);
}
