/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Of bpf/sockmap.c and bpf/sockmap_load.c only: what they keep of the sockmap. */
#ifndef UNDERSOCK_BPF_SOCKMAP_STATE_H
#define UNDERSOCK_BPF_SOCKMAP_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "bpf/sockmap.h"
#include "fastpath_abi.h"

struct ring_buffer;

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
    int (*on_event)(void *ctx, void *data, size_t size); /* of `ring` */
    void (*fn)(void *fn_ctx, uint64_t owner, uint32_t stream);
    void *fn_ctx;
};

/* Loads the programs and maps for `o->streams` streams, and maps the records. 0 or -errno; in both
 * cases sockmap_unload() gives everything back. */
int sockmap_load(struct sockmap *m, const struct sockmap_options *o);
void sockmap_unload(struct sockmap *m);

#endif
