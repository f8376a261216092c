/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `undersock doctor` has to say, in order. */
#ifndef UNDERSOCK_DOCTOR_FINDINGS_H
#define UNDERSOCK_DOCTOR_FINDINGS_H

#include <stdbool.h>
#include <stddef.h>

enum finding_level { FINDING_OK, FINDING_WARN, FINDING_FAIL };

struct finding {
    const char *id; /* what was looked at; constant, the same whatever came out */
    enum finding_level level;
    char *text; /* one sentence, without its full stop */
    char *mend; /* the command that mends it, "": there is none to give */
};

/* Zeroed is empty. */
struct findings {
    struct finding *all;
    size_t n, cap;
    bool out_of_memory;
};

/* Appends one; `mend` NULL: none. Out of memory is remembered, as in a cursor, and nothing is
 * added. */
void finding_add(struct findings *f, const char *id, enum finding_level level, const char *mend,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The same, with a mend that is formatted (may be ""), after the text. */
void finding_add_mend(struct findings *f, const char *id, enum finding_level level,
                      const char *text, const char *mend_format, ...)
    __attribute__((format(printf, 5, 6)));
size_t findings_count(const struct findings *f, enum finding_level level);
const char *finding_level_name(enum finding_level level); /* "ok", "warn", "fail" */
void findings_free(struct findings *f);

#endif
