/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel lets us do, by doing it: programs are loaded and not attached, nftables is tried
 * in a network namespace that is gone afterwards.
 */
#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/bpf.h>

#include <bpf/bpf.h>

#include "base/fd.h"
#include "bpf/probe.h"
#include "bpf/stitch_test.h"
#include "doctor/child.h"
#include "doctor/gather.h"
#include "doctor/proc.h"
#include "keeper/stitch_proof.h"

#define TRIAL_SECONDS 30

static void read_capabilities(struct facts_kernel *k)
{
    static const struct {
        unsigned cap;
        const char *name;
    } needed[] = {{CAP_NET_ADMIN, "CAP_NET_ADMIN"},
                  {CAP_NET_RAW, "CAP_NET_RAW"},
                  {CAP_SETUID, "CAP_SETUID"},
                  {CAP_SETGID, "CAP_SETGID"}};
    size_t len = 0;

    capng_get_caps_process();
    if (!capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN) &&
        !capng_have_capability(CAPNG_EFFECTIVE, CAP_BPF))
        len += (size_t)snprintf(k->missing, sizeof(k->missing), "CAP_BPF");
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (!capng_have_capability(CAPNG_EFFECTIVE, needed[i].cap))
            len += (size_t)snprintf(k->missing + len, sizeof(k->missing) - len, "%s%s",
                                    len > 0 ? ", " : "", needed[i].name);
    }
}

struct nft_record {
    int error;
    char why[256];
    struct nft_probe probe;
};

static void try_nft(void *ctx, void *record)
{
    struct nft_record *r = record;

    (void)ctx;
    r->error = nft_probe(&r->probe, r->why, sizeof(r->why));
}

static void read_nft(struct facts_kernel *k)
{
    struct nft_record record;
    struct child c;
    int r = child_start(try_nft, NULL, sizeof(record), CHILD_NETNS, TRIAL_SECONDS, &c);

    if (r == 0)
        r = child_finish(&c, &record, sizeof(record));
    if (r < 0) {
        k->nft_error = r;
        snprintf(k->nft_why, sizeof(k->nft_why), "the trial did not end: %s", strerror(-r));
        return;
    }
    k->nft_error = record.error;
    k->nft = record.probe;
    snprintf(k->nft_why, sizeof(k->nft_why), "%.255s", record.why);
}

struct stitch_record {
    int error;
    char why[256];
};

/* In network namespaces and a cgroup of its own; nothing is kept of it. */
static void try_stitch(void *ctx, void *record)
{
    struct stitch_record *r = record;

    (void)ctx;
    r->error = bpf_stitch_prove(r->why, sizeof(r->why));
}

static void read_stitch(struct facts_kernel *k)
{
    struct stitch_record record = {0};
    struct child c;
    int r = child_start(try_stitch, NULL, sizeof(record), 0, TRIAL_SECONDS, &c);

    if (r == 0)
        r = child_finish(&c, &record, sizeof(record));
    k->stitch_error = r < 0 ? r : record.error;
    k->stitch_kept = stitch_proof_kept();
    if (r < 0)
        snprintf(k->stitch_why, sizeof(k->stitch_why), "the trial did not end: %s", strerror(-r));
    else
        snprintf(k->stitch_why, sizeof(k->stitch_why), "%.255s", record.why);
}

static void try_map(void *ctx, void *record)
{
    const int *map = ctx;
    uint32_t key = 1, value = 0;
    int *result = record;

    *result = bpf_map_lookup_elem(*map, &key, &value) == 0 ? 0 : -errno;
}

/* A worker asks the origin map through the descriptor that it got from the keeper. */
static int try_worker(void)
{
    uint32_t key = 1, value = 2;
    int map = bpf_map_create(BPF_MAP_TYPE_HASH, "us_probe", 4, 4, 8, NULL);
    struct child c;
    int result = 0;
    int r = map < 0 ? map
            : bpf_map_update_elem(map, &key, &value, BPF_ANY) < 0
                ? -errno
                : child_start(try_map, &map, sizeof(result), CHILD_UNPRIVILEGED, TRIAL_SECONDS, &c);

    if (r == 0)
        r = child_finish(&c, &result, sizeof(result));
    fd_close(&map);
    return r < 0 ? r : result;
}

/* "none [integrity] confidentiality": the brackets mark the one in force. */
static enum facts_lockdown read_lockdown(void)
{
    char text[128];

    if (proc_read("/sys/kernel/security/lockdown", text, sizeof(text)) < 0)
        return LOCKDOWN_UNKNOWN;
    return strstr(text, "[none]")              ? LOCKDOWN_NONE
           : strstr(text, "[integrity]")       ? LOCKDOWN_INTEGRITY
           : strstr(text, "[confidentiality]") ? LOCKDOWN_CONFIDENTIALITY
                                               : LOCKDOWN_UNKNOWN;
}

void gather_kernel(struct facts_kernel *ret)
{
    memset(ret, 0, sizeof(*ret));
    read_capabilities(ret);
    ret->bpf_error = bpf_probe(&ret->bpf);
    ret->bpf_worker = ret->bpf_error < 0 ? ret->bpf_error : try_worker();
    read_nft(ret);
    read_stitch(ret);
    ret->lockdown = read_lockdown();
    ret->unprivileged_bpf = proc_number("/proc/sys/kernel/unprivileged_bpf_disabled");
}
