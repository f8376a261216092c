/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of a UDP association: the request, the sockets, who its client is, the end. What moves
 * through it is in datagrams.c.
 *
 * DST.ADDR of the request is where the client says that it will send from. Many a client says
 * 0.0.0.0, or what a translator between us has made wrong, so the address that counts is that of
 * the control connection; DST.PORT is believed when DST.ADDR is that address, or none.
 */
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "log.h"
#include "serve/udp.h"
#include "socks/socks4.h"
#include "socks/socks5_server.h"

#define NONE UINT32_MAX

/* What may wait in the kernel, as far as net.core.rmem_max allows: a burst of large datagrams. */
#define BUFFER_SIZE (1024 * 1024)

int udp_create(uint32_t n, unsigned max_lookups, struct udp **ret)
{
    struct udp *u = calloc(1, sizeof(*u));

    if (!u)
        return -ENOMEM;
    u->associations = calloc(n, sizeof(*u->associations));
    if (!u->associations || udp_batch_create(&u->batch) < 0) {
        udp_destroy(u);
        return -ENOMEM;
    }
    u->n = n;
    u->max_lookups = max_lookups;
    u->free = NONE;
    *ret = u;
    return 0;
}

void udp_destroy(struct udp *u)
{
    if (!u)
        return;
    udp_batch_destroy(u->batch);
    free(u->associations);
    free(u);
}

/* A socket that is watched as `kind`, bound to `at` unless that is NULL. The descriptor or -errno.
 */
static int open_socket(struct serve *sv, const struct association *a, int family, unsigned kind,
                       const struct addr *at)
{
    struct sockaddr_storage sa;
    int r = 0, on = 1, size = BUFFER_SIZE;
    int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    serve_mark(sv, fd);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
        r = -errno;
    if (r == 0 && at && bind(fd, (struct sockaddr *)&sa, addr_to_sockaddr(at, &sa)) < 0)
        r = -errno;
    if (r == 0)
        r = loop_add(sv->loop, fd, EPOLLIN,
                     loop_ref(kind, a->generation, (uint32_t)(a - sv->udp->associations)));
    if (r < 0) {
        fd_close(&fd);
        return r;
    }
    return fd;
}

/* Towards the client. `ret_bound` is where it sends to. 0 or -errno. */
static int open_inner(struct serve *sv, struct association *a, const struct session *s,
                      struct addr *ret_bound)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct addr at;
    int r = session_client_address(s, true, &at);

    if (r < 0)
        return r;
    at.port = 0;
    r = open_socket(sv, a, addr_is_v4(&at) ? AF_INET : AF_INET6, SERVE_KIND_UDP_INNER, &at);
    if (r < 0)
        return r;
    a->inner = r;
    if (getsockname(a->inner, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    return addr_from_sockaddr((struct sockaddr *)&sa, len, ret_bound);
}

int udp_outer(struct serve *sv, struct association *a, enum udp_family family)
{
    if (a->outer[family] >= 0)
        return a->outer[family];
    int r = family == UDP_V4 ? open_socket(sv, a, AF_INET, SERVE_KIND_UDP_OUTER_V4, NULL)
                             : open_socket(sv, a, AF_INET6, SERVE_KIND_UDP_OUTER_V6, NULL);

    if (r >= 0)
        a->outer[family] = r;
    return r;
}

bool udp_may_send_to(const struct addr *to)
{
    if (addr_is_v4(to))
        return (to->ip[12] & 0xf0) != 0xe0 && memcmp(to->ip + 12, "\xff\xff\xff\xff", 4) != 0;
    return to->ip[0] != 0xff;
}

bool udp_is_client(const struct association *a, const struct addr *from)
{
    return addr_same_ip(&a->client, from) && a->client.scope == from->scope &&
           (a->client.port == 0 || a->client.port == from->port);
}

int udp_learn_client(struct association *a, const struct addr *from)
{
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(from, &sa);

    if (connect(a->inner, (struct sockaddr *)&sa, len) < 0)
        return -errno;
    a->client = *from;
    a->connected = true;
    return 0;
}

/* The client, as far as the request tells. 0 or -errno. */
static int expect_client(struct association *a, const struct session *s,
                         const struct socks_dest *dest)
{
    struct addr said, from;
    int r = session_client_address(s, false, &from);

    if (r < 0)
        return r;
    a->client = from;
    a->client.port = 0;
    said = dest->addr;
    if (dest->type == SOCKS_DEST_NAME && !session_literal(dest->name, dest->addr.port, &said))
        return 0;
    if (said.port == 0 || (!addr_is_any(&said) && !addr_same_ip(&said, &from)))
        return 0;
    from.port = said.port;
    return udp_learn_client(a, &from);
}

static struct association *take(struct udp *u)
{
    uint32_t i = u->free;

    if (i == NONE && u->used == u->n)
        return NULL;
    if (i == NONE)
        i = u->used++;
    else
        u->free = u->associations[i].next;
    struct association *a = &u->associations[i];
    uint32_t generation = a->generation;

    memset(a, 0, sizeof(*a));
    a->generation = generation;
    a->inner = a->outer[UDP_V4] = a->outer[UDP_V6] = -1;
    return a;
}

static void give_back(struct serve *sv, struct association *a)
{
    udp_names_clear(sv, a);
    fd_close(&a->inner);
    fd_close(&a->outer[UDP_V4]);
    fd_close(&a->outer[UDP_V6]);
    a->generation++;
    a->next = sv->udp->free;
    sv->udp->free = (uint32_t)(a - sv->udp->associations);
}

static void refuse_full(struct serve *sv, struct session *s)
{
    uint64_t suppressed;

    sv->counters.udp_full++;
    if (serve_log_allowed(sv, &sv->log_associations, &suppressed))
        log_warning("all %u UDP associations are in use: request refused (%llu more since the last "
                    "line)",
                    sv->udp->n, (unsigned long long)suppressed);
    session_refuse(sv, s, SOCKS5_REP_FAILURE, SOCKS4_REP_REJECTED);
}

void session_associate(struct serve *sv, struct session *s, const struct socks_dest *dest)
{
    struct association *a = take(sv->udp);
    struct addr bound;
    char text[ADDR_STRLEN];

    if (!a) {
        refuse_full(sv, s);
        return;
    }
    a->last = loop_now(sv->loop);
    int r = open_inner(sv, a, s, &bound);

    if (r == 0)
        r = expect_client(a, s, dest);
    if (r < 0) {
        give_back(sv, a);
        sv->counters.udp_failed++;
        log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "no UDP association: %s", strerror(-r));
        session_refuse_errno(sv, s, r);
        return;
    }
    r = loop_timer_set(sv->loop, &s->timer, sv->udp_idle, session_ref(sv, s, SERVE_KIND_TIMER));
    if (r == 0)
        r = session_reply(s, &bound);
    if (r < 0) {
        give_back(sv, a);
        session_close(sv, s, false);
        return;
    }
    if (log_get_level() >= LOG_LEVEL_DEBUG)
        log_flow(LOG_LEVEL_DEBUG, session_id(sv, s), "UDP association at %s",
                 addr_format(&bound, text));
    session_set_state(s, SESSION_ASSOCIATED);
    s->association = a;
    sv->counters.associated++;
    sv->counters.associations++;
    session_drain(sv, s); /* what came behind the request, which may be the end already */
}

void session_associate_finish(struct serve *sv, struct session *s)
{
    struct association *a = s->association;

    log_flow(LOG_LEVEL_DEBUG, session_id(sv, s),
             "UDP association over: %" PRIu64 " datagrams up, %" PRIu64 " down", a->up, a->down);
    give_back(sv, a);
    s->association = NULL;
    sv->counters.associations--;
}

void session_associate_idle(struct serve *sv, struct session *s)
{
    int64_t left = s->association->last + sv->udp_idle - loop_now(sv->loop);

    if (left > 0) {
        /* Never refused: it has just expired, and so its place is free. */
        (void)loop_timer_set(sv->loop, &s->timer, left, session_ref(sv, s, SERVE_KIND_TIMER));
        return;
    }
    sv->counters.udp_idle++;
    session_close(sv, s, true);
}
