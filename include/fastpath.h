/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-kernel fast path, as the relay sees it: an operation table, implemented by bpf/sockmap.c.
 *
 * A *stream* is one direction of a relay: what the socket `from` receives goes into the send queue
 * of the socket `to`. In a joined stream the kernel does that by itself, until it stops doing so
 * (the target has no room, or it has become bulk): from then on bytes are *passed*, wait in `from`
 * as ever, and only user space moves them. It says how many it has moved, and the kernel takes over
 * again. In between nothing is lost, doubled, or out of order, if the caller keeps to this:
 *
 * - join() only with nothing read and not yet sent;
 * - after an event, or whenever user space looks for itself: first hold(), then nothing is read
 *   from `from` before settled(), and resume() in the end;
 * - each byte read from `from` while joined is reported by taken() once `to` has accepted it, and
 *   not before;
 * - shutdown(to), or writing anything else to it, only when settled() and waiting() is 0.
 */
#ifndef UNDERSOCK_FASTPATH_H
#define UNDERSOCK_FASTPATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FASTPATH_NONE UINT32_MAX /* no stream */

struct fastpath_counters {
    uint64_t joined;     /* streams */
    uint64_t left;       /* given back to user space for good */
    uint64_t demoted;    /* times that a stream began to pass */
    uint64_t full;       /* could not join: every record is in use */
    uint64_t refused;    /* could not join for another reason */
    uint64_t overrun;    /* streams with more waiting than may be: their flows were reset */
    uint64_t lost;       /* a stream whose bytes did not add up: its flow was reset */
    uint64_t redirected; /* bytes, of streams that are joined no more */
    uint64_t passed;     /* likewise */
};

struct fastpath_ops {
    /*
     * `owner` comes back with each event. 0; -EAGAIN: bytes have come, read them and try again;
     * -ENOSPC: full; -EOPNOTSUPP: these sockets cannot (not established, ...); or -errno. After a
     * failure everything is as before.
     */
    int (*join)(void *ctx, int from, int to, uint64_t owner, uint32_t *ret_stream);
    /* Every byte that the kernel has taken over is in the target's send queue. */
    bool (*settled)(void *ctx, uint32_t stream);
    /* Bytes passed and not yet reported as taken. */
    uint64_t (*waiting)(void *ctx, uint32_t stream);
    void (*taken)(void *ctx, uint32_t stream, size_t n);
    /* More is waiting than any receive buffer holds: the flow must be reset. */
    bool (*overrun)(void *ctx, uint32_t stream);
    /* It passes because so much came at once. */
    bool (*bulk)(void *ctx, uint32_t stream);
    /* From now on everything is passed. */
    void (*hold)(void *ctx, uint32_t stream);
    /* Undoes hold(), with nothing waiting: the kernel may go on, and the next byte passed makes an
     * event. False: bytes have been passed meanwhile, and hold() holds. */
    bool (*resume)(void *ctx, uint32_t stream);
    /*
     * Out of the kernel's hands; held, settled, and nothing waiting. 0; -EAGAIN: bytes have come,
     * move them and try again; -EIO: out, but the bytes do not add up: the flow must be reset; or
     * -errno: it could not be done.
     */
    int (*leave)(void *ctx, uint32_t stream);
    /* The flow is over: both sockets are about to be closed. */
    void (*drop)(void *ctx, uint32_t stream);
    /* Bytes redirected since join(), and when the last byte came (CLOCK_MONOTONIC, nanoseconds; 0:
     * none yet). */
    uint64_t (*progress)(void *ctx, uint32_t stream, int64_t *ret_active);
    /* Reports each stream that has begun to pass since the last call. */
    void (*events)(void *ctx, void (*fn)(void *fn_ctx, uint64_t owner, uint32_t stream),
                   void *fn_ctx);
    /* Streams that are joined now are counted in. */
    void (*counters)(void *ctx, struct fastpath_counters *ret);
};

/* Owned by whoever opened it. */
struct fastpath {
    const struct fastpath_ops *ops;
    void *ctx;
    int event_fd; /* readable: call events() */
};

#endif
