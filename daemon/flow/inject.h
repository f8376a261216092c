/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sends whole IP packets: held SYNs that go on their way again, and answers to them. */
#ifndef UNDERSOCK_FLOW_INJECT_H
#define UNDERSOCK_FLOW_INJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Raw sockets; -1: the host lacks the family. */
struct injector {
    int v4, v6;
    uint32_t mark[2]; /* of the IPv6, the IPv4 one, as they are set */
};

/* Needs CAP_NET_RAW, as injector_send() with a mark does. 0 or -errno. */
int injector_open(struct injector *ret);
void injector_close(struct injector *j);
/*
 * `injector`: a struct injector. `packet`: a complete IP packet. `mark`: SO_MARK of it, 0: none.
 * `interface`: of a link-local destination, else 0. Never blocks. 0 or -errno; -EPERM: a rule
 * dropped or rejected it, which is what marks that reject are for.
 */
int injector_send(void *injector, const uint8_t *packet, size_t len, uint32_t mark,
                  uint32_t interface);

#endif
