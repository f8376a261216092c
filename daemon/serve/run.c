/* SPDX-License-Identifier: GPL-2.0-or-later */
/* serve_run(): the server as a process of its own. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/loop.h"
#include "log.h"
#include "serve/serve.h"
#include "serve/session.h"

struct run {
    struct loop *loop;
    int signals;
};

static void on_signal(void *ctx, uint64_t ref, uint32_t events)
{
    struct run *run = ctx;
    struct signalfd_siginfo info;

    (void)ref;
    (void)events;
    if (read(run->signals, &info, sizeof(info)) != sizeof(info))
        return;
    log_info("serve: stopped by %s", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
    loop_stop(run->loop);
}

static void log_addresses(const struct serve *sv)
{
    struct addr at;
    char text[ADDR_STRLEN];

    for (size_t i = 0; serve_address(sv, i, &at) == 0; i++)
        log_info("serving SOCKS4/4a/5 on %s", addr_format(&at, text));
}

int serve_run(const struct serve_options *o)
{
    struct run run = {.signals = -1};
    struct serve *sv = NULL;
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigset_t set, old;
    char why[512] = "";
    int r;

    sigaction(SIGPIPE, &ignore, &before);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, &old);
    r = loop_create(serve_timers(o), &run.loop);
    if (r == 0)
        r = serve_create(run.loop, o, &sv, why, sizeof(why));
    if (r < 0) {
        log_error("serve: %s", why[0] ? why : strerror(-r));
        goto out;
    }
    run.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (run.signals < 0)
        r = -errno;
    if (r == 0) {
        loop_set_handler(run.loop, SERVE_KIND_SIGNAL, on_signal, &run);
        r = loop_add(run.loop, run.signals, EPOLLIN, loop_ref(SERVE_KIND_SIGNAL, 0, 0));
    }
    if (r < 0) {
        log_error("serve: cannot watch for signals: %s", strerror(-r));
        goto out;
    }
    log_addresses(sv);
    r = loop_run(run.loop);
    if (r < 0)
        log_error("serve: %s", strerror(-r));

    const struct serve_counters *c = serve_counters(sv);

    log_info(
        "served %llu sessions, %llu connected, %llu UDP associations, %llu refused for want of "
        "room",
        (unsigned long long)c->accepted, (unsigned long long)c->granted,
        (unsigned long long)c->associated,
        (unsigned long long)(c->refused_full + c->refused_fds + c->udp_full));
out:
    serve_destroy(sv);
    fd_close(&run.signals);
    loop_destroy(run.loop);
    sigprocmask(SIG_SETMASK, &old, NULL);
    sigaction(SIGPIPE, &before, NULL);
    return r;
}
