/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fixed table of associations: slots, generations, buckets, order of use, counters, records.
 * Memory of slots that were never used is never touched. Clients choose their addresses and ports,
 * so the buckets' hash has a secret seed.
 */
#include "udp/table.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "base/ident.h"
#include "log.h"

#define IDLE_DEFAULT INT64_C(300000000000)
#define FULL_LOG     INT64_C(10000000000)
#define LIST_GRAIN   INT64_C(1000000000)
#define UDP_SLOT     0x80000000u /* in an id: no flow's */
#define LOTS         32
#define LOOK_AT      1024 /* of those at one upstream, and others among them */
#define COUNTS_SIZE  (SHARES_PLACES * sizeof(uint32_t))

/* Buffers are not a power of two apart: they would share the same few lines of the caches. */
#define BUFFER_STRIDE (65536 + 2112)

_Static_assert(sizeof(struct udp_association) + sizeof(struct udp_names) <= 1024,
               "an association costs a KiB at most");

static uint32_t slot_of(const struct udp_table *t, const struct udp_association *a)
{
    return (uint32_t)(a - t->slots);
}

uint64_t udp_id(const struct udp_table *t, const struct udp_association *a)
{
    return ident_make(t->o.worker, a->generation, slot_of(t, a) | UDP_SLOT);
}

uint64_t udp_ref(const struct udp_table *t, const struct udp_association *a, unsigned kind)
{
    return loop_ref(t->o.first_kind + kind, a->generation, slot_of(t, a));
}

struct udp_association *udp_by_ref(struct udp_table *t, uint64_t ref)
{
    uint32_t slot = loop_ref_index(ref);

    if (slot >= t->n_used)
        return NULL;
    struct udp_association *a = &t->slots[slot];

    if (a->state == UDP_FREE || a->generation != loop_ref_generation(ref))
        return NULL;
    return a;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

static uint32_t *bucket_of(struct udp_table *t, uint32_t capture, const struct addr *client)
{
    uint64_t words[2], h = t->seed;

    memcpy(words, client->ip, sizeof(words));
    h = mix(h, words[0]);
    h = mix(h, words[1]);
    h = mix(h, (uint64_t)capture << 48 | (uint64_t)client->port << 32 | client->scope);
    return &t->buckets[(uint32_t)mix(h, t->seed) & t->bucket_mask];
}

struct udp_association *udp_find(struct udp_table *t, uint32_t capture, const struct addr *client)
{
    /* A bucket has slot + 1: fresh memory is an empty one. */
    uint32_t at = *bucket_of(t, capture, client);

    while (at != 0) {
        struct udp_association *a = &t->slots[at - 1];

        if (a->capture == capture && addr_equal(&a->client, client))
            return a;
        at = a->next;
    }
    return NULL;
}

static void unlink_use(struct udp_table *t, struct udp_association *a)
{
    *(a->newer == UDP_NONE ? &t->newest : &t->slots[a->newer].older) = a->older;
    *(a->older == UDP_NONE ? &t->oldest : &t->slots[a->older].newer) = a->newer;
}

static void link_newest(struct udp_table *t, struct udp_association *a)
{
    a->newer = UDP_NONE;
    a->older = t->newest;
    *(t->newest == UDP_NONE ? &t->oldest : &t->slots[t->newest].newer) = slot_of(t, a);
    t->newest = slot_of(t, a);
    a->listed = loop_now(t->o.loop);
}

void udp_touch(struct udp_table *t, struct udp_association *a)
{
    a->active = loop_now(t->o.loop);
    if (a->active - a->listed < LIST_GRAIN)
        return;
    unlink_use(t, a);
    link_newest(t, a);
}

/* Why an association may make room; the greatest reason goes first. */
enum reason { STAYS, IS_IDLE, HAS_MORE, IS_REFUSED };

static enum reason reason_of(const struct udp_table *t, const struct udp_association *a,
                             struct shares_client newcomer)
{
    if (shares_yields(&t->shares, a->share, newcomer))
        return a->state == UDP_REFUSED ? IS_REFUSED : HAS_MORE;
    if (loop_now(t->o.loop) - a->active <= t->times.replace_idle ||
        shares_compare(&t->shares, a->share, newcomer) < 0)
        return STAYS;
    return IS_IDLE;
}

/* Its place at an upstream is wanted, so it must have one, and be of a client that has more. */
static enum reason reason_at(const struct udp_table *t, const struct udp_association *a,
                             struct shares_client newcomer, const struct upstream *u)
{
    return a->state == UDP_RELAY && a->upstream == u &&
                   shares_yields(&t->shares, a->share, newcomer)
               ? HAS_MORE
               : STAYS;
}

/* The one that is to make room, as far as is known. */
struct choice {
    struct udp_association *a; /* NULL: none */
    enum reason why;
};

/* `u`: NULL, or where the room is wanted. */
static void consider(const struct udp_table *t, struct choice *best, struct udp_association *a,
                     struct shares_client newcomer, const struct upstream *u)
{
    enum reason why = u ? reason_at(t, a, newcomer, u) : reason_of(t, a, newcomer);
    int more = best->a ? shares_compare(&t->shares, a->share, best->a->share) : 1;

    if (why > best->why || (why == best->why && why != STAYS &&
                            (more > 0 || (more == 0 && a->active < best->a->active))))
        *best = (struct choice){a, why};
}

/*
 * Of the one that nobody has used for longest, and a few that are drawn by lot, one makes room: of
 * the client that holds most, if that is more than the newcomer's, or one that has been idle for
 * long and is not of a client that holds less. Who holds most of the table has most of the lots,
 * however many clients there are. Not so of what is at one upstream, which may have a small part of
 * the table's room: of that more are looked at.
 */
static bool make_room(struct udp_table *t, struct shares_client newcomer, const struct upstream *u)
{
    struct choice best = {NULL, STAYS};
    uint32_t at = t->oldest;

    for (unsigned i = 0; i < (u ? LOOK_AT : 1) && at != UDP_NONE; i++) {
        consider(t, &best, &t->slots[at], newcomer, u);
        at = t->slots[at].newer;
    }
    for (unsigned i = 0; i < LOTS; i++) {
        t->lot = mix(t->lot, t->seed);
        struct udp_association *a = &t->slots[(uint32_t)(t->lot >> 32) % t->n_used];

        if (a->state != UDP_FREE)
            consider(t, &best, a, newcomer, u);
    }
    if (!best.a)
        return false;
    t->stats.ended_replaced++;
    udp_end(t, best.a);
    return true;
}

bool udp_make_room_at(struct udp_table *t, const struct udp_association *a,
                      const struct upstream *u)
{
    shares_drop(&t->shares, a->share); /* it is what is to be had */
    bool made = make_room(t, a->share, u);

    shares_add(&t->shares, a->share);
    return made;
}

struct udp_association *udp_alloc(struct udp_table *t, uint32_t capture, const struct addr *client)
{
    struct shares_client share = shares_client(&t->shares, client);
    struct udp_association *a;

    if (t->free == UDP_NONE && t->n_used == t->o.max_associations && !make_room(t, share, NULL))
        return NULL;
    if (t->free != UDP_NONE) {
        a = &t->slots[t->free];
        t->free = a->next;
    } else {
        a = &t->slots[t->n_used++];
    }
    uint32_t generation = (a->generation + 1) & 0xffffff, *bucket = bucket_of(t, capture, client);

    *a = (struct udp_association){.generation = generation,
                                  .state = UDP_DIALING,
                                  .capture = capture,
                                  .client = *client,
                                  .share = share,
                                  .control = -1,
                                  .relay = -1,
                                  .started = loop_now(t->o.loop),
                                  .active = loop_now(t->o.loop),
                                  .next = *bucket,
                                  .dial.fd = -1};
    *bucket = slot_of(t, a) + 1;
    link_newest(t, a);
    shares_add(&t->shares, share);
    t->n++;
    return a;
}

void udp_release(struct udp_table *t, struct udp_association *a)
{
    uint32_t *at = bucket_of(t, a->capture, &a->client);

    while (*at != slot_of(t, a) + 1)
        at = &t->slots[*at - 1].next;
    *at = a->next;
    unlink_use(t, a);
    shares_drop(&t->shares, a->share);
    if (a->state == UDP_REFUSED)
        shares_drop(&t->refused, udp_refused_share(t, a->capture, &a->client));
    loop_timer_cancel(t->o.loop, &a->timer);
    free(a->names);
    a->names = NULL;
    a->state = UDP_FREE;
    a->next = t->free;
    t->free = slot_of(t, a);
    t->n--;
    if (t->draining && t->n == 0 && t->o.on_empty)
        t->o.on_empty(t->o.ctx);
}

struct shares_client udp_refused_share(const struct udp_table *t, uint32_t capture,
                                       const struct addr *client)
{
    struct shares s = t->refused;

    s.seed = mix(s.seed, capture + 1);
    return shares_client(&s, client);
}

bool udp_is_refused(const struct udp_table *t, uint32_t capture, const struct addr *client)
{
    struct shares_client c = udp_refused_share(t, capture, client);

    return shares_of_host(&t->refused, c) >= UDP_REFUSED_HOST ||
           shares_of_net(&t->refused, c) >= UDP_REFUSED_NET;
}

void udp_say_full(struct udp_table *t, const char *what)
{
    int64_t now = loop_now(t->o.loop);

    t->stats.refused_full++;
    if (now < t->next_full_log)
        return;
    t->next_full_log = now + FULL_LOG;
    log_warning("UDP: %s: datagrams of new clients are refused (%lu so far)", what,
                (unsigned long)t->stats.refused_full);
}

static void on_listener(void *ctx, uint64_t ref, uint32_t events)
{
    (void)events;
    udp_listener_event(ctx, loop_ref_index(ref));
}

static void on_control(void *ctx, uint64_t ref, uint32_t events)
{
    struct udp_association *a = udp_by_ref(ctx, ref);

    if (a)
        udp_control_event(ctx, a, events);
}

static void on_relay(void *ctx, uint64_t ref, uint32_t events)
{
    struct udp_association *a = udp_by_ref(ctx, ref);

    (void)events;
    if (a && a->state == UDP_RELAY)
        udp_relay_event(ctx, a);
}

static void set_up_batch(struct udp_batch *b)
{
    for (unsigned i = 0; i < UDP_BATCH; i++) {
        b->in_iov[i] = (struct iovec){.iov_base = b->space + (size_t)i * BUFFER_STRIDE,
                                      .iov_len = UDP_DATAGRAM_MAX};
        b->in[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
                                           .msg_namelen = sizeof(b->from[i]),
                                           .msg_iov = &b->in_iov[i],
                                           .msg_iovlen = 1,
                                           .msg_control = b->cmsg[i].space,
                                           .msg_controllen = sizeof(b->cmsg[i].space)};
        b->plain[i].msg_hdr = (struct msghdr){.msg_iov = &b->in_iov[i], .msg_iovlen = 1};
    }
}

int udp_receive(struct udp_table *t, int fd, bool plain)
{
    struct udp_batch *b = &t->batch;

    for (unsigned i = 0; !plain && i < UDP_BATCH; i++) {
        b->in[i].msg_hdr.msg_namelen = sizeof(b->from[i]);
        b->in[i].msg_hdr.msg_controllen = sizeof(b->cmsg[i].space);
    }
    int n = recvmmsg(fd, plain ? b->plain : b->in, UDP_BATCH, MSG_DONTWAIT, NULL);

    return n < 0 ? -errno : n;
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static size_t buckets_size(const struct udp_table *t)
{
    return ((size_t)t->bucket_mask + 1) * sizeof(uint32_t);
}

static void free_table(struct udp_table *t)
{
    if (t->slots)
        munmap(t->slots, (size_t)t->o.max_associations * sizeof(struct udp_association));
    if (t->buckets)
        munmap(t->buckets, buckets_size(t));
    if (t->shares.counts)
        munmap(t->shares.counts, COUNTS_SIZE);
    if (t->refused.counts)
        munmap(t->refused.counts, COUNTS_SIZE);
    if (t->batch.space)
        munmap(t->batch.space, (size_t)UDP_BATCH * BUFFER_STRIDE);
    free(t);
}

static void set_handlers(struct udp_table *t, bool on)
{
    static const loop_handler_fn handlers[UDP_KINDS] = {
        [KIND_LISTENER] = on_listener, [KIND_CONTROL] = on_control, [KIND_RELAY] = on_relay};

    for (unsigned k = 0; k < UDP_KINDS; k++)
        loop_set_handler(t->o.loop, t->o.first_kind + k, on ? handlers[k] : NULL, on ? t : NULL);
}

static int register_listeners(struct udp_table *t)
{
    for (size_t i = 0; i < t->o.n_listeners; i++) {
        int r = loop_add(t->o.loop, t->o.listeners[i].fd, EPOLLIN,
                         loop_ref(t->o.first_kind + KIND_LISTENER, 0, (uint32_t)i));

        if (r < 0)
            return r;
    }
    return 0;
}

/* Others have the same sockets: they do not leave the loop by being closed. */
static void unregister_listeners(struct udp_table *t)
{
    for (size_t i = 0; i < t->o.n_listeners; i++)
        loop_remove(t->o.loop, t->o.listeners[i].fd);
}

int udp_table_create(const struct udp_table_options *o, struct udp_table **ret)
{
    struct udp_table *t;

    if (o->max_associations == 0 || o->max_associations >= UDP_SLOT)
        return -EINVAL;
    for (size_t i = 0; i < o->n_listeners; i++) {
        if (o->listeners[i].capture >= o->n_captures)
            return -EINVAL;
    }
    t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->o = *o;
    if (t->o.idle_timeout <= 0)
        t->o.idle_timeout = IDLE_DEFAULT;
    t->times = (struct udp_times){.refused = INT64_C(5000000000),
                                  .refusal_gap = INT64_C(100000000),
                                  .replace_idle = INT64_C(10000000000),
                                  .drain_idle = INT64_C(10000000000),
                                  .proof_wait = INT64_C(200000000)};
    t->free = t->newest = t->oldest = UDP_NONE;
    while (t->bucket_mask < o->max_associations)
        t->bucket_mask = t->bucket_mask << 1 | 1;
    t->slots = map((size_t)o->max_associations * sizeof(struct udp_association));
    t->buckets = map(buckets_size(t));
    t->shares.counts = map(COUNTS_SIZE);
    t->refused.counts = map(COUNTS_SIZE);
    t->batch.space = map((size_t)UDP_BATCH * BUFFER_STRIDE);
    if (!t->slots || !t->buckets || !t->shares.counts || !t->refused.counts || !t->batch.space) {
        free_table(t);
        return -ENOMEM;
    }
    if (getrandom(&t->seed, sizeof(t->seed), 0) != sizeof(t->seed))
        t->seed = (uint64_t)(uintptr_t)t->slots;
    t->seed |= 1;
    t->shares.total = o->max_associations;
    t->shares.seed = t->refused.seed = t->lot = mix(t->seed, t->seed);
    set_up_batch(&t->batch);
    set_handlers(t, true);
    int r = register_listeners(t);

    if (r < 0) {
        udp_table_destroy(t);
        return r;
    }
    *ret = t;
    return 0;
}

void udp_table_destroy(struct udp_table *t)
{
    if (!t)
        return;
    unregister_listeners(t);
    t->draining = false;
    for (uint32_t i = 0; i < t->n_used; i++) {
        if (t->slots[i].state != UDP_FREE)
            udp_end(t, &t->slots[i]);
    }
    set_handlers(t, false);
    free_table(t);
}

void udp_table_drain(struct udp_table *t)
{
    if (t->draining)
        return;
    unregister_listeners(t);
    t->drain_end = loop_now(t->o.loop) + t->o.idle_timeout;
    for (uint32_t i = 0; i < t->n_used; i++) {
        struct udp_association *a = &t->slots[i];

        if (a->state == UDP_REFUSED)
            udp_end(t, a);
    }
    t->draining = true;
    if (t->n == 0 && t->o.on_empty) {
        t->o.on_empty(t->o.ctx);
        return;
    }
    /* The time of a dial stays; who is idle already has a moment left. */
    for (uint32_t i = 0; i < t->n_used; i++) {
        struct udp_association *a = &t->slots[i];

        if (a->state == UDP_RELAY)
            loop_timer_set(t->o.loop, &a->timer, 1, udp_ref(t, a, KIND_CONTROL));
    }
}

uint32_t udp_table_count(const struct udp_table *t)
{
    return t->n;
}

void udp_table_stats(const struct udp_table *t, struct message_udp_stats *ret)
{
    *ret = t->stats;
    ret->associations = t->n;
}

static void fill_record(const struct udp_table *t, const struct udp_association *a,
                        struct message_flow *ret)
{
    static const char *const states[] = {"free", "dialing", "relay", "refused"};
    const char *name = NULL;

    memset(ret, 0, sizeof(*ret));
    ret->header = (struct message_header)MESSAGE_HEADER(MESSAGE_FLOW, sizeof(*ret));
    ret->id = udp_id(t, a);
    ret->protocol = IPPROTO_UDP;
    ret->client = a->client;
    ret->origin.destination = a->destination;
    ret->age_ms = (uint64_t)(loop_now(t->o.loop) - a->started) / 1000000;
    ret->bytes_up = a->bytes_up;
    ret->bytes_down = a->bytes_down;
    if (a->names)
        name = t->o.name(t->o.ctx, &a->destination);
    snprintf(ret->name, sizeof(ret->name), "%s", name ? name : "");
    snprintf(ret->capture, sizeof(ret->capture), "%s", t->o.captures[a->capture].name);
    snprintf(ret->upstream, sizeof(ret->upstream), "%s", a->upstream ? a->upstream->name : "");
    snprintf(ret->state, sizeof(ret->state), "%s", states[a->state]);
    if (a->state == UDP_RELAY)
        snprintf(ret->engine, sizeof(ret->engine), "copy");
}

size_t udp_table_records(const struct udp_table *t, uint32_t *cursor, struct message_flow *ret,
                         size_t max)
{
    size_t n = 0;

    for (; *cursor < t->n_used && n < max; (*cursor)++) {
        if (t->slots[*cursor].state != UDP_FREE)
            fill_record(t, &t->slots[*cursor], &ret[n++]);
    }
    return n;
}
