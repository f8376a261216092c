/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow/syn.c: SYNs written out byte by byte, whole, cut short at each byte and with one field
 * broken at a time; the answers; and, where there are privileges, a kernel that judges both: tun
 * devices in network namespaces of their own, between which this test is the wire.
 */
#include "flow/syn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* cmocka.h wants these first. */
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define POISON 0xa5
#define ROOM   1024

#define TCP_PLAIN "c350 01bb 01020304 00000000 5002 faf0 1234 0000"
#define V4_SAMPLE "c0000201 cb007107" /* 192.0.2.1 to 203.0.113.7 */
#define V6_SAMPLE "20010db8000000000000000000000001 20010db8000100000000000000000007"
#define DATA_17   "474554202f20485454502f312e300d0a0d"

enum {
    V4_PLAIN,
    V4_LINUX,
    V4_OPTIONS,
    V4_FASTOPEN,
    V4_MPTCP,
    V4_ODD,
    V6_PLAIN,
    V6_EXTENSIONS,
    V6_FASTOPEN,
    V6_LINK_LOCAL,
    SAMPLES
};

static const struct {
    const char *hex, *client, *destination;
    size_t headers; /* the rest is data */
    uint32_t isn;
} samples[SAMPLES] = {
    [V4_PLAIN] = {"4500 0028 1234 4000 40 06 abcd " V4_SAMPLE TCP_PLAIN, "192.0.2.1:50000",
                  "203.0.113.7:443", 40, 0x01020304},
    [V4_LINUX] = {"4510 003c 0000 4000 40 06 0000 " V4_SAMPLE
                  "c350 01bb f1020304 00000000 a002 fef0 0000 0000"
                  "020405b4 0402 080a1122334400000000 01 030307",
                  "192.0.2.1:50000", "203.0.113.7:443", 60, 0xf1020304},
    /* Router alert, record route, timestamps, and behind the end of the list anything. */
    [V4_OPTIONS] =
        {"4f00 0078 0001 0000 01 06 ffff " V4_SAMPLE
         "94040000 01 070b04 0000000000000000 440c0500 0000000000000000"
         "00 ffffffffffffffffffffff"
         "c350 01bb 01020304 00000000 f002 0000 0000 0000"
         "020405b4 010101010101010101010101010101010101010101010101010101010101010101010101",
         "192.0.2.1:50000", "203.0.113.7:443", 120, 0x01020304},
    [V4_FASTOPEN] = {"4500 0049 1234 4000 40 06 0000 " V4_SAMPLE
                     "c350 0050 01020304 00000000 9002 faf0 ffff 0000"
                     "020405b4 0402 220a0011223344556677" DATA_17,
                     "192.0.2.1:50000", "203.0.113.7:80", 56, 0x01020304},
    [V4_MPTCP] = {"4500 0030 1234 4000 40 06 0000 " V4_SAMPLE
                  "c350 01bb 01020304 00000000 7002 faf0 0000 0000 020405b4 1e040181",
                  "192.0.2.1:50000", "203.0.113.7:443", 48, 0x01020304},
    /* The reserved bit, no time to live, ECN, URG, PSH, an acknowledgement number, port 0, loopback
     * to class E. */
    [V4_ODD] = {"4503 0028 0000 8000 00 06 0000 7f000001 f0000001"
                "ffff 0000 ffffffff 99999999 51ea 0000 0000 0005",
                "127.0.0.1:65535", "240.0.0.1:0", 40, 0xffffffff},
    [V6_PLAIN] = {"60000000 0014 06 40 " V6_SAMPLE TCP_PLAIN, "[2001:db8::1]:50000",
                  "[2001:db8:1::7]:443", 60, 0x01020304},
    /* Hop-by-hop (router alert, PadN), destination options twice (tunnel limit, Pad1, one that
     * nobody knows; PadN). */
    [V6_EXTENSIONS] = {"6abcdef1 0038 00 01 " V6_SAMPLE "3c00 05020000 0100"
                       "3c01 040104 00 1e08 1122334455667788 0600 0104 00000000"
                       "c350 01bb 01020304 00000000 6002 faf0 0000 0000 020405b4",
                       "[2001:db8::1]:50000", "[2001:db8:1::7]:443", 96, 0x01020304},
    [V6_FASTOPEN] = {"60000000 0035 06 40 " V6_SAMPLE
                     "c350 0050 01020304 00000000 9002 faf0 0000 0000"
                     "020405b4 0402 220a0011223344556677" DATA_17,
                     "[2001:db8::1]:50000", "[2001:db8:1::7]:80", 76, 0x01020304},
    [V6_LINK_LOCAL] = {"60000000 0014 06 ff fe800000000000000000000000000001"
                       "fe800000000000000000000000000002" TCP_PLAIN,
                       "[fe80::1]:50000", "[fe80::2]:443", 60, 0x01020304},
};

static size_t from_hex(const char *hex, uint8_t *to)
{
    size_t digits = 0;

    for (; *hex; hex++) {
        if (*hex == ' ')
            continue;
        const char *at = strchr("0123456789abcdef", *hex);

        assert_non_null(at);
        assert_true(digits / 2 < ROOM);
        uint8_t digit = (uint8_t)(at - "0123456789abcdef");

        to[digits / 2] = (uint8_t)(digits % 2 ? to[digits / 2] << 4 | digit : digit);
        digits++;
    }
    assert_int_equal(digits % 2, 0);
    return digits / 2;
}

static unsigned u16_at(const uint8_t *p)
{
    return p[0] * 256u + p[1];
}

/* Where the TCP header of a packet begins that is known to be right. */
static size_t tcp_at(const uint8_t *p)
{
    size_t at = 40;

    if (p[0] >> 4 == 4)
        return (p[0] & 15u) * 4u;
    for (uint8_t next = p[6]; next != IPPROTO_TCP; at += 8 + p[at + 1] * 8u)
        next = p[at];
    return at;
}

/* From a block of its exact size, into poison that a failure leaves alone. */
static int parse(const uint8_t *bytes, size_t len, struct syn *ret)
{
    struct syn poison;
    uint8_t *copy = malloc(len + !len);

    assert_non_null(copy);
    if (len > 0)
        memcpy(copy, bytes, len);
    memset(&poison, POISON, sizeof(poison));
    memset(ret, POISON, sizeof(*ret));
    int r = syn_parse(copy, len, ret);

    free(copy);
    if (r < 0) {
        assert_int_equal(r, -EPROTO);
        assert_memory_equal(ret, &poison, sizeof(poison));
    } else {
        assert_int_equal(r, 0);
    }
    return r;
}

/* ---- checksums, in another way: a column at a time, the pseudo header laid out ---- */

/* True when the ones' complement sum over `data` is -0. */
static bool sums_up(const uint8_t *data, size_t len)
{
    unsigned long high = 0, low = 0;

    for (size_t i = 0; i < len; i++)
        *(i % 2 ? &low : &high) += data[i];
    return high + low > 0 && (high * 256 + low) % 65535 == 0;
}

/* Every checksum of a whole IP packet, and its length. `payload`: where what is behind the IP
 * headers begins. */
static void check_sums(const uint8_t *p, size_t len, size_t payload, uint8_t protocol)
{
    uint8_t pseudo[40 + ROOM] = {0};
    size_t n = len - payload;

    assert_true(len <= ROOM && payload < len);
    if (p[0] >> 4 == 4) {
        assert_int_equal(u16_at(p + 2), len);
        assert_true(sums_up(p, payload));
        assert_int_equal(p[9], protocol);
        if (protocol == IPPROTO_ICMP) {
            assert_true(sums_up(p + payload, n));
            return;
        }
        memcpy(pseudo + 24, p + 12, 8);
    } else {
        assert_int_equal(p[0] >> 4, 6);
        assert_int_equal(u16_at(p + 4), len - 40);
        memcpy(pseudo, p + 8, 32);
    }
    pseudo[34] = (uint8_t)(n >> 8);
    pseudo[35] = (uint8_t)n;
    pseudo[39] = protocol;
    memcpy(pseudo + 40, p + payload, n);
    assert_true(sums_up(pseudo, 40 + n));
}

/* ---- reading ---- */

/* Whatever is right about any SYN that was read from `bytes`. */
static void check_syn(const struct syn *s, const uint8_t *bytes, size_t headers)
{
    uint8_t masked[ROOM], was[ROOM];
    struct syn again;
    bool v4 = bytes[0] >> 4 == 4;
    size_t tcp = tcp_at(bytes);

    assert_int_equal(s->len, headers);
    /* Lengths and checksums aside, the headers are as they were. */
    memcpy(masked, s->packet, headers);
    memcpy(was, bytes, headers);
    if (v4) {
        memset(masked + 2, 0, 2);
        memset(was + 2, 0, 2);
        memset(masked + 10, 0, 2);
        memset(was + 10, 0, 2);
    } else {
        memset(masked + 4, 0, 2);
        memset(was + 4, 0, 2);
    }
    memset(masked + tcp + 16, 0, 2);
    memset(was + tcp + 16, 0, 2);
    assert_memory_equal(masked, was, headers);
    check_sums(s->packet, headers, tcp, IPPROTO_TCP);
    /* And it is a SYN that comes out as it went in. */
    assert_int_equal(parse(s->packet, s->len, &again), 0);
    assert_memory_equal(again.packet, s->packet, s->len);
    assert_true(addr_equal(&again.client, &s->client));
    assert_true(addr_equal(&again.destination, &s->destination));
}

static void each_syn_is_read(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        uint8_t bytes[ROOM];
        size_t len = from_hex(samples[i].hex, bytes), headers = samples[i].headers;
        char text[ADDR_STRLEN];
        struct syn s, part;

        assert_true(len >= headers);
        assert_int_equal(parse(bytes, len, &s), 0);
        assert_string_equal(addr_format(&s.client, text), samples[i].client);
        assert_string_equal(addr_format(&s.destination, text), samples[i].destination);
        assert_int_equal(s.client.scope | s.client.unused, 0);
        assert_int_equal(s.isn, samples[i].isn);
        check_syn(&s, bytes, headers);

        /* Every header is needed whole; what is behind has no say, nor has the link's padding. */
        for (size_t n = 0; n < headers; n++)
            assert_int_equal(parse(bytes, n, &part), -EPROTO);
        memset(bytes + len, 0xff, sizeof(bytes) - len);
        for (size_t n = headers; n <= sizeof(bytes); n += n > len ? 97 : 1) {
            assert_int_equal(parse(bytes, n, &part), 0);
            assert_int_equal(part.isn, s.isn);
            assert_memory_equal(part.packet, s.packet, headers);
            assert_int_equal(part.len, headers);
        }
    }
}

static void checksums_that_came_do_not_matter(void **state)
{
    uint8_t bytes[ROOM];
    struct syn s, other;

    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        size_t len = from_hex(samples[i].hex, bytes), headers = samples[i].headers;
        size_t tcp = tcp_at(bytes);

        assert_int_equal(parse(bytes, len, &s), 0);
        for (unsigned v = 0; v < 256; v++) {
            bytes[tcp + 16] = (uint8_t)v;
            bytes[tcp + 17] = (uint8_t)(v * 7);
            if (i < V6_PLAIN)
                bytes[10] = bytes[11] = (uint8_t)v;
            assert_int_equal(parse(bytes, len, &other), 0);
            assert_memory_equal(other.packet, s.packet, headers);
        }
    }
}

/* Of 65536 sums, some carry into what was folded already. */
static void every_carry_is_folded(void **state)
{
    uint8_t bytes[ROOM], answer[SYN_ANSWER_MAX];
    size_t len = from_hex(samples[V4_LINUX].hex, bytes);
    struct syn s;

    (void)state;
    for (unsigned v = 0; v < 65536; v++) {
        bytes[26] = (uint8_t)(v >> 8); /* of the sequence number, and so also in the answer */
        bytes[27] = (uint8_t)v;
        assert_int_equal(syn_parse(bytes, len, &s), 0);
        check_sums(s.packet, s.len, 20, IPPROTO_TCP);
        size_t n = syn_make_reset(&s, answer);

        check_sums(answer, n, 20, IPPROTO_TCP);
    }
}

/* All values of the fields that decide, each alone. */
static void fields_decide(void **state)
{
    uint8_t bytes[ROOM];
    struct syn s;

    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        bool v4 = i < V6_PLAIN;
        size_t len = from_hex(samples[i].hex, bytes), headers = samples[i].headers;
        size_t base = v4 ? 0 : 40, tcp = tcp_at(bytes);
        uint8_t was = bytes[0];

        for (unsigned v = 0; v < 16; v++) { /* version */
            bytes[0] = (uint8_t)(v << 4 | (was & 15));
            assert_int_equal(parse(bytes, len, &s), v == was >> 4 ? 0 : -EPROTO);
        }
        bytes[0] = was;
        uint8_t *field = bytes + (v4 ? 2 : 4), first = field[0], second = field[1];

        for (unsigned v = 0; v < 65536; v += v < 300 ? 1 : 251) { /* length */
            field[0] = (uint8_t)(v >> 8);
            field[1] = (uint8_t)v;
            assert_int_equal(parse(bytes, len, &s), v >= headers - base ? 0 : -EPROTO);
        }
        field[0] = first;
        field[1] = second;
        field = bytes + (v4 ? 9 : i == V6_EXTENSIONS ? 64 : 6);
        for (unsigned v = 0; v < 256; v++) { /* protocol; the last of the next headers */
            *field = (uint8_t)v;
            assert_int_equal(parse(bytes, len, &s), v == IPPROTO_TCP ? 0 : -EPROTO);
        }
        *field = IPPROTO_TCP;
        field = bytes + tcp + 13;
        was = *field;
        for (unsigned v = 0; v < 256; v++) { /* flags: SYN, and not ACK, RST, FIN */
            *field = (uint8_t)v;
            assert_int_equal(parse(bytes, len, &s), (v & 0x17) == 0x02 ? 0 : -EPROTO);
        }
        *field = was;
        field = bytes + tcp + 12;
        was = *field;
        for (unsigned v = 0; v < 16; v++) { /* data offset */
            *field = (uint8_t)(v << 4);
            int r = parse(bytes, len, &s);

            assert_int_equal(r, v >= 5 && tcp + v * 4 <= len ? 0 : -EPROTO);
            if (r == 0)
                check_syn(&s, bytes, tcp + v * 4);
        }
        *field = was;
        if (v4) {
            for (unsigned v = 0; v < 65536; v++) { /* fragments: all but "don't" and reserved */
                bytes[6] = (uint8_t)(v >> 8);
                bytes[7] = (uint8_t)v;
                if (v < 300 || v % 251 == 0 || (v & (v - 1)) == 0)
                    assert_int_equal(parse(bytes, len, &s), v & 0x3fff ? -EPROTO : 0);
            }
        }
    }
}

static const struct {
    unsigned sample;
    size_t at;
    const char *hex, *what;
} broken[] = {
    {V4_PLAIN, 0, "40", "header length 0"},
    {V4_PLAIN, 0, "44", "header length 16"},
    {V4_PLAIN, 0, "4f", "header length of more than there is"},
    {V4_OPTIONS, 0, "4e", "header length that is too short for its options: TCP elsewhere"},
    {V4_OPTIONS, 2, "0077", "total length within the TCP header"},
    {V4_OPTIONS, 2, "0028", "total length within the options"},
    {V4_PLAIN, 12, "00000000", "source 0.0.0.0"},
    {V4_PLAIN, 12, "e0000001", "source multicast"},
    {V4_PLAIN, 12, "efffffff", "source multicast, the last"},
    {V4_PLAIN, 12, "ffffffff", "source broadcast"},
    {V4_PLAIN, 16, "00000000", "destination 0.0.0.0"},
    {V4_PLAIN, 16, "e00000fb", "destination multicast"},
    {V4_PLAIN, 16, "ffffffff", "destination broadcast"},
    {V4_PLAIN, 20, "0000", "source port 0"},
    {V4_OPTIONS, 20, "83", "loose source route"},
    {V4_OPTIONS, 20, "89", "strict source route"},
    {V4_OPTIONS, 21, "00", "option of length 0"},
    {V4_OPTIONS, 21, "01", "option of length 1"},
    {V4_OPTIONS, 21, "29", "option that is longer than the header"},
    {V4_OPTIONS, 37, "19", "a later one, likewise"},
    {V4_OPTIONS, 48, "010101010101010101010194", "the last, without its length"},
    {V4_OPTIONS, 48, "010101010101010101019401", "the last, with a length of 1"},
    {V6_PLAIN, 8, "00000000000000000000000000000000", "source ::"},
    {V6_PLAIN, 8, "ff02", "source multicast"},
    {V6_PLAIN, 8, "00000000000000000000ffffc0000201", "source v4-mapped"},
    {V6_PLAIN, 24, "00000000000000000000000000000000", "destination ::"},
    {V6_PLAIN, 24, "ff0e", "destination multicast"},
    {V6_PLAIN, 24, "00000000000000000000ffffcb007107", "destination v4-mapped"},
    {V6_PLAIN, 40, "0000", "source port 0"},
    {V6_PLAIN, 4, "0000", "jumbogram"},
    {V6_EXTENSIONS, 6, "2b", "routing header first"},
    {V6_EXTENSIONS, 6, "2c", "fragment header first"},
    {V6_EXTENSIONS, 40, "2b", "routing header"},
    {V6_EXTENSIONS, 40, "2c", "fragment header"},
    {V6_EXTENSIONS, 40, "33", "AH"},
    {V6_EXTENSIONS, 40, "32", "ESP"},
    {V6_EXTENSIONS, 40, "00", "hop-by-hop twice"},
    {V6_EXTENSIONS, 40, "3b", "no next header"},
    {V6_EXTENSIONS, 41, "ff", "extension header that is longer than the packet"},
    {V6_EXTENSIONS, 65, "ff", "the last, likewise"},
    {V6_EXTENSIONS, 42, "c2", "jumbo payload option"},
    {V6_EXTENSIONS, 50, "c9", "home address option"},
    {V6_EXTENSIONS, 55, "09", "option that is longer than its header"},
    {V6_EXTENSIONS, 67, "030100001e", "option without its length"},
};

static void one_broken_field_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        uint8_t bytes[ROOM], patch[ROOM];
        size_t len = from_hex(samples[broken[i].sample].hex, bytes);
        size_t n = from_hex(broken[i].hex, patch);
        struct syn s;

        assert_int_equal(parse(bytes, len, &s), 0);
        assert_true(broken[i].at + n <= len);
        assert_memory_not_equal(bytes + broken[i].at, patch, n);
        memcpy(bytes + broken[i].at, patch, n);
        if (parse(bytes, len, &s) == 0)
            fail_msg("%s: accepted", broken[i].what);
    }
}

/* Neighbours of what is refused. */
static void what_is_merely_unusual_is_read(void **state)
{
    static const struct {
        unsigned sample;
        size_t at;
        const char *hex;
    } unusual[] = {
        {V4_PLAIN, 12, "00000001"},
        {V4_PLAIN, 12, "dfffffff"},
        {V4_PLAIN, 16, "f0000000"},
        {V4_PLAIN, 16, "fffffffe"},
        {V4_PLAIN, 12, "cb007107"}, /* to itself */
        {V4_OPTIONS, 20, "82"},     /* security */
        {V4_OPTIONS, 37, "18"},
        {V4_OPTIONS, 48, "010101010101010101010101"},
        {V4_OPTIONS, 48, "010101010101010101019402"},
        {V6_PLAIN, 8, "00000000000000000000000000000001"},
        {V6_PLAIN, 8, "00000000000000000000fffec0000201"},
        {V6_PLAIN, 24, "feff"},
        {V6_EXTENSIONS, 55, "071122334455667700"},
        {V6_EXTENSIONS, 66, "000000000000"},
        {V6_EXTENSIONS, 66, "010200001e00"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(unusual) / sizeof(unusual[0]); i++) {
        uint8_t bytes[ROOM];
        size_t len = from_hex(samples[unusual[i].sample].hex, bytes);
        struct syn s;

        from_hex(unusual[i].hex, bytes + unusual[i].at);
        if (parse(bytes, len, &s) < 0)
            fail_msg("%s is refused", unusual[i].hex);
        check_syn(&s, bytes, samples[unusual[i].sample].headers);
    }
}

/* A plain IPv6 SYN with `n` extension headers of `size` bytes each, and TCP of 40 bytes. */
static size_t extended(uint8_t *bytes, unsigned n, size_t size)
{
    size_t at = 40;

    memset(bytes, 0, ROOM);
    from_hex(samples[V6_PLAIN].hex, bytes);
    bytes[6] = n > 0 ? IPPROTO_DSTOPTS : IPPROTO_TCP;
    for (unsigned i = 0; i < n; i++, at += size) {
        memset(bytes + at, 0, size); /* options: Pad1 */
        bytes[at] = i + 1 < n ? IPPROTO_DSTOPTS : IPPROTO_TCP;
        bytes[at + 1] = (uint8_t)(size / 8 - 1);
    }
    from_hex(TCP_PLAIN, bytes + at);
    memset(bytes + at + 20, 1, 20);
    bytes[at + 12] = 0xa0;
    bytes[4] = (uint8_t)(at >> 8);
    bytes[5] = (uint8_t)at; /* - 40 of the IP header + 40 of TCP */
    return at + 40;
}

static void headers_end_at_syn_max(void **state)
{
    uint8_t bytes[ROOM], answer[SYN_ANSWER_MAX];
    struct syn s;

    (void)state;
    for (unsigned n = 0; n <= 24; n++) { /* many small ones, and one large one */
        for (unsigned one = 0; one < 2 && n > 0; one++) {
            size_t len = one ? extended(bytes, 1, n * 8) : extended(bytes, n, 8);

            assert_int_equal(len, 80 + n * 8);
            assert_int_equal(parse(bytes, len, &s), len <= SYN_MAX ? 0 : -EPROTO);
            if (len <= SYN_MAX)
                check_syn(&s, bytes, len);
            if (len == SYN_MAX)
                assert_int_equal(syn_make_unreachable(&s, 0, answer), SYN_ANSWER_MAX);
        }
    }
    /* And behind them there may be as much data as a packet takes. */
    size_t len = extended(bytes, 1, 176);

    assert_int_equal(len, SYN_MAX);
    bytes[4] = bytes[5] = 0xff;
    assert_int_equal(parse(bytes, sizeof(bytes), &s), 0);
    check_syn(&s, bytes, SYN_MAX);
}

/* ---- answers ---- */

static size_t make_answer(const struct syn *s, int what, uint8_t ret[ROOM])
{
    memset(ret, POISON, ROOM);
    size_t len = what < 0 ? syn_make_reset(s, ret)
                          : syn_make_unreachable(s, (enum syn_unreachable)what, ret);

    assert_true(len > 0 && len <= SYN_ANSWER_MAX);
    for (size_t i = len; i < ROOM; i++)
        assert_int_equal(ret[i], POISON);
    return len;
}

/* Whole packets, whose checksums were worked out elsewhere. */
static void answers_are_these_bytes(void **state)
{
    static const struct {
        unsigned sample;
        int what;
        const char *hex;
    } answers[] = {
        {V4_PLAIN, -1,
         "4500 0028 0000 4000 40 06 3cc7 cb007107 c0000201"
         "01bb c350 00000000 01020305 5014 0000 e8b4 0000"},
        {V6_PLAIN, -1,
         "60000000 0014 06 40 20010db8000100000000000000000007 20010db8000000000000000000000001"
         "01bb c350 00000000 01020305 5014 0000 8b43 0000"},
        {V4_PLAIN, SYN_HOST_UNREACHABLE,
         "45c0 0044 0000 4000 40 01 3bf0 cb007107 c0000201 0301 fb22 00000000"
         "4500 0028 1234 4000 40 06 2a93 c0000201 cb007107"
         "c350 01bb 01020304 00000000 5002 faf0 edd6 0000"},
        {V6_PLAIN, SYN_HOST_UNREACHABLE,
         "60000000 0044 3a 40 20010db8000100000000000000000007 20010db8000000000000000000000001"
         "0103 3cc9 00000000"
         "60000000 0014 06 40 20010db8000000000000000000000001 20010db8000100000000000000000007"
         "c350 01bb 01020304 00000000 5002 faf0 9065 0000"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        uint8_t bytes[ROOM], answer[ROOM], expected[ROOM];
        size_t len = from_hex(samples[answers[i].sample].hex, bytes);
        struct syn s;

        assert_int_equal(parse(bytes, len, &s), 0);
        assert_int_equal(make_answer(&s, answers[i].what, answer),
                         from_hex(answers[i].hex, expected));
        assert_memory_equal(answer, expected, from_hex(answers[i].hex, expected));
    }
}

static void each_syn_is_answered(void **state)
{
    static const uint8_t v4_codes[] = {1, 0, 13}, v6_codes[] = {3, 0, 1};

    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        uint8_t bytes[ROOM], answer[ROOM];
        size_t len = from_hex(samples[i].hex, bytes);
        bool v4 = i < V6_PLAIN;
        size_t ip = v4 ? 20 : 40, tcp = tcp_at(bytes), width = v4 ? 4 : 16, at = v4 ? 12 : 8;
        struct syn s, none;

        assert_int_equal(parse(bytes, len, &s), 0);
        for (int what = -1; what <= SYN_PROHIBITED; what++) {
            len = make_answer(&s, what, answer);
            assert_int_equal(answer[0], v4 ? 0x45 : 0x60);
            assert_memory_equal(answer + at, bytes + at + width, width); /* there and back */
            assert_memory_equal(answer + at + width, bytes + at, width);
            assert_true(answer[v4 ? 8 : 7] >= 64); /* hops */
            assert_int_equal(parse(answer, len, &none), -EPROTO);
            const uint8_t *p = answer + ip;

            if (what < 0) {
                uint32_t ack = (uint32_t)u16_at(p + 8) << 16 | u16_at(p + 10);

                check_sums(answer, len, ip, IPPROTO_TCP);
                assert_int_equal(len, ip + 20);
                assert_int_equal(u16_at(p), s.destination.port);
                assert_int_equal(u16_at(p + 2), s.client.port);
                assert_int_equal(u16_at(p + 4) | u16_at(p + 6), 0);
                assert_int_equal(ack, (uint32_t)(samples[i].isn + 1));
                assert_int_equal(u16_at(p + 12), 0x5014);
                continue;
            }
            check_sums(answer, len, ip, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
            assert_int_equal(len, ip + 8 + s.len);
            assert_int_equal(p[0], v4 ? 3 : 1);
            assert_int_equal(p[1], (v4 ? v4_codes : v6_codes)[what]);
            assert_int_equal(u16_at(p + 4) | u16_at(p + 6), 0);
            assert_memory_equal(p + 8, s.packet, s.len);
            assert_int_equal(u16_at(p + 8 + tcp), s.client.port);
        }
    }
}

/* ---- with a kernel ---- */

/* A namespace whose whole network is a tun device, and this test what is behind it. */
struct side {
    int netns, tun;
};

struct wire {
    int home;
    struct side client, server;
    const char *why_not; /* NULL: all is there */
};

static const char *const addresses[2][2] = {{"192.0.2.1", "2001:db8::1"},
                                            {"192.0.2.2", "2001:db8::2"}};

static void set_address(struct ifreq *dev, const char *v4, const char *v6)
{
    struct {
        struct in6_addr addr; /* struct in6_ifreq; linux/ipv6.h and netinet/in.h do not agree */
        uint32_t len;
        int index;
    } a6 = {.len = 64};
    struct sockaddr_in a = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), fd6 = socket(AF_INET6, SOCK_DGRAM, 0);

    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, SIOCGIFINDEX, dev), 0);
    a6.index = dev->ifr_ifindex;
    inet_pton(AF_INET, v4, &a.sin_addr);
    memcpy(&dev->ifr_addr, &a, sizeof(a));
    assert_int_equal(ioctl(fd, SIOCSIFADDR, dev), 0);
    inet_pton(AF_INET, "255.255.255.0", &a.sin_addr);
    memcpy(&dev->ifr_addr, &a, sizeof(a));
    assert_int_equal(ioctl(fd, SIOCSIFNETMASK, dev), 0);
    dev->ifr_flags = IFF_UP;
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, dev), 0);
    inet_pton(AF_INET6, v6, &a6.addr);
    if (fd6 >= 0) {
        ioctl(fd6, SIOCSIFADDR, &a6); /* where IPv6 is switched off, connecting shows it */
        close(fd6);
    }
    close(fd);
}

/* Leaves the process in the new namespace. */
static const char *side_open(struct side *s, const char *const address[2])
{
    struct ifreq dev = {.ifr_name = "wire", .ifr_flags = IFF_TUN | IFF_NO_PI};

    if (unshare(CLONE_NEWNET) < 0)
        return "no network namespaces here";
    s->netns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    s->tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (s->netns < 0 || s->tun < 0 || ioctl(s->tun, TUNSETIFF, &dev) < 0)
        return "no tun devices here";
    set_address(&dev, address[0], address[1]);
    return NULL;
}

static int set_up_wire(void **state)
{
    static struct wire w;

    w = (struct wire){-1, {-1, -1}, {-1, -1}, NULL};
    *state = &w;
    w.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    w.why_not = side_open(&w.client, addresses[0]);
    if (!w.why_not)
        w.why_not = side_open(&w.server, addresses[1]);
    return 0;
}

static int take_down_wire(void **state)
{
    struct wire *w = *state;
    const int fds[] = {w->client.netns, w->client.tun, w->server.netns, w->server.tun};

    if (w->home >= 0 && w->client.netns >= 0 && setns(w->home, CLONE_NEWNET) < 0)
        return -1;
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    close(w->home);
    return 0;
}

static int side_socket(const struct side *s, int family, int protocol)
{
    assert_int_equal(setns(s->netns, CLONE_NEWNET), 0);
    return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
}

static socklen_t server_address(int family, struct sockaddr_storage *ret)
{
    struct addr a;

    assert_int_equal(addr_parse(addresses[1][family == AF_INET6], 443, &a), 0);
    return addr_to_sockaddr(&a, ret);
}

/* Connects, and with `data` sends it in the SYN. The address may be tentative for a moment. */
static void start_connect(int fd, int family, const char *data)
{
    struct sockaddr_storage sa;
    socklen_t len = server_address(family, &sa);
    ssize_t r = -1;

    for (int tries = 0; tries < 1000; tries++) {
        r = data ? sendto(fd, data, strlen(data), MSG_FASTOPEN, (struct sockaddr *)&sa, len)
                 : connect(fd, (struct sockaddr *)&sa, len);
        if (r >= 0 || errno != EADDRNOTAVAIL)
            break;
        poll(NULL, 0, 10);
    }
    if (data)
        assert_int_equal(r, strlen(data));
    else
        assert_true(r < 0 && errno == EINPROGRESS);
}

static void need(const struct wire *w, int family)
{
    const char *why = w->why_not;

    if (!why && family == AF_INET6) {
        FILE *f = NULL;
        int c = EOF;

        if (setns(w->client.netns, CLONE_NEWNET) == 0)
            f = fopen("/proc/thread-self/net/if_inet6", "re");
        if (f) {
            c = fgetc(f);
            fclose(f);
        }
        why = c == EOF ? "no IPv6 here" : NULL;
    }
    if (why) {
        print_message("skipped: %s\n", why);
        skip();
    }
}

static void refused(const struct wire *w, int family, int what, int error)
{
    int fd = side_socket(&w->client, family, 0), got = 0;
    struct pollfd tun = {w->client.tun, POLLIN, 0}, end = {fd, POLLOUT, 0};
    uint8_t packet[ROOM * 2], answer[ROOM];
    socklen_t len = sizeof(got);
    struct syn s;

    assert_true(fd >= 0);
    start_connect(fd, family, NULL);
    for (;;) { /* among router solicitations and the like */
        assert_int_equal(poll(&tun, 1, 10000), 1);
        ssize_t n = read(w->client.tun, packet, sizeof(packet));

        assert_true(n > 0);
        if (syn_parse(packet, (size_t)n, &s) == 0)
            break;
    }
    size_t n = make_answer(&s, what, answer);

    assert_int_equal(write(w->client.tun, answer, n), n);
    assert_int_equal(poll(&end, 1, 10000), 1);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &got, &len), 0);
    assert_int_equal(got, error);
    close(fd);
}

/* Carries what there is from one side to the other. A SYN is held, damaged as a partial checksum
 * is, and goes on as syn_parse() leaves it. Returns how many bytes of data SYNs have lost. */
static size_t carry(const struct side *from, const struct side *to)
{
    uint8_t packet[ROOM * 64];
    struct syn s;
    size_t lost = 0;
    ssize_t n;

    while ((n = read(from->tun, packet, sizeof(packet))) > 0) {
        if (syn_parse(packet, (size_t)n, &s) < 0) {
            assert_int_equal(write(to->tun, packet, (size_t)n), n);
            continue;
        }
        packet[tcp_at(packet) + 16] ^= 0x5a;
        assert_int_equal(syn_parse(packet, (size_t)n, &s), 0);
        assert_int_equal(write(to->tun, s.packet, s.len), s.len);
        lost += (size_t)n - s.len;
    }
    return lost;
}

enum how { PLAIN, FASTOPEN, MPTCP };

static void accepted(const struct wire *w, int family, enum how how)
{
    static const char data[] = "what the client says first";
    int fd = side_socket(&w->client, family, how == MPTCP ? IPPROTO_MPTCP : 0), one = 1;
    int listener = side_socket(&w->server, family, 0), end = -1;
    struct sockaddr_storage sa;
    socklen_t len = server_address(family, &sa);
    char got[sizeof(data) * 2];
    size_t n_got = 0, lost = 0;

    assert_true(listener >= 0);
    if (how == MPTCP && fd < 0) {
        print_message("without MPTCP, which this kernel lacks\n");
        close(listener);
        return;
    }
    assert_true(fd >= 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(listener, IPPROTO_IP, IP_FREEBIND, &one, sizeof(one));
    assert_int_equal(bind(listener, (struct sockaddr *)&sa, len), 0);
    assert_int_equal(listen(listener, 5), 0);
    if (how == FASTOPEN)
        assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, &one, sizeof(one)), 0);
    start_connect(fd, family, how == FASTOPEN ? data : NULL);
    for (int turns = 0; turns < 1000 && n_got < sizeof(data) - 1; turns++) {
        struct pollfd tuns[] = {{w->client.tun, POLLIN, 0}, {w->server.tun, POLLIN, 0}};

        poll(tuns, 2, 10);
        lost += carry(&w->client, &w->server);
        carry(&w->server, &w->client);
        if (end < 0) {
            end = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (end >= 0 && how != FASTOPEN)
                assert_int_equal(send(fd, data, sizeof(data) - 1, 0), sizeof(data) - 1);
        }
        ssize_t n = end < 0 ? -1 : recv(end, got + n_got, sizeof(got) - n_got, 0);

        if (n > 0)
            n_got += (size_t)n;
    }
    assert_true(end >= 0);
    assert_int_equal(n_got, sizeof(data) - 1);
    assert_memory_equal(got, data, n_got);
    assert_int_equal(lost > 0, how == FASTOPEN);
    close(end);
    close(listener);
    close(fd);
}

static void a_kernel_takes_it_for_v4(void **state)
{
    need(*state, AF_INET);
    refused(*state, AF_INET, -1, ECONNREFUSED);
    refused(*state, AF_INET, SYN_HOST_UNREACHABLE, EHOSTUNREACH);
    refused(*state, AF_INET, SYN_NET_UNREACHABLE, ENETUNREACH);
    refused(*state, AF_INET, SYN_PROHIBITED, EHOSTUNREACH);
    for (enum how how = PLAIN; how <= MPTCP; how++)
        accepted(*state, AF_INET, how);
}

static void a_kernel_takes_it_for_v6(void **state)
{
    need(*state, AF_INET6);
    refused(*state, AF_INET6, -1, ECONNREFUSED);
    refused(*state, AF_INET6, SYN_HOST_UNREACHABLE, EHOSTUNREACH);
    refused(*state, AF_INET6, SYN_NET_UNREACHABLE, ENETUNREACH);
    refused(*state, AF_INET6, SYN_PROHIBITED, EACCES);
    for (enum how how = PLAIN; how <= MPTCP; how++)
        accepted(*state, AF_INET6, how);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_syn_is_read),
        cmocka_unit_test(checksums_that_came_do_not_matter),
        cmocka_unit_test(every_carry_is_folded),
        cmocka_unit_test(fields_decide),
        cmocka_unit_test(one_broken_field_is_refused),
        cmocka_unit_test(what_is_merely_unusual_is_read),
        cmocka_unit_test(headers_end_at_syn_max),
        cmocka_unit_test(answers_are_these_bytes),
        cmocka_unit_test(each_syn_is_answered),
        cmocka_unit_test_setup_teardown(a_kernel_takes_it_for_v4, set_up_wire, take_down_wire),
        cmocka_unit_test_setup_teardown(a_kernel_takes_it_for_v6, set_up_wire, take_down_wire),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
