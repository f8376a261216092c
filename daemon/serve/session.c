/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One session as an object: its states, how it is found, how it ends. What it does is in
 * handshake.c and dial.c, who calls that in serve.c.
 */
#include "serve/session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/ident.h"
#include "log.h"

#define LOG_PERIOD INT64_C(10000000000)

#define BIT(state) (1u << (state))

void session_set_state(struct session *s, enum session_state state)
{
    static const uint16_t allowed[SESSION_STATES] = {
        [SESSION_FREE] = BIT(SESSION_GREETING),
        [SESSION_GREETING] = BIT(SESSION_AUTH) | BIT(SESSION_REQUEST) | BIT(SESSION_RESOLVING) |
                             BIT(SESSION_DIALING) | BIT(SESSION_BINDING) | BIT(SESSION_DRAINING) |
                             BIT(SESSION_CLOSED),
        [SESSION_AUTH] = BIT(SESSION_REQUEST) | BIT(SESSION_DRAINING) | BIT(SESSION_CLOSED),
        [SESSION_REQUEST] = BIT(SESSION_RESOLVING) | BIT(SESSION_DIALING) | BIT(SESSION_BINDING) |
                            BIT(SESSION_ASSOCIATED) | BIT(SESSION_DRAINING) | BIT(SESSION_CLOSED),
        [SESSION_RESOLVING] = BIT(SESSION_DIALING) | BIT(SESSION_BINDING) | BIT(SESSION_DRAINING) |
                              BIT(SESSION_CLOSED),
        [SESSION_DIALING] = BIT(SESSION_RELAY) | BIT(SESSION_DRAINING) | BIT(SESSION_CLOSED),
        [SESSION_BINDING] = BIT(SESSION_RELAY) | BIT(SESSION_DRAINING) | BIT(SESSION_CLOSED),
        [SESSION_RELAY] = BIT(SESSION_CLOSED),
        [SESSION_ASSOCIATED] = BIT(SESSION_CLOSED),
        [SESSION_DRAINING] = BIT(SESSION_CLOSED),
        [SESSION_CLOSED] = BIT(SESSION_FREE),
    };

    if (!(allowed[s->state] & BIT(state))) {
        log_error("bug: session state %u -> %u", s->state, state);
        abort();
    }
    s->state = (uint8_t)state;
}

static uint32_t session_index(const struct serve *sv, const struct session *s)
{
    return (uint32_t)(s - sv->sessions);
}

uint64_t session_ref(const struct serve *sv, const struct session *s, unsigned kind)
{
    return loop_ref(kind, s->generation, session_index(sv, s));
}

uint64_t session_id(const struct serve *sv, const struct session *s)
{
    return ident_make(0, s->generation, session_index(sv, s));
}

struct session *session_find(struct serve *sv, uint64_t ref)
{
    uint32_t index = loop_ref_index(ref);

    if (index >= sv->n_sessions)
        return NULL;
    struct session *s = &sv->sessions[index];

    if ((s->generation & 0xffffff) != loop_ref_generation(ref) || s->state == SESSION_FREE ||
        s->state == SESSION_CLOSED)
        return NULL;
    return s;
}

bool serve_log_allowed(struct serve *sv, struct serve_log_limit *limit, uint64_t *ret_suppressed)
{
    int64_t now = loop_now(sv->loop);

    if (limit->used && now - limit->last < LOG_PERIOD) {
        limit->suppressed++;
        return false;
    }
    *ret_suppressed = limit->suppressed;
    limit->used = true;
    limit->last = now;
    limit->suppressed = 0;
    return true;
}

void serve_mark(const struct serve *sv, int fd)
{
    if (sv->mark != 0) /* a privilege: who lacks it is told apart by its user */
        (void)setsockopt(fd, SOL_SOCKET, SO_MARK, &sv->mark, sizeof(sv->mark));
}

int session_client_address(const struct session *s, bool local, struct addr *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    int r = local ? getsockname(s->client, (struct sockaddr *)&sa, &len)
                  : getpeername(s->client, (struct sockaddr *)&sa, &len);

    return r < 0 ? -errno : addr_from_sockaddr((struct sockaddr *)&sa, len, ret);
}

void session_ready(struct serve *sv, struct session *s)
{
    if (s->ready)
        return;
    s->ready = true;
    s->next_ready = sv->ready;
    sv->ready = session_index(sv, s);
}

void session_close(struct serve *sv, struct session *s, bool orderly)
{
    if (s->state == SESSION_RELAY) {
        log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "%s: %" PRIu64 " up, %" PRIu64 " down",
                 orderly ? "done" : "reset", s->relay.dir[0].bytes, s->relay.dir[1].bytes);
        relay_finish(&s->relay, sv->pool);
        if (!orderly)
            sv->counters.reset++;
    } else if (s->state == SESSION_ASSOCIATED) {
        session_associate_finish(sv, s);
    } else if (s->state == SESSION_RESOLVING || s->state == SESSION_DIALING ||
               s->state == SESSION_BINDING) {
        session_dial_finish(s);
    }
    if (orderly) {
        (void)fd_reset_on_close(s->client, false);
        if (s->target >= 0)
            (void)fd_reset_on_close(s->target, false);
    }
    fd_close(&s->client);
    fd_close(&s->target);
    loop_timer_cancel(sv->loop, &s->timer);
    session_set_state(s, SESSION_CLOSED);
    s->next = sv->closed;
    sv->closed = session_index(sv, s);
    sv->counters.active--;
}
