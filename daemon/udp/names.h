/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Destinations that stand for a name (fake DNS), or in whose place another is asked (dns-server),
 * and the answers from behind them. Inside udp/ only. Pure.
 *
 * The name leaves in the header of a datagram; the answer comes with the remote's real address in
 * its header, and the application knows nothing but the address that stood for the name. So an
 * association remembers the last few destinations it was asked for, and an answer is attributed:
 *
 * 1. From an address that was asked for by itself: it is from there.
 * 2. From an address that was learnt for a name before, or is asked in somebody's place: from that
 *    name, or from who was meant.
 * 3. Its port is that of names which are still without an answer: from the one of them that was
 *    used last. When it is the only one, the address is learnt.
 * 4. Its port is that of names all of which have had answers (a server with several addresses, or a
 *    name that was resolved anew): from the one of them that was used last.
 * 5. Else it is from where it says: a remote that nobody asked.
 *
 * An application that begins with two names of one port at the same moment, on one socket, may so
 * see the first answers exchanged; nothing is learnt from those, and the next are looked at afresh.
 */
#ifndef UNDERSOCK_UDP_NAMES_H
#define UNDERSOCK_UDP_NAMES_H

#include "udp/udp.h"

#define UDP_NAMES 10

struct udp_names {
    uint32_t n;
    struct udp_named {
        struct addr asked;   /* as the application knows it */
        struct addr learned; /* of a name: where it answers from; port 0: not known */
        uint32_t is_name;    /* or another is asked */
    } at[UDP_NAMES];         /* the one used last comes first */
};

/* The client sends to this destination. Of too many the real ones are forgotten before the names,
 * and the ones not used for longest first. */
void udp_names_asked(struct udp_names *m, const struct addr *destination, bool is_name);
/* The client sends to this destination, and the datagram goes to `server` instead. */
void udp_names_redirected(struct udp_names *m, const struct addr *destination,
                          const struct addr *server);
/* What the client is to see as the source of an answer from `from`, which it may be itself. */
const struct addr *udp_names_source(struct udp_names *m, const struct addr *from);
/* The same for an answer whose header has a name; NULL: nobody asked for it. */
const struct addr *udp_names_by_name(const struct udp_names *m, const char *name, uint16_t port,
                                     udp_name_fn lookup, void *ctx);

#endif
