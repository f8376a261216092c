/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The BPF programs of cgroup captures: which are on which cgroup, and where that is now. */
#ifndef UNDERSOCK_KEEPER_ATTACHED_H
#define UNDERSOCK_KEEPER_ATTACHED_H

#include <stdbool.h>
#include <stddef.h>

#include "base/loop.h"
#include "keeper/generation.h"

struct attached_list;
struct stitch;

/* As captures_create() (keeper/captures.h). 0 or -ENOMEM. */
int attached_create(struct loop *loop, unsigned event_kind, struct stitch *stitch,
                    struct attached_list **ret);

/*
 * A generation comes into force: begin, then apply for each of its cgroup captures in the order of
 * the configuration, then end, which takes off what it does not want, unless something has failed.
 * Then the generation before is applied in the same way. apply: 0, or -errno with one line in
 * `why`; `transient`: the cgroup of captures that name none, or -1.
 */
void attached_begin(struct attached_list *c);
/* Between begin and apply, and touches nothing: -errno where the cgroup is not there and never was.
 */
int attached_look(struct attached_list *c, const struct capture_policy *p, char *why,
                  size_t why_size);
int attached_apply(struct attached_list *c, struct generation *g, size_t index, int transient,
                   char *why, size_t why_size);
void attached_end(struct attached_list *c, const struct generation *g);

/* captures_follow() but for the rules: true if they have to name another cgroup now. */
bool attached_follow(struct attached_list *c, const struct generation *g, bool *ret_failed);
/* False: of a capture whose cgroup is not there. */
bool attached_installed(struct attached_list *c, const struct capture_policy *p);
/* Logs what the programs of one report; `index` is the event's. */
void attached_event(struct attached_list *c, unsigned index);
/* Descriptors that keep the programs attached, up to `max`; the links stay ours. */
size_t attached_fds(const struct attached_list *c, int *ret, size_t max);
/* Takes everything off and frees. NULL is allowed. */
void attached_destroy(struct attached_list *c);

#endif
