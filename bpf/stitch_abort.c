/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_abort.h. A raw socket of the address's family, bound to the application's address and
 * with its mark, so that the reset goes the way of the connection. Its number is the next one after
 * what was sent, so that the server believes it (RFC 9293, section 3.5.3).
 */
#include "bpf/stitch_abort.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "addr.h"

/* RFC 1071, over what is aligned to two octets. */
static uint32_t add_up(uint32_t sum, const void *data, size_t len)
{
    const uint8_t *at = data;

    for (size_t i = 0; i + 1 < len; i += 2)
        sum += (uint32_t)at[i] << 8 | at[i + 1];
    return sum;
}

static uint16_t checksum(const uint8_t *local, const uint8_t *remote, const struct tcphdr *tcp)
{
    uint32_t sum = add_up(add_up(IPPROTO_TCP + sizeof(*tcp), local, 4), remote, 4);

    sum = add_up(sum, tcp, sizeof(*tcp));
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

static struct addr address_of(const uint8_t ip[16])
{
    struct addr a = {.port = 0};

    memcpy(a.ip, ip, sizeof(a.ip));
    return a;
}

int stitch_abort(const struct stitch_key *key, const struct stitch_flow *flow)
{
    const struct addr local = address_of(key->local), remote = address_of(key->remote);
    const struct stitch_step *step = &flow->steps[flow->step % STITCH_STEPS];
    const uint32_t sent = flow->isn_client - flow->injected + 1 + step->before + step->len;
    const bool v4 = addr_is_v4(&remote);
    const int where = offsetof(struct tcphdr, check);
    struct tcphdr tcp = {
        .source = htons(key->local_port),
        .dest = htons(key->remote_port),
        .seq = htonl(sent),
        .ack_seq = htonl(flow->next_server),
        .doff = sizeof(tcp) / 4,
        .rst = 1,
        .ack = 1,
    };
    struct sockaddr_storage ss;
    socklen_t len;
    int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    int r = 0;

    if (fd < 0)
        return -errno;
    if (v4)
        tcp.check = checksum(local.ip + 12, remote.ip + 12, &tcp);
    else if (setsockopt(fd, IPPROTO_IPV6, IPV6_CHECKSUM, &where, sizeof(where)) < 0)
        r = -errno;
    if (r == 0 && flow->mark != 0 &&
        setsockopt(fd, SOL_SOCKET, SO_MARK, &flow->mark, sizeof(flow->mark)) < 0)
        r = -errno;
    len = addr_to_sockaddr(&local, &ss);
    if (r == 0 && bind(fd, (struct sockaddr *)&ss, len) < 0)
        r = -errno;
    len = addr_to_sockaddr(&remote, &ss);
    if (r == 0 && sendto(fd, &tcp, sizeof(tcp), 0, (struct sockaddr *)&ss, len) < 0)
        r = -errno;
    close(fd);
    return r;
}
