/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may use the server: a file of lines "user:password" (the first colon separates; both 1..255
 * bytes),
 * '#' comments and empty lines. Read once, kept in memory that is left out of core dumps, wiped at
 * the end.
 */
#ifndef UNDERSOCK_SERVE_USERS_H
#define UNDERSOCK_SERVE_USERS_H

#include <stdbool.h>
#include <stddef.h>

struct users;

/*
 * 0, or -errno with "FILE:LINE: what, remedy" in `why` (never a password): -EINVAL for what the
 * file says, for a file without users, above 1 MiB, not a regular file, or accessible to group or
 * others.
 */
int users_load(const char *file, struct users **ret, char *why, size_t why_size);
void users_free(struct users *u);
size_t users_count(const struct users *u);
/*
 * Both NUL-terminated, at most 255 bytes. Comparing the password takes the same time whatever it
 * is, and whether or not there is such a user.
 */
bool users_check(const struct users *u, const char *user, const char *password);

#endif
