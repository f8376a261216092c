/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an upstream can do, found by asking. What it is asked to connect to is nobody: addresses of
 * RFC 5737 and RFC 3849, a name of RFC 2606. Its words on them tell what it understands.
 */
#ifndef UNDERSOCK_DOCTOR_PROBE_H
#define UNDERSOCK_DOCTOR_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"
#include "config/config.h"
#include "upstream/upstream.h"

enum probe_verdict { PROBE_UNKNOWN, PROBE_YES, PROBE_NO };

enum probe_ability {
    PROBE_CONNECT_IPV4,
    PROBE_CONNECT_IPV6,
    PROBE_CONNECT_NAME,
    PROBE_UDP_ASSOCIATE,
    PROBE_BIND,
    PROBE_PIPELINING, /* greeting, password and request in one go */
    PROBE_ABILITIES,
};

struct probe_answer {
    enum probe_verdict verdict;
    char text[120]; /* what it said, or did not */
};

struct probe {
    char why[256];  /* it cannot be probed further; "": it was */
    struct addr at; /* port 0: not even its address is known */
    bool connected, logged_in;
    int64_t connect_us; /* to the connection; and from there until it has let us in */
    int64_t handshake_us;
    bool has_methods; /* SOCKS5: which of these it takes, each offered alone */
    bool none, gssapi, password;
    bool asked_password; /* it wanted ours, and took it */
    struct probe_answer abilities[PROBE_ABILITIES];
};

/* "connect-ipv4" and so on. */
const char *probe_ability_name(enum probe_ability a);

/* Asks the first upstream of a configuration, without its `via`. Takes seconds: silence is waited
 * for. Works in a child without privileges. 0, also where `ret->why` says what failed; or -errno.
 */
int probe_upstream(const struct config *c, struct probe *ret);

#endif
