/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract between bpf/sockmap.bpf.c and bpf/sockmap.c: the record of a stream (one direction
 * of a flow), which the kernel writes and user space reads through a mapping, and the settings.
 * Fixed widths, no holes, host order.
 */
#ifndef UNDERSOCK_FASTPATH_ABI_H
#define UNDERSOCK_FASTPATH_ABI_H

#include "bpf_abi.h"

#define FASTPATH_MAP_TARGETS "us_targets" /* sockmap: stream → the socket that is sent to */
#define FASTPATH_MAP_SOURCES "us_sources" /* sockmap: stream → the socket that is received from */
#define FASTPATH_MAP_INDEX   "us_index"   /* hash: cookie of a source → stream */
#define FASTPATH_MAP_STREAMS "us_streams" /* array: stream → fastpath_stream; mapped */
#define FASTPATH_MAP_EVENTS  "us_passed"  /* ring buffer of u32: a stream has begun to pass */

/* fastpath_stream.state */
#define FASTPATH_REDIRECTING 0
#define FASTPATH_PASSING     1 /* goes back by itself, see `taken` */
#define FASTPATH_BULK        2 /* too many bytes a time: passes until user space decides */
#define FASTPATH_OVERRUN     3 /* more is waiting than may be: the flow is to be reset */
#define FASTPATH_NEW         4 /* passing, and nothing has come yet */

/* fastpath_stream.hold */
#define FASTPATH_HOLD 1 /* everything is passed */
#define FASTPATH_DEAF 2 /* and whatever comes is lost before TCP has seen it */

/* One cache line. Written by one side only, but for `waking`. */
struct fastpath_stream {
    /* user space */
    ABI_U64 taken;  /* of the bytes passed: how many are in the target's send queue */
    ABI_U32 hold;   /* FASTPATH_HOLD, FASTPATH_DEAF */
    ABI_U32 waking; /* 1: an event is out; the kernel sets it, user space clears it */
    /* kernel */
    ABI_U64 passed;     /* bytes left to user space */
    ABI_U64 redirected; /* bytes given to the target */
    ABI_U64 active;     /* CLOCK_MONOTONIC of the last bytes, nanoseconds */
    ABI_U32 expect;     /* the target's write_seq once all that was redirected is in its queue */
    ABI_U32 state;
    ABI_U32 next;        /* the sequence number after the last byte that was handed on */
    ABI_U32 burst_began; /* in units of 2^20 ns */
    ABI_U32 burst;       /* bytes since then that came while others were under way */
    ABI_U32 pending;     /* messages redirected since the target's queue had caught up */
};

/* The whole of sockmap.bpf.c's .rodata. */
struct fastpath_settings {
    ABI_U32 burst_time;  /* in units of 2^20 ns */
    ABI_U32 burst_bytes; /* more than this of them within burst_time is bulk; 0: never */
    ABI_U32 waiting_max; /* bytes passed and not taken: more is an overrun */
    ABI_U32 brake;       /* more: nothing comes in until they have become less */
};

_Static_assert(sizeof(struct fastpath_stream) == 64, "fastpath_stream");
_Static_assert(sizeof(struct fastpath_settings) == 16, "fastpath_settings");

#endif
