/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a fuzz target offers to libFuzzer and to replay.c, and how it says that something does not
 * hold. */
#ifndef UNDERSOCK_TESTS_FUZZ_H
#define UNDERSOCK_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Always 0. Inputs may be of any size, also 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(cond)                                                              \
    do {                                                                              \
        if (!(cond)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

#endif
