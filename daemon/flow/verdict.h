/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside flow/ only: what the application of a held SYN is told, as packets; see the head of
 * hold.c. */
#ifndef UNDERSOCK_FLOW_VERDICT_H
#define UNDERSOCK_FLOW_VERDICT_H

#include "flow/syn.h"
#include "flow/table.h"

/* What a packet can tell of `error` (positive) to the SYN's client. */
enum injected_reject verdict_reject(const struct syn *s, int error);
/* Rejects the SYN: by a rule for which it is sent again, or, for a capture of eBPF's, by our own
 * answer. */
void verdict_tell(const struct flow_table *t, unsigned capture, const struct syn *s,
                  uint32_t interface, enum injected_reject reject);
/* Lets the SYN through: to the listener of our seat, or, `early`, to the capture's early one. */
void verdict_pass(struct flow_table *t, unsigned capture, const struct syn *s, uint32_t interface,
                  bool early);

#endif
