/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The user half of the in-kernel fast path: puts sockets into the maps of bpf/sockmap.bpf.c and
 * takes them out.
 *
 * Theory of operation. Stream i is element i of the sources (from where the verdict runs), element
 * i of the targets, record i of the mapped array, and an entry of the index under the source's
 * cookie. Two things here are not obvious:
 *
 * - The balance. A target's send queue has taken `bytes_acked + SIOCOUTQ` bytes in its life: what
 *   was acknowledged and what was not. join() notes that number; a stream has settled when it has
 *   grown by what was redirected and what user space reported as taken.
 *
 * - Taking a source out. When its element goes while a packet is on its way through the kernel's
 *   read loop, that packet finds no program and is dropped, though acknowledged. So the socket is
 *   made deaf first: its gate (us_gate) drops its packets before TCP has seen them, the sender will
 *   repeat them, and a peek takes the socket's lock once, so that whatever had come in before
 *   has been through the verdict. Only then the element goes. Before the gate is opened again, the
 *   bytes that TCP has received are compared with those redirected and passed; if they do not
 *   agree, or something was passed after all, the flow must be reset.
 *
 * A record that was given back rests for a while before it is used again: a verdict that was
 * running when the flow was dropped may still write to it.
 */
#include "bpf/sockmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/account.h"
#include "bpf/object.h"
#include "bpf/sockmap_state.h"

#define REST INT64_C(1000000000)

#ifndef SO_ATTACH_BPF
#define SO_ATTACH_BPF 50
#endif

static int64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t get(const ABI_U64 *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* --- Records -----------------------------------------------------------------------------------
 */

static int take_record(struct sockmap *m, uint32_t *ret)
{
    if (m->free_first != FASTPATH_NONE && m->streams[m->free_first].rests_until <= now()) {
        *ret = m->free_first;
        m->free_first = m->streams[*ret].next;
        if (m->free_first == FASTPATH_NONE)
            m->free_last = FASTPATH_NONE;
        return 0;
    }
    if (m->n_used == m->n)
        return -ENOSPC;
    *ret = m->n_used++;
    return 0;
}

static void give_record_back(struct sockmap *m, uint32_t i)
{
    struct stream *s = &m->streams[i];

    s->from = s->to = -1;
    s->next = FASTPATH_NONE;
    s->rests_until = now() + REST;
    if (m->free_last == FASTPATH_NONE)
        m->free_first = i;
    else
        m->streams[m->free_last].next = i;
    m->free_last = i;
}

/* --- The operations ----------------------------------------------------------------------------
 */

static bool op_settled(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;
    const struct stream *s = &m->streams[i];
    uint64_t redirected = get(&m->records[i].redirected), have;

    return account_balance(s->to, false, &have) == 0 &&
           have == s->sent_before + redirected + m->records[i].taken;
}

static uint64_t op_waiting(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;

    return get(&m->records[i].passed) - m->records[i].taken;
}

static void op_taken(void *ctx, uint32_t i, size_t n)
{
    struct sockmap *m = ctx;

    __atomic_store_n(&m->records[i].taken, m->records[i].taken + n, __ATOMIC_SEQ_CST);
}

static bool op_overrun(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;

    return __atomic_load_n(&m->records[i].state, __ATOMIC_RELAXED) == FASTPATH_OVERRUN;
}

static bool op_bulk(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;

    return __atomic_load_n(&m->records[i].state, __ATOMIC_RELAXED) == FASTPATH_BULK;
}

static ssize_t peek(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

static void set_hold(struct sockmap *m, uint32_t i, uint32_t hold)
{
    __atomic_store_n(&m->records[i].hold, hold, __ATOMIC_SEQ_CST);
}

/* The verdict runs under the source's lock: once we have had that, no verdict is under way that has
 * not seen the word. */
static void op_hold(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;

    set_hold(m, i, FASTPATH_HOLD);
    peek(m->streams[i].from);
}

static bool op_resume(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;
    struct fastpath_stream *record = &m->records[i];

    /* While it is held, the kernel leaves the state alone. */
    if (record->state == FASTPATH_BULK)
        record->state = FASTPATH_PASSING;
    __atomic_store_n(&record->waking, 0, __ATOMIC_SEQ_CST);
    set_hold(m, i, 0);
    if (op_waiting(m, i) == 0)
        return true;
    op_hold(m, i);
    return false;
}

static void remove_elements(struct sockmap *m, uint32_t i)
{
    bpf_map_delete_elem(m->sources, &i);
    bpf_map_delete_elem(m->targets, &i);
}

/* Its gate knows no record any more, and is open. */
static void remove_index(struct sockmap *m, uint32_t i)
{
    uint64_t cookie;

    if (account_cookie(m->streams[i].from, &cookie) == 0)
        bpf_map_delete_elem(m->index, &cookie);
}

static void end(struct sockmap *m, uint32_t i)
{
    m->counters.redirected += get(&m->records[i].redirected);
    m->counters.passed += get(&m->records[i].passed);
    give_record_back(m, i);
}

static void take_gate_off(int from)
{
    int off = 0;

    setsockopt(from, SOL_SOCKET, SO_DETACH_FILTER, &off, sizeof(off));
}

/* Puts the sockets in; what is queued already goes through the verdict at once. */
static int insert(struct sockmap *m, uint32_t i)
{
    const struct stream *s = &m->streams[i];
    uint32_t to = (uint32_t)s->to, from = (uint32_t)s->from;
    uint64_t cookie;
    int r = account_cookie(s->from, &cookie);

    if (r == 0)
        r = bpf_map_update_elem(m->index, &cookie, &i, BPF_NOEXIST);
    if (r < 0)
        return r; /* it may be another stream's */
    if (setsockopt(s->from, SOL_SOCKET, SO_ATTACH_BPF, &m->gate, sizeof(m->gate)) < 0)
        r = -errno;
    if (r == 0)
        r = bpf_map_update_elem(m->targets, &i, &to, BPF_NOEXIST);
    if (r == 0)
        r = bpf_map_update_elem(m->sources, &i, &from, BPF_NOEXIST);
    if (r < 0) {
        remove_elements(m, i);
        remove_index(m, i);
        take_gate_off(s->from);
        return r;
    }
    peek(s->from);
    return 0;
}

static int prepare(struct stream *s, int from, int to, uint64_t owner, bool queued)
{
    int r;

    *s = (struct stream){.owner = owner, .from = from, .to = to};
    if (!account_is_established(from) || !account_is_established(to))
        return -EOPNOTSUPP;
    /* The last moment at which something may be left in a packet that was read in part. */
    r = queued ? account_handed_out(from, &s->received_before)
               : account_received(from, &s->received_before);
    return r < 0 ? r : account_balance(to, true, &s->sent_before);
}

static int join(struct sockmap *m, int from, int to, uint64_t owner, bool queued,
                uint32_t *ret_stream)
{
    uint32_t i;
    int r = take_record(m, &i);

    if (r < 0) {
        m->counters.full++;
        return r;
    }
    memset(&m->records[i], 0, sizeof(m->records[i]));
    m->records[i].state = FASTPATH_NEW;
    r = prepare(&m->streams[i], from, to, owner, queued);
    if (r == 0)
        r = insert(m, i);
    if (r < 0) {
        if (r != -EAGAIN)
            m->counters.refused++;
        give_record_back(m, i);
        return r;
    }
    m->counters.joined++;
    *ret_stream = i;
    return 0;
}

static int op_join(void *ctx, int from, int to, uint64_t owner, uint32_t *ret_stream)
{
    return join(ctx, from, to, owner, false, ret_stream);
}

int bpf_sockmap_join_queued(const struct fastpath *f, int from, int to, uint32_t *ret_stream)
{
    return join(f->ctx, from, to, 0, true, ret_stream);
}

/* Nothing is left anywhere, and nothing can come. */
static int make_deaf(struct sockmap *m, uint32_t i)
{
    set_hold(m, i, FASTPATH_DEAF);
    if (peek(m->streams[i].from) < 0 && errno == EAGAIN && op_waiting(m, i) == 0 &&
        op_settled(m, i))
        return 0;
    op_hold(m, i);
    return -EAGAIN;
}

static int op_leave(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;
    const struct stream *s = &m->streams[i];
    uint64_t got = 0;
    int r, from = s->from;

    if (op_waiting(m, i) > 0)
        return -EAGAIN;
    r = make_deaf(m, i);
    if (r < 0)
        return r;
    remove_elements(m, i);
    /* Still deaf. What was passed in the meantime went with the element. */
    r = account_received(from, &got);
    if (r < 0 || op_waiting(m, i) > 0 ||
        got != s->received_before + m->records[i].redirected + m->records[i].passed) {
        m->counters.lost++;
        r = -EIO;
    } else {
        m->counters.left++;
    }
    remove_index(m, i);
    end(m, i);
    take_gate_off(from);
    return r;
}

static void op_drop(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;

    remove_elements(m, i);
    remove_index(m, i);
    end(m, i);
}

static uint64_t op_progress(void *ctx, uint32_t i, int64_t *ret_active)
{
    struct sockmap *m = ctx;

    *ret_active = (int64_t)get(&m->records[i].active);
    return get(&m->records[i].redirected);
}

static int on_event(void *ctx, void *data, size_t size)
{
    struct sockmap *m = ctx;
    uint32_t i;

    if (size != sizeof(i))
        return 0;
    memcpy(&i, data, sizeof(i));
    /* One of a stream that is gone meanwhile. */
    if (i >= m->n_used || m->streams[i].from < 0)
        return 0;
    if (op_overrun(m, i))
        m->counters.overrun++;
    else
        m->counters.demoted++;
    m->fn(m->fn_ctx, m->streams[i].owner, i);
    return 0;
}

static void op_events(void *ctx, void (*fn)(void *fn_ctx, uint64_t owner, uint32_t stream),
                      void *fn_ctx)
{
    struct sockmap *m = ctx;

    m->fn = fn;
    m->fn_ctx = fn_ctx;
    ring_buffer__consume(m->ring);
}

static void op_counters(void *ctx, struct fastpath_counters *ret)
{
    struct sockmap *m = ctx;

    *ret = m->counters;
    for (uint32_t i = 0; i < m->n_used; i++) {
        if (m->streams[i].from < 0)
            continue;
        ret->redirected += get(&m->records[i].redirected);
        ret->passed += get(&m->records[i].passed);
    }
}

static const struct fastpath_ops ops = {
    .join = op_join,
    .settled = op_settled,
    .waiting = op_waiting,
    .taken = op_taken,
    .overrun = op_overrun,
    .bulk = op_bulk,
    .resume = op_resume,
    .hold = op_hold,
    .leave = op_leave,
    .drop = op_drop,
    .progress = op_progress,
    .events = op_events,
    .counters = op_counters,
};

void bpf_sockmap_close(struct fastpath *f)
{
    struct sockmap *m = f->ctx;

    if (!m)
        return;
    sockmap_unload(m);
    free(m);
    *f = (struct fastpath){.event_fd = -1};
}

int bpf_sockmap_open(const struct sockmap_options *o, uint32_t own_mark, struct fastpath *ret,
                     char *why, size_t why_size)
{
    struct sockmap *m = calloc(1, sizeof(*m));
    struct fastpath f = {.ops = &ops, .ctx = m, .event_fd = -1};
    int r;

    if (!m)
        return -ENOMEM;
    m->free_first = m->free_last = FASTPATH_NONE;
    m->on_event = on_event;
    r = sockmap_load(m, o);
    if (r < 0) {
        bpf_object_explain(r, "the sockmap", why, why_size);
    } else {
        f.event_fd = m->events;
        r = o->proven ? 0 : bpf_sockmap_test(&f, own_mark, why, why_size);
        m->counters = (struct fastpath_counters){0};
    }
    if (r < 0) {
        bpf_sockmap_close(&f);
        return r;
    }
    *ret = f;
    return 0;
}
