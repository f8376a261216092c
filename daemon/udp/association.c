/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of an association: asked for, granted or refused, ended.
 *
 * Theory of operation. The first datagram of a client makes an association, which asks one upstream
 * after the other while the datagrams wait. Granted, it has two sockets: the control connection,
 * of which nothing is ever read and only the end is awaited, and a UDP socket connected to the
 * relay, so that the kernel drops what others send to it.
 *
 * Which upstreams. Only a single SOCKS5 hop can. One that says it knows no UDP ASSOCIATE is not
 * asked again for ten minutes; one that says nothing, or hangs up at the question, for one minute.
 * Neither says anything of its health, which TCP goes by. Directly goes a datagram only when all
 * are down: one that is up and gives no association stands in the way.
 *
 * Ends. Idle; the control connection's end; "nobody there" from the relay. The next datagram makes
 * a new one. But when none could be had, or one ended at once and never brought an answer, the
 * association stays in the table without descriptors for a few seconds, and its client is refused:
 * a storm of datagrams must not become a storm of connections. Nor must one from ever new ports, so
 * whoever has many such of a capture is refused by it with any port.
 *
 * An upstream may have less room than our table. When it answers with a general failure, which is
 * what a full one says, a client that holds more than the newcomer gives up an association there,
 * and the upstream is asked once more.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "log.h"
#include "udp/table.h"

#define NO_UDP        INT64_C(600000000000) /* it said so */
#define NO_ANSWER     INT64_C(60000000000)
#define PROOF_WAITS   25
#define RECEIVE_QUEUE (1 << 20) /* bytes; the kernel's limit may be lower */
#define WHY_SIZE      200

static bool usable(const struct upstream *u, int64_t now)
{
    if (upstream_is_direct(u))
        return true;
    const struct config_upstream *c = u->hops[0].config;

    return u->n_hops == 1 && (c->url.scheme == SCHEME_SOCKS5 || c->url.scheme == SCHEME_SOCKS5H) &&
           c->udp != TOGGLE_OFF && now >= u->udp_refused_until;
}

static void choose_upstreams(struct udp_table *t, struct udp_association *a)
{
    struct upstream_choice *choice = t->o.captures[a->capture].choice;
    int64_t now = loop_now(t->o.loop);
    unsigned n = 0, n_usable = 0;

    for (unsigned i = 0; i < choice->n; i++) {
        const struct upstream *u = choice->candidates[i];

        if (usable(u, now))
            n_usable++;
        else if (!u->gone)
            a->up_but_no = true;
    }
    /* Whose turn it is to look whether a dead upstream is back must be able to find out. */
    if (n_usable > 0 && !upstream_go_direct(choice, now)) {
        n = upstream_order(choice, &a->destination, a->order);
        if (usable(choice->candidates[0], now))
            upstream_look_again(choice, a->order, n, now);
    }
    if (choice->direct_when_down)
        a->order[n++] = UDP_DIRECT;
    a->n_order = (uint8_t)n;
}

static struct dial_env dial_env(struct udp_table *t, struct udp_association *a)
{
    return (struct dial_env){
        .loop = t->o.loop, .timer = &a->timer, .ref = udp_ref(t, a, KIND_CONTROL)};
}

static void close_all(struct udp_table *t, struct udp_association *a)
{
    loop_timer_cancel(t->o.loop, &a->timer);
    dial_finish(&a->dial);
    if (a->control >= 0)
        fd_reset_on_close(a->control, false); /* nothing failed */
    fd_close(&a->control);
    fd_close(&a->relay);
}

void udp_end(struct udp_table *t, struct udp_association *a)
{
    t->stats.dropped_waiting += udp_waiting_clear(&a->waiting, &t->waiting_total);
    close_all(t, a);
    udp_release(t, a);
}

/* From now on, and for a while, the client is refused; beginning with what waits. */
static void refuse_for_a_while(struct udp_table *t, struct udp_association *a)
{
    struct addr last = {.port = 0};

    close_all(t, a);
    a->state = UDP_REFUSED;
    shares_add(&t->refused, udp_refused_share(t, a->capture, &a->client));
    for (struct udp_waiter *w; (w = udp_waiting_take(&a->waiting, &t->waiting_total));) {
        const struct udp_datagram d = {&w->destination, w->data, w->len};

        if (!addr_equal(&w->destination, &last))
            a->next_refusal = 0; /* each destination once, however many there are */
        last = w->destination;
        udp_refuse_one(t, a, &d);
        free(w);
    }
    if (t->draining ||
        loop_timer_set(t->o.loop, &a->timer, t->times.refused, udp_ref(t, a, KIND_CONTROL)) < 0)
        udp_end(t, a);
}

static void failed(struct udp_table *t, struct udp_association *a)
{
    t->stats.failed++;
    refuse_for_a_while(t, a);
}

static bool out_of_resources(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS ||
           error == EAGAIN || error == EPERM;
}

/* A marked socket, connected to `to` or, NULL, to nobody. The descriptor or -errno. */
static int open_datagrams(const struct addr *family, const struct addr *to, uint32_t mark)
{
    bool v4 = addr_is_v4(family);
    int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int queue = RECEIVE_QUEUE, one = 1, r = 0;

    if (fd < 0)
        return -errno;
    if (mark != 0 && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
        r = -errno; /* unmarked, it would be captured again: never go on without */
    if (r == 0 && !v4 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
        r = -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &queue, sizeof(queue));
    if (r == 0 && to) {
        struct sockaddr_storage sa;
        socklen_t len = addr_to_sockaddr(to, &sa);

        if (connect(fd, (struct sockaddr *)&sa, len) < 0)
            r = -errno;
    }
    if (r < 0)
        fd_close(&fd);
    return r < 0 ? r : fd;
}

/* `fd` becomes the association's. 0 or -errno. */
static int begin_relay(struct udp_table *t, struct udp_association *a, int fd)
{
    int64_t idle = t->draining ? t->times.drain_idle : t->o.idle_timeout;

    a->relay = fd;
    int r = loop_add(t->o.loop, fd, EPOLLIN, udp_ref(t, a, KIND_RELAY));

    if (r == 0)
        r = loop_timer_set(t->o.loop, &a->timer, idle, udp_ref(t, a, KIND_CONTROL));
    if (r < 0)
        return r;
    a->state = UDP_RELAY;
    t->stats.granted++;
    return 0;
}

/* What waited leaves in its order. */
static void send_waiting(struct udp_table *t, struct udp_association *a)
{
    struct udp_batch *b = &t->batch;
    struct udp_waiter *w[UDP_WAITING_DATAGRAMS];
    unsigned n = 0;

    _Static_assert(UDP_WAITING_DATAGRAMS <= UDP_BATCH, "one batch");
    while (n < UDP_WAITING_DATAGRAMS && (w[n] = udp_waiting_take(&a->waiting, &t->waiting_total))) {
        b->run[n] = (struct udp_datagram){&w[n]->destination, w[n]->data, w[n]->len};
        n++;
    }
    if (n > 0)
        udp_up(t, a, n);
    while (n > 0)
        free(w[--n]);
}

/* There is neither memory nor a descriptor: no other upstream would do better. */
static void failed_for_want(struct udp_table *t, struct udp_association *a)
{
    udp_say_full(t, "out of descriptors or memory");
    failed(t, a);
}

static void go_direct(struct udp_table *t, struct udp_association *a)
{
    int fd = open_datagrams(&a->client, NULL, a->upstream->mark);

    if (fd < 0 || begin_relay(t, a, fd) < 0)
        failed_for_want(t, a);
    else
        send_waiting(t, a);
}

/* The association is to try the next upstream. */
static void next_upstream(struct udp_table *t, struct udp_association *a)
{
    loop_timer_cancel(t->o.loop, &a->timer);
    dial_finish(&a->dial);
    a->at++;
}

/* True: try the next one. */
static bool dial_failed(struct udp_table *t, struct udp_association *a)
{
    struct dial *d = &a->dial;
    struct upstream *u = d->upstream;
    int64_t now = loop_now(t->o.loop);
    char why[WHY_SIZE], from[ADDR_STRLEN];
    bool denied = dial_udp_denied(d);

    if (denied && dial_was_answered(d) && d->handshake.rep == SOCKS5_REP_FAILURE && !a->made_room &&
        udp_make_room_at(t, a, u)) {
        a->made_room = true;
        a->at--; /* the same one again */
        next_upstream(t, a);
        return true;
    }
    dial_describe(d, why, sizeof(why));
    log_flow(LOG_LEVEL_DEBUG, udp_id(t, a), "UDP of %s through %s: %s",
             addr_format(&a->client, from), u->name, why);
    if (denied) {
        a->up_but_no = true;
        if (dial_was_answered(d) && d->handshake.rep == SOCKS5_REP_COMMAND)
            u->udp_refused_until = now + NO_UDP;
        else if (!dial_was_answered(d))
            u->udp_refused_until = now + NO_ANSWER;
        if (dial_was_answered(d))
            upstream_report(u, NULL, false, now);
        char line[WHY_SIZE + 40];

        snprintf(line, sizeof(line), "it gives no UDP association: %s", why);
        upstream_complain_of_udp(u, line, NO_UDP, now);
    } else if (d->fault == DIAL_RESOURCE) {
        failed_for_want(t, a);
        return false;
    } else if (dial_upstream_at_fault(d)) {
        upstream_report(u, why, dial_upstream_gone(d), now);
        a->up_but_no |= !u->gone;
    } else {
        a->up_but_no = true;
        upstream_complain(u, why, now);
    }
    next_upstream(t, a);
    return true;
}

/* May it be asked now? `k`: as in the order. */
static struct upstream *candidate(struct udp_table *t, struct udp_association *a, uint8_t k)
{
    struct upstream_choice *choice = t->o.captures[a->capture].choice;

    if (k == UDP_DIRECT)
        return a->up_but_no ? NULL : choice->direct;
    struct upstream *u = choice->candidates[k];

    if (usable(u, loop_now(t->o.loop)))
        return u;
    a->up_but_no |= !u->gone; /* as others may have found out only just now */
    return NULL;
}

/* Asks one upstream after the other until one is pending. The association may be in any state
 * after. */
static void dial_on(struct udp_table *t, struct udp_association *a)
{
    while (a->at < a->n_order) {
        struct upstream *u = candidate(t, a, a->order[a->at]);
        struct dial_env env = dial_env(t, a);

        if (!u) {
            a->at++;
            continue;
        }
        a->upstream = u;
        if (upstream_is_direct(u)) {
            go_direct(t, a);
            return;
        }
        if (dial_associate(&a->dial, u, &env) == DIAL_PENDING || !dial_failed(t, a))
            return;
    }
    failed(t, a);
}

static void granted(struct udp_table *t, struct udp_association *a)
{
    struct upstream *u = a->dial.upstream;
    int64_t now = loop_now(t->o.loop);
    char why[WHY_SIZE], at[ADDR_STRLEN];
    struct addr relay;
    bool named = false;
    int fd = dial_relay(&a->dial, &relay, &named);

    if (fd == 0)
        fd = open_datagrams(&relay, &relay, u->mark);
    if (fd < 0 && named && !out_of_resources(-fd)) {
        /* No way leads to where it says. */
        uint16_t port = relay.port;

        relay = *dial_peer(&a->dial);
        relay.port = port;
        fd = open_datagrams(&relay, &relay, u->mark);
    }
    if (fd < 0 && out_of_resources(-fd)) {
        failed_for_want(t, a);
        return;
    }
    if (fd < 0) {
        snprintf(why, sizeof(why), "it granted a UDP association without an address to send to");
        upstream_complain(u, why, now);
        u->udp_refused_until = now + NO_ANSWER;
        a->up_but_no = true;
        next_upstream(t, a);
        dial_on(t, a);
        return;
    }
    a->relay_at = relay;
    a->control = dial_take(&a->dial);
    dial_finish(&a->dial);
    /* Of what it may send nothing is read: it fills its own window and costs us nothing. */
    int r = loop_modify(t->o.loop, a->control, EPOLLRDHUP, udp_ref(t, a, KIND_CONTROL));

    u->granted++;
    upstream_report(u, NULL, false, now);
    if (r < 0 || begin_relay(t, a, fd) < 0) {
        if (a->relay < 0)
            fd_close(&fd);
        failed_for_want(t, a);
        return;
    }
    fd_keepalive(a->control);
    log_flow(LOG_LEVEL_DEBUG, udp_id(t, a), "UDP association with %s, relay %s", u->name,
             addr_format(&relay, at));
    send_waiting(t, a);
}

/* As with TCP: whose an upstream on this host is must be known before it is asked for anything. */
static void wait_for_proof(struct udp_table *t, struct udp_association *a)
{
    struct upstream *u = a->dial.upstream;

    dial_finish(&a->dial);
    if (t->o.on_unproven)
        t->o.on_unproven(t->o.ctx);
    if (a->proof_waits == PROOF_WAITS || loop_timer_set(t->o.loop, &a->timer, t->times.proof_wait,
                                                        udp_ref(t, a, KIND_CONTROL)) < 0) {
        upstream_complain(u, "it is on this host and would be captured itself",
                          loop_now(t->o.loop));
        failed(t, a);
        return;
    }
    a->proof_waits++;
    a->waits_proof = true;
}

static void dial_step(struct udp_table *t, struct udp_association *a, uint32_t events)
{
    struct dial_env env = dial_env(t, a);

    if (a->waits_proof) {
        if (events & LOOP_TIMEOUT) {
            a->waits_proof = false;
            dial_on(t, a);
        }
        return;
    }
    switch (dial_event(&a->dial, events, &env)) {
    case DIAL_PENDING:
        break;
    case DIAL_UNPROVEN:
        wait_for_proof(t, a);
        break;
    case DIAL_GRANTED:
        granted(t, a);
        break;
    case DIAL_FAILED:
        if (dial_failed(t, a))
            dial_on(t, a);
        break;
    }
}

void udp_begin(struct udp_table *t, struct udp_association *a, const struct udp_datagram *first)
{
    a->destination = *first->destination;
    t->stats.begun++;
    if (!udp_waiting_add(&a->waiting, &t->waiting_total, first->destination, first->data,
                         first->len))
        t->stats.dropped_waiting++;
    choose_upstreams(t, a);
    dial_on(t, a);
}

/* It ended by itself. Did it ever serve its purpose? */
static void ended(struct udp_table *t, struct udp_association *a)
{
    t->stats.ended_upstream++;
    if (a->datagrams_down == 0 && loop_now(t->o.loop) - a->started < t->times.refused)
        refuse_for_a_while(t, a);
    else
        udp_end(t, a);
}

void udp_relay_gone(struct udp_table *t, struct udp_association *a, int error)
{
    const struct udp_datagram last = {.destination = &a->destination};

    log_flow(LOG_LEVEL_DEBUG, udp_id(t, a), "UDP association ended: its relay: error %d", error);
    udp_refuse_one(t, a, &last);
    ended(t, a);
}

void udp_idle_check(struct udp_table *t, struct udp_association *a)
{
    int64_t now = loop_now(t->o.loop);
    int64_t end = a->active + (t->draining ? t->times.drain_idle : t->o.idle_timeout);

    if (t->draining && t->drain_end < end)
        end = t->drain_end;
    if (end > now &&
        loop_timer_set(t->o.loop, &a->timer, end - now, udp_ref(t, a, KIND_CONTROL)) == 0)
        return;
    t->stats.ended_idle++;
    udp_end(t, a);
}

void udp_control_event(struct udp_table *t, struct udp_association *a, uint32_t events)
{
    if (a->state == UDP_DIALING) {
        dial_step(t, a, events);
    } else if (a->state == UDP_REFUSED) {
        if (events & LOOP_TIMEOUT)
            udp_end(t, a);
    } else if (events & LOOP_TIMEOUT) {
        udp_idle_check(t, a);
    } else {
        uint32_t generation = a->generation;

        udp_relay_event(t, a); /* what came before the end */
        if (a->state == UDP_RELAY && a->generation == generation)
            ended(t, a);
    }
}
