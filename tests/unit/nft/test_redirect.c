/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who gets a connection. The namespace has the addresses 203.0.113.5, 10.9.9.9, 2001:db8::5 and
 * fd99::9 of its own, with a listener of the destination's part on every port that a test asks for,
 * and routes to nowhere for all else; our listeners are those of the captures, on the ports that
 * cases.h names.
 */
#include "netns.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <linux/netfilter_ipv4.h>

#include "cases.h"
#include "nft/batch.h"
#include "nft/ruleset.h"

#ifndef IP6T_SO_ORIGINAL_DST
#define IP6T_SO_ORIGINAL_DST 80
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* Only a bound for what should be there at once: a test fails when it passes. */
#define PATIENCE_MS 10000

#define OWN_MARK (CAPTURE_OWN_MARK | 0x7fu) /* within cases.h's OWN */

static char why[512];

/* How the client's socket is made. */
struct client {
    uid_t uid;
    uint32_t mark;
    int protocol;
};

static const struct client plain = {.protocol = IPPROTO_TCP};

/* ---- the namespace ---- */

static void set_up(void)
{
    if (!has_command("ip"))
        skip_because("the ip command is not installed");
    if (system(
            "ip link add out type dummy 2>/dev/null || ip link add out type veth peer name gone") !=
        0)
        skip_because("neither dummy nor veth devices here");
    CHECK(system("set -e; ip link set lo up; ip link set out up\n"
                 "ip addr add 203.0.113.5/32 dev lo; ip addr add 10.9.9.9/32 dev lo\n"
                 "ip addr add 2001:db8::5/128 dev lo nodad; ip addr add fd99::9/128 dev lo nodad\n"
                 "ip addr add 198.18.0.1/24 dev out; ip route add default via 198.18.0.2\n"
                 "ip addr add 3fff::1/64 dev out nodad; ip route add default via "
                 "3fff::2\n" ADDRESSES_SETTLE) == 0);
}

static int listen_on(const char *where)
{
    struct addr at = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&at, &ss);
    int one = 1, fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0);
    if (ss.ss_family == AF_INET6)
        CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&ss, len) == 0);
    CHECK(listen(fd, 64) == 0);
    return fd;
}

static struct nft_owner *install(const struct capture_set *set)
{
    struct nft_owner *owner;
    struct nft_ruleset *rs;
    int r = nft_owner_open(&owner, why, sizeof(why));

    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    CHECK(nft_ruleset_build(set, &rs) == 0);
    r = nft_owner_replace(owner, rs, why, sizeof(why));
    if (r == -EOPNOTSUPP)
        skip_because(why);
    CHECK(r == 0);
    nft_ruleset_free(rs);
    return owner;
}

/* ---- connections ---- */

/* The socket as the client makes it; -1 with errno when this kernel has none of that protocol. */
static int client_socket(const struct client *c, int family)
{
    CHECK(seteuid(c->uid) == 0);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, c->protocol);
    int error = errno;

    CHECK(seteuid(0) == 0);
    if (fd >= 0 && c->mark != 0)
        CHECK(setsockopt(fd, SOL_SOCKET, SO_MARK, &c->mark, sizeof(c->mark)) == 0);
    errno = error;
    return fd;
}

/* A connected socket, or -errno; `who` looks the connection up afterwards. */
static int connect_to(const struct client *c, const char *where)
{
    struct addr to = parse_addr(where);
    struct sockaddr_storage ss;
    socklen_t len = addr_to_sockaddr(&to, &ss);
    int fd = client_socket(c, ss.ss_family);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t error_len = sizeof(error);

    CHECK(fd >= 0);
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    if (connect(fd, (struct sockaddr *)&ss, len) < 0) {
        error = errno;
        if (error == EINPROGRESS) {
            CHECK(poll(&p, 1, PATIENCE_MS) == 1);
            CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len) == 0);
        }
    }
    CHECK(fcntl(fd, F_SETFL, 0) == 0);
    if (error != 0) {
        close(fd);
        return -error;
    }
    return fd;
}

/* The next connection of either listener (`other` may be -1); tells which. */
static int accept_one(int ours, int other, bool *ret_ours)
{
    struct pollfd p[] = {{.fd = ours, .events = POLLIN}, {.fd = other, .events = POLLIN}};

    CHECK(poll(p, 2, PATIENCE_MS) == 1);
    *ret_ours = p[0].revents != 0;
    int fd = accept4(*ret_ours ? ours : other, NULL, NULL, SOCK_CLOEXEC);

    CHECK(fd >= 0);
    return fd;
}

/* What the kernel says where the accepted connection wanted to go. */
static struct addr original_destination(int fd, bool v4)
{
    struct sockaddr_storage ss;
    socklen_t len = v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    struct addr a;

    CHECK(getsockopt(fd, v4 ? SOL_IP : SOL_IPV6, v4 ? SO_ORIGINAL_DST : IP6T_SO_ORIGINAL_DST, &ss,
                     &len) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&ss, len, &a) == 0);
    a.scope = 0;
    return a;
}

static bool is_v4(const char *where)
{
    struct addr a = parse_addr(where);

    return addr_is_v4(&a);
}

/*
 * Connects to `where`; true: our listener (12345 of 127.0.0.1 or 12346 of ::1) got it, with `where`
 * as its original destination; false: a listener at `where` itself, which is one of our addresses.
 */
static bool captured_as(const struct client *c, const char *where)
{
    struct addr to = parse_addr(where);
    char ip[ADDR_STRLEN];
    bool v4 = is_v4(where), ours, local;
    int mine = listen_on(v4 ? "127.0.0.1:12345" : "[::1]:12346");

    addr_format_ip(&to, ip);
    local = !strcmp(ip, "203.0.113.5") || !strcmp(ip, "10.9.9.9") || !strcmp(ip, "2001:db8::5") ||
            !strcmp(ip, "fd99::9") || addr_is_loopback(&to);
    int other = local ? listen_on(where) : -1;
    int client = connect_to(c, where);

    if (client < 0) {
        fprintf(stderr, "connect to %s: %s\n", where, strerror(-client));
        CHECK(!"connected");
    }
    int accepted = accept_one(mine, other, &ours);

    if (ours) {
        struct addr found = original_destination(accepted, v4);

        CHECK(addr_equal(&found, &to));
    }
    close(accepted);
    close(client);
    close(mine);
    if (other >= 0)
        close(other);
    return ours;
}

static bool captured(const char *where)
{
    return captured_as(&plain, where);
}

static bool refused_as(const struct client *c, const char *where)
{
    int other = listen_on(where);
    int fd = connect_to(c, where);

    close(other);
    if (fd >= 0)
        close(fd);
    CHECK(fd >= 0 || fd == -ECONNREFUSED);
    return fd < 0;
}

/* ---- what is captured ---- */

static void everything_but_private(void)
{
    const struct capture_set set = {POLICIES(everything), OWN};

    set_up();
    CHECK(!captured("203.0.113.5:80"));
    CHECK(!captured("[2001:db8::5]:80"));
    struct nft_owner *owner = install(&set);

    CHECK(captured("198.51.100.77:1"));
    CHECK(captured("203.0.113.5:80"));
    CHECK(captured("8.8.8.8:65535"));
    CHECK(captured("[2001:db8::5]:80"));
    CHECK(captured("[2606:4700::1111]:443"));
    CHECK(!captured("10.9.9.9:80"));
    CHECK(!captured("127.0.0.1:80"));
    CHECK(!captured("127.9.9.9:80"));
    CHECK(!captured("[fd99::9]:80"));
    CHECK(!captured("[::1]:80"));
    nft_owner_close(owner);
    CHECK(!captured("203.0.113.5:80"));
    CHECK(!captured("[2001:db8::5]:80"));
}

static void private_when_asked(void)
{
    const struct capture_set set = {POLICIES(private_too), OWN};

    set_up();
    install(&set);
    CHECK(captured("10.9.9.9:80"));
    CHECK(captured("127.0.0.1:80"));
    CHECK(captured("[fd99::9]:80"));
    CHECK(captured("[::1]:80"));
    CHECK(captured("203.0.113.5:80"));
}

/* A connection to the listener itself is nobody's destination: it arrives as it was made. */
static void own_listeners_are_exempt(void)
{
    const struct capture_set set = {POLICIES(private_too), OWN};
    bool ours;

    set_up();
    install(&set);
    int other = listen_on("127.0.0.1:80"), mine = listen_on("127.0.0.1:12345");
    int client = connect_to(&plain, "127.0.0.1:12345");

    CHECK(client >= 0);
    int accepted = accept_one(mine, other, &ours);
    struct sockaddr_in in;
    socklen_t len = sizeof(in);

    CHECK(ours);
    /* Not translated, so either there is no record or it names the listener. */
    if (getsockopt(accepted, SOL_IP, SO_ORIGINAL_DST, &in, &len) == 0)
        CHECK(ntohs(in.sin_port) == 12345);
}

static void own_mark_is_exempt(void)
{
    const struct capture_set set = {POLICIES(private_too), OWN};
    const struct client own = {.mark = OWN_MARK, .protocol = IPPROTO_TCP};
    const struct client other = {.mark = 0x0055, .protocol = IPPROTO_TCP};

    set_up();
    install(&set);
    CHECK(!captured_as(&own, "203.0.113.5:80"));
    CHECK(!captured_as(&own, "[2001:db8::5]:80"));
    CHECK(!captured_as(&own, "127.0.0.1:80"));
    CHECK(captured_as(&other, "203.0.113.5:80"));
    CHECK(captured_as(&other, "[2001:db8::5]:80"));
}

static void upstreams_are_exempt(void)
{
    static const struct addr upstreams[] = {AT4(203, 0, 113, 5, 1080), AT4(203, 0, 113, 5, 1082),
                                            AT6(0x2001, 0xdb8, 0, 0, 5, 1080),
                                            AT4(127, 0, 0, 1, 1080)};
    const struct capture_set set = {POLICIES(private_too), OWN, .upstreams = upstreams,
                                    .n_upstreams = COUNT(upstreams)};

    set_up();
    install(&set);
    CHECK(!captured("203.0.113.5:1080"));
    CHECK(!captured("203.0.113.5:1082"));
    CHECK(captured("203.0.113.5:1081"));
    CHECK(!captured("[2001:db8::5]:1080"));
    CHECK(captured("[2001:db8::5]:1082"));
    CHECK(!captured("127.0.0.1:1080"));
    CHECK(captured("127.0.0.1:1081"));
}

static void by_uids(void)
{
    const struct capture_set set = {POLICIES(by_uid), OWN};
    const struct client user = {.uid = 1000, .protocol = IPPROTO_TCP};
    const struct client stranger = {.uid = 1002, .protocol = IPPROTO_TCP};

    set_up();
    install(&set);
    CHECK(captured("203.0.113.5:80")); /* root is in the list */
    CHECK(captured_as(&user, "203.0.113.5:80"));
    CHECK(captured_as(&user, "[2001:db8::5]:80"));
    CHECK(!captured_as(&stranger, "203.0.113.5:80"));
    CHECK(!captured_as(&stranger, "[2001:db8::5]:80"));
}

static void by_not_uids(void)
{
    const struct capture_set set = {POLICIES(by_not_uid), OWN};
    const struct client excepted = {.uid = 1001, .protocol = IPPROTO_TCP};
    const struct client user = {.uid = 1000, .protocol = IPPROTO_TCP};

    set_up();
    install(&set);
    CHECK(!captured_as(&excepted, "203.0.113.5:80"));
    CHECK(!captured_as(&excepted, "[2001:db8::5]:80"));
    CHECK(captured_as(&user, "203.0.113.5:80"));
    CHECK(captured_as(&user, "[2001:db8::5]:80"));
}

/* The subflow of an MPTCP socket is another kernel socket: it must still be its user's. */
static void mptcp_by_uids(void)
{
    const struct capture_set set = {POLICIES(by_uid), OWN};
    const struct client user = {.uid = 1000, .protocol = IPPROTO_MPTCP};
    const struct client stranger = {.uid = 1002, .protocol = IPPROTO_MPTCP};
    int fd = client_socket(&user, AF_INET);

    if (fd < 0)
        skip_because("no MPTCP in this kernel");
    close(fd);
    set_up();
    install(&set);
    CHECK(captured_as(&user, "203.0.113.5:80"));
    CHECK(captured_as(&user, "[2001:db8::5]:80"));
    CHECK(!captured_as(&stranger, "203.0.113.5:80"));
}

static void by_marks(void)
{
    const struct capture_set set = {POLICIES(by_mark), OWN};
    const struct client marked = {.mark = 0x51, .protocol = IPPROTO_TCP};
    const struct client other = {.mark = 0x151, .protocol = IPPROTO_TCP};

    set_up();
    install(&set);
    CHECK(captured_as(&marked, "203.0.113.5:80"));
    CHECK(captured_as(&marked, "[2001:db8::5]:80"));
    CHECK(!captured_as(&other, "203.0.113.5:80"));
    CHECK(!captured("203.0.113.5:80"));
}

static void by_tcp_ports(void)
{
    const struct capture_set set = {POLICIES(by_ports), OWN};

    set_up();
    install(&set);
    CHECK(captured("203.0.113.5:80"));
    CHECK(captured("203.0.113.5:443"));
    CHECK(captured("203.0.113.5:8000"));
    CHECK(captured("203.0.113.5:8500"));
    CHECK(captured("203.0.113.5:8999"));
    CHECK(captured("[2001:db8::5]:8999"));
    CHECK(!captured("203.0.113.5:79"));
    CHECK(!captured("203.0.113.5:81"));
    CHECK(!captured("203.0.113.5:7999"));
    CHECK(!captured("203.0.113.5:9000"));
    CHECK(!captured("[2001:db8::5]:9000"));
}

static void by_destinations(void)
{
    static const struct prefix near[] = {NET4(203, 0, 113, 4, 31),
                                         NET6(0x2001, 0xdb8, 0, 0, 5, 128)};
    static const struct prefix beside[] = {NET4(203, 0, 113, 6, 31), NET4(203, 0, 113, 4, 32),
                                           NET6(0x2001, 0xdb8, 0, 0, 6, 127)};
    static const struct prefix last[] = {NET4(255, 255, 255, 0, 24), NET4(203, 0, 113, 5, 32)};
    const struct capture_policy to = {PROXY("to"), TO(near)}, apart = {PROXY("to"), TO(beside)};
    const struct capture_policy open_end = {PROXY("to"), NOT_TO(last)};
    const struct capture_set set = {.policies = &to, .n_policies = 1};
    const struct capture_set other = {.policies = &apart, .n_policies = 1};
    const struct capture_set except = {.policies = &open_end, .n_policies = 1};

    set_up();
    struct nft_owner *owner = install(&set);

    CHECK(captured("203.0.113.5:80"));
    CHECK(captured("203.0.113.4:80"));
    CHECK(captured("[2001:db8::5]:80"));
    nft_owner_close(owner);
    owner = install(&other);
    CHECK(!captured("203.0.113.5:80"));
    CHECK(captured("203.0.113.4:80"));
    CHECK(captured("203.0.113.6:80"));
    CHECK(captured("203.0.113.7:80"));
    CHECK(!captured("[2001:db8::5]:80"));
    CHECK(captured("[2001:db8::7]:80"));
    nft_owner_close(owner);
    install(&except);
    CHECK(!captured("203.0.113.5:80"));
    CHECK(captured("203.0.113.6:80"));
    CHECK(captured("[2001:db8::5]:80"));
}

static void destinations_of_one_family(void)
{
    const struct capture_set v4 = {POLICIES(by_net4), OWN}, v6 = {POLICIES(by_net6), OWN};

    set_up();
    struct nft_owner *owner = install(&v4);

    CHECK(captured("203.0.113.5:80"));
    CHECK(!captured("[2001:db8::5]:80"));
    nft_owner_close(owner);
    install(&v6);
    CHECK(!captured("203.0.113.5:80"));
    CHECK(captured("[2001:db8::5]:80"));
}

static void first_match_wins(void)
{
    static const struct prefix five[] = {NET4(203, 0, 113, 5, 32)};
    static const struct port_range refused_port[] = {{81, 81}};
    static const struct port_range both_ports[] = {{80, 81}};
    const struct capture_policy policies[] = {
        {OTHER("one", CAPTURE_DIRECT), TO(five), TCP(web)},
        {OTHER("two", CAPTURE_REFUSE), TCP(refused_port)},
        {OTHER("three", CAPTURE_DIRECT), TO(net6), TCP(both_ports)},
        {PROXY("four")},
    };
    const struct capture_set set = {POLICIES(policies), OWN};

    set_up();
    install(&set);
    CHECK(!captured("203.0.113.5:80"));
    CHECK(refused_as(&plain, "203.0.113.5:81"));
    CHECK(captured("203.0.113.5:82"));
    CHECK(captured("203.0.113.6:80"));
    CHECK(!captured("[2001:db8::5]:80"));
    CHECK(refused_as(&plain, "[2001:db8::5]:81"));
    CHECK(captured("[2001:db8::5]:82"));
    CHECK(!refused_as(&plain, "10.9.9.9:81"));
}

static void refused_means_reset(void)
{
    const struct capture_set set = {POLICIES(refuse_last), OWN};
    const struct client own = {.mark = OWN_MARK, .protocol = IPPROTO_TCP};

    set_up();
    install(&set);
    CHECK(refused_as(&plain, "203.0.113.5:22"));
    CHECK(refused_as(&plain, "[2001:db8::5]:22"));
    CHECK(refused_as(&plain, "127.0.0.1:22"));
    CHECK(!refused_as(&own, "203.0.113.5:22"));
    CHECK(!captured("10.9.9.9:22"));
    CHECK(captured("203.0.113.5:80"));
    CHECK(captured("[2001:db8::5]:443"));
    /* Beyond our own addresses the reset must come without anybody's help. */
    int fd = connect_to(&plain, "198.51.100.77:22");

    CHECK(fd == -ECONNREFUSED);
    fd = connect_to(&plain, "[2606:4700::1111]:22");
    CHECK(fd == -ECONNREFUSED);
}

static void no_listener_means_refused(void)
{
    const struct capture_set half = {POLICIES(no_v6_listener), OWN};
    const struct capture_set none = {POLICIES(no_listener), OWN};

    set_up();
    struct nft_owner *owner = install(&half);

    CHECK(captured("203.0.113.5:80"));
    CHECK(refused_as(&plain, "[2001:db8::5]:80"));
    nft_owner_close(owner);
    install(&none);
    CHECK(refused_as(&plain, "203.0.113.5:80"));
    CHECK(refused_as(&plain, "[2001:db8::5]:80"));
    CHECK(!captured("10.9.9.9:80"));
}

/* ---- what goes on meanwhile ---- */

static void exchange(int a, int b)
{
    char c = 0;
    struct pollfd p[] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};

    CHECK(send(a, "x", 1, MSG_NOSIGNAL) == 1);
    CHECK(poll(&p[1], 1, PATIENCE_MS) == 1 && recv(b, &c, 1, 0) == 1 && c == 'x');
    CHECK(send(b, "y", 1, MSG_NOSIGNAL) == 1);
    CHECK(poll(&p[0], 1, PATIENCE_MS) == 1 && recv(a, &c, 1, 0) == 1 && c == 'y');
}

/*
 * A connection that is older than the rules, also older than connection tracking, which looks at a
 * fresh namespace only from the first rule of nat on: it goes on, both for who began it and for who
 * answers.
 */
static void older_connections_go_on(void)
{
    const struct capture_set wide = {POLICIES(private_too), OWN};
    const struct capture_set refuse = {POLICIES(no_listener), OWN};
    const struct capture_set *sets[] = {&wide, &refuse};
    bool ours;

    set_up();
    for (unsigned i = 0; i < COUNT(sets); i++) {
        int other = listen_on("203.0.113.5:80"), other6 = listen_on("[2001:db8::5]:80");
        int mine = listen_on("127.0.0.1:12345");
        int a = connect_to(&plain, "203.0.113.5:80"), b = accept_one(other, mine, &ours);
        int a6 = connect_to(&plain, "[2001:db8::5]:80"), b6 = accept_one(other6, mine, &ours);

        CHECK(a >= 0 && a6 >= 0);
        exchange(a, b);
        struct nft_owner *owner = install(sets[i]);

        exchange(a, b);
        exchange(b6, a6); /* the answering side speaks first */
        exchange(a, b);
        close(a);
        close(b);
        close(a6);
        close(b6);
        close(other);
        close(other6);
        close(mine);
        nft_owner_close(owner);
    }
}

/* Also when the new rules redirect nothing, or are none. */
static void redirected_connections_outlive_their_rules(void)
{
    const struct capture_set first = {POLICIES(everything), OWN};
    const struct capture_set others[] = {
        {POLICIES(by_net4), OWN}, {POLICIES(no_listener), OWN}, {.n_policies = 0}};
    bool ours;

    set_up();
    struct nft_owner *owner = install(&first);
    int mine = listen_on("127.0.0.1:12345"), mine6 = listen_on("[::1]:12346");
    int a = connect_to(&plain, "198.51.100.77:80"), a6 = connect_to(&plain, "[2606::1]:80");

    CHECK(a >= 0 && a6 >= 0);
    int b = accept_one(mine, -1, &ours), b6 = accept_one(mine6, -1, &ours);

    exchange(a, b);
    for (unsigned i = 0; i < COUNT(others); i++) {
        struct nft_ruleset *rs;

        CHECK(nft_ruleset_build(&others[i], &rs) == 0);
        CHECK(nft_owner_replace(owner, rs, why, sizeof(why)) == 0);
        nft_ruleset_free(rs);
        /* The kernel lets go of old rules, and of what they kept at work, a little later. */
        usleep(300000);
        exchange(a, b);
        exchange(b6, a6);
    }
    nft_owner_close(owner);
}

/*
 * The keeper is killed, then the worker that has the connection: the application must see a reset,
 * and does because the worker kept a copy of the owner's socket, and with it the table, until then.
 */
static void reset_outlives_the_keeper(void)
{
    const struct capture_set set = {POLICIES(everything), OWN};
    int tell[2], status;
    pid_t worker;
    char c;

    set_up();
    CHECK(pipe2(tell, O_CLOEXEC) == 0);
    fflush(NULL);
    pid_t keeper = fork();

    if (keeper == 0) {
        struct nft_owner *owner = install(&set);
        int mine = listen_on("127.0.0.1:12345");
        const struct linger reset = {.l_onoff = 1};
        bool ours;

        if (fork() > 0)
            for (;;)
                pause();
        worker = getpid();
        CHECK(nft_owner_fd(owner) >= 0);
        CHECK(write(tell[1], &worker, sizeof(worker)) == sizeof(worker));
        int fd = accept_one(mine, -1, &ours);

        CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
        CHECK(write(tell[1], "a", 1) == 1);
        for (;;)
            pause();
    }
    close(tell[1]);
    if (read(tell[0], &worker, sizeof(worker)) != sizeof(worker)) {
        waitpid(keeper, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    int fd = connect_to(&plain, "198.51.100.77:80");
    struct pollfd p = {.fd = fd, .events = POLLIN};

    CHECK(fd >= 0);
    CHECK(read(tell[0], &c, 1) == 1);
    CHECK(kill(keeper, SIGKILL) == 0 && waitpid(keeper, &status, 0) == keeper);
    CHECK(kill(worker, SIGKILL) == 0);
    CHECK(poll(&p, 1, PATIENCE_MS) == 1);
    CHECK(recv(fd, &c, 1, 0) < 0 && errno == ECONNRESET);
}

/* Replaces by the rulesets in turn until the child is done; it must not have failed. */
static void replace_meanwhile(struct nft_owner *owner, struct nft_ruleset *const *rs, unsigned n,
                              pid_t child)
{
    unsigned replaced = 0;
    int status;

    for (;;) {
        pid_t done = waitpid(child, &status, WNOHANG);

        CHECK(done >= 0);
        if (done == child)
            break;
        CHECK(nft_owner_replace(owner, rs[replaced++ % n], why, sizeof(why)) == 0);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(replaced > 0);
}

/* While the rules are replaced again and again, every connection meets the old ones or the new
 * ones. */
static void replacement_is_atomic(void)
{
    const struct capture_set sets[] = {{POLICIES(everything), OWN},
                                       {POLICIES(by_net4), OWN, UPSTREAMS},
                                       {POLICIES(refuse_second)}};
    struct nft_ruleset *rs[COUNT(sets)];

    set_up();
    for (unsigned i = 0; i < COUNT(sets); i++)
        CHECK(nft_ruleset_build(&sets[i], &rs[i]) == 0);
    struct nft_owner *owner = install(&sets[0]);

    fflush(NULL);
    pid_t child = fork();

    if (child == 0) {
        for (unsigned i = 0; i < 3000; i++)
            CHECK(captured("203.0.113.5:80"));
        _exit(0);
    }
    replace_meanwhile(owner, rs, COUNT(sets), child);
}

/*
 * The same where one ruleset redirects what the next refuses. A SYN that meets the change is
 * dropped and goes out again a second later, so this takes fewer rounds.
 */
static void nothing_escapes_between_redirect_and_refuse(void)
{
    const struct capture_set sets[] = {{POLICIES(everything), OWN}, {POLICIES(no_listener), OWN}};
    struct nft_ruleset *rs[COUNT(sets)];

    set_up();
    for (unsigned i = 0; i < COUNT(sets); i++)
        CHECK(nft_ruleset_build(&sets[i], &rs[i]) == 0);
    struct nft_owner *owner = install(&sets[0]);

    fflush(NULL);
    pid_t child = fork();

    if (child == 0) {
        int mine = listen_on("127.0.0.1:12345"), other = listen_on("203.0.113.5:80");
        bool ours;

        for (unsigned i = 0; i < 1000; i++) {
            int fd = connect_to(&plain, "203.0.113.5:80");

            CHECK(fd >= 0 || fd == -ECONNREFUSED);
            if (fd < 0)
                continue;
            int accepted = accept_one(mine, other, &ours);

            CHECK(ours);
            close(accepted);
            close(fd);
        }
        _exit(0);
    }
    replace_meanwhile(owner, rs, COUNT(sets), child);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(everything_but_private)
NETNS_TEST(private_when_asked)
NETNS_TEST(own_listeners_are_exempt)
NETNS_TEST(own_mark_is_exempt)
NETNS_TEST(upstreams_are_exempt)
NETNS_TEST(by_uids)
NETNS_TEST(by_not_uids)
NETNS_TEST(mptcp_by_uids)
NETNS_TEST(by_marks)
NETNS_TEST(by_tcp_ports)
NETNS_TEST(by_destinations)
NETNS_TEST(destinations_of_one_family)
NETNS_TEST(first_match_wins)
NETNS_TEST(refused_means_reset)
NETNS_TEST(no_listener_means_refused)
NETNS_TEST(older_connections_go_on)
NETNS_TEST(redirected_connections_outlive_their_rules)
NETNS_TEST(reset_outlives_the_keeper)
NETNS_TEST(replacement_is_atomic)
NETNS_TEST(nothing_escapes_between_redirect_and_refuse)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_but_private),
        cmocka_unit_test(test_private_when_asked),
        cmocka_unit_test(test_own_listeners_are_exempt),
        cmocka_unit_test(test_own_mark_is_exempt),
        cmocka_unit_test(test_upstreams_are_exempt),
        cmocka_unit_test(test_by_uids),
        cmocka_unit_test(test_by_not_uids),
        cmocka_unit_test(test_mptcp_by_uids),
        cmocka_unit_test(test_by_marks),
        cmocka_unit_test(test_by_tcp_ports),
        cmocka_unit_test(test_by_destinations),
        cmocka_unit_test(test_destinations_of_one_family),
        cmocka_unit_test(test_first_match_wins),
        cmocka_unit_test(test_refused_means_reset),
        cmocka_unit_test(test_no_listener_means_refused),
        cmocka_unit_test(test_older_connections_go_on),
        cmocka_unit_test(test_redirected_connections_outlive_their_rules),
        cmocka_unit_test(test_reset_outlives_the_keeper),
        cmocka_unit_test(test_replacement_is_atomic),
        cmocka_unit_test(test_nothing_escapes_between_redirect_and_refuse),
    };

    return cmocka_run_group_tests_name("nft/redirect", tests, NULL, NULL);
}
