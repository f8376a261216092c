/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An upstream's handshake as data, for stitch: what the kernel sends to the first hop, and what it
 * awaits, step by step, with no program of ours in between (include/stitch_abi.h). Pure.
 *
 * How many octets we send must be known before the server has said anything, because the SYN's
 * sequence number depends on it. So there is one message for each step and no choice: a hop with a
 * user is offered the password method only, unless it is known to take connections without.
 */
#ifndef UNDERSOCK_UPSTREAM_SCRIPT_H
#define UNDERSOCK_UPSTREAM_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>

#include "stitch_abi.h"
#include "upstream/upstream.h"

struct script_options {
    unsigned address; /* which of the first hop's addresses */
    unsigned no_auth; /* bit i: hop i has a user and takes connections without a password */
    ABI_U32 id;       /* stitch_script.id */
};

/*
 * 0; or with a constant sentence in `ret_why`: -EOPNOTSUPP: not plain SOCKS over TCP, or no hop at
 * all; -E2BIG: more or longer messages than a script holds; -EAFNOSUPPORT: a SOCKS4 hop cannot
 * reach the next one; -EADDRNOTAVAIL: the address is link-local; -EINVAL: there is no such address,
 * or a user or password cannot be sent.
 * Flows of such an upstream are relayed. `ret` holds passwords: wipe it after use.
 */
int script_build(const struct upstream *u, const struct script_options *o,
                 struct stitch_script *ret, const char **ret_why);

#endif
