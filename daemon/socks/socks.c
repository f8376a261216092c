/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names, destinations and the mapping between reply codes and errno. */
#include "socks/socks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void socks_dest_set_addr(struct socks_dest *ret, const struct addr *a)
{
    struct socks_dest d = {.type = SOCKS_DEST_ADDR, .addr = *a};

    *ret = d;
}

int socks_dest_set_name(struct socks_dest *ret, const char *name, uint16_t port)
{
    struct socks_dest d = {.type = SOCKS_DEST_NAME, .addr.port = port};
    size_t len = strlen(name);

    if (len == 0)
        return -EINVAL;
    if (len > SOCKS_NAME_MAX)
        return -ENAMETOOLONG;
    memcpy(d.name, name, len);
    d.name_len = (uint8_t)len;
    *ret = d;
    return 0;
}

const char *socks_dest_format(const struct socks_dest *d, char buf[SOCKS_DEST_STRLEN])
{
    char text[SOCKS_NAME_MAX + 1];
    size_t n = 0;

    if (d->type == SOCKS_DEST_ADDR) {
        snprintf(buf, SOCKS_DEST_STRLEN, "%s", addr_format(&d->addr, (char[ADDR_STRLEN]){0}));
        return buf;
    }
    for (; n < d->name_len; n++)
        text[n] = d->name[n] > ' ' && d->name[n] < 0x7f ? d->name[n] : '?';
    text[n] = '\0';
    snprintf(buf, SOCKS_DEST_STRLEN, "%s:%u", text, d->addr.port);
    return buf;
}

const char *socks_command_name(uint8_t command)
{
    switch (command) {
    case SOCKS_CMD_CONNECT:
        return "CONNECT";
    case SOCKS_CMD_BIND:
        return "BIND";
    case SOCKS_CMD_UDP_ASSOCIATE:
        return "UDP ASSOCIATE";
    default:
        return "unknown command";
    }
}

const char *socks5_method_name(uint8_t method)
{
    switch (method) {
    case SOCKS5_METHOD_NONE:
        return "no authentication";
    case SOCKS5_METHOD_GSSAPI:
        return "GSSAPI";
    case SOCKS5_METHOD_PASSWORD:
        return "username/password";
    case SOCKS5_METHOD_UNACCEPTABLE:
        return "no acceptable methods";
    default:
        return method < 0x80 ? "IANA-assigned method" : "private method";
    }
}

const char *socks5_reply_name(uint8_t rep)
{
    switch (rep) {
    case SOCKS5_REP_SUCCEEDED:
        return "succeeded";
    case SOCKS5_REP_FAILURE:
        return "general SOCKS server failure";
    case SOCKS5_REP_NOT_ALLOWED:
        return "connection not allowed by ruleset";
    case SOCKS5_REP_NET_UNREACHABLE:
        return "network unreachable";
    case SOCKS5_REP_HOST_UNREACHABLE:
        return "host unreachable";
    case SOCKS5_REP_REFUSED:
        return "connection refused";
    case SOCKS5_REP_TTL_EXPIRED:
        return "TTL expired";
    case SOCKS5_REP_COMMAND:
        return "command not supported";
    case SOCKS5_REP_ATYP:
        return "address type not supported";
    default:
        return "unassigned reply code";
    }
}

const char *socks4_reply_name(uint8_t rep)
{
    switch (rep) {
    case SOCKS4_REP_GRANTED:
        return "request granted";
    case SOCKS4_REP_REJECTED:
        return "request rejected or failed";
    case SOCKS4_REP_NO_IDENTD:
        return "request rejected: cannot connect to identd on the client";
    case SOCKS4_REP_IDENT_MISMATCH:
        return "request rejected: client program and identd report different user-ids";
    default:
        return "unassigned reply code";
    }
}

int socks5_reply_errno(uint8_t rep)
{
    switch (rep) {
    case SOCKS5_REP_SUCCEEDED:
        return 0;
    case SOCKS5_REP_NOT_ALLOWED:
        return -EACCES;
    case SOCKS5_REP_NET_UNREACHABLE:
        return -ENETUNREACH;
    case SOCKS5_REP_HOST_UNREACHABLE:
    case SOCKS5_REP_TTL_EXPIRED:
        return -EHOSTUNREACH;
    default:
        return -ECONNREFUSED;
    }
}

int socks4_reply_errno(uint8_t rep)
{
    return rep == SOCKS4_REP_GRANTED ? 0 : -ECONNREFUSED;
}

uint8_t socks5_reply_from_errno(int err)
{
    switch (err < 0 ? -err : err) {
    case 0:
        return SOCKS5_REP_SUCCEEDED;
    case EACCES:
    case EPERM:
        return SOCKS5_REP_NOT_ALLOWED;
    case ENETUNREACH:
    case ENETDOWN:
        return SOCKS5_REP_NET_UNREACHABLE;
    case EHOSTUNREACH:
    case EHOSTDOWN:
        return SOCKS5_REP_HOST_UNREACHABLE;
    case ECONNREFUSED:
        return SOCKS5_REP_REFUSED;
    case ETIMEDOUT: /* nothing came back in time: the nearest of the nine codes */
        return SOCKS5_REP_TTL_EXPIRED;
    case EOPNOTSUPP:
        return SOCKS5_REP_COMMAND;
    case EAFNOSUPPORT:
        return SOCKS5_REP_ATYP;
    default:
        return SOCKS5_REP_FAILURE;
    }
}

uint8_t socks4_reply_from_errno(int err)
{
    return err == 0 ? SOCKS4_REP_GRANTED : SOCKS4_REP_REJECTED;
}

int socks_server_version(const uint8_t *data, size_t len)
{
    if (len == 0)
        return 0;
    return data[0] == SOCKS4_VERSION || data[0] == SOCKS5_VERSION ? data[0] : -EPROTO;
}
