/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/listeners.h */
#include "keeper/listeners.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

#define PORT_TRIES 64
#define PORT_STEP  64 /* beyond the ports of our own captures */

struct listeners {
    struct listener *first;
};

int listeners_create(struct listeners **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

static void remove_at(struct listener **at)
{
    struct listener *gone = *at;

    *at = gone->next;
    fd_close(&gone->fd);
    free(gone);
}

void listeners_destroy(struct listeners *l)
{
    while (l && l->first)
        remove_at(&l->first);
    free(l);
}

static bool belongs(const struct listener *i, const struct capture_policy *p)
{
    return i->hook == p->hook && strcmp(i->name, p->name) == 0;
}

struct listener *listeners_next(struct listeners *l, const struct capture_policy *policy,
                                struct listener *after)
{
    struct listener *i = after ? after->next : l->first;

    while (i && !belongs(i, policy))
        i = i->next;
    return i;
}

void listeners_unmark(struct listeners *l)
{
    for (struct listener *i = l->first; i; i = i->next)
        i->wanted = false;
}

void listeners_want(struct listeners *l, int fd)
{
    for (struct listener *i = l->first; i; i = i->next)
        i->wanted |= i->fd == fd;
}

void listeners_prune(struct listeners *l)
{
    for (struct listener **at = &l->first; *at;) {
        if ((*at)->wanted)
            at = &(*at)->next;
        else
            remove_at(at);
    }
}

static struct addr loopback(bool v4, uint16_t port)
{
    static const uint8_t one[16] = {[15] = 1};
    struct addr a;

    if (v4)
        addr_set_v4(&a, (const uint8_t[]){127, 0, 0, 1}, port);
    else
        addr_set_v6(&a, one, port);
    return a;
}

static int open_listener(const struct capture_policy *p, bool udp, const struct addr *at,
                         struct addr *ret_at)
{
    if (udp)
        return fd_listen_udp(at, ret_at);
    return fd_listen(
        at, FD_LISTEN_REUSE_PORT | (p->hook == CAPTURE_GATEWAY ? FD_LISTEN_TRANSPARENT : 0),
        ret_at);
}

static int add(struct listeners *l, const struct capture_policy *p, bool udp, bool v4, unsigned row,
               unsigned number, uint16_t port)
{
    struct listener *i = calloc(1, sizeof(*i));
    struct addr at = loopback(v4, port);

    if (!i)
        return -ENOMEM;
    i->fd = open_listener(p, udp, &at, &i->at);
    if (i->fd < 0) {
        int r = i->fd;

        free(i);
        return r;
    }
    i->udp = udp;
    i->v4 = v4;
    i->row = row;
    i->number = number;
    i->hook = p->hook;
    i->wanted = true;
    memcpy(i->name, p->name, sizeof(i->name));
    i->next = l->first;
    l->first = i;
    return i->at.port;
}

/*
 * Whether the port is free. SO_REUSEPORT would let us in beside another root process that uses it
 * too, and we would share its connections: so ask without.
 */
static int try_port(bool udp, bool v4, uint16_t port)
{
    struct addr at = loopback(v4, port), bound;
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&at, &sa);
    int fd = udp ? socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0) : fd_listen(&at, 0, &bound);
    int r = fd < 0 ? (udp ? -errno : fd) : 0;

    if (r == 0 && udp && bind(fd, (struct sockaddr *)&sa, len) < 0)
        r = -errno;
    if (r == 0 && udp) {
        len = sizeof(sa);
        r = getsockname(fd, (struct sockaddr *)&sa, &len) < 0
                ? -errno
                : addr_from_sockaddr((struct sockaddr *)&sa, len, &bound);
    }
    fd_close(&fd);
    return r < 0 ? r : bound.port;
}

/* A port that is free in both families, or in IPv4 alone on a host without IPv6. */
static int find_port(bool udp, uint16_t first, bool *ret_v6)
{
    int v4 = -EADDRINUSE, v6;

    for (unsigned i = 0; i < PORT_TRIES; i++) {
        uint32_t candidate = first ? first + i * PORT_STEP : 0;

        if (candidate > UINT16_MAX)
            first = 0, candidate = 0;
        v4 = try_port(udp, true, (uint16_t)candidate);
        if (v4 == -EADDRINUSE)
            continue;
        if (v4 < 0)
            return v4;
        v6 = try_port(udp, false, (uint16_t)v4);
        *ret_v6 = v6 > 0;
        if (v6 != -EADDRINUSE)
            return v4;
    }
    return -EADDRINUSE;
}

/* The lowest number that no listener has: also none that goes when this reload has succeeded, as
 * the workers that know it may still be at work. */
static unsigned find_number(const struct listeners *l, bool udp)
{
    unsigned number = 0;

    for (const struct listener *i = l->first; i;) {
        if (i->udp == udp && i->number == number) {
            number++;
            i = l->first;
        } else {
            i = i->next;
        }
    }
    return number;
}

static int provide(struct listeners *l, const struct capture_policy *policy, bool udp,
                   unsigned rows, uint16_t port, uint16_t ret_ports[2], unsigned *ret_number,
                   char *why, size_t why_size)
{
    unsigned have[2] = {0, 0}, number = find_number(l, udp);
    uint16_t ports[2] = {0, 0};
    bool v6 = false;

    for (struct listener *i = listeners_next(l, policy, NULL); i;
         i = listeners_next(l, policy, i)) {
        if (i->udp != udp)
            continue;
        i->wanted = true;
        have[i->v4]++;
        number = i->number;
        ports[i->v4] = i->at.port;
    }
    if (have[true] == 0) {
        int r = find_port(udp, port, &v6);

        if (r < 0) {
            snprintf(why, why_size, "capture %s: cannot listen on 127.0.0.1: %s; is lo up?",
                     policy->name, strerror(-r));
            return r;
        }
        ports[true] = (uint16_t)r;
        ports[false] = v6 ? (uint16_t)r : 0;
    }
    for (unsigned family = 0; family < 2; family++) {
        for (unsigned row = have[family]; ports[family] != 0 && row < rows; row++) {
            int r = add(l, policy, udp, family, row, number, ports[family]);

            if (r < 0) {
                snprintf(why, why_size, "capture %s: cannot listen on %sport %u: %s", policy->name,
                         udp ? "UDP " : "", ports[family], strerror(-r));
                return r;
            }
        }
    }
    ret_ports[true] = ports[true];
    ret_ports[false] = ports[false];
    *ret_number = number;
    return 0;
}

int listeners_provide(struct listeners *l, struct capture_policy *policy, unsigned rows,
                      uint16_t port, char *why, size_t why_size)
{
    uint16_t ports[2];
    unsigned number;
    int r = provide(l, policy, false, rows, port, ports, &number, why, why_size);

    if (r == 0) {
        policy->port_v4 = ports[true];
        policy->port_v6 = ports[false];
        policy->early = number;
    }
    return r;
}

int listeners_provide_udp(struct listeners *l, struct capture_policy *policy, unsigned rows,
                          uint16_t port, char *why, size_t why_size)
{
    uint16_t ports[2];
    unsigned number;
    int r = provide(l, policy, true, rows, port, ports, &number, why, why_size);

    if (r == 0) {
        policy->udp_port_v4 = ports[true];
        policy->udp_port_v6 = ports[false];
    }
    return r;
}
