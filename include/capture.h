/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a capture is told (its policy), what it hands to a worker (an origin), and the two operation
 * tables between the hooks (nft/, bpf/) and everything above them. The flow code sees only this.
 */
#ifndef UNDERSOCK_CAPTURE_H
#define UNDERSOCK_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"

/*
 * The mark of the daemon's own sockets, and of the embedded server's. The low half tells more:
 * CAPTURE_TPROXY_MARK is on packets of a gateway's clients that are routed to us, and
 * CAPTURE_INJECTED on SYNs that were held and are sent again with their verdict (see
 * capture_injected_mark()).
 */
#define CAPTURE_OWN_MARK    0x55530000u
#define CAPTURE_OWN_MASK    0xffff0000u
#define CAPTURE_TPROXY_MARK (CAPTURE_OWN_MARK | 1u)

#define CAPTURE_INJECTED      (CAPTURE_OWN_MARK | 0x8000u)
#define CAPTURE_INJECTED_MASK 0xffff8000u
#define CAPTURE_KIND_MASK     0xffffff00u /* with the enum injected_kind */

/* What becomes of an injected SYN, and what its number says. */
enum injected_kind {
    INJECTED_ACCEPT_NAT,    /* hook output: redirected to the listener of the seat `number` */
    INJECTED_ACCEPT_TPROXY, /* hook gateway: likewise, by TPROXY */
    INJECTED_EARLY_NAT,     /* to the early listener with this capture_policy.early: connected
                               first, asked then */
    INJECTED_EARLY_TPROXY,
    INJECTED_REJECT, /* `number`: enum injected_reject */
};

enum injected_reject {
    REJECT_RESET,      /* ECONNREFUSED */
    REJECT_HOST,       /* EHOSTUNREACH */
    REJECT_NET,        /* ENETUNREACH */
    REJECT_PROHIBITED, /* IPv6: EACCES; IPv4 has no ICMP for that, so as REJECT_RESET */
    REJECT_COUNT,
};

#define CAPTURE_EARLY_MAX 255 /* that a mark can carry */

static inline uint32_t capture_injected_mark(enum injected_kind kind, unsigned number)
{
    return CAPTURE_INJECTED | (uint32_t)kind << 8 | (number & 0xff);
}

/*
 * UDP. What a policy of hook output or cgroup takes is marked as it leaves its socket, routed to lo
 * by the mark (nft/routes.h), and given there, by TPROXY, to the policy's UDP listener: with both
 * addresses as the application wrote them. The mark's low half is
 *
 *   bit 15     CAPTURE_INJECTED, none of this
 *   bit 14     1: CAPTURE_UDP
 *   bits 8-13  the instance, as several may be at work in one network namespace: 0 is the daemon,
 *              the others are `run`s. Each has a table, policy rules and marks of its own
 *   bits 0-7   the number of the policy in its set
 *
 * A gateway's UDP has CAPTURE_TPROXY_MARK, like its TCP.
 */
#define CAPTURE_UDP          (CAPTURE_OWN_MARK | 0x4000u)
#define CAPTURE_UDP_MASK     0xffffc000u /* of all instances */
#define CAPTURE_INSTANCES    64
#define CAPTURE_UDP_POLICIES 256 /* that a mark can tell apart; UDP of those beyond is rejected */

static inline uint32_t capture_udp_mark(unsigned instance, unsigned policy)
{
    return CAPTURE_UDP | (instance & 0x3f) << 8 | (policy & 0xff);
}

/*
 * Honest connect: a worker's place. The SYNs of captures with `honest` are held, and each goes to
 * one of the seats that are serving: of the nft captures over the nfnetlink_log group
 * CAPTURE_LOG_GROUP + number, by a hash of the source port, with the capture's name as prefix; of
 * the cgroup captures over a ring buffer. The listeners accept what was granted.
 */
#define CAPTURE_SEATS     128
#define CAPTURE_LOG_GROUP 21760u /* 0x5500 */

struct capture_seat {
    unsigned number;           /* 0..CAPTURE_SEATS-1; those of a set ascend */
    bool serving;              /* gets new SYNs; else it finishes what it holds */
    uint16_t port_v4, port_v6; /* its listener for the nft captures, transparent, on 127.0.0.1 and
                                  ::1; 0: none */
};

/* Where a cgroup capture's connections meet the worker of a seat. */
struct capture_seat_ports {
    uint16_t v4, v6; /* on 127.0.0.1 and ::1; 0: none */
};

enum capture_hook {
    CAPTURE_OUTPUT,  /* this host's own connections, by nftables */
    CAPTURE_CGROUP,  /* the sockets of a cgroup, by eBPF */
    CAPTURE_GATEWAY, /* forwarded traffic, by TPROXY */
};

enum capture_action {
    CAPTURE_PROXY,  /* to the listener */
    CAPTURE_DIRECT, /* selected, and left alone */
    CAPTURE_REFUSE, /* selected, and rejected */
};

/* What becomes of the UDP that a capture selects. Whatever it is, no later capture sees it. With
 * CAPTURE_DIRECT, all of them mean to leave it alone; with CAPTURE_REFUSE, the first leaves it
 * alone and the others reject it. */
enum capture_udp {
    CAPTURE_UDP_LEAVE,
    CAPTURE_UDP_TAKE,   /* to the UDP listener; rejected for a family that has none */
    CAPTURE_UDP_REJECT, /* ICMP "port unreachable" at once */
};

/* What selected traffic gets where the daemon cannot serve it. */
enum capture_when_down { CAPTURE_DOWN_REFUSE, CAPTURE_DOWN_DIRECT };

#define CAPTURE_NAME_MAX 31

struct port_range {
    uint16_t first, last; /* inclusive, host order */
};

/*
 * One capture, resolved: names are numbers, users are uids, nothing refers back to the
 * configuration. All selectors that are given (n > 0) must match; none given selects everything
 * outside the default exclusions. The arrays belong to whoever built the policy and outlive the
 * capture.
 */
struct capture_policy {
    char name[CAPTURE_NAME_MAX + 1];
    enum capture_hook hook;
    enum capture_action action;
    enum capture_when_down when_down;

    const struct port_range *tcp_ports;
    size_t n_tcp_ports;
    const struct port_range *udp_ports;
    size_t n_udp_ports;
    const struct prefix *to;
    size_t n_to;
    const struct prefix *not_to;
    size_t n_not_to;
    const uint32_t *uids;
    size_t n_uids;
    const uint32_t *not_uids;
    size_t n_not_uids;
    const char *const *interfaces; /* input interfaces (gateway) */
    size_t n_interfaces;
    bool has_mark;
    uint32_t mark;
    const char *cgroup; /* path below the cgroup2 root, beginning with '/'; NULL: none given */
    bool private;       /* also the default exclusions of addr_private_prefixes */
    bool fail_closed;   /* on-exit = "closed": refused when the daemon is gone (see nft/guard.h) */
    bool reset_established; /* established = "reset": connections older than the rules are ended */
    enum capture_udp udp;   /* of udp_ports, or all when neither kind of port is given */
    /*
     * CAPTURE_PROXY: what is taken whatever `to`, `not_to`, `private`, the ports and `udp` say, as
     * long as the other selectors agree. Hook cgroup without `cgroup` takes no UDP.
     */
    bool dns;        /* port 53 of UDP and TCP; but hook output: not of loopback; hook gateway: of
                        addresses of this host only with dns_local */
    bool dns_direct; /* without dns: port 53 of UDP, as far as the capture selects it, is left
                        alone, whatever `udp` says */
    bool dns_local;  /* with dns, hook gateway: see above */
    bool fake;       /* destinations in addr_fake_prefixes; with CAPTURE_UDP_TAKE, else their UDP is
                        rejected */

    uint16_t port_v4; /* our listener on 127.0.0.1, host order (gateway: transparent); 0: none */
    uint16_t port_v6; /* our listener on ::1, likewise */
    unsigned early;   /* CAPTURE_PROXY: the number by which a mark names that listener, of no other
                         policy's; it stays over reloads, as an old worker may still use it.
                         > CAPTURE_EARLY_MAX: too many, none names it */
    uint16_t udp_port_v4; /* our transparent UDP listener on 127.0.0.1, of any hook; 0: none */
    uint16_t udp_port_v6; /* on ::1, likewise */

    bool stitch; /* hook cgroup, CAPTURE_PROXY: connections may be stitched, as bpf_capture_use()
                    says; what is not goes to the listener as ever */
    bool honest; /* CAPTURE_PROXY: SYNs are held until the upstream has answered */
    const struct capture_seat_ports *seat_ports; /* honest cgroup captures: for each of the set's
                                                    seats, in their order */
};

/* Everything that is installed at once. Order is the order of the file: the first match wins. */
struct capture_set {
    const struct capture_policy *policies;
    size_t n_policies;
    const struct addr *upstreams; /* never redirected: each address with its port */
    size_t n_upstreams;
    uint32_t own_mark; /* sockets with (mark & own_mask) == own_mark are the daemon's */
    uint32_t own_mask; /* 0: the daemon's sockets are outside every capture */
    uint32_t
        tproxy_mark; /* gateway: set on packets for our listener, and routed to this host by it */
    const struct capture_seat *seats; /* honest captures: none serving = held by nobody, refused */
    size_t n_seats;
    unsigned instance; /* 0: the daemon; 1..CAPTURE_INSTANCES-1: a `run` */
    struct bpf_stitch
        *stitch; /* for the cgroup captures with `stitch` (bpf/stitch.h); NULL: none */
};

/* Bits of origin.known. A field that could not be known stays 0 and its bit clear. */
#define ORIGIN_PID    0x01u
#define ORIGIN_UID    0x02u
#define ORIGIN_CGROUP 0x04u
#define ORIGIN_COMM   0x08u

/* Where a captured connection was going, and whose it is. */
struct origin {
    struct addr destination;
    uint64_t cgroup_id; /* as in cgroup.id / inode of the cgroup directory */
    uint32_t pid;       /* thread group id in the initial pid namespace */
    uint32_t uid;
    uint32_t known;
    char comm[16];
};

/*
 * How a worker recovers the origin of a socket that its listener accepted. Called once per flow,
 * must not block. 0; -ENOENT: nobody redirected this (a direct connection to our listener); or
 * -errno.
 */
struct origin_ops {
    int (*lookup)(void *ctx, int fd, const struct addr *peer, const struct addr *local,
                  struct origin *ret);
};

struct origin_source {
    const struct origin_ops *ops;
    void *ctx;
};

/*
 * A SYN that a capture holds back. Pointers are valid during the call only.
 */
struct held_syn {
    const uint8_t *packet; /* from the IP header on, as the application's host made it (its TCP
                              checksum may be partial); maybe cut short */
    size_t len;
    const char *capture;         /* name; NULL: the source knows of one only */
    const struct origin *origin; /* whose it is, and where it was going; NULL: the packet tells
                                    where, nobody knows whose */
    uint32_t uid;                /* without `origin`: of the socket; valid with has_uid */
    bool has_uid;
    uint32_t interface; /* index of the one it came in by, or would have left by; 0: unknown */
};

typedef void (*held_syn_fn)(void *ctx, const struct held_syn *syn);

/*
 * Where a worker reads held SYNs. `fd` is readable when some wait.
 */
struct hold_ops {
    /* Calls `fn` for what waits, at most `max` SYNs; never blocks. Returns how many there were;
     * -ENOBUFS: the kernel had to drop some since the last call (they are sent again by their
     * owners; there may be more to read); or -errno. */
    int (*read)(void *ctx, held_syn_fn fn, void *fn_ctx, unsigned max);
};

struct hold_source {
    const struct hold_ops *ops;
    void *ctx;
    int fd;
};

#endif
