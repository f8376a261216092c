/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp/names.h */
#include "udp/names.h"

#include <string.h>
#include <strings.h>

static void to_front(struct udp_names *m, uint32_t i)
{
    struct udp_named n = m->at[i];

    memmove(m->at + 1, m->at, i * sizeof(m->at[0]));
    m->at[0] = n;
}

/* The place of the one to forget: the last real one, else the last. */
static uint32_t dispensable(const struct udp_names *m)
{
    for (uint32_t i = m->n; i-- > 0;) {
        if (!m->at[i].is_name)
            return i;
    }
    return m->n - 1;
}

void udp_names_asked(struct udp_names *m, const struct addr *destination, bool is_name)
{
    uint32_t i = 0;

    while (i < m->n && !addr_equal(&m->at[i].asked, destination))
        i++;
    if (i == m->n) {
        if (m->n < UDP_NAMES)
            m->n++;
        else
            i = dispensable(m);
        m->at[i] = (struct udp_named){.asked = *destination};
    }
    m->at[i].is_name = is_name; /* the fake one may have been given to another use since */
    if (i > 0)
        to_front(m, i);
}

void udp_names_redirected(struct udp_names *m, const struct addr *destination,
                          const struct addr *server)
{
    udp_names_asked(m, destination, true);
    m->at[0].learned = *server;
}

const struct addr *udp_names_source(struct udp_names *m, const struct addr *from)
{
    struct udp_named *last = NULL, *waiting = NULL;
    unsigned n_waiting = 0;

    for (uint32_t i = 0; i < m->n; i++) {
        if (!m->at[i].is_name && addr_equal(&m->at[i].asked, from))
            return from;
    }
    for (uint32_t i = 0; i < m->n; i++) {
        struct udp_named *n = &m->at[i];

        if (!n->is_name)
            continue;
        if (addr_equal(&n->learned, from))
            return &n->asked;
        if (n->asked.port != from->port)
            continue;
        if (!last)
            last = n;
        if (n->learned.port == 0) {
            n_waiting++;
            if (!waiting)
                waiting = n;
        }
    }
    if (n_waiting == 1)
        waiting->learned = *from;
    if (waiting)
        return &waiting->asked;
    return last ? &last->asked : from;
}

const struct addr *udp_names_by_name(const struct udp_names *m, const char *name, uint16_t port,
                                     udp_name_fn lookup, void *ctx)
{
    for (uint32_t i = 0; i < m->n; i++) {
        const struct udp_named *n = &m->at[i];
        const char *known = n->is_name && n->asked.port == port ? lookup(ctx, &n->asked) : NULL;

        if (known && *known && strcasecmp(known, name) == 0)
            return &n->asked;
    }
    return NULL;
}
