/* SPDX-License-Identifier: GPL-2.0-or-later */
/* sd_notify(3)'s protocol: a datagram to the socket named in NOTIFY_SOCKET. Nothing happens without
 * one. */
#ifndef UNDERSOCK_KEEPER_NOTIFY_H
#define UNDERSOCK_KEEPER_NOTIFY_H

/* E.g. "READY=1", "RELOADING=1\nMONOTONIC_USEC=...", "STOPPING=1", "STATUS=...". */
void notify_systemd(const char *state);

#endif
