/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tcx: somebody else's program on an interface, before every qdisc.
 *
 *     tcx DEVICE in|out VERDICT [first]     0: pass, and nobody else is asked; -1: the next one is
 *     tcx DEVICE in|out count
 *
 * The former says "ready", and the program is there as long as this process; with "first" before
 * those that are there. The latter says how many there are. Exit status 77: this kernel has no tcx
 * (6.6).
 */
#include <inttypes.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sys/syscall.h>

#include "net.h"

/* As the headers of 6.6 have them. */
#define TCX_IN  46
#define TCX_OUT 47
#define BEFORE  (1u << 3)
#define NO_TCX  77

static int bpf(int command, union bpf_attr *attr)
{
    return (int)syscall(__NR_bpf, command, attr, sizeof(*attr));
}

static uint32_t make_program(int verdict)
{
    const struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = verdict},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SCHED_CLS,
                           .insns = (uintptr_t)code,
                           .insn_cnt = 2,
                           .license = (uintptr_t) "GPL"};
    int fd = bpf(BPF_PROG_LOAD, &attr);

    if (fd < 0)
        die(3, "program: %s", strerror(errno));
    return (uint32_t)fd;
}

int main(int argc, char **argv)
{
    union bpf_attr attr = {0};
    bool first = argc == 5 && strcmp(argv[4], "first") == 0;

    if ((argc != 4 && !first) || (strcmp(argv[2], "in") != 0 && strcmp(argv[2], "out") != 0))
        die(2, "usage: tcx DEVICE in|out VERDICT [first] | tcx DEVICE in|out count");
    uint32_t where = strcmp(argv[2], "in") == 0 ? TCX_IN : TCX_OUT;
    uint32_t device = if_nametoindex(argv[1]);

    if (strcmp(argv[3], "count") == 0) {
        attr.query.target_fd = device;
        attr.query.attach_type = where;
        if (bpf(BPF_PROG_QUERY, &attr) < 0)
            die(errno == EINVAL ? NO_TCX : 3, "%s: %s", argv[1], strerror(errno));
        printf("%" PRIu32 "\n", attr.query.prog_cnt);
        return 0;
    }
    attr.link_create.prog_fd = make_program(atoi(argv[3]));
    attr.link_create.target_ifindex = device;
    attr.link_create.attach_type = where;
    attr.link_create.flags = first ? BEFORE : 0;
    if (bpf(BPF_LINK_CREATE, &attr) < 0)
        die(errno == EINVAL ? NO_TCX : 3, "%s: %s", argv[1], strerror(errno));
    printf("ready\n");
    fflush(stdout);
    for (;;)
        pause();
}
