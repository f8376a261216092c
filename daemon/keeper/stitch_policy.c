/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/stitch_policy.h */
#include "keeper/stitch_policy.h"

#include <errno.h>
#include <stdio.h>

#include "upstream/handshake.h"

#define HOLD_OFF     INT64_C(5000000000)
#define HOLD_OFF_MAX INT64_C(640000000000)

#define SOCKS5_METHOD_NONE_ACCEPTED 0xff
#define SOCKS5_REP_NET              3 /* network, host unreachable, refused, TTL expired */
#define SOCKS5_REP_TTL              6
#define SOCKS5_REP_NO_COMMAND       7
#define SOCKS4_REP_NOT_GRANTED      0x5b

int stitch_choose(const struct config *c, size_t capture, const char **ret_why)
{
    const struct config_capture *k = &c->captures[capture];
    const struct config_group *g = NULL;

    if (k->policy.hook != CAPTURE_CGROUP || k->policy.action != CAPTURE_PROXY)
        *ret_why = "only captures with hook = \"cgroup\" can be stitched";
    else if (k->connect == CONNECT_EARLY)
        *ret_why = "connect = \"early\" is the relay's";
    else if (k->policy.when_down == CAPTURE_DOWN_DIRECT)
        *ret_why = "when-down = \"direct\" needs the relay";
    else if (c->idle_timeout > 0)
        *ret_why = "idle-timeout needs the relay";
    else if (k->target == TARGET_UPSTREAM)
        return (int)k->target_index;
    else if (k->target == TARGET_GROUP)
        g = &c->groups[k->target_index];
    if (!g)
        return -1;
    if (g->n_members > 1 && c->fast_path == FAST_AUTO) {
        *ret_why = "its group has other members to ask when one fails, which takes the relay";
        return -1;
    }
    if (g->n_members == 1 || (g->n_members > 1 && g->policy == POLICY_FAILOVER))
        return (int)g->members[0];
    *ret_why = "its group chooses for each connection: only policy = \"failover\" can be stitched";
    return -1;
}

int stitch_may_ask(const struct upstream *u, const struct addr *address, unsigned *ret_no_auth,
                   const char **ret_why)
{
    const struct upstream_hop *hop = &u->hops[0];
    bool password = false;
    unsigned of_family = 0, no_auth = 0;

    for (unsigned i = 0; i < hop->n_addrs; i++)
        of_family += addr_is_v4(&hop->addrs[i]) == addr_is_v4(address);
    for (unsigned i = 0; i < u->n_hops; i++)
        password |= u->hops[i].config->url.has_user;
    if (of_family > 1) {
        *ret_why = "its upstream has other addresses to ask when one fails, which takes the relay";
        return -EOPNOTSUPP;
    }
    if (!upstream_learnt(u, address, &no_auth) && (hop->n_addrs > 1 || password)) {
        *ret_why = "its upstream has yet to answer a relayed connection, which shows how";
        return -EAGAIN;
    }
    *ret_no_auth = no_auth;
    return 0;
}

static bool is_socks5(const struct config_url *url)
{
    return url->scheme == SCHEME_SOCKS5 || url->scheme == SCHEME_SOCKS5H;
}

/* The hop that a step of script_build()'s belongs to, and which of its own steps it is. */
static unsigned hop_of(const struct upstream *u, unsigned no_auth, unsigned step, unsigned *ret_own)
{
    unsigned hop = 0;

    for (; hop + 1 < u->n_hops; hop++) {
        const struct config_url *url = &u->hops[hop].config->url;
        unsigned n = !is_socks5(url) ? 1 : url->has_user && !(no_auth >> hop & 1) ? 3 : 2;

        if (step < n)
            break;
        step -= n;
    }
    *ret_own = step;
    return hop;
}

enum stitch_blame stitch_judge(const struct upstream *u, unsigned no_auth,
                               const struct stitch_event *e, unsigned *ret_hop)
{
    unsigned own, hop = hop_of(u, no_auth, e->step, &own);
    const struct config_url *url = &u->hops[hop].config->url;
    bool last_hop = hop + 1 == u->n_hops, password = url->has_user && !(no_auth >> hop & 1);
    unsigned request = !is_socks5(url) ? 0 : password ? 2 : 1;

    *ret_hop = hop;
    switch (e->reason) {
    case STITCH_BY_REPLY:
        return is_socks5(url) && e->code == SOCKS5_REP_NO_COMMAND ? STITCH_BLAME_UPSTREAM
                                                                  : STITCH_BLAME_NOBODY;
    case STITCH_BY_HOP:
        if (is_socks5(url) && own == 0 && password &&
            (e->code == 0 || e->code == SOCKS5_METHOD_NONE_ACCEPTED))
            return STITCH_BLAME_METHOD;
        return STITCH_BLAME_UPSTREAM;
    case STITCH_BY_TIMEOUT:
        /* Asked for the destination, it may be waiting for that itself. */
        return last_hop && own == request ? STITCH_BLAME_NOBODY : STITCH_BLAME_UPSTREAM;
    default:
        return STITCH_BLAME_UPSTREAM;
    }
}

bool stitch_worth_a_line(const struct upstream *u, const struct stitch_event *e)
{
    if (e->reason != STITCH_BY_REPLY)
        return true;
    if (!is_socks5(&u->hops[u->n_hops - 1].config->url))
        return e->code != SOCKS4_REP_NOT_GRANTED;
    return e->code < SOCKS5_REP_NET || e->code > SOCKS5_REP_TTL;
}

/* In the words of dial_describe(): whoever reads the log need not know which of the two it was. */
const char *stitch_describe(const struct upstream *u, unsigned no_auth,
                            const struct stitch_event *e, char *buf, size_t size)
{
    unsigned own, hop = hop_of(u, no_auth, e->step, &own);
    const struct config_url *url = &u->hops[hop].config->url;
    char what[CONFIG_HOST_MAX + 96], at[CONFIG_HOST_MAX + 64] = "";

    if (u->n_hops > 1)
        snprintf(at, sizeof(at), "hop %u (%s:%u): ", hop + 1, url->host, url->port);
    switch (e->reason) {
    case STITCH_BY_REPLY:
        handshake_describe_reply(url->scheme, e->code, what, sizeof(what));
        break;
    case STITCH_BY_HOP:
        if (is_socks5(url) && own == 0)
            snprintf(what, sizeof(what),
                     "it accepts none of our authentication methods; "
                     "give a user and a password-file");
        else if (is_socks5(url) && own == 1 && url->has_user && !(no_auth >> hop & 1))
            snprintf(what, sizeof(what), "it refused the user name or password");
        else
            handshake_describe_reply(url->scheme, e->code, what, sizeof(what));
        break;
    case STITCH_BY_PROTOCOL:
        snprintf(what, sizeof(what), "its answer is not SOCKS; is this the right port and scheme?");
        break;
    case STITCH_BY_RESET:
    case STITCH_BY_CLOSE:
        snprintf(what, sizeof(what), "it closed the connection during the handshake");
        break;
    case STITCH_BY_REFUSAL:
        snprintf(what, sizeof(what), "cannot connect to %s:%u: Connection refused", url->host,
                 url->port);
        break;
    case STITCH_BY_SILENCE:
        snprintf(what, sizeof(what), "no connection to %s:%u within connect-timeout", url->host,
                 url->port);
        break;
    case STITCH_BY_UNREACHABLE:
        snprintf(what, sizeof(what), "it cannot be reached (ICMP code %u)", e->code);
        break;
    default:
        snprintf(what, sizeof(what), "no answer within handshake-timeout");
    }
    snprintf(buf, size, "%s%s", at, what);
    return buf;
}

int64_t stitch_hold_off(unsigned failures)
{
    int64_t t = HOLD_OFF;

    while (failures-- > 1 && t < HOLD_OFF_MAX)
        t *= 2;
    return t < HOLD_OFF_MAX ? t : HOLD_OFF_MAX;
}
