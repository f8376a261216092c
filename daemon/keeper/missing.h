/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the configuration may ask for and this version does not do. It shrinks with each version. */
#ifndef UNDERSOCK_KEEPER_MISSING_H
#define UNDERSOCK_KEEPER_MISSING_H

#include <stddef.h>

#include "config/config.h"

/*
 * -EPROTONOSUPPORT with one line in `why` when something is asked for that cannot be left out; 0
 * otherwise, after one warning for each thing that is done differently.
 */
int missing_check(const struct config *c, char *why, size_t why_size);

#endif
