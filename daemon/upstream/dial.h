/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Gets a connection to a destination through one upstream: dials its first hop (each of its
 * addresses in turn), then does the handshake of every hop on the same socket. Never blocks, and
 * never reads a byte beyond the last reply: what the destination sends is still in the socket when
 * it is handed over.
 *
 * The owner keeps the timer and the references; it passes events on and acts on the result.
 */
#ifndef UNDERSOCK_UPSTREAM_DIAL_H
#define UNDERSOCK_UPSTREAM_DIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "upstream/handshake.h"
#include "upstream/upstream.h"

/* DIAL_UNPROVEN: connected to an address that may not be asked yet; not a byte was sent. */
enum dial_result { DIAL_PENDING, DIAL_GRANTED, DIAL_FAILED, DIAL_UNPROVEN };

/* What failed, when it was not an answer of the handshake. */
enum dial_fault {
    DIAL_OK,
    DIAL_RESOURCE,          /* no descriptor or memory */
    DIAL_CONNECT,           /* no address of the first hop could be connected to */
    DIAL_CONNECT_TIMEOUT,   /* nor in time */
    DIAL_HANDSHAKE_TIMEOUT, /* no (whole) answer in time */
    DIAL_CLOSED,            /* the upstream closed or reset during the handshake */
    DIAL_HANDSHAKE,         /* see handshake.fault */
};

struct dial_buffer;

struct dial {
    struct upstream *upstream;
    const struct addr *destination; /* the owner's, alive until the dial has ended */
    const char *name;               /* the destination's name, or NULL */
    struct dial_buffer *buffer;
    struct handshake handshake;
    int fd;
    int os_error;  /* errno of the system call that failed */
    int app_errno; /* what the application is to see */
    uint8_t hop, address;
    uint8_t fault;   /* enum dial_fault */
    uint8_t no_auth; /* bit i: hop i has a user, and was content without */
    bool connected;
    bool may_be_there; /* an address took the connection, but reset it before we saw it, or was not
                        * asked for want of our own */
    bool associate;    /* asks for UDP */
    bool extended;     /* the handshake has had its time twice: not for each octet of a reply */
};

struct dial_env {
    struct loop *loop;
    struct timer *timer; /* the dial arms it; the owner cancels it when the dial has ended */
    uint64_t ref;        /* for the socket and the timer */
};

/* Begins. DIAL_PENDING or DIAL_FAILED. */
enum dial_result dial_start(struct dial *d, struct upstream *u, const struct addr *destination,
                            const char *name, const struct dial_env *env);
/*
 * Begins to ask for a UDP association instead, of an upstream with one SOCKS5 hop. Granted, the
 * socket is the control connection: the association lasts as long as it does.
 */
enum dial_result dial_associate(struct dial *d, struct upstream *u, const struct dial_env *env);
/* An epoll event of the socket, or LOOP_TIMEOUT. */
enum dial_result dial_event(struct dial *d, uint32_t events, const struct dial_env *env);
/* The socket is the caller's now (it stays in the loop, registered with RELAY_EVENTS). */
int dial_take(struct dial *d);
/* Closes and frees what the dial still holds. Idempotent. */
void dial_finish(struct dial *d);

/* The address of the first hop that was dialled last. Not of "direct". */
const struct addr *dial_peer(const struct dial *d);
/*
 * Granted by dial_associate(): where the datagrams go. What the upstream named, or, where that
 * cannot be meant, its own address with the port it named: it named no address, a name or a
 * multicast one; loopback, though it is elsewhere; a private one, though it is not itself at one.
 * `ret_named` (may be NULL): it is the one that was named. -EPROTO: it named no port.
 */
int dial_relay(const struct dial *d, struct addr *ret, bool *ret_named);

/* After DIAL_FAILED: what the application is to see, a positive errno. */
int dial_errno(const struct dial *d);
/* True when the upstream itself is at fault, so that another one may be tried. */
bool dial_upstream_at_fault(const struct dial *d);
/* True when nobody was there: no connection could be had, or no word came. Not when it was closed,
 * or answered with what is no answer. */
bool dial_upstream_gone(const struct dial *d);
/* True when it failed by a reply to our request: this hop, and those before it, are alive. */
bool dial_was_answered(const struct dial *d);
/* False when the answer is about the destination alone, as an application is told without a proxy
 * too. */
bool dial_worth_a_line(const struct dial *d);
/*
 * After DIAL_FAILED of dial_associate(): the upstream was there and talked SOCKS, but gave no
 * association; that says nothing of its health. Else dial_upstream_at_fault() has the word.
 */
bool dial_udp_denied(const struct dial *d);
/* One clause for the log; no credentials. */
const char *dial_describe(const struct dial *d, char *buf, size_t size);

#endif
