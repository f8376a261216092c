/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Facts to findings: pure, no system call. What a configuration does not use is no failure. */
#ifndef UNDERSOCK_DOCTOR_JUDGE_H
#define UNDERSOCK_DOCTOR_JUDGE_H

#include "doctor/facts.h"
#include "doctor/findings.h"

void judge_config(const struct facts *f, struct findings *ret);
void judge_kernel(const struct facts *f, struct findings *ret);
void judge_host(const struct facts *f, struct findings *ret);
void judge_firewall(const struct facts *f, struct findings *ret);
void judge_upstreams(const struct facts *f, struct findings *ret);
/* All of these, in this order. */
void judge(const struct facts *f, struct findings *ret);

#endif
