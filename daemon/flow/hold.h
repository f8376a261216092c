/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside flow/ only: honest connect, flows that begin as a held SYN. See the head of hold.c. */
#ifndef UNDERSOCK_FLOW_HOLD_H
#define UNDERSOCK_FLOW_HOLD_H

#include "flow/table.h"

/* With options.n_holds > 0. 0 or -errno. */
int holds_create(struct flow_table *t);
/* NULL holds are allowed. The flows must be gone. */
void holds_destroy(struct flow_table *t);
/* Reads what waits, a last time, and no more after that. */
void holds_drain(struct flow_table *t);

/* A held flow's upstream said yes: the application's connect() is let through. */
void hold_granted(struct flow_table *t, struct flow *f);
/* A held flow has failed: the application is told `error` (positive), as far as a packet can tell
 * it. */
void hold_failed(struct flow_table *t, struct flow *f, int error);
/* The flow is CLOSING. True when it still has something to tell the application: it is reaped
 * later, by hold_timeout(). */
bool hold_lingers(struct flow_table *t, struct flow *f);
/* The timer of a held flow that is GRANTED or CLOSING. */
void hold_timeout(struct flow_table *t, struct flow *f);
/* The flow is held no more: it was joined, or is reaped. */
void hold_release(struct flow_table *t, struct flow *f);

/* The seat's listener `index` accepted `fd`, which is the callee's from now on. */
void hold_accepted(struct flow_table *t, unsigned index, int fd, const struct addr *client);

#endif
