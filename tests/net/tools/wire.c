/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wire: a link between two namespaces that loses, doubles, delays and so reorders, and that looks
 * at every segment on it.
 *
 *     wire join [options] NETNS-A DEVICE-A NETNS-B DEVICE-B
 *     wire watch [-p FAMILY:PORT=HEX]... DEVICE
 *
 * join makes a tap device at either end (NETNS: a path) and is what is between them, until it is
 * ended: A is the application's end. Only TCP is harmed. watch only looks, at what comes in by
 * DEVICE. Both say "ready", and on SIGUSR1 a line
 *
 *     wire up=N down=N lost=N doubled=N held=N gso=N partial=N sum=N raw=N option=N
 *
 * segments from A and from B, what became of them, those cut by nobody yet, those whose checksum
 * somebody else is to complete; and what must not be: wrong checksums, octets that are not those
 * of -p, SYNs with Fast Open's or MPTCP's option. The last three are told by a line each, too.
 *
 *     -l, -d, -h PERCENT  are lost, doubled, held
 *     -m MS         who is held, or is the double, comes after up to so long, behind others
 *     -r SEED       for the same dice again; it is printed
 *     -L            the devices have no header (tun)
 *     -o            A's host leaves checksums and segmentation to the device
 *     -s partial    B's host does, and A is given what B sent as it is
 *     -s none       A's host gets what is complete (the default)
 *     -s valid      and looks at the checksums before it takes the packets in (NAPI, GRO)
 *     -p 4:PORT=HEX each stream of IPv4 (6: IPv6) to this port begins with these octets, and its
 * SYN has none
 */
#include <getopt.h>
#include <inttypes.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#include "net.h"

#define FRAME_MAX     (sizeof(struct virtio_net_hdr) + ETH_HLEN + 65536)
#define HELD_MAX      8192
#define PROLOGUES_MAX 8
#define PROLOGUE_MAX  600
#define TOLD_MAX      40
#define IPPROTO_TCP_  6

enum state { NONE, PARTIAL, VALID };

struct held {
    uint64_t when;
    unsigned to;
    size_t len;
    uint8_t *frame; /* with its virtio_net_hdr */
};

struct prologue {
    unsigned family;
    uint16_t port;
    size_t len;
    uint8_t octets[PROLOGUE_MAX];
};

/* A segment as it was found. */
struct segment {
    unsigned family;
    const uint8_t *ip, *tcp, *data;
    size_t header, len; /* of the TCP header with options, of the data */
    uint16_t source, dest;
    uint32_t seq;
    uint8_t flags;
};

static struct {
    unsigned loss, doubles, hold, max_ms;
    bool bare, offload;
    enum state state;
} opt = {.max_ms = 50};

static struct {
    uint64_t passed[2], lost, doubled, held, gso, partial, sum, raw, option;
} counts;

static struct prologue prologues[PROLOGUES_MAX];
static unsigned n_prologues, n_told;
/* By number in `prologues` and the application's port. */
static struct {
    bool known;
    uint32_t isn;
} streams[PROLOGUES_MAX][65536];

static struct held held[HELD_MAX];
static size_t n_held;
static int ends[2];
static uint64_t dice;

static uint32_t roll(uint32_t below)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (uint32_t)(dice >> 32) % below;
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static uint32_t sum_up(const uint8_t *p, size_t len, uint32_t sum)
{
    for (; len > 1; p += 2, len -= 2)
        sum += get16(p);
    if (len)
        sum += (uint32_t)*p << 8;
    return sum;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* --- looking ------------------------------------------------------------------------------------
 */

__attribute__((format(printf, 2, 3))) static void tell(const struct segment *s, const char *fmt,
                                                       ...)
{
    va_list ap;

    if (n_told++ >= TOLD_MAX)
        return;
    printf("%u > %u IPv%u flags=%02x seq=%" PRIu32 " len=%zu: ", s->source, s->dest, s->family,
           s->flags, s->seq, s->len);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

/* A whole TCP segment in an IP packet without options or extensions. */
static bool parse(const uint8_t *ip, size_t len, struct segment *ret)
{
    size_t header = 40, whole;

    if (len >= 20 && ip[0] == 0x45 && ip[9] == IPPROTO_TCP_ && !(get16(ip + 6) & 0x3fff)) {
        header = 20;
        whole = get16(ip + 2);
    } else if (len >= 40 && ip[0] >> 4 == 6 && ip[6] == IPPROTO_TCP_) {
        whole = 40u + get16(ip + 4);
    } else {
        return false;
    }
    if (whole > len || whole < header + 20)
        return false;
    ret->family = header == 20 ? 4 : 6;
    ret->ip = ip;
    ret->tcp = ip + header;
    ret->header = (size_t)(ret->tcp[12] >> 4) * 4;
    if (ret->header < 20 || header + ret->header > whole)
        return false;
    ret->data = ret->tcp + ret->header;
    ret->len = whole - header - ret->header;
    ret->source = get16(ret->tcp);
    ret->dest = get16(ret->tcp + 2);
    ret->seq = get32(ret->tcp + 4);
    ret->flags = ret->tcp[13];
    return true;
}

static void look_at_sums(const struct segment *s, const struct virtio_net_hdr *v, size_t l2)
{
    size_t tcp_len = s->header + s->len;
    uint32_t sum = s->family == 4 ? sum_up(s->ip + 12, 8, 0) : sum_up(s->ip + 8, 32, 0);

    sum += IPPROTO_TCP_ + (uint32_t)tcp_len;
    if (s->family == 4 && fold(sum_up(s->ip, 20, 0)) != 0xffff) {
        counts.sum++;
        tell(s, "checksum of the IP header");
    }
    if (v->gso_type != VIRTIO_NET_HDR_GSO_NONE)
        counts.gso++;
    if (v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        counts.partial++;
        if (v->csum_start != l2 + (size_t)(s->tcp - s->ip) || v->csum_offset != 16 ||
            get16(s->tcp + 16) != fold(sum)) {
            counts.sum++;
            tell(s, "checksum to be completed: at %u + %u, is %04x, pseudo header %04x",
                 v->csum_start, v->csum_offset, get16(s->tcp + 16), fold(sum));
        }
    } else if (fold(sum_up(s->tcp, tcp_len, sum)) != 0xffff) {
        counts.sum++;
        tell(s, "checksum %04x", get16(s->tcp + 16));
    }
}

static void look_at_options(const struct segment *s)
{
    for (size_t at = 20; at < s->header && s->tcp[at];) {
        uint8_t kind = s->tcp[at];

        if (kind == 30 || kind == 34 || kind == 254) {
            counts.option++;
            tell(s, "option %u", kind);
        }
        if (kind != 1 && (at + 1 >= s->header || s->tcp[at + 1] < 2))
            return;
        at += kind == 1 ? 1 : s->tcp[at + 1];
    }
}

static void look_at_stream(const struct segment *s, unsigned number)
{
    const struct prologue *p = &prologues[number];
    uint32_t at;

    if (s->flags & 0x02) {
        streams[number][s->source].known = true;
        streams[number][s->source].isn = s->seq;
        look_at_options(s);
        if (s->len) {
            counts.raw++;
            tell(s, "a SYN with data");
        }
        return;
    }
    if (!s->len || !streams[number][s->source].known)
        return;
    at = s->seq - streams[number][s->source].isn - 1;
    for (size_t i = 0; i < s->len && at + i < p->len; i++) {
        if (s->data[i] != p->octets[at + i]) {
            counts.raw++;
            tell(s, "octet %zu of the stream is %02x, not %02x", at + i, s->data[i],
                 p->octets[at + i]);
            return;
        }
    }
}

/* `frame` begins with its virtio_net_hdr. Whether it is TCP. */
static bool look(const uint8_t *frame, size_t len, bool up)
{
    size_t l2 = opt.bare ? 0 : ETH_HLEN, skip = sizeof(struct virtio_net_hdr) + l2;
    struct virtio_net_hdr v;
    struct segment s;

    memcpy(&v, frame, sizeof(v));
    if (len <= skip || !parse(frame + skip, len - skip, &s))
        return false;
    counts.passed[up ? 0 : 1]++;
    look_at_sums(&s, &v, l2);
    for (unsigned i = 0; up && i < n_prologues; i++) {
        if (s.dest == prologues[i].port && s.family == prologues[i].family)
            look_at_stream(&s, i);
    }
    return true;
}

/* --- carrying -----------------------------------------------------------------------------------
 */

static void deliver(unsigned to, const uint8_t *frame, size_t len)
{
    if (write(ends[to], frame, len) < 0 && errno != EIO && errno != EAGAIN)
        printf("write: %s\n", strerror(errno));
}

static void hold(unsigned to, const uint8_t *frame, size_t len)
{
    struct held *h = &held[n_held];

    if (n_held == HELD_MAX || !(h->frame = malloc(len)))
        return;
    memcpy(h->frame, frame, len);
    h->len = len;
    h->to = to;
    h->when = now_ns() + (1 + roll(opt.max_ms)) * UINT64_C(1000000);
    n_held++;
}

/* Delivers what is due. The time until the next in ms, -1: none. */
static int deliver_held(void)
{
    uint64_t now = now_ns(), next = UINT64_MAX;

    for (size_t i = 0; i < n_held;) {
        if (held[i].when <= now) {
            deliver(held[i].to, held[i].frame, held[i].len);
            free(held[i].frame);
            held[i] = held[--n_held];
            continue;
        }
        if (held[i].when < next)
            next = held[i].when;
        i++;
    }
    return next == UINT64_MAX ? -1 : (int)((next - now) / 1000000) + 1;
}

static void carry(unsigned from)
{
    static uint8_t frame[FRAME_MAX];

    for (unsigned i = 0; i < 64; i++) {
        ssize_t n = read(ends[from], frame, sizeof(frame));
        size_t len = (size_t)n;

        if (n < 0)
            return;
        if (!look(frame, len, from == 0)) {
            deliver(!from, frame, len);
            continue;
        }
        if (roll(100) < opt.loss) {
            counts.lost++;
            continue;
        }
        if (roll(100) < opt.doubles) {
            counts.doubled++;
            hold(!from, frame, len);
        }
        if (roll(100) < opt.hold) {
            counts.held++;
            hold(!from, frame, len);
        } else {
            deliver(!from, frame, len);
        }
    }
}

static int make_end(const char *netns, const char *name, bool offload, bool napi)
{
    struct ifreq r = {.ifr_flags = (short)((opt.bare ? IFF_TUN : IFF_TAP) | IFF_NO_PI |
                                           IFF_VNET_HDR | (napi ? IFF_NAPI : 0))};
    int ns = open(netns, O_RDONLY | O_CLOEXEC), fd;

    if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
        die(3, "%s: %s", netns, strerror(errno));
    close(ns);
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    strncpy(r.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0)
        die(3, "%s: %s", name, strerror(errno));
    if (ioctl(fd, TUNSETOFFLOAD,
              offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN : 0) < 0)
        die(3, "%s: offloads: %s", name, strerror(errno));
    return fd;
}

static int open_watch(const char *device)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(ETH_P_ALL),
                             .sll_ifindex = (int)if_nametoindex(device)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1, size = 64 << 20;

    if (fd < 0 || !to.sll_ifindex ||
        setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        die(3, "%s: %s", device, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    return fd;
}

static void watch(int fd)
{
    static uint8_t frame[FRAME_MAX];
    struct sockaddr_ll from;

    for (;;) {
        socklen_t size = sizeof(from);
        ssize_t n = recvfrom(fd, frame, sizeof(frame), MSG_DONTWAIT, (void *)&from, &size);

        if (n < 0)
            return;
        if (from.sll_pkttype != PACKET_OUTGOING)
            look(frame, (size_t)n, true);
    }
}

/* --- the command -------------------------------------------------------------------------------
 */

static void print_counts(void)
{
    printf("wire up=%" PRIu64 " down=%" PRIu64 " lost=%" PRIu64 " doubled=%" PRIu64 " held=%" PRIu64
           " gso=%" PRIu64 " partial=%" PRIu64 " sum=%" PRIu64 " raw=%" PRIu64 " option=%" PRIu64
           "\n",
           counts.passed[0], counts.passed[1], counts.lost, counts.doubled, counts.held, counts.gso,
           counts.partial, counts.sum, counts.raw, counts.option);
}

static void add_prologue(const char *text)
{
    struct prologue *p = &prologues[n_prologues++];
    unsigned octet;
    char *end;

    if (n_prologues > PROLOGUES_MAX)
        die(2, "too many -p");
    p->family = *text == '6' ? 6 : 4;
    p->port = *text && text[1] == ':' ? (uint16_t)strtoul(text + 2, &end, 10) : 0;
    if (!p->port || *end++ != '=')
        die(2, "-p 4|6:PORT=HEX");
    while (p->len < PROLOGUE_MAX && sscanf(end, "%2x", &octet) == 1) {
        p->octets[p->len++] = (uint8_t)octet;
        end += 2;
    }
}

static int open_signals(void)
{
    sigset_t mask;

    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    return signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(int argc, char **argv)
{
    bool join;
    int c;

    setvbuf(stdout, NULL, _IOLBF, 0);
    dice = now_ns() | 1;
    if (argc < 2)
        die(2, "wire join|watch ...");
    join = !strcmp(argv[1], "join");
    argv++;
    argc--;
    while ((c = getopt(argc, argv, "l:d:h:m:r:Los:p:")) != -1) {
        if (c == 'l')
            opt.loss = (unsigned)parse_count(optarg);
        else if (c == 'd')
            opt.doubles = (unsigned)parse_count(optarg);
        else if (c == 'h')
            opt.hold = (unsigned)parse_count(optarg);
        else if (c == 'm')
            opt.max_ms = (unsigned)parse_count(optarg);
        else if (c == 'r')
            dice = strtoull(optarg, NULL, 10) | 1;
        else if (c == 'L')
            opt.bare = true;
        else if (c == 'o')
            opt.offload = true;
        else if (c == 's')
            opt.state = *optarg == 'p' ? PARTIAL : *optarg == 'v' ? VALID : NONE;
        else if (c == 'p')
            add_prologue(optarg);
        else
            return 2;
    }
    argc -= optind;
    argv += optind;
    if (argc != (join ? 4 : 1) || !opt.max_ms)
        die(2, "usage: wire join [options] NETNS DEVICE NETNS DEVICE | wire watch DEVICE");
    printf("seed %" PRIu64 "\n", dice);
    if (join) {
        ends[0] = make_end(argv[0], argv[1], opt.offload, opt.state == VALID);
        ends[1] = make_end(argv[2], argv[3], opt.state == PARTIAL, false);
    } else {
        ends[0] = open_watch(argv[0]);
        ends[1] = -1;
    }
    int signals = open_signals();
    printf("ready\n");
    for (;;) {
        struct pollfd p[] = {{.fd = ends[0], .events = POLLIN},
                             {.fd = ends[1], .events = POLLIN},
                             {.fd = signals, .events = POLLIN}};
        struct signalfd_siginfo info;

        poll(p, 3, deliver_held());
        if (!join)
            watch(ends[0]);
        for (unsigned i = 0; join && i < 2; i++) {
            if (p[i].revents)
                carry(i);
        }
        if (p[2].revents && read(signals, &info, sizeof(info)) == sizeof(info))
            print_counts();
    }
}
