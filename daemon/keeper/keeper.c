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
#include <poll.h>
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
#include "keeper/cgroup.h"
#include "keeper/cgroup_watch.h"
#include "keeper/command.h"
#include "keeper/keeper_state.h"
#include "keeper/missing.h"
#include "keeper/notify.h"
#include "log.h"
#include "nft/guard.h"

enum {
    KIND_SIGNAL = 1,
    KIND_WORKER,
    KIND_CAPTURE,
    KIND_CONTROL,
    KIND_CONTROL_CLIENT,
    KIND_OWNERS,
    KIND_STITCH,
    KIND_CGROUPS,
    KIND_NAMES
};

#define EXIT_FAILED      1
#define EXIT_CONFIG      2
#define EXIT_KERNEL      3
#define OWNERS_INTERVAL  INT64_C(1000000000)
#define RESOLVE_INTERVAL 10000 /* ms */
#define TERM_GRACE       50    /* of 10 ms: what the command left behind may end by itself */

/* A missing privilege or kernel feature has its own exit code, and so has a capture that would
 * loop. */
static int exit_code_of(int error)
{
    if (error == -ELOOP)
        return EXIT_CONFIG;
    return error == -EPERM || error == -EACCES || error == -EOPNOTSUPP || error == -ENOSYS
               ? EXIT_KERNEL
               : EXIT_FAILED;
}

void keeper_stop(struct keeper *k, int exit_code)
{
    k->exit_code = exit_code;
    loop_stop(k->loop);
}

int64_t keeper_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
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
    keeper_stop(k, error == -ENOENT ? 127 : 126);
}

static void check_ready(struct keeper *k)
{
    if (k->up || !workers_ready(k->workers))
        return;
    k->up = true;
    workers_settle(k->workers);
    loop_timer_set(k->loop, &k->owners, OWNERS_INTERVAL, loop_ref(KIND_OWNERS, 0, 0));
    if (k->o->command) {
        start_command(k);
        return;
    }
    log_info("ready: %zu captures, %u workers", k->generation->set.n_policies,
             k->generation->n_workers);
    notify_systemd("READY=1");
}

/* Who has been reading the directories above sees what comes after. */
void keeper_follow_cgroups(struct keeper *k)
{
    const struct capture_set *set = &k->generation->set;

    if (k->o->command)
        return; /* it has made its cgroup itself */
    k->unwatched = false;
    for (size_t i = 0; i < set->n_policies; i++) {
        if (set->policies[i].hook == CAPTURE_CGROUP)
            k->unwatched |= !cgroup_watch_add(k->cgroups, set->policies[i].cgroup);
    }
    k->unwatched |= captures_follow(k->captures, k->generation);
}

static void on_cgroups(void *ctx, uint64_t ref, uint32_t events)
{
    struct keeper *k = ctx;

    (void)ref;
    (void)events;
    cgroup_watch_drain(k->cgroups);
    keeper_follow_cgroups(k);
}

static void watch_cgroups(struct keeper *k)
{
    int r = k->cgroups = cgroup_watch_open();

    if (r >= 0)
        r = loop_add(k->loop, k->cgroups, EPOLLIN, loop_ref(KIND_CGROUPS, 0, 0));
    if (r < 0)
        log_warning("cgroups that are made anew are noticed late: inotify: %s", strerror(-r));
}

/*
 * Every second. Is everything still there? As long as there is an upstream on this host: does the
 * same socket listen there? As long as workers finish what an earlier generation has taken: what
 * they leave behind is in the way of those that are not taken any more.
 */
static void on_owners(void *ctx, uint64_t ref, uint32_t events)
{
    struct keeper *k = ctx;

    (void)events;
    captures_mend(k->captures, k->generation);
    if (!k->o->command)
        keeper_look_again(k);
    if (k->unwatched)
        keeper_follow_cgroups(k);
    if (k->unresolved && !k->reload.names && keeper_now() >= k->next_resolve) {
        k->next_resolve = keeper_now() + RESOLVE_INTERVAL;
        keeper_reload(k, -1);
    }
    if (k->draining > 0)
        janitor_sweep(&k->janitor);
    loop_timer_set(k->loop, &k->owners, OWNERS_INTERVAL, ref);
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
    keeper_stop(k, command_exit_code(status));
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
        keeper_stop(k, EXIT_FAILED);
    }
}

/* There is no command that could be told. */
static void stop_by(struct keeper *k, int signo)
{
    if (!k->o->command)
        log_info("stopping: %s", strsignal(signo));
    keeper_stop(k, k->o->command ? 128 + signo : 0);
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
            stop_by(k, (int)info.ssi_signo);
    } else if (info.ssi_signo == SIGHUP) {
        keeper_reload(k, -1);
    } else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || info.ssi_signo == SIGQUIT) {
        stop_by(k, (int)info.ssi_signo);
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

/*
 * Nothing is in force yet, so a start may wait for the upstreams' addresses; but for a signal that
 * ends it: -ECANCELED. Other signals are the loop's, later.
 */
static int wait_for_names(struct keeper *k, char *why, size_t why_size)
{
    struct generation *g = k->generation;
    struct upstream_lookup *names;
    struct signalfd_siginfo info;
    sigset_t ends;
    int r = upstream_lookup_start(g->upstreams, g->config->n_upstreams, &names, why, why_size);

    if (r != 0)
        return r < 0 ? r : 0;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGQUIT);
    if (k->o->command)
        sigaddset(&ends, SIGHUP);
    int fd = signalfd(-1, &ends, SFD_NONBLOCK | SFD_CLOEXEC);
    struct pollfd either[] = {{.fd = upstream_lookup_fd(names), .events = POLLIN},
                              {.fd = fd, .events = POLLIN}};

    while ((r = upstream_lookup_continue(names, why, why_size)) == 0) {
        poll(either, 2, -1);
        if (fd >= 0 && read(fd, &info, sizeof(info)) == sizeof(info)) {
            stop_by(k, (int)info.ssi_signo);
            r = -ECANCELED;
            break;
        }
    }
    upstream_lookup_end(names);
    fd_close(&fd);
    return r < 0 ? r : 0;
}

/*
 * What on-exit = "closed" has left refuses this host's queries with everything else that is
 * selected, so that who was killed could never start again. Then an upstream begins without an
 * address, and refuses; a reload asks for it as soon as workers see to queries.
 */
static int resolve(struct keeper *k, char *why, size_t why_size)
{
    int r = wait_for_names(k, why, why_size);

    if (r == 0 || r == -ECANCELED || k->o->command || !nft_guard_stands())
        return r;
    log_warning(
        "%s; but what on-exit = \"closed\" has left may refuse the query: it is asked again "
        "when the captures are in force",
        why);
    k->unresolved = true;
    return 0;
}

static int bring_up(struct keeper *k, char *why, size_t why_size)
{
    const struct keeper_options *o = k->o;
    struct config *config = o->config;
    int r = 0;

    missing_warn(config);
    /* First of all, as it is how another daemon is noticed. Nobody is answered before the loop
     * runs.
     */
    if (o->control)
        r = control_server_create(k->loop, KIND_CONTROL, config->control, keeper_answer, k,
                                  &k->control, why, why_size);
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
    r = generation_begin(config, !o->command, &k->generation);
    if (r == 0)
        r = resolve(k, why, why_size);
    if (r == 0)
        r = generation_complete(k->generation, k->listeners, k->seats, why, why_size);
    if (r == 0)
        r = keeper_provide_names(k, k->generation, why, why_size);
    if (r == 0)
        r = captures_create(k->loop, KIND_CAPTURE, k->stitch, &k->captures);
    if (r == 0)
        r = captures_apply(k->captures, k->generation, k->cgroup_fd, why, why_size);
    if (r == 0)
        keeper_follow_cgroups(k);
    if (r == 0)
        r = keeper_provide_janitor(k, k->generation, why, why_size);
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
    keeper_abandon_reload(k);
    stitch_finish(k->stitch);
    if (k->cgroup[0])
        cgroup_destroy(k->cgroup);
    workers_destroy(k->workers);
    listeners_destroy(k->listeners);
    captures_remove(k->captures, k->lift                       ? CAPTURES_LIFT
                                 : !k->up && k->exit_code != 0 ? CAPTURES_LIFT_NEW
                                                               : CAPTURES_LEAVE);
    stitch_destroy(k->stitch);
    janitor_dismiss(&k->janitor);
    fd_close(&k->cgroup_fd);
    fd_close(&k->cgroups);
    generation_free(k->generation);
    seats_destroy(k->seats);
    fake_free(k->fake);
    fd_close(&k->signals);
    loop_destroy(k->loop);
    fd_close(&k->stopper);
}

int keeper_run(const struct keeper_options *o)
{
    static const struct workers_calls calls = {.idle = generation_idle, .recheck = keeper_recheck};
    struct keeper k = {.o = o,
                       .cgroup_fd = -1,
                       .cgroups = -1,
                       .janitor.hold = -1,
                       .signals = -1,
                       .stopper = -1,
                       .reload = {.kind = KIND_NAMES, .client = -1}};
    char why[512] = "";

    k.started = keeper_now();
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
    loop_set_handler(k.loop, KIND_CGROUPS, on_cgroups, &k);
    loop_set_handler(k.loop, KIND_NAMES, keeper_on_names, &k);
    r = raise_signals(&k);
    if (r == 0 && !o->command)
        watch_cgroups(&k);
    if (r == 0)
        r = workers_create(k.loop, KIND_WORKER, &calls, &k, &k.workers);
    if (r == 0)
        r = bring_up(&k, why, sizeof(why));
    if (r == 0) {
        loop_run(k.loop);
    } else if (r != -ECANCELED) {
        log_error("%s", why[0] ? why : strerror(-r));
        k.exit_code = exit_code_of(r);
    }
    take_down(&k);
    return k.exit_code;
}
