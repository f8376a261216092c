/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The demo as a whole, and its steps, each of which shows one thing and checks that it was so. */
#ifndef UNDERSOCK_CLI_DEMO_STEPS_H
#define UNDERSOCK_CLI_DEMO_STEPS_H

#include <stdbool.h>

#include "cli/demo_command.h"
#include "cli/demo_far.h"
#include "cli/demo_traces.h"

struct demo {
    struct demo_shell *shell;
    struct demo_far far;
    struct demo_command command, download;
    struct demo_traces traces;
    int home;      /* the namespace that we came from */
    bool moved;    /* and left */
    int exit_code; /* of the first failure */
};

/* A line, or several, on standard output, at once. */
void demo_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says on standard error what went wrong. Only the first failure is told: what comes after it is
 * its consequence. Always false. */
bool demo_fail(struct demo *d, int exit_code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* False: it failed and that was said, or we are asked to end; d->exit_code is set. */
bool demo_step_unreachable(struct demo *d);
bool demo_step_ipv4(struct demo *d);
bool demo_step_ipv6(struct demo *d);
bool demo_step_flows(struct demo *d);

#endif
