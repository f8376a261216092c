/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/hold.h. The ring buffer is memory shared with the kernel: a page with the reader's position,
 * which we write, a page with the writer's, and the data, mapped twice in a row so that no record
 * is ever torn at its end. libbpf reads it, too, but all of it or nothing, and without telling
 * whether it was full.
 *
 * A record is copied and given back to the kernel before it is looked at. So a worker that dies of
 * a SYN does not find it again, and the SYN's owner sends it once more.
 *
 * Nothing tells that the kernel had no room, and nothing needs to: only we make room, so at the
 * next record that we take the ring is still as full as it was.
 */
#include "bpf/hold.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "bpf/origin.h"
#include "bpf_abi.h"

/* What a record takes: a header of 8 bytes, all aligned to 8 (BPF_RINGBUF_HDR_SZ). */
#define ROOM(len) (BPF_RINGBUF_HDR_SZ + (((len) + 7ul) & ~7ul))

struct bpf_hold {
    unsigned long
        *consumer; /* mapped: where we are, in bytes since the ring began; ours to write */
    const unsigned long *producer; /* mapped, to be read only: where the kernel is */
    const uint8_t *data;           /* behind the producer's page */
    unsigned long page, size;      /* size: of the data, a power of two */
    char capture[CAPTURE_NAME_MAX + 1];
};

/* Takes the record at our position out of the ring. 1, with `ret` if it is a SYN of ours, else
 * *ret_good false; 0: there is none, or the kernel is writing it; -EPROTO: the positions make no
 * sense, whoever wrote them. */
static int take(const struct bpf_hold *h, struct abi_held *ret, bool *ret_good, bool *ret_full)
{
    unsigned long at = __atomic_load_n(h->consumer, __ATOMIC_RELAXED);
    unsigned long end = __atomic_load_n(h->producer, __ATOMIC_ACQUIRE);
    const uint8_t *record = h->data + (at & (h->size - 1));
    uint32_t len;

    if (at == end)
        return 0;
    if (end - at > h->size || at % 8 != 0)
        return -EPROTO;
    len = __atomic_load_n((const uint32_t *)(const void *)record, __ATOMIC_ACQUIRE);
    if (len & BPF_RINGBUF_BUSY_BIT)
        return 0;
    *ret_good = len == sizeof(*ret);
    *ret_full = end - at + ROOM(sizeof(*ret)) >= h->size;
    len &= ~BPF_RINGBUF_DISCARD_BIT;
    if (ROOM(len) > end - at)
        return -EPROTO;
    if (*ret_good)
        memcpy(ret, record + BPF_RINGBUF_HDR_SZ, sizeof(*ret));
    __atomic_store_n(h->consumer, at + ROOM(len), __ATOMIC_RELEASE);
    *ret_good = *ret_good && ret->len <= sizeof(ret->packet);
    return 1;
}

static void hand_over(const struct bpf_hold *h, const struct abi_held *held, held_syn_fn fn,
                      void *fn_ctx)
{
    struct origin origin;
    struct held_syn syn = {
        .packet = held->packet,
        .len = held->len,
        .capture = h->capture,
        .origin = &origin,
        .interface = held->interface,
    };

    bpf_origin_decode(&held->origin, &origin);
    fn(fn_ctx, &syn);
}

static int read_ring(void *ctx, held_syn_fn fn, void *fn_ctx, unsigned max)
{
    const struct bpf_hold *h = ctx;
    struct abi_held held;
    bool overflow = false;
    int n = 0, r = 1;

    for (unsigned i = 0; r > 0 && i < max; i++) {
        bool good, full = false;

        r = take(h, &held, &good, &full);
        overflow |= full;
        if (r > 0 && good) {
            hand_over(h, &held, fn, fn_ctx);
            n++;
        }
    }
    if (r < 0) {
        /* Whatever waits is sent again. */
        __atomic_store_n(h->consumer, __atomic_load_n(h->producer, __ATOMIC_ACQUIRE),
                         __ATOMIC_RELEASE);
        return r;
    }
    return overflow ? -ENOBUFS : n;
}

static const struct hold_ops ops = {.read = read_ring};

static void unmap(const struct bpf_hold *h)
{
    if (h->consumer != NULL)
        munmap(h->consumer, h->page);
    if (h->producer != NULL)
        munmap((void *)(uintptr_t)h->producer, h->page + 2 * h->size);
}

static int map(struct bpf_hold *h, int ring_fd)
{
    void *consumer, *producer;

    consumer = mmap(NULL, h->page, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, 0);
    if (consumer == MAP_FAILED)
        return -errno;
    h->consumer = consumer;
    producer = mmap(NULL, h->page + 2 * h->size, PROT_READ, MAP_SHARED, ring_fd, (off_t)h->page);
    if (producer == MAP_FAILED)
        return -errno;
    h->producer = producer;
    h->data = (const uint8_t *)producer + h->page;
    return 0;
}

int bpf_hold_open(int ring_fd, const char *capture, struct hold_source *ret)
{
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    struct bpf_hold *h;
    int r = bpf_obj_get_info_by_fd(ring_fd, &info, &len);

    if (r < 0)
        return r;
    if (info.type != BPF_MAP_TYPE_RINGBUF)
        return -EINVAL;
    h = calloc(1, sizeof(*h));
    if (h == NULL)
        return -ENOMEM;
    h->page = (unsigned long)sysconf(_SC_PAGESIZE);
    h->size = info.max_entries;
    snprintf(h->capture, sizeof(h->capture), "%s", capture);
    r = map(h, ring_fd);
    if (r < 0) {
        unmap(h);
        free(h);
        return r;
    }
    *ret = (struct hold_source){.ops = &ops, .ctx = h, .fd = ring_fd};
    return 0;
}

void bpf_hold_close(struct hold_source *source)
{
    struct bpf_hold *h = source != NULL ? source->ctx : NULL;

    if (h == NULL)
        return;
    unmap(h);
    free(h);
    *source = (struct hold_source){.fd = -1};
}
