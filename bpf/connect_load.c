/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/connect_load.h */
#include "bpf/connect_load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/embed.h"
#include "bpf/object.h"
#include "bpf/origin.h"
#include "bpf/policy.h"
#include "bpf/probe.h"
#include "bpf/stitch.h"
#include "bpf_abi.h"
#include "log.h"

/* The kernel takes 128 at a time for a CPU (LOCAL_FREE_TARGET in kernel/bpf/bpf_lru_list.c). */
#define ORIGINS_PER_CPU 512

const char *const connect_map_names[CONNECT_N_MAPS] = {
    [CONNECT_ORIGINS] = ABI_MAP_ORIGINS, [CONNECT_EVENTS] = ABI_MAP_EVENTS,
    [CONNECT_SEEN] = ABI_MAP_SEEN,       [CONNECT_COUNTERS] = ABI_MAP_COUNTERS,
    [CONNECT_SOCKETS] = ABI_MAP_SOCKETS, [CONNECT_USE] = STITCH_MAP_USE,
};

/* The features that the programs use if they are there; complains about those they cannot do
 * without. */
static int find_features(uint32_t *ret, char *why, size_t why_size)
{
    uint32_t have = 0, features = 0;
    int r = bpf_probe(&have);

    if (r < 0) {
        bpf_object_explain(r, "the cgroup capture", why, why_size);
        return r == -ENOSYS ? -EOPNOTSUPP : r;
    }
    for (size_t i = 0; i < BPF_N_FEATURES; i++) {
        if (bpf_feature_infos[i].required && !(have & 1u << i)) {
            snprintf(why, why_size, "the cgroup capture: this kernel lacks \"%s\" for BPF: %s",
                     bpf_feature_infos[i].name, bpf_feature_infos[i].without);
            return -EOPNOTSUPP;
        }
    }
    if (have & 1u << BPF_FEATURE_SET_RETVAL)
        features |= ABI_CAN_SET_RETVAL;
    if (have & 1u << BPF_FEATURE_PID)
        features |= ABI_CAN_PID;
    if (have & 1u << BPF_FEATURE_TASK)
        features |= ABI_CAN_TASK;
    if (have & 1u << BPF_FEATURE_MPTCP)
        features |= ABI_CAN_MPTCP;
    *ret = features;
    return 0;
}

/* One socket storage for all instances, also those of other processes: see connect.bpf.c. Without
 * one to be found ours is the first, or nobody may look; then nested captures with `private` see
 * each other's listeners as destinations. */
static void share_sockets(struct bpf_object *object)
{
    int fd = bpf_object_find_map(ABI_MAP_SOCKETS, BPF_MAP_TYPE_SK_STORAGE, sizeof(int),
                                 sizeof(struct abi_socket));

    if (fd < 0)
        return;
    if (bpf_object_reuse_map(object, ABI_MAP_SOCKETS, fd) < 0)
        log_debug("the socket storage of another instance cannot be shared");
    close(fd);
}

/* An LRU hash sets entries aside for every CPU: with too few for that it drops what is still
 * wanted. */
static int size_origins(struct bpf_object *object)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, ABI_MAP_ORIGINS);
    int n_cpus = libbpf_num_possible_cpus();

    if (map == NULL || n_cpus < 0)
        return -ENOENT;
    if (bpf_map__max_entries(map) >= (uint32_t)n_cpus * ORIGINS_PER_CPU)
        return 0;
    return bpf_map__set_max_entries(map, (uint32_t)n_cpus * ORIGINS_PER_CPU);
}

/* The programs that send connections to be stitched read what those that stitch them have. */
static int share_stitch(struct bpf_object *object, const struct bpf_stitch *stitch)
{
    static const char *const names[] = {STITCH_MAP_SCRIPTS, STITCH_MAP_NAMES, STITCH_MAP_ROOM};
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(names) / sizeof(names[0]); i++)
        r = bpf_object_reuse_map(object, names[i], bpf_stitch_map_fd(stitch, names[i]));
    return r;
}

static int load(const struct capture_set *set, const struct capture_policy *policy,
                const struct abi_settings *settings, const int maps[CONNECT_N_MAPS],
                struct bpf_object **ret, char *why, size_t why_size)
{
    struct bpf_object *object = NULL;

    /* cppcheck-suppress comparePointers; two symbols of one object */
    int r = bpf_object_open(bpf_embed_connect, BPF_EMBED_SIZE(connect), "us_connect", settings,
                            sizeof(*settings), &object);

    if (r < 0) {
        snprintf(why, why_size, "the built-in connect programs cannot be opened: %s", strerror(-r));
        return r;
    }
    r = bpf_policy_size_maps(object, set, policy);
    for (size_t i = 0; r == 0 && maps[0] >= 0 && i < CONNECT_N_MAPS; i++)
        r = bpf_object_reuse_map(object, connect_map_names[i], maps[i]);
    if (r == 0 && maps[0] < 0) {
        r = size_origins(object);
        if (set->stitch != NULL)
            r = r < 0 ? r
                      : bpf_object_reuse_map(object, ABI_MAP_SOCKETS,
                                             bpf_stitch_map_fd(set->stitch, ABI_MAP_SOCKETS));
        else
            share_sockets(object);
    }
    if (r == 0 && bpf_policy_is_stitching(set, policy))
        r = share_stitch(object, set->stitch);
    if (r == 0)
        r = bpf_object__load(object);
    if (r == 0)
        r = bpf_policy_fill_maps(object, set, policy);
    if (r < 0) {
        bpf_object_explain(r, "the cgroup capture", why, why_size);
        bpf_object__close(object);
        return r == -EACCES ? -EPERM : r;
    }
    *ret = object;
    return 0;
}

int connect_load(const struct capture_set *set, const struct capture_policy *policy,
                 uint64_t instance, const int maps[CONNECT_N_MAPS], struct bpf_object **ret,
                 char *why, size_t why_size)
{
    struct abi_settings settings;
    struct bpf_object *object;
    int r;

    bpf_object_log_through_us();
    bpf_policy_settings(set, policy, &settings);
    settings.instance = instance;
    r = find_features(&settings.features, why, why_size);
    if (r < 0)
        return r;
    r = bpf_own_netns_cookie(&settings.netns_cookie);
    if (r < 0) {
        snprintf(why, why_size,
                 "the cgroup capture: this kernel has no network namespace cookies (%s)",
                 strerror(-r));
        return -EOPNOTSUPP;
    }

    r = load(set, policy, &settings, maps, &object, why, why_size);
    for (int i = 1; r == 0 && i < BPF_OBJECT_LOADS; i++) {
        if (maps[0] >= 0 || set->stitch != NULL || bpf_object_shares_map(object, ABI_MAP_SOCKETS))
            break;
        bpf_object__close(object);
        r = load(set, policy, &settings, maps, &object, why, why_size);
    }
    if (r == 0)
        *ret = object;
    return r;
}
