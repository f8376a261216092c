/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock flows`: one line, or one JSON object, per live flow. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ident.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "control/client.h"
#include "keeper/cgroup.h"

/*
 * The path of a cgroup below the root, from its id: the id is what a file handle of kernfs holds
 * (FILEID_KERNFS, fs/kernfs/mount.c). "" when it is gone, or we are not root.
 */
static void cgroup_path(uint64_t id, char *buf, size_t size)
{
    union {
        struct file_handle handle;
        char space[sizeof(struct file_handle) + sizeof(uint64_t)];
    } h = {.handle = {.handle_bytes = sizeof(uint64_t), .handle_type = 0xfe}};
    char root[256], link[64];
    ssize_t n = -1;

    buf[0] = '\0';
    if (cgroup_root(root, sizeof(root)) < 0)
        return;
    memcpy(h.space + sizeof(struct file_handle), &id, sizeof(id));
    int mount = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = mount < 0 ? -1 : open_by_handle_at(mount, &h.handle, O_PATH | O_CLOEXEC);

    if (fd >= 0) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, buf, size - 1);
        close(fd);
    }
    if (mount >= 0)
        close(mount);
    buf[n > 0 ? n : 0] = '\0';
    size_t skip = strlen(root);

    if (strncmp(buf, root, skip) == 0)
        memmove(buf, buf + skip, strlen(buf + skip) + 1);
    if (n > 0 && buf[0] == '\0')
        snprintf(buf, size, "/");
}

static const char *flow_protocol(const struct message_flow *f)
{
    return f->protocol == IPPROTO_UDP ? "udp" : "tcp";
}

static cJSON *flow_json(const struct message_flow *f)
{
    cJSON *j = cJSON_CreateObject();
    char text[ADDR_STRLEN];

    snprintf(text, sizeof(text), IDENT_FMT, IDENT_ARG(f->id));
    cJSON_AddStringToObject(j, "id", text);
    cJSON_AddStringToObject(j, "proto", flow_protocol(f));
    cJSON_AddStringToObject(j, "capture", f->capture);
    cJSON_AddStringToObject(j, "client", addr_format(&f->client, text));
    cJSON_AddStringToObject(j, "destination", addr_format(&f->origin.destination, text));
    json_text(j, "name", f->name);
    json_text(j, "upstream", f->upstream);
    json_text(j, "engine", f->engine);
    cJSON_AddStringToObject(j, "state", f->state);
    json_known(j, "age_ms", f->age_ms != MESSAGE_AGE_UNKNOWN, f->age_ms);
    json_number(j, "bytes_up", f->bytes_up);
    json_number(j, "bytes_down", f->bytes_down);
    json_known(j, "pid", f->origin.known & ORIGIN_PID, f->origin.pid);
    if (f->origin.known & ORIGIN_COMM) {
        char comm[sizeof(f->origin.comm) + 1] = "";

        memcpy(comm, f->origin.comm, sizeof(f->origin.comm));
        cJSON_AddStringToObject(j, "comm", comm);
    } else {
        cJSON_AddNullToObject(j, "comm");
    }
    json_known(j, "uid", f->origin.known & ORIGIN_UID, f->origin.uid);
    char cgroup[CGROUP_PATH_MAX] = "";

    if (f->origin.known & ORIGIN_CGROUP)
        cgroup_path(f->origin.cgroup_id, cgroup, sizeof(cgroup));
    json_text(j, "cgroup", cgroup);
    return j;
}

static void flow_line(const struct message_flow *f)
{
    char client[ADDR_STRLEN], destination[ADDR_STRLEN], id[24], pid[16] = "-", age[24] = "-";

    snprintf(id, sizeof(id), IDENT_FMT, IDENT_ARG(f->id));
    if (f->origin.known & ORIGIN_PID)
        snprintf(pid, sizeof(pid), "%" PRIu32, f->origin.pid);
    if (f->age_ms != MESSAGE_AGE_UNKNOWN)
        snprintf(age, sizeof(age), "%" PRIu64, f->age_ms);
    cli_line("%-16s %-10s %-10s %-24s %-28s %-10s %-7s %-11s %8s %12" PRIu64 " %12" PRIu64
             " %7s %.16s",
             id, flow_protocol(f), f->capture, addr_format(&f->client, client),
             addr_format(&f->origin.destination, destination), f->upstream[0] ? f->upstream : "-",
             f->engine[0] ? f->engine : "-", f->state, age, f->bytes_up, f->bytes_down, pid,
             f->origin.known & ORIGIN_COMM ? f->origin.comm : "-");
}

static void heading(void)
{
    printf("%-16s %-10s %-10s %-24s %-28s %-10s %-7s %-11s %8s %12s %12s %7s %s\n", "ID", "PROTO",
           "CAPTURE", "CLIENT", "DESTINATION", "UPSTREAM", "ENGINE", "STATE", "AGE_MS", "BYTES_UP",
           "BYTES_DOWN", "PID", "COMM");
}

static void on_flow(void *ctx, const union message *m)
{
    cJSON *list = ctx;

    if (m->header.type == MESSAGE_HELLO && !list)
        heading();
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

    int r = control_ask(path, MESSAGE_FLOWS, on_flow, list, why, sizeof(why));

    if (r < 0) {
        cJSON_Delete(list);
        fprintf(stderr, "undersock: error: %s\n", why[0] ? why : strerror(-r));
        return cli_exit_code(r);
    }
    return json ? json_print(list) : CLI_DONE;
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
