/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock daemon`, `check` and `rules`: the commands that read the configuration file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "config/config.h"
#include "keeper/generation.h"
#include "keeper/keeper.h"
#include "keeper/missing.h"
#include "log.h"
#include "nft/guard.h"
#include "nft/ruleset.h"
#include "nft/text.h"

/* Parses the arguments and loads the file. False: `ret_exit` is the exit code. */
static bool load(int argc, char **argv, struct cli_options *o, struct config **ret, int *ret_exit)
{
    *o = (struct cli_options){.file = CONFIG_DEFAULT_FILE};
    if (!cli_parse(argc, argv, CLI_OPT_FILE, o, ret_exit))
        return false;
    if (config_load(o->file, cli_config_error, NULL, ret) < 0) {
        *ret_exit = CLI_USAGE;
        return false;
    }
    return true;
}

int cli_daemon(int argc, char **argv)
{
    struct cli_options o;
    struct config *config;
    int r;

    if (!load(argc, argv, &o, &config, &r))
        return r;
    log_set_level(config->log_level);
    r = cli_need_privileges("daemon");
    if (r != 0) {
        config_free(config);
        return r;
    }
    struct keeper_options k = {.config = config, .file = o.file, .control = true};

    return keeper_run(&k);
}

int cli_check(int argc, char **argv)
{
    struct cli_options o;
    struct config *config;
    int r;

    if (!load(argc, argv, &o, &config, &r))
        return r;
    printf("%s: good: %zu upstreams, %zu groups, %zu captures\n", o.file, config->n_upstreams,
           config->n_groups, config->n_captures);
    missing_warn(config);
    config_free(config);
    return CLI_DONE;
}

int cli_rules(int argc, char **argv)
{
    struct cli_options o;
    struct config *config;
    struct generation *plan;
    struct nft_ruleset *rs = NULL, *guard = NULL;
    char why[512];
    int r;

    if (!load(argc, argv, &o, &config, &r))
        return r;
    r = generation_plan(config, &plan, why, sizeof(why));
    if (r < 0) {
        log_error("%s", why);
        return r == -ELOOP ? CLI_USAGE : CLI_FAILED;
    }
    r = nft_ruleset_build(&plan->set, &rs);
    if (r == 0)
        r = nft_guard_build(&plan->set, &guard);
    char *text = r == 0 ? nft_ruleset_text(rs) : NULL;
    char *guard_text = r == 0 ? nft_guard_text(guard) : NULL;
    bool built = text && guard_text;

    if (!built)
        log_error("cannot build the rules: out of memory");
    else if (text[0] == '\0' && guard_text[0] == '\0')
        fputs("# no rules: nothing that is captured takes nftables\n", stdout);
    else
        printf("%s%s", text, guard_text);
    free(text);
    free(guard_text);
    nft_ruleset_free(rs);
    nft_ruleset_free(guard);
    generation_free(plan);
    return built ? CLI_DONE : CLI_FAILED;
}
