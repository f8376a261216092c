/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The user half of the in-kernel fast path: loads bpf/sockmap.bpf.c, puts sockets into its maps and
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
 *   has been through the verdict. Only then the element goes. Afterwards the bytes that TCP has
 *   received are compared with those redirected and passed; if they do not agree, the flow must be
 *   reset.
 *
 * A record that was given back rests for a while before it is used again: a verdict that was
 * running when the flow was dropped may still write to it.
 */
#include "bpf/sockmap.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/fd.h"
#include "bpf/embed.h"
#include "bpf/object.h"
#include "fastpath_abi.h"

#define REST INT64_C(1000000000)

/* What waits is in a receive buffer, or should be. Beyond BRAKE times the largest that there can be
 * it is not, and beyond OVERRUN times the brake has not helped. */
#define BRAKE     2
#define BRAKE_MIN (16u * 1024 * 1024)
#define BRAKE_MAX (512u * 1024 * 1024)
#define OVERRUN   4

#ifndef SO_ATTACH_BPF
#define SO_ATTACH_BPF 50
#endif

/* What the kernel need not know of a stream. */
struct stream {
    int from, to; /* -1: free */
    union {
        struct {
            uint64_t owner;
            uint64_t sent_before;     /* the target's balance at join() */
            uint64_t received_before; /* bytes the source had received and handed out */
        };
        struct {                 /* free */
            int64_t rests_until; /* not to be used before */
            uint32_t next;       /* in the free list */
        };
    };
};

struct sockmap {
    int targets, sources, index, gate, events;
    int verdict; /* held by each socket in the maps too: gone when the last one is */
    struct ring_buffer *ring;
    struct fastpath_stream *records; /* mapped */
    size_t mapped;
    struct stream *streams;
    uint32_t n, n_used; /* records beyond n_used were never used */
    uint32_t free_first, free_last;
    struct fastpath_counters counters; /* redirected and passed: of streams that ended */
    void (*fn)(void *fn_ctx, uint64_t owner, uint32_t stream);
    void *fn_ctx;
};

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

/* --- What TCP knows of a socket ----------------------------------------------------------------
 */

static int tcp_info(int fd, struct tcp_info *ret)
{
    socklen_t len = sizeof(*ret);

    memset(ret, 0, sizeof(*ret));
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, ret, &len) < 0 ? -errno : 0;
}

/*
 * Bytes ever put into the send queue. An acknowledgement between the two calls makes the sum too
 * small, which does for waiting until it has grown so far; `exact` tries again until none came in
 * between, or gives up with -EAGAIN.
 */
static int balance(int fd, bool exact, uint64_t *ret)
{
    struct tcp_info before, after;
    int queued = 0, r = tcp_info(fd, &before);

    for (unsigned i = 0; r == 0 && i < 8; i++) {
        if (ioctl(fd, SIOCOUTQ, &queued) < 0)
            return -errno;
        if (exact)
            r = tcp_info(fd, &after);
        if (r == 0 && (!exact || after.tcpi_bytes_acked == before.tcpi_bytes_acked)) {
            *ret = before.tcpi_bytes_acked + (uint64_t)queued;
            return 0;
        }
        before = after;
    }
    return r < 0 ? r : -EAGAIN;
}

/* Bytes received that have left the receive queue. -EAGAIN: more keep coming. */
static int handed_out(int fd, uint64_t *ret)
{
    struct tcp_info before, after;
    int queued = 0, r = tcp_info(fd, &before);

    for (unsigned i = 0; r == 0 && i < 8; i++) {
        if (ioctl(fd, SIOCINQ, &queued) < 0)
            return -errno;
        r = tcp_info(fd, &after);
        if (r == 0 && after.tcpi_bytes_received == before.tcpi_bytes_received) {
            *ret = after.tcpi_bytes_received - (uint64_t)queued;
            return 0;
        }
        before = after;
    }
    return r < 0 ? r : -EAGAIN;
}

/* Never changes in a socket's life. */
static int cookie_of(int fd, uint64_t *ret)
{
    socklen_t len = sizeof(*ret);

    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret, &len) < 0 ? -errno : 0;
}

static bool established(int fd)
{
    struct tcp_info info;

    return tcp_info(fd, &info) == 0 && info.tcpi_state == 1;
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

    return balance(s->to, false, &have) == 0 &&
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

/* The verdict runs under the source's lock: once we have had that, no verdict is under way that has
 * not seen the word. Returns what recv() does, errno included. */
static ssize_t set_hold(struct sockmap *m, uint32_t i, uint32_t hold)
{
    char byte;

    __atomic_store_n(&m->records[i].hold, hold, __ATOMIC_SEQ_CST);
    return recv(m->streams[i].from, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

static void op_hold(void *ctx, uint32_t i)
{
    set_hold(ctx, i, FASTPATH_HOLD);
}

static bool op_resume(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;
    struct fastpath_stream *record = &m->records[i];

    /* While it is held, the kernel leaves the state alone. */
    if (record->state == FASTPATH_BULK)
        record->state = FASTPATH_PASSING;
    __atomic_store_n(&record->waking, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&record->hold, 0, __ATOMIC_SEQ_CST);
    if (op_waiting(m, i) == 0)
        return true;
    op_hold(m, i);
    return false;
}

/* Takes what is there of the stream out of the maps. Its gate, last, loses the record. */
static void remove_elements(struct sockmap *m, uint32_t i)
{
    uint64_t cookie;

    bpf_map_delete_elem(m->sources, &i);
    bpf_map_delete_elem(m->targets, &i);
    if (cookie_of(m->streams[i].from, &cookie) == 0)
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
    char byte;
    int r = cookie_of(s->from, &cookie);

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
        take_gate_off(s->from);
        return r;
    }
    recv(s->from, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return 0;
}

static int prepare(struct stream *s, int from, int to, uint64_t owner, bool queued)
{
    char byte;
    int r;

    *s = (struct stream){.owner = owner, .from = from, .to = to};
    if (!established(from) || !established(to))
        return -EOPNOTSUPP;
    /* The last moment at which something may be left in a packet that was read in part. */
    if (recv(from, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) {
        if (!queued)
            return -EAGAIN;
    } else if (errno != EAGAIN) {
        return -errno;
    }
    r = handed_out(from, &s->received_before);
    return r < 0 ? r : balance(to, true, &s->sent_before);
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
    if (set_hold(m, i, FASTPATH_DEAF) < 0 && errno == EAGAIN && op_waiting(m, i) == 0 &&
        op_settled(m, i))
        return 0;
    set_hold(m, i, FASTPATH_HOLD);
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
    r = handed_out(from, &got);
    if (r == 0 && got != s->received_before + m->records[i].redirected + m->records[i].passed)
        r = -EIO;
    if (r < 0)
        m->counters.lost++;
    else
        m->counters.left++;
    end(m, i);
    take_gate_off(from);
    return r;
}

static void op_drop(void *ctx, uint32_t i)
{
    struct sockmap *m = ctx;

    remove_elements(m, i);
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

/* --- Loading -----------------------------------------------------------------------------------
 */

static int set_sizes(struct bpf_object *object, uint32_t n)
{
    static const char *const names[] = {FASTPATH_MAP_TARGETS, FASTPATH_MAP_SOURCES,
                                        FASTPATH_MAP_INDEX, FASTPATH_MAP_STREAMS};
    uint32_t ring = 4096;
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(names) / sizeof(names[0]); i++)
        r = bpf_map__set_max_entries(bpf_object__find_map_by_name(object, names[i]), n);
    /* An event takes 16 bytes, and each stream has two out at most. */
    while (ring < n * 32 && ring < (1u << 30))
        ring *= 2;
    return r < 0 ? r
                 : bpf_map__set_max_entries(
                       bpf_object__find_map_by_name(object, FASTPATH_MAP_EVENTS), ring);
}

static int keep(struct sockmap *m, struct bpf_object *object)
{
    struct bpf_map *records = bpf_object__find_map_by_name(object, FASTPATH_MAP_STREAMS);
    int r;

    m->targets = bpf_object_dup_map(object, FASTPATH_MAP_TARGETS);
    m->sources = bpf_object_dup_map(object, FASTPATH_MAP_SOURCES);
    m->index = bpf_object_dup_map(object, FASTPATH_MAP_INDEX);
    m->events = bpf_object_dup_map(object, FASTPATH_MAP_EVENTS);
    m->gate = bpf_object_dup_program(object, "us_gate");
    m->verdict = bpf_object_dup_program(object, "us_verdict");
    if (m->verdict < 0 || m->targets < 0 || m->sources < 0 || m->index < 0 || m->events < 0 ||
        m->gate < 0)
        return -EMFILE;
    r = bpf_prog_attach(m->verdict, m->sources, BPF_SK_SKB_STREAM_VERDICT, 0);
    if (r < 0)
        return r;
    m->mapped = (size_t)m->n * sizeof(*m->records);
    m->records = mmap(NULL, m->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(records), 0);
    if (m->records == MAP_FAILED) {
        r = -errno;
        m->records = NULL;
        return r;
    }
    m->ring = ring_buffer__new(m->events, on_event, m, NULL);
    return m->ring ? 0 : -errno;
}

/* Bytes. The kernel makes a receive buffer as large as this says, but of what our sockets ask for
 * themselves. */
static uint32_t default_brake(void)
{
    FILE *f = fopen("/proc/sys/net/ipv4/tcp_rmem", "re");
    uint64_t largest = 0;

    if (f && fscanf(f, "%*u %*u %" SCNu64, &largest) != 1)
        largest = 0;
    if (f)
        fclose(f);
    largest *= BRAKE;
    return largest < BRAKE_MIN ? BRAKE_MIN : largest > BRAKE_MAX ? BRAKE_MAX : (uint32_t)largest;
}

static int load(struct sockmap *m, const struct sockmap_options *o)
{
    const uint32_t brake = o->brake ? o->brake : default_brake();
    const struct fastpath_settings settings = {.burst_time = (uint32_t)(o->burst_time >> 20),
                                               .burst_bytes = o->burst_bytes,
                                               .brake = brake,
                                               .waiting_max = o->waiting_max ? o->waiting_max
                                                                             : OVERRUN * brake};
    struct bpf_object *object;
    int r = bpf_object_open(bpf_embed_sockmap, BPF_EMBED_SIZE(sockmap), "us_sockmap", &settings,
                            sizeof(settings), &object);

    if (r < 0)
        return r;
    r = set_sizes(object, m->n);
    if (r == 0)
        r = bpf_object__load(object);
    if (r == 0)
        r = keep(m, object);
    bpf_object__close(object);
    return r;
}

void bpf_sockmap_close(struct fastpath *f)
{
    struct sockmap *m = f->ctx;

    if (!m)
        return;
    ring_buffer__free(m->ring);
    if (m->records)
        munmap(m->records, m->mapped);
    if (m->streams)
        munmap(m->streams, m->n * sizeof(*m->streams));
    fd_close(&m->targets);
    fd_close(&m->sources);
    fd_close(&m->index);
    fd_close(&m->gate);
    fd_close(&m->verdict);
    fd_close(&m->events);
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
    m->targets = m->sources = m->index = m->gate = m->events = m->verdict = -1;
    m->free_first = m->free_last = FASTPATH_NONE;
    m->n = o->streams;
    /* Memory of records that are never used is never touched. */
    m->streams = mmap(NULL, m->n * sizeof(*m->streams), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->streams == MAP_FAILED) {
        m->streams = NULL;
        r = -ENOMEM;
    } else {
        r = load(m, o);
    }
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
