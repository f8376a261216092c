/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flow/verdict.h: which packet, with which mark. */
#include "flow/verdict.h"

#include <errno.h>
#include <string.h>

#include "log.h"

enum injected_reject verdict_reject(const struct syn *s, int error)
{
    switch (error) {
    case EHOSTUNREACH:
        return REJECT_HOST;
    case ENETUNREACH:
        return REJECT_NET;
    case EACCES: /* ICMP cannot say it to an IPv4 socket */
        return addr_is_v4(&s->client) ? REJECT_RESET : REJECT_PROHIBITED;
    default:
        return REJECT_RESET;
    }
}

static int send_packet(const struct flow_table *t, const uint8_t *packet, size_t len, uint32_t mark,
                       uint32_t interface)
{
    return t->o.inject.send(t->o.inject.ctx, packet, len, mark, interface);
}

/* Our own answer, where no rule makes the kernel give one. */
static int answer(const struct flow_table *t, const struct syn *s, uint32_t interface,
                  enum injected_reject reject)
{
    static const enum syn_unreachable unreachable[REJECT_COUNT] = {
        [REJECT_HOST] = SYN_HOST_UNREACHABLE,
        [REJECT_NET] = SYN_NET_UNREACHABLE,
        [REJECT_PROHIBITED] = SYN_PROHIBITED,
    };
    uint8_t packet[SYN_ANSWER_MAX];
    size_t len = reject == REJECT_RESET ? syn_make_reset(s, packet)
                                        : syn_make_unreachable(s, unreachable[reject], packet);

    return send_packet(t, packet, len, t->o.own_mark, interface);
}

static int reject_by_rule(const struct flow_table *t, const struct syn *s, uint32_t interface,
                          enum injected_reject reject)
{
    int r = send_packet(t, s->packet, s->len, capture_injected_mark(INJECTED_REJECT, reject),
                        interface);

    return r == -EPERM ? 0 : r; /* a packet that a rule rejects was not sent, says the kernel */
}

void verdict_tell(const struct flow_table *t, unsigned capture, const struct syn *s,
                  uint32_t interface, enum injected_reject reject)
{
    const struct flow_capture *c = &t->o.captures[capture];
    char a[ADDR_STRLEN];
    int r = c->hook == CAPTURE_CGROUP ? answer(t, s, interface, reject)
                                      : reject_by_rule(t, s, interface, reject);

    /* A gateway without a route to the destination has none for the SYN either; the reset's goes
     * over loopback. */
    if (r < 0 && c->hook == CAPTURE_GATEWAY && reject != REJECT_RESET)
        r = reject_by_rule(t, s, interface, REJECT_RESET);
    if (r < 0)
        log_debug("capture %s: the SYN of %s cannot be answered: %s", c->name,
                  addr_format(&s->client, a), strerror(-r));
}

static void say_dropped(struct flow_table *t, const struct flow_capture *c, int error)
{
    if (t->said_dropped)
        return;
    t->said_dropped = true;
    log_warning("capture %s: a SYN that the upstream has granted cannot be sent on (%s): %s (said "
                "once)",
                c->name, strerror(error),
                error == EPERM
                    ? "a firewall rule of this host drops it; accept what carries one of our "
                      "marks: meta mark and 0xffff0000 == 0x55530000 accept"
                    : "undersock doctor may know more");
}

void verdict_pass(struct flow_table *t, unsigned capture, const struct syn *s, uint32_t interface,
                  bool early)
{
    const struct flow_capture *c = &t->o.captures[capture];
    bool gateway = c->hook == CAPTURE_GATEWAY;
    uint32_t mark = t->o.own_mark;

    if (c->hook != CAPTURE_CGROUP && early)
        mark =
            capture_injected_mark(gateway ? INJECTED_EARLY_TPROXY : INJECTED_EARLY_NAT, c->early);
    else if (c->hook != CAPTURE_CGROUP)
        mark = capture_injected_mark(gateway ? INJECTED_ACCEPT_TPROXY : INJECTED_ACCEPT_NAT,
                                     t->o.seat);
    int r = send_packet(t, s->packet, s->len, mark, interface);

    if (r < 0)
        say_dropped(t, c, -r);
}
