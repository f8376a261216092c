/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection to a DNS server, by way of an upstream: dialled when a query needs it, kept for a
 * while when none does, closed in order then.
 *
 * Reading. What has come is read into the engine's one buffer, in front of it the beginning of a
 * frame that was left over from the time before; whole messages are taken out of it, and what is
 * left is kept again. One reading for one event: the loop comes back when there is more. So a
 * server can make us hold less than one frame, whatever it sends.
 *
 * Writing. Queries become bytes only when the socket has taken those before, a few at a time; until
 * then they can expire and leave no trace. A socket that fails while we write is not looked at
 * here: the loop brings the end of it, and then nobody stands in the middle of something.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "log.h"
#include "names/engine.h"

#define DIRECT_PATIENCE INT64_C(2000000000) /* ns: less than a query waits */
#define PROBE_INTERVAL  INT64_C(2000000000) /* between two looks at upstreams that are down */
#define PROOF_WAIT      INT64_C(200000000)
#define PROOF_WAITS     25 /* 5 s */

#define WHY_SIZE 200

static uint64_t ref_of(const struct names *n, const struct names_connection *c)
{
    return loop_ref(n->o.first_kind + KIND_CONNECTION, c->generation, names_number(n, c));
}

void names_close(struct names *n, struct names_connection *c, bool orderly)
{
    loop_timer_cancel(n->o.loop, &c->timer);
    dial_finish(&c->dial);
    if (orderly && c->fd >= 0)
        fd_reset_on_close(c->fd, false);
    fd_close(&c->fd);
    free(c->partial);
    c->partial = NULL;
    c->partial_len = 0;
    c->out_pos = c->out_len = 0;
    c->state = NAMES_CLOSED;
    c->generation++; /* events on their way are for nobody */
}

void names_broken(struct names *n, struct names_connection *c)
{
    n->stats.broken++;
    names_close(n, c, false);
    names_scatter(n, c, false);
}

/* ---- Dialling ---- */

static bool all_down(const struct upstream_choice *choice)
{
    for (unsigned i = 0; i < choice->n; i++)
        if (choice->candidates[i]->healthy)
            return false;
    return true;
}

/*
 * Which upstreams are asked, in which order. A direct server's come after itself. While all are
 * known to be gone the server itself is, where that is allowed: whether they are back is found out
 * by the flows that follow. Where it is not, one query finds it out every now and then, and the
 * others are told at once. False: none.
 */
static bool choose_upstreams(struct names *n, struct names_connection *c)
{
    const struct names_server *s = names_server_of(n, c);
    struct upstream_choice *choice = n->o.captures[s->capture].choice;
    bool direct = choice->direct_when_down && s->name[0] == '\0';
    bool down = all_down(choice);
    int64_t now = loop_now(n->o.loop);
    unsigned k = 0;

    c->at = 0;
    c->probe = down && !direct && !s->direct;
    if (s->direct) {
        c->order[0] = NAMES_DIRECT;
        c->n_order = (uint8_t)(1 + (down ? 0 : upstream_order(choice, &s->at, c->order + 1)));
        return true;
    }
    if (c->probe) {
        if (now < n->next_probe[s->capture])
            return false;
        n->next_probe[s->capture] = now + PROBE_INTERVAL;
    }
    if (!direct || !upstream_all_gone(choice)) {
        k = upstream_order(choice, &s->at, c->order);
        upstream_look_again(choice, c->order, k, now);
    }
    if (direct)
        c->order[k++] = NAMES_DIRECT;
    c->n_order = (uint8_t)k;
    return k > 0;
}

static struct dial_env dial_env(struct names *n, struct names_connection *c)
{
    return (struct dial_env){.loop = n->o.loop, .timer = &c->timer, .ref = ref_of(n, c)};
}

static void complain_of_server(struct names *n, const struct names_server *s, struct upstream *u,
                               const char *why)
{
    bool fake = n->o.captures[s->capture].mode == NAMES_FAKE, near = addr_is_private(&s->at);
    char said[WHY_SIZE + ADDR_STRLEN + 128], to[ADDR_STRLEN];

    snprintf(said, sizeof(said), "the DNS server %s cannot be asked through it (%s)%s%s",
             addr_format(&s->at, to), why, near ? ": set dns-server to one that can" : "",
             near && !fake ? ", or use socks5h" : "");
    upstream_complain(u, said, loop_now(n->o.loop));
}

/* Notes what it came to. True: the next upstream may be asked. */
static bool dial_failed(struct names *n, struct names_connection *c)
{
    struct dial *d = &c->dial;
    struct upstream *u = d->upstream;
    int64_t now = loop_now(n->o.loop);
    bool at_fault = dial_upstream_at_fault(d);
    struct names_server *s = names_server_of(n, c);
    char why[WHY_SIZE], to[ADDR_STRLEN];

    dial_describe(d, why, sizeof(why));
    log_debug("DNS server %s through %s: %s", addr_format(&s->at, to), u->name, why);
    if (at_fault || dial_was_answered(d))
        upstream_report(u, at_fault ? why : NULL, dial_upstream_gone(d), now);
    if (d->fault == DIAL_RESOURCE) {
        upstream_complain(u, why, now); /* our own want says nothing of the server */
    } else if (!at_fault && !upstream_is_direct(u) && !s->said) {
        complain_of_server(n, s, u, why);
        s->said = true;
    }
    loop_timer_cancel(n->o.loop, &c->timer);
    dial_finish(d);
    return at_fault || upstream_is_direct(u);
}

static bool no_connection(struct names *n, struct names_connection *c)
{
    n->stats.no_connection++;
    names_server_of(n, c)->retry_at = loop_now(n->o.loop) + NAMES_HOLD_OFF;
    names_close(n, c, false);
    return false;
}

/* Asks one upstream after the other until one is pending. False: none is left, it is CLOSED. */
static bool dial_on(struct names *n, struct names_connection *c)
{
    struct names_server *s = names_server_of(n, c);
    struct upstream_choice *choice = n->o.captures[s->capture].choice;

    for (; c->at < c->n_order; c->at++) {
        uint8_t k = c->order[c->at];
        struct upstream *u = k == NAMES_DIRECT ? choice->direct : choice->candidates[k];
        struct dial_env env = dial_env(n, c);
        const char *name = s->name[0] ? s->name : NULL;

        if (k == NAMES_DIRECT && !s->direct && !upstream_all_gone(choice))
            break;
        if (dial_start(&c->dial, u, &s->at, name, &env) == DIAL_PENDING) {
            /* Some resolvers take no TCP, and say nothing. */
            if (s->direct && k == NAMES_DIRECT)
                loop_timer_set(n->o.loop, env.timer, DIRECT_PATIENCE, env.ref);
            return true;
        }
        if (!dial_failed(n, c))
            break;
    }
    return no_connection(n, c);
}

bool names_connect(struct names *n, struct names_connection *c)
{
    if (!choose_upstreams(n, c))
        return false;
    c->waits_proof = c->blocked = c->fruitful = false;
    c->proof_waits = 0;
    c->owed = c->strays = 0;
    c->heard = 0;
    c->state = NAMES_DIALING;
    return dial_on(n, c);
}

/* As with flows: whose an upstream on this host is must be known before it is asked for anything.
 */
static bool wait_for_proof(struct names *n, struct names_connection *c)
{
    dial_finish(&c->dial);
    if (n->o.on_unproven)
        n->o.on_unproven(n->o.ctx);
    if (c->proof_waits == PROOF_WAITS ||
        loop_timer_set(n->o.loop, &c->timer, PROOF_WAIT, ref_of(n, c)) < 0) {
        upstream_complain(c->dial.upstream, "it is on this host and would be captured itself",
                          loop_now(n->o.loop));
        return no_connection(n, c);
    }
    c->proof_waits++;
    c->waits_proof = true;
    return true;
}

/* False: the socket is not to be had in the loop. */
static bool opened(struct names *n, struct names_connection *c)
{
    struct upstream *u = c->dial.upstream;

    u->granted++;
    upstream_report(u, NULL, false, loop_now(n->o.loop));
    loop_timer_cancel(n->o.loop, &c->timer);
    c->fd = dial_take(&c->dial);
    dial_finish(&c->dial);
    if (loop_modify(n->o.loop, c->fd, EPOLLIN, ref_of(n, c)) < 0)
        return no_connection(n, c);
    c->state = NAMES_OPEN;
    c->direct = upstream_is_direct(u);
    n->stats.connections++;
    names_connection_changed(n, c);
    return true;
}

static void dial_event_of(struct names *n, struct names_connection *c, uint32_t events)
{
    struct dial_env env = dial_env(n, c);
    bool alive = true;

    if (c->waits_proof) {
        if (events & LOOP_TIMEOUT) {
            c->waits_proof = false;
            alive = dial_on(n, c);
        }
    } else {
        switch (dial_event(&c->dial, events, &env)) {
        case DIAL_PENDING:
            break;
        case DIAL_UNPROVEN:
            alive = wait_for_proof(n, c);
            break;
        case DIAL_GRANTED:
            alive = opened(n, c);
            break;
        case DIAL_FAILED:
            c->at = dial_failed(n, c) ? c->at + 1 : c->n_order;
            alive = dial_on(n, c);
            break;
        }
    }
    if (!alive)
        names_scatter(n, c, true);
}

/* ---- Writing ---- */

/* Frames of the queries that come next, as many as there is room for. */
static void fill(struct names *n, struct names_connection *c)
{
    struct wire_writer w = wire_writer(c->out, sizeof(c->out));

    while (c->unsent.head != NAMES_NONE) {
        const struct dns_pending *p = &n->slots[c->unsent.head];

        if (dns_frame_encode(&w, p->message, p->len) < 0)
            break;
        names_was_sent(n, c);
    }
    c->out_pos = 0;
    c->out_len = (uint16_t)w.pos;
}

static void set_blocked(struct names *n, struct names_connection *c, bool blocked)
{
    uint32_t events = blocked ? EPOLLIN | EPOLLOUT : EPOLLIN;

    if (blocked != c->blocked && loop_modify(n->o.loop, c->fd, events, ref_of(n, c)) == 0)
        c->blocked = blocked;
}

static void flush(struct names *n, struct names_connection *c)
{
    bool blocked = false;

    for (;;) {
        if (c->out_pos == c->out_len)
            fill(n, c);
        if (c->out_len == 0)
            break;
        ssize_t sent =
            send(c->fd, c->out + c->out_pos, c->out_len - c->out_pos, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0) {
            blocked = errno == EAGAIN || errno == EINTR;
            break;
        }
        c->out_pos += (uint16_t)sent;
    }
    set_blocked(n, c, blocked);
}

void names_connection_changed(struct names *n, struct names_connection *c)
{
    if (c->state != NAMES_OPEN)
        return;
    flush(n, c);
    if (c->n > 0)
        loop_timer_cancel(n->o.loop, &c->timer);
    else if (c->timer.slot == 0 &&
             loop_timer_set(n->o.loop, &c->timer, n->o.idle_timeout, ref_of(n, c)) < 0)
        names_close(n, c, true);
}

/* ---- Reading ---- */

/* Takes the whole messages out of the first `len` bytes of the scratch. False: nonsense. */
static bool take_messages(struct names *n, struct names_connection *c, size_t len)
{
    const uint8_t *message;
    size_t pos = 0, message_len;
    int r;

    while ((r = dns_frame_decode(n->scratch + pos, len - pos, &message, &message_len)) > 0) {
        if (!names_answered(n, c, n->scratch + (message - n->scratch), message_len))
            return false;
        pos += (size_t)r;
    }
    if (r < 0)
        return false;
    uint8_t *left = NULL;

    if (pos < len) {
        left = malloc(len - pos);
        if (!left)
            return false;
        memcpy(left, n->scratch + pos, len - pos);
    }
    free(c->partial);
    c->partial = left;
    c->partial_len = (uint32_t)(len - pos);
    return true;
}

static void read_some(struct names *n, struct names_connection *c)
{
    size_t had = c->partial_len;

    if (had > 0)
        memcpy(n->scratch, c->partial, had);
    /* A frame that is not whole is shorter than the longest: there is room. */
    ssize_t got = recv(c->fd, n->scratch + had, sizeof(n->scratch) - had, MSG_DONTWAIT);

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got == 0 && c->n == 0 && had == 0) {
        names_close(n, c, true); /* servers do not keep idle connections for ever either */
        names_scatter(n, c, false);
        return;
    }
    if (got > 0)
        c->heard = loop_now(n->o.loop);
    if (got <= 0 || !take_messages(n, c, had + (size_t)got))
        names_broken(n, c);
    else
        names_connection_changed(n, c);
}

void names_loop_event(void *ctx, uint64_t ref, uint32_t events)
{
    struct names *n = ctx;
    uint32_t number = loop_ref_index(ref);

    if (number >= 2 * NAMES_SERVERS)
        return;
    struct names_connection *c = &n->connections[number];

    if (loop_ref_generation(ref) != (c->generation & 0xffffff) || c->state == NAMES_CLOSED)
        return;
    if (c->state == NAMES_DIALING) {
        dial_event_of(n, c, events);
    } else if (events & LOOP_TIMEOUT) {
        names_close(n, c, true); /* idle */
    } else {
        if (events & EPOLLOUT)
            flush(n, c);
        if (events & ~(uint32_t)EPOLLOUT)
            read_some(n, c);
    }
    names_check_empty(n);
}
