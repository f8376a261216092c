/* SPDX-License-Identifier: GPL-2.0-or-later */
/* upstream/upstream.h: building, choosing, health. */
#include "upstream/upstream.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "log.h"

#define COMPLAINT_INTERVAL INT64_C(10000000000)
#define LOOK_INTERVAL      INT64_C(10000000000)
#define RETRY_INTERVAL     INT64_C(2000000000)

/*
 * No complaint about an upstream's UDP before this time, by a hash of its name: shared by the
 * keeper and all workers, so that each of them does not say the same. NULL: none could be had. Two
 * upstreams in one place, of more than there are places for, would share the line.
 */
#define SAID_UDP 512
static _Atomic int64_t *said_udp;

/* When an upstream last answered, likewise. */
static _Atomic int64_t *answered;

/* How an address of one is to be spoken to, by a hash of both: the hash's other half, LEARNT, and
 * which hops need no password. 0: not known. */
#define LEARNT 0x80000000u
static _Atomic uint64_t *learnt;

static void share_said(void)
{
    if (said_udp)
        return;
    void *p = mmap(NULL, (size_t)3 * SAID_UDP * sizeof(*said_udp), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return;
    said_udp = p;
    answered = said_udp + SAID_UDP;
    learnt = (_Atomic uint64_t *)(answered + SAID_UDP);
}

static uint32_t hash_name(const char *name)
{
    uint32_t h = 2166136261u;

    while (*name)
        h = (h ^ (uint8_t)*name++) * 16777619u;
    return h;
}

int upstream_build(const struct config *c, uint32_t mark, struct upstream **ret)
{
    struct upstream *all = calloc(c->n_upstreams + 1, sizeof(*all));

    if (!all)
        return -ENOMEM;
    share_said();
    for (size_t i = 0; i < c->n_upstreams; i++) {
        struct upstream *u = &all[i];
        int at[CONFIG_CHAIN_MAX], n = 0;

        /* From the last hop back to the one we dial; the configuration has no loops. */
        for (int k = (int)i; k >= 0 && n < CONFIG_CHAIN_MAX; k = c->upstreams[k].via)
            at[n++] = k;
        for (int k = 0; k < n; k++)
            u->hops[k].config = &c->upstreams[at[n - 1 - k]];
        u->n_hops = (unsigned)n;
        u->mark = mark;
        u->healthy = true;
        memcpy(u->name, c->upstreams[i].name, sizeof(u->name));
    }
    struct upstream *direct = &all[c->n_upstreams];

    snprintf(direct->name, sizeof(direct->name), "direct");
    direct->mark = mark;
    direct->healthy = true;
    *ret = all;
    return 0;
}

bool upstream_is_direct(const struct upstream *u)
{
    return u->n_hops == 0;
}

bool upstream_all_gone(const struct upstream_choice *choice)
{
    for (unsigned i = 0; i < choice->n; i++) {
        if (!choice->candidates[i]->gone)
            return false;
    }
    return true;
}

bool upstream_go_direct(struct upstream_choice *choice, int64_t now)
{
    if (!choice->direct_when_down || !upstream_all_gone(choice))
        return false;
    if (now < choice->next_try)
        return true;
    choice->next_try = now + RETRY_INTERVAL;
    return false;
}

void upstream_choose_from(const struct config *c, const struct config_capture *capture,
                          struct upstream *all, struct upstream_choice *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->direct_when_down = capture->policy.when_down == CAPTURE_DOWN_DIRECT;
    ret->direct = &all[c->n_upstreams];
    if (capture->target == TARGET_UPSTREAM) {
        ret->candidates[ret->n++] = &all[capture->target_index];
    } else if (capture->target == TARGET_GROUP) {
        const struct config_group *g = &c->groups[capture->target_index];

        ret->policy = g->policy;
        for (size_t i = 0; i < g->n_members && ret->n < UPSTREAM_CANDIDATES; i++)
            ret->candidates[ret->n++] = &all[g->members[i]];
    }
}

/* FNV-1a: spreads destinations, nothing more. */
static unsigned hash_addr(const struct addr *a)
{
    uint32_t h = 2166136261u;

    for (unsigned i = 0; i < sizeof(a->ip); i++)
        h = (h ^ a->ip[i]) * 16777619u;
    return h;
}

unsigned upstream_order(struct upstream_choice *choice, const struct addr *destination,
                        uint8_t ret[UPSTREAM_CANDIDATES])
{
    unsigned first = 0, n = 0;

    if (choice->n == 0)
        return 0;
    if (choice->policy == POLICY_ROUND_ROBIN)
        first = choice->next++ % choice->n;
    else if (choice->policy == POLICY_HASH)
        first = hash_addr(destination) % choice->n;
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < choice->n; i++) {
            unsigned k = (first + i) % choice->n;

            if (choice->candidates[k]->healthy == (pass == 0))
                ret[n++] = (uint8_t)k;
        }
    }
    return n;
}

void upstream_look_again(struct upstream_choice *choice, uint8_t *order, unsigned n, int64_t now)
{
    struct upstream *first = choice->candidates[0];

    if (choice->policy != POLICY_FAILOVER || n < 2 || first->healthy || now < first->retry_at)
        return;
    for (unsigned i = 1; i < n; i++) {
        if (order[i] != 0)
            continue;
        memmove(order + 1, order, i);
        order[0] = 0;
        first->retry_at = now + LOOK_INTERVAL;
        return;
    }
}

/*
 * True when the line was written. An upstream that answers every other time must not fill the log
 * either: so the interval holds beyond a success. Another reason is news, and is told at once; but
 * who thinks of a new one each time must not fill the log with that.
 */
static bool complain(struct upstream *u, const char *error, int64_t now)
{
    uint32_t reason = hash_name(error);
    bool repeated = false;

    snprintf(u->last_error, sizeof(u->last_error), "%s", error);
    if (now >= u->said_until) {
        u->said_until = now + COMPLAINT_INTERVAL;
        u->n_said = 0;
    }
    for (unsigned i = 0; i < u->n_said; i++)
        repeated |= u->said[i] == reason;
    if (repeated || u->n_said == UPSTREAM_REASONS) {
        u->suppressed++;
        return false;
    }
    u->said[u->n_said++] = reason;
    if (u->suppressed > 0)
        log_warning("upstream %s: %s (and %u more failures)", u->name, error, u->suppressed);
    else
        log_warning("upstream %s: %s", u->name, error);
    u->suppressed = 0;
    return true;
}

void upstream_complain(struct upstream *u, const char *error, int64_t now)
{
    complain(u, error, now);
}

void upstream_complain_of_udp(struct upstream *u, const char *error, int64_t interval, int64_t now)
{
    _Atomic int64_t *next = said_udp ? &said_udp[hash_name(u->name) % SAID_UDP] : NULL;
    int64_t before = next ? *next : 0;

    snprintf(u->last_error, sizeof(u->last_error), "%s", error);
    if (next && (now < before || !atomic_compare_exchange_strong(next, &before, now + interval)))
        return;
    log_warning("upstream %s: %s", u->name, error);
}

int64_t upstream_answered_at(const struct upstream *u)
{
    return answered ? answered[hash_name(u->name) % SAID_UDP] : 0;
}

static _Atomic uint64_t *learnt_slot(const struct upstream *u, const struct addr *address,
                                     uint64_t *ret_tag)
{
    uint64_t h = hash_name(u->name);

    for (size_t i = 0; i < sizeof(address->ip); i++)
        h = (h ^ address->ip[i]) * UINT64_C(1099511628211);
    h = (h ^ address->port) * UINT64_C(1099511628211);
    h ^= h >> 29;
    *ret_tag = h >> 32 << 32;
    return learnt ? &learnt[h % SAID_UDP] : NULL;
}

void upstream_learn(const struct upstream *u, const struct addr *address, unsigned no_auth)
{
    uint64_t tag;
    _Atomic uint64_t *slot = learnt_slot(u, address, &tag);
    uint64_t word = tag | LEARNT | (no_auth & ~LEARNT);

    /* Every connection comes here: the line is written to when there is news. */
    if (slot && *slot != word)
        *slot = word;
}

bool upstream_learnt(const struct upstream *u, const struct addr *address, unsigned *ret_no_auth)
{
    uint64_t tag;
    const _Atomic uint64_t *slot = learnt_slot(u, address, &tag);
    uint64_t word = slot ? *slot : 0;

    if ((word & LEARNT) == 0 || word >> 32 << 32 != tag)
        return false;
    *ret_no_auth = (unsigned)(word & (LEARNT - 1));
    return true;
}

void upstream_report(struct upstream *u, const char *error, bool gone, int64_t now)
{
    if (error) {
        u->failed++;
        u->failed_at = now;
        if (complain(u, error, now))
            u->said_down = true;
    } else if (u->said_down) {
        log_info("upstream %s: answers again", u->name);
        u->said_down = false;
    }
    if (u->healthy && error)
        u->retry_at = now + LOOK_INTERVAL;
    u->healthy = !error;
    u->gone = error && gone;
    if (!error && answered)
        answered[hash_name(u->name) % SAID_UDP] = now;
}
