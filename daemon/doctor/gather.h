/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Gathering, one function per part of the facts. None changes anything; each fills all of its part.
 */
#ifndef UNDERSOCK_DOCTOR_GATHER_H
#define UNDERSOCK_DOCTOR_GATHER_H

#include "doctor/facts.h"

void gather_kernel(struct facts_kernel *ret);
/* `config` NULL: none. */
void gather_host(const struct config *config, struct facts_host *ret);
/* Frees nothing that was there; see gather_firewall_free(). */
void gather_firewall(struct facts_firewall *ret);
void gather_firewall_free(struct facts_firewall *f);
/*
 * Tries all upstreams at once, each from a child process without privileges, as what an upstream
 * answers is not for a privileged process to parse. At most some seconds. Fills upstreams and
 * captures of `f`, whose configuration is there. 0 or -ENOMEM.
 */
int gather_reach(struct facts *f);

#endif
