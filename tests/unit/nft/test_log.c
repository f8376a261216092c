/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The log's socket: who may have it, what of it counts, and what happens when nobody reads. */
#include "hold_rig.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>

#define GROUP (CAPTURE_LOG_GROUP + 2u) /* of one_seat */

/* ---- messages, without a kernel ---- */

struct seen {
    unsigned n;
    struct held_syn last;
};

static void see(void *ctx, const struct held_syn *syn)
{
    struct seen *s = ctx;

    s->n++;
    s->last = *syn;
}

static const uint8_t some_packet[] = {0x45, 0, 0, 8, 1, 2, 3, 4}; /* no padding */

#define WITH_PAYLOAD 1u
#define WITH_PREFIX  2u
#define WITH_UID     4u
#define WITH_IN      8u
#define WITH_OUT     16u
#define WITH_ALL     31u

/* At `buf`, which has room; the header is returned. */
static struct nlmsghdr *write_message(void *buf, unsigned parts)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

    h->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET;
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

    g->res_id = htons((uint16_t)GROUP);
    mnl_attr_put_u32(h, NFULA_MARK, htonl(7));
    if (parts & WITH_IN)
        mnl_attr_put_u32(h, NFULA_IFINDEX_INDEV, htonl(3));
    if (parts & WITH_OUT)
        mnl_attr_put_u32(h, NFULA_IFINDEX_OUTDEV, htonl(4));
    if (parts & WITH_PREFIX)
        mnl_attr_put_strz(h, NFULA_PREFIX, "web");
    if (parts & WITH_UID)
        mnl_attr_put_u32(h, NFULA_UID, htonl(1000));
    if (parts & WITH_PAYLOAD)
        mnl_attr_put(h, NFULA_PAYLOAD, sizeof(some_packet), some_packet);
    return h;
}

/* Of exactly these bytes, so that a sanitizer sees what is read beyond them. */
static struct seen parse(const void *message, size_t len, unsigned max)
{
    struct seen s = {.n = 0};
    void *copy = malloc(len ? len : 1);

    assert_non_null(copy);
    memcpy(copy, message, len);
    unsigned n = nft_log_parse(copy, len, see, &s, max);

    assert_int_equal(n, s.n);
    assert_true(n <= max);
    if (s.n > 0) {
        const uint8_t *from = copy;

        assert_true(s.last.packet >= from && s.last.packet + s.last.len <= from + len);
        assert_true(strlen(s.last.capture) < len);
    }
    free(copy);
    return s;
}

static void test_a_message_is_told_as_it_is(void **state)
{
    _Alignas(struct nlmsghdr) char buf[1024] = {0};
    const struct nlmsghdr *h = write_message(buf, WITH_ALL);
    struct seen s = {.n = 0};

    (void)state;
    assert_int_equal(nft_log_parse(buf, h->nlmsg_len, see, &s, 9), 1);
    assert_int_equal(s.last.len, sizeof(some_packet));
    assert_memory_equal(s.last.packet, some_packet, sizeof(some_packet));
    assert_string_equal(s.last.capture, "web");
    assert_true(s.last.has_uid);
    assert_int_equal(s.last.uid, 1000);
    assert_int_equal(s.last.interface, 3);
    assert_null(s.last.origin);
    for (unsigned parts = 0; parts <= WITH_ALL; parts++) {
        memset(buf, 0, sizeof(buf));
        h = write_message(buf, parts);
        s = parse(buf, h->nlmsg_len, 9);
        assert_int_equal(s.n, (parts & 3) == 3);
        if (s.n == 0)
            continue;
        assert_int_equal(s.last.has_uid, (parts & WITH_UID) != 0);
        assert_int_equal(s.last.interface, parts & WITH_IN ? 3 : parts & WITH_OUT ? 4 : 0);
    }
}

static void test_a_message_cut_short_is_none(void **state)
{
    _Alignas(struct nlmsghdr) char buf[1024] = {0};
    struct nlmsghdr *h = write_message(buf, WITH_ALL);
    uint32_t len = h->nlmsg_len;

    (void)state;
    for (uint32_t n = 0; n < len; n++)
        assert_int_equal(parse(buf, n, 9).n, 0);
    /* Also when it says so itself: the payload is the last of it. */
    for (uint32_t n = 0; n < len; n++) {
        h->nlmsg_len = n;
        assert_int_equal(parse(buf, len, 9).n, 0);
    }
    h->nlmsg_len = len + 4;
    assert_int_equal(parse(buf, len, 9).n, 0);
    h->nlmsg_len = UINT32_MAX;
    assert_int_equal(parse(buf, len, 9).n, 0);
}

/* Every byte that says what comes, or how much, is something else once; only memory is at stake. */
static void test_any_byte_may_be_wrong(void **state)
{
    static const uint8_t wrong[] = {0, 1, 3, 4, 5, 0x40, 0x7f, 0x80, 0xff};
    _Alignas(struct nlmsghdr) char buf[1024] = {0};
    const struct nlmsghdr *h = write_message(buf, WITH_ALL);
    uint32_t len = h->nlmsg_len;

    (void)state;
    for (uint32_t i = 0; i < len; i++)
        for (size_t j = 0; j < COUNT(wrong); j++) {
            char good = buf[i];

            buf[i] = (char)wrong[j];
            (void)parse(buf, len, 9);
            buf[i] = good;
        }
}

static void test_what_is_malformed_is_passed_over(void **state)
{
    _Alignas(struct nlmsghdr) char buf[1024] = {0};
    struct nlmsghdr *h = write_message(buf, WITH_PAYLOAD);

    (void)state;
    /* A prefix without its end, and a user of two bytes. */
    mnl_attr_put(h, NFULA_PREFIX, 3, "web");
    assert_int_equal(parse(buf, h->nlmsg_len, 9).n, 0);
    memset(buf, 0, sizeof(buf));
    h = write_message(buf, WITH_PAYLOAD | WITH_PREFIX);
    mnl_attr_put_u16(h, NFULA_UID, 0x0101);
    mnl_attr_put_u16(h, NFULA_IFINDEX_INDEV, 0x0101);
    struct seen s = parse(buf, h->nlmsg_len, 9);

    assert_int_equal(s.n, 1);
    assert_false(s.last.has_uid);
    assert_int_equal(s.last.interface, 0);
    /* Another kind of message. */
    h->nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFULNL_MSG_PACKET;
    assert_int_equal(parse(buf, h->nlmsg_len, 9).n, 0);
    h->nlmsg_type = NLMSG_ERROR;
    assert_int_equal(parse(buf, h->nlmsg_len, 9).n, 0);
}

static void test_no_more_than_asked_for(void **state)
{
    _Alignas(struct nlmsghdr) char buf[4096] = {0};
    size_t len = 0;

    (void)state;
    for (unsigned i = 0; i < 5; i++)
        len += write_message(buf + len, WITH_ALL)->nlmsg_len;
    assert_int_equal(parse(buf, len, 9).n, 5);
    assert_int_equal(parse(buf, len, 5).n, 5);
    assert_int_equal(parse(buf, len, 2).n, 2);
    assert_int_equal(parse(buf, len, 0).n, 0);
}

/* ---- the socket ---- */

static struct nft_log_source open_group(void)
{
    return open_log(GROUP - CAPTURE_LOG_GROUP);
}

static void a_group_has_one_reader(void)
{
    struct nft_log_source log = open_group();
    int untouched = -7, fd = untouched, status;
    char port[64];

    CHECK(fcntl(log.fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(log.fd, F_GETFL) & O_NONBLOCK);
    CHECK(nft_log_open(GROUP, &fd, why, sizeof(why)) == -EBUSY);
    CHECK(fd == untouched && strstr(why, "another process has group"));
    snprintf(port, sizeof(port), "netlink port %d,", getpid());
    CHECK(strstr(why, port));
    CHECK(nft_log_open(GROUP, &fd, NULL, 0) == -EBUSY);
    CHECK(nft_log_open(GROUP + 1, &fd, why, sizeof(why)) == 0);
    /* A copy keeps it. */
    fflush(NULL);
    pid_t child = fork();

    if (child == 0)
        for (;;)
            pause();
    close(log.fd);
    CHECK(nft_log_open(GROUP, &fd, why, sizeof(why)) == -EBUSY);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    CHECK(nft_log_open(GROUP, &fd, why, sizeof(why)) == 0);
}

static void missing_privilege_is_named(void)
{
    int untouched = -7, fd = untouched;

    CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    CHECK(nft_log_open(GROUP, &fd, why, sizeof(why)) == -EPERM);
    CHECK(fd == untouched && strstr(why, "CAP_NET_ADMIN"));
}

/* Held SYNs of this host, to itself. */
static void set_up_held(void)
{
    static const struct capture_policy all[] = {{PROXY("all"), .honest = true, .private = true}};
    static const struct capture_set set = {POLICIES(all), OWN, SEATS(one_seat)};

    if (!has_command("ip"))
        skip_because("ip is not installed");
    CHECK(system("ip link set lo up") == 0);
    install(&set);
}

static void ignore(void *ctx, const struct held_syn *syn)
{
    (void)ctx;
    (void)syn;
}

static int read_some(struct nft_log_source *log, unsigned max)
{
    return nft_log_hold_ops.read(log, ignore, NULL, max);
}

static void reading_never_waits(void)
{
    struct nft_log_source log = open_group();

    CHECK(read_some(&log, 64) == 0);
    set_up_held();
    for (unsigned i = 0; i < 5; i++)
        begin_connect("127.0.0.5:9", NULL);
    CHECK(read_some(&log, 3) == 3);
    CHECK(read_some(&log, 64) == 2);
    CHECK(read_some(&log, 64) == 0);
}

/* Only the kernel's messages count, though another process may send some. */
static void a_forged_message_is_passed_over(void)
{
    struct nft_log_source log = open_group();
    _Alignas(struct nlmsghdr) char buf[1024] = {0};
    struct nlmsghdr *h = write_message(buf, WITH_ALL);
    struct sockaddr_nl at;
    socklen_t at_len = sizeof(at);
    struct mnl_socket *other = mnl_socket_open(NETLINK_NETFILTER);

    CHECK(other && mnl_socket_bind(other, 0, MNL_SOCKET_AUTOPID) == 0);
    CHECK(getsockname(log.fd, (struct sockaddr *)&at, &at_len) == 0);
    if (sendto(mnl_socket_get_fd(other), buf, h->nlmsg_len, 0, (struct sockaddr *)&at, at_len) < 0)
        skip_because("this kernel does not let others send");
    struct pollfd p = {.fd = log.fd, .events = POLLIN};

    CHECK(poll(&p, 1, PATIENCE_MS) == 1);
    CHECK(read_some(&log, 64) == 0);
    CHECK(poll(&p, 1, 0) == 0);
}

static void a_full_queue_is_reported(void)
{
    enum { N = 100 };
    struct nft_log_source log = open_group();
    int small = 16384, n = 0, r;

    CHECK(setsockopt(log.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) == 0);
    set_up_held();
    for (unsigned i = 0; i < N; i++)
        begin_connect("127.0.0.5:9", NULL);
    CHECK(read_some(&log, 64) == -ENOBUFS);
    while ((r = read_some(&log, 64)) > 0)
        n += r;
    CHECK(r == 0 && n > 0 && n < N);
    begin_connect("127.0.0.5:9", NULL);
    CHECK(read_some(&log, 64) == 1);
}

/* A message costs the queue not much more than it is long: a flood of 4,000 SYNs fits. */
static void the_queue_is_long(void)
{
    enum { N = 4000, AT_ONCE = 200 };
    struct nft_log_source log = open_group();
    int n = 0, r;

    set_up_held();
    for (unsigned i = 0; i < N; i += AT_ONCE) {
        int fds[AT_ONCE];

        for (unsigned j = 0; j < AT_ONCE; j++)
            fds[j] = begin_connect("127.0.0.5:9", NULL);
        for (unsigned j = 0; j < AT_ONCE; j++)
            close(fds[j]);
    }
    while ((r = read_some(&log, 64)) > 0)
        n += r;
    CHECK(r == 0 && n >= N);
}

#define NETNS_TEST(name)                  \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_netns(name);                   \
    }

NETNS_TEST(a_group_has_one_reader)
NETNS_TEST(missing_privilege_is_named)
NETNS_TEST(reading_never_waits)
NETNS_TEST(a_forged_message_is_passed_over)
NETNS_TEST(a_full_queue_is_reported)
NETNS_TEST(the_queue_is_long)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_message_is_told_as_it_is),
        cmocka_unit_test(test_a_message_cut_short_is_none),
        cmocka_unit_test(test_any_byte_may_be_wrong),
        cmocka_unit_test(test_what_is_malformed_is_passed_over),
        cmocka_unit_test(test_no_more_than_asked_for),
        cmocka_unit_test(test_a_group_has_one_reader),
        cmocka_unit_test(test_missing_privilege_is_named),
        cmocka_unit_test(test_reading_never_waits),
        cmocka_unit_test(test_a_forged_message_is_passed_over),
        cmocka_unit_test(test_a_full_queue_is_reported),
        cmocka_unit_test(test_the_queue_is_long),
    };

    return cmocka_run_group_tests_name("nft/log", tests, NULL, NULL);
}
