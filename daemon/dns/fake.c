/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dns/fake.h: the table.
 *
 * Theory of operation. What is shared are seven arrays in one mapping: the head, with lock and
 * counters; until when each slot is held; who asked for it, and how many each has; the names; and
 * an index of the names, which is a hash table of chains, `buckets` and `next`. Indices in the
 * index are slot + 1, so that memory as the kernel gives it, all zeros, is an empty table.
 *
 * Slots 0..used-1 have been given out at least once. The truth about a slot is in the slot: its
 * name counts when its length is not 0, and the length is written last. Everything else follows
 * from that: mend() drops the index and makes it again. A process that dies anywhere between two
 * stores leaves at worst a slot without a name, which is used again like any other, or a slot with
 * its name but not in the index, which mend() adds.
 *
 * `held` is the one thing that is written without the lock: it only grows, so two writers need no
 * more than a compare-and-swap, and a reader sees a moment that was right.
 */
#include "dns/fake.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#include "dns/fake_table.h"
#include "dns/hash.h"
#include "dns/name.h"

#define V4_FIRST      64             /* place in 198.18.0.0/15 of the first address in use */
#define V4_ROOM       FAKE_NAMES_MAX /* and how many are */
#define LOCK_PATIENCE 20000000L      /* ns; what is done under the lock takes microseconds */
#define SECOND        INT64_C(1000000000)

/* ::ffff:198.18.0.0/111 and fdf6:6931:7149::/64 */
const struct prefix fake_prefix4 = {{[10] = 0xff, [11] = 0xff, [12] = 198, [13] = 18}, 96 + 15};
const struct prefix fake_prefix6 = {{0xfd, 0xf6, 0x69, 0x31, 0x71, 0x49}, 64};

_Static_assert(V4_FIRST + V4_ROOM < 1 << 17, "the addresses are in the prefix");

/* ---- The mapping ---- */

static size_t aligned(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Finds the places of the arrays, from the beginning of the mapping; NULL: only how large it is. */
static void lay_out(struct fake *f, uint8_t *base)
{
    size_t held = aligned(sizeof(struct fake_head));
    size_t askers = held + aligned(f->names * sizeof(f->held[0]));
    size_t counts = askers + aligned(f->names * sizeof(f->askers[0]));
    size_t buckets = counts + aligned(SHARES_PLACES * sizeof(f->shares.counts[0]));
    size_t next = buckets + aligned((f->bucket_mask + (size_t)1) * sizeof(f->buckets[0]));
    size_t slots = next + aligned(f->names * sizeof(f->next[0]));

    f->bytes = slots + f->names * sizeof(f->slots[0]);
    if (!base)
        return;
    f->head = (struct fake_head *)(void *)base;
    f->held = (_Atomic uint32_t *)(void *)(base + held);
    f->askers = (struct fake_asker *)(void *)(base + askers);
    f->shares.counts = (uint32_t *)(void *)(base + counts);
    f->buckets = (uint32_t *)(void *)(base + buckets);
    f->next = (uint32_t *)(void *)(base + next);
    f->slots = (struct fake_slot *)(void *)(base + slots);
}

static int init_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    int r = pthread_mutexattr_init(&attr);

    if (r != 0)
        return -r;
    r = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (r == 0)
        r = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    if (r == 0)
        r = pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return -r;
}

static int draw(struct fake *f)
{
    struct {
        uint64_t key[2];
        uint32_t start, tag;
    } random;
    ssize_t n = getrandom(&random, sizeof(random), 0);

    if (n != sizeof(random))
        return n < 0 ? -errno : -EIO;
    memcpy(f->key, random.key, sizeof(f->key));
    f->start = random.start % V4_ROOM;
    f->tag = random.tag;
    f->shares.total = f->names;
    f->shares.seed = f->key[0] ^ f->key[1];
    return 0;
}

int fake_new(uint32_t names, struct fake **ret)
{
    if (names < FAKE_NAMES_MIN || names > FAKE_NAMES_MAX)
        return -EINVAL;
    struct fake *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->names = names;
    for (f->bucket_mask = 15; f->bucket_mask < names;)
        f->bucket_mask = 2 * f->bucket_mask + 1;
    lay_out(f, NULL);
    void *base = mmap(NULL, f->bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int r = base == MAP_FAILED ? -errno : draw(f);

    if (r == 0) {
        lay_out(f, base);
        r = init_lock(&f->head->lock);
    }
    if (r < 0) {
        if (base != MAP_FAILED)
            munmap(base, f->bytes);
        free(f);
        return r;
    }
    *ret = f;
    return 0;
}

void fake_free(struct fake *f)
{
    if (f)
        munmap(f->head, f->bytes);
    free(f);
}

/* ---- Addresses ---- */

bool fake_is(const struct addr *a)
{
    return prefix_contains(&fake_prefix4, a) || prefix_contains(&fake_prefix6, a);
}

static uint32_t get_u32(const uint8_t p[4])
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_u32(uint8_t p[4], uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

void fake_address(const struct fake *f, uint32_t slot, struct addr *ret4, struct addr *ret6)
{
    uint8_t ip[16];

    memcpy(ip, fake_prefix4.ip, sizeof(ip));
    put_u32(ip + 12, get_u32(ip + 12) + V4_FIRST + (slot + f->start) % V4_ROOM);
    addr_set_v4(ret4, ip + 12, 0);
    memcpy(ip, fake_prefix6.ip, sizeof(ip));
    put_u32(ip + 8, f->tag);
    put_u32(ip + 12, slot);
    addr_set_v6(ret6, ip, 0);
}

/* The slot that an address would be of. -EINVAL: no fake address; -ENOENT: of no slot. */
static int slot_of(const struct fake *f, const struct addr *a, uint32_t *ret)
{
    uint32_t slot = UINT32_MAX;

    if (prefix_contains(&fake_prefix4, a)) {
        uint32_t place = get_u32(a->ip + 12) - get_u32(fake_prefix4.ip + 12) - V4_FIRST;

        if (place < V4_ROOM)
            slot = (place + V4_ROOM - f->start) % V4_ROOM;
    } else if (!prefix_contains(&fake_prefix6, a)) {
        return -EINVAL;
    } else if (get_u32(a->ip + 8) == f->tag) {
        slot = get_u32(a->ip + 12);
    }
    if (slot >= f->names)
        return -ENOENT;
    *ret = slot;
    return 0;
}

/* ---- Time ---- */

/* The second by which a moment has come. */
static uint32_t second_after(int64_t t)
{
    int64_t s = t / SECOND + (t % SECOND > 0);

    return s <= 0 ? 0 : s > UINT32_MAX ? UINT32_MAX : (uint32_t)s;
}

/* The second that has certainly come. */
static uint32_t second_before(int64_t t)
{
    int64_t s = t / SECOND;

    return s <= 0 ? 0 : s > UINT32_MAX ? UINT32_MAX : (uint32_t)s;
}

static void hold(struct fake *f, uint32_t slot, uint32_t until)
{
    uint32_t held = atomic_load_explicit(&f->held[slot], memory_order_relaxed);

    while (held < until && !atomic_compare_exchange_weak(&f->held[slot], &held, until))
        ;
}

void fake_hold(struct fake *f, uint32_t slot, int64_t until)
{
    if (slot < f->names)
        hold(f, slot, second_after(until));
}

/* ---- The index; with the lock ---- */

static uint32_t *bucket(const struct fake *f, const char *name, size_t len)
{
    return &f->buckets[dns_hash(f->key, name, len) & f->bucket_mask];
}

/* The name of a slot, copied before it is looked at; 0: it has none, or nothing that is one. */
static size_t read_name(const struct fake *f, uint32_t slot, char ret[DNS_PLAIN_MAX + 1])
{
    size_t len = atomic_load_explicit(&f->slots[slot].len, memory_order_acquire);

    if (len == 0 || len > DNS_PLAIN_MAX)
        return 0;
    memcpy(ret, f->slots[slot].name, len);
    ret[len] = '\0';
    return dns_name_is_plain(ret, len) ? len : 0;
}

static bool has_name(const struct fake *f, uint32_t slot, const char *name, size_t len)
{
    const struct fake_slot *s = &f->slots[slot];

    return atomic_load_explicit(&s->len, memory_order_acquire) == len &&
           memcmp(s->name, name, len) == 0;
}

static bool find(const struct fake *f, const char *name, size_t len, uint32_t *ret)
{
    uint32_t link = *bucket(f, name, len);

    for (uint32_t i = 0; link != 0 && link <= f->names && i < f->names; i++) {
        if (has_name(f, link - 1, name, len)) {
            *ret = link - 1;
            return true;
        }
        link = f->next[link - 1];
    }
    return false;
}

static void link_slot(struct fake *f, uint32_t slot, const char *name, size_t len)
{
    uint32_t *head = bucket(f, name, len);

    f->next[slot] = *head;
    *head = slot + 1;
}

static void unlink_slot(struct fake *f, uint32_t slot)
{
    char name[DNS_PLAIN_MAX + 1];
    size_t len = read_name(f, slot, name);

    if (len == 0)
        return;
    uint32_t *link = bucket(f, name, len);

    for (uint32_t i = 0; *link != 0 && *link <= f->names && i < f->names; i++) {
        if (*link == slot + 1) {
            *link = f->next[slot];
            return;
        }
        link = &f->next[*link - 1];
    }
}

/* After a process died with the lock: the index again, from what the slots say. */
static void mend(struct fake *f)
{
    uint32_t used = f->head->used, known = 0;
    char name[DNS_PLAIN_MAX + 1];

    if (used > f->names)
        f->head->used = used = f->names;
    memset(f->buckets, 0, (f->bucket_mask + (size_t)1) * sizeof(f->buckets[0]));
    memset(f->shares.counts, 0, SHARES_PLACES * sizeof(f->shares.counts[0]));
    for (uint32_t i = 0; i < used; i++) {
        size_t len = read_name(f, i, name);
        struct shares_client who;

        if (fake_asker_of(f, i, &who))
            shares_add(&f->shares, who);
        if (len == 0) {
            f->slots[i].len = 0;
            continue;
        }
        link_slot(f, i, name, len);
        known++;
    }
    f->head->known = known;
    f->head->retry_at = 0;
    memset(f->head->own_retry_at, 0, sizeof(f->head->own_retry_at));
    f->head->mended++;
}

/* ---- The lock ---- */

static int lock(struct fake *f)
{
    int r = pthread_mutex_trylock(&f->head->lock);

    if (r == EBUSY) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += LOCK_PATIENCE;
        t.tv_sec += t.tv_nsec / SECOND;
        t.tv_nsec %= SECOND;
        r = pthread_mutex_clocklock(&f->head->lock, CLOCK_MONOTONIC, &t);
    }
    if (r == EOWNERDEAD) {
        mend(f);
        r = pthread_mutex_consistent(&f->head->lock);
    }
    return r == 0 ? 0 : -EAGAIN;
}

static void unlock(struct fake *f)
{
    pthread_mutex_unlock(&f->head->lock);
}

/* ---- Names ---- */

/* The order of these stores is what mend() relies on. */
static void set_name(struct fake *f, uint32_t slot, const char *name, size_t len, uint32_t until)
{
    struct fake_slot *s = &f->slots[slot];
    bool had_name = s->len > 0;

    if (had_name)
        unlink_slot(f, slot);
    s->len = 0;
    hold(f, slot, until);
    memcpy(s->name, name, len);
    if (slot >= f->head->used)
        f->head->used = slot + 1;
    atomic_store(&s->len, (uint8_t)len);
    link_slot(f, slot, name, len);
    if (had_name)
        f->head->reused++;
    else
        f->head->known++;
}

int fake_take(struct fake *f, const char *name, size_t len, const struct addr *client, int64_t now,
              int64_t until, uint32_t *ret_slot)
{
    struct shares_client who = shares_client(&f->shares, client);
    uint32_t slot;

    if (!dns_name_is_plain(name, len))
        return -EINVAL;
    int r = lock(f);

    if (r < 0)
        return r;
    if (find(f, name, len, &slot)) {
        hold(f, slot, second_after(until));
        f->askers[slot].in_use |= f->askers[slot].host != who.host;
    } else {
        r = fake_choose(f, who, second_before(now), &slot);
        if (r == 0) {
            set_name(f, slot, name, len, second_after(until));
            fake_set_asker(f, slot, who);
        } else {
            f->head->refused++;
        }
    }
    unlock(f);
    if (r == 0)
        *ret_slot = slot;
    return r;
}

int fake_find(struct fake *f, const struct addr *a, int64_t until, char ret_name[DNS_PLAIN_MAX + 1],
              uint32_t *ret_slot)
{
    char name[DNS_PLAIN_MAX + 1];
    uint32_t slot;
    int r = slot_of(f, a, &slot);

    if (r == 0)
        r = lock(f);
    if (r < 0)
        return r;
    size_t len = read_name(f, slot, name);

    if (len > 0) {
        hold(f, slot, second_after(until));
        f->askers[slot].in_use |= until > 0;
    }
    unlock(f);
    if (len == 0)
        return -ENOENT;
    memcpy(ret_name, name, len + 1);
    *ret_slot = slot;
    return 0;
}

void fake_get_stats(const struct fake *f, struct fake_stats *ret)
{
    const struct fake_head *h = f->head;

    *ret = (struct fake_stats){
        .known = h->known, .reused = h->reused, .refused = h->refused, .mended = h->mended};
}
