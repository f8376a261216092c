/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the commands share: options, lines, usage errors, privileges. */
#include <cap-ng.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "config/config.h"

int cli_usage(const char *command, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "undersock %s: ", command);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "; see undersock help %s\n", command);
    return CLI_USAGE;
}

void cli_line(const char *format, ...)
{
    char line[2048];
    va_list ap;

    va_start(ap, format);
    vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    for (char *p = line; *p; p++) {
        if (*p < ' ' || *p > '~')
            *p = '?';
    }
    puts(line);
}

bool cli_parse(int argc, char **argv, unsigned allowed, struct cli_options *ret, int *ret_exit)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"socket", required_argument, NULL, 's'},
        {"json", no_argument, NULL, 'j'},         {"watch", no_argument, NULL, 'w'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    int c;

    opterr = 0;
    optind = 1;
    for (;;) {
        c = getopt_long(argc, argv, "+:c:s:jwh", options, NULL);
        if (c < 0 && optind < argc && allowed & CLI_OPT_OPERAND && !ret->operand) {
            ret->operand = argv[optind++];
            continue; /* options may be behind it, too */
        }
        if (c < 0)
            break;
        unsigned bit = c == 'c'   ? CLI_OPT_FILE
                       : c == 's' ? CLI_OPT_CONTROL
                       : c == 'j' ? CLI_OPT_JSON
                       : c == 'w' ? CLI_OPT_WATCH
                                  : 0;

        if (c == 'h') {
            fputs(cli_help_text(argv[0]), stdout);
            *ret_exit = CLI_DONE;
            return false;
        }
        if (c == ':') {
            *ret_exit = cli_usage(argv[0], "%s needs a value", argv[optind - 1]);
            return false;
        }
        if (!(bit & allowed)) {
            *ret_exit = cli_usage(argv[0], "unknown option %s", argv[optind - 1]);
            return false;
        }
        if (c == 'c')
            ret->file = optarg;
        else if (c == 's')
            ret->control = optarg;
        else if (c == 'j')
            ret->json = true;
        else
            ret->watch = true;
    }
    if (optind < argc) {
        *ret_exit = cli_usage(argv[0], "unexpected argument \"%s\"", argv[optind]);
        return false;
    }
    return true;
}

void cli_config_error(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "undersock: %s\n", line);
}

static void ignore_error(void *ctx, const char *line)
{
    (void)ctx;
    (void)line;
}

void cli_control_path(const struct cli_options *o, char *buf, size_t size)
{
    struct config *c;

    snprintf(buf, size, "%s", o->control ? o->control : CONFIG_DEFAULT_CONTROL);
    if (o->control || access(CONFIG_DEFAULT_FILE, R_OK) < 0 ||
        config_load(CONFIG_DEFAULT_FILE, ignore_error, NULL, &c) < 0)
        return;
    snprintf(buf, size, "%s", c->control);
    config_free(c);
}

int cli_exit_code(int error)
{
    return error == -EACCES || error == -EPERM ? CLI_KERNEL : CLI_FAILED;
}

int cli_need_privileges(const char *command)
{
    static const struct {
        unsigned cap;
        const char *name, *what;
    } needed[] = {
        {CAP_BPF, "CAP_BPF", "BPF programs on a cgroup"},
        {CAP_PERFMON, "CAP_PERFMON", "BPF programs on a cgroup"},
        {CAP_NET_ADMIN, "CAP_NET_ADMIN", "nftables rules and BPF programs"},
        {CAP_NET_RAW, "CAP_NET_RAW", "marked sockets"},
        {CAP_SETUID, "CAP_SETUID", "unprivileged workers"},
        {CAP_SETGID, "CAP_SETGID", "unprivileged workers"},
        {CAP_KILL, "CAP_KILL", "ending workers, which are another user's"},
    };
    const char *name = NULL, *what = NULL;

    capng_get_caps_process();
    bool all = capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN);

    for (size_t i = 0; !name && i < sizeof(needed) / sizeof(needed[0]); i++) {
        /* CAP_SYS_ADMIN stands in for the two that were split from it. */
        if (all && (needed[i].cap == CAP_BPF || needed[i].cap == CAP_PERFMON))
            continue;
        if (!capng_have_capability(CAPNG_EFFECTIVE, needed[i].cap)) {
            name = needed[i].name;
            what = needed[i].what;
        }
    }
    if (!name)
        return 0;
    fprintf(stderr,
            "undersock: error: undersock %s needs root: the capability %s is missing (%s); "
            "run it with sudo\n",
            command, name, what);
    return CLI_KERNEL;
}
