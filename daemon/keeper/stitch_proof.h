/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether this kernel has shown that it can stitch: what fast-path = "auto" waits for. The proof
 * (bpf/stitch_test.h) takes a tenth of a second and rights that a hardened service does not have,
 * so it is made once: a file in /run keeps that it was, for this program and until the next boot. A
 * unit makes it before it starts the daemon (`undersock prove`), a `run` when it is the first.
 */
#ifndef UNDERSOCK_KEEPER_STITCH_PROOF_H
#define UNDERSOCK_KEEPER_STITCH_PROOF_H

#include <stdbool.h>
#include <stddef.h>

#define STITCH_PROOF_DIR  "/run/undersock"
#define STITCH_PROOF_FILE STITCH_PROOF_DIR "/stitch-proof"

/*
 * 0: it can, and that is kept. Or -errno of bpf_stitch_prove() with one sentence in `why`: always
 * tried anew, so one that failed because the machine was busy does not decide for the next.
 */
int stitch_proof_make(char *why, size_t why_size);
/* Whether a proof is kept that holds for this kernel and this program. */
bool stitch_proof_kept(void);

#endif
