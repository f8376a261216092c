/* SPDX-License-Identifier: GPL-2.0-or-later */
/* doctor/proc.h */
#include "doctor/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "doctor/facts.h"

int proc_read(const char *path, char *ret, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, ret, size - 1);
    int r = n < 0 ? -errno : 0;

    fd_close(&fd);
    if (r == 0)
        ret[n] = '\0';
    return r;
}

int proc_number(const char *path_format, ...)
{
    char path[256], text[32], *end;
    va_list ap;

    va_start(ap, path_format);
    vsnprintf(path, sizeof(path), path_format, ap);
    va_end(ap);
    if (proc_read(path, text, sizeof(text)) < 0)
        return FACT_UNKNOWN;
    long n = strtol(text, &end, 10);

    return end == text || n < 0 || n > INT_MAX ? FACT_UNKNOWN : (int)n;
}
