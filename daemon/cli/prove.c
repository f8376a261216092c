/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock prove`: for what cannot try it itself. */
#include <errno.h>
#include <stdio.h>

#include "capture.h"
#include "cli/cli.h"
#include "keeper/stitch_proof.h"

int cli_prove(int argc, char **argv)
{
    struct cli_options o = {.file = NULL};
    char why[512] = "";
    int r;

    if (!cli_parse(argc, argv, 0, &o, &r))
        return r;
    r = stitch_proof_make(why, sizeof(why));
    if (r < 0) {
        fprintf(stderr, "undersock: error: %s\n", why);
        return r == -EPROTO || r == -ETIMEDOUT || r == -EOPNOTSUPP ? CLI_FAILED : CLI_KERNEL;
    }
    printf("connections can be stitched here%s\n",
           stitch_proof_kept() ? "" : "; that could not be kept in " STITCH_PROOF_FILE);
    return CLI_DONE;
}
