/* SPDX-License-Identifier: GPL-2.0-or-later */
/* doctor/doctor.h: gather, judge, forget. */
#include "doctor/doctor.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "doctor/gather.h"
#include "doctor/judge.h"

#define ERRORS_MAX 64

static void keep_error(void *ctx, const char *line)
{
    struct facts *f = ctx;
    char *copy = f->n_config_errors < ERRORS_MAX ? strdup(line) : NULL;

    if (copy)
        f->config_errors[f->n_config_errors++] = copy;
}

void judge(const struct facts *f, struct findings *ret)
{
    judge_config(f, ret);
    judge_kernel(f, ret);
    judge_host(f, ret);
    judge_firewall(f, ret);
    judge_upstreams(f, ret);
}

static void free_facts(struct facts *f)
{
    for (size_t i = 0; i < f->n_config_errors; i++)
        free(f->config_errors[i]);
    free(f->config_errors);
    gather_firewall_free(&f->firewall);
    free(f->upstreams);
    free(f->captures);
    config_free(f->config);
    free(f);
}

int doctor_examine(const char *file, struct findings *ret)
{
    struct facts *f = calloc(1, sizeof(*f));
    struct findings found = {.n = 0};
    int r = 0;

    if (!f)
        return -ENOMEM;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* the configuration holds passwords */
    f->file = file;
    f->config_errors = calloc(ERRORS_MAX, sizeof(*f->config_errors));
    if (!f->config_errors)
        r = -ENOMEM;
    if (r == 0 && file && config_load(file, keep_error, f, &f->config) < 0)
        f->config = NULL;
    if (r == 0) {
        gather_kernel(&f->kernel);
        gather_host(f->config, &f->host);
        gather_firewall(&f->firewall);
    }
    if (r == 0 && f->config)
        r = gather_reach(f);
    if (r == 0)
        judge(f, &found);
    if (r == 0 && found.out_of_memory)
        r = -ENOMEM;
    free_facts(f);
    if (r < 0)
        findings_free(&found);
    else
        *ret = found;
    return r;
}
