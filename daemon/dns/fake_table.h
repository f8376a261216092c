/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside dns/ only, of fake.c and fake_choice.c: what is in the table that workers share. Theory in
 * fake.c.
 */
#ifndef UNDERSOCK_DNS_FAKE_TABLE_H
#define UNDERSOCK_DNS_FAKE_TABLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/shares.h"
#include "dns/fake.h"

#define FAKE_RETRIES 256

struct fake_head {
    pthread_mutex_t lock;
    _Atomic uint32_t used;               /* slots that have been given out */
    uint32_t retry_at;                   /* full: no slot is free before this second */
    uint32_t own_retry_at[FAKE_RETRIES]; /* nor one for who has more than fair, by its network */
    uint32_t lot;
    _Atomic uint32_t known;
    _Atomic uint64_t reused, refused, mended;
};

struct fake_slot {
    _Atomic uint8_t len; /* 0: no name */
    char name[255];
};

/* Who asked for a name first. */
struct fake_asker {
    uint16_t host, net; /* places of its counts */
    _Atomic bool known; /* the others count only then */
    bool in_use;        /* somebody has connected to it, or another client asked for it */
};

_Static_assert(SHARES_PLACES <= UINT16_MAX + 1, "a place of a count");
_Static_assert(sizeof(struct fake_slot) == 256, "a slot");

/* Of the process: other workers cannot write it. */
struct fake {
    uint32_t names, bucket_mask;
    uint32_t start; /* place of slot 0 among the IPv4 addresses in use */
    uint32_t tag;   /* in all IPv6 addresses */
    uint64_t key[2];
    size_t bytes;
    struct fake_head *head;
    _Atomic uint32_t *held; /* seconds */
    struct fake_asker *askers;
    struct shares shares;
    uint32_t *buckets, *next;
    struct fake_slot *slots;
};

/* All with the lock. Who asked for the name of a slot; false: nobody. */
bool fake_asker_of(const struct fake *f, uint32_t slot, struct shares_client *ret);
void fake_set_asker(struct fake *f, uint32_t slot, struct shares_client who);
/* A slot that may have a new name: one that never had one, or one that is free or is taken away.
 * 0, or -ENOSPC. */
int fake_choose(struct fake *f, struct shares_client who, uint32_t now, uint32_t *ret);

#endif
