/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The SOCKS5 server that bpf/stitch_test.c tries its handshakes with, and what is tried. */
#ifndef UNDERSOCK_BPF_STITCH_SERVER_H
#define UNDERSOCK_BPF_STITCH_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STITCH_SERVER_PORT   1080
#define STITCH_SERVER_BANNER "220 ready\r\n" /* in one segment with the reply */

struct stitch_attempt {
    const char *title;
    const char *to;   /* what the application connects to, with a port of no other attempt */
    const char *name; /* that this stands for; NULL: it is an address */
    bool v6, banner;
    uint8_t code; /* of the server's reply */
    int error;    /* that connect() then tells */
};

extern const struct stitch_attempt stitch_attempts[];
extern const size_t stitch_n_attempts;

struct stitch_server_report {
    uint32_t accepted; /* connections that reached us */
    uint32_t wrong;    /* of those, with anything but the right handshake in the beginning */
};

/*
 * In a process and a network namespace of its own, which it makes: says so by a byte on `control`
 * (SEQPACKET), waits for one, listens on its end of the wire, says so by a byte, 1: with IPv6.
 * Granted connections get back what they have sent. Then for each byte on `control` a report. Ends
 * with its parent. A first byte with 0x80 is an errno instead.
 */
_Noreturn void stitch_server(int control);

#endif
