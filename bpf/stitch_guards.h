/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guards on the cgroups: what keeps an application's bytes from a SOCKS server until its
 * handshake is through. A part of bpf/stitch.h, which has the contracts of putting and taking.
 */
#ifndef UNDERSOCK_BPF_STITCH_GUARDS_H
#define UNDERSOCK_BPF_STITCH_GUARDS_H

#include <stddef.h>
#include <stdint.h>

struct bpf_object;

#define STITCH_GUARDED_MAX 256 /* cgroups */

struct stitch_guards {
    int programs[2];   /* what leaves, what arrives */
    int owners;        /* STITCH_MAP_OWNERS; of who has these guards */
    unsigned instance; /* capture_set.instance */
    struct {
        uint64_t id;
        unsigned n; /* captures of it; the programs cannot be attached twice */
    } cgroups[STITCH_GUARDED_MAX];
};

void stitch_guards_init(struct stitch_guards *g);
/* `object`: loaded. 0 or -errno. */
int stitch_guards_open(struct stitch_guards *g, struct bpf_object *object, int owners,
                       unsigned instance);
/* Leaves what is attached where it is. */
void stitch_guards_close(struct stitch_guards *g);

/* As bpf_stitch_guard() and bpf_stitch_unguard(). */
int stitch_guards_put(struct stitch_guards *g, uint64_t instance, int cgroup_fd, char *why,
                      size_t why_size);
void stitch_guards_take(struct stitch_guards *g, uint64_t instance, int cgroup_fd);

#endif
