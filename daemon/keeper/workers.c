/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/workers.h. A worker that dies is started again at once; one that dies again and again, at
 * growing intervals of up to 5 s. Its listeners are the keeper's, so connections wait in their
 * backlog meanwhile.
 */
#include "keeper/workers.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "log.h"
#include "message.h"
#include "worker/worker.h"

#define SLOTS            128 /* draining ones included; <= 256, as the slot is part of a flow's id */
#define BACKOFF_STEP     INT64_C(100000000)
#define BACKOFF_MAX      INT64_C(5000000000)
#define MAX_ASSOCIATIONS 16384
#define STABLE           INT64_C(10000000000)

struct slot {
    struct generation *generation; /* NULL: free */
    unsigned number;
    pid_t pid;   /* 0: waiting to be started again */
    int channel; /* -1: none */
    bool ready, draining;
    int64_t started, backoff;
    struct timer timer;
};

struct workers {
    struct loop *loop;
    unsigned kind;
    struct workers_calls calls;
    void *ctx;
    bool settled;
    uid_t uid;
    gid_t gid;
    struct message_sockmap_proof proof; /* .sockmap OFF: none was given yet */
    struct slot slots[SLOTS];
};

/* The user that workers become: "undersock" where the package made it, else "nobody". */
static void choose_user(struct workers *w)
{
    const struct passwd *p = getpwnam("undersock");

    if (!p)
        p = getpwnam("nobody");
    w->uid = p ? p->pw_uid : 65534;
    w->gid = p ? p->pw_gid : 65534;
}

int workers_create(struct loop *loop, unsigned kind, const struct workers_calls *calls, void *ctx,
                   struct workers **ret)
{
    struct workers *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->loop = loop;
    w->kind = kind;
    w->calls = *calls;
    w->ctx = ctx;
    choose_user(w);
    *ret = w;
    return 0;
}

static uint64_t slot_ref(const struct workers *w, const struct slot *s)
{
    return loop_ref(w->kind, 0, (uint32_t)(s - w->slots));
}

static uint32_t share(const struct generation *g, unsigned n)
{
    return (n + g->n_workers - 1) / g->n_workers;
}

/* Two descriptors each: at most a quarter of what there is, the rest is for flows. */
static uint32_t associations(const struct generation *g)
{
    uint64_t room = fd_hard_limit() / 8; /* a worker raises its own */
    uint32_t wanted = share(g, MAX_ASSOCIATIONS);

    return room < wanted ? (uint32_t)room : wanted;
}

static int spawn(struct workers *w, struct slot *s)
{
    struct generation *g = s->generation;
    int pair[2];

    s->started =
        loop_now(w->loop); /* also of an attempt that fails: the next one must wait longer */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    struct worker_options o = {
        .number = s->number,
        .ident = (unsigned)(s - w->slots),
        .channel = pair[1],
        .config = g->config,
        .policies = g->policies,
        .upstreams = g->upstreams,
        .listeners = g->listeners + g->first[s->number],
        .n_listeners = g->first[s->number + 1] - g->first[s->number],
        .seat = g->first_seat + s->number,
        .holds = g->holds + g->n_holds * s->number,
        .n_holds = g->n_holds,
        .max_flows = share(g, g->config->max_flows),
        .max_held = share(g, g->config->max_held),
        .own_mark = g->set.own_mark,
        .udp = g->takes_udp ? g->udp : NULL,
        .fake = g->fake,
        .real = g->real,
        .direct_names = g->direct_names,
        .resolvers = g->resolvers,
        .n_resolvers = g->n_resolvers,
        .max_associations = associations(g),
        .sockmap = w->proof.sockmap,
        .sockmap_why = w->proof.why,
        .needs_mark = g->marked,
        .stitch_names_fd = g->stitch_names_fd,
        .hold = g->hold,
        .watched = g->watched,
        .uid = w->uid,
        .gid = w->gid,
    };
    pid_t pid = fork();

    if (pid == 0)
        worker_main(&o);
    int r = pid < 0 ? -errno : 0;

    fd_close(&pair[1]);
    if (r == 0)
        r = loop_add(w->loop, pair[0], EPOLLIN, slot_ref(w, s));
    if (r < 0) {
        fd_close(&pair[0]);
        return r;
    }
    s->pid = pid;
    s->channel = pair[0];
    s->ready = false;
    return 0;
}

bool workers_room(const struct workers *w, unsigned n)
{
    unsigned vacant = 0;

    for (size_t i = 0; i < SLOTS; i++)
        vacant += !w->slots[i].generation;
    return n <= vacant;
}

static void start_later(struct workers *w, struct slot *s)
{
    if (loop_now(w->loop) - s->started > STABLE)
        s->backoff = 0;
    loop_timer_set(w->loop, &s->timer, s->backoff, slot_ref(w, s));
    s->backoff = s->backoff == 0 ? BACKOFF_STEP : s->backoff * 2;
    if (s->backoff > BACKOFF_MAX)
        s->backoff = BACKOFF_MAX;
}

int workers_start(struct workers *w, struct generation *g)
{
    for (unsigned n = 0; n < g->n_workers; n++) {
        struct slot *s = w->slots;

        while (s < w->slots + SLOTS && s->generation)
            s++;
        if (s == w->slots + SLOTS)
            return -ENOSPC;
        *s = (struct slot){.generation = g, .number = n, .channel = -1};
        int r = spawn(w, s);

        if (r < 0 && !w->settled) {
            s->generation = NULL;
            return r;
        }
        g->n_live++;
        if (r < 0) {
            log_error("cannot start worker %u: %s; it is tried again", n, strerror(-r));
            start_later(w, s);
        }
    }
    return 0;
}

bool workers_ready(const struct workers *w)
{
    for (size_t i = 0; i < SLOTS; i++) {
        const struct slot *s = &w->slots[i];

        if (s->generation && !s->draining && !s->ready)
            return false;
    }
    return true;
}

static void drop(struct workers *w, struct slot *s)
{
    struct generation *g = s->generation;

    loop_timer_cancel(w->loop, &s->timer);
    fd_close(&s->channel);
    s->generation = NULL;
    s->pid = 0;
    if (--g->n_live == 0)
        w->calls.idle(w->ctx, g);
}

static void say_how(const struct slot *s, int status)
{
    if (WIFSIGNALED(status))
        log_error(
            "worker %u (pid %ld) was killed by signal %d (%s): its flows are reset, it is started "
            "again",
            s->number, (long)s->pid, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        log_error(
            "worker %u (pid %ld) ended with status %d: its flows are reset, it is started again",
            s->number, (long)s->pid, WEXITSTATUS(status));
}

bool workers_exited(struct workers *w, pid_t pid, int status, bool *ret_failed)
{
    struct slot *s = w->slots;

    while (s < w->slots + SLOTS && !(s->generation && s->pid == pid))
        s++;
    if (s == w->slots + SLOTS)
        return false;
    bool never_ready = !s->ready && !w->settled && !s->draining;

    fd_close(&s->channel);
    if (s->draining) {
        drop(w, s);
    } else if (never_ready) {
        *ret_failed = true;
        s->pid = 0;
    } else {
        say_how(s, status);
        s->pid = 0;
        start_later(w, s);
    }
    return true;
}

void workers_drain(struct workers *w, const struct generation *g)
{
    struct message_header m = MESSAGE_HEADER(MESSAGE_DRAIN, sizeof(m));

    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *s = &w->slots[i];

        if (s->generation != g || s->draining)
            continue;
        s->draining = true;
        if (s->pid == 0)
            drop(w, s);
        else if (fd_send_message(s->channel, &m, sizeof(m), NULL, 0) < 0)
            kill(s->pid, SIGKILL);
    }
}

void workers_settle(struct workers *w)
{
    w->settled = true;
}

static void tell(struct workers *w, const struct generation *g, const void *message, size_t len)
{
    for (size_t i = 0; i < SLOTS; i++) {
        if (w->slots[i].generation == g && w->slots[i].channel >= 0)
            fd_send_message(w->slots[i].channel, message, len, NULL, 0);
    }
}

void workers_unprove(struct workers *w, const struct generation *g)
{
    struct message_header m = MESSAGE_HEADER(MESSAGE_UNPROVEN, sizeof(m));

    tell(w, g, &m, sizeof(m));
}

void workers_tell_resolvers(struct workers *w, const struct generation *g)
{
    struct message_resolvers m = {.header = MESSAGE_HEADER(MESSAGE_RESOLVERS, sizeof(m))};

    m.n = (uint32_t)g->n_resolvers;
    memcpy(m.at, g->resolvers, sizeof(m.at));
    tell(w, g, &m, sizeof(m));
}

void workers_tell_name(struct workers *w, const struct generation *g, const char *name)
{
    struct message_name m = {.header = MESSAGE_HEADER(MESSAGE_NAME, sizeof(m))};

    snprintf(m.name, sizeof(m.name), "%s", name);
    tell(w, g, &m, sizeof(m));
}

void workers_prove(struct workers *w, const struct generation *g)
{
    for (size_t i = 0; i < g->config->n_upstreams; i++) {
        struct message_proven m = {.header = MESSAGE_HEADER(MESSAGE_PROVEN, sizeof(m)),
                                   .upstream = (uint32_t)i,
                                   .addresses = (uint8_t)~g->upstreams[i].unproven};

        tell(w, g, &m, sizeof(m));
    }
}

unsigned workers_due(const struct workers *w)
{
    unsigned n = 0;

    for (size_t i = 0; i < SLOTS; i++)
        n += w->slots[i].generation && !w->slots[i].draining && w->slots[i].pid > 0 ? 1 : 0;
    return n;
}

unsigned workers_ask(struct workers *w, unsigned message_type, int client)
{
    struct message_header m = MESSAGE_HEADER(message_type, sizeof(m));
    unsigned n = 0;

    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *s = &w->slots[i];

        if (s->generation && s->channel >= 0 &&
            fd_send_message(s->channel, &m, sizeof(m), &client, 1) == 0 && !s->draining)
            n++;
    }
    return n;
}

/* Holds as long as the daemon does, and the first failure for good. Only of a worker that has not
 * said hello: until then it has read nothing of the network. */
static void take_proof(struct workers *w, const struct message_sockmap_proof *m)
{
    if (w->proof.sockmap == MESSAGE_SOCKMAP_FAILED ||
        (m->sockmap != MESSAGE_SOCKMAP_ON && m->sockmap != MESSAGE_SOCKMAP_FAILED))
        return;
    w->proof = *m;
    w->proof.why[sizeof(w->proof.why) - 1] = '\0';
}

void workers_event(struct workers *w, uint64_t ref, uint32_t events)
{
    struct slot *s = &w->slots[loop_ref_index(ref) % SLOTS];
    union message m;

    if (!s->generation)
        return;
    if (events & LOOP_TIMEOUT) {
        if (s->pid == 0 && spawn(w, s) < 0)
            start_later(w, s);
        return;
    }
    if (s->channel < 0)
        return;
    ssize_t n = fd_recv_message(s->channel, &m, sizeof(m), NULL, NULL);

    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        fd_close(&s->channel); /* it is ending: SIGCHLD says the rest */
        return;
    }
    if ((size_t)n == sizeof(m.sockmap_proof) && m.header.type == MESSAGE_SOCKMAP &&
        m.header.version == MESSAGE_VERSION && !s->ready)
        take_proof(w, &m.sockmap_proof);
    if ((size_t)n == sizeof(m.hello) && m.header.type == MESSAGE_HELLO &&
        m.header.version == MESSAGE_VERSION)
        s->ready = true;
    if ((size_t)n == sizeof(m.header) && m.header.type == MESSAGE_RECHECK && !s->draining)
        w->calls.recheck(w->ctx);
}

void workers_destroy(struct workers *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *s = &w->slots[i];

        if (!s->generation)
            continue;
        loop_timer_cancel(w->loop, &s->timer);
        fd_close(&s->channel); /* its end of file ends the worker, if kill() may not */
        if (s->pid > 0) {
            kill(s->pid, SIGKILL);
            while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
                ;
        }
    }
    free(w);
}
