/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock status`, `flows`, `reload` and `stop`: questions to the running daemon. */
#include "control/client.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ident.h"
#include "cli/cli.h"

static const char *const hooks[] = {"output", "cgroup", "gateway"};

/* Adds a number exactly; cJSON keeps doubles, which hold whole numbers up to 2^53. */
static void add_number(cJSON *to, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    cJSON_AddItemToObject(to, key, cJSON_CreateRaw(text));
}

static void add_known(cJSON *to, const char *key, bool known, uint64_t value)
{
    if (known)
        add_number(to, key, value);
    else
        cJSON_AddNullToObject(to, key);
}

static void add_text(cJSON *to, const char *key, const char *text)
{
    if (text[0])
        cJSON_AddStringToObject(to, key, text);
    else
        cJSON_AddNullToObject(to, key);
}

static int print_json(cJSON *j)
{
    char *text = cJSON_Print(j);

    cJSON_Delete(j);
    if (!text)
        return CLI_FAILED;
    puts(text);
    free(text);
    return CLI_DONE;
}

/* ---- flows ---- */

static void cgroup_text(const struct message_flow *f, char *buf, size_t size)
{
    /* The path is not in the record; the id is what `stat -c %i` says of the directory. */
    snprintf(buf, size, "%" PRIu64, f->origin.cgroup_id);
}

static cJSON *flow_json(const struct message_flow *f)
{
    cJSON *j = cJSON_CreateObject();
    char text[ADDR_STRLEN];

    snprintf(text, sizeof(text), IDENT_FMT, IDENT_ARG(f->id));
    cJSON_AddStringToObject(j, "id", text);
    cJSON_AddStringToObject(j, "proto", "tcp");
    cJSON_AddStringToObject(j, "capture", f->capture);
    cJSON_AddStringToObject(j, "client", addr_format(&f->client, text));
    cJSON_AddStringToObject(j, "destination", addr_format(&f->origin.destination, text));
    add_text(j, "name", f->name);
    add_text(j, "upstream", f->upstream);
    add_text(j, "engine", f->engine);
    cJSON_AddStringToObject(j, "state", f->state);
    add_number(j, "age_ms", f->age_ms);
    add_number(j, "bytes_up", f->bytes_up);
    add_number(j, "bytes_down", f->bytes_down);
    add_known(j, "pid", f->origin.known & ORIGIN_PID, f->origin.pid);
    if (f->origin.known & ORIGIN_COMM) {
        char comm[sizeof(f->origin.comm) + 1] = "";

        memcpy(comm, f->origin.comm, sizeof(f->origin.comm));
        cJSON_AddStringToObject(j, "comm", comm);
    } else {
        cJSON_AddNullToObject(j, "comm");
    }
    add_known(j, "uid", f->origin.known & ORIGIN_UID, f->origin.uid);
    if (f->origin.known & ORIGIN_CGROUP) {
        cgroup_text(f, text, sizeof(text));
        cJSON_AddStringToObject(j, "cgroup", text);
    } else {
        cJSON_AddNullToObject(j, "cgroup");
    }
    return j;
}

static void flow_line(const struct message_flow *f)
{
    char client[ADDR_STRLEN], destination[ADDR_STRLEN], id[24], pid[16] = "-";

    snprintf(id, sizeof(id), IDENT_FMT, IDENT_ARG(f->id));
    if (f->origin.known & ORIGIN_PID)
        snprintf(pid, sizeof(pid), "%" PRIu32, f->origin.pid);
    printf("%-16s %-10s %-10s %-24s %-28s %-10s %-7s %-11s %8" PRIu64 " %12" PRIu64 " %12" PRIu64
           " %7s %.16s\n",
           id, "tcp", f->capture, addr_format(&f->client, client),
           addr_format(&f->origin.destination, destination), f->upstream[0] ? f->upstream : "-",
           f->engine[0] ? f->engine : "-", f->state, f->age_ms, f->bytes_up, f->bytes_down, pid,
           f->origin.known & ORIGIN_COMM ? f->origin.comm : "-");
}

static void on_flow(void *ctx, const union message *m)
{
    cJSON *list = ctx;

    if (m->header.type != MESSAGE_FLOW)
        return;
    if (list)
        cJSON_AddItemToArray(list, flow_json(&m->flow));
    else
        flow_line(&m->flow);
}

static int flows_once(const char *path, bool json)
{
    cJSON *list = json ? cJSON_CreateArray() : NULL;
    char why[512] = "";

    if (!json)
        printf("%-16s %-10s %-10s %-24s %-28s %-10s %-7s %-11s %8s %12s %12s %7s %s\n", "ID", "PROTO",
               "CAPTURE", "CLIENT", "DESTINATION", "UPSTREAM", "ENGINE", "STATE", "AGE_MS",
               "BYTES_UP", "BYTES_DOWN", "PID", "COMM");
    int r = control_ask(path, MESSAGE_FLOWS, on_flow, list, why, sizeof(why));

    if (r < 0) {
        cJSON_Delete(list);
        fprintf(stderr, "undersock: error: %s\n", why[0] ? why : strerror(-r));
        return CLI_FAILED;
    }
    return json ? print_json(list) : CLI_DONE;
}

int cli_flows(int argc, char **argv)
{
    struct cli_options o = {.file = NULL};
    char path[256];
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_JSON | CLI_OPT_WATCH | CLI_OPT_CONTROL, &o, &r))
        return r;
    cli_control_path(&o, path, sizeof(path));
    for (;;) {
        if (o.watch && isatty(STDOUT_FILENO))
            fputs("\033[H\033[2J", stdout);
        r = flows_once(path, o.json);
        if (!o.watch || r != CLI_DONE)
            return r;
        fflush(stdout);
        sleep(1);
    }
}

/* ---- status ---- */

struct status {
    cJSON *root, *captures, *upstreams, *workers;
    bool json;
};

static void stats_json(cJSON *j, const struct message_stats *s)
{
    add_number(j, "flows", s->flows);
    add_number(j, "accepted", s->accepted);
    add_number(j, "granted", s->granted);
    add_number(j, "failed", s->failed);
    add_number(j, "finished", s->finished);
    add_number(j, "reset", s->reset);
    add_number(j, "refused_full", s->refused_full);
    add_number(j, "refused_loop", s->refused_loop);
    add_number(j, "refused_stray", s->refused_stray);
    add_number(j, "bytes_up", s->bytes_up);
    add_number(j, "bytes_down", s->bytes_down);
    add_number(j, "bytes_copied", s->bytes_copied);
    add_number(j, "bytes_spliced", s->bytes_spliced);
    add_number(j, "to_splice", s->to_splice);
    add_number(j, "to_copy", s->to_copy);
    add_number(j, "no_pipe", s->no_pipe);
    add_number(j, "no_stash", s->no_stash);
}

static void on_hello(struct status *st, const struct message_hello *m)
{
    if (st->json) {
        cJSON_AddStringToObject(st->root, "version", m->daemon_version);
        add_number(st->root, "pid", m->pid);
        add_number(st->root, "uptime_ms", m->uptime_ms);
        cJSON_AddStringToObject(st->root, "fast_path", m->fast_path);
    } else {
        printf("undersock %s, pid %u, up %.1f s, fast-path %s\n", m->daemon_version, m->pid,
               (double)m->uptime_ms / 1000, m->fast_path);
    }
}

static void on_capture(struct status *st, const struct message_capture *m)
{
    if (st->json) {
        cJSON *j = cJSON_CreateObject();

        cJSON_AddStringToObject(j, "name", m->name);
        cJSON_AddStringToObject(j, "hook", hooks[m->hook % 3]);
        cJSON_AddStringToObject(j, "upstream", m->upstream);
        cJSON_AddBoolToObject(j, "installed", m->installed != 0);
        cJSON_AddItemToArray(st->captures, j);
    } else {
        printf("capture %s: hook %s, upstream %s\n", m->name, hooks[m->hook % 3], m->upstream);
    }
}

static void on_worker(struct status *st, const struct message_status_reply *m)
{
    if (st->json) {
        cJSON *j = cJSON_CreateObject();

        add_number(j, "worker", m->worker);
        add_number(j, "pid", m->pid);
        add_number(j, "max_flows", m->max_flows);
        cJSON_AddBoolToObject(j, "draining", m->draining != 0);
        stats_json(j, &m->stats);
        cJSON_AddItemToArray(st->workers, j);
    } else {
        const struct message_stats *s = &m->stats;

        printf("worker %u: pid %u%s, flows %" PRIu64 "/%u, accepted %" PRIu64 ", granted %" PRIu64
               ", failed %" PRIu64 ", finished %" PRIu64 ", reset %" PRIu64 ", refused %" PRIu64
               ", loops %" PRIu64 "\n",
               m->worker, m->pid, m->draining ? " (draining)" : "", s->flows, m->max_flows,
               s->accepted, s->granted, s->failed, s->finished, s->reset,
               s->refused_full + s->refused_stray, s->refused_loop);
    }
}

static void on_upstream(struct status *st, const struct message_upstream *m)
{
    if (st->json) {
        cJSON *j = cJSON_CreateObject();

        cJSON_AddStringToObject(j, "name", m->name);
        cJSON_AddStringToObject(j, "url", m->url);
        add_number(j, "worker", m->worker);
        cJSON_AddBoolToObject(j, "healthy", m->healthy != 0);
        add_number(j, "granted", m->granted);
        add_number(j, "failed", m->failed);
        add_text(j, "last_error", m->last_error);
        cJSON_AddItemToArray(st->upstreams, j);
    } else {
        printf("worker %u: upstream %s (%s): %s, granted %" PRIu64 ", failed %" PRIu64 "%s%s\n",
               m->worker, m->name, m->url, m->healthy ? "healthy" : "down", m->granted, m->failed,
               m->last_error[0] ? ", last error: " : "", m->last_error);
    }
}

static void on_status(void *ctx, const union message *m)
{
    switch (m->header.type) {
    case MESSAGE_HELLO:
        on_hello(ctx, &m->hello);
        break;
    case MESSAGE_CAPTURE:
        on_capture(ctx, &m->capture);
        break;
    case MESSAGE_STATUS_REPLY:
        on_worker(ctx, &m->status);
        break;
    case MESSAGE_UPSTREAM:
        on_upstream(ctx, &m->upstream);
        break;
    }
}

int cli_status(int argc, char **argv)
{
    struct cli_options o = {.file = NULL};
    struct status st = {.json = false};
    char path[256], why[512] = "";
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_JSON | CLI_OPT_CONTROL, &o, &r))
        return r;
    cli_control_path(&o, path, sizeof(path));
    st.json = o.json;
    if (o.json) {
        st.root = cJSON_CreateObject();
        st.captures = cJSON_CreateArray();
        st.upstreams = cJSON_CreateArray();
        st.workers = cJSON_CreateArray();
    }
    r = control_ask(path, MESSAGE_STATUS, on_status, &st, why, sizeof(why));
    if (o.json) {
        cJSON_AddItemToObject(st.root, "captures", st.captures);
        cJSON_AddItemToObject(st.root, "upstreams", st.upstreams);
        cJSON_AddItemToObject(st.root, "workers", st.workers);
    }
    if (r < 0) {
        cJSON_Delete(st.root);
        fprintf(stderr, "undersock: error: %s\n", why[0] ? why : strerror(-r));
        return CLI_FAILED;
    }
    return o.json ? print_json(st.root) : CLI_DONE;
}

/* ---- reload, stop ---- */

static void on_text(void *ctx, const union message *m)
{
    (void)ctx;
    if (m->header.type == MESSAGE_TEXT)
        fprintf(stderr, "undersock: %.*s\n", (int)sizeof(m->text.line), m->text.line);
}

static int simple(int argc, char **argv, enum message_type type)
{
    struct cli_options o = {.file = NULL};
    char path[256], why[512] = "";
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_CONTROL, &o, &r))
        return r;
    cli_control_path(&o, path, sizeof(path));
    r = control_ask(path, type, on_text, NULL, why, sizeof(why));
    if (r == 0)
        return CLI_DONE;
    if (why[0])
        fprintf(stderr, "undersock: error: %s\n", why);
    else if (type == MESSAGE_RELOAD)
        fprintf(stderr, "undersock: error: the daemon goes on with its old configuration\n");
    return r == -EINVAL && type == MESSAGE_RELOAD ? CLI_USAGE : CLI_FAILED;
}

int cli_reload(int argc, char **argv)
{
    return simple(argc, argv, MESSAGE_RELOAD);
}

int cli_stop(int argc, char **argv)
{
    return simple(argc, argv, MESSAGE_STOP);
}
