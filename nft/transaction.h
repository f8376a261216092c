/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One nf_tables transaction: its messages in one growing buffer, each with a note of what it makes,
 * so that the kernel's answer can be told in our words. It is sent as one datagram, which is what
 * makes the kernel take all of it or nothing; every message asks for an acknowledgement and all are
 * collected.
 */
#ifndef UNDERSOCK_NFT_TRANSACTION_H
#define UNDERSOCK_NFT_TRANSACTION_H

#include <stddef.h>
#include <stdint.h>

struct mnl_socket;
struct nlmsghdr;

/* What a message is about. */
enum nft_object {
    NFT_OBJECT_BATCH, /* the transaction as a whole */
    NFT_OBJECT_TABLE,
    NFT_OBJECT_SET,
    NFT_OBJECT_ELEMENTS,
    NFT_OBJECT_CHAIN,
    NFT_OBJECT_RULE,
    NFT_OBJECT_OLD, /* something that an earlier transaction made */
};

struct nft_label {
    enum nft_object object;
    unsigned index; /* of the set or chain in the form */
    unsigned rule;  /* of the rule in its chain */
};

/* Any room a single message may need: libnftnl fills a list of elements up to 64 KiB and one more.
 */
#define NFT_MESSAGE_MAX (128u * 1024)

struct nft_transaction {
    char *buf;
    size_t len, cap;
    struct nft_label *labels; /* of message i, whose sequence number is first_seq + i */
    size_t n_labels, cap_labels;
    uint32_t first_seq;
};

/* Zeroed is empty; this starts with the message that opens a batch. -ENOMEM. */
int nft_transaction_begin(struct nft_transaction *t, uint32_t first_seq);
/*
 * The header of the next message (NFT_MSG_*, NLM_F_*; the acknowledgement is asked for here) of
 * family inet, with room behind it for NFT_MESSAGE_MAX bytes in all; NULL: no memory. Fill it in
 * and call nft_transaction_add() before the next one.
 */
struct nlmsghdr *nft_transaction_next(struct nft_transaction *t, uint16_t type, uint16_t flags,
                                      struct nft_label label);
void nft_transaction_add(struct nft_transaction *t, const struct nlmsghdr *message);
/*
 * Closes the batch, sends it and reads every answer. 0; or the first error, in the order of the
 * messages, with what it was about in `ret_failed`; or what the socket said, about
 * NFT_OBJECT_BATCH.
 */
int nft_transaction_commit(struct nft_transaction *t, const struct mnl_socket *socket,
                           struct nft_label *ret_failed);
void nft_transaction_free(struct nft_transaction *t);

#endif
