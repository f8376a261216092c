/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_left.h. A guard is known by its name and by its map of owners, which says for each
 * instance where it is at home. Whether that is alive is seen from the connect programs: they are
 * links, so they have gone with the last process of it, and their constants say whose they are.
 */
#include "bpf/stitch_left.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "bpf/origin.h"
#include "bpf/stitch.h"
#include "log.h"

#define PROGRAMS_MAX 64 /* on a cgroup, of a kind: BPF_CGROUP_MAX_PROGS */
#define MAPS_MAX     16 /* of a program of ours */
#define OWNERS_MAX   1024

static const struct {
    const char *program;
    enum bpf_attach_type type;
} guards[] = {
    {"us_st_guard", BPF_CGROUP_INET_EGRESS},
    {"us_st_guard_in", BPF_CGROUP_INET_INGRESS},
};

#define N_GUARDS (sizeof(guards) / sizeof(guards[0]))

struct search {
    int cgroup;
    struct stitch_owner who;
    uint64_t alive[PROGRAMS_MAX]; /* instances that have connect programs here */
    unsigned n_alive;
    uint64_t ended[PROGRAMS_MAX]; /* those without, whose sockets are ended */
    unsigned n_ended;
    int found[2 * PROGRAMS_MAX]; /* their guards; ours to close */
    enum bpf_attach_type types[2 * PROGRAMS_MAX];
    unsigned n_found;
};

int stitch_left_sign(int cgroup_fd, unsigned instance, struct stitch_owner *ret)
{
    struct stitch_owner who = {.number = instance};
    struct stat st;
    int r = bpf_own_netns_cookie(&who.netns_cookie);

    if (r < 0)
        return r;
    if (fstat(cgroup_fd, &st) < 0)
        return -errno;
    who.cgroup_id = st.st_ino;
    *ret = who;
    return 0;
}

static bool is_map(int fd, const char *ending, uint32_t value_size)
{
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    size_t n, m = strlen(ending);

    if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
        return false;
    n = strnlen(info.name, sizeof(info.name));
    return info.value_size == value_size && n >= m && memcmp(info.name + n - m, ending, m) == 0;
}

/* The program's map whose name ends so, and which has values of this size: a new descriptor, or
 * -ENOENT. */
static int map_of(int program, const char *ending, uint32_t value_size)
{
    uint32_t ids[MAPS_MAX] = {0};
    struct bpf_prog_info info = {.nr_map_ids = MAPS_MAX, .map_ids = (uint64_t)(uintptr_t)ids};
    uint32_t len = sizeof(info);

    if (bpf_obj_get_info_by_fd(program, &info, &len) < 0)
        return -errno;
    for (uint32_t i = 0; i < info.nr_map_ids && i < MAPS_MAX; i++) {
        int fd = bpf_map_get_fd_by_id(ids[i]);

        if (fd < 0)
            continue;
        if (is_map(fd, ending, value_size))
            return fd;
        close(fd);
    }
    return -ENOENT;
}

/* Calls `fn` for every program of that kind and name that is attached to the cgroup itself. `fn`
 * may keep the descriptor: then it returns true. */
static int each_program(struct search *s, enum bpf_attach_type type, const char *name,
                        bool (*fn)(struct search *s, int program, enum bpf_attach_type type))
{
    uint32_t ids[PROGRAMS_MAX] = {0}, n = PROGRAMS_MAX;
    int r = bpf_prog_query(s->cgroup, type, 0, NULL, ids, &n);

    for (uint32_t i = 0; r == 0 && i < n && i < PROGRAMS_MAX; i++) {
        struct bpf_prog_info info = {0};
        uint32_t len = sizeof(info);
        int fd = bpf_prog_get_fd_by_id(ids[i]);

        if (fd == -ENOENT)
            continue; /* it went meanwhile */
        if (fd < 0)
            return fd;
        if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0 ||
            strncmp(info.name, name, sizeof(info.name)) != 0 || !fn(s, fd, type))
            close(fd);
    }
    return r;
}

static bool note_alive(struct search *s, int program, enum bpf_attach_type type)
{
    struct abi_settings settings;
    const uint32_t zero = 0;
    int fd = map_of(program, ".rodata", sizeof(settings));

    (void)type;
    if (fd >= 0 && bpf_map_lookup_elem(fd, &zero, &settings) == 0 && s->n_alive < PROGRAMS_MAX)
        s->alive[s->n_alive++] = settings.instance;
    if (fd >= 0)
        close(fd);
    return false;
}

static bool has(const uint64_t *list, unsigned n, uint64_t instance)
{
    for (unsigned i = 0; i < n; i++) {
        if (list[i] == instance)
            return true;
    }
    return false;
}

/* Ends what an instance had under way; once, as it has two guards. */
static bool end(struct search *s, int sockets, uint64_t instance)
{
    if (has(s->ended, s->n_ended, instance))
        return true;
    if (s->n_ended == PROGRAMS_MAX || bpf_stitch_end(sockets, instance) != 0)
        return false;
    s->ended[s->n_ended++] = instance;
    return true;
}

/* Whether all who count on a guard here are those before us, and need it no more. */
static bool is_left(struct search *s, int owners, int sockets)
{
    uint64_t instance, before;
    struct stitch_owner owner;

    for (unsigned i = 0; i < OWNERS_MAX; i++) {
        if (bpf_map_get_next_key(owners, i ? &before : NULL, &instance) < 0)
            return errno == ENOENT;
        before = instance;
        if (bpf_map_lookup_elem(owners, &instance, &owner) < 0)
            return false;
        if (owner.cgroup_id != s->who.cgroup_id)
            continue;
        if (owner.netns_cookie != s->who.netns_cookie || owner.number != s->who.number ||
            has(s->alive, s->n_alive, instance) || !end(s, sockets, instance))
            return false;
    }
    return false;
}

static bool note_guard(struct search *s, int program, enum bpf_attach_type type)
{
    int owners = map_of(program, STITCH_MAP_OWNERS, sizeof(struct stitch_owner));
    int sockets = map_of(program, ABI_MAP_SOCKETS, sizeof(struct abi_socket));
    bool left =
        owners >= 0 && sockets >= 0 && s->n_found < 2 * PROGRAMS_MAX && is_left(s, owners, sockets);

    if (owners >= 0)
        close(owners);
    if (sockets >= 0)
        close(sockets);
    if (left) {
        s->types[s->n_found] = type;
        s->found[s->n_found++] = program;
    }
    return left;
}

int stitch_left_clear(int cgroup_fd, unsigned instance)
{
    struct search s = {.cgroup = cgroup_fd};
    int r = stitch_left_sign(cgroup_fd, instance, &s.who), n = 0;

    if (r == 0)
        r = each_program(&s, BPF_CGROUP_INET4_CONNECT, "us_connect4", note_alive);
    for (size_t i = 0; r == 0 && i < N_GUARDS; i++)
        r = each_program(&s, guards[i].type, guards[i].program, note_guard);
    for (unsigned i = 0; i < s.n_found; i++) {
        if (r == 0 && bpf_prog_detach2(s.found[i], cgroup_fd, s.types[i]) == 0)
            n++;
        close(s.found[i]);
    }
    if (n > 0)
        log_info("stitch: %d guards of who was killed before are taken off the cgroup", n);
    return r < 0 ? r : n;
}

int stitch_left_count(int cgroup_fd)
{
    uint32_t ids[PROGRAMS_MAX], n = PROGRAMS_MAX;
    int r = bpf_prog_query(cgroup_fd, BPF_CGROUP_INET_EGRESS, 0, NULL, ids, &n);

    return r < 0 ? r : (int)n;
}
