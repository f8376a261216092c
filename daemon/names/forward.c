/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Queries that wait for a server's answer.
 *
 * Theory of operation. A query is a slot of the dns_match from names_forward() until it is
 * answered, expires or fails; exactly one of these happens, and each ends in take_over(). All that
 * time it is on one connection, in the list `unsent` or `sent`. When that connection ends, it is
 * given to another one, once; a second loss is the end, so that a server which hangs up at a
 * question is not asked it for ever.
 *
 * Repetitions. Stub resolvers send a query again when no answer comes. Who asks what is found by a
 * hash of client, server and id, under a key that nobody knows.
 *
 * Servers. A place is taken by whoever is asked. The server without queries that was not asked for
 * longest gives way when all are taken; where all have queries, one of the client that has asked
 * for most of them, for a client with fewer. One server may have half of all queries that wait, so
 * that one which is silent does not speak for all; one client an eighth, and one IPv6 /64 a
 * quarter, so that a host with both families cannot have that half. What it asks beyond that is
 * refused. What fails there is not tried again at once: see `retry_at`.
 */
#include <errno.h>
#include <string.h>

#include "dns/answer.h"
#include "dns/hash.h"
#include "names/engine.h"

#define CLIENT_SHARE 8  /* one client may have this part of all queries that wait */
#define NET_SHARE    4  /* and one /64 */
#define SPREAD       32 /* queries on one connection before there is a second */
#define STRAYS       8  /* messages nobody asked for that are borne with */
#define HUNG         INT64_C(2000000000) /* heard nothing for so long after a query that expired */
#define FRUITLESS    2                   /* connections in a row that brought nothing: failed */

/* ---- Lists of a connection ---- */

static void append(struct names *n, struct names_list *l, uint16_t i)
{
    struct names_asked *a = &n->asked[i];

    a->next = NAMES_NONE;
    a->prev = l->tail;
    if (l->tail == NAMES_NONE)
        l->head = i;
    else
        n->asked[l->tail].next = i;
    l->tail = i;
}

static void unlink_from(struct names *n, struct names_list *l, uint16_t i)
{
    const struct names_asked *a = &n->asked[i];

    if (a->prev == NAMES_NONE)
        l->head = a->next;
    else
        n->asked[a->prev].next = a->next;
    if (a->next == NAMES_NONE)
        l->tail = a->prev;
    else
        n->asked[a->next].prev = a->prev;
}

static struct names_connection *connection_of(struct names *n, uint16_t i)
{
    return &n->connections[n->asked[i].connection];
}

/* From the connection that it is on; which may be told by the caller that it has less to do. */
static struct names_connection *detach(struct names *n, uint16_t i)
{
    struct names_connection *c = connection_of(n, i);

    unlink_from(n, n->asked[i].sent ? &c->sent : &c->unsent, i);
    c->n--;
    return c;
}

static void attach(struct names *n, struct names_connection *c, uint16_t i)
{
    n->asked[i].connection = (uint16_t)names_number(n, c);
    n->asked[i].sent = false;
    append(n, &c->unsent, i);
    c->n++;
    names_connection_changed(n, c);
}

void names_was_sent(struct names *n, struct names_connection *c)
{
    uint16_t i = c->unsent.head;

    unlink_from(n, &c->unsent, i);
    append(n, &c->sent, i);
    n->asked[i].sent = true;
    n->asked[i].sent_at = loop_now(n->o.loop);
}

/* ---- Who asked what ---- */

static uint32_t bucket_of(const struct names *n, const struct addr *client,
                          const struct addr *destination, uint16_t id)
{
    struct {
        struct addr client, destination;
        uint64_t id;
    } key = {*client, *destination, id};

    return (uint32_t)dns_hash(n->key, &key, sizeof(key)) & (n->o.max_queries - 1);
}

static uint32_t part(const struct names *n, uint32_t share)
{
    return (n->o.max_queries + share - 1) / share;
}

static bool has_its_share(const struct names *n, struct shares_client who)
{
    return shares_of_host(&n->clients, who) >= part(n, CLIENT_SHARE) ||
           shares_of_net(&n->clients, who) >= part(n, NET_SHARE);
}

/* Does the very same query wait already? */
static bool repeated(const struct names *n, uint32_t bucket, const struct dns_query *q,
                     const uint8_t *data, const struct addr *client, const struct addr *destination)
{
    for (uint16_t i = n->buckets[bucket]; i != NAMES_NONE; i = n->asked[i].bucket_next) {
        const struct dns_pending *p = &n->slots[i];
        const struct names_asked *a = &n->asked[i];

        if (p->client_id == q->id && p->len == q->len && addr_equal(&a->client, client) &&
            addr_equal(&a->destination, destination) &&
            memcmp(p->message + 2, data + 2, q->len - 2u) == 0)
            return true;
    }
    return false;
}

static void forget(struct names *n, uint16_t i)
{
    uint16_t *at = &n->buckets[n->asked[i].bucket];

    while (*at != i)
        at = &n->asked[*at].bucket_next;
    *at = n->asked[i].bucket_next;
    shares_drop(&n->clients, n->asked[i].who);
}

/* ---- Ends of a query ---- */

/* It waits no more: the message in its slot is the client's again. Says nothing yet. */
static struct names_connection *take_over(struct names *n, uint16_t i)
{
    forget(n, i);
    return detach(n, i);
}

static void servfail(struct names *n, uint16_t i)
{
    const struct names_asked *a = &n->asked[i];
    const struct dns_pending *p = &n->slots[i];
    struct dns_query q;

    if (dns_query_parse(p->message, p->len, &q) == 0)
        names_rcode(n, &q, DNS_SERVFAIL, &a->destination, &a->client);
}

/* `i` is on no connection, but in the table. */
static void fail(struct names *n, uint16_t i)
{
    dns_match_remove(&n->match, &n->slots[i]);
    forget(n, i);
    n->stats.failed++;
    servfail(n, i);
}

/* ---- Servers ---- */

static bool is_direct_server(const struct names *n, const struct addr *at)
{
    for (size_t i = 0; i < n->o.n_direct_servers; i++)
        if (addr_same_ip(&n->o.direct_servers[i], at) && n->o.direct_servers[i].port == at->port)
            return true;
    return false;
}

/* The address to ask, and the name that it stands for if it is a fake one. False: none. */
static bool find_address(struct names *n, const struct names_capture *c,
                         const struct addr *destination, bool direct, struct addr *ret,
                         char ret_name[DNS_PLAIN_MAX + 1])
{
    uint32_t slot;

    if (c->server.port != 0 && !direct)
        *ret = c->server;
    else
        *ret = addr_is_loopback(destination) ? n->o.fallback : *destination;
    if (ret->port == 0 || (direct && !is_direct_server(n, ret)))
        return false;
    ret_name[0] = '\0';
    int r = names_name_of(n, ret, NAMES_HOLD, ret_name, &slot);

    return (r == 0 && !direct) || r == -EINVAL;
}

static uint32_t waiting_for(const struct names *n, unsigned k)
{
    return n->connections[2 * k].n + n->connections[2 * k + 1].n;
}

/* The place is of whoever was the first to ask of those that wait there. */
static void account(struct names *n, unsigned k, struct shares_client who)
{
    struct names_server *s = &n->servers[k];

    if (waiting_for(n, k) > 0) {
        s->shared = s->shared || s->asker.host != who.host;
        return;
    }
    if (s->accounted)
        shares_drop(&n->places, s->asker);
    shares_add(&n->places, who);
    s->asker = who;
    s->accounted = true;
    s->shared = false;
}

/* Should `a` rather give way than `b`? Who has more places has to; the one of its places first that
 * nobody else asks. */
static bool gives_way_before(const struct names *n, const struct names_server *a,
                             const struct names_server *b)
{
    int more = shares_compare(&n->places, a->asker, b->asker);

    if (more == 0 && a->shared == b->shared)
        return a->last_used < b->last_used;
    return more == 0 ? b->shared : more > 0;
}

/* All places have queries: the one that gives way to this client, or NAMES_NONE. Its queries fail.
 */
static unsigned clear_place(struct names *n, struct shares_client who)
{
    unsigned best = NAMES_NONE;

    for (unsigned k = 0; k < NAMES_SERVERS; k++) {
        if (shares_yields(&n->places, n->servers[k].asker, who) &&
            (best == NAMES_NONE || gives_way_before(n, &n->servers[k], &n->servers[best])))
            best = k;
    }
    for (unsigned i = 0; best != NAMES_NONE && i < 2; i++) {
        struct names_connection *c = &n->connections[2 * best + i];

        while (c->n > 0) {
            uint16_t q = c->sent.head != NAMES_NONE ? c->sent.head : c->unsent.head;

            detach(n, q);
            fail(n, q);
        }
    }
    return best;
}

/* Its number, or NAMES_NONE: all places are taken by servers with queries. */
static unsigned find_server(struct names *n, uint32_t capture, const struct addr *at, bool direct,
                            const char *name, struct shares_client who)
{
    unsigned best = NAMES_NONE;

    for (unsigned k = 0; k < NAMES_SERVERS; k++) {
        const struct names_server *s = &n->servers[k];

        if (s->used && s->capture == capture && s->direct == direct && addr_equal(&s->at, at) &&
            strcmp(s->name, name) == 0)
            return k;
        if (waiting_for(n, k) == 0 &&
            (best == NAMES_NONE || s->last_used < n->servers[best].last_used))
            best = k;
    }
    if (best == NAMES_NONE)
        best = clear_place(n, who);
    if (best == NAMES_NONE)
        return NAMES_NONE;
    struct names_server *s = &n->servers[best];

    for (unsigned i = 0; i < 2; i++)
        names_close(n, &n->connections[2 * best + i], true);
    if (s->accounted)
        shares_drop(&n->places, s->asker);
    *s = (struct names_server){.used = true, .capture = capture, .at = *at, .direct = direct};
    memcpy(s->name, name, strlen(name) + 1);
    return best;
}

/*
 * May a query be put there? Who looks for a dead upstream does so for one query, and a connection
 * past the upstreams is of no more use when one of them is back.
 */
static bool joinable(struct names *n, const struct names_connection *c)
{
    if (c->state == NAMES_OPEN)
        return !c->direct || names_server_of(n, c)->direct ||
               upstream_all_gone(n->o.captures[names_server_of(n, c)->capture].choice);
    return c->state == NAMES_DIALING && (!c->probe || c->n == 0);
}

static bool better(const struct names_connection *a, const struct names_connection *b)
{
    if (!b || a->state != b->state)
        return !b || a->state == NAMES_OPEN;
    return a->n < b->n;
}

/* The connection for one more query, a new one if need be; NULL: there is none. */
static struct names_connection *find_connection(struct names *n, unsigned k)
{
    struct names_connection *c = &n->connections[2 * k], *best = NULL, *closed = NULL;
    struct names_server *s = &n->servers[k];
    bool dialing = false;

    for (unsigned i = 0; i < 2; i++) {
        if (c[i].state == NAMES_OPEN && c[i].n == 0 && !joinable(n, &c[i]))
            names_close(n, &c[i], true); /* its place is for one that is of use */
        if (c[i].state == NAMES_CLOSED)
            closed = &c[i];
        else if (joinable(n, &c[i]) && better(&c[i], best))
            best = &c[i];
        dialing = dialing || c[i].state == NAMES_DIALING;
    }
    /* A second one is for when the first one works and has much to do. */
    if (!closed || dialing || (best && best->n < SPREAD) || loop_now(n->o.loop) < s->retry_at ||
        !names_connect(n, closed))
        return best;
    return best ? best : closed; /* the second will have its share when it is open */
}

void names_check_empty(struct names *n)
{
    if (!n->draining || n->match.n_waiting > 0)
        return;
    n->draining = false; /* once */
    if (n->o.on_empty)
        n->o.on_empty(n->o.ctx);
}

/* ---- The way in ---- */

/* -ENOSPC: full; -EDQUOT: this client has asked for its share; -EHOSTUNREACH: nobody to ask. */
static int forward(struct names *n, uint32_t capture, const struct dns_query *q,
                   const uint8_t *data, const struct addr *client, const struct addr *destination,
                   uint32_t bucket)
{
    char name[DNS_PLAIN_MAX + 1];
    const struct dns_pending *p;
    struct addr at;

    bool direct = names_is_direct(n, q) &&
                  find_address(n, &n->o.captures[capture], destination, true, &at, name);

    if (!direct && !find_address(n, &n->o.captures[capture], destination, false, &at, name))
        return -EHOSTUNREACH;
    if (n->match.n_waiting == n->o.max_queries)
        return -ENOSPC;
    struct shares_client who = shares_client(&n->clients, client);

    if (has_its_share(n, who))
        return -EDQUOT;
    unsigned k = find_server(n, capture, &at, direct, name, who);

    if (k == NAMES_NONE || waiting_for(n, k) >= n->o.max_queries / 2)
        return -ENOSPC;
    if (n->expiry.slot == 0 && loop_timer_set(n->o.loop, &n->expiry, n->o.query_timeout,
                                              loop_ref(n->o.first_kind + KIND_EXPIRY, 0, 0)) < 0)
        return -ENOSPC;
    n->servers[k].last_used = loop_now(n->o.loop);
    account(n, k, who);
    struct names_connection *c = find_connection(n, k);

    if (!c)
        return -EHOSTUNREACH;
    int r = dns_match_add(&n->match, q, data, 0, loop_now(n->o.loop), &p);

    if (r < 0)
        return r;
    uint16_t i = (uint16_t)(p - n->slots);

    n->asked[i] = (struct names_asked){.client = *client,
                                       .destination = *destination,
                                       .bucket = bucket,
                                       .who = who,
                                       .bucket_next = n->buckets[bucket]};
    n->buckets[bucket] = i;
    shares_add(&n->clients, who);
    n->stats.forwarded++;
    attach(n, c, i);
    return 0;
}

void names_forward(struct names *n, uint32_t capture, const struct dns_query *q,
                   const uint8_t *data, const struct addr *client, const struct addr *destination)
{
    uint32_t bucket = bucket_of(n, client, destination, q->id);

    if (repeated(n, bucket, q, data, client, destination)) {
        n->stats.repeated++;
        return;
    }
    int r = forward(n, capture, q, data, client, destination, bucket);

    if (r == 0)
        return;
    if (r == -EDQUOT) {
        n->stats.refused++;
        names_rcode(n, q, DNS_REFUSED, destination, client);
        return;
    }
    n->stats.failed++;
    n->stats.full += r == -ENOSPC;
    names_rcode(n, q, DNS_SERVFAIL, destination, client);
}

/* ---- Answers ---- */

static bool stray(struct names_connection *c)
{
    if (c->owed > 0) {
        c->owed--;
        return true;
    }
    return ++c->strays <= STRAYS;
}

bool names_answered(struct names *n, struct names_connection *c, uint8_t *message, size_t len)
{
    const struct dns_pending *p;
    int r = dns_match_find(&n->match, message, len, &p);

    if (r == -EPROTO)
        return false;
    uint16_t i = r == 0 ? (uint16_t)(p - n->slots) : NAMES_NONE;

    /* Another server's query is none of this one's business, nor one it was not sent yet. */
    if (r < 0 || connection_of(n, i) != c || !n->asked[i].sent)
        return stray(c);
    dns_match_answer(&n->match, message, len, &p);
    take_over(n, i);
    c->fruitful = true;
    c->strays = 0;
    names_server_of(n, c)->fruitless = 0;
    names_server_of(n, c)->said = false;

    const struct names_asked *a = &n->asked[i];

    dns_set_id(message, p->client_id);
    int fits = dns_truncate(message, len, p->udp_size);

    if (fits < 0) { /* an error without its question, and with much else */
        n->stats.failed++;
        servfail(n, i);
        return true;
    }
    n->stats.answered++;
    n->stats.truncated += (size_t)fits < len;
    names_send(n, &a->destination, &a->client, message, (size_t)fits);
    return true;
}

/* ---- Losses ---- */

void names_scatter(struct names *n, struct names_connection *c, bool dial_failed)
{
    struct names_server *s = names_server_of(n, c);
    unsigned k = names_number(n, c) / 2;
    uint16_t i;

    if (!dial_failed && !c->fruitful && ++s->fruitless >= FRUITLESS)
        s->retry_at = loop_now(n->o.loop) + NAMES_HOLD_OFF;
    /* In the order in which they came; none is put back here before all are out. */
    struct names_list all = c->sent;

    c->sent = (struct names_list){NAMES_NONE, NAMES_NONE};
    while ((i = c->unsent.head) != NAMES_NONE) {
        unlink_from(n, &c->unsent, i);
        append(n, &all, i);
    }
    c->n = 0;
    while ((i = all.head) != NAMES_NONE) {
        unlink_from(n, &all, i);
        struct names_connection *other = n->asked[i].again ? NULL : find_connection(n, k);

        if (!other) {
            fail(n, i);
            continue;
        }
        n->asked[i].again = true;
        n->stats.again++;
        attach(n, other, i);
    }
}

/* Nothing has come since this query was sent, and that is a while ago. */
static bool hung(const struct names *n, const struct names_connection *c, uint16_t i)
{
    const struct names_asked *a = &n->asked[i];

    return c->state == NAMES_OPEN && a->sent && c->heard < a->sent_at &&
           loop_now(n->o.loop) - a->sent_at >= HUNG;
}

void names_expire(struct names *n)
{
    int64_t now = loop_now(n->o.loop), next;
    const struct dns_pending *p;

    while (dns_match_expired(&n->match, now, &p)) {
        uint16_t i = (uint16_t)(p - n->slots);
        struct names_connection *c = take_over(n, i);
        bool dead = hung(n, c, i);

        c->owed += n->asked[i].sent;
        n->stats.timeouts++;
        servfail(n, i);
        if (dead)
            names_broken(n, c);
        else
            names_connection_changed(n, c);
    }
    next = dns_match_deadline(&n->match);
    if (next != INT64_MAX)
        loop_timer_set(n->o.loop, &n->expiry, next - now,
                       loop_ref(n->o.first_kind + KIND_EXPIRY, 0, 0));
    names_check_empty(n);
}
