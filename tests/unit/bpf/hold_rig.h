/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What tests of honest captures share: two seats with a listener for each family, the test as the
 * worker of both, which reads SYNs from their rings, and sends them again or answers them from raw
 * sockets.
 */
#ifndef UNDERSOCK_TESTS_BPF_HOLD_RIG_H
#define UNDERSOCK_TESTS_BPF_HOLD_RIG_H

#include <sys/syscall.h>

#include "bpf/hold.h"
#include "fixture.h"

#define SEATS     2
#define FIRST     3 /* the seats' numbers */
#define SECOND    127
#define TCP_FIN   0x01
#define TCP_SYN   0x02
#define TCP_RST   0x04
#define TCP_ACK   0x10
#define SOMEWHERE "198.51.100.7:80"

struct rig {
    int v4[SEATS], v6[SEATS]; /* listeners */
    struct capture_seat seats[SEATS];
    struct capture_seat_ports ports[SEATS];
    struct capture_policy policy;
    struct capture_set set;
    struct bpf_capture *capture;
    struct hold_source sources[SEATS]; /* ctx NULL: not open */
    int raw4, raw6;
};

/* A SYN out of a ring, copied and taken apart. */
struct syn {
    size_t seat; /* index into rig.seats */
    uint8_t packet[300];
    size_t len, ip_len; /* of what came; of its IP header */
    struct addr from, to;
    uint32_t isn;
    uint8_t flags;
    struct origin origin;
    uint32_t interface;
    char capture[32];
};

static UNUSED void rig_policy(struct rig *rig)
{
    for (size_t i = 0; i < SEATS; i++) {
        rig->v4[i] = listen_at("127.0.0.1:0", &rig->ports[i].v4);
        rig->v6[i] = listen_at("[::1]:0", &rig->ports[i].v6);
        assert_true(rig->v4[i] >= 0 && rig->v6[i] >= 0);
        rig->seats[i] = (struct capture_seat){.number = i == 0 ? FIRST : SECOND, .serving = true};
        rig->sources[i] = (struct hold_source){.fd = -1};
    }
    rig->policy = plain_policy();
    rig->policy.honest = true;
    rig->policy.seat_ports = rig->ports;
    rig->set = (struct capture_set){
        .policies = &rig->policy, .n_policies = 1, .seats = rig->seats, .n_seats = SEATS};
}

static UNUSED void rig_open(struct rig *rig)
{
    for (size_t i = 0; i < SEATS; i++) {
        int fd = bpf_capture_ring_fd(rig->capture, rig->seats[i].number);

        assert_true(fd >= 0);
        assert_int_equal(bpf_hold_open(fd, rig->policy.name, &rig->sources[i]), 0);
        assert_int_equal(rig->sources[i].fd, fd);
    }
}

/* An honest capture of the inner cgroup; the SYNs of the seats are read here. */
static UNUSED void rig_up(struct rig *rig)
{
    int on = 1;

    rig_policy(rig);
    rig->capture = attach(&rig->set, 0, fixture.inner_fd);
    rig_open(rig);
    rig->raw4 = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    rig->raw6 = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    assert_true(rig->raw4 >= 0 && rig->raw6 >= 0);
    assert_int_equal(setsockopt(rig->raw6, SOL_IPV6, IPV6_HDRINCL, &on, sizeof(on)), 0);
}

static UNUSED void rig_down(struct rig *rig)
{
    for (size_t i = 0; i < SEATS; i++) {
        bpf_hold_close(&rig->sources[i]);
        shutdown(rig->v4[i], SHUT_RDWR); /* clients have copies of it */
        shutdown(rig->v6[i], SHUT_RDWR);
        close(rig->v4[i]);
        close(rig->v6[i]);
    }
    bpf_capture_detach(rig->capture);
    close(rig->raw4);
    close(rig->raw6);
}

static UNUSED void rig_replace(struct rig *rig)
{
    char why[BPF_WHY_MAX] = "";

    if (bpf_cgroup_replace(rig->capture, &rig->set, 0, why, sizeof(why)) < 0)
        fail_msg("%s", why);
}

/* ---- reading ---- */

static uint32_t get_be(const uint8_t *p, size_t n)
{
    uint32_t v = 0;

    while (n-- > 0)
        v = v << 8 | *p++;
    return v;
}

static void put_be(uint8_t *p, size_t n, uint32_t v)
{
    while (n-- > 0) {
        p[n] = (uint8_t)v;
        v >>= 8;
    }
}

static void take_apart(struct syn *s)
{
    bool v4 = s->packet[0] >> 4 == 4;
    const uint8_t *tcp;

    s->ip_len = v4 ? (s->packet[0] & 15u) * 4u : 40;
    assert_true(s->len >= s->ip_len + 20);
    assert_int_equal(s->packet[v4 ? 9 : 6], IPPROTO_TCP);
    tcp = s->packet + s->ip_len;
    memset(&s->from, 0, sizeof(s->from));
    memset(&s->to, 0, sizeof(s->to));
    if (v4) {
        s->from.ip[10] = s->from.ip[11] = s->to.ip[10] = s->to.ip[11] = 0xff;
        memcpy(s->from.ip + 12, s->packet + 12, 4);
        memcpy(s->to.ip + 12, s->packet + 16, 4);
    } else {
        memcpy(s->from.ip, s->packet + 8, 16);
        memcpy(s->to.ip, s->packet + 24, 16);
    }
    s->from.port = (uint16_t)get_be(tcp, 2);
    s->to.port = (uint16_t)get_be(tcp + 2, 2);
    s->isn = get_be(tcp + 4, 4);
    s->flags = tcp[13];
}

static void on_held(void *ctx, const struct held_syn *held)
{
    struct syn *s = ctx;

    assert_true(held->len <= sizeof(s->packet));
    assert_non_null(held->origin);
    memcpy(s->packet, held->packet, held->len);
    s->len = held->len;
    s->origin = *held->origin;
    s->interface = held->interface;
    snprintf(s->capture, sizeof(s->capture), "%s", held->capture);
    take_apart(s);
}

static UNUSED bool a_syn_waits(const struct rig *rig, int timeout)
{
    struct pollfd p[SEATS];

    for (size_t i = 0; i < SEATS; i++)
        p[i] = (struct pollfd){.fd = rig->sources[i].fd, .events = POLLIN};
    return poll(p, SEATS, timeout) > 0;
}

/* The next SYN of either seat; waits for it. */
static UNUSED void next_syn(const struct rig *rig, struct syn *ret)
{
    if (!a_syn_waits(rig, 10000))
        fail_msg("no SYN came");
    for (size_t i = 0; i < SEATS; i++) {
        const struct hold_source *source = &rig->sources[i];
        int n = source->fd < 0 ? 0 : source->ops->read(source->ctx, on_held, ret, 1);

        if (n == 1) {
            ret->seat = i;
            return;
        }
        assert_int_equal(n, 0);
    }
    fail_msg("a ring is readable and empty");
}

static void ignore_syn(void *ctx, const struct held_syn *held)
{
    (void)ctx;
    (void)held;
}

static UNUSED void forget_syns(const struct rig *rig)
{
    for (size_t i = 0; i < SEATS; i++) {
        const struct hold_source *source = &rig->sources[i];

        while (source->fd >= 0 && source->ops->read(source->ctx, ignore_syn, NULL, 100) != 0)
            ;
    }
}

/* ---- sending ---- */

static uint32_t sum(const uint8_t *p, size_t n, uint32_t so_far)
{
    for (; n > 1; n -= 2, p += 2)
        so_far += get_be(p, 2);
    return n > 0 ? so_far + (uint32_t)(*p << 8) : so_far;
}

static void put_sum(uint8_t *at, uint32_t s)
{
    while (s >> 16 != 0)
        s = (s & 0xffff) + (s >> 16);
    put_be(at, 2, ~s & 0xffff);
}

/* Fills in length and checksums of an IP packet with TCP, ICMP or ICMPv6. */
static void finish(uint8_t *p, size_t len)
{
    bool v4 = p[0] >> 4 == 4;
    size_t ip_len = v4 ? (p[0] & 15u) * 4u : 40, rest = len - ip_len;
    uint8_t protocol = p[v4 ? 9 : 6], *at = p + ip_len + (protocol == IPPROTO_TCP ? 16 : 2);
    uint32_t pseudo = protocol + (uint32_t)rest;

    if (v4) {
        put_be(p + 2, 2, (uint32_t)len);
        put_be(p + 10, 2, 0);
        put_sum(p + 10, sum(p, ip_len, 0));
        pseudo = protocol == IPPROTO_ICMP ? 0 : sum(p + 12, 8, pseudo);
    } else {
        put_be(p + 4, 2, (uint32_t)rest);
        pseudo = sum(p + 8, 32, pseudo);
    }
    put_be(at, 2, 0);
    put_sum(at, sum(p + ip_len, rest, pseudo));
}

static void send_raw(const struct rig *rig, const uint8_t *p, size_t len, const struct addr *to)
{
    struct addr host = *to;
    struct sockaddr_storage ss;
    socklen_t sa_len;

    host.port = 0;
    sa_len = addr_to_sockaddr(&host, &ss);
    assert_int_equal(
        sendto(p[0] >> 4 == 4 ? rig->raw4 : rig->raw6, p, len, 0, (struct sockaddr *)&ss, sa_len),
        len);
}

/* Sends the SYN itself, without its data: the listener accepts. */
static UNUSED void let_in(const struct rig *rig, const struct syn *s)
{
    uint8_t packet[300];
    size_t len = s->ip_len + (s->packet[s->ip_len + 12] >> 4) * 4u;

    assert_true(len <= s->len);
    memcpy(packet, s->packet, len);
    finish(packet, len);
    send_raw(rig, packet, len, &s->to);
}

/* An IP header from the listener back to the client; returns its length. */
static size_t start_answer(const struct syn *s, uint8_t protocol, uint8_t *p)
{
    if (s->packet[0] >> 4 == 4) {
        memset(p, 0, 20);
        p[0] = 0x45;
        p[8] = 64;
        p[9] = protocol;
        memcpy(p + 12, s->packet + 16, 4);
        memcpy(p + 16, s->packet + 12, 4);
        return 20;
    }
    memset(p, 0, 40);
    p[0] = 0x60;
    p[6] = protocol;
    p[7] = 64;
    memcpy(p + 8, s->packet + 24, 16);
    memcpy(p + 24, s->packet + 8, 16);
    return 40;
}

static UNUSED void answer_reset(const struct rig *rig, const struct syn *s)
{
    uint8_t packet[100];
    size_t at = start_answer(s, IPPROTO_TCP, packet);

    memset(packet + at, 0, 20);
    put_be(packet + at, 2, s->to.port);
    put_be(packet + at + 2, 2, s->from.port);
    put_be(packet + at + 8, 4, s->isn + 1);
    packet[at + 12] = 5 << 4;
    packet[at + 13] = TCP_RST | TCP_ACK;
    finish(packet, at + 20);
    send_raw(rig, packet, at + 20, &s->from);
}

/* What a listener answers an ACK with that belongs nowhere. */
static UNUSED void answer_bare_reset(const struct rig *rig, const struct syn *s, uint32_t seq)
{
    uint8_t packet[100];
    size_t at = start_answer(s, IPPROTO_TCP, packet);

    memset(packet + at, 0, 20);
    put_be(packet + at, 2, s->to.port);
    put_be(packet + at + 2, 2, s->from.port);
    put_be(packet + at + 4, 4, seq);
    packet[at + 12] = 5 << 4;
    packet[at + 13] = TCP_RST;
    finish(packet, at + 20);
    send_raw(rig, packet, at + 20, &s->from);
}

/* Host unreachable, with the SYN quoted. */
static UNUSED void answer_unreachable(const struct rig *rig, const struct syn *s)
{
    bool v4 = s->packet[0] >> 4 == 4;
    uint8_t packet[400];
    size_t at = start_answer(s, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, packet);

    memset(packet + at, 0, 8);
    packet[at] = v4 ? 3 : 1;
    packet[at + 1] = v4 ? 1 : 3;
    memcpy(packet + at + 8, s->packet, s->len);
    finish(packet, at + 8 + s->len);
    send_raw(rig, packet, at + 8 + s->len, &s->from);
}

/* ---- whole connections ---- */

static UNUSED int seat_listener(const struct rig *rig, const struct syn *s)
{
    return addr_is_v4(&s->to) ? rig->v4[s->seat] : rig->v6[s->seat];
}

static UNUSED void assert_nobody_is_let_in(const struct rig *rig)
{
    for (size_t i = 0; i < SEATS; i++) {
        assert_nobody_waits(rig->v4[i]);
        assert_nobody_waits(rig->v6[i]);
    }
    assert_nobody_waits(fixture.v4);
    assert_nobody_waits(fixture.v6);
    assert_nobody_waits(fixture.world);
}

/* The client waits, and its SYN tells everything about it. */
static UNUSED void assert_held(const struct rig *rig, const struct client *c,
                               const struct result *result, const struct syn *s,
                               const char *destination)
{
    struct stat st;

    assert_true(client_is_waiting(result));
    assert_nobody_is_let_in(rig);
    assert_int_equal(s->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN), TCP_SYN);
    assert_int_equal(s->to.port,
                     addr_is_v4(&s->to) ? rig->ports[s->seat].v4 : rig->ports[s->seat].v6);
    assert_string_equal(s->capture, rig->policy.name);
    assert_int_equal(s->interface, 1);
    assert_addr(&s->origin.destination, destination);
    assert_int_equal(s->origin.known, ORIGIN_PID | ORIGIN_UID | ORIGIN_CGROUP | ORIGIN_COMM);
    assert_string_equal(s->origin.comm, "us-client");
    assert_int_equal(s->origin.pid, result->pid);
    assert_int_equal(s->origin.uid, c->uid);
    assert_int_equal(fstat(c->outer ? fixture.outer_fd : fixture.inner_fd, &st), 0);
    assert_int_equal(s->origin.cgroup_id, st.st_ino);
}

/* The client's connection is at the listener of its seat, and looks from both ends as it should.
 * Returns it. */
static UNUSED int assert_let_in(const struct rig *rig, const struct client *c,
                                struct result *result, const struct syn *s, const char *destination)
{
    struct addr peer, local;
    struct origin origin;
    int fd = accept_one(seat_listener(rig, s), &peer, &local);

    assert_true(fd >= 0);
    client_wait(c, result);
    assert_int_equal(result->error, 0);
    assert_true(addr_equal(&peer, &s->from));
    assert_true(addr_equal(&peer, &result->local));
    assert_true(addr_equal(&local, &s->to));
    assert_int_equal(result->peer_error, 0);
    assert_addr(&result->peer, destination);
    assert_addr(&result->inherited_peer, destination);
    /* The map has nothing for whom nobody will ask. */
    assert_int_equal(origin_of(rig->capture, fd, &peer, &local, &origin), -ENOENT);
    assert_nobody_is_let_in(rig);
    return fd;
}

/* From beginning to end; returns the accepted connection with its client still there. */
static UNUSED void expect_held_and_let_in(const struct rig *rig, struct client c,
                                          const char *destination)
{
    struct result result;
    struct syn syn;

    client_start(&c, &result);
    next_syn(rig, &syn);
    assert_held(rig, &c, &result, &syn, destination);
    let_in(rig, &syn);
    close(assert_let_in(rig, &c, &result, &syn, destination));
    client_done(&result);
}

/* A copy of the connected socket of a client. */
static UNUSED int borrow_socket(const struct result *result)
{
    int process = (int)syscall(SYS_pidfd_open, result->pid, 0), found = -1;

    assert_true(process >= 0);
    for (int i = 0; i < 64 && found < 0; i++) {
        struct sockaddr_storage ss;
        socklen_t len = sizeof(ss);
        struct addr local;
        int fd = (int)syscall(SYS_pidfd_getfd, process, i, 0);

        if (fd >= 0 && getpeername(fd, (struct sockaddr *)&ss, &len) == 0 &&
            getsockname(fd, (struct sockaddr *)&ss, (len = sizeof(ss), &len)) == 0 &&
            addr_from_sockaddr((struct sockaddr *)&ss, len, &local) == 0 &&
            addr_equal(&local, &result->local))
            found = fd;
        else if (fd >= 0)
            close(fd);
    }
    close(process);
    assert_true(found >= 0);
    return found;
}

/* Our end goes without a word, and the listener answers what comes for it. How often the client had
 * sent its byte again when it believed that. */
static UNUSED uint32_t repeats_until_reset(struct result *result, int ours)
{
    int one = 1, fd = borrow_socket(result);
    const struct timeval patience = {.tv_sec = 10};
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    char byte;

    assert_int_equal(setsockopt(ours, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one)), 0);
    close(ours);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
    close(fd);
    return info.tcpi_total_retrans;
}

static UNUSED uint64_t missed(const struct rig *r)
{
    struct bpf_capture_counters counters;

    assert_int_equal(bpf_capture_read_counters(r->capture, &counters), 0);
    return counters.missed;
}

/* ---- for tests that each have a capture of their own ---- */

static struct rig rig;

/* Of the group: with a reason to skip when this kernel cannot hold. */
static UNUSED int hold_setup(void **state)
{
    int r = fixture_setup(state);

    if (r == 0 && fixture.skip[0] == '\0')
        bpf_can_hold(fixture.skip, sizeof(fixture.skip));
    return r;
}

static UNUSED int rig_each_setup(void **state)
{
    *state = &fixture;
    if (fixture.skip[0] == '\0')
        rig_up(&rig);
    return 0;
}

static UNUSED int rig_each_teardown(void **state)
{
    (void)state;
    if (fixture.skip[0] == '\0')
        rig_down(&rig);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_each_setup, rig_each_teardown)

#endif
