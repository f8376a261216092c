/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What in this kernel, its settings, its firewall or an upstream stands in the way: found by trial
 * and by reading, never by a version, and without a change to anything. Facts are gathered first
 * (facts.h), then judged (judge.h), so that each judgement can be tested with facts that no test
 * machine has.
 */
#ifndef UNDERSOCK_DOCTOR_DOCTOR_H
#define UNDERSOCK_DOCTOR_DOCTOR_H

#include <stdbool.h>

#include "doctor/findings.h"

/*
 * `file` NULL: without a configuration, so the kernel and the host alone. Takes some seconds when
 * an upstream does not answer. 0 with the findings for the caller to free, or -ENOMEM.
 */
int doctor_examine(const char *file, struct findings *ret);

#endif
