/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/shares.h: counts by client. */
#include "base/shares.h"

#include <string.h>

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v ^ h >> 32) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ h >> 27) * UINT64_C(0x94d049bb133111eb);
    return h ^ h >> 31;
}

struct shares_client shares_client(const struct shares *s, const struct addr *client)
{
    uint64_t words[2];

    memcpy(words, client->ip, sizeof(words));
    uint64_t net = mix(mix(s->seed, words[0]), client->scope);
    uint64_t host = mix(net, words[1]);

    if (addr_is_v4(client))
        net = host;
    return (struct shares_client){(uint32_t)(mix(host, 1) % SHARES_PLACES),
                                  (uint32_t)(mix(net, 2) % SHARES_PLACES)};
}

void shares_add(struct shares *s, struct shares_client c)
{
    s->counts[c.host]++;
    s->counts[c.net]++;
}

void shares_drop(struct shares *s, struct shares_client c)
{
    s->counts[c.host]--;
    s->counts[c.net]--;
}

uint32_t shares_of_host(const struct shares *s, struct shares_client c)
{
    return s->counts[c.host];
}

uint32_t shares_of_net(const struct shares *s, struct shares_client c)
{
    return s->counts[c.net];
}

/* Has it more than half of the table, with so many more? */
static bool has_half(const struct shares *s, struct shares_client c, uint32_t more)
{
    return s->counts[c.net] + more > (s->total + 1) / 2;
}

int shares_compare(const struct shares *s, struct shares_client a, struct shares_client b)
{
    int by_net = has_half(s, a, 0) - has_half(s, b, 0);
    uint32_t of_a = s->counts[a.host], of_b = s->counts[b.host];

    return by_net != 0 ? by_net : (of_a > of_b) - (of_a < of_b);
}

bool shares_yields(const struct shares *s, struct shares_client from, struct shares_client to)
{
    if (from.net != to.net && has_half(s, to, 1))
        return false;
    if (from.net != to.net && has_half(s, from, 0))
        return true;
    return s->counts[from.host] > s->counts[to.host] + 1;
}
