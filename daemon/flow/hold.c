/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Honest connect: the application is connected when, and only when, the upstream said yes.
 *
 * Theory of operation. A capture drops the SYN on its way and gives us a copy. It becomes a flow in
 * state HELD, without an application's socket; the upstream is dialled and asked as for any other.
 * Then the SYN goes on its way again, from a raw socket, with a mark that says what becomes of it:
 *
 *   granted      it reaches the listener of this worker's seat, the kernel completes the
 *                connection, and hold_accepted() finds the flow by the connection's two addresses
 *   refused etc. the kernel rejects it (nftables), or we answer it ourselves where the capture is
 *                eBPF's: there the SYN has passed connection tracking before it was dropped, so
 * that our answer is no stranger to a firewall, while one to a SYN that nftables dropped would be
 *   no answer    nothing: no packet can produce ETIMEDOUT, but silence does
 *
 * Nothing here waits for a retransmission: those are dropped and copied, too, and recognized by
 * addresses and sequence number. What was answered is remembered for a while in a small table that
 * overwrites itself, so that a retransmission is answered and not asked again; nor is one that is
 * read only when its owner is connected.
 *
 * Kernel and ICMP. An ICMP error that arrives while the application is still inside connect(), with
 * its socket locked, is lost (tcp_v4_err()). So to an application on this host it is sent not
 * earlier than 2 ms after its SYN, and a second time shortly after; the second finds no socket when
 * the first was heard. To a gateway's clients it goes at once and once, as the kernel limits their
 * rate. A SYN that comes again after that is answered with a reset.
 *
 * Whoever has gone away meanwhile does not tell us: the listener's SYN-ACK then meets a reset and
 * nothing is ever accepted. So a granted flow waits for its application a few seconds only.
 *
 * Bounds. At most max_held flows are HELD to GRANTED at once. Beyond that a SYN of an nft capture
 * is sent to the capture's early listener: the kernel's own means against floods (SYN cookies)
 * apply, and only who completes the connection costs us an upstream connection. An eBPF capture has
 * local applications only; there it is refused. So it is where no mark names the listener.
 *
 * A draining worker still reads what was sent to it before the reload, and may have to answer early
 * when rules of the next configuration are in force. So the mark names the listener by a number
 * that stays (capture_policy.early), and not by the place of the capture, which a reload changes.
 */
#include "flow/hold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "flow/syn.h"
#include "flow/verdict.h"
#include "log.h"

#define READ_BATCH  64
#define DRAIN_READS 4096

#define ICMP_AGE      INT64_C(2000000)  /* of a local SYN before it is answered by ICMP */
#define ICMP_AGAIN    INT64_C(25000000) /* and before that is repeated */
#define INJECT_AGAIN  INT64_C(100000000)
#define WAIT_LOCAL    INT64_C(3000000000)
#define WAIT_REMOTE   INT64_C(15000000000)
#define ANSWERED_LIFE INT64_C(130000000000) /* longer than an application asks again */
#define FULL_LOG      INT64_C(10000000000)

#define ANSWERED 4096 /* slots; a power of two */

/* What a held flow needs until its application is connected. */
struct hold {
    struct syn syn;
    uint32_t interface;
    uint32_t next; /* flow in the same chain */
    bool chained;
    uint8_t icmps_left; /* CLOSING: ICMP errors to send yet */
    uint8_t reject;     /* enum injected_reject of those */
    int64_t came, went; /* when the SYN arrived, and when it was last sent again */
};

/* A verdict that was given. */
struct answered {
    struct addr client, destination;
    uint32_t isn;
    bool silent;
    int64_t until; /* 0: free */
};

struct holds {
    uint64_t key; /* of the hash: the addresses come from whoever can send packets */
    uint32_t *heads;
    uint32_t mask;
    uint32_t n; /* held flows, chained */
    int64_t next_full_log, next_lost_log;
    unsigned reading; /* the source whose SYNs are being read */
    struct answered answered[ANSWERED];
};

/* ---- the chains: the ends of a connection without scopes, which a packet does not tell ---- */

static uint64_t mix(uint64_t h, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (; len >= 8; len -= 8, p += 8) {
        uint64_t word;

        memcpy(&word, p, sizeof(word));
        h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h;
}

static uint32_t hash(const struct holds *h, const struct addr *client,
                     const struct addr *destination)
{
    uint64_t ports = (uint64_t)client->port << 16 | destination->port;
    uint64_t x = mix(h->key, client->ip, sizeof(client->ip));

    x = mix(x, destination->ip, sizeof(destination->ip));
    x = mix(x, &ports, sizeof(ports));
    return (uint32_t)(x >> 32);
}

static bool same_ends(const struct syn *s, const struct addr *client,
                      const struct addr *destination)
{
    return s->client.port == client->port && s->destination.port == destination->port &&
           addr_same_ip(&s->client, client) && addr_same_ip(&s->destination, destination);
}

static struct flow *find(struct flow_table *t, const struct addr *client,
                         const struct addr *destination)
{
    const struct holds *h = t->holds;
    uint32_t slot = h->heads[hash(h, client, destination) & h->mask];

    while (slot != FLOW_NONE) {
        struct flow *f = &t->flows[slot];

        if (same_ends(&f->dialing->hold->syn, client, destination))
            return f;
        slot = f->dialing->hold->next;
    }
    return NULL;
}

static void chain(struct flow_table *t, struct flow *f)
{
    struct holds *h = t->holds;
    struct hold *hold = f->dialing->hold;
    uint32_t *head = &h->heads[hash(h, &hold->syn.client, &hold->syn.destination) & h->mask];

    hold->next = *head;
    hold->chained = true;
    *head = (uint32_t)(f - t->flows);
    h->n++;
    t->stats.held = h->n;
}

static void unchain(struct flow_table *t, struct flow *f)
{
    struct holds *h = t->holds;
    struct hold *hold = f->dialing->hold;

    if (!hold->chained)
        return;
    uint32_t *at = &h->heads[hash(h, &hold->syn.client, &hold->syn.destination) & h->mask];

    while (&t->flows[*at] != f)
        at = &t->flows[*at].dialing->hold->next;
    *at = hold->next;
    hold->chained = false;
    h->n--;
    t->stats.held = h->n;
}

/* ---- answers ---- */

static struct answered *answered_slot(struct holds *h, const struct syn *s)
{
    return &h->answered[hash(h, &s->client, &s->destination) & (ANSWERED - 1)];
}

static void remember(struct flow_table *t, const struct syn *s, bool silent)
{
    *answered_slot(t->holds, s) = (struct answered){.client = s->client,
                                                    .destination = s->destination,
                                                    .isn = s->isn,
                                                    .silent = silent,
                                                    .until = loop_now(t->o.loop) + ANSWERED_LIFE};
}

/* A retransmission of what was answered already. */
static bool answer_again(struct flow_table *t, unsigned capture, const struct syn *s,
                         uint32_t interface)
{
    struct answered *a = answered_slot(t->holds, s);

    if (a->until < loop_now(t->o.loop) || a->isn != s->isn ||
        !same_ends(s, &a->client, &a->destination))
        return false;
    if (!a->silent)
        verdict_tell(t, capture, s, interface, REJECT_RESET);
    return true;
}

/* ---- SYNs ---- */

/* A SYN of a flow that is held already: its retransmission, or the application's next attempt from
 * the same port after it has given up the first; the answer will do for that as well. */
static void again(struct flow_table *t, struct flow *f, const struct syn *s, uint32_t interface)
{
    struct hold *hold = f->dialing->hold;
    int64_t now = loop_now(t->o.loop);
    bool fresh = s->isn != hold->syn.isn;

    t->stats.syns_again++;
    if (fresh) {
        hold->syn = *s;
        hold->interface = interface;
        hold->came = now;
    }
    if (f->state == FLOW_GRANTED && (fresh || now - hold->went >= INJECT_AGAIN)) {
        hold->went = now;
        verdict_pass(t, f->capture, &hold->syn, hold->interface, false);
    }
}

static void overflow(struct flow_table *t, unsigned capture, const struct syn *s,
                     uint32_t interface)
{
    int64_t now = loop_now(t->o.loop);
    bool refused = t->o.captures[capture].hook == CAPTURE_CGROUP ||
                   t->o.captures[capture].early > CAPTURE_EARLY_MAX;

    t->stats.early_full++;
    if (now >= t->holds->next_full_log) {
        log_warning("capture %s: %u connections are held already: more are %s until some are "
                    "answered; raise max-held if your upstream takes it",
                    t->o.captures[capture].name, t->o.max_held,
                    refused ? "refused" : "accepted before the upstream is asked,");
        t->holds->next_full_log = now + FULL_LOG;
    }
    if (refused)
        verdict_tell(t, capture, s, interface, REJECT_RESET);
    else
        verdict_pass(t, capture, s, interface, true);
}

static void begin(struct flow_table *t, unsigned capture, const struct syn *s,
                  const struct held_syn *raw)
{
    struct origin origin = {.destination = s->destination};

    if (raw->origin)
        origin = *raw->origin;
    else if (addr_is_link_local(&origin.destination))
        origin.destination.scope = raw->interface;
    if (!raw->origin && raw->has_uid) {
        origin.uid = raw->uid;
        origin.known = ORIGIN_UID;
    }
    if (listeners_came_back(t, &origin.destination)) {
        t->stats.refused_loop++;
        listeners_say_loop(t, capture, &s->client, &origin.destination);
        verdict_tell(t, capture, s, raw->interface, REJECT_RESET);
        return;
    }
    if (t->holds->n >= t->o.max_held) {
        overflow(t, capture, s, raw->interface);
        return;
    }
    struct hold *hold = calloc(1, sizeof(*hold));
    struct flow *f = hold ? flow_begin_held(t, capture, &s->client, &origin) : NULL;

    if (!f) {
        free(hold);
        verdict_tell(t, capture, s, raw->interface, REJECT_RESET);
        return;
    }
    hold->syn = *s;
    hold->interface = raw->interface;
    hold->came = loop_now(t->o.loop);
    f->dialing->hold = hold;
    chain(t, f);
    flow_dial(t, f);
}

static uint32_t find_capture(const struct flow_table *t, const char *name)
{
    for (uint32_t i = 0; name && i < t->o.n_captures; i++) {
        if (strcmp(t->o.captures[i].name, name) == 0)
            return i;
    }
    return FLOW_ANY_CAPTURE;
}

static void on_syn(void *ctx, const struct held_syn *raw)
{
    struct flow_table *t = ctx;
    uint32_t capture = t->o.holds[t->holds->reading].capture;
    struct syn s;

    t->stats.syns++;
    if (capture == FLOW_ANY_CAPTURE)
        capture = find_capture(t, raw->capture);
    /* A capture of another generation: the SYN comes again, by rules of the present one. */
    if (capture == FLOW_ANY_CAPTURE || syn_parse(raw->packet, raw->len, &s) < 0) {
        t->stats.syns_bad++;
        return;
    }
    struct flow *f = find(t, &s.client, &s.destination);

    if (f)
        again(t, f, &s, raw->interface);
    else if (answer_again(t, capture, &s, raw->interface))
        t->stats.syns_again++;
    else
        begin(t, capture, &s, raw);
}

static void say_lost(struct flow_table *t)
{
    int64_t now = loop_now(t->o.loop);

    t->stats.syns_lost++;
    if (now < t->holds->next_lost_log)
        return;
    t->holds->next_lost_log = now + FULL_LOG;
    log_warning("connections come faster than they are taken: some SYNs were dropped, and their "
                "owners send them again after a second");
}

/* How many there were. */
static int read_some(struct flow_table *t, unsigned index)
{
    const struct hold_source *s = &t->o.holds[index].source;

    t->holds->reading = index;
    int r = s->ops->read(s->ctx, on_syn, t, READ_BATCH);

    if (r == -ENOBUFS)
        say_lost(t);
    return r;
}

static void on_hold(void *ctx, uint64_t ref, uint32_t events)
{
    struct flow_table *t = ctx;

    (void)events;
    if (loop_ref_index(ref) < t->o.n_holds)
        read_some(t, loop_ref_index(ref));
}

/* ---- verdicts ---- */

/* A connection over loopback is complete when the SYN has been sent: no need to be woken for it. */
static void accept_now(struct flow_table *t, const struct flow *f)
{
    const struct hold *hold = f->dialing->hold;
    bool cgroup = t->o.captures[f->capture].hook == CAPTURE_CGROUP;

    for (uint32_t i = 0; i < t->o.n_listeners; i++) {
        const struct flow_listener *l = &t->o.listeners[i];

        if (l->seat && l->capture == (cgroup ? f->capture : FLOW_ANY_CAPTURE) &&
            (cgroup ? addr_equal(&l->at, &hold->syn.destination)
                    : addr_is_v4(&l->at) == addr_is_v4(&hold->syn.client))) {
            listener_accept(t, i);
            return;
        }
    }
}

void hold_granted(struct flow_table *t, struct flow *f)
{
    struct hold *hold = f->dialing->hold;
    bool local = t->o.captures[f->capture].hook != CAPTURE_GATEWAY;

    flow_set_state(t, f, FLOW_GRANTED);
    hold->went = loop_now(t->o.loop);
    loop_timer_set(t->o.loop, &f->timer, local ? WAIT_LOCAL : WAIT_REMOTE,
                   flow_ref(t, f, KIND_CLIENT));
    verdict_pass(t, f->capture, &hold->syn, hold->interface, false);
    if (local)
        accept_now(t, f);
}

void hold_failed(struct flow_table *t, struct flow *f, int error)
{
    struct hold *hold = f->dialing->hold;
    enum injected_reject reject = verdict_reject(&hold->syn, error);

    unchain(t, f);
    remember(t, &hold->syn, error == ETIMEDOUT);
    if (error == ETIMEDOUT)
        return;
    hold->reject = (uint8_t)reject;
    if (reject == REJECT_RESET)
        verdict_tell(t, f->capture, &hold->syn, hold->interface, reject);
    else if (t->o.captures[f->capture].hook == CAPTURE_GATEWAY)
        hold->icmps_left = 1;
    else
        hold->icmps_left = 2;
}

bool hold_lingers(struct flow_table *t, struct flow *f)
{
    struct hold *hold = f->dialing->hold;
    bool local = t->o.captures[f->capture].hook != CAPTURE_GATEWAY;
    int64_t wait = hold->came + (local ? ICMP_AGE : 0) - loop_now(t->o.loop);

    if (hold->icmps_left == 0)
        return false;
    if (wait <= 0)
        hold_timeout(t, f);
    else
        loop_timer_set(t->o.loop, &f->timer, wait, flow_ref(t, f, KIND_CLIENT));
    return true;
}

void hold_timeout(struct flow_table *t, struct flow *f)
{
    struct hold *hold = f->dialing->hold;

    if (f->state == FLOW_GRANTED) {
        t->stats.unaccepted++;
        unchain(t, f); /* the next SYN of the same ends is another attempt */
        log_flow(LOG_LEVEL_DEBUG, flow_id(t, f),
                 "the application has gone away before it was "
                 "connected");
        flow_end(t, f, false);
        return;
    }
    if (hold->icmps_left > 0) {
        hold->icmps_left--;
        verdict_tell(t, f->capture, &hold->syn, hold->interface, hold->reject);
    }
    if (hold->icmps_left == 0 ||
        loop_timer_set(t->o.loop, &f->timer, ICMP_AGAIN, flow_ref(t, f, KIND_CLIENT)) < 0)
        flow_reap(t, f);
}

void hold_release(struct flow_table *t, struct flow *f)
{
    unchain(t, f);
    free(f->dialing->hold);
    f->dialing->hold = NULL;
    f->held = false;
}

/* ---- accepted ---- */

/*
 * One client's connections to two destinations from one and the same port would look alike behind a
 * redirection, so the kernel changes the port of the second. It is the flow that waits for an
 * application of the same address and for the same destination; which of several is all one.
 */
static struct flow *find_translated(struct flow_table *t, const struct addr *client,
                                    const struct addr *destination)
{
    for (uint32_t i = 0; i <= t->holds->mask; i++) {
        for (uint32_t slot = t->holds->heads[i]; slot != FLOW_NONE;
             slot = t->flows[slot].dialing->hold->next) {
            struct flow *f = &t->flows[slot];
            const struct syn *s = &f->dialing->hold->syn;

            if (f->state == FLOW_GRANTED && addr_same_ip(&s->client, client) &&
                addr_same_ip(&s->destination, destination) &&
                s->destination.port == destination->port)
                return f;
        }
    }
    return NULL;
}

void hold_accepted(struct flow_table *t, unsigned index, int fd, const struct addr *client)
{
    const struct flow_listener *l = &t->o.listeners[index];
    struct origin origin = {.destination = l->at};
    struct flow *f = NULL;
    int r = 0;

    /* An eBPF capture's SYN was for the listener itself. */
    if (l->capture == FLOW_ANY_CAPTURE)
        r = l->origin.ops->lookup(l->origin.ctx, fd, client, &l->at, &origin);
    if (r == 0 && t->holds) {
        f = find(t, client, &origin.destination);
        /* One that waits still may have the very port that another's was changed to. */
        if ((!f || f->state != FLOW_GRANTED) && l->capture == FLOW_ANY_CAPTURE)
            f = find_translated(t, client, &origin.destination);
    }
    if (!f || f->state != FLOW_GRANTED) {
        t->stats.refused_stray++;
        fd_close(&fd);
        return;
    }
    /* Behind a changed port it may have been somebody else's SYN. */
    if (same_ends(&f->dialing->hold->syn, client, &origin.destination))
        remember(t, &f->dialing->hold->syn, true);
    flow_join(t, f, fd);
}

/* ---- life ---- */

int holds_create(struct flow_table *t)
{
    struct holds *h = calloc(1, sizeof(*h));
    uint32_t n = 256;

    if (!h)
        return -ENOMEM;
    while (n < t->o.max_held && n < 1u << 20)
        n *= 2;
    h->mask = n - 1;
    h->heads = malloc(n * sizeof(*h->heads));
    if (!h->heads || getrandom(&h->key, sizeof(h->key), 0) != sizeof(h->key)) {
        free(h->heads);
        free(h);
        return -ENOMEM;
    }
    memset(h->heads, 0xff, n * sizeof(*h->heads)); /* FLOW_NONE */
    t->holds = h;
    loop_set_handler(t->o.loop, KIND_HOLD, on_hold, t);
    for (uint32_t i = 0; i < t->o.n_holds; i++) {
        int r = loop_add(t->o.loop, t->o.holds[i].source.fd, EPOLLIN, loop_ref(KIND_HOLD, 0, i));

        if (r < 0)
            return r;
    }
    return 0;
}

static void stop_reading(struct flow_table *t)
{
    for (size_t i = 0; i < t->o.n_holds; i++)
        loop_remove(t->o.loop, t->o.holds[i].source.fd);
}

void holds_drain(struct flow_table *t)
{
    if (!t->holds)
        return;
    for (unsigned i = 0; i < t->o.n_holds; i++) {
        int r = 1;

        for (unsigned n = 0; n < DRAIN_READS && (r > 0 || r == -ENOBUFS); n += READ_BATCH)
            r = read_some(t, i);
    }
    stop_reading(t);
}

void holds_destroy(struct flow_table *t)
{
    if (!t->holds)
        return;
    stop_reading(t);
    loop_set_handler(t->o.loop, KIND_HOLD, NULL, NULL);
    free(t->holds->heads);
    free(t->holds);
    t->holds = NULL;
}
