/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract between the programs of stitch.bpf.c (and connect.bpf.c, which sends connections to
 * them) and user space. bpf/stitch.h and bpf/stitch.bpf.c say how it works.
 *
 * A *script* is what an upstream is asked, as data: a list of steps, each some bytes that go to it
 * and the reply that is awaited. It is made by upstream/script.h, put into a map by bpf/stitch.h,
 * and copied into the record of each flow, so that it may be replaced at any time. Only the last
 * step depends on the destination: the programs write it.
 *
 * Fixed widths, no holes. Host order, unless "wire" is said; addresses as in bpf_abi.h.
 */
#ifndef UNDERSOCK_STITCH_ABI_H
#define UNDERSOCK_STITCH_ABI_H

#include "bpf_abi.h"

/* Maps by name. ABI_MAP_SOCKETS is shared with connect.bpf.c, and so are USE, SCRIPTS, NAMES and
 * ROOM. */
#define STITCH_MAP_SCRIPTS  "us_st_scripts"  /* array: script number, from 1 → stitch_script */
#define STITCH_MAP_NAMES    "us_st_names"    /* LRU hash: address, 16 bytes → stitch_name */
#define STITCH_MAP_FLOWS    "us_st_flows"    /* hash: stitch_key → stitch_flow */
#define STITCH_MAP_DEVICES  "us_st_devices"  /* hash: interface index → 1; has our filters */
#define STITCH_MAP_PORTS    "us_st_ports"    /* array: port / 64 → bits; where upstreams listen */
#define STITCH_MAP_COUNTERS "us_st_counters" /* per-CPU array: STITCH_COUNT_* → u64 */
#define STITCH_MAP_EVENTS   "us_st_events"   /* ring buffer of stitch_event */
#define STITCH_MAP_OWNERS   "us_st_owners"   /* hash: abi_settings.instance → stitch_owner */
#define STITCH_MAP_ROOM     "us_st_room"     /* array: STITCH_ROOM_* → u64 */
/* Of one capture: array: 0 (IPv4 sockets), 1 (IPv6) → script number; 0: to the listener. */
#define STITCH_MAP_USE "us_st_use"

#define STITCH_SCRIPTS 64 /* numbers 1..63 */
#define STITCH_STEPS   16

/*
 * Whether STITCH_MAP_FLOWS has room for one more: while TAKEN < LIMIT. Each number has one side
 * that writes it, so neither has to be locked: TAKEN is how many records the programs have made,
 * less those they have taken out; LIMIT is how many there may be, and those that user space has
 * taken out. There is none at all while LIMIT - TAKEN is SIZE, which never changes: a record counts
 * from before its SYN is out, and until after it is gone.
 */
#define STITCH_ROOM_TAKEN 0
#define STITCH_ROOM_LIMIT 1
#define STITCH_ROOM_SIZE  2
#define STITCH_N_ROOM     3

/* stitch_flow.bytes: what the script has, then the last step's message. */
#define STITCH_STATIC  512
#define STITCH_REQUEST 512
#define STITCH_BYTES   (STITCH_STATIC + STITCH_REQUEST)

#define STITCH_NAME_MAX 255
#define STITCH_USER_MAX 239 /* SOCKS4: 8 + user + NUL + name + NUL fit into STITCH_REQUEST */

/* stitch_script.form: the last step's message */
#define STITCH_FORM_SOCKS5 1 /* 05 01 00 ATYP ADDR PORT */
#define STITCH_FORM_SOCKS4 2 /* 04 01 PORT IP USER 00, and for a name IP 0.0.0.1 and NAME 00 */

/* stitch_step.verdicts: what the reply's second octet means, other than `good` */
#define STITCH_VERDICTS_REFUSE 0 /* whatever it is, the application is refused */
#define STITCH_VERDICTS_SOCKS5 1 /* by RFC 1928: 2, 3, 4 and 6 have meanings of their own */

/*
 * One step. The reply's first octet must be `version`; its second is the verdict. It is `reply_len`
 * octets long (2..255), or with 0 as long as a SOCKS5 reply says: octet 3 is the ATYP (1: 10, 4:
 * 22, 3: 7 + octet 4).
 */
struct stitch_step {
    ABI_U16 at;     /* of the message in stitch_flow.bytes: a multiple of 4 */
    ABI_U16 len;    /* of the message; of the last step it is filled in with the destination */
    ABI_U16 before; /* octets of all messages before it */
    ABI_U8 version;
    ABI_U8 good;
    ABI_U8 reply_len;
    ABI_U8 verdicts;
    ABI_U16 unused;
};

struct stitch_script {
    struct abi_endpoint server; /* of the first hop */
    ABI_U32 id;                 /* whatever user space likes; comes back with events */
    ABI_U32 connect_timeout;    /* for the SYN-ACK, milliseconds */
    ABI_U32 timeout;            /* for the whole handshake after it, likewise */
    ABI_U16 n_steps;            /* 1..STITCH_STEPS; 0: the number is not in use */
    ABI_U16 static_len;         /* of `bytes`, a multiple of 8, zeroes behind each message */
    ABI_U8 form;
    ABI_U8 user_len;     /* STITCH_FORM_SOCKS4 */
    ABI_U16 syn_retries; /* 1..127; after so many connect() gives up, but not before the above */
    struct stitch_step steps[STITCH_STEPS];
    ABI_U8 bytes[STITCH_STATIC];
    ABI_U8 user[STITCH_USER_MAX + 1];
};

/* What an address of the table of fake addresses stands for. */
struct stitch_name {
    ABI_U8 len; /* 1..255 */
    ABI_U8 name[STITCH_NAME_MAX];
};

/* As on the wire of the interface: `local` is the application's end, `remote` the first hop. */
struct stitch_key {
    ABI_U8 local[16];
    ABI_U8 remote[16];
    ABI_U16 local_port;
    ABI_U16 remote_port;
    ABI_U32 unused;
};

/* stitch_flow.state */
#define STITCH_SYN     1 /* the SYN is out */
#define STITCH_STEP    2 /* the message of `step` is out */
#define STITCH_GRANTED 3 /* the application has been told, and its ACK has not been seen */
#define STITCH_FAILED  4 /* the application has been told `verdict` */

/* stitch_flow.verdict: what the application is told */
#define STITCH_TELL_NOTHING    0 /* silence: ETIMEDOUT in the end */
#define STITCH_TELL_RESET      1 /* ECONNREFUSED */
#define STITCH_TELL_HOST       2 /* ICMP: EHOSTUNREACH */
#define STITCH_TELL_NET        3 /* ICMP: ENETUNREACH */
#define STITCH_TELL_PROHIBITED 4 /* ICMPv6: EACCES; IPv4: as STITCH_TELL_RESET */
#define STITCH_TELL_NATIVE     5 /* the network itself has; a SYN that comes again goes out again */

/* stitch_flow.flags */
#define STITCH_TIMESTAMPS 0x01 /* both ends use them */
#define STITCH_SCALING    0x02 /* both ends scale windows */
#define STITCH_BARE       0x04 /* `interface` has no Ethernet header */
#define STITCH_WAITS      0x08 /* the server's window is closed: the first message is for later */

/*
 * A handshake under way. It is there from the first SYN to the application's first ACK, and after a
 * failure until the same addresses and ports are used again, or bpf_stitch_sweep() takes it.
 */
struct stitch_flow {
#ifdef __bpf__
    struct bpf_spin_lock lock;
#else
    ABI_U32 lock;
#endif
    ABI_U32 isn_client;  /* the application's, as its kernel knows it */
    ABI_U32 next_server; /* the number of the server's octet that is awaited */
    ABI_U32 ts_client;   /* wire: their last timestamps */
    ABI_U32 ts_server;
    ABI_U32 interface; /* index of the one that the last SYN went out by */
    ABI_U32 mark;      /* of the socket */
    ABI_U32 id;        /* of the script */
    ABI_U64 began;     /* CLOCK_MONOTONIC, nanoseconds */
    ABI_U64 deadline;  /* likewise */
    ABI_U8 state;
    ABI_U8 verdict;
    ABI_U8 flags;
    ABI_U8 step;
    ABI_U8 n_steps;
    ABI_U8 scale_client;                  /* 0..14 */
    ABI_U8 syn_flags;                     /* ECE of the server's SYN-ACK */
    ABI_U8 options_len;                   /* of the server's SYN-ACK, 0..40, a multiple of 4 */
    ABI_U16 injected;                     /* octets of all messages */
    ABI_U16 window_client, window_server; /* of SYN and of what we answer, never scaled */
    ABI_U16 got;                          /* octets of the awaited reply */
    ABI_U16 reply_len;                    /* 0: not known yet */
    ABI_U8 code;                          /* its second octet */
    ABI_U8 ts_at;                         /* where TSval is in `options`; 0: there is none */
    ABI_U32 timeout;                      /* as in the script */
    ABI_U8 link[12];                      /* wire: addresses of that SYN's Ethernet header */
    ABI_U8 scale_server;                  /* 0..14 */
    ABI_U8 unused[3];
    ABI_U8 options[40];
    struct abi_origin origin;
    struct stitch_step steps[STITCH_STEPS];
    ABI_U8 bytes[STITCH_BYTES];
};

/* Whose sockets are a guard's and a filter's business: who they are at home with. The programs only
 * ask whether it is there. */
struct stitch_owner {
    ABI_U64 netns_cookie;
    ABI_U64 cgroup_id; /* that is guarded for it */
    ABI_U32 number;    /* capture_set.instance */
    ABI_U32 unused;
};

/* stitch_event.reason */
#define STITCH_BY_REPLY       1 /* of the last step: the destination's verdict; `code` */
#define STITCH_BY_HOP         2 /* a reply of a step before: `step`, `code` */
#define STITCH_BY_PROTOCOL    3 /* not a reply to what was asked, in `step` */
#define STITCH_BY_RESET       4 /* the server reset the connection, in `step` */
#define STITCH_BY_CLOSE       5 /* it closed it */
#define STITCH_BY_TIMEOUT     6 /* no reply in time, in `step` */
#define STITCH_BY_REFUSAL     7 /* it does not accept connections */
#define STITCH_BY_SILENCE     8 /* no SYN-ACK in time */
#define STITCH_BY_UNREACHABLE 9 /* an ICMP error, `code`, says so */
/* Packets do not come to our filters: somebody's program is before them, or, with the code
 * STITCH_WRAPPED, it is IPsec. `id`, `step` and `verdict` are 0. */
#define STITCH_BY_BYPASS 10
#define STITCH_WRAPPED   1

/* A handshake that failed. */
struct stitch_event {
    ABI_U32 id; /* of the script */
    ABI_U8 reason;
    ABI_U8 step;
    ABI_U8 code;
    ABI_U8 verdict;
    ABI_U32 interface; /* index of the packet's */
    ABI_U32 number;    /* of the script; only with STITCH_BY_BYPASS */
    struct abi_origin origin;
};

#define STITCH_COUNT_BEGUN   0 /* handshakes */
#define STITCH_COUNT_GRANTED 1
#define STITCH_COUNT_FAILED  2
#define STITCH_COUNT_AGAIN   3  /* SYNs sent again that repeated a message of ours */
#define STITCH_COUNT_FULL    4  /* SYNs dropped: no room for the record */
#define STITCH_COUNT_UNREADY 5  /* packets dropped: the interface has no filters of ours (yet) */
#define STITCH_COUNT_GUARDED 6  /* packets dropped that must not reach a SOCKS server */
#define STITCH_COUNT_ODD     7  /* segments dropped that do not fit */
#define STITCH_COUNT_ERROR   8  /* packets dropped: a rewrite failed */
#define STITCH_COUNT_EVENTS  9  /* events for which there was no room */
#define STITCH_COUNT_CARRIED 10 /* granted, and the application's ACK has been seen */
#define STITCH_N_COUNTERS    11

_Static_assert(sizeof(struct stitch_step) == 12, "stitch_step");
_Static_assert(sizeof(struct stitch_script) == 40 + 12 * STITCH_STEPS + STITCH_STATIC + 240,
               "stitch_script");
_Static_assert(sizeof(struct stitch_name) == 256, "stitch_name");
_Static_assert(sizeof(struct stitch_key) == 40, "stitch_key");
_Static_assert(sizeof(struct stitch_flow) == 192 + 12 * STITCH_STEPS + STITCH_BYTES, "stitch_flow");
_Static_assert(sizeof(struct stitch_owner) == 24, "stitch_owner");
_Static_assert(sizeof(struct stitch_event) == 80, "stitch_event");

#endif
