/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Input that is taken byte by byte, and a chain of upstream hops that is made of it. */
#ifndef UNDERSOCK_TESTS_FUZZ_CHAIN_H
#define UNDERSOCK_TESTS_FUZZ_CHAIN_H

#include <stdbool.h>
#include <string.h>

#include "fuzz.h"
#include "upstream/upstream.h"

struct input {
    const uint8_t *data;
    size_t size, at;
};

/* The next octet; zeroes behind the end. */
static unsigned take_octet(struct input *in)
{
    return in->at < in->size ? in->data[in->at++] : 0;
}

static uint32_t take_word(struct input *in)
{
    uint32_t v = take_octet(in);

    for (int i = 0; i < 3; i++)
        v = v << 8 | take_octet(in);
    return v;
}

static void take_text(struct input *in, char *ret, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned v = take_octet(in);

        ret[i] = v ? (char)v : 'x';
    }
    ret[len] = '\0';
}

static void take_addr(struct input *in, bool v6, struct addr *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (v6) {
        ret->ip[0] = 0x20;
    } else {
        ret->ip[10] = ret->ip[11] = 0xff;
        ret->ip[12] = 192;
    }
    for (size_t i = 13; i < 16; i++)
        ret->ip[i] = (uint8_t)take_octet(in);
    ret->port = (uint16_t)(1 + take_octet(in) * 13);
}

/* One to `max` hops. `schemes`: of SCHEME_*, a bit each; lengths up to `longest`. */
static void take_chain(struct input *in, unsigned max, const enum config_scheme *schemes,
                       size_t n_schemes, size_t longest, bool first_v6, struct upstream *ret,
                       struct config_upstream *configs)
{
    memset(ret, 0, sizeof(*ret));
    ret->n_hops = 1 + take_octet(in) % max;
    for (unsigned i = 0; i < ret->n_hops; i++) {
        struct upstream_hop *h = &ret->hops[i];
        struct config_url *url = &configs[i].url;
        unsigned how = take_octet(in);

        memset(&configs[i], 0, sizeof(configs[i]));
        h->config = &configs[i];
        url->scheme = schemes[how % n_schemes];
        take_text(in, url->host, 1 + take_octet(in) % 60);
        url->port = (uint16_t)(1 + take_octet(in));
        url->has_user = how & 0x20;
        if (url->has_user) {
            take_text(in, url->user, take_octet(in) % (longest + 1));
            url->has_password = true;
            take_text(in, url->password, take_octet(in) % (longest + 1));
        }
        configs[i].handshake_timeout = (int64_t)take_octet(in) * 1000000000;
        configs[i].connect_timeout = (int64_t)take_octet(in) * 1000000000;
        if (i == 0 || how & 0x40) {
            take_addr(in, i == 0 ? first_v6 : how & 0x80, &h->addrs[0]);
            h->n_addrs = 1;
        }
    }
}

#endif
