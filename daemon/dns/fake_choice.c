/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/fake_table.h: whose name gives way to a new one. */
#include "dns/fake_table.h"

#include <errno.h>

#include "dns/hash.h"

#define FAIR 64 /* who has more than this part of a full table loses names to others */
#define LOTS 64
#define KEPT 3600 /* seconds: so long somebody may keep an address after its time */

bool fake_asker_of(const struct fake *f, uint32_t slot, struct shares_client *ret)
{
    const struct fake_asker *a = &f->askers[slot];

    *ret = (struct shares_client){a->host % SHARES_PLACES, a->net % SHARES_PLACES};
    return a->known;
}

void fake_set_asker(struct fake *f, uint32_t slot, struct shares_client who)
{
    struct fake_asker *a = &f->askers[slot];
    struct shares_client before;

    if (fake_asker_of(f, slot, &before))
        shares_drop(&f->shares, before);
    a->known = false;
    atomic_signal_fence(memory_order_seq_cst); /* nobody is left with half of another's places */
    a->host = (uint16_t)who.host;
    a->net = (uint16_t)who.net;
    a->in_use = false;
    a->known = true;
    shares_add(&f->shares, who);
}

static bool has_more_than_fair(const struct fake *f, struct shares_client who)
{
    return shares_of_host(&f->shares, who) > (f->names + FAIR - 1) / FAIR ||
           shares_of_net(&f->shares, who) > f->names / 2;
}

/* Has another client asked for what is in it, of another network? */
static bool is_anothers(const struct fake *f, uint32_t slot, struct shares_client who)
{
    struct shares_client asker;

    return fake_asker_of(f, slot, &asker) && asker.host != who.host && asker.net != who.net;
}

/* The slot that is free for longest. If this client has more than its share it gets its own alone,
 * as what others asked for may still be kept by them, and what has been free for very long. */
static int find_free(struct fake *f, struct shares_client who, uint32_t now, uint32_t *ret)
{
    uint32_t best = 0, best_held = UINT32_MAX;
    bool own = has_more_than_fair(f, who);
    /* That one of these finds none says nothing of what there is for others. */
    uint32_t *retry_at = own ? &f->head->own_retry_at[who.net % FAKE_RETRIES] : &f->head->retry_at;

    if (now < *retry_at)
        return -ENOSPC;
    for (uint32_t i = 0; i < f->names; i++) {
        uint32_t held = atomic_load_explicit(&f->held[i], memory_order_relaxed);

        if (own && held <= now && now - held < KEPT && is_anothers(f, i, who))
            continue;
        if (held < best_held) {
            best = i;
            best_held = held;
        }
    }
    if (best_held > now) {
        /* As nothing is held for less than it was. What others have had may be for it before. */
        *retry_at = own && best_held > now + 1 ? now + 1 : best_held;
        return -ENOSPC;
    }
    *ret = best;
    return 0;
}

/*
 * All are held: of some that are drawn by lot the one of the client that has most, if that is more
 * than its share; rather one that only it knows of, and the one that was asked for longest ago.
 * Whoever has most of the table has most of the lots.
 */
static int take_away(struct fake *f, struct shares_client who, uint32_t *ret)
{
    uint32_t best = UINT32_MAX, best_held = 0;
    struct shares_client best_owner = {0, 0};

    for (unsigned n = 0; n < LOTS; n++) {
        uint32_t lot = f->head->lot++, held;
        uint32_t i = (uint32_t)(dns_hash(f->key, &lot, sizeof(lot)) % f->names);
        struct shares_client owner;

        if (!fake_asker_of(f, i, &owner) || !has_more_than_fair(f, owner) ||
            !shares_yields(&f->shares, owner, who))
            continue;
        held = atomic_load_explicit(&f->held[i], memory_order_relaxed);
        if (best != UINT32_MAX) {
            int more = shares_compare(&f->shares, owner, best_owner);
            int idle = f->askers[best].in_use - f->askers[i].in_use;

            if (more < 0 || (more == 0 && (idle < 0 || (idle == 0 && held >= best_held))))
                continue;
        }
        best = i;
        best_held = held;
        best_owner = owner;
    }
    if (best == UINT32_MAX)
        return -ENOSPC;
    *ret = best;
    return 0;
}

int fake_choose(struct fake *f, struct shares_client who, uint32_t now, uint32_t *ret)
{
    uint32_t used = f->head->used;

    if (used < f->names) {
        *ret = used;
        return 0;
    }
    return find_free(f, who, now, ret) == 0 ? 0 : take_away(f, who, ret);
}
