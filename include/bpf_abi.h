/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract between the BPF programs and user space. Both sides include it, so it holds nothing
 * but fixed-width fields: every hole is a named field that stays 0 (the structs are hash keys),
 * sizes are asserted below. Ports are host order. Addresses are 16 bytes in network order, IPv4 as
 * ::ffff:a.b.c.d, as in addr.h.
 *
 * Programs of connect.bpf.c, by name: us_connect4, us_connect6, us_sendmsg4, us_sendmsg6,
 * us_getpeername4, us_getpeername6, us_sockops; of hold.bpf.c: us_hold, us_hasty. Their maps: see
 * ABI_MAP_*.
 */
#ifndef UNDERSOCK_BPF_ABI_H
#define UNDERSOCK_BPF_ABI_H

#ifdef __bpf__
#include <linux/types.h>
#define ABI_U8  __u8
#define ABI_U16 __u16
#define ABI_U32 __u32
#define ABI_U64 __u64
#else
#include <stdint.h>
#define ABI_U8  uint8_t
#define ABI_U16 uint16_t
#define ABI_U32 uint32_t
#define ABI_U64 uint64_t
#endif

#define ABI_COMM_LEN 16
#define ABI_SEATS    128 /* CAPTURE_SEATS */

/* Maps by name; the kernel keeps 15 characters. */
#define ABI_MAP_TO        "us_to"     /* LPM: abi_prefix → 1; destinations that are selected */
#define ABI_MAP_EXCEPT    "us_except" /* LPM: abi_prefix → 1; not-to and the default exclusions */
#define ABI_MAP_UIDS      "us_uids"   /* hash: uid → ABI_UID_* */
#define ABI_MAP_PORTS     "us_ports"  /* array: port / 64 → bits; behind those of TCP UDP's */
#define ABI_MAP_UPSTREAMS "us_upstreams" /* hash: abi_endpoint → 1; our own listeners, too */
#define ABI_MAP_ORIGINS   "us_origins"   /* LRU hash: abi_origin_key → abi_origin */
#define ABI_MAP_EVENTS    "us_events"    /* ring buffer of abi_event */
#define ABI_MAP_SEEN      "us_seen" /* LRU hash: netns cookie → 1; namespaces reported already */
#define ABI_MAP_COUNTERS  "us_counters" /* per-CPU array: ABI_COUNT_* → u64 */
#define ABI_MAP_RINGS     "us_rings"    /* array of maps: seat → ring buffer of abi_held */
/* Socket storage → abi_socket; one on the machine for all instances. Its name carries the version
 * of struct abi_socket: instances of different builds must not share it. */
#define ABI_MAP_SOCKETS "us_sockets_4"

#define ABI_UID_SELECT 0x01
#define ABI_UID_EXCEPT 0x02

#define ABI_PORT_WORDS 1024 /* 65536 bits */

/* abi_settings.action, and the decision kept with a socket */
#define ABI_NONE   0
#define ABI_PROXY  1
#define ABI_DIRECT 2
#define ABI_REFUSE 3
#define ABI_STITCH 4 /* only kept with a socket: to a SOCKS server, see stitch_abi.h */
#define ABI_NFT    5 /* only kept with a socket, of UDP: the nftables of its namespace see to it */

/* abi_settings.flags */
#define ABI_HAS_MARK     0x001u /* select by abi_settings.mark */
#define ABI_HAS_PORTS    0x002u
#define ABI_HAS_TO       0x004u
#define ABI_HAS_EXCEPT   0x008u
#define ABI_HAS_UIDS     0x010u /* some uid is ABI_UID_SELECT: others are not selected */
#define ABI_HAS_NOT_UIDS 0x020u
#define ABI_NO_TCP       0x040u /* the policy selects UDP only */
#define ABI_DOWN_DIRECT  0x080u /* who cannot reach our listener goes direct instead of refused */
#define ABI_HONEST       0x100u /* SYNs are held: connections go to a seat, not to port_v4, port_v6 */
#define ABI_FAKE         0x200u /* addresses that stand for names: whatever ports and prefixes say */
#define ABI_DNS          0x400u  /* port 53 likewise */
#define ABI_STITCHING    0x800u  /* STITCH_MAP_USE says who is stitched */
#define ABI_NO_UDP       0x1000u /* the policy selects TCP only, but for ABI_FAKE and ABI_DNS */
#define ABI_UDP_PORTS    0x2000u
#define ABI_UDP          0x4000u /* what it selects of UDP is taken or rejected; else left alone */
#define ABI_DNS_DIRECT   0x8000u /* but for port 53, without ABI_DNS */

/* abi_settings.features: what this kernel lets connect programs call; the loader finds out */
#define ABI_CAN_SET_RETVAL 0x01u /* bpf_set_retval: ECONNREFUSED instead of EPERM */
#define ABI_CAN_PID        0x02u /* bpf_get_current_pid_tgid */
#define ABI_CAN_TASK       0x04u /* bpf_get_current_task_btf: the pid where the above is missing */
#define ABI_CAN_MPTCP      0x08u /* bpf_skc_to_mptcp_sock, in sock_ops */

/* abi_origin.known: the same bits as ORIGIN_* of capture.h */
#define ABI_KNOWN_PID    0x01u
#define ABI_KNOWN_UID    0x02u
#define ABI_KNOWN_CGROUP 0x04u
#define ABI_KNOWN_COMM   0x08u

/* A seat that takes new connections, and its listener of one family. */
struct abi_seat {
    ABI_U16 number;
    ABI_U16 port;
};

/* The whole of connect.bpf.c's .rodata. */
struct abi_settings {
    ABI_U64 netns_cookie; /* where our listener is */
    ABI_U64 instance;     /* unique among the instances alive on this machine; never 0 */
    ABI_U32 flags;
    ABI_U32 features;
    ABI_U32 own_mark; /* sockets with (mark & own_mask) == own_mark are the daemon's */
    ABI_U32 own_mask; /* 0: no such test */
    ABI_U32 mark;
    ABI_U16 port_v4;                /* our listener on 127.0.0.1; 0: none */
    ABI_U16 port_v6;                /* our listener on ::1; 0: none */
    ABI_U32 action;                 /* ABI_PROXY, ABI_DIRECT, ABI_REFUSE */
    ABI_U32 n_seats_v4, n_seats_v6; /* 0: the family is refused */
    ABI_U32 order;                  /* who is asked first of several instances has the lower one */
    struct abi_seat seats_v4[ABI_SEATS], seats_v6[ABI_SEATS]; /* on 127.0.0.1, on ::1 */
};

/* The whole of hold.bpf.c's. It knows no policy: that is with the sockets. */
struct abi_hold_settings {
    ABI_U64 instance;
};

/* The key of an LPM trie. */
struct abi_prefix {
    ABI_U32 len; /* 0..128 */
    ABI_U8 ip[16];
};

struct abi_endpoint {
    ABI_U8 ip[16];
    ABI_U16 port;
    ABI_U16 unused;
};

/* How an accepted connection looks from our listener. */
struct abi_origin_key {
    ABI_U64 netns_cookie; /* of the socket */
    ABI_U8 ip[16];        /* the application's end */
    ABI_U16 port;
    ABI_U16 listener_port;
    ABI_U32 unused;
};

/* Where it was going, and whose it is. */
struct abi_origin {
    ABI_U8 ip[16];
    ABI_U32 scope; /* interface index of a link-local destination, if the socket was bound to one */
    ABI_U16 port;
    ABI_U16 unused;
    ABI_U64 cgroup_id;
    ABI_U32 pid;
    ABI_U32 uid;
    ABI_U32 known;
    ABI_U32 unused2;
    ABI_U8 comm[ABI_COMM_LEN];
};

/* What is kept with a socket from its connect() on; written under the socket's lock. */
struct abi_socket {
    ABI_U64 instance;       /* who decided */
    ABI_U32 decision;       /* ABI_NONE: nothing holds any more */
    ABI_U32 sent;           /* a SYN has gone out since the decision */
    struct abi_endpoint to; /* where the kernel connects: our listener, or as asked */
    ABI_U32 device; /* interface index the socket was bound to before we unbound it; 0: none */
    ABI_U32 seat;   /* its SYNs are held for this seat, counted from 1; 0: they are not held */
    ABI_U32 hasty; /* when the first reset of the seat's listener was dropped, in ms; 0: none was */
    ABI_U16 script;   /* ABI_STITCH: the script's number */
    ABI_U16 stitched; /* ABI_STITCH: 1: the handshake is over, everything may pass */
    ABI_U32 order;    /* abi_settings.order of `instance` */
    struct abi_origin origin;
};

/* A SYN that was held. */
#define ABI_PACKET_MAX 256

struct abi_held {
    struct abi_origin origin;
    ABI_U32 interface; /* index of the one it would have left by */
    ABI_U32 len;       /* bytes in `packet`, at most ABI_PACKET_MAX; what is behind is not ours */
    ABI_U8 packet[ABI_PACKET_MAX]; /* from the IP header on */
};

#define ABI_EVENT_FOREIGN_NETNS 1

struct abi_event {
    ABI_U32 kind;
    ABI_U32 pid; /* 0: unknown */
    ABI_U64 netns_cookie;
    ABI_U32 uid;
    ABI_U32 refused; /* 1: connections and datagrams are refused there; 0: they go direct */
    ABI_U8 comm[ABI_COMM_LEN];
};

#define ABI_COUNT_PROXIED 0 /* sent to our listener */
#define ABI_COUNT_REFUSED 1 /* refused, for whatever reason */
#define ABI_COUNT_DIRECT  2 /* selected and left alone */
#define ABI_COUNT_FOREIGN \
    3 /* from another network namespace; refused or direct, counted there too */
#define ABI_COUNT_FAILED   4 /* refused because a map or a socket option failed */
#define ABI_COUNT_LOST     5 /* sent to our listener without an origin: the worker will refuse it */
#define ABI_COUNT_MISSED   6 /* SYNs dropped for which the seat's ring had no room, or was gone */
#define ABI_COUNT_STITCHED 7 /* sent to a SOCKS server, to be stitched */
#define ABI_N_COUNTERS     8

_Static_assert(sizeof(struct abi_seat) == 4, "abi_seat");
_Static_assert(sizeof(struct abi_settings) == 56 + 2 * 4 * ABI_SEATS, "abi_settings");
_Static_assert(sizeof(struct abi_hold_settings) == 8, "abi_hold_settings");
_Static_assert(sizeof(struct abi_prefix) == 20, "abi_prefix");
_Static_assert(sizeof(struct abi_endpoint) == 20, "abi_endpoint");
_Static_assert(sizeof(struct abi_origin_key) == 32, "abi_origin_key");
_Static_assert(sizeof(struct abi_origin) == 64, "abi_origin");
_Static_assert(sizeof(struct abi_socket) == 120, "abi_socket");
_Static_assert(sizeof(struct abi_held) == 72 + ABI_PACKET_MAX, "abi_held");
_Static_assert(sizeof(struct abi_event) == 40, "abi_event");

#endif
