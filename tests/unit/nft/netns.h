/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tests in a network namespace of their own: the body runs in a child, says what failed on standard
 * error, and everything it made goes with it.
 */
#ifndef UNDERSOCK_TEST_NFT_NETNS_H
#define UNDERSOCK_TEST_NFT_NETNS_H

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../addresses.h"

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: not so: %s (errno: %s)\n", __FILE__, __LINE__, #condition, \
                    strerror(errno));                                                          \
            _exit(1);                                                                          \
        }                                                                                      \
    } while (0)

#define EXIT_SKIP 77

/* For the body: leaves the test as skipped. */
static inline void __attribute__((noreturn)) skip_because(const char *reason)
{
    fprintf(stderr, "skipped: %s\n", reason);
    _exit(EXIT_SKIP);
}

/* Whether the shell finds the command. */
static inline int has_command(const char *command)
{
    char line[128];

    snprintf(line, sizeof(line), "command -v %s >/dev/null 2>&1", command);
    return system(line) == 0;
}

/* Standard output of a shell command (NULL: it failed), for the caller to free. */
static inline char *output_of(const char *command)
{
    size_t len = 0, cap = 1 << 22;
    FILE *pipe = popen(command, "re");
    char *text = malloc(cap);

    CHECK(pipe && text);
    len = fread(text, 1, cap - 1, pipe);
    text[len] = '\0';
    if (pclose(pipe) == 0)
        return text;
    free(text);
    return NULL;
}

static inline void in_netns(void (*body)(void))
{
    int status;

    if (geteuid() != 0) {
        print_message("skipped: needs root for a network namespace\n");
        skip();
    }
    fflush(NULL);
    pid_t child = fork();

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (unshare(CLONE_NEWNET) < 0)
            skip_because("no network namespaces here");
        body();
        _exit(0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP)
        skip();
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#endif
