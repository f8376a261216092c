/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nft/transaction.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

/* What an acknowledgement may weigh in a receive buffer, its bookkeeping included. */
#define ACK_COST 2048

static int reserve(struct nft_transaction *t)
{
    if (t->cap - t->len < NFT_MESSAGE_MAX) {
        size_t cap = 2 * t->cap + 2 * NFT_MESSAGE_MAX;
        char *buf = realloc(t->buf, cap);

        if (!buf)
            return -ENOMEM;
        memset(buf + t->len, 0, cap - t->len); /* libmnl leaves padding as it finds it */
        t->buf = buf;
        t->cap = cap;
    }
    if (t->n_labels == t->cap_labels) {
        size_t cap = 2 * t->cap_labels + 64;
        struct nft_label *labels = reallocarray(t->labels, cap, sizeof(*labels));

        if (!labels)
            return -ENOMEM;
        t->labels = labels;
        t->cap_labels = cap;
    }
    return 0;
}

/* Numbers the message that is being made; reserve() has made room. */
static uint32_t take_seq(struct nft_transaction *t, struct nft_label label)
{
    t->labels[t->n_labels] = label;
    return t->first_seq + (uint32_t)t->n_labels++;
}

int nft_transaction_begin(struct nft_transaction *t, uint32_t first_seq)
{
    static const struct nft_label label = {.object = NFT_OBJECT_BATCH};
    int r = reserve(t);

    if (r < 0)
        return r;
    t->first_seq = first_seq;
    nft_transaction_add(t, nftnl_batch_begin(t->buf + t->len, take_seq(t, label)));
    return 0;
}

struct nlmsghdr *nft_transaction_next(struct nft_transaction *t, uint16_t type, uint16_t flags,
                                      struct nft_label label)
{
    if (reserve(t) < 0)
        return NULL;
    return nftnl_nlmsg_build_hdr(t->buf + t->len, type, NFPROTO_INET, flags | NLM_F_ACK,
                                 take_seq(t, label));
}

void nft_transaction_add(struct nft_transaction *t, const struct nlmsghdr *message)
{
    t->len += message->nlmsg_len;
}

/* Room for all of it at once, beyond the system's limits where we may. A failure shows at
 * sendmsg(). */
static void set_buffers(const struct nft_transaction *t, int fd)
{
    int send = (int)t->len + 4096;
    int receive = (int)(t->n_labels * ACK_COST) + 65536;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &send, sizeof(send)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send, sizeof(send));
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive, sizeof(receive)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive, sizeof(receive));
}

/* The answers so far. */
struct answers {
    size_t n_acks;
    size_t failed; /* message of the first error */
    int error;     /* 0: none yet */
};

static void take_answer(const struct nft_transaction *t, const struct nlmsghdr *h,
                        struct answers *a)
{
    uint32_t i = h->nlmsg_seq - t->first_seq;

    if (h->nlmsg_type != NLMSG_ERROR || i >= t->n_labels ||
        h->nlmsg_len < mnl_nlmsg_size(sizeof(struct nlmsgerr)))
        return;
    const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);

    if (e->error == 0) {
        a->n_acks++;
    } else if (a->error == 0 || i < a->failed) {
        a->error = e->error;
        a->failed = i;
    }
}

/*
 * The kernel works through a transaction inside sendmsg(), so all answers are in the queue when it
 * returns and reading never waits.
 */
static int collect(const struct nft_transaction *t, int fd, struct answers *a)
{
    _Alignas(struct nlmsghdr) char buf[16384];

    for (;;) {
        struct sockaddr_nl from = {.nl_pid = 0};
        struct iovec iov = {buf, sizeof(buf)};
        struct msghdr msg = {
            .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        if (from.nl_pid != 0)
            continue; /* not from the kernel */
        int left = (int)n;

        for (const struct nlmsghdr *h = (const struct nlmsghdr *)buf; mnl_nlmsg_ok(h, left);
             h = mnl_nlmsg_next(h, &left))
            take_answer(t, h, a);
    }
}

static int send_all(const struct nft_transaction *t, int fd)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    ssize_t n;

    do
        n = sendto(fd, t->buf, t->len, 0, (const struct sockaddr *)&kernel, sizeof(kernel));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == t->len ? 0 : -EMSGSIZE;
}

int nft_transaction_commit(struct nft_transaction *t, const struct mnl_socket *socket,
                           struct nft_label *ret_failed)
{
    static const struct nft_label whole = {.object = NFT_OBJECT_BATCH};
    size_t n_asked = t->n_labels - 1; /* all but the one that opens the batch */
    struct answers a = {.error = 0};
    int fd = mnl_socket_get_fd(socket);
    int r = reserve(t);

    if (r == 0) {
        nft_transaction_add(t, nftnl_batch_end(t->buf + t->len, take_seq(t, whole)));
        r = t->len > INT32_MAX / 4 ? -EMSGSIZE : 0;
    }
    if (r == 0) {
        set_buffers(t, fd);
        r = send_all(t, fd);
    }
    if (r == 0)
        r = collect(t, fd, &a);
    if (a.error != 0) {
        *ret_failed = t->labels[a.failed];
        return a.error;
    }
    /* Neither an error nor all the answers: better not to claim that it is installed. */
    if (r == 0 && a.n_acks < n_asked)
        r = -EPROTO;
    if (r < 0)
        *ret_failed = whole;
    return r;
}

void nft_transaction_free(struct nft_transaction *t)
{
    free(t->buf);
    free(t->labels);
    *t = (struct nft_transaction){.buf = NULL};
}
