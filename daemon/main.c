/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finds the command and calls it. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", cli_run},       {"daemon", cli_daemon},   {"check", cli_check},
    {"rules", cli_rules},   {"status", cli_status},   {"flows", cli_flows},
    {"reload", cli_reload}, {"stop", cli_stop},       {"serve", cli_serve},
    {"demo", cli_demo},     {"help", cli_help},       {"doctor", cli_doctor},
    {"prove", cli_prove},   {"metrics", cli_metrics}, {"probe", cli_probe},
};

int main(int argc, char **argv)
{
    if (argc < 2) {
        fputs(cli_help_all(), stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(cli_help_all(), stdout);
        return CLI_DONE;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("undersock %s\n", VERSION);
        return CLI_DONE;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "undersock: there is no command \"%s\"; see undersock --help\n", argv[1]);
    return CLI_USAGE;
}
