/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/keeper_state.h: a configuration in the place of another, and what a new one needs.
 *
 * The upstreams' names may take long to become addresses, and meanwhile there is work: a worker
 * dies, a cgroup is made anew, somebody wants us to stop. So a reload has two parts, and between
 * them the loop watches for the answers. What is in force is touched by the second only.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "keeper/datagrams.h"
#include "keeper/keeper_state.h"
#include "keeper/missing.h"
#include "keeper/notify.h"
#include "log.h"
#include "message.h"

static void tell(int client, const char *line)
{
    struct message_text m = {.header = MESSAGE_HEADER(MESSAGE_TEXT, sizeof(m))};

    if (client < 0)
        return;
    snprintf(m.line, sizeof(m.line), "%s", line);
    fd_send_message(client, &m, sizeof(m), NULL, 0);
}

static void config_error(void *ctx, const char *line)
{
    const int *client = ctx;

    log_error("%s", line);
    tell(*client, line);
}

/* A config_error_fn. */
static void config_line(void *ctx, const char *line)
{
    const int *client = ctx;

    if (!strstr(line, ": warning: ")) {
        config_error(ctx, line);
        return;
    }
    log_info("%s", line);
    tell(*client, line);
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

/* The second part: 0, or -errno after which everything is as it was, and `fresh` is gone. */
static int put_in_force(struct keeper *k, struct generation *fresh, int client)
{
    struct generation *old = k->generation;
    char why[512];

    int r = captures_look(k->captures, fresh->config, why, sizeof(why));

    if (r < 0) {
        config_error(&client, why);
        generation_free(fresh);
        return r;
    }
    listeners_unmark(k->listeners);
    r = generation_complete(fresh, k->listeners, k->seats, why, sizeof(why));
    if (r == 0)
        r = keeper_provide_names(k, fresh, why, sizeof(why));
    if (r < 0) {
        config_error(&client, why);
        generation_free(fresh);
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
        k->unresolved = false;
        keeper_follow_cgroups(k);
        k->draining++;
        workers_drain(k->workers, old);
        janitor_sweep(&k->janitor);
        listeners_prune(k->listeners);
        log_info("reloaded %s", k->o->file);
    }
    return r;
}

/* Ends the wait; `ret_client` is the caller's now, and so is the generation that is returned. */
static struct generation *end_wait(struct keeper *k, int *ret_client)
{
    struct generation *fresh = k->reload.fresh;

    /* A worker that has just been forked may have it, too. */
    loop_remove(k->loop, upstream_lookup_fd(k->reload.names));
    upstream_lookup_end(k->reload.names);
    *ret_client = k->reload.client;
    k->reload.names = NULL;
    k->reload.fresh = NULL;
    k->reload.client = -1;
    return fresh;
}

/* >0: the upstreams of `fresh` have their addresses; -EINPROGRESS: they are waited for, and `fresh`
 * is ours; -errno with `why`. */
static int resolve(struct keeper *k, struct generation *fresh, int client, char *why,
                   size_t why_size)
{
    int r = upstream_lookup_start(fresh->upstreams, fresh->config->n_upstreams, &k->reload.names,
                                  why, why_size);

    if (r != 0)
        return r;
    /* The control socket's server closes its own. */
    k->reload.client = client < 0 ? -1 : fcntl(client, F_DUPFD_CLOEXEC, 0);
    k->reload.fresh = fresh;
    if (client >= 0 && k->reload.client < 0)
        r = -errno;
    if (r == 0)
        r = loop_add(k->loop, upstream_lookup_fd(k->reload.names), EPOLLIN,
                     loop_ref(k->reload.kind, 0, 0));
    if (r == 0)
        return -EINPROGRESS;
    snprintf(why, why_size, "cannot wait for the upstreams' addresses: %s", strerror(-r));
    end_wait(k, &client);
    fd_close(&client);
    return r;
}

/* While one waits. A file that has changed since must not be forgotten, and a signal cannot be
 * answered. */
static int put_off(struct keeper *k, int client)
{
    if (client < 0) {
        log_info("the configuration is read again when the reload under way has ended");
        k->reload.again = true;
        return 0;
    }
    tell(client, "a reload is under way, and waits for the addresses of upstreams; ask again when "
                 "it has ended");
    return -EALREADY;
}

/* The upstreams' names are about to be asked for, and the queries are captured like anybody's. A
 * worker that is started meanwhile in the place of another has to know, too. */
static void tell_names(struct keeper *k, const struct generation *fresh)
{
    struct generation *g = k->generation;
    char **names = NULL;

    g->n_resolvers = datagrams_list_resolvers(g->resolvers);
    workers_tell_resolvers(k->workers, g);
    if (datagrams_list_direct(fresh->config, fresh->upstreams, &names) < 0)
        return;
    for (char **name = names; *name; name++)
        workers_tell_name(k->workers, g, *name);
    if (datagrams_add_names(&g->direct_names, names) < 0)
        log_warning("no memory for the names of upstreams");
    datagrams_free_names(names);
}

int keeper_reload(struct keeper *k, int client)
{
    struct generation *fresh;
    struct config *config;
    char why[512];

    if (!k->o->file)
        return -EOPNOTSUPP;
    if (k->reload.names)
        return put_off(k, client);
    notify_systemd("RELOADING=1");
    int r = config_load(k->o->file, config_line, &client, &config);

    if (r == 0) {
        missing_warn(config);
        log_set_level(config->log_level);
        r = generation_begin(config, k->generation->marked, &fresh);
        if (r < 0)
            config_error(&client, "out of memory");
    }
    if (r == 0) {
        tell_names(k, fresh);
        r = resolve(k, fresh, client, why, sizeof(why));
        if (r == -EINPROGRESS)
            return r;
        if (r < 0) {
            config_error(&client, why);
            generation_free(fresh);
        } else {
            r = put_in_force(k, fresh, client);
        }
    }
    notify_systemd("READY=1");
    return r;
}

void keeper_on_names(void *keeper, uint64_t ref, uint32_t events)
{
    struct keeper *k = keeper;
    char why[512];
    int client, r;

    (void)ref;
    (void)events;
    r = k->reload.names ? upstream_lookup_continue(k->reload.names, why, sizeof(why)) : 0;
    if (r == 0)
        return;
    struct generation *fresh = end_wait(k, &client);

    if (r < 0) {
        config_error(&client, why);
        generation_free(fresh);
    } else {
        r = put_in_force(k, fresh, client);
    }
    notify_systemd("READY=1");
    keeper_send_end(client, r);
    fd_close(&client);
    if (k->reload.again) {
        k->reload.again = false;
        keeper_reload(k, -1);
    }
}

void keeper_abandon_reload(struct keeper *k)
{
    int client;

    if (!k->reload.names)
        return;
    generation_free(end_wait(k, &client));
    tell(client, "the daemon ends; the reload was under way");
    keeper_send_end(client, -ECANCELED);
    fd_close(&client);
}
