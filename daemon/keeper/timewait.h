/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a gateway's connections leave behind. Where a worker has closed first, this host keeps a
 * TIME-WAIT socket with the destination's address for a minute. While the rules are there, a SYN of
 * the same client and port is given to a listener all the same. Without them it would be forwarded;
 * but early demux (net.ipv4.tcp_early_demux) hangs the socket on the packet, and ip_forward() of
 * net/ipv4/ip_forward.c drops whatever belongs to a socket of this host: the client's connect()
 * would hang for that minute.
 */
#ifndef UNDERSOCK_KEEPER_TIMEWAIT_H
#define UNDERSOCK_KEEPER_TIMEWAIT_H

/*
 * Forgets the TIME-WAIT sockets of this network namespace whose own address is not this host's, as
 * only a transparent proxy makes them. Returns how many, or -errno (-EOPNOTSUPP: a kernel without
 * CONFIG_INET_DIAG_DESTROY or before 6.0). Asks the kernel for all TIME-WAIT sockets: not for an
 * event loop.
 */
int timewait_remove(void);

#endif
