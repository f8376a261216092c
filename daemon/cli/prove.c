/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `undersock prove`: what a daemon with few rights cannot do itself, before it is started. The
 * kernel is tried, and the guards are taken off that a killed daemon has left on the cgroups of the
 * configuration (bpf/stitch_left.h).
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "bpf/stitch_left.h"
#include "capture.h"
#include "cli/cli.h"
#include "config/config.h"
#include "keeper/cgroup.h"
#include "keeper/stitch_proof.h"

#define DAEMON 0 /* its instance, of capture_set */

/* A cgroup that is not there has no guards either. */
static void clear(const struct config *config)
{
    char why[512];

    for (size_t i = 0; i < config->n_captures; i++) {
        const struct capture_policy *p = &config->captures[i].policy;
        int fd =
            p->hook == CAPTURE_CGROUP && p->cgroup ? cgroup_open(p->cgroup, why, sizeof(why)) : -1;

        if (fd >= 0) {
            stitch_left_clear(fd, DAEMON);
            close(fd);
        }
    }
}

int cli_prove(int argc, char **argv)
{
    struct cli_options o = {.file = NULL};
    struct config *config = NULL;
    char why[512] = "";
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_FILE, &o, &r))
        return r;
    if (!o.file && access(CONFIG_DEFAULT_FILE, F_OK) == 0)
        o.file = CONFIG_DEFAULT_FILE;
    if (o.file && config_load(o.file, cli_config_error, NULL, &config) < 0)
        return CLI_USAGE;
    if (config)
        clear(config);
    config_free(config);
    r = stitch_proof_make(why, sizeof(why));
    if (r < 0) {
        fprintf(stderr, "undersock: error: %s\n", why);
        return r == -EPROTO || r == -ETIMEDOUT || r == -EOPNOTSUPP ? CLI_FAILED : CLI_KERNEL;
    }
    printf("connections can be stitched here%s\n",
           stitch_proof_kept() ? "" : "; that could not be kept in " STITCH_PROOF_FILE);
    return CLI_DONE;
}
