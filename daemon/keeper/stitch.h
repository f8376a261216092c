/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper's part in stitch (bpf/stitch.h): one for the daemon, for as long as it runs. It says
 * which cgroup captures are stitched and by which script, and takes them back to the relay while
 * their upstream fails: the relay asks the other members of a group, tells what is wrong, and finds
 * out when the upstream answers again. What cannot be stitched is relayed, never an error.
 *
 * Who calls what: captures_apply() offers a generation, binds each cgroup capture as it comes into
 * force, and engages when all are; keeper.c hands on events, finishes before the workers go, and
 * destroys after the captures.
 */
#ifndef UNDERSOCK_KEEPER_STITCH_H
#define UNDERSOCK_KEEPER_STITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "bpf/cgroup.h"
#include "keeper/generation.h"
#include "message.h"

struct stitch;

/* `kind`: the loop kind for what wakes us. 0 or -ENOMEM. */
int stitch_create(struct loop *loop, unsigned kind, struct stitch **ret);
/*
 * Whether some connections of `g` are to be stitched: then a `run` needs an instance of its own.
 * With fast-path = "auto" that is when the kernel has proved that it can; without a proof yet, it
 * is made now (keeper/stitch_proof.h), which takes a tenth of a second, or two when it fails.
 */
bool stitch_wanted(struct stitch *s, const struct generation *g);
/*
 * Before the captures of `g` are put in force: opens and attaches when that is wanted and not done
 * yet, sets g->set.stitch and the policies' `stitch`. From here to stitch_engage() everything new
 * is relayed, if `g` is another generation than before. `no_instance`: why g->set.instance could
 * not be had, or NULL.
 */
void stitch_offer(struct stitch *s, struct generation *g, const char *no_instance);
/* Capture `policy` of the generation is in force. `bpf` stays the caller's, until stitch_unbind().
 */
void stitch_bind(struct stitch *s, size_t policy, const struct bpf_capture *bpf);
/* All captures of the generation are. `ours`: no other daemon has this network namespace. */
void stitch_engage(struct stitch *s, bool ours);
/* Before bpf_capture_detach(). */
void stitch_unbind(struct stitch *s, const struct bpf_capture *bpf);
/* bpf_capture_detach() has left guards: the filters stay, too. */
void stitch_leave_filters(struct stitch *s);

/* Events of `kind`. */
void stitch_event(struct stitch *s, uint64_t ref, uint32_t events);
/* Tells captures anew what to use: it is known now who listens for an upstream on this host, or no
 * longer (upstream.unproven), among other reasons. */
void stitch_use(struct stitch *s);
/* Nothing more is stitched, and what is under way is given a second to end. NULL is allowed. */
void stitch_finish(struct stitch *s);
/* Takes the filters off, and frees. NULL is allowed. */
void stitch_destroy(struct stitch *s);

/* ---- what is told (keeper/stitch_report.c) ---- */

/* For `status`: fills the fields `stitched` and `why_relayed`. */
void stitch_tell_capture(const struct stitch *s, size_t policy, struct message_capture *m);
/* False: nothing to tell. */
bool stitch_tell(const struct stitch *s, struct message_stitch *ret);
/* Whether `flows` has to ask it. */
bool stitch_is_open(const struct stitch *s);
/*
 * For `flows`: a process of its own sends a record for each connection that is or was stitched, and
 * a MESSAGE_END. True: it will; count it in. Its exit is nobody's business.
 */
bool stitch_tell_flows(const struct stitch *s, int client);

#endif
