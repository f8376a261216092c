/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli/demo_far.h.
 *
 * Everything that outlives a process for a moment is made here: the namespace (it has no name and
 * ends with its last process), the veth pair (it ends with the namespace) and the directory. The
 * demo holds the writing end of a pipe and nobody else does, so the end of the demo, of whatever
 * kind, is the end of the pipe, and that is when the directory is removed. The process is in a
 * session of its own: Ctrl-C at the terminal is the demo's to handle.
 *
 * The web server's addresses are local routes with a source address instead of addresses: a
 * connection from the SOCKS server to them comes from DEMO_EXIT4 or DEMO_EXIT6, as it would from
 * another host.
 */
#include "cli/demo_far.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "addr.h"
#include "base/fd.h"
#include "base/loop.h"
#include "cli/demo_network.h"
#include "cli/demo_web.h"
#include "log.h"
#include "serve/serve.h"

#define DIRECTORY   "/undersock-demo-XXXXXX"
#define KIND_HOLD   1
#define SESSIONS    64
#define STOP_STEPS  500 /* of 10 ms, then it is killed */
#define WEB_SOCKETS 2

/* What the far side says once, through a pipe. */
struct report {
    int error;
    char why[256];
    struct demo_far far;
};

struct world {
    struct report report;
    struct loop *loop;
    struct serve *serve;
    struct demo_network *network;
    int web[WEB_SOCKETS];
    size_t n_web;
    pid_t web_server;
    int hold;
};

static int fail(struct world *w, int error, const char *what)
{
    w->report.error = error;
    snprintf(w->report.why, sizeof(w->report.why), "%s: %s", what, strerror(-error));
    return error;
}

static struct addr ip(const char *text)
{
    struct addr a = {.port = 0};

    addr_parse(text, 0, &a); /* ours: they parse */
    return a;
}

static int make_link(struct world *w, int app_netns)
{
    struct addr proxy = ip(DEMO_PROXY_IP);
    struct stat st;

    if (unshare(CLONE_NEWNET) < 0)
        return fail(w, -errno, "cannot make a network namespace");
    if (stat("/proc/self/ns/net", &st) < 0)
        return fail(w, -errno, "/proc/self/ns/net");
    w->report.far.netns_device = st.st_dev;
    w->report.far.netns_inode = st.st_ino;
    int r = demo_network_open(&w->network);

    if (r == 0)
        r = demo_network_up(w->network, "lo");
    if (r < 0)
        return fail(w, r, "rtnetlink");
    r = demo_network_veth(w->network, "link", DEMO_APP_LINK, app_netns);
    if (r < 0)
        return fail(w, r, "cannot make a veth pair (is the kernel module veth there?)");
    r = demo_network_address(w->network, "link", &proxy, DEMO_LINK_LENGTH);
    if (r == 0)
        r = demo_network_up(w->network, "link");
    return r < 0 ? fail(w, r, "cannot set up the veth pair") : 0;
}

static int make_address(struct world *w, const char *web, const char *source)
{
    struct addr to = ip(web), from = ip(source);
    int r = demo_network_address(w->network, "lo", &from, addr_is_v4(&from) ? 32 : 128);

    return r < 0 ? r : demo_network_local(w->network, &to, &from);
}

static int listen_web(struct world *w, const char *at)
{
    struct addr a = ip(at);
    int fd;

    a.port = 80;
    fd = fd_listen(&a, false, NULL);
    if (fd >= 0)
        w->web[w->n_web++] = fd;
    return fd < 0 ? fd : 0;
}

/* IPv6 may be off in this kernel; then the demo does without. */
static int make_web(struct world *w)
{
    int r = make_address(w, DEMO_WEB4, DEMO_EXIT4);

    if (r == 0)
        r = listen_web(w, "0.0.0.0");
    if (r < 0)
        return fail(w, r, "cannot set up the web server");
    w->report.far.ipv6 = make_address(w, DEMO_WEB6, DEMO_EXIT6) == 0 && listen_web(w, "::") == 0;
    pid_t parent = getpid();

    w->web_server = fork();
    if (w->web_server == 0) {
        fd_close_others((int[]){w->web[0], w->n_web > 1 ? w->web[1] : -1, w->hold}, 3);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            demo_web_serve(w->web, w->n_web, w->hold);
        _exit(0);
    }
    if (w->web_server < 0)
        r = -errno;
    for (size_t i = 0; i < w->n_web; i++)
        fd_close(&w->web[i]);
    return r < 0 ? fail(w, r, "cannot start the web server") : 0;
}

static int make_directory(struct world *w)
{
    struct demo_far *f = &w->report.far;

    const char *parent = getenv("TMPDIR");

    if (!parent || parent[0] != '/' || strlen(parent) + sizeof(DIRECTORY) > sizeof(f->directory))
        parent = "/tmp";
    snprintf(f->directory, sizeof(f->directory), "%s" DIRECTORY, parent);
    if (!mkdtemp(f->directory)) {
        f->directory[0] = '\0';
        return fail(w, -errno, "cannot make a directory in TMPDIR or /tmp");
    }
    snprintf(f->control, sizeof(f->control), "%s/control.sock", f->directory);
    snprintf(f->download, sizeof(f->download), "%s/large", f->directory);
    return 0;
}

static void remove_directory(const struct demo_far *f)
{
    if (!f->directory[0])
        return;
    unlink(f->control);
    unlink(f->download);
    rmdir(f->directory);
}

static void on_hold(void *ctx, uint64_t ref, uint32_t events)
{
    struct world *w = ctx;

    (void)ref;
    (void)events;
    loop_stop(w->loop);
}

static int make_proxy(struct world *w)
{
    struct addr at = ip(DEMO_PROXY_IP);
    struct serve_options o = {.listen = &at, .n_listen = 1, .max_sessions = SESSIONS};
    char why[200] = "";

    at.port = DEMO_PROXY_PORT;
    log_set_level(LOG_LEVEL_ERROR); /* that it asks nobody for a password is no news here */
    int r = loop_create(serve_timers(&o), &w->loop);

    if (r == 0)
        r = serve_create(w->loop, &o, &w->serve, why, sizeof(why));
    if (r == 0) {
        loop_set_handler(w->loop, KIND_HOLD, on_hold, w);
        r = loop_add(w->loop, w->hold, 0, loop_ref(KIND_HOLD, 0, 0)); /* its end is always told */
    }
    return r < 0 ? fail(w, r, why[0] ? why : "cannot start the SOCKS server") : 0;
}

_Noreturn static void far_side(int app_netns, int hold, int report)
{
    struct world w = {.hold = hold};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t none;

    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_NAME, "undersock-far");
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
    }
    fd_close_others((int[]){app_netns, hold, report}, 3);
    int r = make_link(&w, app_netns);

    fd_close(&app_netns); /* only the application's own processes keep its namespace */
    if (r == 0)
        r = make_web(&w);
    if (r == 0)
        r = make_proxy(&w);
    if (r == 0)
        r = make_directory(&w);
    demo_network_close(w.network);
    ssize_t n = write(report, &w.report, sizeof(w.report));

    fd_close(&report);
    if (r == 0 && n == (ssize_t)sizeof(w.report))
        loop_run(w.loop);
    /* Nobody of ours is in the namespace when we are gone. */
    if (w.web_server > 0 && kill(w.web_server, SIGKILL) == 0)
        waitpid(w.web_server, NULL, 0);
    remove_directory(&w.report.far);
    _exit(0);
}

int demo_far_start(int app_netns, struct demo_far *ret, char *why, size_t why_size)
{
    int hold[2], report[2], r;
    struct report said = {.error = -EPIPE, .why = "the far side ended without a word"};

    if (pipe2(hold, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(report, O_CLOEXEC) < 0) {
        r = -errno;
        fd_close(&hold[0]);
        fd_close(&hold[1]);
        return r;
    }
    pid_t pid = fork();

    if (pid == 0)
        far_side(app_netns, hold[0], report[1]);
    r = pid < 0 ? -errno : 0;
    fd_close(&hold[0]);
    fd_close(&report[1]);
    if (r == 0) {
        struct report full;

        if (read(report[0], &full, sizeof(full)) == (ssize_t)sizeof(full))
            said = full;
        r = said.error;
        snprintf(why, why_size, "%s", said.why);
    }
    fd_close(&report[0]);
    if (r == 0)
        *ret = said.far;
    struct demo_far f = {.pid = pid > 0 ? pid : 0, .hold = hold[1]};

    if (r < 0) {
        demo_far_stop(&f);
        return r;
    }
    ret->pid = f.pid;
    ret->hold = f.hold;
    return 0;
}

void demo_far_hurry(const struct demo_far *f)
{
    if (write(f->hold, "h", 1) < 0)
        return; /* the download will not end, and that is seen */
}

void demo_far_stop(struct demo_far *f)
{
    if (f->pid == 0)
        return;
    fd_close(&f->hold);
    for (int i = 0; waitpid(f->pid, NULL, WNOHANG) == 0; i++) {
        if (i == STOP_STEPS)
            kill(f->pid, SIGKILL);
        usleep(10000);
    }
    remove_directory(f); /* only if it did not */
    f->pid = 0;
}
