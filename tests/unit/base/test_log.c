/* SPDX-License-Identifier: GPL-2.0-or-later */
/* include/log.h: what a line looks like, which lines are dropped, and what cannot get into one. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/ident.h"
#include "log.h"

/* What `body` writes to standard error, from a child of its own: whether it is the journal's is
 * asked once. */
static void written(void (*body)(void), const char *journal, char *ret, size_t size)
{
    int fd[2], status;
    size_t n = 0;
    ssize_t r;

    assert_int_equal(pipe(fd), 0);
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (journal)
            setenv("JOURNAL_STREAM", journal, 1);
        else
            unsetenv("JOURNAL_STREAM");
        dup2(fd[1], STDERR_FILENO);
        body();
        _exit(0);
    }
    close(fd[1]);
    while ((r = read(fd[0], ret + n, size - 1 - n)) > 0)
        n += (size_t)r;
    ret[n] = '\0';
    close(fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void one_of_each(void)
{
    log_set_level(LOG_LEVEL_DEBUG);
    log_error("e %d", 1);
    log_warning("w %s", "two");
    log_info("i");
    log_debug("d");
    log_flow(LOG_LEVEL_WARNING, UINT64_C(0x0200000100000003), "over");
}

static void a_line_begins_with_who_and_how_grave(void **state)
{
    char text[4096];

    (void)state;
    written(one_of_each, NULL, text, sizeof(text));
    assert_string_equal(text, "undersock: error: e 1\n"
                              "undersock: warning: w two\n"
                              "undersock: i\n"
                              "undersock: debug: d\n"
                              "undersock: warning: flow 200000100000003: over\n");
    written(one_of_each, "8:1234", text, sizeof(text));
    assert_string_equal(text, "<3>e 1\n<4>w two\n<6>i\n<7>d\n<4>flow 200000100000003: over\n");
}

static int evaluated;

static int count(void)
{
    return ++evaluated;
}

static void all_levels(void)
{
    static const enum log_level levels[] = {LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO,
                                            LOG_LEVEL_DEBUG};

    for (unsigned i = 0; i < 4; i++) {
        log_set_level(levels[i]);
        if (log_get_level() != levels[i])
            _exit(1);
        log_error("%u error", i);
        log_warning("%u warning", i);
        log_info("%u info", i);
        log_debug("%u debug", i);
        log_flow(LOG_LEVEL_DEBUG, 1, "%u", i);
    }
    log_set_level(LOG_LEVEL_INFO);
    log_debug("%d", count()); /* not even worked out */
    if (evaluated != 0)
        _exit(2);
}

static void lines_below_the_level_are_dropped(void **state)
{
    char text[4096];

    (void)state;
    written(all_levels, NULL, text, sizeof(text));
    assert_string_equal(text, "undersock: error: 0 error\n"
                              "undersock: error: 1 error\nundersock: warning: 1 warning\n"
                              "undersock: error: 2 error\nundersock: warning: 2 warning\n"
                              "undersock: 2 info\n"
                              "undersock: error: 3 error\nundersock: warning: 3 warning\n"
                              "undersock: 3 info\nundersock: debug: 3 debug\n"
                              "undersock: debug: flow 1: 3\n");
}

static void hostile(void)
{
    log_error("%s", "a\nundersock: error: forged\r\x1b[2J\x7f\t\x01 end");
    log_error("%s", "\xc2\x9b"
                    "2J \xc3\x9b \xc2\xa9 \xc2");
}

/* A name from the network makes no second line and steers no terminal. */
static void control_characters_do_not_get_out(void **state)
{
    char text[4096];

    (void)state;
    written(hostile, NULL, text, sizeof(text));
    assert_string_equal(text, "undersock: error: a?undersock: error: forged??[2J??? end\n"
                              "undersock: error: ??2J \xc3\x9b \xc2\xa9 \xc2\n");
}

static void very_long(void)
{
    char *long_text = malloc(5001);

    for (int n = 900; n <= 1100 && long_text; n++) {
        memset(long_text, 'x', (size_t)n);
        long_text[n] = '\0';
        log_error("%s", long_text);
    }
    memset(long_text, 'x', 5000);
    long_text[5000] = '\0';
    log_flow(LOG_LEVEL_ERROR, UINT64_MAX, "%s", long_text);
    free(long_text);
}

static void a_long_line_is_cut_and_still_a_line(void **state)
{
    static char text[300 * 1024];
    unsigned lines = 0;

    (void)state;
    written(very_long, NULL, text, sizeof(text));
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        size_t n = (size_t)(end - line) + 1, whole = strlen("undersock: error: ") + 900 + lines + 1;

        assert_int_equal(strncmp(line, "undersock: error: ", 18), 0);
        assert_true(n <= 1024);
        if (whole <= 1023)
            assert_int_equal(n, whole);
        else
            assert_true(n >= 1022);
        assert_int_equal(end[-1], 'x');
    }
    assert_int_equal(lines, 202);
}

static void levels_have_names(void **state)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    enum log_level level = LOG_LEVEL_INFO;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(log_level_parse(names[i], &level), 0);
        assert_int_equal(level, i);
        assert_string_equal(log_level_name(level), names[i]);
    }
    assert_int_equal(log_level_parse("", &level), -EINVAL);
    assert_int_equal(log_level_parse("Error", &level), -EINVAL);
    assert_int_equal(log_level_parse("debugs", &level), -EINVAL);
    assert_int_equal(level, LOG_LEVEL_DEBUG);
}

static void identifiers_are_unique_per_worker_slot_and_generation(void **state)
{
    (void)state;
    assert_int_equal(ident_make(1, 2, 3), UINT64_C(0x0100000200000003));
    assert_int_equal(ident_make(255, 0xffffff, UINT32_MAX), UINT64_MAX);
    assert_int_equal(ident_make(256, 0x1000000, 0), 0); /* wraps within its own field */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_begins_with_who_and_how_grave),
        cmocka_unit_test(lines_below_the_level_are_dropped),
        cmocka_unit_test(control_characters_do_not_get_out),
        cmocka_unit_test(a_long_line_is_cut_and_still_a_line),
        cmocka_unit_test(levels_have_names),
        cmocka_unit_test(identifiers_are_unique_per_worker_slot_and_generation),
    };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
