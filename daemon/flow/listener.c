/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Accepting: from a captured connection to a flow. Whatever cannot be served is reset at once and
 * counted: a full table, no descriptor left, a connection that nobody redirected, a flow that has
 * come back to us.
 *
 * When no descriptor is left for accept(), a level-triggered listener would wake us for ever: a
 * reserve descriptor is given up for one accept() and reset, and if even that fails, the listeners
 * rest for a while.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "flow/hold.h"
#include "flow/table.h"
#include "log.h"

#define ACCEPT_BATCH 64
#define REST         INT64_C(100000000)
#define FULL_LOG     INT64_C(10000000000)

int listeners_register(struct flow_table *t)
{
    if (t->paused)
        return 0;
    for (size_t i = 0; i < t->o.n_listeners; i++) {
        if (t->draining && !t->o.listeners[i].seat)
            continue;
        int r = loop_add(t->o.loop, t->o.listeners[i].fd, EPOLLIN,
                         loop_ref(KIND_LISTENER, 0, (uint32_t)i));

        if (r < 0 && r != -EEXIST)
            return r;
    }
    if (t->reserve < 0 && t->o.n_listeners > 0)
        t->reserve = dup(t->o.listeners[0].fd);
    return 0;
}

void listeners_unregister(struct flow_table *t, bool seats_too)
{
    for (size_t i = 0; i < t->o.n_listeners; i++)
        if (seats_too || !t->o.listeners[i].seat)
            loop_remove(t->o.loop, t->o.listeners[i].fd);
}

static void say_full(struct flow_table *t, const char *what)
{
    int64_t now = loop_now(t->o.loop);

    t->stats.refused_full++;
    if (now < t->next_full_log)
        return;
    t->next_full_log = now + FULL_LOG;
    log_warning("%s: new connections are refused (%lu so far); raise it or have fewer of them",
                what, (unsigned long)t->stats.refused_full);
}

/* Nothing can be accepted for want of descriptors or memory. */
static void out_of_descriptors(struct flow_table *t, int listener)
{
    fd_close(&t->reserve);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        say_full(t, "the limit of open files is reached");
        fd_close(&fd);
    }
    t->reserve = dup(listener);
    if (fd >= 0)
        return;
    t->paused = true;
    listeners_unregister(t, true);
    loop_timer_set(t->o.loop, &t->resume, REST, loop_ref(KIND_LISTENER, 0, 0));
}

bool listeners_came_back(const struct flow_table *t, const struct addr *destination)
{
    for (size_t i = 0; i < t->o.n_listeners; i++) {
        if (addr_equal(&t->o.listeners[i].at, destination))
            return true;
    }
    for (size_t i = 0; i < t->o.n_upstreams; i++) {
        if (addr_equal(&t->o.upstreams[i], destination))
            return true;
    }
    return false;
}

void listeners_say_loop(struct flow_table *t, unsigned capture, const struct addr *client,
                        const struct addr *destination)
{
    char a[ADDR_STRLEN], b[ADDR_STRLEN];

    if (!t->said_loop)
        log_warning("capture %s: a loop: %s asks for %s, which is our own listener or upstream; "
                    "it was reset. Exclude it with not-uid or not-to (said once)",
                    t->o.captures[capture].name, addr_format(client, a),
                    addr_format(destination, b));
    t->said_loop = true;
}

static void accepted(struct flow_table *t, unsigned index, int fd, const struct addr *client)
{
    const struct flow_listener *l = &t->o.listeners[index];
    struct origin origin = {.known = 0};
    char a[ADDR_STRLEN], b[ADDR_STRLEN];

    if (l->seat) {
        hold_accepted(t, index, fd, client);
        return;
    }
    int r = l->origin.ops->lookup(l->origin.ctx, fd, client, &l->at, &origin);

    if (r < 0) {
        t->stats.refused_stray++;
        if (!t->said_stray)
            log_warning("capture %s: a connection from %s that nobody redirected was reset; our "
                        "listener %s is not for direct use (said once)",
                        t->o.captures[l->capture].name, addr_format(client, a),
                        addr_format(&l->at, b));
        t->said_stray = true;
    } else if (listeners_came_back(t, &origin.destination)) {
        t->stats.refused_loop++;
        listeners_say_loop(t, l->capture, client, &origin.destination);
    } else {
        flow_begin(t, l->capture, fd, client, &origin);
        return;
    }
    fd_close(&fd);
}

bool listener_accept(struct flow_table *t, uint32_t index)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct addr client;
    int fd = accept4(t->o.listeners[index].fd, (struct sockaddr *)&sa, &len,
                     SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            out_of_descriptors(t, t->o.listeners[index].fd);
        return errno == ECONNABORTED || errno == EINTR;
    }
    if (addr_from_sockaddr((struct sockaddr *)&sa, len, &client) < 0)
        fd_close(&fd);
    else
        accepted(t, index, fd, &client);
    return true;
}

void listener_event(struct flow_table *t, uint32_t index)
{
    if (index >= t->o.n_listeners || t->paused || (t->draining && !t->o.listeners[index].seat))
        return;
    for (unsigned i = 0; i < ACCEPT_BATCH && listener_accept(t, index); i++)
        ;
}
