/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock serve`. */
#include "serve/serve.h"

#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "capture.h"
#include "cli/cli.h"

enum { NO_BIND = 256, NO_UDP, UDP_IDLE };

/* Whole seconds from 1 to a day, in nanoseconds; 0: not that. */
static int64_t parse_seconds(const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    return *text >= '0' && *text <= '9' && *end == '\0' && n <= 86400 ? (int64_t)n * 1000000000 : 0;
}

int cli_serve(int argc, char **argv)
{
    static const struct option longs[] = {{"listen", required_argument, NULL, 'l'},
                                          {"users", required_argument, NULL, 'A'},
                                          {"no-bind", no_argument, NULL, NO_BIND},
                                          {"no-udp", no_argument, NULL, NO_UDP},
                                          {"udp-idle", required_argument, NULL, UDP_IDLE},
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
        } else if (c == NO_BIND) {
            o.no_bind = true;
        } else if (c == NO_UDP) {
            o.no_udp = true;
        } else if (c == UDP_IDLE) {
            o.udp_idle = parse_seconds(optarg);
            if (o.udp_idle == 0)
                return cli_usage("serve", "--udp-idle \"%s\" is not 1 to 86400 seconds", optarg);
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
    return c == -EINVAL ? CLI_USAGE : c < 0 ? cli_exit_code(c) : CLI_DONE;
}
