/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * names/names.h: the engine itself, and the way of a query into it: parsed, refused, answered by
 * ourselves (own.c) or forwarded (forward.c). Every query is counted once by what became of it.
 */
#include "names/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dns/answer.h"
#include "names/engine.h"

#define QUERY_TIMEOUT INT64_C(5000000000)
#define IDLE_TIMEOUT  INT64_C(10000000000)

/* Whole zones come as many messages, which is for TCP (RFC 5936 section 4.2, RFC 1995). */
#define TYPE_IXFR 251
#define TYPE_AXFR 252

static void expiry_event(void *ctx, uint64_t ref, uint32_t events)
{
    (void)ref;
    (void)events;
    names_expire(ctx);
}

static bool options_ok(const struct names_options *o)
{
    for (size_t i = 0; i < o->n_captures; i++)
        if (o->captures[i].mode == NAMES_FAKE && (!o->fake || !o->real))
            return false;
    return true;
}

/* Everything but the settings. */
static int allocate(struct names *n)
{
    uint32_t slots = n->o.max_queries;
    uint16_t mask;

    n->slots = calloc(slots, sizeof(n->slots[0]));
    n->asked = calloc(slots, sizeof(n->asked[0]));
    n->buckets = calloc(slots, sizeof(n->buckets[0]));
    n->clients.counts = calloc(SHARES_PLACES, sizeof(n->clients.counts[0]));
    n->places.counts = calloc(SHARES_PLACES, sizeof(n->places.counts[0]));
    n->next_probe = calloc(n->o.n_captures + 1, sizeof(n->next_probe[0]));
    if (!n->slots || !n->asked || !n->buckets || !n->clients.counts || !n->places.counts ||
        !n->next_probe)
        return -ENOMEM;
    for (uint32_t i = 0; i < slots; i++)
        n->buckets[i] = NAMES_NONE;
    if (getrandom(&mask, sizeof(mask), 0) != sizeof(mask) ||
        getrandom(n->key, sizeof(n->key), 0) != sizeof(n->key))
        return -errno;
    n->clients.total = slots;
    n->places.total = NAMES_SERVERS;
    n->clients.seed = n->places.seed = n->key[0];
    return dns_match_init(&n->match, n->slots, slots, n->o.query_timeout, mask);
}

int names_create(const struct names_options *o, struct names **ret)
{
    uint32_t max = o->max_queries ? o->max_queries : DNS_MATCH_MAX;

    if (!options_ok(o) || max < 2 || max > DNS_MATCH_MAX || (max & (max - 1)))
        return -EINVAL;
    struct names *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    n->o = *o;
    n->o.max_queries = max;
    if (n->o.query_timeout == 0)
        n->o.query_timeout = QUERY_TIMEOUT;
    if (n->o.idle_timeout == 0)
        n->o.idle_timeout = IDLE_TIMEOUT;
    for (unsigned i = 0; i < 2 * NAMES_SERVERS; i++) {
        struct names_connection *c = &n->connections[i];

        c->fd = c->dial.fd = -1;
        c->unsent = c->sent = (struct names_list){NAMES_NONE, NAMES_NONE};
    }
    int r = allocate(n);

    if (r < 0) {
        names_destroy(n);
        return r;
    }
    loop_set_handler(o->loop, o->first_kind + KIND_CONNECTION, names_loop_event, n);
    loop_set_handler(o->loop, o->first_kind + KIND_EXPIRY, expiry_event, n);
    *ret = n;
    return 0;
}

void names_destroy(struct names *n)
{
    if (!n)
        return;
    for (unsigned i = 0; i < 2 * NAMES_SERVERS; i++)
        names_close(n, &n->connections[i], true);
    loop_timer_cancel(n->o.loop, &n->expiry);
    loop_set_handler(n->o.loop, n->o.first_kind + KIND_CONNECTION, NULL, NULL);
    loop_set_handler(n->o.loop, n->o.first_kind + KIND_EXPIRY, NULL, NULL);
    free(n->slots);
    free(n->asked);
    free(n->buckets);
    free(n->clients.counts);
    free(n->places.counts);
    free(n->next_probe);
    for (size_t i = 0; i < NAMES_ADDED; i++)
        free(n->added[i]);
    free(n);
}

void names_use_resolvers(struct names *n, const struct addr *list, size_t n_list)
{
    n->o.direct_servers = list;
    n->o.n_direct_servers = n_list;
    n->o.fallback = n_list > 0 ? list[0] : (struct addr){.port = 0};
}

int names_add_direct(struct names *n, const char *name)
{
    size_t i = 0;

    if (names_is_listed(n->o.direct_names, name, strlen(name)) ||
        names_is_listed(n->added, name, strlen(name)))
        return 0;
    while (i < NAMES_ADDED && n->added[i])
        i++;
    if (i == NAMES_ADDED)
        return -ENOSPC;
    n->added[i] = strdup(name);
    return n->added[i] ? 0 : -ENOMEM;
}

void names_drain(struct names *n)
{
    n->draining = true;
    names_check_empty(n);
}

void names_stats(const struct names *n, struct message_names_stats *ret)
{
    *ret = n->stats;
    ret->waiting = n->match.n_waiting;
}

/* ---- Answers ---- */

void names_send(struct names *n, const struct addr *source, const struct addr *client,
                const uint8_t *data, size_t len)
{
    if (n->o.answer.send(n->o.answer.ctx, source, client, data, len) < 0)
        n->stats.unsent++;
}

static void send_own(struct names *n, const struct dns_query *q, struct wire_writer *w,
                     const struct addr *source, const struct addr *client)
{
    int len = dns_truncate(w->data, w->pos, q->udp_size);

    if (len < 0)
        return;
    n->stats.truncated += (size_t)len < w->pos;
    names_send(n, source, client, w->data, (size_t)len);
}

void names_rcode(struct names *n, const struct dns_query *q, enum dns_rcode rcode,
                 const struct addr *source, const struct addr *client)
{
    uint8_t answer[NAMES_OWN_MAX];
    struct wire_writer w = wire_writer(answer, sizeof(answer));

    if (dns_answer_rcode(q, rcode, &w) == 0)
        send_own(n, q, &w, source, client);
}

/* ---- Queries ---- */

void names_query(struct names *n, uint32_t capture, const struct addr *client,
                 const struct addr *destination, const uint8_t *data, size_t len)
{
    uint8_t answer[NAMES_OWN_MAX];
    struct wire_writer w = wire_writer(answer, sizeof(answer));
    struct dns_query q;
    int r = dns_query_parse(data, len, &q);

    n->stats.queries++;
    if (r != 0) {
        n->stats.malformed++;
        if (r > 0)
            names_rcode(n, &q, (enum dns_rcode)r, destination, client);
        return;
    }
    if (q.type == TYPE_IXFR || q.type == TYPE_AXFR || q.len > DNS_MATCH_QUERY_MAX) {
        n->stats.refused++;
        names_rcode(n, &q, DNS_REFUSED, destination, client);
        return;
    }
    r = names_own_answer(n, &n->o.captures[capture], &q, client, &w);
    if (r == 0) {
        names_forward(n, capture, &q, data, client, destination);
    } else if (r < 0) {
        n->stats.failed++;
        n->stats.full += r == -ENOSPC;
        names_rcode(n, &q, DNS_SERVFAIL, destination, client);
    } else {
        n->stats.answered_fake++;
        send_own(n, &q, &w, destination, client);
    }
}

/* ---- What is behind an address ---- */

int names_name_of(struct names *n, const struct addr *address, int64_t hold,
                  char ret_name[DNS_PLAIN_MAX + 1], uint32_t *ret_slot)
{
    char name[DNS_PLAIN_MAX + 1];
    struct addr a4, a6;
    uint32_t slot;
    int r = -EINVAL;

    if (n->o.fake)
        r = fake_find(n->o.fake, address, loop_now(n->o.loop) + hold, name, &slot);
    if (r < 0)
        return r;
    /* Who is told of names may have lost this one. */
    if (n->o.on_name) {
        fake_address(n->o.fake, slot, &a4, &a6);
        n->o.on_name(n->o.ctx, &a4, &a6, name, strlen(name));
    }
    memcpy(ret_name, name, sizeof(name));
    *ret_slot = slot;
    return 0;
}

void names_hold(struct names *n, uint32_t slot, int64_t hold)
{
    if (n->o.fake)
        fake_hold(n->o.fake, slot, loop_now(n->o.loop) + hold);
}
