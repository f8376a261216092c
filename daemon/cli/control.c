/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock reload` and `stop`: told to the running daemon. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "control/client.h"
#include "nft/guard.h"

static void on_text(void *ctx, const union message *m)
{
    (void)ctx;
    if (m->header.type == MESSAGE_TEXT)
        fprintf(stderr, "undersock: %.*s\n", (int)sizeof(m->text.line), m->text.line);
}

static int simple(int argc, char **argv, enum message_type type)
{
    struct cli_options o = {.file = NULL};
    char path[256], why[512] = "";
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_CONTROL, &o, &r))
        return r;
    cli_control_path(&o, path, sizeof(path));
    r = control_ask(path, type, on_text, NULL, why, sizeof(why));
    if (r == 0)
        return CLI_DONE;
    if (type == MESSAGE_STOP && (r == -ENOENT || r == -ECONNREFUSED) && geteuid() == 0 &&
        nft_guard_remove(NULL, 0) == 0)
        fprintf(stderr,
                "undersock: what on-exit = \"closed\" refused, if anything, is let through\n");
    if (why[0])
        fprintf(stderr, "undersock: error: %s\n", why);
    else if (type == MESSAGE_RELOAD && r != -EALREADY && r != -ECANCELED)
        fprintf(stderr, "undersock: error: the daemon goes on with its old configuration\n");
    return (r == -EINVAL || r == -ELOOP) && type == MESSAGE_RELOAD ? CLI_USAGE : cli_exit_code(r);
}

int cli_reload(int argc, char **argv)
{
    return simple(argc, argv, MESSAGE_RELOAD);
}

int cli_stop(int argc, char **argv)
{
    return simple(argc, argv, MESSAGE_STOP);
}
