/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock status`: what the running daemon has in force. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/counters.h"
#include "cli/json.h"
#include "cli/upstream_list.h"
#include "control/client.h"

static const char *const hooks[] = {"output", "cgroup", "gateway"};

static const char *const sockmap_words[] = {"not asked for", "proven", "off"};

struct status {
    cJSON *root, *captures, *json_upstreams, *workers;
    struct upstream_list upstreams;
    bool json;
};

static void counters_json(cJSON *j, const struct counters *c, const void *reported)
{
    for (size_t i = 0; i < c->n; i++)
        json_number(j, c->list[i].name, counter_value(&c->list[i], reported));
}

static void fast_path_line(const struct message_status_reply *m)
{
    const struct message_stats *s = &m->stats;

    char sockmap[256];

    if (m->sockmap != MESSAGE_SOCKMAP_ON)
        snprintf(sockmap, sizeof(sockmap), "%s%s", m->sockmap_why[0] ? ": " : "", m->sockmap_why);
    else
        snprintf(sockmap, sizeof(sockmap),
                 ": directions joined %" PRIu64 ", left %" PRIu64 ", demoted %" PRIu64
                 ", redirected %" PRIu64 ", passed %" PRIu64 " bytes",
                 s->sockmap_joined, s->sockmap_left, s->sockmap_demoted, s->bytes_redirected,
                 s->bytes_passed);
    cli_line("worker %u: copied %" PRIu64 ", spliced %" PRIu64 " bytes; sockmap %s%s", m->worker,
             s->bytes_copied, s->bytes_spliced, sockmap_words[m->sockmap % 3], sockmap);
}

static void on_hello(struct status *st, const struct message_hello *m)
{
    if (st->json) {
        cJSON_AddStringToObject(st->root, "version", m->daemon_version);
        json_number(st->root, "pid", m->pid);
        json_number(st->root, "uptime_ms", m->uptime_ms);
        cJSON_AddStringToObject(st->root, "fast_path", m->fast_path);
    } else {
        cli_line("undersock %s, pid %u, up %.1f s, fast-path %s", m->daemon_version, m->pid,
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
        cJSON_AddStringToObject(j, "connect", m->honest ? "honest" : "early");
        json_text(j, "why_early", m->why_early);
        cJSON_AddBoolToObject(j, "stitched", m->stitched != 0);
        json_text(j, "why_relayed", m->why_relayed);
        cJSON_AddItemToArray(st->captures, j);
    } else {
        cli_line("capture %s: %shook %s, upstream %s, connect %s%s%s%s%s%s", m->name,
                 m->installed ? "" : "waits for its cgroup, which is not there; ",
                 hooks[m->hook % 3], m->upstream, m->honest ? "honest" : "early",
                 m->why_early[0] ? ": " : "", m->why_early, m->stitched ? ", stitched" : "",
                 m->why_relayed[0] ? ", relayed: " : "", m->why_relayed);
    }
}

static void on_stitch(const struct status *st, const struct message_stitch *m)
{
    const char *word = m->on ? "on" : m->wanted ? "off" : "not asked for";

    if (st->json) {
        cJSON *j = cJSON_AddObjectToObject(st->root, "stitch");

        json_text(j, "state", word);
        json_text(j, "why", m->why);
        counters_json(j, &counters_stitch, m->counters);
        return;
    }
    char counters[STITCH_N_COUNTERS * 32] = "";

    for (size_t i = 0, n = 0; m->on && i < STITCH_N_COUNTERS; i++) {
        if (i <= STITCH_COUNT_FAILED || m->counters[i])
            n += (size_t)snprintf(counters + n, sizeof(counters) - n, "%s %s %" PRIu64,
                                  i ? "," : ":", counters_stitch.list[i].name, m->counters[i]);
    }
    cli_line("stitch: %s%s%s%s", word, m->why[0] ? ": " : "", m->why, counters);
}

/* Nothing where no UDP is taken. */
static void datagrams_line(const struct message_status_reply *m)
{
    const struct message_udp_stats *u = &m->udp;
    uint64_t dropped = u->dropped_loop + u->dropped_stray + u->dropped_waiting + u->dropped_up +
                       u->dropped_header + u->dropped_fragment + u->dropped_source +
                       u->dropped_down;

    if (u->begun + u->taken + u->refused + dropped == 0)
        return;
    cli_line("worker %u: UDP: associations %" PRIu64 ", datagrams up %" PRIu64 ", down %" PRIu64
             ", refused %" PRIu64 ", dropped %" PRIu64 "; DNS: queries %" PRIu64
             ", answered %" PRIu64 ", failed %" PRIu64,
             m->worker, u->associations, u->datagrams_up, u->datagrams_down, u->refused, dropped,
             m->names.queries, m->names.answered_fake + m->names.answered,
             m->names.failed + m->names.timeouts);
}

static void on_worker(struct status *st, const struct message_status_reply *m)
{
    if (st->json) {
        cJSON *j = cJSON_CreateObject();

        json_number(j, "worker", m->worker);
        json_number(j, "pid", m->pid);
        json_number(j, "max_flows", m->max_flows);
        cJSON_AddBoolToObject(j, "draining", m->draining != 0);
        json_text(j, "sockmap", sockmap_words[m->sockmap % 3]);
        json_text(j, "sockmap_why", m->sockmap_why);
        counters_json(j, &counters_flows, &m->stats);
        counters_json(cJSON_AddObjectToObject(j, "udp"), &counters_udp, &m->udp);
        counters_json(cJSON_AddObjectToObject(j, "dns"), &counters_dns, &m->names);
        cJSON_AddItemToArray(st->workers, j);
    } else {
        const struct message_stats *s = &m->stats;

        cli_line("worker %u: pid %u%s, flows %" PRIu64 "/%u, held %" PRIu64 ", accepted %" PRIu64
                 ", granted %" PRIu64 ", failed %" PRIu64 ", finished %" PRIu64 ", reset %" PRIu64
                 ", refused %" PRIu64 ", loops %" PRIu64,
                 m->worker, m->pid, m->draining ? " (draining)" : "", s->flows, m->max_flows,
                 s->held, s->accepted, s->granted, s->failed, s->finished, s->reset,
                 s->refused_full + s->refused_stray, s->refused_loop);
        fast_path_line(m);
        datagrams_line(m);
    }
}

static void show_upstreams(const struct status *st)
{
    for (size_t i = 0; i < st->upstreams.n; i++) {
        const struct message_upstream *m = &st->upstreams.at[i];

        if (!st->json) {
            cli_line("upstream %s (%s): %s, granted %" PRIu64 ", failed %" PRIu64 "%s%s", m->name,
                     m->url, m->healthy ? "healthy" : "down", m->granted, m->failed,
                     m->last_error[0] ? ", last error: " : "", m->last_error);
            continue;
        }
        cJSON *j = cJSON_CreateObject();

        cJSON_AddStringToObject(j, "name", m->name);
        cJSON_AddStringToObject(j, "url", m->url);
        cJSON_AddBoolToObject(j, "healthy", m->healthy != 0);
        json_number(j, "granted", m->granted);
        json_number(j, "failed", m->failed);
        json_text(j, "last_error", m->last_error);
        cJSON_AddItemToArray(st->json_upstreams, j);
    }
}

static void on_status(void *ctx, const union message *m)
{
    struct status *st = ctx;

    switch (m->header.type) {
    case MESSAGE_HELLO:
        on_hello(st, &m->hello);
        break;
    case MESSAGE_CAPTURE:
        on_capture(st, &m->capture);
        break;
    case MESSAGE_STITCH:
        on_stitch(st, &m->stitch);
        break;
    case MESSAGE_STATUS_REPLY:
        on_worker(st, &m->status);
        break;
    case MESSAGE_UPSTREAM:
        (void)upstream_list_add(&st->upstreams, &m->upstream);
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
        st.json_upstreams = cJSON_CreateArray();
        st.workers = cJSON_CreateArray();
    }
    r = control_ask(path, MESSAGE_STATUS, on_status, &st, why, sizeof(why));
    show_upstreams(&st);
    upstream_list_free(&st.upstreams);
    if (o.json) {
        cJSON_AddItemToObject(st.root, "captures", st.captures);
        cJSON_AddItemToObject(st.root, "upstreams", st.json_upstreams);
        cJSON_AddItemToObject(st.root, "workers", st.workers);
    }
    if (r < 0) {
        cJSON_Delete(st.root);
        fprintf(stderr, "undersock: error: %s\n", why[0] ? why : strerror(-r));
        return cli_exit_code(r);
    }
    return o.json ? json_print(st.root) : CLI_DONE;
}
