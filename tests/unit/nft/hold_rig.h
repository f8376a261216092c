/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a worker does with held SYNs, as little of it as the tests of the rules need: reads them
 * from the log of its seat, and sends them again with a mark.
 */
#ifndef UNDERSOCK_TEST_NFT_HOLD_RIG_H
#define UNDERSOCK_TEST_NFT_HOLD_RIG_H

#include "lan.h"

#include <linux/netfilter_ipv4.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>

#include "nft/batch.h"
#include "nft/log.h"
#include "nft/routes.h"
#include "nft/ruleset.h"

#ifndef IPV6_HDRINCL
#define IPV6_HDRINCL 36
#endif

/* A copy of what was held. */
struct held {
    uint8_t packet[NFT_LOG_SNAPLEN];
    size_t len;
    char capture[64];
    uint32_t uid, interface;
    bool has_uid;
};

static char why[512];

static inline struct nft_log_source open_log(unsigned seat)
{
    struct nft_log_source log;
    int r = nft_log_open(CAPTURE_LOG_GROUP + seat, &log.fd, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    if (r < 0)
        fprintf(stderr, "%s\n", why);
    CHECK(r == 0);
    return log;
}

static inline void keep_held(void *ctx, const struct held_syn *syn)
{
    struct held *h = ctx;

    CHECK(syn->len <= sizeof(h->packet) && strlen(syn->capture) < sizeof(h->capture));
    memcpy(h->packet, syn->packet, syn->len);
    h->len = syn->len;
    strcpy(h->capture, syn->capture);
    h->uid = syn->uid;
    h->has_uid = syn->has_uid;
    h->interface = syn->interface;
}

/* The next held SYN; false: none comes in `ms`. */
static inline bool next_held(struct nft_log_source *log, struct held *ret, int ms)
{
    struct pollfd p = {.fd = log->fd, .events = POLLIN};

    if (poll(&p, 1, ms) != 1)
        return false;
    CHECK(nft_log_hold_ops.read(log, keep_held, ret, 1) == 1);
    return true;
}

static inline bool held_v4(const struct held *h)
{
    return h->packet[0] >> 4 == 4;
}

static inline uint16_t held_source_port(const struct held *h)
{
    const uint8_t *tcp = h->packet + (held_v4(h) ? (h->packet[0] & 15) * 4 : 40);

    return (uint16_t)(tcp[0] << 8 | tcp[1]);
}

static inline uint32_t add_words(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++)
        sum += i % 2 == 0 ? (uint32_t)p[i] << 8 : p[i];
    return sum;
}

/* That of a SYN on its way out is partial; behind the header, its place is at byte 16. */
static inline void set_checksum(struct held *h)
{
    size_t header = held_v4(h) ? (size_t)(h->packet[0] & 15) * 4 : 40, len = h->len - header;
    uint8_t *tcp = h->packet + header;
    uint32_t sum = IPPROTO_TCP + (uint32_t)len;

    CHECK(h->len > header + 20);
    tcp[16] = tcp[17] = 0;
    sum = held_v4(h) ? add_words(h->packet + 12, 8, sum) : add_words(h->packet + 8, 32, sum);
    sum = add_words(tcp, len, sum);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    tcp[16] = (uint8_t)(~sum >> 8);
    tcp[17] = (uint8_t)~sum;
}

/* How the mark is given: with the packet alone, or to the socket, too. */
enum mark_by { MARK_OF_PACKET, MARK_OF_SOCKET };

/* Sends the SYN again. 0 or -errno; a packet that was rejected may give -EPERM. */
static inline int send_again_by(enum mark_by by, struct held *h, uint32_t mark)
{
    struct sockaddr_in to4 = {.sin_family = AF_INET};
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(mark))] = {0};
    struct iovec iov = {h->packet, h->len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    int one = 1, fd = socket(held_v4(h) ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

    CHECK(fd >= 0);
    set_checksum(h);
    if (held_v4(h)) {
        memcpy(&to4.sin_addr, h->packet + 16, 4);
        msg.msg_name = &to4;
        msg.msg_namelen = sizeof(to4);
    } else {
        CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &one, sizeof(one)) == 0);
        memcpy(&to6.sin6_addr, h->packet + 24, 16);
        msg.msg_name = &to6;
        msg.msg_namelen = sizeof(to6);
    }
    if (by == MARK_OF_SOCKET) {
        CHECK(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0);
    } else {
        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SO_MARK;
        c->cmsg_len = CMSG_LEN(sizeof(mark));
        memcpy(CMSG_DATA(c), &mark, sizeof(mark));
    }
    int r = sendmsg(fd, &msg, 0) < 0 ? -errno : 0;

    close(fd);
    return r;
}

static inline int send_again(struct held *h, uint32_t mark)
{
    return send_again_by(MARK_OF_PACKET, h, mark);
}

/* ---- hasty resets ---- */

/* The connection is gone without a word, so that what comes for it meets the listener, or nobody.
 */
static inline void vanish(int fd)
{
    int one = 1;

    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one)) == 0);
    close(fd);
}

/* Counts the bare resets of this host, before and after the rules that drop some. */
static inline void count_resets(void)
{
    CHECK(system("nft -f - <<'EOF'\n"
                 "table inet resets {\n"
                 "  counter before { }\n"
                 "  counter after { }\n"
                 "  chain b { type filter hook output priority -310;\n"
                 "    tcp flags & (fin|syn|rst|ack) == rst counter name before; }\n"
                 "  chain a { type filter hook output priority -290;\n"
                 "    tcp flags & (fin|syn|rst|ack) == rst counter name after; }\n"
                 "}\n"
                 "EOF") == 0);
}

/* From here on what this host sends itself is lost when it is long. */
static inline void lose_data(void)
{
    CHECK(system("nft -f - <<'EOF'\n"
                 "table inet loss {\n"
                 "  chain i { type filter hook input priority -310; meta length > 500 drop; }\n"
                 "}\n"
                 "EOF") == 0);
}

/* Resets a connection in the middle of what it says: not where the other side has got to, which
 * asks whether that is meant. */
static inline void break_off(int fd)
{
    struct linger now = {.l_onoff = 1};
    char lost[1000] = "";

    CHECK(send(fd, lost, sizeof(lost), MSG_NOSIGNAL) == sizeof(lost));
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
    close(fd);
}

static inline long resets(const char *which)
{
    char command[128];

    snprintf(command, sizeof(command),
             "nft list counter inet resets %s | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p'", which);
    char *text = output_of(command);
    long n = strtol(text, NULL, 10);

    free(text);
    return n;
}

/* ---- rules ---- */

static inline void replace(struct nft_owner *owner, const struct capture_set *set)
{
    struct nft_ruleset *rs;

    CHECK(nft_ruleset_build(set, &rs) == 0);
    int r = nft_owner_replace(owner, rs, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    if (r < 0)
        fprintf(stderr, "%s\n", why);
    CHECK(r == 0);
    nft_ruleset_free(rs);
}

static inline struct nft_owner *install(const struct capture_set *set)
{
    struct nft_owner *owner;
    int r = nft_owner_open(&owner, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    replace(owner, set);
    if (set->tproxy_mark != 0)
        CHECK(routes_install(0, NULL, why, sizeof(why)) == 0);
    return owner;
}

/* A firewall as hosts have it: what it did not see begin, and what nobody asked for, goes. */
static inline void put_up_firewall(void)
{
    CHECK(system("nft -f - <<'EOF'\n"
                 "table inet firewall {\n"
                 "  chain in { type filter hook input priority 0; policy drop;\n"
                 "    ct state invalid drop; iif lo accept; ct state established,related accept;\n"
                 "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }\n"
                 "  chain across { type filter hook forward priority 0;\n"
                 "    ct state invalid drop; }\n"
                 "  chain out { type filter hook output priority 0; ct state invalid drop; }\n"
                 "}\n"
                 "EOF") == 0);
}

/* Somebody overwrites marks, as CONNMARK --restore-mark does. */
static inline void overwrite_marks_at(const char *hook)
{
    char line[256];

    snprintf(line, sizeof(line),
             "nft 'table inet theirs_%s { chain overwrite { type %s hook %s priority mangle; "
             "meta l4proto tcp meta mark set ct mark; }; }'",
             hook, strcmp(hook, "output") == 0 ? "route" : "filter", hook);
    CHECK(system(line) == 0);
}

/* Somebody translates source addresses, and does not look where packets go. */
static inline void masquerade(void)
{
    CHECK(system("nft 'table inet theirs_nat { chain post { type nat hook postrouting priority "
                 "srcnat; masquerade; }; }'") == 0);
}

/* ---- connections of this host ---- */

/* On its way: finish with connected(). */
static inline int begin_connect(const char *where, const char *from)
{
    struct addr to = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&to, &ss);
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    CHECK(fd >= 0);
    if (from) {
        struct addr a = parse_addr(from);
        struct sockaddr_storage local;
        socklen_t local_len = addr_to_sockaddr(&a, &local);

        CHECK(bind(fd, (struct sockaddr *)&local, local_len) == 0);
    }
    CHECK(connect(fd, (struct sockaddr *)&ss, len) < 0 && errno == EINPROGRESS);
    return fd;
}

/* 0 or -errno; -ETIMEDOUT after `ms`. */
static inline int connected_in(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof(error);

    if (poll(&p, 1, ms) != 1)
        return -ETIMEDOUT;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0);
    return -error;
}

static inline int connected(int fd)
{
    return connected_in(fd, PATIENCE_MS);
}

/* Where a redirected connection was going. */
static inline bool original_is(int fd, const char *where)
{
    struct addr a, expected = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    bool v4 = addr_is_v4(&expected);

    CHECK(getsockopt(fd, v4 ? SOL_IP : SOL_IPV6, SO_ORIGINAL_DST, &ss, &len) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&ss, len, &a) == 0);
    return addr_equal(&a, &expected);
}

/* The same number for IPv4 and IPv6, ours and theirs. */
static inline bool same_port_pair(int ours, int theirs)
{
    struct sockaddr_storage a, b;
    socklen_t a_len = sizeof(a), b_len = sizeof(b);
    struct addr peer, local;

    CHECK(getpeername(ours, (struct sockaddr *)&a, &a_len) == 0);
    CHECK(getsockname(theirs, (struct sockaddr *)&b, &b_len) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&a, a_len, &peer) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&b, b_len, &local) == 0);
    return addr_equal(&peer, &local);
}

#endif
