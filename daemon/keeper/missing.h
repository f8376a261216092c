/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the configuration may ask for and this version does not do. It shrinks with each version. */
#ifndef UNDERSOCK_KEEPER_MISSING_H
#define UNDERSOCK_KEEPER_MISSING_H

#include "config/config.h"

/* One warning for each thing that is done differently. What cannot be left out is an error of the
 * configuration (config/values.c). */
void missing_warn(const struct config *c);

#endif
