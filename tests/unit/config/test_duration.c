/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "config/config.h"

static void units(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } cases[] = {
        {"150ms", 150000000},
        {"10s", 10000000000},
        {"5m", 300000000000},
        {"2h", 7200000000000},
        {"0", 0},
        {"0s", 0},
        {"000", 0},
        {"007s", 7000000000},
        {"9223372036s", 9223372036000000000}, /* the last whole second that fits */
        {"9223372036854ms", 9223372036854000000},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t ns = -1;

        assert_int_equal(config_duration_parse(cases[i].text, &ns), 0);
        assert_int_equal(ns, cases[i].ns);
    }
}

static void refused(void **state)
{
    static const char *const texts[] = {
        "",
        "s",
        "10",
        "1",
        "-1s",
        "+1s",
        " 1s",
        "1 s",
        "1s ",
        "1.5s",
        "10S",
        "1d",
        "1sec",
        "1ms5",
        "1us",
        "9223372037s",
        "9223372036855ms",
        "2562048h",
        "99999999999999999999999s",
        "9223372036854775808",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        int64_t ns = 4711;

        if (config_duration_parse(texts[i], &ns) != -EINVAL)
            fail_msg("\"%s\" was accepted", texts[i]);
        assert_int_equal(ns, 4711);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units),
        cmocka_unit_test(refused),
    };

    return cmocka_run_group_tests_name("config/duration", tests, NULL, NULL);
}
