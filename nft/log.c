/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nft/log.h: nfnetlink_log. The rules ask for a message per SYN (queue-threshold 1), so each
 * datagram has one. The kernel makes them in buffers of a page and trims those before it queues
 * them, so that a message costs the queue about as much as it is long.
 *
 * When the queue is full the kernel drops what comes until all of it was read, and the next read
 * says ENOBUFS.
 */
#include "nft/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>

#include "nft/explain.h"

#define QUEUE_BYTES (8 * 1024 * 1024)
#define TIMEOUT     1 /* of what the kernel collects, which is nothing: 1/100 s */
#define REQUEST_MAX 256
#define MESSAGE_MAX 8192
#define BUSY_STEPS  20
#define BUSY_STEP   5000000 /* ns */

/* ---- opening ---- */

static size_t write_request(char buf[REQUEST_MAX], unsigned group)
{
    struct nfulnl_msg_config_cmd command = {.command = NFULNL_CFG_CMD_BIND};
    struct nfulnl_msg_config_mode mode = {.copy_range = htonl(NFT_LOG_SNAPLEN),
                                          .copy_mode = NFULNL_COPY_PACKET};
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

    h->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
    h->nlmsg_flags = NLM_F_REQUEST;
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

    g->nfgen_family = AF_UNSPEC;
    g->version = NFNETLINK_V0;
    g->res_id = htons((uint16_t)group);
    mnl_attr_put(h, NFULA_CFG_CMD, sizeof(command), &command);
    mnl_attr_put(h, NFULA_CFG_MODE, sizeof(mode), &mode);
    mnl_attr_put_u32(h, NFULA_CFG_TIMEOUT, htonl(TIMEOUT));
    mnl_attr_put_u32(h, NFULA_CFG_QTHRESH, htonl(1));
    return h->nlmsg_len;
}

/*
 * Asks for the group. The kernel works inside send(), and no acknowledgement is asked for: so what
 * is in the queue afterwards is an error, or SYNs already, which stay for the reader.
 */
static int request_group(int fd, unsigned group)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_MAX] = {0};
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    size_t len = write_request(buf, group);

    if (sendto(fd, buf, len, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return -errno;
    ssize_t n = recv(fd, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT);
    const struct nlmsghdr *h = (const struct nlmsghdr *)buf;

    if (n < (ssize_t)mnl_nlmsg_size(sizeof(struct nlmsgerr)) || h->nlmsg_type != NLMSG_ERROR)
        return 0;
    return ((const struct nlmsgerr *)mnl_nlmsg_get_payload(h))->error;
}

/* Who has the group, as a netlink port; 0: nobody, or it cannot be told. */
static unsigned group_owner(unsigned group)
{
    FILE *f = fopen("/proc/thread-self/net/netfilter/nfnetlink_log", "re");
    unsigned number, port, found = 0;
    char line[128];

    if (!f)
        return 0;
    while (found == 0 && fgets(line, sizeof(line), f))
        if (sscanf(line, "%u %u", &number, &port) == 2 && number == group)
            found = port;
    fclose(f);
    return found;
}

static int explain(int error, unsigned group, char *why, size_t size)
{
    /* To the kernel, a group of somebody else's is "not permitted", too. */
    unsigned owner = error == -EPERM || error == -EBUSY ? group_owner(group) : 0;

    if (owner != 0 || error == -EBUSY)
        return nft_say(-EBUSY, why, size,
                       "nfnetlink_log: another process has group %u (netlink port %u, most likely "
                       "its pid): is another undersock running in this network namespace?",
                       group, owner);
    switch (error) {
    case -EPERM:
        return nft_say(error, why, size,
                       "nfnetlink_log: CAP_NET_ADMIN is missing in this network namespace");
    case -EINVAL: /* nobody answers for the subsystem */
    case -EOPNOTSUPP:
    case -EPROTONOSUPPORT:
    case -EAFNOSUPPORT:
        return nft_say(-EOPNOTSUPP, why, size,
                       "nfnetlink_log: this kernel has none: load the module of that name "
                       "(CONFIG_NETFILTER_NETLINK_LOG)");
    default:
        return nft_say(error, why, size, "nfnetlink_log: group %u: %s", group, strerror(-error));
    }
}

static int prepare(int fd, unsigned group)
{
    const struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    int size = QUEUE_BYTES, off = 0;

    if (bind(fd, (const struct sockaddr *)&any, sizeof(any)) < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &off, sizeof(off)) < 0)
        return -errno;
    return request_group(fd, group);
}

static int open_group(unsigned group, int *ret_fd)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_NETFILTER);
    int r = fd < 0 ? -errno : prepare(fd, group);

    if (r < 0 && fd >= 0)
        close(fd);
    else if (r == 0)
        *ret_fd = fd;
    return r;
}

int nft_log_open(unsigned group, int *ret_fd, char *why, size_t why_size)
{
    int r;

    /* The kernel lets go of a group a moment after its last descriptor was closed. */
    for (int i = 0; (r = open_group(group, ret_fd)) == -EPERM || r == -EBUSY; i++) {
        if (i == BUSY_STEPS)
            break;
        nanosleep(&(struct timespec){.tv_nsec = BUSY_STEP}, NULL);
    }
    return r < 0 ? explain(r, group, why, why_size) : 0;
}

/* ---- reading ---- */

/* What we look at of a message; NULL: it has none. */
struct parts {
    const struct nlattr *payload, *prefix, *uid, *in, *out;
};

static int take_attribute(const struct nlattr *a, void *data)
{
    struct parts *p = data;

    switch (mnl_attr_get_type(a)) {
    case NFULA_PAYLOAD:
        p->payload = a;
        break;
    case NFULA_PREFIX:
        p->prefix = mnl_attr_validate(a, MNL_TYPE_NUL_STRING) == 0 ? a : NULL;
        break;
    case NFULA_UID:
        p->uid = mnl_attr_validate(a, MNL_TYPE_U32) == 0 ? a : NULL;
        break;
    case NFULA_IFINDEX_INDEV:
        p->in = mnl_attr_validate(a, MNL_TYPE_U32) == 0 ? a : NULL;
        break;
    case NFULA_IFINDEX_OUTDEV:
        p->out = mnl_attr_validate(a, MNL_TYPE_U32) == 0 ? a : NULL;
        break;
    }
    return MNL_CB_OK;
}

static uint32_t number_of(const struct nlattr *a)
{
    return a ? ntohl(mnl_attr_get_u32(a)) : 0;
}

static bool parse(const struct nlmsghdr *h, struct held_syn *ret)
{
    const size_t head = mnl_nlmsg_size(sizeof(struct nfgenmsg));
    struct parts p = {.payload = NULL};

    /* mnl_attr_parse() would round the length up. */
    if (h->nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET) || h->nlmsg_len < head ||
        mnl_attr_parse_payload((const uint8_t *)h + head, h->nlmsg_len - head, take_attribute, &p) <
            0 ||
        !p.payload || !p.prefix)
        return false;
    *ret = (struct held_syn){
        .packet = mnl_attr_get_payload(p.payload),
        .len = mnl_attr_get_payload_len(p.payload),
        .capture = mnl_attr_get_str(p.prefix),
        .uid = number_of(p.uid),
        .has_uid = p.uid != NULL,
        .interface = number_of(p.in ? p.in : p.out),
    };
    return true;
}

unsigned nft_log_parse(const void *datagram, size_t len, held_syn_fn fn, void *fn_ctx, unsigned max)
{
    int left = len <= INT_MAX ? (int)len : 0;
    unsigned n = 0;

    /* libmnl takes a length above INT_MAX for a negative one, which is less than any. */
    for (const struct nlmsghdr *h = datagram;
         n < max && mnl_nlmsg_ok(h, left) && h->nlmsg_len <= (unsigned)left;
         h = mnl_nlmsg_next(h, &left)) {
        struct held_syn syn;

        if (parse(h, &syn)) {
            n++;
            fn(fn_ctx, &syn);
        }
    }
    return n;
}

/* One datagram: its length; 0 when it is none of the kernel's, or too long; or -errno. */
static ssize_t receive(int fd, void *buf, size_t size)
{
    struct sockaddr_nl from = {.nl_pid = 0};
    struct iovec iov = {buf, size};
    struct msghdr msg = {
        .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    do
        n = recvmsg(fd, &msg, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return from.nl_pid != 0 || msg.msg_namelen != sizeof(from) || msg.msg_flags & MSG_TRUNC ? 0 : n;
}

static int read_held(void *ctx, held_syn_fn fn, void *fn_ctx, unsigned max)
{
    const struct nft_log_source *source = ctx;
    _Alignas(struct nlmsghdr) char buf[MESSAGE_MAX];
    unsigned n_read = 0;

    for (unsigned i = 0; i < max && n_read < max; i++) {
        ssize_t n = receive(source->fd, buf, sizeof(buf));

        if (n == -EAGAIN)
            break;
        if (n < 0)
            return (int)n;
        n_read += nft_log_parse(buf, (size_t)n, fn, fn_ctx, max - n_read);
    }
    return (int)n_read;
}

const struct hold_ops nft_log_hold_ops = {.read = read_held};
