/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/stitch_first.h. Only a program that is attached as the first later than ours is before it. */
#include "bpf/stitch_first.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include <bpf/bpf.h>

#include "base/fd.h"

/* BPF_TCX_INGRESS, BPF_TCX_EGRESS, BPF_F_BEFORE: headers and libbpf may be older than the kernel.
 */
#define TCX_IN  ((enum bpf_attach_type)46)
#define TCX_OUT ((enum bpf_attach_type)47)
#define BEFORE  (1u << 3)

static bool has_programs(int index, enum bpf_attach_type where)
{
    uint32_t n = 0;

    return bpf_prog_query(index, where, 0, NULL, NULL, &n) == 0 && n > 0;
}

bool stitch_first_is_needed(int index)
{
    return has_programs(index, TCX_IN) || has_programs(index, TCX_OUT);
}

static int attach(int program, int index, enum bpf_attach_type where)
{
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = BEFORE);
    int r = bpf_link_create(program, index, where, &options);

    return r == -EINVAL ? -EOPNOTSUPP : r;
}

int stitch_first_put(struct stitch_first *f, int index, int program_in, int program_out)
{
    int r;

    if (f->in >= 0)
        return -EALREADY;
    /* What comes back first, so that nothing goes out that could not be answered. */
    r = f->in = attach(program_in, index, TCX_IN);
    if (r >= 0)
        r = f->out = attach(program_out, index, TCX_OUT);
    if (r >= 0)
        return 0;
    stitch_first_take(f);
    return r;
}

void stitch_first_take(struct stitch_first *f)
{
    fd_close(&f->out);
    fd_close(&f->in);
}
