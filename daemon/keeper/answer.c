/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/keeper_state.h: what the control socket asks. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "keeper/honest.h"
#include "keeper/keeper_state.h"
#include "log.h"
#include "message.h"

static void send_captures(const struct keeper *k, int client)
{
    const struct config *c = k->generation->config;

    for (size_t i = 0; i < c->n_captures; i++) {
        const struct config_capture *capture = &c->captures[i];
        const char *target = capture->target == TARGET_DIRECT   ? "direct"
                             : capture->target == TARGET_REFUSE ? "refuse"
                             : capture->target == TARGET_GROUP
                                 ? c->groups[capture->target_index].name
                                 : c->upstreams[capture->target_index].name;
        struct message_capture m = {.header = MESSAGE_HEADER(MESSAGE_CAPTURE, sizeof(m)),
                                    .hook = capture->policy.hook,
                                    .installed = captures_installed(k->captures, &capture->policy),
                                    .honest = k->generation->policies[i].honest};

        if (honest_why_early(k->generation, i))
            snprintf(m.why_early, sizeof(m.why_early), "%s", honest_why_early(k->generation, i));
        snprintf(m.name, sizeof(m.name), "%s", capture->policy.name);
        snprintf(m.upstream, sizeof(m.upstream), "%s", target);
        stitch_tell_capture(k->stitch, i, &m);
        fd_send_message(client, &m, sizeof(m), NULL, 0);
    }
    struct message_stitch m;

    if (stitch_tell(k->stitch, &m))
        fd_send_message(client, &m, sizeof(m), NULL, 0);
}

static void send_hello(const struct keeper *k, int client, unsigned ends)
{
    static const char *const fast[] = {"auto", "stitch", "sockmap", "splice", "copy", "relay"};
    struct message_hello m = {
        .header = MESSAGE_HEADER(MESSAGE_HELLO, sizeof(m)),
        .workers = ends,
        .pid = (uint32_t)getpid(),
        .uptime_ms = (uint64_t)(keeper_now() - k->started),
    };

    snprintf(m.daemon_version, sizeof(m.daemon_version), "%s", VERSION);
    snprintf(m.fast_path, sizeof(m.fast_path), "%s", fast[k->generation->config->fast_path]);
    fd_send_message(client, &m, sizeof(m), NULL, 0);
}

void keeper_send_end(int client, int result)
{
    struct message_end m = {.header = MESSAGE_HEADER(MESSAGE_END, sizeof(m)), .result = result};

    if (client >= 0)
        fd_send_message(client, &m, sizeof(m), NULL, 0);
}

void keeper_answer(void *keeper, unsigned type, int client)
{
    struct keeper *k = keeper;
    bool more;
    int r;

    switch (type) {
    case MESSAGE_STATUS:
    case MESSAGE_FLOWS:
        /* One end from each worker and one from us, so that no worker at all is an answer too. The
         * hello comes first, so what may fail to be sent is an end of ours, at once. */
        more = type == MESSAGE_FLOWS && stitch_is_open(k->stitch);
        send_hello(k, client, workers_due(k->workers) + 1 + more);
        if (more && !stitch_tell_flows(k->stitch, client))
            keeper_send_end(client, -EAGAIN);
        if (type == MESSAGE_STATUS)
            send_captures(k, client);
        /* Ours before theirs: what they send may leave no room in the client's queue. */
        keeper_send_end(client, 0);
        for (unsigned due = workers_due(k->workers), n = workers_ask(k->workers, type, client);
             n < due; n++)
            keeper_send_end(client, -EAGAIN);
        break;
    case MESSAGE_RELOAD:
        r = keeper_reload(k, client);
        if (r != -EINPROGRESS)
            keeper_send_end(client, r);
        break;
    case MESSAGE_STOP:
        log_info("stopping: asked to by undersock stop");
        k->lift = true;
        fd_close(&k->stopper);
        k->stopper = fcntl(client, F_DUPFD_CLOEXEC, 0);
        keeper_send_end(client, 0);
        /* A command that is ended with us has not ended by itself. */
        keeper_stop(k, k->o->command ? 128 + SIGTERM : 0);
        break;
    default:
        keeper_send_end(client, -ENOSYS);
    }
}
