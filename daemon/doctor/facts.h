/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What was seen, without a judgement: plain data, which tests can make up. A number that could not
 * be read is FACT_UNKNOWN.
 */
#ifndef UNDERSOCK_DOCTOR_FACTS_H
#define UNDERSOCK_DOCTOR_FACTS_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/config.h"
#include "keeper/local_upstream.h"
#include "nft/probe.h"

#define FACT_UNKNOWN (-1)

#define FACTS_INTERFACES 64
#define FACTS_NAME       64 /* tables and chains of a foreign firewall, cut if longer */

/* ---- the kernel (kernel.c) ---- */

enum facts_lockdown {
    LOCKDOWN_UNKNOWN, /* securityfs is not mounted, or there is no such module */
    LOCKDOWN_NONE,
    LOCKDOWN_INTEGRITY,
    LOCKDOWN_CONFIDENTIALITY,
};

struct facts_kernel {
    char missing[160]; /* capabilities that this process lacks, "CAP_BPF, CAP_SETUID"; "": none */
    int bpf_error;     /* 0, or why no program could be tried */
    uint32_t bpf;      /* bits of enum bpf_feature */
    int bpf_worker;    /* 0: an unprivileged process may read a map by its descriptor; -errno */
    int nft_error;     /* 0, or why nothing could be tried */
    char nft_why[256];
    struct nft_probe nft;
    int stitch_error; /* 0: connections were stitched, between namespaces of our own */
    bool
        stitch_kept; /* and that is written down, so that a daemon which may not try it, stitches */
    char stitch_why[256];
    enum facts_lockdown lockdown;
    int unprivileged_bpf; /* kernel.unprivileged_bpf_disabled */
};

/* ---- the host (host.c) ---- */

struct facts_interface {
    char name[IF_NAMESIZE];
    bool there, bridge;
    int rp_filter; /* the one in force: the larger of this interface's and all's */
    int route_localnet, src_valid_mark; /* all's, if that is larger */
};

/* A connection on the loopback to a listener of our own, as a redirected one arrives there. */
struct facts_loopback {
    int v4, v6;     /* 0: arrived; -errno; -ETIMEDOUT: silence; -EADDRNOTAVAIL: no such address */
    int v4_outside; /* the same with a source address that is not 127.0.0.1; 0 when there is none */
};

struct facts_host {
    int lo_up; /* 1, 0 */
    struct facts_loopback loopback;
    int ip_forward, ip6_forwarding;
    int bridge_nf4, bridge_nf6; /* unknown: br_netfilter is not loaded */
    struct facts_interface
        interfaces[FACTS_INTERFACES]; /* that gateway captures name; "" in none: all */
    size_t n_interfaces;
    char bridges[128];     /* bridges of this host, "br0, docker0" */
    char cgroup_root[256]; /* "": no cgroup2 is mounted */
    uint64_t nofile;       /* the hard limit: the daemon's when one runs, else ours */
    long cpus;
    struct addr resolver; /* of this network, beyond a stub on loopback; port 0: unknown */
    pid_t daemon;         /* who answers on the control socket; 0: nobody */
    char control[256], control_why[256];
    bool control_exists;
};

/* ---- other people's rules (firewall.c) ---- */

enum fw_trait {
    FW_NAT = 1,                  /* redirects or rewrites the destination */
    FW_TPROXY = 2,               /* hands packets to a local socket */
    FW_DROP_INVALID = 4,         /* drops what conntrack calls invalid */
    FW_ACCEPT_SOCKET = 8,        /* accepts by a local socket or a packet mark */
    FW_ACCEPT_LO = 16,           /* accepts what comes in, or goes out, on the loopback */
    FW_ACCEPT_INTERFACE = 32,    /* accepts all that does on some other interface */
    FW_ACCEPT_ALL = 64,          /* accepts whatever gets as far as this rule */
    FW_DROP = 128,               /* drops or rejects something */
    FW_ACCEPT_ESTABLISHED = 256, /* accepts what conntrack calls established */
    FW_ACCEPT_MARKS = 512,       /* accepts by a packet mark, and none of ours is left out */
    FW_ACCEPT_LOCAL = 1024,      /* accepts what goes to an address of this host */
};

/* A base chain, with the traits of the chains it jumps to. */
struct fw_chain {
    char table[FACTS_NAME], name[FACTS_NAME];
    uint8_t family; /* NFPROTO_* */
    uint32_t hook;  /* enum nf_inet_hooks */
    int priority;
    bool nat;                    /* of type nat */
    bool drops;                  /* policy drop */
    unsigned traits, udp_traits; /* what it does with TCP, and with UDP */
};

/* Who made the rules, as far as names tell. */
enum fw_tool {
    FW_FIREWALLD = 1,
    FW_UFW = 2,
    FW_DOCKER = 4,
    FW_LIBVIRT = 8,
    FW_KUBERNETES = 16,
    FW_FAIL2BAN = 32
};

struct facts_firewall {
    int error; /* 0, or why the rules could not be read */
    struct fw_chain *chains;
    size_t n_chains;
    unsigned tools;                /* enum fw_tool */
    char legacy4[64], legacy6[64]; /* tables of iptables-legacy in use: "nat filter" */
    int legacy_error;              /* the lists are only for root */
};

/* ---- the upstreams (reach.c) ---- */

enum reach_stage {
    REACH_RESOLVE, /* the name has no address */
    REACH_CONNECT,
    REACH_HANDSHAKE, /* connected; `hop` did not let us in */
    REACH_DONE,
};

struct facts_upstream {
    const struct config_upstream *config;
    struct addr at; /* that was connected to; or the first one tried */
    enum reach_stage stage;
    unsigned hop;  /* REACH_HANDSHAKE: which hop of the chain, from 0 */
    bool greeted;  /* REACH_DONE: it has answered a greeting, not only a connect */
    char why[256]; /* one clause */
};

/* For each capture, in order. */
struct facts_capture {
    int cgroup; /* 0: its cgroup is there; -errno */
    struct local_upstream local;
    int local_error;
    char local_why[512];
};

/* ---- all of it ---- */

struct facts {
    const char *file;      /* NULL: no configuration was asked for */
    struct config *config; /* NULL: none, or it has errors */
    char **config_errors;
    size_t n_config_errors;

    struct facts_kernel kernel;
    struct facts_host host;
    struct facts_firewall firewall;
    struct facts_upstream *upstreams; /* of config->n_upstreams */
    struct facts_capture *captures;   /* of config->n_captures */
};

/* Whether some capture has this hook; without a configuration nothing has. */
bool facts_has_hook(const struct facts *f, enum capture_hook hook);

#endif
