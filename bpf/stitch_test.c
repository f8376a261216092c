/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_test.h: the attempts, and the processes that make them.
 *
 *     caller ──fork──▶ actor                        server (bpf/stitch_server.c)
 *       waits          own network namespace ─veth─ own network namespace
 *                      in a cgroup of its own       outside of it
 *
 * The actor loads its own programs, in its namespace, for its cgroup: nothing is shared with what
 * the caller may have in force. It plays the application, too.
 *
 * Ends. The server goes with the actor, the namespaces with both, the guards with the cgroup. The
 * actor makes the cgroup and removes it, and ends by itself, as what it waits for has a limit: so
 * the caller can be killed at any moment. The caller removes the cgroup of an actor that was
 * killed. When both are killed at once, an empty directory stays until the next proof.
 */
#include "bpf/stitch_test.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <net/if.h>

#include "addr.h"
#include "base/fd.h"
#include "bpf/cgroup.h"
#include "bpf/stitch.h"
#include "bpf/stitch_server.h"
#include "bpf/stitch_stage.h"

/* The verifier takes a quarter of a second for what is loaded on a fast machine, and many times as
 * long on a small or a busy one: that must not count against the attempts. */
#define LIMIT_MS     10000
#define SCENE_MS     8000 /* until the programs are in force */
#define ATTEMPTS_MS  1900
#define HANDSHAKE_MS 1500
#define BYTES        20000 /* several segments, and less than the buffers take */
#define WHAT         "the proof that connections can be stitched"

enum { SCRIPT_V4 = 1, SCRIPT_V6 };

struct result {
    int r;
    char why[BPF_WHY_MAX];
};

struct actor {
    struct bpf_stitch *s;
    struct bpf_capture *capture;
    int cgroup, control;
    pid_t server;
    bool v6;
    int64_t deadline;
    struct result result;
};

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Keeps the first failure's sentence; returns `r`. */
static int failed(struct actor *a, int r, const char *what)
{
    if (a->result.why[0] == '\0')
        snprintf(a->result.why, sizeof(a->result.why), WHAT ": %s: %s", what, strerror(-r));
    return r;
}

/* What was tried, and went another way. */
static int disproved(struct actor *a, int r, const char *what)
{
    failed(a, r, what);
    return r == -ETIMEDOUT ? r : -EPROTO;
}

/* Waits for one descriptor, no longer than this part of it may take: 0 or -ETIMEDOUT. */
static int wait_for(const struct actor *a, int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    int64_t left = a->deadline - now_ms();

    return left > 0 && poll(&p, 1, (int)left) == 1 ? 0 : -ETIMEDOUT;
}

/* --- the application ---------------------------------------------------------------------------
 */

/* A connect() that goes on; a descriptor or -errno. */
static int begin_connect(const struct stitch_attempt *attempt)
{
    struct sockaddr_storage ss;
    struct addr to;
    int fd, r = addr_parse(attempt->to, 0, &to);

    if (r < 0)
        return r;
    fd = socket(attempt->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&ss, addr_to_sockaddr(&to, &ss)) < 0 &&
        errno != EINPROGRESS) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static int outcome(int fd)
{
    socklen_t len = sizeof(int);
    int error = 0;

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? -errno : -error;
}

static uint8_t pattern(size_t i)
{
    return (uint8_t)((i * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static int send_all(const struct actor *a, int fd)
{
    uint8_t data[1000];
    size_t sent = 0;

    while (sent < BYTES) {
        size_t n = 0;

        for (; n < sizeof(data) && sent + n < BYTES; n++)
            data[n] = pattern(sent + n);
        ssize_t done = send(fd, data, n, MSG_NOSIGNAL);

        if (done > 0)
            sent += (size_t)done;
        else if (errno != EAGAIN)
            return -errno;
        else if (wait_for(a, fd, POLLOUT) < 0)
            return -ETIMEDOUT;
    }
    return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

/* The banner, all that was sent, and the end. */
static int receive_all(const struct actor *a, int fd, bool banner)
{
    size_t skip = banner ? sizeof(STITCH_SERVER_BANNER) - 1 : 0, got = 0;
    uint8_t data[4096];

    for (;;) {
        ssize_t n = recv(fd, data, sizeof(data), 0);

        if (n == 0)
            return got == skip + BYTES ? 0 : -ENODATA;
        if (n < 0 && errno != EAGAIN)
            return -errno;
        if (n < 0 && wait_for(a, fd, POLLIN) < 0)
            return -ETIMEDOUT;
        for (ssize_t i = 0; i < n; i++, got++) {
            uint8_t want = got < skip ? (uint8_t)STITCH_SERVER_BANNER[got] : pattern(got - skip);

            if (data[i] != want)
                return -EBADMSG;
        }
    }
}

/* The application sees whom it asked for. */
static int check_peer(int fd, const struct stitch_attempt *attempt)
{
    struct sockaddr_storage ss;
    struct addr want, is;
    socklen_t len = sizeof(ss);

    if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0)
        return -errno;
    if (addr_parse(attempt->to, 0, &want) < 0 ||
        addr_from_sockaddr((struct sockaddr *)&ss, len, &is) < 0)
        return -EINVAL;
    return memcmp(want.ip, is.ip, sizeof(is.ip)) == 0 && want.port == is.port ? 0 : -EREMCHG;
}

static int attempt_one(struct actor *a, const struct stitch_attempt *attempt)
{
    int fd = begin_connect(attempt), r = fd < 0 ? fd : wait_for(a, fd, POLLOUT);

    if (r == 0) {
        r = outcome(fd);
        if (attempt->error != 0) {
            /* That it failed so is what was to be shown. */
            r = r == -attempt->error ? 0 : r == 0 ? -EISCONN : r;
        } else if (r == 0) {
            r = check_peer(fd, attempt);
            if (r == 0)
                r = send_all(a, fd);
            if (r == 0)
                r = receive_all(a, fd, attempt->banner);
        }
    }
    fd_close(&fd);
    return r < 0 ? disproved(a, r, attempt->title) : 0;
}

/* --- what must not come about ------------------------------------------------------------------
 */

/*
 * A connection is begun, and must get stuck: until the programs have counted that they dropped
 * something of it. Connected it would be to the SOCKS server itself.
 */
static int get_stuck(struct actor *a, unsigned counter, const char *what)
{
    uint64_t before[STITCH_N_COUNTERS], now[STITCH_N_COUNTERS];
    int r = bpf_stitch_read_counters(a->s, before), fd;

    if (r < 0)
        return failed(a, r, "reading counters");
    fd = begin_connect(&stitch_attempts[0]);
    r = fd < 0 ? fd : 0;
    while (r == 0) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};

        if (bpf_stitch_read_counters(a->s, now) < 0)
            r = -EIO;
        else if (now_ms() > a->deadline)
            r = -ETIMEDOUT;
        else if (poll(&p, 1, 1) > 0)
            r = outcome(fd) < 0 ? -EPROTO : -EISCONN;
        else if (now[counter] > before[counter])
            break;
    }
    fd_close(&fd);
    return r < 0 ? disproved(a, r, what) : 0;
}

static int fail_closed(struct actor *a)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)if_nametoindex(STAGE_NEAR),
                .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
    int r = bpf_tc_hook_destroy(&hook);

    if (r < 0)
        return failed(a, r, "taking filters away");
    r = get_stuck(a, STITCH_COUNT_GUARDED, "nothing raw when somebody takes the filters away");
    if (r < 0)
        return r;
    bpf_stitch_detach(a->s);
    return get_stuck(a, STITCH_COUNT_UNREADY, "nothing raw without filters");
}

/* --- the scene ---------------------------------------------------------------------------------
 */

static struct stitch_script new_script(const struct addr *server)
{
    static const uint8_t hello[3] = {5, 1, 0};
    struct stitch_script s = {
        .server = {.port = server->port},
        .connect_timeout = HANDSHAKE_MS,
        .timeout = HANDSHAKE_MS,
        .n_steps = 2,
        .static_len = 8,
        .form = STITCH_FORM_SOCKS5,
        .steps = {{.len = sizeof(hello), .version = 5, .reply_len = 2},
                  {.at = STITCH_STATIC,
                   .before = sizeof(hello),
                   .version = 5,
                   .verdicts = STITCH_VERDICTS_SOCKS5}},
    };

    memcpy(s.server.ip, server->ip, sizeof(s.server.ip));
    memcpy(s.bytes, hello, sizeof(hello));
    return s;
}

static int set_names(const struct actor *a)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < stitch_n_attempts; i++) {
        const struct stitch_attempt *attempt = &stitch_attempts[i];
        struct addr at;

        if (attempt->name != NULL && addr_parse(attempt->to, 0, &at) == 0)
            r = bpf_stitch_set_name(bpf_stitch_names_fd(a->s), &at, attempt->name,
                                    strlen(attempt->name));
    }
    return r;
}

static int put_in_force(struct actor *a)
{
    const struct capture_policy policy = {.name = "proof",
                                          .hook = CAPTURE_CGROUP,
                                          .action = CAPTURE_PROXY,
                                          .fake = true,
                                          .stitch = true};
    struct capture_set set = {.policies = &policy, .n_policies = 1, .n_upstreams = 2};
    const struct bpf_stitch_options o = {.flows = 64, .names = 64};
    struct stitch_script scripts[2];
    struct addr servers[2];
    char *why = a->result.why;
    int r = bpf_stitch_open(&o, &a->s, why, sizeof(a->result.why));

    if (r == 0)
        r = bpf_stitch_attach(a->s, why, sizeof(a->result.why));
    if (r < 0)
        return r;
    if (addr_parse(STAGE_FAR_V4, STITCH_SERVER_PORT, &servers[0]) < 0 ||
        addr_parse(STAGE_FAR_V6, STITCH_SERVER_PORT, &servers[1]) < 0)
        return -EINVAL;
    for (unsigned i = 0; r == 0 && i < 2; i++) {
        scripts[i] = new_script(&servers[i]);
        r = bpf_stitch_set_script(a->s, SCRIPT_V4 + i, &scripts[i]);
    }
    if (r == 0)
        r = set_names(a);
    if (r < 0)
        return failed(a, r, "filling the maps");
    set.upstreams = servers;
    set.stitch = a->s;
    r = bpf_cgroup_attach(&set, 0, a->cgroup, &a->capture, why, sizeof(a->result.why));
    if (r < 0)
        return r;
    r = bpf_capture_use(a->capture, SCRIPT_V4, SCRIPT_V6);
    return r < 0 ? failed(a, r, "filling the maps") : 0;
}

static int hear(const struct actor *a, uint8_t *ret)
{
    int r = wait_for(a, a->control, POLLIN);

    if (r < 0)
        return r;
    if (recv(a->control, ret, 1, 0) != 1)
        return -ECONNRESET;
    return *ret & 0x80 ? -(*ret & 0x7f) : 0;
}

/* The kernel puts the route of a new IPv6 address in place a little after the address. */
static int wait_for_route(const struct actor *a)
{
    struct sockaddr_storage ss;
    struct addr to;
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = -ENETUNREACH;

    if (fd < 0 || addr_parse(STAGE_FAR_V6, STITCH_SERVER_PORT, &to) < 0)
        return -errno;
    while (r < 0 && now_ms() < a->deadline) {
        r = connect(fd, (struct sockaddr *)&ss, addr_to_sockaddr(&to, &ss)) < 0 ? -errno : 0;
        if (r < 0)
            usleep(1000);
    }
    close(fd);
    return r;
}

static int set_scene(struct actor *a)
{
    int ends[2], r;
    uint8_t byte;
    pid_t self = getpid();
    bool far_v6 = false;

    if (unshare(CLONE_NEWNET) < 0)
        return failed(a, -errno, "making a network namespace");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return failed(a, -errno, "socketpair()");
    a->server = fork();
    if (a->server == 0) {
        close(ends[0]);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != self)
            _exit(1);
        prctl(PR_SET_NAME, "undersock-proof");
        stitch_server(ends[1]);
    }
    close(ends[1]);
    a->control = ends[0];
    r = a->server < 0 ? -errno : hear(a, &byte);
    if (r == 0)
        r = stage_lo_up();
    if (r == 0)
        r = stage_wire(a->server);
    if (r == 0)
        r = stage_addresses(STAGE_NEAR, STAGE_NEAR_V4, STAGE_NEAR_V6, &a->v6);
    if (r == 0 && send(a->control, "", 1, MSG_NOSIGNAL) != 1)
        r = -ECONNRESET;
    if (r == 0)
        r = hear(a, &byte);
    far_v6 = byte == 1;
    a->v6 = a->v6 && far_v6;
    if (r == 0 && a->v6)
        r = wait_for_route(a);
    return r < 0 ? failed(a, r, "making two network namespaces with a wire between them") : 0;
}

/* What the server has seen: of `n` connections a handshake, and nothing else. */
static int ask_server(struct actor *a, unsigned n)
{
    struct stitch_server_report report;
    int r = send(a->control, "", 1, MSG_NOSIGNAL) == 1 ? wait_for(a, a->control, POLLIN) : -EPIPE;

    if (r == 0 && recv(a->control, &report, sizeof(report), 0) != (ssize_t)sizeof(report))
        r = -EPIPE;
    if (r < 0)
        return failed(a, r, "asking the server");
    if (report.wrong > 0)
        return disproved(a, -EPROTO, "something raw reached the server");
    return report.accepted == n ? 0 : disproved(a, -EPROTO, "the number of connections");
}

static int act(struct actor *a, const struct stage_cgroup *cgroup)
{
    unsigned n = 0;
    int r = stage_cgroup_make(cgroup);

    if (r < 0)
        return failed(a, r, "making a cgroup");
    r = set_scene(a);
    if (r < 0)
        return r;
    a->cgroup = open(cgroup->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = a->cgroup < 0 ? -errno : stage_cgroup_enter(cgroup);
    if (r < 0)
        return failed(a, r, "entering a cgroup");
    r = put_in_force(a);
    a->deadline = now_ms() + ATTEMPTS_MS;
    for (size_t i = 0; r == 0 && i < stitch_n_attempts; i++) {
        if (stitch_attempts[i].v6 && !a->v6)
            continue;
        r = attempt_one(a, &stitch_attempts[i]);
        n++;
    }
    if (r == 0)
        r = fail_closed(a);
    return r < 0 ? r : ask_server(a, n);
}

static _Noreturn void actor_main(const struct stage_cgroup *cgroup, int report)
{
    struct actor a = {.cgroup = -1, .control = -1, .server = -1, .deadline = now_ms() + SCENE_MS};

    prctl(PR_SET_NAME, "undersock-proof");
    signal(SIGPIPE, SIG_IGN);
    a.result.r = act(&a, cgroup);
    bpf_capture_detach(a.capture);
    /* It would go by itself, but later than who waits for us expects. */
    if (a.server > 0) {
        kill(a.server, SIGKILL);
        waitpid(a.server, NULL, 0);
    }
    stage_cgroup_leave(cgroup);
    stage_cgroup_remove(cgroup);
    _exit(write(report, &a.result, sizeof(a.result)) != (ssize_t)sizeof(a.result));
}

int bpf_stitch_prove(char *why, size_t why_size)
{
    struct result result = {.r = -ETIMEDOUT, .why = WHAT " was not through in time"};
    struct stage_cgroup cgroup;
    struct result read_result;
    struct pollfd p;
    int report[2], r = stage_cgroup_find(&cgroup);
    pid_t actor;

    if (r < 0) {
        snprintf(why, why_size, WHAT ": finding its cgroup: %s", strerror(-r));
        return r;
    }
    if (pipe2(report, O_CLOEXEC) < 0) {
        r = -errno;
        snprintf(why, why_size, WHAT ": pipe(): %s", strerror(-r));
        return r;
    }
    actor = fork();
    if (actor < 0) {
        r = -errno;
        snprintf(why, why_size, WHAT ": fork(): %s", strerror(-r));
        close(report[0]);
        close(report[1]);
        return r;
    }
    if (actor == 0) {
        close(report[0]);
        actor_main(&cgroup, report[1]);
    }
    close(report[1]);
    p = (struct pollfd){.fd = report[0], .events = POLLIN};
    if (poll(&p, 1, LIMIT_MS) == 1) {
        if (read(report[0], &read_result, sizeof(read_result)) == (ssize_t)sizeof(read_result))
            result = read_result;
        else
            result = (struct result){.r = -ECHILD, .why = WHAT " was ended by somebody"};
    }
    close(report[0]);
    kill(actor, SIGKILL);
    waitpid(actor, NULL, 0);
    stage_cgroup_remove(&cgroup);
    if (result.r < 0)
        snprintf(why, why_size, "%s", result.why);
    return result.r;
}
