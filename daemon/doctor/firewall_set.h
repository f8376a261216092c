/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is in somebody's set. */
#ifndef UNDERSOCK_DOCTOR_FIREWALL_SET_H
#define UNDERSOCK_DOCTOR_FIREWALL_SET_H

#include <stdbool.h>
#include <stdint.h>

/* Whether TCP and UDP are elements of a set of protocols. `family`: NFPROTO_*. Returns 0, or
 * -errno; -EOPNOTSUPP: it has ranges, or is no set of protocols. */
int firewall_set(uint32_t family, const char *table, const char *set, bool *ret_tcp, bool *ret_udp);

#endif
