/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A packet that a capture holds: what is read of it, and what it is answered. The source is taken
 * in whole, as a fuzzer is linked with daemon/base and daemon/socks only.
 */
#include <stdbool.h>

#include "flow/syn.c"
#include "fuzz.h"

/* A block of exactly `n` bytes, so that reading one too many is seen. */
static int parse_copy(const uint8_t *data, size_t n, struct syn *ret)
{
    uint8_t *copy = malloc(n + !n);

    FUZZ_CHECK(copy);
    if (n > 0)
        memcpy(copy, data, n);
    int r = syn_parse(copy, n, ret);

    free(copy);
    return r;
}

static size_t payload_at(const uint8_t *p)
{
    size_t at = 40;

    if (p[0] >> 4 == 4)
        return (p[0] & 15u) * 4u;
    for (uint8_t next = p[6]; next == 0 || next == 60; at += 8 + p[at + 1] * 8u)
        next = p[at];
    return at;
}

/* Ones' complement: -0 when the checksum in it is right. */
static bool sums_up(unsigned long start, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        start += i % 2 ? p[i] : p[i] * 256ul;
    return start > 0 && start % 65535 == 0;
}

/* A whole packet of ours: its length and its checksums. */
static void check_packet(const uint8_t *p, size_t len, unsigned protocol)
{
    bool v4 = p[0] >> 4 == 4;
    size_t at = payload_at(p), from = v4 ? 12 : 8, n = v4 ? 8 : 32;
    unsigned long pseudo = protocol + len - at;

    FUZZ_CHECK(at < len && p[0] >> 4 == (v4 ? 4 : 6));
    FUZZ_CHECK(p[v4 ? 2 : 4] * 256u + p[v4 ? 3 : 5] == (v4 ? len : len - 40));
    FUZZ_CHECK(!v4 || (p[9] == protocol && sums_up(0, p, at)));
    for (size_t i = 0; i < n; i++)
        pseudo += i % 2 ? p[from + i] : p[from + i] * 256ul;
    FUZZ_CHECK(sums_up(protocol == IPPROTO_ICMP ? 0 : pseudo, p + at, len - at));
}

static void check_answer(const struct syn *s, const uint8_t *p, size_t len, unsigned protocol)
{
    size_t n = s->packet[0] >> 4 == 4 ? 4 : 16, at = n == 4 ? 12 : 8;
    struct syn none;

    FUZZ_CHECK(len <= SYN_ANSWER_MAX && p[0] >> 4 == s->packet[0] >> 4);
    FUZZ_CHECK(memcmp(p + at, s->packet + at + n, n) == 0);
    FUZZ_CHECK(memcmp(p + at + n, s->packet + at, n) == 0);
    check_packet(p, len, protocol);
    FUZZ_CHECK(parse_copy(p, len, &none) == -EPROTO);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct syn s, poison, second;
    uint8_t answer[SYN_ANSWER_MAX];

    memset(&poison, 0xa5, sizeof(poison));
    s = poison;
    int r = syn_parse(data, size, &s);

    if (r < 0) {
        FUZZ_CHECK(r == -EPROTO && memcmp(&s, &poison, sizeof(s)) == 0);
        return 0;
    }
    FUZZ_CHECK(r == 0 && s.len >= 40 && s.len <= SYN_MAX && s.len <= size);
    bool v4 = data[0] >> 4 == 4;
    size_t tcp = payload_at(s.packet);

    FUZZ_CHECK(addr_is_v4(&s.client) == v4 && addr_is_v4(&s.destination) == v4);
    FUZZ_CHECK(!addr_is_any(&s.client) && !addr_is_any(&s.destination));
    FUZZ_CHECK(s.client.port != 0 && s.client.scope == 0 && s.destination.scope == 0);
    FUZZ_CHECK(s.client.unused == 0 && s.destination.unused == 0);
    FUZZ_CHECK((s.packet[tcp + 13] & 0x17) == 0x02);
    FUZZ_CHECK(tcp + (s.packet[tcp + 12] >> 4) * 4u == s.len);
    for (size_t i = 0; i < s.len; i++) { /* lengths and checksums aside, as it came */
        bool written = v4 ? i == 2 || i == 3 || i == 10 || i == 11 : i == 4 || i == 5;

        FUZZ_CHECK(written || i == tcp + 16 || i == tcp + 17 || s.packet[i] == data[i]);
    }
    check_packet(s.packet, s.len, IPPROTO_TCP);

    for (size_t n = 0; n < size && n < SYN_MAX + 8; n++) { /* needed whole, and nothing besides */
        second = poison;
        FUZZ_CHECK(parse_copy(data, n, &second) == (n < s.len ? -EPROTO : 0));
        FUZZ_CHECK(n < s.len || memcmp(second.packet, s.packet, s.len) == 0);
    }
    FUZZ_CHECK(parse_copy(s.packet, s.len, &second) == 0);
    FUZZ_CHECK(addr_equal(&second.client, &s.client) && second.isn == s.isn);
    FUZZ_CHECK(addr_equal(&second.destination, &s.destination) && second.len == s.len);
    FUZZ_CHECK(memcmp(second.packet, s.packet, s.len) == 0);

    size_t len = syn_make_reset(&s, answer);

    check_answer(&s, answer, len, IPPROTO_TCP);
    for (int why = SYN_HOST_UNREACHABLE; why <= SYN_PROHIBITED; why++) {
        len = syn_make_unreachable(&s, (enum syn_unreachable)why, answer);
        FUZZ_CHECK(len == s.len + (v4 ? 28u : 48u));
        check_answer(&s, answer, len, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
        FUZZ_CHECK(memcmp(answer + len - s.len, s.packet, s.len) == 0);
    }
    return 0;
}
