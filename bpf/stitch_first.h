/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stitch's filters before those of others. A part of bpf/stitch_links.h.
 *
 * What somebody else has on an interface may be asked before our filters, and end the matter: a
 * program of tcx (Linux 6.6) comes before every qdisc. Ours are attached to tcx then, too, as the
 * first. These are links, and go with this process; a packet that has been through them is known to
 * the filters behind (bpf/stitch.bpf.c).
 */
#ifndef UNDERSOCK_BPF_STITCH_FIRST_H
#define UNDERSOCK_BPF_STITCH_FIRST_H

#include <stdbool.h>

struct stitch_first {
    int in, out; /* links; -1: none */
};

#define STITCH_FIRST_NONE ((struct stitch_first){-1, -1})

/* Whether anybody has programs of tcx on that interface. */
bool stitch_first_is_needed(int index);
/* Attaches the two programs as the first. 0; -EALREADY: they were attached before; -EOPNOTSUPP:
 * this kernel has no tcx; or another -errno. */
int stitch_first_put(struct stitch_first *f, int index, int program_in, int program_out);
void stitch_first_take(struct stitch_first *f);

#endif
