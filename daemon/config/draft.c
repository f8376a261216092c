/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The text of a configuration with its lines, and the list of what is wrong with it. */
#include "config/draft.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_VALUE_MAX 120 /* characters of a value that an error repeats */
#define ERROR_MAX       1024

/* Room for one more element in an array that grows by doubling; false when there is none. */
static bool grow(void **array, size_t n, size_t size)
{
    if (n != 0 && (n & (n - 1)) != 0)
        return true;
    void *bigger = reallocarray(*array, n == 0 ? 1 : 2 * n, size);

    if (!bigger)
        return false;
    *array = bigger;
    return true;
}

void config_draft_begin(struct draft *d, enum section_kind kind, const char *title, unsigned line)
{
    void *sections = d->sections;
    char *copy = title ? strdup(title) : NULL;

    if ((title && !copy) || !grow(&sections, d->n_sections, sizeof(*d->sections))) {
        free(copy);
        d->out_of_memory = true;
        return;
    }
    d->sections = sections;
    d->sections[d->n_sections++] =
        (struct draft_section){.kind = kind, .title = copy, .line = line};
}

void config_draft_init(struct draft *d, const char *file, const char *const *labels,
                       size_t n_labels)
{
    *d = (struct draft){.file = file, .labels = labels, .n_labels = n_labels};
    config_draft_begin(d, SECTION_TOP, NULL, 0);
}

static void value_free(struct draft_value *v)
{
    explicit_bzero(v->text, strlen(v->text));
    free(v->text);
}

static void sections_free(struct draft *d)
{
    for (size_t i = 0; i < d->n_sections; i++) {
        struct draft_section *s = &d->sections[i];

        for (size_t k = 0; k < s->n_values; k++)
            value_free(&s->values[k]);
        free(s->values);
        free(s->title);
    }
    free(d->sections);
    d->sections = NULL;
    d->n_sections = 0;
}

void config_draft_restart(struct draft *d)
{
    sections_free(d);
    config_draft_begin(d, SECTION_TOP, NULL, 0);
}

void config_draft_free(struct draft *d)
{
    sections_free(d);
    for (size_t i = 0; i < d->n_errors; i++)
        free(d->errors[i].text);
    free(d->errors);
    *d = (struct draft){.file = NULL};
}

void config_draft_add(struct draft *d, struct draft_section *s, const struct option *o,
                      unsigned line, const char *text)
{
    void *values = s->values;
    char *copy = strdup(text);

    if (!copy || !grow(&values, s->n_values, sizeof(*s->values))) {
        free(copy);
        d->out_of_memory = true;
        return;
    }
    s->values = values;
    s->values[s->n_values++] = (struct draft_value){.option = o, .line = line, .text = copy};
}

void config_draft_remove(struct draft_section *s, const struct option *o)
{
    size_t kept = 0, n = s->n_values;

    /* The array keeps its room, which is more than grow() counts on. */
    for (size_t i = 0; i < n; i++) {
        if (s->values[i].option == o)
            value_free(&s->values[i]);
        else
            s->values[kept++] = s->values[i];
    }
    s->n_values = kept;
}

const struct draft_value *config_draft_next(const struct draft_section *s, const struct option *o,
                                            const struct draft_value *after)
{
    for (size_t i = after ? (size_t)(after - s->values) + 1 : 0; i < s->n_values; i++) {
        if (s->values[i].option == o)
            return &s->values[i];
    }
    return NULL;
}

/* "FILE:LINE: ", or the option's own text; returns the length. */
static size_t put_where(const struct draft *d, unsigned line, char *buf, size_t size)
{
    int n;

    if (d->labels && line > 0 && line <= d->n_labels)
        n = snprintf(buf, size, "%s: ", d->labels[line - 1]);
    else if (line > 0 && !d->labels)
        n = snprintf(buf, size, "%s:%u: ", d->file, line);
    else
        n = snprintf(buf, size, "%s: ", d->file);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static void make_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
    }
}

__attribute__((format(printf, 6, 0))) static void add(struct draft *d, bool warning, unsigned line,
                                                      const char *what, const char *value,
                                                      const char *format, va_list ap)
{
    char buf[ERROR_MAX];
    size_t n = put_where(d, line, buf, sizeof(buf));
    bool cut = value && strlen(value) > SHOWN_VALUE_MAX;
    int m;

    if (warning)
        n += (size_t)snprintf(buf + n, sizeof(buf) - n, "warning: ");

    /* A label shows the value already. */
    if (value && !(d->labels && line > 0))
        m = snprintf(buf + n, sizeof(buf) - n, "%s (%.*s%s): ", what, SHOWN_VALUE_MAX, value,
                     cut ? "..." : "");
    else
        m = snprintf(buf + n, sizeof(buf) - n, "%s: ", what);
    n += m < 0 ? 0 : (size_t)m < sizeof(buf) - n ? (size_t)m : sizeof(buf) - n - 1;
    vsnprintf(buf + n, sizeof(buf) - n, format, ap);
    make_printable(buf);
    d->has_errors = d->has_errors || !warning;

    void *errors = d->errors;
    char *copy = strdup(buf);

    if (!copy || !grow(&errors, d->n_errors, sizeof(*d->errors))) {
        free(copy);
        d->out_of_memory = true;
        return;
    }
    d->errors = errors;
    d->errors[d->n_errors++] = (struct draft_error){.line = line, .text = copy};
}

void config_draft_error(struct draft *d, unsigned line, const char *what, const char *value,
                        const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    add(d, false, line, what, value, format, ap);
    va_end(ap);
}

void config_draft_warning(struct draft *d, unsigned line, const char *what, const char *value,
                          const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    add(d, true, line, what, value, format, ap);
    va_end(ap);
}

int config_draft_report(struct draft *d, config_error_fn error, void *ctx)
{
    /* Insertion by line keeps errors of one line in the order they were found. */
    for (size_t i = 1; i < d->n_errors; i++) {
        struct draft_error e = d->errors[i];
        size_t k = i;

        for (; k > 0 && d->errors[k - 1].line > e.line; k--)
            d->errors[k] = d->errors[k - 1];
        d->errors[k] = e;
    }
    for (size_t i = 0; i < d->n_errors; i++)
        error(ctx, d->errors[i].text);
    if (d->out_of_memory) {
        error(ctx, "out of memory while reading the configuration");
        return -ENOMEM;
    }
    return d->has_errors ? -EINVAL : 0;
}
