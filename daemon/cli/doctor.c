/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock doctor`: what stands in the way, and how to mend it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "config/config.h"
#include "doctor/doctor.h"

static int print_json(const struct findings *found)
{
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "findings");

    for (size_t i = 0; i < found->n; i++) {
        const struct finding *f = &found->all[i];
        cJSON *j = cJSON_CreateObject();

        cJSON_AddStringToObject(j, "id", f->id);
        cJSON_AddStringToObject(j, "level", finding_level_name(f->level));
        cJSON_AddStringToObject(j, "text", f->text);
        cJSON_AddStringToObject(j, "mend", f->mend);
        cJSON_AddItemToArray(list, j);
    }
    json_number(root, "fail", findings_count(found, FINDING_FAIL));
    json_number(root, "warn", findings_count(found, FINDING_WARN));
    return json_print(root);
}

static void print_text(const struct findings *found)
{
    for (size_t i = 0; i < found->n; i++) {
        const struct finding *f = &found->all[i];

        printf("%-4s  %-18s %s\n", finding_level_name(f->level), f->id, f->text);
        if (f->mend[0])
            printf("      mend: %s\n", f->mend);
    }
    printf("%zu fail, %zu warn, %zu ok\n", findings_count(found, FINDING_FAIL),
           findings_count(found, FINDING_WARN), findings_count(found, FINDING_OK));
}

int cli_doctor(int argc, char **argv)
{
    struct cli_options o = {.file = NULL};
    struct findings found;
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_FILE | CLI_OPT_JSON, &o, &r))
        return r;
    /* Nobody has to have a configuration; who names one wants it looked at. */
    if (!o.file && access(CONFIG_DEFAULT_FILE, F_OK) == 0)
        o.file = CONFIG_DEFAULT_FILE;
    r = doctor_examine(o.file, &found);
    if (r < 0) {
        fprintf(stderr, "undersock: error: doctor: %s\n", strerror(-r));
        return CLI_FAILED;
    }
    r = findings_count(&found, FINDING_FAIL) > 0 ? CLI_FAILED : CLI_DONE;
    if (!o.json)
        print_text(&found);
    else if (print_json(&found) != CLI_DONE)
        r = CLI_FAILED;
    findings_free(&found);
    return r;
}
