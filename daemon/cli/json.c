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

/* The character at `s`, 0xfffd for an octet that belongs to none; `ret_size`: its octets. */
static uint32_t utf8_next(const uint8_t *s, unsigned *ret_size)
{
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    unsigned more = *s >= 0xf0 ? 3 : *s >= 0xe0 ? 2 : *s >= 0xc0 ? 1 : 0;
    uint32_t c = more > 0 ? *s & (0x3fu >> more) : *s;
    bool wrong = *s >= 0xf8 || (more == 0 && *s >= 0x80);

    for (unsigned i = 1; i <= more && !wrong; i++) {
        wrong = (s[i] & 0xc0) != 0x80;
        c = c << 6 | (s[i] & 0x3f);
    }
    wrong = wrong || c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000);
    *ret_size = wrong ? 1 : more + 1;
    return wrong ? 0xfffd : c;
}

/* cJSON escapes the control characters below 0x20 only and lets through what is not UTF-8, which
 * would be no JSON. All that is not ASCII stands in strings. */
static void put_ascii(const char *text)
{
    unsigned size;

    for (const uint8_t *s = (const uint8_t *)text; *s; s += size) {
        uint32_t c = utf8_next(s, &size);

        if (c < 0x7f)
            putchar((int)c);
        else if (c < 0x10000)
            printf("\\u%04" PRIx32, c);
        else
            printf("\\u%04" PRIx32 "\\u%04" PRIx32, 0xd7c0 + (c >> 10), 0xdc00 + (c & 0x3ff));
    }
    putchar('\n');
}

int json_print(cJSON *j)
{
    char *text = cJSON_Print(j);

    cJSON_Delete(j);
    if (!text)
        return CLI_FAILED;
    put_ascii(text);
    free(text);
    return CLI_DONE;
}
