/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The stack of the programs. A program and all that it calls have 512 octets together; before 6.8
 * the kernel rounds each function's share up to 32 octets, later ones to 16 where there is a JIT.
 * So what loads here may be refused by 6.1: here it is added up as 6.1 does it.
 */
#include <linux/bpf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <cmocka.h>

#include "bpf/embed.h"

#define STACK_MAX     512
#define ROUND         32
#define FUNCTIONS_MAX 64
#define LOG_STATS     4 /* of the verifier: only what it has added up */
#define LOG_SIZE      65536

/* The functions of a program, in the order of their instructions. */
struct functions {
    unsigned n;
    size_t begin[FUNCTIONS_MAX + 1]; /* and where the last one ends */
    unsigned depth[FUNCTIONS_MAX];
};

/* A call to, or the address of, another function: the index of its first instruction. */
static bool refers(const struct bpf_insn *insn, size_t at, size_t *ret)
{
    bool call = insn->code == (BPF_JMP | BPF_CALL) && insn->src_reg == BPF_PSEUDO_CALL;
    bool address = insn->code == (BPF_LD | BPF_IMM | BPF_DW) && insn->src_reg == BPF_PSEUDO_FUNC;

    if (!call && !address)
        return false;
    *ret = (size_t)((int64_t)at + insn->imm + 1);
    return true;
}

static int compare(const void *a, const void *b)
{
    const size_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void find_functions(const struct bpf_insn *insns, size_t n, struct functions *f)
{
    size_t to;

    f->n = 1;
    f->begin[0] = 0;
    for (size_t i = 0; i < n; i++) {
        bool known = !refers(&insns[i], i, &to);

        for (unsigned k = 0; !known && k < f->n; k++)
            known = f->begin[k] == to;
        if (known)
            continue;
        assert_true(f->n < FUNCTIONS_MAX && to < n);
        f->begin[f->n++] = to;
    }
    qsort(f->begin, f->n, sizeof(f->begin[0]), compare);
    f->begin[f->n] = n;
}

/* "stack depth 288+32+8": of each function, in the same order. */
static void read_depths(const char *log, struct functions *f)
{
    const char *at = strstr(log, "stack depth ");
    unsigned n = 0;

    assert_non_null(at);
    at += strlen("stack depth ") - 1;
    do {
        char *end;

        assert_true(n < f->n);
        f->depth[n++] = (unsigned)strtoul(at + 1, &end, 10);
        at = end;
    } while (*at == '+');
    assert_int_equal(n, f->n);
}

/* The deepest that a function and what it calls get. There is no recursion in BPF. */
static unsigned deepest(const struct bpf_insn *insns, const struct functions *f, unsigned which)
{
    unsigned own = f->depth[which] > 0 ? f->depth[which] : 1, below = 0;
    size_t to;

    for (size_t i = f->begin[which]; i < f->begin[which + 1]; i++) {
        if (!refers(&insns[i], i, &to))
            continue;
        for (unsigned k = 0; k < f->n; k++) {
            unsigned depth = f->begin[k] == to ? deepest(insns, f, k) : 0;

            below = depth > below ? depth : below;
        }
    }
    return (own + ROUND - 1) / ROUND * ROUND + below;
}

static int say_nothing(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level;
    (void)format;
    (void)args;
    return 0;
}

static void check(const unsigned char *image, size_t size, const char *name)
{
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
    struct bpf_object *object;
    struct bpf_program *program;
    unsigned n = 0;

    if (geteuid() != 0) {
        print_message("skipped: needs root\n");
        skip();
    }
    libbpf_set_print(say_nothing);
    object = bpf_object__open_mem(image, size, &options);
    assert_non_null(object);
    bpf_object__for_each_program(program, object)
    {
        char *log = calloc(1, LOG_SIZE);

        assert_non_null(log);
        assert_int_equal(bpf_program__set_log_level(program, LOG_STATS), 0);
        assert_int_equal(bpf_program__set_log_buf(program, log, LOG_SIZE), 0);
    }
    if (bpf_object__load(object) < 0) {
        /* What this kernel lacks for them is test_probe's to say. */
        print_message("skipped: this kernel does not load these programs\n");
        skip();
    }
    bpf_object__for_each_program(program, object)
    {
        const struct bpf_insn *insns = bpf_program__insns(program);
        size_t log_size;
        struct functions f;
        unsigned depth;

        find_functions(insns, bpf_program__insn_cnt(program), &f);
        read_depths(bpf_program__log_buf(program, &log_size), &f);
        depth = deepest(insns, &f, 0);
        print_message("%s: %u octets of stack\n", bpf_program__name(program), depth);
        assert_true(depth <= STACK_MAX);
        n++;
    }
    assert_true(n > 0);
    bpf_object__for_each_program(program, object)
    {
        size_t log_size;

        free((char *)bpf_program__log_buf(program, &log_size));
    }
    bpf_object__close(object);
}

static void connect_programs(void **state)
{
    (void)state;
    /* cppcheck-suppress comparePointers; two symbols of one object */
    check(bpf_embed_connect, BPF_EMBED_SIZE(connect), "us_connect");
}

static void hold_programs(void **state)
{
    (void)state;
    /* cppcheck-suppress comparePointers; likewise */
    check(bpf_embed_hold, BPF_EMBED_SIZE(hold), "us_hold");
}

static void sockmap_programs(void **state)
{
    (void)state;
    /* cppcheck-suppress comparePointers; likewise */
    check(bpf_embed_sockmap, BPF_EMBED_SIZE(sockmap), "us_sockmap");
}

static void stitch_programs(void **state)
{
    (void)state;
    /* cppcheck-suppress comparePointers; likewise */
    check(bpf_embed_stitch, BPF_EMBED_SIZE(stitch), "us_stitch");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connect_programs),
        cmocka_unit_test(hold_programs),
        cmocka_unit_test(sockmap_programs),
        cmocka_unit_test(stitch_programs),
    };

    return cmocka_run_group_tests_name("bpf stack", tests, NULL, NULL);
}
