/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From the texts of a draft's section to the fields of its struct. */
#ifndef UNDERSOCK_CONFIG_VALUES_H
#define UNDERSOCK_CONFIG_VALUES_H

#include "config/options.h"

/*
 * Sets the field of a single-valued option in the struct at `base` (not OPTION_REFERENCE: nothing
 * is stored). 0, or -EINVAL after it was reported.
 */
int config_set_value(struct draft *d, const struct option *o, unsigned line, const char *text,
                     void *base);

/*
 * Sets a list: an array the struct owns, and its length, from all values of `o` in `s` (nothing
 * when there are none). Port ranges are sorted and disjoint, prefixes and users sorted and unique:
 * what was written twice or inside another counts once.
 */
void config_set_list(struct draft *d, const struct draft_section *s, const struct option *o,
                     void *base);

/* Every option of the section: what was given, or its default. Missing required keys are reported
 * unless the draft is `partial`. */
void config_set_section(struct draft *d, const struct draft_section *s, bool partial, void *base);

#endif
