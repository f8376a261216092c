/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What comes from a server, through the program that the kernel has verified and compiled
 * (BPF_PROG_TEST_RUN) and through the same source in user space (tests/fuzz/stitch_kernel.h): the
 * same packet comes out, with the same verdict, and the same is left in the record. So what the
 * fuzzer finds to hold, holds in the kernel. The packets are always the same ones.
 */
/* Helpers and libbpf's functions have the same names. */
#define bpf_map_lookup_elem model_lookup
#define bpf_map_update_elem model_update
#define bpf_map_delete_elem model_delete
#include "tests/fuzz/stitch_kernel.h"
#undef bpf_map_lookup_elem
#undef bpf_map_update_elem
#undef bpf_map_delete_elem

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/embed.h"

#define SEED    UINT64_C(0x5553)
#define PACKETS 20000
#define BASE    UINT32_C(0xfffffff0) /* less one, the number of our first octet: it wraps */
#define PORT    1080
#define ROOM    2048

static struct bpf_object *object;
static int flows, program;
static char why[200];

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % n;
}

static int open_object(void)
{
    struct bpf_program *p;
    uint32_t word_at = PORT / 64, taken = STITCH_ROOM_TAKEN;
    uint64_t one = 1;
    uint64_t bits = UINT64_C(1) << (PORT % 64);

    /* cppcheck-suppress comparePointers; two symbols of one object */
    object = bpf_object__open_mem(bpf_embed_stitch, BPF_EMBED_SIZE(stitch), NULL);
    if (!object || bpf_object__load(object) < 0)
        return -errno;
    p = bpf_object__find_program_by_name(object, "us_st_in");
    program = p ? bpf_program__fd(p) : -1;
    flows = bpf_object__find_map_fd_by_name(object, STITCH_MAP_FLOWS);
    /* Records are put in from here, and nobody counts them. */
    if (bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, STITCH_MAP_ROOM), &taken, &one,
                            BPF_ANY) < 0)
        return -errno;
    return bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, STITCH_MAP_PORTS), &word_at,
                               &bits, BPF_ANY);
}

static int setup(void **state)
{
    (void)state;
    if (geteuid() != 0)
        snprintf(why, sizeof(why), "needs root");
    else if (unshare(CLONE_NEWNET) < 0)
        snprintf(why, sizeof(why), "no network namespace: %s", strerror(errno));
    else if (open_object() < 0)
        snprintf(why, sizeof(why), "the programs cannot be loaded: %s", strerror(errno));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bpf_object__close(object);
    kernel_reset();
    free(kernel_scratch);
    return 0;
}

/* A handshake somewhere in the middle: a method, a password, a request. */
static void make_flow(struct stitch_key *key, struct stitch_flow *f, bool v6)
{
    static const uint8_t bytes[24] = "\5\1\2\0\0\0\0\0\1\1u\1p";

    memset(key, 0, sizeof(*key));
    memset(f, 0, sizeof(*f));
    for (int i = 0; i < 16; i++) {
        key->local[i] = (uint8_t)(v6 ? 0x20 + i : i < 10 ? 0 : i < 12 ? 0xff : 10 + i);
        key->remote[i] = key->local[i];
    }
    key->remote[15] = 99;
    key->local_port = 40000;
    key->remote_port = PORT;
    memcpy(f->bytes, bytes, sizeof(bytes));
    memset(f->bytes + STITCH_STATIC, 'r', 10);
    f->steps[0] = (struct stitch_step){.len = 3, .version = 5, .good = 2, .reply_len = 2};
    f->steps[1] =
        (struct stitch_step){.at = 8, .len = 5, .before = 3, .version = 1, .reply_len = 2};
    f->steps[2] = (struct stitch_step){.at = STITCH_STATIC,
                                       .len = 10,
                                       .before = 8,
                                       .version = 5,
                                       .verdicts = STITCH_VERDICTS_SOCKS5};
    f->n_steps = 3;
    f->injected = 18;
    f->isn_client = BASE + 18;
    f->next_server = random_below(UINT32_MAX);
    f->state = (uint8_t)(1 + random_below(8) % 4);
    f->state = f->state == STITCH_SYN && random_below(2) ? STITCH_STEP : f->state;
    f->step = (uint8_t)(f->state == STITCH_STEP ? random_below(3) : 2);
    if (f->state == STITCH_STEP && f->step < 2)
        f->got = (uint16_t)random_below(2);
    else if (f->state == STITCH_STEP)
        f->got = (uint16_t)random_below(5);
    if (f->got == 4)
        f->reply_len = random_below(2) ? 10 : 0;
    f->verdict = (uint8_t)random_below(5);
    f->flags = (uint8_t)random_below(4);
    f->scale_client = 7;
    f->window_client = f->window_server = 0x7fff;
    f->options_len = (uint8_t)(4 * random_below(11));
    f->ts_at = (uint8_t)(f->options_len > 12 ? 4 : 0);
    f->ts_client = 0x01020304;
    f->ts_server = 0x05060708;
    for (size_t i = 0; i < sizeof(f->options); i++)
        f->options[i] = (uint8_t)random_below(256);
}

static void fill_options(uint8_t *to, size_t n)
{
    static const uint8_t usual[] = {2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7};

    for (size_t i = 0; i < n; i++)
        to[i] = (uint8_t)(i < sizeof(usual) && n % 8 ? usual[i] : random_below(40));
}

/* A segment from the server that nearly fits; returns its length. */
static size_t make_packet(uint8_t *p, const struct stitch_key *key, const struct stitch_flow *f,
                          bool v6)
{
    static const uint8_t flags[] = {TCP_ACK, TCP_ACK | TCP_PSH,      TCP_ACK | TCP_FIN, TCP_RST,
                                    TCP_SYN, TCP_SYN | TCP_ACK,      TCP_RST | TCP_ACK, TCP_ACK,
                                    TCP_ACK, TCP_SYN | TCP_ACK | 64, TCP_ACK | TCP_PSH, 0};
    size_t head = v6 ? 40 : 20, options = random_below(3) ? 12 : 4 * random_below(11),
           len = random_below(4) ? random_below(24) : random_below(400);
    uint8_t *ip = p + 14, *tcp = ip + head;
    uint32_t acks[] = {BASE + 1, BASE + 4, BASE + 9, BASE + 19, BASE + 2, BASE, 5};
    uint32_t seq = f->next_server - random_below(12) / 4,
             ack = random_below(4) ? BASE + 1 + f->steps[f->step].before + f->steps[f->step].len
                                   : acks[random_below(7)];
    uint16_t total = (uint16_t)(20 + options + len);

    memset(p, 0, ROOM);
    p[12] = v6 ? 0x86 : 0x08;
    p[13] = v6 ? 0xdd : 0x00;
    if (v6) {
        ip[0] = 0x60;
        ip[4] = (uint8_t)(total >> 8);
        ip[5] = (uint8_t)total;
        ip[6] = 6;
        memcpy(ip + 8, key->remote, 16);
        memcpy(ip + 24, key->local, 16);
    } else {
        ip[0] = 0x45;
        ip[2] = (uint8_t)((total + 20) >> 8);
        ip[3] = (uint8_t)(total + 20);
        ip[9] = 6;
        memcpy(ip + 12, key->remote + 12, 4);
        memcpy(ip + 16, key->local + 12, 4);
    }
    if (f->state == STITCH_SYN && random_below(2))
        ack = BASE + 1;
    *(uint16_t *)(void *)tcp = bpf_htons(PORT);
    *(uint16_t *)(void *)(tcp + 2) = bpf_htons(40000);
    seq = bpf_htonl(seq);
    ack = bpf_htonl(ack);
    memcpy(tcp + 4, &seq, 4);
    memcpy(tcp + 8, &ack, 4);
    tcp[12] = (uint8_t)((random_below(50) ? 5 + options / 4 : random_below(16)) << 4);
    tcp[13] = flags[random_below(sizeof(flags))];
    tcp[14] = 0x70;
    fill_options(tcp + 20, options);
    for (size_t i = 0; i < len; i++)
        tcp[20 + options + i] = (uint8_t)random_below(random_below(4) ? 6 : 256);
    return 14 + head + total + (random_below(8) ? 0 : random_below(8));
}

struct outcome {
    int verdict;
    uint8_t data[ROOM];
    size_t len;
    struct stitch_flow flow;
};

static void in_kernel(const uint8_t *packet, size_t len, const struct stitch_key *key,
                      const struct stitch_flow *f, struct outcome *ret)
{
    LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = packet, .data_size_in = (uint32_t)len,
                .data_out = ret->data, .data_size_out = sizeof(ret->data), .repeat = 1);

    assert_int_equal(bpf_map_update_elem(flows, key, f, BPF_ANY), 0);
    assert_int_equal(bpf_prog_test_run_opts(program, &o), 0);
    ret->verdict = (int)o.retval;
    ret->len = o.data_size_out;
    assert_int_equal(bpf_map_lookup_elem_flags(flows, key, &ret->flow, BPF_F_LOCK), 0);
    ret->flow.lock = 0;
}

static void in_model(const uint8_t *packet, size_t len, const struct stitch_key *key,
                     const struct stitch_flow *f, struct outcome *ret)
{
    struct kernel_packet p = {.ctx.len = (uint32_t)len, .ctx.ifindex = LOOPBACK};

    kernel_reset();
    kernel_room[STITCH_ROOM_TAKEN] = 1;
    kernel_script.server.port = PORT;
    kernel_ports = UINT64_C(1) << (PORT % 64);
    assert_int_equal(model_update(&us_st_flows, key, f, BPF_ANY), 0);
    p.ctx.protocol = (uint32_t)(packet[12] | packet[13] << 8);
    p.data = malloc(len);
    assert_non_null(p.data);
    memcpy(p.data, packet, len);
    ret->verdict = kernel_run(us_st_in, &p);
    ret->len = p.ctx.len;
    assert_true(ret->len <= ROOM);
    memcpy(ret->data, p.data, ret->len);
    memcpy(&ret->flow, kernel_flows[kernel_find_flow(key)].value, sizeof(ret->flow));
    ret->flow.lock = 0;
    free(p.data);
}

static void the_kernel_does_the_same(void **state)
{
    static uint8_t packet[ROOM];
    static struct outcome kernels, models;
    unsigned verdicts[3] = {0}, states[5] = {0};

    (void)state;
    if (why[0]) {
        print_message("skipped: %s\n", why);
        skip();
    }
    random_state = SEED;
    for (unsigned i = 0; i < PACKETS; i++) {
        bool v6 = random_below(3) == 0;
        struct stitch_key key;
        struct stitch_flow f;
        size_t len;

        make_flow(&key, &f, v6);
        len = make_packet(packet, &key, &f, v6);
        in_kernel(packet, len, &key, &f, &kernels);
        in_model(packet, len, &key, &f, &models);
        if (kernels.verdict != models.verdict)
            print_error("packet %u, state %u\n", i, f.state);
        assert_int_equal(kernels.verdict, models.verdict);
        kernels.flow.deadline = models.flow.deadline = 0; /* the model has another time */
        assert_memory_equal(&kernels.flow, &models.flow, sizeof(models.flow));
        verdicts[models.verdict == PASS ? 0 : models.verdict == SHOT ? 1 : 2]++;
        states[models.flow.state] += models.flow.state != f.state;
        if (models.verdict == SHOT)
            continue;
        assert_int_equal(kernels.len, models.len);
        assert_memory_equal(kernels.data, models.data, models.len);
    }
    /* It was about something. */
    for (size_t i = 0; i < 3; i++)
        assert_true(verdicts[i] > PACKETS / 100);
    assert_true(states[STITCH_STEP] > 100 && states[STITCH_GRANTED] > 20 &&
                states[STITCH_FAILED] > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_kernel_does_the_same)};

    return cmocka_run_group_tests(tests, setup, teardown);
}
