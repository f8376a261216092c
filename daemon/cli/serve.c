/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock serve`. */
#include "serve/serve.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "capture.h"
#include "cli/cli.h"

int cli_serve(int argc, char **argv)
{
    static const struct option longs[] = {{"listen", required_argument, NULL, 'l'},
                                          {"users", required_argument, NULL, 'A'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct addr listen[SERVE_LISTEN_MAX];
    struct serve_options o = {.listen = listen, .mark = CAPTURE_OWN_MARK};
    int c;

    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "+:l:A:h", longs, NULL)) >= 0) {
        if (c == 'h') {
            fputs(cli_help_text("serve"), stdout);
            return CLI_DONE;
        }
        if (c == ':')
            return cli_usage("serve", "%s needs a value", argv[optind - 1]);
        if (c == 'A') {
            o.user_file = optarg;
        } else if (c == 'l') {
            if (o.n_listen == SERVE_LISTEN_MAX)
                return cli_usage("serve", "more than %u addresses", SERVE_LISTEN_MAX);
            if (addr_parse(optarg, 1080, &listen[o.n_listen]) < 0)
                return cli_usage("serve",
                                 "-l \"%s\" is not an address; try -l 127.0.0.1:1080 or "
                                 "-l [::1]:1080",
                                 optarg);
            o.n_listen++;
        } else {
            return cli_usage("serve", "unknown option %s", argv[optind - 1]);
        }
    }
    if (optind < argc)
        return cli_usage("serve", "unexpected argument \"%s\"", argv[optind]);
    c = serve_run(&o); /* it says itself what is wrong */
    return c == -EINVAL ? CLI_USAGE : c < 0 ? CLI_FAILED : CLI_DONE;
}
