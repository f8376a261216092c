/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/cgroup.h. A capture is descriptors and nothing else: the links, the programs that they run
 * now, and the maps that live as long as the capture. Maps that hold the policy belong to the
 * programs, so a change of policy is a second set of programs, loaded over the same lasting maps
 * and swapped in link by link. What holds SYNs is bpf/holder.h's: made before the first program
 * that counts on it, and unmade after the last.
 */
#include "bpf/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/fd.h"
#include "bpf/connect_load.h"
#include "bpf/holder.h"
#include "bpf/object.h"
#include "bpf/policy.h"
#include "bpf/stitch.h"
#include "bpf/stitch_left.h"
#include "bpf_abi.h"
#include "log.h"

static const struct {
    const char *program;
    enum bpf_attach_type type;
} hooks[] = {
    /* In the order of attaching: who is redirected must already be able to publish its origin. */
    {"us_sockops", BPF_CGROUP_SOCK_OPS},
    {"us_getpeername4", BPF_CGROUP_INET4_GETPEERNAME},
    {"us_getpeername6", BPF_CGROUP_INET6_GETPEERNAME},
    {"us_connect4", BPF_CGROUP_INET4_CONNECT},
    {"us_connect6", BPF_CGROUP_INET6_CONNECT},
    {"us_sendmsg4", BPF_CGROUP_UDP4_SENDMSG},
    {"us_sendmsg6", BPF_CGROUP_UDP6_SENDMSG},
};

#define N_HOOKS (sizeof(hooks) / sizeof(hooks[0]))

_Static_assert(N_HOOKS + BPF_HOLDER_LINKS <= BPF_CAPTURE_MAX_FDS, "room for the links");

struct bpf_capture {
    uint64_t instance;
    int cgroup; /* us_hold may have to be attached later; -1: there is none */
    struct bpf_holder *holder;
    struct bpf_stitch *guarded; /* whose guards are on the cgroup, if there is one; NULL: nothing
                                   was ever stitched */
    bool stuck;                 /* guards could not be taken off a cgroup: bpf_capture_detach() */
    int links[N_HOOKS];         /* all -1: there is no cgroup */
    int programs[N_HOOKS];
    int maps[CONNECT_N_MAPS];
    struct ring_buffer *events;
    bpf_capture_event_fn event_fn; /* only while polling */
    void *event_ctx;
};

static int check_cgroup(int fd, char *why, size_t why_size)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0) {
        int r = -errno;

        snprintf(why, why_size, "the cgroup's descriptor: %s", strerror(-r));
        return r;
    }
    if (fs.f_type == CGROUP2_SUPER_MAGIC)
        return 0;
    if (fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == TMPFS_MAGIC)
        snprintf(why, why_size,
                 "eBPF programs attach to cgroup2 only, and this is a version 1 hierarchy: mount "
                 "cgroup2 (\"mount -t cgroup2 none DIR\") or boot with "
                 "systemd.unified_cgroup_hierarchy=1");
    else
        snprintf(why, why_size, "this is not a directory of a cgroup2 file system");
    return -EINVAL;
}

static int on_event(void *ctx, void *data, size_t size)
{
    const struct bpf_capture *capture = ctx;
    struct abi_event raw;
    struct bpf_capture_event event = {0};

    if (size < sizeof(raw))
        return 0;
    memcpy(&raw, data, sizeof(raw));
    if (raw.kind != ABI_EVENT_FOREIGN_NETNS)
        return 0;
    event.netns_cookie = raw.netns_cookie;
    event.pid = raw.pid;
    event.uid = raw.uid;
    event.refused = raw.refused != 0;
    memcpy(event.comm, raw.comm, sizeof(raw.comm));
    if (capture->event_fn != NULL)
        capture->event_fn(capture->event_ctx, &event);
    return 0;
}

static int attach_links(struct bpf_capture *capture, char *why, size_t why_size)
{
    for (size_t i = 0; i < N_HOOKS; i++) {
        int fd = bpf_object_attach(capture->programs[i], hooks[i].program, capture->cgroup,
                                   hooks[i].type, why, why_size);

        if (fd < 0)
            return fd;
        capture->links[i] = fd;
    }
    return 0;
}

static int keep_descriptors(struct bpf_capture *capture, struct bpf_object *object)
{
    for (size_t i = 0; i < N_HOOKS; i++) {
        capture->programs[i] = bpf_object_dup_program(object, hooks[i].program);
        if (capture->programs[i] < 0)
            return capture->programs[i];
    }
    for (size_t i = 0; i < CONNECT_N_MAPS; i++) {
        capture->maps[i] = bpf_object_dup_map(object, connect_map_names[i]);
        if (capture->maps[i] < 0)
            return capture->maps[i];
    }
    capture->events = ring_buffer__new(capture->maps[CONNECT_EVENTS], on_event, capture, NULL);
    return capture->events == NULL ? -errno : 0;
}

/* Of the seats that the set names, those that connections may be sent to need a ring, and so do
 * those with SYNs from a time when they could. */
static int grow_holder(struct bpf_capture *capture, const struct capture_set *set,
                       const struct capture_policy *policy, struct bpf_holder_seats *ret_kept,
                       char *why, size_t why_size)
{
    const struct bpf_holder_base base = {
        .instance = capture->instance,
        .cgroup = capture->cgroup,
        .sockets = capture->maps[CONNECT_SOCKETS],
        .counters = capture->maps[CONNECT_COUNTERS],
    };
    bool honest = bpf_policy_is_honest(set, policy);
    struct bpf_holder_seats have, kept = {0};

    bpf_holder_get_seats(capture->holder, &have);
    for (size_t i = 0; i < set->n_seats; i++) {
        unsigned number = set->seats[i].number;

        if (number >= CAPTURE_SEATS) {
            snprintf(why, why_size, "the cgroup capture: there is no seat %u", number);
            return -EINVAL;
        }
        kept.has[number] = honest || have.has[number];
    }
    *ret_kept = kept;
    return bpf_holder_grow(capture->holder, &base, &kept, why, why_size);
}

/* What attaching to a cgroup that has been removed meanwhile fails with. */
static bool is_gone(int error)
{
    return error == -ENOENT || error == -ENODEV;
}

/* Before the first connection that is to be stitched. It stays: connections of a former policy may
 * be under way. Without a guard nothing is stitched, and everything relayed. */
static void attach_guard(struct bpf_capture *capture, const struct capture_set *set,
                         const struct capture_policy *policy)
{
    char why[BPF_WHY_MAX] = "";
    int r = -EXDEV;

    if (capture->guarded != NULL || !bpf_policy_is_stitching(set, policy))
        return;
    /* It must see what the connect programs keep with a socket. */
    if (!bpf_object_is_same_map(capture->maps[CONNECT_SOCKETS],
                                bpf_stitch_map_fd(set->stitch, ABI_MAP_SOCKETS)))
        snprintf(why, sizeof(why), "it was there before stitch, and shares nothing with it");
    else if (capture->cgroup >= 0)
        r = bpf_stitch_guard(set->stitch, capture->instance, capture->cgroup, why, sizeof(why));
    else
        r = 0;
    if (r == 0 || is_gone(r)) /* bpf_capture_move() puts it on the next one */
        capture->guarded = set->stitch;
    if (capture->guarded == NULL)
        log_warning("capture %s: connections are relayed, not stitched: %s", policy->name, why);
}

static struct bpf_capture *capture_new(int cgroup_fd)
{
    struct bpf_capture *capture = calloc(1, sizeof(*capture));

    if (capture == NULL)
        return NULL;
    capture->cgroup = fcntl(cgroup_fd, F_DUPFD_CLOEXEC, 3);
    capture->holder = bpf_holder_new();
    for (size_t i = 0; i < N_HOOKS; i++)
        capture->links[i] = capture->programs[i] = -1;
    for (size_t i = 0; i < CONNECT_N_MAPS; i++)
        capture->maps[i] = -1;
    do {
        if (capture->cgroup < 0 || capture->holder == NULL ||
            getrandom(&capture->instance, sizeof(capture->instance), 0) < 0) {
            bpf_capture_release(capture);
            return NULL;
        }
    } while (capture->instance == 0);
    return capture;
}

int bpf_cgroup_attach(const struct capture_set *set, size_t policy_index, int cgroup_fd,
                      struct bpf_capture **ret, char *why, size_t why_size)
{
    const struct capture_policy *policy = &set->policies[policy_index];
    struct bpf_capture *capture = NULL;
    struct bpf_object *object = NULL;
    struct bpf_holder_seats kept;
    int r = check_cgroup(cgroup_fd, why, why_size);

    if (r < 0)
        return r;
    capture = capture_new(cgroup_fd);
    if (capture == NULL) {
        snprintf(why, why_size, "the cgroup capture: out of memory or descriptors");
        return -ENOMEM;
    }
    r = connect_load(set, policy, capture->instance, capture->maps, &object, why, why_size);
    if (r == 0) {
        r = keep_descriptors(capture, object);
        if (r < 0)
            snprintf(why, why_size, "the cgroup capture: %s", strerror(-r));
    }
    if (r == 0)
        r = grow_holder(capture, set, policy, &kept, why, why_size);
    if (r == 0) {
        stitch_left_clear(capture->cgroup, set->instance);
        attach_guard(capture, set, policy);
        r = attach_links(capture, why, why_size);
    }
    bpf_object__close(object);
    if (r < 0) {
        bpf_capture_detach(capture); /* its guards, too */
        return r;
    }
    *ret = capture;
    return 0;
}

/* The cgroup may go at any moment, and its links run nothing from then on: whoever moves the
 * capture to the next one attaches the programs that it has by then. */
static int update_link(int link, int program)
{
    int r = bpf_link_update(link, program, NULL);

    return r == -ENOLINK ? 0 : r;
}

/* Puts `programs` behind the links; on failure those already changed go back to what they ran. */
static int swap_programs(struct bpf_capture *capture, const int programs[N_HOOKS], char *why,
                         size_t why_size)
{
    for (size_t i = 0; capture->cgroup >= 0 && i < N_HOOKS; i++) {
        int r = update_link(capture->links[i], programs[i]);
        bool mixed = false;

        if (r == 0)
            continue;
        for (size_t j = 0; j < i; j++)
            mixed |= update_link(capture->links[j], capture->programs[j]) < 0;
        snprintf(why, why_size, "%s cannot be replaced: %s%s", hooks[i].program, strerror(-r),
                 mixed ? "; the policy in force is now mixed of the old and the new one" : "");
        return r;
    }
    return 0;
}

int bpf_cgroup_replace(struct bpf_capture *capture, const struct capture_set *set,
                       size_t policy_index, char *why, size_t why_size)
{
    const struct capture_policy *policy = &set->policies[policy_index];
    struct bpf_object *object = NULL;
    struct bpf_holder_seats before, kept;
    int programs[N_HOOKS];
    int r = connect_load(set, policy, capture->instance, capture->maps, &object, why, why_size);

    if (r < 0)
        return r;
    bpf_holder_get_seats(capture->holder, &before);
    r = grow_holder(capture, set, policy, &kept, why, why_size);
    if (r == 0)
        attach_guard(capture, set, policy);
    for (size_t i = 0; i < N_HOOKS; i++)
        programs[i] = -1;
    for (size_t i = 0; r == 0 && i < N_HOOKS; i++) {
        programs[i] = bpf_object_dup_program(object, hooks[i].program);
        if (programs[i] < 0) {
            r = programs[i];
            snprintf(why, why_size, "the cgroup capture: %s", strerror(-r));
        }
    }
    if (r == 0)
        r = swap_programs(capture, programs, why, why_size);
    bpf_holder_shrink(capture->holder, r == 0 ? &kept : &before);
    bpf_object__close(object);
    for (size_t i = 0; i < N_HOOKS; i++) {
        int *unused = r == 0 ? &capture->programs[i] : &programs[i];

        fd_close(unused);
        if (r == 0)
            capture->programs[i] = programs[i];
    }
    return r;
}

int bpf_capture_origin_fd(const struct bpf_capture *capture)
{
    return capture->maps[CONNECT_ORIGINS];
}

int bpf_capture_fds(const struct bpf_capture *capture, int *ret, size_t max)
{
    for (size_t i = 0; i < N_HOOKS && i < max; i++)
        ret[i] = capture->links[i];
    if (max <= N_HOOKS)
        return (int)N_HOOKS + bpf_holder_links(capture->holder, NULL, 0);
    return (int)N_HOOKS + bpf_holder_links(capture->holder, ret + N_HOOKS, max - N_HOOKS);
}

int bpf_capture_ring_fd(const struct bpf_capture *capture, unsigned seat)
{
    return bpf_holder_ring(capture->holder, seat);
}

int bpf_capture_use(const struct bpf_capture *capture, unsigned script_v4, unsigned script_v6)
{
    const uint32_t numbers[] = {script_v4, script_v6};
    int r = 0;

    if (capture->guarded == NULL)
        return script_v4 == 0 && script_v6 == 0 ? 0 : -EOPNOTSUPP;
    for (uint32_t i = 0; r == 0 && i < sizeof(numbers) / sizeof(numbers[0]); i++)
        r = bpf_map_update_elem(capture->maps[CONNECT_USE], &i, &numbers[i], BPF_ANY);
    return r;
}

bool bpf_capture_is_enclosed(const struct bpf_capture *capture)
{
    static const enum bpf_attach_type types[] = {BPF_CGROUP_INET4_CONNECT,
                                                 BPF_CGROUP_INET6_CONNECT};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        uint32_t all = 0, own = 0;

        if (bpf_prog_query(capture->cgroup, types[i], BPF_F_QUERY_EFFECTIVE, NULL, NULL, &all) ==
                0 &&
            bpf_prog_query(capture->cgroup, types[i], 0, NULL, NULL, &own) == 0 && all > own)
            return true;
    }
    return false;
}

int bpf_capture_event_fd(const struct bpf_capture *capture)
{
    return ring_buffer__epoll_fd(capture->events);
}

int bpf_capture_poll_events(struct bpf_capture *capture, bpf_capture_event_fn fn, void *ctx)
{
    int r;

    capture->event_fn = fn;
    capture->event_ctx = ctx;
    r = ring_buffer__consume(capture->events);
    capture->event_fn = NULL;
    return r;
}

int bpf_capture_read_counters(const struct bpf_capture *capture, struct bpf_capture_counters *ret)
{
    int n_cpus = libbpf_num_possible_cpus();
    uint64_t sums[ABI_N_COUNTERS] = {0};
    uint64_t *values;
    int r = 0;

    if (n_cpus < 0)
        return n_cpus;
    values = calloc((size_t)n_cpus, sizeof(*values));
    if (values == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < ABI_N_COUNTERS; i++) {
        r = bpf_map_lookup_elem(capture->maps[CONNECT_COUNTERS], &i, values);
        for (int cpu = 0; r == 0 && cpu < n_cpus; cpu++)
            sums[i] += values[cpu];
    }
    free(values);
    if (r < 0)
        return r;
    ret->proxied = sums[ABI_COUNT_PROXIED];
    ret->refused = sums[ABI_COUNT_REFUSED];
    ret->direct = sums[ABI_COUNT_DIRECT];
    ret->foreign = sums[ABI_COUNT_FOREIGN];
    ret->failed = sums[ABI_COUNT_FAILED];
    ret->lost = sums[ABI_COUNT_LOST];
    ret->missed = sums[ABI_COUNT_MISSED];
    ret->stitched = sums[ABI_COUNT_STITCHED];
    return 0;
}

uint64_t bpf_capture_instance(const struct bpf_capture *capture)
{
    return capture->instance;
}

static void leave_cgroup(struct bpf_capture *capture)
{
    char why[BPF_WHY_MAX];

    if (capture->cgroup < 0)
        return;
    /* Backwards: nobody is redirected any more before the answers go. */
    for (size_t i = N_HOOKS; i-- > 0;) {
        int r = capture->links[i] < 0 ? 0 : bpf_link_detach(capture->links[i]);

        if (r < 0)
            log_warning("%s cannot be detached: %s", hooks[i].program, strerror(-r));
        fd_close(&capture->links[i]);
    }
    if (capture->guarded != NULL) {
        int left = bpf_stitch_end(capture->maps[CONNECT_SOCKETS], capture->instance);

        if (left == 0)
            bpf_stitch_unguard(capture->guarded, capture->instance, capture->cgroup);
        else
            log_warning(
                "stitch: connections under way cannot be ended, so their guards stay on the "
                "cgroup: %s",
                left < 0 ? strerror(-left) : "the kernel lacks CONFIG_INET_DIAG_DESTROY");
        capture->stuck |= left != 0;
    }
    bpf_holder_move(capture->holder, -1, why, sizeof(why));
    fd_close(&capture->cgroup);
}

int bpf_capture_move(struct bpf_capture *capture, int cgroup_fd, char *why, size_t why_size)
{
    int r = cgroup_fd < 0 ? 0 : check_cgroup(cgroup_fd, why, why_size);

    if (r < 0)
        return r;
    leave_cgroup(capture);
    if (cgroup_fd < 0)
        return 0;
    capture->cgroup = fcntl(cgroup_fd, F_DUPFD_CLOEXEC, 3);
    if (capture->cgroup < 0) {
        r = -errno;
        snprintf(why, why_size, "the cgroup capture: %s", strerror(-r));
        return r;
    }
    if (capture->guarded != NULL)
        r = bpf_stitch_guard(capture->guarded, capture->instance, capture->cgroup, why, why_size);
    if (r < 0 && !is_gone(r)) {
        log_warning("connections are relayed, not stitched: %s", why);
        bpf_capture_use(capture, 0, 0);
        capture->guarded = NULL;
        r = 0;
    }
    if (r == 0)
        r = bpf_holder_move(capture->holder, capture->cgroup, why, why_size);
    if (r == 0)
        r = attach_links(capture, why, why_size);
    if (r < 0)
        leave_cgroup(capture);
    return r;
}

bool bpf_capture_detach(struct bpf_capture *capture)
{
    bool over;

    if (capture == NULL)
        return true;
    leave_cgroup(capture);
    over = !capture->stuck;
    bpf_capture_release(capture);
    return over;
}

void bpf_capture_release(struct bpf_capture *capture)
{
    if (capture == NULL)
        return;
    ring_buffer__free(capture->events);
    for (size_t i = N_HOOKS; i-- > 0;) {
        fd_close(&capture->links[i]);
        fd_close(&capture->programs[i]);
    }
    for (size_t i = 0; i < CONNECT_N_MAPS; i++)
        fd_close(&capture->maps[i]);
    bpf_holder_free(capture->holder);
    fd_close(&capture->cgroup);
    free(capture);
}
