/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who listens on a local address: the socket by sock_diag, its processes by /proc. For finding the
 * proxy that runs on this host, whose own traffic must not come back to it.
 */
#ifndef UNDERSOCK_KEEPER_OWNER_H
#define UNDERSOCK_KEEPER_OWNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "addr.h"

#define OWNER_PROCESSES  64
#define OWNER_CGROUP_MAX 512

struct owner_process {
    pid_t pid;
    uint32_t uid;                  /* the real one: what a BPF program is told */
    uint32_t fsuid;                /* what nftables' skuid sees in the sockets it makes */
    char comm[16];                 /* what is not printable ASCII is '?' */
    char cgroup[OWNER_CGROUP_MAX]; /* path in the v2 hierarchy, "": not known */
};

struct owner {
    struct addr at; /* where it listens: the very address, or the wildcard */
    uint32_t uid;   /* of the socket: of whoever made it */
    uint32_t inode;
    /* Who holds the socket, and everything below those. Process 1 only when nobody else has it, and
     * then without the rest of the system below it. 0 of them: not visible from here. */
    struct owner_process processes[OWNER_PROCESSES];
    size_t n_processes;
    bool more; /* there was no room for all */
};

/*
 * The TCP socket in the calling thread's network namespace that would answer a connection to
 * `listening`, as the kernel chooses: the very address, the family's wildcard, the dual-stack
 * wildcard of IPv6. Sockets that are bound to a device other than the loopback do not answer this
 * host. 0; -ENOENT: nobody listens; or -errno (-EOPNOTSUPP: no inet_diag in this kernel). Without
 * CAP_SYS_PTRACE only own processes are found.
 */
int owner_find(const struct addr *listening, struct owner *ret);

/* The inode of that socket alone, without looking for processes: cheap enough to ask every second.
 * Errors as above. */
int owner_inode(const struct addr *listening, uint32_t *ret);

/* 1: packets to the address stay on this host (by its routes, so 127.0.0.2 counts); 0: they leave;
 * -errno. */
int owner_address_is_local(const struct addr *a);

/* "danted (pid 812, uid 65534)", or the uid alone when no process is visible; returns `buf`. */
const char *owner_describe(const struct owner *o, char *buf, size_t size);

#endif
