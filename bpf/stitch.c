/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch.h: the programs, their maps, and what is read out of them. The interfaces are
 * bpf/stitch_links.c's.
 */
#include "bpf/stitch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/fd.h"
#include "bpf/embed.h"
#include "bpf/object.h"
#include "bpf/stitch_abort.h"
#include "bpf/stitch_guards.h"
#include "bpf/stitch_links.h"
#include "log.h"

#define WHAT "stitching connections"

#define FLOWS_DEFAULT 16384
#define NAMES_DEFAULT 65536

/* After its timeout a handshake's record stays for as long as the kernel may repeat the SYN (127 s
 * with tcp_syn_retries = 6, and some); a failed one is there for the SYN that missed the answer. */
#define UNASKED_NS INT64_C(150000000000)
#define FAILED_NS  INT64_C(8000000000)

/* Of so many places one stays free, for SYNs that are on their way when the last but those is
 * taken: one for each CPU, and those that wait for the address of a neighbour. */
#define SLACK 16

enum map { SCRIPTS, NAMES, FLOWS, ROOM, DEVICES, OWNERS, PORTS, COUNTERS, EVENTS, SOCKETS, N_MAPS };

static const char *const map_names[N_MAPS] = {
    [SCRIPTS] = STITCH_MAP_SCRIPTS, [NAMES] = STITCH_MAP_NAMES,       [FLOWS] = STITCH_MAP_FLOWS,
    [ROOM] = STITCH_MAP_ROOM,       [DEVICES] = STITCH_MAP_DEVICES,   [OWNERS] = STITCH_MAP_OWNERS,
    [PORTS] = STITCH_MAP_PORTS,     [COUNTERS] = STITCH_MAP_COUNTERS, [EVENTS] = STITCH_MAP_EVENTS,
    [SOCKETS] = ABI_MAP_SOCKETS,
};

struct bpf_stitch {
    int maps[N_MAPS];
    struct stitch_guards guards;
    struct stitch_links links;
    struct ring_buffer *events;
    bpf_stitch_event_fn event_fn; /* only while polling */
    void *event_ctx;
    int64_t swept;                  /* when, last */
    uint16_t ports[STITCH_SCRIPTS]; /* of the servers in SCRIPTS; 0: not in use */
    uint64_t limit;                 /* STITCH_ROOM_LIMIT */
};

static int on_event(void *ctx, void *data, size_t size)
{
    const struct bpf_stitch *s = ctx;
    struct stitch_event event;

    if (size < sizeof(event) || s->event_fn == NULL)
        return 0;
    memcpy(&event, data, sizeof(event));
    s->event_fn(s->event_ctx, &event);
    return 0;
}

/* One socket storage on the machine for all instances, as for the connect programs. */
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

static int size_map(struct bpf_object *object, const char *name, uint32_t n)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    return map == NULL ? -ENOENT : bpf_map__set_max_entries(map, n);
}

static int load_once(const struct bpf_stitch_options *o, struct bpf_object **ret)
{
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "us_stitch");
    struct bpf_object *object;
    int r;

    bpf_object_log_through_us();
    /* cppcheck-suppress comparePointers; two symbols of one object */
    object = bpf_object__open_mem(bpf_embed_stitch, BPF_EMBED_SIZE(stitch), &options);
    if (object == NULL)
        return -errno;
    r = size_map(object, STITCH_MAP_FLOWS, o->flows ? o->flows : FLOWS_DEFAULT);
    if (r == 0)
        r = size_map(object, STITCH_MAP_NAMES, o->names ? o->names : NAMES_DEFAULT);
    share_sockets(object);
    if (r == 0)
        r = bpf_object__load(object);
    if (r < 0) {
        bpf_object__close(object);
        return r;
    }
    *ret = object;
    return 0;
}

static int load(const struct bpf_stitch_options *o, struct bpf_object **ret)
{
    struct bpf_object *object;
    int r = load_once(o, &object);

    for (int i = 1; r == 0 && i < BPF_OBJECT_LOADS; i++) {
        if (bpf_object_shares_map(object, ABI_MAP_SOCKETS))
            break;
        bpf_object__close(object);
        r = load_once(o, &object);
    }
    if (r == 0)
        *ret = object;
    return r;
}

static int keep_descriptors(struct bpf_stitch *s, struct bpf_object *object, unsigned instance)
{
    int r;

    for (size_t i = 0; i < N_MAPS; i++) {
        s->maps[i] = bpf_object_dup_map(object, map_names[i]);
        if (s->maps[i] < 0)
            return s->maps[i];
    }
    r = stitch_guards_open(&s->guards, object, s->maps[OWNERS], instance);
    if (r == 0)
        r = stitch_links_open(&s->links, object, s->maps[DEVICES], instance);
    if (r < 0)
        return r;
    s->events = ring_buffer__new(s->maps[EVENTS], on_event, s, NULL);
    return s->events == NULL ? -errno : 0;
}

static int put_room(const struct bpf_stitch *s, uint32_t key)
{
    return bpf_map_update_elem(s->maps[ROOM], &key, &s->limit, BPF_ANY);
}

int bpf_stitch_open(const struct bpf_stitch_options *o, struct bpf_stitch **ret, char *why,
                    size_t why_size)
{
    struct bpf_object *object = NULL;
    struct bpf_stitch *s = calloc(1, sizeof(*s));
    int r;

    if (s == NULL) {
        snprintf(why, why_size, WHAT ": out of memory");
        return -ENOMEM;
    }
    for (size_t i = 0; i < N_MAPS; i++)
        s->maps[i] = -1;
    stitch_guards_init(&s->guards);
    stitch_links_init(&s->links);
    r = load(o, &object);
    if (r == 0)
        r = keep_descriptors(s, object, o->instance);
    if (r == 0) {
        s->limit = o->flows ? o->flows : FLOWS_DEFAULT;
        s->limit -= s->limit / SLACK;
        r = put_room(s, STITCH_ROOM_SIZE);
        if (r == 0)
            r = put_room(s, STITCH_ROOM_LIMIT);
    }
    bpf_object__close(object);
    if (r < 0) {
        bpf_object_explain(r, WHAT, why, why_size);
        bpf_stitch_close(s);
        return r == -EINVAL || r == -EACCES ? -EOPNOTSUPP : r;
    }
    *ret = s;
    return 0;
}

void bpf_stitch_close(struct bpf_stitch *s)
{
    if (s == NULL)
        return;
    ring_buffer__free(s->events);
    stitch_links_close(&s->links);
    for (size_t i = 0; i < N_MAPS; i++)
        fd_close(&s->maps[i]);
    stitch_guards_close(&s->guards);
    free(s);
}

int bpf_stitch_attach(struct bpf_stitch *s, char *why, size_t why_size)
{
    return stitch_links_attach(&s->links, why, why_size);
}

int bpf_stitch_link_fd(const struct bpf_stitch *s)
{
    return stitch_links_fd(&s->links);
}

int bpf_stitch_follow(struct bpf_stitch *s)
{
    return stitch_links_follow(&s->links);
}

int bpf_stitch_go_first(struct bpf_stitch *s, int index)
{
    return stitch_links_go_first(&s->links, index);
}

bool bpf_stitch_is_uncovered(const struct bpf_stitch *s)
{
    return s->links.uncovered != 0;
}

void bpf_stitch_detach(struct bpf_stitch *s)
{
    stitch_links_detach(&s->links);
}

/* The port's bit, for as long as some script needs it. */
static int update_port(const struct bpf_stitch *s, uint16_t port)
{
    uint32_t at = port / 64;
    uint64_t bits = 0;

    for (size_t i = 1; i < STITCH_SCRIPTS; i++) {
        if (s->ports[i] != 0 && s->ports[i] / 64 == at)
            bits |= UINT64_C(1) << (s->ports[i] % 64);
    }
    return bpf_map_update_elem(s->maps[PORTS], &at, &bits, BPF_ANY);
}

int bpf_stitch_set_script(struct bpf_stitch *s, unsigned number, const struct stitch_script *script)
{
    const struct stitch_script none = {0};
    uint32_t key = number;
    uint16_t before;
    int r;

    if (number < 1 || number >= STITCH_SCRIPTS)
        return -EINVAL;
    before = s->ports[number];
    if (script == NULL)
        /* The port's bit stays while handshakes may be under way; it costs a look at the table. */
        return bpf_map_update_elem(s->maps[SCRIPTS], &key, &none, BPF_ANY);
    /* What comes back must be recognized before anything goes out. */
    s->ports[number] = script->server.port;
    r = update_port(s, script->server.port);
    if (r == 0)
        r = bpf_map_update_elem(s->maps[SCRIPTS], &key, script, BPF_ANY);
    if (r < 0)
        s->ports[number] = before;
    return r;
}

int bpf_stitch_names_fd(const struct bpf_stitch *s)
{
    return s->maps[NAMES];
}

int bpf_stitch_set_name(int names_fd, const struct addr *a, const char *name, size_t len)
{
    struct stitch_name value = {.len = (uint8_t)len};
    int r;

    if (len < 1 || len > STITCH_NAME_MAX)
        return -EINVAL;
    memcpy(value.name, name, len);
    r = bpf_map_update_elem(names_fd, a->ip, &value, BPF_ANY);
    if (r < 0 && bpf_map_delete_elem(names_fd, a->ip) < 0 && errno != ENOENT)
        r = -ESTALE;
    return r;
}

int bpf_stitch_get_name(int names_fd, const struct addr *a, char *ret, size_t size)
{
    struct stitch_name value;

    if (bpf_map_lookup_elem(names_fd, a->ip, &value) < 0)
        return -ENOENT;
    snprintf(ret, size, "%.*s", (int)value.len, (const char *)value.name);
    return 0;
}

int bpf_stitch_event_fd(const struct bpf_stitch *s)
{
    return ring_buffer__epoll_fd(s->events);
}

int bpf_stitch_poll_events(struct bpf_stitch *s, bpf_stitch_event_fn fn, void *ctx)
{
    int r;

    s->event_fn = fn;
    s->event_ctx = ctx;
    r = ring_buffer__consume(s->events);
    s->event_fn = NULL;
    return r;
}

int bpf_stitch_each(const struct bpf_stitch *s, bpf_stitch_flow_fn fn, void *ctx)
{
    struct stitch_key key, next;
    struct stitch_flow flow;
    bool more = bpf_map_get_next_key(s->maps[FLOWS], NULL, &next) == 0;

    /* The next key is asked for first, as `fn` may take out this one. A key that is gone meanwhile
     * begins the walk again; the bound is for tables that change as fast as they are read. */
    for (unsigned i = 0; more && i < 4 * FLOWS_DEFAULT; i++) {
        key = next;
        more = bpf_map_get_next_key(s->maps[FLOWS], &key, &next) == 0;
        if (!more && errno != ENOENT)
            return -errno;
        if (bpf_map_lookup_elem_flags(s->maps[FLOWS], &key, &flow, BPF_F_LOCK) == 0)
            fn(ctx, &key, &flow);
    }
    return 0;
}

static void count_pending(void *ctx, const struct stitch_key *key, const struct stitch_flow *flow)
{
    int *n = ctx;

    (void)key;
    *n += flow->state == STITCH_SYN || flow->state == STITCH_STEP || flow->state == STITCH_GRANTED;
}

int bpf_stitch_pending(const struct bpf_stitch *s)
{
    int n = 0, r = bpf_stitch_each(s, count_pending, &n);

    return r < 0 ? r : n;
}

struct sweep {
    struct bpf_stitch *s;
    int64_t now, last;
    int n;
};

/* The same addresses and ports may be in use again by now. Then this handshake has to begin once
 * more, with the next SYN: nothing worse. */
static void take_over(void *ctx, const struct stitch_key *key, const struct stitch_flow *flow)
{
    struct sweep *sweep = ctx;
    int64_t since = flow->state == STITCH_FAILED ? (int64_t)flow->began + FAILED_NS
                                                 : (int64_t)flow->deadline + UNASKED_NS;

    /* What timed out is silent, and stays so until the kernel gives up. */
    if (flow->state == STITCH_FAILED && flow->verdict == STITCH_TELL_NOTHING)
        since = (int64_t)flow->deadline + UNASKED_NS;
    /* Once: in the sweep in which its time is over. */
    if (flow->state == STITCH_STEP && sweep->now > (int64_t)flow->deadline &&
        sweep->last <= (int64_t)flow->deadline)
        stitch_abort(key, flow);
    if (sweep->now > since && bpf_map_delete_elem(sweep->s->maps[FLOWS], key) == 0) {
        sweep->n++;
        sweep->s->limit++;
    }
}

int bpf_stitch_sweep(struct bpf_stitch *s, int64_t now)
{
    struct sweep sweep = {.s = s, .now = now, .last = s->swept};
    int r = bpf_stitch_each(s, take_over, &sweep);

    if (sweep.n > 0 && r == 0)
        r = put_room(s, STITCH_ROOM_LIMIT);
    s->swept = now;
    return r < 0 ? r : sweep.n;
}

void bpf_stitch_clean(unsigned instance)
{
    bpf_object_log_through_us(); /* an interface without clsact is an error for libbpf */
    stitch_links_clean(instance);
}

int bpf_stitch_read_counters(const struct bpf_stitch *s, uint64_t ret[STITCH_N_COUNTERS])
{
    int n_cpus = libbpf_num_possible_cpus(), r = 0;
    uint64_t sums[STITCH_N_COUNTERS] = {0};
    uint64_t *values;

    if (n_cpus < 0)
        return n_cpus;
    values = calloc((size_t)n_cpus, sizeof(*values));
    if (values == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < STITCH_N_COUNTERS; i++) {
        r = bpf_map_lookup_elem(s->maps[COUNTERS], &i, values);
        for (int cpu = 0; r == 0 && cpu < n_cpus; cpu++)
            sums[i] += values[cpu];
    }
    free(values);
    if (r == 0)
        memcpy(ret, sums, sizeof(sums));
    return r;
}

int bpf_stitch_map_fd(const struct bpf_stitch *s, const char *name)
{
    for (size_t i = 0; i < N_MAPS; i++) {
        if (strcmp(map_names[i], name) == 0)
            return s->maps[i];
    }
    return -ENOENT;
}

int bpf_stitch_guard(struct bpf_stitch *s, uint64_t instance, int cgroup_fd, char *why,
                     size_t why_size)
{
    return stitch_guards_put(&s->guards, instance, cgroup_fd, why, why_size);
}

void bpf_stitch_unguard(struct bpf_stitch *s, uint64_t instance, int cgroup_fd)
{
    stitch_guards_take(&s->guards, instance, cgroup_fd);
}
