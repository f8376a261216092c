/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What stitch decides, without doing any of it (keeper/stitch.h does): which captures can be
 * stitched, and what a handshake that failed says about the upstream. Pure. */
#ifndef UNDERSOCK_KEEPER_STITCH_POLICY_H
#define UNDERSOCK_KEEPER_STITCH_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "stitch_abi.h"
#include "upstream/upstream.h"

/*
 * The upstream that a capture's connections can be stitched to, as its index; or -1 with a constant
 * sentence in `ret_why`: they are relayed, because something that is configured needs a relay. Says
 * nothing of the upstream itself: script_build() does.
 */
int stitch_choose(const struct config *c, size_t capture, const char **ret_why);

/*
 * fast-path = "auto" makes no connection fail that a relay would not have failed: whether an
 * upstream can be asked at this address of its first hop as a script does it, with no choice and no
 * second address. 0, with what is known of passwords in `ret_no_auth` (script_options.no_auth); or,
 * with a constant sentence in `ret_why`: -EAGAIN: when a worker has been granted something there;
 * -EOPNOTSUPP: never.
 */
int stitch_may_ask(const struct upstream *u, const struct addr *address, unsigned *ret_no_auth,
                   const char **ret_why);

enum stitch_blame {
    STITCH_BLAME_NOBODY,   /* the upstream has answered: it was about the destination */
    STITCH_BLAME_METHOD,   /* hop `ret_hop` does not want the password that it is offered */
    STITCH_BLAME_UPSTREAM, /* it is to be relayed, so that others are asked and health is known */
};

/*
 * Whose fault a failure is, by the rules of dial_upstream_at_fault(). `no_auth` is the script's.
 * `ret_hop`: the hop whose reply was awaited.
 */
enum stitch_blame stitch_judge(const struct upstream *u, unsigned no_auth,
                               const struct stitch_event *e, unsigned *ret_hop);
/* Whether it is told in the log: what a destination's own network says is not. */
bool stitch_worth_a_line(const struct upstream *u, const struct stitch_event *e);
/* A line for the log; never anything of what was sent. Returns `buf`. */
const char *stitch_describe(const struct upstream *u, unsigned no_auth,
                            const struct stitch_event *e, char *buf, size_t size);
/* For how long an upstream is relayed at least after `failures` in succession (from 1), ns. */
int64_t stitch_hold_off(unsigned failures);

#endif
