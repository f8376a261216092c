/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine and its injection on a real gateway: a client in another namespace, TPROXY in front of
 * the engine's listeners, a relay that sends everything back, and raw packets to the client over a
 * link with an MTU of 1500. What is said here is said of ordinary sockets of the client.
 *
 *   client 198.18.1.2, 3fff:1::2 ── lan0 198.18.1.1, 3fff:1::1, the test itself
 *   203.0.113.0/25, 2001:db8:0::/48 through an association; 203.0.113.128/25, 2001:db8:1::/48
 * refused
 */
#include "../nft/netns.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "log.h"
#include "udp/inject.h"
#include "udp/udp.h"

#define PATIENCE_MS 10000 /* only a bound */
#define KIND_TICK   1
#define KIND_UDP    2
#define RELAY_PORT  1080

static const char rules[] =
    "table inet us_live {\n"
    "  chain pre { type filter hook prerouting priority mangle;\n"
    "    iifname != lan0 return\n"
    "    meta nfproto ipv4 ip daddr 203.0.113.0/25 meta l4proto udp meta mark set 0x77 tproxy ip "
    "to 127.0.0.1:61080 accept\n"
    "    meta nfproto ipv6 ip6 daddr 2001:db8:0::/48 meta l4proto udp meta mark set 0x77 tproxy "
    "ip6 to [::1]:61080 accept\n"
    "    meta nfproto ipv4 ip daddr 203.0.113.128/25 meta l4proto udp meta mark set 0x77 tproxy "
    "ip to 127.0.0.1:61081 accept\n"
    "    meta nfproto ipv6 ip6 daddr 2001:db8:1::/48 meta l4proto udp meta mark set 0x77 tproxy "
    "ip6 to [::1]:61081 accept\n"
    "  }\n"
    "}\n";

/* ---- sockets ---- */

static struct addr address(const char *text)
{
    struct addr a;

    CHECK(addr_parse(text, 0, &a) == 0);
    return a;
}

static int datagrams(const char *text, bool transparent)
{
    struct addr at = address(text);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&at, &sa);
    bool v4 = addr_is_v4(&at);
    int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1, queue = 1 << 20;

    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &queue, sizeof(queue)) == 0);
    if (transparent) {
        CHECK(setsockopt(fd, v4 ? SOL_IP : SOL_IPV6, v4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, &one,
                         sizeof(one)) == 0);
        CHECK(setsockopt(fd, v4 ? SOL_IP : SOL_IPV6, v4 ? IP_RECVORIGDSTADDR : IPV6_RECVORIGDSTADDR,
                         &one, sizeof(one)) == 0);
    }
    CHECK(bind(fd, (struct sockaddr *)&sa, len) == 0);
    return fd;
}

/* ---- the fake upstream, a process ---- */

static void take_exactly(int fd, const void *want, size_t len)
{
    uint8_t buf[64];

    CHECK(recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len);
    CHECK(memcmp(buf, want, len) == 0);
}

static void give_association(int listener)
{
    uint8_t reply[10] = {5, 0, 0, 1, 127, 0, 0, 1, RELAY_PORT >> 8, RELAY_PORT & 0xff};
    int fd = accept(listener, NULL, NULL); /* open to the end */

    CHECK(fd >= 0);
    take_exactly(fd, "\x05\x01\x00", 3);
    CHECK(send(fd, "\x05\x00", 2, 0) == 2);
    take_exactly(fd, "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", 10);
    CHECK(send(fd, reply, sizeof(reply), 0) == sizeof(reply));
}

static void __attribute__((noreturn)) be_upstream(int listener, int relay)
{
    static uint8_t buf[65536];

    for (;;) {
        struct pollfd p[2] = {{.fd = listener, .events = POLLIN}, {.fd = relay, .events = POLLIN}};
        struct sockaddr_storage sa;
        socklen_t len = sizeof(sa);

        CHECK(poll(p, 2, -1) > 0);
        if (p[0].revents)
            give_association(listener);
        if (!p[1].revents)
            continue;
        ssize_t n = recvfrom(relay, buf, sizeof(buf), 0, (struct sockaddr *)&sa, &len);

        CHECK(n > 0);
        CHECK(sendto(relay, buf, (size_t)n, 0, (struct sockaddr *)&sa, len) == n);
    }
}

/* ---- the client, a process in its own namespace ---- */

static void connect_to(int fd, const char *text)
{
    struct addr to = address(text);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&to, &sa);

    CHECK(connect(fd, (struct sockaddr *)&sa, len) == 0);
}

static void send_to(int fd, const char *text, const void *data, size_t size)
{
    struct addr to = address(text);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&to, &sa);

    CHECK(sendto(fd, data, size, 0, (struct sockaddr *)&sa, len) == (ssize_t)size);
}

static void wait_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    CHECK(poll(&p, 1, PATIENCE_MS) == 1);
}

static void expect_from(int fd, const char *text, const void *data, size_t size)
{
    static uint8_t buf[65536];
    struct addr want = address(text), from;
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    wait_readable(fd);
    CHECK(recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&sa, &len) == (ssize_t)size);
    CHECK(memcmp(buf, data, size) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&sa, len, &from) == 0);
    CHECK(addr_equal(&from, &want));
}

static void fill(uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i * 13 + i / 251);
}

/* Whatever its length, a datagram comes back as it was, over a link of 1500 bytes. */
static void lengths(const char *any, const char *remote)
{
    static const size_t sizes[] = {0,    1,    1452,  1453,      1472,  1473, 2960,
                                   4096, 8192, 20000, 60 * 1024, 65000, 65485};
    static uint8_t data[65536];
    int fd = datagrams(any, false);

    fill(data, sizeof(data));
    connect_to(fd, remote);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        CHECK(send(fd, data, sizes[i], 0) == (ssize_t)sizes[i]);
        expect_from(fd, remote, data, sizes[i]);
    }
    close(fd);
}

/* Many of one length at once. The loopback device is too small for them, so that the relay's must
 * not be left to the kernel to cut up from one. */
static void bursts(const char *any, const char *remote)
{
    static uint8_t data[40][1350];
    int fd = datagrams(any, false);

    connect_to(fd, remote);
    CHECK(send(fd, "first", 5, 0) == 5); /* while it waits, there would not be room for all */
    expect_from(fd, remote, "first", 5);
    for (unsigned i = 0; i < 40; i++) {
        fill(data[i], sizeof(data[i]));
        data[i][0] = (uint8_t)i;
        CHECK(send(fd, data[i], sizeof(data[i]) - i % 7 / 6, 0) > 0);
    }
    for (unsigned i = 0; i < 40; i++)
        expect_from(fd, remote, data[i], sizeof(data[i]) - i % 7 / 6);
    close(fd);
}

static void unconnected(const char *any, const char *one, const char *two)
{
    int fd = datagrams(any, false);

    for (unsigned i = 0; i < 3; i++) {
        send_to(fd, one, "one", 3);
        send_to(fd, two, "second", 6);
        expect_from(fd, one, "one", 3);
        expect_from(fd, two, "second", 6);
    }
    close(fd);
}

static void refused(const char *any, const char *remote, size_t size)
{
    static uint8_t data[65536];
    int fd = datagrams(any, false);
    char c;

    connect_to(fd, remote);
    CHECK(send(fd, data, size, 0) == (ssize_t)size);
    wait_readable(fd);
    CHECK(recv(fd, &c, 1, 0) == -1);
    CHECK(errno == ECONNREFUSED);
    close(fd);
}

static void __attribute__((noreturn)) be_client(void)
{
    CHECK(system("ip link set lo up && ip addr add 198.18.1.2/24 dev lan1 && "
                 "ip addr add 3fff:1::2/64 dev lan1 nodad && ip link set lan1 up && "
                 "ip route add default via 198.18.1.1 && "
                 "ip -6 route add default via 3fff:1::1; " ADDRESSES_SETTLE) == 0);
    lengths("0.0.0.0:0", "203.0.113.5:7");
    lengths("[::]:0", "[2001:db8::5]:7");
    bursts("0.0.0.0:0", "203.0.113.5:7");
    bursts("[::]:0", "[2001:db8::5]:7");
    unconnected("0.0.0.0:0", "203.0.113.5:7", "203.0.113.6:65535");
    unconnected("[::]:0", "[2001:db8::5]:7", "[2001:db8::6]:1");
    for (size_t size = 0; size <= 65000; size += 13000) {
        refused("0.0.0.0:0", "203.0.113.200:53", size);
        refused("[::]:0", "[2001:db8:1::53]:53", size);
    }
    _exit(0);
}

/* ---- the gateway ---- */

struct gateway {
    struct loop *loop;
    struct timer tick;
    pid_t client;
    int status;
};

static void on_tick(void *ctx, uint64_t ref, uint32_t events)
{
    struct gateway *g = ctx;

    (void)events;
    if (waitpid(g->client, &g->status, WNOHANG) == g->client)
        loop_stop(g->loop);
    else
        CHECK(loop_timer_set(g->loop, &g->tick, INT64_C(5000000), ref) == 0);
}

/* The child's namespace is there when it has said so; then it waits for its end of the link. */
static pid_t start_client(void)
{
    char command[512], c = 0;
    int there[2], go[2];

    CHECK(pipe(there) == 0 && pipe(go) == 0);
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(unshare(CLONE_NEWNET) == 0);
        CHECK(write(there[1], &c, 1) == 1);
        CHECK(read(go[0], &c, 1) == 1);
        be_client();
    }
    CHECK(pid > 0 && read(there[0], &c, 1) == 1);
    snprintf(command, sizeof(command),
             "ip link add lan0 type veth peer name lan1 netns %d && "
             "ip addr add 198.18.1.1/24 dev lan0 && ip addr add 3fff:1::1/64 dev lan0 nodad && "
             "ip link set lan0 up; " ADDRESSES_SETTLE,
             (int)pid);
    CHECK(system(command) == 0);
    CHECK(write(go[1], &c, 1) == 1);
    return pid;
}

static void set_up_rules(void)
{
    FILE *nft = popen("nft -f -", "we");

    CHECK(nft && fputs(rules, nft) >= 0);
    if (pclose(nft) != 0)
        skip_because("nft or TPROXY is missing");
    CHECK(system("ip link set lo mtu 1300 up && ip rule add fwmark 0x77 lookup 77 && "
                 "ip route add local default dev lo table 77 && "
                 "ip -6 rule add fwmark 0x77 lookup 77 && "
                 "ip -6 route add local default dev lo table 77 && "
                 "echo 1 >/proc/sys/net/ipv4/ip_forward && "
                 "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding") == 0);
}

static pid_t start_upstream(void)
{
    struct addr at = address("127.0.0.1:1080");
    int listener = fd_listen(&at, 0, NULL), relay = datagrams("127.0.0.1:1080", false);

    CHECK(listener >= 0);
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(fcntl(listener, F_SETFL, 0) == 0);
        be_upstream(listener, relay);
    }
    close(listener);
    close(relay);
    return pid;
}

static void gateway(void)
{
    struct gateway g = {.status = -1};
    struct config_upstream up = {
        .name = "up",
        .via = -1,
        .udp = TOGGLE_AUTO,
        .connect_timeout = INT64_C(10000000000),
        .handshake_timeout = INT64_C(10000000000),
        .url = {.scheme = SCHEME_SOCKS5, .host = "127.0.0.1", .port = RELAY_PORT}};
    struct config config = {.upstreams = &up, .n_upstreams = 1};
    struct config_capture capture = {.target = TARGET_UPSTREAM};
    struct upstream_choice choice;
    struct upstream *all;
    struct inject *inject;
    struct udp_table *t;
    char why[256];

    if (!has_command("nft") || !has_command("ip"))
        skip_because("nft and ip are needed");
    log_set_level(LOG_LEVEL_WARNING);
    set_up_rules();
    pid_t upstream = start_upstream();
    const struct udp_listener listeners[] = {{datagrams("127.0.0.1:61080", true), 0},
                                             {datagrams("[::1]:61080", true), 0},
                                             {datagrams("127.0.0.1:61081", true), 1},
                                             {datagrams("[::1]:61081", true), 1}};
    const struct udp_capture captures[] = {
        {.name = "through", .mode = UDP_MODE_ASSOCIATE, .choice = &choice},
        {.name = "refused", .mode = UDP_MODE_REJECT}};

    CHECK(upstream_build(&config, 0, &all) == 0);
    CHECK(upstream_resolve(all, 1, why, sizeof(why)) == 0);
    upstream_choose_from(&config, &capture, all, &choice);
    CHECK(loop_create(80, &g.loop) == 0);
    CHECK(inject_open(0x5500, &inject) == 0);
    const struct udp_table_options o = {.loop = g.loop,
                                        .first_kind = KIND_UDP,
                                        .captures = captures,
                                        .n_captures = 2,
                                        .listeners = listeners,
                                        .n_listeners = 4,
                                        .inject = {.send = inject_send, .ctx = inject},
                                        .max_associations = 64};

    CHECK(udp_table_create(&o, &t) == 0);
    g.client = start_client();
    loop_set_handler(g.loop, KIND_TICK, on_tick, &g);
    CHECK(loop_timer_set(g.loop, &g.tick, 1, loop_ref(KIND_TICK, 0, 0)) == 0);
    CHECK(loop_run(g.loop) == 0);
    struct message_udp_stats s;

    udp_table_stats(t, &s);
    CHECK(WIFEXITED(g.status) && WEXITSTATUS(g.status) == 0);
    CHECK(s.begun == 6 && s.granted == 6 && s.refused == 12);
    CHECK(s.datagrams_up == 2 * 13 + 2 * 41 + 2 * 6 && s.datagrams_down == s.datagrams_up);
    CHECK(s.dropped_up + s.dropped_down + s.dropped_header + s.dropped_source == 0);
    udp_table_destroy(t);
    inject_close(inject);
    loop_destroy(g.loop);
    free(all);
    kill(upstream, SIGKILL);
}

static void test_gateway(void **state)
{
    (void)state;
    in_netns(gateway);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gateway)};

    return cmocka_run_group_tests_name("udp/live", tests, NULL, NULL);
}
