/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small files of /proc and /sys. */
#ifndef UNDERSOCK_DOCTOR_PROC_H
#define UNDERSOCK_DOCTOR_PROC_H

#include <stddef.h>

/* The beginning of a file as a text, cut at `size`. 0 or -errno. */
int proc_read(const char *path, char *ret, size_t size);
/* The number in a file of one number; FACT_UNKNOWN when there is none. */
int proc_number(const char *path_format, ...) __attribute__((format(printf, 1, 2)));

#endif
