/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The owner of the table: a netlink socket. The kernel removes the table, and all that is in it,
 * when the socket closes, SIGKILL included (NFT_TABLE_F_OWNER, Linux 5.12), and refuses everybody
 * else who wants to change it.
 *
 * The table lives as long as any process has the socket open, and redirected connections need it to
 * the end: when the last nat chain of the namespace is gone, the kernel no longer translates their
 * packets, not even the reset that a dying worker sends, and the application hangs. So whoever has
 * such connections holds a copy of nft_owner_fd() (close-on-exec as it is here), below the
 * descriptors of the connections or closed after them. To change the table through it still takes
 * CAP_NET_ADMIN.
 *
 * Where a function fails, `why` (of `size` bytes; may be NULL when size is 0) gets one line that
 * names the object and the cause, and it is untouched otherwise.
 */
#ifndef UNDERSOCK_NFT_BATCH_H
#define UNDERSOCK_NFT_BATCH_H

#include <stddef.h>

struct nft_ruleset;
struct nft_owner;

/*
 * Opens the socket in the calling thread's network namespace. Nothing is installed yet.
 * -EOPNOTSUPP: no nfnetlink in this kernel; -EPERM: no CAP_NET_ADMIN in the namespace; -ENOMEM;
 * -errno.
 */
int nft_owner_open(struct nft_owner **ret, char *why, size_t size);
/* The same for a table of another name, of at most 63 bytes (-ENAMETOOLONG). */
int nft_owner_open_table(const char *table, struct nft_owner **ret, char *why, size_t size);

/*
 * For a daemon: makes the table, still empty, so that no other daemon has this network namespace.
 * Errors as nft_owner_open(), nft_owner_replace().
 */
int nft_owner_take(struct nft_owner **ret, char *why, size_t size);

/*
 * For a `run`: takes the first number of 1..CAPTURE_INSTANCES-1 that is free in this network
 * namespace (struct capture_set.instance), by making its table, still empty. The number is free
 * again when the table is gone. -EBUSY: all are taken; otherwise as nft_owner_open(),
 * nft_owner_replace().
 */
int nft_owner_claim(struct nft_owner **ret, unsigned *ret_instance, char *why, size_t size);

#define NFT_TABLE_SIZE 32

/* "undersock" for 0, the daemon; "undersock-run-N". */
void nft_table_name(unsigned instance, char ret[NFT_TABLE_SIZE]);

/*
 * Makes the table exactly `rs`, and switches from the rules before at one moment: no packet meets
 * half of the one or of the other, and after a failure all is as it was. Connections that earlier
 * rules redirected or gave to a listener go on: chains that they need stay, with the rules that
 * they need (nft_chain_keep()), also where `rs` is empty, until the table goes. An empty ruleset
 * installs nothing where there is nothing.
 *
 * -EBUSY: another owner, most likely another undersock, holds the table; -EEXIST: a table of that
 * name is there which nobody owns, left alone; -EPERM: no CAP_NET_ADMIN; -EOPNOTSUPP: this kernel
 * lacks nf_tables or what the object named in `why` needs; -ENOENT: no cgroup2 is mounted; -ENOMEM;
 * otherwise the kernel's -errno.
 */
int nft_owner_replace(struct nft_owner *owner, const struct nft_ruleset *rs, char *why,
                      size_t size);

/* Removes the table if this owner has installed one. Errors as above. End redirected connections
 * first: see the top. */
int nft_owner_remove(struct nft_owner *owner, char *why, size_t size);

/* Closes the socket, and with its last copy goes the table. NULL is allowed. */
void nft_owner_close(struct nft_owner *owner);

/* The socket, which stays the owner's. */
int nft_owner_fd(const struct nft_owner *owner);

#endif
