/* SPDX-License-Identifier: GPL-2.0-or-later */
/* doctor/findings.h */
#include "doctor/findings.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Takes over both texts, which may be NULL when there was no memory for them. */
static void append(struct findings *f, const char *id, enum finding_level level, char *text,
                   char *mend)
{
    if (text && mend && f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 32;
        struct finding *more = realloc(f->all, cap * sizeof(*more));

        if (more) {
            f->all = more;
            f->cap = cap;
        }
    }
    if (!text || !mend || f->n == f->cap) {
        f->out_of_memory = true;
        free(text);
        free(mend);
        return;
    }
    f->all[f->n++] = (struct finding){.id = id, .level = level, .text = text, .mend = mend};
}

__attribute__((format(printf, 1, 0))) static char *format_text(const char *format, va_list ap)
{
    char *text;

    return vasprintf(&text, format, ap) < 0 ? NULL : text;
}

void finding_add(struct findings *f, const char *id, enum finding_level level, const char *mend,
                 const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    char *text = format_text(format, ap);

    va_end(ap);
    append(f, id, level, text, strdup(mend ? mend : ""));
}

void finding_add_mend(struct findings *f, const char *id, enum finding_level level,
                      const char *text, const char *mend_format, ...)
{
    va_list ap;

    va_start(ap, mend_format);
    char *mend = format_text(mend_format, ap);

    va_end(ap);
    append(f, id, level, strdup(text), mend);
}

size_t findings_count(const struct findings *f, enum finding_level level)
{
    size_t n = 0;

    for (size_t i = 0; i < f->n; i++)
        n += f->all[i].level == level;
    return n;
}

const char *finding_level_name(enum finding_level level)
{
    return level == FINDING_OK ? "ok" : level == FINDING_WARN ? "warn" : "fail";
}

void findings_free(struct findings *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->all[i].text);
        free(f->all[i].mend);
    }
    free(f->all);
    *f = (struct findings){.n = 0};
}
