/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `--json` of every command shares. */
#ifndef UNDERSOCK_CLI_JSON_H
#define UNDERSOCK_CLI_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

/* A number exactly: cJSON keeps doubles, which hold whole numbers up to 2^53 only. */
void json_number(cJSON *to, const char *key, uint64_t value);
/* The number, or null when it is not known. */
void json_known(cJSON *to, const char *key, bool known, uint64_t value);
/* The text, or null when it is empty. */
void json_text(cJSON *to, const char *key, const char *text);
/* Prints the document, in ASCII whatever the strings hold, and frees it; the command's exit code.
 */
int json_print(cJSON *j);

#endif
