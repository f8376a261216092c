/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An upstream's URL. Everything up to the last '@' is user and password, so that a password with an
 * unescaped '/' or '@' never ends up as a host in somebody's log. Nothing here repeats user or
 * password.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/text.h"

static const struct scheme {
    const char *name;
    uint16_t port; /* when the URL has none */
    bool password; /* the protocol can carry one */
} schemes[] = {
    [SCHEME_SOCKS4] = {"socks4", 1080, false}, [SCHEME_SOCKS4A] = {"socks4a", 1080, false},
    [SCHEME_SOCKS5] = {"socks5", 1080, true},  [SCHEME_SOCKS5H] = {"socks5h", 1080, true},
    [SCHEME_HTTP] = {"http", 8080, true},
};
#define N_SCHEMES (sizeof(schemes) / sizeof(schemes[0]))

__attribute__((format(printf, 3, 4))) static int fail(char *why, size_t size, const char *format,
                                                      ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(why, size, format, ap);
    va_end(ap);
    return -EINVAL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Percent-decodes `len` bytes into a field of 256. `what` is "user name" or "password". */
static int decode(const char *text, size_t len, const char *what, char ret[256], char *why,
                  size_t why_size)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (c == '%') {
            int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text[i + 2]) : -1;

            if (low < 0 || (high == 0 && low == 0))
                return fail(
                    why, why_size,
                    "the %s has a '%%' that is not followed by two hexadecimal digits other "
                    "than 00: write '%%25' for '%%' itself",
                    what);
            c = (char)(16 * high + low);
            i += 2;
        }
        if (n == 255)
            return fail(why, why_size,
                        "the %s is longer than 255 bytes, the most that SOCKS can carry", what);
        ret[n++] = c;
    }
    ret[n] = '\0';
    return 0;
}

static int parse_user(const char *text, size_t len, struct config_url *u, char *why,
                      size_t why_size)
{
    const char *colon = memchr(text, ':', len);
    size_t user_len = colon ? (size_t)(colon - text) : len;
    const char *scheme = schemes[u->scheme].name;
    int r = decode(text, user_len, "user name", u->user, why, why_size);

    if (r < 0)
        return r;
    if (user_len == 0)
        return fail(why, why_size,
                    "the user name before '@' is empty: write %s://USER@HOST:PORT, or "
                    "leave out the '@'",
                    scheme);
    if (u->scheme == SCHEME_HTTP && strchr(u->user, ':'))
        return fail(why, why_size,
                    "the user name contains ':', which HTTP Basic authentication cannot "
                    "carry (RFC 7617): use another user");
    u->has_user = true;
    if (!colon)
        return 0;
    if (!schemes[u->scheme].password)
        return fail(why, why_size,
                    "%s carries a user name but no password: leave the password out, or "
                    "use socks5h",
                    scheme);
    r = decode(colon + 1, len - user_len - 1, "password", u->password, why, why_size);
    if (r < 0)
        return r;
    if (u->password[0] == '\0' && u->scheme != SCHEME_HTTP)
        return fail(why, why_size,
                    "the password after ':' is empty, which SOCKS5 does not allow "
                    "(RFC 1929): leave out the ':', or use password-file");
    u->has_password = true;
    return 0;
}

static int check_literal_v6(const char *host, char *why, size_t why_size)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr ip;
    size_t n = strcspn(host, "%");
    bool zone_ok =
        host[n] == '\0' ||
        (host[n + 1] != '\0' &&
         host[n + 1 +
              strspn(host + n + 1,
                     "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == '\0');

    if (n < sizeof(text)) {
        memcpy(text, host, n);
        text[n] = '\0';
        if (zone_ok && inet_pton(AF_INET6, text, &ip) == 1)
            return 0;
    }
    return fail(why, why_size,
                "what stands in brackets is not an IPv6 address: write "
                "[2001:db8::1]:1080");
}

/* A host name or a dotted IPv4 address; names are checked for their shape only (RFC 1123, and '_').
 */
static int check_name(const char *host, char *why, size_t why_size)
{
    struct in_addr ip;
    size_t label = 0;

    for (const char *p = host; *p != '\0'; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        bool other = (*p >= '0' && *p <= '9') || *p == '-' || *p == '_';

        if (*p == '.' && label > 0)
            label = 0;
        else if (!(letter || other) || ++label > 63)
            return fail(
                why, why_size,
                "the host is neither a name nor an address: letters, digits, '-' and '.'; an "
                "IPv6 address goes in brackets");
    }
    if (host[strspn(host, "0123456789.")] == '\0' && inet_pton(AF_INET, host, &ip) != 1)
        return fail(why, why_size,
                    "the host looks like an IPv4 address and is none: four numbers from "
                    "0 to 255, as in 192.0.2.1");
    return 0;
}

int config_split_endpoint(const char *text, size_t len, char ret_host[CONFIG_HOST_MAX + 1],
                          uint16_t *port, char *why, size_t why_size)
{
    const char *host = text, *end = text + len, *colon;
    size_t host_len;
    bool bracket = len > 0 && text[0] == '[';

    if (bracket) {
        const char *close = memchr(text, ']', len);

        if (!close)
            return fail(why, why_size,
                        "the bracket of the IPv6 address is not closed: write "
                        "[2001:db8::1]:1080");
        host = text + 1;
        host_len = (size_t)(close - host);
        colon = close + 1 < end ? close + 1 : NULL;
        if (colon && *colon != ':')
            return fail(why, why_size,
                        "after ']' comes ':' and the port: write [2001:db8::1]:1080");
    } else {
        colon = memchr(text, ':', len);
        host_len = colon ? (size_t)(colon - text) : len;
        if (colon && memchr(colon + 1, ':', (size_t)(end - colon - 1)))
            return fail(why, why_size,
                        "more than one ':' after the host: an IPv6 address goes in "
                        "brackets, as in [2001:db8::1]:1080");
    }
    if (host_len == 0)
        return fail(why, why_size,
                    "the host is missing: write HOST:PORT, as in proxy.example.net:1080");
    if (host_len > CONFIG_HOST_MAX)
        return fail(why, why_size, "the host is longer than %d bytes, the most a name can have",
                    CONFIG_HOST_MAX);
    char name[CONFIG_HOST_MAX + 1];

    memcpy(name, host, host_len);
    name[host_len] = '\0';
    int r = bracket ? check_literal_v6(name, why, why_size) : check_name(name, why, why_size);

    if (r < 0)
        return r;
    if (colon) {
        unsigned number = 0;
        const char *p = colon + 1;

        for (; p < end && *p >= '0' && *p <= '9' && number <= UINT16_MAX; p++)
            number = 10 * number + (unsigned)(*p - '0');
        if (p != end || colon + 1 == end || number == 0 || number > UINT16_MAX)
            return fail(why, why_size, "the port is not a number from 1 to 65535");
        *port = (uint16_t)number;
    } else if (*port == 0) {
        return fail(why, why_size, "the port is missing: write HOST:PORT");
    }
    memcpy(ret_host, name, host_len + 1);
    return 0;
}

int config_url_parse(const char *text, struct config_url *ret, char *why, size_t why_size)
{
    const char *rest = strstr(text, "://");
    struct config_url u = {.port = 0};
    size_t i = 0;
    int r;

    if (!rest)
        return fail(why, why_size,
                    "the scheme is missing: write SCHEME://HOST:PORT, as in "
                    "socks5h://127.0.0.1:1080");
    while (i < N_SCHEMES && (strlen(schemes[i].name) != (size_t)(rest - text) ||
                             strncasecmp(schemes[i].name, text, (size_t)(rest - text)) != 0))
        i++;
    if (i == N_SCHEMES)
        return fail(why, why_size,
                    "unknown scheme: it is one of socks5h (the proxy resolves names), "
                    "socks5, socks4a, socks4");
    u.scheme = (enum config_scheme)i;
    u.port = schemes[i].port;
    rest += 3;

    const char *at = strrchr(rest, '@');

    r = at ? parse_user(rest, (size_t)(at - rest), &u, why, why_size) : 0;
    if (r == 0) {
        const char *host = at ? at + 1 : rest;
        size_t len = strcspn(host, "/?#");

        if (host[len] != '\0' && strcmp(host + len, "/") != 0)
            r = fail(why, why_size, "nothing can follow the port: write %s://HOST:PORT",
                     schemes[i].name);
        else
            r = config_split_endpoint(host, len, u.host, &u.port, why, why_size);
    }
    if (r == 0)
        *ret = u;
    explicit_bzero(&u, sizeof(u));
    return r;
}

const char *config_url_format(const struct config_url *u, char *buf, size_t size)
{
    bool v6 = strchr(u->host, ':') != NULL;

    snprintf(buf, size, "%s://%s%s%s:%u", schemes[u->scheme].name, v6 ? "[" : "", u->host,
             v6 ? "]" : "", u->port);
    return buf;
}

bool config_scheme_has_password(enum config_scheme scheme)
{
    return schemes[scheme].password;
}

const char *config_url_redact(const char *text, char *buf, size_t size)
{
    const char *sep = strstr(text, "://"), *at = strrchr(text, '@');
    size_t scheme_len = sep ? (size_t)(sep - text) + 3 : 0;
    const char *host = at ? at + 1 : text + scheme_len;
    size_t port = strcspn(host, ":");

    if (at && sep && at < sep) /* "user:pass@host://": no scheme that could be trusted */
        scheme_len = 0;
    /* "socks5://alice:secret", its host forgotten: what follows ':' is shown only as a number. */
    if (!at && host[0] != '[' && host[port] == ':' &&
        host[port + 1 + strspn(host + port + 1, "0123456789/")] != '\0')
        host = "...";
    snprintf(buf, size, "%.*s%s%s", scheme_len > 16 ? 0 : (int)scheme_len, text, at ? "...@" : "",
             host);
    return buf;
}
