/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/sockmap_state.h: what is loaded for the sockmap, and how large. */
#include "bpf/sockmap_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/fd.h"
#include "bpf/embed.h"
#include "bpf/object.h"

/* What waits is in a receive buffer, or should be. Beyond BRAKE times the largest that there can be
 * it is not, and beyond OVERRUN times the brake has not helped. */
#define BRAKE     2
#define BRAKE_MIN (16u * 1024 * 1024)
#define BRAKE_MAX (512u * 1024 * 1024)
#define OVERRUN   4

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
    m->ring = ring_buffer__new(m->events, m->on_event, m, NULL);
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

int sockmap_load(struct sockmap *m, const struct sockmap_options *o)
{
    const uint32_t brake = o->brake ? o->brake : default_brake();
    const struct fastpath_settings settings = {.burst_time = (uint32_t)(o->burst_time >> 20),
                                               .burst_bytes = o->burst_bytes,
                                               .brake = brake,
                                               .waiting_max = o->waiting_max ? o->waiting_max
                                                                             : OVERRUN * brake};
    struct bpf_object *object;
    int r;

    m->targets = m->sources = m->index = m->gate = m->events = m->verdict = -1;
    m->n = o->streams;
    /* Memory of records that are never used is never touched. */
    m->streams = mmap(NULL, m->n * sizeof(*m->streams), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->streams == MAP_FAILED) {
        m->streams = NULL;
        return -ENOMEM;
    }
    r = bpf_object_open(bpf_embed_sockmap, BPF_EMBED_SIZE(sockmap), "us_sockmap", &settings,
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

void sockmap_unload(struct sockmap *m)
{
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
}
