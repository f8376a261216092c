/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cli/json.h */
#include "cli/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

void json_number(cJSON *to, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    cJSON_AddItemToObject(to, key, cJSON_CreateRaw(text));
}

void json_known(cJSON *to, const char *key, bool known, uint64_t value)
{
    if (known)
        json_number(to, key, value);
    else
        cJSON_AddNullToObject(to, key);
}

void json_text(cJSON *to, const char *key, const char *text)
{
    if (text[0])
        cJSON_AddStringToObject(to, key, text);
    else
        cJSON_AddNullToObject(to, key);
}

int json_print(cJSON *j)
{
    char *text = cJSON_Print(j);

    cJSON_Delete(j);
    if (!text)
        return CLI_FAILED;
    puts(text);
    free(text);
    return CLI_DONE;
}
