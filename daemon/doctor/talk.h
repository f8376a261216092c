/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A conversation with a server, one step after the other, each with a time limit. */
#ifndef UNDERSOCK_DOCTOR_TALK_H
#define UNDERSOCK_DOCTOR_TALK_H

#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "base/wire.h"

/* CLOCK_MONOTONIC, milliseconds: what deadlines are in. */
int64_t talk_now(void);
/* A connected, non-blocking socket; or -errno, -ETIMEDOUT beyond the deadline as in all of these.
 */
int talk_connect(const struct addr *a, int64_t deadline);
/* All of it. 0 or -errno. */
int talk_send(int fd, const struct wire_writer *w, int64_t deadline);
/* Exactly `want` bytes, as a byte more may belong to what follows. 0, -EPIPE at the end, -errno. */
int talk_receive(int fd, uint8_t *to, size_t want, int64_t deadline);

#endif
