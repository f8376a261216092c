/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one address type. An IPv4 address is stored as ::ffff:a.b.c.d, so one comparison, one hash
 * and one printer serve both families; family branches live only here and in the codecs.
 */
#ifndef UNDERSOCK_ADDR_H
#define UNDERSOCK_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct addr {
    uint8_t ip[16];  /* network order; IPv4 as ::ffff:a.b.c.d */
    uint32_t scope;  /* interface index of a link-local address, else 0 */
    uint16_t port;   /* host order */
    uint16_t unused; /* always 0, so that memcmp() compares addresses */
};

/* A network: the first `len` bits of `ip` (IPv4: 96 + its own length). Bits beyond are 0. */
struct prefix {
    uint8_t ip[16];
    uint8_t len; /* 0..128 */
};

#define ADDR_STRLEN   80 /* "[v6%4294967295]:65535" and some */
#define PREFIX_STRLEN 56

bool addr_is_v4(const struct addr *a);
bool addr_equal(const struct addr *a, const struct addr *b);          /* ip, scope and port */
bool addr_same_ip(const struct addr *a, const struct addr *b);        /* ip only */
bool addr_is_any(const struct addr *a);                               /* 0.0.0.0 or :: */
bool addr_is_loopback(const struct addr *a);                          /* 127.0.0.0/8 or ::1 */
bool addr_is_link_local(const struct addr *a);                        /* fe80::/10 */
void addr_set_v4(struct addr *ret, const void *be_ip, uint16_t port); /* be_ip: 4 bytes */
void addr_set_v6(struct addr *ret, const void *be_ip, uint16_t port); /* be_ip: 16 bytes */

/* AF_INET and AF_INET6 only; -EAFNOSUPPORT otherwise, -EINVAL when `len` is short. */
int addr_from_sockaddr(const struct sockaddr *sa, socklen_t len, struct addr *ret);
/* Fills `ret` with the natural family of `a` and returns its length. */
socklen_t addr_to_sockaddr(const struct addr *a, struct sockaddr_storage *ret);

/*
 * "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80", "fe80::1%eth0". No names.
 * `default_port` is taken when the text has none. -EINVAL when it is not an address or the port is
 * not 0..65535.
 */
int addr_parse(const char *text, uint16_t default_port, struct addr *ret);
/* "192.0.2.1:80" or "[2001:db8::1]:80"; returns `buf`. */
const char *addr_format(const struct addr *a, char buf[ADDR_STRLEN]);
/* The same without the port and the brackets. */
const char *addr_format_ip(const struct addr *a, char buf[ADDR_STRLEN]);

/* "10.0.0.0/8", "2001:db8::/32", or an address alone (/32, /128). Host bits are cleared.
 * -EINVAL when it is neither or the length does not fit the family. */
int prefix_parse(const char *text, struct prefix *ret);
bool prefix_is_v4(const struct prefix *p);
bool prefix_contains(const struct prefix *p, const struct addr *a);
/* Always with its length, in the family's own terms ("10.0.0.0/8"); returns `buf`. */
const char *prefix_format(const struct prefix *p, char buf[PREFIX_STRLEN]);

/*
 * What a capture leaves alone unless `private = true`: loopback, "this network", RFC 1918, RFC
 * 6598, link-local, ULA, multicast and the limited broadcast. IPv4 first, then IPv6; disjoint and
 * sorted within a family.
 */
extern const struct prefix addr_private_prefixes[];
extern const size_t addr_n_private_prefixes;
bool addr_is_private(const struct addr *a); /* is in one of them */

/* Where the addresses come from that DNS answers make up for names: 198.18.0.0/15, RFC 2544, and
 * fdf6:6931:7149::/64, a ULA. IPv4 first. */
extern const struct prefix addr_fake_prefixes[];
extern const size_t addr_n_fake_prefixes;

#endif
