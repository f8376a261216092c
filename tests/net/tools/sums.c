/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sums: in what state of its checksum each packet comes in, before any filter of a tc qdisc sees
 * it.
 *
 *     sums DEVICE
 *
 * Says "ready", and on SIGUSR1 "sums complete=N unnecessary=N other=N": the device has summed the
 * whole packet; says that it is right; neither, or it is yet to be completed. On SIGUSR2 it goes
 * before all others again, and says "first". Changes nothing. Exit status 77: this kernel has no
 * tcx (6.6).
 */
#include <inttypes.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "net.h"

#ifndef BPF_TCX_INGRESS
#define BPF_TCX_INGRESS 46
#endif
#define BEFORE      (1u << 3) /* BPF_F_BEFORE */
#define STATES      3
#define NO_TCX      77
#define CSUM_UPDATE 40 /* refuses what is not complete, and adds nothing to it here */
#define CSUM_LEVEL  135

/* clang-format off */
#define INSN(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV(d, s)           INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, i)           INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD(d, i)           INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define CALL(i)             INSN(BPF_JMP | BPF_CALL, 0, 0, 0, i)
#define IF_NEGATIVE(r, o)   INSN(BPF_JMP | BPF_JSLT | BPF_K, r, 0, o, 0)
#define IF_ZERO(r, o)       INSN(BPF_JMP | BPF_JEQ | BPF_K, r, 0, o, 0)
#define GO(o)               INSN(BPF_JMP | BPF_JA, 0, 0, o, 0)
#define EXIT()              INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* clang-format on */

static int bpf(int command, union bpf_attr *attr)
{
    return (int)syscall(__NR_bpf, command, attr, sizeof(*attr));
}

static int make_map(void)
{
    union bpf_attr attr = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = STATES};

    return bpf(BPF_MAP_CREATE, &attr);
}

static int make_program(int map)
{
    static char log[4096];
    const struct bpf_insn code[] = {
        MOV(6, 1),
        SET(7, 0),
        SET(2, 0),
        CALL(CSUM_UPDATE),
        IF_NEGATIVE(0, 1),
        GO(7),
        SET(7, 1),
        MOV(1, 6),
        SET(2, 0),
        CALL(CSUM_LEVEL),
        IF_NEGATIVE(0, 1),
        GO(1),
        SET(7, 2),
        INSN(BPF_STX | BPF_MEM | BPF_W, 10, 7, -4, 0),
        INSN(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, map),
        INSN(0, 0, 0, 0, 0),
        MOV(2, 10),
        ADD(2, -4),
        CALL(BPF_FUNC_map_lookup_elem),
        IF_ZERO(0, 2),
        SET(1, 1),
        INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD),
        SET(0, -1),
        EXIT(),
    };
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SCHED_CLS,
                           .insns = (uintptr_t)code,
                           .insn_cnt = sizeof(code) / sizeof(code[0]),
                           .license = (uintptr_t) "GPL",
                           .log_buf = (uintptr_t)log,
                           .log_size = sizeof(log),
                           .log_level = 1};
    int fd = bpf(BPF_PROG_LOAD, &attr);

    if (fd < 0)
        die(3, "program: %s\n%s", strerror(errno), log);
    return fd;
}

static uint64_t read_count(int map, uint32_t state)
{
    uint64_t n = 0;
    union bpf_attr attr = {
        .map_fd = (uint32_t)map, .key = (uintptr_t)&state, .value = (uintptr_t)&n};

    bpf(BPF_MAP_LOOKUP_ELEM, &attr);
    return n;
}

static int attach(int program, const char *device)
{
    union bpf_attr attr = {.link_create = {.prog_fd = (uint32_t)program,
                                           .target_ifindex = if_nametoindex(device),
                                           .attach_type = BPF_TCX_INGRESS,
                                           .flags = BEFORE}};
    int fd = bpf(BPF_LINK_CREATE, &attr);

    if (fd < 0)
        die(errno == EINVAL ? NO_TCX : 3, "%s: %s", device, strerror(errno));
    return fd;
}

int main(int argc, char **argv)
{
    struct signalfd_siginfo info;
    sigset_t mask;

    if (argc != 2)
        die(2, "usage: sums DEVICE");
    setvbuf(stdout, NULL, _IOLBF, 0);
    int map = make_map();
    if (map < 0)
        die(3, "map: %s", strerror(errno));
    int program = make_program(map), link = attach(program, argv[1]);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_CLOEXEC);
    printf("ready\n");
    while (read(signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGUSR2) {
            close(link);
            link = attach(program, argv[1]);
            printf("first\n");
            continue;
        }
        printf("sums complete=%" PRIu64 " unnecessary=%" PRIu64 " other=%" PRIu64 "\n",
               read_count(map, 0), read_count(map, 1), read_count(map, 2));
    }
    return 3;
}
