/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/keeper_state.h: a configuration in the place of another, and what a new one needs. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "keeper/keeper_state.h"
#include "keeper/missing.h"
#include "keeper/notify.h"
#include "log.h"
#include "message.h"

static void config_error(void *ctx, const char *line)
{
    const int *client = ctx;
    struct message_text m = {.header = MESSAGE_HEADER(MESSAGE_TEXT, sizeof(m))};

    log_error("%s", line);
    if (*client < 0)
        return;
    snprintf(m.line, sizeof(m.line), "%s", line);
    fd_send_message(*client, &m, sizeof(m), NULL, 0);
}

/* What a reload that failed has added goes: nobody would accept there, and rows share their port's
 * connections. */
static void keep_listeners_of(struct keeper *k, const struct generation *g)
{
    listeners_unmark(k->listeners);
    for (size_t i = 0; i < g->n_listeners; i++)
        listeners_want(k->listeners, g->listeners[i].fd);
    listeners_prune(k->listeners);
}

int keeper_provide_names(struct keeper *k, struct generation *g, char *why, size_t why_size)
{
    int r = 0;

    for (size_t i = 0; i < g->set.n_policies && !k->fake && r == 0; i++) {
        if (g->udp[i].fake)
            r = fake_new(FAKE_NAMES_DEFAULT, &k->fake);
    }
    if (r < 0)
        snprintf(why, why_size, "no memory for the table of names: %s", strerror(-r));
    g->fake = k->fake;
    return r;
}

static bool has_gateway(const struct generation *g)
{
    for (size_t i = 0; i < g->set.n_policies; i++) {
        if (g->set.policies[i].hook == CAPTURE_GATEWAY)
            return true;
    }
    return false;
}

int keeper_provide_janitor(struct keeper *k, struct generation *g, char *why, size_t why_size)
{
    struct janitor_work work = {.timewait = !k->o->command};
    int links[64], r = 0;

    if (k->o->command) {
        work.dir = k->cgroup;
        work.instance = g->set.instance;
        work.links = links;
        work.n_links = captures_link_fds(k->captures, links, 64);
    }
    if (k->janitor.hold < 0 && (k->o->command || has_gateway(g)))
        r = janitor_start(&work, &k->janitor);
    if (!k->o->command)
        g->watched = k->janitor.hold;
    if (r < 0)
        snprintf(why, why_size, "cannot start a helper process: %s", strerror(-r));
    return r;
}

int keeper_reload(struct keeper *k, int client)
{
    struct generation *fresh, *old = k->generation;
    struct config *config;
    char why[512];

    if (!k->o->file)
        return -EOPNOTSUPP;
    notify_systemd("RELOADING=1");
    int r = config_load(k->o->file, config_error, &client, &config);

    if (r == 0) {
        r = missing_check(config, why, sizeof(why));
        if (r < 0) {
            config_error(&client, why);
            config_free(config);
        }
    }
    if (r == 0) {
        log_set_level(config->log_level);
        listeners_unmark(k->listeners);
        workers_tell_resolvers(k->workers, old); /* the upstreams' names come to them */
        r = generation_create(config, old->marked, k->listeners, k->seats, &fresh, why,
                              sizeof(why));
        if (r < 0) {
            config_error(&client, why);
        } else {
            r = keeper_provide_names(k, fresh, why, sizeof(why));
            if (r < 0) {
                config_error(&client, why);
                generation_free(fresh);
            }
        }
    }
    if (r == 0 && !workers_room(k->workers, fresh->n_workers)) {
        r = -ENOSPC;
        config_error(
            &client,
            "too many workers still finish the flows of earlier configurations: reload when "
            "some have ended, or restart the daemon");
        generation_free(fresh);
    }
    if (r == 0) {
        r = captures_apply(k->captures, fresh, -1, why, sizeof(why));
        if (r < 0) {
            config_error(&client, why);
            if (captures_apply(k->captures, old, -1, why, sizeof(why)) < 0)
                log_error("and what was in force cannot be restored: %s; restart the daemon", why);
            generation_free(fresh);
        }
    }
    if (r < 0)
        keep_listeners_of(k, old);
    if (r == 0) {
        if (keeper_provide_janitor(k, fresh, why, sizeof(why)) < 0)
            log_warning("%s", why);
        r = workers_start(k->workers, fresh);
        if (r < 0)
            log_error("cannot start the new workers: %s", strerror(-r));
        k->generation = fresh;
        keeper_follow_cgroups(k);
        k->draining++;
        workers_drain(k->workers, old);
        janitor_sweep(&k->janitor);
        listeners_prune(k->listeners);
        log_info("reloaded %s", k->o->file);
    }
    notify_systemd("READY=1");
    return r;
}
