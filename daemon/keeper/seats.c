/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/seats.h */
#include "keeper/seats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "nft/log.h"

struct seats {
    struct seat all[CAPTURE_SEATS];
};

int seats_create(struct seats **ret)
{
    struct seats *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    for (size_t i = 0; i < CAPTURE_SEATS; i++)
        s->all[i] = (struct seat){.log = -1, .v4.fd = -1, .v6.fd = -1};
    *ret = s;
    return 0;
}

void seats_destroy(struct seats *s)
{
    if (s)
        seats_release(s, 0, CAPTURE_SEATS);
    free(s);
}

int seats_listen(bool v4, unsigned port, bool transparent, struct seat_listener *ret)
{
    static const uint8_t one[16] = {[15] = 1};
    const uint8_t localhost[4] = {127, 0, 0, 1};
    unsigned flags = transparent ? FD_LISTEN_TRANSPARENT : 0;
    struct seat_listener l;
    struct addr at;

    if (v4)
        addr_set_v4(&at, localhost, (uint16_t)port);
    else
        addr_set_v6(&at, one, (uint16_t)port);
    l.fd = fd_listen(&at, flags, &l.at);
    if (l.fd == -EADDRINUSE && port != 0) {
        at.port = 0;
        l.fd = fd_listen(&at, flags, &l.at);
    }
    if (l.fd < 0 && v4)
        return l.fd;
    if (l.fd < 0)
        l = (struct seat_listener){.fd = -1};
    *ret = l;
    return 0;
}

static int open_seat(struct seat *s, unsigned number, bool daemon, char *why, size_t why_size)
{
    unsigned port = daemon ? SEATS_PORT + number : 0;
    int r = nft_log_open(CAPTURE_LOG_GROUP + number, &s->log, why, why_size);

    if (r < 0) {
        s->log = -1;
        return r;
    }
    r = seats_listen(true, port, true, &s->v4);
    if (r == 0)
        r = seats_listen(false, port, true, &s->v6);
    if (r < 0)
        snprintf(why, why_size, "cannot listen on 127.0.0.1: %s; is lo up?", strerror(-r));
    return r;
}

static bool all_free(const struct seats *s, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++) {
        if (s->all[i].taken)
            return false;
    }
    return true;
}

int seats_take(struct seats *s, unsigned n, bool nft, bool daemon, char *why, size_t why_size)
{
    unsigned first = 0;
    int r = 0;

    while (first + n <= CAPTURE_SEATS && !all_free(s, first, n))
        first++;
    if (first + n > CAPTURE_SEATS) {
        snprintf(why, why_size,
                 "too many workers still finish the flows of earlier configurations: reload when "
                 "some have ended, or restart the daemon");
        return -ENOSPC;
    }
    for (unsigned i = first; r == 0 && i < first + n; i++) {
        s->all[i].taken = true;
        if (nft)
            r = open_seat(&s->all[i], i, daemon, why, why_size);
    }
    if (r < 0) {
        seats_release(s, first, n);
        return r;
    }
    return (int)first;
}

void seats_release(struct seats *s, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++) {
        fd_close(&s->all[i].log);
        fd_close(&s->all[i].v4.fd);
        fd_close(&s->all[i].v6.fd);
        s->all[i] = (struct seat){.log = -1, .v4.fd = -1, .v6.fd = -1};
    }
}

const struct seat *seats_get(const struct seats *s, unsigned number)
{
    return &s->all[number];
}

size_t seats_list(const struct seats *s, unsigned first, unsigned n, struct capture_seat *ret)
{
    size_t count = 0;

    for (unsigned i = 0; i < CAPTURE_SEATS; i++) {
        const struct seat *seat = &s->all[i];

        if (!seat->taken)
            continue;
        ret[count++] = (struct capture_seat){
            .number = i,
            .serving = i >= first && i < first + n,
            .port_v4 = seat->v4.fd >= 0 ? seat->v4.at.port : 0,
            .port_v6 = seat->v6.fd >= 0 ? seat->v6.at.port : 0,
        };
    }
    return count;
}

size_t seats_plan(unsigned n, bool nft, struct capture_seat *ret)
{
    for (unsigned i = 0; i < n; i++) {
        uint16_t port = nft ? (uint16_t)(SEATS_PORT + i) : 0;

        ret[i] =
            (struct capture_seat){.number = i, .serving = true, .port_v4 = port, .port_v6 = port};
    }
    return n;
}
