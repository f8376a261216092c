/* SPDX-License-Identifier: GPL-2.0-or-later */
/* include/log.h: formats a line on the stack and writes it with one write(2). */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ident.h"

static enum log_level threshold = LOG_LEVEL_INFO;
static const char *const names[] = {"error", "warning", "info", "debug"};

void log_set_level(enum log_level level)
{
    threshold = level;
}

enum log_level log_get_level(void)
{
    return threshold;
}

const char *log_level_name(enum log_level level)
{
    return names[level];
}

int log_level_parse(const char *text, enum log_level *ret)
{
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* JOURNAL_STREAM is set by systemd for services whose standard error is the journal. */
static int to_journal(void)
{
    static int known = -1;

    if (known < 0)
        known = getenv("JOURNAL_STREAM") != NULL;
    return known;
}

__attribute__((format(printf, 3, 0))) static void emit(enum log_level level, const char *flow,
                                                       const char *format, va_list ap)
{
    static const int priority[] = {3, 4, 6, 7};
    char line[1024];
    int n;

    if (to_journal())
        n = snprintf(line, sizeof(line), "<%d>%s", priority[level], flow);
    else if (level == LOG_LEVEL_INFO)
        n = snprintf(line, sizeof(line), "undersock: %s", flow);
    else
        n = snprintf(line, sizeof(line), "undersock: %s: %s", names[level], flow);
    int m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, ap);

    if (m < 0)
        return;
    n = n + m < (int)sizeof(line) - 1 ? n + m : (int)sizeof(line) - 2;
    for (int i = 0; i < n; i++) {
        unsigned char c = (unsigned char)line[i], next = (unsigned char)line[i + 1];
        bool c1 = c == 0xc2 && next >= 0x80 && next < 0xa0; /* U+0080 to U+009F, CSI among them */

        /* A name from the network must not forge a second line or steer a terminal. */
        if (c < 0x20 || c == 0x7f || c1)
            line[i] = '?';
        if (c1)
            line[++i] = '?';
    }
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* nowhere left to say it */
}

void log_write(enum log_level level, const char *format, ...)
{
    va_list ap;

    if (level > threshold)
        return;
    va_start(ap, format);
    emit(level, "", format, ap);
    va_end(ap);
}

void log_flow(enum log_level level, uint64_t flow_id, const char *format, ...)
{
    va_list ap;
    char flow[40];

    if (level > threshold)
        return;
    snprintf(flow, sizeof(flow), "flow " IDENT_FMT ": ", IDENT_ARG(flow_id));
    va_start(ap, format);
    emit(level, flow, format, ap);
    va_end(ap);
}
