/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands. Each gets its own arguments (argv[0] is its name) and returns the exit code: 0
 * done, 1 it ran and failed, 2 usage or configuration, 3 the kernel or a privilege is missing.
 */
#ifndef UNDERSOCK_CLI_CLI_H
#define UNDERSOCK_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>

#define CLI_DONE   0
#define CLI_FAILED 1
#define CLI_USAGE  2
#define CLI_KERNEL 3

int cli_run(int argc, char **argv);
int cli_daemon(int argc, char **argv);
int cli_check(int argc, char **argv);
int cli_rules(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_demo(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_flows(int argc, char **argv);
int cli_metrics(int argc, char **argv);
int cli_reload(int argc, char **argv);
int cli_stop(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_probe(int argc, char **argv);
int cli_prove(int argc, char **argv);
int cli_help(int argc, char **argv);

/* Short helps, printed by `help COMMAND` and `COMMAND --help`; NULL: no such command. */
const char *cli_help_text(const char *command);
/* The whole of `undersock --help`. */
const char *cli_help_all(void);

/*
 * Options shared by the commands that only take a configuration file or a socket: -c FILE, --json,
 * --watch, -h. Unset pointers stay as they are. False: it was said what is wrong (or the help was
 * printed), and `ret_exit` is the exit code.
 */
struct cli_options {
    const char *file;    /* -c */
    const char *control; /* -s: the control socket; a command that has no -c */
    const char *operand; /* the one argument that is no option; NULL: none was given */
    bool json, watch;
};
enum {
    CLI_OPT_FILE = 1,
    CLI_OPT_JSON = 2,
    CLI_OPT_WATCH = 4,
    CLI_OPT_CONTROL = 8,
    CLI_OPT_OPERAND = 16,
};
bool cli_parse(int argc, char **argv, unsigned allowed, struct cli_options *ret, int *ret_exit);
/* One line on standard error and the pointer to the help; returns CLI_USAGE. */
int cli_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* One line on standard output; whatever in it is not printable ASCII is '?', as processes choose
 * their names, and root's terminal is no place for what they may hold. */
void cli_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A config_error_fn that prints the line as it is. */
void cli_config_error(void *ctx, const char *line);
/* Where the daemon listens: `control` of the default configuration file if that can be read, else
 * the default path. Never fails; `buf` is filled. */
void cli_control_path(const struct cli_options *o, char *buf, size_t size);
/* Exit 3 with one line when we lack what captures need; 0 when all is there. */
int cli_need_privileges(const char *command);
/* The exit code of a command that failed with this -errno. */
int cli_exit_code(int error);

#endif
