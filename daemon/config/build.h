/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From a draft to a configuration: the steps after reading, each of which reports all it finds. */
#ifndef UNDERSOCK_CONFIG_BUILD_H
#define UNDERSOCK_CONFIG_BUILD_H

#include "config/draft.h"

/*
 * All of it. `partial`: the text broke off, so only the values that are there are checked, not what
 * is missing or refers to something. `for_run`: a cgroup capture may go without its path. 0, or
 * -EINVAL or -ENOMEM with the errors in the draft.
 */
int config_build(struct draft *d, bool partial, bool for_run, struct config **ret);

/* Names of sections: their characters, reserved ones, duplicates. */
void config_check_names(struct draft *d);

/* Resolves via, members and the captures' upstream; finds loops. The sections of a kind are in the
 * order of the configuration's array of that kind. */
void config_resolve(struct draft *d, struct config *c);

/* What a capture's keys must not be together. */
void config_check_capture(struct draft *d, const struct draft_section *s, bool for_run,
                          struct config_capture *c);

/* An upstream's user, password and password file, which is read here. */
void config_check_password(struct draft *d, const struct draft_section *s,
                           struct config_upstream *u);

/* What is right and hardly meant: warnings, of a configuration without errors. */
void config_check_meant(struct draft *d, const struct config *c);

#endif
