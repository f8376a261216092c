/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/keeper.h.
 *
 * Order of a start: listeners, captures, workers. A connection that is captured before the workers
 * run waits in the backlog. Ready (systemd, the command of `run`) is when every worker has said so.
 * Whatever fails on the way takes out what is installed by then. Order of a stop: workers,
 * listeners, captures: the kernel must still translate addresses when it resets redirected
 * connections.
 */
#include "keeper/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "control/server.h"
#include "dns/fake.h"
#include "keeper/captures.h"
#include "keeper/cgroup.h"
#include "keeper/command.h"
#include "keeper/generation.h"
#include "keeper/janitor.h"
#include "keeper/missing.h"
#include "keeper/notify.h"
#include "keeper/stitch.h"
#include "keeper/workers.h"
#include "log.h"
#include "message.h"

enum {
    KIND_SIGNAL = 1,
    KIND_WORKER,
    KIND_CAPTURE,
    KIND_CONTROL,
    KIND_CONTROL_CLIENT,
    KIND_OWNERS,
    KIND_STITCH
};

#define EXIT_FAILED        1
#define EXIT_CONFIG        2
#define EXIT_KERNEL        3
#define RECHECK_INTERVAL   150   /* ms */
#define COMPLAINT_INTERVAL 10000 /* ms */
#define OWNERS_INTERVAL    INT64_C(1000000000)
#define TERM_GRACE         50 /* of 10 ms: what the command left behind may end by itself */

struct keeper {
    const struct keeper_options *o;
    struct loop *loop;
    struct listeners *listeners;
    struct seats *seats;
    struct fake *fake; /* made once, and for good: addresses that were given out must last */
    struct generation *generation;
    struct captures *captures;
    struct stitch *stitch; /* NULL only at the very start and end */
    struct workers *workers;
    struct control_server *control;
    int signals;
    sigset_t old_mask;
    int64_t started, next_recheck, next_complaint; /* milliseconds */
    bool unapplied; /* somebody has to be excluded, and the kernel has refused to */
    struct timer owners;
    int exit_code;
    bool up;
    bool lift;   /* asked to stop by the administrator: on-exit = "closed" does not apply */
    int stopper; /* the socket on which, open until nothing of us is left: another may be started */

    struct janitor janitor; /* of `run`, and of a daemon that has had a gateway */
    unsigned draining;      /* generations */

    /* of `run` */
    char cgroup[CGROUP_PATH_MAX];
    int cgroup_fd;
    pid_t command;
};

/* A missing privilege or kernel feature has its own exit code, and so has a capture that would
 * loop. */
static int exit_code_of(int error)
{
    if (error == -ELOOP || error == -EPROTONOSUPPORT)
        return EXIT_CONFIG;
    return error == -EPERM || error == -EACCES || error == -EOPNOTSUPP || error == -ENOSYS
               ? EXIT_KERNEL
               : EXIT_FAILED;
}

static void stop(struct keeper *k, int exit_code)
{
    k->exit_code = exit_code;
    loop_stop(k->loop);
}

static void generation_idle(void *ctx, struct generation *g)
{
    struct keeper *k = ctx;

    if (g == k->generation)
        return;
    generation_free(g);
    k->draining--;
    janitor_sweep(&k->janitor);
}

static int raise_signals(struct keeper *k)
{
    static const int wanted[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGQUIT, SIGUSR1, SIGUSR2};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        sigaddset(&set, wanted[i]);
    sigprocmask(SIG_BLOCK, &set, &k->old_mask);
    signal(SIGPIPE, SIG_IGN);
    k->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (k->signals < 0)
        return -errno;
    return loop_add(k->loop, k->signals, EPOLLIN, loop_ref(KIND_SIGNAL, 0, 0));
}

static void start_command(struct keeper *k)
{
    k->command = command_start(k->o->command, k->cgroup, &k->old_mask);
    if (k->command > 0)
        return;
    int error = (int)k->command;

    k->command = 0;
    log_error("cannot run \"%.200s\": %s", k->o->command[0], strerror(-error));
    stop(k, error == -ENOENT ? 127 : 126);
}

static void check_ready(struct keeper *k)
{
    if (k->up || !workers_ready(k->workers))
        return;
    k->up = true;
    workers_settle(k->workers);
    if (k->o->command) {
        start_command(k);
        return;
    }
    loop_timer_set(k->loop, &k->owners, OWNERS_INTERVAL, loop_ref(KIND_OWNERS, 0, 0));
    log_info("ready: %zu captures, %u workers", k->generation->set.n_policies,
             k->generation->n_workers);
    notify_systemd("READY=1");
}

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

/* The table of fake addresses, when the generation gives any. */
static int provide_names(struct keeper *k, struct generation *g, char *why, size_t why_size)
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

/* Before the generation's workers start, as they hold its pipe. */
static int provide_janitor(struct keeper *k, struct generation *g, char *why, size_t why_size)
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

/* `client`: who asked, for the error lines; -1: a signal. The daemon goes on as it was after a
 * failure. */
static int reload(struct keeper *k, int client)
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
        r = generation_create(config, old->marked, k->listeners, k->seats, &fresh, why,
                              sizeof(why));
        if (r < 0) {
            config_error(&client, why);
        } else {
            r = provide_names(k, fresh, why, sizeof(why));
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
        if (provide_janitor(k, fresh, why, sizeof(why)) < 0)
            log_warning("%s", why);
        r = workers_start(k->workers, fresh);
        if (r < 0)
            log_error("cannot start the new workers: %s", strerror(-r));
        k->generation = fresh;
        k->draining++;
        workers_drain(k->workers, old);
        janitor_sweep(&k->janitor);
        listeners_prune(k->listeners);
        log_info("reloaded %s", k->o->file);
    }
    notify_systemd("READY=1");
    return r;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Somebody else listens for an upstream on this host: nothing is asked of any until it is known
 * who. */
static void unprove(struct keeper *k)
{
    generation_unprove(k->generation);
    workers_unprove(k->workers, k->generation);
    stitch_use(k->stitch);
}

/*
 * A worker found an upstream on this host answering that was not there before. Flows to it wait
 * until its own connections are excluded, or fail when they cannot be.
 */
static void recheck(void *ctx)
{
    struct keeper *k = ctx;
    struct generation *g = k->generation;
    char why[512] = "";

    if (now_ms() < k->next_recheck)
        return;
    k->next_recheck = now_ms() + RECHECK_INTERVAL;
    /* Who listens now is looked at below: the next second need not find him new. */
    if (generation_owners_changed(g))
        unprove(k);
    bool changed = k->unapplied;
    int r = generation_recheck(g, &changed, why, sizeof(why));
    int applied = changed ? captures_apply(k->captures, g, -1, why, sizeof(why)) : 0;

    k->unapplied = applied < 0;
    if (applied < 0) {
        unprove(k);
        r = applied;
    } else {
        workers_prove(k->workers, g);
        stitch_use(k->stitch);
    }
    if (r < 0 && now_ms() >= k->next_complaint) {
        log_error("%s", why[0] ? why : strerror(-r));
        k->next_complaint = now_ms() + COMPLAINT_INTERVAL;
    }
}

/*
 * Every second. As long as there is an upstream on this host: does the same socket listen there? As
 * long as workers finish what an earlier generation has taken: what they leave behind is in the way
 * of those that are not taken any more.
 */
static void on_owners(void *ctx, uint64_t ref, uint32_t events)
{
    struct keeper *k = ctx;

    (void)events;
    if (generation_owners_changed(k->generation)) {
        unprove(k);
        k->next_recheck = k->next_complaint = 0; /* this is news */
        recheck(k);
    }
    if (k->draining > 0)
        janitor_sweep(&k->janitor);
    loop_timer_set(k->loop, &k->owners, OWNERS_INTERVAL, ref);
}

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
                                    .installed = 1,
                                    .honest = k->generation->policies[i].honest};

        if (generation_why_early(k->generation, i))
            snprintf(m.why_early, sizeof(m.why_early), "%s",
                     generation_why_early(k->generation, i));
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
        .uptime_ms = (uint64_t)(now_ms() - k->started),
    };

    snprintf(m.daemon_version, sizeof(m.daemon_version), "%s", VERSION);
    snprintf(m.fast_path, sizeof(m.fast_path), "%s", fast[k->generation->config->fast_path]);
    fd_send_message(client, &m, sizeof(m), NULL, 0);
}

static void send_end(int client, int result)
{
    struct message_end m = {.header = MESSAGE_HEADER(MESSAGE_END, sizeof(m)), .result = result};

    fd_send_message(client, &m, sizeof(m), NULL, 0);
}

static void answer(void *ctx, unsigned type, int client)
{
    struct keeper *k = ctx;
    bool more;

    switch (type) {
    case MESSAGE_STATUS:
    case MESSAGE_FLOWS:
        /* One end from each worker and one from us, so that no worker at all is an answer too. The
         * hello comes first, so what may fail to be sent is an end of ours, at once. */
        more = type == MESSAGE_FLOWS && stitch_is_open(k->stitch);
        send_hello(k, client, workers_due(k->workers) + 1 + more);
        if (more && !stitch_tell_flows(k->stitch, client))
            send_end(client, -EAGAIN);
        if (type == MESSAGE_STATUS)
            send_captures(k, client);
        /* Ours before theirs: what they send may leave no room in the client's queue. */
        send_end(client, 0);
        for (unsigned due = workers_due(k->workers), n = workers_ask(k->workers, type, client);
             n < due; n++)
            send_end(client, -EAGAIN);
        break;
    case MESSAGE_RELOAD:
        send_end(client, reload(k, client));
        break;
    case MESSAGE_STOP:
        log_info("stopping: asked to by undersock stop");
        k->lift = true;
        fd_close(&k->stopper);
        k->stopper = fcntl(client, F_DUPFD_CLOEXEC, 0);
        send_end(client, 0);
        stop(k, 0);
        break;
    default:
        send_end(client, -ENOSYS);
    }
}

static void command_ended(struct keeper *k, int status)
{
    k->command = 0;
    if (cgroup_populated(k->cgroup)) {
        log_warning(
            "the command has ended and left processes behind; they are ended too, as nothing "
            "would redirect their traffic any more");
        cgroup_signal(k->cgroup, SIGTERM);
        for (int i = 0; i < TERM_GRACE && cgroup_populated(k->cgroup); i++)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    stop(k, command_exit_code(status));
}

static void reap_children(struct keeper *k)
{
    bool failed = false;
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (k->command > 0 && pid == k->command)
            command_ended(k, status);
        else
            workers_exited(k->workers, pid, status, &failed);
    }
    if (failed) {
        log_error("a worker cannot start; see its line above");
        stop(k, EXIT_FAILED);
    }
}

static void on_signal(void *ctx, uint64_t ref, uint32_t events)
{
    struct keeper *k = ctx;
    struct signalfd_siginfo info;

    (void)ref;
    (void)events;
    if (read(k->signals, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo == SIGCHLD) {
        reap_children(k);
    } else if (k->o->command) {
        /* The terminal's own signals reach the command by themselves. */
        if (k->command > 0 && info.ssi_code != SI_KERNEL)
            kill(k->command, (int)info.ssi_signo);
        else if (k->command == 0)
            stop(k, 128 + (int)info.ssi_signo);
    } else if (info.ssi_signo == SIGHUP) {
        reload(k, -1);
    } else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || info.ssi_signo == SIGQUIT) {
        log_info("stopping: %s", strsignal((int)info.ssi_signo));
        stop(k, 0);
    }
}

static void on_worker(void *ctx, uint64_t ref, uint32_t events)
{
    struct keeper *k = ctx;

    workers_event(k->workers, ref, events);
    check_ready(k);
}

static void on_capture(void *ctx, uint64_t ref, uint32_t events)
{
    struct keeper *k = ctx;

    (void)events;
    captures_event(k->captures, loop_ref_index(ref));
}

static void on_stitch(void *ctx, uint64_t ref, uint32_t events)
{
    struct keeper *k = ctx;

    stitch_event(k->stitch, ref, events);
}

/* `run`: the cgroup that the command will live in, before anything is attached to it. */
static int make_cgroup(struct keeper *k, char *why, size_t why_size)
{
    int fd = cgroup_create(k->cgroup, sizeof(k->cgroup), why, why_size);

    k->cgroup_fd = fd;
    return fd < 0 ? fd : 0;
}

/* The capture's cgroup as nftables knows it: below the root. */
static int name_cgroup(const struct keeper *k, struct config *config)
{
    char root[CGROUP_PATH_MAX];
    int r = cgroup_root(root, sizeof(root));

    if (r < 0)
        return r;
    free((void *)config->captures[0].policy.cgroup);
    config->captures[0].policy.cgroup = strdup(k->cgroup + strlen(root));
    return config->captures[0].policy.cgroup ? 0 : -ENOMEM;
}

static int bring_up(struct keeper *k, char *why, size_t why_size)
{
    const struct keeper_options *o = k->o;
    struct config *config = o->config;
    int r = missing_check(config, why, why_size);

    if (r < 0) {
        config_free(config);
        return r;
    }
    /* First of all, as it is how another daemon is noticed. Nobody is answered before the loop
     * runs.
     */
    if (o->control)
        r = control_server_create(k->loop, KIND_CONTROL, config->control, answer, k, &k->control,
                                  why, why_size);
    if (r < 0) {
        config_free(config);
        return r;
    }
    if (o->command) {
        r = make_cgroup(k, why, why_size);
        if (r == 0)
            r = name_cgroup(k, config);
        if (r < 0) {
            config_free(config);
            return r;
        }
    }
    r = generation_create(config, !o->command, k->listeners, k->seats, &k->generation, why,
                          why_size);
    if (r < 0)
        return r;
    r = provide_names(k, k->generation, why, why_size);
    if (r == 0)
        r = captures_create(k->loop, KIND_CAPTURE, k->stitch, &k->captures);
    if (r == 0)
        r = captures_apply(k->captures, k->generation, k->cgroup_fd, why, why_size);
    if (r == 0)
        r = provide_janitor(k, k->generation, why, why_size);
    if (r == 0) {
        r = workers_start(k->workers, k->generation);
        if (r < 0)
            snprintf(why, why_size, "cannot start workers: %s", strerror(-r));
    }
    return r;
}

static void take_down(struct keeper *k)
{
    notify_systemd("STOPPING=1");
    control_server_destroy(k->control);
    stitch_finish(k->stitch);
    if (k->cgroup[0])
        cgroup_destroy(k->cgroup);
    workers_destroy(k->workers);
    listeners_destroy(k->listeners);
    captures_remove(k->captures, k->lift);
    stitch_destroy(k->stitch);
    janitor_dismiss(&k->janitor);
    fd_close(&k->cgroup_fd);
    generation_free(k->generation);
    seats_destroy(k->seats);
    fake_free(k->fake);
    fd_close(&k->signals);
    loop_destroy(k->loop);
    fd_close(&k->stopper);
}

int keeper_run(const struct keeper_options *o)
{
    static const struct workers_calls calls = {.idle = generation_idle, .recheck = recheck};
    struct keeper k = {.o = o, .cgroup_fd = -1, .janitor.hold = -1, .signals = -1, .stopper = -1};
    char why[512] = "";

    k.started = now_ms();
    prctl(PR_SET_DUMPABLE, 0, 0, 0,
          0); /* the configuration holds passwords; our children inherit it */
    if (!o->command)
        fd_raise_limit(); /* a command gets the limit that it was started with */
    int r = loop_create(512, &k.loop);

    if (r == 0)
        r = listeners_create(&k.listeners);
    if (r == 0)
        r = seats_create(&k.seats);
    if (r == 0)
        r = stitch_create(k.loop, KIND_STITCH, &k.stitch);
    if (r < 0) {
        log_error("cannot start: %s", strerror(-r));
        config_free(o->config);
        return EXIT_FAILED;
    }
    loop_set_handler(k.loop, KIND_SIGNAL, on_signal, &k);
    loop_set_handler(k.loop, KIND_WORKER, on_worker, &k);
    loop_set_handler(k.loop, KIND_CAPTURE, on_capture, &k);
    loop_set_handler(k.loop, KIND_OWNERS, on_owners, &k);
    loop_set_handler(k.loop, KIND_STITCH, on_stitch, &k);
    r = raise_signals(&k);
    if (r == 0)
        r = workers_create(k.loop, KIND_WORKER, &calls, &k, &k.workers);
    if (r == 0)
        r = bring_up(&k, why, sizeof(why));
    if (r < 0) {
        log_error("%s", why[0] ? why : strerror(-r));
        k.exit_code = exit_code_of(r);
    } else {
        loop_run(k.loop);
    }
    take_down(&k);
    return k.exit_code;
}
