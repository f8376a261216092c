/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The far side of the demo: a process with a network namespace of its own, in which it is both the
 * SOCKS server and the network behind it. It also owns the directory for the demo's files, and so
 * cleans up even when the demo is killed.
 */
#ifndef UNDERSOCK_CLI_DEMO_FAR_H
#define UNDERSOCK_CLI_DEMO_FAR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define DEMO_APP_LINK    "uplink"
#define DEMO_APP_IP      "10.77.0.2"
#define DEMO_PROXY_IP    "10.77.0.1"
#define DEMO_PROXY_PORT  1080
#define DEMO_LINK_LENGTH 30
/* Where the proxy's own connections come from, and where they go to. */
#define DEMO_EXIT4 "203.0.113.1"
#define DEMO_EXIT6 "2001:db8::1"
#define DEMO_WEB4  "203.0.113.10"
#define DEMO_WEB6  "2001:db8::10"

struct demo_far {
    pid_t pid;          /* 0: not running */
    int hold;           /* the writing end: the far side lives until it is closed */
    bool ipv6;          /* the web server has its IPv6 address */
    dev_t netns_device; /* with the next: which namespace it is */
    ino_t netns_inode;
    char directory[88]; /* in TMPDIR or /tmp, for us alone */
    char control[104];  /* a file in it: the control socket; fits into a sun_path */
    char download[104]; /* another */
};

/*
 * Starts it. The veth pair's other end, DEMO_APP_LINK, is down in `app_netns` afterwards; the SOCKS
 * server listens on DEMO_PROXY_IP, the web server on port 80. 0, or -errno and one line in `why`;
 * nothing is left then. Not interrupted by signals that the caller blocks.
 */
int demo_far_start(int app_netns, struct demo_far *ret, char *why, size_t why_size);
/* The slow download may go on at full speed. */
void demo_far_hurry(const struct demo_far *f);
/* Ends it and waits until it is gone, with its files. Idempotent. */
void demo_far_stop(struct demo_far *f);

#endif
