/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of a connection to a server whose application has given up: nobody sends a SYN any more
 * that the programs could turn into a reset, and the server would wait for ever. A part of
 * bpf/stitch.h.
 */
#ifndef UNDERSOCK_BPF_STITCH_ABORT_H
#define UNDERSOCK_BPF_STITCH_ABORT_H

#include "stitch_abi.h"

/* Sends a reset in the name of a flow in the state STITCH_STEP. Takes CAP_NET_RAW. 0 or -errno. */
int stitch_abort(const struct stitch_key *key, const struct stitch_flow *flow);

#endif
