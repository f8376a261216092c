/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock run`: a keeper for one command. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "config/config.h"
#include "keeper/keeper.h"
#include "log.h"

#define URLS_MAX    CONFIG_CHAIN_MAX
#define OPTIONS_MAX 64

static bool gives(char *const *options, size_t n, const char *key)
{
    size_t len = strlen(key);

    for (size_t i = 0; i < n; i++) {
        if (strncmp(options[i], key, len) == 0 && options[i][len] == '=')
            return true;
    }
    return false;
}

/* The configuration has them now. The command has no need of them, nor has who reads our command
 * line or environment in /proc. */
static void forget_passwords(char **urls, size_t n)
{
    char *password = getenv("UNDERSOCK_PASSWORD");

    if (password)
        explicit_bzero(password, strlen(password));
    unsetenv("UNDERSOCK_PASSWORD");
    for (size_t i = 0; i < n; i++) {
        char *user = strstr(urls[i], "://"), *at = strrchr(urls[i], '@');
        char *colon = user ? strchr(user + 3, ':') : NULL;

        if (colon && at && colon < at)
            memset(colon + 1, '*', (size_t)(at - colon - 1));
    }
}

int cli_run(int argc, char **argv)
{
    static const struct option longs[] = {{"upstream", required_argument, NULL, 'u'},
                                          {"option", required_argument, NULL, 'o'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    char *urls[URLS_MAX], *options[OPTIONS_MAX];
    size_t n_urls = 0, n_options = 0;
    struct config *config;
    int c;

    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "+:u:o:h", longs, NULL)) >= 0) {
        if (c == 'h') {
            fputs(cli_help_text("run"), stdout);
            return CLI_DONE;
        }
        if (c == ':')
            return cli_usage("run", "%s needs a value", argv[optind - 1]);
        if (c == 'u' && n_urls < URLS_MAX)
            urls[n_urls++] = optarg;
        else if (c == 'o' && n_options < OPTIONS_MAX)
            options[n_options++] = optarg;
        else if (c == 'u' || c == 'o')
            return cli_usage("run", "too many -%c", c);
        else
            return cli_usage("run", "unknown option %s; put -- before the command",
                             argv[optind - 1]);
    }
    if (optind >= argc)
        return cli_usage("run", "no command given: undersock run -u URL -- CMD");
    if (config_from_options(urls, n_urls, options, n_options, cli_config_error, NULL, &config) < 0)
        return CLI_USAGE;
    forget_passwords(urls, n_urls);
    if (gives(options, n_options, "hook") || gives(options, n_options, "cgroup")) {
        config_free(config);
        return cli_usage("run",
                         "-o hook and -o cgroup cannot be set: run redirects its own command; "
                         "for anything else use undersock daemon");
    }
    c = cli_need_privileges("run");
    if (c != 0) {
        config_free(config);
        return c;
    }
    /* The command's own output is what the user wants to see. */
    log_set_level(gives(options, n_options, "log-level") ? config->log_level : LOG_LEVEL_WARNING);
    struct keeper_options o = {.config = config,
                               .command = argv + optind,
                               .control = gives(options, n_options, "control")};

    return keeper_run(&o);
}
