/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp/inject.c on this host itself: what it sends to a socket that is here, from an address that is
 * not, with a strict reverse path filter; along a route with a small MTU; with its mark; and what
 * it says of packets that cannot go.
 */
#include "../nft/netns.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "udp/inject.h"

#define PATIENCE_MS 10000 /* only a bound */

static struct addr address(const char *text)
{
    struct addr a;

    CHECK(addr_parse(text, 0, &a) == 0);
    return a;
}

static int connected(const char *from, const char *to)
{
    struct addr a = address(from), b = address(to);
    struct sockaddr_storage sa, sb;
    socklen_t la = addr_to_sockaddr(&a, &sa), lb = addr_to_sockaddr(&b, &sb);
    int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), queue = 1 << 20;

    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &queue, sizeof(queue)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&sa, la) == 0);
    CHECK(connect(fd, (struct sockaddr *)&sb, lb) == 0);
    return fd;
}

static ssize_t receive(int fd, void *buf, size_t size)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    CHECK(poll(&p, 1, PATIENCE_MS) == 1);
    return recv(fd, buf, size, 0);
}

static void deliver(struct inject *i, const char *client, const char *remote)
{
    static const size_t sizes[] = {0, 1, 1400, 1500, 9000, 65000, 65507};
    static uint8_t data[65536], buf[65536];
    struct addr to = address(client), from = address(remote);
    int fd = connected(client, remote);
    struct udp_packet p[2];
    char c;

    for (size_t k = 0; k < sizeof(data); k++)
        data[k] = (uint8_t)(k * 11 + k / 256);
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        /* Two in one go: the second must not suffer from what the first needs. */
        CHECK(packet_datagram(&p[0], &from, &to, data, sizes[k]) == 0);
        CHECK(packet_datagram(&p[1], &from, &to, data, 3) == 0);
        CHECK(inject_send(i, p, 2) == 2);
        CHECK(receive(fd, buf, sizeof(buf)) == (ssize_t)sizes[k]);
        CHECK(memcmp(buf, data, sizes[k]) == 0);
        CHECK(receive(fd, buf, sizeof(buf)) == 3);
    }
    CHECK(packet_unreachable(&p[0], &from, &to, data, 10) == 0);
    CHECK(inject_send(i, p, 1) == 1);
    CHECK(receive(fd, &c, 1) == -1 && errno == ECONNREFUSED);
    close(fd);
}

static void on_this_host(void)
{
    struct inject *i;

    if (system("ip link add v0 type veth peer name v1 2>/dev/null") != 0)
        skip_because("no veth devices here");
    /* The way to the remotes is another than the way their packets seem to come. */
    CHECK(system("ip link set lo up && ip link set v0 up && ip link set v1 up && "
                 "ip addr add 198.18.1.1/32 dev v0 && ip addr add 3fff:1::1/128 dev v0 nodad && "
                 "ip route add 203.0.113.0/24 dev v0 && ip -6 route add 2001:db8::/32 dev v0 && "
                 "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 >$f; "
                 "done; " ADDRESSES_SETTLE) == 0);
    CHECK(inject_open(0, &i) == 0);
    deliver(i, "198.18.1.1:5000", "203.0.113.9:53");
    deliver(i, "[3fff:1::1]:5000", "[2001:db8::9]:53");
    inject_close(i);
    inject_close(NULL);
}

/* `want` fragments leave for 198.18.1.2 or 3fff:1::2, which carry `bytes` of UDP together; none is
 * longer than the route's MTU. */
static void expect_fragments(int fd, bool v4, unsigned want, size_t bytes)
{
    static uint8_t frame[65536];
    unsigned n = 0;
    size_t sum = 0;

    while (n < want) {
        ssize_t len = receive(fd, frame, sizeof(frame));
        const uint8_t *ip = frame + 14;

        CHECK(len > 34);
        bool ours = v4 ? frame[12] == 8 && frame[13] == 0 && ip[9] == IPPROTO_UDP
                       : frame[12] == 0x86 && (ip[6] == IPPROTO_UDP || ip[6] == IPPROTO_FRAGMENT);

        CHECK(!ours || len - 14 <= 1300);
        if (ours) {
            sum += (size_t)len - 14 - (v4 ? 20 : 48);
            n++;
        }
    }
    CHECK(sum == bytes);
}

/* The device takes 1500, the route 1300, and it is for packets with our mark alone. */
static void along_a_route(void)
{
    static uint8_t data[4000];
    struct addr to = address("198.18.1.2:5000"), from = address("203.0.113.9:53");
    struct addr to6 = address("[3fff:1::2]:5000"), from6 = address("[2001:db8::9]:53");
    struct addr nowhere = address("192.0.2.1:5000");
    struct udp_packet p[3];
    struct inject *i, *unmarked;

    if (system("ip link add v0 type veth peer name v1 2>/dev/null") != 0)
        skip_because("no veth devices here");
    CHECK(system("ip link set v0 up && ip link set v1 up && ip addr add 198.18.1.1/32 dev v0 && "
                 "ip addr add 3fff:1::1/128 dev v0 nodad && "
                 "ip rule add fwmark 0x5507 lookup 55 && ip -6 rule add fwmark 0x5507 lookup 55 && "
                 "ip route add 198.18.1.0/24 dev v0 mtu 1300 table 55 && "
                 "ip -6 route add 3fff:1::/64 dev v0 mtu 1300 table 55 && "
                 "ip neigh add 198.18.1.2 lladdr 02:00:00:00:00:02 dev v0 && "
                 "ip neigh add 3fff:1::2 lladdr 02:00:00:00:00:02 dev v0; " ADDRESSES_SETTLE) == 0);
    struct sockaddr_ll at = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(ETH_P_ALL),
                             .sll_ifindex = (int)if_nametoindex("v1")};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));

    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0);
    CHECK(inject_open(0x5507, &i) == 0 && inject_open(0, &unmarked) == 0);
    CHECK(packet_datagram(&p[0], &from, &to, data, 1400) == 0);
    CHECK(packet_datagram(&p[1], &from, &nowhere, data, 100) == 0);
    CHECK(packet_datagram(&p[2], &from6, &to6, data, 1400) == 0);
    CHECK(inject_send(unmarked, p, 1) == -ENETUNREACH);
    CHECK(inject_send(i, p + 1, 1) == -ENETUNREACH);
    CHECK(inject_send(i, p, 3) == 2); /* the one in the middle is passed over */
    expect_fragments(fd, true, 2, 1408);
    expect_fragments(fd, false, 2, 1408);
    CHECK(packet_datagram(&p[0], &from, &to, data, sizeof(data)) == 0);
    CHECK(packet_datagram(&p[1], &from6, &to6, data, sizeof(data)) == 0);
    CHECK(inject_send(i, p, 2) == 2);
    expect_fragments(fd, true, 4, 4008);
    expect_fragments(fd, false, 4, 4008);
    CHECK(inject_send(i, p, 0) == 0);
    inject_close(i);
    inject_close(unmarked);
    close(fd);
}

static void without_privilege(void)
{
    struct inject *i = NULL;

    CHECK(setresuid(65534, 65534, 65534) == 0);
    CHECK(inject_open(0, &i) == -EPERM);
    CHECK(i == NULL);
}

static void test_on_this_host(void **state)
{
    (void)state;
    in_netns(on_this_host);
}

static void test_along_a_route(void **state)
{
    (void)state;
    in_netns(along_a_route);
}

static void test_without_privilege(void **state)
{
    (void)state;
    in_netns(without_privilege);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_on_this_host),
        cmocka_unit_test(test_along_a_route),
        cmocka_unit_test(test_without_privilege),
    };

    return cmocka_run_group_tests_name("udp/inject", tests, NULL, NULL);
}
