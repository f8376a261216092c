/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The keys as a table: name, section, type, where it is stored, minimum, maximum, default. */
#ifndef UNDERSOCK_CONFIG_OPTIONS_H
#define UNDERSOCK_CONFIG_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "config/draft.h"

enum option_type {
    /* one value */
    OPTION_WORD,      /* enum: the index into `words` */
    OPTION_NUMBER,    /* unsigned, decimal or 0x...: min..max */
    OPTION_DURATION,  /* int64_t, nanoseconds: min..max */
    OPTION_BOOL,      /* bool */
    OPTION_URL,       /* struct config_url */
    OPTION_PATH,      /* char *: absolute, at most max bytes */
    OPTION_ADDRESS,   /* char *: an address with a port; min is the port when none is given, 0:
                         required */
    OPTION_ENDPOINT,  /* char *: "host:port" */
    OPTION_CGROUP,    /* char *: a path below the cgroup2 root */
    OPTION_REFERENCE, /* a name; references.c resolves it */
    /* lists: a pointer at `offset`, a size_t at `count_offset` */
    OPTION_PORTS,      /* struct port_range */
    OPTION_PREFIXES,   /* struct prefix */
    OPTION_USERS,      /* uint32_t */
    OPTION_INTERFACES, /* char * */
    OPTION_NAMES,      /* char *: a pattern of dns/real.h */
    OPTION_MEMBERS,    /* names; references.c resolves them */
};

#define OPTION_REQUIRED  0x01u /* the section makes no sense without it */
#define OPTION_EVERY_HOP 0x02u /* an upstream's key that `undersock run -o` sets for all hops */

struct option {
    const char *name;
    enum section_kind section;
    enum option_type type;
    unsigned flags;
    size_t offset, count_offset; /* in the section's struct of config.h */
    int64_t min, max;
    const char *fallback;     /* the default as text; NULL: zero, or nothing */
    const char *const *words; /* OPTION_WORD: in the order of the enum, ends with NULL */
};

extern const struct option config_options[];
extern const size_t config_n_options;

const struct option *config_option_find(enum section_kind section, const char *name);
bool config_option_is_list(const struct option *o);
/* "an upstream", "a group", "a capture", "the top level". */
const char *config_section_name(enum section_kind kind);
/* The keys of a section, separated by ", "; returns `buf`. With `flags`, only those that have them.
 */
const char *config_option_list(enum section_kind section, unsigned flags, char *buf, size_t size);

/* Finds what was meant: offer candidates, then ask for the text to put in front of a remedy. */
struct suggestion {
    const char *written;
    const char *best;
    unsigned distance;
};

void config_suggestion_offer(struct suggestion *s, const char *candidate);
/* `did you mean "hook"? `, or "" when nothing is near; returns `buf`. */
const char *config_suggestion_text(const struct suggestion *s, char *buf, size_t size);

#endif
