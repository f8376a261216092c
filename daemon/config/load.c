/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A configuration file: read, cleaned, parsed, built; then all errors in the order of their lines.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/build.h"
#include "config/source.h"

int config_load(const char *file, config_error_fn error, void *ctx, struct config **ret)
{
    struct draft d;
    struct config *c = NULL;
    char *text = NULL;
    size_t len = 0;
    int r = config_source_read(file, &text, &len);

    config_draft_init(&d, file, NULL, 0);
    if (r == -EFBIG) {
        config_draft_error(&d, 0, "configuration file", NULL,
                           "it is larger than 1 MiB: split the lists up");
    } else if (r < 0) {
        config_draft_error(
            &d, 0, "configuration file", NULL,
            "it cannot be read (%s): write one, as undersock.conf.example shows, or name "
            "another with -c FILE",
            strerror(-r));
    } else if (config_source_clean(&d, text, len) == 0) {
        int broken = config_source_parse(&d, text);

        r = broken == -ENOMEM ? -ENOMEM : config_build(&d, broken < 0, false, &c);
        if (r == 0)
            config_check_meant(&d, c);
    }
    if (text)
        explicit_bzero(text, len);
    free(text);

    int reported = config_draft_report(&d, error, ctx);

    config_draft_free(&d);
    if (r == 0)
        r = reported;
    if (r < 0) {
        config_free(c);
        return r;
    }
    *ret = c;
    return 0;
}
