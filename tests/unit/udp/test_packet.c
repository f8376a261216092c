/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp/packet.c: what is built is looked at with a parser and a checksum of the test's own. */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "udp/packet.h"

#define MAX_PACKET 65600

struct parsed {
    bool v4;
    uint8_t protocol; /* behind a fragment header */
    const uint8_t *body;
    size_t len;
    size_t offset;
    bool more, fragment;
    uint32_t id;
};

static struct addr at(const char *text)
{
    struct addr a;

    assert_int_equal(addr_parse(text, 0, &a), 0);
    return a;
}

static uint16_t u16(const uint8_t *p)
{
    return (uint16_t)(p[0] * 256 + p[1]);
}

/* RFC 1071 as it is written there, byte after byte. */
static uint16_t ones(uint32_t start, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        start += i % 2 ? p[i] : (uint32_t)p[i] << 8;
        start = (start & 0xffff) + (start >> 16);
    }
    return (uint16_t)start;
}

/* The sum over a whole UDP or ICMPv6 message with its pseudo-header: 0xffff when it is right. */
static uint16_t pseudo(const uint8_t *ip, uint8_t protocol, const uint8_t *body, size_t len)
{
    bool v4 = ip[0] >> 4 == 4;
    uint32_t sum = ones(0, v4 ? ip + 12 : ip + 8, v4 ? 8 : 32);
    uint8_t rest[4] = {0, protocol, (uint8_t)(len >> 8), (uint8_t)len};

    return ones(ones(sum, rest, sizeof(rest)), body, len);
}

static size_t flat(uint8_t *to, const uint8_t *head, size_t head_len, const uint8_t *payload,
                   size_t len)
{
    memcpy(to, head, head_len);
    if (len > 0)
        memcpy(to + head_len, payload, len);
    return head_len + len;
}

static struct parsed parse(const uint8_t *p, size_t len)
{
    struct parsed r = {.v4 = p[0] >> 4 == 4};

    if (r.v4) {
        assert_int_equal(p[0], 0x45);
        assert_int_equal(u16(p + 2), len);
        r.id = u16(p + 4);
        assert_int_equal(p[6] & 0xc0, 0); /* neither reserved nor "don't" */
        r.more = p[6] & 0x20;
        r.offset = (size_t)(u16(p + 6) & 0x1fff) * 8;
        assert_true(p[8] > 0);
        r.protocol = p[9];
        r.body = p + 20;
        r.len = len - 20;
    } else {
        assert_int_equal(p[0], 0x60);
        assert_int_equal(u16(p + 4), len - 40);
        assert_true(p[7] > 0);
        r.protocol = p[6];
        r.body = p + 40;
        r.len = len - 40;
        if (r.protocol == IPPROTO_FRAGMENT) {
            r.protocol = r.body[0];
            assert_int_equal(r.body[1], 0);
            r.offset = u16(r.body + 2) & 0xfff8;
            assert_int_equal(r.body[3] & 6, 0);
            r.more = r.body[3] & 1;
            r.id = (uint32_t)u16(r.body + 4) << 16 | u16(r.body + 6);
            r.body += 8;
            r.len -= 8;
        }
    }
    r.fragment = r.more || r.offset > 0;
    return r;
}

static void expect_addresses(const uint8_t *p, const struct addr *from, const struct addr *to)
{
    if (addr_is_v4(from)) {
        assert_memory_equal(p + 12, from->ip + 12, 4);
        assert_memory_equal(p + 16, to->ip + 12, 4);
    } else {
        assert_memory_equal(p + 8, from->ip, 16);
        assert_memory_equal(p + 24, to->ip, 16);
    }
}

static uint8_t *noise(size_t len)
{
    uint8_t *p = malloc(len + 1);
    uint32_t x = 12345 + (uint32_t)len;

    assert_non_null(p);
    for (size_t i = 0; i < len; i++) {
        x = x * 1103515245 + 12345;
        p[i] = (uint8_t)(x >> 16);
    }
    return p;
}

static const char *const pairs[][2] = {
    {"203.0.113.10:53", "198.51.100.7:40000"},
    {"[2001:db8::10]:53", "[2001:db8:1::7]:40000"},
};
static const size_t lengths[] = {0, 1, 2, 7, 8, 9, 100, 511, 1471, 1472, 1473, 8192, 65000, 65507};

static void test_datagram(void **state)
{
    uint8_t *p = malloc(MAX_PACKET);

    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        struct addr from = at(pairs[f][0]), to = at(pairs[f][1]);

        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            uint8_t *data = noise(lengths[i]);
            struct udp_packet packet;

            assert_int_equal(packet_datagram(&packet, &from, &to, data, lengths[i]), 0);
            assert_true(addr_equal(&packet.client, &to));
            assert_ptr_equal(packet.payload, data); /* not copied */
            size_t len = flat(p, packet.head, packet.head_len, packet.payload, packet.payload_len);
            struct parsed r = parse(p, len);

            expect_addresses(p, &from, &to);
            assert_int_equal(r.protocol, IPPROTO_UDP);
            assert_false(r.fragment);
            assert_int_equal(u16(r.body), 53);
            assert_int_equal(u16(r.body + 2), 40000);
            assert_int_equal(u16(r.body + 4), lengths[i] + 8);
            assert_int_equal(r.len, lengths[i] + 8);
            assert_memory_equal(r.body + 8, data, lengths[i]);
            assert_int_not_equal(u16(r.body + 6), 0);
            assert_int_equal(pseudo(p, IPPROTO_UDP, r.body, r.len), 0xffff);
            free(data);
        }
    }
    free(p);
}

/* A sum of 0 is sent as 0xffff. Of all values of two bytes one gives it. */
static void test_checksum_zero(void **state)
{
    unsigned found = 0;

    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        struct addr from = at(pairs[f][0]), to = at(pairs[f][1]);

        for (unsigned v = 0; v < 65536; v++) {
            uint8_t data[2] = {(uint8_t)(v >> 8), (uint8_t)v};
            struct udp_packet packet;

            assert_int_equal(packet_datagram(&packet, &from, &to, data, 2), 0);
            uint16_t sum = u16(packet.head + packet.head_len - 2);

            assert_int_not_equal(sum, 0);
            found += sum == 0xffff;
        }
    }
    assert_true(found >= 2);
}

static void test_what_cannot_be(void **state)
{
    struct addr v4 = at(pairs[0][0]), v6 = at(pairs[1][1]), other = at(pairs[1][0]);
    uint8_t *data = noise(65536);
    struct udp_packet packet;

    (void)state;
    assert_int_equal(packet_datagram(&packet, &v4, &v6, data, 1), -EAFNOSUPPORT);
    assert_int_equal(packet_unreachable(&packet, &v4, &v6, data, 1), -EAFNOSUPPORT);
    assert_int_equal(packet_datagram(&packet, &v4, &v4, data, 65507), 0);
    assert_int_equal(packet_datagram(&packet, &v4, &v4, data, 65508), -EMSGSIZE);
    assert_int_equal(packet_datagram(&packet, &other, &v6, data, 65527), 0);
    assert_int_equal(packet_datagram(&packet, &other, &v6, data, 65528), -EMSGSIZE);
    assert_int_equal(packet_unreachable(&packet, &v4, &v4, data, 65508), -EMSGSIZE);
    free(data);
}

static void test_unreachable(void **state)
{
    uint8_t *p = malloc(MAX_PACKET), *whole = malloc(MAX_PACKET);

    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        struct addr destination = at(pairs[f][0]), client = at(pairs[f][1]);
        bool v4 = f == 0;

        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            uint8_t *data = noise(lengths[i]);
            struct udp_packet packet, sent;

            assert_int_equal(packet_unreachable(&packet, &destination, &client, data, lengths[i]),
                             0);
            assert_true(addr_equal(&packet.client, &client));
            size_t len = flat(p, packet.head, packet.head_len, packet.payload, packet.payload_len);
            struct parsed r = parse(p, len);

            assert_true(len <= (v4 ? 576u : 1280u));
            expect_addresses(p, &destination, &client);
            assert_int_equal(r.protocol, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
            assert_int_equal(r.body[0], v4 ? 3 : 1);
            assert_int_equal(r.body[1], v4 ? 3 : 4);
            assert_int_equal(r.body[4] | r.body[5] | r.body[6] | r.body[7], 0);
            assert_int_equal(v4 ? ones(0, r.body, r.len) : pseudo(p, IPPROTO_ICMPV6, r.body, r.len),
                             0xffff);
            /* The quote is the beginning of what the client sent. */
            assert_int_equal(packet_datagram(&sent, &client, &destination, data, lengths[i]), 0);
            size_t sent_len = flat(whole, sent.head, sent.head_len, data, lengths[i]);
            size_t quoted = r.len - 8;

            assert_true(quoted == sent_len || len > (v4 ? 568u : 1272u));
            if (v4) {
                assert_int_equal(ones(0, r.body + 8, 20), 0xffff);
                memcpy(whole + 10, r.body + 18, 2);
            }
            assert_memory_equal(r.body + 8, whole, quoted);
            free(data);
        }
    }
    free(p);
    free(whole);
}

/* The fragments of one, put together again. */
static void cut_and_join(const struct udp_packet *packet, uint32_t mtu)
{
    uint8_t *whole = malloc(MAX_PACKET), *joined = malloc(MAX_PACKET), *p = malloc(MAX_PACKET);
    size_t whole_len =
        flat(whole, packet->head, packet->head_len, packet->payload, packet->payload_len);
    struct parsed want = parse(whole, whole_len);
    struct packet_cut cut = {.packet = packet, .id = 0x12345678, .mtu = mtu};
    struct packet_fragment f;
    size_t end = 0;
    bool more = true;

    while (more) {
        assert_int_equal(packet_next_fragment(&cut, &f), 1);
        size_t len = flat(p, f.head, f.head_len, f.payload, f.payload_len);
        struct parsed r = parse(p, len);

        assert_true(len <= mtu);
        assert_memory_equal(want.v4 ? p + 12 : p + 8, want.v4 ? whole + 12 : whole + 8,
                            want.v4 ? 8 : 32);
        assert_int_equal(r.protocol, want.protocol);
        assert_int_equal(r.id, want.v4 ? 0x5678 : 0x12345678);
        assert_int_equal(r.offset, end);
        more = r.more;
        if (more) { /* as long as it may be */
            assert_int_equal(r.len % 8, 0);
            assert_true(len + 8 > mtu);
        }
        memcpy(joined + end, r.body, r.len);
        end += r.len;
    }
    assert_int_equal(packet_next_fragment(&cut, &f), 0);
    assert_int_equal(end, want.len);
    assert_memory_equal(joined, want.body, end);
    free(whole);
    free(joined);
    free(p);
}

static void test_fragments(void **state)
{
    static const uint32_t mtus[] = {68, 69, 75, 76, 576, 1280, 1499, 1500, 9000, 65535};

    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        struct addr from = at(pairs[f][0]), to = at(pairs[f][1]);

        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            uint8_t *data = noise(lengths[i]);
            struct udp_packet packet;

            for (size_t m = 0; m < sizeof(mtus) / sizeof(mtus[0]); m++) {
                assert_int_equal(packet_datagram(&packet, &from, &to, data, lengths[i]), 0);
                cut_and_join(&packet, mtus[m]);
            }
            assert_int_equal(packet_unreachable(&packet, &from, &to, data, lengths[i]), 0);
            cut_and_join(&packet, 300);
            free(data);
        }
    }
}

static void test_mtu_too_small(void **state)
{
    struct addr from = at(pairs[0][0]), to = at(pairs[0][1]);
    struct addr from6 = at(pairs[1][0]), to6 = at(pairs[1][1]);
    struct udp_packet packet;
    struct packet_fragment f;
    uint8_t data[100] = {0};

    (void)state;
    for (uint32_t mtu = 0; mtu < 28; mtu++) {
        assert_int_equal(packet_datagram(&packet, &from, &to, data, sizeof(data)), 0);
        struct packet_cut cut = {.packet = &packet, .id = 1, .mtu = mtu};

        assert_int_equal(packet_next_fragment(&cut, &f), -EMSGSIZE);
    }
    for (uint32_t mtu = 0; mtu < 56; mtu++) {
        assert_int_equal(packet_datagram(&packet, &from6, &to6, data, sizeof(data)), 0);
        struct packet_cut cut = {.packet = &packet, .id = 1, .mtu = mtu};

        assert_int_equal(packet_next_fragment(&cut, &f), -EMSGSIZE);
    }
    /* ICMP's own header goes with the first fragment, all of it. */
    assert_int_equal(packet_unreachable(&packet, &from, &to, data, sizeof(data)), 0);
    struct packet_cut cut = {.packet = &packet, .id = 1, .mtu = 28};

    assert_int_equal(packet_next_fragment(&cut, &f), -EMSGSIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_datagram),       cmocka_unit_test(test_checksum_zero),
        cmocka_unit_test(test_what_cannot_be), cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_fragments),      cmocka_unit_test(test_mtu_too_small),
    };

    return cmocka_run_group_tests_name("udp/packet", tests, NULL, NULL);
}
