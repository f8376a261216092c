/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration and the kernel. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bpf/probe.h"
#include "doctor/judge.h"
#include "keeper/datagrams.h"

bool facts_has_hook(const struct facts *f, enum capture_hook hook)
{
    for (size_t i = 0; f->config && i < f->config->n_captures; i++) {
        if (f->config->captures[i].policy.hook == hook)
            return true;
    }
    return false;
}

/* What is missing for a hook: a failure if a capture has it, or if `always` and nothing is
 * configured. */
static enum finding_level lack(const struct facts *f, enum capture_hook hook, bool always)
{
    return facts_has_hook(f, hook) || (always && !f->config) ? FINDING_FAIL : FINDING_WARN;
}

void judge_config(const struct facts *f, struct findings *ret)
{
    if (!f->file) {
        finding_add(ret, "config", FINDING_OK, "undersock doctor -c FILE",
                    "there is no configuration: only the kernel and this host are looked at");
        return;
    }
    for (size_t i = 0; i < f->n_config_errors; i++) /* warnings, if there is a configuration */
        finding_add_mend(ret, "config", f->config ? FINDING_WARN : FINDING_FAIL,
                         f->config_errors[i], "undersock check -c %s", f->file);
    if (f->config)
        finding_add(ret, "config", FINDING_OK, NULL,
                    "%s: good, with %zu upstreams and %zu captures", f->file,
                    f->config->n_upstreams, f->config->n_captures);
    else if (f->n_config_errors == 0)
        finding_add(ret, "config", FINDING_FAIL, NULL, "%s: it cannot be loaded", f->file);
    for (size_t i = 0; f->config && i < f->config->n_captures; i++) {
        const char *capture = f->config->captures[i].policy.name;
        char resolver[ADDR_STRLEN];

        if (config_lacks_dns_server(&f->config->captures[i]))
            finding_add(ret, "dns-server", FINDING_WARN, NULL, CONFIG_LACKS_DNS_SERVER, capture);
        if (datagrams_asks_in_vain(f->config, i, &f->host.resolver))
            finding_add(ret, "dns-server", FINDING_WARN, NULL, DATAGRAMS_ASKS_IN_VAIN, capture,
                        addr_format_ip(&f->host.resolver, resolver));
    }
}

static void judge_privileges(const struct facts_kernel *k, struct findings *ret)
{
    if (k->missing[0])
        finding_add(
            ret, "privileges", FINDING_FAIL, "sudo undersock doctor",
            "this process lacks %s, which the daemon needs; some things cannot be looked at "
            "without them",
            k->missing);
    else
        finding_add(ret, "privileges", FINDING_OK, NULL,
                    "all capabilities that the daemon needs are there");
}

/* Names of the features that are missing, required ones or others. */
static size_t list_missing(uint32_t found, bool required, char *buf, size_t size)
{
    size_t n = 0, len = 0;

    buf[0] = '\0';
    for (unsigned i = 0; i < BPF_N_FEATURES; i++) {
        const struct bpf_feature_info *info = &bpf_feature_infos[i];

        if ((found & 1u << i) || info->required != required || i == BPF_FEATURE_BTF)
            continue;
        if (len < size)
            len += (size_t)snprintf(buf + len, size - len, "%s%s (%s)", n > 0 ? "; " : "",
                                    info->name, info->without);
        n++;
    }
    return n;
}

static void judge_bpf(const struct facts *f, struct findings *ret)
{
    const struct facts_kernel *k = &f->kernel;
    enum finding_level level = lack(f, CAPTURE_CGROUP, true);
    char missing[768];

    if (k->bpf_error < 0 && k->missing[0]) {
        finding_add(ret, "bpf-cgroup", FINDING_WARN, "sudo undersock doctor",
                    "BPF programs could not be tried without the privilege to load them");
        return;
    }
    if (k->bpf_error == -EPERM) {
        finding_add(ret, "bpf-cgroup", level,
                    k->lockdown == LOCKDOWN_UNKNOWN ? NULL : "cat /sys/kernel/security/lockdown",
                    "the kernel refuses to load BPF programs although the privilege is there: a "
                    "security module, lockdown or a container's seccomp filter forbids it");
        return;
    }
    if (k->bpf_error < 0) {
        finding_add(ret, "bpf-cgroup", level, NULL,
                    "this kernel has no BPF (%s): build it with CONFIG_BPF_SYSCALL and "
                    "CONFIG_CGROUP_BPF, or use captures with hook = \"output\"",
                    strerror(-k->bpf_error));
        return;
    }
    if (k->bpf & 1u << BPF_FEATURE_BTF)
        finding_add(ret, "btf", FINDING_OK, NULL, "the kernel describes its types (BTF)");
    else
        finding_add(ret, "btf", level, NULL,
                    "/sys/kernel/btf/vmlinux is missing, so BPF programs cannot be fitted to this "
                    "kernel: build it with CONFIG_DEBUG_INFO_BTF, or use captures with hook = "
                    "\"output\"");
    if (list_missing(k->bpf, true, missing, sizeof(missing)) > 0)
        finding_add(ret, "bpf-cgroup", level, NULL,
                    "the cgroup hooks of this kernel lack %s: use captures with hook = \"output\"",
                    missing);
    else
        finding_add(ret, "bpf-cgroup", FINDING_OK, NULL,
                    "all cgroup BPF programs that a capture needs can be loaded");
    if (list_missing(k->bpf, false, missing, sizeof(missing)) > 0)
        finding_add(ret, "bpf-extras", FINDING_WARN, NULL, "this kernel does without %s", missing);
    if (k->bpf_worker == 0)
        finding_add(ret, "bpf-worker", FINDING_OK, NULL,
                    "an unprivileged worker can read the map of original destinations");
    else
        finding_add(ret, "bpf-worker", level, "sysctl -w kernel.unprivileged_bpf_disabled=0",
                    "an unprivileged worker cannot read the map of original destinations (%s)",
                    strerror(-k->bpf_worker));
}

/* Never more than a warning: what is not stitched is relayed. */
static void judge_stitch(const struct facts *f, struct findings *ret)
{
    const struct facts_kernel *k = &f->kernel;

    if (k->stitch_error == 0 && k->stitch_kept)
        finding_add(ret, "stitch", FINDING_OK, NULL,
                    "connections of a cgroup can be stitched: no relay");
    else if (k->stitch_error == 0)
        finding_add(ret, "stitch", FINDING_OK, NULL,
                    "connections of a cgroup can be stitched: no relay (a daemon with fewer rights "
                    "than this needs to be told: undersock prove)");
    else if (!(k->bpf_error < 0))
        finding_add(ret, "stitch", FINDING_WARN, NULL,
                    "connections cannot be stitched, so they are relayed: %s",
                    k->stitch_why[0] ? k->stitch_why : strerror(-k->stitch_error));
}

/* A short one where there is one, else "nft-" and the feature's name. */
static const char *nft_id(enum nft_feature feature)
{
    static char ids[NFT_N_FEATURES][64] = {[NFT_FEATURE_OWNER] = "nft-owner",
                                           [NFT_FEATURE_SETS] = "nft-sets",
                                           [NFT_FEATURE_REDIRECT] = "nft-redirect",
                                           [NFT_FEATURE_REJECT] = "nft-reject"};
    char *id = ids[feature];

    if (id[0])
        return id;
    snprintf(id, sizeof(ids[feature]), "nft-%s", nft_feature_name(feature));
    for (char *p = id; *p; p++)
        *p = isalnum((unsigned char)*p) ? (char)tolower((unsigned char)*p) : '-';
    return id;
}

/* Whether a capture takes UDP (`cgroup`: of a cgroup) with the help of nftables. */
static bool takes_udp(const struct facts *f, bool cgroup)
{
    for (size_t i = 0; f->config && i < f->config->n_captures; i++) {
        const struct capture_policy *p = &f->config->captures[i].policy;

        if (p->action == CAPTURE_PROXY && (p->dns || p->udp == CAPTURE_UDP_TAKE) &&
            (!cgroup || p->hook == CAPTURE_CGROUP))
            return true;
    }
    return false;
}

static enum finding_level nft_lack(const struct facts *f, enum nft_feature feature)
{
    const char *name = nft_feature_name(feature);
    bool gateway = facts_has_hook(f, CAPTURE_GATEWAY), output = facts_has_hook(f, CAPTURE_OUTPUT);

    if (feature == NFT_FEATURE_HOLD || feature == NFT_FEATURE_LOG)
        return FINDING_WARN; /* connect = "early" is used instead */
    if (strstr(name, "tproxy"))
        return gateway ? FINDING_FAIL : FINDING_WARN;
    if (feature == NFT_FEATURE_UDP)
        return takes_udp(f, false) ? FINDING_FAIL : FINDING_WARN;
    if (feature == NFT_FEATURE_CGROUP)
        return takes_udp(f, true) ? FINDING_FAIL : FINDING_WARN;
    if (strstr(name, "redirect"))
        return output || !f->config ? FINDING_FAIL : FINDING_WARN;
    return output || gateway || !f->config ? FINDING_FAIL : FINDING_WARN;
}

static void judge_nft(const struct facts *f, struct findings *ret)
{
    const struct facts_kernel *k = &f->kernel;

    if (k->nft_error < 0 && k->missing[0]) {
        finding_add(ret, "nft", FINDING_WARN, "sudo undersock doctor",
                    "nftables could not be tried without CAP_NET_ADMIN");
        return;
    }
    if (k->nft_error < 0) {
        finding_add(ret, "nft", lack(f, CAPTURE_OUTPUT, true), "modprobe nf_tables",
                    "nftables cannot be used: %s",
                    k->nft_why[0] ? k->nft_why : strerror(-k->nft_error));
        return;
    }
    for (enum nft_feature i = 0; i < NFT_N_FEATURES; i++) {
        const char *name = nft_feature_name(i);

        if (k->nft.result[i] == 0)
            finding_add(ret, nft_id(i), FINDING_OK, NULL, "nftables: %s: works", name);
        else
            finding_add(ret, nft_id(i), nft_lack(f, i),
                        i == NFT_FEATURE_HOLD      ? "modprobe -a nft_log nft_hash nft_socket"
                        : i == NFT_FEATURE_LOG     ? "modprobe nfnetlink_log"
                        : strstr(name, "tproxy")   ? "modprobe nft_tproxy"
                        : strstr(name, "redirect") ? "modprobe -a nft_chain_nat nft_redir"
                        : strstr(name, "reject")   ? "modprobe nft_reject_inet"
                                                   : NULL,
                        "nftables: %s: does not work: %s", name,
                        k->nft.why[i][0] ? k->nft.why[i] : strerror(-k->nft.result[i]));
    }
}

static void judge_lockdown(const struct facts *f, struct findings *ret)
{
    const struct facts_kernel *k = &f->kernel;
    bool works = k->bpf_error == 0 && (k->bpf & 1u << BPF_FEATURE_CONNECT);

    if (k->lockdown != LOCKDOWN_CONFIDENTIALITY)
        finding_add(ret, "lockdown", FINDING_OK, NULL, "%s",
                    k->lockdown == LOCKDOWN_INTEGRITY
                        ? "kernel lockdown is at \"integrity\", which allows BPF and nftables"
                    : k->lockdown == LOCKDOWN_NONE
                        ? "kernel lockdown is off"
                        : "kernel lockdown is not there, or not visible");
    else if (works)
        finding_add(ret, "lockdown", FINDING_WARN, NULL,
                    "kernel lockdown is at \"confidentiality\": the programs of a cgroup capture "
                    "load, but those that read kernel memory would not");
    else
        finding_add(
            ret, "lockdown", lack(f, CAPTURE_CGROUP, true), NULL,
            "kernel lockdown is at \"confidentiality\", which forbids the BPF programs of a "
            "cgroup capture: boot with lockdown=integrity, or use hook = \"output\"");
}

void judge_kernel(const struct facts *f, struct findings *ret)
{
    judge_privileges(&f->kernel, ret);
    judge_bpf(f, ret);
    judge_stitch(f, ret);
    judge_nft(f, ret);
    judge_lockdown(f, ret);
    /* Nothing of ours needs it; it widens what every user of the host may try. */
    if (f->kernel.unprivileged_bpf == 0)
        finding_add(ret, "unprivileged-bpf", FINDING_WARN,
                    f->kernel.bpf_worker == 0 ? "sysctl -w kernel.unprivileged_bpf_disabled=2"
                                              : NULL,
                    "every user may load BPF programs here, which undersock does not need");
}
