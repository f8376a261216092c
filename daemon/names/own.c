/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What we answer ourselves where names have fake addresses: names/names.h says which questions.
 *
 * A name's slot is held for longer than the TTL of its answer: caches on the way round, and an
 * application connects a moment after it has looked.
 */
#include <errno.h>
#include <string.h>

#include "dns/answer.h"
#include "dns/name.h"
#include "names/engine.h"

#define NANOSECONDS INT64_C(1000000000)

_Static_assert(NAMES_HOLD >= NAMES_TTL * NANOSECONDS, "an answer outlives its address");

/* It exists, without a record of this type. */
static int no_record(const struct dns_query *q, struct wire_writer *w)
{
    return dns_answer_rcode(q, DNS_NOERROR, w);
}

static bool is_localhost(const struct dns_query *q)
{
    static const char name[] = "localhost";
    size_t n = sizeof(name) - 1;

    return q->name_len >= n && memcmp(q->name + q->name_len - n, name, n) == 0 &&
           (q->name_len == n || q->name[q->name_len - n - 1] == '.');
}

static int localhost(const struct dns_query *q, struct wire_writer *w)
{
    static const uint8_t v4[4] = {127, 0, 0, 1}, v6[16] = {[15] = 1};
    struct addr a;

    if (q->type == DNS_TYPE_A || q->type == DNS_TYPE_ANY)
        addr_set_v4(&a, v4, 0);
    else if (q->type == DNS_TYPE_AAAA)
        addr_set_v6(&a, v6, 0);
    else
        return no_record(q, w);
    return dns_answer_address(q, &a, NAMES_TTL, w);
}

/* About a fake address: which name it stands for is known to nobody else. */
static int reverse(struct names *n, const struct names_capture *c, const struct dns_query *q,
                   const struct addr *a, struct wire_writer *w)
{
    char name[DNS_PLAIN_MAX + 1];
    uint32_t slot;
    int r = c->many_hosts ? -ENOENT : fake_find(n->o.fake, a, 0, name, &slot);

    if (r == -ENOENT)
        return dns_answer_rcode(q, DNS_NXDOMAIN, w);
    if (r < 0)
        return r;
    /* It may be another one's soon: not to be kept. */
    return q->type == DNS_TYPE_PTR ? dns_answer_name(q, name, 0, w) : no_record(q, w);
}

static int address(struct names *n, const struct dns_query *q, const struct addr *client, bool v6,
                   struct wire_writer *w)
{
    int64_t now = loop_now(n->o.loop);
    struct addr a4, a6;
    uint32_t slot;
    int r = fake_take(n->o.fake, q->name, q->name_len, client, now, now + NAMES_HOLD, &slot);

    if (r < 0)
        return r;
    fake_address(n->o.fake, slot, &a4, &a6);
    if (n->o.on_name) {
        char name[DNS_PLAIN_MAX + 1];

        memcpy(name, q->name, q->name_len); /* plain, so it fits */
        name[q->name_len] = '\0';
        r = n->o.on_name(n->o.ctx, &a4, &a6, name, q->name_len);
        if (r < 0)
            return r;
    }
    return dns_answer_address(q, v6 ? &a6 : &a4, NAMES_TTL, w);
}

bool names_is_listed(char *const *list, const char *name, size_t len)
{
    for (; list && *list; list++)
        if (strlen(*list) == len && memcmp(*list, name, len) == 0)
            return true;
    return false;
}

bool names_is_direct(const struct names *n, const struct dns_query *q)
{
    return q->plain && (names_is_listed(n->o.direct_names, q->name, q->name_len) ||
                        names_is_listed(n->added, q->name, q->name_len));
}

bool names_is_for_direct(const struct names *n, const uint8_t *query, size_t len)
{
    struct dns_query q;

    return dns_query_parse(query, len, &q) == 0 && names_is_direct(n, &q);
}

int names_own_answer(struct names *n, const struct names_capture *c, const struct dns_query *q,
                     const struct addr *client, struct wire_writer *w)
{
    struct addr a;
    int r = 0;

    if (c->mode != NAMES_FAKE || !q->plain ||
        (q->class != DNS_CLASS_IN && q->class != DNS_CLASS_ANY))
        return 0;
    if (is_localhost(q)) {
        r = localhost(q, w);
    } else if (dns_reverse_parse(q->name, q->name_len, &a) == 0 && fake_is(&a)) {
        r = reverse(n, c, q, &a, w);
    } else if (names_is_direct(n, q) || real_match(n->o.real, q->name, q->name_len)) {
        return 0;
    } else {
        switch (q->type) {
        case DNS_TYPE_AAAA:
            r = c->no_v6 ? no_record(q, w) : address(n, q, client, true, w);
            break;
        case DNS_TYPE_A:
        case DNS_TYPE_ANY:
            r = address(n, q, client, false, w);
            break;
        case DNS_TYPE_HTTPS:
        case DNS_TYPE_SVCB:
            r = no_record(q, w);
            break;
        default:
            return 0;
        }
    }
    return r < 0 ? r : 1;
}
