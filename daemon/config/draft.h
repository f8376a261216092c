/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What was written, before it means anything: sections with their values as text, each with the
 * line it came from, and the errors found so far. The reader of files and the reader of command
 * lines fill it; build.c turns it into a struct config.
 */
#ifndef UNDERSOCK_CONFIG_DRAFT_H
#define UNDERSOCK_CONFIG_DRAFT_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

struct option;

enum section_kind { SECTION_TOP, SECTION_UPSTREAM, SECTION_GROUP, SECTION_CAPTURE, SECTION_KINDS };

struct draft_value {
    const struct option *option;
    unsigned line;
    char *text;
};

struct draft_section {
    enum section_kind kind;
    char *title; /* NULL for the top level */
    unsigned line;
    struct draft_value *values; /* in the order they were written */
    size_t n_values;
};

struct draft_error {
    unsigned line;
    char *text; /* finished */
};

struct draft {
    const char *file;          /* begins every error; borrowed */
    const char *const *labels; /* not NULL: line N is shown as labels[N - 1] instead of FILE:N */
    size_t n_labels;
    struct draft_section
        *sections; /* [0] is the top level; one of the same kind and title may repeat */
    size_t n_sections;
    struct draft_error *errors;
    size_t n_errors;    /* with the warnings */
    bool has_errors;    /* some are no warnings */
    bool empty_list;    /* one of the errors is about an empty list */
    bool out_of_memory; /* sticky: something is missing above */
};

/* An empty draft with its top-level section. `file` and `labels` must outlive it. */
void config_draft_init(struct draft *d, const char *file, const char *const *labels,
                       size_t n_labels);
/* Frees everything; values are overwritten first, as they may hold a password. */
void config_draft_free(struct draft *d);
/* Forgets the sections and keeps the errors: for reading again. */
void config_draft_restart(struct draft *d);

/* A new section, at the end; values are added to it with config_draft_add(). */
void config_draft_begin(struct draft *d, enum section_kind kind, const char *title, unsigned line);
void config_draft_add(struct draft *d, struct draft_section *s, const struct option *o,
                      unsigned line, const char *text);
/* Removes the values of `o`: the next one takes their place. */
void config_draft_remove(struct draft_section *s, const struct option *o);

/* The next value of `o` after `after` (NULL: the first), or NULL. */
const struct draft_value *config_draft_next(const struct draft_section *s, const struct option *o,
                                            const struct draft_value *after);
/* The first value of the key `name`, or NULL when it was not given. */
const struct draft_value *config_draft_get(const struct draft_section *s, const char *name);

/*
 * Records "WHERE: what (value): <format>". `value` may be NULL; it is cut when long and control
 * characters are replaced. Whoever calls sees to it that no password is among the arguments.
 */
void config_draft_error(struct draft *d, unsigned line, const char *what, const char *value,
                        const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The same of what is right and hardly meant: "WHERE: warning: what (value): <format>". */
void config_draft_warning(struct draft *d, unsigned line, const char *what, const char *value,
                          const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Hands errors and warnings out in the order of their lines. 0: no errors; -EINVAL; -ENOMEM. */
int config_draft_report(struct draft *d, config_error_fn error, void *ctx);

#endif
