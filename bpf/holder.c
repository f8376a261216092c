/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/holder.h. The programs know no policy and are never replaced: what is held, and for whom, is
 * with the sockets. A change of policy adds rings before the connect programs can choose their
 * seats, and takes rings away when they no longer do.
 */
#include "bpf/holder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/fd.h"
#include "bpf/embed.h"
#include "bpf/object.h"
#include "bpf_abi.h"
#include "log.h"

#define WHAT "holding SYNs for the cgroup capture"

/*
 * 3120 SYNs of 336 bytes: what arrives while a worker is busy with something else for some tens of
 * milliseconds, at a hundred thousand connections a second. What does not fit comes again after a
 * second. The kernel takes this memory at once, for each capture and seat.
 */
#define RING_SIZE (1u << 20)

/* In the order of attaching: who is held must already be safe from what may befall him then. */
static const struct {
    const char *program;
    enum bpf_attach_type type;
} hooks[BPF_HOLDER_LINKS] = {
    {"us_hasty", BPF_CGROUP_INET_INGRESS},
    {"us_hold", BPF_CGROUP_INET_EGRESS},
};

struct bpf_holder {
    int links[BPF_HOLDER_LINKS]; /* all -1: not attached */
    int programs[BPF_HOLDER_LINKS];
    int rings; /* ABI_MAP_RINGS; -1: not loaded */
    int ring[CAPTURE_SEATS];
};

_Static_assert(ABI_SEATS == CAPTURE_SEATS, "seats");

struct bpf_holder *bpf_holder_new(void)
{
    struct bpf_holder *h = calloc(1, sizeof(*h));

    if (h == NULL)
        return NULL;
    h->rings = -1;
    for (size_t i = 0; i < BPF_HOLDER_LINKS; i++)
        h->links[i] = h->programs[i] = -1;
    for (size_t i = 0; i < CAPTURE_SEATS; i++)
        h->ring[i] = -1;
    return h;
}

static void close_links(struct bpf_holder *h)
{
    for (size_t i = 0; i < BPF_HOLDER_LINKS; i++)
        fd_close(&h->links[i]);
}

static void close_all(struct bpf_holder *h)
{
    close_links(h);
    for (size_t i = 0; i < BPF_HOLDER_LINKS; i++)
        fd_close(&h->programs[i]);
    fd_close(&h->rings);
}

static int attach(struct bpf_holder *h, int cgroup, char *why, size_t why_size)
{
    for (size_t i = 0; i < BPF_HOLDER_LINKS; i++) {
        int r = h->links[i] = bpf_object_attach(h->programs[i], hooks[i].program, cgroup,
                                                hooks[i].type, why, why_size);

        if (r < 0) {
            close_links(h);
            return r;
        }
    }
    return 0;
}

/* Loads, and attaches where there is a cgroup. Without a ring us_hold holds nothing yet. */
static int load(struct bpf_holder *h, const struct bpf_holder_base *base, char *why,
                size_t why_size)
{
    const struct abi_hold_settings settings = {.instance = base->instance};
    struct bpf_object *object = NULL;
    int r;

    /* cppcheck-suppress comparePointers; two symbols of one object */
    r = bpf_object_open(bpf_embed_hold, BPF_EMBED_SIZE(hold), "us_hold", &settings,
                        sizeof(settings), &object);
    if (r == 0)
        r = bpf_object_reuse_map(object, ABI_MAP_SOCKETS, base->sockets);
    if (r == 0)
        r = bpf_object_reuse_map(object, ABI_MAP_COUNTERS, base->counters);
    if (r == 0)
        r = bpf_object__load(object);
    if (r == 0)
        r = h->rings = bpf_object_dup_map(object, ABI_MAP_RINGS);
    for (size_t i = 0; r >= 0 && i < BPF_HOLDER_LINKS; i++)
        r = h->programs[i] = bpf_object_dup_program(object, hooks[i].program);
    if (r < 0)
        bpf_object_explain(r, WHAT, why, why_size);
    bpf_object__close(object);
    if (r >= 0 && base->cgroup >= 0) {
        r = attach(h, base->cgroup, why, why_size);
        if (r == -ENOENT || r == -ENODEV) /* it has been removed meanwhile: bpf_holder_move() */
            r = 0;
    }
    if (r >= 0)
        return 0;
    close_all(h);
    return r;
}

/* Together if the kernel can: it waits for its CPUs after each call, some 15 ms. */
static int put_rings(int rings, const uint32_t *seats, const int *fds, uint32_t n)
{
    uint32_t done = n;
    int r = n > 1 ? bpf_map_update_batch(rings, seats, fds, &done, NULL) : -EOPNOTSUPP;

    if (r == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        r = bpf_map_update_elem(rings, &seats[i], &fds[i], BPF_ANY);
        if (r < 0)
            return r;
    }
    return 0;
}

static int add_rings(struct bpf_holder *h, const struct bpf_holder_seats *wanted)
{
    uint32_t seats[CAPTURE_SEATS], n = 0;
    int fds[CAPTURE_SEATS];

    for (uint32_t i = 0; i < CAPTURE_SEATS; i++) {
        int fd;

        if (!wanted->has[i] || h->ring[i] >= 0)
            continue;
        fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "us_ring", 0, 0, RING_SIZE, NULL);
        if (fd < 0)
            return fd;
        h->ring[i] = fd;
        seats[n] = i;
        fds[n++] = fd;
    }
    return n == 0 ? 0 : put_rings(h->rings, seats, fds, n);
}

int bpf_holder_grow(struct bpf_holder *h, const struct bpf_holder_base *base,
                    const struct bpf_holder_seats *wanted, char *why, size_t why_size)
{
    bool any = false;
    int r = 0;

    for (size_t i = 0; i < CAPTURE_SEATS; i++)
        any |= wanted->has[i];
    if (any && h->rings < 0)
        r = load(h, base, why, why_size);
    if (r < 0 || !any)
        return r;
    r = add_rings(h, wanted);
    if (r < 0)
        bpf_object_explain(r, WHAT, why, why_size);
    return r;
}

void bpf_holder_shrink(struct bpf_holder *h, const struct bpf_holder_seats *kept)
{
    bool any = false;

    for (uint32_t i = 0; i < CAPTURE_SEATS; i++) {
        if (h->ring[i] >= 0 && !kept->has[i]) {
            int r = bpf_map_delete_elem(h->rings, &i);

            if (r < 0 && r != -ENOENT) /* made, and never put there */
                log_warning("the ring of seat %u stays in the kernel: %s", i, strerror(-r));
            fd_close(&h->ring[i]);
        }
        any |= h->ring[i] >= 0;
    }
    if (any)
        return;
    bpf_holder_detach(h);
    close_all(h);
}

void bpf_holder_get_seats(const struct bpf_holder *h, struct bpf_holder_seats *ret)
{
    for (size_t i = 0; i < CAPTURE_SEATS; i++)
        ret->has[i] = h->ring[i] >= 0;
}

int bpf_holder_ring(const struct bpf_holder *h, unsigned seat)
{
    if (seat >= CAPTURE_SEATS || h->ring[seat] < 0)
        return -ENOENT;
    return h->ring[seat];
}

int bpf_holder_links(const struct bpf_holder *h, int *ret, size_t max)
{
    if (h->links[0] < 0)
        return 0;
    for (size_t i = 0; i < BPF_HOLDER_LINKS && i < max; i++)
        ret[i] = h->links[i];
    return BPF_HOLDER_LINKS;
}

void bpf_holder_detach(struct bpf_holder *h)
{
    for (size_t i = 0; i < BPF_HOLDER_LINKS; i++) {
        int r = h->links[i] < 0 ? 0 : bpf_link_detach(h->links[i]);

        if (r < 0)
            log_warning("%s cannot be detached: %s", hooks[i].program, strerror(-r));
    }
}

int bpf_holder_move(struct bpf_holder *h, int cgroup, char *why, size_t why_size)
{
    bpf_holder_detach(h);
    close_links(h);
    return cgroup < 0 || h->rings < 0 ? 0 : attach(h, cgroup, why, why_size);
}

void bpf_holder_free(struct bpf_holder *h)
{
    if (h == NULL)
        return;
    for (size_t i = 0; i < CAPTURE_SEATS; i++)
        fd_close(&h->ring[i]);
    close_all(h);
    free(h);
}
