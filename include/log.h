/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One line per event, on standard error: "undersock: error: ...", or with the journal's <N>
 * priority prefix when standard error is the journal. Each line is one write(2), so processes don't
 * interleave. Formats are constant; credentials are never arguments.
 */
#ifndef UNDERSOCK_LOG_H
#define UNDERSOCK_LOG_H

#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* The level from which on lines are dropped; default info. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* "error", "warning", "info", "debug"; -EINVAL for others. */
int log_level_parse(const char *text, enum log_level *ret);
const char *log_level_name(enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line about one flow: begins with "flow <id>: ". */
void log_flow(enum log_level level, uint64_t flow_id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                               \
    do {                                             \
        if (log_get_level() >= LOG_LEVEL_DEBUG)      \
            log_write(LOG_LEVEL_DEBUG, __VA_ARGS__); \
    } while (0)

#endif
