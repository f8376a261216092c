/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/probe.h. Each trial is a program that passes the verifier if, and only if, the attach type
 * may call the helper: the verdict of the load is the answer, no log is parsed.
 */
#include "bpf/probe.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <linux/bpf.h>

#include <bpf/bpf.h>

#include "bpf/object.h"

const struct bpf_feature_info bpf_feature_infos[BPF_N_FEATURES] = {
    [BPF_FEATURE_BTF] = {"btf", "the programs cannot be fitted to this kernel", true},
    [BPF_FEATURE_CONNECT] = {"connect", "connections cannot be turned to the listener", true},
    [BPF_FEATURE_NETNS] = {"netns-cookie", "other network namespaces cannot be told apart", true},
    [BPF_FEATURE_PEERNAME] = {"getpeername", "applications would see our listener as their peer",
                              true},
    [BPF_FEATURE_SOCKOPS] = {"sock-ops", "the worker cannot learn the destination", true},
    [BPF_FEATURE_RINGBUF] = {"ring-buffer", "nothing can be reported from the programs", true},
    [BPF_FEATURE_SET_RETVAL] = {"set-retval", "what is refused gets EPERM instead of ECONNREFUSED",
                                false},
    [BPF_FEATURE_PID] = {"pid", "the process is read from the task instead", false},
    [BPF_FEATURE_TASK] = {"task", "flows have no process id where \"pid\" is missing too", false},
    [BPF_FEATURE_MPTCP] = {"mptcp", "getpeername() of an MPTCP socket answers with our listener",
                           false},
    [BPF_FEATURE_TAKE] = {"lookup-and-delete", "an origin costs two calls instead of one", false},
    [BPF_FEATURE_HOLD] = {"hold-syn", "connections are accepted before the upstream is asked",
                          false},
};

/* Instructions, as linux/filter.h of the kernel writes them. */
#define MOV_IMM(reg, value) \
    ((struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (reg), .imm = (value)})
#define MOV_REG(to, from) \
    ((struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (to), .src_reg = (from)})
#define ADD_IMM(reg, value) \
    ((struct bpf_insn){.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = (reg), .imm = (value)})
#define LOAD_DW(to, from, offset) \
    ((struct bpf_insn){           \
        .code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = (to), .src_reg = (from), .off = (offset)})
#define STORE_DW(to, offset, value) \
    ((struct bpf_insn){             \
        .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = (to), .off = (offset), .imm = (value)})
#define LOAD_W(to, from, offset) \
    ((struct bpf_insn){          \
        .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = (to), .src_reg = (from), .off = (offset)})
#define LOAD_MAP(reg, fd)                                 \
    ((struct bpf_insn){.code = BPF_LD | BPF_DW | BPF_IMM, \
                       .dst_reg = (reg),                  \
                       .src_reg = BPF_PSEUDO_MAP_FD,      \
                       .imm = (fd)}),                     \
        ((struct bpf_insn){0})
#define CALL(helper) ((struct bpf_insn){.code = BPF_JMP | BPF_CALL, .imm = (helper)})
#define SKIP_IF_0(reg, n) \
    ((struct bpf_insn){.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = (reg), .off = (n)})
#define EXIT ((struct bpf_insn){.code = BPF_JMP | BPF_EXIT})

static int trial(enum bpf_prog_type type, enum bpf_attach_type attach, const struct bpf_insn *insns,
                 size_t n)
{
    LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach);
    int fd = bpf_prog_load(type, "us_probe", "GPL", insns, n, &options);

    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

#define TRIAL(type, attach, ...)                                \
    trial(type, attach, (const struct bpf_insn[]){__VA_ARGS__}, \
          sizeof((const struct bpf_insn[]){__VA_ARGS__}) / sizeof(struct bpf_insn))

#define ADDR BPF_PROG_TYPE_CGROUP_SOCK_ADDR
#define OPS  BPF_PROG_TYPE_SOCK_OPS

/* Helpers whose only argument is the context, or that have none. */
static bool calls(enum bpf_prog_type type, enum bpf_attach_type attach, int helper)
{
    return TRIAL(type, attach, CALL(helper), MOV_IMM(BPF_REG_0, 1), EXIT) == 0;
}

static bool has_set_retval(enum bpf_attach_type attach)
{
    return TRIAL(ADDR, attach, MOV_IMM(BPF_REG_1, -ECONNREFUSED), CALL(BPF_FUNC_set_retval),
                 MOV_IMM(BPF_REG_0, 1), EXIT) == 0;
}

/* bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, "", 16) */
static bool has_setsockopt(enum bpf_attach_type attach)
{
    return TRIAL(ADDR, attach, STORE_DW(BPF_REG_10, -8, 0), STORE_DW(BPF_REG_10, -16, 0),
                 MOV_IMM(BPF_REG_2, 1), MOV_IMM(BPF_REG_3, 25), MOV_REG(BPF_REG_4, BPF_REG_10),
                 ADD_IMM(BPF_REG_4, -16), MOV_IMM(BPF_REG_5, 16), CALL(BPF_FUNC_setsockopt),
                 MOV_IMM(BPF_REG_0, 1), EXIT) == 0;
}

/* bpf_sk_storage_get(map, ctx->sk, NULL, 0); in sock_ops ctx->sk may be NULL. */
static bool has_storage(enum bpf_prog_type type, enum bpf_attach_type attach, int map)
{
    int sk = type == OPS ? (int)offsetof(struct bpf_sock_ops, sk)
                         : (int)offsetof(struct bpf_sock_addr, sk);

    return TRIAL(type, attach, LOAD_DW(BPF_REG_2, BPF_REG_1, (int16_t)sk), SKIP_IF_0(BPF_REG_2, 5),
                 LOAD_MAP(BPF_REG_1, map), MOV_IMM(BPF_REG_3, 0), MOV_IMM(BPF_REG_4, 0),
                 CALL(BPF_FUNC_sk_storage_get), MOV_IMM(BPF_REG_0, 1), EXIT) == 0;
}

static bool has_mptcp(void)
{
    return TRIAL(OPS, BPF_CGROUP_SOCK_OPS,
                 LOAD_DW(BPF_REG_1, BPF_REG_1, (int16_t)offsetof(struct bpf_sock_ops, sk)),
                 SKIP_IF_0(BPF_REG_1, 1), CALL(BPF_FUNC_skc_to_mptcp_sock), MOV_IMM(BPF_REG_0, 1),
                 EXIT) == 0;
}

/* Socket storage wants BTF for its key and value: int, and int again. */
static int make_storage(void)
{
    static const struct {
        uint16_t magic;
        uint8_t version, flags;
        uint32_t hdr_len, type_off, type_len, str_off, str_len;
        uint32_t name, info, size, encoding;
        char strings[8];
    } btf = {.magic = 0xeb9f,
             .version = 1,
             .hdr_len = 24,
             .type_len = 16,
             .str_off = 16,
             .str_len = 5,
             .name = 1,
             .info = 1u << 24, /* BTF_KIND_INT */
             .size = 4,
             .encoding = 1u << 24 | 32, /* signed, 32 bits */
             .strings = "\0int"};
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_NO_PREALLOC, .btf_key_type_id = 1,
                .btf_value_type_id = 1);
    int fd = bpf_btf_load(&btf, 24 + 16 + 5, NULL);
    int map;

    if (fd < 0)
        return fd;
    options.btf_fd = (uint32_t)fd;
    map = bpf_map_create(BPF_MAP_TYPE_SK_STORAGE, "us_probe", 4, 4, 0, &options);
    close(fd);
    return map;
}

static bool has_map(enum bpf_map_type type, uint32_t key, uint32_t value, uint32_t n)
{
    int fd = bpf_map_create(type, "us_probe", key, value, n, NULL);

    if (fd < 0)
        return false;
    close(fd);
    return true;
}

static bool has_take(void)
{
    uint32_t key = 1, value = 2;
    int fd = bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "us_probe", 4, 4, 64, NULL);
    bool yes;

    if (fd < 0)
        return false;
    yes = bpf_map_update_elem(fd, &key, &value, BPF_ANY) == 0 &&
          bpf_map_lookup_and_delete_elem(fd, &key, &value) == 0;
    close(fd);
    return yes;
}

/* A program like us_hold: the socket's state, its storage, a ring out of an array of them, the
 * packet copied into it. */
static bool has_hold(int storage)
{
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = 0);
    int ring = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "us_probe", 0, 0, 65536, NULL);
    int rings = -1, r = -1;

    options.inner_map_fd = (uint32_t)ring;
    if (storage >= 0 && ring >= 0)
        rings = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "us_probe", 4, 4, 1, &options);
    if (rings >= 0)
        r = TRIAL(
            BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, MOV_REG(BPF_REG_6, BPF_REG_1),
            LOAD_DW(BPF_REG_2, BPF_REG_1, (int16_t)offsetof(struct __sk_buff, sk)),
            SKIP_IF_0(BPF_REG_2, 27),
            LOAD_W(BPF_REG_3, BPF_REG_2, (int16_t)offsetof(struct bpf_sock, state)),
            LOAD_MAP(BPF_REG_1, storage), MOV_IMM(BPF_REG_3, 0), MOV_IMM(BPF_REG_4, 0),
            CALL(BPF_FUNC_sk_storage_get), STORE_DW(BPF_REG_10, -8, 0), LOAD_MAP(BPF_REG_1, rings),
            MOV_REG(BPF_REG_2, BPF_REG_10), ADD_IMM(BPF_REG_2, -8), CALL(BPF_FUNC_map_lookup_elem),
            SKIP_IF_0(BPF_REG_0, 14), MOV_REG(BPF_REG_1, BPF_REG_0), MOV_IMM(BPF_REG_2, 64),
            MOV_IMM(BPF_REG_3, 0), CALL(BPF_FUNC_ringbuf_reserve), SKIP_IF_0(BPF_REG_0, 9),
            MOV_REG(BPF_REG_7, BPF_REG_0), MOV_REG(BPF_REG_1, BPF_REG_6), MOV_IMM(BPF_REG_2, 0),
            MOV_REG(BPF_REG_3, BPF_REG_7), MOV_IMM(BPF_REG_4, 64), CALL(BPF_FUNC_skb_load_bytes),
            MOV_REG(BPF_REG_1, BPF_REG_7), MOV_IMM(BPF_REG_2, 0), CALL(BPF_FUNC_ringbuf_submit),
            MOV_IMM(BPF_REG_0, 0), EXIT);
    if (rings >= 0)
        close(rings);
    if (ring >= 0)
        close(ring);
    return r == 0;
}

static bool has_addr_pair(int storage, enum bpf_attach_type v4, enum bpf_attach_type v6)
{
    return storage >= 0 && has_storage(ADDR, v4, storage) && has_storage(ADDR, v6, storage);
}

int bpf_probe(uint32_t *ret)
{
    const enum bpf_attach_type c4 = BPF_CGROUP_INET4_CONNECT, c6 = BPF_CGROUP_INET6_CONNECT;
    uint32_t found = 0;
    int storage;
    int r = TRIAL(ADDR, c4, MOV_IMM(BPF_REG_0, 1), EXIT);

    if (r == -EPERM || r == -ENOSYS || r == -EMFILE || r == -ENFILE)
        return r;

    /* The most descriptors at once; what fails for want of them is no verdict on the kernel. */
    storage = make_storage();
    if (storage == -EMFILE || storage == -ENFILE)
        return storage;
#define FOUND(feature, yes) found |= (yes) ? 1u << (feature) : 0
    FOUND(BPF_FEATURE_BTF, access("/sys/kernel/btf/vmlinux", R_OK) == 0);
    FOUND(BPF_FEATURE_CONNECT,
          r == 0 && has_addr_pair(storage, c4, c6) && has_setsockopt(c4) && has_setsockopt(c6));
    FOUND(BPF_FEATURE_NETNS,
          calls(ADDR, c4, BPF_FUNC_get_netns_cookie) && calls(ADDR, c6, BPF_FUNC_get_netns_cookie));
    FOUND(BPF_FEATURE_PEERNAME,
          has_addr_pair(storage, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_GETPEERNAME));
    FOUND(BPF_FEATURE_SOCKOPS, storage >= 0 && has_storage(OPS, BPF_CGROUP_SOCK_OPS, storage) &&
                                   calls(OPS, BPF_CGROUP_SOCK_OPS, BPF_FUNC_get_netns_cookie));
    FOUND(BPF_FEATURE_RINGBUF, has_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 65536));
    FOUND(BPF_FEATURE_SET_RETVAL, has_set_retval(c4) && has_set_retval(c6));
    FOUND(BPF_FEATURE_PID, calls(ADDR, c4, BPF_FUNC_get_current_pid_tgid) &&
                               calls(ADDR, c6, BPF_FUNC_get_current_pid_tgid));
    FOUND(BPF_FEATURE_TASK, calls(ADDR, c4, BPF_FUNC_get_current_task_btf) &&
                                calls(ADDR, c6, BPF_FUNC_get_current_task_btf));
    FOUND(BPF_FEATURE_MPTCP, has_mptcp());
    FOUND(BPF_FEATURE_TAKE, has_take());
    FOUND(BPF_FEATURE_HOLD, has_hold(storage));
#undef FOUND
    if (storage >= 0)
        close(storage);
    *ret = found;
    return 0;
}

bool bpf_can_hold(char *why, size_t why_size)
{
    uint32_t found = 0;
    int r = bpf_probe(&found);

    if (r < 0)
        bpf_object_explain(r, "holding SYNs for the cgroup capture", why, why_size);
    else if (!(found & 1u << BPF_FEATURE_HOLD))
        snprintf(why, why_size, "this kernel lacks \"%s\" for BPF: %s",
                 bpf_feature_infos[BPF_FEATURE_HOLD].name,
                 bpf_feature_infos[BPF_FEATURE_HOLD].without);
    else
        return true;
    return false;
}
