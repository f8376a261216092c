/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names as destinations of datagrams. Every datagram has its own, so an association remembers a few
 * of them; while one is looked up, its datagrams wait in order. A name that has no address is
 * remembered for a moment too, or a stream of datagrams would be a stream of lookups.
 *
 * All of it is bounded: names, datagrams and bytes of an association, bytes of all associations,
 * lookups of all associations (so that CONNECT finds some left). A lookup cannot be taken back: its
 * answer tells by generation and state whether it is still awaited.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "serve/udp.h"

#define SECOND      INT64_C(1000000000)
#define KNOWN_TIME  (30 * SECOND)
#define FAILED_TIME (5 * SECOND)
#define ALL_WAITING (16u * 1024 * 1024) /* bytes of all associations */

struct udp_waiting {
    struct udp_waiting *next;
    uint16_t port;
    size_t len;
    uint8_t payload[];
};

static void forget_first(struct serve *sv, struct association *a, struct udp_name *n)
{
    struct udp_waiting *w = n->first;

    n->first = w->next;
    a->waiting--;
    a->waiting_bytes -= w->len;
    sv->udp->waiting_bytes -= w->len;
    free(w);
}

/* Whether there was room. */
static bool wait_for(struct serve *sv, struct association *a, struct udp_name *n, uint16_t port,
                     const void *payload, size_t len)
{
    if (a->waiting == UDP_WAITING_MAX || len > UDP_WAITING_BYTES - a->waiting_bytes ||
        len > ALL_WAITING - sv->udp->waiting_bytes)
        return false;
    struct udp_waiting *w = malloc(sizeof(*w) + len);

    if (!w)
        return false;
    w->next = NULL;
    w->port = port;
    w->len = len;
    if (len > 0)
        memcpy(w->payload, payload, len);
    if (n->first)
        n->latest->next = w;
    else
        n->first = w;
    n->latest = w;
    a->waiting++;
    a->waiting_bytes += len;
    sv->udp->waiting_bytes += len;
    return true;
}

/* The place of a name, or one that can be had for it; NULL: all are being looked up. */
static struct udp_name *place_of(struct association *a, const char *name)
{
    struct udp_name *best = NULL;

    for (unsigned i = 0; i < UDP_NAMES; i++) {
        struct udp_name *n = &a->names[i];

        if (n->state != UDP_NAME_FREE && strcasecmp(n->name, name) == 0)
            return n;
        if (n->state == UDP_NAME_PENDING)
            continue;
        if (!best ||
            (best->state != UDP_NAME_FREE && (n->state == UDP_NAME_FREE || n->used < best->used)))
            best = n;
    }
    return best;
}

/* The first datagram to a name: `n` is a place for it. */
static void ask(struct serve *sv, struct association *a, struct udp_name *n, const char *name,
                uint16_t port, const void *payload, size_t len)
{
    struct udp *u = sv->udp;
    uint32_t index = (uint32_t)(a - u->associations) * UDP_NAMES + (uint32_t)(n - a->names);

    if (u->lookups == u->max_lookups || !wait_for(sv, a, n, port, payload, len)) {
        sv->counters.udp_no_room++;
        return;
    }
    n->state = UDP_NAME_PENDING;
    strcpy(n->name, name); /* at most SOCKS_NAME_MAX, by the codec */
    u->lookups++;

    /* May already have called udp_name_resolved() when it returns. */
    int r =
        resolver_lookup(sv->resolver, name, 0, loop_ref(SERVE_KIND_UDP_NAME, a->generation, index));

    if (r < 0)
        udp_name_resolved(sv, loop_ref(SERVE_KIND_UDP_NAME, a->generation, index), r, NULL, 0);
}

int udp_name_lookup(struct serve *sv, struct association *a, const char *name, uint16_t port,
                    const void *payload, size_t len, struct addr *ret)
{
    struct udp_name *n = place_of(a, name);
    int64_t now = loop_now(sv->loop);
    bool same = n && n->state != UDP_NAME_FREE && strcasecmp(n->name, name) == 0;

    if (!n) {
        sv->counters.udp_no_room++;
        return 0;
    }
    n->used = now;
    if (same && n->state == UDP_NAME_PENDING) {
        if (!wait_for(sv, a, n, port, payload, len))
            sv->counters.udp_no_room++;
        return 0;
    }
    if (same && now < n->until) {
        if (n->state == UDP_NAME_FAILED) {
            sv->counters.udp_no_name++;
            return 0;
        }
        *ret = n->at;
        ret->port = port;
        return 1;
    }
    n->state = UDP_NAME_FREE;
    ask(sv, a, n, name, port, payload, len);
    return 0;
}

/* The first address that a datagram can be sent to from here. */
static bool choose(struct serve *sv, struct association *a, const struct addr *addresses, size_t n,
                   struct addr *ret)
{
    for (size_t i = 0; i < n; i++) {
        if (udp_may_send_to(&addresses[i]) && udp_outer(sv, a, udp_family_of(&addresses[i])) >= 0) {
            *ret = addresses[i];
            return true;
        }
    }
    return false;
}

void udp_name_resolved(struct serve *sv, uint64_t ref, int status, const struct addr *addresses,
                       size_t n)
{
    uint32_t index = loop_ref_index(ref);
    struct association *a = &sv->udp->associations[index / UDP_NAMES];
    struct udp_name *name = &a->names[index % UDP_NAMES];

    sv->udp->lookups--;
    if ((a->generation & 0xffffff) != loop_ref_generation(ref) || name->state != UDP_NAME_PENDING)
        return;
    bool found = status == 0 && choose(sv, a, addresses, n, &name->at);

    name->state = found ? UDP_NAME_KNOWN : UDP_NAME_FAILED;
    /* That there was no room says nothing of the name. */
    name->until = loop_now(sv->loop) + (found                                   ? KNOWN_TIME
                                        : status == -EBUSY || status == -ENOMEM ? 0
                                                                                : FAILED_TIME);
    while (name->first) {
        struct addr to = name->at;

        to.port = name->first->port;
        if (found)
            udp_send_outside(sv, a, &to, name->first->payload, name->first->len);
        else
            sv->counters.udp_no_name++;
        forget_first(sv, a, name);
    }
}

void udp_names_clear(struct serve *sv, struct association *a)
{
    for (unsigned i = 0; i < UDP_NAMES; i++) {
        while (a->names[i].first)
            forget_first(sv, a, &a->names[i]);
        a->names[i].state = UDP_NAME_FREE;
    }
}
