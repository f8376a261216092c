/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker/worker.h: puts a worker together, gives up its privileges, runs its loop.
 *
 * What needs privilege or a file (large pipes, the tables' memory, the sandbox's own library) is
 * done before the privileges go; the first connection is accepted after.
 */
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "bpf/hold.h"
#include "bpf/origin.h"
#include "bpf/sockmap.h"
#include "flow/flow.h"
#include "flow/inject.h"
#include "flow/origin_socket.h"
#include "log.h"
#include "nft/log.h"
#include "worker/datagrams.h"
#include "worker/query.h"
#include "worker/sandbox.h"

#define MAX_PIPES        256
#define PREOPENED        16
#define STASH_BUDGET     (32u * 1024 * 1024)
#define SPARE_FDS        (32 + SOCKMAP_FDS) /* loop, channel, queries, log, reserve */
#define RECHECK_INTERVAL INT64_C(100000000)

/* Streams, two a flow; each costs about 90 bytes of kernel memory, used or not. More flows than
 * that are copied and spliced. */
#define MAX_STREAMS 32768

#define KIND_CHANNEL   8
#define KIND_QUERY     9
#define KIND_DATAGRAMS 10 /* and the next DATAGRAMS_KINDS - 1 */

struct worker {
    const struct worker_options *o;
    struct loop *loop;
    struct relay_pool *pool;
    struct flow_table *flows;
    struct datagrams *datagrams;
    struct flow_listener *listeners;
    size_t n_listeners;
    struct flow_capture *captures;
    struct flow_hold *holds;
    struct nft_log_source *logs; /* of those holds that are nfnetlink_log's */
    struct injector injector;
    struct upstream_choice *choices;
    struct queries queries;
    uint32_t max_flows;
    const char *max_flows_is; /* as in flow.h */
    int64_t next_recheck;
    struct fastpath fast; /* ops NULL: none */
    char sockmap_why[160];
};

_Noreturn static void die(const struct worker_options *o, const char *what, int error)
{
    log_error("worker %u: %s: %s", o->number, what, strerror(-error));
    _exit(1);
}

static enum relay_choice relay_choice(enum config_fast_path f)
{
    switch (f) {
    case FAST_COPY:
        return RELAY_CHOICE_COPY;
    case FAST_SPLICE:
        return RELAY_CHOICE_SPLICE;
    case FAST_SOCKMAP:
        return RELAY_CHOICE_SOCKMAP;
    default:
        return RELAY_CHOICE_AUTO;
    }
}

/* Two descriptors a flow; the table is never larger than they allow. */
static unsigned share_descriptors(struct worker *w)
{
    uint64_t limit = fd_raise_limit();
    uint64_t fixed =
        SPARE_FDS + w->o->n_listeners * 2 + w->o->n_holds * 2 + 8 + datagrams_fds(w->o, limit);
    uint64_t left = limit > fixed ? limit - fixed : 0;
    uint64_t pipes = left / 32 < MAX_PIPES ? left / 32 : MAX_PIPES;
    uint64_t flows = (left - 2 * pipes) / 2;

    w->max_flows = w->o->max_flows;
    w->max_flows_is = "max-flows";
    if (flows < w->max_flows) {
        w->max_flows = flows > 0 ? (uint32_t)flows : 1;
        w->max_flows_is = "the limit of open files (LimitNOFILE=, ulimit -n)";
        if (w->o->number == 0)
            log_info("at most %u flows a worker, as the limit of open files is %lu; "
                     "raise it (LimitNOFILE=, ulimit -n) for more",
                     w->max_flows, (unsigned long)limit);
    }
    return (unsigned)pipes;
}

static int open_origin(struct worker *w, const struct worker_listener *l, struct flow_listener *ret)
{
    uint64_t cookie;

    if (l->origin == WORKER_ORIGIN_NAT) {
        ret->origin = (struct origin_source){.ops = &origin_nat_ops};
        return 0;
    }
    if (l->origin == WORKER_ORIGIN_SEAT) {
        ret->origin = (struct origin_source){.ops = &origin_either_ops};
        return 0;
    }
    if (l->origin == WORKER_ORIGIN_LOCAL) {
        ret->origin = (struct origin_source){.ops = &origin_local_ops};
        return 0;
    }
    int r = bpf_netns_cookie(l->fd, &cookie);

    (void)w;
    return r < 0 ? r : bpf_origin_open(l->origin_map, cookie, &ret->origin);
}

static uint32_t capture_index(const struct worker *w, const struct config_capture *c)
{
    return c ? (uint32_t)(c - w->o->config->captures) : FLOW_ANY_CAPTURE;
}

static int set_up_captures(struct worker *w)
{
    const struct config *c = w->o->config;

    w->captures = calloc(c->n_captures + 1, sizeof(*w->captures));
    w->choices = calloc(c->n_captures + 1, sizeof(*w->choices));
    if (!w->captures || !w->choices)
        return -ENOMEM;
    for (size_t i = 0; i < c->n_captures; i++) {
        upstream_choose_from(c, &c->captures[i], w->o->upstreams, &w->choices[i]);
        w->captures[i] = (struct flow_capture){.name = c->captures[i].policy.name,
                                               .hook = c->captures[i].policy.hook,
                                               .early = w->o->policies[i].early,
                                               .choice = &w->choices[i]};
    }
    return 0;
}

static int set_up_listeners(struct worker *w)
{
    const struct worker_options *o = w->o;

    w->listeners = calloc(o->n_listeners + 1, sizeof(*w->listeners));
    if (!w->listeners)
        return -ENOMEM;
    for (size_t i = 0; i < o->n_listeners; i++) {
        const struct worker_listener *l = &o->listeners[i];
        struct flow_listener *f = &w->listeners[w->n_listeners];

        if (l->origin == WORKER_UDP)
            continue; /* worker/datagrams.c has those */
        int r = open_origin(w, l, f);

        if (r < 0)
            return r;
        w->n_listeners++;
        f->fd = l->fd;
        f->at = l->at;
        f->capture = capture_index(w, l->capture);
        f->seat = l->origin == WORKER_ORIGIN_SEAT;
    }
    return 0;
}

/* Memory is mapped and raw sockets are made here, while we may. */
static int set_up_holds(struct worker *w)
{
    const struct worker_options *o = w->o;
    int r = o->n_holds > 0 ? injector_open(&w->injector) : 0;

    w->holds = calloc(o->n_holds + 1, sizeof(*w->holds));
    w->logs = calloc(o->n_holds + 1, sizeof(*w->logs));
    if (!w->holds || !w->logs)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < o->n_holds; i++) {
        const struct worker_hold *h = &o->holds[i];

        w->holds[i].capture = capture_index(w, h->capture);
        if (h->capture) {
            r = bpf_hold_open(h->fd, h->capture->policy.name, &w->holds[i].source);
        } else {
            w->logs[i].fd = h->fd;
            w->holds[i].source =
                (struct hold_source){.ops = &nft_log_hold_ops, .ctx = &w->logs[i], .fd = h->fd};
        }
    }
    return r;
}

/* The addresses of every first hop: a flow to one of them has come back. */
static struct addr *upstream_addresses(const struct worker_options *o, size_t *ret_n)
{
    struct addr *list = calloc(o->config->n_upstreams * UPSTREAM_ADDRS + 1, sizeof(*list));
    size_t n = 0;

    for (size_t i = 0; list && i < o->config->n_upstreams; i++) {
        const struct upstream_hop *hop = &o->upstreams[i].hops[0];

        for (unsigned k = 0; k < hop->n_addrs; k++)
            list[n++] = hop->addrs[k];
    }
    *ret_n = n;
    return list;
}

/* Those and our listeners' own: nobody's datagrams are for them. */
static struct addr *our_addresses(const struct worker *w, const struct addr *upstreams,
                                  size_t n_upstreams, size_t *ret_n)
{
    struct addr *list = calloc(n_upstreams + w->o->n_listeners + 1, sizeof(*list));

    *ret_n = 0;
    for (size_t i = 0; list && i < n_upstreams; i++)
        list[(*ret_n)++] = upstreams[i];
    for (size_t i = 0; list && i < w->o->n_listeners; i++)
        list[(*ret_n)++] = w->o->listeners[i].at;
    return list;
}

static void on_empty(void *ctx)
{
    struct worker *w = ctx;
    struct message_stats s;

    flow_table_stats(w->flows, &s);
    if (s.flows == 0 && datagrams_empty(w->datagrams))
        loop_stop(w->loop);
}

static void on_unproven(void *ctx)
{
    struct worker *w = ctx;
    struct message_header m = MESSAGE_HEADER(MESSAGE_RECHECK, sizeof(m));

    if (loop_now(w->loop) < w->next_recheck)
        return;
    w->next_recheck = loop_now(w->loop) + RECHECK_INTERVAL;
    fd_send_message(w->o->channel, &m, sizeof(m), NULL, 0);
}

static void unprove(struct worker *w)
{
    for (size_t i = 0; i < w->o->config->n_upstreams; i++)
        w->o->upstreams[i].unproven = w->o->upstreams[i].local;
}

/* False: there is none. */
static bool take_message(struct worker *w)
{
    union message m;
    int fds[8];
    size_t n_fds = 0;
    ssize_t n = fd_recv_message(w->o->channel, &m, sizeof(m), fds, &n_fds);

    if (n == -EAGAIN)
        return false;
    if (n <= 0)
        _exit(0); /* the keeper is gone: every socket is reset by the kernel */
    if ((size_t)n >= sizeof(m.header) && m.header.version == MESSAGE_VERSION) {
        if (m.header.type == MESSAGE_DRAIN) {
            datagrams_drain(w->datagrams);
            flow_table_drain(w->flows);
        } else if (m.header.type == MESSAGE_PROVEN && (size_t)n == sizeof(m.proven) &&
                   m.proven.upstream < w->o->config->n_upstreams)
            w->o->upstreams[m.proven.upstream].unproven &= (uint8_t)~m.proven.addresses;
        else if (m.header.type == MESSAGE_RESOLVERS && (size_t)n == sizeof(m.resolvers) &&
                 m.resolvers.n <= MESSAGE_RESOLVERS_MAX)
            datagrams_use_resolvers(w->datagrams, m.resolvers.at, m.resolvers.n);
        else if (m.header.type == MESSAGE_NAME && (size_t)n == sizeof(m.name) &&
                 m.name.name[sizeof(m.name.name) - 1] == '\0')
            datagrams_add_name(w->datagrams, m.name.name);
        else if (m.header.type == MESSAGE_UNPROVEN)
            unprove(w);
        else if (n_fds == 1 && queries_add(&w->queries, m.header.type, fds[0]))
            return true;
    }
    for (size_t i = 0; i < n_fds; i++)
        fd_close(&fds[i]);
    return true;
}

/* All that the keeper has said, before what follows from it: the queries for a name that it has
 * told of come to us, too. */
static void on_channel(void *ctx, uint64_t ref, uint32_t events)
{
    (void)ref;
    (void)events;
    while (take_message(ctx))
        ;
}

static void on_query(void *ctx, uint64_t ref, uint32_t events)
{
    struct worker *w = ctx;

    (void)events;
    queries_continue(&w->queries, loop_ref_index(ref));
}

/* The kernel is the same for those who come after us. */
static void tell_proof(struct worker *w)
{
    struct message_sockmap_proof m = {.header = MESSAGE_HEADER(MESSAGE_SOCKMAP, sizeof(m)),
                                      .sockmap = w->queries.sockmap};

    snprintf(m.why, sizeof(m.why), "%s", w->sockmap_why);
    fd_send_message(w->o->channel, &m, sizeof(m), NULL, 0);
}

/*
 * The in-kernel fast path, unless the configuration wants none or this kernel fails its proof. Each
 * worker has programs and maps of its own; the proof was given by an earlier one, if there was any.
 */
static void open_fastpath(struct worker *w)
{
    enum config_fast_path wanted = w->o->config->fast_path;
    uint32_t streams = w->max_flows < MAX_STREAMS / 2 ? 2 * w->max_flows : MAX_STREAMS;
    struct sockmap_options o = {.streams = streams,
                                .burst_time = RELAY_BURST_TIME,
                                .burst_bytes = wanted == FAST_SOCKMAP ? 0 : RELAY_BURST_BYTES,
                                .proven = w->o->sockmap == MESSAGE_SOCKMAP_ON};

    if (wanted == FAST_COPY || wanted == FAST_SPLICE)
        return;
    w->queries.sockmap = MESSAGE_SOCKMAP_FAILED;
    if (w->o->sockmap == MESSAGE_SOCKMAP_FAILED) {
        snprintf(w->sockmap_why, sizeof(w->sockmap_why), "%s", w->o->sockmap_why);
        return;
    }
    int r = bpf_sockmap_open(&o, w->o->needs_mark ? CAPTURE_OWN_MARK : 0, &w->fast, w->sockmap_why,
                             sizeof(w->sockmap_why));

    if (r == 0) {
        w->queries.sockmap = MESSAGE_SOCKMAP_ON;
        relay_pool_use(w->pool, &w->fast);
    } else if (w->o->number == 0) {
        log_warning("the in-kernel fast path is off: %s", w->sockmap_why);
    }
    if (r == -EPROTO || (r == 0 && !o.proven))
        tell_proof(w);
}

static int set_up(struct worker *w)
{
    const struct worker_options *o = w->o;
    unsigned pipes = share_descriptors(w);
    size_t n_upstreams;
    struct addr *upstreams = upstream_addresses(o, &n_upstreams);
    int r = upstreams ? loop_create(w->max_flows + 8 + datagrams_timers(o), &w->loop) : -ENOMEM;

    if (r == 0)
        r = relay_pool_create(pipes, PREOPENED < pipes ? PREOPENED : pipes, STASH_BUDGET,
                              relay_choice(o->config->fast_path), &w->pool);
    if (r == 0)
        r = set_up_captures(w);
    if (r == 0)
        r = set_up_listeners(w);
    if (r == 0)
        r = set_up_holds(w);
    if (r < 0)
        return r;
    open_fastpath(w);
    size_t n_ours;
    struct addr *ours = our_addresses(w, upstreams, n_upstreams, &n_ours);

    r = ours ? datagrams_open(o, w->loop, KIND_DATAGRAMS, w->choices, ours, n_ours, on_empty,
                              on_unproven, w, &w->datagrams)
             : -ENOMEM;
    if (r < 0)
        return r;
    struct flow_table_options f = {
        .loop = w->loop,
        .pool = w->pool,
        .captures = w->captures,
        .n_captures = o->config->n_captures,
        .fast = w->fast.ops ? &w->fast : NULL,
        .listeners = w->listeners,
        .n_listeners = w->n_listeners,
        .names = datagrams_names(w->datagrams),
        .holds = w->holds,
        .n_holds = o->n_holds,
        .inject = {.send = injector_send, .ctx = &w->injector},
        .own_mark = o->own_mark,
        .seat = o->seat,
        .max_held = o->max_held,
        .upstreams = upstreams,
        .n_upstreams = n_upstreams,
        .max_flows = w->max_flows,
        .max_flows_is = w->max_flows_is,
        .worker = o->ident,
        .idle_timeout = o->config->idle_timeout,
        .on_empty = on_empty,
        .on_unproven = on_unproven,
        .ctx = w,
    };
    r = flow_table_create(&f, &w->flows);
    if (r < 0)
        return r;
    w->queries = (struct queries){.loop = w->loop,
                                  .kind = KIND_QUERY,
                                  .flows = w->flows,
                                  .datagrams = w->datagrams,
                                  .upstreams = o->upstreams,
                                  .n_upstreams = o->config->n_upstreams,
                                  .worker = o->number,
                                  .max_flows = w->max_flows,
                                  .sockmap = w->queries.sockmap,
                                  .sockmap_why = w->sockmap_why};
    loop_set_handler(w->loop, KIND_CHANNEL, on_channel, w);
    loop_set_handler(w->loop, KIND_QUERY, on_query, w);
    return loop_add(w->loop, o->channel, EPOLLIN, loop_ref(KIND_CHANNEL, 0, 0));
}

/* To the lowest number that is free. */
static void move_down(int fd)
{
    int lowest = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;

    if (lowest >= 0 && lowest < fd)
        fd_close(&fd);
    else
        fd_close(&lowest);
}

/*
 * Keeps our own descriptors and those to hold. The first of them is the owner of the nftables
 * table: without the table the kernel stops translating addresses, and the resets of redirected
 * connections would not reach their applications. The other tells the janitor that we are gone, and
 * our connections with us. A dying process finishes its descriptors from the highest number down
 * (fput() puts them on a last-in-first-out list), so they move below those of the flows.
 */
static void close_the_rest(const struct worker_options *o)
{
    int *keep = calloc(2 * o->n_listeners + o->n_holds + 4, sizeof(int));
    size_t n = 0;

    if (!keep)
        die(o, "start", -ENOMEM);
    keep[n++] = o->channel;
    if (o->hold >= 0)
        keep[n++] = o->hold;
    if (o->watched >= 0)
        keep[n++] = o->watched;
    if (o->stitch_names_fd >= 0)
        keep[n++] = o->stitch_names_fd;
    for (size_t i = 0; i < o->n_listeners; i++) {
        keep[n++] = o->listeners[i].fd;
        if (o->listeners[i].origin == WORKER_ORIGIN_BPF)
            keep[n++] = o->listeners[i].origin_map;
    }
    for (size_t i = 0; i < o->n_holds; i++)
        keep[n++] = o->holds[i].fd;
    fd_close_others(keep, n);
    free(keep);
    move_down(o->watched);
    move_down(o->hold);
}

static void reset_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* a terminal's ^C is the keeper's business */
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void say_ready(const struct worker_options *o)
{
    struct message_hello m = {.header = MESSAGE_HEADER(MESSAGE_HELLO, sizeof(m)), .pid = 0};

    if (fd_send_message(o->channel, &m, sizeof(m), NULL, 0) < 0)
        _exit(1);
}

void worker_main(const struct worker_options *o)
{
    struct worker w = {.o = o};
    char why[200];
    pid_t keeper = getppid();

    close_the_rest(o);
    setsid(); /* the terminal's signals are not for us */
    prctl(PR_SET_NAME, "undersock-worker");
    reset_signals();
    int r = set_up(&w);

    if (r < 0)
        die(o, "start", r);
    r = sandbox_drop(o->uid, o->gid, o->needs_mark, why, sizeof(why));
    if (r == 0 && getppid() != keeper)
        _exit(0); /* it died before PR_SET_PDEATHSIG */
    if (r == 0)
        r = sandbox_seal(why, sizeof(why));
    if (r < 0) {
        log_error("worker %u: %s", o->number, why);
        _exit(1);
    }
    say_ready(o);
    r = loop_run(w.loop);
    if (r < 0)
        die(o, "event loop", r);
    _exit(0);
}
