/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * serve/resolver.h over c-ares. The library tells which of its descriptors to watch
 * (level-triggered); its timeouts are looked at by a tick that runs only while something is in
 * flight. When resolv.conf has changed, the channel is made anew as soon as nothing is in flight.
 */
#include "serve/resolver.h"

#include <ares.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/loop.h"
#include "log.h"

#define TICK         INT64_C(100000000)  /* ns */
#define CHECK_PERIOD INT64_C(1000000000) /* resolv.conf is looked at once a second at most */
#define TRY_MS       2000
#define TRIES        2
#define RESOLV_CONF  "/etc/resolv.conf"

struct lookup {
    struct resolver *owner;
    uint64_t ref;
    uint32_t next; /* in the free list */
    uint16_t port;
};

struct resolver {
    struct loop *loop;
    unsigned fd_kind, tick_kind;
    uint32_t mark;
    resolver_done_fn done;
    void *ctx;
    ares_channel channel;
    bool has_channel, silent;
    unsigned inside; /* depth of calls into the library */
    struct timer tick;
    int64_t checked;
    struct timespec conf_time;
    ino_t conf_inode;
    uint32_t in_flight, max, free;
    struct lookup lookups[];
};

#define NONE UINT32_MAX

static void on_socket(void *data, ares_socket_t fd, int readable, int writable)
{
    struct resolver *r = data;
    uint32_t events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);
    uint64_t ref = loop_ref(r->fd_kind, 0, (uint32_t)fd);

    if (events == 0) {
        (void)loop_remove(r->loop, fd);
        return;
    }
    int e = loop_modify(r->loop, fd, events, ref);

    if (e == -ENOENT)
        e = loop_add(r->loop, fd, events, ref);
    if (e < 0)
        log_warning("resolver: cannot watch a socket: %s; its lookups will time out", strerror(-e));
}

/* So that no capture takes what the server asks, and brings it back to the server. */
static int on_new_socket(ares_socket_t fd, int type, void *data)
{
    const struct resolver *r = data;

    (void)type;
    (void)setsockopt(fd, SOL_SOCKET, SO_MARK, &r->mark, sizeof(r->mark));
    return 0;
}

static int channel_open(struct resolver *r)
{
    char lookups[] = "fb"; /* the hosts file, then DNS */
    struct ares_options o = {.timeout = TRY_MS,
                             .tries = TRIES,
                             .lookups = lookups,
                             .sock_state_cb = on_socket,
                             .sock_state_cb_data = r};
    int e = ares_init_options(&r->channel, &o,
                              ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS |
                                  ARES_OPT_SOCK_STATE_CB);

    if (e != ARES_SUCCESS)
        return e == ARES_ENOMEM ? -ENOMEM : -EIO;
    if (r->mark != 0)
        ares_set_socket_configure_callback(r->channel, on_new_socket, r);
    r->has_channel = true;
    return 0;
}

static void channel_close(struct resolver *r)
{
    if (r->has_channel)
        ares_destroy(r->channel);
    r->has_channel = false;
}

/* Whether resolv.conf is another than at the last call. */
static bool conf_changed(struct resolver *r)
{
    struct stat st;

    if (stat(RESOLV_CONF, &st) < 0)
        memset(&st, 0, sizeof(st));
    bool same = st.st_ino == r->conf_inode && st.st_mtim.tv_sec == r->conf_time.tv_sec &&
                st.st_mtim.tv_nsec == r->conf_time.tv_nsec;

    r->conf_inode = st.st_ino;
    r->conf_time = st.st_mtim;
    return !same;
}

static void process(struct resolver *r, ares_socket_t readable, ares_socket_t writable)
{
    r->inside++;
    ares_process_fd(r->channel, readable, writable);
    r->inside--;
}

static void arm_tick(struct resolver *r)
{
    if (r->in_flight > 0)
        (void)loop_timer_set(r->loop, &r->tick, TICK, loop_ref(r->tick_kind, 0, 0));
    else
        loop_timer_cancel(r->loop, &r->tick);
}

static void on_fd(void *ctx, uint64_t ref, uint32_t events)
{
    struct resolver *r = ctx;
    ares_socket_t fd = (ares_socket_t)loop_ref_index(ref);

    if (!r->has_channel)
        return;
    /* An error is found by trying both. */
    bool broken = events & (EPOLLERR | EPOLLHUP);

    process(r, broken || events & EPOLLIN ? fd : ARES_SOCKET_BAD,
            broken || events & EPOLLOUT ? fd : ARES_SOCKET_BAD);
}

static void on_tick(void *ctx, uint64_t ref, uint32_t events)
{
    struct resolver *r = ctx;

    (void)ref;
    (void)events;
    if (r->has_channel)
        process(r, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    arm_tick(r);
}

int resolver_create(struct loop *l, unsigned fd_kind, unsigned tick_kind, unsigned max_lookups,
                    uint32_t mark, resolver_done_fn done, void *ctx, struct resolver **ret)
{
    if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS)
        return -ENOMEM;
    struct resolver *r = calloc(1, sizeof(*r) + max_lookups * sizeof(r->lookups[0]));
    int e = -ENOMEM;

    if (r) {
        r->loop = l;
        r->fd_kind = fd_kind;
        r->tick_kind = tick_kind;
        r->done = done;
        r->ctx = ctx;
        r->max = max_lookups;
        r->mark = mark;
        r->checked = loop_now(l);
        r->free = max_lookups > 0 ? 0 : NONE;
        for (uint32_t i = 0; i < max_lookups; i++) {
            r->lookups[i].owner = r;
            r->lookups[i].next = i + 1 < max_lookups ? i + 1 : NONE;
        }
        (void)conf_changed(r);
        e = channel_open(r);
    }
    if (e < 0) {
        free(r);
        ares_library_cleanup();
        return e;
    }
    loop_set_handler(l, fd_kind, on_fd, r);
    loop_set_handler(l, tick_kind, on_tick, r);
    *ret = r;
    return 0;
}

void resolver_destroy(struct resolver *r)
{
    if (!r)
        return;
    r->silent = true;
    channel_close(r);
    loop_timer_cancel(r->loop, &r->tick);
    loop_set_handler(r->loop, r->fd_kind, NULL, NULL);
    loop_set_handler(r->loop, r->tick_kind, NULL, NULL);
    free(r);
    ares_library_cleanup();
}

static int status_errno(int status)
{
    switch (status) {
    case ARES_SUCCESS:
        return 0;
    case ARES_ENOTFOUND:
    case ARES_ENODATA:
    case ARES_EBADNAME:
    case ARES_ENONAME:
        return -EHOSTUNREACH;
    case ARES_ETIMEOUT:
        return -ETIMEDOUT;
    case ARES_ENOMEM:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

static size_t collect(const struct ares_addrinfo *result, uint16_t port,
                      struct addr ret[RESOLVER_ADDRESSES])
{
    size_t n = 0, of_family[2] = {0, 0};

    for (const struct ares_addrinfo_node *i = result->nodes; i; i = i->ai_next) {
        struct addr a;

        if (addr_from_sockaddr(i->ai_addr, (socklen_t)i->ai_addrlen, &a) < 0)
            continue;
        size_t *count = &of_family[addr_is_v4(&a)];

        if (*count == RESOLVER_ADDRESSES / 2)
            continue;
        (*count)++;
        a.port = port;
        ret[n++] = a;
    }
    return n;
}

static void on_result(void *arg, int status, int timeouts, struct ares_addrinfo *result)
{
    struct lookup *k = arg;
    struct resolver *r = k->owner;
    struct addr addresses[RESOLVER_ADDRESSES];
    uint64_t ref = k->ref;
    size_t n = 0;
    int e = status_errno(status);

    (void)timeouts;
    if (result) {
        n = collect(result, k->port, addresses);
        ares_freeaddrinfo(result);
    }
    if (e == 0 && n == 0)
        e = -EHOSTUNREACH;
    k->next = r->free;
    r->free = (uint32_t)(k - r->lookups);
    r->in_flight--;
    if (!r->silent)
        r->done(r->ctx, ref, e, addresses, e == 0 ? n : 0);
}

/* What no host name has, and what could mean something else to a library that takes C strings. */
static bool plausible(const char *name)
{
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return false;
    }
    return *name != '\0';
}

int resolver_lookup(struct resolver *r, const char *name, uint16_t port, uint64_t ref)
{
    struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};

    if (!plausible(name))
        return -EINVAL;
    if (r->in_flight == 0 && r->inside == 0 && loop_now(r->loop) - r->checked >= CHECK_PERIOD) {
        r->checked = loop_now(r->loop);
        if (conf_changed(r))
            channel_close(r);
    }
    if (!r->has_channel) {
        int e = channel_open(r);

        if (e < 0)
            return e;
    }
    if (r->free == NONE)
        return -EBUSY;
    struct lookup *k = &r->lookups[r->free];

    r->free = k->next;
    r->in_flight++;
    k->ref = ref;
    k->port = port;
    r->inside++;
    ares_getaddrinfo(r->channel, name, NULL, &hints, on_result, k);
    r->inside--;
    if (r->in_flight > 0 && r->tick.slot == 0)
        arm_tick(r);
    return 0;
}
