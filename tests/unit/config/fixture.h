/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of this folder share: a directory of their own, and the errors of the last load.
 */
#ifndef UNDERSOCK_TESTS_CONFIG_FIXTURE_H
#define UNDERSOCK_TESTS_CONFIG_FIXTURE_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/config.h"

static char dir[64], file[96], secret[96];
static char errors[16384]; /* one line each */
static size_t n_errors;
static char warnings[4096];

static inline void collect(void *ctx, const char *line)
{
    assert_ptr_equal(ctx, errors);
    assert_null(strchr(line, '\n'));
    if (strstr(line, ": warning: ")) {
        snprintf(warnings + strlen(warnings), sizeof(warnings) - strlen(warnings), "%s\n", line);
        return;
    }
    snprintf(errors + strlen(errors), sizeof(errors) - strlen(errors), "%s\n", line);
    n_errors++;
}

static inline void forget_errors(void)
{
    errors[0] = warnings[0] = '\0';
    n_errors = 0;
}

static inline void write_file(const char *path, const void *text, size_t len, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static inline int load_text(const char *text, struct config **ret)
{
    write_file(file, text, strlen(text), 0600);
    forget_errors();
    return config_load(file, collect, errors, ret);
}

static inline int make_directory(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/undersock-config.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/undersock.conf", dir);
    snprintf(secret, sizeof(secret), "%s/password", dir);
    return 0;
}

static inline int remove_directory(void **state)
{
    (void)state;
    unlink(file);
    unlink(secret);
    return rmdir(dir);
}

#endif
