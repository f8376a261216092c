/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What keeper/stitch.h tells. The kernel knows the connections, we do not: their sockets are listed
 * when somebody asks, by a process of its own, because a list may be long, a client slow, and the
 * keeper must do neither.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "base/fd.h"
#include "base/ident.h"
#include "bpf/stitch.h"
#include "dns/fake.h"
#include "keeper/stitch_state.h"

#define PATIENCE 5000 /* ms that a client may be slow */
#define LIFETIME 60   /* s: it does not stay whatever happens */
#define WORKER   0xff /* no worker's, in the ids of flows */

void stitch_tell_capture(const struct stitch *s, size_t policy, struct message_capture *m)
{
    if (!s || policy >= s->n_bound)
        return;
    const struct config *c = s->generation->config;

    /* Of "auto" only who could have expected it is told why not. */
    if (!s->wanted && !s->forced &&
        (c->fast_path != FAST_AUTO || c->captures[policy].policy.hook != CAPTURE_CGROUP))
        return;
    m->stitched = s->bound[policy].stitched;
    if (m->stitched)
        return;
    const char *why = s->bound[policy].why;

    snprintf(m->why_relayed, sizeof(m->why_relayed), "%s",
             why         ? why
             : s->why[0] ? s->why
                         : "not asked for");
}

bool stitch_tell(const struct stitch *s, struct message_stitch *ret)
{
    struct message_stitch m = {.header = MESSAGE_HEADER(MESSAGE_STITCH, sizeof(m))};

    if (!s || !(s->bpf || s->wanted || s->forced))
        return false;
    m.wanted = s->wanted || s->forced;
    m.on = s->bpf != NULL;
    if (s->bpf)
        bpf_stitch_read_counters(s->bpf, m.counters);
    else
        snprintf(m.why, sizeof(m.why), "%s", s->why[0] ? s->why : "no capture can be stitched");
    *ret = m;
    return true;
}

struct listing {
    const struct stitch *s;
    int client;
    bool failed;
};

/* The client's queue is short, and shared with the workers that answer it, too. */
static void send_slowly(struct listing *l, const void *record, size_t size)
{
    while (!l->failed) {
        struct pollfd p = {.fd = l->client, .events = POLLOUT};
        int r = fd_send_message(l->client, record, size, NULL, 0);

        if (r == 0)
            return;
        if (r != -EAGAIN || poll(&p, 1, PATIENCE) <= 0)
            l->failed = true;
    }
}

static const char *state_of(uint8_t tcp_state)
{
    switch (tcp_state) {
    case BPF_TCP_SYN_SENT:
        return "handshake";
    case BPF_TCP_ESTABLISHED:
        return "relay";
    case BPF_TCP_FIN_WAIT1:
    case BPF_TCP_FIN_WAIT2:
    case BPF_TCP_CLOSE_WAIT:
        return "half-closed";
    default:
        return "closing";
    }
}

/* What is in tcp_info counts the octets of the application, and a FIN that has come as one. */
static void count_bytes(const struct bpf_stitch_socket *socket, struct message_flow *m)
{
    const struct tcp_info *i = &socket->info;
    bool fin = socket->tcp_state == BPF_TCP_CLOSE_WAIT || socket->tcp_state == BPF_TCP_LAST_ACK ||
               socket->tcp_state == BPF_TCP_CLOSING;

    m->bytes_up = i->tcpi_bytes_sent - i->tcpi_bytes_retrans;
    m->bytes_down = i->tcpi_bytes_received;
    if (fin && m->bytes_down > 0)
        m->bytes_down--;
}

static void take_origin(const struct abi_origin *from, struct origin *to)
{
    memcpy(to->destination.ip, from->ip, sizeof(to->destination.ip));
    to->destination.port = from->port;
    to->destination.scope = from->scope;
    to->cgroup_id = from->cgroup_id;
    to->pid = from->pid;
    to->uid = from->uid;
    to->known = from->known;
    memcpy(to->comm, from->comm, sizeof(to->comm));
}

static void list_socket(void *ctx, const struct bpf_stitch_socket *socket)
{
    struct listing *l = ctx;
    const struct stitch *s = l->s;
    const struct stitch_line *line = &s->lines[socket->state.script % STITCH_SCRIPTS];
    struct message_flow m = {.header = MESSAGE_HEADER(MESSAGE_FLOW, sizeof(m)),
                             .id = ident_make(WORKER, 0, socket->inode),
                             .client = socket->local,
                             .engine = "stitch",
                             .protocol = IPPROTO_TCP,
                             .age_ms = MESSAGE_AGE_UNKNOWN};
    size_t i = 0;

    while (i < STITCH_KNOWN &&
           (s->known[i].instance != socket->state.instance || s->known[i].instance == 0))
        i++;
    if (i == STITCH_KNOWN || socket->tcp_state == BPF_TCP_CLOSE || l->failed)
        return; /* another daemon's, or one of before ours */
    memcpy(m.capture, s->known[i].name, sizeof(m.capture));
    if (!line->reused && addr_equal(&line->server, &socket->remote))
        memcpy(m.upstream, line->name, sizeof(m.upstream));
    snprintf(m.state, sizeof(m.state), "%s", state_of(socket->tcp_state));
    take_origin(&socket->state.origin, &m.origin);
    count_bytes(socket, &m);
    if (fake_is(&m.origin.destination))
        bpf_stitch_get_name(bpf_stitch_names_fd(s->bpf), &m.origin.destination, m.name,
                            sizeof(m.name));
    send_slowly(l, &m, sizeof(m));
}

bool stitch_is_open(const struct stitch *s)
{
    return s && s->bpf;
}

bool stitch_tell_flows(const struct stitch *s, int client)
{
    if (!s || !s->bpf)
        return false;
    pid_t pid = fork();

    if (pid != 0)
        return pid > 0;
    struct listing l = {.s = s, .client = client};
    struct message_end end = {.header = MESSAGE_HEADER(MESSAGE_END, sizeof(end))};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(LIFETIME);
    end.result = bpf_stitch_sockets(s->bpf, list_socket, &l);
    send_slowly(&l, &end, sizeof(end));
    _exit(0);
}
