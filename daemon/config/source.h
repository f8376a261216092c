/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The text of a configuration file, and what libconfuse makes of it. */
#ifndef UNDERSOCK_CONFIG_SOURCE_H
#define UNDERSOCK_CONFIG_SOURCE_H

#include <stddef.h>

#include "config/draft.h"

/* The whole file with a zero after its last byte; the caller frees it. At most 1 MiB. 0 or -errno.
 */
int config_source_read(const char *file, char **ret_text, size_t *ret_len);

/*
 * Blanks the comments in place and reports what would make libconfuse lose its place: quotes and
 * braces that are not closed, zero bytes, empty lists. 0; -EINVAL: libconfuse must not see it.
 */
int config_source_clean(struct draft *d, char *text, size_t len);

/*
 * Parses a cleaned text into the draft. All unknown keys and the other values are found in one
 * call. 0; -EINVAL: the grammar broke (reported) and the draft ends there.
 */
int config_source_parse(struct draft *d, const char *text);

#endif
