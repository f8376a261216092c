/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The counters that workers and the keeper report, by name: the fields of `status --json`, and what
 * `metrics` makes of them. */
#ifndef UNDERSOCK_CLI_COUNTERS_H
#define UNDERSOCK_CLI_COUNTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct counter {
    const char *name; /* snake_case; stays as it is */
    size_t offset;    /* of a uint64_t in what is reported */
    bool gauge;       /* as it is now; else it only grows */
    const char *help;
};

struct counters {
    const char *prefix; /* of a metric's name, behind "undersock_" */
    const struct counter *list;
    size_t n;
};

extern const struct counters counters_flows;  /* of struct message_stats */
extern const struct counters counters_udp;    /* of struct message_udp_stats */
extern const struct counters counters_dns;    /* of struct message_names_stats */
extern const struct counters counters_stitch; /* of message_stitch.counters, in its order */

uint64_t counter_value(const struct counter *c, const void *reported);

#endif
