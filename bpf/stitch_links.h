/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The interfaces that stitch has its filters on: all of the network namespace it was opened in, and
 * those to come. A part of bpf/stitch.h.
 *
 * The filters are of cls_bpf on a clsact qdisc, which every kernel has, beside whatever others have
 * there; priority and handle make them ours, and the handle says of which instance, so a later
 * process finds and replaces those of an earlier one. An interface is told to the programs only
 * when both its filters are in place, and before that the guard lets no connection out by it.
 */
#ifndef UNDERSOCK_BPF_STITCH_LINKS_H
#define UNDERSOCK_BPF_STITCH_LINKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf/stitch_first.h"

struct bpf_object;
struct mnl_socket;

#define STITCH_LINKS_MAX 1024

enum { STITCH_OUT, STITCH_IN, STITCH_OUT_BARE, STITCH_IN_BARE, STITCH_N_FILTERS };

struct stitch_link {
    int index;
    bool bare; /* its packets begin with the IP header */
    bool made_qdisc;
    bool seen; /* in the last look at all of them */
    struct stitch_first first;
};

struct stitch_links {
    int programs[STITCH_N_FILTERS];
    int devices; /* STITCH_MAP_DEVICES; the owner's */
    uint32_t handle;
    bool first; /* see stitch_links_go_first() */
    struct mnl_socket *events;
    int uncovered; /* index of one that cannot have filters, and may carry IP; 0: there is none */
    struct stitch_link links[STITCH_LINKS_MAX];
    size_t n;
};

void stitch_links_init(struct stitch_links *l);
/* `object`: loaded. 0 or -errno. */
int stitch_links_open(struct stitch_links *l, struct bpf_object *object, int devices,
                      unsigned instance);
/* Leaves the filters where they are. */
void stitch_links_close(struct stitch_links *l);

/* As bpf/stitch.h has them. */
int stitch_links_attach(struct stitch_links *l, char *why, size_t why_size);
int stitch_links_fd(const struct stitch_links *l);
int stitch_links_follow(struct stitch_links *l);
int stitch_links_go_first(struct stitch_links *l, int index);
void stitch_links_detach(struct stitch_links *l);
void stitch_links_clean(unsigned instance);

#endif
