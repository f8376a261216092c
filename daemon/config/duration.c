/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Durations as they are written: a whole number and its unit. */
#include <errno.h>
#include <string.h>

#include "config/config.h"

int config_duration_parse(const char *text, int64_t *ret)
{
    static const struct {
        const char *unit;
        int64_t ns;
    } units[] = {
        {"ms", INT64_C(1000000)},
        {"s", INT64_C(1000000000)},
        {"m", INT64_C(60000000000)},
        {"h", INT64_C(3600000000000)},
    };
    size_t digits = strspn(text, "0123456789");
    int64_t number = 0;

    if (digits == 0)
        return -EINVAL;
    for (size_t i = 0; i < digits; i++) {
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, text[i] - '0', &number))
            return -EINVAL;
    }
    if (text[digits] == '\0' && number == 0) { /* nothing needs no unit */
        *ret = 0;
        return 0;
    }
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(text + digits, units[i].unit) != 0)
            continue;
        if (__builtin_mul_overflow(number, units[i].ns, &number))
            return -EINVAL;
        *ret = number;
        return 0;
    }
    return -EINVAL;
}
