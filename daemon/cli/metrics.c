/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `undersock metrics`: what `status --json` counts, in the text format of Prometheus (version
 * 0.0.4): all lines of a metric together, behind its HELP and TYPE.
 *
 * Workers are told apart by their number and process. After a reload an old one finishes its flows
 * beside the new one of the same number, and counters begin anew with each process.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/counters.h"
#include "cli/upstream_list.h"
#include "control/client.h"

struct report {
    struct message_hello hello;
    struct message_stitch stitch;
    struct message_capture *captures;
    struct message_status_reply *workers;
    size_t n_captures, n_workers;
    struct upstream_list upstreams;
    bool no_memory;
};

/* One more at the end of an array; NULL: no memory. */
static void *grow(void **list, size_t *n, size_t size)
{
    char *all = realloc(*list, (*n + 1) * size);

    if (!all)
        return NULL;
    *list = all;
    return all + (*n)++ * size;
}

static void on_message(void *ctx, const union message *m)
{
    struct report *r = ctx;
    struct message_capture *capture;
    struct message_status_reply *worker;

    switch (m->header.type) {
    case MESSAGE_HELLO:
        r->hello = m->hello;
        break;
    case MESSAGE_STITCH:
        r->stitch = m->stitch;
        break;
    case MESSAGE_UPSTREAM:
        r->no_memory |= !upstream_list_add(&r->upstreams, &m->upstream);
        break;
    case MESSAGE_CAPTURE:
        capture = grow((void **)&r->captures, &r->n_captures, sizeof(*capture));
        if (capture)
            *capture = m->capture;
        r->no_memory |= !capture;
        break;
    case MESSAGE_STATUS_REPLY:
        worker = grow((void **)&r->workers, &r->n_workers, sizeof(*worker));
        if (worker)
            *worker = m->status;
        r->no_memory |= !worker;
        break;
    }
}

static void head(const char *name, const char *suffix, bool gauge, const char *help)
{
    printf("# HELP undersock_%s%s %s.\n# TYPE undersock_%s%s %s\n", name, suffix, help, name,
           suffix, gauge ? "gauge" : "counter");
}

/* A label's value: the three characters that are escaped, and nothing that steers a terminal. */
static void put_value(const char *s)
{
    for (; *s; s++) {
        if (*s == '\\' || *s == '"')
            putchar('\\');
        if (*s == '\n')
            fputs("\\n", stdout);
        else
            putchar((unsigned char)*s < ' ' || *s == 0x7f ? '?' : *s);
    }
}

static void put_label(const char *name, const char *value, const char *behind)
{
    printf("%s=\"", name);
    put_value(value);
    printf("\"%s", behind);
}

static void put_worker(const struct message_status_reply *m)
{
    printf("{worker=\"%u\",pid=\"%u\"", m->worker, m->pid);
}

/* `reported`: where it is in a worker's reply. */
static void of_workers(const struct report *r, const struct counters *c, size_t reported)
{
    for (size_t i = 0; i < c->n; i++) {
        const struct counter *k = &c->list[i];
        const char *suffix = k->gauge ? "" : "_total";
        char name[64];

        snprintf(name, sizeof(name), "%s%s", c->prefix, k->name);
        head(name, suffix, k->gauge, k->help);
        for (size_t w = 0; w < r->n_workers; w++) {
            printf("undersock_%s%s", name, suffix);
            put_worker(&r->workers[w]);
            printf("} %" PRIu64 "\n", counter_value(k, (const char *)&r->workers[w] + reported));
        }
    }
}

static void of_stitch(const struct report *r)
{
    head("stitch_on", "", true, "Connections can be stitched: the programs are in place");
    printf("undersock_stitch_on %u\n", r->stitch.on);
    for (size_t i = 0; i < counters_stitch.n; i++) {
        const struct counter *k = &counters_stitch.list[i];
        char name[64];

        snprintf(name, sizeof(name), "%s%s", counters_stitch.prefix, k->name);
        head(name, "_total", false, k->help);
        printf("undersock_%s_total %" PRIu64 "\n", name, counter_value(k, r->stitch.counters));
    }
}

static void of_captures(const struct report *r)
{
    head("capture_installed", "", true, "Whether the capture is in force");
    for (size_t i = 0; i < r->n_captures; i++) {
        fputs("undersock_capture_installed{", stdout);
        put_label("capture", r->captures[i].name, ",");
        put_label("upstream", r->captures[i].upstream, "}");
        printf(" %u\n", r->captures[i].installed);
    }
    head("capture_stitched", "", true, "Whether the capture's connections are stitched");
    for (size_t i = 0; i < r->n_captures; i++) {
        fputs("undersock_capture_stitched{", stdout);
        put_label("capture", r->captures[i].name, "}");
        printf(" %u\n", r->captures[i].stitched);
    }
}

static void of_upstreams(const struct report *r)
{
    head("upstream_healthy", "", true, "Whether the last attempt reached the upstream");
    for (size_t i = 0; i < r->upstreams.n; i++) {
        fputs("undersock_upstream_healthy{", stdout);
        put_label("upstream", r->upstreams.at[i].name, "}");
        printf(" %u\n", r->upstreams.at[i].healthy);
    }
    head("upstream_granted", "_total", false, "Connections that the upstream granted");
    for (size_t i = 0; i < r->upstreams.n; i++) {
        fputs("undersock_upstream_granted_total{", stdout);
        put_label("upstream", r->upstreams.at[i].name, "}");
        printf(" %" PRIu64 "\n", r->upstreams.at[i].granted);
    }
    head("upstream_failed", "_total", false, "Attempts at which the upstream was at fault");
    for (size_t i = 0; i < r->upstreams.n; i++) {
        fputs("undersock_upstream_failed_total{", stdout);
        put_label("upstream", r->upstreams.at[i].name, "}");
        printf(" %" PRIu64 "\n", r->upstreams.at[i].failed);
    }
}

static void print(const struct report *r)
{
    head("info", "", true, "The version, and what fast-path says");
    fputs("undersock_info{", stdout);
    put_label("version", r->hello.daemon_version, ",");
    put_label("fast_path", r->hello.fast_path, "}");
    printf(" 1\n");
    head("uptime_seconds", "", true, "Since the daemon started");
    printf("undersock_uptime_seconds %.3f\n", (double)r->hello.uptime_ms / 1000);
    of_captures(r);
    of_upstreams(r);
    of_stitch(r);
    head("max_flows", "", true, "How many flows a worker has room for");
    for (size_t w = 0; w < r->n_workers; w++) {
        fputs("undersock_max_flows", stdout);
        put_worker(&r->workers[w]);
        printf("} %u\n", r->workers[w].max_flows);
    }
    of_workers(r, &counters_flows, offsetof(struct message_status_reply, stats));
    of_workers(r, &counters_udp, offsetof(struct message_status_reply, udp));
    of_workers(r, &counters_dns, offsetof(struct message_status_reply, names));
}

int cli_metrics(int argc, char **argv)
{
    struct cli_options o = {.file = NULL};
    struct report report = {.n_workers = 0};
    char path[256], why[512] = "";
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_CONTROL, &o, &r))
        return r;
    cli_control_path(&o, path, sizeof(path));
    r = control_ask(path, MESSAGE_STATUS, on_message, &report, why, sizeof(why));
    if (r == 0 && report.no_memory)
        r = -ENOMEM;
    if (r == 0)
        print(&report); /* all of it or nothing: a gap would look like a counter that begins anew */
    else
        fprintf(stderr, "undersock: error: %s\n", why[0] ? why : strerror(-r));
    upstream_list_free(&report.upstreams);
    free(report.captures);
    free(report.workers);
    return r < 0 ? cli_exit_code(r) : CLI_DONE;
}
